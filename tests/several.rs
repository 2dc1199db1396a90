//! Several gateways on one log: one writes, the others hand over to it, and
//! whatever happens to them or to the database, nothing is lost or forked.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::hash::receipt_commitment;
use protocol::key::VerifierKey;
use protocol::receipt::Receipt;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::binaries::Folder;
use crate::bindings::{Token, Wallet, bind};
use crate::crash::{Held, call_on};
use crate::flow::{chat, holds, receipt, receipt_id};
use crate::gateway::{Gateway, command, free_address, signal, use_database};
use crate::postgres::Server;
use crate::provider::Provider;
use crate::sentinel::{Sees, Sentinel};

/// A data folder for a gateway on the database at `url`, with the keys of
/// another one's.
fn joining(first: Option<&Folder>, url: &str) -> Folder {
    let data = Folder::new();
    for key in ["log.key", "evm.key"] {
        if let Some(first) = first {
            fs::copy(first.path().join(key), data.path().join(key)).expect("ours");
        }
    }
    use_database(data.path(), url);
    data
}

/// Two gateways on one log; the first one writes.
struct Two {
    provider: Provider,
    folders: [Folder; 2],
    gateways: [Gateway; 2],
}

impl Two {
    async fn start(url: &str) -> Self {
        let provider = Provider::start().await;
        let first = joining(None, url);
        let writer = Gateway::start(first.path(), provider.url()).await;
        let second = joining(Some(&first), url);
        let follower = Gateway::start(second.path(), provider.url()).await;
        assert!(writes(&writer).await && !writes(&follower).await);
        assert_eq!(writer.vkey(), follower.vkey());
        Self {
            provider,
            folders: [first, second],
            gateways: [writer, follower],
        }
    }
}

/// Whether a gateway is the writer.
async fn writes(gateway: &Gateway) -> bool {
    let metrics = gateway.get("/metrics").await.text().await;
    metrics.expect("whole").contains("\ntally_writer 1\n")
}

