//! Anchoring: what a gateway gives for it, and the job that puts it on a chain.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use alloy_primitives::Signature;
use protocol::anchor::ChainLog;
use protocol::checkpoint::Checkpoint;
use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::index::Time;
use protocol::key::{Origin, Signer, VerifierKey};
use serde_json::{Value, json};

use crate::anvil::{ANSWER_LOST, Anvil, HANGS, PASSES, Way};
use crate::binaries::{Folder, program};
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

/// Accounts that anvil endows, by their keys.
pub(crate) const PURSE: (&str, &str) = (
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266",
);
const OTHER: (&str, &str) = (
    "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x70997970c51812dc3a010c7d01b50e0d17dc79c8",
);
/// One that it does not.
const POOR: &str = "0101010101010101010101010101010101010101010101010101010101010101";

/// A log, a chain, and the job's folder.
struct Scene {
    _provider: Provider,
    _data: Folder,
    gateway: Gateway,
    anvil: Anvil,
    state: Folder,
    size: u64,
}

impl Scene {
    /// With the contract deployed; `None` without a chain.
    async fn deployed() -> Option<Self> {
        let anvil = Anvil::start(&[])?;
        let (provider, data) = (Provider::start().await, Folder::new());
        let gateway = Gateway::start(data.path(), provider.url()).await;
        let scene = Self {
            _provider: provider,
            _data: data,
            gateway,
            anvil,
            state: Folder::new(),
            size: 1,
        };
        let told = said(scene.anchor("deploy", &[]).output(), 0);
        assert!(told.contains("arguments 00000000"), "{told}");
        Some(scene)
    }

    /// The job's command, ready to run.
    fn anchor(&self, task: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("anchor"));
        command
            .args([task, self.gateway.url()])
            .env("TALLY_ANCHOR_VKEY", self.gateway.vkey())
            .env("TALLY_ANCHOR_CHAIN", "anvil")
            .env("TALLY_ANCHOR_STATE", self.state.path())
            .env("TALLY_ANCHOR_KEY", PURSE.0)
            .env("TALLY_ANCHOR_RPC_URL", self.anvil.url())
            .args(arguments)
            .stderr(Stdio::piped())
            .stdout(Stdio::piped());
        if task != "status" {
            command.args(["--poll", "100ms"]);
        }
        command
    }

    /// One more entry, published.
    async fn grow(&mut self) {
        let answer = chat(&self.gateway, "chat.json").send().await;
        answer.expect("answers").bytes().await.expect("whole");
        self.size += 1;
        published(&self.gateway, self.size).await;
    }

    /// How many transactions an account has sent.
    async fn sent(&self, (_, address): (&str, &str)) -> u64 {
        let count = self
            .anvil
            .ask("eth_getTransactionCount", json!([address, "latest"]));
        let count = count.await;
        let digits = count.as_str().and_then(|hex| hex.strip_prefix("0x"));
        u64::from_str_radix(digits.expect("a quantity"), 16).expect("a number")
    }

    fn once(&self, arguments: &[&str], code: i32) -> String {
        said(self.anchor("once", arguments).output(), code)
    }

    fn anchored(&self) -> String {
        format!("anchored size {} root 0x", self.size)
    }
}

