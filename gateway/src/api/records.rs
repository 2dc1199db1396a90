//! Keys, chain, records and receipts.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use protocol::hash::Hash;
use protocol::index::{Index, TreeSize};
use protocol::receipt::Receipt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::anchors::Anchor;
use super::statement::Statement;
use super::{Api, limit, query, store_failed};
use crate::log::calls::Fate;
use crate::log::publish::Published;
use crate::reply::{ApiError, ErrorBody};
use crate::store::{self, Named, Page};

/// The log's name and key.
#[derive(Serialize, ToSchema)]
pub(super) struct PublicKey {
    /// The log's name.
    origin: String,
    /// The verifier key (C2SP signed-note).
    vkey: String,
    /// The Ed25519 public key in hex.
    key: String,
}

/// The log's name and key.
#[utoipa::path(get, path = "/api/pubkey", responses((status = 200, body = PublicKey)))]
pub(super) async fn pubkey(State(api): State<Arc<Api>>) -> Json<PublicKey> {
    Json(PublicKey {
        origin: api.verifier.origin().to_string(),
        vkey: api.verifier.to_string(),
        key: Hash::from_bytes(*api.verifier.as_bytes()).to_string(),
    })
}

/// Whom calls are forwarded to.
#[derive(Serialize, ToSchema)]
pub(super) struct Providers {
    /// Their names, in order: calls to one go to `/NAME/...`.
    providers: Vec<String>,
}

/// The providers that calls are forwarded to.
#[utoipa::path(get, path = "/api/providers", responses((status = 200, body = Providers)))]
pub(super) async fn providers(State(api): State<Arc<Api>>) -> Json<Providers> {
    Json(Providers {
        providers: api.providers.to_vec(),
    })
}

/// The newest durable state of the log.
#[derive(Serialize, ToSchema)]
pub(super) struct Chain {
    /// The log's name.
    origin: String,
    /// How many entries there are.
    size: u64,
    /// The root over them, in hex.
    root: String,
    /// The same in base64.
    root_base64: String,
    /// Its checkpoint, a signed note.
    checkpoint: String,
    /// The newest published checkpoint, as contracts on EVM chains take it.
    published: Anchorable,
}

/// A published checkpoint, signed with the log's EVM key.
#[derive(Serialize, ToSchema)]
struct Anchorable {
    /// How many entries it covers.
    size: u64,
    /// The root over them, in hex.
    root: String,
    /// The time of the last of them, in seconds since 1970.
    time: u64,
    /// The checkpoint as it is at `/checkpoint`, a signed note.
    checkpoint: String,
    /// `0x` and r, s and v in hex: the EVM key's EIP-712 signature over size, root and time.
    signature: String,
}

impl From<Statement> for Anchorable {
    fn from(statement: Statement) -> Self {
        let Published { checkpoint, note } = statement.published;
        Self {
            size: checkpoint.size().get(),
            root: checkpoint.root().to_string(),
            time: statement.time.secs(),
            checkpoint: note.to_string(),
            signature: alloy_primitives::hex::encode_prefixed(statement.signature),
        }
    }
}

/// The newest durable size and root, with its checkpoint, and what can be anchored.
#[utoipa::path(get, path = "/api/chain", responses((status = 200, body = Chain)))]
pub(super) async fn chain(State(api): State<Arc<Api>>) -> Result<Json<Chain>, ApiError> {
    let published = api.statement().await?.into();
    let committed = api.committed.borrow().clone();
    let checkpoint = &committed.checkpoint;
    Ok(Json(Chain {
        origin: checkpoint.origin().to_string(),
        size: checkpoint.size().get(),
        root: checkpoint.root().to_string(),
        root_base64: checkpoint.root().to_base64(),
        checkpoint: committed.note.to_string(),
        published,
    }))
}

/// An entry with its proof of promise.
#[derive(Serialize, ToSchema)]
pub(super) struct Record {
    /// Where it stands in the log.
    index: u64,
    /// The entry's canonical text.
    entry: String,
    /// Its leaf hash in hex.
    leaf_hash: String,
    /// Its receipt, a signed note.
    receipt: String,
}

