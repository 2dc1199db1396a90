//! The first page.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::html;

use super::format::lines;
use super::layout::Page;
use super::{sentinel_line, visited};
use crate::api::Api;

/// What this is, and what to do next.
pub(super) async fn home(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let base = visited(&headers);
    let sdks = format!("OPENAI_BASE_URL={base}/openai/v1\nANTHROPIC_BASE_URL={base}/anthropic");
    let body = html! {
        h1 { "Tallystick" }
        p.lead {
            "A transparent proxy in front of LLM providers that keeps a verifiable log of token "
            "usage. Calls are forwarded untouched; prompts, answers and keys are never stored."
        }
        h2 { "Use it" }
        (lines(&sdks))
        h2 { "Check it" }
        dl.facts {
            dt { "Name" } dd { (api.verifier.origin().as_str()) }
            dt { "Verifier key" } dd { code.hash { (api.verifier.to_string()) } }
        }
        (lines(&sentinel_line(&base, &api.verifier)))
    };
    let about = "A verifiable log of LLM token usage: who used what, and how to check it.";
    Page::new("/", "Leaderboard", about, body).answer(&api, &headers)
}
