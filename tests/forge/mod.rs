//! A log under full control of a forger who holds its key.
//!
//! [`log`] is what the log says, [`api`] the sums over it, [`server`] what is
//! served of both, and where the forger bends it. Everything is computed by
//! plain loops from PROTOCOL.md, and shares only formats with the gateway.

pub(crate) mod api;
pub(crate) mod chain;
pub(crate) mod log;
pub(crate) mod server;
pub(crate) mod wallet;
