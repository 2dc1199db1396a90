//! A log as its users' commands ask it (`gateway link`, `gateway setup`).
//!
//! What it says is not believed here: callers check what they are answered.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use protocol::key::VerifierKey;
use serde_json::Value;

use crate::connect::{Connector, causes};

/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long an answer may take; a provider's may be behind it.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// A log that is asked over HTTP.
#[derive(Debug)]
pub(crate) struct Log {
    client: legacy::Client<Connector, Full<Bytes>>,
    url: String,
    uri: Uri,
}

/// Why a log could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The URL is none.
    #[error("{0:?} is no URL of a log: expected https://host[:port], or http:// on this machine")]
    Url(String),
    /// The system's certificate authorities can't be read.
    #[error("the system's certificate authorities can't be read")]
    Authorities(#[source] io::Error),
    /// No whole answer came.
    #[error("{url} gives no answer: {cause}")]
    NoAnswer {
        /// What was asked.
        url: String,
        /// Why.
        cause: String,
    },
    /// The log refused.
    #[error("the log refuses: {0}")]
    Refused(String),
    /// The log answered something that can't be right.
    #[error("the log's answer is wrong: {0}")]
    Wrong(String),
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its JSON; null if it is none.
    pub(crate) json: Value,
}

impl Log {
    /// The log at a URL. Nothing is asked yet.
    ///
    /// # Errors
    /// The URL is none; no certificate authorities.
    pub(crate) fn new(url: &str) -> Result<Self, AskError> {
        let url = url.trim_end_matches('/');
        let parsed = url.parse::<Uri>().ok();
        let whole = parsed.filter(|uri| {
            let plain = uri.query().is_none() && !url.contains(['@', '#', '\'', '"', '\\']);
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && plain
        });
        let uri = whole.ok_or_else(|| AskError::Url(url.into()))?;
        let connector = Connector::new(CONNECT_WITHIN).map_err(AskError::Authorities)?;
        Ok(Self {
            client: legacy::Client::builder(TokioExecutor::new()).build(connector),
            url: url.to_owned(),
            uri,
        })
    }

    /// Its URL, without a slash at the end.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is on this machine.
    pub(crate) fn is_here(&self) -> bool {
        self.uri.host().is_some_and(is_loopback)
    }

    /// Whether nobody on the way reads what is sent to it.
    pub(crate) fn is_private(&self) -> bool {
        self.uri.scheme_str() == Some("https") || self.is_here()
    }

    /// Its verifier key, if it is the expected one.
    ///
    /// # Errors
    /// No answer, another key, no key.
    pub(crate) async fn key(&self, expected: Option<&str>) -> Result<VerifierKey, AskError> {
        let answer = self.get("/api/pubkey").await?;
        let text = answer["vkey"].as_str().unwrap_or_default();
        if expected.is_some_and(|expected| expected != text) {
            return Err(AskError::Wrong(format!("its verifier key is {text}")));
        }
        VerifierKey::parse(text).map_err(|error| AskError::Wrong(error.to_string()))
    }

    /// The providers that it forwards calls to, by name.
    ///
    /// # Errors
    /// No answer, another status, no list.
    pub(crate) async fn providers(&self) -> Result<Vec<String>, AskError> {
        let answer = self.get("/api/providers").await?;
        let names = answer["providers"].as_array();
        let names = names.ok_or_else(|| AskError::Wrong("it lists no providers".into()))?;
        let plain = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        let names = names.iter().filter_map(|name| name.as_str());
        // They go into files of the user's.
        let names = names.filter(|name| name.chars().all(plain));
        Ok(names.map(str::to_owned).collect())
    }

    /// The JSON of a 200 answer.
    ///
    /// # Errors
    /// No answer, another status.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, AskError> {
        self.ask(Method::GET, path, HeaderMap::new(), None)
            .await?
            .granted()
    }

    /// Whatever it answers.
    ///
    /// # Errors
    /// No whole answer.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<String>,
    ) -> Result<Answer, AskError> {
        let url = format!("{}{path}", self.url);
        // A path may hold a link token, which is nobody else's to see.
        let failed = |cause: String| AskError::NoAnswer {
            url: self.url.clone(),
            cause,
        };
        let mut request = Request::new(Full::new(Bytes::from(body.unwrap_or_default())));
        *request.method_mut() = method;
        *request.uri_mut() = url.parse().map_err(|_| failed("the path is none".into()))?;
        *request.headers_mut() = headers;
        let whole = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| failed(causes(&error)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|error| failed(causes(&*error)))?.to_bytes();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                json: serde_json::from_slice(&body).unwrap_or_default(),
            })
        };
        match tokio::time::timeout(ANSWER_WITHIN, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(failed(format!("none in {} s", ANSWER_WITHIN.as_secs()))),
        }
    }
}

impl Answer {
    /// Its JSON, if its status is 200.
    ///
    /// # Errors
    /// What it says instead.
    pub(crate) fn granted(self) -> Result<Value, AskError> {
        match self.status {
            StatusCode::OK => Ok(self.json),
            _ => Err(AskError::Refused(self.reason())),
        }
    }

    /// What an answer that refuses says for a person.
    pub(crate) fn reason(&self) -> String {
        // Ours alone: providers quote credentials.
        let said = self.json["message"].as_str();
        let said = said.filter(|_| self.json["code"].is_string());
        said.map_or_else(|| self.status.to_string(), str::to_owned)
    }
}

/// Whether a URL's host is the machine that asks.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Headers of a request with a JSON body.
pub(crate) fn json_headers() -> HeaderMap {
    let json = HeaderValue::from_static("application/json");
    HeaderMap::from_iter([(CONTENT_TYPE, json)])
}

/// A header that holds a secret, which no formatting shows.
pub(crate) fn secret_header(name: &'static str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::from_static(name), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_a_hosts_and_hold_no_secret() {
        // The address, and whether credentials may be sent to it.
        for (url, private) in [
            ("https://log.example.org", Some(true)),
            ("https://log.example.org/", Some(true)),
            ("http://127.0.0.1:8787", Some(true)),
            ("http://[::1]:8787", Some(true)),
            ("http://localhost:8787", Some(true)),
            ("http://log.example.org", Some(false)),
            ("log.example.org", None),
            ("ftp://log.example.org", None),
            ("https://user:word@log.example.org", None),
            ("https://log.example.org?x=y", None),
            ("https://log.example.org/'$(x)'", None),
            ("", None),
        ] {
            let found = Log::new(url).ok().map(|log| log.is_private());
            assert_eq!(found, private, "{url}");
        }
    }
}
