//! Making proofs: which tiles hold a proof's hashes, and the proof from them.
//!
//! ```text
//! size 7                      A node of a proof is the root over a range of
//!                             leaves: perfect subtrees, bagged from the right.
//!          (0..7)             A perfect subtree of 2^h leaves is the root over
//!        /       \            2^(h mod 8) hashes of one tile of level h / 8.
//!     (0..4)    (4..7)
//!      /  \      /  \         The inclusion proof of leaf 2 is, from below,
//!     .    .  (4..6) 6        (3..4), (0..2), (4..7).
//! ```
//!
//! Pure: a [`Plan`] names O(log n) tiles, whoever has them gives their bytes,
//! and gets the proof. Out of scope: verifying (see [`crate::proof`]).

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::hash::Hash;
use crate::index::{Index, TreeSize};
use crate::proof::ProofError;
use crate::tile::{MAX_LEVEL, Tile, TileKind, WIDTH};

/// Hashes to compute, each the root over a range of leaves that is a subtree
/// of the tree of `size` leaves, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    size: TreeSize,
    nodes: Vec<Range<u64>>,
}

/// A tile is not what the plan asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tile {path} has {found} bytes, expected {expected}")]
pub struct TileError {
    path: String,
    expected: usize,
    found: usize,
}

/// Hashes `start..start + len` of a tile level, which together are one
/// perfect subtree.
struct Run {
    level: u8,
    start: u64,
    len: u64,
}

impl Plan {
    /// The proof that leaf `index` is in the tree of `size` leaves
    /// (RFC 9162 section 2.1.3.1), from the leaf's sibling up.
    ///
    /// # Errors
    /// [`ProofError::Index`].
    pub fn inclusion(index: Index, size: TreeSize) -> Result<Self, ProofError> {
        let leaf = index.get();
        if leaf >= size.get() {
            return Err(ProofError::Index { index, size });
        }
        let mut nodes = vec![];
        let mut tree = 0..size.get();
        while tree.end - tree.start > 1 {
            let middle = split(&tree);
            let (left, right) = (tree.start..middle, middle..tree.end);
            let (on_path, sibling) = if leaf < middle {
                (left, right)
            } else {
                (right, left)
            };
            nodes.push(sibling);
            tree = on_path;
        }
        nodes.reverse();
        Ok(Self { size, nodes })
    }

    /// The proof that the tree of `from` leaves is the beginning of that of
    /// `to` leaves (RFC 9162 section 2.1.4.1); empty from 0 and between equal sizes.
    ///
    /// # Errors
    /// [`ProofError::Sizes`].
    pub fn consistency(from: TreeSize, to: TreeSize) -> Result<Self, ProofError> {
        if from.get() > to.get() {
            return Err(ProofError::Sizes { from, to });
        }
        let mut nodes = vec![];
        if from.get() > 0 {
            let mut tree = 0..to.get();
            // SUBPROOF(m, D[n], b): b holds as long as the way went left only.
            while from.get() != tree.end {
                let middle = split(&tree);
                if from.get() <= middle {
                    nodes.push(middle..tree.end);
                    tree.end = middle;
                } else {
                    nodes.push(tree.start..middle);
                    tree.start = middle;
                }
            }
            if tree.start > 0 {
                nodes.push(tree);
            }
            nodes.reverse();
        }
        Ok(Self { size: to, nodes })
    }

    /// The root of the tree of `size` leaves, as the only hash.
    pub fn root(size: TreeSize) -> Self {
        let whole = 0..size.get();
        Self {
            size,
            nodes: Vec::from([whole]),
        }
    }

    /// The tiles that are needed, each once, as they are in the tree of the
    /// plan's size. At most two of a level, but for level 5 above 2^48 leaves.
    pub fn tiles(&self) -> BTreeSet<Tile> {
        let runs = self.nodes.iter().flat_map(|node| runs(node.clone()));
        runs.flat_map(|run| {
            let last = (run.start + run.len - 1) / WIDTH;
            (run.start / WIDTH..=last).map(move |n| (run.level, n))
        })
        .map(|(level, n)| self.tile(level, n))
        .collect()
    }

    /// The hashes, in their order. `tile` gives the bytes of one of
    /// [`Self::tiles`], 32 for each of its width.
    ///
    /// # Errors
    /// A tile of another length.
    pub fn build<B: AsRef<[u8]>>(
        &self,
        mut tile: impl FnMut(Tile) -> B,
    ) -> Result<Vec<Hash>, TileError> {
        let mut tiles = Vec::new();
        for wanted in self.tiles() {
            let bytes = tile(wanted);
            let bytes = bytes.as_ref();
            let expected = usize::from(wanted.width()) * 32;
            if bytes.len() != expected {
                return Err(TileError {
                    path: wanted.path(),
                    expected,
                    found: bytes.len(),
                });
            }
            let hashes = bytes.as_chunks::<32>().0;
            let hashes = hashes.iter().map(|hash| Hash::from_bytes(*hash));
            tiles.push((wanted, hashes.collect()));
        }
        let tiles = Tiles(tiles);
        Ok(self.nodes.iter().map(|node| tiles.root(node)).collect())
    }

    fn tile(&self, level: u8, n: u64) -> Tile {
        Tile::within(TileKind::Hashes(level), n, self.size)
            .expect("a perfect subtree of the tree is in its tiles")
    }
}

/// Tiles with their hashes, ascending.
struct Tiles(Vec<(Tile, Vec<Hash>)>);

