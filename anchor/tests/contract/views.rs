//! Reading: what an explorer's Read Contract page answers.

use alloy_primitives::{Address, U256};
use anchor::contract::TallystickAnchor::{
    self as abi, TallystickAnchorErrors as Refusal, anchorAtCall, countCall, firstCoveringCall,
    latestCall, leafHashCall, verifyInclusionCall, verifySignatureCall,
};
use protocol::hash::Hash;

use crate::chain::of;
use crate::log::{Deployed, bent, time_of, twin, word};
use crate::reference::inclusion_shape;

#[test]
fn it_says_whose_it_is() {
    let mut deployed = Deployed::new();
    let log = deployed.log.chain_log.clone();
    let origin = deployed.call(&abi::originCall {}).expect("a view");
    assert_eq!(origin, log.origin().as_str());
    let log_key = deployed.call(&abi::logKeyCall {}).expect("a view");
    assert_eq!(log_key, *log.log_key());
    let evm_key = deployed.call(&abi::evmKeyCall {}).expect("a view");
    assert_eq!(evm_key, of(log.evm_key()));
    let identity = deployed.call(&abi::identityCall {}).expect("a view");
    assert_eq!(identity, word(log.identity()));
    let domain = deployed.call(&abi::eip712DomainCall {}).expect("a view");
    // EIP-5267: name, version and salt, nothing else.
    assert_eq!(domain.fields.0, [0b1_0011]);
    assert_eq!(
        (domain.name.as_str(), domain.version.as_str()),
        ("Tallystick", "1")
    );
    assert_eq!(domain.salt, word(log.identity()));
    assert_eq!(
        (domain.chainId, domain.verifyingContract),
        (U256::ZERO, Address::ZERO)
    );
    assert!(domain.extensions.is_empty());
    assert!(!deployed.call(&abi::forkedCall {}).expect("a view"));
    assert!(!deployed.call(&abi::retiredCall {}).expect("a view"));
}

#[test]
fn before_the_first_anchor_nothing_is_covered() {
    let mut deployed = Deployed::new();
    assert_eq!(deployed.call(&countCall {}).expect("a view"), U256::ZERO);
    let latest = deployed.call(&latestCall {}).expect_err("none");
    assert!(matches!(latest, Refusal::NoSuchAnchor(_)), "{latest:?}");
    let covering = deployed
        .call(&firstCoveringCall { entry: 0 })
        .expect_err("none");
    assert!(matches!(covering, Refusal::NotCovered(_)), "{covering:?}");
}

#[test]
fn the_first_covering_anchor_is_the_first_larger_one() {
    let sizes = [1, 2, 5, 6, 21, 34, 35, 36, 1000];
    for anchored in 1..=sizes.len() {
        let sizes = &sizes[..anchored];
        let mut deployed = Deployed::with(sizes);
        for entry in (0..40).chain(990..1010).chain([u64::MAX]) {
            let expected = sizes.iter().position(|size| *size > entry);
            match deployed.call(&firstCoveringCall { entry }) {
                Ok(found) => {
                    assert_eq!(Some(found.index), expected.map(U256::from), "{entry}");
                    let index = found.index;
                    let anchor = deployed.call(&anchorAtCall { index }).expect("anchored");
                    let found = (found.size, found.root, found.time, found.blockTime);
                    assert_eq!(
                        found,
                        (anchor.size, anchor.root, anchor.time, anchor.blockTime)
                    );
                }
                Err(refusal) => {
                    assert!(matches!(refusal, Refusal::NotCovered(_)), "{refusal:?}");
                    assert_eq!(expected, None, "{entry}");
                }
            }
        }
        let index = U256::from(anchored);
        let refusal = deployed.call(&anchorAtCall { index }).expect_err("none");
        assert!(matches!(refusal, Refusal::NoSuchAnchor(_)), "{refusal:?}");
    }
}

