//! Asking a log over HTTP: GETs only, everything bounded.
//!
//! What comes back is either a complete answer (status 200, the whole body,
//! not longer than it may be) or [`NoAnswer`], which is never misbehaviour.
//! Out of scope: what an answer says.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CACHE_CONTROL, HeaderMap, HeaderValue, PRAGMA};
use reqwest::{StatusCode, Url};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies up to here are read freely; of longer ones few at a time, so that
/// memory stays bounded whatever a log sends.
const FREE: usize = 1 << 20;

/// Longer bodies held at once.
const LARGE_AT_ONCE: usize = 2;

/// Waits before the second and third attempt.
const BACKOFF: [Duration; 2] = [Duration::from_millis(150), Duration::from_millis(600)];

/// Whether a cache on the way may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caches {
    /// The first time.
    Allowed,
    /// The second time: what caches hold may be wrong without the log's doing.
    Past,
}

/// Why there is no complete answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// No connection, or it broke off, or took too long.
    #[error("{url} gave no complete answer: {cause}")]
    Transport {
        /// What was asked for.
        url: String,
        /// What happened.
        cause: String,
    },
    /// A status other than 200.
    #[error("{url} answered with status {status}, expected 200")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// A body of a length that cannot be right.
    #[error("{url} answered with {found}, expected {expected}")]
    Length {
        /// What was asked for.
        url: String,
        /// What came.
        found: String,
        /// What should have come.
        expected: String,
    },
    /// Not the text that should be there: whatever answered was not the log,
    /// or its answer was cut.
    #[error("{url} answered with something else than {expected}: {cause}")]
    Form {
        /// What was asked for.
        url: String,
        /// What should have come.
        expected: &'static str,
        /// Why it is not that.
        cause: String,
    },
}

/// A complete answer's body. While a long one lives, others wait.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    _large: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A log's address, and the way to it.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    large: Arc<Semaphore>,
    /// Makes queries past caches differ from each other.
    asked: AtomicU64,
    seed: u64,
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("{0:?} is not a log's URL: expected http:// or https://, a host and perhaps a path")]
    Url(String),
    /// TLS or proxy settings are unusable.
    #[error("no HTTP client could be made: {0}")]
    Http(#[from] reqwest::Error),
}

/// Parses a log's address.
///
/// # Errors
/// Not http or https, no host, or with a query or fragment.
pub fn log_url(text: &str) -> Result<Url, ClientError> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let mut url = url.ok_or_else(|| ClientError::Url(text.into()))?;
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

