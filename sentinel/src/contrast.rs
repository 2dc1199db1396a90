//! Whether a checkpoint that was shown elsewhere is of the log that is served
//! here: the served tiles must make it the beginning of an accepted checkpoint.
//!
//! Takes O(log n) tiles. Nothing in them is believed: the proof that is made
//! of them must lead to the accepted root.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use protocol::hash::Hash;
use protocol::index::TreeSize;
use protocol::tile::{MAX_LEVEL, Tile, TileKind, WIDTH};

use crate::audit::{self, Finding, Signed};
use crate::fetch::{Caches, Client};
use crate::rebuild;

/// What is wrong between `accepted` and a checkpoint of the same log that is
/// not larger; `None` if it is the beginning of it.
///
/// # Errors
/// No complete answer, or tiles that do not give the accepted root.
pub async fn contrast(
    client: &Client,
    accepted: &Signed,
    other: &Signed,
) -> Result<Option<Finding>, String> {
    if other.size() == 0 {
        return Ok(audit::not_empty(other));
    }
    if other.size() == accepted.size() {
        return Ok(audit::fork(accepted, other));
    }
    for caches in [Caches::Allowed, Caches::Past] {
        let proven = prove(client, &[other.size()], accepted.size(), caches).await?;
        let [(prefix_root, proof)] = &proven[..] else {
            continue;
        };
        let older = (other.size(), *prefix_root);
        if rebuild::consistent(older, (accepted.size(), accepted.root()), proof) {
            return Ok(audit::rewritten(other, accepted, *prefix_root, proof));
        }
    }
    Err(format!(
        "the tiles of {} do not give the signed root of size {}, so that a checkpoint of size {} \
         shown elsewhere cannot be compared with it",
        client.base(),
        accepted.size(),
        other.size()
    ))
}

/// The roots of the first `sizes` entries of the accepted tree, each with the
/// consistency proof that shows it; no size is 0 or above the accepted one.
///
/// # Errors
/// No complete answer, or tiles that do not give the accepted root.
pub async fn roots(
    client: &Client,
    accepted: &Signed,
    sizes: &[u64],
) -> Result<Vec<(Hash, Vec<Hash>)>, String> {
    let tree = (accepted.size(), accepted.root());
    for caches in [Caches::Allowed, Caches::Past] {
        let proven = prove(client, sizes, accepted.size(), caches).await?;
        let shows = |(size, (root, proof)): (&u64, &(Hash, Vec<Hash>))| {
            rebuild::consistent((*size, *root), tree, proof)
        };
        if sizes.iter().zip(&proven).all(shows) {
            return Ok(proven);
        }
    }
    Err(format!(
        "the tiles of {} do not give the signed root of size {}, so that anchored roots cannot be \
         compared with it",
        client.base(),
        accepted.size()
    ))
}

/// The roots of the first `olds` leaves and the consistency proofs to `new`, as
/// the served tiles give them.
async fn prove(
    client: &Client,
    olds: &[u64],
    new: u64,
    caches: Caches,
) -> Result<Vec<(Hash, Vec<Hash>)>, String> {
    let size = TreeSize::new(new).ok_or_else(|| format!("size {new} is above 2^53 - 1"))?;
    // A first time only to see which tiles are on the way.
    let wanted = RefCell::new(BTreeSet::new());
    for old in olds {
        rebuild::consistency(*old, new, &|level, i| {
            wanted.borrow_mut().insert((level, i / WIDTH));
            Some(Hash::EMPTY_ROOT)
        });
    }
    let mut tiles: BTreeMap<(u8, u64), Vec<Hash>> = BTreeMap::new();
    for (level, n) in wanted.into_inner() {
        let tile = (level <= MAX_LEVEL)
            .then(|| Tile::within(TileKind::Hashes(level), n, size))
            .flatten();
        let tile = tile.ok_or_else(|| format!("a tree of size {new} has no tile {level}/{n}"))?;
        let len = usize::from(tile.width()) * 32;
        let served = client.get_exactly(&tile.path(), len, caches).await;
        let served = served.map_err(|error| error.to_string())?;
        let hashes = served.as_ref().as_chunks::<32>().0.iter();
        let hashes = hashes.map(|hash| Hash::from_bytes(*hash)).collect();
        tiles.insert((level, n), hashes);
    }
    let hash = |level, i: u64| {
        let within = usize::try_from(i % WIDTH).ok()?;
        tiles.get(&(level, i / WIDTH))?.get(within).copied()
    };
    let proofs = olds.iter().map(|old| {
        let proof = rebuild::consistency(*old, new, &hash);
        proof.ok_or_else(|| format!("the tiles of size {new} are too short for a proof from {old}"))
    });
    proofs.collect()
}
