//! The test vectors: what a log signs, by another implementation, is what the
//! contract takes, and what it must not take is refused.

use std::fs;
use std::path::Path;

use alloy_primitives::{Address, B256, Bytes};
use anchor::contract::TallystickAnchor::{
    TallystickAnchorErrors as Refusal, postCall, retireCall, verifySignatureCall,
};
use protocol::anchor::ChainLog;
use protocol::key::VerifierKey;
use serde_json::Value;

use crate::chain::{Chain, of};

fn each(group: &str, check: fn(&Value, &mut Chain, Address)) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/anchors.json");
    let file = fs::read(path).expect("in the tree");
    let file: Value = serde_json::from_slice(&file).expect("vector files are JSON");
    let cases = file[group].as_array().expect("a group is a list");
    assert!(!cases.is_empty(), "{group}");
    for case in cases {
        let log = log(text(case, "vkey"), text(case, "evm_key"));
        let mut chain = Chain::new();
        let (contract, _) = chain.deploy(&log);
        check(case, &mut chain, contract);
    }
}

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().expect("a text")
}

fn bytes(case: &Value, name: &str) -> Bytes {
    text(case, name).parse().expect("hex")
}

fn log(vkey: &str, evm_key: &str) -> ChainLog {
    let key = VerifierKey::parse(vkey).expect("a vkey");
    let evm_key = protocol::name::Address::from_canonical(evm_key).expect("an address");
    ChainLog::new(&key, evm_key)
}

fn post(case: &Value) -> postCall {
    postCall {
        size: case["size"].as_u64().expect("a number"),
        root: B256::from_slice(&bytes(case, "root")),
        time: case["time"].as_u64().expect("a number"),
        proof: vec![],
        signature: bytes(case, "signature"),
    }
}

fn verified(post: &postCall, chain: &mut Chain, contract: Address) -> bool {
    let call = verifySignatureCall {
        size: post.size,
        root: post.root,
        time: post.time,
        signature: post.signature.clone(),
    };
    chain.call(contract, &call).expect("a view")
}

#[test]
fn contracts_stand_where_the_vectors_say() {
    each("logs", |case, _, contract| {
        let expected: Address = text(case, "contract").parse().expect("an address");
        assert_eq!(contract, expected, "{case}");
    });
}

#[test]
fn signed_checkpoints_are_anchored() {
    each("checkpoints", |case, chain, contract| {
        let post = post(case);
        assert!(verified(&post, chain, contract), "{case}");
        chain.send(contract, &post).expect("signed");
    });
}

#[test]
fn bad_signatures_are_refused() {
    each("signatures_bad", |case, chain, contract| {
        let post = post(case);
        assert!(!verified(&post, chain, contract), "{case}");
        let refusal = chain.send(contract, &post).expect_err("not signed");
        let expected = matches!(
            refusal,
            Refusal::MalformedSignature(_) | Refusal::NotSignedByLog(_)
        );
        assert!(expected, "{case}: {refusal:?}");
    });
}

#[test]
fn signed_retirements_are_taken() {
    each("retirements", |case, chain, contract| {
        let next = case["next_vkey"].as_str();
        let next = next.map(|vkey| log(vkey, text(case, "next_evm_key")));
        let call = retireCall {
            origin_: next.as_ref().map_or("", |log| log.origin().as_str()).into(),
            logKey_: next.as_ref().map_or([0; 32], |log| *log.log_key()).into(),
            evmKey_: next.as_ref().map_or(Address::ZERO, |log| of(log.evm_key())),
            signature: bytes(case, "signature"),
        };
        chain.send(contract, &call).expect("signed");
    });
}
