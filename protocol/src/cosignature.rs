//! Cosignatures: a witness's signed statement that at some time a checkpoint
//! was the newest consistent one it had seen (C2SP tlog-cosignature).
//!
//! Ed25519 cosignatures (type 0x04) are made and verified. Keys of other
//! types, ML-DSA-44 (0x06) among them, are kept as they are written; what they
//! sign is ignored, so they never count.
//!
//! Out of scope: whether the cosigned text is a checkpoint of the log (see
//! [`crate::checkpoint`]), which witnesses are trusted (see [`crate::policy`]),
//! and what else a witness means by it.

use alloc::format;
use alloc::string::String;
use core::fmt;

use ed25519_dalek::Signer as _;

use crate::index::Time;
use crate::note::{self, Note, SignatureLine};
use crate::vkey::{COSIGNATURE_ED25519, ED25519, KeyError, KeyName, PublicKey, Vkey};

/// A witness's verifier key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosignerKey {
    vkey: Vkey,
    /// `None` of a type that is not verified here.
    key: Option<PublicKey>,
}

/// A cosignature carries the witness's name and key hash, but is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CosignatureError {
    /// Not a timestamp and an Ed25519 signature.
    #[error("the cosignature by {name} has {found} bytes, expected 72")]
    Length {
        /// The witness.
        name: KeyName,
        /// The number of bytes after the key hash.
        found: usize,
    },
    /// A time that no clock shows: above 2^53 - 1 seconds.
    #[error("the cosignature by {name} is of second {found}, expected at most 2^53 - 1")]
    Time {
        /// The witness.
        name: KeyName,
        /// The timestamp.
        found: u64,
    },
    /// The signature does not verify.
    #[error("the cosignature by {name} does not verify")]
    Signature {
        /// The witness.
        name: KeyName,
    },
}

impl CosignerKey {
    /// Parses a witness's vkey of any type but 0x01, which signs notes
    /// without a time.
    ///
    /// # Errors
    /// The form, the type, the hash or an Ed25519 key itself is wrong.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let vkey = Vkey::parse(text)?;
        let key = match vkey.kind() {
            COSIGNATURE_ED25519 => {
                let key = vkey.key().try_into();
                let key = key.map_err(|_| KeyError::Form(text.into()))?;
                Some(PublicKey::admit(key)?)
            }
            ED25519 => {
                return Err(KeyError::Type {
                    expected: "0x04 (Ed25519 cosignatures)",
                    found: ED25519,
                });
            }
            _ => None,
        };
        Ok(Self { vkey, key })
    }

    /// The name under which the witness signs.
    pub fn name(&self) -> &KeyName {
        self.vkey.name()
    }

    /// The vkey as it is written.
    pub fn vkey(&self) -> &Vkey {
        &self.vkey
    }

    /// Whether its cosignatures are verified here: it is of type 0x04.
    pub fn is_understood(&self) -> bool {
        self.key.is_some()
    }

    /// The newest time at which this witness cosigned the note's text; `None`
    /// if it did not, or if its signatures are not understood here.
    ///
    /// # Errors
    /// A line carries its name and key hash, but is no cosignature of it: the
    /// note is then spoilt (C2SP signed-note, "Signatures").
    pub fn cosigned(&self, note: &Note<'_>) -> Result<Option<Time>, CosignatureError> {
        let mut newest = None;
        for line in note.signatures() {
            newest = newest.max(self.cosigned_in(line, note.text())?);
        }
        Ok(newest)
    }

    /// The time of this witness's cosignature over `text` in one line; `None`
    /// if the line is of another key, or not understood here.
    ///
    /// # Errors
    /// The line carries its name and key hash, but is no cosignature of it.
    pub fn cosigned_in(
        &self,
        line: &SignatureLine<'_>,
        text: &str,
    ) -> Result<Option<Time>, CosignatureError> {
        let ours = line.name() == self.name().as_str() && line.key_hash() == self.vkey.key_hash();
        match &self.key {
            Some(key) if ours => self.verify(key, text, line.signature()).map(Some),
            _ => Ok(None),
        }
    }

    fn verify(&self, key: &PublicKey, text: &str, blob: &[u8]) -> Result<Time, CosignatureError> {
        let name = || self.name().clone();
        let length = || CosignatureError::Length {
            name: name(),
            found: blob.len(),
        };
        let (time, signature) = blob.split_first_chunk::<8>().ok_or_else(length)?;
        let signature: &[u8; 64] = signature.try_into().map_err(|_| length())?;
        let found = u64::from_be_bytes(*time);
        let time = Time::from_secs(found).ok_or_else(|| CosignatureError::Time {
            name: name(),
            found,
        })?;
        if key.verifies(message(time, text).as_bytes(), signature) {
            Ok(time)
        } else {
            Err(CosignatureError::Signature { name: name() })
        }
    }
}

/// The vkey.
impl fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vkey.fmt(f)
    }
}

/// A witness's signing key with its name. Debug output never shows the secret.
pub struct Cosigner {
    secret: ed25519_dalek::SigningKey,
    verifier: CosignerKey,
}

impl Cosigner {
    /// Takes a 32-byte Ed25519 seed (RFC 8032 section 5.1.5). A key that
    /// cosigns must have no other name and no other role.
    pub fn new(name: KeyName, seed: &[u8; 32]) -> Self {
        let secret = ed25519_dalek::SigningKey::from_bytes(seed);
        let key = PublicKey::of(&secret);
        let vkey = Vkey::new(name, COSIGNATURE_ED25519, key.as_bytes().to_vec());
        let verifier = CosignerKey {
            vkey,
            key: Some(key),
        };
        Self { secret, verifier }
    }

