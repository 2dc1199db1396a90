//! A node of a chain, as far as the sentinel asks one: JSON-RPC over HTTP.

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::new().expect("threads can be started"));

/// A running node.
pub(crate) struct Node(String);

impl Node {
    /// Starts one; `answer` gives the members of the answer to a method.
    pub(crate) fn start(answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        let app = axum::Router::new().fallback(move |body: String| {
            let answer = answer.clone();
            async move {
                let request: Value = serde_json::from_str(&body).expect("JSON");
                let method = request["method"].as_str().expect("a method");
                let mut response = answer(method, &request["params"]);
                response["jsonrpc"] = "2.0".into();
                response["id"] = request["id"].clone();
                response.to_string()
            }
        });
        let listener = RUNTIME
            .block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))
            .expect("a loopback port is free");
        let address = listener.local_addr().expect("bound");
        RUNTIME.spawn(async move { axum::serve(listener, app).await });
        Self(format!("http://{address}"))
    }

    pub(crate) fn url(&self) -> &str {
        &self.0
    }
}
