//! Bad days that have ended other logs: an older copy of the database, a full,
//! read-only or slow disk, a damaged page, a clock that jumps.
//!
//! After each: no fork, no acknowledged record lost, and a restart mends it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use gateway::config::{Config, Given};
use gateway::log::sequencer::system_clock;
use gateway::server::Server;
use protocol::index::Time;
use reqwest::StatusCode;
use serde_json::Value;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::binaries::Folder;
use crate::flow::{chat, holds, receipt, receipt_id};
use crate::gateway::{Gateway, command, free_address};
use crate::provider::Provider;
use crate::sentinel::{Sees, Sentinel};

/// Calls, one after the other, and gets each receipt.
async fn calls(gateway: &Gateway, count: usize) -> Vec<(Uuid, Value)> {
    let mut receipts = vec![];
    for id in answered(gateway, count).await {
        receipts.push((id, receipt(gateway, &id).await));
    }
    receipts
}

/// Calls that are answered well; their receipt ids.
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

async fn honours(gateway: &Gateway, receipts: &[(Uuid, Value)]) {
    for (id, file) in receipts {
        assert_eq!(&receipt(gateway, id).await, file, "a released receipt");
    }
}

fn verifies(sentinel: &Sentinel, gateway: &Gateway) {
    let pass = sentinel.patient_pass(gateway.url());
    assert_eq!(pass.compare(&Sees::Verified), Ok(()));
}

