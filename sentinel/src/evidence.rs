//! `sentinel evidence`: whether a file shows the misbehaviour that it says
//! (PROTOCOL.md section 11.1).
//!
//! Offline, from the log's key alone. The file's material is judged again by
//! the functions that judge a log ([`crate::audit`]); its class and message
//! are not believed.

use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::hash::Hash;
use protocol::index::Index;
use protocol::key::VerifierKey;
use protocol::name::Address;
use protocol::receipt::Receipt;
use protocol::tile::{self, Tile};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::answer::{self, Pubkey, Wallet, WalletRecords};
use crate::audit::{self, Before, Claim, Class, Finding, Held, Item, Prefix, Signed, Unopened};
use crate::chain::contract::Statement;
use crate::light::{self, Refused};
use crate::newer::Newer;
use crate::rebuild;
use crate::receipt::Unverified;

/// The longest evidence file: some entries, or an answer of 1 MiB, escaped.
const MAX_FILE: u64 = 16 << 20;

/// The version of the format that is understood.
const VERSION: u64 = 1;

/// An evidence file. Nothing in it is believed.
#[derive(Debug, Deserialize)]
pub struct File {
    tallystick_evidence: u64,
    claim: String,
    class: String,
    log: String,
    vkey: Option<String>,
    message: String,
    material: Map<String, Value>,
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
    /// It is no evidence file.
    #[error("{path} is no evidence file: {cause}")]
    Form {
        /// Which file.
        path: String,
        /// Why.
        cause: String,
    },
    /// Nothing says whose log it is about.
    #[error("{0} names no key: give --vkey")]
    NoKey(String),
}

