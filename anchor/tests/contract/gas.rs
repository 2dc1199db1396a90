//! What posts cost: the table in tests/bench/RESULTS.md, which this holds to
//! the numbers of the contract that is committed.

use std::fs;
use std::path::Path;

use alloy_primitives::U256;
use anchor::contract::TallystickAnchor::verifyInclusionCall;
use protocol::hash::Hash;

use crate::chain::Chain;
use crate::log::{Deployed, word};

/// The most that a post may cost onto 2^24 entries.
const TARGET: u64 = 120_000;

/// Hashes and gas of the post from `from` to `to` anchored entries, in a
/// contract that anchors for the third time, so that no slot is new but the anchor's own.
fn post(from: u64, to: u64) -> (usize, u64) {
    let mut deployed = Deployed::with(&[from - 2, from]);
    let post = deployed.log.post(from, to);
    (post.proof.len(), deployed.send(&post).expect("honest").gas)
}

/// The gas of verifying the last leaf but one of `size`, without what a transaction costs.
fn inclusion(size: u64) -> (usize, u64) {
    let mut deployed = Deployed::with(&[size]);
    let call = verifyInclusionCall {
        anchor: U256::ZERO,
        index: size - 2,
        leaf: word(deployed.log.tree.head(size - 2..size - 1)),
        proof: deployed
            .log
            .tree
            .path(size - 2, 0..size)
            .into_iter()
            .map(word)
            .collect(),
    };
    (
        call.proof.len(),
        deployed.simulate(&call).expect("a view").gas,
    )
}

fn table() -> String {
    let mut rows = String::new();
    for height in (10..=30).step_by(2) {
        let size = 1 << height;
        let usual = size / 4 * 3 + 1;
        let (hashes, usual) = post(usual, usual + size / 100);
        let (most_hashes, most) = post(size - 1, size);
        let (path, inclusion) = inclusion(size);
        assert!(height > 24 || most <= TARGET, "2^{height}: {most} gas");
        rows += &format!(
            "| 2^{height} | {usual} ({hashes}) | {most} ({most_hashes}) | {inclusion} ({path}) |\n"
        );
    }
    rows
}

fn others() -> String {
    let log = crate::log::Log::new("log.example.org", 1);
    let (_, creation) = Chain::new().deploy(&log.chain_log);
    let mut deployed = Deployed::new();
    let first = deployed.log.post(0, 1 << 20);
    let first_gas = deployed.send(&first).expect("honest").gas;
    let repeat = deployed.send(&first).expect("a repeat").gas;
    let fork = deployed.log.fork(7, Hash::of(b"one"), Hash::of(b"another"));
    let fork = deployed.simulate(&fork).expect("proven").gas;
    let retirement = deployed.log.retirement(Some(&log.chain_log));
    let retirement = deployed.send(&retirement).expect("signed").gas;
    format!(
        "| deployment | first post | a repeat | fork report | retirement |\n\
         |---|---|---|---|---|\n\
         | {creation} | {first_gas} | {repeat} | {fork} | {retirement} |\n"
    )
}

#[test]
fn gas_is_as_stated() {
    let stated = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bench/RESULTS.md");
    let stated = fs::read_to_string(stated).expect("in the tree");
    for part in [table(), others()] {
        println!("{part}");
        assert!(
            stated.contains(&part),
            "RESULTS.md does not hold this:\n{part}"
        );
    }
}
