//! A wallet's proof, from a checkpoint to the wallet's leaves or to their
//! absence (PROTOCOL.md section 4.5).
//!
//! Pure, and from one answer alone: O(log n) hashes. Out of scope: whether the
//! totals entry's root is right, which only a reader of every entry can say,
//! and asking (see [`crate::wallet`]).

use protocol::entry::{Body, Entry, Log, RULES};
use protocol::hash::Hash;
use protocol::index::Time;
use protocol::key::VerifierKey;
use protocol::name::Address;
use protocol::record::Source;
use protocol::totals::{LEAF, Leaf, Totals};

use crate::answer::{Proof, ProvenEntry, ProvenLeaf};
use crate::audit::{Finding, Signed, Unopened};
use crate::rebuild::{included, leaf_hash};

/// The most leaves in a proof: a wallet's, one for each source, and two neighbours.
const MAX_LEAVES: usize = 2 + Source::ALL.len();

/// What a proof shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The checkpoint that it is under.
    pub signed: Signed,
    /// The totals entry, if there is one.
    pub totals: Option<ShownTotals>,
    /// The time of the checkpoint's last entry.
    pub last: Time,
    /// The wallet's totals by source; empty where it has none.
    pub leaves: Vec<Leaf>,
}

/// The totals entry that a wallet's leaves are under.
#[derive(Clone, Copy, Debug)]
pub struct ShownTotals {
    /// Where it stands.
    pub index: u64,
    /// When it came.
    pub time: Time,
    /// What it says.
    pub totals: Totals,
}

/// Why a proof shows nothing.
#[derive(Debug)]
pub enum Refused {
    /// It is wrong: a complete answer that does not prove what it must.
    Wrong(String),
    /// Its checkpoint is not the log's.
    Checkpoint(Finding),
    /// Nothing can be said of it, with the reason.
    Unjudged(String),
}

/// Refuses what does not hold.
pub(crate) fn need(holds: bool, why: impl FnOnce() -> String) -> Result<(), Refused> {
    holds.then_some(()).ok_or_else(|| Refused::Wrong(why()))
}

/// Verifies the proof for `wallet` under the log's key.
///
/// # Errors
/// What is wrong with it, or why it can't be judged.
pub fn verify(proof: &Proof, wallet: Address, key: &VerifierKey) -> Result<Shown, Refused> {
    let signed = open(&proof.checkpoint, key)?;
    let log = first(&proof.log, &signed, key)?;
    let totals = match &proof.totals {
        None => None,
        Some(totals) => Some(newest(totals, &signed)?),
    };
    let leaves = own(&proof.leaves, wallet, totals.as_ref())?;
    let last = read(&proof.last, &signed)?;
    need(proof.last.index + 1 == signed.size(), || {
        let end = signed.size();
        format!(
            "the last of {end} entries is said to be {}",
            proof.last.index
        )
    })?;
    in_time(proof, &signed, (&log, totals.as_ref(), &last))?;
    Ok(Shown {
        signed,
        totals,
        last: last.time(),
        leaves,
    })
}

/// Opens the checkpoint that a proof is under.
pub(crate) fn open(note: &str, key: &VerifierKey) -> Result<Signed, Refused> {
    Signed::open(note.as_bytes(), key).map_err(|why| match why {
        Unopened::NotANote(why) => Refused::Wrong(format!("its checkpoint: {why}")),
        Unopened::Misbehaviour(finding) => Refused::Checkpoint(finding),
    })
}

/// Reads an entry that is under a checkpoint.
pub(crate) fn read(proven: &ProvenEntry, signed: &Signed) -> Result<Entry, Refused> {
    let (index, bytes) = (proven.index, proven.entry.as_bytes());
    let hashes = hashes(&proven.hashes)?;
    let tree = (signed.size(), signed.root());
    need(included(leaf_hash(bytes), index, tree, &hashes), || {
        format!(
            "entry {index} is not under the checkpoint of size {}",
            tree.0
        )
    })?;
    Entry::parse(bytes).map_err(|why| Refused::Wrong(format!("entry {index}: {why}")))
}

