//! Posting: what is anchored, and what is refused.

use std::thread;

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolEvent as _;
use anchor::contract::TallystickAnchor::{
    self as abi, TallystickAnchorErrors as Refusal, anchorAtCall, countCall, latestCall, postCall,
};
use protocol::hash::Hash;

use crate::chain::of;
use crate::log::{Deployed, Log, bent, block_time_of, time_of, twin, word};
use crate::reference::consistency_shape;

const GROWTH: u64 = 1 << 32;
const MAX_SIZE: u64 = (1 << 53) - 1;

/// A post is refused for this reason, and leaves everything as it was.
fn refused(deployed: &mut Deployed, post: &postCall, claim: &str, reason: fn(&Refusal) -> bool) {
    let count = deployed.call(&countCall {}).expect("a view");
    let refusal = deployed.send(post).expect_err(claim);
    assert!(reason(&refusal), "{claim}: {refusal:?}");
    assert_eq!(
        deployed.call(&countCall {}).expect("a view"),
        count,
        "{claim}"
    );
}

fn inconsistent(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Inconsistent(_))
}

fn not_signed(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::NotSignedByLog(_))
}

fn malformed(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::MalformedSignature(_))
}

#[test]
fn the_address_follows_from_the_log() {
    for (origin, seed) in [("a.b", 1), ("a.b", 2), ("log.example.org/of/2026", 1)] {
        let log = Log::new(origin, seed);
        let mut chain = crate::chain::Chain::new();
        let (contract, _) = chain.deploy(&log.chain_log);
        assert_eq!(contract, of(log.chain_log.contract()), "{origin}");
    }
}

#[test]
fn an_anchor_is_what_was_posted() {
    let mut deployed = Deployed::new();
    for (index, (from, to)) in [(0, 5), (5, 6), (6, 1000)].into_iter().enumerate() {
        deployed.chain.set_time(block_time_of(to));
        let post = deployed.log.post(from, to);
        let done = deployed.send(&post).expect("honest");
        let event = abi::Anchored::decode_log(&done.logs[0]).expect("an event");
        assert_eq!(done.logs.len(), 1);
        let expected = abi::Anchored {
            index: U256::from(index),
            size: to,
            root: post.root,
            time: time_of(to),
        };
        assert_eq!(event.data, expected);
        let latest = deployed.call(&latestCall {}).expect("anchored");
        let found = (latest.size, latest.root, latest.time, latest.blockTime);
        assert_eq!(found, (to, post.root, time_of(to), block_time_of(to)));
        let at = anchorAtCall {
            index: latest.index,
        };
        let anchor = deployed.call(&at).expect("anchored");
        assert_eq!(
            found,
            (anchor.size, anchor.root, anchor.time, anchor.blockTime)
        );
        assert_eq!(
            deployed.call(&countCall {}).expect("a view"),
            U256::from(index + 1)
        );
    }
}

/// From `m` entries to each size up to 64 the honest proof holds, and none near it.
fn consistent_from(m: u64) {
    let sizes: &[u64] = if m == 0 { &[] } else { &[m] };
    let mut deployed = Deployed::with(sizes);
    for n in m + 1..=64 {
        let post = deployed.log.post(m, n);
        deployed.simulate(&post).expect("honest");
        for proof in bent(&post.proof) {
            let post = postCall {
                proof,
                ..post.clone()
            };
            let refusal = deployed.simulate(&post).expect_err("bent");
            assert!(inconsistent(&refusal), "{m} to {n}: {refusal:?}");
        }
    }
}

#[test]
fn consistency_is_that_of_the_rfc_for_all_sizes_to_64() {
    thread::scope(|scope| {
        for odd in [0, 1] {
            scope.spawn(move || (odd..64).step_by(2).for_each(consistent_from));
        }
    });
}

