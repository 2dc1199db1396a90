//! Looking at one chain: its contract, and the anchors in it.
//!
//! Only what is not known yet is read: a new anchor's event is looked for from
//! the newest block down, so that one request finds it, and the blocks of an
//! old history are gone through in steps that the node takes, a few requests a
//! look. What is final is stored and never read again; what is not is held
//! against its block at every look.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use protocol::anchor::Place;
use protocol::entry::{Body, Entry};
use protocol::index::{Index, TreeSize};
use tokio::sync::watch as channel;
use tokio::time::sleep;
use uuid::Uuid;

use super::contract::{Contract, ContractError, Posted, Summary};
use super::list::{Row, Status};
use super::rpc::{Block, Node, RpcError};
use super::{Anchors, Asking};
use crate::log::pool::Submission;
use crate::log::replica::Committed;
use crate::store::StoreError;

/// The longest wait after a look that failed.
const LONGEST: Duration = Duration::from_secs(300);

/// The least wait after a node said that too much was asked.
const RESTED: Duration = Duration::from_secs(60);

/// Requests for events in one look.
const REQUESTS: u32 = 16;

/// Anchors that are stored at once: the log is written on the same connection.
const STORED: usize = 64;

/// Blocks that are asked for at once: at first, and at the most.
const BLOCKS: u64 = 1_024;
const MOST_BLOCKS: u64 = 1 << 22;

/// One chain, as one node sees it.
#[derive(Debug)]
pub(super) struct Watch {
    nodes: Arc<[Node]>,
    number: usize,
    asking: Asking,
    anchors: Anchors,
    /// Whether the contract was found to be the log's.
    verified: bool,
    reach: Reach,
}

/// How far back events were looked for, and how many blocks at once.
#[derive(Debug)]
struct Reach {
    /// The number that was looked for, and the highest block that was not
    /// looked into.
    below: Option<(u64, u64)>,
    blocks: u64,
    most: u64,
}

/// Why a look came to nothing.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Contract(#[from] ContractError),
    #[error("the database failed")]
    Store(#[from] StoreError),
    #[error("another --rpc-url is of chain {0} too; this one is not read")]
    Twice(u64),
    #[error("the node knows no block")]
    NoBlock,
    #[error("the node is behind: it does not know block {0}, which was final")]
    Behind(u64),
    #[error("the contract holds {count} anchors, of which {kept} were final before")]
    Shrunk { count: u64, kept: u64 },
    #[error("the contract holds anchor {0}, and the node does not find its event")]
    NoEvent(u64),
    #[error("anchor {0} is one thing in the contract's events and another in its storage")]
    Disagrees(u64),
    #[error(
        "anchor {index} covers {size} entries, more than the log has: it was restored from an \
         older copy, somebody else signs with its EVM key, or the node lies"
    )]
    Ahead { index: u64, size: TreeSize },
    #[error(
        "anchor {index} does not say what the log's first {size} entries are: somebody else \
         signs with its EVM key, or the node lies"
    )]
    Foreign { index: u64, size: TreeSize },
    #[error("anchor {0} covers no more entries than the one before it, or not fewer than the next")]
    Order(u64),
}

impl From<RpcError> for Problem {
    fn from(error: RpcError) -> Self {
        Self::Contract(error.into())
    }
}

impl Problem {
    /// Whether somebody must look: waiting does not help.
    fn is_alarming(&self) -> bool {
        matches!(
            self,
            Self::Contract(ContractError::Foreign(..) | ContractError::Rpc(RpcError::Chain { .. }))
                | Self::Twice(_)
                | Self::Disagrees(_)
                | Self::Ahead { .. }
                | Self::Foreign { .. }
                | Self::Order(_)
        )
    }

    fn is_too_much(&self) -> bool {
        matches!(
            self,
            Self::Contract(ContractError::Rpc(RpcError::TooMuch(_)))
        )
    }
}

impl Watch {
    pub(super) fn new(nodes: Arc<[Node]>, number: usize, asking: Asking, anchors: Anchors) -> Self {
        Self {
            nodes,
            number,
            asking,
            anchors,
            verified: false,
            reach: Reach {
                below: None,
                blocks: BLOCKS,
                most: MOST_BLOCKS,
            },
        }
    }

