//! The pages in a real Chromium: what people see, and what their browsers
//! check. What is done on them is in `pages/*.py`.
//!
//! `TALLY_SCREENSHOTS=docs/pages tests/run pages::` also takes pictures.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::checkpoint::Checkpoint;
use protocol::hash::Hash;
use protocol::index::TreeSize;
use protocol::key::{Origin, Signer};
use serde_json::{Value, json};

use crate::anchors::PURSE;
use crate::anvil::Anvil;
use crate::binaries::{Folder, program};
use crate::bindings::{Token, Wallet, bind};
use crate::forge::log::signer;
use crate::gateway::{Gateway, command, free_address};
use crate::provider::Provider;
use crate::python;
use crate::witness::Witness;

/// Every page: its name, and its path for the scene's wallet, key and record.
const PAGES: &[(&str, &str)] = &[
    ("leaderboard", "/"),
    ("wallet", "/wallet/{wallet}"),
    ("key", "/key/{key}"),
    ("record", "/record/{record}"),
    ("records", "/records"),
    ("log", "/log"),
    ("anchors", "/anchors"),
    ("witnesses", "/witnesses"),
    ("check", "/check"),
    ("link", "/link"),
    ("setup", "/setup"),
    ("how", "/how"),
];

/// Whose wallets the scene binds; the one that is looked at is in the middle.
const SEEDS: [u8; 3] = [1, 2, 3];

/// What calls are made of: paths at providers, and the samples they answer.
const CALLS: &[(&str, &str)] = &[
    ("anthropic/{}/v1/messages", "messages.json"),
    ("anthropic/{}/v1/messages", "messages_thinking.json"),
    ("openai/{}/v1/responses", "responses.json"),
    ("openai/{}/v1/chat/completions", "chat.json"),
    ("openai/{}/v1/chat/completions", "chat_cache_write.json"),
    ("deepseek/{}/chat/completions", "chat.json"),
    ("mistral/{}/v1/chat/completions", "chat.json"),
    ("groq/{}/openai/v1/chat/completions", "chat.json"),
];

/// What there is to see beside records, bindings and totals.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Furnished {
    Plainly,
    /// A witness by the log's policy, and anchors where a chain can run.
    Whole,
    /// And months that went by.
    WithPast,
}

/// A log with something to see, and its gateway.
struct Scene {
    _provider: Provider,
    data: Folder,
    _witness: Option<Witness>,
    anvil: Option<Anvil>,
    gateway: Gateway,
    /// What the scripts are told.
    told: Value,
}

