//! The tree, rebuilt from raw bytes in two independent ways.
//!
//! ```text
//! level 1   [ r0 r1 r2 .. ]  r0 = root of level-0 tile 0, by rs_merkle
//!              |
//! level 0   [ 256 leaves ][ 256 leaves ] .. [ edge: fewer than 256 ]
//! ```
//!
//! One way is `rs_merkle` over each tile's at most 256 hashes, level by level:
//! a full tile's root is one hash of the level above, and the log's root is
//! the edges put together from below. The other is a fold of our own over
//! peaks. Both take constant memory, and [`Tree::root`] gives a root only if
//! they agree.
//!
//! RFC 6962 proofs are made here too: each node of a consistency proof is a
//! contiguous range of leaves, folded while the leaves pass.
//!
//! Out of scope: fetching, and what a differing hash means. Nothing is taken
//! from the code that the gateway builds its tree with.

use protocol::hash::Hash;
use protocol::tile::WIDTH;
use rs_merkle::{Hasher, MerkleTree};
use sha2::{Digest as _, Sha256};

/// The leaf hash of an entry: SHA-256(0x00 || entry).
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let digest = Sha256::new()
        .chain_update([0])
        .chain_update(entry)
        .finalize();
    Hash::from_bytes(digest.into())
}

/// The hash of an inner node: SHA-256(0x01 || left || right).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash::from_bytes(concat(left.as_bytes(), right.as_bytes()))
}

fn concat(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new()
        .chain_update([1])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// `rs_merkle` hashes nodes without a prefix; RFC 6962 puts 0x01 before them.
#[derive(Clone)]
struct Rfc6962;

impl Hasher for Rfc6962 {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        *leaf_hash(data).as_bytes()
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        right.map_or(*left, |right| concat(left, right))
    }
}

/// The root over hashes of perfect subtrees of one size (the last may be of a
/// smaller tree), by `rs_merkle`; `None` of nothing.
fn tile_root(hashes: &[Hash]) -> Option<Hash> {
    let raw: Vec<[u8; 32]> = hashes.iter().map(|hash| *hash.as_bytes()).collect();
    (!raw.is_empty())
        .then(|| MerkleTree::<Rfc6962>::from_leaves(&raw).root())
        .flatten()
        .map(Hash::from_bytes)
}

/// The own fold: the roots of the perfect subtrees of the size's binary digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    size: u64,
    peaks: Vec<Hash>,
}

impl Fold {
    /// Appends the root of the next of perfect subtrees, which all have one height.
    pub fn push(&mut self, leaf: Hash) {
        let mut carry = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("one peak per set bit of the size");
            carry = node_hash(&left, &carry);
        }
        self.peaks.push(carry);
        self.size += 1;
    }

    /// Puts a fold over leaves beside this one over subtrees of `2^h` leaves
    /// each, as the rest that fills no such subtree: only the root means
    /// something then.
    #[must_use]
    pub fn beside(mut self, mut rest: Self) -> Self {
        self.peaks.append(&mut rest.peaks);
        self
    }

    /// The peaks, bagged from the right.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return Hash::EMPTY_ROOT;
        };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// The two ways to the root differ: an error of this program, not of the log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "internal error at size {size}: rs_merkle gives the root {by_tiles}, the own fold {by_fold}; \
     please report this"
)]
pub struct Disagreement {
    size: u64,
    by_tiles: Hash,
    by_fold: Hash,
}

/// A tile that became full.
#[derive(Debug, PartialEq, Eq)]
pub struct Full {
    /// Its level.
    pub level: u8,
    /// Its place among the tiles of its level.
    pub n: u64,
    /// Its 256 hashes.
    pub hashes: Vec<Hash>,
}

/// The first `size` entries' tree, as much of it as appending needs: the tiles
/// on its right edge, and the peaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    fold: Fold,
    /// Per level the hashes of the last tile, fewer than 256.
    edges: Vec<Vec<Hash>>,
}

impl Tree {
    /// Takes up a stored tree; `None` where the edges are not those of a tree
    /// of `size` entries.
    pub fn from_edges(size: u64, edges: Vec<Vec<Hash>>) -> Option<Self> {
        let mut rest = size;
        for edge in &edges {
            if edge.len() as u64 != rest % WIDTH {
                return None;
            }
            rest /= WIDTH;
        }
        if rest > 0 {
            return None;
        }
        let mut peaks = vec![];
        for edge in edges.iter().rev() {
            // Within a tile the peaks are those of its number of hashes.
            let mut fold = Fold::default();
            edge.iter().for_each(|hash| fold.push(*hash));
            peaks.append(&mut fold.peaks);
        }
        Some(Self {
            fold: Fold { size, peaks },
            edges,
        })
    }

