//! Tallystick's formats and hashing, as PROTOCOL.md specifies them.
//!
//! Pure: no I/O, no clock, no randomness, no async. Everything that enters
//! from outside is parsed into a type whose fields are private, so that a
//! value that exists is a value that PROTOCOL.md allows.
#![no_std]

extern crate alloc;

pub mod anchor;
pub mod binding;
pub mod checkpoint;
pub mod consent;
pub mod cosignature;
pub mod entry;
pub mod hash;
pub mod index;
pub mod key;
pub mod mmr;
pub mod name;
pub mod network;
pub mod note;
pub mod plan;
pub mod policy;
pub mod proof;
pub mod receipt;
pub mod record;
#[cfg(test)]
mod reference;
pub mod tile;
pub mod tlog_proof;
pub mod totals;
pub mod vkey;
pub mod wallet;
pub mod witness;
