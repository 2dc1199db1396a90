//! What a sentinel makes of what a chain keeps of a log: with the forger's log,
//! whose every key he holds, on a real chain.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use protocol::anchor::{CREATE2_SALT, ChainLog, DEPLOYER, Place};
use protocol::entry::{Body, Log as LogBody};
use protocol::hash::Hash;
use protocol::index::TreeSize;
use protocol::name::Address;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::adversary::evidence;
use crate::anvil::Anvil;
use crate::binaries::{Folder, program};
use crate::flow;
use crate::forge::chain::Node;
use crate::forge::log::{Log, PUBLISH_MAX, receipt_id, time_of, uuid};
use crate::forge::server::{Forge, Site};
use crate::forge::wallet::{self, Purse};
use crate::gateway::{Gateway, client};
use crate::provider::Provider;
use crate::sentinel::{Pass, Sees, Sentinel};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::new().expect("threads can be started"));

/// An account that anvil endows and signs for.
const PAYER: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";

/// The log's secp256k1 key.
const EVM_KEY: u8 = 0xe1;

/// An honest log whose EVM key the forger holds, too.
fn log(size: usize) -> Log {
    under(EVM_KEY, size)
}

fn under(evm_key: u8, size: usize) -> Log {
    let mut log = Log::honest(size);
    let first = Body::Log(LogBody {
        key: log.key().clone(),
        rules: 1,
        totals_interval: 600,
        publish_max: PUBLISH_MAX,
        evm_key: Purse::new(evm_key).address(),
    });
    let first = first.encode(time_of(0));
    log.rewrite(|entries| entries[0] = first);
    log
}

fn on_chain(log: &Log) -> ChainLog {
    ChainLog::new(log.key(), Purse::new(EVM_KEY).address())
}

/// A chain with the contract of the forger's log, and the log's site.
struct Scene {
    anvil: Anvil,
    forge: Forge,
    contract: Address,
}

impl Scene {
    /// Of a log of `size` entries, anchored at these sizes; `None` without a chain.
    fn anchored(size: usize, anchors: &[usize]) -> Option<Self> {
        let anvil = Anvil::start(&[])?;
        let log = log(size);
        let contract = on_chain(&log).contract();
        let scene = Self {
            anvil,
            forge: Forge::start(Site::new(log.clone())),
            contract,
        };
        scene.deploy(&on_chain(&log));
        let mut before = 0;
        for size in anchors {
            scene.post(&log, before, *size);
            before = *size;
        }
        scene.finish();
        Some(scene)
    }

    fn ask(&self, method: &str, params: Value) -> Value {
        RUNTIME.block_on(self.anvil.ask(method, params))
    }

    /// Sends a transaction, which must succeed.
    fn send(&self, to: Address, data: &[u8]) {
        let call = json!({
            "from": PAYER, "to": to.to_string(), "data": hex(data), "gas": "0x895440",
        });
        let hash = self.ask("eth_sendTransaction", json!([call]));
        let receipt = self.ask("eth_getTransactionReceipt", json!([hash]));
        assert_eq!(receipt["status"], "0x1", "{receipt}");
    }

    fn deploy(&self, log: &ChainLog) {
        self.send(DEPLOYER, &[&CREATE2_SALT[..], &log.init_code()].concat());
    }

    /// Anchors the first `size` entries, the first `before` being anchored.
    fn post(&self, log: &Log, before: usize, size: usize) {
        let (signature, time) = signed(log, size, log.root(size));
        let proof = log.consistency(before, size);
        let mut data = vec![0xbd, 0x6c, 0x91, 0x9d];
        for part in [
            word(size as u64),
            *log.root(size).as_bytes(),
            word(time),
            word(160),
        ] {
            data.extend(part);
        }
        data.extend(word(160 + 32 + 32 * proof.len() as u64));
        data.extend(word(proof.len() as u64));
        proof.iter().for_each(|hash| data.extend(hash.as_bytes()));
        data.extend(padded(&signature));
        self.send(self.contract, &data);
    }

