//! Bad days that have ended other logs: an older copy of the database, a full,
//! failing, read-only or slow disk, a damaged page, a clock that jumps.
//!
//! After each: no fork, no acknowledged record lost, and a restart mends it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::Value;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use uuid::Uuid;

use crate::binaries::Folder;
use crate::flow::{chat, holds, receipt, receipt_id};
use crate::gateway::{
    Gateway, back_up, client, command, free_address, on_postgres, put_back, use_database,
};
use crate::postgres::Server;
use crate::provider::Provider;
use crate::sentinel::{Sees, Sentinel};
use crate::skipped::skip;

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

/// Waits until `/readyz` says this.
async fn is_ready(gateway: &Gateway, ready: bool) {
    let wanted = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while gateway.get("/readyz").await.status() != wanted {
        let story = gateway.story();
        assert!(Instant::now() < deadline, "never {wanted}: {story}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(gateway.get("/healthz").await.status(), StatusCode::OK);
}

/// Calls while something is wrong: each is answered, or refused in order.
/// The receipt ids of those that were answered, and how many were not.
async fn tried(gateway: &Gateway, count: usize) -> (Vec<Uuid>, usize) {
    let (mut ids, mut refused) = (vec![], 0);
    for _ in 0..count {
        let answer = chat(gateway, "chat.json").send().await.expect("answers");
        match answer.status() {
            StatusCode::OK => ids.push(receipt_id(answer.headers())),
            StatusCode::SERVICE_UNAVAILABLE => {
                assert!(answer.headers().contains_key("retry-after"));
                refused += 1;
            }
            other => panic!("{other}"),
        }
        answer.bytes().await.expect("whole");
    }
    (ids, refused)
}

/// Requires that none of these has a receipt yet.
async fn are_pending(gateway: &Gateway, ids: &[Uuid]) {
    for id in ids {
        let answer = gateway.get(&format!("/api/receipts/{id}")).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "{id}");
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_forks_nothing() {
    if on_postgres() {
        return;
    }
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let receipts = calls(&gateway, 270).await;
    verifies(&sentinel, &gateway);
    assert!(gateway.stop().0.success());

    let database = data.path().join("tally.db");
    let file = fs::read(&database).expect("there");
    // The peak over the full bundle stands in two places, and both are damaged.
    for (sql, why) in [
        ("SELECT peaks FROM log", "the database is damaged"),
        (
            "SELECT entry FROM tail ORDER BY idx DESC LIMIT 1",
            "have another root",
        ),
        (
            "SELECT hashes FROM tile WHERE level = 1",
            "have another root",
        ),
    ] {
        let bytes = one_blob(&database, sql).await;
        let end = &bytes[bytes.len() - 32..];
        let places: Vec<_> = file.windows(32).enumerate().collect();
        let places = places.into_iter().filter(|(_, at)| *at == end);
        let mut damaged = file.clone();
        let count = places.map(|(at, _)| damaged[at + 9] ^= 4).count();
        assert!(count > 0, "{sql}");
        fs::write(&database, damaged).expect("ours");
        refuses(data.path(), &provider, why);
        restored(&database, &file);
    }
    // A page that was never written: it refuses, or what it goes on to sign
    // stays one history.
    for page in (1..file.len() / 4096).step_by(5) {
        let mut damaged = file.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0);
        let copy = data.copied();
        fs::write(copy.path().join("tally.db"), damaged).expect("ours");
        survives_or_refuses(copy.path(), &provider, &sentinel.twin()).await;
    }
    let gateway = Gateway::start(data.path(), provider.url()).await;
    honours(&gateway, &receipts).await;
    calls(&gateway, 1).await;
    verifies(&sentinel, &gateway);
}

async fn one_blob(database: &Path, sql: &'static str) -> Vec<u8> {
    let options = SqliteConnectOptions::new().filename(database);
    let connected = SqliteConnection::connect_with(&options.read_only(true)).await;
    let mut connection = connected.expect("opens");
    let found = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
    connection.close().await.expect("closes");
    found.expect("one")
}

/// The database as it was, and nothing that a start left beside it.
fn restored(database: &Path, file: &[u8]) {
    for beside in ["db-wal", "db-shm"] {
        // There is none after a clean stop.
        let _ = fs::remove_file(database.with_extension(beside));
    }
    fs::write(database, file).expect("ours");
}

async fn survives_or_refuses(data: &Path, provider: &Provider, sentinel: &Sentinel) {
    let address = free_address();
    let child = command(data, provider.url(), &address)
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.expect("the gateway was built");
    let (client, url) = (client(), format!("http://{address}"));
    let deadline = Instant::now() + Duration::from_secs(20);
    let runs = loop {
        if child.try_wait().expect("our child").is_some() {
            break false;
        }
        if client.get(format!("{url}/healthz")).send().await.is_ok() {
            break true;
        }
        assert!(Instant::now() < deadline, "neither runs nor ends");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    if runs {
        let call = client.post(format!("{url}/openai/v1/chat/completions"));
        let _ = call.body(r#"{"model":"chat.json"}"#).send().await;
        let pass = sentinel.run(&["--json", "--patience", "300ms", &url]);
        let proven = pass.findings().iter().any(|f| f["class"] == "proven");
        assert!(!proven, "{pass}");
    }
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().expect("our child");
}

/// A small disk of its own, where that may be mounted.
struct Disk(Folder);

impl Disk {
    fn mounted(size: &str) -> Option<Self> {
        let folder = Folder::new();
        let options = format!("size={size},mode=0755");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]);
        let mount = mount.arg(folder.path()).output();
        if !mount.is_ok_and(|mount| mount.status.success()) {
            skip("drills on a full and on a read-only disk: mounting one needs root");
            return None;
        }
        Some(Self(folder))
    }

    fn remount(&self, option: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{option}")]);
        let done = mount.arg(self.0.path()).status();
        assert!(done.expect("it did before").success(), "{option}");
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = fs::File::create(self.ballast()).expect("room for a name");
        for size in [4_096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        // What is left of it goes with the process that holds it.
        let _ = umount.arg("-l").arg(self.0.path()).status();
    }
}

/// While nothing can be written: what was acknowledged stays, what comes is
/// refused or waits, and `/readyz` tells. What waits is recorded after.
async fn nothing_can_be_written(
    gateway: Gateway,
    fill: impl Fn(&Gateway),
    empty: impl Fn(&Gateway),
    again: impl AsyncFn() -> Gateway,
) {
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let mut receipts = calls(&gateway, 5).await;
    verifies(&sentinel, &gateway);
    fill(&gateway);
    let (waiting, _) = tried(&gateway, 30).await;
    is_ready(&gateway, false).await;
    honours(&gateway, &receipts).await;
    if !on_postgres() {
        are_pending(&gateway, &waiting).await;
    }
    empty(&gateway);
    is_ready(&gateway, true).await;
    for id in waiting {
        let file = receipt(&gateway, &id).await;
        assert_eq!(holds(&gateway, &file)["outcome"], "complete");
        receipts.push((id, file));
    }
    verifies(&sentinel, &gateway);

    // Once more, and killed meanwhile.
    fill(&gateway);
    let (waiting, _) = tried(&gateway, 5).await;
    empty(&gateway);
    gateway.kill();
    let gateway = again().await;
    honours(&gateway, &receipts).await;
    for id in waiting {
        holds(&gateway, &receipt(&gateway, &id).await);
    }
    calls(&gateway, 2).await;
    verifies(&sentinel, &gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_loses_nothing_acknowledged() {
    let Some(disk) = Disk::mounted("4m") else {
        return;
    };
    let (provider, data) = (Provider::start().await, disk.data());
    let again = async || Gateway::start(&data, provider.url()).await;
    let empty = |_: &Gateway| fs::remove_file(disk.ballast()).expect("ours");
    nothing_can_be_written(again().await, |_| disk.fill(), empty, again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_may_not_grow_lose_nothing_acknowledged() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let again = async || {
        let address = free_address();
        let plain = command(data.path(), provider.url(), &address);
        // Who writes past its limit gets a signal, unless it is ignored.
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#]);
        shell.arg(plain.get_program()).args(plain.get_args());
        shell.stdout(Stdio::null()).stderr(Stdio::piped());
        Gateway::start_with(shell, &address).await
    };
    let limit = |gateway: &Gateway, bytes: &str| {
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--pid", &gateway.pid().to_string()]);
        let limited = prlimit.arg(format!("--fsize={bytes}:unlimited")).status();
        assert!(limited.is_ok_and(|limited| limited.success()), "{bytes}");
    };
    let fill = |gateway: &Gateway| limit(gateway, "1024");
    let empty = |gateway: &Gateway| limit(gateway, "unlimited");
    nothing_can_be_written(again().await, fill, empty, again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_read_only_is_refused_at_the_start() {
    let Some(disk) = Disk::mounted("8m") else {
        return;
    };
    let (provider, data) = (Provider::start().await, disk.data());
    let gateway = Gateway::start(&data, provider.url()).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let receipts = calls(&gateway, 3).await;
    gateway.kill();
    disk.remount("ro");
    let hint = "choose another folder with --data-dir";
    refuses(&data, &provider, hint);
    disk.remount("rw");
    let gateway = Gateway::start(&data, provider.url()).await;
    honours(&gateway, &receipts).await;
    calls(&gateway, 1).await;
    verifies(&sentinel, &gateway);
}

/// Faults that a gateway can be given while it runs (see faults.c).
struct Faults(Folder);

impl Faults {
    fn new() -> Self {
        Self(Folder::new())
    }

    /// The library, built once.
    fn library() -> &'static Path {
        static LIBRARY: OnceLock<(Folder, PathBuf)> = OnceLock::new();
        let (_, library) = LIBRARY.get_or_init(|| {
            let folder = Folder::new();
            let library = folder.path().join("faults.so");
            let mut cc = Command::new("cc");
            cc.args([
                "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
            ]);
            cc.arg(&library);
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults.c");
            let built = cc.arg(source).arg("-ldl").status();
            assert!(built.is_ok_and(|built| built.success()), "cc is there");
            (folder, library)
        });
        library
    }

    async fn start(&self, data: &Path, provider: &Provider, arguments: &[&str]) -> Gateway {
        let address = free_address();
        let mut command = command(data, provider.url(), &address);
        command.env("LD_PRELOAD", Self::library());
        command.env("TALLY_FAULTS", self.0.path()).args(arguments);
        Gateway::start_with(command, &address).await
    }

    /// Sets a fault, whole or not at all.
    fn set(&self, name: &str, number: i64) {
        let draft = self.0.path().join("draft");
        fs::write(&draft, number.to_string()).expect("ours");
        fs::rename(draft, self.0.path().join(name)).expect("ours");
    }
}

/// The published size.
async fn published(gateway: &Gateway) -> u64 {
    let note = gateway.get("/checkpoint").await.text().await;
    let note = note.expect("whole");
    let size = note.lines().nth(1).and_then(|line| line.parse().ok());
    size.expect("a size")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_can_not_sync_releases_nothing_new() {
    let (provider, data, faults) = (Provider::start().await, Folder::new(), Faults::new());
    let gateway = faults.start(data.path(), &provider, &[]).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let mut receipts = calls(&gateway, 5).await;
    verifies(&sentinel, &gateway);
    let before = published(&gateway).await;
    faults.set("eio", 1);
    let (waiting, refused) = tried(&gateway, 10).await;
    assert_eq!((waiting.len(), refused), (10, 0));
    is_ready(&gateway, false).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // PostgreSQL's disk is another one: there only publishing waits for ours.
    if !on_postgres() {
        are_pending(&gateway, &waiting).await;
    }
    assert_eq!(published(&gateway).await, before);
    honours(&gateway, &receipts).await;
    // What the database has and the head file has not is shown to nobody.
    let (more, _) = tried(&gateway, 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    are_pending(&gateway, &more).await;
    let size = gateway.reaches(0).await;
    let listed = gateway.json("/api/records?limit=1000").await;
    let records = listed["records"].as_array().map_or(0, Vec::len);
    assert_eq!((&listed["size"], records as u64), (&size.into(), size));
    for (path, status) in [
        (format!("/api/records/{}", size - 1), StatusCode::OK),
        (format!("/api/records/{size}"), StatusCode::NOT_FOUND),
        (format!("/tile/entries/000.p/{size}"), StatusCode::OK),
        (format!("/tile/0/000.p/{}", size + 1), StatusCode::NOT_FOUND),
        (
            format!("/tile/entries/000.p/{}", size + 1),
            StatusCode::NOT_FOUND,
        ),
    ] {
        assert_eq!(gateway.get(&path).await.status(), status, "{path}");
    }
    let waiting = [waiting, more].concat();
    faults.set("eio", 0);
    is_ready(&gateway, true).await;
    for id in waiting {
        let file = receipt(&gateway, &id).await;
        assert_eq!(holds(&gateway, &file)["outcome"], "complete");
        receipts.push((id, file));
    }
    verifies(&sentinel, &gateway);

    // Killed meanwhile: what was not acknowledged may be there all the same.
    faults.set("eio", 1);
    let (waiting, _) = tried(&gateway, 5).await;
    is_ready(&gateway, false).await;
    gateway.kill();
    faults.set("eio", 0);
    let gateway = faults.start(data.path(), &provider, &[]).await;
    honours(&gateway, &receipts).await;
    for id in waiting {
        holds(&gateway, &receipt(&gateway, &id).await);
    }
    calls(&gateway, 2).await;
    verifies(&sentinel, &gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_delays_receipts_and_bounds_what_waits() {
    if on_postgres() {
        return;
    }
    let (provider, data, faults) = (Provider::start().await, Folder::new(), Faults::new());
    let bound = ["--max-in-flight", "8"];
    let gateway = faults.start(data.path(), &provider, &bound).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    calls(&gateway, 2).await;
    faults.set("slow", 2_000);
    let (waiting, refused) = tried(&gateway, 24).await;
    assert!(refused > 0, "no more than 8 wait");
    faults.set("slow", 0);
    for id in &waiting {
        let file = receipt(&gateway, id).await;
        assert_eq!(holds(&gateway, &file)["outcome"], "complete");
    }
    is_ready(&gateway, true).await;
    let size = 3 + waiting.len() as u64;
    assert_eq!(gateway.reaches(size).await, size);
    verifies(&sentinel, &gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_never_turns_time_back() {
    let (provider, data, faults) = (Provider::start().await, Folder::new(), Faults::new());
    let (hour, day) = (3_600, 86_400);
    let mut receipts = vec![];
    let mut sentinel = None;
    // An hour back, right again, a day ahead, right again; within a run and
    // over restarts.
    for (before, within) in [(0, -hour), (-hour, 0), (0, day), (day, 0), (0, -day)] {
        faults.set("clock", before);
        let gateway = faults.start(data.path(), &provider, &[]).await;
        let vkey = gateway.vkey().to_owned();
        let sentinel = sentinel.get_or_insert_with(|| Sentinel::fresh().with(&["--vkey", &vkey]));
        for wrong in [before, within] {
            faults.set("clock", wrong);
            receipts.extend(calls(&gateway, 2).await);
            let pass = sentinel.patient_pass(gateway.url());
            assert_eq!(pass.compare(&Sees::Verified), Ok(()), "{before}, {within}");
        }
        honours(&gateway, &receipts).await;
        let times: Vec<_> = gateway.entries().await.into_iter().collect();
        let times: Vec<_> = times.iter().map(|e| e["time"].as_u64()).collect();
        assert!(times.is_sorted(), "{before}, {within}: {times:?}");
        assert!(gateway.stop().0.success());
    }
}
