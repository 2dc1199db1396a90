//! Inclusion and consistency proofs: their verification (RFC 9162 section 2.1).
//!
//! A proof binds a leaf or an older root to a newer root. It does not bind
//! the sizes by itself: sizes of one shape lead through the same hashes, so
//! both must come from signed checkpoints.
//!
//! Out of scope: making proofs (see [`crate::plan`]). The sentinel uses
//! neither: it has code of its own.

use crate::hash::Hash;
use crate::index::{Index, TreeSize};

/// Why a proof does not prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// No leaf of this index is in a tree of this size.
    #[error("index {index} is not below the tree's size {size}")]
    Index {
        /// The leaf's index.
        index: Index,
        /// The tree's size.
        size: TreeSize,
    },
    /// The older tree is larger than the newer one.
    #[error("the older size {from} is above the newer size {to}")]
    Sizes {
        /// The older tree's size.
        from: TreeSize,
        /// The newer tree's size.
        to: TreeSize,
    },
    /// A proof between these places has another number of hashes.
    #[error("the proof has {found} hashes, expected {expected}")]
    Length {
        /// How many hashes follow from index and sizes.
        expected: usize,
        /// How many the proof has.
        found: usize,
    },
    /// The hashes lead to another root of the newer, or only, tree.
    #[error("the proof leads to the root {found}, expected {expected}")]
    Root {
        /// The root that was to be reached.
        expected: Hash,
        /// The root that was reached.
        found: Hash,
    },
    /// The hashes lead to another root of the older tree.
    #[error("the proof begins from the older root {found}, expected {expected}")]
    OlderRoot {
        /// The older root that was to be reached.
        expected: Hash,
        /// The root that was reached.
        found: Hash,
    },
}

/// Verifies that `leaf` stands at `index` in the tree of `size` leaves and
/// root `root` (RFC 9162 section 2.1.3.2).
///
/// # Errors
/// An index outside, hashes missing or too many, another root.
pub fn verify_inclusion(
    leaf: Hash,
    index: Index,
    (size, root): (TreeSize, Hash),
    proof: &[Hash],
) -> Result<(), ProofError> {
    if index.get() >= size.get() {
        return Err(ProofError::Index { index, size });
    }
    let length = || ProofError::Length {
        expected: inclusion_len(index.get(), size.get()),
        found: proof.len(),
    };
    let (mut node, mut last) = (index.get(), size.get() - 1);
    let mut found = leaf;
    for sibling in proof {
        if last == 0 {
            return Err(length());
        }
        found = if is_right(node, last) {
            ascend(&mut node, &mut last);
            Hash::node(sibling, &found)
        } else {
            Hash::node(&found, sibling)
        };
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(length());
    }
    expect_root(root, found)
}