    /// Looks until the log ends.
    pub(super) async fn run(mut self, every: Duration) {
        let committed = self.asking.committed.clone();
        tokio::select! {
            () = self.look_again(every) => {}
            () = ended(committed) => {}
        }
    }

    async fn look_again(&mut self, every: Duration) {
        let host = self.node().host();
        let mut wait = every;
        let mut told: Option<String> = None;
        loop {
            let answer = match self.look().await {
                Ok(()) => {
                    if told.take().is_some() {
                        tracing::info!(node = host, "the chain can be read again");
                    }
                    wait = every;
                    "read"
                }
                Err(problem) => {
                    wait = (wait * 2).min(LONGEST).max(every);
                    if problem.is_too_much() {
                        wait = wait.max(RESTED);
                    }
                    let alarms = problem.is_alarming();
                    tell(&host, &problem, alarms, &mut told);
                    if alarms { "alarm" } else { "failed" }
                }
            };
            metrics::counter!("tally_chain_looks_total", "node" => host.clone(), "answer" => answer)
                .increment(1);
            sleep(wait).await;
        }
    }

    fn node(&self) -> &Node {
        &self.nodes[self.number]
    }

    async fn look(&mut self) -> Result<(), Problem> {
        let nodes = Arc::clone(&self.nodes);
        let node = &nodes[self.number];
        let id = node.chain_id().await?;
        let first = nodes.iter().position(|node| node.known_chain() == Some(id));
        if first != Some(self.number) {
            return Err(Problem::Twice(id));
        }
        let newest = node.block("latest").await?.ok_or(Problem::NoBlock)?;
        let mut rows = self.anchors.rows(id);
        self.recognise(id, newest, &mut rows).await?;
        let log = self.asking.log.clone();
        let contract = Contract::of(&log, node);
        if !self.verified {
            if !contract.is_there().await? {
                let kept = final_count(&rows);
                if kept > 0 {
                    return Err(Problem::Shrunk { count: 0, kept });
                }
                self.anchors.forget(id);
                return Ok(());
            }
            self.verified = true;
            tracing::info!(chain = id, contract = %log.contract(), "the log's contract is there");
        }
        let summary = contract.summary().await.inspect_err(|error| {
            // It may have been dropped with its block.
            self.verified &= !matches!(error, ContractError::Answer(..));
        })?;
        self.name(id);
        let read = self.read(&contract, (summary, newest), id, &mut rows).await;
        self.publish(id, summary, rows);
        read
    }

    /// Requires that the chain is the one whose anchors are kept: one that was
    /// begun anew, or is another of the same id, has other blocks.
    async fn recognise(
        &mut self,
        id: u64,
        newest: Block,
        rows: &mut Vec<Row>,
    ) -> Result<(), Problem> {
        let Some(last) = finals(rows).last().copied() else {
            return Ok(());
        };
        let known = finals(rows).filter(|row| row.block <= newest.number);
        let Some(known) = known.last() else {
            return Err(Problem::Behind(last.block));
        };
        let there = self.node().block(&format!("0x{:x}", known.block)).await?;
        let there = there.ok_or(Problem::Behind(known.block))?;
        if there.hash == known.block_hash {
            let behind = known.block < last.block;
            return match behind {
                true => Err(Problem::Behind(last.block)),
                false => Ok(()),
            };
        }
        tracing::warn!(
            chain = id,
            block = known.block,
            "this is not the chain that was read before: a block that was final is another; \
             what was read of it is forgotten"
        );
        self.asking.store.forget_anchors(id).await?;
        self.anchors.forget(id);
        self.verified = false;
        self.reach.below = None;
        rows.clear();
        Ok(())
    }

    /// Has an entry name the chain, unless one does. Submitted again at every
    /// look until then; the writer takes one.
    fn name(&self, chain_id: u64) {
        let named = {
            let ledger = self.asking.sums.read();
            !ledger.binds() || ledger.anchored(chain_id).is_some()
        };
        if named {
            return;
        }
        let contract = self.asking.log.contract();
        self.asking.pool.submit(Submission {
            body: Body::Anchor(Place { chain_id, contract }),
            receipt_id: Some(Uuid::now_v7()),
            retrieval: None,
            released: None,
            call: None,
        });
    }

