//! Serving the submission and the monitoring prefix over HTTP.
//!
//! Every request is bounded in size and time, and so is their number; TLS is
//! for whatever stands in front. Out of scope: what is answered.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use protocol::witness::MAX_REQUEST;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::Answer;

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 512;

/// How long a request's head, and so an idle connection, may take.
const HEAD: Duration = Duration::from_secs(60);

/// How long a request's body may take.
const BODY: Duration = Duration::from_secs(10);

/// How long what is in flight may take when the server stops.
const LAST: Duration = Duration::from_secs(10);

/// What is served.
pub trait Site: Send + Sync + 'static {
    /// Answers add-checkpoint; `None` where nothing can be submitted.
    fn add_checkpoint(&self, body: Bytes) -> impl Future<Output = Option<Answer>> + Send;

    /// The newest checkpoint of the log at a place, the hex SHA-256 of its origin.
    fn checkpoint(&self, place: &str) -> Option<String>;
}

/// Serves `site` below `prefix`, which is empty or begins with a slash, until
/// `stop` comes; what is in flight then is finished.
pub async fn serve(
    listener: TcpListener,
    prefix: String,
    site: Arc<impl Site>,
    stop: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut stop = std::pin::pin!(stop);
    let prefix: Arc<str> = prefix.into();
    loop {
        let permit = Arc::clone(&connections).acquire_owned();
        let accepted = async {
            let permit = permit.await.expect("the semaphore is never closed");
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, say: it passes, and must not spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (site, prefix) = (Arc::clone(&site), Arc::clone(&prefix));
        let service = service_fn(move |request| {
            let (site, prefix) = (Arc::clone(&site), Arc::clone(&prefix));
            async move { Ok::<_, Infallible>(response(answer(&*site, &prefix, request).await)) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke off");
            }
        });
    }
    drop(listener);
    // What does not end is cut: it was durable before it was answered.
    let _ = tokio::time::timeout(LAST, graceful.shutdown()).await;
}

async fn answer(site: &impl Site, prefix: &str, request: Request<Incoming>) -> Answer {
    let nothing = || Answer::text(404, "there is nothing here\n");
    let path = request.uri().path().to_owned();
    let Some(path) = path.strip_prefix(prefix) else {
        return nothing();
    };
    let place = path
        .strip_prefix('/')
        .and_then(|path| path.strip_suffix("/checkpoint"));
    match (path, place) {
        ("/add-checkpoint", _) if request.method() == Method::POST => {
            let body = match body(request).await {
                Ok(body) => body,
                Err(refused) => return refused,
            };
            site.add_checkpoint(body).await.unwrap_or_else(nothing)
        }
        ("/add-checkpoint", _) => Answer::text(405, "expected POST\n"),
        (_, Some(place)) if matches!(*request.method(), Method::GET | Method::HEAD) => {
            let note = site.checkpoint(place);
            note.map_or_else(nothing, |note| Answer::text(200, note))
        }
        (_, Some(_)) => Answer::text(405, "expected GET\n"),
        _ => nothing(),
    }
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Answer> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect();
    match tokio::time::timeout(BODY, body).await {
        Err(_) => Err(Answer::text(408, "the body took too long\n")),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let text = format!("expected at most {MAX_REQUEST} bytes\n");
            Err(Answer::text(413, text))
        }
        Ok(Err(error)) => Err(Answer::text(400, format!("the body broke off: {error}\n"))),
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if answer.status == 405 {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
    }
    response
}
