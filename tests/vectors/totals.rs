//! What `protocol` makes of the vectors on totals and wallets' proofs.

use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::index::{Index, TreeSize};
use protocol::name::Address;
use protocol::record::Source;
use protocol::totals::{LEAF, Leaf, Sums, Totals};
use protocol::wallet::{Proven, ProvenEntry, ProvenLeaf, WalletError, WalletProof};
use serde_json::Value;

use super::Case;

/// A leaf says what it was made of, and nothing else is spelt as it is.
pub(super) fn leaf(case: &Case<'_>) -> bool {
    let numbers = case.field("numbers").as_array().expect("a list").iter();
    let numbers: Vec<u64> = numbers
        .map(|n| n.as_str().and_then(|n| n.parse().ok()).expect("a number"))
        .collect();
    let made = Leaf {
        wallet: wallet(case),
        source: Source::parse(case.text("source")).expect("a source"),
        sums: Sums {
            records: numbers[0],
            input: numbers[1],
            output: numbers[2],
            cache_read: numbers[3],
            cache_write: numbers[4],
            reasoning: numbers[5],
        },
        first: Index::new(numbers[6]).expect("below 2^53"),
        last: Index::new(numbers[7]).expect("below 2^53"),
    };
    let bytes = bytes(case.text("leaf"));
    made.encode() == bytes && Leaf::parse(&bytes) == Some(made) && made.hash() == case.hash("hash")
}

pub(super) fn bad_leaf(case: &Case<'_>) -> bool {
    Leaf::parse(&bytes(case.text("leaf"))).is_none()
}

pub(super) fn entry(case: &Case<'_>) -> bool {
    let made = Totals {
        size: TreeSize::new(case.number("size")).expect("below 2^53"),
        count: case.number("count"),
        root: case.hash("root"),
    };
    let bytes = case.bytes("entry");
    match Entry::parse(&bytes) {
        Ok(Entry::Known { time, body }) => {
            body == Body::Totals(made) && Body::Totals(made).encode(time) == bytes
        }
        _ => false,
    }
}

/// The proof gives exactly the wallet's leaves.
pub(super) fn proof(case: &Case<'_>) -> bool {
    let leaves = case.field("leaves").as_array().expect("a list").iter();
    let leaves: Vec<_> = leaves
        .map(|leaf| Leaf::parse(&bytes(leaf.as_str().expect("hex"))).expect("a leaf"))
        .collect();
    verified(case).is_ok_and(|proven| proven.leaves == leaves)
}

/// A bent proof proves nothing; one that is overdue proves only that.
pub(super) fn bad_proof(case: &Case<'_>) -> bool {
    let overdue = case.text("name").starts_with("overdue");
    match verified(case) {
        Ok(_) => false,
        Err(error) => overdue == matches!(error, WalletError::Overdue { .. }),
    }
}

fn verified(case: &Case<'_>) -> Result<Proven, WalletError> {
    wallet_proof(case.field("proof")).verify(wallet(case), &case.key())
}

/// A proof as a gateway answers it.
pub(crate) fn wallet_proof(proof: &Value) -> WalletProof {
    let given = |name: &str| Some(&proof[name]).filter(|value| !value.is_null());
    let leaves = proof["leaves"].as_array().expect("a list").iter();
    WalletProof {
        checkpoint: text(&proof["checkpoint"]).into(),
        log: proven_entry(&proof["log"]),
        totals: given("totals").map(proven_entry),
        next: given("next").map(proven_entry),
        last: proven_entry(&proof["last"]),
        leaves: leaves
            .map(|leaf| ProvenLeaf {
                index: leaf["index"].as_u64().expect("a number"),
                leaf: bytes(text(&leaf["leaf"])),
                hashes: hashes(leaf),
            })
            .collect(),
    }
}

fn proven_entry(item: &Value) -> ProvenEntry {
    ProvenEntry {
        index: Index::new(item["index"].as_u64().expect("a number")).expect("below 2^53"),
        entry: text(&item["entry"]).into(),
        hashes: hashes(item),
    }
}

fn hashes(item: &Value) -> Vec<Hash> {
    let hashes = item["hashes"].as_array().expect("a list").iter();
    hashes
        .map(|hash| Hash::from_base64(text(hash)).expect("a hash"))
        .collect()
}

fn wallet(case: &Case<'_>) -> Address {
    Address::from_canonical(case.text("wallet")).expect("an address")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn bytes(hex: &str) -> [u8; LEAF] {
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
    bytes.and_then(|b| b.try_into().ok()).expect("a leaf's hex")
}
