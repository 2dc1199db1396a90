//! A wallet's usage, with what proves it (PROTOCOL.md section 4.5).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use protocol::entry::{Body, Entry};
use protocol::index::{Index, TreeSize};
use protocol::name::Address;
use serde::Serialize;
use utoipa::ToSchema;

use super::anchors::Anchor;
use super::proofs::{Prover, base64, path_of};
use super::sums::{ModelSums, SourceSums, Sums, date, model_sums, source_sums};
use super::{Api, store_failed};
use crate::ledger::{Below, Proven};
use crate::log::publish::Published;
use crate::reply::{ApiError, ErrorBody};
use crate::store::StoreError;

/// What a wallet used.
#[derive(Serialize, ToSchema)]
pub(super) struct Wallet {
    /// The log's size.
    size: u64,
    /// The wallet, in lower case.
    wallet: String,
    /// Sums of records whose key was bound to it.
    bound: Vec<SourceSums>,
    /// Sums of records whose requests named it; nobody proved anything.
    claimed: Vec<SourceSums>,
    /// The bound ones by model.
    models: Vec<ModelSums>,
    /// The bound ones by UTC day.
    days: Vec<DaySums>,
    /// Proves the bound sums as of the newest totals entry; `null` where the
    /// gateway can't make it at the moment.
    proof: Option<Proof>,
    /// The first anchor that covers the totals entry in `proof`, if one is known.
    anchor: Option<Anchor>,
}

/// A day's sums.
#[derive(Serialize, ToSchema)]
struct DaySums {
    /// YYYY-MM-DD.
    day: String,
    /// How the records were observed.
    source: &'static str,
    #[serde(flatten)]
    sums: Sums,
}

/// From a checkpoint to the wallet's leaves, or to their absence.
#[derive(Serialize, ToSchema)]
struct Proof {
    /// The newest published checkpoint, a signed note.
    checkpoint: String,
    /// Entry 0.
    log: ProvenEntry,
    /// The newest totals entry below the checkpoint's size, if there is one.
    totals: Option<ProvenEntry>,
    /// The first entry that it leaves out, if there is one.
    next: Option<ProvenEntry>,
    /// The checkpoint's last entry.
    last: ProvenEntry,
    /// The wallet's leaves and the neighbour on each side.
    leaves: Vec<ProvenLeaf>,
}

/// An entry with its inclusion proof under the checkpoint.
#[derive(Serialize, ToSchema)]
struct ProvenEntry {
    /// Where it stands.
    index: u64,
    /// Its canonical text.
    entry: String,
    /// From its sibling up, in base64.
    hashes: Vec<String>,
}

/// A leaf with its inclusion proof under the totals entry's root.
#[derive(Serialize, ToSchema)]
struct ProvenLeaf {
    /// Its place among the leaves.
    index: u64,
    /// Its bytes in hex.
    leaf: String,
    /// From its sibling up, in base64.
    hashes: Vec<String>,
}

/// What a wallet used, with its proof.
#[utoipa::path(get, path = "/api/wallet/{addr}",
    params(("addr" = String, Path, description = "0x and 40 hex digits")),
    responses((status = 200, body = Wallet), (status = 400, body = ErrorBody)))]
pub(super) async fn wallet(
    State(api): State<Arc<Api>>,
    Path(address): Path<String>,
) -> Result<Json<Wallet>, ApiError> {
    let wallet = Address::from_any_case(&address).ok_or_else(|| ApiError::bad_wallet(&address))?;
    let (size, of) = {
        let sums = api.sums.read();
        (sums.size(), sums.wallet(&wallet))
    };
    let days = of.days.into_iter();
    let days = days.map(|(day, source, sums)| DaySums {
        day: date(day.into()),
        source: source.as_str(),
        sums: sums.into(),
    });
    let proof = api.wallet_proof(&wallet).await?;
    let totals = proof.as_ref().and_then(|proof| proof.totals.as_ref());
    let totals = totals.and_then(|totals| Index::new(totals.index));
    let anchor = totals.and_then(|totals| api.anchors.covering(totals));
    Ok(Json(Wallet {
        size: size.get(),
        wallet: wallet.to_string(),
        bound: source_sums(of.bound),
        claimed: source_sums(of.claimed),
        models: model_sums(of.models),
        days: days.collect(),
        proof,
        anchor: anchor.map(Anchor::from),
    }))
}

impl Api {
    async fn wallet_proof(&self, wallet: &Address) -> Result<Option<Proof>, ApiError> {
        let Published { checkpoint, note } = self.published.borrow().clone();
        let size = checkpoint.size();
        let below = self.sums.read().tree_below(size);
        let (totals, leaves) = match below {
            Below::Tree(index, tree) => (Some(index), tree.prove(wallet)),
            Below::Nothing => (None, Vec::new()),
            Below::Unknown => return Ok(None),
        };
        let mut prover = self.prover();
        let totals = match totals {
            Some(index) => Some(self.proven(&mut prover, index.get(), size).await?),
            None => None,
        };
        let next = match &totals {
            Some(totals) => left_out(totals)?,
            None => 1,
        };
        let next = match next < size.get() {
            true => Some(self.proven(&mut prover, next, size).await?),
            false => None,
        };
        let last = size.get().saturating_sub(1);
        Ok(Some(Proof {
            checkpoint: note.to_string(),
            log: self.proven(&mut prover, 0, size).await?,
            totals,
            next,
            last: self.proven(&mut prover, last, size).await?,
            leaves: leaves.iter().map(proven_leaf).collect(),
        }))
    }

    async fn proven(
        &self,
        prover: &mut Prover<'_>,
        index: u64,
        size: TreeSize,
    ) -> Result<ProvenEntry, ApiError> {
        let damaged = || store_failed(StoreError::Damaged("an entry is missing"));
        let index = Index::new(index).ok_or_else(damaged)?;
        let record = self.store.record(index).await.map_err(store_failed)?;
        let record = record.ok_or_else(damaged)?;
        Ok(ProvenEntry {
            index: index.get(),
            entry: String::from_utf8_lossy(&record.entry).into_owned(),
            hashes: base64(&prover.prove(&path_of(index, size)).await?),
        })
    }
}

/// Where the first entry stands that a totals entry leaves out.
fn left_out(totals: &ProvenEntry) -> Result<u64, ApiError> {
    match Entry::parse(totals.entry.as_bytes()) {
        Ok(Entry::Known {
            body: Body::Totals(said),
            ..
        }) => Ok(match said.size.get() {
            size if size < totals.index => size,
            size => size + 1,
        }),
        _ => Err(store_failed(StoreError::Damaged(
            "a totals entry can't be read",
        ))),
    }
}

fn proven_leaf(proven: &Proven) -> ProvenLeaf {
    ProvenLeaf {
        index: proven.index,
        leaf: alloy_primitives::hex::encode(proven.leaf),
        hashes: base64(&proven.hashes),
    }
}
