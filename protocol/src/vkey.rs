//! Verifier keys of any kind as text (C2SP signed-note, "Verifier keys"):
//! `<name>+<key hash>+<base64(type || key)>`, and which Ed25519 keys are admitted.
//!
//! Out of scope: what a key may sign (see [`crate::key`] for logs,
//! [`crate::cosignature`] for witnesses).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Verifier as _;

use crate::hash::Hash;
use crate::key::OriginError;

/// Signature type of Ed25519 over a note's text (C2SP signed-note, "Signature types").
pub const ED25519: u8 = 0x01;

/// Signature type of a timestamped Ed25519 cosignature (C2SP tlog-cosignature).
pub const COSIGNATURE_ED25519: u8 = 0x04;

/// Signature type of an ML-DSA-44 cosignature (C2SP tlog-cosignature): known
/// by name, never verified here.
pub const COSIGNATURE_ML_DSA_44: u8 = 0x06;

/// The y of the eight points of small order, as R encodes it without the sign of x.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [
        0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
    [
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
];

/// The name under which a key signs: not empty, without Unicode spaces and
/// without `+` (C2SP signed-note, "Format").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

impl KeyName {
    /// `None` where the text is no such name.
    pub fn new(text: &str) -> Option<Self> {
        is_name(text).then(|| Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyName({})", self.0)
    }
}

/// Whether a text is a key's name; a name stands on one line, so control
/// characters are none either.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.contains('+')
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_ascii_control())
}

/// Why a verifier key is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not `name+hash+key`.
    #[error("expected a verifier key of the form <name>+<8 hex digits>+<base64>, found {0:?}")]
    Form(String),
    /// The name is no origin.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The key is of another type.
    #[error("expected a key of type {expected}, found type {found:#04x}")]
    Type {
        /// What may stand here.
        expected: &'static str,
        /// The type that stands there.
        found: u8,
    },
    /// The hash does not belong to name and key.
    #[error("key hash is {found}, expected {expected}")]
    Hash {
        /// What follows from name and key.
        expected: String,
        /// What the text says.
        found: String,
    },
    /// Not a canonical encoding of a torsion-free point of large order.
    #[error("the Ed25519 key is not a canonical encoding of a point of the prime-order group")]
    Point,
}

/// A verifier key as it is written; the key itself is opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vkey {
    name: KeyName,
    hash: [u8; 4],
    kind: u8,
    key: Vec<u8>,
}

impl Vkey {
    /// A vkey with the hash that follows from name, type and key.
    pub fn new(name: KeyName, kind: u8, key: Vec<u8>) -> Self {
        let hash = key_hash(name.as_str(), kind, &key);
        Self {
            name,
            hash,
            kind,
            key,
        }
    }

    /// Parses a vkey of any type. The hash is checked for the types whose
    /// hash C2SP fixes and this crate knows: 0x01, 0x04 and 0x06.
    ///
    /// # Errors
    /// [`KeyError::Form`] and [`KeyError::Hash`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let form = || KeyError::Form(text.into());
        let (name, rest) = text.split_once('+').ok_or_else(form)?;
        let (hash, material) = rest.split_once('+').ok_or_else(form)?;
        let name = KeyName::new(name).ok_or_else(form)?;
        let material = STANDARD.decode(material).map_err(|_| form())?;
        let (kind, key) = material.split_first().ok_or_else(form)?;
        let expected = key_hash(name.as_str(), *kind, key);
        let stated = unhex8(hash).ok_or_else(form)?;
        let fixed = matches!(*kind, ED25519 | COSIGNATURE_ED25519 | COSIGNATURE_ML_DSA_44);
        if fixed && stated != expected {
            return Err(KeyError::Hash {
                expected: hex8(expected),
                found: hash.into(),
            });
        }
        Ok(Self {
            name,
            hash: stated,
            kind: *kind,
            key: key.to_vec(),
        })
    }

    /// The name under which the key signs.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The 4 bytes before each of its signatures.
    pub fn key_hash(&self) -> [u8; 4] {
        self.hash
    }

    /// The signature type.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// The public key's bytes, without the type.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

/// The vkey's text.
impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut material = Vec::with_capacity(1 + self.key.len());
        material.push(self.kind);
        material.extend_from_slice(&self.key);
        let material = STANDARD.encode(material);
        write!(f, "{}+{}+{material}", self.name, hex8(self.hash))
    }
}