/// An entry with where it is anchored.
#[derive(Serialize, ToSchema)]
pub(super) struct AnchoredRecord {
    #[serde(flatten)]
    record: Record,
    /// The first anchor that covers it, if one is known.
    anchor: Option<Anchor>,
}

/// An entry with its receipt and the receipt's id: a receipt file.
#[derive(Serialize, ToSchema)]
pub(super) struct ReceiptFile {
    /// The receipt's id; the entry commits to it.
    id: String,
    #[serde(flatten)]
    record: Record,
    /// An offline proof that the log holds the entry (C2SP tlog-proof), if it
    /// was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<String>,
}

/// Which part of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// Only entries of a higher index.
    after: Option<u64>,
    /// At most so many: 1 to 1,000, 100 if not given.
    limit: Option<u32>,
}

/// A part of the log.
#[derive(Serialize, ToSchema)]
pub(super) struct Records {
    /// The log's size.
    size: u64,
    /// Ascending.
    records: Vec<Record>,
    /// The `after` of the next part, if there is one.
    next: Option<u64>,
}

/// Entries in order.
#[utoipa::path(get, path = "/api/records", params(Paging), responses(
    (status = 200, body = Records), (status = 400, body = ErrorBody)))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<Records>, ApiError> {
    let paging = query(paging)?;
    let (size, limit) = (api.size(), limit_of(paging.limit)?);
    let range = after(paging.after)?..size.get();
    let page = api.store.records(range, limit).await;
    let page = page.map_err(store_failed)?;
    let next = next(&page);
    let records = page
        .records
        .into_iter()
        .map(|record| api.record(record))
        .collect();
    Ok(Json(Records {
        size: size.get(),
        records,
        next,
    }))
}

/// One entry.
#[utoipa::path(get, path = "/api/records/{index}",
    params(("index" = u64, Path, description = "Where it stands")),
    responses((status = 200, body = AnchoredRecord), (status = 404, body = ErrorBody)))]
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Path(index): Path<String>,
) -> Result<Json<AnchoredRecord>, ApiError> {
    let index = parse_index(&index)?;
    let size = api.size();
    if index.get() >= size.get() {
        return Err(unknown_record(size));
    }
    let record = api.store.record(index).await.map_err(store_failed)?;
    let record = record.ok_or_else(|| unknown_record(size))?;
    let anchor = api.anchors.covering(index).map(Anchor::from);
    Ok(Json(AnchoredRecord {
        record: api.record(record),
        anchor,
    }))
}

/// Whether the file is to hold more.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WithProof {
    /// 1: also an offline proof that the log holds the entry.
    proof: Option<u8>,
}

/// The receipt of a call.
#[utoipa::path(get, path = "/api/receipts/{id}",
    params(("id" = String, Path, description = "From the answer's header x-tally-receipt-id"), WithProof),
    responses(
        (status = 200, body = ReceiptFile),
        (status = 202, body = ErrorBody, description = "The call runs, its record is not yet durable, or no published checkpoint covers it"),
        (status = 404, body = ErrorBody)))]
pub(super) async fn receipt(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    with: Result<Query<WithProof>, QueryRejection>,
) -> Result<Response, ApiError> {
    let with = query(with)?;
    let parsed = Uuid::parse_str(&id).map_err(|_| {
        ApiError::bad_request(format!("{id:?} is not a receipt id: expected a UUID"))
    })?;
    // Asked before the store: what is settled in between is found there.
    let fate = api.calls.fate(&parsed);
    if let Some(record) = api.store.receipt(&parsed).await.map_err(store_failed)? {
        let index = record.index;
        // Seen in the store before the head file has it: not yet to be relied on.
        if index.get() >= api.size().get() {
            return Err(ApiError::pending("the record is being released; ask again"));
        }
        let mut file = api.receipt_file(parsed, record);
        if with.proof == Some(1) {
            let proof = api.tlog_proof(index).await?;
            let proof = proof.ok_or_else(|| {
                ApiError::pending("no published checkpoint covers the entry yet; ask again")
            })?;
            file.proof = Some(proof);
        }
        return Ok(Json(file).into_response());
    }
    Err(match fate {
        Fate::Pending => {
            ApiError::pending("the call runs, or its record is not yet durable; ask again")
        }
        Fate::NoRecord => ApiError::not_found(
            "no_record",
            "the call gave no record: the provider refused it, or it counts nothing",
        ),
        Fate::Unknown => ApiError::not_found(
            "unknown_receipt",
            "no call had this receipt id, as far as is known",
        ),
    })
}

