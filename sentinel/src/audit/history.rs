//! Keys, checkpoints, and tiles: what the log signed, against what it signed
//! before and what the entries give.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::checkpoint::{Checkpoint, CheckpointError};
use protocol::hash::Hash;
use protocol::key::VerifierKey;
use protocol::note::NoteError;
use protocol::receipt::Receipt;
use protocol::tile::Tile;
use serde_json::json;

use super::{Claim, Class, Finding};
use crate::answer::Pubkey;
use crate::rebuild;

/// A checkpoint that the log's key signed, with its note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    note: String,
    checkpoint: Checkpoint,
}

/// Why a note gives no checkpoint.
#[derive(Debug, PartialEq)]
pub enum Unopened {
    /// It is no signed note: whatever answered, it gave no complete answer.
    NotANote(String),
    /// It is one, and shows misbehaviour.
    Misbehaviour(Finding),
}

impl Signed {
    /// Opens a checkpoint note: claims `key_changed` and `checkpoint_malformed`.
    ///
    /// # Errors
    /// No note, or one that is not this log's checkpoint.
    pub fn open(note: &[u8], key: &VerifierKey) -> Result<Self, Unopened> {
        let text = String::from_utf8_lossy(note).into_owned();
        let material = json!({ "note": text });
        match Checkpoint::open(note, key) {
            Ok(checkpoint) => Ok(Self {
                note: text,
                checkpoint,
            }),
            Err(CheckpointError::Note(error @ NoteError::Malformed(_))) => {
                Err(Unopened::NotANote(error.to_string()))
            }
            Err(CheckpointError::Note(error)) => {
                let message = format!("the checkpoint is not signed by the pinned key: {error}");
                let claim = Claim::KeyChanged;
                Err(Unopened::Misbehaviour(Finding::new(
                    claim,
                    Class::Served,
                    message,
                    material,
                )))
            }
            Err(error @ CheckpointError::Text { .. }) => {
                // A receipt is rightly signed; it is only not a checkpoint.
                let receipt = Receipt::open(note, key).is_ok();
                let class = if receipt {
                    Class::Served
                } else {
                    Class::Proven
                };
                let claim = Claim::CheckpointMalformed;
                let message = error.to_string();
                Err(Unopened::Misbehaviour(Finding::new(
                    claim, class, message, material,
                )))
            }
        }
    }

    /// The note as it was served.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// How many entries it is over.
    pub fn size(&self) -> u64 {
        self.checkpoint.size().get()
    }

    /// The root it signs.
    pub fn root(&self) -> Hash {
        self.checkpoint.root()
    }
}

/// `key_changed`: the served key is not the pinned one, or not one key.
pub fn pubkey(pinned: &VerifierKey, served: &Pubkey) -> Option<Finding> {
    let hex = Hash::from_bytes(*pinned.as_bytes()).to_string();
    let expected = [pinned.to_string(), pinned.origin().to_string(), hex];
    let found = [&served.vkey, &served.origin, &served.key];
    let names = ["vkey", "origin", "key"];
    let differing = (0..3).find(|i| expected[*i] != *found[*i])?;
    let message = format!(
        "/api/pubkey serves the {} {:?}, the pinned key's is {:?}",
        names[differing], found[differing], expected[differing]
    );
    let material = json!({
        "pinned": expected[0],
        "served": { "vkey": served.vkey, "origin": served.origin, "key": served.key },
    });
    Some(Finding::new(
        Claim::KeyChanged,
        Class::Served,
        message,
        material,
    ))
}

/// `empty_log`: entry 0 always exists, so no checkpoint is over nothing.
pub fn not_empty(signed: &Signed) -> Option<Finding> {
    (signed.size() == 0).then(|| {
        let message = "a signed checkpoint of size 0, though entry 0 always exists".into();
        let material = json!({ "checkpoint": signed.note });
        Finding::new(Claim::EmptyLog, Class::Proven, message, material)
    })
}

/// `fork`: two signed roots for one size.
pub fn fork(one: &Signed, other: &Signed) -> Option<Finding> {
    (one.size() == other.size() && one.root() != other.root()).then(|| {
        let message = format!(
            "the log signed two roots for size {}: {} and {}",
            one.size(),
            one.root(),
            other.root()
        );
        let material = json!({ "checkpoints": [one.note, other.note] });
        Finding::new(Claim::Fork, Class::Proven, message, material)
    })
}

