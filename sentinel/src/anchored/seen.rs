//! How far a contract's history was seen: one file for each chain and
//! contract in the state directory.
//!
//! Out of scope: what is wrong where the contract says something else.

use std::path::{Path, PathBuf};
use std::{fs, io};

use protocol::hash::Hash;
use protocol::name::Address;
use serde::{Deserialize, Serialize};

use crate::chain::contract::{Anchor, Emitted};
use crate::trust::{self, StateError};

/// The form's version.
const VERSION: u64 = 1;

/// What was seen of a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The number and hash of the block up to which it was read.
    pub block: Option<(u64, Hash)>,
    /// The newest anchor that was compared.
    pub newest: Option<(Anchor, Emitted)>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u64,
    chain_id: u64,
    contract: String,
    block: u64,
    block_hash: String,
    newest: Option<StoredAnchor>,
}

#[derive(Serialize, Deserialize)]
struct StoredAnchor {
    index: u64,
    size: u64,
    root: String,
    time: u64,
    block_time: u64,
    block: u64,
    transaction: String,
}

impl Seen {
    /// How many anchors were compared.
    pub fn count(&self) -> u64 {
        self.newest.map_or(0, |(anchor, _)| anchor.index + 1)
    }

    /// What is stored in `dir` of a contract; nothing at first.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written.
    pub fn load(dir: &Path, chain_id: u64, contract: Address) -> Result<Self, StateError> {
        let path = path(dir, chain_id, contract);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(cause) => return Err(StateError::Io { path, cause }),
        };
        let stored: Option<Stored> = serde_json::from_slice(&text).ok();
        let stored = stored.filter(|stored| {
            let whose = (stored.chain_id, &stored.contract);
            stored.v == VERSION && whose == (chain_id, &contract.to_string())
        });
        stored.as_ref().and_then(read).ok_or_else(|| {
            let what = "it is not what is seen of a contract".into();
            StateError::Damaged { path, what }
        })
    }

    /// Stores it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, dir: &Path, chain_id: u64, contract: Address) -> Result<(), StateError> {
        let Some((block, hash)) = self.block else {
            return Ok(());
        };
        let path = path(dir, chain_id, contract);
        let stored = Stored {
            v: VERSION,
            chain_id,
            contract: contract.to_string(),
            block,
            block_hash: hash.to_string(),
            newest: self.newest.map(|(anchor, emitted)| StoredAnchor {
                index: anchor.index,
                size: anchor.size,
                root: anchor.root.to_string(),
                time: anchor.time,
                block_time: anchor.block_time,
                block: emitted.block,
                transaction: emitted.transaction.to_string(),
            }),
        };
        let written = trust::replace(&path, |to| {
            serde_json::to_writer_pretty(to, &stored).map_err(Into::into)
        });
        written.map_err(|cause| StateError::Io { path, cause })
    }
}

/// The file of a contract.
pub fn path(dir: &Path, chain_id: u64, contract: Address) -> PathBuf {
    dir.join(format!("anchors-{chain_id}-{contract}.json"))
}

fn read(stored: &Stored) -> Option<Seen> {
    let newest = match &stored.newest {
        None => None,
        Some(newest) => Some((
            Anchor {
                index: newest.index,
                size: newest.size,
                root: Hash::from_hex(&newest.root)?,
                time: newest.time,
                block_time: newest.block_time,
            },
            Emitted {
                block: newest.block,
                transaction: Hash::from_hex(&newest.transaction)?,
            },
        )),
    };
    Some(Seen {
        block: Some((stored.block, Hash::from_hex(&stored.block_hash)?)),
        newest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_known_again_and_damage_is_known_as_such() {
        let dir = std::env::temp_dir().join(format!("sentinel-seen-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("writable");
        let contract = Address::from_bytes([7; 20]);
        let load = |chain_id| Seen::load(&dir, chain_id, contract);
        assert_eq!(load(5).expect("nothing yet"), Seen::default());
        let anchor = Anchor {
            index: 2,
            size: 9,
            root: Hash::of(b"root"),
            time: 3,
            block_time: 4,
        };
        let emitted = Emitted {
            block: 6,
            transaction: Hash::of(b"transaction"),
        };
        for newest in [None, Some((anchor, emitted))] {
            let block = Some((8, Hash::of(b"block")));
            let seen = Seen { block, newest };
            seen.save(&dir, 5, contract).expect("writable");
            assert_eq!(load(5).expect("whole"), seen);
            assert_eq!(seen.count(), if newest.is_some() { 3 } else { 0 });
        }
        let file = path(&dir, 5, contract);
        fs::copy(&file, path(&dir, 6, contract)).expect("ours");
        assert!(
            matches!(load(6), Err(StateError::Damaged { .. })),
            "another chain's"
        );
        let text = fs::read_to_string(&file).expect("ours");
        for bad in [
            &text[..text.len() / 2],
            "{}",
            &text.replace("\"v\": 1", "\"v\": 2"),
        ] {
            fs::write(&file, bad).expect("ours");
            assert!(matches!(load(5), Err(StateError::Damaged { .. })), "{bad}");
        }
        fs::remove_dir_all(dir).expect("ours");
    }
}
