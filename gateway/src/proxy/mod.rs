//! The proxy: forwards a call untouched and meters a copy of its answer.
//!
//! Out of scope: reading usage (see [`crate::usage`]), sequencing (see [`crate::log`]).

mod credential;
mod route;
mod tee;
mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use protocol::hash::{Hash, key_id};
use protocol::key::Origin;
use protocol::record::Source;
use uuid::Uuid;

use crate::config::{RESERVED, Upstream};
use crate::log::Unfinished;
use crate::log::calls::{Call, Calls, Refused};
use crate::log::pool::Pool;
use crate::log::sequencer::Clock;
use crate::reply::{ApiError, Reply};
use crate::usage::{AnswerHead, Kind, Meter, classify};
use route::{Route, RouteError};
use tee::Metering;
pub use tee::Tee;
use upstream::Client;

/// How long a provider may take until its answer begins: longer than the
/// official SDKs wait (10 minutes).
const ANSWER_WITHIN: Duration = Duration::from_secs(15 * 60);

const RECEIPT_ID: HeaderName = HeaderName::from_static("x-tally-receipt-id");
const KEY_ID: HeaderName = HeaderName::from_static("x-tally-key-id");

/// Headers that concern one connection only (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Forwards calls to the configured providers.
#[derive(Debug)]
pub struct Proxy {
    origin: Origin,
    upstreams: BTreeMap<String, Upstream>,
    client: Client,
    calls: Calls,
    pool: Arc<Pool>,
    clock: Clock,
}

impl Proxy {
    /// A proxy whose records go to `pool`.
    ///
    /// # Errors
    /// The system's certificate authorities can't be read.
    pub fn new(
        origin: Origin,
        upstreams: BTreeMap<String, Upstream>,
        calls: Calls,
        pool: Arc<Pool>,
        clock: Clock,
    ) -> std::io::Result<Self> {
        let client = upstream::client()?;
        Ok(Self {
            origin,
            upstreams,
            client,
            calls,
            pool,
            clock,
        })
    }

    /// Whether a request's path names a provider, or looks as if it meant to.
    pub fn serves(&self, path: &str) -> bool {
        let mut segments = path.trim_start_matches('/').splitn(2, '/');
        let name = segments.next().unwrap_or_default();
        let deeper = segments.next().is_some();
        self.upstreams.contains_key(name) || deeper && !RESERVED.contains(&name)
    }

    /// Forwards a call and answers what the provider answers.
    pub async fn forward(&self, request: Request<Incoming>) -> Response<Reply> {
        match self.try_forward(request).await {
            Ok(response) => response,
            Err(error) => error.into_reply(),
        }
    }

