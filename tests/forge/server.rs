//! The forger's web server: a log and what is bent of its answers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, Uri, header};
use bytes::Bytes;
use http_body::Frame;
use protocol::tile::Tile;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::api::{self, Request};
use super::log::Log;

/// One answer, and how it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) sent: Sent,
}

/// How an answer's body goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All at once.
    Whole,
    /// After a while.
    After(Duration),
    /// Half of it, then the connection is cut.
    Cut,
    /// Nothing is ever answered.
    Never,
    /// The head, then nothing more, without an end.
    Stalled,
    /// Zeros without end.
    Endless,
}

impl Answer {
    pub(crate) fn ok(content_type: &str, body: Vec<u8>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self {
            status: 200,
            headers,
            body,
            sent: Sent::Whole,
        }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self::ok("application/json", value.to_string().into_bytes())
    }

    pub(crate) fn error(status: u16) -> Self {
        let body = br#"{"code":"not_found","message":"There is nothing here."}"#.to_vec();
        Self {
            status,
            ..Self::ok("application/json", body)
        }
    }
}

/// Changes an answer before it goes out; gets how often its path was asked
/// for before.
type Bend = Box<dyn Fn(&Request, usize, &mut Answer) + Send + Sync>;

/// What a forge serves now.
pub(crate) struct Site {
    pub(crate) log: Log,
    /// The size that `/checkpoint` has; all of the log without one.
    pub(crate) published: Option<usize>,
    /// The path that the log is below, without a slash at the end.
    pub(crate) base: &'static str,
    bends: Vec<Bend>,
    asked: HashMap<String, usize>,
}

impl Site {
    /// An honest site of `log`.
    pub(crate) fn new(log: Log) -> Self {
        Self {
            log,
            published: None,
            base: "",
            bends: vec![],
            asked: HashMap::new(),
        }
    }

    /// Bends every answer that `bend` wants to.
    pub(crate) fn bend(
        &mut self,
        bend: impl Fn(&Request, usize, &mut Answer) + Send + Sync + 'static,
    ) {
        self.bends.push(Box::new(bend));
    }

    /// Bends the answers at `path`, whatever the query; one ending in `*` is a prefix.
    pub(crate) fn at(
        &mut self,
        path: &'static str,
        bend: impl Fn(&mut Answer) + Send + Sync + 'static,
    ) {
        self.bend(move |request, _, answer| {
            let hit = path
                .strip_suffix('*')
                .map_or(request.path == path, |start| {
                    request.path.starts_with(start)
                });
            if hit {
                bend(answer);
            }
        });
    }

    /// Bends the JSON answers at `path`.
    pub(crate) fn json_at(
        &mut self,
        path: &'static str,
        bend: impl Fn(&mut Value) + Send + Sync + 'static,
    ) {
        self.at(path, move |answer| {
            let mut value =
                serde_json::from_slice(&answer.body).expect("the forge answers JSON here");
            bend(&mut value);
            answer.body = value.to_string().into_bytes();
        });
    }

    /// Serves another body at `path`.
    pub(crate) fn body_at(&mut self, path: &'static str, body: impl Into<Vec<u8>>) {
        let body = body.into();
        self.at(path, move |answer| answer.body.clone_from(&body));
    }

    /// How often paths that begin with `prefix` were asked for.
    pub(crate) fn asked(&self, prefix: &str) -> usize {
        self.asked
            .iter()
            .filter(|(path, _)| path.starts_with(prefix))
            .map(|(_, times)| times)
            .sum()
    }

    /// What an honest gateway with this log would answer.
    pub(crate) fn honest(&self, request: &Request) -> Answer {
        let path = &request.path[..];
        if path == "/checkpoint" {
            let size = self.published.unwrap_or(self.log.size());
            let note = self.log.checkpoint(size);
            return Answer::ok("text/plain; charset=utf-8", note.into_bytes());
        }
        if let Some(tile) = path.strip_prefix('/').and_then(Tile::parse) {
            return self.log.tile(tile).map_or_else(
                || Answer::error(404),
                |bytes| Answer::ok("application/octet-stream", bytes),
            );
        }
        api::answer(&self.log, self.log.size(), request)
            .map_or_else(|| Answer::error(404), |value| Answer::json(&value))
    }

    fn answer(&mut self, target: &str) -> Answer {
        let Some(below) = target.strip_prefix(self.base) else {
            return Answer::error(404);
        };
        let request = &Request::new(below);
        let times = self.asked.entry(request.path.clone()).or_default();
        let before = *times;
        *times += 1;
        let mut answer = self.honest(request);
        for bend in &self.bends {
            bend(request, before, &mut answer);
        }
        answer
    }
}

/// A running server; what it serves can be replaced at any time.
pub(crate) struct Forge {
    address: SocketAddr,
    site: Arc<Mutex<Site>>,
}

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::new().expect("threads can be started"));

impl Forge {
    /// Starts serving `site` on a port of its own.
    pub(crate) fn start(site: Site) -> Self {
        let site = Arc::new(Mutex::new(site));
        let shared = site.clone();
        let app = axum::Router::new().fallback(move |uri: Uri| respond(shared.clone(), uri));
        let listener = RUNTIME
            .block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))
            .expect("a loopback port is free");
        let address = listener.local_addr().expect("bound");
        RUNTIME.spawn(async move { axum::serve(listener, app).await });
        Self { address, site }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What is served, locked: nothing is answered while it is held.
    pub(crate) fn site(&self) -> MutexGuard<'_, Site> {
        self.site.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves something else from now on.
    pub(crate) fn serve(&self, site: Site) {
        *self.site() = site;
    }
}

async fn respond(site: Arc<Mutex<Site>>, uri: Uri) -> Result<Response<Body>, Infallible> {
    let target = uri.path_and_query().map_or("/", |t| t.as_str());
    let answer = site
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .answer(target);
    match answer.sent {
        Sent::Never => std::future::pending().await,
        Sent::After(while_) => tokio::time::sleep(while_).await,
        _ => {}
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    let mut body = answer.body;
    let end = match answer.sent {
        Sent::Cut => {
            response = response.header(header::CONTENT_LENGTH, body.len());
            body.truncate(body.len() / 2);
            End::Cut
        }
        Sent::Stalled => End::Stalled,
        Sent::Endless => End::Endless,
        _ => return Ok(response.body(Body::from(body)).expect(WELL_FORMED)),
    };
    let odd = OddBody {
        first: Some(body.into()),
        end,
    };
    Ok(response.body(Body::new(odd)).expect(WELL_FORMED))
}

const WELL_FORMED: &str = "the forge's headers are well-formed";

/// A body that does not simply end.
struct OddBody {
    first: Option<Bytes>,
    end: End,
}

#[derive(Clone, Copy)]
enum End {
    Cut,
    Stalled,
    Endless,
}

impl http_body::Body for OddBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match self.end {
            End::Cut => Poll::Ready(Some(Err(io::Error::other("cut")))),
            End::Stalled => Poll::Pending,
            End::Endless => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'0'; 65_536]))))),
        }
    }
}
