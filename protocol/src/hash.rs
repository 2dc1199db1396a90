//! SHA-256 as the log uses it: leaves, nodes, commitments, key ids.
//!
//! Out of scope: trees (see [`crate::mmr`]) and tiles (see [`crate::tile`]).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::key::Origin;

/// A SHA-256 digest, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The root of the tree without leaves: SHA-256 of the empty string
    /// (RFC 6962 section 2.1).
    pub const EMPTY_ROOT: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9,
        0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52,
        0xb8, 0x55,
    ]);

    /// Wraps 32 bytes that are a digest already.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The leaf hash of an entry: SHA-256(0x00 || entry) (RFC 6962 section 2.1).
    pub fn leaf(entry: &[u8]) -> Self {
        Self(
            Sha256::new()
                .chain_update([0])
                .chain_update(entry)
                .finalize()
                .into(),
        )
    }

    /// The hash of an inner node: SHA-256(0x01 || left || right) (RFC 6962 section 2.1).
    pub fn node(left: &Self, right: &Self) -> Self {
        Self(
            Sha256::new()
                .chain_update([1])
                .chain_update(left.0)
                .chain_update(right.0)
                .finalize()
                .into(),
        )
    }

    /// Parses 64 lower-case hex digits; anything else is `None`.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// Parses standard padded base64 of exactly 32 bytes; anything else is `None`.
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// Standard padded base64, 44 characters.
    pub fn to_base64(self) -> String {
        STANDARD.encode(self.0)
    }
}

/// 64 lower-case hex digits.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Entries hold several; written digit by digit they cost as much as hashing.
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(core::str::from_utf8(&hex).unwrap_or_default())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// The value of a lower-case hex digit.
pub(crate) fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The id of a credential or link token: what a usage record is attributed to
/// (PROTOCOL.md, "Key ids"). `scheme` is the provider's name, or `link`.
pub fn key_id(origin: &Origin, scheme: &str, credential: &[u8]) -> Hash {
    commit(
        "tallystick/key/v1",
        &[origin.as_str().as_bytes(), scheme.as_bytes(), credential],
    )
}

/// The commitment of an entry to its receipt id, a UUID's 16 bytes
/// (PROTOCOL.md, "Commitments").
pub fn receipt_commitment(receipt_id: &[u8; 16]) -> Hash {
    commit("tallystick/receipt-id/v1", &[receipt_id])
}

/// The commitment of an entry to the provider's own response id
/// (PROTOCOL.md, "Commitments").
pub fn response_commitment(provider: &str, response_id: &str) -> Hash {
    commit(
        "tallystick/response-id/v1",
        &[provider.as_bytes(), response_id.as_bytes()],
    )
}

/// SHA-256(domain || 0x00 || len(p1) || p1 || len(p2) || p2 ..), lengths as
/// 4 bytes big-endian, so that no two lists of parts give the same input.
pub(crate) fn commit(domain: &str, parts: &[&[u8]]) -> Hash {
    let mut input = Vec::with_capacity(128);
    input.extend_from_slice(domain.as_bytes());
    input.push(0);
    for part in parts {
        let len = u32::try_from(part.len()).expect("parts are read from bounded headers and ids");
        input.extend_from_slice(&len.to_be_bytes());
        input.extend_from_slice(part);
    }
    Hash::of(&input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn empty_root_is_the_digest_of_nothing() {
        assert_eq!(Hash::EMPTY_ROOT, Hash::of(b""));
    }

    #[test]
    fn hex_is_lower_case_and_exact() {
        let hash = Hash::of(b"x");
        assert_eq!(Hash::from_hex(&hash.to_string()), Some(hash));
        assert_eq!(Hash::from_hex(&hash.to_string().to_uppercase()), None);
        assert_eq!(Hash::from_hex(&hash.to_string()[1..]), None);
        assert_eq!(Hash::from_base64(&hash.to_base64()), Some(hash));
        assert_eq!(Hash::from_base64("AAAA"), None);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(
            response_commitment("ab", "c"),
            response_commitment("a", "bc")
        );
    }
}
