//! The sequencer: the one place where entries get their indices.
//!
//! Order of effects for a batch: stage (indices, times, hashes, signatures),
//! commit (the size moves by compare-and-swap, with everything else, fsynced),
//! and only then release: receipts can be asked for, the checkpoint is signed.
//! The batch is what has piled up while the last one was being committed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use protocol::checkpoint::Checkpoint;
use protocol::entry::Body;
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::key::Signer;
use protocol::receipt::Receipt;
use protocol::tile::WIDTH;
use tokio::sync::watch;
use uuid::Uuid;

use super::pool::{Pool, Submission};
use crate::store::{AppendError, Chain, Counted, Staged, Store, StoreError, TileRow};

/// Entries in one transaction, at the most.
const MAX_BATCH: usize = 4_096;

/// Retrievals that are remembered; older ones are looked up in the store.
const MAX_RETRIEVED: usize = 65_536;

/// From this many entries on a batch is signed on several threads.
const PARALLEL_FROM: usize = 32;

/// Where time comes from.
pub type Clock = fn() -> Time;

/// The newest durable state of the log, and its checkpoint.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Size and root.
    pub checkpoint: Checkpoint,
    /// The checkpoint as a signed note.
    pub note: Arc<str>,
    /// Integration time of the newest entry.
    pub time: Time,
}

