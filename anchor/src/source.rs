//! The log as a client sees it: what it offers to be anchored, verified.
//!
//! Out of scope: entries one by one, which sentinels verify.

use std::time::Duration;

use alloy_primitives::Bytes;
use protocol::anchor::ChainLog;
use protocol::checkpoint::{Checkpoint, CheckpointError};
use protocol::cosignature::CosignatureError;
use protocol::entry::{Body, Entry, EntryError};
use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::key::VerifierKey;
use protocol::note::Note;
use protocol::policy::Policy;
use protocol::proof::{ProofError, verify_consistency, verify_inclusion};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A page of 1,000 entries of 65,535 bytes, as JSON.
const MAX_ANSWER: usize = 256 << 20;

/// A log's address.
#[derive(Debug)]
pub struct Source {
    http: reqwest::Client,
    base: Url,
    policy: Option<Policy>,
}

/// A log as it says itself, shown under a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its Ed25519 key.
    pub key: VerifierKey,
    /// What contracts know of it.
    pub log: ChainLog,
}

/// A published checkpoint that can be anchored: everything in it was verified.
#[derive(Clone, Debug)]
pub struct Offer {
    /// How many entries it covers.
    pub size: TreeSize,
    /// Their root.
    pub root: Hash,
    /// The time of the last of them.
    pub time: Time,
    /// The EVM key's signature.
    pub signature: Bytes,
    /// The witnesses that cosigned it, by their names in the policy; none
    /// without a policy.
    pub cosigned: Vec<String>,
}

/// Why a log offers nothing that can be anchored.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No complete answer.
    #[error("the log gave no complete answer to {path}: {cause}")]
    NoAnswer {
        /// What was asked for.
        path: String,
        /// What happened.
        cause: String,
    },
    /// Another log, or an impostor.
    #[error("the log's key is {found}, expected {expected}")]
    Key {
        /// The pinned one.
        expected: Box<VerifierKey>,
        /// What entry 0 says.
        found: Box<VerifierKey>,
    },
    /// The checkpoint is not the log's.
    #[error("the log's checkpoint is not accepted")]
    Checkpoint(#[from] CheckpointError),
    /// The policy is not about this log.
    #[error("the policy lists other logs, but not {0}")]
    ForeignPolicy(Box<VerifierKey>),
    /// Too few witnesses.
    #[error(
        "not yet witnessed: the checkpoint of size {size} is cosigned by {by}, which is not the policy's quorum; nothing was sent"
    )]
    Unwitnessed {
        /// Of which size.
        size: TreeSize,
        /// Who of the policy cosigned.
        by: String,
    },
    /// A line by a known witness does not verify.
    #[error("the checkpoint's cosignatures are not accepted")]
    Cosignature(#[from] CosignatureError),
    /// An entry is none.
    #[error("entry {index} is not accepted")]
    Entry {
        /// Where it stands.
        index: u64,
        /// What is wrong.
        #[source]
        source: EntryError,
    },
    /// Entry 0 is of another kind.
    #[error("entry 0 does not say what the log is")]
    NoLog,
    /// A proof leads elsewhere.
    #[error("the log's proof for {what} is not accepted")]
    Proof {
        /// What it should show.
        what: String,
        /// What is wrong.
        #[source]
        source: ProofError,
    },
    /// Two parts of one answer differ.
    #[error("/api/chain says {found} of the published checkpoint, expected {expected}")]
    Differs {
        /// What was said.
        found: String,
        /// What the checkpoint says.
        expected: String,
    },
    /// Not signed with the EVM key.
    #[error("the signature over size {size} is not by the EVM key {evm_key} of entry 0")]
    Signature {
        /// Of which size.
        size: TreeSize,
        /// Whose it should be.
        evm_key: protocol::name::Address,
    },
}

impl SourceError {
    /// Whether the log answered, and wrongly so. Cosignatures are witnesses'.
    pub fn is_misbehaviour(&self) -> bool {
        !matches!(
            self,
            Self::NoAnswer { .. }
                | Self::ForeignPolicy(_)
                | Self::Unwitnessed { .. }
                | Self::Cosignature(_)
        )
    }
}

#[derive(Deserialize)]
struct Chain {
    published: Published,
}

#[derive(Deserialize)]
struct Published {
    size: u64,
    root: String,
    time: u64,
    checkpoint: String,
    signature: Bytes,
}

#[derive(Deserialize)]
struct Record {
    entry: String,
}

#[derive(Deserialize)]
struct Placed {
    index: u64,
}

