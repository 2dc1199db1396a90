//! One node of a chain, by JSON-RPC over HTTP.
//!
//! A node that gives no complete answer in the form that it must have says
//! nothing about a log. Its address is never shown whole: providers put keys
//! into it. Out of scope: what is asked, and what follows from it.

use std::fmt;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};

/// No answer that is asked for is longer.
const MAX_ANSWER: usize = 4 << 20;

/// What of a node's own words is repeated.
const MAX_WORDS: usize = 200;

/// Waits before the further attempts: nodes for everybody limit how often they
/// are asked.
const BACKOFF: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_millis(1_200),
    Duration::from_millis(4_800),
];

/// The code of an error that is the contract's own refusal (EIP-1474's
/// extension by geth, which others follow).
pub const REVERTED: i64 = 3;

/// "Limit exceeded" (EIP-1474), and what some answer instead.
const LIMITED: [i64; 2] = [-32_005, 429];

/// A node.
#[derive(Clone)]
pub struct Node {
    http: reqwest::Client,
    url: Url,
    name: String,
    backoff: &'static [Duration],
}

/// Why a node gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// No connection, or it broke off, took too long, or the node is busy.
    #[error("{node} gave no answer to {method}: {cause}")]
    Away {
        /// Which node.
        node: String,
        /// What was asked.
        method: &'static str,
        /// What happened.
        cause: String,
    },
    /// An answer that is none.
    #[error("{node} answered {method} with something else than it should: {cause}")]
    Form {
        /// Which node.
        node: String,
        /// What was asked.
        method: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// It refused.
    #[error("{node} refused {method}: error {code}, {message}")]
    Refused {
        /// Which node.
        node: String,
        /// What was asked.
        method: &'static str,
        /// Why, as a number.
        code: i64,
        /// Why, in its words.
        message: String,
    },
}

impl RpcError {
    /// Whether it may be otherwise in a moment.
    fn passes(&self) -> bool {
        match self {
            Self::Away { .. } => true,
            Self::Form { .. } => false,
            Self::Refused { code, .. } => LIMITED.contains(code),
        }
    }
}

impl Node {
    /// The `number`-th node of the command line, at `url`.
    ///
    /// # Errors
    /// TLS or proxy settings are unusable.
    pub fn new(number: usize, url: Url, timeout: Duration) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("tallystick-sentinel/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .connect_timeout(timeout.min(Duration::from_secs(10)))
            .redirect(Policy::none())
            .build()?;
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map_or(String::new(), |port| format!(":{port}"));
        let name = format!("node {number} ({host}{port})");
        Ok(Self {
            http,
            url,
            name,
            backoff: &BACKOFF,
        })
    }

    /// How it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks; what may pass is tried again, four times in all.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn ask(&self, method: &'static str, params: &Value) -> Result<Value, RpcError> {
        let mut backoff = self.backoff.iter();
        loop {
            match self.attempt(method, params).await {
                Err(error) if error.passes() => match backoff.next() {
                    Some(wait) => tokio::time::sleep(*wait).await,
                    None => return Err(error),
                },
                answered => return answered,
            }
        }
    }

    /// An answer in another form than `expected`.
    pub fn form(&self, method: &'static str, cause: impl Into<String>) -> RpcError {
        RpcError::Form {
            node: self.name.clone(),
            method,
            cause: cause.into(),
        }
    }

    async fn attempt(&self, method: &'static str, params: &Value) -> Result<Value, RpcError> {
        let away = |cause: String| RpcError::Away {
            node: self.name.clone(),
            method,
            cause,
        };
        let lost = |error: reqwest::Error| away(cause(&error.without_url()));
        let question = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let sent = self.http.post(self.url.clone()).json(&question).send();
        let mut answer = sent.await.map_err(lost)?;
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(away(format!("status {status}")));
        }
        let mut body = vec![];
        while let Some(part) = answer.chunk().await.map_err(lost)? {
            if body.len() + part.len() > MAX_ANSWER {
                return Err(self.form(method, format!("more than {MAX_ANSWER} bytes")));
            }
            body.extend_from_slice(&part);
        }
        let Ok(Value::Object(mut answer)) = serde_json::from_slice(&body) else {
            let cause = format!("no JSON object, status {status}, {} bytes", body.len());
            return Err(self.form(method, cause));
        };
        if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
            return Err(RpcError::Refused {
                node: self.name.clone(),
                method,
                code: error["code"].as_i64().unwrap_or_default(),
                message: plain(error["message"].as_str().unwrap_or_default()),
            });
        }
        let result = answer.remove("result");
        result.ok_or_else(|| self.form(method, format!("no result, status {status}")))
    }
}