    async fn try_forward(&self, request: Request<Incoming>) -> Result<Response<Reply>, ApiError> {
        let asked = request.uri().clone();
        let route = Route::parse(&self.upstreams, &asked).map_err(refused_route)?;
        let upstream = route.upstream;
        let kind = classify(upstream.dialect, request.method().as_str(), route.rest);
        let draft = self.draft(&route, request.headers());
        let call = match kind {
            Kind::None | Kind::Frames => None,
            _ => Some(
                self.calls
                    .begin(&draft, kind == Kind::Generate)
                    .map_err(refused_call)?,
            ),
        };
        let uri = upstream
            .base
            .join(route.rest)
            .map_err(|_| ApiError::bad_path())?;

        let (mut head, body) = request.into_parts();
        head.uri = uri;
        head.version = Version::HTTP_11;
        strip_hop_by_hop(&mut head.headers);
        head.headers.remove(HOST);
        strip_ours(&mut head.headers);
        let sent = self.client.request(Request::from_parts(head, body));
        let answer = match tokio::time::timeout(ANSWER_WITHIN, sent).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(unreachable(upstream, &error)),
            Err(_) => return Err(ApiError::upstream_timeout(upstream.name.as_str())),
        };
        Ok(self.meter(answer, upstream, kind, draft, call))
    }

    /// What a record of this call will say, as far as the request tells.
    fn draft(&self, route: &Route<'_>, headers: &HeaderMap) -> Unfinished {
        let upstream = route.upstream;
        let provider = upstream.name.clone();
        let credential = credential::of(provider.as_str(), headers);
        Unfinished {
            id: Uuid::now_v7(),
            key_id: credential
                .filter(|_| upstream.checks_credentials)
                .map(|c| key_id(&self.origin, provider.as_str(), c)),
            wallet: route.wallet,
            source: Source::Proxy,
            provider,
            time: (self.clock)(),
        }
    }

    fn meter(
        &self,
        answer: Response<Incoming>,
        upstream: &Upstream,
        kind: Kind,
        draft: Unfinished,
        call: Option<Call>,
    ) -> Response<Reply> {
        let (mut head, body) = answer.into_parts();
        strip_hop_by_hop(&mut head.headers);
        strip_ours(&mut head.headers);
        head.version = Version::HTTP_11;
        let status = head.status.as_u16();
        let Some(call) = call else {
            tee::announce(upstream.name.as_str(), status);
            return Response::from_parts(head, Reply::Proxied(Tee::passing(body)));
        };
        let text = |name: HeaderName| head.headers.get(name).and_then(|v| v.to_str().ok());
        let meter = Meter::new(&AnswerHead {
            dialect: upstream.dialect,
            kind,
            status,
            content_type: text(CONTENT_TYPE),
            content_encoding: text(CONTENT_ENCODING),
            cached_prompt_tokens: text(HeaderName::from_static("fireworks-cached-prompt-tokens")),
        });
        let ours = [
            (RECEIPT_ID, Some(header(draft.id))),
            (KEY_ID, draft.key_id.map(header::<Hash>)),
        ];
        for (name, value) in ours {
            if let Some(value) = value {
                head.headers.insert(name, value);
            }
        }
        let retrieval = matches!(kind, Kind::Retrieve | Kind::Batch).then_some(draft.id);
        let dialect = upstream.dialect;
        let pool = Arc::clone(&self.pool);
        let metering = Metering {
            meter: Some(meter),
            dialect,
            call: Some(call),
            draft,
            retrieval,
            status,
            pool,
        };
        Response::from_parts(head, Reply::Proxied(Tee::metering(body, metering)))
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // What Connection names concerns this connection only, too.
    while let Some(value) = headers.remove(CONNECTION) {
        for name in value.to_str().unwrap_or_default().split(',') {
            headers.remove(name.trim());
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove("proxy-connection");
}

/// `x-tally-*` is between the client and the gateway.
fn strip_ours(headers: &mut HeaderMap) {
    let ours = |name: &&HeaderName| name.as_str().starts_with("x-tally-");
    let names: Vec<HeaderName> = headers.keys().filter(ours).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn header<T: ToString>(value: T) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(value.to_string()))
        .expect("ids are hex digits and hyphens")
}

fn refused_route(error: RouteError) -> ApiError {
    match error {
        RouteError::Provider { name, known } => ApiError::unknown_provider(&name, &known),
        RouteError::Wallet(text) => ApiError::bad_wallet(&text),
    }
}

fn refused_call(error: Refused) -> ApiError {
    match error {
        Refused::Full => ApiError::overloaded(),
        Refused::Journal(error) => ApiError::internal("journal_unavailable", &error),
    }
}

fn unreachable(upstream: &Upstream, error: &hyper_util::client::legacy::Error) -> ApiError {
    let mut causes = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        causes = format!("{causes}: {inner}");
        cause = inner.source();
    }
    tracing::warn!(
        provider = upstream.name.as_str(),
        "the provider can't be reached{causes}"
    );
    let what = if error.is_connect() {
        "can't be reached"
    } else {
        "broke off before it answered"
    };
    ApiError::new(
        StatusCode::BAD_GATEWAY,
        "upstream_unreachable",
        format!("the provider {} ({}) {what}", upstream.name, upstream.base),
    )
}