    /// Appends a leaf; `full` gets the tiles that it filled, lowest first.
    pub fn push(&mut self, leaf: Hash, full: &mut Vec<Full>) {
        self.fold.push(leaf);
        let mut carry = Some(leaf);
        let mut level: u8 = 0;
        while let Some(hash) = carry.take() {
            let at = usize::from(level);
            if self.edges.len() == at {
                self.edges.push(vec![]);
            }
            self.edges[at].push(hash);
            if self.edges[at].len() as u64 == WIDTH {
                let hashes = std::mem::take(&mut self.edges[at]);
                carry = tile_root(&hashes);
                let n = (self.fold.size >> (8 * (u32::from(level) + 1))) - 1;
                full.push(Full { level, n, hashes });
            }
            level += 1;
        }
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.fold.size
    }

    /// The hashes of the last, partial tile of each level.
    pub fn edges(&self) -> &[Vec<Hash>] {
        &self.edges
    }

    /// The RFC 6962 tree head, computed both ways.
    ///
    /// # Errors
    /// The two ways disagree, which is an error of this program.
    pub fn root(&self) -> Result<Hash, Disagreement> {
        let mut below: Option<Hash> = None;
        for edge in &self.edges {
            // What is below is the last, smaller subtree beside this edge's hashes.
            let hashes: Vec<Hash> = edge.iter().copied().chain(below).collect();
            below = tile_root(&hashes);
        }
        let by_tiles = below.unwrap_or(Hash::EMPTY_ROOT);
        let by_fold = self.fold.root();
        if by_tiles == by_fold {
            Ok(by_fold)
        } else {
            Err(Disagreement {
                size: self.size(),
                by_tiles,
                by_fold,
            })
        }
    }
}

/// The largest power of two below `n`, where RFC 6962 splits `n` leaves; `n` is at least 2.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// An RFC 6962 consistency proof, made while the leaves of the larger tree pass.
#[derive(Debug)]
pub struct Consistency {
    old_size: u64,
    new_size: u64,
    /// Disjoint ranges of leaves, ascending, with their places in the proof.
    ranges: Vec<(std::ops::Range<u64>, usize)>,
    proof: Vec<Hash>,
    at: usize,
    fold: Fold,
    /// Over all leaves, until the old size.
    prefix: Fold,
}

impl Consistency {
    /// A proof between the first `old_size` and the first `new_size` leaves;
    /// `old_size` is 1 to `new_size`.
    pub fn between(old_size: u64, new_size: u64) -> Self {
        let mut order = vec![];
        subproof(old_size, 0..new_size, true, &mut order);
        let mut ranges: Vec<_> = order.into_iter().zip(0..).collect();
        let proof = vec![Hash::EMPTY_ROOT; ranges.len()];
        ranges.sort_by_key(|(range, _)| range.start);
        let (fold, prefix) = (Fold::default(), Fold::default());
        Self {
            old_size,
            new_size,
            ranges,
            proof,
            at: 0,
            fold,
            prefix,
        }
    }

    /// Takes the next leaf; the first one is leaf 0.
    pub fn push(&mut self, index: u64, leaf: Hash) {
        if index < self.old_size {
            self.prefix.push(leaf);
        }
        let Some((range, place)) = self.ranges.get(self.at) else {
            return;
        };
        if !range.contains(&index) {
            return;
        }
        self.fold.push(leaf);
        if index + 1 == range.end {
            self.proof[*place] = std::mem::take(&mut self.fold).root();
            self.at += 1;
        }
    }

    /// The smaller size.
    pub fn old_size(&self) -> u64 {
        self.old_size
    }

    /// The larger size.
    pub fn new_size(&self) -> u64 {
        self.new_size
    }

    /// The root of the first `old_size` leaves that passed, and the proof.
    pub fn finish(self) -> (Hash, Vec<Hash>) {
        (self.prefix.root(), self.proof)
    }
}

