//! The log's name and keys: origin, verifier key, signer (C2SP signed-note).
//!
//! Out of scope: where keys are kept and whom to trust.

use alloc::string::String;
use core::fmt;

use ed25519_dalek::Signer as _;

use crate::vkey::{ED25519, KeyError, KeyName, PublicKey, Vkey};

/// The longest origin, in bytes.
pub const MAX_ORIGIN: usize = 100;

/// The log's identity (C2SP tlog-checkpoint): a lower-case host name with a
/// dot, then an optional path; it is the name under which the log signs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(String);

/// Why a text is no origin.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin: expected a lower-case host name with a dot and an optional path, \
     such as log.example.org or example.org/usage, at most {MAX_ORIGIN} bytes"
)]
pub struct OriginError(String);

impl Origin {
    /// Parses an origin.
    ///
    /// # Errors
    /// Anything but `label(.label)+(/segment)*`: labels of a-z, 0-9 and inner
    /// hyphens, at most 63 bytes; segments of letters, digits and `.`, `_`,
    /// `~`, `-`; at most 100 bytes in all.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let (host, path) = text
            .split_once('/')
            .map_or((text, None), |(h, p)| (h, Some(p)));
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        };
        let segment = |s: &str| {
            !s.is_empty()
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-'))
        };
        let fits = text.len() <= MAX_ORIGIN
            && host.contains('.')
            && host.split('.').all(label)
            && path.is_none_or(|p| p.split('/').all(segment));
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(OriginError(text.into()))
        }
    }

    /// The origin.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({})", self.0)
    }
}

/// The log's verifier key: origin and admitted Ed25519 key. Its text form
/// (vkey) is `<origin>+<8 hex digits of the key id>+<base64(0x01 || key)>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    origin: Origin,
    key: PublicKey,
}

impl VerifierKey {
    /// Admits a key (see [`PublicKey::admit`]).
    ///
    /// # Errors
    /// [`KeyError::Point`].
    pub fn new(origin: Origin, key: &[u8; 32]) -> Result<Self, KeyError> {
        let key = PublicKey::admit(key)?;
        Ok(Self { origin, key })
    }

    /// Parses a vkey.
    ///
    /// # Errors
    /// The form, the origin, the type, the hash or the key itself is wrong.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let vkey = Vkey::parse(text)?;
        if vkey.kind() != ED25519 {
            return Err(KeyError::Type {
                expected: "0x01 (Ed25519)",
                found: vkey.kind(),
            });
        }
        let key = vkey.key().try_into();
        let key = key.map_err(|_| KeyError::Form(text.into()))?;
        Self::new(Origin::parse(vkey.name().as_str())?, key)
    }

    /// The name under which the key signs.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The Ed25519 public key's 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// The 4 bytes before each signature: SHA-256(name || 0x0A || 0x01 || key)[..4]
    /// (C2SP signed-note, "Key ID").
    pub fn key_hash(&self) -> [u8; 4] {
        crate::vkey::key_hash(self.origin.as_str(), ED25519, self.as_bytes())
    }

    /// Strict verification (see [`PublicKey::verifies`]).
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verifies(message, signature)
    }

    /// The key as a policy names it.
    pub fn vkey(&self) -> Vkey {
        let name = KeyName::new(self.origin.as_str()).expect("an origin is a key's name");
        Vkey::new(name, ED25519, self.as_bytes().to_vec())
    }
}

/// The vkey.
impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vkey().fmt(f)
    }
}

/// The log's signing key with the name it signs under. Debug output and
/// errors never show the secret.
pub struct Signer {
    secret: ed25519_dalek::SigningKey,
    verifier: VerifierKey,
}

impl Signer {
    /// Takes a 32-byte Ed25519 seed (RFC 8032 section 5.1.5).
    pub fn new(origin: Origin, seed: &[u8; 32]) -> Self {
        let secret = ed25519_dalek::SigningKey::from_bytes(seed);
        let verifier = VerifierKey {
            origin,
            key: PublicKey::of(&secret),
        };
        Self { secret, verifier }
    }

    /// The key that verifies what this one signs.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs `message` (Ed25519, deterministic).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.secret.sign(message).to_bytes()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.verifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn origins_are_hosts_with_a_dot_and_a_path() {
        for good in [
            "a.b",
            "log.example.org",
            "tally.invalid/0123456789abcdef",
            "x-1.y/A_~.-/b",
        ] {
            assert_eq!(
                Origin::parse(good).map(|o| o.as_str() == good),
                Ok(true),
                "{good}"
            );
        }
        let long = ["a.", &"b".repeat(99)].concat();
        for bad in [
            "",
            "localhost",
            "A.b",
            "a..b",
            ".a.b",
            "a.b.",
            "a.b/",
            "a.b//c",
            "a.b/c d",
            "a.b/c+d",
            "-a.b",
            "a-.b",
            "a.b:80",
            "a.b/ü",
            "tallystick/receipt/v1",
            long.as_str(),
        ] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn vkeys_survive_the_round_trip_and_nothing_else_does() {
        let signer = Signer::new(Origin::parse("log.example.org").expect("valid"), &[7; 32]);
        let text = signer.verifier().to_string();
        assert_eq!(VerifierKey::parse(&text).as_ref(), Ok(signer.verifier()));
        let renamed = text.replace("log.example", "lag.example");
        assert!(matches!(
            VerifierKey::parse(&renamed),
            Err(KeyError::Hash { .. })
        ));
        for bad in [
            "",
            "a.b",
            "a.b+1+",
            &text[..text.len() - 4],
            &text.to_uppercase(),
        ] {
            assert!(VerifierKey::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_keys_on_which_verifiers_disagree() {
        let origin = || Origin::parse("a.b").expect("valid");
        let mut identity = [0; 32];
        identity[0] = 1;
        // y = 2^255 - 18, that is 1 written non-canonically; and the point of order 2.
        let mut twin = [0xff; 32];
        (twin[0], twin[31]) = (0xee, 0x7f);
        let mut order_two = [0xff; 32];
        (order_two[0], order_two[31]) = (0xec, 0x7f);
        // A prime-order point plus a point of order 2: not weak, not torsion-free.
        let honest = Signer::new(origin(), &[7; 32]);
        let point = ed25519_dalek::VerifyingKey::from_bytes(honest.verifier().as_bytes())
            .expect("valid")
            .to_edwards();
        let two = ed25519_dalek::VerifyingKey::from_bytes(&order_two)
            .expect("on the curve")
            .to_edwards();
        let mixed = (point + two).compress().to_bytes();
        for bad in [identity, twin, order_two, [0; 32], mixed] {
            assert_eq!(
                VerifierKey::new(origin(), &bad),
                Err(KeyError::Point),
                "{bad:02x?}"
            );
        }
    }
}
