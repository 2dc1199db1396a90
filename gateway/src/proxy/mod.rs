//! The proxy: forwards a call untouched and meters a copy of its answer.
//!
//! Out of scope: reading usage (see [`crate::usage`]), sequencing (see [`crate::log`]).

mod carried;
mod connections;
mod credential;
mod custom;
mod edit;
mod frames;
mod hide;
mod possession;
mod route;
mod session;
mod skim;
mod tee;
mod upstream;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap,
    HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_EXTENSIONS, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use protocol::hash::{Hash, key_id};
use protocol::key::Origin;
use protocol::record::Source;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::config::{Config, RESERVED, Upstream};
use crate::limits::Limits;
use crate::log::Unfinished;
use crate::log::calls::{Call, Calls, Refused, Unanswered};
use crate::log::pool::Pool;
use crate::log::sequencer::Clock;
use crate::reply::{ApiError, Reply};
use crate::usage::{AnswerHead, Kind, Meter, SessionMeter, classify};
use carried::{Carried, CarriedError, Read};
use connections::ClientError;
use custom::Refusal;
use frames::{Extension, Frames, Side};
use hide::Hide;
pub use possession::{Held, Possession};
pub(crate) use route::LinkToken;
use route::{Route, RouteError};
use session::{Ledger, Session};
pub use tee::Tee;
use tee::{Metering, RELEASED_WITHIN, Trailing};
use upstream::Client;

/// Requests up to this many bytes are edited; longer ones pass as they are.
const MAX_EDITED: usize = 16 << 20;

/// Answers up to this many bytes are held until their receipt is released,
/// where that was asked for.
const MAX_INLINE: usize = 1 << 20;

/// A refusal up to this many bytes is read to see whether it is of the edit.
const MAX_REFUSAL: usize = 64 << 10;

const RECEIPT_ID: HeaderName = HeaderName::from_static("x-tally-receipt-id");
const RECEIPT: HeaderName = HeaderName::from_static("x-tally-receipt");
const KEY_ID: HeaderName = HeaderName::from_static("x-tally-key-id");
const UPSTREAM: HeaderName = HeaderName::from_static("x-tally-upstream");
const LINK: HeaderName = HeaderName::from_static("x-tally-link");
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
    custom_client: custom::Client,
    custom_ports: BTreeSet<u16>,
    calls: Calls,
    pool: Arc<Pool>,
    clock: Clock,
    limits: Limits,
    answer_within: Duration,
    idle_within: Duration,
    max_request_body: u64,
}

