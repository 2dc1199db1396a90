//! Whole-system tests: one binary, a module for each subject.

mod adversary;
mod architecture;
mod bad_input;
mod binaries;
mod crash;
mod drills;
mod flow;
mod forge;
mod gateway;
mod hardening;
mod openapi;
mod provider;
mod python;
mod sdks;
mod sentinel;
mod service;
mod vectors;