    fn publish(&self, id: u64, summary: Summary, rows: Vec<Row>) {
        let chain = id.to_string();
        let size = rows.last().map_or(0, |row| row.size.get());
        metrics::gauge!("tally_anchors", "chain" => chain.clone()).set(summary.count as f64);
        metrics::gauge!("tally_anchored_size", "chain" => chain).set(size as f64);
        let now = (self.asking.clock)();
        self.anchors.keep(id, summary, Some(now), rows);
    }

    /// Brings `rows` up to what the contract holds.
    async fn read(
        &mut self,
        contract: &Contract<'_>,
        (summary, newest): (Summary, Block),
        id: u64,
        rows: &mut Vec<Row>,
    ) -> Result<(), Problem> {
        let (count, kept) = (summary.count, final_count(rows));
        if count < kept {
            return Err(Problem::Shrunk { count, kept });
        }
        let open = rows
            .last()
            .is_some_and(|row| row.status == Status::Included);
        if !open && rows.len() as u64 == count {
            return Ok(());
        }
        let before: BTreeSet<u64> = finals(rows).map(|row| row.index).collect();
        let finalized = self.node().block("finalized").await?;
        let finalized = finalized.map_or(0, |block| block.number);
        self.settle(finalized, rows).await?;
        rows.retain(|row| row.index < count);
        let found = self.find(contract, (count, newest, finalized), rows).await;
        let news = finals(rows).filter(|row| !before.contains(&row.index));
        let news: Vec<_> = news.map(|row| row.stored(id)).collect();
        for part in news.chunks(STORED) {
            self.asking.store.keep_anchors(part).await?;
        }
        found
    }

    /// Holds what was not final against its block: some of it is final now,
    /// and what the chain dropped is to be looked for again.
    async fn settle(&mut self, finalized: u64, rows: &mut Vec<Row>) -> Result<(), Problem> {
        let open = rows.partition_point(|row| row.status == Status::Finalized);
        for at in open..rows.len() {
            let row = &mut rows[at];
            let block = Block {
                number: row.block,
                hash: row.block_hash,
            };
            if self.nodes[self.number].succeeded(row.transaction).await? != Some(block) {
                rows.truncate(at);
                self.reach.below = None;
                break;
            }
            if row.block <= finalized {
                row.status = Status::Finalized;
            }
        }
        Ok(())
    }

    /// Looks for the events of anchors that are not among `rows`, the newest
    /// first; goes on at the next look after so many requests.
    async fn find(
        &mut self,
        contract: &Contract<'_>,
        (count, newest, finalized): (u64, Block, u64),
        rows: &mut Vec<Row>,
    ) -> Result<(), Problem> {
        // What was too much for the node may have been for a while only.
        self.reach.most = (self.reach.most * 2).min(MOST_BLOCKS);
        for _ in 0..REQUESTS {
            let Some(wanted) = missing(rows, count) else {
                self.reach.below = None;
                return Ok(());
            };
            let at = rows.partition_point(|row| row.index < wanted);
            let floor = at.checked_sub(1).map_or(0, |before| rows[before].block);
            let top = rows.get(at).map_or(newest.number, |after| after.block);
            let below = self.reach.below.filter(|(number, _)| *number == wanted);
            let top = below.map_or(top, |(_, below)| below.min(top));
            let bottom = top.saturating_sub(self.reach.blocks - 1).max(floor);
            let posted = match contract.posted((bottom, top)).await {
                Err(ContractError::Rpc(RpcError::Refused { .. } | RpcError::TooLong(_)))
                    if self.reach.blocks > 1 =>
                {
                    self.reach.most = self.reach.blocks / 2;
                    self.reach.blocks = self.reach.most;
                    continue;
                }
                posted => posted?,
            };
            for posted in posted.into_iter().filter(|posted| posted.index < count) {
                let sure = posted.index + 1 < count
                    || contract.anchor_at(posted.index).await? == posted.said;
                if !sure {
                    return Err(Problem::Disagrees(posted.index));
                }
                self.take(posted, finalized, rows).await?;
            }
            let next = missing(rows, count);
            if next == Some(wanted) && bottom <= floor {
                self.reach.below = None;
                return Err(Problem::NoEvent(wanted));
            }
            self.reach.below = next.map(|next| (next, bottom.saturating_sub(1)));
            self.reach.blocks = (self.reach.blocks * 2).min(self.reach.most);
        }
        Ok(())
    }

