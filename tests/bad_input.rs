//! Bad input: from clients, from providers, from the disk. Never a panic,
//! nothing lost, and a sentence that says what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::binaries::{Folder, program};
use crate::flow::{chat, holds, receipt, receipt_id};
use crate::gateway::{Gateway, alter, command, free_address, on_postgres};
use crate::provider::Provider;
use crate::sentinel::{Sees, Sentinel};

async fn fresh() -> (Provider, Folder, Gateway) {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    (provider, data, gateway)
}

/// Ends a gateway in order, and requires that it never panicked.
fn end(gateway: Gateway) {
    let (status, log) = gateway.stop();
    assert!(
        status.success() && !log.contains("panicked"),
        "{status}: {log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_what_is_wrong() {
    let (_provider, _data, gateway) = fresh().await;
    for (path, status, code, hint) in [
        (
            "/nobody/v1/chat/completions",
            404,
            "unknown_provider",
            "openai, openrouter",
        ),
        (
            "/openai/w/0x12/v1/chat/completions",
            400,
            "bad_wallet",
            "40 hex digits",
        ),
        ("/api/records/x", 400, "bad_request", "expected a number"),
        ("/api/records/-1", 400, "bad_request", "expected a number"),
        (
            "/api/records/18446744073709551616",
            400,
            "bad_request",
            "expected a number",
        ),
        ("/api/records/9", 404, "unknown_record", "1 entries"),
        ("/api/records?limit=0", 400, "bad_request", "1 to 1,000"),
        ("/api/records?limit=1001", 400, "bad_request", "1 to 1,000"),
        ("/api/records?after=-5", 400, "bad_request", "invalid digit"),
        ("/api/receipts/x", 400, "bad_request", "UUID"),
        (
            "/api/receipts/00000000-0000-7000-8000-000000000000",
            404,
            "unknown_receipt",
            "",
        ),
        (
            "/api/user/x",
            400,
            "bad_request",
            "64 lower-case hex digits",
        ),
        ("/api/wallet/0x12", 400, "bad_wallet", "40 hex digits"),
        ("/api/models?days=0", 400, "bad_request", "1 to 366"),
        ("/api/leaderboard?days=367", 400, "bad_request", "1 to 366"),
        (
            "/api/leaderboard?source=all",
            400,
            "bad_request",
            "proxy or custom",
        ),
        ("/api/leaderboard/model", 400, "bad_request", "model"),
        ("/tile/0/000", 404, "unknown_tile", "not large enough"),
        ("/tile/0/0", 404, "unknown_tile", "tlog-tiles"),
        ("/etc/passwd", 404, "unknown_provider", "openai, openrouter"),
        ("/wp-login.php", 404, "not_found", "openapi.json"),
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status(), status, "{path}");
        let error: Value = answer.json().await.expect("JSON");
        assert_eq!(error["code"], code, "{path}");
        let message = error["message"].as_str().expect("a sentence");
        assert!(message.contains(hint), "{path}: {message}");
    }
    let post = gateway
        .client()
        .post(format!("{}/api/stats", gateway.url()))
        .send()
        .await;
    assert_eq!(
        post.expect("answers").status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    end(gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_over_the_limit_are_refused() {
    let (provider, _data, gateway) = fresh().await;
    let many = (0..300).fold(chat(&gateway, "chat.json"), |r, n| {
        r.header(format!("x-{n}"), "v")
    });
    let large = chat(&gateway, "chat.json").header("x-large", "v".repeat(1 << 20));
    for request in [many, large] {
        // Refused, or the connection closed while they are still being sent.
        if let Ok(answer) = request.send().await {
            assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
    }
    assert!(provider.seen().is_empty());
    assert_eq!(gateway.reaches(1).await, 1);
    end(gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_provider_does_passes_and_is_recorded_once() {
    let (provider, _data, gateway) = fresh().await;
    let mut size = 1;
    for (model, whole, outcome, input) in [
        ("garbage:", true, "unmetered", Value::Null),
        ("break:", false, "partial", Value::Null),
        ("hidden:", true, "complete", json!(2006)),
        ("plain:gzip", true, "complete", json!(2006)),
        ("plain:br", true, "complete", json!(2006)),
        ("plain:x-unheard-of", true, "unmetered", Value::Null),
        ("big:100000000", true, "complete", json!(7)),
        ("status:299", true, "unmetered", Value::Null),
        ("status:204", true, "unmetered", Value::Null),
    ] {
        let answer = chat(&gateway, model).send().await.expect("answers");
        let id = receipt_id(answer.headers());
        let body = answer.bytes().await;
        assert_eq!(body.is_ok(), whole, "{model}");
        let entry = holds(&gateway, &receipt(&gateway, &id).await);
        assert_eq!(
            (&entry["outcome"], &entry["input"]),
            (&json!(outcome), &input),
            "{model}"
        );
        size += 1;
        assert_eq!(gateway.reaches(size).await, size, "{model}");
    }
    for (model, status) in [
        ("status:400", 400),
        ("status:500", 500),
        ("status:999", 200),
        ("redirect:http://127.0.0.1:9/", 302),
        ("nosuchfile", 404),
    ] {
        let answer = chat(&gateway, model).send().await.expect("answers");
        if status == 200 {
            continue;
        }
        assert_eq!(answer.status(), status, "{model}");
        let path = format!("/api/receipts/{}", receipt_id(answer.headers()));
        answer.bytes().await.expect("whole");
        let gone = gateway.get(&path).await;
        assert_eq!(
            gone.json::<Value>().await.expect("JSON")["code"],
            "no_record",
            "{model}"
        );
    }
    // A provider that never answers: the client leaves, and nothing was accepted.
    let patient = chat(&gateway, "hang:").timeout(std::time::Duration::from_millis(300));
    assert!(patient.send().await.expect_err("hangs").is_timeout());
    let pass = Sentinel::fresh()
        .with(&["--vkey", gateway.vkey()])
        .patient_pass(gateway.url());
    assert_eq!(pass.compare(&Sees::Verified), Ok(()));
    assert!(
        provider
            .seen()
            .iter()
            .all(|seen| seen.uri.path().starts_with("/openai/"))
    );
    end(gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_in_little_memory() {
    let (provider, _data, gateway) = fresh().await;
    chat(&gateway, "chat.json")
        .send()
        .await
        .expect("answers")
        .bytes()
        .await
        .expect("whole");
    let before = resident(gateway.pid());
    let prompt = "x".repeat(100_000_000);
    let body = json!({"model": "chat.json", "messages": [{"role": "user", "content": prompt}]});
    let url = format!("{}/openai/v1/chat/completions", gateway.url());
    let answer = gateway
        .client()
        .post(&url)
        .body(body.to_string())
        .send()
        .await;
    // The stand-in takes bodies of 2 MB; what matters is that ours is passed on.
    assert!(answer.is_ok() || !provider.seen().is_empty());
    let answer = chat(&gateway, "big:100000000")
        .send()
        .await
        .expect("answers");
    assert!(answer.bytes().await.expect("whole").len() > 99_000_000);
    let grown = resident(gateway.pid()).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more for 100 MB each way");
    end(gateway);
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> usize {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it runs");
    let pages: usize = statm
        .split(' ')
        .nth(1)
        .expect("the second")
        .parse()
        .expect("a number");
    pages * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_not_there_is_named() {
    let data = Folder::new();
    let nowhere = format!("http://{}", free_address());
    let gateway = Gateway::start(data.path(), &nowhere).await;
    let answer = chat(&gateway, "chat.json").send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let error: Value = answer.json().await.expect("JSON");
    assert_eq!(error["code"], "upstream_unreachable");
    let message = error["message"].as_str().expect("a sentence");
    assert!(
        message.contains("openai") && !message.contains(&nowhere),
        "{message}"
    );
    assert_eq!(gateway.reaches(1).await, 1);
    end(gateway);
}

/// Starts a gateway that can't, and returns its exit code and its sentence.
fn refused(data: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = command(data, "http://127.0.0.1:9", &free_address());
    let output = command
        .args(arguments)
        .stderr(Stdio::piped())
        .output()
        .expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output.status.code(), stderr)
}

fn says(data: &Path, arguments: &[&str], code: i32, hints: &[&str]) {
    let (exit, stderr) = refused(data, arguments);
    assert_eq!(exit, Some(code), "{arguments:?}: {stderr}");
    let sentence = stderr.trim_end();
    assert_eq!(sentence.lines().count(), 1, "one sentence: {stderr}");
    for hint in hints {
        assert!(sentence.contains(hint), "{hint:?} in {sentence}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_told_why_it_does_not_start() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    says(
        data.path(),
        &[],
        1,
        &["held by another gateway", "--data-dir"],
    );
    let taken = gateway.url().trim_start_matches("http://").to_owned();
    let elsewhere = Folder::new();
    let mut twice = Command::new(program("gateway"));
    let twice = twice
        .args(["--listen", &taken, "--data-dir"])
        .arg(elsewhere.path())
        .output();
    let twice = String::from_utf8_lossy(&twice.expect("it starts").stderr).into_owned();
    assert!(
        twice.contains("can't listen on") && twice.contains("--listen"),
        "{twice}"
    );

    let origin = gateway.json("/api/pubkey").await["origin"]
        .as_str()
        .map(str::to_owned);
    let origin = origin.expect("an origin");
    end(gateway);
    says(
        data.path(),
        &["--origin", "log.example.org"],
        1,
        &[&origin, "log.example.org", "for ever"],
    );
    says(
        data.path(),
        &["--origin", "localhost"],
        2,
        &["localhost", "log.example.org"],
    );
    says(
        data.path(),
        &["--config", "/nowhere.toml"],
        2,
        &["/nowhere.toml"],
    );

    let key = data.path().join("log.key");
    let whole = fs::read_to_string(&key).expect("it is there");
    let mode = |bits| fs::set_permissions(&key, fs::Permissions::from_mode(bits)).expect("ours");
    mode(0o644);
    says(data.path(), &[], 1, &["log.key", "644", "chmod 600"]);
    mode(0o600);
    for broken in ["", "abc\n", &whole.to_uppercase(), "\u{fe}"] {
        fs::write(&key, broken).expect("ours");
        says(data.path(), &[], 1, &["log.key", "backup"]);
    }
    fs::write(&key, format!("{}\n", "11".repeat(32))).expect("ours");
    says(data.path(), &[], 1, &["not those of the log", "backup"]);
    fs::remove_file(&key).expect("ours");
    says(data.path(), &[], 1, &["log.key", "backup"]);
    fs::write(&key, whole).expect("ours");
    mode(0o600);

    // All is as it was.
    let gateway = Gateway::start(data.path(), provider.url()).await;
    assert_eq!(gateway.json("/api/pubkey").await["origin"], origin);
    end(gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_or_database_that_is_not_ours_is_left_alone() {
    let folder = Folder::new();
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("ours");
    says(
        &file.join("data"),
        &[],
        1,
        &["can't be created", "--data-dir"],
    );
    says(
        Path::new("/proc/tally"),
        &[],
        1,
        &["can't be created", "--data-dir"],
    );

    let data = Folder::new();
    let gateway = Gateway::start(data.path(), "http://127.0.0.1:9").await;
    end(gateway);
    alter(
        data.path(),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (999, 'later', TRUE, '0', 0)",
    )
    .await;
    says(data.path(), &[], 1, &["newer version", "999"]);
    if on_postgres() {
        return;
    }
    let database = data.path().join("tally.db");

    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", database.display()));
    }
    fs::write(
        &database,
        "this is not a database, but it is long enough to be one",
    )
    .expect("ours");
    says(data.path(), &[], 1, &["tally.db", "not a database"]);
    assert!(
        fs::read_to_string(&database)
            .expect("left alone")
            .starts_with("this is not")
    );
}
