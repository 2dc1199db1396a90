//! Usage extraction.
