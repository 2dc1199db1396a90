//! The demo's caller: calls of every kind, over and over, and what came of them.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// Made-up people with made-up keys.
const KEYS: [&str; 3] = [
    "sk-demo-alice-0123456789abcdef",
    "sk-demo-bob-fedcba9876543210",
    "sk-demo-carol-02468ace13579bdf",
];

/// A wallet that one of the calls names.
const WALLET: &str = "0x00000000000000000000000000000000000c0ffe";

type Caller = Client<HttpConnector, Full<Bytes>>;

/// Calls the gateway at `url` until it is dropped.
pub(super) async fn run(url: String) {
    let client: Caller = Client::builder(TokioExecutor::new()).build_http();
    let message = json!([{"role": "user", "content": "hello"}]);
    let calls = [
        (
            "/openai/v1/chat/completions".to_owned(),
            json!({"model": "gpt-5-mini", "messages": message}),
        ),
        (
            "/openai/v1/chat/completions".to_owned(),
            json!({"model": "gpt-5-mini", "messages": message, "stream": true,
                "stream_options": {"include_usage": true}}),
        ),
        (
            "/openai/v1/chat/completions".to_owned(),
            json!({"model": "gpt-5-mini", "messages": message, "stream": true}),
        ),
        (
            "/anthropic/v1/messages".to_owned(),
            json!({"model": "claude-sonnet-5", "max_tokens": 64, "messages": message}),
        ),
        (
            "/anthropic/v1/messages".to_owned(),
            json!({"model": "claude-sonnet-5", "max_tokens": 64, "messages": message, "stream": true}),
        ),
        (
            "/openai/v1/responses".to_owned(),
            json!({"model": "gpt-5", "input": "hello"}),
        ),
        (
            "/openai/v1/embeddings".to_owned(),
            json!({"model": "text-embedding-3-small", "input": "hello"}),
        ),
        (
            format!("/openai/w/{WALLET}/v1/chat/completions"),
            json!({"model": "gpt-5", "messages": message}),
        ),
        (
            "/openai/v1/chat/completions".to_owned(),
            json!({"model": "demo-overloaded", "messages": message}),
        ),
    ];
    for n in 0_usize.. {
        let (path, body) = &calls[n % calls.len()];
        // Now and then somebody hangs up in the middle of a stream.
        let leaves = n % 23 == 4 && body["stream"] == true;
        if let Err(error) = call(
            &client,
            &format!("{url}{path}"),
            KEYS[n % KEYS.len()],
            body,
            leaves,
        )
        .await
        {
            tracing::warn!(error = &*error, "demo call");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn call(
    client: &Caller,
    url: &str,
    key: &str,
    body: &Value,
    leaves: bool,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let request = Request::post(url)
        .header(CONTENT_TYPE, "application/json")
        .header(AUTHORIZATION, format!("Bearer {key}"))
        .body(Full::from(body.to_string()))?;
    let answer = client.request(request).await?;
    let mut body = answer.into_body();
    if leaves {
        body.frame().await.transpose()?;
        return Ok(());
    }
    body.collect().await?;
    Ok(())
}
