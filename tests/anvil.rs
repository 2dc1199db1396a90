//! A chain on this machine, and a way to it that can break.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::{env, fs};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

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
        Self::with_epochs_of(2, arguments)
    }

    /// The same, whose newest final block is two epochs of so many blocks old.
    pub(crate) fn with_epochs_of(slots: u64, arguments: &[&str]) -> Option<Self> {
        let mut child = Command::new(program()?)
            .args(["--port", "0", "--slots-in-an-epoch", &slots.to_string()])
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
        let text = ask(&self.url, question.to_string()).await;
        let mut answer: Value = serde_json::from_str(&text.expect("it answers")).expect("JSON");
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].take()
    }

    /// The number of the newest block.
    pub(crate) async fn height(&self) -> u64 {
        quantity(&self.ask("eth_blockNumber", json!([])).await)
    }
}

/// A number as JSON-RPC writes it.
pub(crate) fn quantity(value: &Value) -> u64 {
    let digits = value.as_str().and_then(|hex| hex.strip_prefix("0x"));
    u64::from_str_radix(digits.expect("a quantity"), 16).expect("a number")
}

async fn ask(url: &str, question: impl Into<reqwest::Body>) -> reqwest::Result<String> {
    let asked = client().post(url).body(question);
    let asked = asked.header("content-type", "application/json").send();
    asked.await?.text().await
}

impl Drop for Anvil {
    fn drop(&mut self) {
        // Ended already, if it crashed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A way to a node that can lose broadcasts, limit, lag and lie.
#[derive(Clone)]
pub(crate) struct Way {
    node: String,
    url: String,
    broken: Arc<AtomicU8>,
    broadcasts: Arc<AtomicUsize>,
    limited: Arc<AtomicUsize>,
    lag: Arc<Mutex<Option<Lag>>>,
    lies: Arc<Mutex<HashMap<&'static str, Value>>>,
}

/// What happens to a broadcast.
pub(crate) const PASSES: u8 = 0;
/// It never gets to the node, and nobody answers.
pub(crate) const HANGS: u8 = 1;
/// It gets to the node, and the answer is lost.
pub(crate) const ANSWER_LOST: u8 = 2;

/// As if a block were the newest.
#[derive(Clone, Copy)]
pub(crate) struct Lag {
    pub(crate) block: u64,
    /// Whether receipts lag, too.
    pub(crate) receipts: bool,
}

impl Way {
    pub(crate) async fn to(node: &Anvil) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let way = Self {
            node: node.url().to_owned(),
            url: format!("http://{address}"),
            broken: Arc::default(),
            broadcasts: Arc::default(),
            limited: Arc::default(),
            lag: Arc::default(),
            lies: Arc::default(),
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

    /// How many broadcasts there were: those that hang, and those that the
    /// node has answered.
    pub(crate) fn broadcasts(&self) -> usize {
        self.broadcasts.load(Ordering::SeqCst)
    }

    /// Answers the next `count` questions with 429.
    pub(crate) fn limit(&self, count: usize) {
        self.limited.store(count, Ordering::SeqCst);
    }

    /// How many of them are still to come.
    pub(crate) fn limited(&self) -> usize {
        self.limited.load(Ordering::SeqCst)
    }

    pub(crate) fn lag(&self, lag: Option<Lag>) {
        *self.lag.lock().expect("nobody panics") = lag;
    }

    /// Answers a method so, whatever is asked; `None`: no longer.
    pub(crate) fn lie(&self, method: &'static str, answer: Option<Value>) {
        let mut lies = self.lies.lock().expect("nobody panics");
        match answer {
            Some(answer) => lies.insert(method, answer),
            None => lies.remove(method),
        };
    }

    fn refuses(&self) -> bool {
        let less = |count: usize| count.checked_sub(1);
        let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
        self.limited.fetch_update(set, get, less).is_ok()
    }
}

async fn pass(State(way): State<Way>, body: Bytes) -> (StatusCode, String) {
    if way.refuses() {
        return (StatusCode::TOO_MANY_REQUESTS, "slow down".into());
    }
    let mut question: Value = serde_json::from_slice(&body).expect("JSON-RPC");
    let method = question["method"].as_str().expect("a text").to_owned();
    let lie = way
        .lies
        .lock()
        .expect("nobody panics")
        .get(&*method)
        .cloned();
    if let Some(lie) = lie {
        let answer = json!({"jsonrpc": "2.0", "id": 1, "result": lie});
        return (StatusCode::OK, answer.to_string());
    }
    let broadcast = method == "eth_sendRawTransaction";
    let how = way.broken.load(Ordering::SeqCst);
    if broadcast && how == HANGS {
        way.broadcasts.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
    }
    let lag = *way.lag.lock().expect("nobody panics");
    if let Some(lag) = lag {
        behind(&mut question, lag);
    }
    let Ok(mut text) = ask(&way.node, question.to_string()).await else {
        return (StatusCode::BAD_GATEWAY, String::new());
    };
    if let Some(lag) = lag {
        text = earlier(&method, text, lag);
    }
    if broadcast {
        way.broadcasts.fetch_add(1, Ordering::SeqCst);
    }
    if broadcast && how == ANSWER_LOST {
        return (StatusCode::BAD_GATEWAY, String::new());
    }
    (StatusCode::OK, text)
}

/// What is asked of the newest block is asked of an older one.
fn behind(question: &mut Value, lag: Lag) {
    for parameter in question["params"].as_array_mut().into_iter().flatten() {
        if *parameter == "latest" {
            *parameter = format!("{:#x}", lag.block).into();
        }
    }
}

/// What is answered as if nothing had come after an older block.
fn earlier(method: &str, text: String, lag: Lag) -> String {
    let mut answer: Value = serde_json::from_str(&text).expect("JSON");
    match method {
        "eth_blockNumber" => answer["result"] = format!("{:#x}", lag.block).into(),
        "eth_getTransactionReceipt" if lag.receipts && !answer["result"].is_null() => {
            if quantity(&answer["result"]["blockNumber"]) > lag.block {
                answer["result"] = Value::Null;
            }
        }
        _ => return text,
    }
    answer.to_string()
}

/// A line to a server that can be cut, with every connection on it.
pub(crate) struct Wire {
    url: String,
    cut: watch::Sender<bool>,
}

impl Wire {
    pub(crate) async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = url.strip_prefix("http://").expect("a URL").to_owned();
        let (cut, watching) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (server, mut cut) = (server.clone(), watching.clone());
                tokio::spawn(async move {
                    let carried = async {
                        let mut far = TcpStream::connect(server).await?;
                        tokio::io::copy_bidirectional(&mut near, &mut far).await
                    };
                    tokio::select! {
                        biased;
                        _ = cut.wait_for(|cut| *cut) => (),
                        _ = carried => (),
                    }
                });
            }
        });
        let url = format!("http://{address}");
        Self { url, cut }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn cut(&self, whether: bool) {
        self.cut.send_replace(whether);
    }
}

/// The pinned one of the contract's packages.
pub(crate) fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let npm = Command::new("npm").arg("--version").output();
        let npm = npm.is_ok_and(|output| output.status.success());
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) || !npm {
            let why = "anchoring on a chain: needs npm, and Linux on x86-64";
            assert!(env::var_os("CI").is_none(), "{why}");
            crate::skipped::skip(why);
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