#[test]
fn another_size_needs_another_proof() {
    for m in 1..24 {
        let mut deployed = Deployed::with(&[m]);
        for n in m + 1..=24 {
            let honest = deployed.log.post(m, n);
            for n2 in m + 1..=24 {
                // Signed for n2, and otherwise what is true of n.
                let root = deployed.log.root(n);
                let post = postCall {
                    size: n2,
                    signature: deployed.log.signed(n2, root, honest.time),
                    ..honest.clone()
                };
                let same = consistency_shape(m, n, true) == consistency_shape(m, n2, true);
                let found = deployed.simulate(&post);
                assert_eq!(found.is_ok(), same, "{m} to {n} as {n2}: {found:?}");
            }
        }
    }
}

#[test]
fn another_history_is_refused() {
    let mut deployed = Deployed::with(&[21]);
    let honest = deployed.log.post(21, 34);
    let other = Hash::of(b"another root");
    let rewritten = postCall {
        root: word(other),
        signature: deployed.log.signed(34, other, honest.time),
        ..honest.clone()
    };
    refused(
        &mut deployed,
        &rewritten,
        "another newer root",
        inconsistent,
    );
    // Entry 3 replaced: a proof that is right for a tree whose first 21 entries have another root.
    let shifted = |size: u64| deployed.log.tree.head(1..1 + size);
    let (older, newer) = (shifted(21), shifted(34));
    assert_ne!(older, deployed.log.root(21));
    let proof = deployed.log.tree.subproof(21, 1..35, true);
    let forged = postCall {
        root: word(newer),
        proof: proof.into_iter().map(word).collect(),
        signature: deployed.log.signed(34, newer, honest.time),
        ..honest.clone()
    };
    refused(&mut deployed, &forged, "another history", inconsistent);
    let unproven = postCall {
        proof: vec![],
        ..honest
    };
    refused(&mut deployed, &unproven, "no proof", inconsistent);
}

#[test]
fn sizes_grow_within_bounds() {
    let mut deployed = Deployed::with(&[21]);
    let signed = |deployed: &Deployed, size: u64| {
        let root = deployed.log.root(size);
        postCall {
            size,
            root: word(root),
            time: 7,
            proof: vec![],
            signature: deployed.log.signed(size, root, 7),
        }
    };
    for size in [0, 1, 20, 21] {
        let post = signed(&deployed, size);
        refused(&mut deployed, &post, "not above", |r| {
            matches!(r, Refusal::SizeNotAbove(_))
        });
    }
    for size in [21 + GROWTH + 1, 1 << 40, MAX_SIZE] {
        let post = signed(&deployed, size);
        refused(&mut deployed, &post, "poison", |r| {
            matches!(r, Refusal::GrowthTooLarge(_))
        });
        let consistent = deployed.log.post(21, size);
        refused(&mut deployed, &consistent, "consistent poison", |r| {
            matches!(r, Refusal::GrowthTooLarge(_))
        });
    }
    let most = deployed.log.post(21, 21 + GROWTH);
    deployed.send(&most).expect("the most that it may grow");
    let first = Deployed::new().log.post(0, GROWTH + 1);
    refused(&mut Deployed::new(), &first, "the first one", |r| {
        matches!(r, Refusal::GrowthTooLarge(_))
    });
    let first = Deployed::new().log.post(0, GROWTH);
    Deployed::new()
        .send(&first)
        .expect("the most that it may begin with");
}

#[test]
fn a_repeat_of_the_newest_changes_nothing() {
    let mut deployed = Deployed::with(&[5, 21]);
    let newest = deployed.log.post(5, 21);
    let done = deployed.send(&newest).expect("a repeat");
    assert!(done.logs.is_empty());
    assert_eq!(deployed.call(&countCall {}).expect("a view"), U256::from(2));
    let at_another_time = postCall {
        time: newest.time + 1,
        signature: deployed
            .log
            .signed(21, deployed.log.root(21), newest.time + 1),
        ..newest.clone()
    };
    let with_another_root = postCall {
        root: word(Hash::of(b"another")),
        ..newest
    };
    let older = deployed.log.post(0, 5);
    for post in [at_another_time, with_another_root, older] {
        refused(&mut deployed, &post, "no repeat", |r| {
            matches!(r, Refusal::SizeNotAbove(_))
        });
    }
}