    /// Makes everything final.
    fn finish(&self) {
        self.ask("anvil_mine", json!(["0x8"]));
    }

    fn serve(&self, log: Log) {
        self.forge.serve(Site::new(log));
    }

    /// A sentinel that asks these nodes.
    fn asking(&self, nodes: &[&str]) -> Sentinel {
        let nodes = nodes.iter().flat_map(|url| ["--rpc-url", url]);
        Sentinel::fresh().with(&nodes.collect::<Vec<_>>())
    }

    fn fresh(&self) -> Sentinel {
        self.asking(&[self.anvil.url()])
    }

    /// One pass, which must come to `expected`, with evidence that holds.
    fn sees(&self, name: &str, sentinel: &Sentinel, expected: &Sees) -> Pass {
        let pass = sentinel.pass(&self.forge.url());
        let vkey = self.forge.site().log.key().to_string();
        pass.compare(expected)
            .and_then(|()| evidence::holds(&pass, &vkey))
            .unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        pass
    }
}

/// What the EVM key signs of a size, with the time that it says.
fn signed(log: &Log, size: usize, root: Hash) -> ([u8; 65], u64) {
    let time = time_of(size as u64 - 1);
    let entries = TreeSize::new(size as u64).expect("small");
    let digest = on_chain(log).checkpoint_digest(entries, root, time);
    (Purse::new(EVM_KEY).sign(digest), time.secs())
}

fn word(number: u64) -> [u8; 32] {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&number.to_be_bytes());
    word
}

/// A signature's length and itself, up to a whole word.
fn padded(signature: &[u8; 65]) -> Vec<u8> {
    [&word(65)[..], signature, &[0; 31]].concat()
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    format!("0x{}", digits.collect::<String>())
}

/// Writes the receipt file of an entry of an honest log; gives its path.
fn receipt_file(log: &Log, index: usize, folder: &Path) -> String {
    let file = json!({
        "id": uuid(&receipt_id(index as u64)),
        "index": index,
        "leaf_hash": log.levels[0][index].to_string(),
        "entry": String::from_utf8_lossy(&log.entries[index]),
        "receipt": log.receipt_note(index),
    });
    let path = folder.join("receipt.json");
    fs::write(&path, file.to_string()).expect("the target folder is writable");
    path.to_str().expect("UTF-8").to_owned()
}

/// A way to a node on which answers are bent.
fn liar(anvil: &Anvil, bend: impl Fn(&str, &mut Value) + Send + Sync + 'static) -> Node {
    way(Arc::new(Mutex::new(anvil.url().to_owned())), bend)
}

/// The same, to whichever node it is for now.
fn way(node: Arc<Mutex<String>>, bend: impl Fn(&str, &mut Value) + Send + Sync + 'static) -> Node {
    let bend = Arc::new(bend);
    Node::start(move |method, params| {
        let question = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let node = node.lock().expect("nobody panics").clone();
        let (method, bend) = (method.to_owned(), Arc::clone(&bend));
        // Nodes answer at once, on threads that must not be waited on.
        let asked = std::thread::spawn(move || {
            RUNTIME.block_on(async {
                let asked = client().post(node).body(question.to_string());
                let asked = asked.header("content-type", "application/json").send();
                let text = asked.await.expect("it answers").text().await;
                let mut answer: Value = serde_json::from_str(&text.expect("whole")).expect("JSON");
                bend(&method, &mut answer);
                answer
            })
        });
        asked.join().expect("no panic")
    })
}

