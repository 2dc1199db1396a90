//! Proofs: that an entry is in a tree, that a tree is the beginning of
//! another, each made from a few tiles (PROTOCOL.md sections 5.1 and 7.1).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use protocol::hash::Hash;
use protocol::index::{Index, TreeSize};
use protocol::plan::Plan;
use protocol::tile::Tile;
use protocol::tlog_proof::TlogProof;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Api, query, store_failed};
use crate::log::publish::Published;
use crate::reply::{ApiError, ErrorBody};
use crate::store::StoreError;

/// Of which entry, in which tree.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OfEntry {
    /// Where the entry stands.
    index: u64,
    /// The tree's size; that of the newest published checkpoint if not given.
    size: Option<u64>,
}

/// Between which trees.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Between {
    /// The older tree's size.
    from: u64,
    /// The newer one's; that of the newest published checkpoint if not given.
    to: Option<u64>,
}

/// That an entry is in a tree.
#[derive(Serialize, ToSchema)]
pub(super) struct Inclusion {
    /// Where the entry stands.
    index: u64,
    /// The tree's size.
    size: u64,
    /// The tree's root, in base64.
    root: String,
    /// The entry's leaf hash, in base64.
    leaf_hash: String,
    /// From the leaf's sibling up (RFC 9162 section 2.1.3.1), in base64.
    hashes: Vec<String>,
}

/// That a tree is the beginning of another.
#[derive(Serialize, ToSchema)]
pub(super) struct Consistency {
    /// The older tree's size.
    from: u64,
    /// The newer one's.
    to: u64,
    /// The older tree's root, in base64.
    from_root: String,
    /// The newer one's.
    to_root: String,
    /// RFC 9162 section 2.1.4.1, in base64.
    hashes: Vec<String>,
}

/// Makes the proofs of one answer, whose paths share tiles: each is read once.
pub(super) struct Prover<'a> {
    api: &'a Api,
    tiles: BTreeMap<Tile, Bytes>,
}

/// That an entry is in a tree of the log.
#[utoipa::path(get, path = "/api/proof/inclusion", params(OfEntry), responses(
    (status = 200, body = Inclusion), (status = 400, body = ErrorBody)))]
pub(super) async fn inclusion(
    State(api): State<Arc<Api>>,
    asked: Result<Query<OfEntry>, QueryRejection>,
) -> Result<Json<Inclusion>, ApiError> {
    let OfEntry { index, size } = query(asked)?;
    let size = api.proven_size(size)?;
    let index = Index::new(index).filter(|index| index.get() < size.get());
    let index = index.ok_or_else(|| {
        ApiError::bad_request(format!("index is below the tree's size, which is {size}"))
    })?;
    let mut prover = api.prover();
    let hashes = prover.prove(&path_of(index, size)).await?;
    Ok(Json(Inclusion {
        index: index.get(),
        size: size.get(),
        root: prover.root(size).await?.to_base64(),
        leaf_hash: api.leaf(index).await?.to_base64(),
        hashes: base64(&hashes),
    }))
}

/// That a tree of the log is the beginning of another.
#[utoipa::path(get, path = "/api/proof/consistency", params(Between), responses(
    (status = 200, body = Consistency), (status = 400, body = ErrorBody)))]
pub(super) async fn consistency(
    State(api): State<Arc<Api>>,
    asked: Result<Query<Between>, QueryRejection>,
) -> Result<Json<Consistency>, ApiError> {
    let Between { from, to } = query(asked)?;
    let to = api.proven_size(to)?;
    let from = TreeSize::new(from).filter(|from| *from <= to);
    let from = from.ok_or_else(|| {
        ApiError::bad_request(format!(
            "from is at most the newer tree's size, which is {to}"
        ))
    })?;
    let plan = Plan::consistency(from, to).expect("the sizes ascend");
    let mut prover = api.prover();
    Ok(Json(Consistency {
        from: from.get(),
        to: to.get(),
        from_root: prover.root(from).await?.to_base64(),
        to_root: prover.root(to).await?.to_base64(),
        hashes: base64(&prover.prove(&plan).await?),
    }))
}

