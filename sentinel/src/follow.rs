//! Following the log: extends a verified tree to a signed checkpoint.
//!
//! ```text
//! bundle n      fetch entries, receipts, hashes ─> verify on a core ─┐
//! bundle n + 1  fetch entries, receipts, hashes ─> verify on a core ─┤ in order
//!   ..          (a few at a time)                                    v
//!                                     tree, sums, answers due at this size
//! ```
//!
//! What a core finds wrong in a bundle is fetched a second time, past caches,
//! and only the second finding counts. Memory holds the bundles in flight.
//! Out of scope: whether the checkpoint is acceptable, and what to do where
//! its root does not open (see [`crate::pass`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use indicatif::ProgressBar;
use protocol::entry::Entry;
use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::key::VerifierKey;
use protocol::tile::{self, MAX_ENTRY, MAX_LEVEL, Tile, TileKind, WIDTH};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::audit::{self, Claim, Finding, Item, Signed};
use crate::fetch::{Body as Bytes, Caches, Client, NoAnswer};
use crate::judge::Judge;
use crate::rebuild::{self, Consistency, Disagreement};
use crate::trust::{Last, News, Trusted};

/// Findings of one claim that are kept whole; of more only the number is.
const KEPT: usize = 4;

/// What was found, each claim's first few.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    kept: Vec<Finding>,
    more: BTreeMap<Claim, u64>,
}

impl From<Finding> for Findings {
    fn from(finding: Finding) -> Self {
        let mut findings = Self::default();
        findings.push(finding);
        findings
    }
}

impl Findings {
    /// Adds one.
    pub fn push(&mut self, finding: Finding) {
        let claim = finding.claim;
        if self.kept.iter().filter(|kept| kept.claim == claim).count() < KEPT {
            self.kept.push(finding);
        } else {
            *self.more.entry(claim).or_default() += 1;
        }
    }

    /// Puts one before the others: what explains them.
    pub fn push_front(&mut self, finding: Finding) {
        self.kept.insert(0, finding);
    }