#[test]
fn a_log_that_keeps_to_its_anchors_is_verified_and_remembered() {
    let Some(scene) = Scene::anchored(300, &[1, 200, 300]) else {
        return;
    };
    // Two ways to one node are two nodes.
    let second = liar(&scene.anvil, |_, _| ());
    let sentinel = scene.asking(&[scene.anvil.url(), second.url()]);
    let sentinel = sentinel.with(&["--anchor-interval", "48h"]);
    let pass = scene.sees("fresh", &sentinel, &Sees::Verified);
    let [anchored] = &pass.report["anchors"].as_array().expect("one chain")[..] else {
        panic!("{pass}");
    };
    let expected = json!({
        "chain_id": 31_337, "contract": scene.contract.to_string(), "count": 3, "index": 2,
        "size": 300, "root": format!("0x{}", log(300).root(300)), "retired": false, "link": null,
    });
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(anchored[name], *value, "{name}: {pass}");
    }
    let transaction = &anchored["transaction"];
    let receipt = scene.ask("eth_getTransactionReceipt", json!([transaction]));
    assert_eq!(receipt["to"], scene.contract.to_string(), "{receipt}");
    scene.sees("again", &sentinel, &Sees::Verified);
    // More, of which the sentinel has read a part before.
    scene.serve(log(340));
    scene.post(&log(340), 300, 340);
    scene.sees("not final", &sentinel, &Sees::Verified);
    scene.finish();
    let pass = scene.sees("grown", &sentinel, &Sees::Verified);
    assert_eq!(pass.report["anchors"][0]["size"], 340, "{pass}");
    // The same without a chain's help says nothing of it.
    let pass = scene.sees("alone", &Sentinel::fresh(), &Sees::Verified);
    assert_eq!(pass.report["anchors"], Value::Null, "{pass}");
}

#[test]
fn a_log_rewritten_after_an_anchor_is_caught_without_a_memory() {
    const DIFFERS: Sees = Sees::Proven(&["anchor_differs"]);
    let Some(scene) = Scene::anchored(340, &[200, 340]) else {
        return;
    };
    scene.sees("honest", &scene.fresh(), &Sees::Verified);
    // Every receipt, tile and checkpoint is made anew and signed.
    let mut rewritten = log(340);
    rewritten.edit(122, |usage| usage.counts.output = Some(1));
    scene.serve(rewritten.clone());
    scene.sees("by entries alone", &Sentinel::fresh(), &Sees::Verified);
    scene.sees("an early entry", &scene.fresh(), &DIFFERS);
    let mut rewritten = log(340);
    rewritten.edit(337, |usage| usage.counts.output = Some(1));
    scene.serve(rewritten.clone());
    let pass = scene.sees("a late entry", &scene.fresh(), &DIFFERS);
    let message = pass.findings()[0]["message"].as_str().expect("a text");
    assert!(message.contains("for its first 340 entries"), "{message}");
    let mut longer = log(500);
    longer.edit(199, |usage| usage.counts.output = Some(1));
    scene.serve(longer);
    scene.sees("a longer log", &scene.fresh(), &DIFFERS);
    // Without what the transaction says it is the chain's word.
    let mute = liar(&scene.anvil, |method, answer| {
        if method == "eth_getTransactionByHash" {
            answer["result"] = Value::Null;
        }
    });
    let served = Sees::Served(&["anchor_differs"]);
    scene.sees("no transaction", &scene.asking(&[mute.url()]), &served);
    // Who holds a receipt of an entry that was left as it was sees it, too.
    let folder = Folder::new();
    let file = receipt_file(&log(340), 200, folder.path());
    let url = scene.forge.url();
    for (name, log, expected) in [
        ("a receipt", log(340), Sees::Verified),
        ("a receipt, rewritten", rewritten, DIFFERS),
    ] {
        let vkey = log.key().to_string();
        scene.serve(log);
        let sentinel = scene.fresh();
        let pass = sentinel.run(&["receipt", "--json", &file, &url]);
        pass.compare(&expected)
            .and_then(|()| evidence::holds(&pass, &vkey))
            .unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
    }
    scene.serve(log(250));
    let withheld = Sees::Served(&["anchor_withheld"]);
    scene.sees("cut off", &scene.fresh(), &withheld);
    // Entry 0 too: another contract would be this log's.
    scene.serve(under(EVM_KEY + 1, 340));
    let contract = scene.contract.to_string();
    let told = scene.fresh().with(&["--contract", &contract]);
    let pass = scene.sees(
        "another EVM key",
        &told,
        &Sees::Served(&["anchor_contract"]),
    );
    let message = pass.findings()[0]["message"].as_str().expect("a text");
    assert!(message.contains("its EVM key is 0x"), "{message}");
    // Nobody's memory was spoilt by it.
    scene.serve(log(340));
    scene.sees("honest again", &scene.fresh(), &Sees::Verified);
}

