//! Chains as the gateway sees them: anchors that it shows, nodes that lie, and
//! contract wallets.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy_primitives::keccak256;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::anvil::Anvil;
use crate::binaries::{Folder, program};
use crate::bindings::{Token, Wallet, bind, post, signed_on};
use crate::flow::chat;
use crate::gateway::{Gateway, client, free_address};
use crate::provider::Provider;
use crate::sentinel::{Sees, Sentinel};

/// An account that anvil endows, by its key and its address.
const PURSE: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const PAYER: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";

/// How long a look at a chain may take to come to something.
const PATIENCE: Duration = Duration::from_secs(30);

/// A log's folder, and a chain.
struct Scene {
    provider: Provider,
    data: Folder,
    state: Folder,
    anvil: Anvil,
}

impl Scene {
    /// `None` without a chain.
    async fn begin() -> Option<Self> {
        Some(Self {
            anvil: Anvil::start(&[])?,
            provider: Provider::start().await,
            data: Folder::new(),
            state: Folder::new(),
        })
    }

    /// A gateway that looks at the chain through this node.
    async fn gateway(&self, node: &str) -> Gateway {
        let explorers = [
            "--explorer",
            "31337=http://e.x/tx/{tx}",
            "--explorer",
            "31337=http://e.x/at/{address}",
        ];
        let arguments = [&["--rpc-url", node, "--rpc-poll", "1"], &explorers[..]].concat();
        let address = free_address();
        let provider = self.provider.url();
        Gateway::start_at(self.data.path(), provider, &address, &arguments).await
    }

    /// Lets the `anchor` command do something.
    fn anchor(&self, gateway: &Gateway, task: &str) {
        let output = Command::new(program("anchor"))
            .args([task, gateway.url(), "--poll", "100ms"])
            .env("TALLY_ANCHOR_VKEY", gateway.vkey())
            .env("TALLY_ANCHOR_CHAIN", "anvil")
            .env("TALLY_ANCHOR_STATE", self.state.path())
            .env("TALLY_ANCHOR_KEY", PURSE)
            .env("TALLY_ANCHOR_RPC_URL", self.anvil.url())
            .output();
        let output = output.expect("it was built");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{task}: {said}");
    }

    /// A contract and two anchors, some blocks apart.
    async fn anchored(&self) {
        let gateway = Gateway::start(self.data.path(), self.provider.url()).await;
        self.anchor(&gateway, "deploy");
        for _ in 0..2 {
            self.mine(20).await;
            call(&gateway).await;
            self.anchor(&gateway, "once");
        }
        gateway.stop();
    }

    async fn mine(&self, blocks: u64) {
        let blocks = json!([format!("0x{blocks:x}")]);
        self.anvil.ask("anvil_mine", blocks).await;
    }
}

/// A call, once its record is published.
async fn call(gateway: &Gateway) {
    let before = gateway.reaches(0).await;
    let answer = chat(gateway, "chat.json").send().await.expect("answers");
    answer.bytes().await.expect("whole");
    assert!(gateway.reaches(before + 1).await > before);
    published(gateway).await;
}

/// Until all that is durable is published.
async fn published(gateway: &Gateway) {
    let size = gateway.reaches(0).await;
    until(gateway, "it is published", async || {
        gateway.json("/api/chain").await["published"]["size"].as_u64() >= Some(size)
    })
    .await;
}

