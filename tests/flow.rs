//! The loop: from a client's call to its record.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use protocol::hash::{Hash, receipt_commitment};
use protocol::key::VerifierKey;
use protocol::receipt::Receipt;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::binaries::{Folder, program};
use crate::gateway::{Gateway, client, free_address};
use crate::provider::{Provider, expected};
use crate::python::run;

/// A credential of the likely shape.
const OPENAI_KEY: &str = "sk-test-openai-0123456789abcdefghijklmno";

/// A chat completion of `model` through the gateway.
pub(crate) fn chat(gateway: &Gateway, model: &str) -> reqwest::RequestBuilder {
    let body = json!({"model": model, "messages": [{"role": "user", "content": SECRET_PROMPT}]});
    gateway
        .client()
        .post(format!("{}/openai/v1/chat/completions", gateway.url()))
        .header(AUTHORIZATION, format!("Bearer {OPENAI_KEY}"))
        .header("content-type", "application/json")
        .body(body.to_string())
}

/// Stands in prompts, and nowhere that the gateway writes.
pub(crate) const SECRET_PROMPT: &str = "planted-prompt-8472";

/// The receipt id that an answer names.
pub(crate) fn receipt_id(headers: &HeaderMap) -> Uuid {
    let id = headers
        .get("x-tally-receipt-id")
        .expect("the call may give a record");
    Uuid::parse_str(id.to_str().expect("ASCII")).expect("a UUID")
}

/// The receipt file of an id, once the record is durable.
pub(crate) async fn receipt(gateway: &Gateway, id: &Uuid) -> Value {
    loop {
        let answer = gateway.get(&format!("/api/receipts/{id}")).await;
        match answer.status() {
            StatusCode::OK => {
                let text = answer.text().await.expect("a whole answer");
                return serde_json::from_str(&text).expect("JSON");
            }
            StatusCode::ACCEPTED => tokio::time::sleep(Duration::from_millis(10)).await,
            other => panic!(
                "receipt {id}: {other}: {}",
                answer.text().await.unwrap_or_default()
            ),
        }
    }
}

/// Checks a receipt file as PROTOCOL.md section 7 says; returns its entry.
pub(crate) fn holds(gateway: &Gateway, file: &Value) -> Value {
    let text = |field: &str| file[field].as_str().expect("a text");
    let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
    let receipt = Receipt::open(text("receipt").as_bytes(), &key).expect("a receipt");
    assert_eq!(receipt.leaf_hash(), Hash::leaf(text("entry").as_bytes()));
    assert_eq!(Some(receipt.index().get()), file["index"].as_u64());
    let entry: Value = serde_json::from_str(text("entry")).expect("JSON");
    let id = Uuid::parse_str(text("id")).expect("a UUID");
    assert_eq!(
        entry["receipt"],
        receipt_commitment(id.as_bytes()).to_string()
    );
    entry
}

