//! Official SDKs: through the gateway they see what they see directly, and
//! each of their calls has its record.
//!
//! What they call is in `sdk/calls.py`.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use protocol::hash::{key_id, receipt_commitment};
use protocol::key::Origin;
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::binaries::{Folder, program};
use crate::flow::{SECRET_PROMPT, agrees, holds, receipt};
use crate::gateway::{Gateway, PROVIDERS, terminate};
use crate::provider::{Provider, Seen, expected};
use crate::python;
use crate::sentinel::{Sees, Sentinel};

/// What a script in `sdk/` prints: one call a line.
pub(crate) async fn driven(script: &str, arguments: &[&str]) -> Vec<Value> {
    let python = python::interpreter("sdk/requirements.txt");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk");
    let mut command = Command::new(python);
    command
        .args(["-B"])
        .arg(folder.join(script))
        .args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("no panic").expect("python starts");
    let story = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{story}");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// The credential that the scripts send to a provider.
pub(crate) fn key_of(provider: &str) -> String {
    format!("sk-test-{provider}-0123456789abcdefghijklmno")
}

pub(crate) fn text<'a>(call: &'a Value, field: &str) -> &'a str {
    call[field].as_str().expect("a text")
}

/// What a call's record must count; `None` if it must have none.
fn due(call: &Value) -> Option<Value> {
    let (name, file) = (text(call, "provider"), text(call, "file"));
    if file.starts_with("error_") || file.starts_with("status:") {
        return None;
    }
    // The gateway asked where the client did not, and the provider said.
    let file = match call["edited"] == true {
        true => file.replace("_no_include_usage", ""),
        false => file.to_owned(),
    };
    let sample = expected(name, &file);
    let counts = !matches!(text(&sample, "status"), "not_usage" | "pending");
    counts.then_some(sample)
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_see_what_the_provider_says_and_each_call_has_its_record() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let calls = driven("compare.py", &[gateway.url(), provider.url()]).await;
    all_kinds_were_called(&calls);
    let seen = provider.seen();
    assert_eq!(seen.len(), 2 * calls.len());
    for (call, pair) in calls.iter().zip(seen.chunks(2)) {
        sent_the_same(call, &pair[0], &pair[1]);
    }

    let origin = gateway.json("/api/pubkey").await["origin"]
        .as_str()
        .map(Origin::parse);
    let origin = origin.expect("an origin").expect("a valid one");
    let mut records = 0;
    let mut by_key = BTreeMap::new();
    for call in &calls {
        let name = text(call, "provider");
        let key = key_id(&origin, name, key_of(name).as_bytes()).to_string();
        // A server of one's own checks no credential, so it identifies nobody.
        let known = if name == "ollama" {
            Value::Null
        } else {
            json!(key)
        };
        let Some(id) = call["receipt"].as_str() else {
            let sample = expected(name, text(call, "file"));
            assert_eq!(sample["status"], "not_usage", "{call}");
            continue;
        };
        assert_eq!(call["key_id"], known, "{call}");
        let id = Uuid::parse_str(id).expect("a UUID");
        let Some(sample) = due(call) else {
            let answer = gateway.get(&format!("/api/receipts/{id}")).await;
            let (status, text) = (answer.status(), answer.text().await.expect("whole"));
            assert_eq!(status, StatusCode::NOT_FOUND, "{call}");
            assert!(text.contains("no_record"), "{call}: {text}");
            continue;
        };
        let entry = holds(&gateway, &receipt(&gateway, &id).await);
        assert_eq!(entry["key_id"], known, "{call}");
        assert_eq!(entry["provider"], name, "{call}");
        agrees(&entry, &sample, &call.to_string());
        records += 1;
        *by_key.entry(key).or_insert(0) += u64::from(name != "ollama");
    }
    assert!(records > 150, "{records}");
    assert_eq!(gateway.reaches(records + 1).await, records + 1);
    for (key, wanted) in by_key {
        let sums = gateway.json(&format!("/api/user/{key}")).await["sources"].take();
        let found: u64 = sums
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|source| source["records"].as_u64())
            .sum();
        assert_eq!(found, wanted, "{key}");
    }

    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let pass = sentinel.patient_pass(gateway.url());
    assert_eq!(pass.compare(&Sees::Verified), Ok(()));
    let (status, log) = gateway.stop();
    assert!(status.success(), "{status}");
    nothing_leaked(data.path(), &log);
    for call in &calls {
        let line = |id: &str| log.lines().any(|line| line.contains(id));
        let id = call["receipt"].as_str();
        assert!(id.is_none_or(line), "no line of the log names {call}");
    }
}

/// Each SDK, sync and async, made a plain call, a stream, a call of a tool,
/// plain and streaming, and was refused.
fn all_kinds_were_called(calls: &[Value]) {
    let kind = |file: &str| {
        let streams = file.ends_with("sse") || file.ends_with("ndjson");
        let refused = file.starts_with("error_") || file.starts_with("status:");
        (streams, file.contains("tools"), refused)
    };
    let made: HashSet<_> = calls
        .iter()
        .map(|call| {
            (
                text(call, "sdk"),
                call["sync"] == true,
                kind(text(call, "file")),
            )
        })
        .collect();
    for sdk in [
        "openai",
        "anthropic",
        "google",
        "mistralai",
        "cohere",
        "groq",
        "together",
        "ollama",
    ] {
        for sync in [true, false] {
            for kind in [
                (false, false, false),
                (true, false, false),
                (false, true, false),
                (true, true, false),
                (false, false, true),
            ] {
                assert!(made.contains(&(sdk, sync, kind)), "{sdk} {sync} {kind:?}");
            }
        }
    }
}