impl Client {
    /// A client for the log at `base`; a request takes at most `timeout`.
    ///
    /// # Errors
    /// TLS or proxy settings are unusable.
    pub fn new(base: Url, timeout: Duration, seed: u64) -> Result<Self, ClientError> {
        let mut headers = HeaderMap::new();
        if is_here(&base) {
            // On one machine compressing costs more than the bytes that it spares.
            // What comes compressed all the same is read.
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("tallystick-sentinel/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .connect_timeout(timeout.min(Duration::from_secs(10)))
            .redirect(reqwest::redirect::Policy::limited(4))
            .build()?;
        let large = Arc::new(Semaphore::new(LARGE_AT_ONCE));
        Ok(Self {
            http,
            base,
            large,
            asked: AtomicU64::new(0),
            seed,
        })
    }

    /// The log's address.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Asks for `path`, which begins without a slash and may have a query.
    /// What fails is tried again, three times in all.
    ///
    /// # Errors
    /// No complete answer of at most `limit` bytes.
    pub async fn get(&self, path: &str, limit: usize, caches: Caches) -> Result<Body, NoAnswer> {
        let mut backoff = BACKOFF.iter();
        loop {
            match self.attempt(path, limit, caches).await {
                Ok(body) => return Ok(body),
                Err(error) => {
                    // A body that is too long will not be shorter next time.
                    let again = !matches!(error, NoAnswer::Length { .. });
                    let Some(wait) = backoff.next().filter(|_| again) else {
                        return Err(error);
                    };
                    tracing::debug!(%error, "trying again");
                    tokio::time::sleep(*wait).await;
                }
            }
        }
    }

    /// Asks for `path`, whose body must have exactly `len` bytes.
    ///
    /// # Errors
    /// No complete answer of that length.
    pub async fn get_exactly(
        &self,
        path: &str,
        len: usize,
        caches: Caches,
    ) -> Result<Body, NoAnswer> {
        let body = self.get(path, len, caches).await?;
        if body.bytes.len() == len {
            return Ok(body);
        }
        let found = format!("{} bytes", body.bytes.len());
        Err(NoAnswer::Length {
            url: self.url(path),
            found,
            expected: format!("{len} bytes"),
        })
    }

    /// The whole address of `path`, for messages.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn attempt(&self, path: &str, limit: usize, caches: Caches) -> Result<Body, NoAnswer> {
        let url = || self.url(path);
        let transport = |error: reqwest::Error| NoAnswer::Transport {
            url: url(),
            cause: cause(&error),
        };
        let mut asked = url();
        if caches == Caches::Past {
            let mark = if path.contains('?') { '&' } else { '?' };
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            asked.push_str(&format!("{mark}past_caches={:x}-{number}", self.seed));
        }
        let mut request = self.http.get(asked);
        if caches == Caches::Past {
            let no_cache = HeaderValue::from_static("no-cache");
            request = request
                .header(CACHE_CONTROL, no_cache.clone())
                .header(PRAGMA, no_cache);
        }
        let mut response = request.send().await.map_err(transport)?;
        if response.status() != StatusCode::OK {
            return Err(NoAnswer::Status {
                url: url(),
                status: response.status().as_u16(),
            });
        }
        // A promised length only spares growing: it is neither trusted nor needed.
        let promised = response
            .content_length()
            .and_then(|len| usize::try_from(len).ok());
        let mut bytes = Vec::with_capacity(promised.unwrap_or(0).min(limit).min(FREE));
        let mut large = None;
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            let len = bytes.len() + chunk.len();
            if len > limit {
                return Err(NoAnswer::Length {
                    url: url(),
                    found: format!("more than {limit} bytes"),
                    expected: format!("at most {limit}"),
                });
            }
            if len > FREE && large.is_none() {
                let permit = Arc::clone(&self.large).acquire_owned().await;
                large = Some(permit.expect("the semaphore is never closed"));
                bytes.reserve_exact(limit - bytes.len());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Body {
            bytes,
            _large: large,
        })
    }
}

/// Whether a log is on this machine.
fn is_here(base: &Url) -> bool {
    let host = base.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

/// An error with what lies behind it: reqwest's own text stops at the surface.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".into();
    }
    let mut text = String::new();
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = source {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        source = error.source();
    }
    if text.is_empty() {
        error.to_string()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_told_from_others() {
        for (text, here) in [
            ("http://127.0.0.1:8787", true),
            ("http://[::1]:8787/a", true),
            ("https://localhost", true),
            ("https://log.example.org", false),
            ("http://192.0.2.1", false),
            ("http://localhost.example.org", false),
        ] {
            let url = log_url(text).expect("valid");
            assert_eq!(is_here(&url), here, "{text}");
        }
    }

    #[test]
    fn addresses_end_in_a_slash_and_have_no_query() {
        for (text, url) in [
            ("http://127.0.0.1:8787", "http://127.0.0.1:8787/"),
            ("https://log.example.org/a/", "https://log.example.org/a/"),
            ("https://log.example.org/a", "https://log.example.org/a/"),
        ] {
            assert_eq!(log_url(text).map(String::from).ok().as_deref(), Some(url));
        }
        for bad in [
            "",
            "log.example.org",
            "ftp://a.b/",
            "http://a.b/?x",
            "http://a.b/#x",
            "a:b",
        ] {
            assert!(log_url(bad).is_err(), "{bad}");
        }
    }
}
