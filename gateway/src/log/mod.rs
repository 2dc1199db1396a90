//! The log: what is in flight, what is pending, the one sequencer, publication.
//!
//! ```text
//! calls (journal) -> pool -> sequencer -> store
//!                               |
//!                           committed -> head file -> publish
//! ```
//! Out of scope: HTTP, and how usage was read.

pub mod calls;
pub mod head;
mod journal;
pub mod pool;
pub mod publish;
pub mod sequencer;
pub mod sign;
mod stage;

pub use journal::{JournalError, Unfinished, unfinished};
