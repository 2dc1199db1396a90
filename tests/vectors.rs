//! The test vectors, made by a stranger who read PROTOCOL.md only: `protocol`
//! must meet every one of them.
//!
//! Each group of each file has one consumer here, and a file or group without
//! one is a failure, so that no vector is made and then forgotten.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::anchor::{ChainLog, Place};
use protocol::checkpoint::Checkpoint;
use protocol::cosignature::{Cosigner, CosignerKey};
use protocol::entry::{Body, Entry, Log};
use protocol::hash::{self, Hash};
use protocol::index::{Index, Time, TreeSize};
use protocol::key::{Origin, Signer, VerifierKey};
use protocol::mmr::Mmr;
use protocol::name::{Address, Name};
use protocol::note::{self, Note};
use protocol::plan::Plan;
use protocol::policy::Policy;
use protocol::proof::{verify_consistency, verify_inclusion};
use protocol::receipt::Receipt;
use protocol::record::{Counts, Link, Outcome, Source, Usage};
use protocol::tile::{self, Tile, TileKind};
use protocol::tlog_proof::TlogProof;
use protocol::vkey::KeyName;
use protocol::witness::{self, AddCheckpoint};
use serde_json::Value;

use crate::binaries::Folder;
use crate::forge::api::Request;
use crate::forge::server::Site;
use crate::gateway::{Gateway, free_address};
use crate::provider::Provider;
use crate::{forge, python};

mod bindings;
mod totals;

pub(crate) use totals::wallet_proof;

/// Says whether the code under test meets one case.
type Consumer = fn(&Case) -> bool;

