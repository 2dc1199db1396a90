//! Usage: what a provider's answer says it cost, read from a copy of its bytes.
//!
//! Sans-IO: the proxy feeds the bytes of a body in slices of any size as they
//! pass, and asks for usage records when it is over. Nothing is buffered but
//! one key, one number and a few names, so memory does not grow with the body.
//!
//! ```text
//! bytes -> decode (gzip, deflate, br, zstd) -> body (SSE, lines, JSON)
//!       -> json (skips all but fixed paths) -> answer (merges events) -> count
//!
//! messages of a WebSocket -> json -> session (tells responses apart) -> count
//! ```
//!
//! Usage is looked up at fixed paths only (`paths`), never searched for: what
//! a model writes can hold anything, also text that looks like usage.
//!
//! Out of scope: HTTP, who made the call, cutting model names to what a record
//! may hold, and telling that two answers are one response.

mod answer;
mod body;
mod count;
mod decode;
mod event;
mod json;
mod meter;
mod model;
mod paths;
#[cfg(test)]
mod replay;
mod route;
mod session;
mod sse;

pub use meter::{AnswerHead, End, Meter, Metered};
pub use model::base_model;
pub use route::{Dialect, Kind, classify};
pub use session::{Progress, SessionMeter};
