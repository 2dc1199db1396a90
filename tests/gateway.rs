//! Runs the gateway as a process.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, PgConnection};

use crate::binaries::{Folder, program};
use crate::postgres::Server;

/// The stand-in plays all of them.
pub(crate) const PROVIDERS: [&str; 13] = [
    "anthropic",
    "azure",
    "cohere",
    "deepseek",
    "fireworks",
    "gemini",
    "groq",
    "mistral",
    "ollama",
    "openai",
    "openrouter",
    "perplexity",
    "together",
];

/// A client that shows bytes and redirects as they come.
pub(crate) fn client() -> Client {
    // Another test may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().no_gzip().redirect(Policy::none()).build();
    client.expect("a client")
}

/// A gateway that runs, killed when dropped.
#[derive(Debug)]
pub(crate) struct Gateway {
    client: Client,
    child: Child,
    url: String,
    vkey: String,
    /// What it wrote to stderr so far.
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Starts one on `data` in front of the stand-in provider at `provider`,
    /// and waits until it is ready.
    pub(crate) async fn start(data: &Path, provider: &str) -> Self {
        Self::start_at(data, provider, &free_address(), &[]).await
    }

    /// The same, on an address, with further arguments.
    pub(crate) async fn start_at(
        data: &Path,
        provider: &str,
        address: &str,
        arguments: &[&str],
    ) -> Self {
        let mut command = command(data, provider, address);
        command.args(arguments);
        Self::start_with(command, address).await
    }

    /// The same, by a command that makes it listen on this address.
    pub(crate) async fn start_with(mut command: Command, address: &str) -> Self {
        let mut child = command.spawn().expect("the gateway was built");
        let (log, reader) = collect(&mut child);
        let url = format!("http://{address}");
        let client = client();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let ready = client.get(format!("{url}/readyz")).send().await;
            if ready.is_ok_and(|r| r.status() == StatusCode::OK) {
                break;
            }
            if let Some(status) = child.try_wait().expect("it is our child") {
                panic!("the gateway ended: {status}: {}", text(&log));
            }
            assert!(Instant::now() < deadline, "not ready: {}", text(&log));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut gateway = Self {
            client,
            child,
            url,
            vkey: String::new(),
            log,
            reader: Some(reader),
        };
        let key = gateway.json("/api/pubkey").await;
        gateway.vkey = key["vkey"].as_str().expect("a vkey").to_owned();
        gateway
    }

    /// A client with connections of its own.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn vkey(&self) -> &str {
        &self.vkey
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let url = format!("{}{path}", self.url);
        self.client
            .get(url)
            .send()
            .await
            .expect("the gateway answers")
    }

    /// A 200 answer's JSON.
    pub(crate) async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let text = answer.text().await.expect("a whole answer");
        serde_json::from_str(&text).expect("JSON")
    }

    /// The log's size once it is at least `size`.
    pub(crate) async fn reaches(&self, size: u64) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let now = self.json("/api/chain").await["size"].as_u64();
            let now = now.expect("a size");
            if now >= size || Instant::now() > deadline {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Every entry, parsed.
    pub(crate) async fn entries(&self) -> Vec<Value> {
        let mut entries = vec![];
        let mut after = String::new();
        loop {
            let path = format!("/api/records?limit=1000{after}");
            let page = self.json(&path).await;
            for record in page["records"].as_array().expect("a list") {
                let entry = record["entry"].as_str().expect("a text");
                entries.push(serde_json::from_str(entry).expect("JSON"));
            }
            match page["next"].as_u64() {
                Some(next) => after = format!("&after={next}"),
                None => return entries,
            }
        }
    }

    /// What it wrote to stderr so far.
    pub(crate) fn story(&self) -> String {
        text(&self.log)
    }

    /// Waits for it to end by itself; what it wrote to stderr.
    pub(crate) fn ends(mut self) -> String {
        self.child.wait().expect("it is our child");
        self.finish()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().expect("it runs");
        let status = self.child.wait().expect("it is our child");
        assert_eq!(status.signal(), Some(9));
        self.finish()
    }

    /// SIGTERM; its exit status and what it wrote to stderr.
    pub(crate) fn stop(mut self) -> (ExitStatus, String) {
        terminate(self.pid());
        let status = self.child.wait().expect("it is our child");
        (status, self.finish())
    }

    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading a pipe does not panic");
        }
        text(&self.log)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Ended already, if the test got to its end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The PostgreSQL databases of data folders that have one.