fn hashes(texts: &[String]) -> Result<Vec<Hash>, Refused> {
    let hashes = texts.iter().map(|text| Hash::from_base64(text));
    let hashes = hashes.collect::<Option<_>>();
    hashes.ok_or_else(|| Refused::Wrong("a hash in it is not base64 of 32 bytes".into()))
}

/// Entry 0, which names the key and the rules.
fn first(proven: &ProvenEntry, signed: &Signed, key: &VerifierKey) -> Result<Log, Refused> {
    let wrong = || "entry 0 is not the log's own under its key".into();
    need(proven.index == 0, wrong)?;
    match read(proven, signed)? {
        Entry::Known {
            body: Body::Log(log),
            ..
        } if log.key == *key => match log.rules {
            RULES => Ok(log),
            rules => Err(Refused::Unjudged(format!(
                "the log is of rules version {rules}, and totals are known of version {RULES}"
            ))),
        },
        Entry::Unknown { kind, version, .. } if kind == "log" => Err(Refused::Unjudged(format!(
            "entry 0 is of version {version}, which a newer sentinel may know"
        ))),
        _ => Err(Refused::Wrong(wrong())),
    }
}

fn newest(proven: &ProvenEntry, signed: &Signed) -> Result<ShownTotals, Refused> {
    let index = proven.index;
    match read(proven, signed)? {
        Entry::Known {
            time,
            body: Body::Totals(totals),
        } if totals.size.get() <= index => Ok(ShownTotals {
            index,
            time,
            totals,
        }),
        _ => Err(Refused::Wrong(format!(
            "entry {index} is no totals entry over entries before it"
        ))),
    }
}

/// The wallet's own leaves, of which none can be missing.
fn own(
    proven: &[ProvenLeaf],
    wallet: Address,
    totals: Option<&ShownTotals>,
) -> Result<Vec<Leaf>, Refused> {
    let Some(ShownTotals { totals, .. }) = totals else {
        need(proven.is_empty(), || "leaves without a totals entry".into())?;
        return Ok(vec![]);
    };
    let Some(first) = proven.first() else {
        let empty = totals.count == 0 && totals.root == Hash::EMPTY_ROOT;
        need(empty, || {
            format!("no leaves, though the totals are over {}", totals.count)
        })?;
        return Ok(vec![]);
    };
    need(proven.len() <= MAX_LEAVES, || {
        "more leaves than a proof has".into()
    })?;
    let mut leaves: Vec<Leaf> = Vec::with_capacity(proven.len());
    for (place, proven) in (first.index..=u64::MAX).zip(proven) {
        need(proven.index == place, || "a gap between the leaves".into())?;
        let leaf = leaf(proven, totals)?;
        let order = |leaf: &Leaf| (leaf.wallet, leaf.source);
        let ascends = leaves.last().is_none_or(|last| order(last) < order(&leaf));
        need(ascends, || "the leaves are not in ascending order".into())?;
        leaves.push(leaf);
    }
    let end = first.index + leaves.len() as u64;
    let below = leaves.iter().filter(|leaf| leaf.wallet < wallet).count();
    let above = leaves.iter().filter(|leaf| leaf.wallet > wallet).count();
    need(below <= 1 && above <= 1, || {
        "more than one neighbour on a side".into()
    })?;
    need(below == 1 || first.index == 0, || {
        "neither a neighbour before the wallet's leaves nor the beginning".into()
    })?;
    need(above == 1 || end == totals.count, || {
        "neither a neighbour after the wallet's leaves nor the end".into()
    })?;
    leaves.retain(|leaf| leaf.wallet == wallet);
    Ok(leaves)
}