/// How long it takes until a gateway is the writer.
async fn takes_over(gateway: &Gateway) -> Duration {
    let begun = Instant::now();
    while !writes(gateway).await {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{}",
            gateway.story()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    begun.elapsed()
}

/// Callers at a gateway, until they are dropped or it dies.
fn load(gateway: &Gateway, callers: usize, held: &Arc<Mutex<Held>>) -> JoinSet<()> {
    let mut set = JoinSet::new();
    for _ in 0..callers {
        let url = gateway.url().to_owned();
        set.spawn(call_on(chat(gateway, "chat.sse"), url, Arc::clone(held)));
    }
    set
}

/// Waits until callers hold so many receipts more.
async fn more(held: &Mutex<Held>, count: usize) {
    let now = || held.lock().expect("no caller panics").receipts.len();
    let (wanted, deadline) = (now() + count, Instant::now() + Duration::from_secs(20));
    while now() < wanted {
        assert!(Instant::now() < deadline, "the load is real: {}", now());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Requires that a log honours what clients hold: every call has its record,
/// none has two, every released receipt is still the log's.
async fn honours(gateway: &Gateway, held: &Mutex<Held>) {
    let (receipts, begun) = {
        let held = held.lock().expect("no caller panics");
        (held.receipts.clone(), held.begun.clone())
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let counts = loop {
        let mut counts = HashMap::<String, usize>::new();
        for entry in &gateway.entries().await[1..] {
            let commitment = entry["receipt"].as_str().expect("a commitment");
            *counts.entry(commitment.to_owned()).or_default() += 1;
        }
        let there =
            |id: &uuid::Uuid| counts.contains_key(&receipt_commitment(id.as_bytes()).to_string());
        let missing = begun.iter().filter(|id| !there(id)).count();
        if missing == 0 {
            break counts;
        }
        assert!(Instant::now() < deadline, "{missing} calls have no record");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(counts.values().all(|n| *n == 1), "a call has two records");
    for (id, file) in &receipts {
        assert_eq!(&receipt(gateway, id).await, file, "{id}");
        holds(gateway, file);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_joins_proves_wallets_totals_at_once() {
    let url = Server::shared().database();
    let provider = Provider::start().await;
    let first = joining(None, &url);
    let writer = Gateway::start(first.path(), provider.url()).await;
    let (token, wallet) = (Token::new(&writer, 1), Wallet::new(1));
    let summed_up = async |gateway: &Gateway| -> u64 {
        let asked = gateway
            .client()
            .post(format!("{}/api/totals", gateway.url()));
        let answer = asked.send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::OK);
        let record: Value =
            serde_json::from_str(&answer.text().await.expect("whole")).expect("JSON");
        let entry = record["entry"].as_str().expect("a text");
        let entry: Value = serde_json::from_str(entry).expect("JSON");
        entry["size"].as_u64().expect("a number")
    };
    bind(&writer, &token, &wallet).await;
    summed_up(&writer).await;
    // What the newest totals leave out.
    token.call(&writer, "").await;
    let second = joining(Some(&first), &url);
    let follower = Gateway::start(second.path(), provider.url()).await;
    assert!(!writes(&follower).await);
    let answer = follower
        .json(&format!("/api/wallet/{}", wallet.address()))
        .await;
    assert!(answer["proof"]["totals"].is_object(), "{answer}");
    assert_eq!(answer["proof"]["leaves"].as_array().map(Vec::len), Some(1));
    // Whoever is asked for totals answers those that leave nothing out.
    for round in 0..10 {
        token.call(&follower, "").await;
        let size = follower.reaches(0).await;
        let over = summed_up(&follower).await;
        assert!(over >= size, "round {round}: over {over} of {size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_share_a_log() {
    let url = Server::shared().database();
    let two = Two::start(&url).await;
    let [writer, follower] = &two.gateways;
    let held = Arc::new(Mutex::new(Held::default()));
    let callers = [load(writer, 6, &held), load(follower, 6, &held)];
    let sentinel = Sentinel::fresh().with(&["--vkey", writer.vkey()]);
    for _ in 0..2 {
        more(&held, 20).await;
        for gateway in [writer, follower] {
            let pass = sentinel.patient_pass(gateway.url());
            assert_eq!(pass.compare(&Sees::Verified), Ok(()));
        }
    }
    for mut callers in callers {
        callers.shutdown().await;
    }
    for gateway in [writer, follower] {
        honours(gateway, &held).await;
    }

    // What the follower answers itself: a receipt within the answer, and sums.
    let call = chat(follower, "chat.json").header("x-tally-receipt", "inline");
    let answer = call.send().await.expect("answers");
    let id = receipt_id(answer.headers());
    let note = answer.headers()["x-tally-receipt"].as_bytes();
    let note = STANDARD.decode(note).expect("base64");
    let key = VerifierKey::parse(follower.vkey()).expect("a vkey");
    let opened = Receipt::open(&note, &key).expect("a receipt");
    assert_eq!(receipt(writer, &id).await["index"], opened.index().get());
    let size = writer.json("/api/chain").await["size"]
        .as_u64()
        .expect("a size");
    follower.reaches(size).await;
    for path in [
        "/api/stats",
        "/api/models",
        "/api/leaderboard",
        "/api/chain",
    ] {
        assert_eq!(writer.json(path).await, follower.json(path).await, "{path}");
    }

    // Retrieved twice, at two gateways: one record, and no call that waits for ever.
    let before = size;
    for gateway in [follower, writer, follower] {
        let url = format!("{}/openai/v1/responses/responses.json", gateway.url());
        let answer = gateway.client().get(url).send().await.expect("answers");
        let id = receipt_id(answer.headers());
        answer.bytes().await.expect("whole");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let answer = gateway.get(&format!("/api/receipts/{id}")).await;
            if answer.status() != StatusCode::ACCEPTED {
                break;
            }
            assert!(Instant::now() < deadline, "{id} waits for ever");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(writer.reaches(before + 1).await, before + 1);

    refuses_strangers(&two, &url);
    let pass = sentinel.patient_pass(follower.url());
    assert_eq!(pass.compare(&Sees::Verified), Ok(()));

    // A writer that is stopped leaves at once.
    let [writer, follower] = two.gateways;
    assert!(writer.stop().0.success());
    let took = takes_over(&follower).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    let answer = chat(&follower, "chat.json").send().await.expect("answers");
    holds(
        &follower,
        &receipt(&follower, &receipt_id(answer.headers())).await,
    );
}

/// A gateway without the log's keys, or with others, does not start.
fn refuses_strangers(two: &Two, url: &str) {
    let stranger = joining(None, url);
    let foreign = joining(None, url);
    for key in ["log.key", "evm.key"] {
        let path = foreign.path().join(key);
        fs::copy(two.folders[0].path().join(key), &path).expect("ours");
    }
    fs::write(
        foreign.path().join("log.key"),
        format!("{}\n", "11".repeat(32)),
    )
    .expect("ours");
    for (data, hint) in [
        (&stranger, "copy it from another gateway"),
        (&foreign, "are not those of the log"),
    ] {
        let mut command = command(data.path(), two.provider.url(), &free_address());
        let refused = command.output().expect("it starts");
        let story = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{story}");
        assert!(story.contains(hint) && !story.contains(url), "{story}");
    }
    assert!(
        !stranger.path().join("log.key").exists(),
        "no key is made for it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_is_followed() {
    let mut two = Two::start(&Server::shared().database()).await;
    let held = Arc::new(Mutex::new(Held::default()));
    let sentinel = Sentinel::fresh().with(&["--vkey", two.gateways[0].vkey()]);
    for kill in 0..3_u64 {
        let [writer, follower] = two.gateways;
        let mut hanging = JoinSet::new();
        for _ in 0..2 {
            let url = writer.url().to_owned();
            hanging.spawn(call_on(chat(&writer, "hang:"), url, Arc::clone(&held)));
        }
        let mut callers = [load(&writer, 6, &held), load(&follower, 6, &held)];
        more(&held, 30).await;
        writer.kill();
        let took = takes_over(&follower).await;
        eprintln!("kill {kill}: taken over after {} ms", took.as_millis());
        assert!(took < Duration::from_secs(9), "{took:?}");
        // The new writer's callers go on, and those who waited get receipts.
        more(&held, 20).await;
        for callers in &mut callers {
            callers.shutdown().await;
        }
        let killed = &two.folders[0];
        let back = Gateway::start(killed.path(), two.provider.url()).await;
        assert!(!writes(&back).await && writes(&follower).await);
        honours(&back, &held).await;
        let pass = sentinel.patient_pass(follower.url());
        assert_eq!(pass.compare(&Sees::Verified), Ok(()), "kill {kill}");
        let unknown = back.entries().await;
        let unknown = unknown.iter().filter(|e| e["outcome"] == "unknown").count();
        assert!(
            unknown as u64 >= 2 * (kill + 1),
            "hanging calls come back: {unknown}"
        );
        two.folders.swap(0, 1);
        two.gateways = [follower, back];
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_writer_writes_nothing_when_it_wakes() {
    let two = Two::start(&Server::shared().database()).await;
    let [stopped, heir] = &two.gateways;
    let held = Arc::new(Mutex::new(Held::default()));
    let mut callers = [load(stopped, 6, &held), load(heir, 6, &held)];
    let sentinel = Sentinel::fresh().with(&["--vkey", heir.vkey()]);
    more(&held, 30).await;
    signal(stopped.pid(), "STOP");
    let took = takes_over(heir).await;
    eprintln!("stop: taken over after {} ms", took.as_millis());
    assert!(took < Duration::from_secs(10), "{took:?}");
    let size = heir.json("/api/chain").await["size"]
        .as_u64()
        .expect("a size");
    assert!(
        heir.reaches(size + 20).await >= size + 20,
        "the heir writes"
    );
    signal(stopped.pid(), "CONT");
    let deadline = Instant::now() + Duration::from_secs(10);
    while writes(stopped).await {
        assert!(Instant::now() < deadline, "it notices: {}", stopped.story());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Its callers go on: what it could not commit is handed over.
    let answer = chat(stopped, "chat.json").send().await.expect("answers");
    holds(
        stopped,
        &receipt(stopped, &receipt_id(answer.headers())).await,
    );
    for callers in &mut callers {
        callers.shutdown().await;
    }
    assert!(
        stopped
            .story()
            .contains("another gateway writes this log now")
    );
    assert!(writes(heir).await && !writes(stopped).await);
    for gateway in [stopped, heir] {
        honours(gateway, &held).await;
        let pass = sentinel.patient_pass(gateway.url());
        assert_eq!(pass.compare(&Sees::Verified), Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_crashes_and_returns_loses_nothing() {
    let mut server = Server::start();
    let two = Two::start(&server.database()).await;
    let [first, second] = &two.gateways;
    let held = Arc::new(Mutex::new(Held::default()));
    let mut callers = [load(first, 6, &held), load(second, 6, &held)];
    for _ in 0..2 {
        more(&held, 20).await;
        server.crash();
        for gateway in [first, second] {
            let deadline = Instant::now() + Duration::from_secs(10);
            while gateway.get("/readyz").await.status() == StatusCode::OK {
                assert!(Instant::now() < deadline, "/readyz tells");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // Calls are taken all the same; their records wait.
            let answer = chat(gateway, "chat.json").send().await.expect("answers");
            assert_eq!(answer.status(), StatusCode::OK);
            let id = receipt_id(answer.headers());
            held.lock().expect("no caller panics").begun.insert(id);
        }
        server.resume();
        let size = held.lock().expect("no caller panics").begun.len() as u64;
        for gateway in [first, second] {
            assert!(gateway.reaches(size).await >= size, "{}", gateway.story());
        }
    }
    for callers in &mut callers {
        callers.shutdown().await;
    }
    let pass = Sentinel::fresh().with(&["--vkey", first.vkey()]);
    for gateway in [first, second] {
        honours(gateway, &held).await;
        let pass = pass.patient_pass(gateway.url());
        assert_eq!(pass.compare(&Sees::Verified), Ok(()));
    }
    let both = [writes(first).await, writes(second).await];
    assert_eq!(both.iter().filter(|w| **w).count(), 1, "one of them writes");
}
