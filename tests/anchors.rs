//! What a gateway gives for anchoring: its published checkpoint, signed with the EVM key.

use std::time::{Duration, Instant};

use alloy_primitives::Signature;
use protocol::anchor::ChainLog;
use protocol::checkpoint::Checkpoint;
use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::index::Time;
use protocol::key::VerifierKey;
use serde_json::Value;

use crate::binaries::Folder;
use crate::flow::chat;
use crate::gateway::Gateway;
use crate::provider::Provider;

#[tokio::test(flavor = "multi_thread")]
async fn every_published_checkpoint_is_signed_by_the_evm_key_of_entry_0() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
    let mut signed = vec![];
    for size in 1..4_u64 {
        let published = published(&gateway, size).await;
        signed.push(verified(&gateway, &key, &published).await);
        let answer = chat(&gateway, "chat.json").send().await.expect("answers");
        answer.bytes().await.expect("whole");
    }
    let last = published(&gateway, 4).await;
    gateway.stop();
    // The same statement by another process.
    let gateway = Gateway::start(data.path(), provider.url()).await;
    assert_eq!(published(&gateway, 4).await["signature"], last["signature"]);
    signed.dedup();
    assert_eq!(signed.len(), 3, "each size has its own");
}

/// What `/api/chain` says of the published checkpoint of `size` entries.
async fn published(gateway: &Gateway, size: u64) -> Value {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let published = gateway.json("/api/chain").await["published"].take();
        if published["size"] == size {
            return published;
        }
        assert!(Instant::now() < deadline, "{size} is not published");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The signature, once it is what section 13.1 asks for.
async fn verified(gateway: &Gateway, key: &VerifierKey, published: &Value) -> String {
    let text = |field: &str| published[field].as_str().expect("a text");
    let checkpoint = Checkpoint::open(text("checkpoint").as_bytes(), key).expect("the log's");
    let size = checkpoint.size();
    assert_eq!(size.get(), published["size"].as_u64().expect("a number"));
    assert_eq!(Some(checkpoint.root()), Hash::from_hex(text("root")));
    let last = entry(gateway, size.get() - 1).await;
    let time = published["time"].as_u64().and_then(Time::from_secs);
    assert_eq!(time, Some(last.time()));
    let Entry::Known {
        body: Body::Log(log),
        ..
    } = entry(gateway, 0).await
    else {
        panic!("entry 0 says what the log is");
    };
    let digest =
        ChainLog::new(key, log.evm_key).checkpoint_digest(size, checkpoint.root(), last.time());
    let signature: Signature = text("signature").parse().expect("r, s and v");
    assert!(signature.normalize_s().is_none(), "s is low");
    let signer = signature.recover_address_from_prehash(&digest.into());
    assert_eq!(
        signer.expect("a point").into_array(),
        *log.evm_key.as_bytes()
    );
    text("signature").to_owned()
}

async fn entry(gateway: &Gateway, index: u64) -> Entry {
    let record = gateway.json(&format!("/api/records/{index}")).await;
    Entry::parse(record["entry"].as_str().expect("a text").as_bytes()).expect("canonical")
}