#[derive(Deserialize)]
struct Records {
    records: Vec<Record>,
    next: Option<u64>,
}

#[derive(Deserialize)]
struct Proof {
    hashes: Vec<String>,
}

impl Source {
    /// The log at `base`, whose checkpoints must have the quorum of `policy`,
    /// if there is one.
    ///
    /// # Errors
    /// TLS or proxy settings are unusable.
    pub fn new(mut base: Url, policy: Option<Policy>) -> Result<Self, reqwest::Error> {
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("tallystick-anchor/", env!("CARGO_PKG_VERSION")))
            .timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::limited(4))
            .build()?;
        Ok(Self { http, base, policy })
    }

    /// The log's address.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// What the log says it is in entry 0, and what it offers now. `pinned` is
    /// its key, if it is known already.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn offer(&self, pinned: Option<&VerifierKey>) -> Result<(Known, Offer), SourceError> {
        let first: Record = self.get("api/records/0").await?;
        let Entry::Known {
            body: Body::Log(said),
            ..
        } = parse(0, &first.entry)?
        else {
            return Err(SourceError::NoLog);
        };
        if let Some(expected) = pinned.filter(|key| **key != said.key) {
            return Err(SourceError::Key {
                expected: Box::new(expected.clone()),
                found: Box::new(said.key),
            });
        }
        let log = ChainLog::new(&said.key, said.evm_key);
        let Chain { published } = self.get("api/chain").await?;
        let checkpoint = Checkpoint::open(published.checkpoint.as_bytes(), &said.key)?;
        let tree = (checkpoint.size(), checkpoint.root());
        agree(published.size, tree.0)?;
        agree(&published.root, tree.1)?;
        self.included(0, &first.entry, tree).await?;
        let time = self.time_of_last(tree).await?;
        agree(published.time, time.secs())?;
        if !signed(&log, tree, time, &published.signature) {
            return Err(SourceError::Signature {
                size: tree.0,
                evm_key: said.evm_key,
            });
        }
        let cosigned = self.witnessed(&said.key, tree.0, &published.checkpoint)?;
        let offer = Offer {
            size: tree.0,
            root: tree.1,
            time,
            signature: published.signature,
            cosigned,
        };
        Ok((Known { key: said.key, log }, offer))
    }

    /// Asks the log to sum up all wallets' totals in an entry; gives where that
    /// stands, if there is anything to sum up.
    ///
    /// # Errors
    /// No answer.
    pub async fn sum_up(&self) -> Result<Option<u64>, SourceError> {
        let path = "api/totals";
        let answer = self.send(self.http.post(self.url(path)?), path).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let placed: Placed = read(answer, path).await?;
        Ok(Some(placed.index))
    }

    /// The verified proof that an anchored tree is the beginning of what is offered.
    ///
    /// # Errors
    /// No answer, or the log was rewritten.
    pub async fn consistency(
        &self,
        from: (TreeSize, Hash),
        offer: &Offer,
    ) -> Result<Vec<Hash>, SourceError> {
        let (old, new) = (from.0, offer.size);
        let path = format!("api/proof/consistency?from={old}&to={new}");
        let hashes = self.hashes(&path).await?;
        verify_consistency(from, (new, offer.root), &hashes).map_err(|source| {
            let what = format!("{old} anchored entries being the first of {new}");
            SourceError::Proof { what, source }
        })?;
        Ok(hashes)
    }

    /// Whether there are `enough` entries of kind usage and binding from index
    /// `from` on, of those that a tree of `size` covers.
    ///
    /// # Errors
    /// No answer, or what is none.
    pub async fn grew(&self, from: u64, size: TreeSize, enough: u64) -> Result<bool, SourceError> {
        let (mut found, mut next) = (0, from);
        while found < enough && next < size.get() {
            let after = next
                .checked_sub(1)
                .map_or(String::new(), |after| format!("&after={after}"));
            let page: Records = self.get(&format!("api/records?limit=1000{after}")).await?;
            for record in &page.records {
                if next == size.get() {
                    break;
                }
                found += u64::from(counts(&record.entry));
                next += 1;
            }
            if page.next.is_none() || page.records.is_empty() {
                break;
            }
        }
        Ok(found >= enough)
    }

    async fn time_of_last(&self, tree: (TreeSize, Hash)) -> Result<Time, SourceError> {
        // A checkpoint of no entry has no last one, nor is it ever published.
        let last = tree.0.get().saturating_sub(1);
        let record: Record = self.get(&format!("api/records/{last}")).await?;
        self.included(last, &record.entry, tree).await?;
        Ok(parse(last, &record.entry)?.time())
    }

    async fn included(
        &self,
        at: u64,
        entry: &str,
        tree: (TreeSize, Hash),
    ) -> Result<(), SourceError> {
        let path = format!("api/proof/inclusion?index={at}&size={}", tree.0);
        let hashes = self.hashes(&path).await?;
        let index = Index::new(at).expect("below a tree's size");
        let leaf = Hash::leaf(entry.as_bytes());
        verify_inclusion(leaf, index, tree, &hashes).map_err(|source| SourceError::Proof {
            what: format!("entry {at} being in the tree of {}", tree.0),
            source,
        })
    }

    async fn hashes(&self, path: &str) -> Result<Vec<Hash>, SourceError> {
        let proof: Proof = self.get(path).await?;
        let hashes = proof.hashes.iter().map(|text| Hash::from_base64(text));
        hashes
            .collect::<Option<_>>()
            .ok_or_else(|| SourceError::NoAnswer {
                path: path.into(),
                cause: "its hashes are not base64 of 32 bytes each".into(),
            })
    }

    /// Who of the policy cosigned, if that is its quorum (C2SP tlog-policy).
    fn witnessed(
        &self,
        key: &VerifierKey,
        size: TreeSize,
        note: &str,
    ) -> Result<Vec<String>, SourceError> {
        let Some(policy) = &self.policy else {
            return Ok(vec![]);
        };
        if !policy.accepts(key) {
            return Err(SourceError::ForeignPolicy(Box::new(key.clone())));
        }
        let note = Note::parse(note.as_bytes()).map_err(CheckpointError::from)?;
        let judged = policy.judge(&note)?;
        let name = |place: usize| String::from_utf8_lossy(policy.witnesses()[place].name());
        let by: Vec<String> = judged.by.iter().map(|(at, _)| name(*at).into()).collect();
        if judged.quorum {
            return Ok(by);
        }
        let by = match &by[..] {
            [] => "nobody of the policy".into(),
            by => by.join(", "),
        };
        Err(SourceError::Unwitnessed { size, by })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, SourceError> {
        let answer = self.send(self.http.get(self.url(path)?), path).await?;
        read(answer, path).await
    }

    fn url(&self, path: &str) -> Result<Url, SourceError> {
        self.base.join(path).map_err(no_answer(path))
    }

    async fn send(&self, request: RequestBuilder, path: &str) -> Result<Response, SourceError> {
        request.send().await.map_err(no_answer(path))
    }
}

