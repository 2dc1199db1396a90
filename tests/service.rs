//! What users and operators expect of the proxy besides passing calls:
//! receipts within the answer, link tokens, limits, pages that read the log.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::hash::{Hash, key_id};
use protocol::key::{Origin, VerifierKey};
use protocol::receipt::Receipt;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::binaries::Folder;
use crate::flow::{chat, holds, receipt, receipt_id};
use crate::gateway::{Gateway, free_address};
use crate::provider::Provider;

async fn started(arguments: &[&str]) -> (Provider, Folder, Gateway) {
    let (provider, data) = (Provider::start().await, Folder::new());
    let address = free_address();
    let gateway = Gateway::start_at(data.path(), provider.url(), &address, arguments).await;
    (provider, data, gateway)
}

/// Opens a receipt in base64 and requires that the log serves the same.
async fn opens(gateway: &Gateway, id: &uuid::Uuid, base64: &str) {
    let note = STANDARD.decode(base64).expect("base64");
    let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
    let opened = Receipt::open(&note, &key).expect("a receipt");
    let file = receipt(gateway, id).await;
    assert_eq!(file["receipt"].as_str().map(str::as_bytes), Some(&note[..]));
    assert_eq!(file["index"], opened.index().get());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_comes_within_the_answer_if_asked_for() {
    let (provider, _data, gateway) = started(&[]).await;
    for model in ["chat.json", "chat.gzip.json"] {
        let call = chat(&gateway, model).header("x-tally-receipt", "inline");
        let answer = call.send().await.expect("answers");
        let id = receipt_id(answer.headers());
        let note = answer.headers()["x-tally-receipt"]
            .to_str()
            .expect("ASCII")
            .to_owned();
        let direct = gateway
            .client()
            .post(format!("{}/openai/v1/chat/completions", provider.url()));
        let direct = direct
            .body(json!({"model": model}).to_string())
            .send()
            .await;
        let direct = direct.expect("answers").bytes().await.expect("whole");
        assert_eq!(answer.bytes().await.expect("whole"), direct);
        opens(&gateway, &id, &note).await;
    }

    let call = chat(&gateway, "chat.sse").header("x-tally-receipt", "inline");
    let answer = call.send().await.expect("answers");
    let id = receipt_id(answer.headers());
    assert!(!answer.headers().contains_key("x-tally-receipt"));
    let text = answer.text().await.expect("whole");
    let (stream, note) = text
        .rsplit_once(": x-tally-receipt ")
        .expect("a comment at the end");
    assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
    opens(
        &gateway,
        &id,
        note.strip_suffix("\n\n").expect("an empty line"),
    )
    .await;

    // What gives no record has no receipt; what is too long is not held for it.
    for model in ["error_429.json", "big:3000000"] {
        let call = chat(&gateway, model).header("x-tally-receipt", "inline");
        let answer = call.send().await.expect("answers");
        assert!(!answer.headers().contains_key("x-tally-receipt"), "{model}");
        answer.bytes().await.expect("whole");
    }
    assert!(
        provider
            .seen()
            .iter()
            .all(|seen| !seen.headers.contains_key("x-tally-receipt"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_token_is_the_key_whatever_the_credential() {
    let (provider, _data, gateway) = started(&[]).await;
    let token = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    let bytes: Vec<u8> = (0..32).collect();
    let key = gateway.json("/api/pubkey").await;
    let origin = Origin::parse(key["origin"].as_str().expect("an origin")).expect("valid");
    let wanted = key_id(&origin, "link", &bytes);
    let wallet = "0x00112233445566778899aabbccddeeff00112233";
    for path in [
        "openai",
        &format!("openai/t/{token}"),
        &format!("openai/w/{wallet}/t/{token}"),
    ] {
        let url = format!("{}/{path}/v1/chat/completions", gateway.url());
        let mut call = gateway.client().post(url).body(r#"{"model":"chat.json"}"#);
        call = call.header("authorization", "Bearer sk-rotating-0123456789abcdef");
        if path == "openai" {
            call = call.header("x-tally-link", token);
        }
        let answer = call.send().await.expect("answers");
        assert_eq!(answer.headers()["x-tally-key-id"], wanted.to_string());
        let entry = holds(
            &gateway,
            &receipt(&gateway, &receipt_id(answer.headers())).await,
        );
        assert_eq!(entry["key_id"], wanted.to_string());
        let seen = provider.seen().pop().expect("forwarded");
        assert_eq!(seen.uri.path(), "/openai/v1/chat/completions");
        assert!(!seen.headers.contains_key("x-tally-link"));
        assert_eq!(
            seen.headers["authorization"],
            "Bearer sk-rotating-0123456789abcdef"
        );
    }
    let user = gateway.json(&format!("/api/user/{wanted}")).await;
    assert_eq!(user["sources"][0]["records"], 3);
    for bad in [
        "t/short/v1/x".to_owned(),
        format!("t/{token}A/v1/x"),
        format!("t/{}/v1/x", &token[..42]),
    ] {
        let answer = gateway.get(&format!("/openai/{bad}")).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let text = answer.text().await.expect("whole");
        assert!(
            text.contains("bad_link") && !text.contains(&token[..20]),
            "{text}"
        );
    }
    let (status, log) = gateway.stop();
    assert!(
        status.success() && !log.contains(token) && !log.contains("sk-rotating"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_too_often_is_told_when_to_come_back() {
    let (provider, _data, gateway) =
        started(&["--calls-per-key", "3", "--calls-per-address", "5"]).await;
    let mut statuses = vec![];
    let call = |key: &'static str| {
        let url = format!("{}/openai/v1/chat/completions", gateway.url());
        let call = gateway
            .client()
            .post(url)
            .header("authorization", format!("Bearer {key}"));
        call.body(r#"{"model":"chat.json"}"#).send()
    };
    for key in ["sk-alice-0123456789abcdef"; 4]
        .into_iter()
        .chain(["sk-bob-0123456789abcdef"; 2])
    {
        let answer = call(key).await.expect("answers");
        statuses.push(answer.status().as_u16());
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            let wait = answer.headers()["retry-after"]
                .to_str()
                .expect("ASCII")
                .parse::<u32>();
            assert!(matches!(wait, Ok(1..=21)), "{wait:?}");
            assert_eq!(
                answer.json::<Value>().await.expect("JSON")["code"],
                "rate_limited"
            );
        }
    }
    assert_eq!(
        statuses,
        [200, 200, 200, 429, 200, 429],
        "by key, then by address"
    );
    assert_eq!(provider.seen().len(), 4);
    assert_eq!(gateway.reaches(5).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_calls_at_once_are_refused_not_lost() {
    let (provider, _data, gateway) = started(&["--max-in-flight", "2"]).await;
    let hanging: Vec<_> = (0..2)
        .map(|_| tokio::spawn(chat(&gateway, "hang:").send()))
        .collect();
    while provider.seen().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = chat(&gateway, "chat.json").send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
    loop {
        let answer = chat(&gateway, "chat.json").send().await.expect("answers");
        if answer.status() == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(gateway.reaches(2).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_falls_silent_is_given_up() {
    let limits = ["--idle-timeout", "1", "--answer-timeout", "1"];
    let (_provider, _data, gateway) = started(&limits).await;
    let answer = chat(&gateway, "hang:").send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(
        answer.json::<Value>().await.expect("JSON")["code"],
        "upstream_timeout"
    );

    let answer = chat(&gateway, "endless:60000")
        .send()
        .await
        .expect("answers");
    let id = receipt_id(answer.headers());
    assert!(answer.bytes().await.is_err(), "the answer breaks off");
    let entry = holds(&gateway, &receipt(&gateway, &id).await);
    assert_eq!(entry["outcome"], "partial");
    // Slow is not silent.
    let slow = chat(&gateway, "endless:300").send().await.expect("answers");
    let mut slow = slow;
    for _ in 0..6 {
        slow.chunk().await.expect("goes on").expect("more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_from_anywhere_may_read_the_log_but_not_call() {
    let (_provider, _data, gateway) = started(&[]).await;
    for path in ["/api/stats", "/checkpoint", "/tile/0/000.p/1"] {
        let answer = gateway.get(path).await;
        assert_eq!(
            answer.headers()["access-control-allow-origin"],
            "*",
            "{path}"
        );
    }
    let answer = chat(&gateway, "chat.json").send().await.expect("answers");
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    let tile = gateway.get("/tile/0/000.p/1").await;
    let cache = tile.headers()["cache-control"]
        .to_str()
        .expect("ASCII")
        .to_owned();
    assert!(
        cache.contains("immutable") && cache.contains("max-age=31536000"),
        "{cache}"
    );
    let hash = tile.bytes().await.expect("whole");
    let zero = gateway.json("/api/records/0").await;
    let entry = zero["entry"].as_str().expect("a text");
    assert_eq!(&hash[..], Hash::leaf(entry.as_bytes()).as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_clients_name_are_vetted() {
    let call = |gateway: &Gateway, named: Option<&str>| {
        let url = format!("{}/custom/v1/chat/completions", gateway.url());
        let call = gateway.client().post(url).body(r#"{"model":"chat.json"}"#);
        match named {
            Some(named) => call.header("x-tally-upstream", named),
            None => call,
        }
        .send()
    };
    let (provider, _data, closed) = started(&[]).await;
    let answer = call(&closed, Some("https://api.example.com"))
        .await
        .expect("answers");
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(
        answer.json::<Value>().await.expect("JSON")["code"],
        "custom_disabled"
    );

    let (_provider, _data, open) = started(&["--custom-port", "443"]).await;
    for named in [
        None,
        Some(provider.url()),
        Some("https://127.0.0.1"),
        Some("https://localhost"),
        Some("https://api.example.com:22"),
    ] {
        let answer = call(&open, named).await.expect("answers");
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{named:?}");
        assert_eq!(
            answer.json::<Value>().await.expect("JSON")["code"],
            "bad_upstream"
        );
    }
    assert!(provider.seen().is_empty());
    assert_eq!(open.reaches(1).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_longer_than_the_limit_is_refused() {
    let (provider, _data, gateway) = started(&["--max-request-body", "1"]).await;
    let host = gateway.url().trim_start_matches("http://");
    let longest = 1 << 20;
    let answer = async |path: &str, chunked: bool, len: usize| {
        let mut stream = TcpStream::connect(host).await.expect("listens");
        let framing = match chunked {
            true => "transfer-encoding: chunked".to_owned(),
            false => format!("content-length: {len}"),
        };
        let head = format!(
            "POST /openai/v1/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{framing}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut body = br#"{"model":"embeddings.json"}"#.to_vec();
        body.resize(len, b' ');
        for piece in body.chunks(100_000) {
            let sent = match chunked {
                true => [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat(),
                false => piece.to_vec(),
            };
            // Who is refused early may find the connection closed.
            if stream.write_all(&sent).await.is_err() {
                break;
            }
        }
        if chunked {
            let _ = stream.write_all(b"0\r\n\r\n").await;
        }
        let mut answer = vec![];
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    for path in ["embeddings", "chat/completions"] {
        for chunked in [false, true] {
            let fits = answer(path, chunked, longest).await;
            assert!(fits.starts_with("HTTP/1.1 200"), "{path} {chunked}: {fits}");
            let before = provider.seen().len();
            let refused = answer(path, chunked, longest + 1).await;
            assert!(
                refused.starts_with("HTTP/1.1 413"),
                "{path} {chunked}: {refused}"
            );
            assert!(refused.contains("request_too_long"), "{refused}");
            assert!(refused.contains("up to 1 MiB"), "{refused}");
            assert_eq!(provider.seen().len(), before, "{path} {chunked}");
        }
    }
    assert_eq!(gateway.reaches(5).await, 5);
}
