//! The sequencer: the one place where entries get their indices.
//!
//! Order of effects for a batch: decide (which wallet each entry's key is bound
//! to, which bindings are valid there), stage (indices, times, hashes; the root is
//! computed a second time from the bytes that will be stored; signatures),
//! commit (the size moves by compare-and-swap, with everything else, fsynced),
//! add to the sums, take the checkpoint down in the head file, and only then
//! release: receipts can be asked for, the checkpoint is shown. The batch is what has piled up meanwhile, here or in
//! the inbox.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::totals::Totals;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::bind;
use super::calls::Call;
use super::follower::LOOK;
use super::lease::Lease;
use super::pool::{Pool, Submission};
use super::replica::Replica;
use super::stage::{self, StagedBatch};
use crate::ledger::Tree;
use crate::store::{
    Append, AppendError, Chain, Epoch, Head, InboxRow, MENTIONS, Named, Record, StoreError,
};

/// Entries in one transaction, at the most.
pub(super) const MAX_BATCH: usize = 4_096;

/// Between two looks whether a totals entry is due.
const TOTALS_LOOK: Duration = Duration::from_secs(1);

/// Retrievals that are remembered; older ones are looked up in the store.
const MAX_RETRIEVED: usize = 65_536;

/// Where time comes from.
pub type Clock = fn() -> Time;

/// Totals that are being summed up beside the log.
#[derive(Debug)]
struct Summing {
    /// Over how many entries.
    size: TreeSize,
    tree: JoinHandle<Tree>,
}

/// The writer of the log.
#[derive(Debug)]
pub struct Sequencer {
    pub(super) replica: Replica,
    clock: Clock,
    epoch: Epoch,
    chain: Chain,
    /// Responses that were retrieved of late, and by which retrieval.
    retrieved: HashMap<Hash, Uuid>,
    /// What could not be committed because another writer began its epoch.
    pub(super) unsettled: Vec<Submission>,
    /// Totals are asked for that leave out none of so many entries.
    asked: TreeSize,
}

impl Sequencer {
    /// Takes up the log where the store left it, as its writer in `epoch`.
    ///
    /// # Errors
    /// The store failed; `replica` is given back.
    pub async fn resume(
        mut replica: Replica,
        epoch: Epoch,
        clock: Clock,
    ) -> Result<Self, Box<(Replica, StoreError)>> {
        // In this order: no earlier writer appends any more.
        let caught_up = match replica.catch_up().await {
            Ok(()) => replica.settle_discarded().await,
            Err(error) => Err(error),
        };
        let chain = match caught_up {
            Ok(()) => replica.store.chain().await,
            Err(error) => Err(error),
        };
        let chain = match chain {
            Ok(chain) => chain,
            Err(error) => return Err(Box::new((replica, error))),
        };
        // A gateway that followed and began between two totals entries.
        let asked = match replica.sums().read().lacks_tree() {
            true => chain.mmr.size(),
            false => TreeSize::ZERO,
        };
        Ok(Self {
            replica,
            clock,
            epoch,
            chain,
            retrieved: HashMap::new(),
            unsettled: Vec::new(),
            asked,
        })
    }

    /// The log's size.
    pub fn size(&self) -> TreeSize {
        self.chain.mmr.size()
    }

    /// Sequences what the pool and the inbox give until the pool is closed and
    /// empty; it signs on the thread that it is run on. What the store can't
    /// take is tried again until it can.
    ///
    /// # Errors
    /// Another writer began its epoch, or moved the log: going on could show
    /// two histories.
    pub(super) async fn run(
        &mut self,
        pool: &Arc<Pool>,
        lease: &mut Lease,
    ) -> Result<(), AppendError> {
        let shared = self.replica.store.is_shared();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut totals = tokio::time::interval(TOTALS_LOOK);
        totals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut summing = None;
        loop {
            if summing.is_none() && self.is_asked() {
                summing = Some(self.sum_up());
            }
            tokio::select! {
                taken = pool.take() => match taken {
                    Some(submissions) => self.append_all(submissions).await?,
                    None => return Ok(()),
                },
                _ = look.tick(), if shared => self.empty_inbox().await?,
                _ = totals.tick() => {
                    if summing.is_none() && self.totals_wait(1, self.now()) {
                        summing = Some(self.sum_up());
                    }
                }
                (size, tree) = summed(&mut summing) => self.settle_beside(size, tree).await?,
                () = lease.lost() => return Err(AppendError::Deposed),
            }
        }
    }

    async fn append_all(&mut self, mut submissions: Vec<Submission>) -> Result<(), AppendError> {
        // Somebody waits for the receipt of a call; nobody for a batch's lines.
        submissions.sort_by_key(|submission| submission.call.is_none());
        while !submissions.is_empty() {
            let rest = submissions.split_off(submissions.len().min(MAX_BATCH));
            if let Err(error) = self.append(submissions).await {
                self.unsettled.extend(rest);
                return Err(error);
            }
            submissions = rest;
        }
        Ok(())
    }