fn databases() -> MutexGuard<'static, HashMap<PathBuf, String>> {
    static DATABASES: LazyLock<Mutex<HashMap<PathBuf, String>>> = LazyLock::new(Mutex::default);
    DATABASES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether gateways run on PostgreSQL unless a test says otherwise.
pub(crate) fn on_postgres() -> bool {
    std::env::var("TALLY_TEST_DATABASE").is_ok_and(|engine| engine == "postgres")
}

/// Where the log of a data folder is; none for SQLite.
fn database(data: &Path) -> Option<String> {
    let mut databases = databases();
    if !databases.contains_key(data) && on_postgres() {
        databases.insert(data.to_owned(), Server::shared().database());
    }
    databases.get(data).cloned()
}

/// Lets the gateway on a data folder use a PostgreSQL database.
pub(crate) fn use_database(data: &Path, url: &str) {
    databases().insert(data.to_owned(), url.to_owned());
}

/// A copy of the database of a data folder whose gateway was stopped, as a
/// data folder's without keys.
pub(crate) fn back_up(data: &Path) -> Folder {
    let copy = Folder::new();
    match database(data) {
        Some(url) => use_database(copy.path(), &Server::shared().copy(&url)),
        None => copy_sqlite(data, copy.path()),
    }
    copy
}

/// Puts the database of one data folder in the place of another's, as an
/// operator does: nothing else changes.
pub(crate) fn put_back(from: &Path, data: &Path) {
    match database(from) {
        Some(url) => {
            let place = database(data).expect("both are PostgreSQL's");
            Server::shared().put_back(&url, &place);
        }
        None => copy_sqlite(from, data),
    }
}

fn copy_sqlite(from: &Path, to: &Path) {
    for name in ["tally.db", "tally.db-wal", "tally.db-shm"] {
        let place = to.join(name);
        if place.exists() {
            fs::remove_file(&place).expect("ours");
        }
        if from.join(name).exists() {
            fs::copy(from.join(name), place).expect("ours");
        }
    }
}

/// Loses the database of a data folder.
pub(crate) fn lose_database(data: &Path) {
    if databases().remove(data).is_none() {
        fs::remove_file(data.join("tally.db")).expect("there");
    }
}

/// Runs a statement on the database of a data folder, behind the gateway's back.
pub(crate) async fn alter(data: &Path, sql: &'static str) {
    if let Some(url) = database(data) {
        let connection = PgConnection::connect(&url).await;
        let mut connection = connection.expect("the server runs");
        let done = sqlx::query(sql).execute(&mut connection).await;
        done.expect("it is allowed to");
        return;
    }
    let options = SqliteConnectOptions::new().filename(data.join("tally.db"));
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .expect("a database");
    let done = sqlx::query(sql).execute(&mut connection).await;
    done.expect("it is allowed to");
    connection.close().await.expect("closes");
}

/// The command that starts a gateway, its answers to be read from pipes.
pub(crate) fn command(data: &Path, provider: &str, address: &str) -> Command {
    let mut command = Command::new(program("gateway"));
    command.arg("--data-dir").arg(data);
    command.args(["--listen", address]);
    if let Some(url) = database(data) {
        command.args(["--database-url", &url]);
    }
    for name in PROVIDERS {
        command.args(["--upstream", &format!("{name}={provider}/{name}")]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Sends SIGTERM.
pub(crate) fn terminate(pid: u32) {
    signal(pid, "TERM");
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, name: &str) {
    let killed = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(killed.is_ok_and(|s| s.success()), "process {pid} runs");
}

/// An address of the loopback interface that nothing listens on.
pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

fn collect(child: &mut Child) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let stderr = child.stderr.take().expect("piped");
    let log = Arc::new(Mutex::new(String::new()));
    let shared = Arc::clone(&log);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut log = shared.lock().expect("no writer panics");
            log.push_str(&line);
            log.push('\n');
        }
    });
    (log, reader)
}

fn text(log: &Mutex<String>) -> String {
    log.lock().expect("no writer panics").clone()
}
