//! Laws of the Merkle Mountain Range and of tiles, held against the definition
//! of RFC 6962 section 2.1 as it is written: a recursion over all leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index as Place;
use protocol::hash::Hash;
use protocol::index::TreeSize;
use protocol::mmr::{Mmr, Node};
use protocol::tile::{MAX_LEVEL, Tile, TileKind, WIDTH};

/// The leaves of every tree here: past 256^2, so that there are three levels.
static LEAVES: LazyLock<Vec<Hash>> = LazyLock::new(|| {
    (0..66_400_u32)
        .map(|i| Hash::leaf(&i.to_be_bytes()))
        .collect()
});

/// MTH(D[n]) over leaf hashes: k is the largest power of two below n.
fn tree_head(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::EMPTY_ROOT,
        [leaf] => *leaf,
        _ => {
            let k = leaves.len().next_power_of_two() / 2;
            Hash::node(&tree_head(&leaves[..k]), &tree_head(&leaves[k..]))
        }
    }
}

/// Sizes of all magnitudes, and those around the edges of tiles.
fn sizes() -> impl Strategy<Value = usize> {
    let beside = |edge: usize| edge - 3..=edge + 3;
    prop_oneof![
        6 => 0..1_200_usize,
        1 => 0..LEAVES.len(),
        1 => beside(256),
        1 => beside(512),
        1 => beside(65_536),
        1 => beside(65_792),
    ]
}

fn tree_size(size: usize) -> TreeSize {
    TreeSize::new(size as u64).expect("small")
}

/// Appends the first `size` leaves; the range and every node it completed.
fn grown(size: usize) -> (Mmr, Vec<Node>) {
    let (mut mmr, mut nodes) = (Mmr::EMPTY, vec![]);
    for leaf in &LEAVES[..size] {
        mmr.append(*leaf, |node| nodes.push(node));
    }
    (mmr, nodes)
}

/// The hash tiles of a tree of `size` leaves, made of what appending completed
/// at the heights of tiles, as the log's writer makes them.
fn tiles(size: usize) -> BTreeMap<(u8, u64), Vec<Hash>> {
    let mut tiles = BTreeMap::<_, Vec<Hash>>::new();
    for node in grown(size).1 {
        if node.height % 8 == 0 {
            let level = u8::try_from(node.height / 8).expect("small");
            let tile = tiles.entry((level, node.index / WIDTH)).or_default();
            assert_eq!(tile.len() as u64, node.index % WIDTH, "in order");
            tile.push(node.hash);
        }
    }
    tiles
}