    /// Appends what other gateways handed over.
    pub(super) async fn empty_inbox(&mut self) -> Result<(), AppendError> {
        loop {
            let rows = loop {
                match self.replica.store.inbox(MAX_BATCH).await {
                    Ok(rows) => break rows,
                    Err(error) => self.replica.health.wait_out(error).await?,
                }
            };
            self.replica.health.good();
            let all = rows.len() == MAX_BATCH;
            if rows.is_empty() {
                return Ok(());
            }
            let taken: Vec<i64> = rows.iter().map(|row| row.seq).collect();
            let rows = rows.into_iter().filter(|row| !row.recorded);
            let batch = rows.map(|row| self.taken(row)).collect::<Result<_, _>>()?;
            self.append_taken(batch, &taken).await?;
            if !all {
                return Ok(());
            }
        }
    }

    /// A row of the inbox, with who waits for it if that is this gateway.
    fn taken(&mut self, row: InboxRow) -> Result<Submission, StoreError> {
        let handed = row.handed;
        let Ok(Entry::Known { body, .. }) = Entry::parse(&handed.entry) else {
            return Err(StoreError::Damaged("an entry in the inbox can't be read"));
        };
        let waiting = self.replica.waiting.remove(&handed.receipt_id);
        let (call, released) = waiting.map_or((None, None), |w| (w.call, w.released));
        Ok(Submission {
            body,
            receipt_id: Some(handed.receipt_id),
            retrieval: handed.retrieval,
            released,
            call,
        })
    }

    /// Makes entries of `batch`, in its order. When it returns, they are durable.
    ///
    /// # Errors
    /// Another writer began its epoch, or moved the log.
    pub async fn append(&mut self, batch: Vec<Submission>) -> Result<(), AppendError> {
        self.append_taken(batch, &[]).await
    }

