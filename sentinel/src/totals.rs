//! What each wallet used, and the root over it: what totals entries must say
//! (PROTOCOL.md section 4.4).
//!
//! A totals entry sums up the log to some size before itself. So sums stand at
//! the size of the last one, and what bound usage came since waits, packed,
//! until the next one says how far it goes. Of the tree, only the roots over
//! each 16 leaves are kept, and made anew where leaves changed.
//!
//! Out of scope: whether usage is rightly bound (see [`crate::accounts`]).

use std::collections::BTreeMap;
use std::io::{self, Write};

use protocol::hash::Hash;
use protocol::index::Index;
use protocol::name::Address;
use protocol::record::{Counts, Source};
use protocol::totals::{LEAF, Leaf, Sums};

use crate::packed::{chunk, number, put, take, take_array, take_chunk, take_count};
use crate::rebuild::{self, Fold};
use crate::sums::Sum;

/// Leaves under one kept hash: a power of two.
const CHUNK: usize = 16;

/// The bound sums of all wallets.
#[derive(Clone, Debug, Default)]
pub struct Wallets {
    /// By (wallet, source), over the entries below the newest totals entry's size.
    leaves: Vec<Leaf>,
    /// The root over each 16 leaves; `None` where it must be made again.
    chunks: Vec<Option<Hash>>,
    /// Bound usage from there on, in order.
    later: Vec<u8>,
    /// The index from which the first of it is counted, and its last.
    ends: (u64, u64),
}

/// One bound usage entry.
struct Call {
    index: Index,
    wallet: Address,
    source: Source,
    counts: [u64; 5],
}

impl Wallets {
    /// Takes the next entry that is bound.
    pub fn add(&mut self, index: Index, wallet: Address, source: Source, counts: &Counts) {
        put(&mut self.later, index.get().saturating_sub(self.ends.1));
        self.ends.1 = index.get();
        self.later.extend_from_slice(wallet.as_bytes());
        self.later.push(u8::from(source == Source::Custom));
        for count in in_order(counts) {
            put(&mut self.later, count);
        }
    }

    /// Sums up what is below `size`, which never descends: the number of leaves
    /// and their root.
    pub fn settle(&mut self, size: u64) -> (u64, Hash) {
        let mut changes: BTreeMap<(Address, Source), Leaf> = BTreeMap::new();
        let (mut rest, mut at) = (&self.later[..], self.ends.0);
        while let Some((call, after)) = next(rest, at).filter(|(call, _)| call.index.get() < size) {
            (rest, at) = (after, call.index.get());
            let place = (call.wallet, call.source);
            let leaf = changes.entry(place).or_insert_with(|| call.first());
            call.add_to(leaf);
        }
        self.ends.0 = at;
        let used = self.later.len() - rest.len();
        self.later.drain(..used);
        self.apply(changes);
        (self.leaves.len() as u64, self.root())
    }

    /// A wallet's sums over all entries that were taken.
    pub fn of(&self, wallet: Address) -> BTreeMap<Source, Sum> {
        let mut sums: BTreeMap<Source, Sum> = BTreeMap::new();
        for leaf in self.settled(wallet) {
            sums.insert(leaf.source, sum(&leaf.sums));
        }
        let (mut rest, mut at) = (&self.later[..], self.ends.0);
        while let Some((call, after)) = next(rest, at) {
            (rest, at) = (after, call.index.get());
            if call.wallet == wallet {
                let mut leaf = call.first();
                call.add_to(&mut leaf);
                sums.entry(call.source).or_default().add(&sum(&leaf.sums));
            }
        }
        sums
    }

    /// A wallet's leaves under the newest totals entry.
    pub fn settled(&self, wallet: Address) -> &[Leaf] {
        let from = self.leaves.partition_point(|leaf| leaf.wallet < wallet);
        let len = self.leaves[from..].partition_point(|leaf| leaf.wallet == wallet);
        &self.leaves[from..from + len]
    }

    /// How many leaves the newest totals entry is over.
    pub fn leaf_count(&self) -> usize {
        self.leaves.len()
    }

    /// The wallet of a leaf.
    pub fn wallet(&self, leaf: usize) -> Option<Address> {
        self.leaves.get(leaf).map(|leaf| leaf.wallet)
    }