#[test]
fn leaf_hashes_are_those_of_the_log() {
    let mut deployed = Deployed::new();
    for length in [0, 1, 31, 32, 33, 500, 65_535] {
        let entry = vec![b'x'; length];
        let call = leafHashCall {
            entry: entry.clone().into(),
        };
        let found = deployed.call(&call).expect("a view");
        assert_eq!(found, word(Hash::leaf(&entry)), "{length}");
    }
}

#[test]
fn inclusion_is_that_of_the_rfc_in_trees_to_24() {
    for n in 1..=24 {
        let mut deployed = Deployed::with(&[n]);
        let mut holds = |call: &verifyInclusionCall| deployed.call(call).expect("a view");
        let tree = crate::reference::Tree::new();
        for m in 0..n {
            let proof: Vec<_> = tree.path(m, 0..n).into_iter().map(word).collect();
            let call = verifyInclusionCall {
                anchor: U256::ZERO,
                index: m,
                leaf: word(tree.head(m..m + 1)),
                proof,
            };
            assert!(holds(&call), "{m} of {n}");
            for proof in bent(&call.proof) {
                let call = verifyInclusionCall {
                    proof,
                    ..call.clone()
                };
                assert!(!holds(&call), "{m} of {n}");
            }
            let other = word(Hash::of(b"another leaf"));
            let call_other = verifyInclusionCall {
                leaf: other,
                ..call.clone()
            };
            assert!(!holds(&call_other), "{m} of {n}");
            for m2 in (0..n + 2).chain([u64::MAX]) {
                let same = m2 < n && inclusion_shape(m2, n) == inclusion_shape(m, n);
                let call = verifyInclusionCall {
                    index: m2,
                    ..call.clone()
                };
                assert_eq!(holds(&call), same, "{m} of {n} as {m2}");
            }
        }
    }
}

#[test]
fn an_entry_stands_under_every_anchor_that_covers_it() {
    let sizes = [5, 21, 34];
    let mut deployed = Deployed::with(&sizes);
    for (anchor, size) in sizes.into_iter().enumerate() {
        let path = deployed.log.tree.path(3, 0..size);
        let call = verifyInclusionCall {
            anchor: U256::from(anchor),
            index: 3,
            leaf: word(deployed.log.tree.head(3..4)),
            proof: path.into_iter().map(word).collect(),
        };
        assert!(deployed.call(&call).expect("a view"), "{size}");
        let elsewhere = verifyInclusionCall {
            anchor: U256::from((anchor + 1) % 3),
            ..call.clone()
        };
        assert!(!deployed.call(&elsewhere).expect("a view"), "{size}");
        let nowhere = verifyInclusionCall {
            anchor: U256::from(3),
            ..call
        };
        let refusal = deployed.call(&nowhere).expect_err("no such anchor");
        assert!(matches!(refusal, Refusal::NoSuchAnchor(_)), "{refusal:?}");
    }
}

#[test]
fn signatures_can_be_checked_without_posting() {
    let mut deployed = Deployed::new();
    let root = deployed.log.root(7);
    let good = verifySignatureCall {
        size: 7,
        root: word(root),
        time: time_of(7),
        signature: deployed.log.signed(7, root, time_of(7)),
    };
    assert!(deployed.call(&good).expect("a view"));
    for (claim, bad) in [
        (
            "size",
            verifySignatureCall {
                size: 8,
                ..good.clone()
            },
        ),
        (
            "root",
            verifySignatureCall {
                root: [1; 32].into(),
                ..good.clone()
            },
        ),
        (
            "time",
            verifySignatureCall {
                time: 1,
                ..good.clone()
            },
        ),
        (
            "a high s",
            verifySignatureCall {
                signature: twin(&good.signature),
                ..good.clone()
            },
        ),
        (
            "no signature",
            verifySignatureCall {
                signature: vec![].into(),
                ..good.clone()
            },
        ),
    ] {
        assert!(!deployed.call(&bad).expect("a view"), "{claim}");
    }
}