/// An Ed25519 public key that is admitted: its encoding is canonical, it is
/// not of small order and it is torsion-free. For such keys all strict
/// verifiers agree (PROTOCOL.md section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// Admits a key.
    ///
    /// # Errors
    /// [`KeyError::Point`].
    pub fn admit(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        ed25519_dalek::VerifyingKey::from_bytes(bytes)
            .ok()
            .filter(|key| {
                let point = key.to_edwards();
                point.compress().to_bytes() == *bytes && !key.is_weak() && point.is_torsion_free()
            })
            .map(Self)
            .ok_or(KeyError::Point)
    }

    /// The public half of a secret key; such a key is always admitted.
    pub(crate) fn of(secret: &ed25519_dalek::SigningKey) -> Self {
        Self(secret.verifying_key())
    }

    /// The key's 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Strict verification (RFC 8032 with canonical S, canonical R not of
    /// small order): for an admitted key, valid here is valid everywhere.
    ///
    /// The verdicts are those of `verify_strict`, which decodes R first, and so
    /// takes a tenth longer. `verify` encodes the R that the equation gives and
    /// compares bytes: an R that passes is canonical and on the curve, so that
    /// its bytes alone say whether it is of small order.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        let mut y = *signature.r_bytes();
        y[31] &= 0x7f;
        !SMALL_ORDER.contains(&y) && self.0.verify(message, &signature).is_ok()
    }
}

/// SHA-256(name || 0x0A || type || key)[..4] (C2SP signed-note, "Signatures").
pub(crate) fn key_hash(name: &str, kind: u8, key: &[u8]) -> [u8; 4] {
    let mut input = name.as_bytes().to_vec();
    input.extend_from_slice(&[b'\n', kind]);
    input.extend_from_slice(key);
    let digest = *Hash::of(&input).as_bytes();
    [digest[0], digest[1], digest[2], digest[3]]
}

fn hex8(hash: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(hash))
}

fn unhex8(text: &str) -> Option<[u8; 4]> {
    let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let value = (lower && text.len() == 8).then(|| u32::from_str_radix(text, 16).ok());
    value.flatten().map(u32::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use alloc::vec;
    use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
    use proptest::prelude::*;

    #[test]
    fn vkeys_of_any_type_survive_the_round_trip() {
        for (kind, len) in [(0x01, 32), (0x04, 32), (0x06, 1312), (0x02, 91), (0xff, 1)] {
            let name = KeyName::new("witness.example/w1").expect("a name");
            let vkey = Vkey::new(name, kind, vec![7; len]);
            assert_eq!(
                Vkey::parse(&vkey.to_string()).as_ref(),
                Ok(&vkey),
                "{kind:#x}"
            );
        }
    }

    #[test]
    fn hashes_are_checked_where_they_are_fixed() {
        let name = KeyName::new("a b".replace(' ', "\u{fc}").as_str()).expect("a name");
        for (kind, fixed) in [
            (0x01, true),
            (0x04, true),
            (0x06, true),
            (0x02, false),
            (0xff, false),
        ] {
            let mut vkey = Vkey::new(name.clone(), kind, vec![1; 32]);
            vkey.hash[0] ^= 1;
            let parsed = Vkey::parse(&vkey.to_string());
            assert_eq!(
                matches!(parsed, Err(KeyError::Hash { .. })),
                fixed,
                "{kind:#x}"
            );
            assert_eq!(parsed.is_ok(), !fixed, "{kind:#x}");
        }
    }

    #[test]
    fn the_points_of_small_order_are_all_there() {
        let mut points = 0;
        for (y, sign) in SMALL_ORDER.iter().flat_map(|y| [(y, 0), (y, 0x80)]) {
            let mut bytes = *y;
            bytes[31] |= sign;
            let key = VerifyingKey::from_bytes(&bytes).expect("on the curve");
            assert!(key.is_weak(), "{bytes:02x?}");
            points += usize::from(key.to_edwards().compress().to_bytes() == bytes);
        }
        // As many as the curve's cofactor; 1 and -1 have one sign only.
        assert_eq!(points, 8);
    }

    proptest! {
        #[test]
        fn verdicts_are_those_of_strict_verification(
            message in proptest::collection::vec(any::<u8>(), 0..80),
            at in 0_usize..200,
            bit in 0_u8..8,
        ) {
            let secret = SigningKey::from_bytes(&[7; 32]);
            let mut signature = secret.sign(&message).to_bytes();
            if let Some(byte) = signature.get_mut(at) {
                *byte ^= 1 << bit;
            }
            let key = PublicKey::of(&secret);
            let strict = key.0.verify_strict(&message, &Signature::from_bytes(&signature));
            prop_assert_eq!(key.verifies(&message, &signature), strict.is_ok());
            prop_assert_eq!(strict.is_ok(), at >= 64);
        }
    }

    #[test]
    fn names_stand_between_spaces_and_pluses() {
        for bad in ["", "a b", "a+b", "a\u{a0}b", "a\u{2003}b", "a\nb", "a\tb"] {
            assert_eq!(KeyName::new(bad), None, "{bad:?}");
        }
        for good in ["a", "witness.example/w1", "oid/1.3.6.1", "\u{fc}"] {
            assert!(KeyName::new(good).is_some(), "{good}");
        }
    }
}
