//! Checks evidence files from the log's vkey alone, without any of the code
//! under test: notes, Merkle proofs and entries are taken apart by hand. Then
//! `sentinel evidence` must come to the same.

use std::fs;
use std::path::Path;
use std::process::Command;

use alloy_primitives::{Signature as Ecdsa, keccak256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use protocol::anchor::ChainLog;
use protocol::checkpoint::Checkpoint;
use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::index::TreeSize;
use protocol::key::Origin;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::binaries::Folder;
use crate::forge::log::signer;
use crate::forge::wallet::totals;
use crate::node;
use crate::sentinel::{Pass, Sentinel};

/// Whether every finding has an evidence file that says what the finding says
/// and, where it is called proven, proves it.
pub(crate) fn holds(pass: &Pass, vkey: &str) -> Result<(), String> {
    if pass.evidence().len() != pass.findings().len() {
        return Err(format!("findings without an evidence file: {pass}"));
    }
    for (finding, path) in pass.findings().iter().zip(pass.evidence()) {
        let bytes = fs::read(&path).map_err(|e| format!("evidence {}: {e}", path.display()))?;
        let evidence: Value =
            serde_json::from_slice(&bytes).map_err(|e| format!("evidence is no JSON: {e}"))?;
        for member in ["claim", "class", "message"] {
            if evidence[member] != finding[member] {
                return Err(format!(
                    "evidence has another {member} than the finding: {evidence}"
                ));
            }
        }
        if finding["class"] == "proven" {
            let claim = finding["claim"].as_str().unwrap_or_default();
            proves(claim, &evidence, vkey)
                .map_err(|e| format!("{claim} is not proven: {e}: {}", evidence["message"]))?;
        }
        sentinel_agrees(finding, &path, vkey)?;
        browser_agrees(finding, &path, vkey)?;
    }
    Ok(())
}

/// Whether the page that takes evidence files, where Node can run its code,
/// judges as the finding says, or says that it does not judge that.
fn browser_agrees(finding: &Value, path: &Path, vkey: &str) -> Result<(), String> {
    if !node::is_recent("gateway/web/evidence.js") {
        return Ok(());
    }
    let origin = vkey.split('+').next().unwrap_or_default();
    let stranger = signer(origin, 99).verifier().to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("evidence.mjs");
    let mut command = Command::new("node");
    let output = command
        .arg(script)
        .arg(path)
        .args([vkey, &stranger])
        .output();
    let output = output.map_err(|e| format!("node: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let story = String::from_utf8_lossy(&output.stderr);
    let [verdict, of_stranger] = said.lines().collect::<Vec<_>>()[..] else {
        return Err(format!("the browser's code fails: {said}{story}"));
    };
    let claim = finding["claim"].as_str().unwrap_or_default();
    let follows = [
        "unbound_wallet",
        "binding_ignored",
        "binding_invalid",
        "totals_false",
        "totals_overdue",
        "anchor_invalid",
        "anchor_differs",
        "anchor_forked",
        "entry_malformed",
    ];
    let agrees = match verdict {
        "proven" | "served" => finding["class"] == verdict,
        "unjudged" => follows.contains(&claim),
        _ => false,
    };
    if !agrees || of_stranger == "proven" {
        return Err(format!(
            "the browser sees {claim} {verdict}, and {of_stranger} of a stranger"
        ));
    }
    Ok(())
}

/// Whether `sentinel evidence` judges the file as the finding says, and as
/// proving nothing about a log of another key.
fn sentinel_agrees(finding: &Value, path: &Path, vkey: &str) -> Result<(), String> {
    let path = path.to_str().expect("UTF-8");
    let run = |vkey: &str| Sentinel::fresh().run(&["evidence", "--json", "--vkey", vkey, path]);
    let (claim, pass) = (finding["claim"].as_str().unwrap_or_default(), run(vkey));
    if finding["class"] == "proven" {
        let found = pass.findings();
        let same =
            matches!(found, [found] if found["claim"] == claim && found["class"] == "proven");
        if pass.exit != Some(1) || !same {
            return Err(format!(
                "sentinel evidence does not see {claim} proven: {pass}"
            ));
        }
        let origin = vkey.split('+').next().unwrap_or_default();
        let stranger = run(&signer(origin, 99).verifier().to_string());
        if stranger.exit != Some(3) || !stranger.findings().is_empty() {
            return Err(format!(
                "sentinel evidence sees {claim} of a stranger: {stranger}"
            ));
        }
    } else {
        let reason = pass.report["reason"].as_str().unwrap_or_default();
        if pass.exit != Some(3) || !reason.starts_with(&format!("the file shows {claim}, but")) {
            return Err(format!(
                "sentinel evidence does not see {claim} served: {pass}"
            ));
        }
    }
    Ok(())
}

/// Whether `evidence` proves `claim` to somebody who knows only `vkey`.
fn proves(claim: &str, evidence: &Value, vkey: &str) -> Result<(), String> {
    let log = Vkey::parse(vkey)?;
    if evidence["vkey"] != vkey {
        return Err("of another key".into());
    }
    let evidence = &evidence["material"];
    let entries = || -> Result<Vec<Promised>, String> {
        let list = evidence["entries"].as_array().ok_or("no entries")?;
        list.iter().map(|entry| log.promised(entry)).collect()
    };
    let one = || match &entries()?[..] {
        [one] => Ok(one.clone()),
        other => Err(format!("{} entries", other.len())),
    };
    let shown = match claim {
        "empty_log" => log.checkpoint(&evidence["checkpoint"])?.size == 0,
        "checkpoint_malformed" => {
            let text = log.open(&evidence["note"])?;
            log.read_checkpoint(&text).is_err() && !text.starts_with("tallystick/receipt/v1\n")
        }
        "fork" => {
            let (a, b) = (
                log.checkpoint(&evidence["checkpoints"][0])?,
                log.checkpoint(&evidence["checkpoints"][1])?,
            );
            a.size == b.size && a.root != b.root
        }
        "history_rewritten" => {
            let (older, newer) = (
                log.checkpoint(&evidence["older"])?,
                log.checkpoint(&evidence["newer"])?,
            );
            let prefix = hash(&evidence["prefix_root"])?;
            let proof = hashes(&evidence["proof"])?;
            older.size < newer.size
                && prefix != older.root
                && consistent(older.size, prefix, newer.size, newer.root, &proof)
        }
        "entry_malformed" => understood(&one()?.entry).is_none(),
        "first_entry" => {
            let first = one()?;
            let value =
                understood(&first.entry).ok_or("entry 0 is malformed, which is another claim")?;
            first.index == 0 && (value["kind"] != "log" || value["vkey"] != vkey)
        }
        "second_log_entry" => {
            let second = one()?;
            let value = understood(&second.entry).ok_or("malformed, which is another claim")?;
            second.index > 0 && value["kind"] == "log"
        }
        "unbound_wallet" | "binding_ignored" | "binding_invalid" | "totals_false"
        | "totals_overdue" | "anchor_invalid" => {
            let before = log.before(&evidence["before"])?;
            breaks(claim, &one()?, before.as_deref(), &log.origin)?
        }
        "anchor_differs" => {
            let first = one()?;
            let (size, root) = log.statement(&first, &evidence["statement"])?;
            let newest = log.checkpoint(&evidence["checkpoint"])?;
            let prefix = hash(&evidence["prefix_root"])?;
            let proof = hashes(&evidence["proof"])?;
            prefix != root
                && match size == newest.size {
                    true => prefix == newest.root,
                    false => consistent(size, prefix, newest.size, newest.root, &proof),
                }
        }
        "anchor_forked" => {
            let first = one()?;
            let statement = |i: usize| log.statement(&first, &evidence["statements"][i]);
            let (one, other) = (statement(0)?, statement(1)?);
            one.0 == other.0 && one.1 != other.1
        }
        "time_backwards" => {
            let both = entries()?;
            let time = |p: &Promised| understood(&p.entry).and_then(|v| v["time"].as_u64());
            both.len() == 2
                && both[0].index < both[1].index
                && time(&both[1]).ok_or("no time")? < time(&both[0]).ok_or("no time")?
        }
        "receipt_not_held" => {
            let (index, promised) = log.receipt(&evidence["receipt"])?;
            let checkpoint = log.checkpoint(&evidence["checkpoint"])?;
            let held = hash(&evidence["leaf_hash"])?;
            let path = hashes(&evidence["path"])?;
            promised != held && included(held, index, checkpoint.size, checkpoint.root, &path)
        }
        _ => return Err("nothing of this kind can be proven".into()),
    };
    if shown {
        Ok(())
    } else {
        Err("the evidence does not show it".into())
    }
}

/// The address of the contract of the log that entry 0 begins.
fn contract_of(first: &[u8]) -> Result<String, String> {
    match Entry::parse(first) {
        Ok(Entry::Known {
            body: Body::Log(log),
            ..
        }) => {
            let log = ChainLog::new(&log.key, log.evm_key);
            Ok(log.contract().to_string())
        }
        _ => Err("entry 0 is not of kind log".into()),
    }
}

/// Whether an entry is against those before it, or against itself where there
/// are none: PROTOCOL.md sections 4.2 to 4.4 and 4.6, by plain loops.
fn breaks(
    claim: &str,
    item: &Promised,
    before: Option<&[Vec<u8>]>,
    origin: &str,
) -> Result<bool, String> {
    let json = |entry: &[u8]| serde_json::from_slice::<Value>(entry).map_err(|e| e.to_string());
    let said = json(&item.entry)?;
    let Some(before) = before else {
        return Ok(match claim {
            "unbound_wallet" => said["link"] == "bound" && said.get("key_id").is_none(),
            "totals_false" => said["size"].as_u64() > Some(item.index),
            "binding_invalid" => {
                let origin = Origin::parse(origin).map_err(|e| e.to_string())?;
                matches!(Entry::parse(&item.entry), Ok(Entry::Known { time, body: Body::Binding(b) })
                    if b.judge(&origin, time).is_err())
            }
            _ => false,
        });
    };
    let values: Vec<Value> = before
        .iter()
        .map(|entry| json(entry))
        .collect::<Result<_, _>>()?;
    if values[0]["rules"] == 1 {
        return Ok(claim == "unbound_wallet" && said["link"] == "bound");
    }
    if claim == "anchor_invalid" && said["contract"] != contract_of(&before[0])? {
        return Ok(true);
    }
    if before.len() as u64 != item.index {
        return Err("not all entries before it".into());
    }
    let (mut holder, mut newest) = (Value::Null, leaf_hash(&before[0]));
    let (mut size, mut burnt) = (0, false);
    for (value, entry) in values.iter().zip(before) {
        if value["kind"] == "binding" && value["key_id"] == said["key_id"] {
            holder = match value["action"].as_str() {
                Some("link") => value["wallet"].clone(),
                Some("move") => value["to"].clone(),
                _ => Value::Null,
            };
            burnt |= value["action"] == "burn";
            newest = leaf_hash(entry);
        }
        if value["kind"] == "totals" {
            size = value["size"].as_u64().ok_or("no size")?;
        }
    }
    let counts = said["link"] == "bound" && said["wallet"] == holder;
    Ok(match claim {
        "anchor_invalid" => values
            .iter()
            .any(|value| value["kind"] == "anchor" && value["chain_id"] == said["chain_id"]),
        "unbound_wallet" => said["link"] == "bound" && !counts,
        "binding_ignored" => holder != Value::Null && !counts,
        "binding_invalid" => {
            let follows = said["previous"] == Hash::from_bytes(newest).to_string();
            let free = holder == Value::Null;
            !follows || burnt || (said["action"] == "link") != free
        }
        "totals_overdue" => {
            let left = |(i, value): &(u64, &Value)| {
                *i >= size && (value["kind"] == "usage" || value["kind"] == "binding")
            };
            let first = (0..)
                .zip(&values)
                .find(left)
                .map(|(_, value)| value["time"].as_u64());
            let interval = values[0]["totals_interval"].as_u64().ok_or("no interval")?;
            said["kind"] != "totals"
                && first
                    .flatten()
                    .is_some_and(|t| said["time"].as_u64() > Some(t + 2 * interval))
        }
        _ => {
            let over = said["size"].as_u64().ok_or("no size")?;
            let sums = |over| totals(before, usize::try_from(over).expect("small"));
            over <= size || over > item.index || {
                let right = sums(over);
                said["count"] != right.count || said["root"] != right.root.to_string()
            }
        }
    })
}

#[test]
fn a_file_is_judged_under_its_own_key_only_with_a_warning() {
    let ours = signer("log.example.org", 1);
    let root = |byte| Hash::from_bytes([byte; 32]);
    let note = |byte| {
        let size = TreeSize::new(5).expect("small");
        Checkpoint::new(ours.verifier().origin().clone(), size, root(byte)).seal(&ours)
    };
    let vkey = ours.verifier().to_string();
    let file = |vkey: Value, second: String| {
        json!({
            "tallystick_evidence": 1, "claim": "fork", "class": "proven", "time": 7,
            "log": "http://a.b/", "vkey": vkey, "message": "two roots",
            "material": { "checkpoints": [note(1), second] },
        })
    };
    let own = "the key is the one that the file names";
    for (name, content, arguments, exit, reason) in [
        (
            "its own key",
            file(vkey.clone().into(), note(2)),
            &[][..],
            1,
            own,
        ),
        (
            "a given key",
            file(Value::Null, note(2)),
            &["--vkey", &vkey],
            1,
            "",
        ),
        (
            "one root",
            file(vkey.clone().into(), note(1)),
            &[],
            3,
            "the file does not show fork",
        ),
        ("no key", file(Value::Null, note(2)), &[], 2, ""),
        ("no vkey", file("x".into(), note(2)), &[], 2, ""),
        ("another object", json!({ "claim": "fork" }), &[], 2, ""),
    ] {
        let folder = Folder::new();
        let path = folder.path().join("fork.json");
        fs::write(&path, content.to_string()).expect("the target folder is writable");
        let path = path.to_str().expect("UTF-8");
        let pass = Sentinel::fresh()
            .with(arguments)
            .run(&["evidence", "--json", path]);
        assert_eq!(pass.exit, Some(exit), "{name}: {pass}");
        let found = pass.report["reason"].as_str().unwrap_or_default();
        assert_eq!(found.is_empty(), reason.is_empty(), "{name}: {pass}");
        assert!(found.starts_with(reason), "{name}: {pass}");
    }
}

type Digest32 = [u8; 32];

struct Vkey {
    origin: String,
    hash: [u8; 4],
    key: VerifyingKey,
}

struct SignedRoot {
    size: u64,
    root: Digest32,
}

/// An entry with the log's receipt over it.
#[derive(Clone)]
struct Promised {
    index: u64,
    entry: Vec<u8>,
}

impl Vkey {
    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.splitn(3, '+').collect();
        let [origin, hash, material] = parts[..] else {
            return Err("not three parts".into());
        };
        let material = STANDARD.decode(material).map_err(|e| e.to_string())?;
        let Some((1, key)) = material.split_first() else {
            return Err("of another type".into());
        };
        let key: Digest32 = key.try_into().map_err(|_| "no key of 32 bytes")?;
        let key = VerifyingKey::from_bytes(&key).map_err(|e| e.to_string())?;
        if key.is_weak() || !key.to_edwards().is_torsion_free() {
            return Err("of a key that is not admitted".into());
        }
        let named = [origin.as_bytes(), b"\n", &material].concat();
        let digest: [u8; 4] = Sha256::digest(named)[..4].try_into().expect("4 of 32");
        if hash != digest.map(|byte| format!("{byte:02x}")).concat() {
            return Err("of another hash".into());
        }
        Ok(Self {
            origin: origin.to_owned(),
            hash: digest,
            key,
        })
    }

    /// The text of a note that the log signed.
    fn open(&self, note: &Value) -> Result<String, String> {
        let note = note.as_str().ok_or("no note")?;
        let (text, lines) = note.rsplit_once("\n\n").ok_or("not a note")?;
        let text = format!("{text}\n");
        for line in lines.lines() {
            let Some(blob) = line.strip_prefix(&format!("\u{2014} {} ", self.origin)) else {
                continue;
            };
            let blob = STANDARD.decode(blob).map_err(|e| e.to_string())?;
            if blob[..4] == self.hash {
                let signature = Signature::from_slice(&blob[4..]).map_err(|e| e.to_string())?;
                return match self.key.verify_strict(text.as_bytes(), &signature) {
                    Ok(()) => Ok(text),
                    Err(_) => Err("the signature does not verify".into()),
                };
            }
        }
        Err("the log did not sign it".into())
    }

    fn checkpoint(&self, note: &Value) -> Result<SignedRoot, String> {
        let text = self.open(note)?;
        self.read_checkpoint(&text)
    }

    fn read_checkpoint(&self, text: &str) -> Result<SignedRoot, String> {
        let lines: Vec<&str> = text.split('\n').collect();
        let [origin, size, root, ""] = lines[..] else {
            return Err("not three lines".into());
        };
        let number: u64 = size.parse().map_err(|_| "no size")?;
        let root: Digest32 = STANDARD
            .decode(root)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or("no root")?;
        let canonical = number.to_string() == size && number < 1 << 53 && origin == self.origin;
        if canonical {
            Ok(SignedRoot { size: number, root })
        } else {
            Err("not canonical".into())
        }
    }

    /// Index and leaf hash that a receipt promises.
    fn receipt(&self, note: &Value) -> Result<(u64, Digest32), String> {
        let text = self.open(note)?;
        let lines: Vec<&str> = text.split('\n').collect();
        let ["tallystick/receipt/v1", origin, index, leaf, ""] = lines[..] else {
            return Err("not a receipt".into());
        };
        if origin != self.origin {
            return Err("of another log".into());
        }
        let leaf = STANDARD
            .decode(leaf)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or("no leaf hash")?;
        Ok((index.parse().map_err(|_| "no index")?, leaf))
    }

    /// The log's first entries, each with a genuine receipt.
    fn before(&self, value: &Value) -> Result<Option<Vec<Vec<u8>>>, String> {
        let bytes = |name: &str| {
            let text = value[name].as_str().ok_or("no bytes")?;
            STANDARD.decode(text).map_err(|e| e.to_string())
        };
        if value.is_null() {
            return Ok(None);
        }
        let (bundle, signatures) = (bytes("entries")?, bytes("signatures")?);
        let (mut entries, mut rest) = (vec![], &bundle[..]);
        while let [a, b, after @ ..] = rest {
            let (entry, after) = after
                .split_at_checked(usize::from(u16::from_be_bytes([*a, *b])))
                .ok_or("a cut entry")?;
            entries.push(entry.to_vec());
            rest = after;
        }
        if signatures.len() != 64 * entries.len() {
            return Err("not a signature each".into());
        }
        for (i, (entry, signature)) in entries.iter().zip(signatures.chunks(64)).enumerate() {
            let leaf = STANDARD.encode(leaf_hash(entry));
            let text = format!("tallystick/receipt/v1\n{}\n{i}\n{leaf}\n", self.origin);
            let signature = Signature::from_slice(signature).map_err(|e| e.to_string())?;
            let verified = self.key.verify_strict(text.as_bytes(), &signature);
            verified.map_err(|_| format!("receipt {i} is not the log's"))?;
        }
        Ok(Some(entries))
    }

    /// Size and root that the EVM key of entry 0 signed: PROTOCOL.md section 13.1.
    fn statement(&self, first: &Promised, value: &Value) -> Result<(u64, Digest32), String> {
        let log: Value = serde_json::from_slice(&first.entry).map_err(|e| e.to_string())?;
        let evm_key = log["evm_key"].as_str().filter(|_| first.index == 0);
        let evm_key = evm_key.ok_or("entry 0 names no EVM key")?;
        let bytes = |name: &str| {
            let digits = value[name]
                .as_str()
                .and_then(|text| text.strip_prefix("0x"));
            let digits = digits.ok_or_else(|| format!("no {name}"))?;
            let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16);
            let bytes = (0..digits.len() / 2).map(|i| byte(2 * i));
            bytes
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| e.to_string())
        };
        let number = |name: &str| value[name].as_u64().ok_or_else(|| format!("no {name}"));
        let (size, time) = (number("size")?, number("time")?);
        let root: Digest32 = bytes("root")?.try_into().map_err(|_| "no root")?;
        let word = |number: u64| [&[0; 24][..], &number.to_be_bytes()].concat();
        let (origin, key) = (self.origin.as_bytes(), self.key.as_bytes());
        let len = u32::try_from(origin.len()).expect("short").to_be_bytes();
        let identity = Sha256::new()
            .chain_update(b"tallystick/log/v1\0")
            .chain_update([&len, origin].concat())
            .chain_update([&[0, 0, 0, 32][..], key].concat());
        let domain = b"EIP712Domain(string name,string version,bytes32 salt)";
        let domain = [keccak256(domain), keccak256(b"Tallystick"), keccak256(b"1")].concat();
        let domain = keccak256([&domain[..], &identity.finalize()].concat());
        let kind = keccak256(b"Checkpoint(uint64 size,bytes32 root,uint64 time)");
        let statement = [&kind[..], &word(size), &root, &word(time)].concat();
        let digest = [&b"\x19\x01"[..], &domain[..], &keccak256(statement)[..]].concat();
        let signature = bytes("signature")?;
        let signature = Ecdsa::from_raw(&signature).map_err(|e| e.to_string())?;
        let signer = signature.recover_address_from_prehash(&keccak256(digest));
        let signer = signer.map_err(|e| e.to_string())?;
        if signature.normalize_s().is_some() || format!("{signer:?}").to_lowercase() != evm_key {
            return Err(format!("{signer} signed it, entry 0 names {evm_key}"));
        }
        Ok((size, root))
    }

    fn promised(&self, value: &Value) -> Result<Promised, String> {
        let (index, leaf) = self.receipt(&value["receipt"])?;
        let text = value["entry"].as_str().ok_or("no entry")?;
        let entry = STANDARD.decode(text).map_err(|e| e.to_string())?;
        let same = leaf_hash(&entry) == leaf && value["index"] == index;
        if same {
            Ok(Promised { index, entry })
        } else {
            Err("the receipt is for another entry".into())
        }
    }
}

