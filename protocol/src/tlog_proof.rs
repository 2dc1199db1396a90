//! Offline proofs: index, audit path and checkpoint in one text, which stays
//! verifiable when the log is gone (C2SP tlog-proof).
//!
//! Out of scope: the entry itself, of which the verifier brings the leaf hash,
//! and cosignatures on the checkpoint (see [`crate::policy`]).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::hash::Hash;
use crate::index::Index;
use crate::key::VerifierKey;
use crate::proof::{ProofError, verify_inclusion};

/// The longest proof that is read, in bytes.
pub const MAX_TLOG_PROOF: usize = 1 << 20;

/// The most hashes in an audit path: trees here have at most 2^53 - 1 leaves.
pub const MAX_PATH: usize = 53;

/// The first line.
const HEAD: &str = "c2sp.org/tlog-proof@v1";

/// A proof of the right form. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// Bytes for the application, which nothing authenticates.
    pub extra: Option<Vec<u8>>,
    /// Where the entry stands.
    pub index: Index,
    /// From the leaf's sibling up.
    pub path: Vec<Hash>,
    /// The checkpoint, a signed note.
    pub checkpoint: String,
}

/// Why a text is no tlog-proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// More than 1 MiB.
    #[error("the proof has {0} bytes, expected at most {MAX_TLOG_PROOF}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("the proof is not UTF-8")]
    Encoding,
    /// Another first line.
    #[error("the first line is not {HEAD}")]
    Head,
    /// The extra line is not base64.
    #[error("the extra data is not base64")]
    Extra,
    /// No index line where one must be.
    #[error("no line with `index` and an index up to 2^53 - 1")]
    Index,
    /// A line of the path is not base64 of 32 bytes.
    #[error("hash {0} of the path is not the base64 of a hash")]
    Hash(usize),
    /// A path longer than any tree is high.
    #[error("the path has more than {MAX_PATH} hashes")]
    PathLength,
    /// No empty line.
    #[error("no empty line before the checkpoint")]
    NoCheckpoint,
}

/// Why a tlog-proof does not prove.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlogProofError {
    /// The checkpoint is not the log's.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The path does not lead from the leaf to the checkpoint's root.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

impl TlogProof {
    /// Takes a proof apart.
    ///
    /// # Errors
    /// Not of the form.
    pub fn parse(text: &[u8]) -> Result<Self, FormError> {
        if text.len() > MAX_TLOG_PROOF {
            return Err(FormError::TooLong(text.len()));
        }
        let text = core::str::from_utf8(text).map_err(|_| FormError::Encoding)?;
        let rest = text.strip_prefix(HEAD).and_then(|r| r.strip_prefix('\n'));
        let rest = rest.ok_or(FormError::Head)?;
        let (head, checkpoint) = rest.split_once("\n\n").ok_or(FormError::NoCheckpoint)?;
        let mut lines = head.split('\n').peekable();
        let extra = match lines.peek().and_then(|line| line.strip_prefix("extra ")) {
            Some(extra) => {
                lines.next();
                Some(STANDARD.decode(extra).map_err(|_| FormError::Extra)?)
            }
            None => None,
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.and_then(Index::parse).ok_or(FormError::Index)?;
        let mut path = Vec::new();
        for line in lines {
            if path.len() == MAX_PATH {
                return Err(FormError::PathLength);
            }
            path.push(Hash::from_base64(line).ok_or(FormError::Hash(path.len()))?);
        }
        Ok(Self {
            extra,
            index,
            path,
            checkpoint: checkpoint.into(),
        })
    }

    /// Verifies that the log of `key` holds the entry with this leaf hash at
    /// the proof's index, under the proof's checkpoint. The extra data stays
    /// unauthenticated, and cosignatures are not looked at.
    ///
    /// # Errors
    /// The checkpoint is not the log's, or the path does not lead to its root.
    pub fn verify(&self, leaf: Hash, key: &VerifierKey) -> Result<Checkpoint, TlogProofError> {
        let checkpoint = Checkpoint::open(self.checkpoint.as_bytes(), key)?;
        let tree = (checkpoint.size(), checkpoint.root());
        verify_inclusion(leaf, self.index, tree, &self.path)?;
        Ok(checkpoint)
    }
}

/// The proof's text.
impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", hash.to_base64())?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::TreeSize;
    use crate::key::{Origin, Signer};
    use crate::reference::Tree;
    use alloc::format;
    use alloc::string::ToString as _;

    /// The example of C2SP tlog-proof, whose signatures are cut there.
    const EXAMPLE: &str = "c2sp.org/tlog-proof@v1
extra YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6kYXJ3aW4tYXJ
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

\u{2014} example.com/fancylog hI2DJw[...]1roloI=
\u{2014} witness1.example mJirIklj[...]qY9v2B/5bg==
";

    fn signer() -> Signer {
        Signer::new(Origin::parse("a.b").expect("an origin"), &[1; 32])
    }