/// Verifies that the tree of size and root `from` is the beginning of the
/// tree of size and root `to` (RFC 9162 section 2.1.4.2). The RFC leaves two
/// cases out: between equal sizes the roots must be equal, and everything
/// begins with the empty tree; in both the proof is empty.
///
/// # Errors
/// Sizes that descend, hashes missing or too many, another root.
pub fn verify_consistency(
    (from, from_root): (TreeSize, Hash),
    (to, to_root): (TreeSize, Hash),
    proof: &[Hash],
) -> Result<(), ProofError> {
    if from.get() > to.get() {
        return Err(ProofError::Sizes { from, to });
    }
    let length = || ProofError::Length {
        expected: consistency_len(from.get(), to.get()),
        found: proof.len(),
    };
    if from.get() == 0 || from == to {
        let first = if from.get() == 0 {
            Hash::EMPTY_ROOT
        } else {
            to_root
        };
        return match proof {
            [] => expect_older_root(from_root, first),
            _ => Err(length()),
        };
    }
    // An older tree that is perfect is itself the first node of the path.
    let (first, rest) = if from.get().is_power_of_two() {
        (from_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or_else(length)?;
        (*first, rest)
    };
    let (mut node, mut last) = (from.get() - 1, to.get() - 1);
    let perfect = node.trailing_ones();
    (node, last) = (node >> perfect, last >> perfect);
    let (mut older, mut newer) = (first, first);
    for sibling in rest {
        if last == 0 {
            return Err(length());
        }
        if is_right(node, last) {
            ascend(&mut node, &mut last);
            older = Hash::node(sibling, &older);
            newer = Hash::node(sibling, &newer);
        } else {
            newer = Hash::node(&newer, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(length());
    }
    expect_older_root(from_root, older)?;
    expect_root(to_root, newer)
}

/// The number of hashes in an inclusion proof; `index` is below `size`.
pub fn inclusion_len(index: u64, size: u64) -> usize {
    // Below the level where the ways to the leaf and to the last leaf part,
    // every level has a sibling; above, only where the way turns left.
    let inner = u64::BITS - (index ^ (size - 1)).leading_zeros();
    let border = (index >> inner).count_ones();
    (inner + border) as usize
}

/// The number of hashes in a consistency proof; `from` is at most `to`.
pub fn consistency_len(from: u64, to: u64) -> usize {
    if from == 0 || from == to {
        return 0;
    }
    let perfect = from.trailing_zeros() as usize;
    let first = usize::from(!from.is_power_of_two());
    inclusion_len(from - 1, to) - perfect + first
}

/// Whether the node is a right child; the last node of a level that has no
/// sibling counts as one, as its sibling stands further up.
fn is_right(node: u64, last: u64) -> bool {
    node & 1 == 1 || node == last
}

/// Leaves out the levels on which the node has no sibling.
fn ascend(node: &mut u64, last: &mut u64) {
    while *node & 1 == 0 && *node != 0 {
        (*node, *last) = (*node >> 1, *last >> 1);
    }
}

fn expect_root(expected: Hash, found: Hash) -> Result<(), ProofError> {
    if found == expected {
        Ok(())
    } else {
        Err(ProofError::Root { expected, found })
    }
}

fn expect_older_root(expected: Hash, found: Hash) -> Result<(), ProofError> {
    if found == expected {
        Ok(())
    } else {
        Err(ProofError::OlderRoot { expected, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Tree, consistency_shape, inclusion_shape};
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn size(n: u64) -> TreeSize {
        TreeSize::new(n).expect("within bounds")
    }

    fn index(n: u64) -> Index {
        Index::new(n).expect("within bounds")
    }

    fn other() -> Hash {
        Hash::of(b"another hash")
    }

    /// The proof with one hash changed, left out, swapped or added, in every place.
    fn bent(proof: &[Hash]) -> Vec<Vec<Hash>> {
        let mut all = Vec::new();
        for i in 0..=proof.len() {
            for hash in proof.get(i).copied().into_iter().chain([other()]) {
                let mut longer = proof.to_vec();
                longer.insert(i, hash);
                all.push(longer);
            }
        }
        for i in 0..proof.len() {
            let mut flipped = proof.to_vec();
            let mut bytes = *flipped[i].as_bytes();
            bytes[i % 32] ^= 1 << (i % 8);
            flipped[i] = Hash::from_bytes(bytes);
            all.push(flipped);
            let mut shorter = proof.to_vec();
            shorter.remove(i);
            all.push(shorter);
            if i > 0 {
                let mut swapped = proof.to_vec();
                swapped.swap(i - 1, i);
                all.push(swapped);
            }
        }
        all
    }

    /// The proof of leaf `m` of `n` holds, and nothing near it does. `others`
    /// are places that it must not be taken for, unless their shape is the same.
    fn only_this_inclusion(tree: &Tree, (m, n): (u64, u64), others: &[(u64, u64)]) {
        let (leaf, root) = (tree.head(m..m + 1), tree.head(0..n));
        let proof = tree.path(m, 0..n);
        let holds = |leaf, m, n, root, proof: &[Hash]| {
            verify_inclusion(leaf, index(m), (size(n), root), proof)
        };
        assert_eq!(holds(leaf, m, n, root, &proof), Ok(()), "{m} of {n}");
        assert_eq!(inclusion_len(m, n), proof.len(), "{m} of {n}");
        for bad in bent(&proof) {
            let expected = match bad.len() == proof.len() {
                true => matches!(
                    holds(leaf, m, n, root, &bad),
                    Err(ProofError::Root { expected, .. }) if expected == root
                ),
                false => {
                    let (expected, found) = (proof.len(), bad.len());
                    holds(leaf, m, n, root, &bad) == Err(ProofError::Length { expected, found })
                }
            };
            assert!(expected, "{m} of {n}: {bad:?}");
        }
        assert!(holds(other(), m, n, root, &proof).is_err(), "{m} of {n}");
        assert!(holds(leaf, m, n, other(), &proof).is_err(), "{m} of {n}");
        for (m2, n2) in others {
            let same = m2 < n2 && inclusion_shape(*m2, *n2) == inclusion_shape(m, n);
            let held = holds(leaf, *m2, *n2, root, &proof).is_ok();
            assert_eq!(held, same, "{m} of {n} as {m2} of {n2}");
        }
    }

    /// As above, for the consistency proof from `m` to `n`.
    fn only_this_consistency(tree: &Tree, (m, n): (u64, u64), others: &[(u64, u64)]) {
        let (from_root, to_root) = (tree.head(0..m), tree.head(0..n));
        let proof = match m {
            0 => Vec::new(),
            _ => tree.subproof(m, 0..n, true),
        };
        let holds = |m, from_root, n, to_root, proof: &[Hash]| {
            verify_consistency((size(m), from_root), (size(n), to_root), proof)
        };
        assert_eq!(
            holds(m, from_root, n, to_root, &proof),
            Ok(()),
            "{m} to {n}"
        );
        assert_eq!(consistency_len(m, n), proof.len(), "{m} to {n}");
        for bad in bent(&proof) {
            let found = holds(m, from_root, n, to_root, &bad);
            let expected = match bad.len() == proof.len() {
                true => matches!(
                    found,
                    Err(ProofError::Root { .. } | ProofError::OlderRoot { .. })
                ),
                false => {
                    let (expected, found_len) = (proof.len(), bad.len());
                    let found = found.expect_err("another length");
                    found
                        == ProofError::Length {
                            expected,
                            found: found_len,
                        }
                }
            };
            assert!(expected, "{m} to {n}: {bad:?}");
        }
        assert!(
            holds(m, other(), n, to_root, &proof).is_err(),
            "{m} to {n}: another older root"
        );
        // Everything begins with the empty tree, so that the newer root is not bound.
        assert_eq!(
            holds(m, from_root, n, other(), &proof).is_ok(),
            m == 0,
            "{m} to {n}: another newer root"
        );
        for (m2, n2) in others {
            let shape = |m, n| consistency_shape(m, n, true);
            let same = m2 <= n2 && shape(*m2, *n2) == shape(m, n);
            let held = holds(*m2, from_root, *n2, to_root, &proof).is_ok();
            assert_eq!(held, same, "{m} to {n} as {m2} to {n2}");
        }
    }

    /// Every pair of numbers up to 66.
    fn pairs() -> Vec<(u64, u64)> {
        (0..=66)
            .flat_map(|m| (0..=66).map(move |n| (m, n)))
            .collect()
    }

    #[test]
    fn no_bent_inclusion_proof_holds_in_trees_to_64() {
        let (tree, pairs) = (Tree::new(), pairs());
        for n in 1..=64 {
            for m in 0..n {
                let near: Vec<_> = pairs
                    .iter()
                    .filter(|(m2, n2)| *m2 == m || *n2 == n)
                    .copied()
                    .collect();
                only_this_inclusion(&tree, (m, n), &near);
            }
        }
    }

    #[test]
    fn no_bent_consistency_proof_holds_in_trees_to_64() {
        let (tree, pairs) = (Tree::new(), pairs());
        for n in 0..=64 {
            for m in 0..=n {
                let near: Vec<_> = pairs
                    .iter()
                    .filter(|(m2, n2)| *m2 == m || *n2 == n)
                    .copied()
                    .collect();
                only_this_consistency(&tree, (m, n), &near);
            }
        }
    }

    #[test]
    fn errors_name_expectation_and_evidence() {
        use alloc::string::ToString as _;
        let tree = Tree::new();
        let (root, path) = (tree.head(0..7), tree.path(2, 0..7));
        let text = |m, n, proof: &[Hash]| {
            let result = verify_inclusion(tree.head(2..3), index(m), (size(n), root), proof);
            result.expect_err("wrong").to_string()
        };
        assert_eq!(text(7, 7, &path), "index 7 is not below the tree's size 7");
        assert_eq!(text(2, 7, &path[1..]), "the proof has 2 hashes, expected 3");
        assert!(text(3, 7, &path).ends_with(&["expected ", &root.to_string()].concat()));
        let sizes = verify_consistency((size(8), root), (size(7), root), &[]);
        assert_eq!(
            sizes.expect_err("wrong").to_string(),
            "the older size 8 is above the newer size 7"
        );
    }

    #[test]
    fn no_bent_proof_holds_in_trees_to_2_to_the_40() {
        let tree = Tree::new();
        let far = proptest::collection::vec((0_u64..1 << 40, 0_u64..1 << 40), 20);
        proptest!(
            ProptestConfig::with_cases(64),
            |(n in 1_u64..=1 << 40, place in 0_u64..1 << 40, mut others in far)| {
                let m = place % n;
                for bit in 0..=40 {
                    others.extend([(m ^ 1 << bit, n), (m, n ^ 1 << bit)]);
                }
                only_this_inclusion(&tree, (m, n), &others);
                only_this_consistency(&tree, (m, n), &others);
            }
        );
    }
}
