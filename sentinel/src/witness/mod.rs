//! A witness (C2SP tlog-witness): cosigns a log's checkpoint if it is
//! consistent with the last one that it cosigned.
//!
//! ```text
//! run ─> serve ─> Witness::add ─> rebuild::consistent      decides, one request of a log at a time
//!   │      │            └───────> Keep                     durable before anything is answered
//!   │      └────> full ─> pass                             verifies every entry, then cosigns again
//!   └────> keys
//! ```
//!
//! A log's record is compared, replaced and made durable under one lock: of two
//! requests that were both right when they were sent, the second is refused.
//! Out of scope: HTTP (see [`serve`]), and what entries say (see [`full`]).

pub mod full;
pub mod keep;
pub mod keys;
pub mod run;
pub mod serve;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use protocol::cosignature::Cosigner;
use protocol::hash::Hash;
use protocol::index::Time;
use protocol::key::VerifierKey;
use protocol::note::Note;
use protocol::witness::{AddCheckpoint, SIZE_CONTENT_TYPE, conflict};

use crate::audit::{self, Finding, Signed, Unopened};
use crate::rebuild;
use keep::Keep;

const TEXT: &str = "text/plain; charset=utf-8";

/// A witness of some logs; `K` keeps what it cosigned.
#[derive(Debug)]
pub struct Witness<K> {
    cosigner: Cosigner,
    /// By the place that an origin has below the monitoring prefix.
    logs: BTreeMap<String, Log>,
    keep: K,
}

#[derive(Debug)]
struct Log {
    /// The keys that are trusted for the origin.
    keys: Vec<VerifierKey>,
    held: Mutex<Option<Held>>,
}

/// The last checkpoint of a log that was cosigned.
#[derive(Clone, Debug)]
struct Held {
    /// Its note has the log's signatures only.
    signed: Signed,
    cosignature: String,
    full: Option<String>,
}

/// A checkpoint that was cosigned.
#[derive(Clone, Debug)]
pub struct Cosigned {
    /// The log's place below the monitoring prefix.
    pub place: String,
    /// The checkpoint.
    pub signed: Signed,
    /// The cosignature's line.
    pub line: String,
}

/// Why a checkpoint is not cosigned.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The body is no request, or contradicts itself.
    #[error("{0}")]
    Malformed(String),
    /// The origin is not that of a log which is witnessed.
    #[error("no log of the origin {0:?} is witnessed here")]
    Unknown(String),
    /// No signature is by a key that is trusted for the origin.
    #[error("the checkpoint is not signed by a key that is trusted for its origin")]
    Untrusted,
    /// The request does not begin where the witness is.
    #[error("the last checkpoint that was cosigned is of size {0}")]
    Stale(u64),
    /// Two roots for one size.
    #[error("{}", finding.message)]
    Fork {
        /// What shows it.
        finding: Box<Finding>,
        /// The key that signed both.
        key: Box<VerifierKey>,
    },
    /// The proof does not prove it.
    #[error("the proof does not lead from size {from} to size {to}")]
    Inconsistent {
        /// The size that the witness holds.
        from: u64,
        /// The checkpoint's.
        to: u64,
    },
    /// What was decided could not be made durable.
    #[error("the checkpoint could not be stored: {0}")]
    Storage(std::io::Error),
}

/// What is sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The content type.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: TEXT,
            body: body.into(),
        }
    }
}

impl From<&Refused> for Answer {
    fn from(refused: &Refused) -> Self {
        let status = match refused {
            Refused::Malformed(_) => 400,
            Refused::Untrusted => 403,
            Refused::Unknown(_) => 404,
            Refused::Stale(held) => {
                let held = protocol::index::TreeSize::new(*held).unwrap_or(NOTHING);
                return Self {
                    status: 409,
                    content_type: SIZE_CONTENT_TYPE,
                    body: conflict(held),
                };
            }
            Refused::Fork { .. } => 409,
            Refused::Inconsistent { .. } => 422,
            Refused::Storage(_) => return Self::text(500, "the checkpoint could not be stored\n"),
        };
        Self::text(status, format!("{refused}\n"))
    }
}

const NOTHING: protocol::index::TreeSize = protocol::index::TreeSize::ZERO;

/// Where a log is below the monitoring prefix: the hex SHA-256 of its origin.
pub fn place(origin: &str) -> String {
    Hash::of(origin.as_bytes()).to_string()
}

impl<K: Keep> Witness<K> {
    /// A witness of the logs of these keys, going on from what `keep` has.
    ///
    /// # Errors
    /// What was kept cannot be read, or is no checkpoint of its log.
    pub fn open(
        cosigner: Cosigner,
        keys: impl IntoIterator<Item = VerifierKey>,
        keep: K,
    ) -> std::io::Result<Self> {
        let mut logs: BTreeMap<String, Log> = BTreeMap::new();
        for key in keys {
            let log = logs.entry(place(key.origin().as_str())).or_insert(Log {
                keys: vec![],
                held: Mutex::new(None),
            });
            log.keys.push(key);
        }
        for (place, log) in &mut logs {
            if let Some(note) = keep.kept(place)? {
                let held = log.reopen(&note, &cosigner);
                let damaged = || {
                    let text = format!("what is kept for {place} is no checkpoint of its log");
                    std::io::Error::other(text)
                };
                log.held = Mutex::new(Some(held.ok_or_else(damaged)?));
            }
        }
        Ok(Self {
            cosigner,
            logs,
            keep,
        })
    }

