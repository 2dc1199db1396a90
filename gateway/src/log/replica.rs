//! The replica: what every gateway keeps of the log, whether it writes or not.
//!
//! Its size, peaks and sums in memory, the newest checkpoint, and the calls
//! that wait for records that were handed over. What another gateway wrote is
//! hashed again here, and nothing is signed that does not follow from what was
//! signed before.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::checkpoint::Checkpoint;
use protocol::entry::Entry;
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::key::Signer;
use protocol::receipt::Receipt;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::calls::Call;
use super::head::HeadFile;
use super::pool::Submission;
use super::sign::ReceiptSigner;
use crate::ledger::{Contradiction, Ledger, Shared};
use crate::store::{Head, Record, Store, StoreError};

/// Entries that are read at once.
const CHUNK: u64 = 4_096;

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

/// How this gateway fares. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Signs>);

#[derive(Debug, Default)]
struct Signs {
    failing: AtomicBool,
    unpublished: AtomicBool,
    writer: AtomicBool,
}

impl Health {
    /// Whether records could be stored, or handed over, and published of late.
    pub fn is_good(&self) -> bool {
        let Signs {
            failing,
            unpublished,
            ..
        } = &*self.0;
        !failing.load(Ordering::Relaxed) && !unpublished.load(Ordering::Relaxed)
    }

    /// Whether this gateway is the log's writer.
    pub fn is_writer(&self) -> bool {
        self.0.writer.load(Ordering::Relaxed)
    }

    pub(super) fn good(&self) {
        self.0.failing.store(false, Ordering::Relaxed);
    }

    pub(crate) fn publishes(&self, publishes: bool) {
        self.0.unpublished.store(!publishes, Ordering::Relaxed);
    }

    pub(super) fn writes(&self, writes: bool) {
        self.0.writer.store(writes, Ordering::Relaxed);
    }

    /// Waits before what failed is tried again, where that can help.
    pub(super) async fn wait_out(&self, error: StoreError) -> Result<(), StoreError> {
        if error.is_final() {
            self.0.failing.store(true, Ordering::Relaxed);
            return Err(error);
        }
        self.pause(&error).await;
        Ok(())
    }

