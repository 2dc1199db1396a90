//! Anchors: a log's roots on EVM chains, kept by a contract that anyone may
//! post to, and the job that posts.
//!
//! ```text
//! source (the log, verified) ─┐
//!                             ├─> job ──> outbox (on the disk) ──> rpc (the chain)
//! network (the contract) ─────┘
//! ```

pub mod cli;
pub mod contract;
pub mod job;
pub mod network;
pub mod outbox;
pub mod purse;
pub mod rpc;
pub mod run;
pub mod source;