    /// The key that verifies what this one signs.
    pub fn verifier(&self) -> &CosignerKey {
        &self.verifier
    }

    /// The signature line, newline included, over a checkpoint's text.
    pub fn cosign(&self, text: &str, time: Time) -> String {
        let signature = self.secret.sign(message(time, text).as_bytes());
        let mut blob = time.secs().to_be_bytes().to_vec();
        blob.extend_from_slice(&signature.to_bytes());
        let hash = self.verifier.vkey.key_hash();
        note::line(self.verifier.name().as_str(), hash, &blob)
    }
}

impl fmt::Debug for Cosigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cosigner({})", self.verifier)
    }
}

/// What an Ed25519 cosigner signs (C2SP tlog-cosignature, "Ed25519 signed message").
fn message(time: Time, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use alloc::vec;

    const TEXT: &str = "example.com/behind-the-sofa\n20852163\n\
                        CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    /// The example of C2SP tlog-cosignature; the witness's key is not given there.
    const EXAMPLE: &str = "\u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/\
        zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

    fn secs(n: u64) -> Time {
        Time::from_secs(n).expect("within bounds")
    }

    fn cosigner(seed: u8) -> Cosigner {
        let name = KeyName::new("witness.example.com/w1").expect("a name");
        Cosigner::new(name, &[seed; 32])
    }

    fn note_of(lines: &[&str]) -> String {
        format!("{TEXT}\n{}", lines.concat())
    }

    #[test]
    fn the_message_and_the_line_are_those_of_the_specification() {
        assert_eq!(
            message(secs(1_679_315_147), TEXT),
            "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n\
             CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
        );
        let text = note_of(&[EXAMPLE]);
        let note = Note::parse(text.as_bytes()).expect("a note");
        let line = &note.signatures()[0];
        assert_eq!(line.name(), "witness.example.com/w1");
        assert_eq!(line.to_string(), EXAMPLE);
        let (time, signature) = line.signature().split_at(8);
        assert_eq!(time, 1_679_315_147_u64.to_be_bytes());
        assert_eq!(signature.len(), 64);
    }

    #[test]
    fn a_witness_cosigned_at_its_newest_time() {
        let (ours, theirs) = (cosigner(1), cosigner(2));
        let (early, late) = (ours.cosign(TEXT, secs(5)), ours.cosign(TEXT, secs(9)));
        let stranger = theirs.cosign(TEXT, secs(99));
        for (claim, lines, expected) in [
            ("once", vec![&early], Some(5)),
            ("twice", vec![&late, &early], Some(9)),
            ("with a stranger", vec![&stranger, &early], Some(5)),
            ("a stranger only", vec![&stranger], None),
        ] {
            let text = note_of(&lines.iter().map(|l| l.as_str()).collect::<vec::Vec<_>>());
            let note = Note::parse(text.as_bytes()).expect("a note");
            let cosigned = ours.verifier().cosigned(&note);
            assert_eq!(cosigned, Ok(expected.map(secs)), "{claim}");
        }
    }

    #[test]
    fn a_line_of_ours_that_does_not_verify_spoils_the_note() {
        let ours = cosigner(1);
        let line = |blob: &[u8]| {
            let key = ours.verifier();
            note::line(key.name().as_str(), key.vkey().key_hash(), blob)
        };
        let good = ours.cosign(TEXT, secs(5));
        let text = note_of(&[&good]);
        let blob = Note::parse(text.as_bytes()).expect("a note").signatures()[0]
            .signature()
            .to_vec();
        let mut later = blob.clone();
        later[7] += 1;
        let mut never = blob.clone();
        never[0] = 0x7f;
        for (claim, bad) in [
            ("another time", &later[..]),
            ("a time beyond all clocks", &never),
            ("a byte short", &blob[..71]),
            ("a byte more", &[&blob[..], &[0]].concat()),
            ("no signature", &blob[..8]),
            ("nothing of it", &blob[..1]),
        ] {
            let text = note_of(&[&good, &line(bad)]);
            let note = Note::parse(text.as_bytes()).expect("a note");
            assert!(ours.verifier().cosigned(&note).is_err(), "{claim}");
        }
        let text = note_of(&[&good]).replace("20852163", "20852164");
        let note = Note::parse(text.as_bytes()).expect("a note");
        assert!(matches!(
            ours.verifier().cosigned(&note),
            Err(CosignatureError::Signature { .. })
        ));
    }

    #[test]
    fn keys_of_other_types_are_kept_and_never_count() {
        let name = KeyName::new("pq.example/w").expect("a name");
        let vkey = Vkey::new(name, crate::vkey::COSIGNATURE_ML_DSA_44, vec![7; 1312]);
        let key = CosignerKey::parse(&vkey.to_string()).expect("kept");
        assert!(!key.is_understood() && key.to_string() == vkey.to_string());
        let line = note::line("pq.example/w", vkey.key_hash(), &[1; 2428]);
        let text = note_of(&[&line]);
        let note = Note::parse(text.as_bytes()).expect("a note");
        assert_eq!(key.cosigned(&note), Ok(None));

        let ours = cosigner(1);
        let plain = Vkey::new(
            ours.verifier().name().clone(),
            ED25519,
            ours.verifier().vkey().key().to_vec(),
        );
        assert!(matches!(
            CosignerKey::parse(&plain.to_string()),
            Err(KeyError::Type { found: ED25519, .. })
        ));
    }
}
