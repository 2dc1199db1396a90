//! A stand-in for witnesses: an honest one (C2SP tlog-witness), that
//! misbehaves on request.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use http_body::Frame;
use protocol::checkpoint::Checkpoint;
use protocol::cosignature::Cosigner;
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::key::VerifierKey;
use protocol::note::Note;
use protocol::proof::verify_consistency;
use protocol::vkey::KeyName;
use protocol::witness::{AddCheckpoint, SIZE_CONTENT_TYPE, conflict};
use tokio::runtime::Runtime;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As C2SP tlog-witness says.
    Honest,
    /// The same, after so many milliseconds.
    Slow(u64),
    /// Never.
    Hangs,
    /// With 200 and a page.
    Garbage,
    /// With 200 and bytes without end.
    Endless,
    /// With a line of its own key that does not verify.
    Forged,
    /// With a good cosignature by another key.
    Foreign,
    /// With 409 and this text as size.
    Conflict(&'static str),
    /// With 409 and the size that the request names.
    Echo,
    /// With this status and nothing.
    Status(u16),
    /// With 302 to an honest witness.
    Redirects,
}

/// A request that it got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) at: Instant,
    pub(crate) old: u64,
    pub(crate) size: u64,
    /// Hashes in its proof.
    pub(crate) proof: usize,
    /// How it was answered; 0 while it is not.
    pub(crate) status: u16,
}

#[derive(Debug)]
struct Inner {
    key: VerifierKey,
    cosigner: Cosigner,
    stranger: Cosigner,
    manner: Manner,
    held: (TreeSize, Hash),
    requests: Vec<Request>,
    connections: HashSet<SocketAddr>,
    running: usize,
    /// Requests at once, at the most.
    most: usize,
}

/// A witness of one log, on a port of its own.
#[derive(Debug)]
pub(crate) struct StandIn {
    name: &'static str,
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    /// With it its connections end.
    runtime: Option<Runtime>,
}

impl StandIn {
    /// Starts one that knows the log of `vkey`.
    pub(crate) fn start(name: &'static str, seed: u8, vkey: &str, manner: Manner) -> Self {
        let cosigner = |name: &str, seed| {
            let name = KeyName::new(&format!("witness.example/{name}")).expect("a name");
            Cosigner::new(name, &[seed; 32])
        };
        let inner = Arc::new(Mutex::new(Inner {
            key: VerifierKey::parse(vkey).expect("a vkey"),
            cosigner: cosigner(name, seed),
            stranger: cosigner("stranger", 255),
            manner,
            held: (TreeSize::ZERO, Hash::EMPTY_ROOT),
            requests: vec![],
            connections: HashSet::new(),
            running: 0,
            most: 0,
        }));
        let mut witness = Self {
            name,
            address: ([127, 0, 0, 1], 0).into(),
            inner,
            runtime: None,
        };
        witness.up();
        witness
    }

    /// Its line of a policy.
    pub(crate) fn line(&self) -> String {
        let (name, address) = (self.name, self.address);
        let vkey = self.inner().cosigner.verifier().to_string();
        format!("witness {name} {vkey} http://{address}/submit/\n")
    }

    /// From now on it answers so.
    pub(crate) fn answers(&self, manner: Manner) {
        self.inner().manner = manner;
    }

    /// It loses what it knew of the log.
    pub(crate) fn forgets(&self) {
        self.inner().held = (TreeSize::ZERO, Hash::EMPTY_ROOT);
    }

    /// What it cosigned last.
    pub(crate) fn held(&self) -> u64 {
        self.inner().held.0.get()
    }

    /// The requests from `first` on.
    pub(crate) fn requests(&self, first: usize) -> Vec<Request> {
        self.inner().requests[first..].to_vec()
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.inner().connections.len()
    }

    /// Requires that it had one request at a time, and at most one a second.
    pub(crate) fn was_asked_decently(&self) {
        assert!(self.inner().most <= 1, "{}", self.name);
        let requests = self.requests(0);
        for two in requests.windows(2) {
            let between = two[1].at.duration_since(two[0].at);
            assert!(
                between > Duration::from_millis(900),
                "{}: {two:?}",
                self.name
            );
        }
    }

    /// The process ends, and its connections with it.
    pub(crate) fn down(&mut self) {
        self.runtime.take().expect("it runs").shutdown_background();
    }