/// `rollback`: a checkpoint smaller than the remembered one.
pub fn rollback(remembered: &Signed, served: &Signed) -> Option<Finding> {
    (served.size() < remembered.size()).then(|| {
        let message = format!(
            "the log serves a checkpoint of size {}, after one of size {}",
            served.size(),
            remembered.size()
        );
        let material = json!({ "remembered": remembered.note, "served": served.note });
        Finding::new(Claim::Rollback, Class::Served, message, material)
    })
}

/// `checkpoint_overdue`: something was answered from `size` entries, and no
/// published checkpoint came to cover them.
pub fn overdue(size: u64, newest: &Signed, patience_secs: u64) -> Option<Finding> {
    (newest.size() < size).then(|| {
        let message = format!(
            "the log answers from {size} entries, but its newest checkpoint after {patience_secs} s \
             is of size {}",
            newest.size()
        );
        let material = json!({ "size": size, "newest": newest.note });
        Finding::new(Claim::CheckpointOverdue, Class::Served, message, material)
    })
}

/// `checkpoint_overdue`: the log signed `shown` for somebody else, and no
/// published checkpoint came to cover it.
pub fn withheld(shown: &Signed, newest: &Signed, patience_secs: u64) -> Option<Finding> {
    (newest.size() < shown.size()).then(|| {
        let message = format!(
            "the log signed a checkpoint of size {}, which was shown elsewhere, but its newest \
             here after {patience_secs} s is of size {}",
            shown.size(),
            newest.size()
        );
        let material = json!({ "size": shown.size(), "newest": newest.note, "shown": shown.note });
        Finding::new(Claim::CheckpointOverdue, Class::Served, message, material)
    })
}

/// `root_mismatch`: the entries give another root than the signed one.
pub fn root(signed: &Signed, rebuilt: Hash) -> Option<Finding> {
    (signed.root() != rebuilt).then(|| {
        let message = format!(
            "the first {} entries give the root {rebuilt}, signed is {}",
            signed.size(),
            signed.root()
        );
        let material = json!({ "checkpoint": signed.note, "rebuilt_root": rebuilt.to_string() });
        Finding::new(Claim::RootMismatch, Class::Served, message, material)
    })
}

/// `history_rewritten`: `proof` shows that the newer signed tree begins with
/// a tree of the older one's size and root `prefix_root`, which is not the
/// older signed root.
pub fn rewritten(
    older: &Signed,
    newer: &Signed,
    prefix_root: Hash,
    proof: &[Hash],
) -> Option<Finding> {
    let within = (older.size(), prefix_root);
    let shown = rebuild::consistent(within, (newer.size(), newer.root()), proof);
    (shown && prefix_root != older.root()).then(|| {
        let message = format!(
            "history was rewritten: the first {} entries of the log of size {} give the root \
             {prefix_root}, the log signed {} for them before",
            older.size(),
            newer.size(),
            older.root()
        );
        let material = json!({
            "older": older.note,
            "newer": newer.note,
            "prefix_root": prefix_root.to_base64(),
            "proof": proof.iter().map(|hash| hash.to_base64()).collect::<Vec<_>>(),
        });
        Finding::new(Claim::HistoryRewritten, Class::Proven, message, material)
    })
}