/// What a command that ended said, on either stream.
fn said(output: std::io::Result<Output>, code: i32) -> String {
    let output = output.expect("it was built");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_anchored_once_whoever_posts() {
    let Some(mut scene) = Scene::deployed().await else {
        return;
    };
    let again = said(scene.anchor("deploy", &[]).output(), 0);
    assert!(again.contains("deployed already"), "{again}");
    assert!(scene.once(&[], 0).starts_with(&scene.anchored()));
    assert!(scene.once(&[], 0).contains("anchored already"));
    assert_eq!(scene.sent(PURSE).await, 2, "the contract and one anchor");
    for _ in 0..3 {
        scene.grow().await;
    }
    // Somebody else, who knows nothing but the log's address.
    let state = Folder::new();
    let mut stranger = scene.anchor("once", &[]);
    stranger.env("TALLY_ANCHOR_KEY", OTHER.0);
    stranger.env("TALLY_ANCHOR_STATE", state.path());
    assert!(said(stranger.output(), 0).starts_with(&scene.anchored()));
    assert!(scene.once(&[], 0).contains("anchored already"));
    assert_eq!((scene.sent(PURSE).await, scene.sent(OTHER).await), (2, 1));
    scene.grow().await;
    assert!(scene.once(&[], 0).starts_with(&scene.anchored()));
    let status = said(scene.anchor("status", &[]).output(), 0);
    assert!(
        status.contains("anchored number 2 size 5 root 0x"),
        "{status}"
    );
    assert!(status.contains("is the beginning of"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_it_must_be_is_told_and_nothing_is_sent() {
    let Some(scene) = Scene::deployed().await else {
        return;
    };
    let foreign = Origin::parse("other.example.org").expect("valid");
    let foreign = Signer::new(foreign, &[1; 32]).verifier().to_string();
    for (variable, value, code, message) in [
        (
            "TALLY_ANCHOR_CHAIN",
            "8453",
            2,
            "on chain 31337, expected 8453",
        ),
        (
            "TALLY_ANCHOR_MAX_FEE",
            "0.000000001",
            3,
            "more than the cap of 1",
        ),
        ("TALLY_ANCHOR_VKEY", &foreign, 1, "the log's key is"),
    ] {
        let mut command = scene.anchor("once", &[]);
        let told = said(command.env(variable, value).output(), code);
        assert!(told.contains(message), "{told}");
    }
    let mut poor = scene.anchor("once", &[]);
    let told = said(poor.env("TALLY_ANCHOR_KEY", POOR).output(), 3);
    assert!(told.contains("has 0 wei on chain 31337"), "{told}");
    let mut none = scene.anchor("once", &[]);
    let told = said(none.env_remove("TALLY_ANCHOR_KEY").output(), 2);
    assert!(told.contains("no gas key"), "{told}");
    let mut away = scene.anchor("once", &[]);
    away.env("TALLY_ANCHOR_RPC_URL", "http://127.0.0.1:9/secret");
    let told = said(away.output(), 3);
    assert!(told.contains("127.0.0.1:9 gave no answer"), "{told}");
    assert!(!told.contains("secret"), "{told}");
    let status = said(scene.anchor("status", &[]).output(), 0);
    assert!(status.contains("nothing yet"), "{status}");
    let contract = status
        .split("contract ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let code = json!([contract.expect("an address"), "0x6001600155"]);
    scene.anvil.ask("anvil_setCode", code).await;
    let told = scene.once(&[], 2);
    assert!(told.contains("is not this log's"), "{told}");
    assert_eq!(scene.sent(PURSE).await, 1, "only the contract");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_or_an_outage_on_the_way_sends_nothing_twice_and_loses_nothing() {
    let Some(mut scene) = Scene::deployed().await else {
        return;
    };
    let way = Way::to(&scene.anvil).await;
    way.set(HANGS);
    // Killed after the outbox has it, before the chain does.
    let mut killed = through(&scene, &way, &[]).spawn().expect("it was built");
    until(|| way.broadcasts() == 1, &mut killed).await;
    killed.kill().expect("it runs");
    killed.wait().expect("it is our child");
    assert_eq!(scene.sent(PURSE).await, 1);
    let outbox = |scene: &Scene| {
        let file = format!("31337-{}.json", PURSE.1);
        let text = std::fs::read_to_string(scene.state.path().join(file)).expect("there");
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    let posts = outbox(&scene)["posts"].take();
    let post = posts.as_array().and_then(|posts| posts.last());
    let signed = post.expect("what was to be sent")["attempts"][0]["hash"].clone();
    way.set(PASSES);
    let told = said(through(&scene, &way, &[]).output(), 0);
    assert!(told.contains("anchored already"), "{told}");
    let receipt = scene
        .anvil
        .ask("eth_getTransactionReceipt", json!([signed]))
        .await;
    assert_eq!(receipt["status"], "0x1", "the bytes that were signed first");
    assert_eq!(scene.sent(PURSE).await, 2);
    // Every answer to a broadcast is lost; receipts tell.
    scene.grow().await;
    way.set(ANSWER_LOST);
    assert!(said(through(&scene, &way, &[]).output(), 0).starts_with(&scene.anchored()));
    assert_eq!(scene.sent(PURSE).await, 3);
    // No block takes it: left in the outbox, then replaced.
    scene.grow().await;
    way.set(PASSES);
    scene.anvil.ask("evm_setAutomine", json!([false])).await;
    let told = said(through(&scene, &way, &["--patience", "500ms"]).output(), 3);
    assert!(told.contains("it stays in the outbox"), "{told}");
    let arguments = ["--stuck-after", "1s", "--patience", "4s"];
    let told = said(through(&scene, &way, &arguments).output(), 3);
    assert!(told.contains("sending it with higher fees"), "{told}");
    scene.anvil.ask("evm_setAutomine", json!([true])).await;
    scene.anvil.ask("evm_mine", json!([])).await;
    let told = said(through(&scene, &way, &[]).output(), 0);
    assert!(told.contains("anchored already"), "{told}");
    assert_eq!(scene.sent(PURSE).await, 4, "one of its forms");
    // What is final is forgotten.
    scene.anvil.ask("anvil_mine", json!(["0x10"])).await;
    assert!(said(through(&scene, &way, &[]).output(), 0).contains("anchored already"));
    let outbox = outbox(&scene);
    assert_eq!(
        (&outbox["posts"], &outbox["next_nonce"]),
        (&json!([]), &json!(4))
    );
}

fn through(scene: &Scene, way: &Way, arguments: &[&str]) -> Command {
    let mut command = scene.anchor("once", arguments);
    command.env("TALLY_ANCHOR_RPC_URL", way.url());
    command
}

async fn until(done: impl Fn() -> bool, child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        let ended = child.try_wait().expect("it is our child");
        assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
