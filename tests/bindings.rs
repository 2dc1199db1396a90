//! Keys and wallets: who may bind a key, and what counts for whom then.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use alloy_primitives::eip191_hash_message;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k256::ecdsa::SigningKey;
use protocol::hash::{Hash, key_id};
use protocol::key::{Origin, VerifierKey};
use protocol::name::Address;
use protocol::receipt::Receipt;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::binaries::{Folder, program};
use crate::flow::{chat, holds, receipt, receipt_id};
use crate::gateway::{Gateway, free_address};
use crate::provider::Provider;

/// An account with a key.
pub(crate) struct Wallet(SigningKey);

impl Wallet {
    pub(crate) fn new(seed: u8) -> Self {
        Self(SigningKey::from_slice(&[seed; 32]).expect("a secret"))
    }

    pub(crate) fn address(&self) -> String {
        let address = alloy_primitives::Address::from_private_key(&self.0);
        Address::from_bytes(address.into_array()).to_string()
    }

    /// As wallets sign a person's message (EIP-191).
    fn sign(&self, message: &str) -> String {
        let digest = eip191_hash_message(message);
        let signed = self.0.sign_prehash_recoverable(digest.as_slice());
        let (signature, recovery) = signed.expect("a digest of 32 bytes");
        let bytes = signature.to_bytes();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("0x{hex}{:02x}", 27 + recovery.to_byte())
    }
}

/// A link token, and the key id that it gives in a log.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) key_id: String,
}