    fn apply(&mut self, changes: BTreeMap<(Address, Source), Leaf>) {
        let mut new = vec![];
        let mut first_new = self.leaves.len();
        for (place, change) in changes {
            match self.leaves.binary_search_by_key(&place, order) {
                Ok(at) => {
                    let leaf = &mut self.leaves[at];
                    leaf.sums = add(&leaf.sums, &change.sums);
                    leaf.last = change.last;
                    if let Some(hash) = self.chunks.get_mut(at / CHUNK) {
                        *hash = None;
                    }
                }
                Err(at) => {
                    first_new = first_new.min(at);
                    new.push(change);
                }
            }
        }
        if !new.is_empty() {
            self.leaves.reserve_exact(new.len());
            self.leaves.extend(new);
            // Two ascending runs, which this sort merges.
            self.leaves[first_new..].sort_by_key(order);
            self.chunks.truncate(first_new / CHUNK);
        }
        self.chunks.resize(self.leaves.len() / CHUNK, None);
    }

    fn root(&mut self) -> Hash {
        let hashes = |leaves: &[Leaf]| {
            let mut fold = Fold::default();
            for leaf in leaves {
                fold.push(rebuild::leaf_hash(&leaf.encode()));
            }
            fold
        };
        let (chunks, rest) = self.leaves.as_chunks::<CHUNK>();
        let mut fold = Fold::default();
        for (leaves, hash) in chunks.iter().zip(&mut self.chunks) {
            fold.push(*hash.get_or_insert_with(|| hashes(leaves).root()));
        }
        fold.beside(hashes(rest)).root()
    }

    /// Writes them down.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        number(to, self.leaves.len() as u64)?;
        for leaf in &self.leaves {
            to.write_all(&leaf.encode())?;
        }
        number(to, self.ends.0)?;
        number(to, self.ends.1)?;
        chunk(to, &self.later)
    }

    /// Reads what [`Self::write`] wrote, and takes it off `from`; `None` of
    /// what was not written so.
    pub fn read(from: &mut &[u8]) -> Option<Self> {
        let count = take_count(from)?;
        if count > from.len() / LEAF {
            return None;
        }
        let mut leaves: Vec<Leaf> = Vec::with_capacity(count);
        for _ in 0..count {
            let leaf = Leaf::parse(&take_array(from)?)?;
            if leaves
                .last()
                .is_some_and(|last| order(last) >= order(&leaf))
            {
                return None;
            }
            leaves.push(leaf);
        }
        Some(Self {
            chunks: vec![None; count / CHUNK],
            leaves,
            ends: (take(from)?, take(from)?),
            later: take_chunk(from)?.to_vec(),
        })
    }
}

impl Call {
    /// The leaf that begins with this entry, which is not yet added to it.
    fn first(&self) -> Leaf {
        Leaf {
            wallet: self.wallet,
            source: self.source,
            sums: Sums::default(),
            first: self.index,
            last: self.index,
        }
    }

    fn add_to(&self, leaf: &mut Leaf) {
        let [input, output, cache_read, cache_write, reasoning] = self.counts;
        let own = Sums {
            records: 1,
            input,
            output,
            cache_read,
            cache_write,
            reasoning,
        };
        leaf.sums = add(&leaf.sums, &own);
        leaf.last = self.index;
    }
}

/// The first of packed calls, the one before it being of index `before`.
fn next(mut bytes: &[u8], before: u64) -> Option<(Call, &[u8])> {
    let bytes = &mut bytes;
    let index = Index::new(take(bytes)?.checked_add(before)?)?;
    let wallet = Address::from_bytes(take_array(bytes)?);
    let [custom] = take_array(bytes)?;
    let source = if custom == 0 {
        Source::Proxy
    } else {
        Source::Custom
    };
    let mut counts = [0; 5];
    for count in &mut counts {
        *count = take(bytes)?;
    }
    let call = Call {
        index,
        wallet,
        source,
        counts,
    };
    Some((call, bytes))
}

/// What the tree's leaves are sorted by.
fn order(leaf: &Leaf) -> (Address, Source) {
    (leaf.wallet, leaf.source)
}

fn in_order(counts: &Counts) -> [u64; 5] {
    let Counts {
        input,
        cache_read,
        cache_write,
        output,
        reasoning,
    } = *counts;
    [input, output, cache_read, cache_write, reasoning].map(|count| count.unwrap_or(0).into())
}