/// Whether a call sends a file.
fn uploads(call: &Value) -> bool {
    call["uploads"] == true
}

/// The provider got the same request twice, but for what the gateway says it
/// edits and for what concerns one connection only.
fn sent_the_same(call: &Value, through: &Seen, direct: &Seen) {
    let edited = call["edited"] == true;
    // What divides the parts of a form is drawn anew for each.
    let boundary = |seen: &Seen| {
        let kind = seen
            .headers
            .get("content-type")
            .and_then(|v| v.to_str().ok());
        let (_, boundary) = kind?.split_once("multipart/form-data; boundary=")?;
        Some(boundary.to_owned())
    };
    let undivided = |seen: &Seen, bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        match boundary(seen) {
            Some(boundary) => text.replace(&boundary, "boundary"),
            None => text,
        }
    };
    let sorted = |seen: &Seen| {
        let mut headers: Vec<_> = seen
            .headers
            .iter()
            .map(|(n, v)| (n.to_string(), undivided(seen, v.as_bytes())))
            .filter(|(n, _)| !matches!(n.as_str(), "host" | "connection"))
            .filter(|(n, _)| !edited || !matches!(n.as_str(), "accept-encoding" | "content-length"))
            .collect();
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        headers
    };
    assert_eq!(through.uri, direct.uri, "{call}");
    assert_eq!(through.method, direct.method, "{call}");
    assert_eq!(sorted(through), sorted(direct), "{call}");
    assert_eq!(boundary(through).is_some(), uploads(call), "{call}");
    let same = undivided(through, &through.body) == undivided(direct, &direct.body);
    assert_eq!(same, !edited, "{call}");
    assert_eq!(through.body.len() == direct.body.len(), !edited, "{call}");
}

/// Credentials, prompts and answers stand in nothing that the gateway wrote.
pub(crate) fn nothing_leaked(data: &Path, log: &str) {
    let mut planted: Vec<String> = PROVIDERS.iter().map(|name| key_of(name)).collect();
    planted.extend([SECRET_PROMPT, "quick", "get_weather"].map(String::from));
    let mut written = vec![("its log".to_owned(), log.as_bytes().to_vec())];
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).expect("its data") {
            let path = item.expect("readable").path();
            match path.is_dir() {
                true => folders.push(path),
                false => written.push((
                    path.display().to_string(),
                    fs::read(&path).expect("readable"),
                )),
            }
        }
    }
    assert!(
        written.len() > 3,
        "database, keys and lock: {}",
        written.len()
    );
    for (place, bytes) in written {
        for secret in &planted {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{secret:?} stands in {place}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_lose_and_double_nothing_while_a_sentinel_watches() {
    const CALLERS: usize = 64;
    const CALLS: usize = 32;
    let (provider, data, state) = (Provider::start().await, Folder::new(), Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let watcher = Command::new(program("sentinel"))
        .args([
            "--watch",
            "--json",
            "--interval",
            "1s",
            "--vkey",
            gateway.vkey(),
            "--state",
        ])
        .arg(state.path())
        .arg(gateway.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the sentinel starts");

    let numbers = [CALLERS.to_string(), CALLS.to_string()];
    let calls = driven("load.py", &[gateway.url(), &numbers[0], &numbers[1]]).await;

    let size = (CALLERS * CALLS + 1) as u64;
    assert_eq!(gateway.reaches(size).await, size);
    let mut receipts = HashSet::new();
    for entry in &gateway.entries().await[1..] {
        let commitment = entry["receipt"].as_str().expect("a commitment").to_owned();
        assert!(
            receipts.insert(commitment),
            "two entries for one call: {entry}"
        );
    }
    let mut last = Value::Null;
    for call in calls {
        let id = Uuid::parse_str(call["receipt"].as_str().expect("an id")).expect("a UUID");
        assert!(
            receipts.remove(&receipt_commitment(id.as_bytes()).to_string()),
            "lost: {call}"
        );
        last = receipt(&gateway, &id).await;
        let entry = holds(&gateway, &last);
        let file = call["file"].as_str().expect("a file");
        let name = entry["provider"].as_str().expect("a provider");
        agrees(&entry, &expected(name, file), file);
    }
    assert!(receipts.is_empty(), "records of no call: {receipts:?}");

    // Idle now: one more pass sees everything.
    tokio::time::sleep(Duration::from_secs(3)).await;
    terminate(watcher.id());
    let watched = watcher.wait_with_output().expect("it ends");
    let passes = String::from_utf8_lossy(&watched.stdout).into_owned();
    let story = String::from_utf8_lossy(&watched.stderr);
    assert_eq!(watched.status.code(), Some(0), "{passes}\n{story}");
    let passes: Vec<Value> = passes
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert!(
        passes.len() > 2 && passes.iter().all(|p| p["verdict"] == "verified"),
        "{passes:?}"
    );
    assert_eq!(passes.last().expect("some")["size"], size);

    let file = state.path().join("a-receipt.json");
    fs::write(&file, last.to_string()).expect("writable");
    let path = file.to_str().expect("ASCII");
    let checked =
        Sentinel::fresh().run(&["receipt", path, "--vkey", gateway.vkey(), gateway.url()]);
    assert_eq!(checked.exit, Some(0), "{checked}");
}