/// A 200 answer's JSON.
async fn read<T: DeserializeOwned>(answer: Response, path: &str) -> Result<T, SourceError> {
    let mut answer = answer.error_for_status().map_err(no_answer(path))?;
    if answer.status() != StatusCode::OK {
        return Err(no_answer(path)(format!("status {}", answer.status())));
    }
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(no_answer(path))? {
        if body.len() + part.len() > MAX_ANSWER {
            return Err(no_answer(path)(format!("more than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&part);
    }
    serde_json::from_slice(&body).map_err(no_answer(path))
}

fn no_answer<E: ToString>(path: &str) -> impl Fn(E) -> SourceError {
    let path = path.to_owned();
    move |cause| SourceError::NoAnswer {
        path: path.clone(),
        cause: cause.to_string(),
    }
}

fn parse(index: u64, entry: &str) -> Result<Entry, SourceError> {
    Entry::parse(entry.as_bytes()).map_err(|source| SourceError::Entry { index, source })
}

/// Entries that somebody's doing brought; those of kind totals follow from them.
fn counts(entry: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    let kind = serde_json::from_str(entry).map(|Kind { kind }| kind);
    kind.is_ok_and(|kind| kind == "usage" || kind == "binding")
}

fn agree(found: impl ToString, expected: impl ToString) -> Result<(), SourceError> {
    let (found, expected) = (found.to_string(), expected.to_string());
    if found == expected {
        return Ok(());
    }
    Err(SourceError::Differs { found, expected })
}

/// Whether a signature is as section 13.1 of PROTOCOL.md asks for.
fn signed(log: &ChainLog, tree: (TreeSize, Hash), time: Time, signature: &Bytes) -> bool {
    let signature = <&[u8; 65]>::try_from(&signature[..]);
    signature.is_ok_and(|signature| log.signed(tree.0, tree.1, time, signature))
}