    /// Decides on a request's body at `now`. What is cosigned is durable.
    ///
    /// # Errors
    /// Why it is refused; the record is then as it was.
    pub fn add(&self, body: &[u8], now: Time) -> Result<Cosigned, Refused> {
        let malformed = |why: String| Refused::Malformed(why);
        let request = AddCheckpoint::parse(body).map_err(|e| malformed(e.to_string()))?;
        let note = Note::parse(request.checkpoint.as_bytes());
        let note = note.map_err(|e| malformed(e.to_string()))?;
        let origin = note.text().lines().next().unwrap_or_default();
        let place = place(origin);
        let log = self.logs.get(&place);
        let log = log.ok_or_else(|| Refused::Unknown(origin.into()))?;
        let (key, signed) = log.open(&note)?;
        if request.old.get() > signed.size() {
            return Err(malformed(format!(
                "the old size {} is above the checkpoint's, {}",
                request.old,
                signed.size()
            )));
        }
        let mut held = log.held.lock().unwrap_or_else(PoisonError::into_inner);
        let size = held.as_ref().map_or(0, |held| held.signed.size());
        if request.old.get() != size {
            return Err(Refused::Stale(size));
        }
        let before = held.as_ref().map(|held| &held.signed);
        follows(before, &signed, &request.proof, key)?;
        let line = self.cosigner.cosign(&text_of(&signed), now);
        let same = before.is_some_and(|before| before.size() == signed.size());
        let next = Held {
            signed: signed.clone(),
            cosignature: line.clone(),
            full: held.as_ref().filter(|_| same).and_then(|h| h.full.clone()),
        };
        // Also where only the time is new: what is shown after a restart is no older.
        let note = format!("{}{line}", signed.note());
        self.keep.keep(&place, &note).map_err(Refused::Storage)?;
        *held = Some(next);
        Ok(Cosigned {
            place,
            signed,
            line,
        })
    }

    /// Adds the line of a full cosignature to what is served of a log, if it
    /// still holds this checkpoint.
    pub fn add_full(&self, place: &str, signed: &Signed, line: &str) {
        let Some(log) = self.logs.get(place) else {
            return;
        };
        let mut held = log.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.as_mut().filter(|held| held.signed == *signed) {
            held.full = Some(line.into());
        }
    }

    /// The newest cosigned checkpoint of the log at a place, with this
    /// witness's cosignatures.
    pub fn checkpoint(&self, place: &str) -> Option<String> {
        let held = self.logs.get(place)?.held.lock();
        let held = held.unwrap_or_else(PoisonError::into_inner).clone()?;
        let full = held.full.unwrap_or_default();
        Some(format!("{}{}{full}", held.signed.note(), held.cosignature))
    }
}

/// Whether the checkpoint can follow the held one.
fn follows(
    held: Option<&Signed>,
    signed: &Signed,
    proof: &[Hash],
    key: &VerifierKey,
) -> Result<(), Refused> {
    let from = held.map_or(0, Signed::size);
    let inconsistent = || Refused::Inconsistent {
        from,
        to: signed.size(),
    };
    let consistent = match held {
        Some(held) if held.size() == signed.size() => {
            if let Some(fork) = audit::fork(held, signed) {
                return Err(Refused::Fork {
                    finding: Box::new(fork),
                    key: Box::new(key.clone()),
                });
            }
            proof.is_empty()
        }
        Some(held) if held.size() > 0 => {
            let (old, new) = ((held.size(), held.root()), (signed.size(), signed.root()));
            rebuild::consistent(old, new, proof)
        }
        // Everything begins with the empty tree, which has one root.
        _ => proof.is_empty() && (signed.size() > 0 || signed.root() == Hash::EMPTY_ROOT),
    };
    consistent.then_some(()).ok_or_else(inconsistent)
}

/// The signed text of a checkpoint: its note up to the empty line.
fn text_of(signed: &Signed) -> String {
    let (text, _) = signed.note().split_once("\n\n").unwrap_or_default();
    format!("{text}\n")
}

impl Log {
    /// Opens a checkpoint under one of the log's keys; of its signatures only
    /// the log's are kept.
    fn open(&self, note: &Note<'_>) -> Result<(&VerifierKey, Signed), Refused> {
        let key = self.keys.iter().find(|key| note.verify(key).is_ok());
        let key = key.ok_or(Refused::Untrusted)?;
        let ours = note.signatures().iter().filter(|line| {
            line.name() == key.origin().as_str() && line.key_hash() == key.key_hash()
        });
        let lines: String = ours.map(ToString::to_string).collect();
        let kept = format!("{}\n{lines}", note.text());
        let signed = Signed::open(kept.as_bytes(), key).map_err(|unopened| match unopened {
            Unopened::NotANote(why) => Refused::Malformed(why),
            Unopened::Misbehaviour(finding) => Refused::Malformed(finding.message),
        })?;
        Ok((key, signed))
    }

    /// What was held before a restart.
    fn reopen(&self, kept: &str, cosigner: &Cosigner) -> Option<Held> {
        let note = Note::parse(kept.as_bytes()).ok()?;
        let (_, signed) = self.open(&note).ok()?;
        let verifier = cosigner.verifier();
        let hash = verifier.vkey().key_hash();
        // Of another key if the witness got a new one: then there is none yet.
        let cosignature = note
            .signatures()
            .iter()
            .find(|line| line.name() == verifier.name().as_str() && line.key_hash() == hash)
            .map(ToString::to_string)
            .unwrap_or_default();
        Some(Held {
            signed,
            cosignature,
            full: None,
        })
    }
}

#[cfg(test)]
mod tests;
