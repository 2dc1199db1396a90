//! Checkpoints: the log's signed statement of its size and root (C2SP tlog-checkpoint).
//!
//! Out of scope: fetching, storing, deciding whom to trust.

use alloc::format;
use alloc::string::String;

use crate::hash::Hash;
use crate::index::{TreeSize, decimal};
use crate::key::{Origin, Signer, VerifierKey};
use crate::note::{self, NoteError};

/// What a checkpoint says. Parsing is the only way in from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: Origin,
    size: TreeSize,
    root: Hash,
}

/// Why a checkpoint is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The note itself is not accepted.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The signed text is not exactly origin, size and root.
    #[error("the signed text is not a checkpoint of {origin}: {found:?}")]
    Text {
        /// The log that was expected.
        origin: Origin,
        /// What the log signed instead.
        found: String,
    },
}

impl Checkpoint {
    /// The statement that the first `size` entries have `root`.
    pub fn new(origin: Origin, size: TreeSize, root: Hash) -> Self {
        Self { origin, size, root }
    }

    /// The signed text: three lines, each ended by a newline, no extension lines.
    pub fn text(&self) -> String {
        let Self { origin, size, root } = self;
        format!("{origin}\n{size}\n{}\n", root.to_base64())
    }

    /// Signs it.
    pub fn seal(&self, signer: &Signer) -> String {
        note::seal(&self.text(), signer)
    }

    /// Opens a note that `key` signed.
    ///
    /// # Errors
    /// Not a note signed by `key`, a foreign origin, or anything but exactly three lines.
    pub fn open(note: &[u8], key: &VerifierKey) -> Result<Self, CheckpointError> {
        let text = note::open(note, key)?;
        parse(text, key.origin())
            .filter(|checkpoint| checkpoint.text() == text)
            .ok_or_else(|| CheckpointError::Text {
                origin: key.origin().clone(),
                found: text.into(),
            })
    }

    /// The log that says it.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// How many entries the root covers.
    pub fn size(&self) -> TreeSize {
        self.size
    }

    /// The RFC 6962 tree head of those entries.
    pub fn root(&self) -> Hash {
        self.root
    }
}

fn parse(text: &str, origin: &Origin) -> Option<Checkpoint> {
    let mut lines = text.lines();
    let name = lines.next()?;
    let size = TreeSize::new(decimal(lines.next()?)?)?;
    let root = Hash::from_base64(lines.next()?)?;
    (name == origin.as_str()).then(|| Checkpoint::new(origin.clone(), size, root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_exactly_three_lines_of_its_own_origin() {
        let origin = Origin::parse("a.b").expect("valid");
        let signer = Signer::new(origin.clone(), &[1; 32]);
        let size = TreeSize::new(7).expect("small");
        let checkpoint = Checkpoint::new(origin, size, Hash::of(b"root"));
        let opened = Checkpoint::open(checkpoint.seal(&signer).as_bytes(), signer.verifier());
        assert_eq!(opened, Ok(checkpoint.clone()));
        for (claim, text) in [
            ("an extension line", format!("{}x\n", checkpoint.text())),
            ("another origin", checkpoint.text().replace("a.b", "a.c")),
            (
                "a leading zero",
                checkpoint.text().replace("\n7\n", "\n07\n"),
            ),
            (
                "a size over 2^53",
                checkpoint.text().replace("\n7\n", "\n9007199254740992\n"),
            ),
            ("an unpadded root", checkpoint.text().replace('=', "")),
        ] {
            let opened = Checkpoint::open(note::seal(&text, &signer).as_bytes(), signer.verifier());
            assert!(
                matches!(opened, Err(CheckpointError::Text { .. })),
                "{claim}"
            );
        }
    }
}
