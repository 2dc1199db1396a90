//! The newest usage and binding entries: what a totals entry leaves out that is
//! over fewer entries than stand before it, because its tree was made beside
//! the log while that went on.

use std::collections::{HashMap, VecDeque};

use protocol::index::{Index, Time};
use protocol::record::Source;

use super::{Number, Sums};

/// Entries that are kept.
const KEPT: usize = 65_536;

/// A usage or binding entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) index: Index,
    pub(super) time: Time,
    /// If it counts for a wallet.
    pub(super) undo: Option<Undo>,
}

/// What an entry added to a wallet's leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undo {
    pub(super) wallet: Number,
    pub(super) source: Source,
    pub(super) sums: Sums,
    /// The last entry of this wallet and source before it.
    pub(super) last: Option<Index>,
}

/// What leaves have too much, by wallet and source.
pub(super) type Undone = HashMap<(Number, Source), (Sums, Option<Index>)>;

/// The newest entries, ascending.
#[derive(Debug, Default)]
pub(super) struct Recent {
    entries: VecDeque<Entry>,
    /// All entries from here on are there.
    from: u64,
}

impl Recent {
    /// Begins anew: what comes first stands at `from`, or later.
    pub(super) fn begin(&mut self, from: u64) {
        self.entries.clear();
        self.from = from;
    }

    /// Adds the next one.
    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.len() == KEPT
            && let Some(oldest) = self.entries.pop_front()
        {
            self.from = oldest.index.get() + 1;
        }
        self.entries.push_back(entry);
    }

    /// Whether all from `size` on are there.
    pub(super) fn reaches(&self, size: u64) -> bool {
        size >= self.from
    }

    /// Forgets what stands below `size`; the first that is left.
    pub(super) fn first_from(&mut self, size: u64) -> Option<(Index, Time)> {
        let below = self.entries.partition_point(|e| e.index.get() < size);
        self.entries.drain(..below);
        self.from = self.from.max(size);
        let first = self.entries.front();
        first.map(|entry| (entry.index, entry.time))
    }

    /// The wallets whose leaves changed from `size` on.
    pub(super) fn wallets_from(&self, size: u64) -> impl Iterator<Item = Number> {
        let undos = self.undos_from(size);
        undos.map(|undo| undo.wallet)
    }

    /// What leaves are to be without, to be those over the first `size` entries.
    pub(super) fn undone_from(&self, size: u64) -> Undone {
        let mut undone = Undone::new();
        for undo in self.undos_from(size).rev() {
            let leaf = undone.entry((undo.wallet, undo.source));
            let (sums, last) = leaf.or_default();
            sums.add(&undo.sums);
            *last = undo.last;
        }
        undone
    }

    fn undos_from(&self, size: u64) -> impl DoubleEndedIterator<Item = &Undo> {
        let below = self.entries.partition_point(|e| e.index.get() < size);
        let from = self.entries.range(below..);
        from.filter_map(|entry| entry.undo.as_ref())
    }
}