impl Token {
    pub(crate) fn new(gateway: &Gateway, seed: u8) -> Self {
        let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
        Self {
            text: URL_SAFE_NO_PAD.encode([seed; 32]),
            key_id: key_id(key.origin(), "link", &[seed; 32]).to_string(),
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A call with it; the receipt file of its record.
    pub(crate) async fn call(&self, gateway: &Gateway, more: &str) -> Value {
        self.call_of(gateway, more, "chat.json").await
    }

    /// The same, of this model.
    pub(crate) async fn call_of(&self, gateway: &Gateway, more: &str, model: &str) -> Value {
        let url = format!(
            "{}/openai/{more}t/{}/v1/chat/completions",
            gateway.url(),
            self.text
        );
        let body = json!({"model": model}).to_string();
        let call = gateway.client().post(url).body(body).send().await;
        let answer = call.expect("answers");
        receipt(gateway, &receipt_id(answer.headers())).await
    }
}

/// The template's fields, signed by their wallets.
pub(crate) async fn signed(
    gateway: &Gateway,
    key_id: &str,
    action: &str,
    wallet: &Wallet,
    to: Option<&Wallet>,
) -> Value {
    let mut path = format!(
        "/api/bindings/template?key_id={key_id}&wallet={}&action={action}",
        wallet.address()
    );
    if let Some(to) = to {
        path += &format!("&to={}", to.address());
    }
    let mut fields = gateway.json(&path).await;
    fields["signature"] = wallet
        .sign(fields["message"].as_str().expect("a text"))
        .into();
    if let Some(to) = to {
        let message = fields["to_message"].as_str().expect("a text");
        fields["to_signature"] = to.sign(message).into();
    }
    fields
}

/// The template's fields for a contract wallet on a chain, signed by its owner.
pub(crate) async fn signed_on(
    gateway: &Gateway,
    key_id: &str,
    wallet: &str,
    chain_id: u64,
    owner: &Wallet,
) -> Value {
    let path =
        format!("/api/bindings/template?key_id={key_id}&wallet={wallet}&chain_id={chain_id}");
    let mut fields = gateway.json(&path).await;
    fields["scheme"] = "eip1271".into();
    fields["signature"] = owner
        .sign(fields["message"].as_str().expect("a text"))
        .into();
    fields
}

/// What the gateway answers to a binding.
pub(crate) async fn post(
    gateway: &Gateway,
    headers: &[(&str, &str)],
    fields: &Value,
) -> (StatusCode, Value) {
    let mut request = gateway
        .client()
        .post(format!("{}/api/bindings", gateway.url()))
        .header("content-type", "application/json")
        .body(fields.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("answers");
    let status = answer.status();
    let text = answer.text().await.expect("whole");
    (status, serde_json::from_str(&text).expect("JSON"))
}

/// Binds a token's key, and checks the receipt.
pub(crate) async fn bind(gateway: &Gateway, token: &Token, wallet: &Wallet) -> Value {
    let fields = signed(gateway, &token.key_id, "link", wallet, None).await;
    taken(gateway, &[("x-tally-link", &token.text)], &fields).await
}

async fn taken(gateway: &Gateway, headers: &[(&str, &str)], fields: &Value) -> Value {
    let (status, answer) = post(gateway, headers, fields).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let entry = answer["entry"].as_str().expect("a text");
    let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
    let note = answer["receipt"].as_str().expect("a note");
    let receipt = Receipt::open(note.as_bytes(), &key).expect("a receipt");
    assert_eq!(receipt.leaf_hash(), Hash::leaf(entry.as_bytes()));
    serde_json::from_str(entry).expect("JSON")
}

async fn started() -> (Provider, Folder, Gateway) {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    (provider, data, gateway)
}

/// Wallet and link of the record of a call with the token.
async fn counts_for(gateway: &Gateway, token: &Token, more: &str) -> [Value; 2] {
    let file = token.call(gateway, more).await;
    let entry = holds(gateway, &file);
    [entry["wallet"].clone(), entry["link"].clone()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_key_counts_for_its_wallet_until_that_lets_go() {
    let (_provider, data, gateway) = started().await;
    let (alice, bob) = (Wallet::new(1), Wallet::new(2));
    let token = Token::new(&gateway, 7);
    let by_token: &[(&str, &str)] = &[("x-tally-link", &token.text)];
    let none = [Value::Null, Value::Null];
    let bound = |wallet: &Wallet| [json!(wallet.address()), json!("bound")];
    let claim = format!("w/{}/", bob.address());
    assert_eq!(counts_for(&gateway, &token, "").await, none);

    let entry = bind(&gateway, &token, &alice).await;
    assert_eq!(
        (&entry["action"], &entry["wallet"]),
        (&json!("link"), &json!(alice.address()))
    );
    assert_eq!(counts_for(&gateway, &token, "").await, bound(&alice));
    // A binding beats any claim.
    assert_eq!(counts_for(&gateway, &token, &claim).await, bound(&alice));
    let state = gateway
        .json(&format!("/api/bindings/{}", token.key_id))
        .await;
    assert_eq!(
        (&state["state"], &state["wallet"]),
        (&json!("bound"), &json!(alice.address()))
    );

    // What is bound stays so, however the process ends.
    gateway.kill();
    let provider = Provider::start().await;
    let gateway = Gateway::start(data.path(), provider.url()).await;
    assert_eq!(counts_for(&gateway, &token, "").await, bound(&alice));

    let moved = signed(&gateway, &token.key_id, "move", &alice, Some(&bob)).await;
    taken(&gateway, &[], &moved).await;
    assert_eq!(counts_for(&gateway, &token, "").await, bound(&bob));
    let released = signed(&gateway, &token.key_id, "release", &bob, None).await;
    taken(&gateway, &[], &released).await;
    assert_eq!(counts_for(&gateway, &token, "").await, none);
    let claimed = [json!(bob.address()), json!("claimed")];
    assert_eq!(counts_for(&gateway, &token, &claim).await, claimed);

    bind(&gateway, &token, &bob).await;
    let burn = json!({"action": "burn", "key_id": token.key_id});
    taken(&gateway, by_token, &burn).await;
    assert_eq!(counts_for(&gateway, &token, "").await, none);
    let again = signed(&gateway, &token.key_id, "link", &bob, None).await;
    let (status, answer) = post(&gateway, by_token, &again).await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::CONFLICT, &json!("burnt"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_is_bound_by_whoever_sends_it_once_it_was_used() {
    let (_provider, _data, gateway) = started().await;
    let alice = Wallet::new(1);
    let secret = "sk-test-openai-0123456789abcdefghijklmno";
    let bearer = format!("Bearer {secret}");
    let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
    let key_id = key_id(key.origin(), "openai", secret.as_bytes()).to_string();
    let fields = signed(&gateway, &key_id, "link", &alice, None).await;
    let refused = post(&gateway, &[("authorization", &bearer)], &fields).await;
    assert_eq!(
        (refused.0, &refused.1["code"]),
        (StatusCode::CONFLICT, &json!("unused_key"))
    );

    let answer = chat(&gateway, "chat.json").send().await.expect("answers");
    receipt(&gateway, &receipt_id(answer.headers())).await;
    taken(&gateway, &[("authorization", &bearer)], &fields).await;
    let answer = chat(&gateway, "chat.json").send().await.expect("answers");
    let file = receipt(&gateway, &receipt_id(answer.headers())).await;
    assert_eq!(holds(&gateway, &file)["wallet"], alice.address());
    // The credential stands nowhere.
    let entries = gateway.entries().await;
    assert!(!format!("{entries:?}").contains(secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_valid_binding_is_refused_with_a_reason() {
    let (_provider, _data, gateway) = started().await;
    let (alice, bob) = (Wallet::new(1), Wallet::new(2));
    let [free, held] = [1, 2].map(|seed| Token::new(&gateway, seed));
    let replayed = signed(&gateway, &held.key_id, "link", &alice, None).await;
    bind(&gateway, &held, &alice).await;
    let size = gateway.reaches(2).await;

    let link = signed(&gateway, &free.key_id, "link", &alice, None).await;
    let with = |field: &str, value: Value| {
        let mut changed = link.clone();
        changed[field] = value;
        changed
    };
    let origin = VerifierKey::parse(gateway.vkey()).expect("a vkey");
    let foreign = link["message"].as_str().expect("a text");
    let foreign = foreign.replace(origin.origin().as_str(), "log.example.org");
    let other = Origin::parse("log.example.org").expect("an origin");
    let signature = link["signature"].as_str().expect("a text");
    let long_ago = json!(1_760_000_000);
    let mut expired = with("issued_at", long_ago.clone());
    expired["expires_at"] = json!(1_760_000_060);
    let held_again = signed(&gateway, &held.key_id, "link", &bob, None).await;
    let not_his = signed(&gateway, &held.key_id, "release", &bob, None).await;
    let mixed = format!("0x{}", alice.address()[2..].to_uppercase());
    for (claim, token, fields, status, code) in [
        ("no token", None, link.clone(), 403, "not_held"),
        ("another token", Some(&held), link.clone(), 403, "not_held"),
        ("a replay", Some(&held), replayed, 409, "replayed"),
        ("a held key", Some(&held), held_again, 409, "held"),
        ("released by another", None, not_his, 409, "not_holder"),
        ("expired", Some(&free), expired, 400, "expired"),
        (
            "another wallet",
            Some(&free),
            with("wallet", bob.address().into()),
            400,
            "bad_signature",
        ),
        (
            "for another log",
            Some(&free),
            with("signature", alice.sign(&foreign).into()),
            400,
            "bad_signature",
        ),
        (
            "v of 0",
            Some(&free),
            with("signature", format!("{}00", &signature[..130]).into()),
            400,
            "bad_signature",
        ),
        (
            "no signature",
            Some(&free),
            with("signature", Value::Null),
            400,
            "bad_request",
        ),
        (
            "mistyped letters",
            Some(&free),
            with("wallet", mixed.into()),
            400,
            "bad_request",
        ),
        (
            "a contract wallet",
            Some(&free),
            with("scheme", "eip1271".into()),
            400,
            "unknown_chain",
        ),
        (
            "another scheme",
            Some(&free),
            with("scheme", "eip712".into()),
            400,
            "bad_request",
        ),
        (
            "another action",
            Some(&free),
            with("action", "give".into()),
            400,
            "bad_request",
        ),
        (
            "a field more",
            Some(&free),
            with("x", 1.into()),
            400,
            "bad_request",
        ),
    ] {
        let headers = token.map(|token: &Token| ("x-tally-link", token.text.as_str()));
        let headers: Vec<_> = headers.into_iter().collect();
        let (found, answer) = post(&gateway, &headers, &fields).await;
        let found = (found.as_u16(), answer["code"].as_str());
        assert_eq!(found, (status, Some(code)), "{claim}: {answer}");
    }
    assert_ne!(origin.origin(), &other);
    assert_eq!(gateway.reaches(size).await, size, "nothing was appended");
    // The very same fields as they were, and as often as they come: once.
    taken(&gateway, &[("x-tally-link", &free.text)], &link).await;
    let (status, answer) = post(&gateway, &[("x-tally-link", &free.text)], &link).await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::CONFLICT, &json!("replayed"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_bindings_that_race_one_is_taken() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start_at(data.path(), provider.url(), &free_address(), &[]).await;
    let token = Token::new(&gateway, 3);
    let wallets: Vec<_> = (1..9).map(Wallet::new).collect();
    let mut asked = vec![];
    for wallet in &wallets {
        asked.push(signed(&gateway, &token.key_id, "link", wallet, None).await);
    }
    let headers: &[(&str, &str)] = &[("x-tally-link", &token.text)];
    let mut taken = 0;
    let (a, b, c, d) = tokio::join!(
        post(&gateway, headers, &asked[0]),
        post(&gateway, headers, &asked[1]),
        post(&gateway, headers, &asked[2]),
        post(&gateway, headers, &asked[3]),
    );
    for (status, answer) in [a, b, c, d] {
        match status {
            StatusCode::OK => taken += 1,
            other => assert_eq!(
                (other, &answer["code"]),
                (StatusCode::CONFLICT, &json!("replayed"))
            ),
        }
    }
    assert_eq!(taken, 1);
    let entries = gateway.entries().await;
    let bindings = entries.iter().filter(|entry| entry["kind"] == "binding");
    assert_eq!(bindings.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_links_on_a_terminal_gets_urls_a_text_to_sign_and_a_receipt() {
    let (_provider, _data, gateway) = started().await;
    let alice = Wallet::new(1);
    let link = |token: Option<&str>| {
        let mut command = Command::new(program("gateway"));
        command.args(["link", gateway.url(), "--wallet", &alice.address()]);
        command.env("TALLY_LINK_TOKEN", token.unwrap_or_default());
        if token.is_none() {
            command.env_remove("TALLY_LINK_TOKEN");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().expect("the gateway was built")
    };
    let finish = |mut child: Child, signer: &Wallet| {
        let mut said = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        while said.matches("---\n").count() < 2 {
            assert_ne!(lines.read_line(&mut said).expect("readable"), 0, "{said}");
        }
        let message = said.split("---\n").nth(1).expect("between the lines");
        let signature = signer.sign(message.strip_suffix('\n').expect("a line's end"));
        let stdin = child.stdin.take().expect("piped");
        writeln!(&stdin, "{signature}").expect("it reads");
        lines.read_to_string(&mut said).expect("readable");
        (child.wait().expect("it ends").code(), said)
    };
    let (code, said) = finish(link(None), &alice);
    assert_eq!(code, Some(0), "{said}");
    let token = said.split("TALLY_LINK_TOKEN=").nth(1).expect("told");
    let token = token.lines().next().expect("a line");
    let base = format!("{}/openai/t/{token}/v1", gateway.url());
    assert!(
        said.contains(&format!("OPENAI_BASE_URL={base}\n")),
        "{said}"
    );
    let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
    assert!(said.contains("tallystick/receipt/v1"), "{said}");

    let body = json!({"model": "chat.json"}).to_string();
    let url = format!("{base}/chat/completions");
    let call = gateway.client().post(url).body(body).send().await;
    let file = receipt(&gateway, &receipt_id(call.expect("answers").headers())).await;
    assert_eq!(
        holds(&gateway, &file)["wallet"],
        alice.address(),
        "{}",
        key.origin()
    );

    // It is bound by now; and what another wallet signs is not even sent.
    for (signer, code) in [(&alice, Some(1)), (&Wallet::new(2), Some(1))] {
        let size = gateway.reaches(0).await;
        let ended = finish(link(Some(token)), signer);
        assert_eq!(ended.0, code, "{}", ended.1);
        assert_eq!(gateway.reaches(0).await, size);
    }
}