    /// It runs, at its address.
    pub(crate) fn up(&mut self) {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = {
            let _within = runtime.enter();
            let listener = std::net::TcpListener::bind(self.address).expect("its port is free");
            listener.set_nonblocking(true).expect("a socket");
            tokio::net::TcpListener::from_std(listener).expect("a socket")
        };
        self.address = listener.local_addr().expect("bound");
        let router = Router::new()
            .route("/submit/add-checkpoint", post(answer))
            .route("/elsewhere", post(elsewhere))
            .with_state(Arc::clone(&self.inner))
            .into_make_service_with_connect_info::<SocketAddr>();
        runtime.spawn(async move { axum::serve(listener, router).await });
        self.runtime = Some(runtime);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        locked(&self.inner)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn locked(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().expect("no handler panics")
}

/// One request less runs, whether it was answered or its client left.
struct Running(Arc<Mutex<Inner>>);

impl Drop for Running {
    fn drop(&mut self) {
        locked(&self.0).running -= 1;
    }
}

async fn answer(
    State(inner): State<Arc<Mutex<Inner>>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    body: Bytes,
) -> Response {
    let request = AddCheckpoint::parse(&body).expect("a request of the form");
    let (manner, number) = begun(&inner, from, &request);
    let running = Running(Arc::clone(&inner));
    match manner {
        Manner::Slow(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Manner::Hangs => std::future::pending().await,
        _ => {}
    }
    let answer = locked(&inner).answer(manner, &request);
    drop(running);
    locked(&inner).requests[number].status = answer.status().as_u16();
    answer
}

/// Nobody may follow a redirect to here.
async fn elsewhere() -> StatusCode {
    std::process::abort()
}

fn begun(inner: &Mutex<Inner>, from: SocketAddr, request: &AddCheckpoint) -> (Manner, usize) {
    let mut inner = locked(inner);
    inner.connections.insert(from);
    inner.running += 1;
    inner.most = inner.most.max(inner.running);
    let size = request.checkpoint.lines().nth(1);
    inner.requests.push(Request {
        at: Instant::now(),
        old: request.old.get(),
        size: size.and_then(|s| s.parse().ok()).expect("a size"),
        proof: request.proof.len(),
        status: 0,
    });
    (inner.manner, inner.requests.len() - 1)
}

impl Inner {
    fn answer(&mut self, manner: Manner, request: &AddCheckpoint) -> Response {
        let size = |text: String| {
            let headers = [(CONTENT_TYPE, SIZE_CONTENT_TYPE)];
            (StatusCode::CONFLICT, headers, text).into_response()
        };
        match manner {
            Manner::Honest | Manner::Slow(_) | Manner::Hangs => self.honest(request),
            Manner::Garbage => "<html>sign in here</html>\n".into_response(),
            Manner::Endless => Body::new(Endless).into_response(),
            Manner::Forged => self
                .cosigner
                .cosign("another text\n", now())
                .into_response(),
            Manner::Foreign => {
                let text = Note::parse(request.checkpoint.as_bytes()).expect("a note");
                self.stranger.cosign(text.text(), now()).into_response()
            }
            Manner::Conflict(text) => size(text.to_owned()),
            Manner::Echo => size(conflict(request.old)),
            Manner::Status(status) => StatusCode::from_u16(status)
                .expect("a status")
                .into_response(),
            Manner::Redirects => {
                (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, "/elsewhere")]).into_response()
            }
        }
    }

    /// C2SP tlog-witness, "add-checkpoint".
    fn honest(&mut self, request: &AddCheckpoint) -> Response {
        let opened = Checkpoint::open(request.checkpoint.as_bytes(), &self.key);
        let checkpoint = opened.expect("signed by the log's key");
        if request.old > checkpoint.size() {
            return StatusCode::BAD_REQUEST.into_response();
        }
        if request.old != self.held.0 {
            let headers = [(CONTENT_TYPE, SIZE_CONTENT_TYPE)];
            return (StatusCode::CONFLICT, headers, conflict(self.held.0)).into_response();
        }
        let tree = (checkpoint.size(), checkpoint.root());
        if verify_consistency(self.held, tree, &request.proof).is_err() {
            return StatusCode::UNPROCESSABLE_ENTITY.into_response();
        }
        self.held = tree;
        self.cosigner
            .cosign(&checkpoint.text(), now())
            .into_response()
    }
}

fn now() -> Time {
    let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    Time::from_secs(since.as_secs()).expect("below 2^53")
}

/// A body without end.
struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = Bytes::from_static(&[b'x'; 16_384]);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}
