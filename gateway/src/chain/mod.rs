//! Chains: where the log is anchored, and what contract wallets sign, as nodes
//! of EVM chains say.
//!
//! Nothing here stands in the log's way: a node that is away, lies or answers
//! nonsense costs a task that waits. What a node says of an anchor is held
//! against the log itself, so that no root is shown that is not the log's.
//! Out of scope: anchoring (see the `anchor` binary), and judging nodes: whose
//! word is taken, the operator chose.

mod contract;
mod explorer;
mod list;
mod rpc;
mod wallet;
mod watch;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::anchor::ChainLog;
use tokio::sync::watch as channel;

use crate::ledger;
use crate::log::pool::Pool;
use crate::log::replica::Committed;
use crate::log::sequencer::Clock;
use crate::store::{AnchorRow, Store, StoreError};

use explorer::Explorers;
pub use explorer::Template;
pub use list::{Anchor, Anchors, Chain, Row, Status};
pub use rpc::RpcUrl;
use rpc::{Node, client};
pub use wallet::{Refused, Wallets};
use watch::Watch;

/// What an operator says of chains.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A node for each chain.
    pub rpc_urls: Vec<RpcUrl>,
    /// Between two looks at a chain.
    pub every: Duration,
    /// Explorers for chains of which none is known, or others than the known.
    pub explorers: Vec<Template>,
}

/// Of which log chains are asked, and what becomes of their answers.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The log as contracts know it.
    pub log: ChainLog,
    /// Its entries, and what is kept of chains.
    pub store: Store,
    /// Whether an entry names a chain already.
    pub sums: ledger::Shared,
    /// Takes the entry that names one.
    pub pool: Arc<Pool>,
    /// How far the log is.
    pub committed: channel::Receiver<Committed>,
    /// When a chain was read.
    pub clock: Clock,
}

/// Why chains can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum ChainsError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate authorities.
    #[error("the system's certificate authorities can't be read")]
    Authorities(#[source] io::Error),
}

/// Begins to look at the chains, each in a task of its own, which ends with the log.
///
/// # Errors
/// [`ChainsError`].
pub async fn begin(settings: &Settings, asking: Asking) -> Result<(Anchors, Wallets), ChainsError> {
    let anchors = Anchors::new(Explorers::new(&settings.explorers), asking.log.contract());
    anchors.load(asking.store.anchors().await?);
    if settings.rpc_urls.is_empty() {
        return Ok((anchors, Wallets::none()));
    }
    let client = client().map_err(ChainsError::Authorities)?;
    let nodes = settings.rpc_urls.iter();
    let nodes: Arc<[Node]> = nodes
        .map(|url| Node::new(client.clone(), url.clone()))
        .collect();
    for number in 0..nodes.len() {
        let nodes = Arc::clone(&nodes);
        let watch = Watch::new(nodes, number, asking.clone(), anchors.clone());
        tokio::spawn(watch.run(settings.every));
    }
    Ok((anchors, Wallets::new(nodes)))
}

impl From<AnchorRow> for Row {
    fn from(row: AnchorRow) -> Self {
        Self {
            index: row.number,
            size: row.size,
            root: row.root,
            log_time: row.time,
            transaction: row.transaction,
            block: row.block,
            block_hash: row.block_hash,
            status: Status::Finalized,
        }
    }
}

impl Row {
    /// As it is stored, once it is final.
    fn stored(&self, chain_id: u64) -> AnchorRow {
        AnchorRow {
            chain_id,
            number: self.index,
            size: self.size,
            root: self.root,
            time: self.log_time,
            transaction: self.transaction,
            block: self.block,
            block_hash: self.block_hash,
        }
    }
}