    /// Waits before what failed is tried again.
    async fn pause(&self, error: &(dyn std::error::Error + 'static)) {
        self.0.failing.store(true, Ordering::Relaxed);
        report(error);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Who waits for a record that was handed over.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) call: Option<Call>,
    pub(super) released: Option<oneshot::Sender<String>>,
}

/// What this gateway keeps of the log.
#[derive(Debug)]
pub struct Replica {
    pub(super) store: Store,
    pub(super) signer: Arc<Signer>,
    pub(super) receipts: ReceiptSigner,
    pub(super) health: Health,
    pub(super) waiting: HashMap<Uuid, Waiting>,
    head_file: HeadFile,
    head: Head,
    committed: watch::Sender<Committed>,
    sums: Shared,
}

impl Replica {
    /// Reads the log as it stands in the store. What is signed from here on
    /// is taken down in `head_file`.
    ///
    /// # Errors
    /// The store failed.
    pub async fn open(
        store: Store,
        signer: Arc<Signer>,
        receipts: ReceiptSigner,
        head_file: HeadFile,
    ) -> Result<Self, StoreError> {
        let (head, slices) = store.slices().await?;
        // What will be signed hangs on the peaks: a damaged one would be a fork.
        if store.root_at(head.mmr.size()).await? != Some(head.mmr.root()) {
            return Err(StoreError::Damaged(
                "its entries do not give the root that was committed; restore the newest copy",
            ));
        }
        let damaged = |_| StoreError::Damaged("a slice of the sums can't be read");
        let (mut ledger, from) = Ledger::load(&slices).map_err(damaged)?;
        for first in store.range(0, 1).await? {
            begin(&mut ledger, &first)?;
        }
        let mut next = from.get();
        while next < head.mmr.size().get() {
            let to = head.mmr.size().get().min(next + CHUNK);
            for record in whole(store.range(next, to).await?, next, to)? {
                add(&mut ledger, &record)?;
            }
            next = to;
        }
        ledger.go_live().map_err(contradicted)?;
        let committed = watch::Sender::new(sign(&signer, &head));
        Ok(Self {
            store,
            signer,
            receipts,
            health: Health::default(),
            waiting: HashMap::new(),
            head_file,
            head,
            committed,
            sums: Shared::new(ledger),
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

    /// How this gateway fares.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// The log's size.
    pub fn size(&self) -> TreeSize {
        self.head.mmr.size()
    }

    /// A batch of our own is committed.
    ///
    /// # Errors
    /// A totals entry in it does not say what the sums say.
    pub(super) async fn advance(
        &mut self,
        head: Head,
        batch: &[Submission],
        records: &[Arc<Record>],
    ) -> Result<(), StoreError> {
        {
            let mut sums = self.sums.write();
            for (submission, record) in batch.iter().zip(records) {
                let body = Some(&submission.body);
                let added = sums.add(record.index, head.time, &record.entry, body);
                added.map_err(contradicted)?;
            }
        }
        self.publish(head).await;
        Ok(())
    }

    /// Reads what other gateways appended, and releases what waits for it.
    ///
    /// # Errors
    /// The store failed, or what it holds does not follow from what was
    /// signed here.
    pub(super) async fn catch_up(&mut self) -> Result<(), StoreError> {
        let there = self.store.head().await?;
        if there == self.head {
            return Ok(());
        }
        let mut mmr = self.head.mmr.clone();
        let (mut next, size) = (mmr.size().get(), there.mmr.size().get());
        let mut records = Vec::new();
        while next < size {
            let to = size.min(next + CHUNK);
            let chunk = whole(self.store.range(next, to).await?, next, to)?;
            for record in &chunk {
                mmr.append(Hash::leaf(&record.entry), |_| {});
            }
            records.extend(chunk);
            next = to;
        }
        if mmr != there.mmr {
            return Err(StoreError::Damaged(
                "the log in it does not go on from where this gateway saw it: it was restored \
                 from an older copy, or changed. Nothing more is signed",
            ));
        }
        {
            let mut sums = self.sums.write();
            for record in &records {
                add(&mut sums, record)?;
            }
        }
        self.publish(there).await;
        for record in &records {
            self.release(record);
        }
        Ok(())
    }

    /// Takes down where the log stands, then releases it.
    async fn publish(&mut self, head: Head) {
        let committed = sign(&self.signer, &head);
        while let Err(error) = self.head_file.add(&committed.note) {
            self.health.pause(&error).await;
        }
        self.health.good();
        self.committed.send_replace(committed);
        self.head = head;
    }

    fn release(&mut self, record: &Record) {
        let waiting = record.receipt_id.and_then(|id| self.waiting.remove(&id));
        let Some(Waiting { call, released }) = waiting else {
            return;
        };
        if let Some(released) = released {
            // Who asked may have left.
            let _ = released.send(self.receipt(record));
        }
        call.into_iter().for_each(Call::recorded);
    }

    /// Settles the calls whose records the writer found to be known already.
    /// To be asked where the replica has caught up.
    pub(super) async fn settle_discarded(&mut self) -> Result<(), StoreError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let ids = self.waiting.keys().copied().collect();
        for id in self.store.discarded(ids).await? {
            let waiting = self.waiting.remove(&id);
            let call = waiting.and_then(|waiting| waiting.call);
            call.into_iter().for_each(Call::no_record);
        }
        Ok(())
    }

    /// The receipt of a record, a signed note.
    pub(super) fn receipt(&self, record: &Record) -> String {
        let verifier = self.signer.verifier();
        let (origin, leaf_hash) = (verifier.origin().clone(), Hash::leaf(&record.entry));
        Receipt::new(origin, record.index, leaf_hash).note(verifier, &record.signature)
    }
}

/// Entries from `from` to before `to`, if that is what these are.
fn whole(records: Vec<Record>, from: u64, to: u64) -> Result<Vec<Record>, StoreError> {
    let there = records.iter().map(|record| record.index.get());
    if there.eq(from..to) {
        return Ok(records);
    }
    Err(StoreError::Damaged(
        "entries below the log's size are missing",
    ))
}

fn report(error: &(dyn std::error::Error + 'static)) {
    tracing::error!(error, "records can't be stored; trying again in a second");
}

fn add(sums: &mut Ledger, record: &Record) -> Result<(), StoreError> {
    let entry = Entry::parse(&record.entry);
    let entry = entry.map_err(|_| StoreError::Damaged("an entry can't be read"))?;
    let body = match &entry {
        Entry::Known { body, .. } => Some(body),
        Entry::Unknown { .. } => None,
    };
    let added = sums.add(record.index, entry.time(), &record.entry, body);
    added.map_err(contradicted)
}

fn begin(sums: &mut Ledger, first: &Record) -> Result<(), StoreError> {
    let entry = Entry::parse(&first.entry);
    let entry = entry.map_err(|_| StoreError::Damaged("an entry can't be read"))?;
    if let Entry::Known { body, .. } = &entry {
        sums.begin(&first.entry, Some(body));
    }
    Ok(())
}

fn contradicted(_: Contradiction) -> StoreError {
    StoreError::Damaged(
        "the sums of its entries are not those that its totals entry signed. Restore the newest \
         copy; nothing more is signed",
    )
}

fn sign(signer: &Signer, head: &Head) -> Committed {
    let origin = signer.verifier().origin().clone();
    let checkpoint = Checkpoint::new(origin, head.mmr.size(), head.mmr.root());
    let note = checkpoint.seal(signer).into();
    Committed {
        checkpoint,
        note,
        time: head.time,
    }
}