/// `tile_mismatch`: a served tile differs from the rebuilt hashes.
pub fn tile(tile: Tile, served: &[u8], rebuilt: &[Hash]) -> Option<Finding> {
    let expected: Vec<u8> = rebuilt.iter().flat_map(|hash| *hash.as_bytes()).collect();
    if served == expected {
        return None;
    }
    let same = served
        .chunks(32)
        .zip(expected.chunks(32))
        .take_while(|(a, b)| a == b)
        .count();
    let path = tile.path();
    let message = format!("hash {same} of /{path} is not what the entries give");
    let material = json!({
        "path": path,
        "served": STANDARD.encode(served),
        "rebuilt": STANDARD.encode(expected),
    });
    Some(Finding::new(
        Claim::TileMismatch,
        Class::Served,
        message,
        material,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::fixtures::*;
    use protocol::index::TreeSize;
    use protocol::note;
    use protocol::tile::TileKind;

    #[test]
    fn checkpoints_are_opened_or_say_why_not() {
        let ours = signed(5, hash(1));
        assert_eq!((ours.size(), ours.root()), (5, hash(1)));
        assert_eq!(ours.note(), note_of(5, hash(1)));
        let receipt = Made::new(3, b"x");
        let receipt = Receipt::new(key().origin().clone(), receipt.0, receipt.item().leaf())
            .note(&key(), &receipt.2);
        let foreign = note_of(5, hash(1)).replace(&hash(1).to_base64(), &hash(2).to_base64());
        for (name, note, expected) in [
            (
                "another key",
                note::seal("a.b\n1\nx\n", &stranger()),
                Some((Claim::KeyChanged, Class::Served)),
            ),
            (
                "a bad signature",
                foreign,
                Some((Claim::KeyChanged, Class::Served)),
            ),
            (
                "another text",
                note::seal("hello\n", &signer()),
                Some((Claim::CheckpointMalformed, Class::Proven)),
            ),
            (
                "a receipt",
                receipt,
                Some((Claim::CheckpointMalformed, Class::Served)),
            ),
            ("no note", "<html>".into(), None),
        ] {
            let found = match Signed::open(note.as_bytes(), &key()) {
                Err(Unopened::Misbehaviour(finding)) => claim(Some(finding)),
                Err(Unopened::NotANote(_)) => None,
                Ok(_) => panic!("{name}"),
            };
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn the_served_key_is_the_pinned_one_in_all_its_forms() {
        let good = || Pubkey {
            origin: "a.b".into(),
            vkey: key().to_string(),
            key: Hash::from_bytes(*key().as_bytes()).to_string(),
        };
        assert_eq!(pubkey(&key(), &good()), None);
        for bad in [
            Pubkey {
                origin: "a.c".into(),
                ..good()
            },
            Pubkey {
                vkey: stranger().verifier().to_string(),
                ..good()
            },
            Pubkey {
                key: hash(3).to_string(),
                ..good()
            },
        ] {
            let found = claim(pubkey(&key(), &bad));
            assert_eq!(found, Some((Claim::KeyChanged, Class::Served)), "{bad:?}");
        }
    }

    #[test]
    fn checkpoints_follow_each_other() {
        let [four, five, other] = [signed(4, hash(1)), signed(5, hash(1)), signed(5, hash(2))];
        assert_eq!(
            claim(not_empty(&signed(0, Hash::EMPTY_ROOT))),
            Some((Claim::EmptyLog, Class::Proven))
        );
        assert_eq!(not_empty(&signed(1, hash(1))), None);
        assert_eq!(
            claim(fork(&five, &other)),
            Some((Claim::Fork, Class::Proven))
        );
        assert_eq!(fork(&five, &five), None);
        assert_eq!(fork(&four, &other), None);
        assert_eq!(
            claim(rollback(&five, &four)),
            Some((Claim::Rollback, Class::Served))
        );
        assert_eq!(rollback(&five, &other), None);
        assert_eq!(rollback(&four, &five), None);
        let late = claim(overdue(6, &five, 9));
        assert_eq!(late, Some((Claim::CheckpointOverdue, Class::Served)));
        assert_eq!(overdue(5, &five, 9), None);
        assert_eq!(
            claim(root(&five, hash(2))),
            Some((Claim::RootMismatch, Class::Served))
        );
        assert_eq!(root(&five, hash(1)), None);
    }

    #[test]
    fn a_rewritten_history_is_shown_by_a_proof_that_holds() {
        let [a, b, c] = [1, 2, 3].map(hash);
        let prefix = rebuild::node_hash(&a, &b);
        let newer = signed(3, rebuild::node_hash(&prefix, &c));
        let found = rewritten(&signed(2, hash(7)), &newer, prefix, &[c]);
        assert_eq!(claim(found), Some((Claim::HistoryRewritten, Class::Proven)));
        assert_eq!(rewritten(&signed(2, prefix), &newer, prefix, &[c]), None);
        assert_eq!(rewritten(&signed(2, hash(7)), &newer, prefix, &[a]), None);
    }

    #[test]
    fn tiles_are_compared_to_the_byte() {
        let place = Tile::within(TileKind::Hashes(1), 0, TreeSize::new(700).expect("small"));
        let place = place.expect("within");
        let rebuilt = [hash(1), hash(2)];
        let mut served = [[1; 32], [2; 32]].concat();
        assert_eq!(tile(place, &served, &rebuilt), None);
        assert!(tile(place, &served[..32], &rebuilt).is_some());
        served[63] ^= 1;
        let finding = tile(place, &served, &rebuilt).expect("differs");
        assert_eq!(
            (finding.claim, finding.class),
            (Claim::TileMismatch, Class::Served)
        );
        assert_eq!(
            finding.message,
            "hash 1 of /tile/1/000.p/2 is not what the entries give"
        );
    }
}