    /// The same for what was `taken` from the inbox, whose rows it removes.
    async fn append_taken(
        &mut self,
        batch: Vec<Submission>,
        taken: &[i64],
    ) -> Result<(), AppendError> {
        let batch = self.without_known_responses(batch).await?;
        let mut now = self.now();
        // No entry may stand over two intervals after one that is left out.
        if self.totals_wait(2, now) {
            if let Err(error) = self.settle_totals().await {
                self.unsettled = batch;
                return Err(error);
            }
            now = self.now();
        }
        let (asked, batch): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|s| matches!(s.body, Body::Totals(_)));
        if !asked.is_empty() {
            self.asked = self.size();
        }
        let (batch, refused) = {
            let sums = self.replica.sums();
            let (ledger, origin) = (sums.read(), self.replica.signer.verifier().origin());
            bind::decide(&ledger, origin, (self.size(), now), batch)
        };
        if batch.is_empty() {
            self.discard(taken).await?;
        } else {
            self.append_decided(batch, now, taken).await?;
        }
        drop(refused);
        Ok(())
    }

    /// Appends a totals entry over all that stands before it, if there is
    /// something that no totals entry covers; nothing is appended meanwhile.
    ///
    /// # Errors
    /// Another writer began its epoch, or moved the log.
    pub(super) async fn settle_totals(&mut self) -> Result<(), AppendError> {
        if !self.totals_wait(0, self.now()) {
            return Ok(());
        }
        let changes = self.replica.sums().read().changes();
        self.append_totals(self.size(), changes.make()).await
    }

    /// Whether totals are asked for that are not there yet.
    fn is_asked(&self) -> bool {
        let sums = self.replica.sums();
        let left_out = sums.read().left_out();
        let covered = left_out.is_none_or(|(index, _)| index.get() >= self.asked.get());
        !covered && self.totals_wait(0, self.now())
    }

    /// Sums up all that stands here now, beside the log.
    fn sum_up(&self) -> Summing {
        let (size, changes) = (self.size(), self.replica.sums().read().changes());
        let tree = tokio::task::spawn_blocking(|| changes.make());
        Summing { size, tree }
    }

    /// Appends a totals entry over the first `size` entries, unless one came
    /// that is over as many.
    async fn settle_beside(&mut self, size: TreeSize, tree: Tree) -> Result<(), AppendError> {
        let (newest, remembers) = {
            let sums = self.replica.sums();
            let ledger = sums.read();
            (ledger.newest_totals(), ledger.remembers(size))
        };
        if newest.is_some_and(|(_, totals)| totals.size >= size) {
            return Ok(());
        }
        match remembers {
            true => self.append_totals(size, tree).await,
            // The log outran it.
            false => self.settle_totals().await,
        }
    }

    async fn append_totals(&mut self, size: TreeSize, tree: Tree) -> Result<(), AppendError> {
        let tree = Arc::new(tree);
        let body = Body::Totals(Totals {
            size,
            count: tree.count(),
            root: tree.root(),
        });
        self.replica.sums().write().stage_tree(tree);
        let totals = Submission {
            body,
            receipt_id: None,
            retrieval: None,
            released: None,
            call: None,
        };
        self.append_decided(vec![totals], self.now(), &[]).await
    }

    /// Whether an entry has been left out for so many intervals at `now`, in a
    /// log whose rules know totals.
    fn totals_wait(&self, intervals: u64, now: Time) -> bool {
        let sums = self.replica.sums();
        let ledger = sums.read();
        let genesis = ledger.genesis().filter(|genesis| genesis.binds);
        let since = genesis.zip(ledger.left_out().map(|(_, time)| time));
        since.is_some_and(|(genesis, since)| {
            let waits = now.secs().saturating_sub(since.secs());
            let promised = genesis.totals_interval.saturating_mul(intervals);
            // After two intervals it is too late; after one it is due.
            waits >= promised + u64::from(intervals == 2)
        })
    }

    /// The time of entries that are appended now.
    fn now(&self) -> Time {
        (self.clock)().max(self.chain.time)
    }

    async fn append_decided(
        &mut self,
        batch: Vec<Submission>,
        now: Time,
        taken: &[i64],
    ) -> Result<(), AppendError> {
        let staged = self.stage(&batch, now)?;
        if let Err(error) = self.commit(&staged, &batch, taken).await {
            // A totals entry is the next writer's to make.
            self.unsettled = batch;
            self.unsettled
                .retain(|s| !matches!(s.body, Body::Totals(_)));
            return Err(error);
        }
        self.chain = staged.chain;
        let head = Head {
            mmr: self.chain.mmr.clone(),
            time: self.chain.time,
        };
        self.replica.advance(head, &batch, &staged.records).await?;
        for (submission, staged) in batch.into_iter().zip(&staged.records) {
            announce(&submission, staged);
            if let Some(released) = submission.released {
                // Who asked may have left.
                let _ = released.send(self.replica.receipt(staged));
            }
            if let Some(call) = submission.call {
                call.recorded();
            }
        }
        Ok(())
    }

    /// Removes rows of the inbox that give no record.
    async fn discard(&self, taken: &[i64]) -> Result<(), AppendError> {
        if taken.is_empty() {
            return Ok(());
        }
        while let Err(error) = self.replica.store.discard(taken).await {
            self.replica.health.wait_out(error).await?;
        }
        Ok(())
    }

    /// Drops what was retrieved though the log has it already: from a POST,
    /// or from another retrieval. The lines of one retrieval stand each for
    /// itself.
    async fn without_known_responses(
        &mut self,
        batch: Vec<Submission>,
    ) -> Result<Vec<Submission>, AppendError> {
        let retrieved = batch.iter().filter(|s| s.retrieval.is_some());
        let asked: Vec<Hash> = retrieved.filter_map(|s| response(&s.body)).collect();
        if asked.is_empty() {
            return Ok(batch);
        }
        let mut stored = self.stored(&asked).await?;
        if self.retrieved.len() > MAX_RETRIEVED {
            self.retrieved.clear();
        }
        let mut kept = Vec::with_capacity(batch.len());
        for submission in batch {
            match (response(&submission.body), submission.retrieval) {
                (Some(response), Some(retrieval)) => {
                    let known = match self.retrieved.get(&response) {
                        Some(by) => *by != retrieval,
                        None => stored.contains(&response),
                    };
                    if known {
                        submission.call.into_iter().for_each(Call::no_record);
                        continue;
                    }
                    self.retrieved.insert(response, retrieval);
                }
                (Some(response), None) => {
                    stored.insert(response);
                }
                (None, _) => {}
            }
            kept.push(submission);
        }
        Ok(kept)
    }

    /// Which of these commitments entries hold.
    async fn stored(&self, responses: &[Hash]) -> Result<HashSet<Hash>, AppendError> {
        loop {
            match self.replica.store.known_responses(responses).await {
                Ok(known) => {
                    self.replica.health.good();
                    return Ok(known);
                }
                Err(error) => self.replica.health.wait_out(error).await?,
            }
        }
    }

    /// The batch as it will be stored.
    fn stage(&self, batch: &[Submission], now: Time) -> Result<StagedBatch, StoreError> {
        let entries = batch.iter();
        let entries = entries
            .map(|s| (s.body.encode(now), s.receipt_id))
            .collect();
        let staged = stage::stage(self.chain.clone(), now, entries, &self.replica.receipts);
        staged.map_err(|stage::Flipped| {
            StoreError::Damaged(
                "entries changed in memory after they were hashed; nothing was signed. Restart, \
                 and have this machine's memory tested",
            )
        })
    }

    async fn commit(
        &self,
        staged: &StagedBatch,
        batch: &[Submission],
        taken: &[i64],
    ) -> Result<(), AppendError> {
        let (chain, store) = (&staged.chain, &self.replica.store);
        let slices = self.replica.sums().read().due(chain.mmr.size());
        let mentions: Vec<_> = batch.iter().map(mentioned).collect();
        let append = Append {
            epoch: self.epoch,
            from: self.size(),
            mmr: &chain.mmr,
            time: chain.time,
            records: &staged.records,
            mentions: &mentions,
            sealed: &staged.sealed,
            tiles: &staged.tiles,
            slices: &slices,
            taken,
        };
        loop {
            let done = store.append(append).await;
            match done {
                Ok(()) => break,
                Err(AppendError::Store(error)) => self.replica.health.wait_out(error).await?,
                Err(refused) => return Err(refused),
            }
            // An error may have come after the commit: look before trying again.
            match store.head().await {
                Ok(there) if there.mmr == chain.mmr => break,
                Ok(_) | Err(_) => {}
            }
        }
        self.replica.health.good();
        Ok(())
    }
}