#[test]
fn nodes_that_disagree_lie_lag_or_are_away_are_no_verdict_on_a_verified_log() {
    let Some(scene) = Scene::anchored(300, &[200, 300]) else {
        return;
    };
    type Bend = fn(&str, &mut Value);
    let cases: [(&str, &str, Bend); 8] = [
        (
            "another root",
            "the nodes disagree on eth_call: node 1 (",
            |method, answer| {
                let text = answer["result"].as_str().unwrap_or_default().to_owned();
                // An anchor's four words.
                if method == "eth_call" && text.len() == 2 + 4 * 64 {
                    answer["result"] = (text[..70].to_owned() + "00" + &text[72..]).into();
                }
            },
        ),
        (
            "an event less",
            "the nodes disagree on eth_getLogs",
            |method, answer| {
                if method == "eth_getLogs" {
                    answer["result"].as_array_mut().expect("a list").pop();
                }
            },
        ),
        (
            "no code",
            "the nodes disagree on eth_getCode",
            |method, answer| {
                if method == "eth_getCode" {
                    answer["result"] = "0x".into();
                }
            },
        ),
        (
            "another history",
            "the nodes disagree on eth_getBlockByNumber",
            |method, answer| {
                if method == "eth_getBlockByNumber" {
                    answer["result"]["hash"] = hex(&[7; 32]).into();
                }
            },
        ),
        ("no final block", "node 2 (127.0.0.1:", |method, answer| {
            if method == "eth_getBlockByNumber" {
                answer["result"] = Value::Null;
            }
        }),
        (
            "refuses",
            "refused eth_getLogs: error -32000, pruned",
            |method, answer| {
                if method == "eth_getLogs" {
                    *answer = json!({ "error": { "code": -32_000, "message": "pruned" } });
                }
            },
        ),
        (
            "no chain id",
            "answered eth_chainId with something else",
            |method, answer| {
                if method == "eth_chainId" {
                    answer["result"] = "mainnet".into();
                }
            },
        ),
        (
            "long ago",
            "the nodes disagree on eth_getBlockByNumber",
            |method, answer| {
                if method == "eth_getBlockByNumber" {
                    answer["result"]["timestamp"] = "0x1".into();
                }
            },
        ),
    ];
    for (name, said, bend) in cases {
        let node = liar(&scene.anvil, bend);
        let sentinel = scene.asking(&[scene.anvil.url(), node.url()]);
        let pass = scene.sees(name, &sentinel, &Sees::NoVerdict);
        let reason = pass.report["reason"].as_str().expect("a reason");
        assert!(reason.contains(said), "{name}: {reason}");
        assert_eq!(pass.report["log_verified"], true, "{name}: {pass}");
        assert_eq!(pass.report["size"], 300, "{name}: {pass}");
    }
    // Alone, a node can keep what it knows for itself, and not contradict itself.
    let stale = liar(&scene.anvil, |method, answer| {
        if method == "eth_getBlockByNumber" {
            answer["result"]["timestamp"] = "0x1".into();
        }
    });
    let pass = scene.sees("stale", &scene.asking(&[stale.url()]), &Sees::NoVerdict);
    assert!(pass.to_string().contains("a node lags behind"), "{pass}");
    let forger = liar(&scene.anvil, |_, answer| {
        let root = log(300).root(200).to_string();
        let bent = answer.to_string().replace(&root, &"12".repeat(32));
        *answer = serde_json::from_str(&bent).expect("as much JSON as before");
    });
    let pass = scene.sees("made up", &scene.asking(&[forger.url()]), &Sees::NoVerdict);
    assert!(pass.to_string().contains("the nodes lie"), "{pass}");
    // Another chain, where nothing is anchored, and one that nobody is of.
    let elsewhere = liar(&scene.anvil, |method, answer| match method {
        "eth_chainId" => answer["result"] = "0x5".into(),
        "eth_getCode" => answer["result"] = "0x".into(),
        _ => {}
    });
    let contract = scene.contract.to_string();
    for arguments in [&[][..], &["--contract", &contract]] {
        let both = scene
            .asking(&[scene.anvil.url(), elsewhere.url()])
            .with(arguments);
        let pass = scene.sees("another chain", &both, &Sees::Verified);
        let counts = |at: usize| pass.report["anchors"][at]["count"].clone();
        assert_eq!([counts(0), counts(1)], [json!(0), json!(2)], "{pass}");
    }
    let named = scene
        .asking(&[elsewhere.url()])
        .with(&["--contract", &contract]);
    let pass = scene.sees("named there alone", &named, &Sees::NoVerdict);
    let expected = format!("nothing is anchored in the contract {contract}");
    assert!(pass.to_string().contains(&expected), "{pass}");
    let away = scene.asking(&["http://127.0.0.1:9/secret"]);
    let pass = scene.sees("away", &away, &Sees::NoVerdict);
    assert!(!pass.to_string().contains("secret"), "{pass}");
}