fn leaf(proven: &ProvenLeaf, totals: &Totals) -> Result<Leaf, Refused> {
    let bytes = bytes(&proven.leaf);
    let bytes = bytes.ok_or_else(|| Refused::Wrong("a leaf is not 86 bytes in hex".into()))?;
    let hashes = hashes(&proven.hashes)?;
    let tree = (totals.count, totals.root);
    need(
        included(leaf_hash(&bytes), proven.index, tree, &hashes),
        || format!("leaf {} is not under the totals' root", proven.index),
    )?;
    Leaf::parse(&bytes).ok_or_else(|| Refused::Wrong("a leaf is not of the form".into()))
}

fn bytes(hex: &str) -> Option<[u8; LEAF]> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let byte = |[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    bytes?.try_into().ok()
}

/// The totals are as new as the log promises.
fn in_time(
    proof: &Proof,
    signed: &Signed,
    (log, totals, last): (&Log, Option<&ShownTotals>, &Entry),
) -> Result<(), Refused> {
    let expected = totals.map_or(1, |shown| match shown.totals.size.get() {
        size if size < shown.index => size,
        size => size + 1,
    });
    let Some(next) = &proof.next else {
        return need(expected >= signed.size(), || {
            format!("entry {expected}, the first that the totals leave out, is missing")
        });
    };
    need(next.index == expected, || {
        format!(
            "the totals leave out entry {expected} first, not {}",
            next.index
        )
    })?;
    let left = read(next, signed)?;
    let until = log.totals_interval.saturating_mul(2);
    let until = left.time().secs().saturating_add(until);
    let counts = matches!(
        left,
        Entry::Known {
            body: Body::Usage(_) | Body::Binding(_),
            ..
        }
    );
    let settles = matches!(
        last,
        Entry::Known {
            body: Body::Totals(_),
            ..
        }
    );
    need(!counts || settles || last.time().secs() <= until, || {
        format!(
            "entry {expected} of {} is in no totals, but the log went on to {}, over two intervals \
             of {} s later: older totals are passed off as new, or the log owes newer ones",
            left.time(),
            last.time(),
            log.totals_interval
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The vectors' proofs of a group, each with what comes of it.
    fn each(group: &str, check: impl Fn(&Value, Result<Shown, Refused>)) {
        let vectors = include_str!("../../tests/vectors/totals.json");
        let vectors: Value = serde_json::from_str(vectors).expect("JSON");
        let cases = vectors[group].as_array().expect("a list");
        assert!(cases.len() > 10, "{group}");
        for case in cases {
            let text = |name: &str| case[name].as_str().expect("a text");
            let proof: Proof = serde_json::from_value(case["proof"].clone()).expect("a proof");
            let wallet = Address::from_canonical(text("wallet")).expect("an address");
            let key = VerifierKey::parse(text("vkey")).expect("a key");
            check(case, verify(&proof, wallet, &key));
        }
    }

    #[test]
    fn a_proof_shows_all_leaves_of_the_wallet_and_no_others() {
        each("proofs", |case, shown| {
            let shown = shown.unwrap_or_else(|why| panic!("{}: {why:?}", case["name"]));
            let hex = |leaf: &Leaf| -> String {
                let bytes = leaf.encode();
                bytes.iter().map(|byte| format!("{byte:02x}")).collect()
            };
            let found: Vec<String> = shown.leaves.iter().map(hex).collect();
            assert_eq!(Value::from(found), case["leaves"], "{}", case["name"]);
            let none = case["proof"]["totals"].is_null();
            assert_eq!(shown.totals.is_none(), none, "{}", case["name"]);
        });
    }

    #[test]
    fn a_bent_proof_shows_nothing() {
        each("proofs_bad", |case, shown| {
            let Err(refused) = shown else {
                panic!("{}", case["name"]);
            };
            let name = case["name"].as_str().expect("a text");
            match refused {
                Refused::Wrong(why) => {
                    let late = name.starts_with("overdue");
                    assert_eq!(
                        why.contains("older totals are passed off"),
                        late,
                        "{name}: {why}"
                    );
                }
                Refused::Unjudged(why) => assert_eq!(name, "rules of 1", "{why}"),
                Refused::Checkpoint(finding) => {
                    assert_eq!(name, "another log's checkpoint", "{finding:?}");
                }
            }
        });
    }
}
