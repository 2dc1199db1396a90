//! Staging: a batch of entries as it will be stored, hashed and signed.
//!
//! Memory errs, if rarely: a bit that flipped between hashing and storing has
//! ended other logs, whose signed root no entry could open any more. So the
//! root is computed a second time, by other code, from the very bytes that
//! will be stored, before anything is signed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use protocol::hash::Hash;
use protocol::index::{Index, Time};
use protocol::mmr::Mmr;
use protocol::tile::WIDTH;
use uuid::Uuid;

use super::sign::ReceiptSigner;
use crate::store::{Chain, Record, Sealed, TileRow};

/// From this many entries on a batch is signed on several threads.
const PARALLEL_FROM: usize = 512;

/// What is stored for a batch, and where the log stands then.
#[derive(Debug)]
pub(super) struct StagedBatch {
    pub(super) records: Vec<Arc<Record>>,
    pub(super) sealed: Vec<Sealed>,
    pub(super) tiles: Vec<TileRow>,
    pub(super) chain: Chain,
}

/// Entries are not any more what was hashed.
#[derive(Debug)]
pub(super) struct Flipped;

/// Entries with their places, hashed and not yet signed.
struct Placed {
    entries: Vec<(Index, Vec<u8>, Option<Uuid>)>,
    before: Mmr,
    after: Mmr,
    tiles: Vec<TileRow>,
}

/// Appends entries, each with its receipt id, to `chain` at the time `now`.
///
/// # Errors
/// Memory changed under way: nothing was signed.
pub(super) fn stage(
    mut chain: Chain,
    now: Time,
    entries: Vec<(Vec<u8>, Option<Uuid>)>,
    signer: &ReceiptSigner,
) -> Result<StagedBatch, Flipped> {
    let placed = place(&mut chain, entries);
    let tiles = placed.tiles.clone();
    let records = sign(placed, signer)?;
    let sealed = seal(&mut chain, &records);
    chain.time = now;
    Ok(StagedBatch {
        records,
        sealed,
        tiles,
        chain,
    })
}

/// Gives entries their places in the tree.
fn place(chain: &mut Chain, entries: Vec<(Vec<u8>, Option<Uuid>)>) -> Placed {
    let before = chain.mmr.clone();
    let tiles = grow(chain, entries.iter().map(|(entry, _)| entry.as_slice()));
    let index = |n| Index::new(n).expect("a log does not reach 2^53 entries");
    let numbered = (before.size().get()..).zip(entries);
    Placed {
        entries: numbered
            .map(|(n, (entry, id))| (index(n), entry, id))
            .collect(),
        before,
        after: chain.mmr.clone(),
        tiles,
    }
}

/// Appends the entries to the tree; returns the tiles that are full then, and
/// the edges above level 0 that changed.
fn grow<'a>(chain: &mut Chain, entries: impl Iterator<Item = &'a [u8]>) -> Vec<TileRow> {
    let Chain { mmr, edges, .. } = chain;
    let mut tiles = Vec::new();
    let mut changed = BTreeSet::new();
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
    // The edge of level 0 follows from the entries of the tail.
    for level in changed.into_iter().filter(|level| *level > 0) {
        let n = (mmr.size().get() >> (8 * u32::from(level))) / WIDTH;
        tiles.push(TileRow {
            level,
            n,
            hashes: edges[usize::from(level)].clone(),
        });
    }
    tiles
}