impl File {
    /// Reads an evidence file.
    ///
    /// # Errors
    /// It cannot be read, or has another form.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let name = || path.display().to_string();
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
            .map_err(|cause| FileError::Io {
                path: name(),
                cause,
            })?;
        serde_json::from_str(&text).map_err(|error| FileError::Form {
            path: name(),
            cause: error.to_string(),
        })
    }

    /// The log's address, as the file says it.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// What it is said to show, and how far that is said to carry.
    pub fn title(&self) -> String {
        format!("{} ({})", self.claim, self.class)
    }

    /// The key that the file itself names.
    ///
    /// # Errors
    /// It names none, or one that is not admitted.
    pub fn own_key(&self, path: &Path) -> Result<VerifierKey, FileError> {
        let name = path.display().to_string();
        let vkey = self.vkey.as_ref();
        let vkey = vkey.ok_or_else(|| FileError::NoKey(name.clone()))?;
        VerifierKey::parse(vkey).map_err(|error| FileError::Form {
            path: name,
            cause: error.to_string(),
        })
    }

    /// Judges the material under the log's key: gives what it shows. A served
    /// finding holds as far as the file can show it; that the log served the
    /// material is the word of whoever kept it.
    ///
    /// # Errors
    /// Why the file does not show what it says.
    pub fn judge(&self, key: &VerifierKey) -> Result<Finding, String> {
        if self.tallystick_evidence != VERSION {
            return Err(format!(
                "the file is of version {}, this sentinel knows {VERSION}",
                self.tallystick_evidence
            ));
        }
        let known = Claim::ALL.iter().find(|claim| claim.code() == self.claim);
        let claim =
            *known.ok_or_else(|| format!("this sentinel knows no claim {:?}", self.claim))?;
        let shown = self.shown(claim, key)?;
        match shown {
            Some(finding) if finding.claim == claim => Ok(finding),
            Some(finding) => Err(format!(
                "the material shows {}, not {claim}: {}",
                finding.claim, finding.message
            )),
            None => Err("the material is in order".into()),
        }
    }

    fn shown(&self, claim: Claim, key: &VerifierKey) -> Result<Option<Finding>, String> {
        Ok(match claim {
            Claim::Fork => {
                let [one, other] = &self.notes("checkpoints", key)?[..] else {
                    return Err("expected 2 checkpoints".into());
                };
                audit::fork(one, other)
            }
            Claim::HistoryRewritten => audit::rewritten(
                &self.checkpoint("older", key)?,
                &self.checkpoint("newer", key)?,
                self.hash("prefix_root")?,
                &self.hashes("proof")?,
            ),
            Claim::EmptyLog => audit::not_empty(&self.checkpoint("checkpoint", key)?),
            Claim::CheckpointMalformed => self.unopened(key)?,
            Claim::KeyChanged if self.material.contains_key("note") => self.unopened(key)?,
            Claim::KeyChanged => {
                let served = Pubkey::deserialize(self.member("served")?);
                audit::pubkey(key, &served.map_err(|e| format!("served: {e}"))?)
            }
            Claim::Rollback => audit::rollback(
                &self.checkpoint("remembered", key)?,
                &self.checkpoint("served", key)?,
            ),
            Claim::CheckpointOverdue => {
                let newest = self.checkpoint("newest", key)?;
                let overdue = if self.material.contains_key("shown") {
                    audit::withheld(&self.checkpoint("shown", key)?, &newest, 0)
                } else {
                    audit::overdue(self.number("size")?, &newest, 0)
                };
                // How long it was waited for, only the file knows.
                overdue.map(|finding| Finding {
                    message: self.message.clone(),
                    ..finding
                })
            }
            Claim::RootMismatch => {
                let rebuilt = Hash::from_hex(self.text("rebuilt_root")?);
                let rebuilt = rebuilt.ok_or("rebuilt_root is not a hash in hex")?;
                audit::root(&self.checkpoint("checkpoint", key)?, rebuilt)
            }
            Claim::TileMismatch => self.tile()?,
            Claim::ReceiptNotHeld => self.receipt_not_held(key)?,
            Claim::ReceiptForeignId => {
                let file = self.member("file")?.to_string();
                let file = Unverified::from_body(file.as_bytes());
                file.ok_or("file is no receipt file")?
                    .verify(key)?
                    .foreign()
            }
            Claim::TimeBackwards => self.time_backwards(key)?,
            Claim::EntryMalformed
            | Claim::FirstEntry
            | Claim::SecondLogEntry
            | Claim::ReceiptSignature => self.one_entry(claim, key)?,
            Claim::UnboundWallet
            | Claim::BindingIgnored
            | Claim::BindingInvalid
            | Claim::TotalsFalse
            | Claim::TotalsOverdue
            | Claim::AnchorInvalid => self.after_others(claim, key)?,
            Claim::AnchorDiffers if self.material.contains_key("statement") => {
                self.anchor_differs(key)?
            }
            Claim::AnchorForked if self.material.contains_key("statements") => {
                self.anchor_forked(key)?
            }
            Claim::AnchorDiffers
            | Claim::AnchorForked
            | Claim::AnchorWithheld
            | Claim::AnchorOverdue
            | Claim::AnchorHistory
            | Claim::AnchorContract => Some(self.on_chain(claim)?),
            Claim::WalletProof => self.wallet_proof(key)?,
            Claim::AggregateStats
            | Claim::AggregateModels
            | Claim::AggregateLeaderboard
            | Claim::AggregateUser
            | Claim::AggregateWallet
            | Claim::AggregateChain => Some(self.aggregate(claim)?),
        })
    }

    /// What is wrong with the note in `note`, which is no checkpoint of the key.
    fn unopened(&self, key: &VerifierKey) -> Result<Option<Finding>, String> {
        match Signed::open(self.text("note")?.as_bytes(), key) {
            Ok(_) => Ok(None),
            Err(Unopened::Misbehaviour(finding)) => Ok(Some(finding)),
            Err(Unopened::NotANote(why)) => Err(format!("note: {why}")),
        }
    }

    fn one_entry(&self, claim: Claim, key: &VerifierKey) -> Result<Option<Finding>, String> {
        let [kept] = &self.entries(key)?[..] else {
            return Err("expected 1 entry".into());
        };
        let item = kept.item();
        let parsed = audit::canonical(&item, key);
        Ok(match (claim, parsed) {
            (Claim::ReceiptSignature, _) => audit::receipt_signature(&item, key),
            (_, Err(malformed)) => Some(*malformed),
            (Claim::FirstEntry, Ok(entry)) => audit::first_entry(&item, &entry, key),
            (Claim::SecondLogEntry, Ok(entry)) => audit::second_log_entry(&item, &entry, key),
            (_, Ok(_)) => None,
        })
    }

    /// What is wrong with an entry by itself, or after those that are put
    /// before it; without them the file's word is passed on.
    fn after_others(&self, claim: Claim, key: &VerifierKey) -> Result<Option<Finding>, String> {
        let [kept] = &self.entries(key)?[..] else {
            return Err("expected 1 entry".into());
        };
        let item = kept.item();
        let entry = match audit::canonical(&item, key) {
            Ok(entry) => entry,
            Err(malformed) => return Ok(Some(*malformed)),
        };
        let alone = audit::by_itself(&item, &entry, key);
        if alone.is_some() {
            return Ok(alone);
        }
        if let Some(before) = self.material.get("before") {
            let bytes = |name: &str| {
                let text = before[name].as_str().unwrap_or_default();
                let bytes = STANDARD.decode(text);
                bytes.map_err(|e| format!("{name} before: {e}"))
            };
            let (entries, signatures) = (bytes("entries")?, bytes("signatures")?);
            let entries = tile::entries(&entries).ok_or("entries before: cut")?;
            let (signatures, []) = signatures.as_chunks::<64>() else {
                return Err("signatures before: cut".into());
            };
            if entries.len() != signatures.len() {
                return Err("not a signature for each entry before".into());
            }
            let before = Before::verify(entries.into_iter().zip(signatures), key);
            let mut shown = before.judge(&item, key).into_iter();
            return Ok(shown.find(|shown| shown.claim == claim));
        }
        Ok(audit::concerns(claim, &entry).then(|| Finding {
            claim,
            class: Class::Served,
            index: Some(kept.index.get()),
            message: self.message.clone(),
            material: self.material.clone(),
        }))
    }

    fn time_backwards(&self, key: &VerifierKey) -> Result<Option<Finding>, String> {
        let [before, after] = &self.entries(key)?[..] else {
            return Err("expected 2 entries".into());
        };
        if before.index >= after.index {
            return Err("the entries do not ascend".into());
        }
        let (before, after) = (before.item(), after.item());
        let time = |item| audit::canonical(item, key).map(|entry| entry.time());
        match (time(&before), time(&after)) {
            (Ok(earlier), Ok(later)) => Ok(audit::time_backwards(
                (&before, earlier),
                (&after, later),
                key,
            )),
            (Err(malformed), _) | (_, Err(malformed)) => Ok(Some(*malformed)),
        }
    }

    fn receipt_not_held(&self, key: &VerifierKey) -> Result<Option<Finding>, String> {
        let note = self.text("receipt")?;
        let receipt = Receipt::open(note.as_bytes(), key).map_err(|e| format!("receipt: {e}"))?;
        let checkpoint = self.checkpoint("checkpoint", key)?;
        if !self.material.contains_key("path") {
            return Ok(audit::receipt_not_held(&receipt, note, &checkpoint, None));
        }
        let held = Held {
            checkpoint: &checkpoint,
            leaf: self.hash("leaf_hash")?,
            path: &self.hashes("path")?,
        };
        Ok(audit::receipt_not_held(
            &receipt,
            note,
            &checkpoint,
            Some(&held),
        ))
    }

    fn tile(&self) -> Result<Option<Finding>, String> {
        let tile = Tile::parse(self.text("path")?).ok_or("path is no tile's")?;
        let rebuilt = self.base64("rebuilt")?;
        let (rebuilt, []) = rebuilt.as_chunks::<32>() else {
            return Err("rebuilt is no list of hashes".into());
        };
        let rebuilt: Vec<Hash> = rebuilt.iter().map(|h| Hash::from_bytes(*h)).collect();
        Ok(audit::tile(tile, &self.base64("served")?, &rebuilt))
    }

    fn anchor_differs(&self, key: &VerifierKey) -> Result<Option<Finding>, String> {
        let [first] = &self.entries(key)?[..] else {
            return Err("expected 1 entry".into());
        };
        let statement = Statement::read(self.member("statement")?);
        let prefix = Prefix {
            newest: &self.checkpoint("checkpoint", key)?,
            root: self.hash("prefix_root")?,
            proof: &self.hashes("proof")?,
        };
        let statement = statement.ok_or("statement is none")?;
        Ok(audit::anchor_differs(
            &first.item(),
            &statement,
            prefix,
            key,
        ))
    }

    fn anchor_forked(&self, key: &VerifierKey) -> Result<Option<Finding>, String> {
        let [first] = &self.entries(key)?[..] else {
            return Err("expected 1 entry".into());
        };
        let statements = self.list("statements")?.iter().map(Statement::read);
        let statements: Option<Vec<_>> = statements.collect();
        let Some([one, other]) = statements.as_deref() else {
            return Err("expected 2 statements".into());
        };
        Ok(audit::anchor_forked(&first.item(), [one, other], key))
    }

    /// What a chain says, anyone can ask it: the file's word is passed on.
    fn on_chain(&self, claim: Claim) -> Result<Finding, String> {
        let contract = self.member("chain")?["contract"].as_str();
        let contract = contract.and_then(Address::from_canonical);
        contract.ok_or("chain names no contract")?;
        Ok(Finding {
            claim,
            class: Class::Served,
            index: None,
            message: self.message.clone(),
            material: self.material.clone(),
        })
    }

    /// What is wrong with a wallet's proof by itself; what only other answers
    /// show is passed on.
    fn wallet_proof(&self, key: &VerifierKey) -> Result<Option<Finding>, String> {
        let wallet = Address::from_canonical(self.text("wallet")?).ok_or("wallet is no address")?;
        let body = self.text("answer")?.as_bytes();
        let judged = match answer::json::<WalletRecords>(body) {
            // It was too long to be kept: the file's word is passed on.
            _ if body.is_empty() => Ok(()),
            Ok(part) => Newer::new(wallet, 0, 0).take(&part, key).map(drop),
            Err(_) => {
                let answer = answer::json::<Wallet>(body);
                let answer = answer.map_err(|why| format!("answer: {why}"))?;
                let proof = answer.proof.ok_or("answer has no proof")?;
                light::verify(&proof, wallet, key).map(drop)
            }
        };
        let wrong = match judged {
            Ok(()) => self.message.clone(),
            Err(Refused::Wrong(wrong)) => wrong,
            Err(Refused::Checkpoint(finding)) => finding.message,
            Err(Refused::Unjudged(why)) => return Err(why),
        };
        Ok(Some(audit::wallet_proof(wallet, &wrong, body)))
    }

    /// A wrong sum needs the whole log to be seen: the file's word is passed on.
    fn aggregate(&self, claim: Claim) -> Result<Finding, String> {
        let subject = claim.code().trim_start_matches("aggregate_");
        let path = self.text("path")?;
        let of_subject = path.strip_prefix("api/").is_some_and(|rest| {
            let end = rest.find(['?', '/']).unwrap_or(rest.len());
            &rest[..end] == subject
        });
        if !of_subject {
            return Err(format!("path is {path:?}, expected one of api/{subject}"));
        }
        self.text("answer")?;
        Ok(Finding {
            claim,
            class: Class::Served,
            index: None,
            message: self.message.clone(),
            material: self.material.clone(),
        })
    }

    fn member(&self, name: &str) -> Result<&Value, String> {
        let member = self.material.get(name);
        member.ok_or_else(|| format!("the material has no {name}"))
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        let text = self.member(name)?.as_str();
        text.ok_or_else(|| format!("{name} is no text"))
    }

    fn number(&self, name: &str) -> Result<u64, String> {
        let number = self.member(name)?.as_u64();
        number.ok_or_else(|| format!("{name} is no number"))
    }

    fn list(&self, name: &str) -> Result<&[Value], String> {
        let list = self.member(name)?.as_array();
        list.map(Vec::as_slice)
            .ok_or_else(|| format!("{name} is no list"))
    }

    fn base64(&self, name: &str) -> Result<Vec<u8>, String> {
        let bytes = STANDARD.decode(self.text(name)?);
        bytes.map_err(|e| format!("{name}: {e}"))
    }

    fn hash(&self, name: &str) -> Result<Hash, String> {
        hash(self.member(name)?).ok_or_else(|| format!("{name} is no hash in base64"))
    }

    fn hashes(&self, name: &str) -> Result<Vec<Hash>, String> {
        let hashes = self.list(name)?.iter().map(hash).collect::<Option<_>>();
        hashes.ok_or_else(|| format!("{name} is no list of hashes in base64"))
    }

    fn checkpoint(&self, name: &str, key: &VerifierKey) -> Result<Signed, String> {
        signed(self.text(name)?, key).map_err(|why| format!("{name}: {why}"))
    }

    fn notes(&self, name: &str, key: &VerifierKey) -> Result<Vec<Signed>, String> {
        let note = |note: &Value| signed(note.as_str().unwrap_or_default(), key);
        let notes = self.list(name)?.iter().map(note).collect::<Result<_, _>>();
        notes.map_err(|why| format!("{name}: {why}"))
    }

    fn entries(&self, key: &VerifierKey) -> Result<Vec<Kept>, String> {
        let items = self.list("entries")?.iter();
        items.map(|item| Kept::read(item, key)).collect()
    }
}

