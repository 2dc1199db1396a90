//! What is known of the log's anchors, for the interface and for pages.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::name::Address;
use protocol::network::Network;

use super::contract::Summary;
use super::explorer::Explorers;
use crate::store::AnchorRow;

/// The log's anchors on every chain, as far as they are known. Clones share them.
#[derive(Clone, Debug)]
pub struct Anchors(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    explorers: Explorers,
    contract: Address,
    /// By chain id.
    chains: RwLock<Vec<Kept>>,
}

/// What is kept of one chain.
#[derive(Clone, Debug)]
struct Kept {
    chain: Chain,
    /// By number, ascending.
    rows: Vec<Row>,
}

/// A chain, and the log's contract there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The chain's id (EIP-155).
    pub id: u64,
    /// Its name, or `chain` and its id where none is known.
    pub name: String,
    /// The log's contract.
    pub contract: Address,
    /// Where an explorer shows that.
    pub link: Option<String>,
    /// How many anchors the contract holds.
    pub count: u64,
    /// Whether the log was proven there to have signed two roots for one size.
    pub forked: bool,
    /// Whether the log was said there to have ended.
    pub retired: bool,
    /// When the contract was read last; never, since this process began.
    pub read_at: Option<Time>,
}

/// An anchored root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The chain's id (EIP-155).
    pub chain_id: u64,
    /// The chain's name, or `chain` and its id where none is known.
    pub chain: String,
    /// The log's contract.
    pub contract: Address,
    /// What the contract holds.
    pub row: Row,
    /// Where an explorer shows the transaction.
    pub link: Option<String>,
}

/// An anchor as a contract holds it, in the log's own terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number in the contract, from 0.
    pub index: u64,
    /// How many entries it covers.
    pub size: TreeSize,
    /// Their root.
    pub root: Hash,
    /// The time of the last of them.
    pub log_time: Time,
    /// The transaction that anchored it.
    pub transaction: Hash,
    /// That transaction's block.
    pub block: u64,
    /// The block's hash.
    pub block_hash: Hash,
    /// Whether the block is final.
    pub status: Status,
}

/// How sure it is that an anchor stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// In a block that the chain can still drop.
    Included,
    /// In a block that is final.
    Finalized,
}

impl Status {
    /// As the interface says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Included => "included",
            Self::Finalized => "finalized",
        }
    }
}

impl Anchors {
    /// None yet, of the log's contract; links are those of `explorers`.
    pub(super) fn new(explorers: Explorers, contract: Address) -> Self {
        Self(Arc::new(Shared {
            explorers,
            contract,
            chains: RwLock::default(),
        }))
    }

    /// The chains where the log's contract stands, by id.
    pub fn chains(&self) -> Vec<Chain> {
        let kept = self.kept();
        kept.iter().map(|kept| kept.chain.clone()).collect()
    }

    /// The newest anchors, of all chains together, newest first.
    pub fn newest(&self, count: usize) -> Vec<Anchor> {
        let mut newest = self.below(None, count);
        newest.truncate(count);
        newest
    }

    /// Anchors of less than `before` entries, newest first: those of the
    /// largest sizes, at least `count` if there are so many. Anchors of one
    /// size are never torn apart.
    pub fn below(&self, before: Option<u64>, count: usize) -> Vec<Anchor> {
        let kept = self.kept();
        let fits = |row: &&Row| before.is_none_or(|before| row.size.get() < before);
        let mut found: Vec<(&Kept, &Row)> = Vec::new();
        for kept in kept.iter() {
            let end = kept.rows.partition_point(|row| fits(&row));
            let rows = kept.rows[..end].iter().rev().take(count);
            found.extend(rows.map(|row| (kept, row)));
        }
        found.sort_by_key(|(kept, row)| (std::cmp::Reverse(row.size), kept.chain.id));
        let last = count.checked_sub(1).and_then(|last| found.get(last));
        let last = last.map(|(_, row)| row.size);
        let found = found
            .into_iter()
            .take_while(|(_, row)| count > 0 && last.is_none_or(|last| row.size >= last));
        found.map(|(kept, row)| self.shown(kept, row)).collect()
    }

    /// The first anchor that covers the entry at `index`; of several chains
    /// the one of the smallest size. `None` where that is not known.
    pub fn covering(&self, index: Index) -> Option<Anchor> {
        let kept = self.kept();
        let first = kept.iter().filter_map(|kept| {
            let at = kept
                .rows
                .partition_point(|row| row.size.get() <= index.get());
            let row = kept.rows.get(at)?;
            // Unless its predecessor is known, it may not be the first.
            let before = at.checked_sub(1).map(|at| kept.rows[at].index + 1);
            (row.index == before.unwrap_or(0)).then_some((kept, row))
        });
        let (kept, row) = first.min_by_key(|(kept, row)| (row.size, kept.chain.id))?;
        Some(self.shown(kept, row))
    }

    /// Takes up what is stored, by chain and number.
    pub(super) fn load(&self, stored: Vec<AnchorRow>) {
        for rows in stored.chunk_by(|a, b| a.chain_id == b.chain_id) {
            let id = rows[0].chain_id;
            let summary = Summary {
                // Those before may not have been read yet.
                count: rows.last().map_or(0, |row| row.number + 1),
                forked: false,
                retired: false,
            };
            let rows = rows.iter().map(|row| Row::from(*row)).collect();
            self.keep(id, summary, None, rows);
        }
    }