fn add(a: &Sums, b: &Sums) -> Sums {
    Sums {
        records: a.records.saturating_add(b.records),
        input: a.input.saturating_add(b.input),
        output: a.output.saturating_add(b.output),
        cache_read: a.cache_read.saturating_add(b.cache_read),
        cache_write: a.cache_write.saturating_add(b.cache_write),
        reasoning: a.reasoning.saturating_add(b.reasoning),
    }
}

/// A leaf's sums, as the HTTP interface has them.
pub fn sum(sums: &Sums) -> Sum {
    let Sums {
        records,
        input,
        output,
        cache_read,
        cache_write,
        reasoning,
    } = *sums;
    Sum {
        records,
        input,
        cache_read,
        cache_write,
        output,
        reasoning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wallet(n: u8) -> Address {
        Address::from_bytes([n; 20])
    }

    /// RFC 6962 section 2.1, as it is written.
    fn tree_head(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::EMPTY_ROOT,
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                rebuild::node_hash(&tree_head(left), &tree_head(right))
            }
        }
    }

    /// PROTOCOL.md section 4.4, as it is written, over `(wallet, source, input)`.
    fn plain(calls: &[Option<(u8, Source, u32)>]) -> (u64, Hash) {
        let mut leaves: BTreeMap<(Address, Source), Leaf> = BTreeMap::new();
        for (index, call) in (0..).zip(calls) {
            let Some((n, source, input)) = call else {
                continue;
            };
            let index = Index::new(index).expect("small");
            let leaf = leaves.entry((wallet(*n), *source)).or_insert(Leaf {
                wallet: wallet(*n),
                source: *source,
                sums: Sums::default(),
                first: index,
                last: index,
            });
            leaf.sums.records += 1;
            leaf.sums.input += u64::from(*input);
            leaf.sums.reasoning += 7;
            leaf.last = index;
        }
        let hash = |leaf: &Leaf| rebuild::leaf_hash(&leaf.encode());
        let hashes: Vec<Hash> = leaves.values().map(hash).collect();
        (hashes.len() as u64, tree_head(&hashes))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn roots_are_those_of_the_plain_way_at_every_size(
            calls in proptest::collection::vec(
                proptest::option::of((any::<u8>(), any::<bool>(), any::<u32>())), 0..400),
            gaps in proptest::collection::vec((0_usize..60, 0_usize..30), 0..12),
        ) {
            let source = |custom| if custom { Source::Custom } else { Source::Proxy };
            let calls: Vec<_> = calls.into_iter()
                .map(|call| call.map(|(n, custom, input)| (n, source(custom), input)))
                .collect();
            let mut wallets = Wallets::default();
            prop_assert_eq!(wallets.settle(0), (0, Hash::EMPTY_ROOT));
            let (mut taken, mut settled) = (0, 0);
            for (ahead, behind) in gaps {
                let until = (taken + ahead).min(calls.len());
                for (at, call) in calls.iter().enumerate().take(until).skip(taken) {
                    if let Some((n, source, input)) = call {
                        let counts = Counts {
                            input: Some(*input),
                            reasoning: Some(7),
                            ..Counts::NONE
                        };
                        let index = Index::new(at as u64).expect("small");
                        wallets.add(index, wallet(*n), *source, &counts);
                    }
                }
                taken = until;
                settled = taken.saturating_sub(behind).max(settled);
                let expected = plain(&calls[..settled]);
                prop_assert_eq!(wallets.clone().settle(settled as u64), expected);
                // Kept hashes and stored ones lead to the same.
                let mut bytes = vec![];
                wallets.write(&mut bytes).expect("into memory");
                prop_assert!(Wallets::read(&mut &bytes[..bytes.len() - 1]).is_none());
                let mut stored = Wallets::read(&mut &bytes[..]).expect("as written");
                prop_assert_eq!(stored.settle(settled as u64), expected);
                prop_assert_eq!(wallets.settle(settled as u64), expected);
                let n = u8::try_from(behind).expect("small");
                let records = |calls: &[Option<(u8, Source, u32)>]| {
                    calls.iter().flatten().filter(|call| call.0 == n).count() as u64
                };
                let all: u64 = stored.of(wallet(n)).values().map(|sum| sum.records).sum();
                prop_assert_eq!(all, records(&calls[..taken]));
                let some: u64 = stored.settled(wallet(n)).iter().map(|leaf| leaf.sums.records).sum();
                prop_assert_eq!(some, records(&calls[..settled]));
            }
        }
    }
}
