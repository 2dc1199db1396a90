//! `sentinel receipt`: whether the log keeps a receipt's promise.
//!
//! Needs no full pass: the entry at the receipt's index is authenticated by
//! its audit path to a signed root, made from the few tiles on its way. A file
//! that brings a tlog-proof shows the same by itself.
//!
//! Out of scope: the command, and where the file comes from (see [`run`]).

pub mod run;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use protocol::entry::{Body, Entry};
use protocol::hash::{Hash, receipt_commitment};
use protocol::index::TreeSize;
use protocol::key::VerifierKey;
use protocol::receipt::Receipt;
use protocol::record::Usage;
use protocol::tile::{MAX_LEVEL, Tile, TileKind, WIDTH};
use protocol::tlog_proof::TlogProof;
use serde::Deserialize;
use serde_json::Value;

use crate::audit::{self, Finding, Held, Signed, Unopened};
use crate::contrast::contrast;
use crate::fetch::{Caches, Client, NoAnswer};
use crate::follow::{Findings, RawBundle};
use crate::{pass, rebuild};

/// The longest receipt file: an entry, escaped, and a note.
const MAX_FILE: u64 = 1 << 20;

/// A receipt file, as `/api/receipts/{id}` answers it.
#[derive(Debug, Deserialize)]
struct File {
    id: String,
    index: u64,
    leaf_hash: String,
    entry: String,
    receipt: String,
    proof: Option<String>,
}

/// Why a file cannot be taken at all: wrong use.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {cause}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// It is no receipt file.
    #[error("{path} is no receipt file as /api/receipts/<id> answers it: {cause}")]
    Form {
        /// Which file.
        path: String,
        /// Why.
        cause: String,
    },
}

/// A file that has a receipt's form; nothing in it is verified.
#[derive(Debug)]
pub struct Unverified {
    file: File,
    whole: Value,
}

/// A receipt that the log signed, with its entry.
#[derive(Debug)]
pub struct Genuine {
    receipt: Receipt,
    usage: Usage,
    commitment: Hash,
    unverified: Unverified,
}

/// What was found about a receipt: size and root of the checkpoint that the
/// log was asked under, and what is wrong.
pub type Checked = (Option<Signed>, Findings);

impl Unverified {
    /// Reads a receipt file.
    ///
    /// # Errors
    /// It cannot be read, or has another form.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        use std::io::Read as _;
        let name = || path.display().to_string();
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
            .map_err(|cause| FileError::Io {
                path: name(),
                cause,
            })?;
        let form = |error: serde_json::Error| FileError::Form {
            path: name(),
            cause: error.to_string(),
        };
        let file = serde_json::from_str(&text).map_err(form)?;
        let whole = serde_json::from_str(&text).map_err(form)?;
        Ok(Self { file, whole })
    }

    /// Reads the body of an answer, or what was kept of one; `None` of another form.
    pub fn from_body(body: &[u8]) -> Option<Self> {
        let file = serde_json::from_slice(body).ok()?;
        Some(Self {
            file,
            whole: serde_json::from_slice(body).ok()?,
        })
    }

    /// Verifies what the file says of itself (PROTOCOL.md section 7, steps 1
    /// to 3, but for the receipt's id).
    ///
    /// # Errors
    /// What is wrong with the file; it then proves nothing about the log.
    pub fn verify(self, key: &VerifierKey) -> Result<Genuine, String> {
        let File {
            id,
            index,
            leaf_hash,
            entry,
            receipt,
            ..
        } = &self.file;
        let id = uuid_v7(id).ok_or_else(|| format!("{id:?} is not a UUID of version 7"))?;
        let receipt = Receipt::open(receipt.as_bytes(), key).map_err(|error| error.to_string())?;
        let leaf = rebuild::leaf_hash(entry.as_bytes());
        if leaf != receipt.leaf_hash() {
            return Err(format!(
                "the entry's leaf hash is {leaf}, the receipt's another"
            ));
        }
        if *leaf_hash != leaf.to_string() || *index != receipt.index().get() {
            return Err("index and leaf_hash are not those that the receipt signs".into());
        }
        let usage = match Entry::parse(entry.as_bytes()) {
            Ok(Entry::Known {
                body: Body::Usage(usage),
                ..
            }) => usage,
            Ok(Entry::Known { .. }) => return Err("the entry is not of kind usage".into()),
            Ok(Entry::Unknown { kind, version, .. }) => {
                return Err(format!(
                    "the entry is of kind {kind:?} version {version}, which a newer sentinel may know"
                ));
            }
            Err(error) => return Err(format!("the entry is not canonical: {error}")),
        };
        Ok(Genuine {
            receipt,
            usage,
            commitment: receipt_commitment(&id),
            unverified: self,
        })
    }
}