/// A key id's receipts.
#[derive(Serialize, ToSchema)]
pub(super) struct UserReceipts {
    /// The log's size.
    size: u64,
    /// Whose they are.
    key_id: String,
    /// Ascending by index.
    receipts: Vec<ReceiptFile>,
    /// The `after` of the next part, if there is one.
    next: Option<u64>,
}

/// The receipts of a key id, in the log's order.
#[utoipa::path(get, path = "/api/user/{key_id}/receipts",
    params(("key_id" = String, Path, description = "64 hex digits"), Paging),
    responses((status = 200, body = UserReceipts), (status = 400, body = ErrorBody)))]
pub(super) async fn of_user(
    State(api): State<Arc<Api>>,
    Path(key_id): Path<String>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<UserReceipts>, ApiError> {
    let (paging, key) = (query(paging)?, parse_key_id(&key_id)?);
    let (size, limit) = (api.size(), limit_of(paging.limit)?);
    let range = after(paging.after)?..size.get();
    let page = api.store.naming(&Named::Key(key), range, limit).await;
    let page = page.map_err(store_failed)?;
    let next = next(&page);
    let with_id = |record: store::Record| Some((record.receipt_id?, record));
    let receipts = page.records.into_iter().filter_map(with_id);
    let receipts = receipts
        .map(|(id, record)| api.receipt_file(id, record))
        .collect();
    Ok(Json(UserReceipts {
        size: size.get(),
        key_id,
        receipts,
        next,
    }))
}

impl Api {
    /// An entry as it is answered.
    pub(super) fn record(&self, record: store::Record) -> Record {
        let leaf_hash = Hash::leaf(&record.entry);
        let receipt = Receipt::new(self.verifier.origin().clone(), record.index, leaf_hash);
        Record {
            index: record.index.get(),
            entry: String::from_utf8_lossy(&record.entry).into_owned(),
            leaf_hash: leaf_hash.to_string(),
            receipt: receipt.note(&self.verifier, &record.signature),
        }
    }

    fn receipt_file(&self, id: Uuid, record: store::Record) -> ReceiptFile {
        ReceiptFile {
            id: id.to_string(),
            record: self.record(record),
            proof: None,
        }
    }
}

/// Reads an index from a path.
pub(super) fn parse_index(text: &str) -> Result<Index, ApiError> {
    Index::parse(text).ok_or_else(|| {
        ApiError::bad_request(format!(
            "{text:?} is not an index: expected a number from 0"
        ))
    })
}

/// There is no entry of this index in a log of this size.
pub(super) fn unknown_record(size: TreeSize) -> ApiError {
    let message = format!("the log has {size} entries; an index is below that");
    ApiError::not_found("unknown_record", message)
}

/// Reads a key id from a path.
pub(super) fn parse_key_id(text: &str) -> Result<Hash, ApiError> {
    Hash::from_hex(text).ok_or_else(|| {
        ApiError::bad_request(format!(
            "{text:?} is not a key id: expected 64 lower-case hex digits"
        ))
    })
}

/// The first index of a part that begins above `after`.
pub(super) fn after(after: Option<u64>) -> Result<u64, ApiError> {
    let index = after.map(|n| Index::new(n).map(|index| index.get() + 1));
    let index = index.unwrap_or(Some(0));
    index.ok_or_else(|| ApiError::bad_request("after is at most 2^53 - 1"))
}

/// How many records are in a part.
pub(super) fn limit_of(asked: Option<u32>) -> Result<u32, ApiError> {
    limit(asked, 100)
}

/// The `after` of the next part.
pub(super) fn next(page: &Page) -> Option<u64> {
    page.records
        .last()
        .filter(|_| page.more)
        .map(|record| record.index.get())
}