/// RFC 6962 section 2.1.2, with ranges of leaves for hashes.
fn subproof(m: u64, range: std::ops::Range<u64>, whole: bool, out: &mut Vec<std::ops::Range<u64>>) {
    let n = range.end - range.start;
    if m == n {
        if !whole {
            out.push(range);
        }
        return;
    }
    let middle = range.start + split(n);
    if m <= split(n) {
        subproof(m, range.start..middle, whole, out);
        out.push(middle..range.end);
    } else {
        subproof(m - split(n), middle..range.end, false, out);
        out.push(range.start..middle);
    }
}

/// Whether `proof` shows that the tree of `old_size` leaves and root `old_root`
/// is a prefix of the tree of `new_size` leaves and root `new_root`
/// (RFC 9162 section 2.1.4.2).
pub fn consistent(
    (old_size, old_root): (u64, Hash),
    (new_size, new_root): (u64, Hash),
    proof: &[Hash],
) -> bool {
    if old_size == 0 || old_size > new_size {
        return false;
    }
    if old_size == new_size {
        return proof.is_empty() && old_root == new_root;
    }
    let (mut old_node, mut new_node) = (old_size - 1, new_size - 1);
    while old_node & 1 == 1 {
        old_node >>= 1;
        new_node >>= 1;
    }
    let mut path = proof.iter();
    // A perfect old tree is itself the first node.
    let first = if old_size.is_power_of_two() {
        Some(&old_root)
    } else {
        path.next()
    };
    let Some(first) = first else { return false };
    let (mut old, mut new) = (*first, *first);
    for hash in path {
        if new_node == 0 {
            return false;
        }
        if old_node & 1 == 1 || old_node == new_node {
            old = node_hash(hash, &old);
            new = node_hash(hash, &new);
            while old_node & 1 == 0 && old_node != 0 {
                old_node >>= 1;
                new_node >>= 1;
            }
        } else {
            new = node_hash(&new, hash);
        }
        old_node >>= 1;
        new_node >>= 1;
    }
    new_node == 0 && old == old_root && new == new_root
}

/// The RFC 6962 audit path of leaf `index` in the tree of `size` leaves, from
/// hashes of tiles: `hash(level, i)` is the root of the perfect subtree of
/// 256^level leaves from leaf `i * 256^level` on. `None` where a hash is missing
/// or `index` is outside.
pub fn audit_path(
    index: u64,
    size: u64,
    hash: &impl Fn(u8, u64) -> Option<Hash>,
) -> Option<Vec<Hash>> {
    let mut path = vec![];
    let (mut start, mut end) = (0, size);
    if index >= size {
        return None;
    }
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range_root(middle..end, hash)?);
            end = middle;
        } else {
            path.push(range_root(start..middle, hash)?);
            start = middle;
        }
    }
    path.reverse();
    Some(path)
}

/// The root of the first `old` leaves and the RFC 6962 consistency proof from
/// them to the first `new`, from hashes of tiles as for [`audit_path`]. `None`
/// where a hash is missing, or unless `old` is 1 to `new`.
pub fn consistency(
    old: u64,
    new: u64,
    hash: &impl Fn(u8, u64) -> Option<Hash>,
) -> Option<(Hash, Vec<Hash>)> {
    if old == 0 || old > new {
        return None;
    }
    let mut ranges = vec![];
    subproof(old, 0..new, true, &mut ranges);
    let ranges = ranges.into_iter();
    let proof = ranges.map(|range| range_root(range, hash));
    Some((range_root(0..old, hash)?, proof.collect::<Option<_>>()?))
}

/// The root over a range of leaves that is a subtree of the log's tree.
fn range_root(
    range: std::ops::Range<u64>,
    hash: &impl Fn(u8, u64) -> Option<Hash>,
) -> Option<Hash> {
    let len = range.end - range.start;
    let height = len.trailing_zeros();
    if len.is_power_of_two() && height.is_multiple_of(8) {
        return hash(u8::try_from(height / 8).ok()?, range.start >> height);
    }
    let middle = range.start + split(len);
    let left = range_root(range.start..middle, hash)?;
    Some(node_hash(&left, &range_root(middle..range.end, hash)?))
}

