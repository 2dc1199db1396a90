//! The Merkle Mountain Range that the gateway appends to.
//!
//! ```text
//! height 2        6                     size 5 = 0b101: two peaks, 6 and e4.
//!               /   \                   Bagged from the right they give
//! height 1     2     5                  node(6, e4), the RFC 6962 tree head
//!             / \   / \                 of the same five entries.
//! height 0   e0 e1 e2 e3   e4
//! ```
//!
//! State is the peaks: at most one hash per set bit of the size. Out of scope:
//! proofs, and what a reader does (a reader hashes and folds by itself).

use alloc::vec::Vec;

use crate::hash::Hash;
use crate::index::TreeSize;

/// Peaks of the first `size` entries, highest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mmr {
    size: TreeSize,
    peaks: Vec<Hash>,
}

/// A perfect subtree's root that an append completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The subtree holds 2^height leaves.
    pub height: u32,
    /// Its place among the subtrees of that height, from 0.
    pub index: u64,
    /// Its root.
    pub hash: Hash,
}

impl Mmr {
    /// The range without leaves.
    pub const EMPTY: Self = Self {
        size: TreeSize::ZERO,
        peaks: Vec::new(),
    };

    /// Takes up a stored range; `None` where the number of peaks is not the
    /// number of set bits of `size`.
    pub fn from_peaks(size: TreeSize, peaks: Vec<Hash>) -> Option<Self> {
        let expected = size.get().count_ones();
        (u32::try_from(peaks.len()) == Ok(expected)).then_some(Self { size, peaks })
    }

    /// Appends a leaf; `completed` gets the leaf itself (height 0) and every
    /// perfect subtree that it completes, lowest first.
    pub fn append(&mut self, leaf: Hash, mut completed: impl FnMut(Node)) {
        let mut node = Node {
            height: 0,
            index: self.size.get(),
            hash: leaf,
        };
        completed(node);
        while node.index & 1 == 1 {
            let left = self
                .peaks
                .pop()
                .expect("an odd index has a peak of its height beside it");
            node = Node {
                height: node.height + 1,
                index: node.index >> 1,
                hash: Hash::node(&left, &node.hash),
            };
            completed(node);
        }
        self.peaks.push(node.hash);
        self.size = self.size.grown();
    }

    /// The number of leaves.
    pub fn size(&self) -> TreeSize {
        self.size
    }

    /// The peaks, highest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// The RFC 6962 tree head: the peaks bagged from the right.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return Hash::EMPTY_ROOT;
        };
        peaks.fold(*last, |right, left| Hash::node(left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// RFC 6962 section 2.1, as it is written.
    fn tree_head(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::EMPTY_ROOT,
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                Hash::node(&tree_head(&leaves[..split]), &tree_head(&leaves[split..]))
            }
        }
    }

    #[test]
    fn roots_and_completed_nodes_are_those_of_rfc_6962() {
        let leaves: Vec<Hash> = (0..600_u32).map(|i| Hash::leaf(&i.to_be_bytes())).collect();
        let mut mmr = Mmr::EMPTY;
        let mut nodes = vec![];
        assert_eq!(mmr.root(), tree_head(&[]));
        for (i, leaf) in leaves.iter().enumerate() {
            mmr.append(*leaf, |node| nodes.push(node));
            assert_eq!(mmr.root(), tree_head(&leaves[..=i]), "size {}", i + 1);
            let resumed = Mmr::from_peaks(mmr.size(), mmr.peaks().to_vec());
            assert_eq!(resumed.as_ref(), Some(&mmr));
        }
        for node in nodes {
            let width = 1 << node.height;
            let start = usize::try_from(node.index).expect("small") * width;
            assert_eq!(
                node.hash,
                tree_head(&leaves[start..start + width]),
                "{node:?}"
            );
        }
        assert_eq!(Mmr::from_peaks(mmr.size(), vec![]), None);
    }
}
