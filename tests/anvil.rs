//! A chain on this machine, and a way to it that can break.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::{env, fs};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::gateway::client;
use crate::python::run;

/// A node with a chain of its own, killed when dropped.
pub(crate) struct Anvil {
    child: Child,
    url: String,
}

impl Anvil {
    /// `None` where there is none for this machine.
    pub(crate) fn start(arguments: &[&str]) -> Option<Self> {
        let mut child = Command::new(program()?)
            .args(["--port", "0", "--slots-in-an-epoch", "2"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was installed");
        let told = BufReader::new(child.stdout.take().expect("piped"));
        let mut lines = told.lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.strip_prefix("Listening on ")?.to_owned()));
        let url = format!("http://{}", address.expect("it listens"));
        // Nobody reads the rest, and it must not stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, url })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        let question = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let asked = client().post(&self.url).body(question.to_string());
        let asked = asked.header("content-type", "application/json").send();
        let text = asked.await.expect("it answers").text().await;
        let mut answer: Value = serde_json::from_str(&text.expect("whole")).expect("JSON");
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].take()
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        // Ended already, if it crashed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A way to a node on which broadcasts can get lost.
#[derive(Clone)]
pub(crate) struct Way {
    node: String,
    url: String,
    broken: Arc<AtomicU8>,
    broadcasts: Arc<AtomicUsize>,
}

/// What happens to a broadcast.
pub(crate) const PASSES: u8 = 0;
/// It never gets to the node, and nobody answers.
pub(crate) const HANGS: u8 = 1;
/// It gets to the node, and the answer is lost.
pub(crate) const ANSWER_LOST: u8 = 2;

impl Way {
    pub(crate) async fn to(node: &Anvil) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let way = Self {
            node: node.url().to_owned(),
            url: format!("http://{address}"),
            broken: Arc::default(),
            broadcasts: Arc::default(),
        };
        let router = Router::new().fallback(pass).with_state(way.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        way
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn set(&self, how: u8) {
        self.broken.store(how, Ordering::SeqCst);
    }

    /// How many broadcasts there were.
    pub(crate) fn broadcasts(&self) -> usize {
        self.broadcasts.load(Ordering::SeqCst)
    }
}

async fn pass(State(way): State<Way>, body: Bytes) -> (StatusCode, String) {
    let question: Value = serde_json::from_slice(&body).expect("JSON-RPC");
    let broadcast = question["method"] == "eth_sendRawTransaction";
    let how = way.broken.load(Ordering::SeqCst);
    if broadcast {
        way.broadcasts.fetch_add(1, Ordering::SeqCst);
        if how == HANGS {
            std::future::pending::<()>().await;
        }
    }
    let asked = client().post(&way.node).body(body);
    let asked = asked.header("content-type", "application/json").send();
    let Ok(answer) = asked.await else {
        return (StatusCode::BAD_GATEWAY, String::new());
    };
    let text = answer.text().await.expect("whole");
    if broadcast && how == ANSWER_LOST {
        return (StatusCode::BAD_GATEWAY, String::new());
    }
    (StatusCode::OK, text)
}

/// The pinned one of the contract's packages.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let npm = Command::new("npm").arg("--version").output();
        let npm = npm.is_ok_and(|output| output.status.success());
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) || !npm {
            let why = "anchoring on a chain: needs npm, and Linux on x86-64";
            assert!(env::var_os("CI").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            return None;
        }
        Some(install().join("node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"))
    });
    program.as_deref()
}

fn install() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../anchor/contract");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("anvil");
    fs::create_dir_all(&folder).expect("the target folder is writable");
    let locked = fs::read(source.join("package-lock.json")).expect("in the tree");
    let stamp = folder.join("installed");
    if fs::read(&stamp).is_ok_and(|installed| installed == locked) {
        return folder;
    }
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source.join(file), folder.join(file)).expect("in the tree");
    }
    // Nothing that a package brings along is run to install it.
    let options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    run(Command::new("npm").current_dir(&folder).args(options));
    fs::write(&stamp, locked).expect("the target folder is writable");
    folder
}
