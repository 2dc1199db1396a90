//! For operators: is it alive, is it ready, how busy is it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Api;
use crate::reply::{ApiError, ErrorBody};

/// The process answers.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Calls can be noted, and records stored and read.
#[utoipa::path(get, path = "/readyz", responses(
    (status = 200, body = String), (status = 503, body = ErrorBody)))]
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Result<&'static str, ApiError> {
    if !api.health.is_good() || !api.calls.can_be_noted() {
        let message = "records can't be stored at the moment";
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_ready",
            message,
        ));
    }
    let read = api.store.ping().await;
    read.map(|()| "ready\n")
        .map_err(|error| ApiError::internal("not_ready", &error))
}

/// Counters and gauges for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    metrics::gauge!("tally_calls_pending").set(api.calls.pending() as f64);
    metrics::gauge!("tally_log_size").set(api.committed.borrow().checkpoint.size().get() as f64);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, kind)], api.metrics.render()).into_response()
}

/// The description of this interface.
pub(super) async fn description() -> Response {
    ([(CONTENT_TYPE, "application/json")], super::openapi()).into_response()
}