impl Genuine {
    /// The index that the log promised.
    pub fn index(&self) -> u64 {
        self.receipt.index().get()
    }

    /// The checkpoint under which the file's own proof shows the entry at the
    /// receipt's index (PROTOCOL.md section 7.1); `None` without a proof.
    ///
    /// # Errors
    /// The proof does not show it.
    pub fn proof(&self, key: &VerifierKey) -> Result<Option<Signed>, String> {
        let Some(proof) = &self.unverified.file.proof else {
            return Ok(None);
        };
        let proof = TlogProof::parse(proof.as_bytes()).map_err(|error| error.to_string())?;
        if proof.index != self.receipt.index() {
            let (found, expected) = (proof.index, self.receipt.index());
            return Err(format!("it is of index {found}, the receipt of {expected}"));
        }
        let signed = Signed::open(proof.checkpoint.as_bytes(), key);
        let signed = signed.map_err(|unopened| match unopened {
            Unopened::NotANote(why) => why,
            Unopened::Misbehaviour(finding) => finding.message,
        })?;
        let (leaf, tree) = (self.receipt.leaf_hash(), (signed.size(), signed.root()));
        if rebuild::included(leaf, self.index(), tree, &proof.path) {
            Ok(Some(signed))
        } else {
            let size = signed.size();
            Err(format!("its hashes do not lead to the root of size {size}"))
        }
    }

    /// `receipt_foreign_id`, as far as the file shows it.
    pub fn foreign(&self) -> Option<Finding> {
        audit::receipt_foreign_id(
            &self.receipt,
            &self.usage,
            self.commitment,
            &self.unverified.whole,
        )
    }

    /// Asks the log whether it holds the entry, under the remembered
    /// checkpoint if that covers it, else under the newest, of which the
    /// checkpoint that the file's proof is under must be the beginning.
    ///
    /// # Errors
    /// No complete answer, or a file that the log itself puts right.
    pub async fn ask(
        &self,
        client: &Client,
        key: &VerifierKey,
        remembered: Option<Signed>,
        proven: Option<&Signed>,
        patience: Duration,
    ) -> Result<Checked, String> {
        let mut findings = Findings::default();
        if let Some(finding) = self.foreign() {
            self.not_put_right(client, key).await?;
            findings.push(finding);
        }
        let index = self.index();
        let last = proven.map_or(index, |proven| index.max(proven.size() - 1));
        let newest = match remembered.filter(|signed| signed.size() > last) {
            Some(remembered) => remembered,
            None => match pass::covering(client, key, last, patience).await {
                Ok(newest) => newest,
                Err(Ok(more)) => {
                    findings.append(more);
                    return Ok((None, findings));
                }
                Err(Err(why)) => return Err(why),
            },
        };
        let note = &self.unverified.file.receipt;
        if newest.size() <= index {
            findings.extend(audit::receipt_not_held(&self.receipt, note, &newest, None));
            return Ok((Some(newest), findings));
        }
        let mut wrong = None;
        for caches in [Caches::Allowed, Caches::Past] {
            let (leaf, path) = look_up(client, index, &newest, caches)
                .await
                .map_err(|error| error.to_string())?;
            let tree = (newest.size(), newest.root());
            let held = Held {
                checkpoint: &newest,
                leaf,
                path: &path,
            };
            wrong = audit::receipt_not_held(&self.receipt, note, &newest, Some(&held));
            let included = rebuild::included(leaf, index, tree, &path);
            if wrong.is_none() && included {
                if let Some(proven) = proven {
                    findings.extend(continues(client, &newest, proven, patience).await?);
                }
                return Ok((Some(newest), findings));
            }
            if wrong.is_none() && caches == Caches::Past {
                return Err(format!(
                    "the log serves the entry, but tiles that do not give the signed root of size {}; \
                     verify the whole log: sentinel {}",
                    newest.size(),
                    client.base()
                ));
            }
        }
        findings.extend(wrong);
        Ok((Some(newest), findings))
    }

