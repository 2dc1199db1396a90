//! Anchors: a log's roots on EVM chains, kept by a contract that anyone may post to.

pub mod contract;
