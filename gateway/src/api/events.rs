//! News of the log as it grows: server-sent events.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body::Frame;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use utoipa::ToSchema;

use super::Api;
use super::sums::{SourceSums, source_sums};
use crate::reply::{ApiError, ErrorBody};

/// How many may listen at once.
const LISTENERS: usize = 256;

/// News come at most this often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Without news, a sign of life comes this often: what stands between may cut
/// off the silent.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Room for listeners. Clones share it.
#[derive(Clone, Debug)]
pub struct Listeners(Arc<Semaphore>);

/// Says when the server stops: it waits for whoever holds one.
#[derive(Clone, Debug)]
pub struct Stopping(pub watch::Receiver<bool>);

impl Default for Listeners {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LISTENERS)))
    }
}

/// What the log came to: the data of an event `state`.
#[derive(Serialize, ToSchema)]
pub(super) struct LogState {
    /// The log's size.
    size: u64,
    /// The time of its newest entry, in seconds since 1970.
    time: u64,
    /// Usage entries.
    records: u64,
    /// Distinct key ids.
    users: u64,
    /// Distinct wallets.
    wallets: u64,
    /// Distinct pairs of provider and model.
    models: u64,
    /// Sums by source.
    sources: Vec<SourceSums>,
}

/// News of the log: an event `state` at once and whenever it has grown, at
/// most one a second.
#[utoipa::path(get, path = "/api/events", responses(
    (status = 200, body = LogState, content_type = "text/event-stream"),
    (status = 503, body = ErrorBody, description = "Too many listen already")))]
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    Extension(Stopping(stopping)): Extension<Stopping>,
) -> Result<Response, ApiError> {
    let room = Arc::clone(&api.listeners.0).try_acquire_owned();
    let room = room.map_err(|_| {
        let message = "too many listen already; ask for /api/stats instead";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).retry_after(30)
    })?;
    let (told, news) = mpsc::channel(1);
    tokio::spawn(tell(api, told, stopping, room));
    let kind = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        // Some servers in front collect answers otherwise.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((kind, Body::new(News(news))).into_response())
}

/// Tells one listener, until it leaves or the server stops.
async fn tell(
    api: Arc<Api>,
    told: mpsc::Sender<Bytes>,
    mut stopping: watch::Receiver<bool>,
    _room: OwnedSemaphorePermit,
) {
    let mut committed = api.committed.clone();
    committed.mark_changed();
    let mut text = String::from("retry: 3000\n");
    loop {
        let grown = tokio::select! {
            changed = committed.changed() => changed.is_ok().then_some(true),
            () = tokio::time::sleep(HEARTBEAT) => Some(false),
            () = told.closed() => None,
            _ = stopping.changed() => None,
        };
        match grown {
            Some(true) => text.push_str(&api.event()),
            Some(false) => text.push_str(":\n\n"),
            None => return,
        }
        if told.send(std::mem::take(&mut text).into()).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = told.closed() => return,
            _ = stopping.changed() => return,
        }
    }
}

impl Api {
    fn event(&self) -> String {
        let time = self.committed.borrow().time.secs();
        let (size, stats) = {
            let sums = self.sums.read();
            (sums.size(), sums.stats())
        };
        let state = LogState {
            size: size.get(),
            time,
            records: stats.outcomes.iter().map(|(_, records)| records).sum(),
            users: stats.users,
            wallets: stats.wallets,
            models: stats.models,
            sources: source_sums(stats.sources),
        };
        let state = serde_json::to_string(&state).expect("numbers and words are JSON");
        format!("event: state\ndata: {state}\n\n")
    }
}

/// A body that ends when its sender is dropped.
struct News(mpsc::Receiver<Bytes>);

impl http_body::Body for News {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let news = self.0.poll_recv(cx);
        news.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
