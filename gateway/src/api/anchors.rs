//! Where the log is anchored (PROTOCOL.md section 13).

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Api, limit, query};
use crate::chain;
use crate::reply::{ApiError, ErrorBody};

/// Which part of the anchors.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// Only anchors that cover fewer entries than this.
    before: Option<u64>,
    /// About so many: 1 to 1,000, 100 if not given. Anchors of one size on
    /// several chains are not torn apart.
    limit: Option<u32>,
}

/// Where the log is anchored.
#[derive(Serialize, ToSchema)]
pub(super) struct Anchors {
    /// The log's size.
    size: u64,
    /// The chains where its contract stands, by id.
    chains: Vec<Contract>,
    /// Newest first.
    anchors: Vec<Anchor>,
    /// The `before` of the next part, if there is one.
    next: Option<u64>,
}

/// The log's contract on one chain.
#[derive(Serialize, ToSchema)]
struct Contract {
    /// The chain's id (EIP-155).
    chain_id: u64,
    /// Its name.
    chain: String,
    /// The contract's address.
    contract: String,
    /// Where an explorer shows it.
    link: Option<String>,
    /// How many anchors it holds.
    count: u64,
    /// Whether two signed roots for one size were shown to it.
    forked: bool,
    /// Whether the log was said to have ended.
    retired: bool,
    /// When this gateway read it last, in seconds since 1970; null where it
    /// did not since it began.
    read_at: Option<u64>,
}

/// An anchored root.
#[derive(Serialize, ToSchema)]
pub(super) struct Anchor {
    /// The chain's id (EIP-155).
    chain_id: u64,
    /// Its name.
    chain: String,
    /// The contract's address.
    contract: String,
    /// The anchor's number in the contract, from 0.
    index: u64,
    /// How many entries it covers.
    size: u64,
    /// Their root, as an explorer shows it.
    root: String,
    /// The time of the last of them, in seconds since 1970.
    log_time: u64,
    /// The transaction that anchored it.
    transaction: String,
    /// That transaction's block.
    block: u64,
    /// `finalized`, or `included` in a block that is not final yet.
    status: &'static str,
    /// Where an explorer shows the transaction.
    link: Option<String>,
}

impl From<chain::Anchor> for Anchor {
    fn from(anchor: chain::Anchor) -> Self {
        let row = anchor.row;
        Self {
            chain_id: anchor.chain_id,
            chain: anchor.chain,
            contract: anchor.contract.to_string(),
            index: row.index,
            size: row.size.get(),
            root: format!("0x{}", row.root),
            log_time: row.log_time.secs(),
            transaction: format!("0x{}", row.transaction),
            block: row.block,
            status: row.status.as_str(),
            link: anchor.link,
        }
    }
}

impl From<chain::Chain> for Contract {
    fn from(chain: chain::Chain) -> Self {
        Self {
            chain_id: chain.id,
            chain: chain.name,
            contract: chain.contract.to_string(),
            link: chain.link,
            count: chain.count,
            forked: chain.forked,
            retired: chain.retired,
            read_at: chain.read_at.map(|time| time.secs()),
        }
    }
}

/// The log's contracts, and the roots that they hold.
#[utoipa::path(get, path = "/api/anchors", params(Part), responses(
    (status = 200, body = Anchors), (status = 400, body = ErrorBody)))]
pub(super) async fn anchors(
    State(api): State<Arc<Api>>,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Json<Anchors>, ApiError> {
    let part = query(part)?;
    let count = limit(part.limit, 100)? as usize;
    let found = api.anchors.below(part.before, count);
    let last = found.last().map(|anchor| anchor.row.size.get());
    let next = last.filter(|last| !api.anchors.below(Some(*last), 1).is_empty());
    Ok(Json(Anchors {
        size: api.size().get(),
        chains: api
            .anchors
            .chains()
            .into_iter()
            .map(Contract::from)
            .collect(),
        anchors: found.into_iter().map(Anchor::from).collect(),
        next,
    }))
}
