//! Usage records: what a provider said one response used.
//!
//! Out of scope: reading a provider's answer (the gateway's `usage`), and the
//! bytes of an entry (see [`crate::entry`]).

use crate::hash::Hash;
use crate::name::{Address, Name};

/// Token counts of one response, named as OpenTelemetry's gen_ai usage names
/// them. What the provider did not say is `None`, never 0. The total is
/// `input + output`; it is computed, never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All prompt tokens, cached ones included.
    pub input: Option<u32>,
    /// The part of `input` that was read from a cache.
    pub cache_read: Option<u32>,
    /// The part of `input` that was written to a cache.
    pub cache_write: Option<u32>,
    /// All generated tokens, reasoning included.
    pub output: Option<u32>,
    /// The part of `output` that was reasoning.
    pub reasoning: Option<u32>,
}

impl Counts {
    /// Nothing was said.
    pub const NONE: Self = Self {
        input: None,
        cache_read: None,
        cache_write: None,
        output: None,
        reasoning: None,
    };

    /// Whether parts exceed their whole, or stand without it: the provider
    /// contradicts itself.
    pub fn contradict(&self) -> bool {
        let exceeds = |part: u64, whole: Option<u32>| part > whole.map_or(0, u64::from);
        let cached = self.cache_read.map_or(0, u64::from) + self.cache_write.map_or(0, u64::from);
        exceeds(cached, self.input) || exceeds(self.reasoning.map_or(0, u64::from), self.output)
    }
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The provider said all of it, usage included.
    Complete,
    /// The client left; counts are what was seen until then.
    Aborted,
    /// The provider broke off, or an error came within an accepted answer.
    Partial,
    /// Accepted, but without usage in tokens that makes sense.
    Unmetered,
    /// The gateway died while the call ran.
    Unknown,
}

/// How a record was observed. Counts of different sources are never added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The gateway saw the answer of a provider that the operator configured.
    Proxy,
    /// The gateway saw the answer of a host that the client named.
    Custom,
}

/// How a wallet came to stand in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// The request named it; nobody proved anything.
    Claimed,
    /// A binding of the record's key id to it stands earlier in the log.
    Bound,
}

/// One provider response's usage record (entry kind `usage`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Commitment to the receipt id (see [`crate::hash::receipt_commitment`]).
    pub receipt: Hash,
    /// Whose credential or link token made the call; absent for anonymous calls.
    pub key_id: Option<Hash>,
    /// The wallet the record counts for, and how it was linked.
    pub wallet: Option<(Address, Link)>,
    /// How the record was observed.
    pub source: Source,
    /// The provider's name, or a custom host's registrable domain.
    pub provider: Name,
    /// The model that answered, cut to its base name.
    pub model: Option<Name>,
    /// What the provider said the response used.
    pub counts: Counts,
    /// How the response ended.
    pub outcome: Outcome,
    /// Whether the provider contradicted itself (flag `inconsistent`).
    pub inconsistent: bool,
    /// Commitment to the provider's response id (see [`crate::hash::response_commitment`]).
    pub response: Option<Hash>,
}

macro_rules! words {
    ($type:ty { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// Every value there is.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word that stands for it in an entry.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Reads the word that stands for it in an entry.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words!(Outcome {
    Complete => "complete",
    Aborted => "aborted",
    Partial => "partial",
    Unmetered => "unmetered",
    Unknown => "unknown",
});
words!(Source { Proxy => "proxy", Custom => "custom" });
words!(Link { Claimed => "claimed", Bound => "bound" });