    /// Adds those of another list.
    pub fn append(&mut self, other: Self) {
        other
            .kept
            .into_iter()
            .for_each(|finding| self.push(finding));
        for (claim, more) in other.more {
            *self.more.entry(claim).or_default() += more;
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Those that were kept, to make more of them.
    pub fn kept_mut(&mut self) -> &mut [Finding] {
        &mut self.kept
    }

    /// Those that were kept.
    pub fn kept(&self) -> &[Finding] {
        &self.kept
    }

    /// How many more of a claim were found than are kept.
    pub fn more(&self, claim: Claim) -> u64 {
        self.more.get(&claim).copied().unwrap_or_default()
    }
}

impl Extend<Finding> for Findings {
    fn extend<I: IntoIterator<Item = Finding>>(&mut self, findings: I) {
        findings.into_iter().for_each(|finding| self.push(finding));
    }
}

/// Why following stopped without a result.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The log gave no complete answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// This program contradicts itself.
    #[error(transparent)]
    Internal(#[from] Disagreement),
    /// A task of this program ended early.
    #[error("internal error: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A tree that was extended to a checkpoint's size.
#[derive(Debug)]
pub struct Extended {
    /// The log, its checkpoint not yet accepted.
    pub trusted: Trusted,
    /// What is wrong with single entries, receipts and tiles.
    pub findings: Findings,
    /// The root that the entries give.
    pub root: Hash,
    /// Whether entries that were verified before came back as they were.
    pub prefix_kept: bool,
    /// The entries that were added.
    pub news: News,
}

/// The way to one log's entries.
#[derive(Clone, Debug)]
pub struct Follower {
    client: Arc<Client>,
    key: Arc<VerifierKey>,
    cores: Arc<Semaphore>,
    bundles_at_once: usize,
    progress: ProgressBar,
}

impl Follower {
    /// For the log at `client`, under `key`; `progress` counts entries.
    pub fn new(client: Arc<Client>, key: VerifierKey, progress: ProgressBar) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            client,
            key: Arc::new(key),
            cores: Arc::new(Semaphore::new(cores)),
            bundles_at_once: (2 * cores + 4).min(24),
            progress,
        }
    }

    /// Fetches and verifies the entries from `trusted`'s size to that of
    /// `target`; `judge` sees the sizes on the way, `proof` the leaves.
    ///
    /// # Errors
    /// No complete answer, or an internal error; nothing is known then.
    pub async fn extend(
        &self,
        trusted: Trusted,
        target: &Signed,
        caches: Caches,
        judge: &mut Judge,
        proof: Option<&mut Consistency>,
    ) -> Result<Extended, Halt> {
        let extended = self.run(trusted, target, caches, judge, proof).await;
        self.progress.finish_and_clear();
        extended
    }

    async fn run(
        &self,
        mut trusted: Trusted,
        target: &Signed,
        caches: Caches,
        judge: &mut Judge,
        mut proof: Option<&mut Consistency>,
    ) -> Result<Extended, Halt> {
        let (from, to) = (trusted.tree.size(), target.size());
        let size = TreeSize::new(to).expect("a checkpoint's size is within bounds");
        self.progress.set_length(to);
        self.progress.set_position(from);
        let mut next = from / WIDTH;
        let mut bundles: VecDeque<Job<Bundle>> = VecDeque::new();
        let mut tiles: VecDeque<Job<Option<Finding>>> = VecDeque::new();
        let mut findings = Findings::default();
        let mut prefix_kept = true;
        let mut full = vec![];
        let mut news = News::between(from, to);
        let mut newest_day = trusted.last.as_ref().map_or(0, |last| last.time.day());
        loop {
            while bundles.len() < self.bundles_at_once && next * WIDTH < to {
                let edge = (next == from / WIDTH)
                    .then(|| trusted.tree.edges().first())
                    .flatten();
                let known = edge.cloned().unwrap_or_default();
                bundles.push_back(self.start_bundle(next, size, known, news.wanted(), caches));
                next += 1;
            }
            let Some(job) = bundles.pop_front() else {
                break;
            };
            let bundle = job.done().await?;
            prefix_kept &= bundle.prefix_kept;
            findings.append(bundle.findings);
            if let (Some(before), Some((first, _))) = (&trusted.last, &bundle.ends) {
                let (before, item) = ((&before.item(), before.time), (&first.item(), first.time));
                findings.extend(audit::time_backwards(before, item, &self.key));
            }
            if let Some((_, last)) = bundle.ends {
                trusted.last = Some(last);
            }
            news.push(&bundle.raw);
            for taken in bundle.entries {
                let Taken {
                    index,
                    leaf,
                    entry,
                    binding,
                    ..
                } = taken;
                if let Some(proof) = proof.as_deref_mut() {
                    proof.push(index.get(), leaf);
                }
                newest_day = entry
                    .as_ref()
                    .map_or(newest_day, |entry| entry.time().day());
                if let Some(broken) = trusted.take(index, leaf, entry, &mut full) {
                    let item = Item::again(index, &broken.bytes, &taken.signature, taken.signed);
                    let breaches = broken.breaches.iter();
                    findings.extend(breaches.map(|breach| audit::breach(&item, breach, &self.key)));
                }
                if trusted.upgrade.is_none() {
                    findings.extend(binding);
                }
                judge.reach(&mut trusted, newest_day)?;
            }
            self.progress.set_position(trusted.tree.size());
            for tile in full.drain(..).filter(|tile| tile.level > 0) {
                tiles.push_back(self.start_tile(tile.level, tile.n, size, tile.hashes, caches));
            }
            while tiles.len() > self.bundles_at_once {
                let Some(job) = tiles.pop_front() else { break };
                findings.extend(job.done().await?);
            }
        }
        for (level, edge) in (0..=MAX_LEVEL).zip(trusted.tree.edges()).skip(1) {
            // An edge without new hashes was compared when it was new.
            let shift = 8 * u32::from(level);
            if !edge.is_empty() && from >> shift != to >> shift {
                let n = (to >> shift) / WIDTH;
                tiles.push_back(self.start_tile(level, n, size, edge.clone(), caches));
            }
        }
        for job in tiles {
            findings.extend(job.done().await?);
        }
        let root = trusted.tree.root()?;
        Ok(Extended {
            trusted,
            findings,
            root,
            prefix_kept,
            news,
        })
    }

    fn start_bundle(
        &self,
        n: u64,
        size: TreeSize,
        known: Vec<Hash>,
        raw: bool,
        caches: Caches,
    ) -> Job<Bundle> {
        let follower = self.clone();
        Job(tokio::spawn(async move {
            let bundle = follower.bundle(n, size, known.clone(), raw, caches).await?;
            if caches == Caches::Past || !bundle.suspicious() {
                return Ok(bundle);
            }
            follower.bundle(n, size, known, raw, Caches::Past).await
        }))
    }

    async fn bundle(
        &self,
        n: u64,
        size: TreeSize,
        known: Vec<Hash>,
        raw: bool,
        caches: Caches,
    ) -> Result<Bundle, Halt> {
        let served = RawBundle::fetch(&self.client, n, size, caches).await?;
        let core = Arc::clone(&self.cores).acquire_owned().await;
        let key = Arc::clone(&self.key);
        let read = tokio::task::spawn_blocking(move || {
            let _core = core;
            served.verify(&known, raw, &key)
        });
        Ok(read.await??)
    }

    /// Compares a tile above level 0 with what the entries give.
    fn start_tile(
        &self,
        level: u8,
        n: u64,
        size: TreeSize,
        rebuilt: Vec<Hash>,
        caches: Caches,
    ) -> Job<Option<Finding>> {
        let client = Arc::clone(&self.client);
        Job(tokio::spawn(async move {
            let Some(tile) = Tile::within(TileKind::Hashes(level), n, size) else {
                return Ok(None);
            };
            let len = rebuilt.len() * 32;
            let served = client.get_exactly(&tile.path(), len, caches).await?;
            let finding = audit::tile(tile, served.as_ref(), &rebuilt);
            if finding.is_none() || caches == Caches::Past {
                return Ok(finding);
            }
            let served = client.get_exactly(&tile.path(), len, Caches::Past).await?;
            Ok(audit::tile(tile, served.as_ref(), &rebuilt))
        }))
    }
}

/// A task that ends when nobody waits for it any more.
struct Job<T>(JoinHandle<Result<T, Halt>>);

impl<T> Job<T> {
    async fn done(mut self) -> Result<T, Halt> {
        (&mut self.0).await?
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Up to 256 entries as they were served, with receipts and hashes.
pub struct RawBundle {
    n: u64,
    tile: Tile,
    bundle_path: String,
    entries: Bytes,
    receipts: Bytes,
    hashes: Bytes,
}

/// Up to 256 entries that were verified on their own.
struct Bundle {
    /// Those not known before.
    entries: Vec<Taken>,
    /// Their bytes, as a bundle holds them, if they were asked for.
    raw: Vec<u8>,
    /// The first and the last of them that can be read.
    ends: Option<(Last, Last)>,
    findings: Findings,
    prefix_kept: bool,
}

/// An entry on its way into the fold.
struct Taken {
    index: Index,
    leaf: Hash,
    signature: [u8; 64],
    signed: bool,
    /// `None` where it cannot be read.
    entry: Option<Entry>,
    /// What a binding shows by itself, in a log whose bindings are judged.
    binding: Option<Finding>,
}

impl Bundle {
    fn suspicious(&self) -> bool {
        !self.findings.is_empty() || !self.prefix_kept
    }
}

impl RawBundle {
    /// Fetches bundle `n` as it is in a tree of `size`.
    ///
    /// # Errors
    /// No complete answer, or one of a wrong length.
    ///
    /// # Panics
    /// Where the tree has no bundle `n`.
    pub async fn fetch(
        client: &Client,
        n: u64,
        size: TreeSize,
        caches: Caches,
    ) -> Result<Self, NoAnswer> {
        let within = |kind| Tile::within(kind, n, size).expect("the bundle begins below the size");
        let tile = within(TileKind::Hashes(0));
        let width = usize::from(tile.width());
        let bundle_path = within(TileKind::Entries).path();
        let receipts_path = within(TileKind::Receipts).path();
        let hashes_path = tile.path();
        let (entries, receipts, hashes) = tokio::try_join!(
            client.get(&bundle_path, width * (MAX_ENTRY + 2), caches),
            client.get_exactly(&receipts_path, width * 64, caches),
            client.get_exactly(&hashes_path, width * 32, caches),
        )?;
        let found = match tile::entries(entries.as_ref()) {
            Some(entries) if entries.len() == width => None,
            Some(entries) => Some(format!("{} entries", entries.len())),
            None => Some("a cut entry".into()),
        };
        if let Some(found) = found {
            let expected = format!("{width} entries");
            return Err(NoAnswer::Length {
                url: client.url(&bundle_path),
                found,
                expected,
            });
        }
        Ok(Self {
            n,
            tile,
            bundle_path,
            entries,
            receipts,
            hashes,
        })
    }

    /// The entries' bytes.
    pub fn entries(&self) -> Vec<&[u8]> {
        tile::entries(self.entries.as_ref()).expect("taken apart when fetched")
    }

    /// The receipts' signatures.
    pub fn signatures(&self) -> &[[u8; 64]] {
        self.receipts.as_ref().as_chunks().0
    }

    /// The level-0 tile, as served.
    pub fn hashes(&self) -> &[u8] {
        self.hashes.as_ref()
    }

    /// Verifies every entry after the `known` ones on its own, and the tile.
    fn verify(self, known: &[Hash], raw: bool, key: &VerifierKey) -> Result<Bundle, NoAnswer> {
        let first = self.n * WIDTH;
        let mut bundle = Bundle {
            entries: Vec::with_capacity(256),
            raw: vec![],
            ends: None,
            findings: Findings::default(),
            prefix_kept: true,
        };
        let mut leaves = Vec::with_capacity(256);
        let mut ends: Option<(Read<'_>, Read<'_>)> = None;
        for ((at, bytes), signature) in (0..).zip(self.entries()).zip(self.signatures()) {
            if let Some(known) = known.get(leaves.len()) {
                let leaf = rebuild::leaf_hash(bytes);
                bundle.prefix_kept &= leaf == *known;
                leaves.push(leaf);
                continue;
            }
            let Some(index) = Index::new(first + at) else {
                let url = self.bundle_path.clone();
                let found = format!("entry {}", first + at);
                return Err(NoAnswer::Length {
                    url,
                    found,
                    expected: "indexes below 2^53".into(),
                });
            };
            let item = Item::verify(index, bytes, signature, key);
            leaves.push(item.leaf());
            let before = ends.as_ref().map(|(_, last)| (&last.item, last.time));
            let entry = bundle.judge(&item, before, key);
            if let Some(time) = entry.as_ref().map(Entry::time) {
                let read = Read {
                    index,
                    bytes,
                    signature,
                    item,
                    time,
                };
                ends = Some((ends.map_or(read, |(first, _)| first), read));
            }
            let binding = entry.as_ref();
            let binding = binding.and_then(|entry| audit::binding(&item, entry, key));
            bundle.entries.push(Taken {
                index,
                leaf: item.leaf(),
                signature: *signature,
                signed: item.signed(),
                entry,
                binding,
            });
            if raw {
                tile::push_entry(&mut bundle.raw, bytes);
            }
        }
        bundle
            .findings
            .extend(audit::tile(self.tile, self.hashes(), &leaves));
        bundle.ends = ends.map(|(first, last)| (first.keep(), last.keep()));
        Ok(bundle)
    }
}

/// An entry that could be read.
#[derive(Clone, Copy)]
struct Read<'a> {
    index: Index,
    bytes: &'a [u8],
    signature: &'a [u8; 64],
    item: Item<'a>,
    time: Time,
}

impl Read<'_> {
    fn keep(&self) -> Last {
        Last {
            index: self.index,
            time: self.time,
            bytes: self.bytes.to_vec(),
            signature: *self.signature,
            signed: self.item.signed(),
        }
    }
}

impl Bundle {
    /// Judges one entry, within what this bundle knows; `before` is the last
    /// one that could be read.
    fn judge(
        &mut self,
        item: &Item<'_>,
        before: Option<(&Item<'_>, Time)>,
        key: &VerifierKey,
    ) -> Option<Entry> {
        self.findings.extend(audit::receipt_signature(item, key));
        let entry = match audit::canonical(item, key) {
            Ok(entry) => entry,
            Err(finding) => {
                self.findings.push(*finding);
                return None;
            }
        };
        self.findings.extend(audit::first_entry(item, &entry, key));
        self.findings
            .extend(audit::second_log_entry(item, &entry, key));
        if let Some(before) = before {
            self.findings
                .extend(audit::time_backwards(before, (item, entry.time()), key));
        }
        Some(entry)
    }
}