/// An entry's offline proof under the newest published checkpoint.
#[utoipa::path(get, path = "/api/records/{index}/proof",
    params(("index" = u64, Path, description = "Where it stands")),
    responses(
        (status = 200, body = String, content_type = "text/plain; charset=utf-8"),
        (status = 202, body = ErrorBody, description = "No published checkpoint covers it yet"),
        (status = 404, body = ErrorBody)))]
pub(super) async fn offline(
    State(api): State<Arc<Api>>,
    Path(index): Path<String>,
) -> Result<Response, ApiError> {
    let index = super::records::parse_index(&index)?;
    let text = api.tlog_proof(index).await?.ok_or_else(|| {
        let size = api.size();
        if index.get() < size.get() {
            ApiError::pending("no published checkpoint covers the entry yet; ask again")
        } else {
            super::records::unknown_record(size)
        }
    })?;
    // Each checkpoint gives another one.
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, text).into_response())
}

impl Api {
    /// The tlog-proof of an entry under the newest published checkpoint;
    /// `None` where that does not cover it.
    pub(super) async fn tlog_proof(&self, index: Index) -> Result<Option<String>, ApiError> {
        let Published { checkpoint, note } = self.published.borrow().clone();
        if index.get() >= checkpoint.size().get() {
            return Ok(None);
        }
        let proof = TlogProof {
            extra: None,
            index,
            path: self
                .prover()
                .prove(&path_of(index, checkpoint.size()))
                .await?,
            checkpoint: note.to_string(),
        };
        Ok(Some(proof.to_string()))
    }

    /// The size of a tree that is asked for: a committed one, of at least one entry.
    fn proven_size(&self, asked: Option<u64>) -> Result<TreeSize, ApiError> {
        let committed = self.size();
        let published = self.published.borrow().checkpoint.size();
        let size = asked.map_or(Some(published), TreeSize::new);
        let size = size.filter(|size| *size <= committed && *size > TreeSize::ZERO);
        size.ok_or_else(|| {
            ApiError::bad_request(format!(
                "a tree's size is 1 to the log's, which is {committed}"
            ))
        })
    }

    async fn leaf(&self, index: Index) -> Result<Hash, ApiError> {
        Ok(Hash::leaf(&self.stored(index).await?.entry))
    }

    /// An entry that there must be.
    pub(super) async fn stored(&self, index: Index) -> Result<crate::store::Record, ApiError> {
        let record = self.store.record(index).await.map_err(store_failed)?;
        record.ok_or_else(|| damaged("an entry is missing"))
    }

    /// Makes the proofs of one answer.
    pub(super) fn prover(&self) -> Prover<'_> {
        Prover {
            api: self,
            tiles: BTreeMap::new(),
        }
    }
}

impl Prover<'_> {
    /// The hashes that a plan is for.
    pub(super) async fn prove(&mut self, plan: &Plan) -> Result<Vec<Hash>, ApiError> {
        for tile in plan.tiles() {
            if !self.tiles.contains_key(&tile) {
                let bytes = self.api.hashes(&tile).await.map_err(store_failed)?;
                let bytes = bytes.ok_or_else(|| damaged("a tile is missing"))?;
                self.tiles.insert(tile, bytes);
            }
        }
        let built = plan.build(|tile| self.tiles.get(&tile).cloned().unwrap_or_else(Bytes::new));
        built.map_err(|_| damaged("a tile is cut"))
    }

    async fn root(&mut self, size: TreeSize) -> Result<Hash, ApiError> {
        if size == TreeSize::ZERO {
            return Ok(Hash::EMPTY_ROOT);
        }
        let root = self.prove(&Plan::root(size)).await?;
        Ok(*root.first().expect("the plan is for one hash"))
    }
}

pub(super) fn path_of(index: Index, size: TreeSize) -> Plan {
    Plan::inclusion(index, size).expect("the index is below the size")
}

fn damaged(what: &'static str) -> ApiError {
    store_failed(StoreError::Damaged(what))
}

pub(super) fn base64(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|hash| hash.to_base64()).collect()
}
