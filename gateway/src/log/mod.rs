//! The log: what is in flight, what is pending, the one sequencer, publication.
//!
//! ```text
//! calls (journal) -> pool -> sequencer -> store
//!                      |        |           |
//!                      |    committed -> head file -> publish
//!                      |        |           |
//!                      └─> follower <───────┘    (of several gateways, all but one)
//! ```
//! Out of scope: HTTP, and how usage was read.

mod bind;
pub mod calls;
mod follower;
pub mod head;
mod journal;
mod lease;
pub mod pool;
pub mod publish;
pub mod replica;
pub mod sequencer;
pub mod sign;
mod stage;
pub mod turns;

pub use bind::Refused as BindingRefused;
pub use journal::{JournalError, Unfinished, unfinished};
