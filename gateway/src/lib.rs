//! Tallystick's gateway: a transparent proxy in front of LLM providers that
//! turns the providers' own usage numbers into a verifiable log.
//!
//! ```text
//! server -> {proxy, api, web} -> {chain, witness, usage} -> log -> ledger -> store -> protocol
//! ```

pub mod api;
pub mod chain;
pub mod cli;
mod client;
pub mod config;
mod connect;
pub mod demo;
pub mod keys;
pub mod ledger;
mod limits;
pub mod link;
pub mod log;
pub mod proxy;
pub mod reply;
mod sdk;
pub mod server;
pub mod setup;
pub mod store;
pub mod usage;
pub mod web;
pub mod witness;

#[cfg(test)]
#[path = "../../tests/postgres.rs"]
#[expect(dead_code, reason = "only whole-system tests crash a server")]
mod postgres;