/// Waits until the log is published at this size, and so the head file has it.
async fn published(gateway: &Gateway, size: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let note = gateway
            .get("/checkpoint")
            .await
            .text()
            .await
            .expect("whole");
        if note.lines().nth(1) == Some(size) {
            return;
        }
        assert!(Instant::now() < deadline, "not published: {note}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until `/readyz` says this.
async fn is_ready(gateway: &Gateway, ready: bool) {
    let wanted = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while gateway.get("/readyz").await.status() != wanted {
        assert!(Instant::now() < deadline, "/readyz never said {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts a gateway that must refuse, and say why.
fn refuses(data: &Path, provider: &Provider, why: &str) {
    let plain = command(data, provider.url(), &free_address());
    // One that does not refuse is ended: with 124.
    let mut within = Command::new("timeout");
    within
        .arg("20")
        .arg(plain.get_program())
        .args(plain.get_args());
    let output = within.output().expect("the gateway was built");
    let story = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{story}");
    assert!(story.contains(why), "expected {why:?}: {story}");
}

/// Puts a database in the place of another, as an operator would.
fn restore(from: &Path, data: &Path) {
    for name in ["tally.db", "tally.db-wal", "tally.db-shm"] {
        let place = data.join(name);
        if place.exists() {
            fs::remove_file(&place).expect("ours");
        }
        if from.join(name).exists() {
            fs::copy(from.join(name), place).expect("ours");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_copy_of_the_database_is_refused() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let started = async |data: &Folder| Gateway::start(data.path(), provider.url()).await;
    let gateway = started(&data).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let mut receipts = calls(&gateway, 3).await;
    verifies(&sentinel, &gateway);
    assert!(gateway.stop().0.success());
    let yesterday = data.copied();
    let gateway = started(&data).await;
    receipts.extend(calls(&gateway, 3).await);
    published(&gateway, "7").await;
    verifies(&sentinel, &gateway);
    gateway.kill();
    let today = data.copied();

    restore(yesterday.path(), data.path());
    let head = fs::read(data.path().join("log.head")).expect("there");
    refuses(
        data.path(),
        &provider,
        "the database is older than the log: it holds 4 entries, and a checkpoint of 7",
    );
    assert_eq!(fs::read(data.path().join("log.head")).expect("there"), head);

    // The same key on the older copy elsewhere: the log's other future.
    fs::remove_file(yesterday.path().join("log.head")).expect("there");
    let fork = started(&yesterday).await;
    calls(&fork, 5).await;
    assert!(fork.stop().0.success());
    restore(yesterday.path(), data.path());
    refuses(
        data.path(),
        &provider,
        "its first 7 entries have another root",
    );

    fs::write(data.path().join("log.head"), "cut off").expect("ours");
    restore(today.path(), data.path());
    refuses(
        data.path(),
        &provider,
        "does not hold a checkpoint of this log",
    );
    fs::write(data.path().join("log.head"), head).expect("ours");
    let gateway = started(&data).await;
    honours(&gateway, &receipts).await;
    calls(&gateway, 1).await;
    verifies(&sentinel, &gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_forks_nothing() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let receipts = calls(&gateway, 270).await;
    published(&gateway, "271").await;
    verifies(&sentinel, &gateway);
    assert!(gateway.stop().0.success());

    let database = data.path().join("tally.db");
    let file = fs::read(&database).expect("there");
    // The peak over the full bundle stands in two places, and both are damaged.
    for (sql, why) in [
        ("SELECT peaks FROM log", "the database is damaged"),
        (
            "SELECT entry FROM tail ORDER BY idx DESC LIMIT 1",
            "the database is damaged",
        ),
        (
            "SELECT hashes FROM tile WHERE level = 1",
            "have another root",
        ),
    ] {
        let options = SqliteConnectOptions::new()
            .filename(&database)
            .read_only(true);
        let mut connection = SqliteConnection::connect_with(&options)
            .await
            .expect("opens");
        let found = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
        let bytes: Vec<u8> = found.expect("one");
        connection.close().await.expect("closes");
        let places: Vec<_> = memchr::memmem::find_iter(&file, &bytes[bytes.len() - 32..]).collect();
        assert!(!places.is_empty(), "{sql}");
        let mut damaged = file.clone();
        places.iter().for_each(|at| damaged[at + 9] ^= 4);
        fs::write(&database, damaged).expect("ours");
        refuses(data.path(), &provider, why);
        restored(data.path(), &file);
    }
    // A page that was never written, in the middle: it refuses, or what it
    // goes on to sign stays one history.
    for page in 1..(file.len() / 4096) {
        if page % 3 != 1 {
            continue;
        }
        let mut damaged = file.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0);
        let copy = data.copied();
        fs::write(copy.path().join("tally.db"), damaged).expect("ours");
        survives_or_refuses(copy.path(), &provider, &sentinel.twin()).await;
    }

    restored(data.path(), &file);
    let gateway = Gateway::start(data.path(), provider.url()).await;
    honours(&gateway, &receipts).await;
    calls(&gateway, 1).await;
    verifies(&sentinel, &gateway);
}

/// The database as it was, and nothing that a start left beside it.
fn restored(data: &Path, file: &[u8]) {
    for beside in ["tally.db-wal", "tally.db-shm"] {
        // There is none after a clean stop.
        let _ = fs::remove_file(data.join(beside));
    }
    fs::write(data.join("tally.db"), file).expect("ours");
}

async fn survives_or_refuses(data: &Path, provider: &Provider, sentinel: &Sentinel) {
    let address = free_address();
    let mut child = command(data, provider.url(), &address)
        .spawn()
        .expect("built");
    let client = crate::gateway::client();
    let url = format!("http://{address}");
    let deadline = Instant::now() + Duration::from_secs(20);
    let runs = loop {
        if child.try_wait().expect("ours").is_some() {
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
    child.wait().expect("ours");
}

/// A small disk of its own, where that may be mounted.
struct Disk(Folder);

impl Disk {
    fn mounted(size: &str) -> Option<Self> {
        let folder = Folder::new();
        let mount = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=0755"),
                "tmpfs",
            ])
            .arg(folder.path())
            .output();
        let mounted = mount.is_ok_and(|mount| mount.status.success());
        if !mounted {
            eprintln!("SKIPPED: a small disk can't be mounted here (needs root)");
        }
        mounted.then_some(Self(folder))
    }

    fn remount(&self, option: &str) {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", &format!("remount,{option}")])
            .arg(self.0.path());
        assert!(mount.status().expect("it did before").success(), "{option}");
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
            while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["-l"])
            .arg(self.0.path())
            .status();
    }
}

/// The command line, started by a shell that ignores the signal which else
/// ends a process that writes past its limit.
fn limited(data: &Path, provider: &Provider, address: &str) -> Command {
    let plain = command(data, provider.url(), address);
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#]);
    shell.arg(plain.get_program()).args(plain.get_args());
    shell
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    shell
}

/// No file of this process may grow beyond so many bytes.
fn limit(pid: u32, bytes: &str) {
    let limit = Command::new("prlimit")
        .args([
            "--pid",
            &pid.to_string(),
            &format!("--fsize={bytes}:unlimited"),
        ])
        .status();
    assert!(limit.is_ok_and(|limit| limit.success()), "prlimit is there");
}

/// While nothing can be written: what was acknowledged stays, what comes is
/// refused or waits, and `/readyz` tells. What waits becomes durable after.
async fn a_full_disk(
    gateway: Gateway,
    fill: impl Fn(&Gateway),
    empty: impl Fn(&Gateway),
    again: impl AsyncFn() -> Gateway,
    sentinel: Sentinel,
) {
    let mut receipts = calls(&gateway, 5).await;
    verifies(&sentinel, &gateway);
    fill(&gateway);
    let mut waiting = vec![];
    let (mut ok, mut refused) = (0, 0);
    for _ in 0..30 {
        let answer = chat(&gateway, "chat.json").send().await.expect("answers");
        match answer.status() {
            StatusCode::OK => {
                ok += 1;
                waiting.push(receipt_id(answer.headers()));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                refused += 1;
                assert!(answer.headers().contains_key("retry-after"));
            }
            other => panic!("{other}"),
        }
    }
    is_ready(&gateway, false).await;
    assert_eq!(gateway.get("/healthz").await.status(), StatusCode::OK);
    honours(&gateway, &receipts).await;
    for id in &waiting {
        let answer = gateway.get(&format!("/api/receipts/{id}")).await;
        assert_eq!(
            answer.status(),
            StatusCode::ACCEPTED,
            "{ok} ok, {refused} refused"
        );
    }
    empty(&gateway);
    is_ready(&gateway, true).await;
    for id in &waiting {
        let file = receipt(&gateway, id).await;
        assert_eq!(holds(&gateway, &file)["outcome"], "complete");
        receipts.push((*id, file));
    }
    verifies(&sentinel, &gateway);

    // Once more, and killed meanwhile.
    fill(&gateway);
    let mut lost = vec![];
    for _ in 0..5 {
        let answer = chat(&gateway, "chat.json").send().await.expect("answers");
        if answer.status() == StatusCode::OK {
            lost.push(receipt_id(answer.headers()));
        }
    }
    empty(&gateway);
    gateway.kill();
    let gateway = again().await;
    honours(&gateway, &receipts).await;
    for id in lost {
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
    let provider = Provider::start().await;
    let again = async || Gateway::start(&disk.data(), provider.url()).await;
    let gateway = again().await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let empty = |_: &Gateway| fs::remove_file(disk.ballast()).expect("ours");
    a_full_disk(gateway, |_| disk.fill(), empty, again, sentinel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_may_not_grow_loses_nothing_acknowledged() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let again = async || {
        let address = free_address();
        Gateway::start_with(limited(data.path(), &provider, &address), &address).await
    };
    let gateway = again().await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let fill = |gateway: &Gateway| limit(gateway.pid(), "1024");
    let empty = |gateway: &Gateway| limit(gateway.pid(), "unlimited");
    a_full_disk(gateway, fill, empty, again, sentinel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_read_only_is_refused_at_the_start() {
    let Some(disk) = Disk::mounted("8m") else {
        return;
    };
    let provider = Provider::start().await;
    let gateway = Gateway::start(&disk.data(), provider.url()).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let receipts = calls(&gateway, 3).await;
    gateway.kill();
    disk.remount("ro");
    refuses(
        &disk.data(),
        &provider,
        "choose another folder with --data-dir",
    );
    disk.remount("rw");
    let gateway = Gateway::start(&disk.data(), provider.url()).await;
    honours(&gateway, &receipts).await;
    verifies(&sentinel, &gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stalls_delays_receipts_and_bounds_what_waits() {
    let (provider, data, address) = (Provider::start().await, Folder::new(), free_address());
    let bound = ["--max-in-flight", "8"];
    let gateway = Gateway::start_at(data.path(), provider.url(), &address, &bound).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let options = SqliteConnectOptions::new().filename(data.path().join("tally.db"));
    let mut other = SqliteConnection::connect_with(&options)
        .await
        .expect("opens");
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .expect("the lock");
    let waiting = answered(&gateway, 8).await;
    let answer = chat(&gateway, "chat.json").send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    // Longer than the writer waits for the lock.
    is_ready(&gateway, false).await;
    sqlx::query("ROLLBACK")
        .execute(&mut other)
        .await
        .expect("held");
    for id in waiting {
        holds(&gateway, &receipt(&gateway, &id).await);
    }
    is_ready(&gateway, true).await;
    calls(&gateway, 1).await;
    assert_eq!(gateway.reaches(10).await, 10);
    verifies(&sentinel, &gateway);
}

/// By how many seconds the gateway's clock is wrong.
static WRONG: AtomicI64 = AtomicI64::new(0);

fn wrong_clock() -> Time {
    let now = system_clock()
        .secs()
        .saturating_add_signed(WRONG.load(Ordering::SeqCst));
    Time::from_secs(now).expect("small")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_never_turns_time_back() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let given = Given {
        listen: Some(([127, 0, 0, 1], 0).into()),
        data_dir: Some(data.path().into()),
        upstreams: vec![
            format!("openai={}/openai", provider.url())
                .parse()
                .expect("a URL"),
        ],
        ..Given::default()
    };
    let config = Config::resolve(given).expect("valid");
    let client = crate::gateway::client();
    let sentinel = Sentinel::fresh();
    let mut newest = 0;
    let mut size = 1;
    // An hour back, a day ahead, and right again; within a run and over restarts.
    for (before, within) in [
        (0, -3_600),
        (-3_600, 0),
        (0, 86_400),
        (86_400, 0),
        (0, -86_400),
    ] {
        WRONG.store(before, Ordering::SeqCst);
        let server = Server::bind_with_clock(&config, wrong_clock)
            .await
            .expect("starts");
        let url = format!("http://{}", server.address());
        let committed = server.committed();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        for wrong in [before, within] {
            WRONG.store(wrong, Ordering::SeqCst);
            let call = client.post(format!("{url}/openai/v1/chat/completions"));
            let answer = call
                .body(r#"{"model":"chat.json"}"#)
                .send()
                .await
                .expect("answers");
            answer.bytes().await.expect("whole");
            size += 1;
            while committed.borrow().checkpoint.size().get() < size {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let time = committed.borrow().time.secs();
            assert!(time >= newest, "{before}, {within}: {newest}, then {time}");
            newest = time;
        }
        let pass = sentinel.patient_pass(&url);
        assert_eq!(pass.compare(&Sees::Verified), Ok(()), "{before}, {within}");
        let _ = stop.send(());
        running.await.expect("no panic").expect("ends well");
    }
}
