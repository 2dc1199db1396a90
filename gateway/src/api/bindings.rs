//! Bindings: which wallet a key's calls count for (PROTOCOL.md section 4.3).

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use protocol::binding::{self, Action, Binding, BindingError, Consent, Holding};
use protocol::consent::{MAX_CONTRACT_SIGNATURE, MAX_TIME, Message, Role, Signature, Terms};
use protocol::entry::Body;
use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::name::{Address, AddressError};
use protocol::receipt::Receipt;
use protocol::totals::Totals;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::records::{Record, parse_key_id};
use super::{Api, Caller, query, store_failed};
use crate::chain::Refused;
use crate::limits::Limiter;
use crate::log::pool::Submission;
use crate::reply::{ApiError, ErrorBody};
use crate::store::StoreError;

/// How long a message from a template holds, in seconds.
const LIFETIME: u64 = 3_600;

/// How long a binding may take to be durable.
const PATIENCE: Duration = Duration::from_secs(10);

/// What shows that a sender holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A link token, which is the sender's own.
    Token,
    /// A credential: only the provider can tell whether it is one.
    Credential,
}

type Tells = dyn Fn(&HeaderMap, &Hash) -> Option<Shown> + Send + Sync;

/// Tells from a request's headers whether their sender holds a key.
#[derive(Clone)]
pub struct Holds(Arc<Tells>);

impl Holds {
    /// As `shown` tells.
    pub fn new(shown: impl Fn(&HeaderMap, &Hash) -> Option<Shown> + Send + Sync + 'static) -> Self {
        Self(Arc::new(shown))
    }
}

impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Holds")
    }
}

/// How often an address may ask for an entry: nothing else that costs it
/// nothing lengthens the log.
#[derive(Debug)]
pub struct Paces {
    bindings: Limiter<IpAddr>,
    totals: Limiter<IpAddr>,
}

impl Paces {
    /// So many a minute of either kind.
    pub fn new(per_minute: NonZeroU32) -> Self {
        Self {
            bindings: Limiter::new(per_minute),
            totals: Limiter::new(per_minute),
        }
    }
}

/// What shall be signed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// The key, 64 hex digits.
    key_id: String,
    /// The wallet that signs.
    wallet: String,
    /// link, move or release; link if not given.
    action: Option<String>,
    /// The wallet that takes the key, for a move.
    to: Option<String>,
    /// The EIP-155 chain id that the message names; 1 if not given.
    chain_id: Option<u64>,
}

/// A binding without its signatures, and the texts to sign.
#[derive(Serialize, ToSchema)]
pub(super) struct Template {
    /// link, move or release.
    action: String,
    /// The key.
    key_id: String,
    /// The leaf hash of the key's newest binding entry, or of entry 0.
    previous: String,
    /// The wallet that signs.
    wallet: String,
    /// The wallet that takes the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// The EIP-155 chain id.
    chain_id: u64,
    /// Seconds since 1970.
    issued_at: u64,
    /// Seconds since 1970.
    expires_at: u64,
    /// What `wallet` signs (EIP-4361, as EIP-191).
    message: String,
    /// What `to` signs.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_message: Option<String>,
}

/// A binding as it is sent: the fields of its entry.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// link, move, release or burn.
    action: String,
    /// The key.
    key_id: String,
    /// As the template says; a burn may leave it out.
    previous: Option<String>,
    /// The wallet that signs.
    wallet: Option<String>,
    /// The wallet that takes the key.
    to: Option<String>,
    /// The EIP-155 chain id.
    chain_id: Option<u64>,
    /// Seconds since 1970.
    issued_at: Option<u64>,
    /// Seconds since 1970.
    expires_at: Option<u64>,
    /// eip191, which it is if not given, or eip1271: `wallet` is a contract on
    /// the chain `chain_id`, which the gateway then asks.
    scheme: Option<String>,
    /// 0x and 130 hex digits: r, s, v. Of eip1271 up to 2,048 bytes, as the
    /// contract takes them.
    signature: Option<String>,
    /// The same of the wallet that takes the key.
    to_scheme: Option<String>,
    /// The same of the wallet that takes the key.
    to_signature: Option<String>,
    /// The template's texts may be sent back; nobody reads them.
    #[serde(rename = "message")]
    _message: Option<String>,
    #[serde(rename = "to_message")]
    _to_message: Option<String>,
}

