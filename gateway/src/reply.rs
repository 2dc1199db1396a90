//! What the gateway answers: bodies of all origins in one type, and the one
//! error type that becomes an HTTP answer.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use serde::Serialize;
use utoipa::ToSchema;

use crate::proxy::Tee;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A response's body.
#[derive(Debug)]
pub enum Reply {
    /// A provider's, on its way to the client.
    Proxied(Tee),
    /// Ours.
    Own(axum::body::Body),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Proxied(body) => Pin::new(body).poll_frame(cx),
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Proxied(body) => body.is_end_stream(),
            Self::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Proxied(body) => body.size_hint(),
            Self::Own(body) => body.size_hint(),
        }
    }
}

/// An error answer: `{"code","message"}` with its status.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
    retry_after: Option<u32>,
}

/// What an error answer holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// A stable word for programs.
    pub code: &'static str,
    /// A sentence for a person.
    pub message: String,
}

impl ApiError {
    /// An error with a stable code and a sentence that says what to do.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let body = ErrorBody {
            code,
            message: message.into(),
        };
        Self {
            status,
            body,
            retry_after: None,
        }
    }

    /// 400: a parameter is not what it should be.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 202: not there yet.
    pub fn pending(message: &str) -> Self {
        Self::new(StatusCode::ACCEPTED, "pending", message).retry_after(1)
    }

    /// 404.
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// 503 whose cause goes to our log, not to the client.
    pub fn internal(code: &'static str, cause: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = cause, code, "a request failed");
        let message =
            "the gateway can't do this at the moment; its operator finds the cause in the log";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message).retry_after(1)
    }

    /// Says after how many seconds to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub(crate) fn unknown_provider(name: &str, known: &str) -> Self {
        let message = format!("no provider is called {name:?} here; there are: {known}");
        Self::not_found("unknown_provider", message)
    }

    pub(crate) fn bad_wallet(text: &str) -> Self {
        let message = format!("{text:?} is not a wallet address: expected 0x and 40 hex digits");
        Self::new(StatusCode::BAD_REQUEST, "bad_wallet", message)
    }

    pub(crate) fn bad_link() -> Self {
        let message = "a link token is 32 random bytes, written as 43 characters of base64url";
        Self::new(StatusCode::BAD_REQUEST, "bad_link", message)
    }

    pub(crate) fn too_often(seconds: u32) -> Self {
        let message = format!("too many calls in a minute; try again in {seconds} s");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).retry_after(seconds)
    }

    pub(crate) fn bad_path() -> Self {
        Self::bad_request("the path can't be forwarded")
    }

    pub(crate) fn cut_off() -> Self {
        Self::bad_request("the request broke off")
    }

    pub(crate) fn too_long(limit: u64) -> Self {
        let message = format!("a request's body may have up to {} MiB here", limit >> 20);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_long", message)
    }

    pub(crate) fn broke_off(name: &str) -> Self {
        let message = format!("the provider {name} broke off its answer");
        Self::new(StatusCode::BAD_GATEWAY, "upstream_broke_off", message)
    }

    pub(crate) fn overloaded() -> Self {
        let message = "too many calls are in flight; try again in a second";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).retry_after(1)
    }

    pub(crate) fn upstream_timeout(name: &str) -> Self {
        let message = format!("the provider {name} did not begin to answer in time");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message)
    }

    /// A sentence for a person.
    pub(crate) fn message(&self) -> &str {
        &self.body.message
    }

    /// The answer, with an axum body.
    fn into_own(self) -> Response<axum::body::Body> {
        let json = serde_json::to_vec(&self.body).expect("two strings are JSON");
        let mut response = Response::new(axum::body::Body::from(json));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        // For pages, which say it to people.
        response.extensions_mut().insert(self);
        response
    }

    /// The answer.
    pub fn into_reply(self) -> Response<Reply> {
        self.into_own().map(Reply::Own)
    }
}

impl axum::response::IntoResponse for ApiError {
    fn into_response(self) -> axum::response::Response {
        self.into_own()
    }
}