const FILES: &[(&str, &[(&str, Consumer)])] = &[
    (
        "hashes.json",
        &[
            ("key_ids", key_id),
            ("receipts", receipt_commitment),
            ("responses", response_commitment),
            ("leaves", |c| {
                Hash::leaf(&c.bytes("entry")) == c.hash("leaf_hash")
            }),
            ("nodes", |c| {
                Hash::node(&c.hash("left"), &c.hash("right")) == c.hash("node")
            }),
        ],
    ),
    (
        "keys.json",
        &[
            ("origins_good", |c| {
                Origin::parse(c.text("origin")).is_ok_and(|o| o.as_str() == c.text("origin"))
            }),
            ("origins_bad", |c| Origin::parse(c.text("origin")).is_err()),
            ("vkeys_good", good_vkey),
            ("vkeys_bad", |c| VerifierKey::parse(c.text("vkey")).is_err()),
            ("points_good", |c| {
                VerifierKey::new(a_b(), c.hash("public").as_bytes()).is_ok()
            }),
            ("points_bad", bad_point),
        ],
    ),
    ("signatures.json", &[("verdicts", verdict)]),
    (
        "notes.json",
        &[
            ("notes_good", good_note),
            ("notes_bad", |c| {
                note::open(&c.bytes("note"), &c.key()).is_err()
            }),
            ("sealed", sealed),
            ("checkpoints_good", good_checkpoint),
            ("checkpoints_bad", |c| {
                Checkpoint::open(&c.bytes("note"), &c.key()).is_err()
            }),
            ("receipts_good", good_receipt),
            ("receipts_bad", |c| {
                Receipt::open(&c.bytes("note"), &c.key()).is_err()
            }),
        ],
    ),
    (
        "entries.json",
        &[
            ("log_good", |c| {
                known_entry(c, Body::Log(log_of(c.field("fields"))))
            }),
            ("usage_good", |c| {
                known_entry(c, Body::Usage(usage_of(c.field("fields"))))
            }),
            ("anchor_good", |c| {
                known_entry(c, Body::Anchor(place_of(c.field("fields"))))
            }),
            ("unknown", unknown_entry),
            ("bad", |c| Entry::parse(&c.bytes("entry")).is_err()),
        ],
    ),
    (
        "bindings.json",
        &[
            ("good", bindings::good),
            ("invalid", bindings::invalid),
            ("malformed", |c| Entry::parse(&c.bytes("entry")).is_err()),
            ("histories", bindings::history),
            ("histories_broken", bindings::broken_history),
        ],
    ),
    (
        "totals.json",
        &[
            ("leaves", totals::leaf),
            ("leaves_bad", totals::bad_leaf),
            ("entries", totals::entry),
            ("entries_bad", |c| Entry::parse(&c.bytes("entry")).is_err()),
            ("proofs", totals::proof),
            ("proofs_bad", totals::bad_proof),
        ],
    ),
    ("trees.json", &[("roots", root), ("tiles", tile_bytes)]),
    (
        "paths.json",
        &[
            ("good", good_path),
            ("bad", |c| Tile::parse(c.text("path")).is_none()),
        ],
    ),
    (
        "log.json",
        &[
            ("facts", facts),
            ("entries", |c| {
                Hash::leaf(&c.bytes("entry")) == c.hash("leaf_hash")
                    && Entry::parse(&c.bytes("entry")).is_ok()
            }),
            ("served", |c| {
                LOG.honest(&Request::new(c.text("path"))).body == c.bytes("body")
            }),
            ("answers", answer),
            ("receipts", receipt_file),
            ("receipts_proven", |c| receipt_file(c) && proven_receipt(c)),
            ("receipts_bad", |c| !(receipt_file(c) && proven_receipt(c))),
        ],
    ),
    (
        "proofs.json",
        &[
            ("inclusion_good", |c| inclusion(c) && planned_inclusion(c)),
            ("inclusion_bad", |c| !inclusion(c)),
            ("consistency_good", |c| {
                consistency(c) && planned_consistency(c)
            }),
            ("consistency_bad", |c| !consistency(c)),
        ],
    ),
    (
        "tlog_proofs.json",
        &[
            ("good", good_tlog_proof),
            ("forms_bad", |c| TlogProof::parse(&c.bytes("text")).is_err()),
            ("unproven", |c| {
                let proof = TlogProof::parse(&c.bytes("text")).expect("of the form");
                proof.verify(c.hash("leaf"), &c.key()).is_err()
            }),
        ],
    ),
    (
        "cosignatures.json",
        &[
            ("keys_good", good_cosigner),
            ("keys_other", |c| {
                CosignerKey::parse(c.text("vkey"))
                    .is_ok_and(|key| !key.is_understood() && key.to_string() == c.text("vkey"))
            }),
            ("keys_bad", |c| CosignerKey::parse(c.text("vkey")).is_err()),
            ("cosigned", cosigned),
            ("verdicts", |c| cosigned_at(c) == Some(c.time("time"))),
            ("spoilt", |c| cosigned_at(c).is_none()),
        ],
    ),
    (
        "policies.json",
        &[
            ("good", good_policy),
            ("bad", |c| Policy::parse(&c.bytes("policy")).is_err()),
            ("judged", judged),
            ("logs", |c| {
                let policy = Policy::parse(&c.bytes("policy")).expect("a policy");
                Some(policy.accepts(&c.key())) == c.field("accepted").as_bool()
            }),
        ],
    ),
    (
        "witness.json",
        &[
            ("requests_good", good_request),
            ("requests_bad", |c| {
                AddCheckpoint::parse(&c.bytes("body")).is_err()
            }),
            ("conflicts_good", |c| {
                let held = size(c.number("size"));
                witness::conflict(held) == c.text("body")
                    && witness::parse_conflict(&c.bytes("body")) == Some(held)
            }),
            ("conflicts_bad", |c| {
                witness::parse_conflict(&c.bytes("body")).is_none()
            }),
            ("answers_good", |c| {
                answered(c) == c.time("time").map(|time| (time, c.text("line").to_owned()))
            }),
            ("answers_bad", |c| answered(c).is_none()),
        ],
    ),
    (
        "anchors.json",
        &[
            ("logs", |c| {
                let log = chain_log(c);
                log.identity() == c.hash("identity")
                    && log.domain_separator() == *c.hash("domain_separator").as_bytes()
                    && log.contract() == address(c, "contract")
            }),
            ("checkpoints", checkpoint_digest),
            ("retirements", |c| {
                let next = c.field("next_vkey").as_str().map(|vkey| {
                    let key = VerifierKey::parse(vkey).expect("a vkey");
                    ChainLog::new(&key, address(c, "next_evm_key"))
                });
                chain_log(c).retirement_digest(next.as_ref()) == *c.hash("digest").as_bytes()
            }),
            // That the signatures are refused is for the contract's tests.
            ("signatures_bad", checkpoint_digest),
        ],
    ),
    (
        "bundles.json",
        &[
            ("good", good_bundle),
            ("bad", |c| tile::entries(&c.bytes("bundle")).is_none()),
        ],
    ),
];