/// What an entry must hold for a sample.
pub(crate) fn agrees(entry: &Value, expected: &Value, file: &str) {
    let usage = &expected["usage"];
    for field in ["input", "cache_read", "cache_write", "output", "reasoning"] {
        let wanted = if usage.is_null() {
            &Value::Null
        } else {
            &usage[field]
        };
        assert_eq!(&entry[field], wanted, "{file}: {field}");
    }
    let outcomes: &[&str] = match expected["status"].as_str().expect("every sample has one") {
        "complete" => &["complete"],
        "partial" | "aborted_partial" | "error_partial" | "aborted" | "error" => &["partial"],
        "no_usage" | "non_token_usage" | "invalid_usage" => &["unmetered"],
        other => panic!("{file}: {other} gives no record"),
    };
    assert!(
        outcomes.iter().any(|o| entry["outcome"] == *o),
        "{file}: {entry}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_answers_pass_untouched() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let odd_body = "{\"model\": \"chat.json\" ,\n \"messages\" : [] , \"x\": \"\\u00e9\u{e9}\"}  ";
    let client = client();
    let send = |base: String, path: &str| {
        client
            .post(format!("{base}{path}"))
            .header(AUTHORIZATION, format!("Bearer {OPENAI_KEY}"))
            .header(ACCEPT_ENCODING, "br;q=0.5, gzip")
            .header("x-custom", "one")
            .header("x-custom", "two")
            .header("connection", "x-hop")
            .header("x-hop", "for this connection only")
            .header("x-tally-anything", "for the gateway only")
            .header("content-type", "application/json; charset=utf-8")
            .body(odd_body)
            .send()
    };
    for (method_path, own) in [
        ("/v1/chat/completions?a=b%20c&empty=&a=d", "/openai"),
        ("/v1//chat%2Fx/completions", "/openai"),
        (
            "/v1/chat/completions",
            "/openai/w/0x00112233445566778899aAbBcCdDeEfF00112233",
        ),
    ] {
        send(gateway.url().to_owned() + own, method_path)
            .await
            .expect("answers");
        let seen = provider.seen().pop().expect("forwarded");
        let wanted = format!("/openai{method_path}");
        assert_eq!(seen.uri.to_string(), wanted);
        assert_eq!(seen.method, "POST");
        assert_eq!(seen.body, odd_body.as_bytes());
        let host = provider.url().trim_start_matches("http://");
        assert_eq!(seen.headers["host"], host);
        let custom: Vec<_> = seen.headers.get_all("x-custom").iter().collect();
        assert_eq!(custom, ["one", "two"]);
        assert_eq!(seen.headers["accept-encoding"], "br;q=0.5, gzip");
        let mut names: Vec<_> = seen.headers.keys().map(|k| k.as_str()).collect();
        names.sort_unstable();
        let expected_names = [
            "accept",
            "accept-encoding",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "x-custom",
        ];
        assert_eq!(names, expected_names);
    }

    for name in ["openai", "anthropic"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("providers")
            .join(name);
        for item in fs::read_dir(folder).expect("the samples") {
            let file = item
                .expect("readable")
                .file_name()
                .into_string()
                .expect("ASCII");
            if file == "expected.json" {
                continue;
            }
            let path = if name == "openai" {
                "v1/chat/completions"
            } else {
                "v1/messages"
            };
            let ask = |base: &str| {
                let url = format!("{base}/{name}/{path}");
                client
                    .post(url)
                    .body(json!({"model": file}).to_string())
                    .send()
            };
            let direct = ask(provider.url()).await.expect("answers");
            let through = ask(gateway.url()).await.expect("answers");
            assert_eq!(through.status(), direct.status(), "{file}");
            let (ours, mut headers): (Vec<_>, Vec<_>) = through
                .headers()
                .iter()
                .map(|(n, v)| (n.to_string(), v.clone()))
                .partition(|(n, _)| n.starts_with("x-tally-"));
            assert_eq!(ours.len(), 1, "{file}: {ours:?}");
            let mut wanted: Vec<_> = direct
                .headers()
                .iter()
                .map(|(n, v)| (n.to_string(), v.clone()))
                .collect();
            headers.retain(|(n, _)| n != "date");
            wanted.retain(|(n, _)| n != "date");
            headers.sort_by(|a, b| a.0.cmp(&b.0));
            wanted.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(headers, wanted, "{file}");
            let (through, direct) = (through.bytes().await, direct.bytes().await);
            assert_eq!(through.expect("whole"), direct.expect("whole"), "{file}");
        }
    }
}

/// A streamed chat completion with a body of one's own.
async fn stream(gateway: &Gateway, body: &str) -> (HeaderMap, String) {
    let url = format!("{}/openai/v1/chat/completions", gateway.url());
    let sent = gateway.client().post(url).header(ACCEPT_ENCODING, "gzip");
    let answer = sent.body(body.to_owned()).send().await.expect("answers");
    let headers = answer.headers().clone();
    (headers, answer.text().await.expect("whole"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_asked_for_its_usage_and_shows_none_of_it() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("providers/openai/chat.sse");
    let sample = fs::read_to_string(sample).expect("in the tree");
    let mut events: Vec<_> = sample.split_inclusive("\n\n").collect();
    let usage = events
        .iter()
        .position(|event| event.contains("\"choices\":[]"))
        .expect("there");
    events.remove(usage);

    let body = r#"{"model":"chat_no_include_usage.sse","stream":true}"#;
    let (headers, shown) = stream(&gateway, body).await;
    assert_eq!(headers["x-tally-edited"], "include_usage");
    assert_eq!(shown, events.concat());
    let seen = provider.seen().pop().expect("forwarded");
    assert_eq!(seen.headers["accept-encoding"], "identity");
    let edited = r#"{"model":"chat_no_include_usage.sse","stream":true,"stream_options":{"include_usage":true}}"#;
    assert_eq!(seen.body, edited.as_bytes());
    assert_eq!(seen.headers["content-length"], edited.len().to_string());
    let entry = holds(&gateway, &receipt(&gateway, &receipt_id(&headers)).await);
    agrees(&entry, &expected("openai", "chat.sse"), "asked for");

    // A client that asks by itself, or declines, is left alone.
    let asks = edited.replace("chat_no_include_usage", "chat");
    let declines = edited.replace(":true}", ":false}");
    for (body, whole) in [(&asks, true), (&declines, false)] {
        let (headers, shown) = stream(&gateway, body).await;
        assert!(!headers.contains_key("x-tally-edited"));
        assert_eq!(shown == sample, whole);
        let seen = provider.seen().pop().expect("forwarded");
        assert_eq!(seen.body, body.as_bytes());
        assert_eq!(seen.headers["accept-encoding"], "gzip");
    }

    // A server that refuses the question gets the call as the client wrote it.
    let before = provider.seen().len();
    let (headers, shown) = stream(&gateway, r#"{"model":"old-server","stream":true}"#).await;
    assert!(
        !headers.contains_key("x-tally-edited") && shown.contains("[DONE]"),
        "{shown}"
    );
    assert_eq!(provider.seen().len(), before + 2);
    let seen = provider.seen().pop().expect("forwarded");
    assert_eq!(seen.headers["accept-encoding"], "gzip");
    let entry = holds(&gateway, &receipt(&gateway, &receipt_id(&headers)).await);
    assert_eq!(entry["outcome"], "unmetered");
    // Any other refusal is the client's to see.
    let (_, shown) = stream(&gateway, r#"{"model":"refuse:temperature","stream":true}"#).await;
    assert!(shown.contains("temperature"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_passthrough_edits_nothing() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let strict = ["--strict-passthrough"];
    let gateway = Gateway::start_at(data.path(), provider.url(), &free_address(), &strict).await;
    let body = r#"{"model":"chat_no_include_usage.sse","stream":true}"#;
    let (headers, _) = stream(&gateway, body).await;
    assert_eq!(
        provider.seen().pop().expect("forwarded").body,
        body.as_bytes()
    );
    let entry = holds(&gateway, &receipt(&gateway, &receipt_id(&headers)).await);
    assert_eq!(entry["outcome"], "unmetered");
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_responses_are_recorded_once_and_posts_always() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let get = |path: &'static str| {
        let url = format!("{}{path}", gateway.url());
        let client = gateway.client();
        async move {
            client
                .get(url)
                .send()
                .await
                .expect("answers")
                .bytes()
                .await
                .expect("whole")
        }
    };
    // Retrieved twice: one record. Then posted twice, with the same id: two more.
    get("/openai/v1/responses/responses.json").await;
    get("/openai/v1/responses/responses.json").await;
    get("/openai/v1/responses/responses_background_queued.json").await;
    get("/openai/v1/models/models.json").await;
    assert_eq!(gateway.reaches(2).await, 2);
    for _ in 0..2 {
        let answer = chat(&gateway, "chat.json").send().await.expect("answers");
        answer.bytes().await.expect("whole");
    }
    assert_eq!(gateway.reaches(4).await, 4);
    // A response that a POST recorded is not recorded again when retrieved.
    get("/openai/v1/chat/completions/chat.json").await;
    // Two of a batch's three lines are responses with usage, each a record of its own.
    for _ in 0..2 {
        get("/anthropic/v1/messages/batches/batch_results.ndjson/results").await;
    }
    assert_eq!(gateway.reaches(6).await, 6);
    // What would be recorded by now, had it been taken twice.
    chat(&gateway, "chat.json")
        .send()
        .await
        .expect("answers")
        .bytes()
        .await
        .expect("whole");
    assert_eq!(gateway.reaches(7).await, 7);
    let entries = gateway.entries().await;
    let batch: Vec<_> = entries
        .iter()
        .filter(|e| e["provider"] == "anthropic")
        .collect();
    let counts: Vec<_> = batch
        .iter()
        .map(|e| (e["input"].as_u64(), e["output"].as_u64()))
        .collect();
    assert_eq!(counts, [(Some(11), Some(36)), (Some(11), Some(4))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_recorded_and_the_upstream_call_ends() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let mut answer = chat(&gateway, "endless:5").send().await.expect("answers");
    let id = receipt_id(answer.headers());
    answer.chunk().await.expect("a chunk");
    let pending = gateway.get(&format!("/api/receipts/{id}")).await;
    assert_eq!(pending.status(), StatusCode::ACCEPTED);
    assert_eq!(pending.headers()["retry-after"], "1");
    drop(answer);
    let entry = holds(&gateway, &receipt(&gateway, &id).await);
    assert_eq!(
        (&entry["outcome"], &entry["input"]),
        (&json!("aborted"), &Value::Null)
    );
    provider.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_in_the_path_is_claimed() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let wallet = "0x00112233445566778899aAbBcCdDeEfF00112233";
    let url = format!("{}/openai/w/{wallet}/v1/chat/completions", gateway.url());
    let call = gateway
        .client()
        .post(url)
        .body(r#"{"model":"chat.json"}"#)
        .send()
        .await
        .expect("answers");
    let entry = holds(
        &gateway,
        &receipt(&gateway, &receipt_id(call.headers())).await,
    );
    assert_eq!(entry["wallet"], wallet.to_lowercase());
    assert_eq!(
        (&entry["link"], &entry["key_id"]),
        (&json!("claimed"), &Value::Null)
    );
    for spelling in [
        wallet.to_owned(),
        wallet.to_lowercase(),
        wallet.replace("aAbB", "AABB"),
    ] {
        let answer = gateway.json(&format!("/api/wallet/{spelling}")).await;
        assert_eq!(answer["wallet"], wallet.to_lowercase());
        assert_eq!(answer["claimed"][0]["total"], 2_306);
        assert_eq!(answer["bound"], json!([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_in_flight() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let slow = tokio::spawn(chat(&gateway, "slow:700").send());
    while provider.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stopped = tokio::task::spawn_blocking(move || gateway.stop());
    let answer = slow
        .await
        .expect("no panic")
        .expect("answered all the same");
    let id = receipt_id(answer.headers());
    assert_eq!(
        answer.json::<Value>().await.expect("whole")["object"],
        "chat.completion"
    );
    let (status, log) = stopped.await.expect("no panic");
    assert!(status.success(), "{status}: {log}");

    let gateway = Gateway::start(data.path(), provider.url()).await;
    let entry = holds(&gateway, &receipt(&gateway, &id).await);
    assert_eq!(entry["outcome"], "complete");
    assert_eq!(gateway.reaches(2).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_finds_the_way() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let page = gateway.get("/").await.text().await.expect("whole");
    for line in [
        "/openai/v1",
        "/anthropic",
        gateway.vkey(),
        "cargo run --release -p sentinel -- --watch",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
    let mut help = Command::new(program("gateway"));
    run(help.arg("--help"));
    let lost = gateway.get("/nowhere").await;
    assert_eq!(lost.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        lost.json::<Value>().await.expect("JSON")["code"],
        "not_found"
    );
}