    /// The anchors of one chain, by number.
    pub(super) fn rows(&self, id: u64) -> Vec<Row> {
        let kept = self.kept();
        let of = kept.iter().find(|kept| kept.chain.id == id);
        of.map_or_else(Vec::new, |kept| kept.rows.clone())
    }

    /// Replaces what is known of one chain; `rows` are by number.
    pub(super) fn keep(&self, id: u64, summary: Summary, read_at: Option<Time>, rows: Vec<Row>) {
        let contract = self.0.contract;
        let name = Network::of(id).map(|network| network.title.to_owned());
        let chain = Chain {
            id,
            name: name.unwrap_or_else(|| format!("chain {id}")),
            contract,
            link: self.0.explorers.address(id, contract),
            count: summary.count,
            forked: summary.forked,
            retired: summary.retired,
            read_at,
        };
        let mut chains = self.write();
        match chains.binary_search_by_key(&id, |kept| kept.chain.id) {
            Ok(at) => chains[at] = Kept { chain, rows },
            Err(at) => chains.insert(at, Kept { chain, rows }),
        }
    }

    /// Forgets a chain.
    pub(super) fn forget(&self, id: u64) {
        self.write().retain(|kept| kept.chain.id != id);
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Kept>> {
        let chains = &self.0.chains;
        chains.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self, kept: &Kept, row: &Row) -> Anchor {
        let Kept { chain, .. } = kept;
        Anchor {
            chain_id: chain.id,
            chain: chain.name.clone(),
            contract: chain.contract,
            row: *row,
            link: self.0.explorers.transaction(chain.id, row.transaction),
        }
    }

    fn kept(&self) -> RwLockReadGuard<'_, Vec<Kept>> {
        let chains = &self.0.chains;
        chains.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: u64, size: u64) -> Row {
        Row {
            index,
            size: TreeSize::new(size).expect("small"),
            root: Hash::of(&size.to_be_bytes()),
            log_time: Time::from_secs(size).expect("small"),
            transaction: Hash::of(&index.to_be_bytes()),
            block: size,
            block_hash: Hash::of(b"block"),
            status: Status::Included,
        }
    }

    /// Of chains by id, anchors by number and size.
    fn anchors(chains: &[(u64, &[(u64, u64)])]) -> Anchors {
        let anchors = Anchors::new(Explorers::default(), Address::from_bytes([7; 20]));
        for (id, rows) in chains {
            let summary = Summary {
                count: rows.last().map_or(0, |(index, _)| index + 1),
                forked: false,
                retired: false,
            };
            let rows = rows.iter().map(|(index, size)| row(*index, *size));
            anchors.keep(*id, summary, None, rows.collect());
        }
        anchors
    }

    fn places(anchors: &[Anchor]) -> Vec<(u64, u64)> {
        let place = |anchor: &Anchor| (anchor.chain_id, anchor.row.size.get());
        anchors.iter().map(place).collect()
    }

    #[test]
    fn the_first_anchor_that_covers_an_entry_is_known_to_be_the_first() {
        let whole = [(0, 5), (1, 9), (2, 30)];
        let late = [(0, 7), (1, 9)];
        let cut = [(3, 6), (5, 20)];
        for (name, chains, index, expected) in [
            ("none", &[][..], 0, None),
            ("the first", &[(1, &whole[..])], 4, Some((1, 5))),
            ("the next", &[(1, &whole)], 5, Some((1, 9))),
            ("the last", &[(1, &whole)], 29, Some((1, 30))),
            ("not yet", &[(1, &whole)], 30, None),
            (
                "the smaller one of two chains",
                &[(1, &whole), (10, &late)],
                5,
                Some((10, 7)),
            ),
            (
                "of one size by id",
                &[(10, &late), (1, &whole)],
                7,
                Some((1, 9)),
            ),
            ("its predecessor is not known", &[(1, &cut)], 4, None),
            ("one between is not known", &[(1, &cut)], 6, None),
            (
                "known on another chain",
                &[(1, &cut), (10, &late)],
                4,
                Some((10, 7)),
            ),
        ] {
            let found = anchors(chains).covering(Index::new(index).expect("small"));
            let found = found.map(|anchor| (anchor.chain_id, anchor.row.size.get()));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn lists_are_newest_first_and_tear_no_size_apart() {
        let list = anchors(&[(10, &[(0, 5), (1, 9)]), (1, &[(0, 9), (1, 12)])]);
        let ids: Vec<u64> = list.chains().iter().map(|chain| chain.id).collect();
        assert_eq!(ids, [1, 10]);
        for (before, count, expected) in [
            (None, 9, &[(1, 12), (1, 9), (10, 9), (10, 5)][..]),
            (None, 1, &[(1, 12)]),
            (None, 2, &[(1, 12), (1, 9), (10, 9)]),
            (Some(12), 1, &[(1, 9), (10, 9)]),
            (Some(9), 1, &[(10, 5)]),
            (Some(5), 1, &[]),
            (None, 0, &[]),
        ] {
            let found = places(&list.below(before, count));
            assert_eq!(found, expected, "{count} before {before:?}");
        }
        assert_eq!(places(&list.newest(2)), [(1, 12), (1, 9)]);
        list.forget(1);
        assert_eq!(places(&list.newest(9)), [(10, 9), (10, 5)]);
    }
}