fn leaf_hash(entry: &[u8]) -> Digest32 {
    Sha256::new()
        .chain_update([0])
        .chain_update(entry)
        .finalize()
        .into()
}

fn node(left: Digest32, right: Digest32) -> Digest32 {
    Sha256::new()
        .chain_update([1])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

fn hash(value: &Value) -> Result<Digest32, String> {
    let bytes = value.as_str().and_then(|text| STANDARD.decode(text).ok());
    bytes
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| format!("no hash: {value}"))
}

fn hashes(value: &Value) -> Result<Vec<Digest32>, String> {
    value
        .as_array()
        .ok_or("no list of hashes")?
        .iter()
        .map(hash)
        .collect()
}

/// RFC 9162 section 2.1.3.2.
fn included(leaf: Digest32, index: u64, size: u64, root: Digest32, path: &[Digest32]) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut head) = (index, size - 1, leaf);
    for step in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            head = node(*step, head);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            head = node(head, *step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && head == root
}

/// RFC 9162 section 2.1.4.2.
fn consistent(
    old: u64,
    old_root: Digest32,
    new: u64,
    new_root: Digest32,
    proof: &[Digest32],
) -> bool {
    if old == 0 || old >= new {
        return false;
    }
    let mut steps = proof.iter().copied();
    let first = if old.is_power_of_two() {
        Some(old_root)
    } else {
        steps.next()
    };
    let Some(first) = first else { return false };
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut old_head, mut new_head) = (first, first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old_head = node(step, old_head);
            new_head = node(step, new_head);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new_head = node(new_head, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old_head == old_root && new_head == new_root
}

/// The fields of a usage entry after its head, in order; those of counts are numbers.
const USAGE: [&str; 15] = [
    "receipt",
    "key_id",
    "wallet",
    "link",
    "source",
    "provider",
    "model",
    "input",
    "cache_read",
    "cache_write",
    "output",
    "reasoning",
    "outcome",
    "flag",
    "response",
];
const LOG: [&str; 6] = [
    "origin",
    "vkey",
    "rules",
    "totals_interval",
    "publish_max",
    "evm_key",
];
const ANCHOR: [&str; 2] = ["chain_id", "contract"];
const COUNTS: [&str; 5] = ["input", "cache_read", "cache_write", "output", "reasoning"];
const SETTINGS: [&str; 4] = ["rules", "totals_interval", "publish_max", "chain_id"];

/// What a reader takes from an entry: all of a canonical one of a known kind,
/// the head of one of another kind. `None`: the entry is malformed.
fn understood(entry: &[u8]) -> Option<Value> {
    if let Some(known) = canonical(entry) {
        return Some(known);
    }
    let text = std::str::from_utf8(entry)
        .ok()
        .filter(|_| entry.iter().all(|b| (0x20..0x7f).contains(b)))?;
    let (version, rest) = text.strip_prefix("{\"v\":")?.split_once(",\"kind\":\"")?;
    let (kind, rest) = rest.split_once("\",\"time\":")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (time, rest) = rest.split_at(digits);
    let number = |text: &str| {
        text.parse()
            .ok()
            .filter(|n: &u64| n.to_string() == text && *n < 1 << 53)
    };
    let (version, time) = (number(version)?, number(time)?);
    let named = (1..=32).contains(&kind.len())
        && kind
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    let ends = rest == "}" || rest.starts_with(',') && rest.ends_with('}');
    let unknown = version != 1 || !["log", "usage", "anchor"].contains(&kind);
    (named && ends && unknown).then(|| json!({"v": version, "kind": kind, "time": time}))
}

/// The entry as JSON, if it is a canonical one of a known kind: written again
/// field by field it gives the same bytes. A second reading of PROTOCOL.md
/// section 4 that shares nothing with the first.
fn canonical(entry: &[u8]) -> Option<Value> {
    let value: Value = serde_json::from_slice(entry).ok()?;
    let fields: &[&str] = match (value["v"].as_u64()?, value["kind"].as_str()?) {
        (1, "usage") => &USAGE,
        (1, "log") => &LOG,
        (1, "anchor") => &ANCHOR,
        _ => return None,
    };
    let (kind, time) = (
        value["kind"].as_str()?,
        value["time"].as_u64().filter(|t| *t < 1 << 53)?,
    );
    let mut written = format!("{{\"v\":1,\"kind\":\"{kind}\",\"time\":{time}");
    for name in fields {
        let Some(field) = value.get(name) else {
            continue;
        };
        if COUNTS.contains(name) || SETTINGS.contains(name) {
            written += &format!(",\"{name}\":{}", field.as_u64().filter(|n| *n < 1 << 53)?);
        } else {
            let text = field.as_str().filter(|text| holds_text(name, text))?;
            written += &format!(",\"{name}\":\"{text}\"");
        }
    }
    written.push('}');
    let sound = match kind {
        "log" => {
            let named = value["vkey"]
                .as_str()
                .and_then(|text| Vkey::parse(text).ok());
            LOG.iter().all(|name| value.get(name).is_some())
                && named.is_some_and(|key| value["origin"] == key.origin)
        }
        "anchor" => value["chain_id"] != 0 && ANCHOR.iter().all(|name| value.get(name).is_some()),
        _ => sound_usage(&value),
    };
    (written.as_bytes() == entry && sound).then_some(value)
}

/// Whether a field may hold this text.
fn holds_text(name: &str, text: &str) -> bool {
    let hex = |text: &str, len| {
        text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    match name {
        "receipt" | "key_id" | "response" => hex(text, 64),
        "wallet" | "evm_key" | "contract" => text
            .strip_prefix("0x")
            .is_some_and(|digits| hex(digits, 40)),
        "link" => ["claimed", "bound"].contains(&text),
        "source" => ["proxy", "custom"].contains(&text),
        "outcome" => ["complete", "aborted", "partial", "unmetered", "unknown"].contains(&text),
        "flag" => text == "inconsistent",
        "vkey" => Vkey::parse(text).is_ok(),
        _ => {
            (1..=128).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\')
        }
    }
}

/// The rules between the fields of a usage entry.
fn sound_usage(entry: &Value) -> bool {
    let has = |name: &str| entry.get(name).is_some();
    let count = |name: &str| entry[name].as_u64().unwrap_or(0);
    let counted = COUNTS.into_iter().any(has);
    let exceeds = count("cache_read") + count("cache_write") > count("input")
        || count("reasoning") > count("output");
    ["receipt", "source", "provider", "outcome"]
        .into_iter()
        .all(has)
        && COUNTS.into_iter().all(|name| count(name) < 1 << 32)
        && has("wallet") == has("link")
        && (!exceeds || has("flag"))
        && (counted || !has("flag"))
        && match entry["outcome"].as_str().unwrap_or_default() {
            "unmetered" | "unknown" => !counted,
            "complete" => has("input") || has("output"),
            _ => true,
        }
}
