//! Tiles and entry bundles (C2SP tlog-tiles): paths, widths and bundle bytes.
//!
//! Out of scope: hashing and storing.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use crate::index::TreeSize;

/// Entries, hashes or receipts in a full tile.
pub const WIDTH: u64 = 256;

/// The highest tile level that is served: 256^6 exceeds any size.
pub const MAX_LEVEL: u8 = 5;

/// The longest entry, in bytes: a bundle gives lengths in 16 bits.
pub const MAX_ENTRY: usize = 65_535;

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// 32-byte hashes: at level L, roots of perfect subtrees of 256^L leaves.
    Hashes(u8),
    /// Length-prefixed entries.
    Entries,
    /// 64-byte receipt signatures, slot i for entry i.
    Receipts,
}

/// A tile's coordinates: `/tile/<kind>/<n>[.p/<width>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    kind: TileKind,
    n: u64,
    width: u16,
}

impl Tile {
    /// Tile `n` as it is in a tree of `size` entries: full, partial, or
    /// `None` where such a tree has nothing of it.
    pub fn within(kind: TileKind, n: u64, size: TreeSize) -> Option<Self> {
        let level = match kind {
            TileKind::Hashes(level) if level > MAX_LEVEL => return None,
            TileKind::Hashes(level) => u32::from(level),
            TileKind::Entries | TileKind::Receipts => 0,
        };
        let total = size.get() >> (8 * level);
        let left = total.checked_sub(n.checked_mul(WIDTH)?)?;
        let width = u16::try_from(left.min(WIDTH)).expect("at most 256");
        (width > 0).then_some(Self { kind, n, width })
    }

    /// Parses a path as C2SP tlog-tiles writes it, without the leading slash:
    /// `tile/0/x001/067`, `tile/entries/005.p/17`. Anything else is `None`.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("tile/")?;
        let (kind, rest) = rest.split_once('/')?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            "receipts" => TileKind::Receipts,
            level => TileKind::Hashes((0..=MAX_LEVEL).find(|l| l.to_string() == level)?),
        };
        let (n, width) = match rest.split_once(".p/") {
            None => (rest, 256),
            Some((n, width)) => (n, (1..256).find(|w: &u16| w.to_string() == width)?),
        };
        let mut value: u64 = 0;
        for group in n.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            value = value.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
        }
        // Only one spelling of each tile is served: caches and readers agree on it.
        let tile = Self {
            kind,
            n: value,
            width,
        };
        (tile.path() == path).then_some(tile)
    }

    /// The path, without the leading slash.
    pub fn path(&self) -> String {
        let kind = match self.kind {
            TileKind::Hashes(level) => level.to_string(),
            TileKind::Entries => "entries".into(),
            TileKind::Receipts => "receipts".into(),
        };
        let mut n = format!("{:03}", self.n % 1000);
        let mut high = self.n / 1000;
        while high > 0 {
            n = format!("x{:03}/{n}", high % 1000);
            high /= 1000;
        }
        if u64::from(self.width) == WIDTH {
            format!("tile/{kind}/{n}")
        } else {
            format!("tile/{kind}/{n}.p/{}", self.width)
        }
    }

    /// Whether a tree of `size` entries has as much of it.
    pub fn is_within(&self, size: TreeSize) -> bool {
        let there = Self::within(self.kind, self.n, size);
        there.is_some_and(|there| there.width >= self.width)
    }

    /// What it holds.
    pub fn kind(&self) -> TileKind {
        self.kind
    }

    /// Its place among the tiles of its kind, from 0.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// How many items it holds, 1 to 256.
    pub fn width(&self) -> u16 {
        self.width
    }
}

/// Appends an entry to a bundle: its length as 2 bytes big-endian, then its
/// bytes (C2SP tlog-tiles, "Log entries").
///
/// # Panics
/// Never: [`crate::entry::Entry`] is at most 65,535 bytes.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    let len = u16::try_from(entry.len()).expect("an entry is at most 65,535 bytes");
    bundle.extend_from_slice(&len.to_be_bytes());
    bundle.extend_from_slice(entry);
}

/// Takes a bundle apart; `None` where a length runs past its end.
pub fn entries(bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = bundle;
    let mut entries = Vec::with_capacity(256);
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk::<2>()?;
        let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        entries.push(entry);
        rest = after;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn size(n: u64) -> TreeSize {
        TreeSize::new(n).expect("small")
    }

    #[test]
    fn paths_are_those_of_c2sp() {
        for (kind, n, tree, path) in [
            (TileKind::Hashes(0), 0, 1, "tile/0/000.p/1"),
            (TileKind::Hashes(0), 0, 256, "tile/0/000"),
            (TileKind::Hashes(0), 1, 70_000, "tile/0/001"),
            (TileKind::Hashes(0), 273, 70_000, "tile/0/273.p/112"),
            (TileKind::Hashes(1), 1, 70_000, "tile/1/001.p/17"),
            (TileKind::Hashes(2), 0, 70_000, "tile/2/000.p/1"),
            (
                TileKind::Entries,
                1_234_067,
                1_u64 << 40,
                "tile/entries/x001/x234/067",
            ),
            (TileKind::Receipts, 67, 256 * 68, "tile/receipts/067"),
        ] {
            let tile = Tile::within(kind, n, size(tree)).expect("within");
            assert_eq!(tile.path(), path);
            assert_eq!(Tile::parse(path), Some(tile));
        }
        assert_eq!(Tile::within(TileKind::Hashes(0), 1, size(256)), None);
        assert_eq!(Tile::within(TileKind::Hashes(1), 0, size(255)), None);
        assert_eq!(Tile::within(TileKind::Hashes(6), 0, size(255)), None);
        assert_eq!(Tile::within(TileKind::Hashes(0), u64::MAX, size(255)), None);
    }

    #[test]
    fn refuses_other_spellings() {
        for bad in [
            "tile/0/0",
            "tile/0/0000",
            "tile/00/000",
            "tile/6/000",
            "tile/-1/000",
            "tile/0/x000/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/001/000",
            "tile/0/x001",
            "tile/0/x001/x002",
            "tile/0/",
            "tile/data/000",
            "/tile/0/000",
            "tile/0/000/",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Tile::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn bundles_come_apart_as_they_were_put_together() {
        let mut bundle = vec![];
        for entry in [&b"a"[..], b"", &[7; 65_535]] {
            push_entry(&mut bundle, entry);
        }
        assert_eq!(entries(&bundle), Some(vec![&b"a"[..], b"", &[7; 65_535]]));
        assert_eq!(entries(&bundle[..bundle.len() - 1]), None);
        assert_eq!(entries(&[0]), None);
        assert_eq!(entries(&[]), Some(vec![]));
    }
}
