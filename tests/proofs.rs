//! Proofs as the gateway serves them, verified with the log's key alone.

use protocol::checkpoint::Checkpoint;
use protocol::hash::Hash;
use protocol::index::{Index, TreeSize};
use protocol::key::VerifierKey;
use protocol::proof::{verify_consistency, verify_inclusion};
use protocol::tlog_proof::TlogProof;
use serde_json::Value;

use crate::binaries::Folder;
use crate::flow::chat;
use crate::gateway::Gateway;
use crate::provider::Provider;

/// Entries of the log: that of kind `log`, and the calls'.
const SIZE: u64 = 12;

async fn log() -> (Provider, Folder, Gateway, Vec<String>) {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let mut receipts = vec![];
    for _ in 1..SIZE {
        let answer = chat(&gateway, "chat.json").send().await.expect("answers");
        let id = answer.headers()["x-tally-receipt-id"].to_str();
        receipts.push(id.expect("an id").to_owned());
        answer.bytes().await.expect("whole");
    }
    assert_eq!(gateway.reaches(SIZE).await, SIZE);
    (provider, data, gateway, receipts)
}

async fn json(gateway: &Gateway, path: &str) -> Value {
    let answer = gateway.get(path).await;
    assert_eq!(answer.status(), 200, "{path}");
    serde_json::from_str(&answer.text().await.expect("whole")).expect("JSON")
}

fn hash(value: &Value) -> Hash {
    Hash::from_base64(value.as_str().expect("a string")).expect("a hash in base64")
}

fn hashes(value: &Value) -> Vec<Hash> {
    value["hashes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(hash)
        .collect()
}

fn size(n: u64) -> TreeSize {
    TreeSize::new(n).expect("small")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_is_in_every_tree_that_covers_it() {
    let (_provider, _data, gateway, _) = log().await;
    let newest = json(&gateway, "/api/chain").await;
    for tree in 1..=SIZE {
        for index in 0..tree {
            let path = format!("/api/proof/inclusion?index={index}&size={tree}");
            let proof = json(&gateway, &path).await;
            let record = json(&gateway, &format!("/api/records/{index}")).await;
            let leaf = Hash::leaf(record["entry"].as_str().expect("text").as_bytes());
            assert_eq!(hash(&proof["leaf_hash"]), leaf);
            let index = Index::new(index).expect("small");
            let root = hash(&proof["root"]);
            let verified = verify_inclusion(leaf, index, (size(tree), root), &hashes(&proof));
            assert_eq!(verified, Ok(()), "{path}");
            if tree == SIZE {
                assert_eq!(proof["root"], newest["root_base64"]);
            }
        }
        for from in 0..=tree {
            let path = format!("/api/proof/consistency?from={from}&to={tree}");
            let proof = json(&gateway, &path).await;
            let (old, new) = (hash(&proof["from_root"]), hash(&proof["to_root"]));
            let verified =
                verify_consistency((size(from), old), (size(tree), new), &hashes(&proof));
            assert_eq!(verified, Ok(()), "{path}");
        }
    }
    for bad in [
        "inclusion?index=12&size=12",
        "inclusion?index=0&size=0",
        "inclusion?index=0&size=13",
        "inclusion?index=-1",
        "inclusion",
        "consistency?from=13&to=12",
        "consistency?from=1&to=99",
        "consistency?from=1&to=9007199254740993",
        "consistency?to=3",
    ] {
        let answer = gateway.get(&format!("/api/proof/{bad}")).await;
        assert_eq!(answer.status(), 400, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_comes_with_its_proof_when_asked() {
    let (_provider, _data, gateway, receipts) = log().await;
    let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
    for id in receipts {
        // Published within a second of being durable.
        let file = loop {
            let answer = gateway.get(&format!("/api/receipts/{id}?proof=1")).await;
            match answer.status().as_u16() {
                202 => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                status => {
                    assert_eq!(status, 200);
                    let text = answer.text().await.expect("whole");
                    break serde_json::from_str::<Value>(&text).expect("JSON");
                }
            }
        };
        let proof = file["proof"].as_str().expect("a proof");
        let proof = TlogProof::parse(proof.as_bytes()).expect("of the form");
        assert_eq!(proof.index.get(), file["index"].as_u64().expect("a number"));
        let leaf = Hash::leaf(file["entry"].as_str().expect("text").as_bytes());
        let checkpoint: Checkpoint = proof.verify(leaf, &key).expect("it proves the entry");
        assert!(checkpoint.size().get() <= SIZE);
        assert!(proof.verify(Hash::of(b"another"), &key).is_err());

        let plain = json(&gateway, &format!("/api/receipts/{id}")).await;
        assert!(plain.get("proof").is_none(), "only when asked");
        let path = format!("/api/records/{}/proof", proof.index);
        let text = gateway.get(&path).await.text().await.expect("whole");
        let same = TlogProof::parse(text.as_bytes()).expect("of the form");
        same.verify(leaf, &key).expect("it proves the entry");
    }
    for (path, status) in [
        ("/api/records/12/proof", 404),
        ("/api/records/x/proof", 400),
    ] {
        assert_eq!(gateway.get(path).await.status(), status, "{path}");
    }
}