/// What became of a key.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyState {
    /// The log's size.
    size: u64,
    /// The key.
    key_id: String,
    /// free, bound or burnt.
    state: &'static str,
    /// The wallet that its calls count for.
    wallet: Option<String>,
    /// The binding entry since which they do.
    since: Option<u64>,
    /// The leaf hash of its newest binding entry, or of entry 0.
    previous: String,
}

/// Whom a key is bound to.
#[utoipa::path(get, path = "/api/bindings/{key_id}",
    params(("key_id" = String, Path, description = "64 hex digits")),
    responses((status = 200, body = KeyState), (status = 400, body = ErrorBody)))]
pub(super) async fn state(
    State(api): State<Arc<Api>>,
    Path(key_id): Path<String>,
) -> Result<Json<KeyState>, ApiError> {
    let key = parse_key_id(&key_id)?;
    let ledger = api.sums.read();
    let known = ledger.key(&key).ok_or_else(no_bindings)?;
    let (state, wallet, since) = match known.holding {
        Holding::Free => ("free", None, None),
        Holding::Bound { wallet, since } => ("bound", Some(wallet), Some(since)),
        Holding::Burnt => ("burnt", None, None),
    };
    Ok(Json(KeyState {
        size: ledger.size().get(),
        key_id,
        state,
        wallet: wallet.map(|wallet| wallet.to_string()),
        since: since.map(|since| since.get()),
        previous: known.newest.to_string(),
    }))
}

/// The text that a wallet signs to bind a key, or to let go of it.
#[utoipa::path(get, path = "/api/bindings/template", params(Wanted), responses(
    (status = 200, body = Template), (status = 400, body = ErrorBody),
    (status = 409, body = ErrorBody, description = "The key's state does not allow it")))]
pub(super) async fn template(
    State(api): State<Arc<Api>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Template>, ApiError> {
    let wanted = query(wanted)?;
    let key_id = parse_key_id(&wanted.key_id)?;
    let wallet = parse_wallet(&wanted.wallet)?;
    let to = wanted.to.as_deref().map(parse_wallet).transpose()?;
    let action = wanted.action.unwrap_or_else(|| "link".into());
    let role = match (action.as_str(), to) {
        ("link", None) => Role::Link,
        ("release", None) => Role::Release,
        ("move", Some(to)) => Role::Give { to },
        _ => {
            return Err(ApiError::bad_request(
                "action is link or release, or move with `to`",
            ));
        }
    };
    let chain_id = wanted.chain_id.unwrap_or(1);
    let now = (api.clock)();
    let terms = parse_terms(chain_id, now.secs(), now.secs() + LIFETIME)?;
    let state = api.known(&key_id)?;
    let message = Message {
        origin: api.verifier.origin(),
        key_id,
        previous: state.newest,
        wallet,
        role,
        terms,
    };
    let take = to.map(|to| Message {
        wallet: to,
        role: Role::Take { from: wallet },
        ..message
    });
    Ok(Json(Template {
        action,
        key_id: key_id.to_string(),
        previous: state.newest.to_string(),
        wallet: wallet.to_string(),
        to: to.map(|to| to.to_string()),
        chain_id,
        issued_at: terms.issued_at.secs(),
        expires_at: terms.expires_at.secs(),
        message: message.to_string(),
        to_message: take.map(|take| take.to_string()),
    }))
}

/// Binds a key to a wallet, moves, releases or burns it. To link and to burn,
/// the key's credential must be sent in the header that its provider's
/// clients use, or its link token in `x-tally-link`.
#[utoipa::path(post, path = "/api/bindings", request_body = Asked, responses(
    (status = 200, body = Record, description = "It is in the log"),
    (status = 202, body = ErrorBody, description = "It is not yet durable"),
    (status = 400, body = ErrorBody), (status = 403, body = ErrorBody),
    (status = 409, body = ErrorBody, description = "The key's state does not allow it"),
    (status = 429, body = ErrorBody, description = "Too many from this address; Retry-After says when"),
    (status = 503, body = ErrorBody, description = "It was not taken, or nothing can be stored")))]