#[test]
fn a_fork_that_a_contract_recorded_is_proven() {
    let Some(scene) = Scene::anchored(300, &[300]) else {
        return;
    };
    let sentinel = scene.fresh();
    scene.sees("before", &sentinel, &Sees::Verified);
    let log = log(300);
    let (one, other) = (log.root(200), Hash::of(b"another history"));
    let [(first, time), (second, _)] = [one, other].map(|root| signed(&log, 200, root));
    let mut data = vec![0x71, 0x6e, 0xd2, 0x77];
    let words = [
        word(200),
        *one.as_bytes(),
        word(time),
        word(7 * 32),
        *other.as_bytes(),
        word(time),
        word(11 * 32),
    ];
    words.iter().for_each(|word| data.extend(word));
    data.extend([padded(&first), padded(&second)].concat());
    scene.send(scene.contract, &data);
    scene.finish();
    let forked = Sees::Proven(&["anchor_forked"]);
    scene.sees("fresh", &scene.fresh(), &forked);
    scene.sees("returning", &sentinel, &forked);
    scene.sees("and again", &sentinel, &forked);
}

#[test]
fn anchors_that_do_not_come_are_overdue_where_entries_want_them() {
    let Some(scene) = Scene::anchored(340, &[300]) else {
        return;
    };
    // The entries since are a day old.
    let overdue = Sees::Served(&["anchor_overdue"]);
    scene.sees("nobody promised any", &scene.fresh(), &Sees::Verified);
    let contract = scene.contract.to_string();
    let fresh = || scene.fresh().with(&["--contract", &contract]);
    let pass = scene.sees("a day late", &fresh(), &overdue);
    let message = pass.findings()[0]["message"].as_str().expect("a text");
    assert!(message.contains("no anchor covers entry 300,"), "{message}");
    let patient = || fresh().with(&["--anchor-interval", "24h"]);
    scene.sees("by another interval", &patient(), &Sees::Verified);
    scene.serve(log(300));
    scene.sees("nothing new", &fresh(), &Sees::Verified);
    // Retired: nothing comes any more.
    let purse = Purse::new(EVM_KEY);
    let signature = purse.sign(on_chain(&log(300)).retirement_digest(None));
    let mut data = vec![0x4b, 0x36, 0x3a, 0xa1];
    [128, 0, 0, 160, 0]
        .iter()
        .for_each(|n| data.extend(word(*n)));
    data.extend(padded(&signature));
    scene.send(scene.contract, &data);
    scene.finish();
    let pass = scene.sees("retired", &scene.fresh(), &Sees::Verified);
    assert_eq!(pass.report["anchors"][0]["retired"], true, "{pass}");
}

