//! Sessions: WebSockets pass untouched, and each response of theirs has its record.

use std::fs;
use std::time::Duration;

use protocol::hash::key_id;
use protocol::key::Origin;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::binaries::Folder;
use crate::flow::{holds, receipt};
use crate::gateway::{Gateway, free_address, terminate};
use crate::provider::expected;
use crate::sdks::{driven, key_of, nothing_leaked, text};
use crate::sentinel::{Sees, Sentinel};
use crate::websocket::{Client, HUGE, Speaker, header};

async fn started(arguments: &[&str]) -> (Speaker, Folder, Gateway) {
    let (speaker, data) = (Speaker::start().await, Folder::new());
    let address = free_address();
    let gateway = Gateway::start_at(data.path(), speaker.url(), &address, arguments).await;
    (speaker, data, gateway)
}

/// A realtime session of `model` through the gateway.
async fn realtime(gateway: &Gateway, model: &str) -> Client {
    let path = format!("/openai/v1/realtime?model={model}");
    let key = format!("authorization: Bearer {}", key_of("openai"));
    let mut client = Client::connect(gateway.url(), &path, &[&key]).await;
    assert!(client.head.starts_with("HTTP/1.1 101"), "{}", client.head);
    client.hear_until("session.created").await;
    client
}

/// What the log's newest entries say, once there are `count` beside entry 0.
async fn entries(gateway: &Gateway, count: u64) -> Vec<Value> {
    assert_eq!(gateway.reaches(count + 1).await, count + 1);
    gateway.entries().await.split_off(1)
}

/// The receipt id of a session.
fn receipt_of(client: &Client) -> Uuid {
    let id = header(&client.head, "x-tally-receipt-id").expect("a session has one");
    Uuid::parse_str(&id).expect("a UUID")
}

