//! The contract `TallystickAnchor`, run in an EVM within the process.

extern crate alloc;

mod artifact;
mod chain;
mod forks;
mod gas;
mod log;
mod posts;
#[path = "../../../protocol/src/reference.rs"]
#[expect(dead_code, reason = "the contract needs less of it than `protocol`")]
mod reference;
mod vectors;
mod views;
mod wallets;

// Where the reference, which is shared with `protocol`, looks for them.
use protocol::{hash, tile};