#[test]
fn a_contract_that_says_something_else_than_before_or_is_another_is_found() {
    let Some(scene) = Scene::anchored(300, &[200, 300]) else {
        return;
    };
    let node = Arc::new(Mutex::new(scene.anvil.url().to_owned()));
    let either = way(Arc::clone(&node), |_, _| ());
    let returning = scene.asking(&[either.url()]);
    scene.sees("before", &returning, &Sees::Verified);
    let contract = scene.contract.to_string();
    // Its second slot holds the count; the next one is where anchors are.
    let slot = |number: u64| hex(&word(number));
    let set = |place: &str, value: &str| {
        scene.ask("anvil_setStorageAt", json!([contract, place, value]));
        scene.finish();
    };
    set(&slot(1), &slot(1));
    let history = Sees::Served(&["anchor_history"]);
    let pass = scene.sees("shrunk", &returning.twin(), &history);
    let message = pass.findings()[0]["message"].as_str().expect("a text");
    assert!(message.contains("now it has no such anchor"), "{message}");
    let pass = scene.sees("shrunk, fresh", &scene.fresh(), &Sees::NoVerdict);
    assert!(
        pass.to_string().contains("storage holds no such anchor"),
        "{pass}"
    );
    set(&slot(1), &slot(2));
    scene.sees("as before", &returning.twin(), &Sees::Verified);
    // Another contract in its place, and one that is said to be.
    let code = scene.ask("eth_getCode", json!([contract, "latest"]));
    scene.ask("anvil_setCode", json!([contract, "0x6001600155"]));
    scene.finish();
    let foreign = Sees::Served(&["anchor_contract"]);
    let pass = scene.sees("other code", &scene.fresh(), &foreign);
    let message = pass.findings()[0]["message"].as_str().expect("a text");
    assert!(
        message.contains("its code of 5 bytes is not that"),
        "{message}"
    );
    scene.ask("anvil_setCode", json!([contract, code]));
    scene.finish();
    scene.sees("the code again", &scene.fresh(), &Sees::Verified);
    let other = scene.fresh().with(&["--contract", &DEPLOYER.to_string()]);
    scene.sees("any other contract", &other, &foreign);
    // The same chain id, begun anew.
    let Some(anew) = Scene::anchored(300, &[200, 300]) else {
        return;
    };
    anew.ask("anvil_mine", json!(["0x40"]));
    *node.lock().expect("nobody panics") = anew.anvil.url().to_owned();
    let pass = scene.sees("begun anew", &returning, &Sees::NoVerdict);
    assert!(
        pass.to_string().contains("the nodes are of another chain"),
        "{pass}"
    );
}

#[test]
fn what_a_log_says_of_its_contract_must_be_so() {
    let Some(anvil) = Anvil::start(&[]) else {
        return;
    };
    RUNTIME.block_on(anvil.ask("anvil_mine", json!(["0x8"])));
    let mut said = wallet::log(119);
    let place = Place {
        chain_id: 31_337,
        contract: wallet::own_contract(&said),
    };
    said.push(Body::Anchor(place).encode(wallet::time_of(119)));
    let forge = Forge::start(Site::new(said));
    let vkey = forge.site().log.key().to_string();
    let sees = |arguments: &[&str], expected: &Sees| {
        let sentinel = Sentinel::fresh().with(arguments);
        let pass = sentinel.pass(&forge.url());
        let held = pass.compare(expected);
        held.and_then(|()| evidence::holds(&pass, &vkey))
            .unwrap_or_else(|wrong| panic!("{arguments:?}: {wrong}"));
        pass
    };
    let pass = sees(&[], &Sees::Verified);
    assert_eq!(
        pass.report["anchors_not_checked"],
        json!([31_337]),
        "{pass}"
    );
    let asking = ["--rpc-url", anvil.url()];
    // It may not be final yet, for two intervals.
    sees(&asking, &Sees::Verified);
    let impatient = [&asking[..], &["--anchor-interval", "1m"]].concat();
    sees(&impatient, &Sees::Served(&["anchor_contract"]));
    // Nobody looked at the log's own address, where the user names another.
    let elsewhere = format!("0x{}", "42".repeat(20));
    let mistyped = [&impatient[..], &["--contract", &elsewhere]].concat();
    sees(&mistyped, &Sees::NoVerdict);
}

