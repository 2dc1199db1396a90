//! Whole-system tests: one binary, a module for each subject.

mod forge;
mod python;
mod vectors;
