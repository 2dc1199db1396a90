//! A wallet's total, proven on chain from an anchored root.

use alloy_primitives::{Address, Bytes, U256};
use anchor::contract::TallystickAnchor::{
    TallystickAnchorErrors as Refusal, postCall, verifyWalletTotalCall,
};
use protocol::hash::Hash;

use crate::log::{Deployed, bent, word};

/// MTH of RFC 6962 section 2.1, over leaf hashes.
fn head(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::EMPTY_ROOT,
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            Hash::node(&head(left), &head(right))
        }
    }
}

/// PATH of the same section.
fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return vec![];
    }
    let middle = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(middle);
    let (mut path, other) = match index.checked_sub(middle) {
        None => (path(index, left), right),
        Some(index) => (path(index, right), left),
    };
    path.push(head(other));
    path
}

/// A leaf of the tree of totals (PROTOCOL.md, section 4.4).
fn leaf(wallet: u8, source: u8, numbers: [u64; 8]) -> Vec<u8> {
    let mut leaf = vec![1];
    leaf.extend([wallet; 20]);
    leaf.push(source);
    leaf.extend(numbers.iter().flat_map(|n| n.to_be_bytes()));
    leaf
}

const TIME: u64 = 1_760_000_600;
const PLACE: usize = 6;

/// A log of nine entries with a totals entry at 6, anchored; and the call that
/// proves leaf 3 of its `count`.
fn proven(count: usize, size: u64) -> (Deployed, verifyWalletTotalCall) {
    let leaves: Vec<_> = (0..count)
        .map(|i| {
            let n = u64::try_from(i).expect("small");
            let numbers = [n, u64::MAX - n, 10 + n, 4, 3, 2, 1 << 40, (1 << 53) - 1];
            leaf(
                u8::try_from(i / 2 + 7).expect("small"),
                u8::try_from(i % 2 + 1).expect("small"),
                numbers,
            )
        })
        .collect();
    let hashes: Vec<_> = leaves.iter().map(|leaf| Hash::leaf(leaf)).collect();
    let root = head(&hashes);
    let entry = format!(
        r#"{{"v":1,"kind":"totals","time":{TIME},"size":{size},"count":{count},"root":"{root}"}}"#
    );
    let mut entries: Vec<_> = (0..9_u8).map(|i| Hash::leaf(&[i])).collect();
    entries[PLACE] = Hash::leaf(entry.as_bytes());
    let mut deployed = Deployed::new();
    let anchored = head(&entries);
    let post = postCall {
        size: 9,
        root: word(anchored),
        time: TIME,
        proof: vec![],
        signature: deployed.log.signed(9, anchored, TIME),
    };
    deployed.send(&post).expect("signed");
    let call = verifyWalletTotalCall {
        anchor: U256::ZERO,
        index: 6,
        time: TIME,
        size,
        leaves: u64::try_from(count).expect("small"),
        root: word(root),
        proof: path(PLACE, &entries).into_iter().map(word).collect(),
        leafIndex: 3,
        leaf: leaves[3].clone().into(),
        leafProof: path(3, &hashes).into_iter().map(word).collect(),
    };
    (deployed, call)
}

#[test]
fn a_total_is_what_the_leaf_says() {
    for (count, size) in [(4, 1), (5, 6), (64, 9_999), (100, (1 << 53) - 1), (101, 10)] {
        let (mut deployed, call) = proven(count, size);
        let found = deployed.call(&call).expect("proven");
        assert_eq!(found.wallet, Address::repeat_byte(8));
        assert_eq!(found.source, 2);
        let numbers = [
            found.records,
            found.inputTokens,
            found.outputTokens,
            found.cacheReadTokens,
            found.cacheWriteTokens,
            found.reasoningTokens,
            found.firstEntry,
            found.lastEntry,
        ];
        assert_eq!(
            numbers,
            [3, u64::MAX - 3, 13, 4, 3, 2, 1 << 40, (1 << 53) - 1]
        );
    }
}

#[test]
fn no_other_totals_entry_is_taken_for_it() {
    let (mut deployed, call) = proven(5, 6);
    let mut cases = vec![
        verifyWalletTotalCall {
            index: 5,
            ..call.clone()
        },
        verifyWalletTotalCall {
            index: 9,
            ..call.clone()
        },
        verifyWalletTotalCall {
            time: TIME + 1,
            ..call.clone()
        },
        verifyWalletTotalCall {
            time: 0,
            ..call.clone()
        },
        verifyWalletTotalCall {
            size: 7,
            ..call.clone()
        },
        verifyWalletTotalCall {
            size: u64::MAX,
            ..call.clone()
        },
        verifyWalletTotalCall {
            leaves: 6,
            ..call.clone()
        },
        verifyWalletTotalCall {
            root: word(Hash::of(b"another")),
            ..call.clone()
        },
    ];
    cases.extend(
        bent(&call.proof)
            .into_iter()
            .map(|proof| verifyWalletTotalCall {
                proof,
                ..call.clone()
            }),
    );
    for (place, case) in cases.iter().enumerate() {
        let refusal = deployed.call(case).expect_err("another");
        assert!(
            matches!(refusal, Refusal::TotalsNotAnchored(_)),
            "{place}: {refusal:?}"
        );
    }
    let nowhere = verifyWalletTotalCall {
        anchor: U256::ONE,
        ..call
    };
    let refusal = deployed.call(&nowhere).expect_err("no such anchor");
    assert!(matches!(refusal, Refusal::NoSuchAnchor(_)), "{refusal:?}");
}

#[test]
fn no_other_leaf_is_taken_for_it() {
    let (mut deployed, call) = proven(5, 6);
    let mut cases: Vec<_> = [0, 1, 2, 4, 5, u64::MAX]
        .into_iter()
        .map(|leaf_index| verifyWalletTotalCall {
            leafIndex: leaf_index,
            ..call.clone()
        })
        .collect();
    cases.extend(
        bent(&call.leafProof)
            .into_iter()
            .map(|proof| verifyWalletTotalCall {
                leafProof: proof,
                ..call.clone()
            }),
    );
    // Every byte but the format counts.
    cases.extend((1..86).map(|place| {
        let mut leaf = call.leaf.to_vec();
        leaf[place] ^= 1 << (place % 8);
        verifyWalletTotalCall {
            leaf: leaf.into(),
            ..call.clone()
        }
    }));
    for (place, case) in cases.iter().enumerate() {
        let refusal = deployed.call(case).expect_err("another");
        assert!(
            matches!(refusal, Refusal::LeafNotInTotals(_)),
            "{place}: {refusal:?}"
        );
    }
    let leaf = call.leaf.to_vec();
    let of_format_2 = [&[2], &leaf[1..]].concat();
    for leaf in [
        vec![],
        leaf[..85].to_vec(),
        [&leaf[..], &[0]].concat(),
        of_format_2,
    ] {
        let case = verifyWalletTotalCall {
            leaf: Bytes::from(leaf),
            ..call.clone()
        };
        let refusal = deployed.call(&case).expect_err("no leaf");
        assert!(matches!(refusal, Refusal::MalformedLeaf(_)), "{refusal:?}");
    }
}
