//! Receipts: the log's signed promise that an entry stands at an index.
//!
//! Out of scope: whether the log keeps the promise (the sentinel asks that),
//! and the receipt id, to which the entry commits (see [`crate::hash`]).

use alloc::format;
use alloc::string::String;

use crate::hash::Hash;
use crate::index::{Index, decimal};
use crate::key::{Origin, Signer, VerifierKey};
use crate::note::{self, NoteError};

/// The first line of every receipt. No origin can look like it: it has no dot.
const HEAD: &str = "tallystick/receipt/v1";

/// What a receipt says (PROTOCOL.md, "Receipts").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    origin: Origin,
    index: Index,
    leaf_hash: Hash,
}

/// Why a receipt is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The note itself is not accepted.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The signed text is not a receipt of the key's log.
    #[error("the signed text is not a receipt of {origin}")]
    Text {
        /// The log that was expected.
        origin: Origin,
    },
}

impl Receipt {
    /// The promise that the entry with this leaf hash stands at `index`.
    pub fn new(origin: Origin, index: Index, leaf_hash: Hash) -> Self {
        Self {
            origin,
            index,
            leaf_hash,
        }
    }

    /// The signed text: four lines, each ended by a newline.
    pub fn text(&self) -> String {
        let Self {
            origin,
            index,
            leaf_hash,
        } = self;
        format!("{HEAD}\n{origin}\n{index}\n{}\n", leaf_hash.to_base64())
    }

    /// Opens a receipt note that `key` signed.
    ///
    /// # Errors
    /// Not a note signed by `key`, or its text is not exactly a receipt of the key's origin.
    pub fn open(note: &[u8], key: &VerifierKey) -> Result<Self, ReceiptError> {
        let text = note::open(note, key)?;
        parse(text, key.origin())
            .filter(|receipt| receipt.text() == text)
            .ok_or_else(|| ReceiptError::Text {
                origin: key.origin().clone(),
            })
    }

    /// The 64-byte signature over [`Self::text`], as a receipt tile holds it.
    pub fn sign(&self, signer: &Signer) -> [u8; 64] {
        signer.sign(self.text().as_bytes())
    }

    /// Whether `signature` is the log's over this receipt.
    pub fn signed_by(&self, key: &VerifierKey, signature: &[u8; 64]) -> bool {
        key.verifies(self.text().as_bytes(), signature)
    }

    /// The receipt as a signed note, from a signature as a receipt tile holds it.
    pub fn note(&self, key: &VerifierKey, signature: &[u8; 64]) -> String {
        note::with_signature(&self.text(), key, signature)
    }

    /// Where the entry stands.
    pub fn index(&self) -> Index {
        self.index
    }

    /// The entry's leaf hash.
    pub fn leaf_hash(&self) -> Hash {
        self.leaf_hash
    }
}

fn parse(text: &str, origin: &Origin) -> Option<Receipt> {
    let mut lines = text.lines();
    let (head, name) = (lines.next()?, lines.next()?);
    if head != HEAD || name != origin.as_str() {
        return None;
    }
    let index = Index::new(decimal(lines.next()?)?)?;
    let leaf_hash = Hash::from_base64(lines.next()?)?;
    Some(Receipt::new(origin.clone(), index, leaf_hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::index::TreeSize;

    #[test]
    fn opens_only_receipts_of_this_log() {
        let origin = Origin::parse("a.b").expect("valid");
        let signer = Signer::new(origin.clone(), &[1; 32]);
        let receipt = Receipt::new(
            origin.clone(),
            Index::new(5).expect("small"),
            Hash::of(b"x"),
        );
        let note = receipt.note(signer.verifier(), &receipt.sign(&signer));
        assert_eq!(
            Receipt::open(note.as_bytes(), signer.verifier()),
            Ok(receipt.clone())
        );

        for (claim, text) in [
            ("a line more", format!("{}x\n", receipt.text())),
            ("another origin", receipt.text().replace("a.b", "a.c")),
            ("a leading zero", receipt.text().replace("\n5\n", "\n05\n")),
            ("a sign", receipt.text().replace("\n5\n", "\n+5\n")),
        ] {
            let signed = note::seal(&text, &signer);
            let opened = Receipt::open(signed.as_bytes(), signer.verifier());
            assert!(matches!(opened, Err(ReceiptError::Text { .. })), "{claim}");
        }
        let checkpoint = Checkpoint::new(origin, TreeSize::ZERO, Hash::EMPTY_ROOT);
        let signed = note::seal(&checkpoint.text(), &signer);
        assert!(Receipt::open(signed.as_bytes(), signer.verifier()).is_err());
        assert!(Checkpoint::open(note.as_bytes(), signer.verifier()).is_err());
    }
}
