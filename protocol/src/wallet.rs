//! A wallet's total, proven: from a checkpoint to the wallet's leaves, or to
//! their absence (PROTOCOL.md, "A wallet's proof").
//!
//! For clients that hold one answer. Out of scope: whether a totals entry's
//! root is right, which only a reader of every entry can say, and the age of
//! the checkpoint.

use alloc::vec::Vec;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::entry::{Body, Entry, EntryError, Log, RULES};
use crate::hash::Hash;
use crate::index::{Index, Time, TreeSize};
use crate::key::VerifierKey;
use crate::name::Address;
use crate::proof::{ProofError, verify_inclusion};
use crate::totals::{LEAF, Leaf, Totals};

/// The most leaves in a proof: a wallet's, one for each source, and two neighbours.
pub const MAX_LEAVES: usize = 2 + crate::record::Source::ALL.len();

/// An entry with its inclusion proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenEntry {
    /// Where it stands.
    pub index: Index,
    /// Its bytes.
    pub entry: Vec<u8>,
    /// From its sibling up.
    pub hashes: Vec<Hash>,
}

/// A leaf of the totals tree with its inclusion proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenLeaf {
    /// Its place among the leaves.
    pub index: u64,
    /// Its bytes.
    pub leaf: [u8; LEAF],
    /// From its sibling up.
    pub hashes: Vec<Hash>,
}

/// What a gateway answers as proof. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletProof {
    /// A checkpoint note.
    pub checkpoint: Vec<u8>,
    /// Entry 0.
    pub log: ProvenEntry,
    /// The newest totals entry below the checkpoint's size, if there is one.
    pub totals: Option<ProvenEntry>,
    /// The first entry that it leaves out, if there is one.
    pub next: Option<ProvenEntry>,
    /// The checkpoint's last entry.
    pub last: ProvenEntry,
    /// The wallet's leaves, with the neighbour on each side.
    pub leaves: Vec<ProvenLeaf>,
}

/// What a proof proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Under which statement of the log.
    pub checkpoint: Checkpoint,
    /// What the log's first entry says.
    pub log: Log,
    /// The totals entry's index and what it says; `None` before the first one.
    pub totals: Option<(Index, Totals)>,
    /// The time of the checkpoint's last entry.
    pub last: Time,
    /// The wallet's totals, by source; empty where it has none.
    pub leaves: Vec<Leaf>,
}

/// Why a proof does not prove.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// The checkpoint is not the log's.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// An entry's path does not lead to the checkpoint.
    #[error("entry {index} is not under the checkpoint: {cause}")]
    Inclusion {
        /// Which entry.
        index: Index,
        /// Why.
        cause: ProofError,
    },
    /// An entry is against PROTOCOL.md.
    #[error("entry {index}: {cause}")]
    Entry {
        /// Which entry.
        index: Index,
        /// Why.
        cause: EntryError,
    },
    /// An entry stands where another one must.
    #[error("{what} is entry {found}, expected {expected}")]
    Place {
        /// What the entry is for.
        what: &'static str,
        /// Where it must stand.
        expected: u64,
        /// Where it stands.
        found: Index,
    },
    /// An entry says something else than it is there for.
    #[error("entry {index} is not {expected}")]
    Kind {
        /// Which entry.
        index: Index,
        /// What it must be.
        expected: &'static str,
    },
    /// A part of the proof is there that must not be, or is missing.
    #[error("{0}")]
    Form(&'static str),
    /// A leaf's path does not lead to the totals entry's root.
    #[error("leaf {index} is not under the totals' root: {cause}")]
    Leaf {
        /// Which leaf.
        index: u64,
        /// Why.
        cause: ProofError,
    },
    /// The log owes a totals entry, or the answer leaves it out.
    #[error(
        "entry {next} of {since} is in no totals, though the log's last entry is of {last}, \
         over two intervals of {interval} s later"
    )]
    Overdue {
        /// The first entry that is left out.
        next: Index,
        /// Its time.
        since: Time,
        /// The time of the checkpoint's last entry.
        last: Time,
        /// Seconds between totals entries.
        interval: u64,
    },
    /// The log is of rules that this program does not know.
    #[error("the log's rules are of version {0}, this program knows {RULES}")]
    Rules(u64),
}

impl WalletProof {
    /// Verifies the proof for `wallet` under the log's key.
    ///
    /// # Errors
    /// What does not prove. [`WalletError::Overdue`] says that older totals
    /// were answered than the log holds, or that it holds no newer ones; as
    /// anybody can put older ones together, the answer proves neither.
    pub fn verify(&self, wallet: Address, key: &VerifierKey) -> Result<Proven, WalletError> {
        let checkpoint = Checkpoint::open(&self.checkpoint, key)?;
        let tree = (checkpoint.size(), checkpoint.root());
        let log = self.first(tree, key)?;
        let totals = self.newest(tree)?;
        let last = self.last.read(tree)?;
        let end = tree.0.get().saturating_sub(1);
        self.last.stands_at("the checkpoint's last entry", end)?;
        let leaves = match &totals {
            Some((_, totals)) => self.own(wallet, totals)?,
            None if self.leaves.is_empty() => Vec::new(),
            None => return Err(WalletError::Form("leaves without a totals entry")),
        };
        self.in_time(tree, &log, totals.as_ref(), &last)?;
        Ok(Proven {
            checkpoint,
            log,
            totals,
            last: last.time(),
            leaves,
        })
    }