pub(super) async fn bind(
    State(api): State<Arc<Api>>,
    Extension(Caller(from)): Extension<Caller>,
    headers: HeaderMap,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Result<Json<Record>, ApiError> {
    api.paces
        .bindings
        .admit(&from)
        .map_err(ApiError::too_often)?;
    let Json(asked) = asked.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let binding = api.read(asked)?;
    api.admit(&headers, &binding)?;
    api.check(&binding)?;
    let binding = api.ask_wallets(binding).await?;
    match api.submit(Body::Binding(binding.clone())).await? {
        Some(note) => {
            let receipt = Receipt::open(note.as_bytes(), &api.verifier);
            let receipt = receipt.map_err(|_| StoreError::Damaged("a receipt of our own"));
            api.entry(receipt.map_err(store_failed)?.index()).await
        }
        // Another binding came first, or its time is over by now.
        None => Err(match api.check(&binding) {
            Err(error) => error,
            Ok(()) => ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "try_again",
                "the binding was not taken; ask for a new template and sign that",
            ),
        }),
    }
}

/// Has all wallets' totals proven: appends a totals entry over everything that
/// came before, unless there is one already, and answers it.
#[utoipa::path(post, path = "/api/totals", responses(
    (status = 200, body = Record),
    (status = 202, body = ErrorBody, description = "It is not yet durable"),
    (status = 404, body = ErrorBody),
    (status = 429, body = ErrorBody, description = "Too many from this address; Retry-After says when"),
    (status = 503, body = ErrorBody, description = "Nothing can be stored")))]
pub(super) async fn totals(
    State(api): State<Arc<Api>>,
    Extension(Caller(from)): Extension<Caller>,
) -> Result<Json<Record>, ApiError> {
    api.paces.totals.admit(&from).map_err(ApiError::too_often)?;
    let size = api.size();
    if api.leaves_out(size) {
        // What it says is the writer's to fill in.
        let asks = Totals {
            size,
            count: 0,
            root: Hash::EMPTY_ROOT,
        };
        api.submit(Body::Totals(asks)).await?;
    }
    // What is answered with its receipt is released.
    let (mut committed, mut newest) = (api.committed.clone(), None);
    let settled = committed.wait_for(|committed| {
        newest = api.sums.read().newest_totals().map(|(index, _)| index);
        let released = committed.checkpoint.size().get();
        newest.is_none_or(|index| index.get() < released) && !api.leaves_out(size)
    });
    let settled = matches!(tokio::time::timeout(PATIENCE, settled).await, Ok(Ok(_)));
    if !settled {
        return Err(ApiError::pending("it is not yet durable; ask again"));
    }
    let index = newest.ok_or_else(|| {
        let message = "no entry is there to be summed up";
        ApiError::not_found("no_totals", message)
    })?;
    api.entry(index).await
}

impl Api {
    /// Whether the newest totals leave out one of the first `size` entries, in
    /// a log that has totals.
    fn leaves_out(&self, size: TreeSize) -> bool {
        let ledger = self.sums.read();
        let left_out = ledger.left_out().filter(|_| ledger.binds());
        left_out.is_some_and(|(index, _)| index.get() < size.get())
    }

    /// Submits an entry: its receipt, or that it was not taken.
    async fn submit(&self, body: Body) -> Result<Option<String>, ApiError> {
        let (released, receipt) = oneshot::channel();
        self.pool.submit(Submission {
            body,
            receipt_id: Some(Uuid::now_v7()),
            retrieval: None,
            released: Some(released),
            call: None,
        });
        match tokio::time::timeout(PATIENCE, receipt).await {
            Ok(receipt) => Ok(receipt.ok()),
            Err(_) => Err(ApiError::pending("it is not yet durable; ask again")),
        }
    }

    async fn entry(&self, index: Index) -> Result<Json<Record>, ApiError> {
        Ok(Json(self.record(self.stored(index).await?)))
    }

