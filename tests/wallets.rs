//! Bindings, totals and wallets' answers of a real gateway, as sentinels see
//! them.

use std::time::{Duration, Instant};

use protocol::checkpoint::Checkpoint;
use protocol::hash::Hash;
use protocol::index::Index;
use protocol::key::VerifierKey;
use protocol::proof::verify_inclusion;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::binaries::Folder;
use crate::bindings::{Token, Wallet, bind};
use crate::gateway::{Gateway, free_address};
use crate::provider::Provider;
use crate::sentinel::{Pass, Sees, Sentinel};

/// How long a look-up may take.
const QUICK: Duration = Duration::from_millis(300);

/// A wallet that no key is bound to.
const NOBODY: &str = "0x00000000000000000000000000000000000000ff";

/// Looks a wallet up.
fn look_up(gateway: &Gateway, sentinel: &Sentinel, wallet: &str) -> Pass {
    let url = gateway.url();
    let vkey = gateway.vkey();
    let arguments = ["wallet", "--json", "--vkey", vkey, wallet, url];
    let pass = tokio::task::block_in_place(|| sentinel.run(&arguments));
    pass.compare(&Sees::Committed)
        .unwrap_or_else(|e| panic!("{e}"));
    pass
}

fn verifies(gateway: &Gateway, sentinel: &Sentinel) {
    let pass = tokio::task::block_in_place(|| sentinel.patient_pass(gateway.url()));
    pass.compare(&Sees::Verified)
        .unwrap_or_else(|e| panic!("{e}"));
}

async fn summed_up(gateway: &Gateway) {
    let url = format!("{}/api/totals", gateway.url());
    let answer = gateway.client().post(url).send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::OK);
}

/// The proven records of one source.
fn proven(pass: &Pass) -> Vec<&Value> {
    let rows = pass.report["proven"].as_array().expect("a list").iter();
    rows.map(|row| &row["records"]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_verify_what_a_gateway_says_of_wallets() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let watching = Sentinel::fresh();
    verifies(&gateway, &watching);
    let arguments = ["wallet", "--json", NOBODY, gateway.url()];
    let pass = tokio::task::block_in_place(|| watching.run(&arguments));
    pass.compare(&Sees::NoVerdict)
        .unwrap_or_else(|e| panic!("before any totals: {e}"));
    let wallets: Vec<_> = (1..4).map(Wallet::new).collect();
    for (seed, wallet) in (1..).zip(&wallets) {
        let token = Token::new(&gateway, seed);
        bind(&gateway, &token, wallet).await;
        token.call(&gateway, "").await;
        verifies(&gateway, &watching);
    }
    summed_up(&gateway).await;
    verifies(&gateway, &watching);
    // Newer than the totals, and claimed only.
    Token::new(&gateway, 1).call(&gateway, "").await;
    let claimed = format!("w/{}/", wallets[0].address());
    Token::new(&gateway, 9).call(&gateway, &claimed).await;
    verifies(&gateway, &watching);
    verifies(&gateway, &Sentinel::fresh());

    let sentinel = Sentinel::fresh();
    for wallet in &wallets {
        assert_eq!(
            proven(&look_up(&gateway, &sentinel, &wallet.address())),
            [1]
        );
    }
    let begun = Instant::now();
    let pass = look_up(&gateway, &sentinel, &wallets[0].address());
    assert!(begun.elapsed() < QUICK, "{:?}", begun.elapsed());
    assert_eq!(pass.report["since"][0]["records"], 1, "{pass}");
    assert_eq!(pass.report["claimed"][0]["records"], 1, "{pass}");
    let newer = Sentinel::fresh().with(&["wallet", "--newer"]);
    let (vkey, address) = (gateway.vkey(), wallets[0].address());
    let arguments = ["--json", "--vkey", vkey, &address, gateway.url()];
    let pass = tokio::task::block_in_place(|| newer.run(&arguments));
    pass.compare(&Sees::Committed)
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(pass.report["newer"]["sums"][0]["records"], 1, "{pass}");
    let pass = look_up(&gateway, &sentinel, NOBODY);
    assert_eq!(pass.report["proven"], json!([]), "{pass}");
    assert!(pass.report["totals"]["count"] == 3, "{pass}");
}

/// The indexes of a list of records.
fn indexes(list: &Value) -> Vec<u64> {
    let records = list["records"].as_array().expect("a list").iter();
    let index = |record: &Value| record["index"].as_u64().expect("a number");
    records.map(index).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallets_records_are_listed_with_their_proofs() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let (token, wallet) = (Token::new(&gateway, 1), Wallet::new(1));
    bind(&gateway, &token, &wallet).await;
    for _ in 0..5 {
        token.call(&gateway, "").await;
        let claims = format!("w/{}/", wallet.address());
        Token::new(&gateway, 2).call(&gateway, &claims).await;
    }
    let size = gateway.reaches(12).await;
    let path = format!("/api/wallet/{}/records", wallet.address());
    let list = async |query: &str| gateway.json(&format!("{path}?{query}")).await;
    let all = indexes(&list("").await);
    assert_eq!(all.len(), 5);
    let claimed = indexes(&list("link=claimed").await);
    assert_eq!(claimed.len(), 5);
    assert!(claimed.iter().all(|index| !all.contains(index)));
    let part = list(&format!("after={}&before={}&limit=2", all[0], all[4])).await;
    assert_eq!(
        (indexes(&part), &part["next"]),
        (all[1..3].to_vec(), &json!(all[2]))
    );
    let part = list(&format!("after={}&before={}", all[2], all[4])).await;
    assert_eq!(
        (indexes(&part), &part["next"]),
        (all[3..4].to_vec(), &Value::Null)
    );
    let answer = gateway.get(&format!("{path}?link=lent")).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);

    let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
    let deadline = Instant::now() + Duration::from_secs(10);
    let proven = loop {
        let proven = list("proof=1").await;
        if proven["size"] == size {
            break proven;
        }
        assert!(Instant::now() < deadline, "it is published: {proven}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let note = proven["checkpoint"].as_str().expect("a note");
    let checkpoint = Checkpoint::open(note.as_bytes(), &key).expect("genuine");
    assert_eq!(indexes(&proven), all);
    for record in proven["records"].as_array().expect("a list") {
        let leaf = Hash::leaf(record["entry"].as_str().expect("a text").as_bytes());
        let hashes = record["hashes"].as_array().expect("a list").iter();
        let hash = |hash: &Value| Hash::from_base64(hash.as_str().expect("a text"));
        let hashes: Option<Vec<Hash>> = hashes.map(hash).collect();
        let index = Index::new(record["index"].as_u64().expect("a number")).expect("small");
        let tree = (checkpoint.size(), checkpoint.root());
        let held = verify_inclusion(leaf, index, tree, &hashes.expect("base64"));
        assert_eq!(held, Ok(()), "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_key_is_taken_for_look_ups_too() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let address = free_address();
    let gateway = Gateway::start_at(data.path(), provider.url(), &address, &[]).await;
    let sentinel = Sentinel::fresh();
    verifies(&gateway, &sentinel);
    gateway.kill();
    let other = Folder::new();
    let gateway = Gateway::start_at(other.path(), provider.url(), &address, &[]).await;
    let wallet = Wallet::new(1).address();
    let arguments = ["wallet", "--json", &wallet, gateway.url()];
    let pass = tokio::task::block_in_place(|| sentinel.run(&arguments));
    pass.compare(&Sees::Served(&["key_changed"]))
        .unwrap_or_else(|e| panic!("{e}"));
}
