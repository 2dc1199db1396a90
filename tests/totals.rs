//! Wallets' totals: that every answer is proven, and what totals entries cost.

use std::time::{Duration, Instant};

use protocol::key::VerifierKey;
use protocol::name::Address;
use protocol::wallet::Proven;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::binaries::Folder;
use crate::bindings::{Token, Wallet, bind};
use crate::gateway::{Gateway, free_address};
use crate::provider::Provider;
use crate::vectors::wallet_proof;

pub(crate) async fn summed_up(gateway: &Gateway) -> (StatusCode, Value) {
    let url = format!("{}/api/totals", gateway.url());
    let answer = gateway.client().post(url).send().await.expect("answers");
    let status = answer.status();
    let text = answer.text().await.expect("whole");
    (status, serde_json::from_str(&text).expect("JSON"))
}

/// A wallet's answer once its proof is under the totals entry at `index`, and
/// what that proof proves.
async fn proven(gateway: &Gateway, wallet: &str, index: u64) -> (Value, Proven) {
    let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
    let address = Address::from_any_case(wallet).expect("an address");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = gateway.json(&format!("/api/wallet/{wallet}")).await;
        if let Some(proof) = Some(&answer["proof"]).filter(|proof| !proof.is_null()) {
            let proof = wallet_proof(proof).verify(address, &key);
            let proven = proof.expect("the proof holds");
            if proven.totals.is_some_and(|(at, _)| at.get() >= index) {
                return (answer, proven);
            }
        }
        assert!(Instant::now() < deadline, "no totals entry: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The proven leaves say what the answer says.
fn agrees(answer: &Value, proven: &Proven) {
    let said = answer["bound"].as_array().expect("a list");
    assert_eq!(said.len(), proven.leaves.len(), "{answer}");
    for (said, leaf) in said.iter().zip(&proven.leaves) {
        let sums = &leaf.sums;
        assert_eq!(said["source"], leaf.source.as_str());
        for (field, value) in [
            ("records", sums.records),
            ("input", sums.input),
            ("output", sums.output),
            ("cache_read", sums.cache_read),
            ("cache_write", sums.cache_write),
            ("reasoning", sums.reasoning),
        ] {
            assert_eq!(said[field], value, "{field}: {answer}");
        }
    }
}

fn records(answer: &Value, list: &str) -> u64 {
    let rows = answer[list].as_array().expect("a list").iter();
    rows.map(|row| row["records"].as_u64().expect("a number"))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallets_total_is_proven_and_so_is_that_there_is_none() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let (status, answer) = summed_up(&gateway).await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::NOT_FOUND, &json!("no_totals"))
    );

    let wallets: Vec<_> = (1..6).map(Wallet::new).collect();
    let nobody = "0x00000000000000000000000000000000000000ff";
    let before = gateway.json(&format!("/api/wallet/{nobody}")).await;
    assert_eq!(before["proof"]["totals"], Value::Null);
    for (seed, wallet) in (1..).zip(&wallets) {
        let token = Token::new(&gateway, seed);
        // What came before the binding does not count.
        token.call(&gateway, "").await;
        bind(&gateway, &token, wallet).await;
        for _ in 0..seed {
            token.call(&gateway, "").await;
        }
        token.call(&gateway, &format!("w/{nobody}/")).await;
    }
    let stranger = Token::new(&gateway, 99);
    stranger.call(&gateway, &format!("w/{nobody}/")).await;
    let (status, answer) = summed_up(&gateway).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let index = answer["index"].as_u64().expect("a number");

    for (count, wallet) in (2..).zip(&wallets) {
        let (answer, proven) = proven(&gateway, &wallet.address(), index).await;
        agrees(&answer, &proven);
        for list in ["bound", "models", "days"] {
            assert_eq!(records(&answer, list), count, "{list}: {answer}");
        }
        let upper = wallet.address().to_uppercase().replacen("0X", "0x", 1);
        let same = gateway.json(&format!("/api/wallet/{upper}")).await;
        assert_eq!(same["bound"], answer["bound"]);
    }
    // A claim has no leaf.
    let (answer, proof) = proven(&gateway, nobody, index).await;
    assert_eq!(proof.leaves, []);
    assert_eq!(
        (records(&answer, "bound"), records(&answer, "claimed")),
        (0, 1)
    );

    // Killed and taken up again, the log proves what it did, and what came since.
    Token::new(&gateway, 1).call(&gateway, "").await;
    gateway.kill();
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let (answer, proof) = proven(&gateway, &wallets[0].address(), index + 1).await;
    assert_eq!(records(&answer, "bound"), 3);
    agrees(&answer, &proof);
    gateway.kill();
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let size = gateway.reaches(0).await;
    let (answer, proof) = proven(&gateway, &wallets[4].address(), index + 1).await;
    agrees(&answer, &proof);
    assert_eq!(gateway.reaches(size).await, size, "nothing came since");
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_come_in_time_and_an_idle_log_does_not_grow() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let arguments = ["--totals-interval", "1"];
    let address = free_address();
    let gateway = Gateway::start_at(data.path(), provider.url(), &address, &arguments).await;
    let (token, wallet) = (Token::new(&gateway, 1), Wallet::new(1));
    bind(&gateway, &token, &wallet).await;
    for round in 1..4 {
        token.call(&gateway, "").await;
        let before = gateway.reaches(0).await;
        let (answer, proof) = proven(&gateway, &wallet.address(), before).await;
        agrees(&answer, &proof);
        assert_eq!(records(&answer, "bound"), round);
    }
    let size = gateway.reaches(0).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(gateway.reaches(0).await, size);
    let (_, one) = summed_up(&gateway).await;
    let (_, two) = summed_up(&gateway).await;
    assert_eq!((one["index"].as_u64(), &one), (Some(size - 1), &two));
    assert_eq!(gateway.reaches(0).await, size);
}