/// Without its address.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Foreign words, so that they can be shown in one line.
pub fn plain(words: &str) -> String {
    let words = words.chars().take(MAX_WORDS);
    words.filter(|c| !c.is_control()).collect()
}

/// The innermost cause says what happened.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".into();
    }
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fake::{Fake, Reply};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Tests don't wait for nodes for everybody.
    const AT_ONCE: &[Duration] = &[Duration::from_millis(1); 3];

    /// What the first of a node's answers come to.
    async fn check(replies: Vec<Reply>) -> Result<Value, RpcError> {
        let next = AtomicUsize::new(0);
        let fake = Fake::start(move |_, _| {
            let at = next.fetch_add(1, Ordering::Relaxed);
            replies[at.min(replies.len() - 1)].clone()
        });
        let mut node = fake.await.node(1);
        node.backoff = AT_ONCE;
        node.ask("eth_chainId", &json!([])).await
    }

    #[tokio::test]
    async fn answers_are_whole_or_none() {
        let good = Reply::Result(json!("0x1"));
        let error = |code: i64| Reply::Error(code, "no\nmore".into());
        let raw = |text: &str| Reply::Raw(200, text.into());
        for (name, replies, said) in [
            ("good", vec![good.clone()], None),
            ("null", vec![Reply::Result(Value::Null)], None),
            (
                "limited at first",
                vec![Reply::Raw(429, vec![]), good.clone()],
                None,
            ),
            (
                "limited by a code",
                vec![error(-32_005), error(429), good.clone()],
                None,
            ),
            (
                "broken for a while",
                vec![Reply::Raw(502, vec![]), good.clone()],
                None,
            ),
            ("cut off at first", vec![Reply::Cut, good.clone()], None),
            (
                "limited for ever",
                vec![Reply::Raw(429, vec![])],
                Some("gave no answer to eth_chainId: status 429"),
            ),
            (
                "limited by a code for ever",
                vec![error(-32_005)],
                Some("error -32005, nomore"),
            ),
            (
                "refused",
                vec![error(-32_601), good.clone()],
                Some("refused eth_chainId: error -32601"),
            ),
            (
                "no JSON",
                vec![raw("<html>")],
                Some("no JSON object, status 200 OK, 6 bytes"),
            ),
            ("a list", vec![raw("[]")], Some("no JSON object")),
            ("no result", vec![raw("{}")], Some("no result")),
            (
                "too long",
                vec![Reply::Raw(200, vec![b' '; MAX_ANSWER + 1])],
                Some("more than 4194304 bytes"),
            ),
            (
                "a way to somebody else",
                vec![Reply::Raw(307, vec![])],
                Some("no JSON object, status 307"),
            ),
        ] {
            let answered = check(replies).await;
            match said {
                None => assert!(answered.is_ok(), "{name}: {answered:?}"),
                Some(said) => {
                    let error = answered.expect_err(name).to_string();
                    assert!(error.contains(said), "{name}: {error}");
                    assert!(error.starts_with("node 1 (127.0.0.1:"), "{name}: {error}");
                }
            }
        }
    }

    #[tokio::test]
    async fn addresses_are_not_shown() {
        let url = Url::parse("http://127.0.0.1:9/secret?key=secret").expect("valid");
        let mut node = Node::new(2, url, Duration::from_secs(5)).expect("a client");
        node.backoff = &[];
        let error = node
            .ask("eth_chainId", &json!([]))
            .await
            .expect_err("nobody");
        assert!(
            !format!("{error} {error:?} {node:?}").contains("secret"),
            "{error}"
        );
    }
}
