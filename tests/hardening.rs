//! What reviewers and attackers found, each once: it stays found.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use protocol::hash::key_id;
use protocol::key::Origin;
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::binaries::{Folder, program};
use crate::flow::{chat, holds, receipt, receipt_id};
use crate::gateway::{Gateway, alter, command, free_address, lose_database, terminate};
use crate::provider::Provider;

async fn started() -> (Provider, Folder, Gateway) {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    (provider, data, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_is_no_new_log_under_the_old_key() {
    let (provider, data, gateway) = started().await;
    let (status, _) = gateway.stop();
    assert!(status.success());
    lose_database(data.path());
    let mut again = command(data.path(), provider.url(), &free_address());
    let refused = again.output().expect("it starts");
    let story = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{story}");
    assert!(
        story.contains("database is gone") && story.contains("fork"),
        "{story}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_a_second_writer_cuts_off_comes_back() {
    let (provider, data, gateway) = started().await;
    let slow = tokio::spawn(chat(&gateway, "slow:800").send());
    while provider.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    alter(data.path(), "UPDATE log SET size = size + 1").await;
    let answer = slow
        .await
        .expect("no panic")
        .expect("answered all the same");
    let id = receipt_id(answer.headers());
    let log = gateway.ends();
    assert!(
        log.contains("another gateway writes to this database"),
        "{log}"
    );

    alter(data.path(), "UPDATE log SET size = size - 1").await;
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let entry = holds(&gateway, &receipt(&gateway, &id).await);
    assert_eq!(entry["outcome"], "unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let address = free_address();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("Linux has it");
    let mut child = command(data.path(), provider.url(), &address);
    let mut child = child.stderr(Stdio::from(full)).spawn().expect("it starts");
    let client = crate::gateway::client();
    let url = format!("http://{address}");
    while client.get(format!("{url}/readyz")).send().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..3 {
        let call = client.post(format!("{url}/openai/v1/chat/completions"));
        let answer = call
            .body(r#"{"model":"chat.json"}"#)
            .send()
            .await
            .expect("answers");
        assert_eq!(answer.status(), StatusCode::OK);
        answer.bytes().await.expect("whole");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let chain = client
        .get(format!("{url}/api/chain"))
        .send()
        .await
        .expect("alive");
    let text = chain.text().await.expect("whole");
    assert!(text.contains(r#""size":4"#), "{text}");
    terminate(child.id());
    assert!(child.wait().expect("our child").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_the_answer_is_held_is_recorded() {
    let (_provider, _data, gateway) = started().await;
    let call = chat(&gateway, "stall:").header("x-tally-receipt", "inline");
    let left = call.timeout(Duration::from_millis(400)).send().await;
    assert!(left.expect_err("it is held").is_timeout());
    assert_eq!(gateway.reaches(2).await, 2);
    let entry = gateway.entries().await.pop().expect("one");
    assert_eq!(entry["outcome"], "aborted");
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_climb_are_refused() {
    let (provider, _data, gateway) = started().await;
    let host = gateway.url().trim_start_matches("http://");
    for path in [
        "/openai/v1/files/f/content/responses/..",
        "/openai/v1/chat/completions/%2e%2E/x",
        "/openai/v1/./chat/completions",
        "/openai/v1/x%2f..%2fy",
        "/openai/v1/x\\..\\y",
    ] {
        // Raw: a URL library would take the segments out.
        let mut stream = TcpStream::connect(host).await.expect("listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
    }
    assert!(provider.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_not_forwarded_identifies_nobody() {
    let (provider, _data, gateway) = started().await;
    let origin = gateway.json("/api/pubkey").await["origin"]
        .as_str()
        .map(Origin::parse);
    let origin = origin.expect("an origin").expect("valid");
    let url = format!("{}/openai/v1/chat/completions", gateway.url());
    let call = gateway.client().post(&url).body(r#"{"model":"chat.json"}"#);
    let call = call
        .header("authorization", "Bearer sk-victim-0123456789abcdef")
        .header("api-key", "sk-attacker-0123456789abcdef")
        .header("connection", "authorization");
    let answer = call.send().await.expect("answers");
    let mine = key_id(&origin, "openai", b"sk-attacker-0123456789abcdef");
    assert_eq!(answer.headers()["x-tally-key-id"], mine.to_string());
    assert!(!provider.seen()[0].headers.contains_key("authorization"));

    let call = gateway.client().post(&url).body(r#"{"model":"chat.json"}"#);
    let call = call
        .header("authorization", "Bearer sk-victim-0123456789abcdef")
        .header("authorization", "Bearer sk-attacker-0123456789abcdef");
    let answer = call.send().await.expect("answers");
    assert!(
        !answer.headers().contains_key("x-tally-key-id"),
        "two credentials are nobody's"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_stays_out_of_a_real_log() {
    let data = Folder::new();
    let mut demo = Command::new(program("gateway"));
    demo.args([
        "demo",
        "--origin",
        "log.example.org",
        "--listen",
        &free_address(),
        "--data-dir",
    ]);
    let refused = demo.arg(data.path()).output().expect("it starts");
    let story = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{story}");
    assert!(story.contains("log.example.org is a real log"), "{story}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_never_asks_for_keys_in_the_clear() {
    let (_provider, _data, gateway) = started().await;
    let page = async |host: &str, forwarded: Option<&str>| {
        let mut request = gateway.client().get(gateway.url()).header("host", host);
        if let Some(proto) = forwarded {
            request = request.header("x-forwarded-proto", proto);
        }
        request
            .send()
            .await
            .expect("answers")
            .text()
            .await
            .expect("whole")
    };
    assert!(
        page("log.example.org", None)
            .await
            .contains("=https://log.example.org/openai/v1")
    );
    assert!(
        page("127.0.0.1:8787", None)
            .await
            .contains("=http://127.0.0.1:8787/openai/v1")
    );
    assert!(
        page("localhost:1", Some("https"))
            .await
            .contains("=https://localhost:1/openai/v1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let (provider, data, gateway) = started().await;
    let hanging = tokio::spawn(chat(&gateway, "hang:").send());
    while provider.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = gateway.pid();
    terminate(pid);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = std::time::Instant::now();
    terminate(pid);
    gateway.ends();
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "it does not wait 15 s"
    );
    hanging.abort();
    // The call was cut off without an answer: it comes back.
    let gateway = Gateway::start(data.path(), provider.url()).await;
    assert_eq!(gateway.reaches(2).await, 2);
    let entry = gateway.entries().await.pop().expect("one");
    assert_eq!(entry["outcome"], "unknown");
}