#[test]
fn only_the_log_signs() {
    let mut deployed = Deployed::with(&[21]);
    let honest = deployed.log.post(21, 34);
    let signature = &honest.signature.clone();
    let signed = |signature: Vec<u8>| postCall {
        signature: signature.into(),
        ..honest.clone()
    };
    let changed = |place: usize, by: u8| {
        let mut bytes = signature.to_vec();
        bytes[place] ^= by;
        signed(bytes)
    };
    for place in 0..64 {
        // The first byte of s may become too large; everything else is another's signature, or none.
        refused(
            &mut deployed,
            &changed(place, 1 << (place % 7)),
            "a flipped bit",
            |r| not_signed(r) || malformed(r),
        );
    }
    let foreign = |log: &Log| signed(log.post(21, 34).signature.to_vec());
    for (claim, log) in [
        ("another EVM key", Log::new("log.example.org", 2)),
        (
            "another log of the same name and key",
            Log::new("log.example.net", 1),
        ),
    ] {
        refused(&mut deployed, &foreign(&log), claim, not_signed);
    }
    let root = deployed.log.root(34);
    for (claim, signature) in [
        ("another size", deployed.log.signed(35, root, honest.time)),
        (
            "another root",
            deployed.log.signed(34, deployed.log.root(35), honest.time),
        ),
        (
            "another time",
            deployed.log.signed(34, root, honest.time + 1),
        ),
        ("a retirement", deployed.log.retirement(None).signature),
    ] {
        refused(
            &mut deployed,
            &signed(signature.to_vec()),
            claim,
            not_signed,
        );
    }
    refused(
        &mut deployed,
        &signed(vec![0; 64].into_iter().chain([27]).collect()),
        "nobody",
        |r| matches!(r, Refusal::NotSignedByLog(found) if found.signer == Address::ZERO),
    );
    deployed.send(&honest).expect("honest");
}

#[test]
fn a_statement_has_one_signature() {
    let mut deployed = Deployed::with(&[21]);
    let honest = deployed.log.post(21, 34);
    let with = |signature: Bytes| postCall {
        signature,
        ..honest.clone()
    };
    let signature = honest.signature.to_vec();
    refused(
        &mut deployed,
        &with(twin(&signature)),
        "a high s",
        malformed,
    );
    for v in [0, 1, 2, 26, 29, 35, 36, 37, 255] {
        let mut bytes = signature.clone();
        bytes[64] = v;
        refused(&mut deployed, &with(bytes.into()), "a bad v", malformed);
    }
    let mut bytes = signature.clone();
    bytes[64] ^= 27 ^ 28;
    refused(
        &mut deployed,
        &with(bytes.into()),
        "the other v",
        not_signed,
    );
    for length in [0, 1, 63, 64, 66, 96] {
        let mut bytes = signature.clone();
        bytes.resize(length, 0);
        refused(
            &mut deployed,
            &with(bytes.into()),
            "another length",
            malformed,
        );
    }
}

#[test]
fn a_contract_needs_a_name_and_a_key() {
    use alloy_sol_types::SolConstructor as _;
    let code = &protocol::anchor::CREATION_CODE[..];
    let long = "a".repeat(101);
    for (origin, key) in [("", 1), (long.as_str(), 1), ("a.b", 0)] {
        let arguments = abi::constructorCall {
            origin_: origin.into(),
            logKey_: [1; 32].into(),
            evmKey_: Address::repeat_byte(key),
        };
        let init = [code, &arguments.abi_encode()].concat();
        assert!(
            !crate::chain::Chain::new().creates(init),
            "{origin:?} {key}"
        );
    }
    let log = Log::new("log.example.org/of/2026", 3).chain_log;
    let arguments = abi::constructorCall {
        origin_: log.origin().to_string(),
        logKey_: (*log.log_key()).into(),
        evmKey_: of(log.evm_key()),
    };
    let init = [code, &arguments.abi_encode()].concat();
    assert_eq!(init, log.init_code(), "the ABI's encoding");
    assert!(crate::chain::Chain::new().creates(init));
}