const DONE: &str = r#""type":"response.done""#;
const CREATE: &str = r#"{"type":"response.create"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn sdks_hold_the_same_sessions_and_each_response_has_its_record() {
    let (speaker, data, gateway) = started(&[]).await;
    let sessions = driven("sessions.py", &[gateway.url(), speaker.url()]).await;
    assert_eq!(sessions.len(), 2 * 4 + 2 * 3 + 3);
    let mut wanted = 0;
    for session in &sessions {
        let name = text(session, "file");
        let (file, manner) = name.split_once('~').unwrap_or((name, ""));
        let provider = text(session, "provider");
        // Google's SDK offers it always, and is answered before it says more.
        let compressed = manner == "compressed" || provider == "gemini";
        assert_eq!(session["compressed"], compressed, "{session}");
        let sample = expected(provider, file);
        let usage = &sample["usage"];
        // Two turns, and what the user said in one of them.
        let records = match file {
            "realtime.ndjson" => 3,
            "live.ndjson" => 2,
            _ => 1,
        };
        wanted += records;
        let id = Uuid::parse_str(text(session, "receipt")).expect("a UUID");
        let first = holds(&gateway, &receipt(&gateway, &id).await);
        assert_eq!(first["outcome"], "complete", "{session}");
        assert_eq!(first["key_id"], session["key_id"], "{session}");
        assert_eq!(first["provider"], provider);
        if records == 1 {
            assert_eq!(first["input"], usage["input"], "{session}");
            assert_eq!(first["output"], usage["output"], "{session}");
        }
    }
    let entries = entries(&gateway, wanted).await;
    for provider in ["openai", "gemini"] {
        for field in ["input", "output", "cache_read", "reasoning"] {
            let sum = |entry: &Value| entry[field].as_u64().unwrap_or(0);
            let of = entries.iter().filter(|entry| entry["provider"] == provider);
            let found: u64 = of.map(sum).sum();
            let held = sessions.iter().filter(|s| s["provider"] == provider);
            let due: u64 = held
                .map(|session| {
                    let file = text(session, "file").split('~').next().expect("a file");
                    expected(provider, file)["usage"][field]
                        .as_u64()
                        .unwrap_or(0)
                })
                .sum();
            assert_eq!(found, due, "{provider} {field}");
        }
    }
    // The provider heard the same from both, but for the masks and the keys
    // that are drawn anew for each session.
    let heard = speaker.heard();
    for pair in heard.chunks(2) {
        let lines = |head: &str| {
            let mut lines: Vec<String> = head.lines().map(str::to_ascii_lowercase).collect();
            let own = ["host:", "sec-websocket-key:"];
            lines.retain(|line| !own.iter().any(|name| line.starts_with(name)));
            lines.sort();
            lines
        };
        assert_eq!(lines(&pair[0].head), lines(&pair[1].head));
        assert_eq!(pair[0].bytes.len(), pair[1].bytes.len());
    }
    let pass = Sentinel::fresh()
        .with(&["--vkey", gateway.vkey()])
        .patient_pass(gateway.url());
    assert_eq!(pass.compare(&Sees::Verified), Ok(()));
    let (status, log) = gateway.stop();
    assert!(status.success(), "{log}");
    nothing_leaked(data.path(), &log);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_untouched_both_ways() {
    let (speaker, _data, gateway) = started(&[]).await;
    let offers = "sec-websocket-extensions: permessage-deflate; client_max_window_bits, x-odd";
    for model in [
        "realtime.ndjson",
        "realtime.ndjson~fragmented",
        "realtime.ndjson~compressed",
        "realtime.ndjson~masked",
        "realtime.ndjson~strange",
        "realtime.ndjson~leaves",
    ] {
        let path = format!("/openai/v1/realtime?model={model}&x=%20y");
        let mut said = vec![];
        for base in [gateway.url(), speaker.url()] {
            let mut client = Client::connect(
                base,
                &path,
                &[
                    offers,
                    "sec-websocket-protocol: realtime, openai-beta.realtime-v1",
                    "openai-safety-identifier: someone",
                ],
            )
            .await;
            client.say(CREATE).await;
            client.say(CREATE).await;
            client.say("the last").await;
            client.close().await;
            let bytes = client.rest().await;
            let names = |head: &str| {
                let mut lines: Vec<String> = head.lines().map(str::to_ascii_lowercase).collect();
                lines.retain(|line| !line.starts_with("x-tally-") && !line.starts_with("date:"));
                lines.sort();
                lines
            };
            said.push((names(&client.head), bytes));
        }
        assert!(said[0].1.len() > 300, "{model}: {}", said[0].1.len());
        assert!(said[0] == said[1], "{model}: {said:?}");
        let heard = speaker.heard();
        let [through, direct] = &heard[heard.len() - 2..] else {
            panic!("two sessions");
        };
        assert_eq!(through.bytes, direct.bytes, "{model}");
        let first = |head: &str| head.lines().next().map(str::to_owned);
        assert_eq!(first(&through.head), first(&direct.head), "{model}");
    }
    // What can't be read is recorded as such, what was read before stays.
    let entries = entries(&gateway, 4 * 3 + 1 + 1 + 1).await;
    let unmetered = entries.iter().filter(|e| e["outcome"] == "unmetered");
    assert_eq!(unmetered.count(), 2, "{entries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_off_within_a_response_decides_its_outcome() {
    let (_speaker, _data, gateway) = started(&[]).await;

    let mut provider_breaks = realtime(&gateway, "realtime.ndjson~abort").await;
    provider_breaks.say(CREATE).await;
    provider_breaks.rest().await;
    let entry = entries(&gateway, 1).await.pop().expect("one");
    assert_eq!(entry["outcome"], "partial", "{entry}");
    assert_eq!(
        holds(
            &gateway,
            &receipt(&gateway, &receipt_of(&provider_breaks)).await
        ),
        entry
    );

    let mut client_leaves = realtime(&gateway, "realtime.ndjson~stall").await;
    client_leaves.say(CREATE).await;
    client_leaves.hear_until("response.created").await;
    drop(client_leaves);
    let entry = entries(&gateway, 2).await.pop().expect("two");
    assert_eq!(entry["outcome"], "aborted", "{entry}");

    // One that says that it closes has left, too.
    let mut client_closes = realtime(&gateway, "realtime.ndjson~stall").await;
    client_closes.say(CREATE).await;
    client_closes.hear_until("response.created").await;
    client_closes.close().await;
    drop(client_closes);
    let entry = entries(&gateway, 3).await.pop().expect("three");
    assert_eq!(entry["outcome"], "aborted", "{entry}");

    // Where no response began, none is recorded.
    let mut idle = realtime(&gateway, "realtime.ndjson").await;
    let id = receipt_of(&idle);
    let pending = gateway.get(&format!("/api/receipts/{id}")).await;
    assert_eq!(pending.status(), 202);
    idle.close().await;
    idle.rest().await;
    let refused = Client::connect(
        gateway.url(),
        "/openai/v1/realtime?model=realtime.ndjson~refuse",
        &[],
    )
    .await;
    assert!(refused.head.starts_with("HTTP/1.1 401"), "{}", refused.head);
    assert!(header(&refused.head, "x-tally-receipt-id").is_none());
    let deadline = Instant::now() + Duration::from_secs(5);
    while gateway.get(&format!("/api/receipts/{id}")).await.status() == 202 {
        assert!(Instant::now() < deadline, "it stays pending");
        sleep(Duration::from_millis(10)).await;
    }
    let none = gateway.get(&format!("/api/receipts/{id}")).await;
    assert_eq!(none.status(), 404);
    assert!(none.text().await.expect("whole").contains("no_record"));
    assert_eq!(entries(&gateway, 3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_any_size_takes_no_memory() {
    let (_speaker, _data, gateway) = started(&[]).await;
    let peak = |gateway: &Gateway| {
        let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid()));
        let status = status.expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        kib.unwrap_or(0_u64) << 10
    };
    let mut client = realtime(&gateway, "realtime.ndjson").await;
    client.say(CREATE).await;
    client.hear_until(DONE).await;
    let before = peak(&gateway);
    let mut client = realtime(&gateway, "realtime.ndjson~huge").await;
    client.say(CREATE).await;
    client.hear_until("response.created").await;
    let (_, message) = client.hear().await.expect("a message");
    assert!(message.len() > HUGE);
    client.hear_until(DONE).await;
    let grown = peak(&gateway) - before;
    assert!(grown < 8 << 20, "it grew by {grown} bytes");
    assert_eq!(entries(&gateway, 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_records_the_responses_that_ran() {
    let (speaker, data) = (Speaker::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), speaker.url()).await;
    let mut idle = realtime(&gateway, "realtime.ndjson").await;
    idle.say(CREATE).await;
    idle.hear_until(DONE).await;
    let never_asked = realtime(&gateway, "realtime.ndjson").await;
    let mut running = realtime(&gateway, "realtime.ndjson~stall").await;
    running.say(CREATE).await;
    running.hear_until("response.created").await;
    assert_eq!(entries(&gateway, 1).await.len(), 1);
    // The line in the journal goes out before the message does.
    gateway.kill();
    let gateway = Gateway::start(data.path(), speaker.url()).await;
    let entry = entries(&gateway, 2).await.pop().expect("two");
    assert_eq!(entry["outcome"], "unknown", "{entry}");
    let file = receipt(&gateway, &receipt_of(&running)).await;
    assert_eq!(holds(&gateway, &file), entry);
    let id = receipt_of(&never_asked);
    let answer = gateway.get(&format!("/api/receipts/{id}")).await;
    assert!(
        answer
            .text()
            .await
            .expect("whole")
            .contains("unknown_receipt")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_waits_for_responses_and_takes_leave() {
    let (_speaker, _data, gateway) = started(&[]).await;
    let mut idle = realtime(&gateway, "realtime.ndjson").await;
    let mut running = realtime(&gateway, "realtime.ndjson~slow").await;
    running.say(CREATE).await;
    running.hear_until("response.created").await;
    terminate(gateway.pid());
    let leave = Some((0x88, vec![0x03, 0xe9]));
    assert_eq!(idle.hear().await, leave);
    running.hear_until(DONE).await;
    assert_eq!(running.hear().await, leave);
    assert_eq!(running.hear().await, None);
    let begun = Instant::now();
    let log = tokio::task::spawn_blocking(|| gateway.ends()).await;
    let log = log.expect("no panic");
    assert!(begun.elapsed() < Duration::from_secs(5), "it ends at once");
    assert!(!log.contains("cut off"), "{log}");
    assert!(log.contains("outcome=\"complete\""), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_which_nobody_speaks_ends() {
    let (speaker, _data, gateway) = started(&["--idle-timeout", "1"]).await;
    let mut silent = realtime(&gateway, "realtime.ndjson").await;
    let begun = Instant::now();
    assert_eq!(silent.hear().await, None);
    assert!(begun.elapsed() < Duration::from_secs(4));
    let mut pinging = realtime(&gateway, "realtime.ndjson").await;
    for _ in 0..6 {
        sleep(Duration::from_millis(400)).await;
        let ping = [0x89, 0x80, 0, 0, 0, 0];
        let written = tokio::io::AsyncWriteExt::write_all(&mut pinging.stream, &ping).await;
        written.expect("it goes on");
        assert_eq!(pinging.hear().await, Some((0x8a, vec![])));
    }
    drop(pinging);
    let over = async {
        while !speaker.heard().iter().all(|session| session.over) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(Duration::from_secs(5), over).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_count_as_calls() {
    let (_speaker, _data, gateway) = started(&["--calls-per-address", "2"]).await;
    let path = "/openai/v1/realtime?model=realtime.ndjson";
    let mut kept = vec![];
    for _ in 0..2 {
        let client = Client::connect(gateway.url(), path, &[]).await;
        assert!(client.head.starts_with("HTTP/1.1 101"), "{}", client.head);
        kept.push(client);
    }
    let third = Client::connect(gateway.url(), path, &[]).await;
    assert!(third.head.starts_with("HTTP/1.1 429"), "{}", third.head);
    assert!(header(&third.head, "retry-after").is_some());
    drop(kept);

    let (_speaker, _data, gateway) = started(&["--max-in-flight", "1"]).await;
    let first = Client::connect(gateway.url(), path, &[]).await;
    assert!(first.head.starts_with("HTTP/1.1 101"), "{}", first.head);
    let second = Client::connect(gateway.url(), path, &[]).await;
    assert!(second.head.starts_with("HTTP/1.1 503"), "{}", second.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_websockets_pass_and_give_no_record() {
    let (_speaker, _data, gateway) = started(&[]).await;
    let path = "/openai/v1/elsewhere?model=realtime.ndjson";
    let mut client = Client::connect(gateway.url(), path, &[]).await;
    assert!(client.head.starts_with("HTTP/1.1 101"), "{}", client.head);
    assert!(header(&client.head, "x-tally-receipt-id").is_none());
    client.say(CREATE).await;
    client.hear_until(DONE).await;
    client.close().await;
    client.rest().await;
    assert!(entries(&gateway, 0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_link_tokens_of_sessions_stand_nowhere() {
    let (speaker, data, gateway) = started(&[]).await;
    let origin = gateway.json("/api/pubkey").await["origin"]
        .as_str()
        .map(Origin::parse);
    let origin = origin.expect("an origin").expect("valid");
    let key = key_of("openai");
    let token = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    let secret: Vec<u8> = (0..32).collect();
    let model = "model=realtime.ndjson";
    let protocol = format!("sec-websocket-protocol: realtime, openai-insecure-api-key.{key}");
    let bearer = format!("authorization: Bearer {key}");
    let link = format!("x-tally-link: {token}");
    let openai = key_id(&origin, "openai", key.as_bytes());
    let linked = key_id(&origin, "link", &secret);
    let gemini = key_id(&origin, "gemini", key_of("gemini").as_bytes());
    let live = format!(
        "/gemini/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent?key={}",
        key_of("gemini")
    );
    let realtime = format!("/openai/v1/realtime?{model}");
    let by_path = format!("/openai/t/{token}/v1/realtime?{model}");
    for (path, headers, wanted) in [
        (&realtime, vec![protocol.as_str()], openai),
        (&realtime, vec![bearer.as_str()], openai),
        (&realtime, vec![bearer.as_str(), link.as_str()], linked),
        (&by_path, vec![protocol.as_str()], linked),
        (&live, vec![], gemini),
    ] {
        let mut client = Client::connect(gateway.url(), path, &headers).await;
        let named = header(&client.head, "x-tally-key-id");
        assert_eq!(named, Some(wanted.to_string()), "{path} {headers:?}");
        if path.starts_with("/gemini") {
            client
                .say(r#"{"setup":{"model":"models/live.ndjson"}}"#)
                .await;
        }
        client
            .say(r#"{"type":"response.create","planted-prompt-8472":1}"#)
            .await;
        client
            .hear_until(if path.starts_with("/gemini") {
                "turnComplete"
            } else {
                DONE
            })
            .await;
        client.close().await;
        client.rest().await;
    }
    let found = entries(&gateway, 5).await;
    let keys: Vec<_> = found.iter().map(|e| e["key_id"].as_str()).collect();
    let wanted = [openai, openai, linked, linked, gemini].map(|key| key.to_string());
    assert_eq!(keys, wanted.each_ref().map(|key| Some(key.as_str())));
    let heard = speaker.heard();
    assert!(heard[0].head.contains(&key), "the provider gets the key");
    assert!(
        heard[4]
            .head
            .contains(&format!("?key={}", key_of("gemini")))
    );
    assert!(!heard.iter().any(|session| session.head.contains(token)));
    // Further records are found by the key.
    let receipts = gateway.json(&format!("/api/user/{openai}/receipts")).await;
    assert_eq!(receipts["receipts"].as_array().map(Vec::len), Some(2));

    let metrics = gateway.get("/metrics").await.text().await.expect("whole");
    let (status, log) = gateway.stop();
    assert!(status.success());
    for secret in [token, "openai-insecure-api-key"] {
        assert!(
            !log.contains(secret) && !metrics.contains(secret),
            "{secret}"
        );
    }
    nothing_leaked(data.path(), &format!("{log}{metrics}"));
    // Each has its line, which names its receipt.
    for entry in found {
        let id = receipts["receipts"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|file| {
                file["entry"]
                    .as_str()
                    .is_some_and(|e| e.contains(text(&entry, "receipt")))
            });
        if let Some(file) = id {
            assert!(log.contains(text(file, "id")), "{log}");
        }
    }
}