/// An entry item: an entry with what is said to be its receipt.
struct Kept {
    index: Index,
    bytes: Vec<u8>,
    genuine: bool,
}

impl Kept {
    fn read(item: &Value, key: &VerifierKey) -> Result<Self, String> {
        let index = item["index"].as_u64().and_then(Index::new);
        let index = index.ok_or("an entry item has no index")?;
        let bytes = item["entry"].as_str().map(|text| STANDARD.decode(text));
        let Some(Ok(bytes)) = bytes else {
            return Err(format!("entry {index} is not base64"));
        };
        let note = item["receipt"].as_str();
        let note = note.ok_or_else(|| format!("entry {index} has no receipt"))?;
        let promised = Receipt::new(key.origin().clone(), index, rebuild::leaf_hash(&bytes));
        let genuine = Receipt::open(note.as_bytes(), key).is_ok_and(|receipt| receipt == promised);
        Ok(Self {
            index,
            bytes,
            genuine,
        })
    }

    /// For judging only: the signature was verified with the receipt's note.
    fn item(&self) -> Item<'_> {
        Item::again(self.index, &self.bytes, &[0; 64], self.genuine)
    }
}

fn signed(note: &str, key: &VerifierKey) -> Result<Signed, String> {
    Signed::open(note.as_bytes(), key).map_err(|unopened| match unopened {
        Unopened::NotANote(why) => why,
        Unopened::Misbehaviour(finding) => finding.message,
    })
}

