//! Numbers that mean something: places in the log, its sizes, its times.

use core::fmt;

/// JSON readers keep integers exact only to here (RFC 8259 section 6).
const MAX_EXACT: u64 = (1 << 53) - 1;

/// The place of an entry in the log, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(u64);

/// A number of entries: the first `n` entries of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeSize(u64);

/// Integration time: whole seconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Index {
    /// `None` above 2^53 - 1.
    pub const fn new(value: u64) -> Option<Self> {
        if value <= MAX_EXACT {
            Some(Self(value))
        } else {
            None
        }
    }

    /// Reads a decimal number without sign or leading zeros; anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        decimal(text).and_then(Self::new)
    }

    /// The index as a plain number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl TreeSize {
    /// The size of the empty log.
    pub const ZERO: Self = Self(0);

    /// `None` above 2^53 - 1.
    pub const fn new(value: u64) -> Option<Self> {
        if value <= MAX_EXACT {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The size as a plain number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The index that the next entry gets.
    pub const fn next(self) -> Index {
        Index(self.0)
    }

    /// The size with one entry more.
    #[must_use]
    pub const fn grown(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Time {
    /// `None` above 2^53 - 1.
    pub const fn from_secs(value: u64) -> Option<Self> {
        if value <= MAX_EXACT {
            Some(Self(value))
        } else {
            None
        }
    }

    /// Seconds since 1970.
    pub const fn secs(self) -> u64 {
        self.0
    }

    /// The UTC day this time falls on, in days since 1970-01-01.
    pub const fn day(self) -> u64 {
        self.0 / 86_400
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TreeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Parses a decimal number without sign, leading zeros or anything around it,
/// at most 2^53 - 1; anything else is `None`.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let canonical = !text.is_empty()
        && text.len() <= 16
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    let value = canonical.then(|| text.parse().ok()).flatten()?;
    (value <= MAX_EXACT).then_some(value)
}
