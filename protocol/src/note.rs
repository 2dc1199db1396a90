//! Signed notes (C2SP signed-note): a text and signature lines.
//!
//! Out of scope: what the text says (see [`crate::checkpoint`], [`crate::receipt`]),
//! and what else a witness signs (see [`crate::cosignature`]).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::key::{Signer, VerifierKey};
use crate::vkey::is_name;

/// The longest note that is read, in bytes.
pub const MAX_NOTE: usize = 65_536;

/// The most signature lines that are read.
pub const MAX_SIGNATURES: usize = 64;

/// Why a note is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not a signed note at all.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// No signature line carries the key's name and hash.
    #[error("the note carries no signature by the expected key")]
    Unsigned,
    /// A signature line carries the key's name and hash, but does not verify.
    #[error("the signature by the expected key does not verify")]
    BadSignature,
}

/// A note of the right form. Nothing of it is verified: its text MUST be
/// ignored until a trusted key's signature is (C2SP signed-note).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    text: &'a str,
    signatures: Vec<SignatureLine<'a>>,
}

/// One signature line: who is said to have signed, and the signature's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureLine<'a> {
    name: &'a str,
    key_hash: [u8; 4],
    signature: Vec<u8>,
}

impl<'a> Note<'a> {
    /// Takes a note apart.
    ///
    /// # Errors
    /// [`NoteError::Malformed`].
    pub fn parse(note: &'a [u8]) -> Result<Self, NoteError> {
        let malformed = NoteError::Malformed;
        if note.len() > MAX_NOTE {
            return Err(malformed("longer than 65,536 bytes"));
        }
        let note = core::str::from_utf8(note).map_err(|_| malformed("not UTF-8"))?;
        if note.chars().any(|c| c.is_ascii_control() && c != '\n') {
            return Err(malformed("a control character"));
        }
        // The last empty line separates; the text keeps its final newline.
        let split = note
            .rfind("\n\n")
            .ok_or(malformed("no empty line before the signatures"))?;
        let (text, signatures) = (&note[..=split], &note[split + 2..]);
        if text == "\n" {
            return Err(malformed("an empty text"));
        }
        let signatures = SignatureLine::parse_all(signatures)?;
        Ok(Self { text, signatures })
    }

    /// The text, its final newline included.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// All signature lines, in their order.
    pub fn signatures(&self) -> &[SignatureLine<'a>] {
        &self.signatures
    }

    /// Requires a signature by `key`. Signatures by other keys are ignored;
    /// a line of this name and key hash that does not verify spoils the note.
    ///
    /// # Errors
    /// Not signed by `key`, or signed wrongly.
    pub fn verify(&self, key: &VerifierKey) -> Result<(), NoteError> {
        let mut verified = false;
        for line in &self.signatures {
            if line.name != key.origin().as_str() || line.key_hash != key.key_hash() {
                continue;
            }
            let genuine = (line.signature.as_slice().try_into())
                .is_ok_and(|s: &[u8; 64]| key.verifies(self.text.as_bytes(), s));
            if !genuine {
                return Err(NoteError::BadSignature);
            }
            verified = true;
        }
        verified.then_some(()).ok_or(NoteError::Unsigned)
    }
}

impl<'a> SignatureLine<'a> {
    /// Takes signature lines apart, each ended by a newline: 1 to 64 of them.
    ///
    /// # Errors
    /// [`NoteError::Malformed`].
    pub fn parse_all(lines: &'a str) -> Result<Vec<Self>, NoteError> {
        let lines = lines
            .strip_suffix('\n')
            .ok_or(NoteError::Malformed("no newline at the end"))?;
        let lines = lines.split('\n');
        if lines.clone().count() > MAX_SIGNATURES {
            return Err(NoteError::Malformed("more than 64 signature lines"));
        }
        lines.map(Self::parse).collect()
    }