    fn known(&self, key_id: &Hash) -> Result<binding::KeyState, ApiError> {
        let ledger = self.sums.read();
        let known = ledger.key(key_id).filter(|_| ledger.binds());
        known.ok_or_else(no_bindings)
    }

    fn read(&self, asked: Asked) -> Result<Binding, ApiError> {
        let key_id = parse_key_id(&asked.key_id)?;
        let state = self.known(&key_id)?;
        let previous = match &asked.previous {
            Some(text) => Hash::from_hex(text)
                .ok_or_else(|| ApiError::bad_request("previous is 64 lower-case hex digits"))?,
            None if asked.action == "burn" => state.newest,
            None => return Err(missing("previous")),
        };
        Ok(Binding {
            key_id,
            previous,
            action: read_action(&asked)?,
        })
    }

    /// To link and to burn, the sender must show that it holds the key.
    fn admit(&self, headers: &HeaderMap, binding: &Binding) -> Result<(), ApiError> {
        if matches!(binding.action, Action::Move { .. } | Action::Release(_)) {
            return Ok(());
        }
        match (self.holds.0)(headers, &binding.key_id) {
            Some(Shown::Token) => Ok(()),
            Some(Shown::Credential) if self.sums.read().was_used(&binding.key_id) => Ok(()),
            Some(Shown::Credential) => Err(conflict(
                "unused_key",
                "an API key can be bound or burnt once a call with it was recorded here; make \
                 one, or use a link token",
            )),
            None => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "not_held",
                "send the key's credential in the header that its provider's clients use, or its \
                 link token in x-tally-link",
            )),
        }
    }

    /// Whether the binding would be valid now.
    fn check(&self, binding: &Binding) -> Result<(), ApiError> {
        let state = self.known(&binding.key_id)?;
        let now = (self.clock)().max(self.committed.borrow().time);
        let judged = binding.judge(self.verifier.origin(), now);
        judged
            .and_then(|()| state.judge(binding).map(drop))
            .map_err(refused)
    }

    /// Asks the chain of each contract wallet that signed, and names the block
    /// at which it accepts.
    async fn ask_wallets(&self, mut binding: Binding) -> Result<Binding, ApiError> {
        let mut blocks = Vec::new();
        for (message, signature) in binding.messages(self.verifier.origin()) {
            blocks.push(match signature {
                Signature::Eip191(_) => None,
                Signature::Eip1271 { bytes, .. } => {
                    let accepted = self.wallets.verify(&message, bytes).await;
                    Some(accepted.map_err(not_accepted)?)
                }
            });
        }
        // In the order of the messages.
        let signatures = match &mut binding.action {
            Action::Link(consent) | Action::Release(consent) => vec![&mut consent.signature],
            Action::Move { from, taken, .. } => vec![&mut from.signature, taken],
            Action::Burn => vec![],
        };
        for (signature, accepted) in signatures.into_iter().zip(blocks) {
            if let (
                Signature::Eip1271 {
                    block, block_hash, ..
                },
                Some((number, hash)),
            ) = (signature, accepted)
            {
                (*block, *block_hash) = (number, hash);
            }
        }
        Ok(binding)
    }
}

fn not_accepted(error: Refused) -> ApiError {
    let (status, code) = match &error {
        Refused::Unasked(_) => (StatusCode::BAD_REQUEST, "unknown_chain"),
        Refused::Signature { .. } => (StatusCode::BAD_REQUEST, "bad_signature"),
        Refused::Busy | Refused::Away(_) => (StatusCode::SERVICE_UNAVAILABLE, "try_again"),
    };
    ApiError::new(status, code, error.to_string())
}

fn refused(error: BindingError) -> ApiError {
    let (status, code) = match &error {
        BindingError::Signature(_) => (StatusCode::BAD_REQUEST, "bad_signature"),
        BindingError::Early { .. } => (StatusCode::BAD_REQUEST, "not_yet_valid"),
        BindingError::Lifetime { .. } => (StatusCode::BAD_REQUEST, "bad_lifetime"),
        BindingError::Expired { .. } => (StatusCode::BAD_REQUEST, "expired"),
        BindingError::Previous { .. } => (StatusCode::CONFLICT, "replayed"),
        BindingError::Burnt => (StatusCode::CONFLICT, "burnt"),
        BindingError::Held(_) => (StatusCode::CONFLICT, "held"),
        BindingError::NotHolder(_) | BindingError::ToItself(_) => {
            (StatusCode::CONFLICT, "not_holder")
        }
    };
    ApiError::new(status, code, error.to_string())
}

