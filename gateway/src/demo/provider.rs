//! A stand-in for providers: answers as OpenAI and Anthropic do, with numbers
//! that vary from call to call. It understands no prompt.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Interval, interval};

/// Starts it on a free port of the loopback interface.
///
/// # Errors
/// No port can be had.
pub(super) async fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn answer(uri: Uri, body: Bytes) -> Response {
    static CALLS: AtomicU64 = AtomicU64::new(1);
    let n = CALLS.fetch_add(1, Ordering::Relaxed);
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let model = request["model"].as_str().unwrap_or("demo-model");
    let stream = request["stream"] == true;
    if model == "demo-overloaded" {
        let error = json!({"error": {"type": "rate_limit_error", "message": "too many requests"}});
        return (StatusCode::TOO_MANY_REQUESTS, json_body(&error)).into_response();
    }
    let (input, output) = (20 + n * 37 % 900, 5 + n * 13 % 300);
    match uri.path() {
        "/v1/messages" if stream => events(anthropic_events(n, model, input, output)),
        "/v1/messages" => json_body(&json!({
            "id": format!("msg_demo{n}"), "type": "message", "role": "assistant", "model": model,
            "content": [{"type": "text", "text": "A tally stick remembers."}],
            "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": input, "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": input / 2, "output_tokens": output},
        })),
        "/v1/responses" => json_body(&json!({
            "id": format!("resp_demo{n}"), "object": "response", "status": "completed", "model": model,
            "output": [{"type": "message", "role": "assistant",
                "content": [{"type": "output_text", "text": "A tally stick remembers."}]}],
            "usage": {"input_tokens": input, "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": output, "output_tokens_details": {"reasoning_tokens": output / 3},
                "total_tokens": input + output},
        })),
        "/v1/embeddings" => json_body(&json!({
            "object": "list", "model": model,
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2, 0.3]}],
            "usage": {"prompt_tokens": input, "total_tokens": input},
        })),
        _ if stream => {
            let asked = request["stream_options"]["include_usage"] == true;
            events(openai_events(n, model, asked.then_some((input, output))))
        }
        _ => json_body(&json!({
            "id": format!("chatcmpl-demo{n}"), "object": "chat.completion", "model": model,
            "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": "A tally stick remembers."}}],
            "usage": {"prompt_tokens": input, "completion_tokens": output,
                "total_tokens": input + output,
                "prompt_tokens_details": {"cached_tokens": input / 4}},
        })),
    }
}

fn json_body(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

const WORDS: [&str; 4] = ["A ", "tally ", "stick ", "remembers."];

fn openai_events(n: u64, model: &str, usage: Option<(u64, u64)>) -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        let id = format!("chatcmpl-demo{n}");
        let chunk = json!({"id": id, "object": "chat.completion.chunk", "model": model,
            "choices": choices, "usage": usage});
        format!("data: {chunk}\n\n")
    };
    let mut list: Vec<_> = WORDS
        .iter()
        .map(|word| {
            chunk(
                json!([{"index": 0, "delta": {"content": word}}]),
                Value::Null,
            )
        })
        .collect();
    list.push(chunk(
        json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        Value::Null,
    ));
    if let Some((input, output)) = usage {
        let usage = json!({"prompt_tokens": input, "completion_tokens": output,
            "total_tokens": input + output});
        list.push(chunk(json!([]), usage));
    }
    list.push("data: [DONE]\n\n".into());
    list
}

fn anthropic_events(n: u64, model: &str, input: u64, output: u64) -> Vec<String> {
    let event = |value: Value| {
        let kind = value["type"].as_str().unwrap_or_default();
        format!("event: {kind}\ndata: {value}\n\n")
    };
    let mut list = vec![
        event(
            json!({"type": "message_start", "message": {"id": format!("msg_demo{n}"),
            "type": "message", "role": "assistant", "model": model, "content": [],
            "usage": {"input_tokens": input, "output_tokens": 1}}}),
        ),
        event(json!({"type": "content_block_start", "index": 0,
            "content_block": {"type": "text", "text": ""}})),
    ];
    list.extend(WORDS.iter().map(|word| {
        event(json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "text_delta", "text": word}}))
    }));
    list.push(event(json!({"type": "content_block_stop", "index": 0})));
    list.push(event(
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": output}}),
    ));
    list.push(event(json!({"type": "message_stop"})));
    list
}

fn events(events: Vec<String>) -> Response {
    let pace = interval(Duration::from_millis(40));
    let body = Body::new(Paced {
        events: events.into_iter(),
        pace,
    });
    ([(CONTENT_TYPE, "text/event-stream; charset=utf-8")], body).into_response()
}

/// Sends an event at each tick.
struct Paced {
    events: std::vec::IntoIter<String>,
    pace: Interval,
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.pace.poll_tick(cx));
        Poll::Ready(
            self.events
                .next()
                .map(|event| Ok(Frame::data(event.into()))),
        )
    }
}
