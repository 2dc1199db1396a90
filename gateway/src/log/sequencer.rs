//! The sequencer: the one place where entries get their indices.
//!
//! Order of effects for a batch: stage (indices, times, hashes; the root is
//! computed a second time from the bytes that will be stored; signatures),
//! commit (the size moves by compare-and-swap, with everything else, fsynced),
//! add to the sums, and only then release: receipts can be asked for, the
//! checkpoint is signed. The batch is what has piled up meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::checkpoint::Checkpoint;
use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::key::Signer;
use protocol::receipt::Receipt;
use protocol::tile::WIDTH;
use tokio::sync::watch;
use uuid::Uuid;

use super::calls::Call;
use super::pool::{Pool, Submission};
use super::sign::ReceiptSigner;
use super::stage::{self, StagedBatch};
use crate::ledger::{Ledger, Shared};
use crate::store::{Append, AppendError, Chain, Record, Store, StoreError};

/// Entries in one transaction, at the most.
const MAX_BATCH: usize = 4_096;

/// Retrievals that are remembered; older ones are looked up in the store.
const MAX_RETRIEVED: usize = 65_536;

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
    receipts: ReceiptSigner,
    clock: Clock,
    chain: Chain,
    committed: watch::Sender<Committed>,
    sums: Shared,
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
        receipts: ReceiptSigner,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let chain = store.chain().await?;
        let sums = Shared::new(load(&store, chain.mmr.size()).await?);
        let committed = watch::Sender::new(sign(&signer, &chain));
        let health = Health(Arc::new(AtomicBool::new(true)));
        Ok(Self {
            store,
            signer,
            receipts,
            clock,
            chain,
            committed,
            sums,
            health,
            retrieved: HashMap::new(),
        })
    }

    /// Follows what is committed.
    pub fn committed(&self) -> watch::Receiver<Committed> {
        self.committed.subscribe()
    }

    /// The sums over what is committed.
    pub fn sums(&self) -> Shared {
        self.sums.clone()
    }

    /// Follows whether records can be stored.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// The log's size.
    pub fn size(&self) -> TreeSize {
        self.chain.mmr.size()
    }

    /// Sequences what the pool gives until it is closed and empty; it signs on
    /// the thread that it is run on. What the
    /// store can't take is tried again until it can.
    ///
    /// # Errors
    /// Another writer moved the log: going on could show two histories.
    pub async fn run(mut self, pool: Arc<Pool>) -> Result<(), AppendError> {
        while let Some(mut submissions) = pool.take().await {
            // Somebody waits for the receipt of a call; nobody for a batch's lines.
            submissions.sort_by_key(|submission| submission.call.is_none());
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
        let batch = self.without_known_responses(batch).await?;
        if batch.is_empty() {
            return Ok(());
        }
        let staged = self.stage(&batch)?;
        let mentions: Vec<_> = batch.iter().map(mentioned).collect();
        self.commit(&staged, &mentions).await?;
        self.chain = staged.chain;
        self.add(&batch, &staged.records);
        self.committed.send_replace(sign(&self.signer, &self.chain));
        for (submission, staged) in batch.into_iter().zip(&staged.records) {
            announce(&submission, staged);
            if let Some(released) = submission.released {
                // Who asked may have left.
                let _ = released.send(self.receipt(staged));
            }
            if let Some(call) = submission.call {
                call.recorded();
            }
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
            match self.store.known_responses(responses).await {
                Ok(known) => {
                    self.health.0.store(true, Ordering::Relaxed);
                    return Ok(known);
                }
                Err(error) => self.wait_out(error).await?,
            }
        }
    }

    /// The batch as it will be stored.
    fn stage(&self, batch: &[Submission]) -> Result<StagedBatch, StoreError> {
        let now = (self.clock)().max(self.chain.time);
        let entries = batch.iter();
        let entries = entries
            .map(|s| (s.body.encode(now), s.receipt_id))
            .collect();
        let staged = stage::stage(self.chain.clone(), now, entries, &self.receipts);
        staged.map_err(|stage::Flipped| {
            StoreError::Damaged(
                "entries changed in memory after they were hashed; nothing was signed. Restart, \
                 and have this machine's memory tested",
            )
        })
    }

    /// Adds a batch that is committed to the sums.
    fn add(&self, batch: &[Submission], records: &[Arc<Record>]) {
        let mut sums = self.sums.write();
        for (submission, record) in batch.iter().zip(records) {
            let usage = match &submission.body {
                Body::Usage(usage) => Some(usage),
                Body::Log(_) => None,
            };
            sums.add(record.index, self.chain.time, usage);
        }
    }

    async fn commit(
        &self,
        staged: &StagedBatch,
        mentions: &[[Option<Hash>; 2]],
    ) -> Result<(), AppendError> {
        let chain = &staged.chain;
        let slices = self.sums.read().due(chain.mmr.size());
        let append = Append {
            from: self.size(),
            mmr: &chain.mmr,
            time: chain.time,
            records: &staged.records,
            mentions,
            sealed: &staged.sealed,
            tiles: &staged.tiles,
            slices: &slices,
        };
        loop {
            let done = self.store.append(append).await;
            match done {
                Ok(()) => break,
                Err(AppendError::Store(error)) => self.wait_out(error).await?,
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

    fn receipt(&self, staged: &Record) -> String {
        let verifier = self.signer.verifier();
        let (origin, leaf_hash) = (verifier.origin().clone(), Hash::leaf(&staged.entry));
        Receipt::new(origin, staged.index, leaf_hash).note(verifier, &staged.signature)
    }

    /// Waits before trying again, where that can help.
    async fn wait_out(&self, error: StoreError) -> Result<(), AppendError> {
        self.health.0.store(false, Ordering::Relaxed);
        if error.is_final() {
            return Err(error.into());
        }
        report(&error);
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }
}

fn response(body: &Body) -> Option<Hash> {
    match body {
        Body::Usage(usage) => usage.response,
        Body::Log(_) => None,
    }
}

/// By what an entry is found: its key id, and its response.
fn mentioned(submission: &Submission) -> [Option<Hash>; 2] {
    match &submission.body {
        Body::Usage(usage) => [usage.key_id, usage.response],
        Body::Log(_) => [None, None],
    }
}

fn report(error: &(dyn std::error::Error + 'static)) {
    tracing::error!(error, "records can't be stored; trying again in a second");
}

/// The sums over the first `size` entries: what was written of them, and the
/// entries since.
async fn load(store: &Store, size: TreeSize) -> Result<Ledger, StoreError> {
    let damaged = |_| StoreError::Damaged("a slice of the sums can't be read");
    let (mut ledger, from) = Ledger::load(&store.slices().await?).map_err(damaged)?;
    for n in from.get() / WIDTH..size.get().div_ceil(WIDTH) {
        for record in store.bundle(n, from).await? {
            let entry = Entry::parse(&record.entry);
            let entry = entry.map_err(|_| StoreError::Damaged("an entry can't be read"))?;
            let usage = match &entry {
                Entry::Known {
                    body: Body::Usage(usage),
                    ..
                } => Some(usage),
                _ => None,
            };
            ledger.add(record.index, entry.time(), usage);
        }
    }
    Ok(ledger)
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
    use crate::store::{Database, Store};
    use protocol::hash::receipt_commitment;
    use protocol::index::Index;
    use protocol::key::Origin;
    use protocol::name::Name;
    use protocol::record::{Counts, Outcome, Source, Usage};
    use protocol::tile::{Tile, TileKind, entries};
    use std::cell::Cell;
    use std::path::PathBuf;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(1_000) };
    }

    fn clock() -> Time {
        Time::from_secs(NOW.get()).expect("small")
    }

    /// A store in a folder of its own, removed when dropped.
    pub(super) struct Scratch {
        pub(super) folder: PathBuf,
        pub(super) store: Store,
    }

    impl Scratch {
        pub(super) async fn new() -> Self {
            Self::in_folder(Self::folder()).await
        }

        /// Another one, of the files as they are at the moment.
        pub(super) async fn copied(&self) -> Self {
            let folder = Self::folder();
            for name in ["tally.db", "tally.db-wal"] {
                let copied = std::fs::copy(self.folder.join(name), folder.join(name));
                copied.expect("a file of SQLite's");
            }
            Self::in_folder(folder).await
        }

        fn folder() -> PathBuf {
            let folder = std::env::temp_dir().join(format!("tally-sequencer-{}", Uuid::now_v7()));
            std::fs::create_dir(&folder).expect("a fresh folder");
            folder
        }

        async fn in_folder(folder: PathBuf) -> Self {
            let database = Database::Sqlite(folder.join("tally.db"));
            let store = Store::open(&database).await.expect("opens");
            Self { folder, store }
        }

        pub(super) async fn sequencer(&self) -> Sequencer {
            let origin = Origin::parse("log.example.org").expect("valid");
            let signer = Arc::new(Signer::new(origin, &[1; 32]));
            let receipts = ReceiptSigner::new(signer.verifier().clone(), &[1; 32]);
            let resumed = Sequencer::resume(self.store.clone(), signer, receipts, clock).await;
            resumed.expect("the store answers")
        }

        pub(super) async fn entry(&self, index: u64) -> String {
            let index = Index::new(index).expect("small");
            let record = self.store.record(index).await.expect("answers");
            String::from_utf8(record.expect("it is there").entry).expect("ASCII")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    pub(super) fn usage(response: Option<&str>, retrieval: Option<Uuid>) -> Submission {
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
        let scratch = Scratch::new().await;
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
            let committed = sequencer.committed().borrow().clone();
            assert_eq!(committed.checkpoint.size().get(), leaves.len() as u64);
            assert_eq!(committed.checkpoint.root(), tree_head(&leaves));

            for n in 0..=size.get() / WIDTH {
                let start = usize::try_from(n * WIDTH).expect("small");
                if let Some(tile) = Tile::within(TileKind::Hashes(0), n, size) {
                    let end = start + usize::from(tile.width());
                    let bytes = scratch
                        .store
                        .tile(&tile)
                        .await
                        .expect("answers")
                        .expect("there")
                        .plain()
                        .expect("whole");
                    let wanted: Vec<u8> = leaves[start..end]
                        .iter()
                        .flat_map(|h| *h.as_bytes())
                        .collect();
                    assert_eq!(bytes, wanted, "{tile:?} at {size}");
                    let bundle = Tile::within(TileKind::Entries, n, size).expect("as wide");
                    let bytes = scratch
                        .store
                        .tile(&bundle)
                        .await
                        .expect("answers")
                        .expect("there")
                        .plain()
                        .expect("whole");
                    let hashed: Vec<_> = entries(&bytes)
                        .expect("whole")
                        .into_iter()
                        .map(Hash::leaf)
                        .collect();
                    assert_eq!(hashed, &leaves[start..end], "{bundle:?} at {size}");
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
                let bytes = scratch
                    .store
                    .tile(&tile)
                    .await
                    .expect("answers")
                    .expect("there")
                    .plain()
                    .expect("whole");
                let wanted: Vec<u8> = leaves
                    .chunks_exact(256)
                    .flat_map(|full| *tree_head(full).as_bytes())
                    .collect();
                assert_eq!(bytes, wanted, "{tile:?} at {size}");
            }
        }
    }

    #[tokio::test]
    async fn a_second_writer_is_refused_and_writes_nothing() {
        let scratch = Scratch::new().await;
        let (mut first, mut second) = (scratch.sequencer().await, scratch.sequencer().await);
        first
            .append(vec![usage(None, None)])
            .await
            .expect("the first");
        let refused = second
            .append(vec![usage(None, None), usage(None, None)])
            .await;
        assert!(
            matches!(refused, Err(AppendError::Moved { .. })),
            "{refused:?}"
        );
        first
            .append(vec![usage(None, None)])
            .await
            .expect("still the only one");
        let mut late = scratch.sequencer().await;
        first
            .append(vec![usage(None, None)])
            .await
            .expect("still the only one");
        let refused = late.append(vec![usage(None, None)]).await;
        assert!(
            matches!(refused, Err(AppendError::Moved { .. })),
            "{refused:?}"
        );
        assert_eq!(scratch.sequencer().await.size(), first.size());
        assert_eq!(first.size().get(), 3);
    }

    #[tokio::test]
    async fn time_never_goes_back() {
        let scratch = Scratch::new().await;
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

    #[tokio::test]
    async fn a_response_is_retrieved_once_but_posted_as_often_as_it_comes() {
        let scratch = Scratch::new().await;
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
