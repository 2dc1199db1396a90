//! The proxy: forwards a call untouched and meters a copy of its answer.
//!
//! Out of scope: reading usage (see [`crate::usage`]), sequencing (see [`crate::log`]).

mod carried;
mod credential;
mod edit;
mod hide;
mod route;
mod skim;
mod tee;
mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap,
    HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
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
use carried::{Carried, Read};
use hide::Hide;
use route::{Route, RouteError};
use tee::Metering;
pub use tee::Tee;
use upstream::Client;

/// How long a provider may take until its answer begins: longer than the
/// official SDKs wait (10 minutes).
const ANSWER_WITHIN: Duration = Duration::from_secs(15 * 60);

/// Requests up to this many bytes are edited; longer ones pass as they are.
const MAX_EDITED: usize = 16 << 20;

/// A refusal up to this many bytes is read to see whether it is of the edit.
const MAX_REFUSAL: usize = 64 << 10;

const RECEIPT_ID: HeaderName = HeaderName::from_static("x-tally-receipt-id");
const KEY_ID: HeaderName = HeaderName::from_static("x-tally-key-id");
const EDITED: HeaderName = HeaderName::from_static("x-tally-edited");

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
        let (mut head, body) = request.into_parts();
        head.uri = upstream
            .base
            .join(route.rest)
            .map_err(|_| ApiError::bad_path())?;
        head.version = Version::HTTP_11;
        strip_hop_by_hop(&mut head.headers);
        head.headers.remove(HOST);
        strip_ours(&mut head.headers);
        let editable = upstream.asks_for_usage && kind == Kind::Generate && chats(route.rest);
        let (answer, edited) = if editable {
            self.ask_for_usage(upstream, head, body.into()).await?
        } else {
            let request = Request::from_parts(head, body.into());
            (self.send(upstream, request).await?, false)
        };
        Ok(self.meter(answer, upstream, kind, draft, call, edited))
    }

    async fn send(
        &self,
        upstream: &Upstream,
        request: Request<Carried>,
    ) -> Result<Response<Carried>, ApiError> {
        match tokio::time::timeout(ANSWER_WITHIN, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer.map(Carried::from)),
            Ok(Err(error)) => Err(unreachable(upstream, &error)),
            Err(_) => Err(ApiError::upstream_timeout(upstream.name.as_str())),
        }
    }

    /// Sends a chat completion so that its stream states usage, and as the
    /// client wrote it if the provider does not take that. Says whether the
    /// answer is to the edited request.
    async fn ask_for_usage(
        &self,
        upstream: &Upstream,
        head: Parts,
        body: Carried,
    ) -> Result<(Response<Carried>, bool), ApiError> {
        let whole = match body
            .read(MAX_EDITED)
            .await
            .map_err(|_| ApiError::cut_off())?
        {
            Read::Whole(whole) => whole,
            Read::Longer(body) => {
                let request = Request::from_parts(head, body);
                return Ok((self.send(upstream, request).await?, false));
            }
        };
        let Some(edited) = edit::asking_for_usage(&whole) else {
            let request = Request::from_parts(head, whole.into());
            return Ok((self.send(upstream, request).await?, false));
        };
        let mut asking = head.clone();
        asking.headers.insert(CONTENT_LENGTH, edited.len().into());
        // What is compressed can't be hidden from.
        let identity = HeaderValue::from_static("identity");
        asking.headers.insert(ACCEPT_ENCODING, identity);
        let request = Request::from_parts(asking, Bytes::from(edited).into());
        let answer = self.send(upstream, request).await?;
        if !matches!(answer.status().as_u16(), 400 | 422) {
            return Ok((answer, true));
        }
        let (refusal, body) = answer.into_parts();
        match body.read(MAX_REFUSAL).await {
            Ok(Read::Whole(text)) if edit::is_blamed(&text) => {
                let request = Request::from_parts(head, whole.into());
                Ok((self.send(upstream, request).await?, false))
            }
            Ok(Read::Whole(text)) => Ok((Response::from_parts(refusal, text.into()), true)),
            Ok(Read::Longer(body)) => Ok((Response::from_parts(refusal, body), true)),
            Err(_) => Err(ApiError::broke_off(upstream.name.as_str())),
        }
    }

    /// What a record of this call will say, as far as the request tells.
    fn draft(&self, route: &Route<'_>, headers: &HeaderMap) -> Unfinished {
        let upstream = route.upstream;
        let provider = upstream.name.clone();
        let query = route.rest.split_once('?').map(|(_, query)| query);
        let credential = credential::of(upstream.dialect, headers, query);
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
        answer: Response<Carried>,
        upstream: &Upstream,
        kind: Kind,
        draft: Unfinished,
        call: Option<Call>,
        edited: bool,
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
        let hides =
            edited && head.status.is_success() && !head.headers.contains_key(CONTENT_ENCODING);
        if hides {
            head.headers.remove(CONTENT_LENGTH);
        }
        let ours = [
            (RECEIPT_ID, Some(header(draft.id))),
            (KEY_ID, draft.key_id.map(header::<Hash>)),
            (
                EDITED,
                edited.then(|| HeaderValue::from_static("include_usage")),
            ),
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
        let hide = hides.then(Hide::default);
        Response::from_parts(head, Reply::Proxied(Tee::metering(body, metering, hide)))
    }
}

/// Whether a path is that of chat completions.
fn chats(rest: &str) -> bool {
    let path = rest.split('?').next().unwrap_or_default();
    path.ends_with("/chat/completions") || path == "chat/completions"
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // What Connection names concerns this connection only, too.
    let lines = headers.get_all(CONNECTION).iter();
    let named: Vec<String> = lines
        .flat_map(|line| line.to_str().unwrap_or_default().split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
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
