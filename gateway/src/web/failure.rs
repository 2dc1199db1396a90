//! Errors as pages, where a browser asks.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, RETRY_AFTER};
use axum::middleware::Next;
use axum::response::Response;
use maud::html;

use super::layout::Page;
use crate::api::Api;
use crate::reply::ApiError;

/// Answers an error with a page, if it is a browser that asks for one, and
/// with JSON otherwise, as the interface does.
pub(super) async fn shown(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers().clone();
    let answer = next.run(request).await;
    let Some(error) = answer.extensions().get::<ApiError>() else {
        return answer;
    };
    if !asks_for_a_page(&headers) || path.starts_with("/api/") {
        return answer;
    }
    let status = answer.status();
    let title = status.canonical_reason().unwrap_or("Error");
    let body = html! {
        h1 { (status.as_u16()) " " (title) }
        p { (sentence(error.message())) }
        p { a href="/" { "To the leaderboard" } }
    };
    let page = Page::new(&path, title, "This page can't be shown.", body).status(status);
    let mut page = page.answer(&api, &headers);
    if let Some(seconds) = answer.headers().get(RETRY_AFTER) {
        page.headers_mut().insert(RETRY_AFTER, seconds.clone());
    }
    page
}

fn asks_for_a_page(headers: &HeaderMap) -> bool {
    let kinds = headers.get(ACCEPT).and_then(|kinds| kinds.to_str().ok());
    kinds.is_some_and(|kinds| kinds.contains("text/html"))
}

/// An error's text with a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let mut sentence: String = first.chain(letters).collect();
    if !sentence.ends_with('.') {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_told_from_programs() {
        for (kinds, page) in [
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), true),
            (Some("*/*"), false),
            (Some("application/json"), false),
            (None, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(kinds) = kinds {
                headers.insert(ACCEPT, kinds.parse().expect("a header"));
            }
            assert_eq!(asks_for_a_page(&headers), page, "{kinds:?}");
        }
    }

    #[test]
    fn errors_are_sentences() {
        for (text, said) in [
            ("nothing is at /x", "Nothing is at /x."),
            ("Ask again.", "Ask again."),
            ("", "."),
        ] {
            assert_eq!(sentence(text), said);
        }
    }
}