fn hash(value: &Value) -> Option<Hash> {
    value.as_str().and_then(Hash::from_base64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fake::{evm_key, statement};
    use protocol::anchor::ChainLog;
    use protocol::checkpoint::Checkpoint;
    use protocol::entry::Body;
    use protocol::index::{Time, TreeSize};
    use protocol::key::{Origin, Signer};
    use protocol::name::Name;
    use protocol::note;
    use protocol::record::{Counts, Outcome, Source, Usage};
    use serde_json::json;

    const ID: &str = "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b";

    fn signer(seed: u8) -> Signer {
        Signer::new(Origin::parse("a.b").expect("an origin"), &[seed; 32])
    }

    fn ours() -> VerifierKey {
        signer(1).verifier().clone()
    }

    fn hash_of(byte: u8) -> Hash {
        Hash::from_bytes([byte; 32])
    }

    fn checkpoint(size: u64, root: Hash) -> String {
        let size = TreeSize::new(size).expect("small");
        Checkpoint::new(ours().origin().clone(), size, root).seal(&signer(1))
    }

    fn receipt(index: u64, leaf: Hash, seed: u8) -> String {
        let index = Index::new(index).expect("small");
        let receipt = Receipt::new(ours().origin().clone(), index, leaf);
        receipt.note(&ours(), &receipt.sign(&signer(seed)))
    }

    /// An entry item; with seed 1 its receipt is genuine.
    fn item(index: u64, entry: &[u8], seed: u8) -> Value {
        json!({
            "index": index,
            "entry": STANDARD.encode(entry),
            "receipt": receipt(index, rebuild::leaf_hash(entry), seed),
        })
    }

    fn usage(secs: u64) -> Vec<u8> {
        let usage = Usage {
            receipt: hash_of(7),
            key_id: None,
            wallet: None,
            source: Source::Proxy,
            provider: Name::new("openai").expect("a name"),
            model: None,
            counts: Counts::NONE,
            outcome: Outcome::Unmetered,
            inconsistent: false,
            response: None,
        };
        Body::Usage(usage).encode(Time::from_secs(secs).expect("small"))
    }

    fn bound() -> Vec<u8> {
        let text = String::from_utf8(usage(5)).expect("ASCII");
        let wallet = format!("\"wallet\":\"0x{}\",\"link\":\"bound\",", "1".repeat(40));
        text.replace("\"source\"", &format!("{wallet}\"source\""))
            .into_bytes()
    }

    fn log_entry(key: &VerifierKey) -> Vec<u8> {
        let log = protocol::entry::Log {
            key: key.clone(),
            rules: 1,
            totals_interval: 600,
            publish_max: 10,
            evm_key: protocol::name::Address::from_bytes([0; 20]),
        };
        Body::Log(log).encode(Time::from_secs(5).expect("small"))
    }

    fn file(claim: &str, material: Value) -> File {
        serde_json::from_value(json!({
            "tallystick_evidence": 1, "claim": claim, "class": "proven", "log": "http://a.b/",
            "vkey": ours().to_string(), "time": 7, "message": "said", "material": material,
        }))
        .expect("of the form")
    }

    /// What each material shows of a claim: proven, served or nothing.
    fn check(cases: Vec<(&str, &str, Option<Class>, Value)>) {
        for (claim, case, expected, material) in cases {
            let judged = file(claim, material).judge(&ours());
            if let Ok(finding) = &judged {
                assert_eq!(finding.claim.code(), claim, "{case}");
            }
            let class = judged.as_ref().ok().map(|finding| finding.class);
            assert_eq!(class, expected, "{claim}, {case}: {judged:?}");
        }
    }

    const PROVEN: Option<Class> = Some(Class::Proven);
    const SERVED: Option<Class> = Some(Class::Served);

    #[test]
    fn anchors_against_the_log() {
        let first = |seed| {
            let log = protocol::entry::Log {
                key: ours(),
                rules: protocol::entry::RULES,
                totals_interval: 600,
                publish_max: 10,
                evm_key: evm_key(seed),
            };
            Body::Log(log).encode(Time::from_secs(5).expect("small"))
        };
        let log = ChainLog::new(&ours(), evm_key(1));
        let (zero, a, b) = (rebuild::leaf_hash(&first(1)), hash_of(1), hash_of(2));
        let root = rebuild::node_hash(&zero, &a);
        let says = |seed, size, root| statement(seed, &log, (size, root, 7)).json();
        let differs = |entry: Value, statement: Value, prefix: Hash, proof: &[Hash]| {
            let proof: Vec<String> = proof.iter().map(|h| h.to_base64()).collect();
            json!({
                "entries": [entry], "statement": statement, "checkpoint": checkpoint(2, root),
                "prefix_root": prefix.to_base64(), "proof": proof,
            })
        };
        let genuine = || item(0, &first(1), 1);
        let forked = |entry: Value, one: Value, other: Value| json!({ "entries": [entry], "statements": [one, other] });
        let mut bent = says(1, 1, b);
        bent["time"] = 8.into();
        let there = |contract: &str| json!({ "chain": { "contract": contract } });
        let contract = log.contract().to_string();
        let mut cases = vec![
            (
                "anchor_differs",
                "another beginning",
                PROVEN,
                differs(genuine(), says(1, 1, b), zero, &[a]),
            ),
            (
                "anchor_differs",
                "another whole",
                PROVEN,
                differs(genuine(), says(1, 2, b), root, &[]),
            ),
            (
                "anchor_differs",
                "a forged entry 0",
                SERVED,
                differs(item(0, &first(1), 2), says(1, 1, b), zero, &[a]),
            ),
            (
                "anchor_differs",
                "another signer",
                SERVED,
                differs(genuine(), says(2, 1, b), zero, &[a]),
            ),
            (
                "anchor_differs",
                "another EVM key",
                SERVED,
                differs(item(0, &first(2), 1), says(1, 1, b), zero, &[a]),
            ),
            (
                "anchor_differs",
                "another time",
                SERVED,
                differs(genuine(), bent, zero, &[a]),
            ),
            (
                "anchor_differs",
                "the same root",
                None,
                differs(genuine(), says(1, 1, zero), zero, &[a]),
            ),
            (
                "anchor_differs",
                "no proof",
                None,
                differs(genuine(), says(1, 1, b), zero, &[]),
            ),
            (
                "anchor_differs",
                "another proof",
                None,
                differs(genuine(), says(1, 1, b), a, &[b]),
            ),
            (
                "anchor_differs",
                "another entry",
                None,
                differs(item(1, &first(1), 1), says(1, 1, b), zero, &[a]),
            ),
            (
                "anchor_differs",
                "no statement",
                None,
                differs(genuine(), json!({ "size": 1 }), zero, &[a]),
            ),
            (
                "anchor_forked",
                "two roots",
                PROVEN,
                forked(genuine(), says(1, 5, a), says(1, 5, b)),
            ),
            (
                "anchor_forked",
                "one root",
                None,
                forked(genuine(), says(1, 5, a), says(1, 5, a)),
            ),
            (
                "anchor_forked",
                "two sizes",
                None,
                forked(genuine(), says(1, 5, a), says(1, 6, b)),
            ),
            (
                "anchor_forked",
                "another signer",
                None,
                forked(genuine(), says(1, 5, a), says(2, 5, b)),
            ),
            (
                "anchor_forked",
                "a forged entry 0",
                None,
                forked(item(0, &first(1), 2), says(1, 5, a), says(1, 5, b)),
            ),
        ];
        for claim in [
            "anchor_differs",
            "anchor_forked",
            "anchor_withheld",
            "anchor_overdue",
            "anchor_history",
            "anchor_contract",
        ] {
            cases.push((claim, "what a chain says", SERVED, there(&contract)));
            cases.push((claim, "no contract", None, there("here")));
            cases.push((claim, "nothing", None, json!({})));
        }
        check(cases);
    }

    #[test]
    fn checkpoints_against_each_other() {
        let (a, b) = (hash_of(1), hash_of(2));
        let root = rebuild::node_hash(&a, &b);
        let two = |one: String, other: String| json!({ "checkpoints": [one, other] });
        let forged = checkpoint(5, a).replace("\n5\n", "\n6\n");
        let rewritten = |older: u64, newer: Hash, prefix: Hash, proof: &[Hash]| {
            let proof: Vec<String> = proof.iter().map(|h| h.to_base64()).collect();
            json!({
                "older": checkpoint(older, hash_of(9)), "newer": checkpoint(2, newer),
                "prefix_root": prefix.to_base64(), "proof": proof,
            })
        };
        let notes = |one: &str, first: String, other: &str, second: String| json!({ one: first, other: second });
        check(vec![
            (
                "fork",
                "two roots",
                PROVEN,
                two(checkpoint(5, a), checkpoint(5, b)),
            ),
            (
                "fork",
                "one root",
                None,
                two(checkpoint(5, a), checkpoint(5, a)),
            ),
            (
                "fork",
                "two sizes",
                None,
                two(checkpoint(5, a), checkpoint(6, b)),
            ),
            ("fork", "a forged one", None, two(checkpoint(6, b), forged)),
            (
                "fork",
                "one only",
                None,
                json!({ "checkpoints": [checkpoint(5, a)] }),
            ),
            ("fork", "none", None, json!({})),
            (
                "history_rewritten",
                "another beginning",
                PROVEN,
                rewritten(1, root, a, &[b]),
            ),
            (
                "history_rewritten",
                "the same one",
                None,
                rewritten(1, rebuild::node_hash(&hash_of(9), &b), hash_of(9), &[b]),
            ),
            (
                "history_rewritten",
                "a hash more",
                None,
                rewritten(1, root, a, &[b, b]),
            ),
            (
                "history_rewritten",
                "no proof",
                None,
                rewritten(1, root, a, &[]),
            ),
            (
                "history_rewritten",
                "another root",
                None,
                rewritten(1, a, a, &[b]),
            ),
            (
                "empty_log",
                "size 0",
                PROVEN,
                json!({ "checkpoint": checkpoint(0, Hash::EMPTY_ROOT) }),
            ),
            (
                "empty_log",
                "size 1",
                None,
                json!({ "checkpoint": checkpoint(1, a) }),
            ),
            (
                "rollback",
                "smaller",
                SERVED,
                notes("remembered", checkpoint(6, a), "served", checkpoint(5, b)),
            ),
            (
                "rollback",
                "larger",
                None,
                notes("remembered", checkpoint(5, a), "served", checkpoint(6, b)),
            ),
            (
                "checkpoint_overdue",
                "too small",
                SERVED,
                json!({ "size": 6, "newest": checkpoint(5, a) }),
            ),
            (
                "checkpoint_overdue",
                "large enough",
                None,
                json!({ "size": 5, "newest": checkpoint(5, a) }),
            ),
            (
                "root_mismatch",
                "another",
                SERVED,
                json!({ "checkpoint": checkpoint(5, a), "rebuilt_root": b.to_string() }),
            ),
            (
                "root_mismatch",
                "the same",
                None,
                json!({ "checkpoint": checkpoint(5, a), "rebuilt_root": a.to_string() }),
            ),
        ]);
    }

    #[test]
    fn notes_that_are_no_checkpoint() {
        let stranger = note::seal("a.b\n5\nx\n", &signer(2));
        let pubkey = |key: &VerifierKey| {
            let hex = Hash::from_bytes(*key.as_bytes()).to_string();
            json!({ "served": { "vkey": key.to_string(), "origin": "a.b", "key": hex } })
        };
        let of = |note: String| json!({ "note": note });
        check(vec![
            (
                "checkpoint_malformed",
                "another text",
                PROVEN,
                of(note::seal("hello\n", &signer(1))),
            ),
            (
                "checkpoint_malformed",
                "a receipt",
                SERVED,
                of(receipt(5, hash_of(1), 1)),
            ),
            (
                "checkpoint_malformed",
                "a checkpoint",
                None,
                of(checkpoint(5, hash_of(1))),
            ),
            (
                "checkpoint_malformed",
                "a stranger's",
                None,
                of(stranger.clone()),
            ),
            ("checkpoint_malformed", "no note", None, of("hello".into())),
            ("key_changed", "a stranger's", SERVED, of(stranger)),
            ("key_changed", "ours", None, of(checkpoint(5, hash_of(1)))),
            (
                "key_changed",
                "another key is served",
                SERVED,
                pubkey(signer(2).verifier()),
            ),
            ("key_changed", "the key is served", None, pubkey(&ours())),
        ]);
    }

    #[test]
    fn entries_against_the_rules() {
        let one = |item: Value| json!({ "entries": [item] });
        let two = |first: Value, second: Value| json!({ "entries": [first, second] });
        let (early, late) = (usage(5), usage(6));
        let other = log_entry(signer(2).verifier());
        check(vec![
            (
                "entry_malformed",
                "malformed",
                PROVEN,
                one(item(5, b"{}", 1)),
            ),
            (
                "entry_malformed",
                "not signed",
                SERVED,
                one(item(5, b"{}", 2)),
            ),
            (
                "entry_malformed",
                "canonical",
                None,
                one(item(5, &early, 1)),
            ),
            (
                "entry_malformed",
                "two entries",
                None,
                two(item(5, b"{}", 1), item(6, b"{}", 1)),
            ),
            (
                "first_entry",
                "of kind usage",
                PROVEN,
                one(item(0, &early, 1)),
            ),
            (
                "first_entry",
                "another key",
                PROVEN,
                one(item(0, &other, 1)),
            ),
            ("first_entry", "not signed", SERVED, one(item(0, &other, 2))),
            (
                "first_entry",
                "ours",
                None,
                one(item(0, &log_entry(&ours()), 1)),
            ),
            (
                "first_entry",
                "another index",
                None,
                one(item(1, &early, 1)),
            ),
            ("first_entry", "malformed", None, one(item(0, b"{}", 1))),
            (
                "second_log_entry",
                "index 1",
                PROVEN,
                one(item(1, &log_entry(&ours()), 1)),
            ),
            (
                "second_log_entry",
                "index 0",
                None,
                one(item(0, &log_entry(&ours()), 1)),
            ),
            (
                "second_log_entry",
                "of kind usage",
                None,
                one(item(1, &early, 1)),
            ),
            ("unbound_wallet", "bound", PROVEN, one(item(1, &bound(), 1))),
            (
                "unbound_wallet",
                "not signed",
                SERVED,
                one(item(1, &bound(), 2)),
            ),
            ("unbound_wallet", "no wallet", None, one(item(1, &early, 1))),
            (
                "time_backwards",
                "descending",
                PROVEN,
                two(item(1, &late, 1), item(2, &early, 1)),
            ),
            (
                "time_backwards",
                "not signed",
                SERVED,
                two(item(1, &late, 1), item(2, &early, 2)),
            ),
            (
                "time_backwards",
                "ascending",
                None,
                two(item(1, &early, 1), item(2, &late, 1)),
            ),
            (
                "time_backwards",
                "the same",
                None,
                two(item(1, &early, 1), item(2, &early, 1)),
            ),
            (
                "time_backwards",
                "the later first",
                None,
                two(item(2, &late, 1), item(1, &early, 1)),
            ),
            (
                "time_backwards",
                "malformed",
                None,
                two(item(1, &late, 1), item(2, b"{}", 1)),
            ),
            (
                "receipt_signature",
                "not ours",
                SERVED,
                one(item(1, &early, 2)),
            ),
            ("receipt_signature", "ours", None, one(item(1, &early, 1))),
        ]);
    }

    #[test]
    fn receipts_for_another_index_are_not_genuine() {
        let mut moved = item(5, b"{}", 1);
        moved["index"] = 6.into();
        let mut other = item(5, b"{}", 1);
        other["entry"] = STANDARD.encode(b"[]").into();
        let of = |item: Value| json!({ "entries": [item] });
        check(vec![
            ("entry_malformed", "another index", SERVED, of(moved)),
            ("entry_malformed", "another entry", SERVED, of(other)),
        ]);
    }

    #[test]
    fn receipts_against_the_log() {
        let (a, b) = (hash_of(1), hash_of(2));
        let root = rebuild::node_hash(&a, &b);
        let held = |leaf: Hash, path: &[Hash], promised: Hash| {
            let path: Vec<String> = path.iter().map(|h| h.to_base64()).collect();
            json!({
                "receipt": receipt(1, promised, 1), "checkpoint": checkpoint(2, root),
                "leaf_hash": leaf.to_base64(), "path": path,
            })
        };
        let missing = |size: u64| json!({ "receipt": receipt(1, a, 1), "checkpoint": checkpoint(size, root) });
        let entry = usage(5);
        let own = protocol::hash::receipt_commitment(&[
            0x01, 0x90, 0xa1, 0xb2, 0xc3, 0xd4, 0x7e, 0x5f, 0x8a, 0x6b, 0x7c, 0x8d, 0x9e, 0x0f,
            0x1a, 0x2b,
        ]);
        let text = String::from_utf8(entry).expect("ASCII");
        let file = |entry: String| {
            let leaf = rebuild::leaf_hash(entry.as_bytes());
            json!({ "file": {
                "id": ID, "index": 1, "leaf_hash": leaf.to_string(), "entry": entry,
                "receipt": receipt(1, leaf, 1),
            }})
        };
        check(vec![
            (
                "receipt_not_held",
                "another entry",
                PROVEN,
                held(b, &[a], a),
            ),
            (
                "receipt_not_held",
                "the promised entry",
                None,
                held(b, &[a], b),
            ),
            (
                "receipt_not_held",
                "a path to elsewhere",
                SERVED,
                held(b, &[b], a),
            ),
            ("receipt_not_held", "too small", SERVED, missing(1)),
            ("receipt_not_held", "large enough", None, missing(2)),
            (
                "receipt_foreign_id",
                "another id",
                SERVED,
                file(text.clone()),
            ),
            (
                "receipt_foreign_id",
                "its own id",
                None,
                file(text.replace(&hash_of(7).to_string(), &own.to_string())),
            ),
            ("receipt_foreign_id", "no file", None, json!({})),
        ]);
    }

    #[test]
    fn tiles_and_sums_are_passed_on() {
        let tile = |path: &str, served: &[u8], rebuilt: &[u8]| json!({ "path": path, "served": STANDARD.encode(served), "rebuilt": STANDARD.encode(rebuilt) });
        let sum = |path: &str| json!({ "path": path, "answer": "{}" });
        check(vec![
            (
                "tile_mismatch",
                "another",
                SERVED,
                tile("tile/0/000.p/1", &[1; 32], &[2; 32]),
            ),
            (
                "tile_mismatch",
                "the same",
                None,
                tile("tile/0/000.p/1", &[1; 32], &[1; 32]),
            ),
            (
                "tile_mismatch",
                "no tile",
                None,
                tile("tile/x", &[1; 32], &[2; 32]),
            ),
            ("aggregate_stats", "its path", SERVED, sum("api/stats")),
            (
                "aggregate_models",
                "a window",
                SERVED,
                sum("api/models?days=3"),
            ),
            ("aggregate_user", "a user", SERVED, sum("api/user/00")),
            ("aggregate_chain", "another path", None, sum("api/stats")),
            ("aggregate_user", "a longer word", None, sum("api/users")),
            (
                "aggregate_stats",
                "no answer",
                None,
                json!({ "path": "api/stats" }),
            ),
        ]);
    }

    #[test]
    fn what_this_sentinel_does_not_know_shows_nothing() {
        let material = json!({ "checkpoint": checkpoint(0, Hash::EMPTY_ROOT) });
        let good = file("empty_log", material.clone());
        assert!(good.judge(&ours()).is_ok());
        assert!(good.judge(signer(2).verifier()).is_err(), "another key");
        assert!(file("of_the_future", material).judge(&ours()).is_err());
        let later = File {
            tallystick_evidence: 2,
            ..good
        };
        assert!(later.judge(&ours()).is_err());
    }

    #[test]
    fn every_claim_is_judged() {
        for claim in Claim::ALL {
            let wrong = file(claim.code(), json!({})).judge(&ours());
            let wrong = wrong.expect_err("there is no material");
            assert!(
                wrong.starts_with("the material has no "),
                "{claim}: {wrong}"
            );
        }
    }

    /// The log's first entries, with receipts by whom the seeds say.
    fn before(entries: &[&[u8]], seeds: &[u8]) -> Value {
        let (mut bundle, mut signatures) = (vec![], vec![]);
        for ((index, entry), seed) in (0..).zip(entries).zip(seeds) {
            tile::push_entry(&mut bundle, entry);
            let (index, leaf) = (Index::new(index).expect("small"), rebuild::leaf_hash(entry));
            let receipt = Receipt::new(ours().origin().clone(), index, leaf);
            signatures.extend(receipt.sign(&signer(*seed)));
        }
        json!({ "entries": STANDARD.encode(bundle), "signatures": STANDARD.encode(signatures) })
    }

    #[test]
    fn entries_are_proven_wrong_by_all_that_stand_before_them() {
        let text = |entry: Vec<u8>| String::from_utf8(entry).expect("ASCII");
        let first = text(log_entry(&ours())).replace("\"rules\":1", "\"rules\":2");
        let first = first.as_bytes();
        let with_key = |entry: Vec<u8>| {
            let key = format!("\"{}\",\"key_id\":\"{}\"", hash_of(7), hash_of(3));
            text(entry)
                .replace(&format!("\"{}\"", hash_of(7)), &key)
                .into_bytes()
        };
        let (call, bound) = (with_key(usage(5)), with_key(bound()));
        let late = usage(5 + 1_201);
        let zero = protocol::name::Address::from_bytes([0; 20]);
        let contract = protocol::anchor::ChainLog::new(&ours(), zero).contract();
        let anchored = |contract| {
            let place = protocol::anchor::Place {
                chain_id: 10,
                contract,
            };
            Body::Anchor(place).encode(Time::from_secs(6).expect("small"))
        };
        let (ours_there, foreign) = (anchored(contract), anchored(zero));
        let invalid = "anchor_invalid";
        let shows = |claim, case, expected, entry: Value, before: Option<Value>| {
            let mut material = json!({ "entries": [entry] });
            if let Some(before) = before {
                material["before"] = before;
            }
            (claim, case, expected, material)
        };
        let both: [&[u8]; 2] = [first, &call];
        let unbound = "unbound_wallet";
        check(vec![
            shows(
                unbound,
                "all",
                PROVEN,
                item(2, &bound, 1),
                Some(before(&both, &[1, 1])),
            ),
            shows(
                unbound,
                "one is missing",
                SERVED,
                item(3, &bound, 1),
                Some(before(&both, &[1, 1])),
            ),
            shows(
                unbound,
                "one is forged",
                SERVED,
                item(2, &bound, 1),
                Some(before(&both, &[1, 2])),
            ),
            shows(
                unbound,
                "it is forged",
                SERVED,
                item(2, &bound, 2),
                Some(before(&both, &[1, 1])),
            ),
            shows(unbound, "none", SERVED, item(2, &bound, 1), None),
            shows(
                unbound,
                "of nothing bound",
                None,
                item(2, &call, 1),
                Some(before(&both, &[1, 1])),
            ),
            shows(
                unbound,
                "rules that bind nothing",
                PROVEN,
                item(99, &bound, 1),
                Some(before(&[&log_entry(&ours())], &[1])),
            ),
            shows(
                unbound,
                "cut",
                None,
                item(2, &bound, 1),
                Some(json!({ "entries": "AAA=" })),
            ),
            shows(
                "binding_ignored",
                "free",
                None,
                item(2, &call, 1),
                Some(before(&both, &[1, 1])),
            ),
            shows(
                "totals_overdue",
                "late",
                PROVEN,
                item(2, &late, 1),
                Some(before(&both, &[1, 1])),
            ),
            shows(
                "totals_overdue",
                "in time",
                None,
                item(2, &call, 1),
                Some(before(&both, &[1, 1])),
            ),
            shows("totals_false", "no totals", None, item(2, &call, 1), None),
            shows(
                invalid,
                "another contract, by entry 0",
                PROVEN,
                item(9, &foreign, 1),
                Some(before(&[first], &[1])),
            ),
            shows(
                invalid,
                "another contract, nothing before",
                SERVED,
                item(9, &foreign, 1),
                None,
            ),
            shows(
                invalid,
                "a chain twice",
                PROVEN,
                item(2, &ours_there, 1),
                Some(before(&[first, &ours_there], &[1, 1])),
            ),
            shows(
                invalid,
                "a chain once",
                None,
                item(2, &ours_there, 1),
                Some(before(&both, &[1, 1])),
            ),
            shows(invalid, "no anchor", None, item(2, &call, 1), None),
            shows(
                "binding_invalid",
                "no binding",
                None,
                item(2, &call, 1),
                None,
            ),
        ]);
    }
}
