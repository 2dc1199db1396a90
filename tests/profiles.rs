//! The pages of wallets, keys and records, and the pictures to share.

use std::time::{Duration, Instant};

use protocol::name::Address;
use reqwest::StatusCode;
use reqwest::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use serde_json::Value;

use crate::binaries::Folder;
use crate::bindings::{Token, Wallet, bind};
use crate::gateway::Gateway;
use crate::provider::Provider;
use crate::totals::summed_up;

/// No page may hold it as it is.
const HOSTILE: &str = "<img src=x onerror='alert(1)'>&";

/// A page's status and text; whatever it shows, it brings no style or script of its own.
async fn page(gateway: &Gateway, path: &str) -> (StatusCode, String) {
    let answer = gateway.get(path).await;
    let status = answer.status();
    let header = |name| {
        let value: Option<&reqwest::header::HeaderValue> = answer.headers().get(name);
        value
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    assert!(header(CONTENT_TYPE).starts_with("text/html"), "{path}");
    assert!(header(CONTENT_SECURITY_POLICY).contains("default-src 'none'"));
    let text = answer.text().await.expect("whole");
    for word in [" style=", "<style", "javascript:", "<img src=x"] {
        assert!(!text.contains(word), "{path} holds {word}");
    }
    (status, text)
}

async fn shows(gateway: &Gateway, path: &str, status: u16, parts: &[&str]) -> String {
    let (found, text) = page(gateway, path).await;
    assert_eq!(found.as_u16(), status, "{path}");
    for part in parts {
        assert!(text.contains(part), "{path} without {part}: {text}");
    }
    text
}

/// Waits until a published checkpoint covers so many entries.
async fn published(gateway: &Gateway, size: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let note = gateway
            .get("/checkpoint")
            .await
            .text()
            .await
            .expect("whole");
        let covered = note
            .lines()
            .nth(1)
            .and_then(|size| size.parse::<u64>().ok());
        if covered.is_some_and(|covered| covered >= size) {
            return;
        }
        assert!(Instant::now() < deadline, "not published: {note}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn index(file: &Value) -> u64 {
    file["index"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn wallets_and_records_are_shown_and_claims_kept_apart() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let (alice, bob) = (Wallet::new(1), Wallet::new(2));
    let token = Token::new(&gateway, 7);
    let claim = format!("w/{}/", bob.address());
    let claimed = token
        .call_of(&gateway, &claim, &format!("called:{HOSTILE}"))
        .await;
    bind(&gateway, &token, &alice).await;
    let proven = token.call(&gateway, "").await;
    let (status, _) = summed_up(&gateway).await;
    assert_eq!(status, StatusCode::OK);
    let newer = token
        .call_of(&gateway, "", &format!("called:{HOSTILE}"))
        .await;
    let size = gateway.reaches(6).await;
    assert_eq!((index(&claimed), index(&newer), size), (1, 5, 6));
    published(&gateway, size).await;

    let checksummed = |wallet: &Wallet| {
        let address = Address::from_any_case(&wallet.address());
        address.expect("an address").checksummed()
    };
    let mine = checksummed(&alice);
    let upper = format!("0x{}", mine[2..].to_uppercase());
    for address in [alice.address(), mine.clone(), upper] {
        let text = shows(
            &gateway,
            &format!("/wallet/{address}"),
            200,
            &[
                &mine,
                ">bound</span>",
                "href=\"/record/4\">#4<",
                "Proven in it",
                "proven with the next totals entry",
                &format!("href=\"/record/{}\"", index(&proven)),
                &format!("href=\"/record/{}\"", index(&newer)),
                &format!(" data-wallet=\"{}\"", alice.address()),
                &format!("-- wallet {} http", alice.address()),
                "&lt;img src=x onerror=",
                "Not in the table under exactly these names",
                "/assets/prices.json",
                &format!("/badge/{}.svg", alice.address()),
            ],
        )
        .await;
        assert!(!text.contains("Recent claims"), "nobody claimed it");
        assert!(!text.contains("checksum (EIP-55)"), "{address}");
    }
    let (at, letter) = mine
        .char_indices()
        .skip(2)
        .find(|(_, c)| c.is_ascii_alphabetic())
        .expect("a letter");
    let flipped = match letter.is_ascii_uppercase() {
        true => letter.to_ascii_lowercase(),
        false => letter.to_ascii_uppercase(),
    };
    let odd = format!("{}{flipped}{}", &mine[..at], &mine[at + 1..]);
    shows(
        &gateway,
        &format!("/wallet/{odd}"),
        200,
        &["checksum (EIP-55)"],
    )
    .await;

    // What was only claimed has no rank, no day, no model and no cost.
    let text = shows(
        &gateway,
        &format!("/wallet/{}", bob.address()),
        200,
        &[
            "Recent claims",
            ">claimed</span>",
            "That it holds nothing of this wallet",
            "nobody proved",
        ],
    )
    .await;
    for word in ["Recent records", "The year by day", "Estimated cost"] {
        assert!(!text.contains(word), "{word}");
    }
    let nobody = "/wallet/0x00000000000000000000000000000000000000aa";
    shows(
        &gateway,
        nobody,
        200,
        &["holds no record of this wallet", "No records."],
    )
    .await;
    for bad in [
        "0x12",
        "vitalik.eth",
        "%3Cscript%3E",
        "0xzz00000000000000000000000000000000000000",
    ] {
        shows(&gateway, &format!("/wallet/{bad}"), 404, &["40 hex digits"]).await;
    }

    shows(
        &gateway,
        &format!("/key/{}", token.key_id),
        200,
        &[
            &token.key_id,
            &format!("href=\"/wallet/{mine}\""),
            "Recent records",
        ],
    )
    .await;
    shows(
        &gateway,
        &format!("/key/{}", "0".repeat(64)),
        200,
        &["holds no record of this key"],
    )
    .await;
    shows(&gateway, "/key/xyz", 404, &["x-tally-key-id"]).await;

    for (at, kind) in ["Log", "Record", "Binding", "Record", "Totals", "Record"]
        .iter()
        .enumerate()
    {
        let file = gateway.json(&format!("/api/records/{at}")).await;
        let leaf = file["leaf_hash"].as_str().expect("a hash").to_owned();
        shows(
            &gateway,
            &format!("/record/{at}"),
            200,
            &[
                &format!("<h1>{kind} "),
                &leaf,
                &format!("data-record=\"{at}\""),
                &format!("/api/records/{at}/proof"),
            ],
        )
        .await;
    }
    shows(
        &gateway,
        "/record/1",
        200,
        &["&lt;img src=x", ">claimed</span>"],
    )
    .await;
    for bad in ["6", "01", "-1", "x"] {
        shows(&gateway, &format!("/record/{bad}"), 404, &["6 records"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_kept_for_five_minutes_and_show_what_is_bound() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let alice = Wallet::new(1);
    let token = Token::new(&gateway, 7);
    bind(&gateway, &token, &alice).await;
    token.call_of(&gateway, "", "called:gpt-5").await;
    for (picture, part) in [("badge", ">12<"), ("card", ">12 tokens<")] {
        let answer = gateway
            .get(&format!("/{picture}/{}.svg", alice.address()))
            .await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[CONTENT_TYPE], "image/svg+xml");
        assert_eq!(answer.headers()[CACHE_CONTROL], "public, max-age=300");
        let text = answer.text().await.expect("whole");
        assert!(text.contains(part), "{text}");
        let lost = gateway.get(&format!("/{picture}/0x12.svg")).await;
        assert_eq!(lost.status(), StatusCode::NOT_FOUND);
    }
    let png = gateway.get(&format!("/card/{}.png", alice.address())).await;
    assert_eq!(png.status(), StatusCode::OK);
    assert_eq!(png.headers()[CONTENT_TYPE], "image/png");
    let bytes = png.bytes().await.expect("whole");
    assert!(
        bytes.starts_with(b"\x89PNG") && bytes.len() < 150_000,
        "{}",
        bytes.len()
    );
    let lost = gateway
        .get(&format!("/badge/{}.png", alice.address()))
        .await;
    assert_eq!(lost.status(), StatusCode::NOT_FOUND);
}
