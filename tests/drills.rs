//! Bad days that have ended other logs: an older copy of the database, a full,
//! failing, read-only or slow disk, a damaged page, a clock that jumps.
//!
//! After each: no fork, no acknowledged record lost, and a restart mends it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use uuid::Uuid;

use crate::binaries::Folder;
use crate::flow::{chat, receipt, receipt_id};
use crate::gateway::{Gateway, back_up, command, free_address, put_back, use_database};
use crate::postgres::Server;
use crate::provider::Provider;
use crate::sentinel::{Sees, Sentinel};

/// Calls, one after the other; their receipt ids.
async fn answered(gateway: &Gateway, count: usize) -> Vec<Uuid> {
    let mut ids = vec![];
    for _ in 0..count {
        let answer = chat(gateway, "chat.json").send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::OK);
        ids.push(receipt_id(answer.headers()));
        answer.bytes().await.expect("whole");
    }
    ids
}

/// The same, and each receipt.
async fn calls(gateway: &Gateway, count: usize) -> Vec<(Uuid, Value)> {
    let mut receipts = vec![];
    for id in answered(gateway, count).await {
        receipts.push((id, receipt(gateway, &id).await));
    }
    receipts
}

async fn honours(gateway: &Gateway, receipts: &[(Uuid, Value)]) {
    for (id, file) in receipts {
        assert_eq!(&receipt(gateway, id).await, file, "a released receipt");
    }
}

fn verifies(sentinel: &Sentinel, gateway: &Gateway) {
    let pass = sentinel.patient_pass(gateway.url());
    assert_eq!(pass.compare(&Sees::Verified), Ok(()));
}

/// Starts a gateway that must refuse, and say why.
fn refuses(data: &Path, provider: &Provider, why: &str) {
    let plain = command(data, provider.url(), &free_address());
    // One that does not refuse is ended: with 124.
    let mut within = Command::new("timeout");
    within.arg("20").arg(plain.get_program());
    let output = within.args(plain.get_args()).output();
    let output = output.expect("the gateway was built");
    let story = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{story}");
    assert!(story.contains(why), "expected {why:?}: {story}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_copy_of_the_database_is_refused() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let mut receipts = calls(&gateway, 3).await;
    verifies(&sentinel, &gateway);
    assert!(gateway.stop().0.success());
    let yesterday = back_up(data.path());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    receipts.extend(calls(&gateway, 3).await);
    // Not even a second later: what was released is taken down at once.
    gateway.kill();
    // PostgreSQL notices after a moment that its client is gone.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let today = back_up(data.path());

    put_back(yesterday.path(), data.path());
    let head = fs::read(data.path().join("log.head")).expect("there");
    let older = "is older than the log: it holds 4 entries, and a checkpoint of 7";
    refuses(data.path(), &provider, older);
    assert_eq!(fs::read(data.path().join("log.head")).expect("there"), head);

    // The same key on the older copy elsewhere: the log's other future.
    for key in ["log.key", "evm.key"] {
        fs::copy(data.path().join(key), yesterday.path().join(key)).expect("ours");
    }
    let fork = Gateway::start(yesterday.path(), provider.url()).await;
    calls(&fork, 5).await;
    assert!(fork.stop().0.success());
    put_back(yesterday.path(), data.path());
    let other = "its first 7 entries have another root";
    refuses(data.path(), &provider, other);

    put_back(today.path(), data.path());
    fs::write(data.path().join("log.head"), "cut off").expect("ours");
    refuses(
        data.path(),
        &provider,
        "does not hold a checkpoint of this log",
    );
    fs::write(data.path().join("log.head"), head).expect("ours");
    let gateway = Gateway::start(data.path(), provider.url()).await;
    honours(&gateway, &receipts).await;
    calls(&gateway, 1).await;
    verifies(&sentinel, &gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_follows_takes_no_older_database_over() {
    let (provider, first, second) = (Provider::start().await, Folder::new(), Folder::new());
    let url = Server::shared().database();
    use_database(first.path(), &url);
    use_database(second.path(), &url);
    let writer = Gateway::start(first.path(), provider.url()).await;
    calls(&writer, 2).await;
    assert!(writer.stop().0.success());
    let yesterday = back_up(first.path());
    let writer = Gateway::start(first.path(), provider.url()).await;
    for key in ["log.key", "evm.key"] {
        fs::copy(first.path().join(key), second.path().join(key)).expect("ours");
    }
    let follower = Gateway::start(second.path(), provider.url()).await;
    calls(&writer, 3).await;
    assert_eq!(follower.reaches(6).await, 6);
    writer.kill();
    put_back(yesterday.path(), first.path());
    // It follows what it saw itself, and after a restart what it took down.
    let story = follower.ends();
    assert!(story.contains("does not go on from where"), "{story}");
    let older = "is older than the log: it holds 3 entries, and a checkpoint of 6";
    for data in [&second, &first] {
        refuses(data.path(), &provider, older);
    }
}