    fn first(&self, tree: (TreeSize, Hash), key: &VerifierKey) -> Result<Log, WalletError> {
        self.log.stands_at("the log's own entry", 0)?;
        match self.log.read(tree)? {
            Entry::Known {
                body: Body::Log(log),
                ..
            } if log.key == *key => match log.rules {
                RULES => Ok(log),
                other => Err(WalletError::Rules(other)),
            },
            _ => Err(WalletError::Kind {
                index: self.log.index,
                expected: "the log's own under its key",
            }),
        }
    }

    fn newest(&self, tree: (TreeSize, Hash)) -> Result<Option<(Index, Totals)>, WalletError> {
        let Some(proven) = &self.totals else {
            return Ok(None);
        };
        match proven.read(tree)? {
            Entry::Known {
                body: Body::Totals(totals),
                ..
            } if totals.size.get() <= proven.index.get() => Ok(Some((proven.index, totals))),
            _ => Err(WalletError::Kind {
                index: proven.index,
                expected: "a totals entry over entries before it",
            }),
        }
    }

    /// The wallet's own leaves, of which none can be missing.
    fn own(&self, wallet: Address, totals: &Totals) -> Result<Vec<Leaf>, WalletError> {
        let Some(first) = self.leaves.first() else {
            let empty = totals.count == 0 && totals.root == Hash::EMPTY_ROOT;
            let missing = WalletError::Form("no leaves, though the totals tree is not empty");
            return empty.then(Vec::new).ok_or(missing);
        };
        if self.leaves.len() > MAX_LEAVES {
            return Err(WalletError::Form("more leaves than a proof has"));
        }
        let mut leaves: Vec<Leaf> = Vec::with_capacity(self.leaves.len());
        for (expected, proven) in (first.index..=u64::MAX).zip(&self.leaves) {
            if proven.index != expected {
                return Err(WalletError::Form("the leaves have a gap between them"));
            }
            let leaf = proven.read(totals)?;
            if leaves
                .last()
                .is_some_and(|before| before.order() >= leaf.order())
            {
                return Err(WalletError::Form("the leaves are not in ascending order"));
            }
            leaves.push(leaf);
        }
        let end = first.index + (leaves.len() as u64 - 1);
        let before = leaves.iter().filter(|leaf| leaf.wallet < wallet).count();
        let after = leaves.iter().filter(|leaf| leaf.wallet > wallet).count();
        if before > 1 || after > 1 {
            return Err(WalletError::Form("more than one neighbour on a side"));
        }
        if before == 0 && first.index != 0 {
            return Err(WalletError::Form("no neighbour before, and no beginning"));
        }
        if after == 0 && end + 1 != totals.count {
            return Err(WalletError::Form("no neighbour after, and no end"));
        }
        leaves.retain(|leaf| leaf.wallet == wallet);
        Ok(leaves)
    }

    /// The totals are as new as the log promises.
    fn in_time(
        &self,
        tree: (TreeSize, Hash),
        log: &Log,
        totals: Option<&(Index, Totals)>,
        last: &Entry,
    ) -> Result<(), WalletError> {
        // Entries from the totals' size on are left out, but for the entry itself.
        let expected = totals.map_or(1, |(index, totals)| match totals.size.get() {
            size if size < index.get() => size,
            size => size + 1,
        });
        let Some(next) = &self.next else {
            let none = expected >= tree.0.get();
            let missing = WalletError::Form("the first entry that the totals leave out is missing");
            return none.then_some(()).ok_or(missing);
        };
        next.stands_at("the first entry that the totals leave out", expected)?;
        let entry = next.read(tree)?;
        let counts = matches!(
            &entry,
            Entry::Known {
                body: Body::Usage(_) | Body::Binding(_),
                ..
            }
        );
        let settles = matches!(
            last,
            Entry::Known {
                body: Body::Totals(_),
                ..
            }
        );
        let interval = log.totals_interval;
        let late = entry
            .time()
            .secs()
            .saturating_add(interval.saturating_mul(2));
        if counts && !settles && last.time().secs() > late {
            return Err(WalletError::Overdue {
                next: next.index,
                since: entry.time(),
                last: last.time(),
                interval,
            });
        }
        Ok(())
    }
}

impl ProvenEntry {
    fn read(&self, tree: (TreeSize, Hash)) -> Result<Entry, WalletError> {
        let index = self.index;
        verify_inclusion(Hash::leaf(&self.entry), index, tree, &self.hashes)
            .map_err(|cause| WalletError::Inclusion { index, cause })?;
        Entry::parse(&self.entry).map_err(|cause| WalletError::Entry { index, cause })
    }

    fn stands_at(&self, what: &'static str, expected: u64) -> Result<(), WalletError> {
        let found = self.index;
        let error = WalletError::Place {
            what,
            expected,
            found,
        };
        (found.get() == expected).then_some(()).ok_or(error)
    }
}

impl ProvenLeaf {
    fn read(&self, totals: &Totals) -> Result<Leaf, WalletError> {
        let outside = WalletError::Form("a leaf or tree beyond 2^53 - 1");
        let place = Index::new(self.index).zip(TreeSize::new(totals.count));
        let (place, count) = place.ok_or(outside)?;
        verify_inclusion(
            Hash::leaf(&self.leaf),
            place,
            (count, totals.root),
            &self.hashes,
        )
        .map_err(|cause| WalletError::Leaf {
            index: self.index,
            cause,
        })?;
        Leaf::parse(&self.leaf).ok_or(WalletError::Form("a leaf is not of the form"))
    }
}