/// The key of [`PAYER`].
const PURSE: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_wallets_and_receipts_are_covered_by_what_the_job_anchored() {
    let Some(anvil) = Anvil::start(&[]) else {
        return;
    };
    let (provider, data, state) = (Provider::start().await, Folder::new(), Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let called = || async {
        let answer = flow::chat(&gateway, "chat.json").send().await;
        let id = flow::receipt_id(answer.expect("it answers").headers());
        flow::receipt(&gateway, &id).await;
        id.to_string()
    };
    let early = called().await;
    let totals = format!("{}/api/totals", gateway.url());
    let summed = gateway.client().post(totals).send().await;
    assert_eq!(summed.expect("it answers").status(), 200);
    while gateway.json("/api/chain").await["published"]["size"] != 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for task in ["deploy", "once"] {
        let mut command = Command::new(program("anchor"));
        command
            .args([task, gateway.url(), "--poll", "100ms", "--chain", "anvil"])
            .args([
                "--vkey",
                gateway.vkey(),
                "--rpc-url",
                anvil.url(),
                "--state",
            ])
            .arg(state.path())
            .env("TALLY_ANCHOR_KEY", PURSE);
        let output = command.output().expect("it was built");
        assert!(output.status.success(), "{output:?}");
    }
    anvil.ask("anvil_mine", json!(["0x8"])).await;
    let late = called().await;
    let second = tokio::task::block_in_place(|| liar(&anvil, |_, _| ()));
    let nodes = ["--rpc-url", anvil.url(), "--rpc-url", second.url()];
    let look = |command: &[&str]| {
        let sentinel = Sentinel::fresh()
            .with(&["--vkey", gateway.vkey()])
            .with(&nodes);
        sentinel.run(&[command, &["--json", gateway.url()]].concat())
    };
    let wallet = "0x5aeda56215b167893e80b4fe645ba6d5bab767de";
    for (name, command, expected, number) in [
        ("the log", &[][..], Sees::Verified, json!(0)),
        ("a wallet", &["wallet", wallet], Sees::Committed, json!(0)),
        ("a receipt", &["receipt", &early], Sees::Verified, json!(0)),
        (
            "a new receipt",
            &["receipt", &late],
            Sees::Verified,
            Value::Null,
        ),
    ] {
        let pass = look(command);
        assert_eq!(pass.compare(&expected), Ok(()), "{name}");
        let [anchored] = &pass.report["anchors"].as_array().expect("a chain")[..] else {
            panic!("{name}: {pass}");
        };
        assert_eq!(
            (&anchored["index"], &anchored["count"]),
            (&number, &json!(1)),
            "{name}: {pass}"
        );
        if number.is_null() {
            continue;
        }
        let receipt = anvil
            .ask(
                "eth_getTransactionReceipt",
                json!([anchored["transaction"]]),
            )
            .await;
        assert_eq!(receipt["to"], anchored["contract"], "{name}: {pass}");
        assert_eq!(
            receipt["logs"][0]["topics"][2], anchored["root"],
            "{name}: {pass}"
        );
    }
    let away = ["--rpc-url", "http://127.0.0.1:9"];
    for command in [&["wallet", wallet][..], &["receipt", &early]] {
        let pass = Sentinel::fresh()
            .with(&["--vkey", gateway.vkey()])
            .with(&away)
            .run(&[command, &["--json", gateway.url()]].concat());
        assert_eq!(pass.compare(&Sees::NoVerdict), Ok(()), "{command:?}");
        assert_eq!(pass.report["log_verified"], true, "{command:?}: {pass}");
    }
}
