//! Totals: what each wallet used, as a Merkle tree whose root is an entry.
//!
//! The tree is hashed as the log is (RFC 6962), over leaves of fixed width in
//! ascending order of (wallet, source). Out of scope: building it, and proofs
//! (see [`crate::wallet`]).

use crate::hash::Hash;
use crate::index::{Index, TreeSize};
use crate::name::Address;
use crate::record::{Counts, Source};

/// The length of a leaf, in bytes.
pub const LEAF: usize = 86;

/// A leaf's first byte.
const FORMAT: u8 = 1;

/// The root of all wallets' totals over the log's first entries (entry kind `totals`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The entries that are summed up: those below this size, at least 1.
    pub size: TreeSize,
    /// How many leaves the tree has.
    pub count: u64,
    /// The tree's root.
    pub root: Hash,
}

/// What one wallet used by records of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The wallet.
    pub wallet: Address,
    /// How the records were observed.
    pub source: Source,
    /// The sums.
    pub sums: Sums,
    /// The first record's index.
    pub first: Index,
    /// The last record's index.
    pub last: Index,
}

/// How many records, and the sums of their counts; an absent count is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Usage entries.
    pub records: u64,
    /// All prompt tokens.
    pub input: u64,
    /// All generated tokens.
    pub output: u64,
    /// Part of `input`.
    pub cache_read: u64,
    /// Part of `input`.
    pub cache_write: u64,
    /// Part of `output`.
    pub reasoning: u64,
}

impl Sums {
    /// Adds one record; `None` where a sum exceeds 2^64 - 1.
    #[must_use]
    pub fn plus(&self, counts: &Counts) -> Option<Self> {
        let add = |sum: u64, count: Option<u32>| sum.checked_add(count.unwrap_or(0).into());
        Some(Self {
            records: self.records.checked_add(1)?,
            input: add(self.input, counts.input)?,
            output: add(self.output, counts.output)?,
            cache_read: add(self.cache_read, counts.cache_read)?,
            cache_write: add(self.cache_write, counts.cache_write)?,
            reasoning: add(self.reasoning, counts.reasoning)?,
        })
    }

    fn fields(&self) -> [u64; 6] {
        let Self {
            records,
            input,
            output,
            cache_read,
            cache_write,
            reasoning,
        } = *self;
        [records, input, output, cache_read, cache_write, reasoning]
    }
}

impl Leaf {
    /// The leaf's bytes: format, wallet, source, then eight numbers of 8 bytes
    /// big-endian.
    pub fn encode(&self) -> [u8; LEAF] {
        let mut bytes = [0; LEAF];
        bytes[0] = FORMAT;
        bytes[1..21].copy_from_slice(self.wallet.as_bytes());
        bytes[21] = code(self.source);
        let ends = [self.first.get(), self.last.get()];
        let numbers = self.sums.fields().into_iter().chain(ends);
        for (place, number) in bytes[22..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// Reads a leaf; `None` where PROTOCOL.md allows no such leaf.
    pub fn parse(bytes: &[u8; LEAF]) -> Option<Self> {
        let (head, tail) = bytes.split_at(22);
        let wallet = head[1..21].try_into().ok()?;
        let source = source(head[21])?;
        let mut numbers = [0; 8];
        for (number, place) in numbers.iter_mut().zip(tail.chunks_exact(8)) {
            *number = u64::from_be_bytes(place.try_into().ok()?);
        }
        let [
            records,
            input,
            output,
            cache_read,
            cache_write,
            reasoning,
            first,
            last,
        ] = numbers;
        let leaf = Self {
            wallet: Address::from_bytes(wallet),
            source,
            sums: Sums {
                records,
                input,
                output,
                cache_read,
                cache_write,
                reasoning,
            },
            first: Index::new(first)?,
            last: Index::new(last)?,
        };
        // As many records as there can be between the first and the last.
        let fits = first <= last && (1..=last - first + 1).contains(&records);
        let one = (records == 1) == (first == last);
        (head[0] == FORMAT && fits && one).then_some(leaf)
    }

    /// SHA-256(0x00 || leaf).
    pub fn hash(&self) -> Hash {
        Hash::leaf(&self.encode())
    }

    /// What leaves are sorted by.
    pub fn order(&self) -> (Address, u8) {
        (self.wallet, code(self.source))
    }
}

/// The byte that stands for a source in a leaf.
const fn code(source: Source) -> u8 {
    match source {
        Source::Proxy => 1,
        Source::Custom => 2,
    }
}

fn source(code: u8) -> Option<Source> {
    match code {
        1 => Some(Source::Proxy),
        2 => Some(Source::Custom),
        _ => None,
    }
}