/// Whether `path` shows `leaf` at `index` in the tree of `size` leaves and root
/// `root` (RFC 9162 section 2.1.3.2).
pub fn included(leaf: Hash, index: u64, (size, root): (u64, Hash), path: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = leaf;
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(n: u64) -> Vec<Hash> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    fn at(i: u64) -> usize {
        usize::try_from(i).expect("small")
    }

    /// RFC 6962 section 2.1, as it is written.
    fn tree_head(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::EMPTY_ROOT,
            [leaf] => *leaf,
            _ => {
                let k = leaves.len().next_power_of_two() / 2;
                node_hash(&tree_head(&leaves[..k]), &tree_head(&leaves[k..]))
            }
        }
    }

    /// RFC 6962 section 2.1.2, as it is written.
    fn proof(m: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if whole {
                vec![]
            } else {
                vec![tree_head(leaves)]
            };
        }
        let k = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(k);
        let (mut proof, other) = if m <= k {
            (proof(m, left, whole), right)
        } else {
            (proof(m - k, right, false), left)
        };
        proof.push(tree_head(other));
        proof
    }

    fn made(m: u64, leaves: &[Hash]) -> (Hash, Vec<Hash>) {
        let mut made = Consistency::between(m, leaves.len() as u64);
        for (i, leaf) in (0..).zip(leaves) {
            made.push(i, *leaf);
        }
        assert_eq!((made.old_size(), made.new_size()), (m, leaves.len() as u64));
        made.finish()
    }

    #[test]
    fn hashes_are_those_of_rfc_6962() {
        let hex = |text: &str| Hash::from_hex(text).expect("hex");
        assert_eq!(
            leaf_hash(b""),
            hex("6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d")
        );
        let empty = leaf_hash(b"");
        assert_ne!(
            node_hash(&empty, &leaf_hash(b"\0")),
            node_hash(&leaf_hash(b"\0"), &empty)
        );
        // The root of the two entries "" and 0x00, from RFC 6962's reference implementation.
        assert_eq!(
            node_hash(&empty, &leaf_hash(b"\0")),
            hex("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125")
        );
        assert_eq!(Rfc6962::hash(b""), *empty.as_bytes());
    }

    #[test]
    fn both_ways_give_the_root_at_every_size() {
        let leaves = leaves(1_500);
        let mut tree = Tree::default();
        assert_eq!(tree.root(), Ok(Hash::EMPTY_ROOT));
        let mut full = vec![];
        for (i, leaf) in leaves.iter().enumerate() {
            tree.push(*leaf, &mut full);
            assert_eq!(tree.root(), Ok(tree_head(&leaves[..=i])), "size {}", i + 1);
            let again = Tree::from_edges(tree.size(), tree.edges().to_vec());
            assert_eq!(again.as_ref(), Some(&tree), "size {}", i + 1);
        }
        assert_eq!(full.len(), 5);
        for (n, tile) in (0..).zip(&full) {
            let range = at(n) * 256..at(n) * 256 + 256;
            assert_eq!(
                tile,
                &Full {
                    level: 0,
                    n,
                    hashes: leaves[range].to_vec()
                }
            );
        }
    }

    #[test]
    fn levels_above_are_roots_of_full_tiles() {
        let n = 65_536 + 700;
        let leaves = leaves(n);
        let mut tree = Tree::default();
        let mut full = vec![];
        leaves.iter().for_each(|leaf| tree.push(*leaf, &mut full));
        assert_eq!(tree.root(), Ok(tree_head(&leaves)));
        let level1 = full
            .iter()
            .find(|tile| tile.level == 1)
            .expect("one is full");
        assert_eq!(level1.n, 0);
        assert_eq!(level1.hashes[3], tree_head(&leaves[768..1024]));
        assert_eq!(
            tree.edges()[1],
            [
                tree_head(&leaves[65_536..65_792]),
                tree_head(&leaves[65_792..66_048])
            ]
        );
        assert_eq!(tree.edges()[2], [tree_head(&leaves[..65_536])]);
        let again = Tree::from_edges(n, tree.edges().to_vec());
        assert_eq!(again, Some(tree));
    }

    #[test]
    fn refuses_edges_of_another_size() {
        let mut tree = Tree::default();
        leaves(300)
            .iter()
            .for_each(|leaf| tree.push(*leaf, &mut vec![]));
        for size in [0, 1, 299, 301, 556, 65_836] {
            assert_eq!(
                Tree::from_edges(size, tree.edges().to_vec()),
                None,
                "{size}"
            );
        }
        assert_eq!(Tree::from_edges(300, vec![]), None);
    }

    #[test]
    fn disagreement_is_an_error() {
        let mut tree = Tree::default();
        leaves(5)
            .iter()
            .for_each(|leaf| tree.push(*leaf, &mut vec![]));
        tree.edges[0][4] = leaf_hash(b"other");
        assert!(matches!(tree.root(), Err(Disagreement { size: 5, .. })));
    }

    #[test]
    fn proofs_made_while_leaves_pass_are_those_of_rfc_6962() {
        let leaves = leaves(900);
        let all = (1..=70).flat_map(|n| (1..=n).map(move |m| (m, n)));
        let some = [
            (1, 900),
            (255, 900),
            (256, 900),
            (257, 600),
            (512, 513),
            (899, 900),
            (300, 301),
        ];
        for (m, n) in all.chain(some) {
            let tree = &leaves[..at(n)];
            let (old_root, made) = made(m, tree);
            assert_eq!(made, proof(at(m), tree, true), "{m} {n}");
            assert_eq!(old_root, tree_head(&leaves[..at(m)]), "{m} {n}");
            let (old, new) = ((m, old_root), (n, tree_head(tree)));
            assert!(consistent(old, new, &made), "{m} {n}");
            let other = leaf_hash(b"other");
            assert!(
                !consistent((m, other), new, &made),
                "{m} {n}: another old root"
            );
            assert!(
                !consistent(old, (n, other), &made),
                "{m} {n}: another new root"
            );
            assert!(
                !consistent(old, new, &[&made[..], &[other]].concat()),
                "{m} {n}: a hash more"
            );
            for i in 0..made.len() {
                let mut bad = made.clone();
                bad[i] = other;
                assert!(!consistent(old, new, &bad), "{m} {n}: hash {i} changed");
                bad.remove(i);
                assert!(!consistent(old, new, &bad), "{m} {n}: hash {i} left out");
            }
        }
        let root = tree_head(&leaves[..3]);
        assert!(!consistent((0, Hash::EMPTY_ROOT), (3, root), &[]));
        assert!(!consistent((4, root), (3, root), &[]));
    }

    #[test]
    fn consistency_proofs_from_tiles_are_those_of_rfc_6962() {
        let n = 65_536 + 300;
        let leaves = leaves(n);
        let mut levels = vec![leaves.clone()];
        for level in 0..2 {
            let above = levels[level].chunks_exact(256).map(tree_head).collect();
            levels.push(above);
        }
        let hash = |level: u8, i: u64| levels[usize::from(level)].get(at(i)).copied();
        let small = (1..=40).flat_map(|new| (1..=new).map(move |old| (old, new)));
        let large = [1, 7, 255, 256, 257, 65_535, 65_536, 65_537].map(|old| (old, n));
        let middle = [(3, 256), (255, 257), (256, 257), (256, 512), (300, 900)];
        for (old, new) in small.chain(large).chain(middle) {
            let expected = proof(at(old), &leaves[..at(new)], true);
            let prefix = tree_head(&leaves[..at(old)]);
            let made = consistency(old, new, &hash);
            assert_eq!(made, Some((prefix, expected)), "{old} of {new}");
        }
        assert_eq!(consistency(0, 5, &hash), None);
        assert_eq!(consistency(6, 5, &hash), None);
        assert_eq!(consistency(5, n + 9, &hash), None, "hashes are missing");
    }

    #[test]
    fn audit_paths_from_tiles_show_inclusion() {
        let leaves = leaves(66_500);
        for size in [
            1_u64, 2, 3, 7, 8, 255, 256, 257, 300, 511, 1_000, 65_536, 66_500,
        ] {
            let tree = &leaves[..at(size)];
            let root = tree_head(tree);
            let hash = |level: u8, i: u64| {
                let width = 1_u64 << (8 * level);
                ((i + 1) * width <= size)
                    .then(|| tree_head(&tree[at(i * width)..at((i + 1) * width)]))
            };
            for index in [0, 1, 2, 255, 256, 600, size / 2, size - 1] {
                let path = audit_path(index, size, &hash);
                if index >= size {
                    assert_eq!(path, None);
                    assert!(!included(leaves[at(index)], index, (size, root), &[]));
                    continue;
                }
                let path = path.expect("all hashes are there");
                let leaf = leaves[at(index)];
                assert!(
                    included(leaf, index, (size, root), &path),
                    "{index} of {size}"
                );
                assert!(!included(leaf_hash(b"other"), index, (size, root), &path));
                assert!(!included(leaf, index, (size, leaf_hash(b"other")), &path));
                let longer = [&path[..], &[leaf]].concat();
                assert!(!included(leaf, index, (size, root), &longer));
                if !path.is_empty() {
                    assert!(!included(leaf, index, (size, root), &path[1..]));
                    assert!(!included(leaf, index ^ 1, (size, root), &path));
                }
            }
        }
    }
}