impl Tiles {
    /// The root over a range of leaves.
    fn root(&self, range: &Range<u64>) -> Hash {
        let peaks: Vec<Hash> = runs(range.clone())
            .map(|run| {
                let hashes = (run.start..run.start + run.len).map(|i| self.hash(run.level, i));
                perfect(hashes.collect())
            })
            .collect();
        let peaks = peaks.into_iter().rev();
        peaks
            .reduce(|right, left| Hash::node(&left, &right))
            .unwrap_or(Hash::EMPTY_ROOT)
    }

    fn hash(&self, level: u8, i: u64) -> Hash {
        let place = |(tile, _): &(Tile, Vec<Hash>)| (tile.kind(), tile.n());
        let tile = self
            .0
            .binary_search_by_key(&(TileKind::Hashes(level), i / WIDTH), place)
            .expect("the plan asked for every tile of its runs");
        let within = usize::try_from(i % WIDTH).expect("below 256");
        self.0[tile].1[within]
    }
}

/// The root over hashes of perfect subtrees of one size, a power of two of them.
fn perfect(mut hashes: Vec<Hash>) -> Hash {
    while hashes.len() > 1 {
        let pairs = hashes.as_chunks::<2>().0.iter();
        hashes = pairs.map(|[left, right]| Hash::node(left, right)).collect();
    }
    hashes[0]
}

/// The perfect subtrees that a range consists of, from the left. The range is
/// a subtree of a log's tree, so each begins where one of its size can.
fn runs(mut range: Range<u64>) -> impl Iterator<Item = Run> {
    core::iter::from_fn(move || {
        let len = range.end - range.start;
        let height = len.checked_ilog2()?;
        let level = u8::try_from(height / 8).expect("below 8").min(MAX_LEVEL);
        let below = u32::from(level) * 8;
        let run = Run {
            level,
            start: range.start >> below,
            len: 1 << (height - below),
        };
        range.start += 1 << height;
        Some(run)
    })
}

/// Where RFC 9162 splits a tree: after the largest power of two of leaves
/// that is less than all; the tree has at least 2.
fn split(tree: &Range<u64>) -> u64 {
    tree.start + (1 << (tree.end - tree.start - 1).ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Tree;
    use proptest::prelude::*;

    fn size(n: u64) -> TreeSize {
        TreeSize::new(n).expect("within bounds")
    }

    fn index(n: u64) -> Index {
        Index::new(n).expect("within bounds")
    }

    fn built(tree: &Tree, plan: &Plan) -> Vec<Hash> {
        let mut asked = vec![];
        let hashes = plan.build(|tile| {
            asked.push(tile);
            tree.tile(tile)
        });
        assert!(
            asked.iter().eq(&plan.tiles()),
            "each tile is asked for once"
        );
        for level in 0..5 {
            let of_level = asked.iter().filter(|t| t.kind() == TileKind::Hashes(level));
            assert!(of_level.count() <= 2, "{plan:?}");
        }
        hashes.expect("tiles of the right width")
    }

    fn agrees(tree: &Tree, m: u64, n: u64) {
        if m < n {
            let plan = Plan::inclusion(index(m), size(n)).expect("within");
            assert_eq!(built(tree, &plan), tree.path(m, 0..n), "{m} of {n}");
        }
        if m > 0 {
            let plan = Plan::consistency(size(m), size(n)).expect("ascending");
            assert_eq!(
                built(tree, &plan),
                tree.subproof(m, 0..n, true),
                "{m} to {n}"
            );
        }
        assert_eq!(built(tree, &Plan::root(size(n))), [tree.head(0..n)], "{n}");
    }

    #[test]
    fn proofs_from_tiles_are_those_of_rfc_9162() {
        let tree = Tree::new();
        let small = (0..=70).flat_map(|n| (0..=n).map(move |m| (m, n)));
        let edges = [
            1,
            2,
            127,
            128,
            129,
            255,
            256,
            257,
            511,
            512,
            513,
            65_535,
            65_536,
            65_537,
            16_777_216,
            16_777_217,
            1 << 40,
            (1 << 40) + 1,
            (1 << 48) - 1,
            1 << 48,
            (1 << 48) + 1,
            (1 << 53) - 1,
        ];
        let large = edges
            .iter()
            .flat_map(|n| edges.iter().filter(|m| *m <= n).map(|m| (*m, *n)));
        for (m, n) in small.chain(large) {
            agrees(&tree, m, n);
        }
    }

    #[test]
    fn the_empty_tree_needs_no_tiles() {
        let tree = Tree::new();
        assert_eq!(built(&tree, &Plan::root(size(0))), [Hash::EMPTY_ROOT]);
        let plan = Plan::consistency(size(0), size(9)).expect("ascending");
        assert!(plan.tiles().is_empty() && built(&tree, &plan).is_empty());
    }

    #[test]
    fn refuses_places_outside_and_tiles_of_another_length() {
        assert_eq!(
            Plan::inclusion(index(7), size(7)),
            Err(ProofError::Index {
                index: index(7),
                size: size(7)
            })
        );
        assert_eq!(
            Plan::consistency(size(8), size(7)),
            Err(ProofError::Sizes {
                from: size(8),
                to: size(7)
            })
        );
        let (tree, plan) = (Tree::new(), Plan::root(size(300)));
        let bends: [fn(&mut Vec<u8>); 3] = [|b| b.truncate(64), |b| b.push(0), Vec::clear];
        for bend in bends {
            let bent = plan.build(|tile| {
                let mut bytes = tree.tile(tile);
                bend(&mut bytes);
                bytes
            });
            assert!(bent.is_err());
        }
    }

    #[test]
    fn proofs_of_any_tree_are_those_of_rfc_9162() {
        let tree = Tree::new();
        proptest!(
            ProptestConfig::with_cases(64),
            |(n in 1_u64..1 << 53, m in 0_u64..1 << 53)| agrees(&tree, m % n, n)
        );
    }
}
