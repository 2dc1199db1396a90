//! Chains: where the log is anchored, as nodes of EVM chains say.
//!
//! Out of scope: anchoring (see the `anchor` binary), and judging nodes: what
//! one says is checked against the log, and else believed.

mod explorer;
mod list;

pub use explorer::Template;
pub use list::{Anchor, Anchors, Chain, Row, Status};