/// The leaves below one node.
fn below(height: u32, index: u64) -> &'static [Hash] {
    let width = 1_usize << height;
    let start = usize::try_from(index).expect("small") * width;
    &LEAVES[start..start + width]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_bagged_peaks_are_the_tree_head(size in sizes()) {
        let (mmr, _) = grown(size);
        prop_assert_eq!(mmr.size(), tree_size(size));
        prop_assert_eq!(mmr.root(), tree_head(&LEAVES[..size]));
    }

    #[test]
    fn each_peak_is_the_head_of_its_own_leaves(size in sizes()) {
        let (mmr, _) = grown(size);
        let mut start = 0;
        for peak in mmr.peaks() {
            // The highest binary digit of what is left.
            let width = (size - start + 1).next_power_of_two() / 2;
            prop_assert_eq!(*peak, tree_head(&LEAVES[start..start + width]));
            start += width;
        }
        prop_assert_eq!(start, size);
    }

    #[test]
    fn a_range_goes_on_from_its_peaks(size in sizes(), stop in any::<Place>()) {
        let stop = stop.index(size + 1);
        let (before, mut nodes) = grown(stop);
        let taken_up = Mmr::from_peaks(tree_size(stop), before.peaks().to_vec());
        let mut mmr = taken_up.expect("as many peaks as digits");
        for leaf in &LEAVES[stop..size] {
            mmr.append(*leaf, |node| nodes.push(node));
        }
        prop_assert_eq!((mmr, nodes), grown(size));
    }

    #[test]
    fn a_range_has_as_many_peaks_as_its_size_has_digits(
        size in 0_u64..1 << 53,
        peaks in 0_usize..60,
    ) {
        let size = TreeSize::new(size).expect("below 2^53");
        let range = Mmr::from_peaks(size, vec![Hash::EMPTY_ROOT; peaks]);
        prop_assert_eq!(range.is_some(), peaks as u32 == size.get().count_ones());
    }

    #[test]
    fn every_perfect_subtree_is_completed_once(size in 0..1_200_usize) {
        let (_, nodes) = grown(size);
        let heights = 0..=size.checked_ilog2().unwrap_or_default();
        let wanted = heights.flat_map(|height| (0..size as u64 >> height).map(move |i| (height, i)));
        let completed = nodes.iter().map(|node| (node.height, node.index));
        prop_assert_eq!(nodes.len(), completed.clone().collect::<BTreeSet<_>>().len());
        prop_assert_eq!(completed.collect::<BTreeSet<_>>(), wanted.collect());
        for node in nodes {
            prop_assert_eq!(node.hash, tree_head(below(node.height, node.index)));
        }
    }

    #[test]
    fn tiles_hold_the_heads_of_their_subtrees(size in sizes(), which in any::<Place>()) {
        let tiles = tiles(size);
        // One tile in full, and of every tile its width and its last hash.
        let chosen = which.index(tiles.len().max(1));
        for (at, ((level, n), hashes)) in tiles.iter().enumerate() {
            let tile = Tile::within(TileKind::Hashes(*level), *n, tree_size(size));
            let tile = tile.expect("a tree has the tiles that appending gave it");
            prop_assert_eq!(usize::from(tile.width()), hashes.len());
            let first = if at == chosen { 0 } else { hashes.len() - 1 };
            for (i, hash) in hashes.iter().enumerate().skip(first) {
                let index = n * WIDTH + i as u64;
                prop_assert_eq!(*hash, tree_head(below(8 * u32::from(*level), index)));
            }
        }
    }

    #[test]
    fn a_tree_has_the_tiles_that_appending_gave_it_and_no_others(size in sizes()) {
        let tiles = tiles(size);
        for level in 0..=MAX_LEVEL {
            let count = tiles.keys().filter(|(l, _)| *l == level).count() as u64;
            for n in 0..count + 2 {
                let tile = Tile::within(TileKind::Hashes(level), n, tree_size(size));
                prop_assert_eq!(tile.is_some(), n < count);
            }
        }
    }

    #[test]
    fn the_root_follows_from_the_edge_tiles(size in sizes()) {
        let tiles = tiles(size);
        let mut root = None;
        for level in 0..=MAX_LEVEL {
            // What no full tile of this level covers stands in its last one.
            let in_edge = size >> (8 * u32::from(level)) & 255;
            if in_edge == 0 {
                continue;
            }
            let n = (size as u64 >> (8 * u32::from(level))) / WIDTH;
            let mut edge = &tiles[&(level, n)][..];
            prop_assert_eq!(edge.len(), in_edge);
            while !edge.is_empty() {
                // The lowest binary digit is the subtree that stands last.
                let width = edge.len() & edge.len().wrapping_neg();
                let (before, last) = edge.split_at(edge.len() - width);
                let head = tree_head(last);
                root = Some(root.map_or(head, |right| Hash::node(&head, &right)));
                edge = before;
            }
        }
        prop_assert_eq!(root.unwrap_or(Hash::EMPTY_ROOT), tree_head(&LEAVES[..size]));
    }

    #[test]
    fn the_tiles_of_a_kind_hold_each_item_once(
        level in 0..=MAX_LEVEL,
        size in 0_u64..1 << 53,
        back in 0_u64..4,
    ) {
        for (kind, items) in [
            (TileKind::Hashes(level), size >> (8 * u32::from(level))),
            (TileKind::Entries, size),
            (TileKind::Receipts, size),
        ] {
            let size = TreeSize::new(size).expect("below 2^53");
            let tile = |n| Tile::within(kind, n, size);
            let full = items / WIDTH;
            prop_assert_eq!(tile(full).map_or(0, |t| u64::from(t.width())), items % WIDTH);
            prop_assert_eq!(tile(full + 1), None);
            if let Some(n) = full.checked_sub(back + 1) {
                prop_assert_eq!(tile(n).map(|t| u64::from(t.width())), Some(WIDTH));
            }
        }
    }

    #[test]
    fn a_tile_has_one_path(kind in 0..=MAX_LEVEL + 2, n in 0_u64..1 << 44, width in 1_u64..=256) {
        let (kind, height) = match kind.checked_sub(2) {
            Some(level) => (TileKind::Hashes(level), 8 * u32::from(level)),
            None if kind == 0 => (TileKind::Entries, 0),
            None => (TileKind::Receipts, 0),
        };
        let n = n >> height;
        let size = TreeSize::new((n * WIDTH + width) << height).expect("below 2^53");
        let tile = Tile::within(kind, n, size).expect("the last of its kind");
        prop_assert_eq!((tile.kind(), tile.n(), u64::from(tile.width())), (kind, n, width));
        prop_assert_eq!(Tile::parse(&tile.path()), Some(tile));
    }
}
