//! gateway
pub mod usage;
