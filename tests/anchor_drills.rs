//! The anchor job where its chain, its node, its purse or its witnesses fail
//! it: nothing is sent twice, nothing is lost, and it says what is the matter.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use protocol::cosignature::Cosigner;
use protocol::key::{Origin, Signer};
use protocol::vkey::KeyName;
use serde_json::json;

use crate::anchors::{OTHER, PURSE, Scene, said, through, until};
use crate::anvil::{Anvil, HANGS, Lag, PASSES, Way, Wire};
use crate::binaries::Folder;
use crate::gateway::{Gateway, free_address};
use crate::provider::Provider;
use crate::witness::Witness;

#[tokio::test(flavor = "multi_thread")]
async fn what_falls_out_of_the_chain_is_sent_again_as_it_was_signed() {
    let Some(anvil) = Anvil::with_epochs_of(4, &[]) else {
        return;
    };
    let mut scene = Scene::deployed_on(anvil).await;
    // So many posts, so many blocks after them, so many blocks are taken back.
    for (posts, confirmations, depth) in [(1, 0, 1), (2, 0, 2), (1, 5, 6)] {
        for _ in 0..posts {
            scene.grow().await;
            let told = scene.once(&[], 0);
            assert!(told.starts_with(&scene.anchored()), "{told}");
        }
        let blocks = format!("{confirmations:#x}");
        scene.anvil.ask("anvil_mine", json!([blocks])).await;
        let (sent, outbox) = (scene.sent(PURSE).await, scene.outbox().await);
        let lost = &outbox[outbox.len() - posts..];
        scene.anvil.ask("anvil_reorg", json!([depth, []])).await;
        for (hash, _) in lost {
            assert!(!scene.has(hash).await, "{depth} blocks were taken back");
        }
        let told = scene.once(&[], 0);
        assert!(told.contains("anchored already"), "{depth}: {told}");
        for (hash, _) in lost {
            assert!(scene.has(hash).await, "{depth}: in the chain again");
        }
        assert_eq!(scene.sent(PURSE).await, sent, "{depth}");
        let after = scene.outbox().await;
        assert_eq!(after.len(), outbox.len(), "{depth}: nothing new was signed");
    }
    scene.anvil.ask("anvil_mine", json!(["0x10"])).await;
    assert!(scene.once(&[], 0).contains("anchored already"));
    let mut outcomes = scene.outbox().await.into_iter().map(|row| row.1);
    assert!(outcomes.all(|outcome| outcome.as_deref() == Some("final")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_drops_is_sent_again_and_what_it_wont_take_is_said() {
    let Some(mut scene) = Scene::deployed().await else {
        return;
    };
    // Dropped by the node.
    scene.anvil.ask("evm_setAutomine", json!([false])).await;
    let told = scene.once(&["--patience", "300ms"], 3);
    assert!(
        told.contains("in no block yet: no block took it; it stays"),
        "{told}"
    );
    let (hash, _) = scene.outbox().await.pop().expect("one");
    scene
        .anvil
        .ask("anvil_dropTransaction", json!([hash]))
        .await;
    let asked = scene.anvil.ask("eth_getTransactionByHash", json!([hash]));
    assert!(asked.await.is_null(), "it is gone");
    scene.anvil.ask("evm_setAutomine", json!([true])).await;
    assert!(scene.once(&[], 0).contains("anchored already"));
    assert!(scene.has(&hash).await);
    // Fees rise above the cap while it waits: it is said, and waited for.
    scene.grow().await;
    let dear = json!([format!("{:#x}", 100_000_000_000_u64)]);
    scene
        .anvil
        .ask("anvil_setNextBlockBaseFeePerGas", dear.clone())
        .await;
    let told = scene.once(&["--patience", "300ms"], 3);
    assert!(told.contains("it stays in the outbox"), "{told}");
    scene.anvil.ask("evm_mine", json!([])).await;
    let told = scene.once(&["--patience", "1500ms", "--stuck-after", "1s"], 3);
    assert!(told.contains("higher fees are above the cap"), "{told}");
    scene
        .anvil
        .ask("anvil_setNextBlockBaseFeePerGas", json!(["0x1"]))
        .await;
    scene.anvil.ask("evm_mine", json!([])).await;
    assert!(scene.once(&[], 0).contains("anchored already"));
    assert_eq!(scene.sent(PURSE).await, 3, "the contract and two anchors");
    assert_eq!(scene.outbox().await.len(), 3, "each in one form");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purse_that_runs_low_is_told_before_it_is_empty() {
    let Some(mut scene) = Scene::deployed().await else {
        return;
    };
    let told = scene.once(&[], 0);
    assert!(!told.contains("runs low"), "{told}");
    let endow = async |scene: &Scene, wei: u64| {
        let endowed = json!([PURSE.1, format!("{wei:#x}")]);
        scene.anvil.ask("anvil_setBalance", endowed).await;
    };
    scene.grow().await;
    endow(&scene, 3_000_000_000_000_000).await;
    let told = scene.once(&[], 0);
    assert!(told.contains("the gas key runs low"), "{told}");
    assert!(told.contains(&scene.anchored()), "{told}");
    scene.grow().await;
    endow(&scene, 1_000).await;
    let told = scene.once(&[], 3);
    let message = format!("{} has 1000 wei on chain 31337, needed are up to", PURSE.1);
    assert!(told.to_lowercase().contains(&message), "{told}");
    assert!(told.contains("nothing was sent"), "{told}");
    assert_eq!(scene.sent(PURSE).await, 3, "the contract and two anchors");
    assert_eq!(scene.outbox().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_that_the_outbox_does_not_know_are_told() {
    let Some(mut scene) = Scene::deployed().await else {
        return;
    };
    scene.once(&[], 0);
    let set = async |scene: &Scene, nonce: &str| {
        scene
            .anvil
            .ask("anvil_setNonce", json!([PURSE.1, nonce]))
            .await;
        scene.anvil.ask("anvil_mine", json!(["0x10"])).await;
    };
    // Others used the key: told, and gone on after theirs.
    scene.grow().await;
    set(&scene, "0x9").await;
    let told = scene.once(&[], 0);
    assert!(
        told.contains("something else was sent with the gas key"),
        "{told}"
    );
    assert!(told.contains(&scene.anchored()), "{told}");
    assert_eq!(scene.sent(PURSE).await, 10);
    // The chain counts fewer than are final: nothing is signed at a nonce again.
    scene.grow().await;
    scene.anvil.ask("anvil_mine", json!(["0x10"])).await;
    set(&scene, "0x2").await;
    let told = scene.once(&[], 3);
    assert!(
        told.contains("counts 2 transactions of the gas key, expected 10"),
        "{told}"
    );
    // Something else took the place of one that waited.
    set(&scene, "0xa").await;
    scene.anvil.ask("evm_setAutomine", json!([false])).await;
    let told = scene.once(&["--patience", "300ms"], 3);
    assert!(told.contains("it stays in the outbox"), "{told}");
    let (hash, _) = scene.outbox().await.pop().expect("it waits");
    scene
        .anvil
        .ask("anvil_dropTransaction", json!([hash]))
        .await;
    scene.anvil.ask("evm_setAutomine", json!([true])).await;
    set(&scene, "0xb").await;
    let told = scene.once(&[], 0);
    assert!(
        told.contains("something else was sent with the gas key at this nonce"),
        "{told}"
    );
    assert!(told.contains(&scene.anchored()), "{told}");
    let outbox = scene.outbox().await;
    let outcome = outbox
        .iter()
        .find(|row| row.0 == hash)
        .expect("kept")
        .1
        .as_deref();
    assert_eq!(outcome, Some("displaced"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_away_in_the_middle_of_a_post_is_waited_for() {
    let Some(mut scene) = Scene::deployed().await else {
        return;
    };
    let way = Way::to(&scene.anvil).await;
    let wire = Wire::to(way.url()).await;
    let started = |scene: &Scene, patience: &str| {
        let mut command = scene.anchor("once", &["--patience", patience]);
        command.env("TALLY_ANCHOR_RPC_URL", wire.url());
        command.spawn().expect("it was built")
    };
    scene.anvil.ask("evm_setAutomine", json!([false])).await;
    // Away for longer than the command waits: the next one goes on.
    let mut child = started(&scene, "1s");
    until(|| way.broadcasts() >= 1, &mut child).await;
    wire.cut(true);
    let told = said(child.wait_with_output(), 3);
    assert!(told.contains("gave no answer"), "{told}");
    assert!(told.contains("it stays in the outbox"), "{told}");
    let (hash, _) = scene.outbox().await.pop().expect("one");
    wire.cut(false);
    scene.anvil.ask("evm_mine", json!([])).await;
    let told = said(started(&scene, "20s").wait_with_output(), 0);
    assert!(told.contains("anchored already"), "{told}");
    assert!(scene.has(&hash).await);
    // Away for a while: the same one goes on.
    scene.grow().await;
    let before = way.broadcasts();
    let mut child = started(&scene, "20s");
    until(|| way.broadcasts() > before, &mut child).await;
    wire.cut(true);
    scene.anvil.ask("evm_mine", json!([])).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(child.try_wait().expect("our child").is_none(), "it waits");
    wire.cut(false);
    let told = said(child.wait_with_output(), 0);
    assert!(told.starts_with(&scene.anchored()), "{told}");
    assert_eq!(scene.sent(PURSE).await, 3, "the contract and two anchors");
    assert_eq!(scene.outbox().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_limits_lags_or_lies_makes_no_post_happen_twice() {
    let Some(mut scene) = Scene::deployed().await else {
        return;
    };
    let way = Way::to(&scene.anvil).await;
    // Limits: asked again, ever more slowly.
    way.limit(4);
    let told = said(through(&scene, &way, &[]).output(), 0);
    assert!(told.starts_with(&scene.anchored()), "{told}");
    assert_eq!(way.limited(), 0);
    // Lags: behind where the last post is, in all it says or only in part.
    scene.grow().await;
    let told = scene.once(&[], 0);
    assert!(told.starts_with(&scene.anchored()), "{told}");
    let block = scene.anvil.height().await - 1;
    let patience = ["--patience", "500ms"];
    for (receipts, message) in [
        (true, "it stays in the outbox"),
        (false, "it is behind; nothing was sent"),
    ] {
        way.lag(Some(Lag { block, receipts }));
        let told = said(through(&scene, &way, &patience).output(), 3);
        assert!(told.contains(message), "{told}");
    }
    way.lag(None);
    assert!(said(through(&scene, &way, &[]).output(), 0).contains("anchored already"));
    // Lies: about what was mined, what it costs, what is anchored, what is there.
    scene.grow().await;
    let mined = json!({"blockNumber": "0x1", "status": "0x1"});
    let answer = format!("0x{}", "11".repeat(32 * 5));
    let dear = json!({"number": "0x1", "baseFeePerGas": "0xffffffffffffffffff"});
    for (method, lie, code, message) in [
        (
            "eth_getBlockByNumber",
            dear,
            3,
            "more than the cap of 3000000000",
        ),
        (
            "eth_chainId",
            json!("0x1"),
            2,
            "the node is on chain 1, expected 31337",
        ),
        (
            "eth_estimateGas",
            json!("0xffffffffffffffff"),
            3,
            "needed are up to",
        ),
        (
            "eth_getTransactionCount",
            json!("0x0"),
            3,
            "it is behind, or the chain lost",
        ),
        ("eth_call", json!(answer), 2, "is not this log's"),
        ("eth_getCode", json!("0x"), 2, "run `anchor deploy` first"),
        (
            "eth_blockNumber",
            json!({"number": 7}),
            3,
            "something else than JSON-RPC",
        ),
    ] {
        way.lie(method, Some(lie));
        let told = said(through(&scene, &way, &patience).output(), code);
        assert!(told.contains(message), "{method}: {told}");
        way.lie(method, None);
        assert_eq!(scene.sent(PURSE).await, 3, "{method}");
    }
    // It says that a transaction is in a final block which it never passed on.
    way.set(HANGS);
    let before = way.broadcasts();
    let mut hanging = through(&scene, &way, &[]).spawn().expect("it was built");
    until(|| way.broadcasts() > before, &mut hanging).await;
    hanging.kill().expect("it runs");
    hanging.wait().expect("our child");
    way.set(PASSES);
    scene.anvil.ask("anvil_mine", json!(["0x10"])).await;
    way.lie("eth_getTransactionReceipt", Some(mined));
    let told = said(through(&scene, &way, &[]).output(), 3);
    assert!(
        told.contains("counts 3 transactions of the gas key, expected 4"),
        "{told}"
    );
    way.lie("eth_getTransactionReceipt", None);
    let told = said(through(&scene, &way, &[]).output(), 0);
    assert!(told.contains("anchored already"), "{told}");
    assert_eq!(scene.sent(PURSE).await, 4, "the contract and three anchors");
}

/// The key is [`OTHER`]'s, the password "a password".
const KEYSTORE: &str = r#"{"version": 3, "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6", "crypto": {"cipher": "aes-128-ctr", "cipherparams": {"iv": "000102030405060708090a0b0c0d0e0f"}, "ciphertext": "290603214e79751cad1cd620b51199699f9b07b4babd61fa937d423fd218ab4f", "kdf": "pbkdf2", "kdfparams": {"c": 2, "dklen": 32, "prf": "hmac-sha256", "salt": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}, "mac": "84d464e4bf135ffacc234b13c9fa049f2f3bfcc10d15333ea60975b34465c1be"}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_gas_key_is_in_a_keystore_whose_password_nobody_else_can_read() {
    let Some(mut scene) = Scene::deployed().await else {
        return;
    };
    let folder = Folder::new();
    let place = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("our folder");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("our file");
        path.display().to_string()
    };
    let keystore = place("gas.json", KEYSTORE, 0o644);
    let short = place(
        "short.json",
        &KEYSTORE.replace(r#""dklen": 32"#, r#""dklen": 8"#),
        0o600,
    );
    let password = place("password", "a password\n", 0o600);
    for (keystore, password, message) in [
        (
            &keystore,
            &place("wrong", "another", 0o600),
            "does not open the keystore",
        ),
        (
            &keystore,
            &place("open", "a password", 0o640),
            "may be read by others (mode 640); run: chmod 600",
        ),
        (&keystore, &"nowhere".to_owned(), "nowhere can't be read"),
        (&short, &password, "dklen 8"),
        (
            &place("none.json", "{}", 0o600),
            &password,
            "can't be read: missing field",
        ),
    ] {
        let told = scene.once(&["--keystore", keystore, "--password-file", password], 2);
        assert!(told.contains(message), "{told}");
        assert!(!told.contains("a password"), "{told}");
    }
    let told = scene.once(&["--keystore", &keystore], 2);
    assert!(told.contains("no password for the keystore"), "{told}");
    assert_eq!((scene.sent(PURSE).await, scene.sent(OTHER).await), (1, 0));
    let told = scene.once(&["--keystore", &keystore, "--password-file", &password], 0);
    assert!(told.starts_with(&scene.anchored()), "{told}");
    assert_eq!(scene.sent(OTHER).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_anchored_without_the_quorum_of_a_policy() {
    let Some(anvil) = Anvil::start(&[]) else {
        return;
    };
    let (folder, address, provider) = (Folder::new(), free_address(), Provider::start().await);
    let data = Folder::new();
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let vkey = gateway.vkey().to_owned();
    assert!(gateway.stop().0.success());
    let witness = Witness::start(&folder, &["--log", &vkey]);
    let place = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("our folder");
        path.display().to_string()
    };
    let ours = format!("witness ours {} {}\n", witness.key, witness.url);
    let cosigned = place("cosigned", &format!("log {vkey}\n{ours}quorum ours\n"));
    let arguments = ["--policy", &*cosigned];
    let gateway = Gateway::start_at(data.path(), provider.url(), &address, &arguments).await;
    let witnessed = async || {
        gateway
            .get("/checkpoint")
            .await
            .text()
            .await
            .expect("whole")
    };
    while !witnessed().await.contains("w.example.org") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let scene = Scene::deployed_with(anvil, provider, data, gateway).await;
    let stranger = Cosigner::new(KeyName::new("w.example/x").expect("a name"), &[7; 32]);
    let both = format!(
        "{ours}witness theirs {}\ngroup both all ours theirs\nquorum both\n",
        stranger.verifier()
    );
    let foreign = Signer::new(Origin::parse("other.example.org").expect("valid"), &[1; 32]);
    let foreign = format!("log {}\nquorum none\n", foreign.verifier());
    for (policy, code, message) in [
        (
            both,
            3,
            "is cosigned by ours, which is not the policy's quorum; nothing was sent",
        ),
        (foreign, 2, "the policy lists other logs, but not"),
        (
            "quorum nobody\n".into(),
            2,
            "no earlier line defines \"nobody\"",
        ),
    ] {
        let told = scene.once(&["--policy", &place("policy", &policy)], code);
        assert!(told.contains(message), "{told}");
    }
    assert_eq!(scene.sent(PURSE).await, 1, "only the contract");
    let told = scene.once(&["--policy", &cosigned], 0);
    assert!(told.starts_with("anchored size 1 root 0x"), "{told}");
    let told = said(scene.anchor("status", &["--policy", &cosigned]).output(), 0);
    assert!(told.contains("cosigned ours"), "{told}");
}