/// What was summed up, once it is; never, while nothing is.
async fn summed(summing: &mut Option<Summing>) -> (TreeSize, Tree) {
    let Some(Summing { size, tree }) = summing else {
        return std::future::pending().await;
    };
    let done = (
        *size,
        tree.await.expect("it does not panic and is not aborted"),
    );
    *summing = None;
    done
}

fn response(body: &Body) -> Option<Hash> {
    match body {
        Body::Usage(usage) => usage.response,
        Body::Log(_) | Body::Binding(_) | Body::Totals(_) | Body::Anchor(_) => None,
    }
}

/// By what an entry is found: its key id, its response, its wallet.
fn mentioned(submission: &Submission) -> [Option<Hash>; MENTIONS] {
    match &submission.body {
        Body::Usage(usage) => {
            let wallet = usage.wallet;
            let wallet = wallet.map(|(wallet, link)| Named::Wallet(wallet, link).mention());
            [usage.key_id, usage.response, wallet]
        }
        Body::Log(_) | Body::Binding(_) | Body::Totals(_) | Body::Anchor(_) => [None; MENTIONS],
    }
}

/// The line that each call logs, now that it has its index.
fn announce(submission: &Submission, staged: &Record) {
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

#[cfg(test)]
mod faults;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::head::HeadFile;
    use crate::log::sign::ReceiptSigner;
    use crate::postgres::Server;
    use crate::store::{Coding, Database, Handed, Store};
    use flate2::read::GzDecoder;
    use protocol::anchor::Place;
    use protocol::entry::{self, RULES, RULES_WITHOUT_BINDINGS};
    use protocol::hash::receipt_commitment;
    use protocol::index::Index;
    use protocol::key::{Origin, Signer};
    use protocol::mmr::Mmr;
    use protocol::name::{Address, Name};
    use protocol::record::{Counts, Link, Outcome, Source, Usage};
    use protocol::tile::{Tile, TileKind, WIDTH, entries};
    use std::cell::Cell;
    use std::io::Read as _;
    use std::path::PathBuf;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(1_000) };
    }

    pub(super) fn clock() -> Time {
        Time::from_secs(NOW.get()).expect("small")
    }

    /// A store of its own, removed when dropped.
    pub(super) struct Scratch {
        pub(super) folder: PathBuf,
        pub(super) database: Database,
        pub(super) store: Store,
    }

    impl Scratch {
        /// One in SQLite and one in PostgreSQL.
        pub(super) async fn both() -> [Self; 2] {
            let folder = || std::env::temp_dir().join(format!("tally-{}", Uuid::now_v7()));
            let sqlite = folder();
            let postgres = Database::Postgres(Server::shared().database());
            [
                Self::open(sqlite.clone(), &Database::Sqlite(sqlite.join("tally.db"))).await,
                Self::open(folder(), &postgres).await,
            ]
        }

        async fn open(folder: PathBuf, database: &Database) -> Self {
            std::fs::create_dir(&folder).expect("a fresh folder");
            let store = Store::open(database).await.expect("opens");
            Self {
                folder,
                database: database.clone(),
                store,
            }
        }

        /// The same gateway's next turn.
        async fn sequencer(&self) -> Sequencer {
            let epoch = self.store.take(Uuid::from_u128(1)).await.expect("answers");
            self.sequencer_in(epoch.expect("nobody else has it")).await
        }

        async fn sequencer_in(&self, epoch: Epoch) -> Sequencer {
            let resumed = Sequencer::resume(self.replica().await, epoch, clock).await;
            resumed.expect("the store answers")
        }

        async fn replica(&self) -> Replica {
            let head_file = HeadFile::at(self.folder.join(format!("{}.head", Uuid::now_v7())));
            replica(self.store.clone(), head_file).await
        }

        pub(super) async fn entry(&self, index: u64) -> String {
            let index = Index::new(index).expect("small");
            let record = self.store.record(index).await.expect("answers");
            String::from_utf8(record.expect("it is there").entry).expect("ASCII")
        }
    }

    pub(super) async fn replica(store: Store, head_file: HeadFile) -> Replica {
        let origin = Origin::parse("log.example.org").expect("valid");
        let signer = Arc::new(Signer::new(origin, &[1; 32]));
        let receipts = ReceiptSigner::new(signer.verifier().clone(), &[1; 32]);
        let opened = Replica::open(store, signer, receipts, head_file).await;
        opened.expect("the store answers")
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    fn usage(response: Option<&str>, retrieval: Option<Uuid>) -> Submission {
        usage_of(Uuid::now_v7(), response, retrieval)
    }

    pub(super) fn usage_of(
        id: Uuid,
        response: Option<&str>,
        retrieval: Option<Uuid>,
    ) -> Submission {
        let body = Body::Usage(Usage {
            receipt: receipt_commitment(id.as_bytes()),
            key_id: Some(Hash::of(b"somebody")),
            wallet: None,
            source: Source::Proxy,
            provider: Name::new("openai").expect("valid"),
            model: None,
            counts: Counts {
                input: Some(1),
                ..Counts::NONE
            },
            outcome: Outcome::Complete,
            inconsistent: false,
            response: response.map(|r| Hash::of(r.as_bytes())),
        });
        Submission {
            body,
            receipt_id: Some(id),
            retrieval,
            released: None,
            call: None,
        }
    }

    /// RFC 6962 section 2.1, as it is written.
    fn tree_head(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::EMPTY_ROOT,
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                Hash::node(&tree_head(left), &tree_head(right))
            }
        }
    }

    #[tokio::test]
    async fn tiles_bundles_and_roots_are_those_of_the_entries() {
        for scratch in Scratch::both().await {
            let mut leaves = vec![];
            for batch in [1, 3, 31, 32, 188, 1, 1, 300, 256] {
                // Taken up anew each time, as after a restart.
                let mut sequencer = scratch.sequencer().await;
                let submissions = (0..batch).map(|_| usage(None, None)).collect();
                sequencer.append(submissions).await.expect("one writer");
                let size = sequencer.size();
                for index in leaves.len() as u64..size.get() {
                    leaves.push(Hash::leaf(scratch.entry(index).await.as_bytes()));
                }
                let committed = sequencer.replica.committed().borrow().clone();
                assert_eq!(committed.checkpoint.size().get(), leaves.len() as u64);
                assert_eq!(committed.checkpoint.root(), tree_head(&leaves));

                let there = async |tile: &Tile| {
                    let bytes = scratch.store.tile(tile).await.expect("answers");
                    bytes.expect("there")
                };
                for n in 0..=size.get() / WIDTH {
                    let Some(tile) = Tile::within(TileKind::Hashes(0), n, size) else {
                        continue;
                    };
                    let start = usize::try_from(n * WIDTH).expect("small");
                    let leaves = &leaves[start..start + usize::from(tile.width())];
                    assert_eq!(there(&tile).await, bytes(leaves), "{tile:?} at {size}");
                    let bundle = Tile::within(TileKind::Entries, n, size).expect("as wide");
                    let stored = there(&bundle).await;
                    let hashed = entries(&stored).expect("whole").into_iter();
                    let hashed: Vec<_> = hashed.map(Hash::leaf).collect();
                    assert_eq!(hashed, leaves, "{bundle:?} at {size}");
                    if u64::from(bundle.width()) == WIDTH {
                        let gzip = scratch.store.full_tile(&bundle, Coding::Gzip).await;
                        let gzip = gzip.expect("answers").expect("there");
                        let mut plain = Vec::new();
                        let read = GzDecoder::new(&*gzip).read_to_end(&mut plain);
                        read.expect("whole");
                        assert_eq!(plain, stored, "{bundle:?} at {size}");
                    }
                }
                for at in (0..=leaves.len()).rev().step_by(23) {
                    let size = TreeSize::new(at as u64).expect("small");
                    let root = scratch.store.root_at(size).await.expect("answers");
                    assert_eq!(root, Some(tree_head(&leaves[..at])), "at {at}");
                }
                let above = TreeSize::new(size.get() + 1).expect("small");
                assert_eq!(scratch.store.root_at(above).await.expect("answers"), None);
                if let Some(tile) = Tile::within(TileKind::Hashes(1), 0, size) {
                    let wanted: Vec<_> = leaves.chunks_exact(256).map(tree_head).collect();
                    assert_eq!(there(&tile).await, bytes(&wanted), "{tile:?} at {size}");
                }
            }
        }
    }

    fn bytes(hashes: &[Hash]) -> Vec<u8> {
        hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
    }

    fn records(count: usize) -> Vec<Submission> {
        (0..count).map(|_| usage(None, None)).collect()
    }

    #[tokio::test]
    async fn entries_are_found_by_what_they_name() {
        for scratch in Scratch::both().await {
            let mut sequencer = scratch.sequencer().await;
            let wallet = |n: u64| Address::from_bytes([n as u8; 20]);
            let named = |n: u64| {
                let mut submission = usage(None, None);
                if let Body::Usage(usage) = &mut submission.body {
                    usage.wallet = (n > 0).then(|| (wallet(n), Link::Claimed));
                }
                submission
            };
            // Over more than a bundle, in several batches.
            let owner = |index: u64| index % 7 % 4;
            for first in [0, 150, 300] {
                let batch = (first..first + 150).map(|index| named(owner(index)));
                sequencer.append(batch.collect()).await.expect("one writer");
            }
            let somebody = Hash::of(b"somebody");
            for (named, holds) in [
                (Named::Wallet(wallet(1), Link::Claimed), Some(1)),
                (Named::Wallet(wallet(3), Link::Claimed), Some(3)),
                (Named::Wallet(wallet(1), Link::Bound), Some(99)),
                (Named::Wallet(wallet(9), Link::Claimed), Some(99)),
                (Named::Key(somebody), None),
            ] {
                for (range, limit) in [
                    (0..450, 1_000),
                    (0..450, 7),
                    (200..450, 1_000),
                    (13..299, 20),
                    (449..450, 1),
                    (450..450, 9),
                ] {
                    let all = range.clone();
                    let all = all.filter(|index| holds.is_none_or(|n| owner(*index) == n));
                    let all: Vec<u64> = all.collect();
                    let page = scratch.store.naming(&named, range.clone(), limit).await;
                    let page = page.expect("answers");
                    let found: Vec<u64> = page.records.iter().map(|r| r.index.get()).collect();
                    let first = &all[..all.len().min(limit as usize)];
                    assert_eq!(found, first, "{named:?} in {range:?}");
                    assert_eq!(page.more, first.len() < all.len(), "{named:?} in {range:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn the_newest_entries_of_a_wallet_and_a_key_are_found_across_epochs() {
        // About an epoch of the mention table, 16,384 entries, and a little more.
        const SIZE: usize = 16_500;
        const PLACES: [u64; 6] = [0, 5, 300, 16_383, 16_384, 16_480];
        let wallet = Address::from_bytes([7; 20]);
        let other = Address::from_bytes([8; 20]);
        let mut all = records(SIZE);
        for place in PLACES {
            let submission = &mut all[usize::try_from(place).expect("small")];
            let Body::Usage(usage) = &mut submission.body else {
                panic!("a usage entry");
            };
            usage.wallet = Some((wallet, Link::Claimed));
        }
        for scratch in Scratch::both().await {
            let mut sequencer = scratch.sequencer().await;
            for batch in all.chunks(4_000) {
                let again = batch.iter().map(|submission| Submission {
                    body: submission.body.clone(),
                    receipt_id: Some(Uuid::now_v7()),
                    retrieval: None,
                    released: None,
                    call: None,
                });
                sequencer.append(again.collect()).await.expect("one writer");
            }
            let store = &scratch.store;
            let check = async |wallet, link, below: u64, limit, expected: &[u64]| {
                let named = Named::Wallet(wallet, link);
                let found = store.newest(&named, below, limit).await.expect("answers");
                let found: Vec<_> = found.iter().map(|r| r.index.get()).collect();
                assert_eq!(found, expected, "{limit} below {below}");
            };
            let size = SIZE as u64;
            let newest: Vec<_> = PLACES.iter().rev().copied().collect();
            check(wallet, Link::Claimed, size, 100, &newest).await;
            check(wallet, Link::Claimed, size, 6, &newest).await;
            check(wallet, Link::Claimed, size, 3, &newest[..3]).await;
            check(wallet, Link::Claimed, size, 1, &newest[..1]).await;
            check(wallet, Link::Claimed, 16_384, 2, &newest[2..4]).await;
            check(wallet, Link::Claimed, 5, 9, &[0]).await;
            check(wallet, Link::Bound, size, 9, &[]).await;
            check(other, Link::Claimed, size, 9, &[]).await;
            let somebody = Named::Key(Hash::of(b"somebody"));
            let found = store.newest(&somebody, size, 200).await.expect("answers");
            let found: Vec<_> = found.iter().map(|r| r.index.get()).collect();
            assert_eq!(found, (size - 200..size).rev().collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn a_second_writer_is_refused_and_writes_nothing() {
        for scratch in Scratch::both().await {
            let epoch = scratch.store.take(Uuid::from_u128(1)).await;
            let epoch = epoch.expect("answers").expect("free");
            // In one epoch, which never happens, the size alone decides.
            let mut first = scratch.sequencer_in(epoch).await;
            let mut second = scratch.sequencer_in(epoch).await;
            first.append(records(1)).await.expect("the first");
            for _ in 0..2 {
                let refused = second.append(records(2)).await;
                assert!(
                    matches!(refused, Err(AppendError::Moved { .. })),
                    "{refused:?}"
                );
            }
            first.append(records(1)).await.expect("as it stands");
            assert_eq!(scratch.sequencer_in(epoch).await.size().get(), 2);

            // A later epoch ends the earlier one, though the size fits.
            let mut third = scratch.sequencer().await;
            let refused = first.append(records(3)).await;
            assert!(matches!(refused, Err(AppendError::Deposed)), "{refused:?}");
            assert_eq!(first.unsettled.len(), 3, "kept to be handed over");
            third.append(records(1)).await.expect("the writer");
            assert_eq!(scratch.sequencer().await.size().get(), 3);
        }
    }

    /// Entry 0.
    fn begins(writer: &Sequencer, rules: u64) -> Submission {
        let body = Body::Log(entry::Log {
            key: writer.replica.signer.verifier().clone(),
            rules,
            totals_interval: 600,
            publish_max: 10,
            evm_key: Address::from_bytes([7; 20]),
        });
        Submission {
            body,
            receipt_id: None,
            ..usage(None, None)
        }
    }

    #[tokio::test]
    async fn a_chain_is_named_once_however_many_gateways_see_the_contract() {
        let on = |chain_id| Submission {
            body: Body::Anchor(Place {
                chain_id,
                contract: Address::from_bytes([9; 20]),
            }),
            ..usage(None, None)
        };
        for (rules, size) in [(RULES, 3), (RULES_WITHOUT_BINDINGS, 1)] {
            for scratch in Scratch::both().await {
                let mut writer = scratch.sequencer().await;
                let log = begins(&writer, rules);
                writer.append(vec![log]).await.expect("the writer");
                let both = vec![on(1), on(8_453), on(1)];
                writer.append(both).await.expect("the writer");
                assert_eq!(writer.size().get(), size);
                let mut resumed = scratch.sequencer().await;
                let again = vec![on(8_453), on(1)];
                resumed.append(again).await.expect("the writer");
                assert_eq!(resumed.size().get(), size, "after a restart");
            }
        }
    }

    #[tokio::test]
    async fn what_waits_behind_a_late_totals_entry_is_kept_by_a_deposed_writer() {
        for scratch in Scratch::both().await {
            NOW.set(1_000);
            let mut first = scratch.sequencer().await;
            let log = begins(&first, RULES);
            first.append(vec![log]).await.expect("the writer");
            first.append(records(1)).await.expect("the writer");
            let mut second = scratch.sequencer().await;
            // Over two intervals later a totals entry goes first.
            NOW.set(2_300);
            let refused = first.append(records(3)).await;
            assert!(matches!(refused, Err(AppendError::Deposed)), "{refused:?}");
            assert_eq!(first.unsettled.len(), 3, "kept to be handed over");
            second.append(records(3)).await.expect("the writer");
            assert!(scratch.entry(2).await.contains(r#""kind":"totals""#));
            assert_eq!(second.size().get(), 6);
        }
    }

    #[tokio::test]
    async fn a_lease_is_one_gateways_until_it_ends() {
        let [sqlite, postgres] = Scratch::both().await;
        let [one, two] = [1, 2].map(Uuid::from_u128);
        let store = &postgres.store;
        let first = store.take(one).await.expect("answers").expect("free");
        assert_eq!(store.take(two).await.expect("answers"), None);
        assert!(store.renew(one).await.expect("answers"), "it has it");
        assert!(!store.renew(two).await.expect("answers"), "it has it not");
        store.release(two).await.expect("answers");
        assert_eq!(store.take(two).await.expect("answers"), None);
        store.release(one).await.expect("answers");
        let second = store.take(two).await.expect("answers").expect("free");
        assert_ne!(first, second);
        assert!(!store.renew(one).await.expect("answers"), "it lost it");
        // SQLite's only gateway is asked no such thing.
        for holder in [one, two] {
            assert!(sqlite.store.take(holder).await.expect("answers").is_some());
        }
    }

    #[tokio::test]
    async fn what_is_handed_over_is_recorded_once() {
        let [_, scratch] = Scratch::both().await;
        let mut writer = scratch.sequencer().await;
        let mut other = scratch.replica().await;
        let never = Time::from_secs(0).expect("zero");
        let handed = |submission: &Submission| Handed {
            receipt_id: submission.receipt_id.expect("one"),
            entry: submission.body.encode(never),
            retrieval: submission.retrieval,
        };
        let one = handed(&usage(Some("a"), None));
        for again in [false, true, true] {
            let rows = [one.clone(), one.clone()];
            scratch.store.hand_over(&rows).await.expect("answers");
            scratch.store.hand_over(&rows).await.expect("answers");
            let rows = scratch.store.inbox(9).await.expect("answers");
            assert_eq!((rows.len(), rows[0].recorded), (1, again));
            writer.empty_inbox().await.expect("the writer");
            assert_eq!(writer.size().get(), 1);
            assert!(scratch.store.inbox(9).await.expect("answers").is_empty());
        }
        // Who handed over is told: by the receipt, or that there is none.
        let (released, mut receipt) = tokio::sync::oneshot::channel();
        let mut asked = usage(None, None);
        asked.released = Some(released);
        let known = usage(Some("a"), Some(Uuid::now_v7()));
        let known_id = known.receipt_id.expect("one");
        let batch = vec![asked, known];
        other.hand_over(batch).await.expect("answers");
        let ids = || vec![known_id];
        let none = scratch.store.discarded(ids()).await.expect("answers");
        assert!(none.is_empty(), "it may yet be recorded");
        writer.empty_inbox().await.expect("the writer");
        assert_eq!(writer.size().get(), 2);
        assert_eq!(
            scratch.store.discarded(ids()).await.expect("answers"),
            [known_id]
        );
        assert!(receipt.try_recv().is_err(), "not before it is seen there");
        other.catch_up().await.expect("answers");
        let note = receipt.try_recv().expect("released");
        let key = other.signer.verifier();
        let opened = protocol::receipt::Receipt::open(note.as_bytes(), key).expect("genuine");
        assert_eq!(opened.index().get(), 1);
        let (theirs, ours) = (other.committed(), writer.replica.committed());
        assert_eq!(theirs.borrow().note, ours.borrow().note);
    }

    #[tokio::test]
    async fn a_replica_signs_nothing_that_does_not_go_on_from_what_it_saw() {
        for scratch in Scratch::both().await {
            let mut writer = scratch.sequencer().await;
            writer.append(records(3)).await.expect("one writer");
            let mut replica = scratch.replica().await;
            writer.append(records(2)).await.expect("one writer");
            replica.catch_up().await.expect("as it was appended");
            let seen = replica.committed().borrow().note.clone();
            let mut other = Mmr::EMPTY;
            for n in 0..5_u8 {
                other.append(Hash::leaf(&[n]), |_| {});
            }
            for history in [other, Mmr::EMPTY] {
                replica.store.forge(&history).await;
                let refused = replica.catch_up().await;
                assert!(
                    matches!(refused, Err(StoreError::Damaged(_))),
                    "{refused:?}"
                );
                assert_eq!(replica.committed().borrow().note, seen);
            }
        }
    }

    #[tokio::test]
    async fn time_never_goes_back() {
        for scratch in Scratch::both().await {
            let mut sequencer = scratch.sequencer().await;
            for (now, expected) in [(5_000, 5_000), (1_400, 5_000), (5_001, 5_001)] {
                NOW.set(now);
                sequencer
                    .append(vec![usage(None, None)])
                    .await
                    .expect("one writer");
                let entry = scratch.entry(sequencer.size().get() - 1).await;
                assert!(entry.contains(&format!(r#""time":{expected},"#)), "{entry}");
                // Also over a restart.
                sequencer = scratch.sequencer().await;
            }
        }
    }

    #[tokio::test]
    async fn a_response_is_retrieved_once_but_posted_as_often_as_it_comes() {
        for scratch in Scratch::both().await {
            let mut sequencer = scratch.sequencer().await;
            let (one, two) = (Some(Uuid::now_v7()), Some(Uuid::now_v7()));
            for (claim, batch, size) in [
                (
                    "a retrieval of something new",
                    vec![usage(Some("a"), one)],
                    1,
                ),
                (
                    "the same retrieval's next line",
                    vec![usage(Some("a"), one)],
                    2,
                ),
                ("another retrieval", vec![usage(Some("a"), two)], 2),
                (
                    "two posts of one id",
                    vec![usage(Some("b"), None), usage(Some("b"), None)],
                    4,
                ),
                ("what was posted", vec![usage(Some("b"), two)], 4),
                (
                    "what is posted just before",
                    vec![usage(Some("c"), None), usage(Some("c"), one)],
                    5,
                ),
                ("no id at all", vec![usage(None, one), usage(None, one)], 7),
            ] {
                sequencer.append(batch).await.expect("one writer");
                assert_eq!(sequencer.size().get(), size, "{claim}");
            }
            let mut resumed = scratch.sequencer().await;
            resumed
                .append(vec![usage(Some("a"), Some(Uuid::now_v7()))])
                .await
                .expect("one writer");
            assert_eq!(resumed.size().get(), 7, "after a restart");
        }
    }
}