    fn proof(index: u64, size: u64) -> (Hash, TlogProof) {
        let tree = Tree::new();
        let signer = signer();
        let tree_size = TreeSize::new(size).expect("within bounds");
        let origin = signer.verifier().origin().clone();
        let checkpoint = Checkpoint::new(origin, tree_size, tree.head(0..size));
        let proof = TlogProof {
            extra: None,
            index: Index::new(index).expect("within bounds"),
            path: tree.path(index, 0..size),
            checkpoint: checkpoint.seal(&signer),
        };
        (tree.head(index..index + 1), proof)
    }

    #[test]
    fn the_specifications_proof_is_read_and_written() {
        let proof = TlogProof::parse(EXAMPLE.as_bytes()).expect("of the form");
        assert_eq!(proof.index.get(), 73_894);
        assert_eq!(proof.path.len(), 5);
        assert_eq!(
            proof.extra.as_deref().map(|extra| &extra[..10]),
            Some(&b"age-v1.2.1"[..])
        );
        assert!(
            proof
                .checkpoint
                .starts_with("example.com/fancylog\n109482\n")
        );
        assert_eq!(proof.to_string(), EXAMPLE);
    }

    #[test]
    fn proofs_prove_their_leaf_under_their_checkpoint_only() {
        let key = signer();
        let key = key.verifier();
        for (index, size) in [(0, 1), (2, 7), (6, 7), (300, 70_000)] {
            let (leaf, proof) = proof(index, size);
            let parsed = TlogProof::parse(proof.to_string().as_bytes());
            assert_eq!(parsed.as_ref(), Ok(&proof));
            let checkpoint = proof.verify(leaf, key).expect("it proves");
            assert_eq!(checkpoint.size().get(), size);
            assert!(matches!(
                proof.verify(Hash::of(b"another"), key),
                Err(TlogProofError::Proof(ProofError::Root { .. }))
            ));
        }
        let (leaf, good) = proof(2, 7);
        let stranger = Signer::new(Origin::parse("a.b").expect("an origin"), &[2; 32]);
        assert!(matches!(
            good.verify(leaf, stranger.verifier()),
            Err(TlogProofError::Checkpoint(_))
        ));
        let moved = TlogProof {
            index: Index::new(3).expect("small"),
            ..good.clone()
        };
        assert!(moved.verify(leaf, key).is_err());
        let elsewhere = TlogProof {
            checkpoint: proof(2, 8).1.checkpoint,
            ..good
        };
        assert!(elsewhere.verify(leaf, key).is_err());
    }

    #[test]
    fn refuses_other_forms() {
        let (_, good) = proof(2, 7);
        let text = good.to_string();
        let line = format!("{}\n", good.path[0].to_base64());
        let many = |n: usize| text.replacen(&line, &line.repeat(n), 1);
        assert!(TlogProof::parse(many(51).as_bytes()).is_ok());
        for (claim, bad, expected) in [
            (
                "another version",
                text.replace("@v1", "@v2"),
                FormError::Head,
            ),
            ("a space before", format!(" {text}"), FormError::Head),
            (
                "carriage returns",
                text.replace('\n', "\r\n"),
                FormError::Head,
            ),
            ("no index", text.replace("index 2\n", ""), FormError::Index),
            (
                "a leading zero",
                text.replace("index 2", "index 02"),
                FormError::Index,
            ),
            (
                "a sign",
                text.replace("index 2", "index +2"),
                FormError::Index,
            ),
            (
                "2^53",
                text.replace("index 2", "index 9007199254740992"),
                FormError::Index,
            ),
            (
                "extra after index",
                text.replace("index 2\n", "index 2\nextra AA==\n"),
                FormError::Hash(0),
            ),
            (
                "extra twice",
                text.replace("index", "extra AA==\nextra AA==\nindex"),
                FormError::Index,
            ),
            (
                "extra unpadded",
                text.replace("index", "extra AA\nindex"),
                FormError::Extra,
            ),
            (
                "a short hash",
                text.replacen(&line, &line[4..], 1),
                FormError::Hash(0),
            ),
            ("54 hashes", many(52), FormError::PathLength),
            (
                "no checkpoint",
                text[..text.find("\n\n").unwrap_or(0)].into(),
                FormError::NoCheckpoint,
            ),
            (
                "too long",
                "x".repeat(MAX_TLOG_PROOF + 1),
                FormError::TooLong(MAX_TLOG_PROOF + 1),
            ),
        ] {
            assert_eq!(TlogProof::parse(bad.as_bytes()), Err(expected), "{claim}");
        }
        let empty = text.replace("index", "extra \nindex");
        let parsed = TlogProof::parse(empty.as_bytes()).expect("empty extra data is data");
        assert_eq!(
            (parsed.extra.as_deref(), parsed.to_string()),
            (Some(&[][..]), empty)
        );
    }
}