    /// Takes an anchor in that says what the log says.
    async fn take(
        &self,
        posted: Posted,
        finalized: u64,
        rows: &mut Vec<Row>,
    ) -> Result<(), Problem> {
        let (index, said) = (posted.index, posted.said);
        let Err(at) = rows.binary_search_by_key(&index, |row| row.index) else {
            return Ok(());
        };
        let size = said.size;
        if size > self.asking.committed.borrow().checkpoint.size() {
            return Err(Problem::Ahead { index, size });
        }
        let store = &self.asking.store;
        let last = size.get().checked_sub(1).and_then(Index::new);
        let last = match last {
            Some(last) => store.record(last).await?,
            None => None,
        };
        let time = last.and_then(|last| Some(Entry::parse(&last.entry).ok()?.time()));
        let root = store.root_at(size).await?;
        if (root, time) != (Some(said.root), Some(said.time)) {
            return Err(Problem::Foreign { index, size });
        }
        let above = at
            .checked_sub(1)
            .is_none_or(|before| rows[before].size < size);
        if !above || rows.get(at).is_some_and(|after| after.size <= size) {
            return Err(Problem::Order(index));
        }
        let status = match posted.block.number <= finalized {
            true => Status::Finalized,
            false => Status::Included,
        };
        let row = Row {
            index,
            size,
            root: said.root,
            log_time: said.time,
            transaction: posted.transaction,
            block: posted.block.number,
            block_hash: posted.block.hash,
            status,
        };
        rows.insert(at, row);
        Ok(())
    }
}

fn finals(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| row.status == Status::Finalized)
}

/// How many anchors there are at least, as the last final one tells.
fn final_count(rows: &[Row]) -> u64 {
    finals(rows).last().map_or(0, |row| row.index + 1)
}

/// The highest number below `count` that is not among `rows`.
fn missing(rows: &[Row], count: u64) -> Option<u64> {
    let mut next = count;
    for row in rows.iter().rev() {
        if row.index + 1 != next {
            break;
        }
        next = row.index;
    }
    next.checked_sub(1)
}

/// Says what is wrong, once until it is something else.
fn tell(host: &str, problem: &Problem, alarms: bool, told: &mut Option<String>) {
    let text = match problem {
        Problem::Store(error) => format!("{problem}: {error}"),
        _ => problem.to_string(),
    };
    if told.as_ref() == Some(&text) {
        return;
    }
    if alarms {
        tracing::error!(node = host, "chain: {text}");
    } else {
        tracing::warn!(node = host, "chain: {text}");
    }
    *told = Some(text);
}

/// Until nothing is committed any more.
async fn ended(mut committed: channel::Receiver<Committed>) {
    while committed.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::hash::Hash;
    use protocol::index::Time;

    fn row(index: u64) -> Row {
        Row {
            index,
            size: TreeSize::new(index + 1).expect("small"),
            root: Hash::EMPTY_ROOT,
            log_time: Time::from_secs(5).expect("small"),
            transaction: Hash::EMPTY_ROOT,
            block: index,
            block_hash: Hash::EMPTY_ROOT,
            status: Status::Included,
        }
    }

    #[test]
    fn the_newest_that_is_missing_is_looked_for_first() {
        for (indexes, count, expected) in [
            (&[][..], 0, None),
            (&[], 3, Some(2)),
            (&[2], 3, Some(1)),
            (&[1, 2], 3, Some(0)),
            (&[0, 1, 2], 3, None),
            (&[0, 1], 3, Some(2)),
            (&[0, 2], 3, Some(1)),
        ] {
            let rows: Vec<_> = indexes.iter().copied().map(row).collect();
            assert_eq!(missing(&rows, count), expected, "{indexes:?} of {count}");
        }
    }
}