    /// Whoever holds the file may have changed the id in it: the log is asked
    /// for that id, and if its own answer is right, the file is not evidence.
    async fn not_put_right(&self, client: &Client, key: &VerifierKey) -> Result<(), String> {
        let id = &self.unverified.file.id;
        let path = format!("api/receipts/{id}");
        let limit = usize::try_from(MAX_FILE).unwrap_or(usize::MAX);
        let Ok(body) = client.get(&path, limit, Caches::Past).await else {
            return Ok(());
        };
        let answered = Unverified::from_body(body.as_ref()).filter(|answer| answer.file.id == *id);
        let genuine = answered.and_then(|answer| answer.verify(key).ok());
        match genuine {
            Some(genuine) if genuine.foreign().is_none() => Err(format!(
                "the file names another entry than the one that the log answers for {id}, \
                 and that one is right: the file was changed"
            )),
            _ => Ok(()),
        }
    }
}

/// Whether what the log shows now goes on from the checkpoint of a proof.
async fn continues(
    client: &Client,
    newest: &Signed,
    proven: &Signed,
    patience: Duration,
) -> Result<Option<Finding>, String> {
    match audit::withheld(proven, newest, patience.as_secs()) {
        None => contrast(client, newest, proven).await,
        withheld => Ok(withheld),
    }
}

/// The leaf hash that the log serves at `index`, and its audit path.
async fn look_up(
    client: &Client,
    index: u64,
    newest: &Signed,
    caches: Caches,
) -> Result<(Hash, Vec<Hash>), NoAnswer> {
    let size = TreeSize::new(newest.size()).expect("a checkpoint's size is within bounds");
    let bundle = RawBundle::fetch(client, index / WIDTH, size, caches).await?;
    let mut known: HashMap<(u8, u64), Hash> = HashMap::new();
    for (i, entry) in (index / WIDTH * WIDTH..).zip(bundle.entries()) {
        known.insert((0, i), rebuild::leaf_hash(entry));
    }
    for level in 0..=MAX_LEVEL {
        let shift = 8 * u32::from(level);
        // The tile that the path runs through, and the one on the tree's edge.
        let on_path = (level > 0).then_some((index >> shift) / WIDTH);
        let on_edge = (size.get() >> shift) / WIDTH;
        for n in on_path.into_iter().chain([on_edge]) {
            let start = n * WIDTH;
            let Some(tile) = Tile::within(TileKind::Hashes(level), n, size) else {
                continue;
            };
            if known.contains_key(&(level, start)) {
                continue;
            }
            let len = usize::from(tile.width()) * 32;
            let served = client.get_exactly(&tile.path(), len, caches).await?;
            for (i, hash) in (start..).zip(served.as_ref().as_chunks::<32>().0) {
                known.insert((level, i), Hash::from_bytes(*hash));
            }
        }
    }
    let leaf = known[&(0, index)];
    let hash = |level, i| known.get(&(level, i)).copied();
    let path = rebuild::audit_path(index, size.get(), &hash);
    Ok((
        leaf,
        path.expect("the tiles on the way and on the edge hold every node of the path"),
    ))
}

/// The 16 bytes of a UUID of version 7 in lower case with hyphens.
fn uuid_v7(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    if lengths != [8, 4, 4, 4, 12] {
        return None;
    }
    let digits = groups.concat();
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let nibble = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    (bytes[6] >> 4 == 7 && bytes[8] >> 6 == 0b10).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_version_7_in_one_spelling() {
        let good = "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b";
        assert_eq!(
            uuid_v7(good).map(|bytes| bytes[..4].to_vec()),
            Some(vec![1, 0x90, 0xa1, 0xb2])
        );
        for bad in [
            "",
            "0190a1b2-c3d4-4e5f-8a6b-7c8d9e0f1a2b",
            "0190a1b2-c3d4-7e5f-ca6b-7c8d9e0f1a2b",
            "0190A1B2-c3d4-7e5f-8a6b-7c8d9e0f1a2b",
            "0190a1b2c3d4-7e5f-8a6b-7c8d9e0f1a2b",
            "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2",
            "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2g",
        ] {
            assert_eq!(uuid_v7(bad), None, "{bad}");
        }
    }
}
