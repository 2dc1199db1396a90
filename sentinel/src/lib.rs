//! Tallystick's sentinel: verifies a usage log from its public key alone.
//!
//! ```text
//! cli ─> watch / receipt / wallet / witness
//!                             └─> pass ─> follow ─> fetch  sockets
//!                             │        └────> rebuild      the tree, two ways
//!                             ├─────> contrast, peers      what others were shown
//!                             ├─────> quorum               who must have cosigned
//!                             ├─────> anchored ─> chain    what contracts keep of it
//!                             ├─────> judge ─> audit       pure: one function per claim
//!                             │                  └─> sums, accounts ─> totals
//!                             ├─────> trust ─> state       what is kept, never moving back
//!                             └─────> report               stdout, stderr, evidence
//! ```
//!
//! It takes formats from `protocol` and nothing else: it hashes the raw bytes
//! that it received and folds them by itself.

pub mod accounts;
pub mod anchored;
pub mod answer;
pub mod audit;
pub mod chain;
pub mod cli;
pub mod contrast;
pub mod evidence;
pub mod fetch;
pub mod follow;
pub mod judge;
pub mod light;
pub mod newer;
pub mod packed;
pub mod pass;
pub mod peers;
pub mod prove;
pub mod quorum;
pub mod rebuild;
pub mod receipt;
pub mod report;
pub mod state;
pub mod sums;
pub mod totals;
pub mod trust;
pub mod wallet;
pub mod watch;
pub mod witness;