#[test]
fn every_vector_is_met() {
    let mut failures = Vec::new();
    for (file, groups) in FILES {
        let content: BTreeMap<String, Value> =
            serde_json::from_slice(&read(&folder().join(file))).expect("vector files are JSON");
        let made: BTreeSet<&str> = content
            .keys()
            .map(String::as_str)
            .filter(|key| *key != "about")
            .collect();
        let consumed: BTreeSet<&str> = groups.iter().map(|(group, _)| *group).collect();
        assert_eq!(made, consumed, "groups of {file} and their consumers");
        for (group, meets) in *groups {
            let cases = content[*group].as_array().expect("a group is a list");
            assert!(!cases.is_empty(), "{file}: {group}");
            for (place, case) in cases.iter().enumerate() {
                let case = Case {
                    value: case,
                    at: format!("{file} {group} {place}"),
                };
                if !meets(&case) {
                    failures.push(format!("{}: {}", case.at, case.value));
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} vectors are not met:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn every_vector_file_has_consumers() {
    let made: BTreeSet<String> = fs::read_dir(folder())
        .expect("the vectors are in the tree")
        .map(|file| {
            file.expect("readable")
                .file_name()
                .into_string()
                .expect("ASCII")
        })
        .filter(|name| name.ends_with(".json"))
        .collect();
    let consumed = FILES.iter().map(|(name, _)| *name).chain([CREDENTIALS]);
    let consumed: BTreeSet<String> = consumed.map(str::to_owned).collect();
    assert_eq!(made, consumed);
}

fn address(case: &Case, name: &str) -> Address {
    Address::from_canonical(case.text(name)).expect("an address")
}

fn chain_log(case: &Case) -> ChainLog {
    ChainLog::new(&case.key(), address(case, "evm_key"))
}

fn checkpoint_digest(case: &Case) -> bool {
    let time = Time::from_secs(case.number("time")).expect("below 2^53");
    let said = (size(case.number("size")), case.hash("root"), time);
    chain_log(case).checkpoint_digest(said.0, said.1, said.2) == *case.hash("digest").as_bytes()
}

/// What `protocol` does not decide, but a gateway: whom a request's headers identify.
const CREDENTIALS: &str = "credentials.json";

#[tokio::test]
async fn requests_identify_whom_the_vectors_say() {
    let file: BTreeMap<String, Value> =
        serde_json::from_slice(&read(&folder().join(CREDENTIALS))).expect("JSON");
    let groups: Vec<&String> = file.keys().filter(|key| *key != "about").collect();
    assert_eq!(groups, ["cases"]);
    let cases = file["cases"].as_array().expect("a group is a list");
    let provider = Provider::start().await;
    let mut config = String::from("[upstreams]\n");
    let names: BTreeMap<&str, bool> = cases
        .iter()
        .map(|c| (word(c, "provider"), c["unchecked"] == true))
        .collect();
    for (name, unchecked) in &names {
        let checks = if *unchecked {
            ", checks_credentials = false"
        } else {
            ""
        };
        config += &format!("{name} = {{ url = \"{}\"{checks} }}\n", provider.url());
    }
    let data = Folder::new();
    let path = data.path().join("config.toml");
    fs::write(&path, config).expect("writable");
    let config = path.to_str().expect("UTF-8");
    let arguments = ["--config", config, "--origin", word(&cases[0], "origin")];
    let gateway = Gateway::start_at(
        &data.path().join("data"),
        provider.url(),
        &free_address(),
        &arguments,
    )
    .await;
    for case in cases {
        let [provider, path, query] = ["provider", "path", "query"].map(|name| word(case, name));
        let url = format!(
            "{}/{provider}/{path}v1/chat/completions?{query}",
            gateway.url()
        );
        let mut request = gateway.client().post(url);
        for header in case["headers"].as_array().expect("a list") {
            request = request.header(
                header[0].as_str().expect("a name"),
                header[1].as_str().expect("a value"),
            );
        }
        let answer = request
            .body("{}")
            .send()
            .await
            .expect("the gateway answers");
        let found = answer
            .headers()
            .get("x-tally-key-id")
            .map(|id| id.to_str().expect("hex"));
        assert_eq!(found, case["key_id"].as_str(), "{case}");
    }
}

fn word<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().expect("a text")
}

#[test]
fn the_files_are_what_the_script_makes() {
    let python = python::interpreter("vectors/requirements.txt");
    python::run(
        Command::new(python)
            .arg(folder().join("make.py"))
            .arg("--check"),
    );
}

/// Where the vectors are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// The verifier keys that must be refused, with what is wrong with them.
pub(crate) fn refused_keys() -> Vec<(String, String)> {
    let file: Value = serde_json::from_slice(&read(&folder().join("keys.json"))).expect("JSON");
    let text = |case: &Value, name: &str| case[name].as_str().expect("a text").to_owned();
    let groups = ["points_bad", "vkeys_bad"].map(|group| file[group].as_array().expect("a list"));
    let cases = groups.into_iter().flatten();
    cases
        .map(|case| (text(case, "name"), text(case, "vkey")))
        .collect()
}

/// Name and bytes of each entry in a group of `entries.json`.
pub(crate) fn entries(group: &str) -> Vec<(String, Vec<u8>)> {
    let file: Value = serde_json::from_slice(&read(&folder().join("entries.json"))).expect("JSON");
    let cases = file[group].as_array().expect("a group is a list").iter();
    cases
        .map(|case| {
            (
                case["name"].as_str().expect("a name").to_owned(),
                bytes_of(case, "entry").expect("an entry"),
            )
        })
        .collect()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One vector.
struct Case<'a> {
    value: &'a Value,
    at: String,
}

impl Case<'_> {
    fn field(&self, name: &str) -> &Value {
        self.value
            .get(name)
            .unwrap_or_else(|| panic!("{}: no {name}", self.at))
    }

    fn text(&self, name: &str) -> &str {
        self.field(name)
            .as_str()
            .unwrap_or_else(|| panic!("{}: {name} is no text", self.at))
    }

    fn number(&self, name: &str) -> u64 {
        self.field(name)
            .as_u64()
            .unwrap_or_else(|| panic!("{}: {name} is no number", self.at))
    }

    fn hash(&self, name: &str) -> Hash {
        Hash::from_hex(self.text(name)).unwrap_or_else(|| panic!("{}: {name} is no hash", self.at))
    }

    fn hashes(&self, name: &str) -> Vec<Hash> {
        let list = self.field(name).as_array().expect("a list");
        let hash = |h: &Value| h.as_str().and_then(Hash::from_hex);
        let hashes = list.iter().map(hash).collect::<Option<_>>();
        hashes.unwrap_or_else(|| panic!("{}: {name} is no list of hashes", self.at))
    }

    /// A time, or null.
    fn time(&self, name: &str) -> Option<Time> {
        let secs = self.field(name).as_u64()?;
        Some(Time::from_secs(secs).expect("below 2^53"))
    }

    fn cosigner(&self) -> CosignerKey {
        CosignerKey::parse(self.text("vkey")).unwrap_or_else(|e| panic!("{}: {e}", self.at))
    }

    fn key(&self) -> VerifierKey {
        VerifierKey::parse(self.text("vkey")).unwrap_or_else(|e| panic!("{}: {e}", self.at))
    }

    /// Bytes that are written as text, in hex, or as runs of hex.
    fn bytes(&self, name: &str) -> Vec<u8> {
        bytes_of(self.value, name).unwrap_or_else(|| panic!("{}: no {name} in any form", self.at))
    }
}

fn bytes_of(value: &Value, name: &str) -> Option<Vec<u8>> {
    if let Some(text) = value.get(name) {
        return Some(text.as_str()?.as_bytes().to_vec());
    }
    if let Some(hex) = value.get(format!("{name}_hex")) {
        return unhex(hex.as_str()?);
    }
    let mut bytes = Vec::new();
    for run in value.get(format!("{name}_runs"))?.as_array()? {
        let times = usize::try_from(run[1].as_u64()?).ok()?;
        bytes.extend(unhex(run[0].as_str()?)?.repeat(times));
    }
    Some(bytes)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok())
        .collect()
}

fn a_b() -> Origin {
    Origin::parse("a.b").expect("an origin")
}

fn size(value: u64) -> TreeSize {
    TreeSize::new(value).expect("below 2^53")
}

fn key_id(case: &Case) -> bool {
    let origin = Origin::parse(case.text("origin")).expect("an origin");
    hash::key_id(&origin, case.text("scheme"), &case.bytes("credential")) == case.hash("key_id")
}

fn receipt_commitment(case: &Case) -> bool {
    let uuid = unhex(&case.text("id").replace('-', "")).expect("hex and hyphens");
    let uuid: [u8; 16] = uuid.try_into().expect("16 bytes");
    hash::receipt_commitment(&uuid) == case.hash("commitment")
}

fn response_commitment(case: &Case) -> bool {
    hash::response_commitment(case.text("provider"), case.text("id")) == case.hash("commitment")
}

fn good_vkey(case: &Case) -> bool {
    let origin = Origin::parse(case.text("origin")).expect("an origin");
    let signer = Signer::new(origin, case.hash("seed").as_bytes());
    let parsed = VerifierKey::parse(case.text("vkey"));
    signer.verifier().to_string() == case.text("vkey")
        && signer.verifier().as_bytes() == case.hash("public").as_bytes()
        && parsed.as_ref() == Ok(signer.verifier())
}

fn bad_point(case: &Case) -> bool {
    VerifierKey::parse(case.text("vkey")).is_err()
        && VerifierKey::new(a_b(), case.hash("public").as_bytes()).is_err()
}

fn verdict(case: &Case) -> bool {
    let signature = unhex(case.text("signature"))
        .expect("hex")
        .try_into()
        .expect("64 bytes");
    let valid = case.field("valid").as_bool().expect("a verdict");
    case.key().verifies(&case.bytes("message"), &signature) == valid
}

fn good_note(case: &Case) -> bool {
    note::open(&case.bytes("note"), &case.key()).map(str::as_bytes) == Ok(&case.bytes("text")[..])
}

fn sealed(case: &Case) -> bool {
    let origin = Origin::parse(case.text("origin")).expect("an origin");
    let signer = Signer::new(origin, case.hash("seed").as_bytes());
    note::seal(case.text("text"), &signer) == case.text("note")
}

fn good_checkpoint(case: &Case) -> bool {
    let key = case.key();
    let expected = Checkpoint::new(
        key.origin().clone(),
        size(case.number("size")),
        case.hash("root"),
    );
    Checkpoint::open(&case.bytes("note"), &key) == Ok(expected)
}

fn good_receipt(case: &Case) -> bool {
    let (key, note) = (case.key(), case.text("note"));
    let index = Index::new(case.number("index")).expect("below 2^53");
    let expected = Receipt::new(key.origin().clone(), index, case.hash("leaf_hash"));
    let blob = STANDARD.decode(
        note.trim_end()
            .rsplit(' ')
            .next()
            .expect("a signature line"),
    );
    let signature = blob.expect("base64")[4..].try_into().expect("64 bytes");
    Receipt::open(note.as_bytes(), &key).as_ref() == Ok(&expected)
        && expected.signed_by(&key, &signature)
        && expected.note(&key, &signature) == note
}

fn known_entry(case: &Case, body: Body) -> bool {
    let bytes = case.bytes("entry");
    let time = case.field("fields")["time"]
        .as_u64()
        .and_then(Time::from_secs)
        .expect("a time");
    Hash::leaf(&bytes) == case.hash("leaf_hash")
        && body.encode(time) == bytes
        && Entry::parse(&bytes) == Ok(Entry::Known { time, body })
}

fn unknown_entry(case: &Case) -> bool {
    let bytes = case.bytes("entry");
    let time = Time::from_secs(case.number("time")).expect("a time");
    let (version, kind) = (case.number("version"), case.text("kind").to_owned());
    Hash::leaf(&bytes) == case.hash("leaf_hash")
        && Entry::parse(&bytes)
            == Ok(Entry::Unknown {
                time,
                version,
                kind,
            })
}

fn log_of(fields: &Value) -> Log {
    let number = |name: &str| fields[name].as_u64().expect("a number");
    let text = |name: &str| fields[name].as_str().expect("a text");
    Log {
        key: VerifierKey::parse(text("vkey")).expect("a vkey"),
        rules: number("rules"),
        totals_interval: number("totals_interval"),
        publish_max: number("publish_max"),
        evm_key: Address::from_canonical(text("evm_key")).expect("an address"),
    }
}

fn place_of(fields: &Value) -> Place {
    let contract = fields["contract"].as_str().expect("a text");
    Place {
        chain_id: fields["chain_id"].as_u64().expect("a number"),
        contract: Address::from_canonical(contract).expect("an address"),
    }
}

fn usage_of(fields: &Value) -> Usage {
    let text = |name: &str| fields.get(name).map(|v| v.as_str().expect("a text"));
    let hash = |name: &str| text(name).map(|t| Hash::from_hex(t).expect("a hash"));
    let count = |name: &str| {
        let count = fields.get(name).map(|v| v.as_u64().expect("a count"));
        count.map(|c| u32::try_from(c).expect("32 bits"))
    };
    Usage {
        receipt: hash("receipt").expect("required"),
        key_id: hash("key_id"),
        wallet: text("wallet").map(|wallet| {
            let link = text("link").and_then(Link::parse).expect("with a wallet");
            (Address::from_canonical(wallet).expect("an address"), link)
        }),
        source: text("source").and_then(Source::parse).expect("required"),
        provider: text("provider").and_then(Name::new).expect("required"),
        model: text("model").map(|m| Name::new(m).expect("a name")),
        counts: Counts {
            input: count("input"),
            cache_read: count("cache_read"),
            cache_write: count("cache_write"),
            output: count("output"),
            reasoning: count("reasoning"),
        },
        outcome: text("outcome").and_then(Outcome::parse).expect("required"),
        inconsistent: text("flag").is_some(),
        response: hash("response"),
    }
}

/// The tree over entries that are their index as 4 bytes: its root at every
/// size, and every perfect subtree by height and place.
struct Formula {
    roots: Vec<Hash>,
    nodes: HashMap<(u32, u64), Hash>,
}

static FORMULA: LazyLock<Formula> = LazyLock::new(|| {
    let mut mmr = Mmr::EMPTY;
    let (mut roots, mut nodes) = (vec![mmr.root()], HashMap::new());
    for i in 0..66_000_u32 {
        mmr.append(Hash::leaf(&i.to_be_bytes()), |node| {
            nodes.insert((node.height, node.index), node.hash);
        });
        roots.push(mmr.root());
    }
    Formula { roots, nodes }
});

fn root(case: &Case) -> bool {
    let size = usize::try_from(case.number("size")).expect("small");
    FORMULA.roots.get(size) == Some(&case.hash("root"))
}

fn tile_bytes(case: &Case) -> bool {
    let tile = Tile::parse(case.text("path")).expect("a tile's path");
    let TileKind::Hashes(level) = tile.kind() else {
        return false;
    };
    let first = tile.n() * tile::WIDTH;
    let mut bytes = Vec::new();
    for place in first..first + u64::from(tile.width()) {
        let Some(hash) = FORMULA.nodes.get(&(8 * u32::from(level), place)) else {
            return false;
        };
        bytes.extend_from_slice(hash.as_bytes());
    }
    Tile::within(tile.kind(), tile.n(), size(case.number("size"))) == Some(tile)
        && Hash::of(&bytes) == case.hash("sha256")
}

fn good_path(case: &Case) -> bool {
    let (level, kind) = match case.text("kind") {
        "entries" => (0, TileKind::Entries),
        "receipts" => (0, TileKind::Receipts),
        level => {
            let level = level.parse().expect("a level");
            (level, TileKind::Hashes(level))
        }
    };
    let (n, width) = (case.number("n"), case.number("width"));
    let tree = size((n * 256 + width) << (8 * level));
    Tile::parse(case.text("path")).is_some_and(|tile| {
        tile.kind() == kind
            && tile.n() == n
            && u64::from(tile.width()) == width
            && tile.path() == case.text("path")
            && Tile::within(kind, n, tree) == Some(tile)
    })
}

/// The whole log of the vectors, as the forge serves it.
static LOG: LazyLock<Site> = LazyLock::new(|| Site::new(whole_log()));

/// The log that a stranger made of ten entries.
pub(crate) fn whole_log() -> forge::log::Log {
    let file: Value = serde_json::from_slice(&read(&folder().join("log.json"))).expect("JSON");
    let fact = |name: &str| file["facts"][0][name].as_str().expect("a text");
    let seed = Hash::from_hex(fact("seed")).expect("32 bytes");
    let signer = Signer::new(
        Origin::parse(fact("origin")).expect("an origin"),
        seed.as_bytes(),
    );
    let entries = file["entries"].as_array().expect("a list").iter();
    let entries = entries
        .map(|e| bytes_of(e, "entry").expect("an entry"))
        .collect();
    forge::log::Log::of(Arc::new(signer), entries)
}

fn facts(case: &Case) -> bool {
    let log = &LOG.log;
    log.key().to_string() == case.text("vkey")
        && log.size() as u64 == case.number("size")
        && log.root(log.size()) == case.hash("root")
}

fn answer(case: &Case) -> bool {
    let made = LOG.honest(&Request::new(case.text("path")));
    serde_json::from_slice(&made.body).ok().as_ref() == Some(case.field("json"))
}

/// What the holder of a receipt file checks offline (PROTOCOL.md section 7).
fn receipt_file(case: &Case) -> bool {
    let file = Case {
        value: case.field("file"),
        at: case.at.clone(),
    };
    let Some(uuid) = uuid_v7(file.text("id")) else {
        return false;
    };
    let commitment = hash::receipt_commitment(&uuid);
    let entry = file.bytes("entry");
    let Ok(receipt) = Receipt::open(file.text("receipt").as_bytes(), &case.key()) else {
        return false;
    };
    let Ok(Entry::Known {
        body: Body::Usage(usage),
        ..
    }) = Entry::parse(&entry)
    else {
        return false;
    };
    usage.receipt == commitment
        && receipt.index().get() == file.number("index")
        && receipt.leaf_hash() == Hash::leaf(&entry)
        && receipt.leaf_hash() == file.hash("leaf_hash")
}

/// The 16 bytes of a UUID of version 7 in its one spelling.
fn uuid_v7(text: &str) -> Option<[u8; 16]> {
    let uuid = uuid::Uuid::try_parse(text).ok()?;
    let canonical = uuid.hyphenated().to_string() == text;
    (canonical && uuid.get_version_num() == 7).then(|| uuid.into_bytes())
}

/// What the offline proof in a receipt file shows; without one there is nothing to show.
fn proven_receipt(case: &Case) -> bool {
    let file = case.field("file");
    let Some(proof) = file.get("proof") else {
        return true;
    };
    let leaf = Hash::leaf(&bytes_of(file, "entry").expect("an entry"));
    let proof = TlogProof::parse(proof.as_str().expect("a text").as_bytes()).expect("of the form");
    Some(proof.index.get()) == file["index"].as_u64() && proof.verify(leaf, &case.key()).is_ok()
}

fn inclusion(case: &Case) -> bool {
    let index = Index::new(case.number("index")).expect("below 2^53");
    let tree = (size(case.number("size")), case.hash("root"));
    verify_inclusion(case.hash("leaf"), index, tree, &case.hashes("proof")).is_ok()
}

fn consistency(case: &Case) -> bool {
    let from = (size(case.number("from")), case.hash("from_root"));
    let to = (size(case.number("to")), case.hash("to_root"));
    verify_consistency(from, to, &case.hashes("proof")).is_ok()
}

/// Trees of the formula up to this size are at hand, so that their proofs can be made.
const AT_HAND: u64 = 1_000;

fn planned_inclusion(case: &Case) -> bool {
    let (index, tree) = (case.number("index"), size(case.number("size")));
    let plan = Plan::inclusion(Index::new(index).expect("below 2^53"), tree).expect("within");
    tree.get() > AT_HAND || formula_proof(&plan) == case.hashes("proof")
}

fn planned_consistency(case: &Case) -> bool {
    let (from, to) = (size(case.number("from")), size(case.number("to")));
    let plan = Plan::consistency(from, to).expect("ascending");
    to.get() > AT_HAND || formula_proof(&plan) == case.hashes("proof")
}

fn formula_proof(plan: &Plan) -> Vec<Hash> {
    let proof = plan.build(|tile| {
        let TileKind::Hashes(level) = tile.kind() else {
            panic!("a plan asks for hashes only")
        };
        let first = tile.n() * tile::WIDTH;
        let hashes = (first..first + u64::from(tile.width()))
            .flat_map(|i| *FORMULA.nodes[&(8 * u32::from(level), i)].as_bytes());
        hashes.collect::<Vec<u8>>()
    });
    proof.expect("tiles of the right width")
}

fn good_tlog_proof(case: &Case) -> bool {
    let proof = TlogProof::parse(&case.bytes("text")).expect("of the form");
    let extra = case.field("extra").as_str();
    let extra = extra.map(|extra| STANDARD.decode(extra).expect("base64"));
    let checkpoint = proof.verify(case.hash("leaf"), &case.key());
    proof.to_string() == case.text("text")
        && proof.index.get() == case.number("index")
        && proof.extra == extra
        && proof.path == case.hashes("proof")
        && checkpoint.is_ok_and(|checkpoint| {
            checkpoint.size().get() == case.number("size") && checkpoint.root() == case.hash("root")
        })
}

fn made_cosigner(case: &Case) -> Cosigner {
    let name = KeyName::new(case.text("name")).expect("a name");
    Cosigner::new(name, case.hash("seed").as_bytes())
}

fn good_cosigner(case: &Case) -> bool {
    let cosigner = made_cosigner(case);
    cosigner.verifier().to_string() == case.text("vkey")
        && CosignerKey::parse(case.text("vkey")).as_ref() == Ok(cosigner.verifier())
}

fn cosigned(case: &Case) -> bool {
    let time = case.time("time").expect("a time");
    made_cosigner(case).cosign(case.text("text"), time) == case.text("line")
}

/// When a note was cosigned; `None` if it is spoilt.
fn cosigned_at(case: &Case) -> Option<Option<Time>> {
    let note = case.bytes("note");
    let note = Note::parse(&note).expect("a note");
    case.cosigner().cosigned(&note).ok()
}

fn good_policy(case: &Case) -> bool {
    let Ok(policy) = Policy::parse(&case.bytes("policy")) else {
        return false;
    };
    let met = |set: &Value| {
        let cosigned = set["cosigned"].as_array().expect("a list");
        policy.is_met(|place| cosigned.contains(&place.into()))
    };
    let sets = case.field("sets").as_array().expect("a list");
    policy.witnesses().len() as u64 == case.number("witnesses")
        && sets
            .iter()
            .all(|set| Some(met(set)) == set["met"].as_bool())
}

fn judged(case: &Case) -> bool {
    let policy = Policy::parse(&case.bytes("policy")).expect("a policy");
    let note = case.bytes("note");
    let Some(expected) = case.field("by").as_array() else {
        let note = Note::parse(&note).expect("a note");
        return policy.judge(&note).is_err();
    };
    let found = policy.judge(&Note::parse(&note).expect("a note"));
    found.is_ok_and(|found| {
        let by = found.by.iter();
        let by = by.map(|(place, time)| Value::from(vec![*place as u64, time.secs()]));
        by.eq(expected.iter().cloned()) && Some(found.quorum) == case.field("quorum").as_bool()
    })
}

fn good_request(case: &Case) -> bool {
    let request = AddCheckpoint {
        old: size(case.number("old")),
        proof: case.hashes("proof"),
        checkpoint: case.text("checkpoint").to_owned(),
    };
    request.body() == case.text("body")
        && AddCheckpoint::parse(&case.bytes("body")).as_ref() == Ok(&request)
}

fn answered(case: &Case) -> Option<(Time, String)> {
    let answer = case.bytes("answer");
    witness::cosignature(&answer, case.text("text"), &case.cosigner()).ok()
}

fn good_bundle(case: &Case) -> bool {
    let bundle = case.bytes("bundle");
    let entries = case.field("entries").as_array().expect("a list");
    let entries: Vec<Vec<u8>> = entries
        .iter()
        .map(|e| bytes_of(e, "entry").expect("an entry"))
        .collect();
    let mut built = Vec::new();
    for entry in &entries {
        tile::push_entry(&mut built, entry);
    }
    built == bundle && tile::entries(&bundle).is_some_and(|found| found == entries)
}
