//! The records that count for a wallet, each with its inclusion proof on
//! request: what is newer than its proven totals (PROTOCOL.md section 4.5).

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use protocol::index::TreeSize;
use protocol::name::Address;
use protocol::record::Link;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::proofs::{Prover, base64, path_of};
use super::records::{Record, after, limit_of, next};
use super::{Api, query, store_failed};
use crate::reply::{ApiError, ErrorBody};
use crate::store::{self, Named};

/// Which of a wallet's records.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only entries of a higher index.
    after: Option<u64>,
    /// Only entries of a lower index.
    before: Option<u64>,
    /// At most so many: 1 to 1,000, 100 if not given.
    limit: Option<u32>,
    /// `bound` if not given, or `claimed`.
    link: Option<String>,
    /// 1: each with its inclusion proof under the newest published checkpoint,
    /// and only those that it covers.
    proof: Option<u8>,
}

/// A wallet's records in order.
#[derive(Serialize, ToSchema)]
pub(super) struct WalletRecords {
    /// The log's size; with proofs, the checkpoint's.
    size: u64,
    /// The wallet, in lower case.
    wallet: String,
    /// How they came to the wallet: `bound` or `claimed`.
    link: &'static str,
    /// With proofs: the newest published checkpoint, a signed note.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
    /// Ascending.
    records: Vec<WalletRecord>,
    /// The `after` of the next part, if there is one.
    next: Option<u64>,
}

/// A record, perhaps with its proof.
#[derive(Serialize, ToSchema)]
struct WalletRecord {
    #[serde(flatten)]
    record: Record,
    /// With proofs: from its sibling up to the checkpoint's root, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    hashes: Option<Vec<String>>,
}

/// The records that count for a wallet, in the log's order.
#[utoipa::path(get, path = "/api/wallet/{addr}/records",
    params(("addr" = String, Path, description = "0x and 40 hex digits"), Asked),
    responses((status = 200, body = WalletRecords), (status = 400, body = ErrorBody)))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Path(address): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<WalletRecords>, ApiError> {
    let asked = query(asked)?;
    let wallet = Address::from_any_case(&address).ok_or_else(|| ApiError::bad_wallet(&address))?;
    let (link, limit) = (link_of(asked.link.as_deref())?, limit_of(asked.limit)?);
    let under = (asked.proof == Some(1)).then(|| api.published.borrow().clone());
    let size = match &under {
        Some(published) => published.checkpoint.size(),
        None => api.size(),
    };
    let end = asked.before.map_or(size.get(), |end| end.min(size.get()));
    let named = Named::Wallet(wallet, link);
    let page = api.store.naming(&named, after(asked.after)?..end, limit);
    let page = page.await.map_err(store_failed)?;
    let (next, mut records) = (next(&page), Vec::with_capacity(page.records.len()));
    let mut prover = under.is_some().then(|| api.prover());
    for record in page.records {
        records.push(api.with_proof(record, prover.as_mut(), size).await?);
    }
    Ok(Json(WalletRecords {
        size: size.get(),
        wallet: wallet.to_string(),
        link: link.as_str(),
        checkpoint: under.map(|published| published.note.to_string()),
        records,
        next,
    }))
}

impl Api {
    async fn with_proof(
        &self,
        record: store::Record,
        prover: Option<&mut Prover<'_>>,
        size: TreeSize,
    ) -> Result<WalletRecord, ApiError> {
        let hashes = match prover {
            Some(prover) => Some(prover.prove(&path_of(record.index, size)).await?),
            None => None,
        };
        Ok(WalletRecord {
            record: self.record(record),
            hashes: hashes.map(|hashes| base64(&hashes)),
        })
    }
}

fn link_of(text: Option<&str>) -> Result<Link, ApiError> {
    let link = Link::parse(text.unwrap_or("bound"));
    link.ok_or_else(|| ApiError::bad_request("link is bound or claimed"))
}