impl Scene {
    /// `None` where there is no Chromium.
    async fn start(furnished: Furnished) -> Option<Self> {
        let chromium = chromium()?;
        let (provider, data, address) = (Provider::start().await, Folder::new(), free_address());
        let whole = furnished != Furnished::Plainly;
        let mut arguments = vec![];
        if furnished == Furnished::WithPast {
            past(data.path(), provider.url()).await;
        }
        let mut witness = None;
        let mut policy = None;
        if whole {
            let begun = Gateway::start_at(data.path(), provider.url(), &address, &[]).await;
            let vkey = begun.vkey().to_owned();
            assert!(begun.stop().0.success());
            let followed = format!("{vkey} http://{address}");
            let started = Witness::start(&data, &["--log", &followed]);
            let text = format!(
                "log {vkey}\nwitness w {} {}\nquorum w\n",
                started.key, started.url
            );
            let file = data.path().join("witnesses.policy");
            fs::write(&file, &text).expect("our folder");
            arguments.extend(["--policy".to_owned(), file.display().to_string()]);
            (witness, policy) = (Some(started), Some(text));
        }
        let anvil = if whole { Anvil::start(&[]) } else { None };
        if let Some(anvil) = &anvil {
            let told = ["--rpc-url", anvil.url(), "--rpc-poll", "1"];
            arguments.extend(told.map(str::to_owned));
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let gateway = Gateway::start_at(data.path(), provider.url(), &address, &arguments).await;
        let mut scene = Self {
            _provider: provider,
            data,
            _witness: witness,
            anvil,
            gateway,
            told: json!({"chromium": chromium, "policy": policy}),
        };
        if furnished != Furnished::WithPast {
            begin(&scene.gateway).await;
        }
        scene.furnish().await;
        Some(scene)
    }

    /// Sums up, anchors, and makes calls that are newer.
    async fn furnish(&mut self) {
        let mut wallets = SEEDS.map(|seed| (Wallet::new(seed).address(), seed));
        wallets.sort();
        let (middle, seed) = &wallets[1];
        let token = Token::new(&self.gateway, *seed);
        self.summed_up().await;
        if let Some(anvil) = &self.anvil {
            for task in ["deploy", "once"] {
                self.anchor(task, anvil);
            }
            self.sees_the_anchor().await;
        }
        for (path, sample) in CALLS {
            call(&self.gateway, path, &token, sample).await;
        }
        let kept = token.call(&self.gateway, "").await;
        let receipt = self.with_proof(kept["id"].as_str().expect("an id")).await;
        let told = json!({
            "url": self.gateway.url(),
            "table": PAGES.iter().map(|(name, path)| json!({"name": name, "path": path})).collect::<Vec<_>>(),
            "wallet": middle,
            "key_id": token.key_id,
            "token": token.text,
            "record": receipt["index"],
            "other_vkey": signer("other.example.org", 9).verifier().to_string(),
            "stranger_policy": format!("witness w {}\nquorum w\n", cosigner()),
            "evidence": self.evidence().await,
            "receipt": receipt,
            "node": self.anvil.as_ref().map(Anvil::url),
        });
        let members = self.told.as_object_mut().expect("an object");
        members.extend(told.as_object().expect("an object").clone());
    }

    async fn summed_up(&self) {
        let url = format!("{}/api/totals", self.gateway.url());
        let answer = self.gateway.client().post(url).send().await;
        assert!(answer.expect("answers").status().is_success());
    }

    /// Waits until the gateway found what was anchored.
    async fn sees_the_anchor(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.gateway.json("/api/anchors").await["anchors"] == json!([]) {
            assert!(Instant::now() < deadline, "the anchor is not found");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn anchor(&self, task: &str, anvil: &Anvil) {
        let mut command = Command::new(program("anchor"));
        command
            .args([task, self.gateway.url(), "--poll", "100ms"])
            .env("TALLY_ANCHOR_VKEY", self.gateway.vkey())
            .env("TALLY_ANCHOR_CHAIN", "anvil")
            .env("TALLY_ANCHOR_STATE", self.data.path().join("anchor"))
            .env("TALLY_ANCHOR_KEY", PURSE.0)
            .env("TALLY_ANCHOR_RPC_URL", anvil.url());
        python::run(&mut command);
    }

    /// A receipt file that needs nobody.
    async fn with_proof(&self, id: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let path = format!("/api/receipts/{id}?proof=1");
            let answer = self.gateway.get(&path).await;
            if answer.status() == reqwest::StatusCode::OK {
                let text = answer.text().await.expect("whole");
                return serde_json::from_str(&text).expect("JSON");
            }
            assert!(Instant::now() < deadline, "no proof of {id}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Evidence files, and how each must look and read once it is judged.
    async fn evidence(&self) -> Value {
        let seed = fs::read_to_string(self.data.path().join("log.key")).expect("our log's");
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(seed.trim().as_bytes().chunks(2)) {
            let digits = str::from_utf8(digits).expect("ASCII");
            *byte = u8::from_str_radix(digits, 16).expect("hex");
        }
        let origin = self.gateway.vkey().split('+').next().expect("a name");
        let signer = Signer::new(Origin::parse(origin).expect("an origin"), &bytes);
        let checkpoint = |root: u8| {
            let size = TreeSize::new(7).expect("small");
            let root = Hash::from_bytes([root; 32]);
            Checkpoint::new(signer.verifier().origin().clone(), size, root).seal(&signer)
        };
        let record = self.gateway.json("/api/records/1").await;
        let entry = STANDARD.encode(record["entry"].as_str().expect("a text"));
        let item = json!({"index": 1, "entry": entry, "receipt": record["receipt"]});
        let file = |claim: &str, material: Value| {
            json!({
                "tallystick_evidence": 1, "claim": claim, "class": "proven", "log": self.gateway.url(),
                "vkey": self.gateway.vkey(), "time": 1, "message": "said", "material": material,
            })
        };
        json!([
            [
                file(
                    "fork",
                    json!({"checkpoints": [checkpoint(1), checkpoint(2)]})
                ),
                "bad",
                "Proven: the log signed two roots"
            ],
            [
                file(
                    "fork",
                    json!({"checkpoints": [checkpoint(1), checkpoint(1)]})
                ),
                "bad",
                "the two checkpoints have the same root"
            ],
            [
                file("entry_malformed", json!({"entries": [item]})),
                "warn",
                "Not judged here"
            ],
            [
                file("second_log_entry", json!({"entries": [item]})),
                "bad",
                "not a second one of kind log"
            ],
            [
                file("root_mismatch", json!({})),
                "warn",
                "it is the word of whoever kept the file"
            ],
            [file("nonsense", json!({})), "bad", "not known here"],
        ])
    }

    /// Runs a task of a script on the scene.
    async fn does(&self, script: &str, task: &str) {
        let file = self.data.path().join("scene.json");
        fs::write(&file, self.told.to_string()).expect("our folder");
        let python = tokio::task::spawn_blocking(|| python::interpreter("pages/requirements.txt"));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pages");
        let mut command = Command::new(python.await.expect("no panic"));
        command
            .arg("-B")
            .arg(folder.join(script))
            .arg(task)
            .arg(file);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.expect("no panic").expect("python starts");
        let (said, story) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        print!("{said}");
        assert!(output.status.success(), "{task}: {said}{story}");
    }
}

async fn call(gateway: &Gateway, path: &str, token: &Token, sample: &str) {
    let path = path.replace("{}", &format!("t/{}", token.text));
    let url = format!("{}/{path}", gateway.url());
    let body = json!({"model": sample}).to_string();
    let answer = gateway.client().post(url).body(body).send().await;
    let answer = answer.expect("answers");
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    answer.bytes().await.expect("whole");
}

/// Binds a key of each wallet, and makes some calls with it.
async fn begin(gateway: &Gateway) {
    for seed in SEEDS {
        let token = Token::new(gateway, seed);
        bind(gateway, &token, &Wallet::new(seed)).await;
        for (path, sample) in &CALLS[..=usize::from(seed)] {
            call(gateway, path, &token, sample).await;
        }
    }
}

/// Lets days go by, on most of which calls are made.
async fn past(data: &Path, provider: &str) {
    const DAYS: usize = 100;
    let library = data.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clock.c");
    let mut cc = Command::new("cc");
    cc.args([
        "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
    ]);
    python::run(cc.arg(&library).arg(source).arg("-ldl"));
    for day in (1..=DAYS).rev().filter(|day| day % 7 != 3 && day % 11 != 5) {
        let address = free_address();
        let mut command = command(data, provider, &address);
        // Within eight hours of the day.
        let ago = day * 86_400 + day * 5 % 8 * 3_600;
        command.env("LD_PRELOAD", &library);
        command.env("TALLY_CLOCK_SHIFT", format!("-{ago}"));
        let gateway = Gateway::start_with(command, &address).await;
        if day == DAYS {
            begin(&gateway).await;
        }
        for n in 0..1 + day * 13 % 9 {
            let (path, sample) = CALLS[(day * 3 + n * 5) % CALLS.len()];
            let seed = SEEDS[(day + n * n) % SEEDS.len()];
            call(&gateway, path, &Token::new(&gateway, seed), sample).await;
        }
        assert!(gateway.stop().0.success());
    }
}

/// The key of a witness that cosigned nothing.
fn cosigner() -> String {
    let key = signer("stranger.example.org", 8);
    let mut material = vec![4];
    material.extend(key.verifier().as_bytes());
    let mut hashed = b"stranger.example.org\n".to_vec();
    hashed.extend(&material);
    let digest = Hash::of(&hashed).to_string();
    format!(
        "stranger.example.org+{}+{}",
        &digest[..8],
        STANDARD.encode(material)
    )
}

/// The browser; `None` where there is none.
fn chromium() -> Option<PathBuf> {
    let found = env::var_os("PATH").and_then(|path| {
        let names = ["chromium", "google-chrome"];
        let mut folders = env::split_paths(&path);
        folders.find_map(|folder| {
            names
                .map(|name| folder.join(name))
                .into_iter()
                .find(|p| p.exists())
        })
    });
    if found.is_none() {
        let why = "the pages: needs Chromium";
        assert!(env::var_os("CI").is_none(), "{why}");
        crate::skipped::skip(why);
    }
    found
}

/// Runs a task on a scene, where there is a browser.
async fn done(furnished: Furnished, script: &str, task: &str) {
    if let Some(scene) = Scene::start(furnished).await {
        scene.does(script, task).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_loads_quietly_and_asks_nobody_else() {
    done(Furnished::Whole, "look.py", "load").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_read_without_scripts() {
    done(Furnished::Whole, "look.py", "read").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_keeps_anybody_from_using_a_page() {
    done(Furnished::Whole, "look.py", "access").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_shown_without_a_reload() {
    done(Furnished::Plainly, "look.py", "live").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_verify_answers_and_see_one_changed_byte() {
    done(Furnished::Plainly, "check.py", "answers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_remember_what_they_saw() {
    done(Furnished::Plainly, "check.py", "history").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_elsewhere_beats_the_served_one() {
    done(Furnished::Plainly, "check.py", "elsewhere_key").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_ask_for_the_witnesses_that_the_visitor_names() {
    done(Furnished::Whole, "check.py", "policy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_over_plain_http_say_why_they_cannot_check() {
    done(Furnished::Plainly, "check.py", "plain_http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_judged_in_the_browser() {
    done(Furnished::Plainly, "check.py", "files").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verifier_runs_elsewhere_by_the_line_that_the_page_gives() {
    done(Furnished::Plainly, "check.py", "elsewhere").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_compare_anchors_with_the_chain() {
    if let Some(scene) = Scene::start(Furnished::Whole).await
        && scene.anvil.is_some()
    {
        scene.does("check.py", "chain").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_taken_where_they_are_asked_for() {
    let Some(folder) = env::var_os("TALLY_SCREENSHOTS") else {
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    if let Some(mut scene) = Scene::start(Furnished::WithPast).await {
        scene.told["screenshots"] = folder.display().to_string().into();
        scene.does("look.py", "screenshots").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_signs_on_the_page_that_links_it() {
    done(Furnished::Plainly, "wallet.py", "link").await;
}