/// `/api/anchors`, once it is as it must be.
async fn listed(gateway: &Gateway, done: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let list = gateway.json("/api/anchors").await;
        if done(&list) {
            return list;
        }
        let story = gateway.story();
        assert!(Instant::now() < deadline, "{list:#}\n{story}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn of(list: &Value) -> &[Value] {
    list["anchors"].as_array().expect("a list")
}

fn number(hex: &Value) -> u64 {
    let digits = hex.as_str().and_then(|hex| hex.strip_prefix("0x"));
    u64::from_str_radix(digits.expect("a quantity"), 16).expect("a number")
}

/// The chains that the log's entries name.
async fn named(gateway: &Gateway) -> Vec<Value> {
    let entries = gateway.entries().await.into_iter();
    let anchors = entries.filter(|entry| entry["kind"] == "anchor");
    anchors.map(|entry| entry["chain_id"].clone()).collect()
}

/// Once something is so.
async fn until(gateway: &Gateway, what: &str, done: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "{what}: {}", gateway.story());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anchors_are_shown_with_their_transactions_and_what_they_cover() {
    let Some(scene) = Scene::begin().await else {
        return;
    };
    let gateway = scene.gateway(scene.anvil.url()).await;
    let (alice, token) = (Wallet::new(1), Token::new(&gateway, 7));
    bind(&gateway, &token, &alice).await;
    token.call(&gateway, "").await;
    let none = gateway.json("/api/anchors").await;
    assert_eq!((&none["chains"], of(&none).len()), (&json!([]), 0));

    scene.anchor(&gateway, "deploy");
    until(&gateway, "an entry names the chain", async || {
        named(&gateway).await == [31_337]
    })
    .await;
    for _ in 0..2 {
        token.call(&gateway, "").await;
        let totals = format!("{}/api/totals", gateway.url());
        let totals = gateway.client().post(totals).send().await;
        assert_eq!(totals.expect("answers").status(), StatusCode::OK);
        published(&gateway).await;
        scene.anchor(&gateway, "once");
    }
    token.call(&gateway, "").await;
    let list = listed(&gateway, |list| of(list).len() == 2).await;
    let chain = &list["chains"][0];
    let contract = chain["contract"].as_str().expect("an address");
    assert_eq!(chain["link"], format!("http://e.x/at/{contract}"));
    let flags = [&chain["count"], &chain["forked"], &chain["retired"]];
    assert_eq!(flags, [&json!(2), &json!(false), &json!(false)]);
    assert!(chain["read_at"].is_u64(), "{chain}");
    for (place, anchor) in of(&list).iter().enumerate() {
        assert_eq!(anchor["index"], 1 - place, "newest first");
        let transaction = anchor["transaction"].as_str().expect("a hash");
        assert_eq!(anchor["link"], format!("http://e.x/tx/{transaction}"));
        let question = json!([transaction]);
        let receipt = scene.anvil.ask("eth_getTransactionReceipt", question).await;
        let event = &receipt["logs"][0];
        assert_eq!(event["address"], contract);
        assert_eq!(event["topics"][2], anchor["root"]);
        assert_eq!(number(&event["topics"][1]), anchor["size"]);
        assert_eq!(number(&receipt["blockNumber"]), anchor["block"]);
    }
    assert_eq!(of(&list)[0]["status"], "included");

    // What each covers first.
    let [newer, older] = of(&list) else {
        panic!("two")
    };
    let (first, second) = (older["size"].as_u64(), newer["size"].as_u64());
    let (first, second) = (first.expect("a size"), second.expect("a size"));
    for (index, anchor) in [
        (0, json!(0)),
        (first - 1, json!(0)),
        (first, json!(1)),
        (second - 1, json!(1)),
        (second, Value::Null),
    ] {
        let record = gateway.json(&format!("/api/records/{index}")).await;
        assert_eq!(record["anchor"]["index"], anchor, "{index}: {record}");
    }
    let wallet = gateway
        .json(&format!("/api/wallet/{}", alice.address()))
        .await;
    let totals = wallet["proof"]["totals"]["index"].as_u64();
    assert!(
        totals.is_some_and(|totals| (first..second).contains(&totals)),
        "{first} {second} {wallet:#}"
    );
    assert_eq!(wallet["anchor"], *newer);
    let part = gateway.json("/api/anchors?limit=1").await;
    assert_eq!(
        (of(&part), &part["next"]),
        (&[newer.clone()][..], &json!(second))
    );
    let path = format!("/api/anchors?limit=1&before={second}");
    let part = gateway.json(&path).await;
    assert_eq!(
        (of(&part), &part["next"]),
        (&[older.clone()][..], &Value::Null)
    );

    scene.mine(16).await;
    let finals = |list: &Value| {
        of(list)
            .iter()
            .all(|anchor| anchor["status"] == "finalized")
    };
    let list = listed(&gateway, finals).await;
    let metrics = gateway.get("/metrics").await.text().await.expect("whole");
    for line in [
        "tally_anchors{chain=\"31337\"} 2",
        &format!("tally_anchored_size{{chain=\"31337\"}} {second}"),
        "answer=\"read\"}",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let sentinel = Sentinel::fresh();
    let pass = tokio::task::block_in_place(|| sentinel.patient_pass(gateway.url()));
    pass.compare(&Sees::Verified)
        .unwrap_or_else(|e| panic!("{e}"));
    gateway.stop();

    // What is final is known without a node, and nothing is named twice.
    let gateway = scene.gateway("http://127.0.0.1:9/secret").await;
    let kept = gateway.json("/api/anchors").await;
    assert_eq!(of(&kept), of(&list));
    assert_eq!(kept["chains"][0]["read_at"], Value::Null);
    until(&gateway, "it is told", async || {
        gateway.story().contains("gave no answer to eth_chainId")
    })
    .await;
    let (_, story) = gateway.stop();
    assert!(!story.contains("secret"), "{story}");
    let gateway = scene.gateway(scene.anvil.url()).await;
    listed(&gateway, |list| list["chains"][0]["read_at"].is_u64()).await;
    assert_eq!(named(&gateway).await, [31_337]);
}

/// A way to a node that bends its answers.
#[derive(Clone)]
struct Bent {
    node: String,
    url: String,
    bend: Arc<Mutex<Bend>>,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// Makes another answer to a question.
type Bend = fn(&Value, Value) -> Said;

enum Said {
    Json(Value),
    Text(u16, String),
}

impl Bent {
    async fn to(node: &Anvil) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let bent = Self {
            node: node.url().to_owned(),
            url: format!("http://{}", listener.local_addr().expect("bound")),
            bend: Arc::new(Mutex::new(|_, answer| Said::Json(answer))),
            asked: Arc::default(),
        };
        let router = Router::new().fallback(bent_answer).with_state(bent.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        bent
    }

    fn set(&self, bend: Bend) {
        *self.bend.lock().unwrap_or_else(PoisonError::into_inner) = bend;
    }

    /// How often a method was asked.
    fn asked(&self, method: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(method).copied().unwrap_or_default()
    }
}

async fn bent_answer(State(bent): State<Bent>, body: String) -> (StatusCode, String) {
    let question: Value = serde_json::from_str(&body).expect("JSON-RPC");
    let method = question["method"].as_str().expect("a method").to_owned();
    *bent
        .asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(method)
        .or_default() += 1;
    let asked = client().post(&bent.node).body(body);
    let asked = asked.header("content-type", "application/json").send();
    let text = asked.await.expect("the node runs").text().await;
    let answer = serde_json::from_str(&text.expect("whole")).expect("JSON");
    let bend = *bent.bend.lock().unwrap_or_else(PoisonError::into_inner);
    match bend(&question, answer) {
        Said::Json(answer) => (StatusCode::OK, answer.to_string()),
        Said::Text(status, text) => (StatusCode::from_u16(status).expect("a status"), text),
    }
}

/// Whether a question is a call of this function.
fn calls(question: &Value, function: &str) -> bool {
    let selector = alloy_primitives::hex::encode_prefixed(&keccak256(function)[..4]);
    let data = question["params"][0]["data"].as_str();
    question["method"] == "eth_call" && data.is_some_and(|data| data.starts_with(&selector))
}

/// The answer with another result where the question is this method.
fn instead(method: &str, result: Value) -> impl Fn(&Value, Value) -> Said {
    move |question, mut answer| {
        if question["method"] == method {
            answer["result"] = result.clone();
        }
        Said::Json(answer)
    }
}

/// Puts another word into what is said of an anchor: both in events, at a
/// place among the topics, and in storage, at a place among the words.
fn lie(question: &Value, mut answer: Value, topic: usize, place: usize) -> Said {
    let word = format!("{:064x}", 9_999);
    if let Some(events) = answer["result"].as_array_mut() {
        for event in events {
            event["topics"][topic] = format!("0x{word}").into();
        }
    }
    if calls(question, "anchorAt(uint256)") {
        let mut text = answer["result"].as_str().expect("words").to_owned();
        text.replace_range(2 + 64 * place..2 + 64 * (place + 1), &word);
        answer["result"] = text.into();
    }
    Said::Json(answer)
}

/// A node's lie, what is told of it, and how many anchors are shown.
struct Lie(&'static str, Bend, &'static str, usize);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_says_wrongly_is_told_and_not_shown() {
    let Some(scene) = Scene::begin().await else {
        return;
    };
    scene.anchored().await;
    let bent = Bent::to(&scene.anvil).await;
    let lies = [
        Lie(
            "garbage",
            |_, _| Said::Text(200, "<html>busy</html>".into()),
            "eth_chainId is not what it must be: status 200 OK, 17 bytes",
            0,
        ),
        Lie(
            "too many requests",
            |_, _| Said::Text(429, String::new()),
            "too much was asked",
            0,
        ),
        Lie(
            "no chain",
            |q, a| instead("eth_chainId", json!("0x0"))(q, a),
            "no chain id",
            0,
        ),
        Lie(
            "no block",
            |q, a| instead("eth_getBlockByNumber", Value::Null)(q, a),
            "knows no block",
            0,
        ),
        Lie(
            "other code",
            |q, a| instead("eth_getCode", json!("0x6001600155"))(q, a),
            "its code is another",
            0,
        ),
        Lie(
            "code without end",
            |q, a| instead("eth_getCode", json!(format!("0x{}", "00".repeat(1 << 20))))(q, a),
            "eth_getCode is over 1048576 bytes long",
            0,
        ),
        Lie(
            "another log's name",
            |question, mut answer| {
                if calls(question, "origin()") {
                    answer["result"] = json!(format!("0x{}", "00".repeat(64)));
                }
                Said::Json(answer)
            },
            "its origin is another",
            0,
        ),
        Lie(
            "another contract's event",
            |_, mut answer| {
                for event in answer["result"].as_array_mut().into_iter().flatten() {
                    event["address"] = json!(PAYER);
                }
                Said::Json(answer)
            },
            "an event that was not asked for",
            0,
        ),
        Lie(
            "another root",
            |question, answer| lie(question, answer, 2, 1),
            "does not say what the log's first",
            0,
        ),
        Lie(
            "a larger size",
            |question, answer| lie(question, answer, 1, 0),
            "covers 9999 entries, more than the log has",
            0,
        ),
        Lie(
            "an event with another root",
            |_, mut answer| {
                let newest = answer["result"].as_array_mut();
                if let Some(newest) = newest.and_then(|events| events.last_mut()) {
                    newest["topics"][2] = newest["topics"][1].clone();
                }
                Said::Json(answer)
            },
            "and another in its storage",
            1,
        ),
        Lie(
            "an event that is missing",
            |question, mut answer| {
                if calls(question, "count()") {
                    answer["result"] = json!(format!("0x{:064x}", 3));
                }
                Said::Json(answer)
            },
            "holds anchor 2, and the node does not find its event",
            2,
        ),
    ];
    for Lie(name, bend, told, shown) in lies {
        bent.set(bend);
        let gateway = scene.gateway(&bent.url).await;
        until(&gateway, name, async || gateway.story().contains(told)).await;
        call(&gateway).await;
        let list = gateway.json("/api/anchors").await;
        assert_eq!(of(&list).len(), shown, "{name}: {list:#}");
        gateway.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_gives_few_blocks_at_once_is_read_all_the_same() {
    let Some(scene) = Scene::begin().await else {
        return;
    };
    scene.anchored().await;
    let bent = Bent::to(&scene.anvil).await;
    bent.set(|question, mut answer| {
        let filter = &question["params"][0];
        if question["method"] == "eth_getLogs"
            && number(&filter["toBlock"]) - number(&filter["fromBlock"]) > 4
        {
            let error = json!({"code": -32_602, "message": "at most 5 blocks"});
            answer = json!({"id": 1, "error": error});
        }
        Said::Json(answer)
    });
    let gateway = scene.gateway(&bent.url).await;
    listed(&gateway, |list| of(list).len() == 2).await;
    // What is known is not looked for again.
    scene.mine(16).await;
    let finals = |list: &Value| {
        of(list)
            .iter()
            .all(|anchor| anchor["status"] == "finalized")
    };
    listed(&gateway, finals).await;
    let (logs, looks) = (bent.asked("eth_getLogs"), bent.asked("eth_chainId"));
    until(&gateway, "two more looks", async || {
        bent.asked("eth_chainId") >= looks + 2
    })
    .await;
    assert_eq!(bent.asked("eth_getLogs"), logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_final_is_dropped_only_with_its_chain() {
    let Some(mut scene) = Scene::begin().await else {
        return;
    };
    scene.anchored().await;
    scene.mine(16).await;
    let bent = Bent::to(&scene.anvil).await;
    let gateway = scene.gateway(&bent.url).await;
    let finals = |list: &Value| {
        of(list).len() == 2
            && of(list)
                .iter()
                .all(|anchor| anchor["status"] == "finalized")
    };
    let list = listed(&gateway, finals).await;
    let lies: [(Bend, &str); 3] = [
        (
            |question, answer| instead("eth_chainId", json!("0x1"))(question, answer),
            "is of chain 1 now, and was of chain 31337",
        ),
        (
            |question, mut answer| {
                if calls(question, "count()") {
                    answer["result"] = json!(format!("0x{:064x}", 1));
                }
                Said::Json(answer)
            },
            "holds 1 anchors, of which 2 were final before",
        ),
        (
            |question, mut answer| {
                if question["params"][0] == "latest" {
                    answer["result"]["number"] = json!("0x2");
                }
                Said::Json(answer)
            },
            "the node is behind",
        ),
    ];
    for (bend, told) in lies {
        bent.set(bend);
        until(&gateway, told, async || gateway.story().contains(told)).await;
        assert_eq!(of(&gateway.json("/api/anchors").await), of(&list));
        bent.set(|_, answer| Said::Json(answer));
        let before = gateway.json("/api/anchors").await["chains"][0]["read_at"].as_u64();
        listed(&gateway, |list| {
            list["chains"][0]["read_at"].as_u64() > before
        })
        .await;
    }
    gateway.stop();

    // The same id, and another chain: a developer's node that began anew.
    let Some(anew) = Anvil::start(&[]) else {
        return;
    };
    scene.anvil = anew;
    scene.state = Folder::new();
    scene.mine(60).await;
    let gateway = scene.gateway(scene.anvil.url()).await;
    let list = listed(&gateway, |list| of(list).is_empty()).await;
    assert_eq!(list["chains"], json!([]), "{list:#}");
    assert!(gateway.story().contains("what was read of it is forgotten"));
    scene.anchor(&gateway, "deploy");
    scene.anchor(&gateway, "once");
    listed(&gateway, |list| of(list).len() == 1).await;
    assert_eq!(named(&gateway).await, [31_337], "named once for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_in_a_block_that_is_dropped_is_found_again_where_it_stands() {
    let Some(scene) = Scene::begin().await else {
        return;
    };
    let gateway = scene.gateway(scene.anvil.url()).await;
    scene.anchor(&gateway, "deploy");
    scene.mine(16).await;
    until(&gateway, "an entry names the chain", async || {
        named(&gateway).await == [31_337]
    })
    .await;
    call(&gateway).await;
    let snapshot = scene.anvil.ask("evm_snapshot", json!([])).await;
    scene.anchor(&gateway, "once");
    let before = listed(&gateway, |list| of(list).len() == 1).await;
    let block = of(&before)[0]["block"].as_u64().expect("a number");
    // The chain goes back, and on without it.
    scene.anvil.ask("evm_revert", json!([snapshot])).await;
    scene.mine(3).await;
    listed(&gateway, |list| {
        of(list).is_empty() && list["chains"][0]["count"] == 0
    })
    .await;
    scene.anchor(&gateway, "once");
    let again = listed(&gateway, |list| of(list).len() == 1).await;
    let there = of(&again)[0]["block"].as_u64().expect("a number");
    assert!(there > block, "{again:#}");
}

/// The code of a wallet that is a contract, in EVM assembly: of
/// `isValidSignature(hash, r || s || v)` it recovers the signer by the
/// precompile at 1, and answers `0x1626ba7e` if that is its owner, else 0.
fn wallet_code(owner: &str) -> String {
    let runtime = [
        "600435600052",       // mem[0]   = calldata[4]:    the hash
        "60a43560001a602052", // mem[32]  = calldata[0xa4]: the byte v
        "606435604052",       // mem[64]  = calldata[0x64]: r
        "608435606052",       // mem[96]  = calldata[0x84]: s
        "6020608060806000",   // 32 bytes to mem[128], of 128 bytes from mem[0]
        "60015afa50",         // staticcall(gas, 1, ..)
        "60805173",           // mem[128] == owner
        &owner[2..],
        "14631626ba7e02",         // times the magic value
        "60e01b60005260206000f3", // shifted to the left of a word, and returned
    ]
    .concat();
    // Copies what follows these 11 bytes to memory and leaves it as code.
    format!("0x60{:02x}80600b6000396000f3{runtime}", runtime.len() / 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_wallet_binds_a_key_at_a_block_that_is_final() {
    let Some(scene) = Scene::begin().await else {
        return;
    };
    let (owner, stranger) = (Wallet::new(1), Wallet::new(2));
    let creation = json!([{"from": PAYER, "data": wallet_code(&owner.address())}]);
    let sent = scene.anvil.ask("eth_sendTransaction", creation).await;
    let receipt = scene
        .anvil
        .ask("eth_getTransactionReceipt", json!([sent]))
        .await;
    let wallet = receipt["contractAddress"].as_str().expect("an address");
    let bent = Bent::to(&scene.anvil).await;
    let gateway = scene.gateway(&bent.url).await;
    let token = Token::new(&gateway, 7);
    let by_token: &[(&str, &str)] = &[("x-tally-link", token.text())];
    let ask = async |wallet: &str, chain: u64, signer: &Wallet| {
        let fields = signed_on(&gateway, &token.key_id, wallet, chain, signer).await;
        let (status, answer) = post(&gateway, by_token, &fields).await;
        (status.as_u16(), answer)
    };
    let refused = |(status, answer): (u16, Value), expected: (u16, &str, &str)| {
        assert_eq!(
            (status, answer["code"].as_str()),
            (expected.0, Some(expected.1)),
            "{answer}"
        );
        let message = answer["message"].as_str().expect("a text");
        assert!(message.contains(expected.2), "{message}");
    };
    // Its block is not final yet.
    let bad = "bad_signature";
    refused(
        ask(wallet, 31_337, &owner).await,
        (400, bad, "once its block is final"),
    );
    scene.mine(16).await;
    refused(
        ask(wallet, 31_337, &stranger).await,
        (400, bad, "not valid"),
    );
    let nobody = stranger.address();
    refused(
        ask(&nobody, 31_337, &owner).await,
        (400, bad, "no contract"),
    );
    refused(
        ask(wallet, 1, &owner).await,
        (400, "unknown_chain", "no node of chain 1"),
    );
    bent.set(|_, _| Said::Text(503, String::new()));
    refused(
        ask(wallet, 31_337, &owner).await,
        (503, "try_again", "no answer"),
    );
    bent.set(|_, answer| Said::Json(answer));
    assert_eq!(gateway.reaches(0).await, 1, "nothing was appended");

    let (status, record) = ask(wallet, 31_337, &owner).await;
    assert_eq!(status, 200, "{record}");
    let entry = record["entry"].as_str().expect("a text");
    let entry: Value = serde_json::from_str(entry).expect("JSON");
    assert_eq!(
        (&entry["scheme"], &entry["wallet"]),
        (&json!("eip1271"), &json!(wallet))
    );
    let block = format!("0x{:x}", entry["block"].as_u64().expect("a number"));
    let there = scene
        .anvil
        .ask("eth_getBlockByNumber", json!([block, false]))
        .await;
    let hash = there["hash"].as_str().expect("a hash");
    assert_eq!(entry["block_hash"], hash[2..]);
    let file = token.call(&gateway, "").await;
    let usage = file["entry"].as_str().expect("a text");
    assert!(usage.contains(&format!("\"wallet\":\"{wallet}\",\"link\":\"bound\"")));

    for (sentinel, unchecked) in [
        (
            Sentinel::fresh().with(&["--rpc-url", scene.anvil.url()]),
            Value::Null,
        ),
        (Sentinel::fresh(), json!(1)),
    ] {
        let pass = tokio::task::block_in_place(|| sentinel.patient_pass(gateway.url()));
        pass.compare(&Sees::Verified)
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(pass.report["contracts_not_checked"], unchecked, "{pass}");
    }
}