/// Signs each entry's receipt, if the entries still give the tree's root.
fn sign(placed: Placed, signer: &ReceiptSigner) -> Result<Vec<Arc<Record>>, Flipped> {
    let leaves: Vec<Hash> = placed
        .entries
        .iter()
        .map(|(_, e, _)| Hash::leaf(e))
        .collect();
    if folded(&placed.before, &leaves) != placed.after.root() {
        return Err(Flipped);
    }
    let sign_one = |((index, entry, receipt_id), leaf): ((Index, Vec<u8>, Option<Uuid>), Hash)| {
        let signature = signer.sign(index, leaf);
        Arc::new(Record {
            index,
            entry,
            signature,
            receipt_id,
        })
    };
    let count = leaves.len();
    let mut placed: Vec<_> = placed.entries.into_iter().zip(leaves).collect();
    if count < PARALLEL_FROM {
        return Ok(placed.into_iter().map(sign_one).collect());
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = count.div_ceil(threads);
    Ok(thread::scope(|scope| {
        let mut workers = Vec::with_capacity(threads);
        while !placed.is_empty() {
            let rest = placed.split_off(placed.len().min(share));
            let part = std::mem::replace(&mut placed, rest);
            workers.push(scope.spawn(|| part.into_iter().map(sign_one).collect::<Vec<_>>()));
        }
        let join = |worker: thread::ScopedJoinHandle<'_, Vec<_>>| {
            worker.join().expect("signing does not panic")
        };
        workers.into_iter().flat_map(join).collect()
    }))
}

/// The tree head after more leaves: equal heights are joined until none are
/// left, then what remains from the right (RFC 6962 section 2.1).
fn folded(before: &Mmr, leaves: &[Hash]) -> Hash {
    let size = before.size().get();
    let heights = (0..64).rev().filter(|height| size >> height & 1 == 1);
    let mut stack: Vec<(u32, Hash)> = heights.zip(before.peaks().iter().copied()).collect();
    for leaf in leaves {
        stack.push((0, *leaf));
        while let [.., (left, a), (right, b)] = stack[..]
            && left == right
        {
            stack.truncate(stack.len() - 2);
            stack.push((left + 1, Hash::node(&a, &b)));
        }
    }
    let mut root = stack.pop().map_or(Hash::EMPTY_ROOT, |(_, hash)| hash);
    while let Some((_, left)) = stack.pop() {
        root = Hash::node(&left, &root);
    }
    root
}

/// Puts full bundles together; what is left is the tail.
fn seal(chain: &mut Chain, records: &[Arc<Record>]) -> Vec<Sealed> {
    let all: Vec<&Arc<Record>> = chain.tail.iter().chain(records).collect();
    let first = all.first().map_or(0, |record| record.index.get());
    let (full, rest) = all.as_chunks::<{ WIDTH as usize }>();
    let numbered = (first / WIDTH..).zip(full);
    let sealed = numbered
        .map(|(n, records)| Sealed::new(n, &records.map(|record| &**record)))
        .collect();
    chain.tail = rest.iter().map(|record| Arc::clone(record)).collect();
    sealed
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::index::TreeSize;
    use protocol::key::{Origin, Signer};

    fn placed(chain: &mut Chain, count: usize) -> Placed {
        let entries = (0..count).map(|n| (format!("entry {n}").into_bytes(), None));
        place(chain, entries.collect())
    }

    #[test]
    fn a_flipped_bit_is_found_before_anything_is_signed() {
        let signer = Signer::new(Origin::parse("log.example.org").expect("valid"), &[1; 32]);
        let signer = ReceiptSigner::new(signer.verifier().clone(), &[1; 32]);
        for (before, count) in [(0, 1), (1, 1), (3, 5), (255, 2), (300, 700)] {
            let mut chain = Chain::default();
            placed(&mut chain, before);
            let good = placed(&mut chain.clone(), count);
            assert!(sign(good, &signer).is_ok(), "{before} + {count}");
            for at in [0, count / 2, count - 1] {
                let mut flipped = placed(&mut chain.clone(), count);
                flipped.entries[at].1[0] ^= 1;
                assert!(sign(flipped, &signer).is_err(), "{before} + {count}: {at}");
            }
            let mut shorter = placed(&mut chain.clone(), count);
            shorter.entries.pop();
            assert!(sign(shorter, &signer).is_err(), "{before} + {count}");
            let mut foreign = placed(&mut chain.clone(), count);
            foreign.before = Mmr::from_peaks(
                TreeSize::new(before as u64).expect("small"),
                vec![Hash::of(b"another"); before.count_ones() as usize],
            )
            .expect("as many as the size has");
            assert_eq!(sign(foreign, &signer).is_err(), before > 0, "{before}");
        }
    }
}