fn read_action(asked: &Asked) -> Result<Action, ApiError> {
    if asked.action == "burn" {
        return Ok(Action::Burn);
    }
    let wallet = asked.wallet.as_deref().ok_or_else(|| missing("wallet"))?;
    let consent = Consent {
        wallet: parse_wallet(wallet)?,
        terms: parse_terms(
            asked.chain_id.ok_or_else(|| missing("chain_id"))?,
            asked.issued_at.ok_or_else(|| missing("issued_at"))?,
            asked.expires_at.ok_or_else(|| missing("expires_at"))?,
        )?,
        signature: parse_signature(
            "signature",
            asked.scheme.as_deref(),
            asked.signature.as_deref(),
        )?,
    };
    match asked.action.as_str() {
        "link" => Ok(Action::Link(consent)),
        "release" => Ok(Action::Release(consent)),
        "move" => Ok(Action::Move {
            from: consent,
            to: parse_wallet(asked.to.as_deref().ok_or_else(|| missing("to"))?)?,
            taken: parse_signature(
                "to_signature",
                asked.to_scheme.as_deref(),
                asked.to_signature.as_deref(),
            )?,
        }),
        _ => Err(ApiError::bad_request(
            "action is link, move, release or burn",
        )),
    }
}

fn missing(field: &str) -> ApiError {
    ApiError::bad_request(format!("{field} is missing"))
}

fn conflict(code: &'static str, message: &str) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, code, message)
}

fn no_bindings() -> ApiError {
    conflict(
        "no_bindings",
        "this log was begun under rules that know no bindings",
    )
}

/// An address in lower case, or with its checksum (EIP-55).
fn parse_wallet(text: &str) -> Result<Address, ApiError> {
    Address::from_checked(text).map_err(|error| match error {
        AddressError::Form(_) => ApiError::bad_wallet(text),
        AddressError::Checksum(_) => ApiError::bad_request(error.to_string()),
    })
}

fn parse_terms(chain_id: u64, issued_at: u64, expires_at: u64) -> Result<Terms, ApiError> {
    let time = |secs| Time::from_secs(secs).filter(|time| time.secs() <= MAX_TIME);
    let times = time(issued_at).zip(time(expires_at));
    // Entries hold no larger numbers.
    let chain = (1..1 << 53).contains(&chain_id);
    let (issued_at, expires_at) = times.filter(|_| chain).ok_or_else(|| {
        ApiError::bad_request("chain_id is 1 to 2^53 - 1, times are before the year 10000")
    })?;
    Ok(Terms {
        chain_id,
        issued_at,
        expires_at,
    })
}

/// A signature under a scheme. What a contract accepts is to be asked yet: the
/// block is that of nothing.
fn parse_signature(
    field: &str,
    scheme: Option<&str>,
    text: Option<&str>,
) -> Result<Signature, ApiError> {
    let text = text.ok_or_else(|| missing(field))?;
    let bytes = alloy_primitives::hex::decode(text).ok();
    let bytes = bytes.filter(|_| text.starts_with("0x"));
    let wrong = |what| ApiError::bad_request(format!("{field} is 0x and {what}"));
    match scheme.unwrap_or("eip191") {
        "eip191" => {
            let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
            let bytes = bytes.ok_or_else(|| wrong("130 hex digits: r, s, v"))?;
            Ok(Signature::Eip191(bytes))
        }
        "eip1271" => {
            let bytes = bytes.filter(|bytes| bytes.len() <= MAX_CONTRACT_SIGNATURE);
            Ok(Signature::Eip1271 {
                block: 0,
                block_hash: Hash::EMPTY_ROOT,
                bytes: bytes.ok_or_else(|| wrong("up to 2,048 bytes in hex"))?,
            })
        }
        _ => Err(ApiError::bad_request("scheme is eip191 or eip1271")),
    }
}