impl Proxy {
    /// A proxy whose records go to `pool`.
    ///
    /// # Errors
    /// The system's certificate authorities can't be read.
    pub fn new(
        origin: Origin,
        config: &Config,
        calls: Calls,
        pool: Arc<Pool>,
        clock: Clock,
    ) -> std::io::Result<Self> {
        let client = upstream::client(config.connect_within)?;
        Ok(Self {
            origin,
            upstreams: config.upstreams.clone(),
            limits: Limits::new(config.calls_per_key, config.calls_per_address),
            answer_within: config.answer_within,
            idle_within: config.idle_within,
            max_request_body: config.max_request_body,
            client,
            custom_client: custom::client(config.connect_within)?,
            custom_ports: config.custom_ports.clone(),
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
        let ours = RESERVED.contains(&name) && name != route::CUSTOM;
        self.upstreams.contains_key(name) || deeper && !ours
    }

    /// Forwards a call and answers what the provider answers. A session goes
    /// on in a task of its own until `stopping` says that the gateway ends.
    pub async fn forward(
        &self,
        request: Request<Incoming>,
        from: IpAddr,
        stopping: &watch::Receiver<bool>,
    ) -> Response<Reply> {
        match self.try_forward(request, from, stopping).await {
            Ok(response) => response,
            Err(error) => error.into_reply(),
        }
    }

    async fn try_forward(
        &self,
        mut request: Request<Incoming>,
        from: IpAddr,
        stopping: &watch::Receiver<bool>,
    ) -> Result<Response<Reply>, ApiError> {
        let upgrade = session::is_asked(&request).then(|| hyper::upgrade::on(&mut request));
        let asked = request.uri().clone();
        let custom = self.custom(asked.path(), request.headers())?;
        let route = Route::parse(&self.upstreams, custom.as_ref(), &asked);
        let route = route.map_err(refused_route)?;
        let upstream = route.upstream;
        if climbs(route.rest) {
            return Err(ApiError::bad_path());
        }
        let kind = classify(upstream.dialect, request.method().as_str(), route.rest);
        let is_session = kind == Kind::Session;
        let kind = if upgrade.is_some() == is_session {
            kind
        } else {
            Kind::None
        };
        let (mut head, body) = request.into_parts();
        let body = Carried::limited(body, self.max_request_body);
        let body = body.map_err(|error| self.uncarried(&error))?;
        let link = head.headers.remove(LINK);
        let inline = head
            .headers
            .get(RECEIPT)
            .is_some_and(|value| value == "inline");
        strip_hop_by_hop(&mut head.headers);
        strip_ours(&mut head.headers);
        head.headers.remove(HOST);
        // From what is forwarded: what the provider does not see identifies nobody.
        let draft = self.draft(&route, &head.headers, link.as_ref())?;
        let admitted = self.limits.admit(draft.key_id, from);
        admitted.map_err(ApiError::too_often)?;
        let call = match kind {
            Kind::None => None,
            _ => Some(self.calls.begin(&draft, kind == Kind::Generate)),
        };
        let call = call.transpose().map_err(refused_call)?;
        head.uri = upstream
            .base
            .join(route.rest)
            .map_err(|_| ApiError::bad_path())?;
        head.version = Version::HTTP_11;
        if let Some(client) = upgrade {
            let retrieval = joins(route.rest).then_some(draft.id);
            let request = Request::from_parts(head, body);
            let asked = Asked {
                client,
                draft,
                call,
                retrieval,
                stopping: stopping.clone(),
            };
            return self.open(upstream, request, asked).await;
        }
        let editable = upstream.asks_for_usage && kind == Kind::Generate && chats(route.rest);
        let (answer, edited) = if editable {
            self.ask_for_usage(upstream, head, body).await?
        } else {
            let request = Request::from_parts(head, body);
            (self.send(upstream, request).await?, false)
        };
        let answered = Answered {
            answer,
            upstream,
            kind,
            edited,
            inline,
        };
        let call = call.map(Unanswered::answered);
        self.meter(answered, draft, call).await
    }

    /// The upstream that the client names, if the path says that it does.
    fn custom(&self, path: &str, headers: &HeaderMap) -> Result<Option<Upstream>, ApiError> {
        if !path.starts_with("/custom/") {
            return Ok(None);
        }
        if self.custom_ports.is_empty() {
            return Err(ApiError::custom_disabled());
        }
        let named = headers.get(UPSTREAM).and_then(|value| value.to_str().ok());
        let upstream = custom::upstream(named.unwrap_or_default(), &self.custom_ports);
        upstream.map(Some).map_err(ApiError::bad_upstream)
    }

    async fn send(
        &self,
        upstream: &Upstream,
        request: Request<Carried>,
    ) -> Result<Response<Carried>, ApiError> {
        let answer = async {
            match upstream.source {
                Source::Proxy => self.client.request(request).await,
                Source::Custom => self.custom_client.request(request).await,
            }
        };
        match tokio::time::timeout(self.answer_within, answer).await {
            Ok(Ok(answer)) => Ok(answer.map(Carried::from)),
            Ok(Err(error)) => Err(match cause(&error) {
                Some(error) => self.uncarried(error),
                None => unreachable(upstream, &error),
            }),
            Err(_) => Err(ApiError::upstream_timeout(upstream.name.as_str())),
        }
    }

    /// What a client is told whose request could not be carried.
    fn uncarried(&self, error: &CarriedError) -> ApiError {
        match error {
            CarriedError::TooLong => ApiError::too_long(self.max_request_body),
            CarriedError::BrokeOff(_) => ApiError::cut_off(),
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
        let read = tokio::time::timeout(self.idle_within, body.read(MAX_EDITED)).await;
        let read = read.map_err(|_| ApiError::cut_off())?;
        let whole = match read.map_err(|error| self.uncarried(&error))? {
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
    fn draft(
        &self,
        route: &Route<'_>,
        headers: &HeaderMap,
        link: Option<&HeaderValue>,
    ) -> Result<Unfinished, ApiError> {
        let upstream = route.upstream;
        let provider = upstream.name.clone();
        let link = link.map(|value| LinkToken::parse(value.as_bytes()));
        let link = link
            .map(|token| token.ok_or_else(ApiError::bad_link))
            .transpose()?;
        let key_id = match route.token.as_ref().or(link.as_ref()) {
            Some(token) => Some(key_id(&self.origin, "link", token.as_bytes())),
            None => {
                let query = route.rest.split_once('?').map(|(_, query)| query);
                let credential = credential::of(upstream.dialect, headers, query);
                let credential = credential.filter(|_| upstream.checks_credentials);
                credential.map(|c| key_id(&self.origin, provider.as_str(), c))
            }
        };
        Ok(Unfinished {
            id: Uuid::now_v7(),
            key_id,
            wallet: route.wallet,
            source: upstream.source,
            provider,
            time: (self.clock)(),
        })
    }

    /// Opens a session, if the provider agrees.
    async fn open(
        &self,
        upstream: &Upstream,
        mut request: Request<Carried>,
        asked: Asked,
    ) -> Result<Response<Reply>, ApiError> {
        session::switches(request.headers_mut());
        let mut answer = self.send(upstream, request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let answered = Answered {
                answer,
                upstream,
                kind: Kind::None,
                edited: false,
                inline: false,
            };
            return self.meter(answered, asked.draft, None).await;
        }
        let provider = hyper::upgrade::on(&mut answer);
        let (mut head, _) = answer.into_parts();
        strip_hop_by_hop(&mut head.headers);
        strip_ours(&mut head.headers);
        session::switches(&mut head.headers);
        let agreed = head.headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
        let agreed = agreed.map(|value| value.to_str().unwrap_or("?"));
        let extension = Extension::agreed(agreed);
        let Asked {
            client,
            draft,
            call,
            retrieval,
            stopping,
        } = asked;
        if call.is_some() {
            head.headers.insert(RECEIPT_ID, header(draft.id));
        }
        if let Some(key_id) = draft.key_id {
            head.headers.insert(KEY_ID, header(key_id));
        }
        let ledger = Ledger {
            meter: SessionMeter::new(upstream.dialect),
            dialect: upstream.dialect,
            draft,
            retrieval,
            first: call.map(Unanswered::answered),
            running: HashMap::new(),
            calls: self.calls.clone(),
            pool: Arc::clone(&self.pool),
            clock: self.clock,
            recorded: false,
        };
        let session = Session {
            client,
            provider,
            idle: self.idle_within,
            said: (
                Frames::new(Side::Client, extension),
                Frames::new(Side::Server, extension),
            ),
            ledger,
            stopping,
        };
        tokio::spawn(session.run());
        Ok(Response::from_parts(head, Reply::Own(Default::default())))
    }

    async fn meter(
        &self,
        answered: Answered<'_>,
        draft: Unfinished,
        call: Option<Call>,
    ) -> Result<Response<Reply>, ApiError> {
        let Answered {
            answer,
            upstream,
            kind,
            edited,
            inline,
        } = answered;
        let (mut head, body) = answer.into_parts();
        strip_hop_by_hop(&mut head.headers);
        strip_ours(&mut head.headers);
        head.version = Version::HTTP_11;
        let status = head.status.as_u16();
        let Some(call) = call else {
            tee::announce(upstream.name.as_str(), status, &draft.id);
            let tee = Tee::new(body, self.idle_within, None, None);
            return Ok(Response::from_parts(head, Reply::Proxied(tee)));
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
        let content_type = text(CONTENT_TYPE).unwrap_or_default();
        let streams = content_type.starts_with("text/event-stream");
        if hides || inline && streams {
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
        let (released, receipt) = inline.then(oneshot::channel).unzip();
        let metering = Metering {
            meter: Some(meter),
            dialect,
            call: Some(call),
            draft,
            retrieval,
            status,
            released,
            pool,
        };
        let hide = hides.then(Hide::default);
        let idle = self.idle_within;
        let Some(receipt) = receipt else {
            let tee = Tee::new(body, idle, Some(metering), hide);
            return Ok(Response::from_parts(head, Reply::Proxied(tee)));
        };
        if streams {
            let tee = Tee::new(body, idle, Some(metering), hide);
            let tee = tee.with_receipt(Trailing::new(receipt));
            return Ok(Response::from_parts(head, Reply::Proxied(tee)));
        }
        // Whatever happens while it is held, the tee's end gives the record.
        let mut tee = Tee::new(body, idle, Some(metering), None);
        if tee.hold(MAX_INLINE).await.is_err() {
            return Err(ApiError::broke_off(upstream.name.as_str()));
        }
        if tee.is_held()
            && let Ok(Ok(note)) = tokio::time::timeout(RELEASED_WITHIN, receipt).await
        {
            head.headers.insert(RECEIPT, header(STANDARD.encode(note)));
        }
        Ok(Response::from_parts(head, Reply::Proxied(tee)))
    }
}

/// A provider's answer and what it answers to.
struct Answered<'a> {
    answer: Response<Carried>,
    upstream: &'a Upstream,
    kind: Kind,
    /// The request was edited.
    edited: bool,
    /// The client wants its receipt within the answer.
    inline: bool,
}

/// A session that a client asks for.
struct Asked {
    client: OnUpgrade,
    draft: Unfinished,
    call: Option<Unanswered>,
    retrieval: Option<Uuid>,
    stopping: watch::Receiver<bool>,
}

/// Whether a path has a segment `.` or `..`, however it is spelt: the server
/// may read another path then than the one that says what the call is.
fn climbs(rest: &str) -> bool {
    let path = rest.split('?').next().unwrap_or_default();
    // Most paths have none of the bytes that it takes.
    if !path.contains(['.', '%', '\\']) {
        return false;
    }
    let path = path
        .to_ascii_lowercase()
        .replace("%2e", ".")
        .replace("%2f", "/");
    let path = path.replace("%5c", "/").replace('\\', "/");
    path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// Whether a path is that of chat completions.
fn chats(rest: &str) -> bool {
    let path = rest.split('?').next().unwrap_or_default();
    path.ends_with("/chat/completions") || path == "chat/completions"
}

/// Whether a session joins one that runs already, whose events others see, too.
fn joins(rest: &str) -> bool {
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| pair.starts_with("call_id="))
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
    // Chunks say how long a body is; a length beside them is to be ignored.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
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
        RouteError::Token => ApiError::bad_link(),
    }
}

impl ApiError {
    fn custom_disabled() -> Self {
        let message =
            "clients can't name hosts of their own here; the operator allows it with --custom-port";
        Self::new(StatusCode::FORBIDDEN, "custom_disabled", message)
    }

    fn bad_upstream(refusal: Refusal) -> Self {
        let message = match refusal {
            Refusal::Url => {
                "x-tally-upstream is a URL like https://api.example.com, without user and query"
            }
            Refusal::Host => "the host is no name under a public suffix",
            Refusal::Port => "the port is not one that the operator allows",
        };
        Self::new(StatusCode::BAD_REQUEST, "bad_upstream", message)
    }
}

fn refused_call(error: Refused) -> ApiError {
    match error {
        Refused::Full => ApiError::overloaded(),
        Refused::Journal(error) => ApiError::internal("journal_unavailable", &error),
    }
}

/// What was wrong with the request's body, if that is why it could not be sent.
fn cause(error: &ClientError) -> Option<&CarriedError> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref() {
            return Some(found);
        }
        cause = inner.source();
    }
    None
}

fn unreachable(upstream: &Upstream, error: &ClientError) -> ApiError {
    let mut causes = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        causes = format!("{causes}: {inner}");
        cause = inner.source();
    }
    tracing::warn!(
        provider = upstream.name.as_str(),
        base = %upstream.base,
        "the provider can't be reached{causes}"
    );
    let what = match error {
        ClientError::Connect(_) => "can't be reached",
        ClientError::Call(_) => "broke off before it answered",
    };
    ApiError::new(
        StatusCode::BAD_GATEWAY,
        "upstream_unreachable",
        format!("the provider {} {what}", upstream.name),
    )
}
