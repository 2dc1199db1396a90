//! Whole-system tests: one binary, a module for each subject.

mod adversary;
mod architecture;
mod bad_input;
mod binaries;
mod conformance;
mod crash;
mod custom;
mod flow;
mod forge;
mod gateway;
mod hardening;
mod node;
mod openapi;
mod postgres;
mod proofs;
mod provider;
mod python;
mod sdks;
mod sentinel;
mod service;
mod sessions;
mod several;
mod vectors;
mod websocket;
mod witnesses;