    fn parse(line: &'a str) -> Result<Self, NoteError> {
        let malformed = NoteError::Malformed;
        let line = line
            .strip_prefix("\u{2014} ")
            .ok_or(malformed("a line that is no signature"))?;
        let (name, blob) = line
            .split_once(' ')
            .ok_or(malformed("a signature line without a name"))?;
        let blob = STANDARD
            .decode(blob)
            .map_err(|_| malformed("a signature that is not base64"))?;
        if !is_name(name) {
            return Err(malformed("a signature line with a bad name"));
        }
        let (key_hash, signature) = blob
            .split_first_chunk::<4>()
            .filter(|(_, s)| !s.is_empty())
            .ok_or(malformed("a signature without a key hash"))?;
        Ok(Self {
            name,
            key_hash: *key_hash,
            signature: signature.to_vec(),
        })
    }

    /// The name of the key that is said to have signed.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// That key's hash.
    pub fn key_hash(&self) -> [u8; 4] {
        self.key_hash
    }

    /// The signature's bytes, in whatever form the key's type gives them.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }
}

/// The line with its newline.
impl fmt::Display for SignatureLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&line(self.name, self.key_hash, &self.signature))
    }
}

/// Opens `note`: returns its text, newline included, if `key` signed it.
/// Signatures by other keys are ignored, as C2SP signed-note asks.
///
/// # Errors
/// Malformed, not signed by `key`, or signed wrongly.
pub fn open<'a>(note: &'a [u8], key: &VerifierKey) -> Result<&'a str, NoteError> {
    let note = Note::parse(note)?;
    note.verify(key)?;
    Ok(note.text())
}

/// The note of `text`, which ends in a newline, with `signer`'s signature.
pub fn seal(text: &str, signer: &Signer) -> String {
    with_signature(text, signer.verifier(), &signer.sign(text.as_bytes()))
}

/// The note of `text` with a signature made elsewhere.
pub fn with_signature(text: &str, key: &VerifierKey, signature: &[u8; 64]) -> String {
    let line = line(key.origin().as_str(), key.key_hash(), signature);
    format!("{text}\n{line}")
}

/// A signature line with its newline.
pub(crate) fn line(name: &str, key_hash: [u8; 4], signature: &[u8]) -> String {
    let mut blob = key_hash.to_vec();
    blob.extend_from_slice(signature);
    format!("\u{2014} {name} {}\n", STANDARD.encode(blob))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Origin;
    use alloc::string::ToString as _;

    fn signer(name: &str, seed: u8) -> Signer {
        Signer::new(Origin::parse(name).expect("valid"), &[seed; 32])
    }

    #[test]
    fn opens_what_the_key_signed_and_nothing_else() {
        let ours = signer("a.b", 1);
        let note = seal("one\n\ntwo\n", &ours);
        let key = ours.verifier();
        assert_eq!(open(note.as_bytes(), key), Ok("one\n\ntwo\n"));

        let stranger = seal("one\n\ntwo\n", &signer("c.d", 2));
        let cosigned = format!("{note}{}", &stranger["one\n\ntwo\n\n".len()..]);
        assert_eq!(open(cosigned.as_bytes(), key), Ok("one\n\ntwo\n"));
        assert_eq!(open(stranger.as_bytes(), key), Err(NoteError::Unsigned));
        assert_eq!(
            open(seal("x\n", &signer("a.b", 2)).as_bytes(), key),
            Err(NoteError::Unsigned)
        );
        let forged = note.replace("two", "six");
        assert_eq!(open(forged.as_bytes(), key), Err(NoteError::BadSignature));
    }

    #[test]
    fn refuses_malformed_notes() {
        let ours = signer("a.b", 1);
        let note = seal("text\n", &ours);
        let key = ours.verifier();
        for (claim, bad) in [
            ("truncated", note[..note.len() - 1].to_string()),
            ("no empty line", note.replace("\n\n", "\n")),
            ("carriage return", note.replace('\n', "\r\n")),
            ("trailing line", format!("{note}x\n")),
            ("trailing empty line", format!("{note}\n")),
            ("hyphen for dash", note.replace('\u{2014}', "-")),
            ("two spaces", note.replace("\u{2014} ", "\u{2014}  ")),
            ("empty", String::new()),
        ] {
            assert!(
                matches!(open(bad.as_bytes(), key), Err(NoteError::Malformed(_))),
                "{claim}"
            );
        }
    }
}