/// Whether records can be stored at the moment. Clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// Whether the last attempt to commit went through.
    pub fn is_good(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The writer of the log.
#[derive(Debug)]
pub struct Sequencer {
    store: Store,
    signer: Arc<Signer>,
    clock: Clock,
    chain: Chain,
    committed: watch::Sender<Committed>,
    health: Health,
    /// Responses that were retrieved of late, and by which retrieval.
    retrieved: HashMap<Hash, Uuid>,
}

impl Sequencer {
    /// Takes up the log where the store left it.
    ///
    /// # Errors
    /// The store failed.
    pub async fn resume(
        store: Store,
        signer: Arc<Signer>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let chain = store.chain().await?;
        let committed = watch::Sender::new(sign(&signer, &chain));
        let health = Health(Arc::new(AtomicBool::new(true)));
        Ok(Self {
            store,
            signer,
            clock,
            chain,
            committed,
            health,
            retrieved: HashMap::new(),
        })
    }

    /// Follows what is committed.
    pub fn committed(&self) -> watch::Receiver<Committed> {
        self.committed.subscribe()
    }

    /// Follows whether records can be stored.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// The log's size.
    pub fn size(&self) -> TreeSize {
        self.chain.mmr.size()
    }

    /// Sequences what the pool gives until it is closed and empty. What the
    /// store can't take is tried again until it can.
    ///
    /// # Errors
    /// Another writer moved the log: going on could show two histories.
    pub async fn run(mut self, pool: Arc<Pool>) -> Result<(), AppendError> {
        while let Some(mut submissions) = pool.take().await {
            while !submissions.is_empty() {
                let rest = submissions.split_off(submissions.len().min(MAX_BATCH));
                self.append(submissions).await?;
                submissions = rest;
            }
        }
        Ok(())
    }

    /// Makes entries of `batch`, in its order. When it returns, they are durable.
    ///
    /// # Errors
    /// Another writer moved the log.
    pub async fn append(&mut self, batch: Vec<Submission>) -> Result<(), AppendError> {
        let batch = self.without_known_responses(batch).await;
        if batch.is_empty() {
            return Ok(());
        }
        let staged = self.stage(&batch).await;
        self.commit(&staged).await?;
        self.chain = staged.chain;
        self.committed.send_replace(sign(&self.signer, &self.chain));
        for (submission, staged) in batch.into_iter().zip(&staged.records) {
            announce(&submission, staged);
            if let Some(call) = submission.call {
                call.recorded();
            }
        }
        Ok(())
    }

    /// Drops what was retrieved though the log has it already: from a POST,
    /// or from another retrieval. The lines of one retrieval stand each for
    /// itself.
    async fn without_known_responses(&mut self, batch: Vec<Submission>) -> Vec<Submission> {
        if !batch
            .iter()
            .any(|submission| submission.retrieval.is_some())
        {
            return batch;
        }
        if self.retrieved.len() > MAX_RETRIEVED {
            self.retrieved.clear();
        }
        let mut posted = HashSet::new();
        let mut kept = Vec::with_capacity(batch.len());
        for submission in batch {
            match (response(&submission.body), submission.retrieval) {
                (Some(response), Some(retrieval)) => {
                    let known = match self.retrieved.get(&response) {
                        Some(by) => *by != retrieval,
                        None => posted.contains(&response) || self.knows(&response).await,
                    };
                    if known {
                        continue;
                    }
                    self.retrieved.insert(response, retrieval);
                }
                (Some(response), None) => {
                    posted.insert(response);
                }
                (None, _) => {}
            }
            kept.push(submission);
        }
        kept
    }

    async fn knows(&self, response: &Hash) -> bool {
        loop {
            match self.store.has_response(response).await {
                Ok(known) => return known,
                Err(error) => self.wait_out(&error).await,
            }
        }
    }

    /// The batch as it will be stored. A large one is signed off the runtime.
    async fn stage(&self, batch: &[Submission]) -> StagedBatch {
        let now = (self.clock)().max(self.chain.time);
        let entries: Vec<_> = batch.iter().map(|s| s.body.encode(now)).collect();
        let (signer, mut chain) = (Arc::clone(&self.signer), self.chain.clone());
        let signed = move || {
            let tiles = grow(&mut chain, now, &entries);
            let from = chain.mmr.size().get() - entries.len() as u64;
            (sign_all(&signer, from, entries), tiles, chain)
        };
        let (signed, tiles, chain) = if batch.len() < PARALLEL_FROM {
            signed()
        } else {
            let done = tokio::task::spawn_blocking(signed).await;
            done.expect("hashing and signing do not panic")
        };
        let records = batch
            .iter()
            .zip(signed)
            .map(|(submission, (receipt, entry, signature))| {
                let counted = match &submission.body {
                    Body::Usage(usage) => Some(Counted {
                        usage: usage.clone(),
                        day: now.day(),
                    }),
                    Body::Log(_) => None,
                };
                let receipt_id = submission.receipt_id;
                Staged {
                    index: receipt.index(),
                    entry,
                    signature,
                    receipt_id,
                    counted,
                }
            });
        StagedBatch {
            records: records.collect(),
            tiles,
            chain,
        }
    }

    async fn commit(&self, staged: &StagedBatch) -> Result<(), AppendError> {
        let from = self.size();
        let (chain, records) = (&staged.chain, &staged.records);
        loop {
            let done = self
                .store
                .append(from, &chain.mmr, chain.time, records, &staged.tiles)
                .await;
            match done {
                Ok(()) => break,
                Err(AppendError::Store(error)) => self.wait_out(&error).await,
                Err(moved @ AppendError::Moved { .. }) => return Err(moved),
            }
            // An error may have come after the commit: look before trying again.
            match self.store.chain().await {
                Ok(there) if there.mmr == chain.mmr => break,
                Ok(_) | Err(_) => {}
            }
        }
        self.health.0.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn wait_out(&self, error: &StoreError) {
        self.health.0.store(false, Ordering::Relaxed);
        report(error);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn response(body: &Body) -> Option<Hash> {
    match body {
        Body::Usage(usage) => usage.response,
        Body::Log(_) => None,
    }
}

fn report(error: &(dyn std::error::Error + 'static)) {
    tracing::error!(error, "records can't be stored; trying again in a second");
}

struct StagedBatch {
    records: Vec<Staged>,
    tiles: Vec<TileRow>,
    chain: Chain,
}

fn sign(signer: &Signer, chain: &Chain) -> Committed {
    let origin = signer.verifier().origin().clone();
    let checkpoint = Checkpoint::new(origin, chain.mmr.size(), chain.mmr.root());
    let note = checkpoint.seal(signer).into();
    Committed {
        checkpoint,
        note,
        time: chain.time,
    }
}

/// Appends the entries to the tree; returns the tiles that changed.
fn grow(chain: &mut Chain, now: Time, entries: &[Vec<u8>]) -> Vec<TileRow> {
    let Chain { mmr, time, edges } = chain;
    *time = now;
    let mut tiles = Vec::new();
    let mut changed = HashSet::new();
    for entry in entries {
        mmr.append(Hash::leaf(entry), |node| {
            if node.height % 8 != 0 {
                return;
            }
            let level = u8::try_from(node.height / 8).expect("a height is below 64");
            if edges.len() <= level.into() {
                edges.resize(usize::from(level) + 1, Vec::new());
            }
            let edge = &mut edges[usize::from(level)];
            edge.push(node.hash);
            changed.insert(level);
            if edge.len() as u64 == WIDTH {
                tiles.push(TileRow {
                    level,
                    n: node.index / WIDTH,
                    hashes: std::mem::take(edge),
                });
                changed.remove(&level);
            }
        });
    }
    for level in changed {
        let n = (mmr.size().get() >> (8 * u32::from(level))) / WIDTH;
        tiles.push(TileRow {
            level,
            n,
            hashes: edges[usize::from(level)].clone(),
        });
    }
    tiles
}

/// Signs each entry's receipt, entries standing from index `from` on.
fn sign_all(
    signer: &Signer,
    from: u64,
    entries: Vec<Vec<u8>>,
) -> Vec<(Receipt, Vec<u8>, [u8; 64])> {
    let origin = signer.verifier().origin();
    let sign_one = |(offset, entry): (usize, Vec<u8>)| {
        let index = protocol::index::Index::new(from + offset as u64);
        let index = index.expect("a log does not reach 2^53 entries");
        let receipt = Receipt::new(origin.clone(), index, Hash::leaf(&entry));
        let signature = receipt.sign(signer);
        (receipt, entry, signature)
    };
    let count = entries.len();
    let numbered = entries.into_iter().enumerate();
    if count < PARALLEL_FROM {
        return numbered.map(sign_one).collect();
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut numbered: Vec<_> = numbered.collect();
    let share = count.div_ceil(threads);
    thread::scope(|scope| {
        let mut workers = Vec::with_capacity(threads);
        while !numbered.is_empty() {
            let rest = numbered.split_off(numbered.len().min(share));
            let part = std::mem::replace(&mut numbered, rest);
            workers.push(scope.spawn(|| part.into_iter().map(sign_one).collect::<Vec<_>>()));
        }
        let join = |worker: thread::ScopedJoinHandle<'_, Vec<_>>| {
            worker.join().expect("signing does not panic")
        };
        workers.into_iter().flat_map(join).collect()
    })
}

/// The line that each call logs, now that it has its index.
fn announce(submission: &Submission, staged: &Staged) {
    let Body::Usage(usage) = &submission.body else {
        return;
    };
    let outcome = usage.outcome.as_str();
    tracing::info!(
        target: "gateway::call",
        provider = usage.provider.as_str(),
        model = usage.model.as_ref().map_or("-", |m| m.as_str()),
        input = usage.counts.input,
        output = usage.counts.output,
        outcome,
        index = staged.index.get(),
        receipt = staged.receipt_id.map(tracing::field::display),
        "recorded",
    );
    metrics::counter!("tally_records_total", "provider" => usage.provider.as_str().to_owned(), "outcome" => outcome)
        .increment(1);
}

/// The system's clock, in whole seconds.
pub fn system_clock() -> Time {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    Time::from_secs(since.as_secs()).expect("the clock stands below 2^53 seconds")
}
