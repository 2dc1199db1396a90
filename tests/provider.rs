//! A stand-in for providers: serves the sample answers in `providers/` and
//! `sdk/samples/`, and misbehaves on request.
//!
//! The model that a request names decides: `chat.sse` is that file of the
//! provider in the path, with the status, type and headers that its
//! `expected.json` gives; names with a colon are faults (see [`fault`]).

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use http_body::Frame;
use serde_json::Value;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Paced answers that run.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// A running stand-in.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Provider {
    /// Starts one on a free port.
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let seen = Arc::new(Mutex::new(vec![]));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&seen));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, seen }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Waits until no endless answer runs: its client has left.
    pub(crate) async fn idle(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while RUNNING.load(Ordering::SeqCst) > 0 {
            assert!(
                Instant::now() < deadline,
                "an answer goes on though its client left"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many requests there were whose body holds `word`.
    pub(crate) fn count(&self, word: &str) -> usize {
        let seen = self.seen.lock().expect("no handler panics");
        let holds = |seen: &&Seen| String::from_utf8_lossy(&seen.body).contains(word);
        seen.iter().filter(holds).count()
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no handler panics").clone()
    }
}

/// What a sample's answer must count as.
pub(crate) fn expected(provider: &str, file: &str) -> Value {
    let within = |folder: PathBuf| {
        let text = std::fs::read_to_string(folder.join(provider).join("expected.json")).ok()?;
        let all: Value = serde_json::from_str(&text).expect("JSON");
        all.get(file).cloned()
    };
    let found = samples().into_iter().find_map(within);
    found.unwrap_or_else(|| panic!("{provider} has no sample {file}"))
}

/// Where samples are: those of every shape, and what SDKs need beside them.
fn samples() -> [PathBuf; 2] {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    [tests.join("providers"), tests.join("sdk/samples")]
}

async fn answer(
    State(seen): State<Arc<Mutex<Vec<Seen>>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let last = named_in_form(&body).unwrap_or_else(|| named_in(uri.path()).to_owned());
    let provider = uri.path().split('/').nth(1).unwrap_or_default().to_owned();
    seen.lock().expect("no handler panics").push(Seen {
        method,
        uri,
        headers,
        body,
    });
    let name = request["model"].as_str().unwrap_or(&last);
    let asked = request["stream_options"]["include_usage"] == true;
    let name = match name {
        // As the provider does: usage is stated to who asks.
        "chat_no_include_usage.sse" if asked => "chat.sse",
        // A server that does not know the question.
        "old-server" if asked => "refuse:stream_options",
        "old-server" => "chat_no_include_usage.sse",
        name => name,
    };
    match name.split_once(':') {
        Some((fault_name, detail)) => fault(fault_name, detail).await,
        None => sample(&provider, name),
    }
}

/// The model or the stored response that a path names: `chat.json` in
/// `/v1/responses/chat.json` and in `/v1beta/models/chat.json:generateContent`,
/// and the fault in `/v1/messages/batches/batch:5/results`.
fn named_in(path: &str) -> &str {
    let named = |segment: &&str| !matches!(*segment, "results" | "content");
    let last = path.rsplit('/').find(named).unwrap_or_default();
    let method = |method: &str| method.starts_with(|c: char| c.is_ascii_alphabetic());
    let split = last.rsplit_once(':').filter(|(_, after)| method(after));
    split.map_or(last, |(name, _)| name)
}

/// The model that an uploaded form names (RFC 7578).
fn named_in_form(body: &[u8]) -> Option<String> {
    let body = String::from_utf8_lossy(body);
    let (_, after) = body.split_once("name=\"model\"\r\n\r\n")?;
    Some(after.split_once("\r\n")?.0.to_owned())
}

/// A sample's bytes.
pub(crate) fn body(provider: &str, file: &str) -> Vec<u8> {
    let found = read(provider, file);
    found.unwrap_or_else(|| panic!("{provider} has no sample {file}"))
}

fn read(provider: &str, file: &str) -> Option<Vec<u8>> {
    let read = |folder: PathBuf| std::fs::read(folder.join(provider).join(file)).ok();
    samples().into_iter().find_map(read)
}

fn sample(provider: &str, file: &str) -> Response {
    let Some(bytes) = read(provider, file) else {
        return (StatusCode::NOT_FOUND, "no such sample").into_response();
    };
    let expected = expected(provider, file);
    let status = file.split(['_', '.']).find_map(|part| part.parse().ok());
    let mut response = (status_of(status), bytes).into_response();
    let headers = response.headers_mut();
    let kind = expected["content_type"]
        .as_str()
        .expect("every sample has one");
    headers.insert(CONTENT_TYPE, kind.parse().expect("a header's value"));
    if let Some(more) = expected["response_headers"].as_object() {
        for (name, value) in more {
            let name: axum::http::HeaderName = name.parse().expect("a header's name");
            let value = value.as_str().expect("a text");
            headers.insert(name, value.parse().expect("a header's value"));
        }
    }
    response
}

fn status_of(code: Option<u16>) -> StatusCode {
    code.and_then(|c| StatusCode::from_u16(c).ok())
        .unwrap_or(StatusCode::OK)
}

const SSE: &str = "text/event-stream; charset=utf-8";

/// What goes wrong, by name.
async fn fault(name: &str, detail: &str) -> Response {
    let chunk = r#"data: {"id":"chatcmpl-x","model":"m","choices":[{"index":0,"delta":{"content":"x"}}],"usage":null}"#;
    let chunk = format!("{chunk}\n\n");
    let paced = |count, gap, end| Body::new(Paced::new(chunk.clone(), count, gap, end));
    match name {
        // Takes `detail` milliseconds before it answers well.
        "slow" => {
            let wait = detail.parse().expect("milliseconds");
            tokio::time::sleep(Duration::from_millis(wait)).await;
            sample("openai", "chat.json")
        }
        // Never answers.
        "hang" => std::future::pending().await,
        // Sends a chunk every `detail` milliseconds, for ever.
        "endless" => {
            let gap = Duration::from_millis(detail.parse().expect("milliseconds"));
            ([(CONTENT_TYPE, SSE)], paced(usize::MAX, gap, End::Silent)).into_response()
        }
        // Breaks the connection after three chunks.
        "break" => {
            let gap = Duration::from_millis(1);
            ([(CONTENT_TYPE, SSE)], paced(3, gap, End::Broken)).into_response()
        }
        // Announces more than it ever sends.
        "stall" => {
            let body = paced(1, Duration::from_secs(3_600), End::Silent);
            ([(CONTENT_TYPE, "application/json")], body).into_response()
        }
        "garbage" => ([(CONTENT_TYPE, "application/json")], vec![0x93; 5_000]).into_response(),
        // Says that it compresses, and does not.
        "plain" => {
            let mut response = sample("openai", "chat.json");
            let value = detail.parse().expect("a header's value");
            response.headers_mut().insert(CONTENT_ENCODING, value);
            response
        }
        // Compresses, and does not say it.
        "hidden" => {
            let mut response = sample("openai", "chat.gzip.json");
            response.headers_mut().remove(CONTENT_ENCODING);
            response
        }
        // Answers with a body of `detail` bytes, its usage last.
        "big" => {
            let size: usize = detail.parse().expect("bytes");
            let mut body = String::from(r#"{"object":"list","data":[0"#);
            body.push_str(&",0.125".repeat(size / 6));
            body.push_str(r#"],"model":"m","usage":{"prompt_tokens":7,"total_tokens":7}}"#);
            ([(CONTENT_TYPE, "application/json")], body).into_response()
        }
        // The results of a batch of `detail` responses, each with its usage.
        "batch" => {
            let count: u32 = detail.parse().expect("a number");
            let line = |i| {
                format!(
                    r#"{{"custom_id":"c{i}","result":{{"type":"succeeded","message":{{"id":"msg_{count}_{i}","type":"message","role":"assistant","model":"claude-sonnet-4-5-20250929","content":[],"stop_reason":"end_turn","usage":{{"input_tokens":{i},"output_tokens":1}}}}}}}}"#
                ) + "\n"
            };
            let lines: String = (0..count).map(line).collect();
            ([(CONTENT_TYPE, "application/x-jsonl")], lines).into_response()
        }
        // Answers well, as the model that is called `detail`.
        "called" => {
            let answer = serde_json::json!({"id": "chatcmpl-called", "object": "chat.completion",
                "model": detail, "choices": [{"index": 0, "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "x"}}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}});
            ([(CONTENT_TYPE, "application/json")], answer.to_string()).into_response()
        }
        "status" => (status_of(detail.parse().ok()), "{}").into_response(),
        "refuse" => {
            let message = format!(r#"{{"error":{{"message":"Unknown field: {detail}"}}}}"#);
            (
                StatusCode::BAD_REQUEST,
                [(CONTENT_TYPE, "application/json")],
                message,
            )
                .into_response()
        }
        "redirect" => (StatusCode::FOUND, [("location", detail)]).into_response(),
        _ => (StatusCode::NOT_FOUND, "no such fault").into_response(),
    }
}

enum End {
    Silent,
    Broken,
}

/// The same chunk over and over, at a pace.
struct Paced {
    chunk: Bytes,
    left: usize,
    pace: tokio::time::Interval,
    end: End,
}

impl Paced {
    fn new(chunk: String, count: usize, gap: Duration, end: End) -> Self {
        let pace = tokio::time::interval(gap);
        RUNNING.fetch_add(1, Ordering::SeqCst);
        Self {
            chunk: chunk.into(),
            left: count,
            pace,
            end,
        }
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::ready!(self.pace.poll_tick(cx));
        if self.left == 0 {
            return Poll::Ready(match self.end {
                End::Silent => None,
                End::Broken => Some(Err(std::io::Error::other("broken on purpose"))),
            });
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }
}
