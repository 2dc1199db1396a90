//! RFC 9162 section 2.1 as it is written, for tests: recursive, over trees of
//! up to 2^53 leaves. Leaf i is the number i mod 67, so that perfect subtrees
//! repeat and each is hashed once; siblings still differ on every level, as a
//! power of two is never 0 mod 67.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::hash::Hash;
use crate::tile::{Tile, TileKind, WIDTH};

const PERIOD: u64 = 67;

/// Perfect subtrees by height and their first leaf's number.
pub(crate) struct Tree(Vec<Vec<Hash>>);

/// How a proof's hashes are put together; proofs of one shape are
/// interchangeable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing is proven: the older tree is empty.
    Empty,
    /// It begins with the older root.
    Whole,
    /// It begins with a leaf, or with the proof's first hash.
    Node,
    /// Then comes a hash on the left.
    Left,
    /// Then comes a hash on the right.
    Right,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let leaves = (0..PERIOD).map(|i| Hash::leaf(&i.to_be_bytes())).collect();
        let mut heights: Vec<Vec<Hash>> = vec![leaves];
        for height in 0..53_u32 {
            let below = &heights[height as usize];
            let beside = |i: u64| at((i + (1 << height)) % PERIOD);
            let nodes = (0..PERIOD).map(|i| Hash::node(&below[at(i)], &below[beside(i)]));
            heights.push(nodes.collect());
        }
        Self(heights)
    }

    /// MTH(D[start:end]), section 2.1.1.
    pub(crate) fn head(&self, range: Range<u64>) -> Hash {
        let len = range.end - range.start;
        if len == 0 {
            return Hash::EMPTY_ROOT;
        }
        if len.is_power_of_two() {
            return self.0[len.ilog2() as usize][at(range.start % PERIOD)];
        }
        let middle = range.start + k(len);
        Hash::node(
            &self.head(range.start..middle),
            &self.head(middle..range.end),
        )
    }

    /// PATH(m, D[start:end]), section 2.1.3.1; m counts from `start`.
    pub(crate) fn path(&self, m: u64, range: Range<u64>) -> Vec<Hash> {
        let len = range.end - range.start;
        if len == 1 {
            return vec![];
        }
        let middle = range.start + k(len);
        let (left, right) = (range.start..middle, middle..range.end);
        if m < k(len) {
            followed(self.path(m, left), self.head(right))
        } else {
            followed(self.path(m - k(len), right), self.head(left))
        }
    }

    /// SUBPROOF(m, D[start:end], b), section 2.1.4.1.
    pub(crate) fn subproof(&self, m: u64, range: Range<u64>, b: bool) -> Vec<Hash> {
        let len = range.end - range.start;
        if m == len {
            return if b { vec![] } else { vec![self.head(range)] };
        }
        let middle = range.start + k(len);
        let (left, right) = (range.start..middle, middle..range.end);
        if m <= k(len) {
            followed(self.subproof(m, left, b), self.head(right))
        } else {
            followed(self.subproof(m - k(len), right, false), self.head(left))
        }
    }

    /// What a log serves as a tile of hashes.
    pub(crate) fn tile(&self, tile: Tile) -> Vec<u8> {
        let TileKind::Hashes(level) = tile.kind() else {
            unreachable!("plans ask for hashes only")
        };
        let first = tile.n() * WIDTH;
        let hash = |i: u64| self.head(i << (8 * level)..(i + 1) << (8 * level));
        (first..first + u64::from(tile.width()))
            .flat_map(|i| *hash(i).as_bytes())
            .collect()
    }
}

/// The shape of the inclusion proof of leaf `m` of `n`.
pub(crate) fn inclusion_shape(m: u64, n: u64) -> Vec<Step> {
    if n == 1 {
        return vec![Step::Node];
    }
    if m < k(n) {
        followed(inclusion_shape(m, k(n)), Step::Right)
    } else {
        followed(inclusion_shape(m - k(n), n - k(n)), Step::Left)
    }
}

/// The shape of the consistency proof from `m` to `n` leaves.
pub(crate) fn consistency_shape(m: u64, n: u64, b: bool) -> Vec<Step> {
    match m {
        0 => vec![Step::Empty],
        _ if m == n && b => vec![Step::Whole],
        _ if m == n => vec![Step::Node],
        _ if m <= k(n) => followed(consistency_shape(m, k(n), b), Step::Right),
        _ => followed(consistency_shape(m - k(n), n - k(n), false), Step::Left),
    }
}

/// The largest power of two less than `n`.
fn k(n: u64) -> u64 {
    n.next_power_of_two() / 2
}

fn followed<T>(mut list: Vec<T>, last: T) -> Vec<T> {
    list.push(last);
    list
}

fn at(i: u64) -> usize {
    usize::try_from(i).expect("small")
}
