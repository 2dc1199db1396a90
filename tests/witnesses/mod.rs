//! Witnesses of a real gateway: what they cosign is what it publishes, and
//! whatever they do costs nobody else anything.

mod others;
mod ours;
mod stand_in;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use protocol::checkpoint::Checkpoint;
use protocol::hash::Hash;
use protocol::key::VerifierKey;
use protocol::note::Note;
use protocol::policy::Policy;
use protocol::tlog_proof::TlogProof;
use serde_json::Value;

use crate::binaries::Folder;
use crate::flow::{chat, receipt_id};
use crate::gateway::{Gateway, command, free_address, use_database};
use crate::postgres::Server;
use crate::provider::Provider;
use crate::sentinel::{Sees, Sentinel};
use stand_in::{Manner, StandIn};

/// A log that exists, whose gateway does not run.
struct Log {
    provider: Provider,
    data: Folder,
    vkey: String,
}

impl Log {
    async fn begun() -> Self {
        Self::begun_in(Folder::new()).await
    }

    async fn begun_in(data: Folder) -> Self {
        let provider = Provider::start().await;
        let gateway = Gateway::start(data.path(), provider.url()).await;
        let vkey = gateway.vkey().to_owned();
        assert!(gateway.stop().0.success());
        Self {
            provider,
            data,
            vkey,
        }
    }

    fn policy(&self, witnesses: &[&StandIn], quorum: &str) -> String {
        let lines: String = witnesses.iter().map(|w| w.line()).collect();
        format!("log {}\n{lines}{quorum}\n", self.vkey)
    }

    /// Its gateway, with a policy.
    async fn start(&self, policy: &str) -> Gateway {
        start(self.data.path(), self.provider.url(), policy).await
    }
}

async fn start(data: &Path, provider: &str, policy: &str) -> Gateway {
    let file = data.join("witnesses.policy");
    fs::write(&file, policy).expect("our folder");
    let file = file.to_str().expect("UTF-8");
    Gateway::start_at(data, provider, &free_address(), &["--policy", file]).await
}

/// Calls through the gateway; the receipt id of the last.
async fn calls(gateway: &Gateway, count: usize) -> uuid::Uuid {
    let mut last = None;
    for _ in 0..count {
        let begun = Instant::now();
        let answer = chat(gateway, "chat.json").send().await.expect("answers");
        last = Some(receipt_id(answer.headers()));
        answer.bytes().await.expect("whole");
        assert!(begun.elapsed() < Duration::from_secs(2), "a call waited");
    }
    last.expect("at least one")
}

/// What `/checkpoint` answers: the note, its size, and who cosigned it.
async fn served(gateway: &Gateway, policy: &str) -> (String, u64, usize, bool) {
    let note = gateway
        .get("/checkpoint")
        .await
        .text()
        .await
        .expect("whole");
    let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
    let checkpoint = Checkpoint::open(note.as_bytes(), &key).expect("the log's");
    let policy = Policy::parse(policy.as_bytes()).expect("a policy");
    let parsed = Note::parse(note.as_bytes()).expect("a note");
    let cosigned = policy.judge(&parsed).expect("not spoilt");
    let size = checkpoint.size().get();
    (note, size, cosigned.by.len(), cosigned.quorum)
}

/// Waits until `/checkpoint` covers `size` entries, by a quorum or without.
async fn covers(gateway: &Gateway, policy: &str, size: u64, quorum: bool) -> Duration {
    let begun = Instant::now();
    let mut newest = 0;
    loop {
        let (_, now, _, has) = served(gateway, policy).await;
        assert!(now >= newest, "{now} after {newest}");
        newest = now;
        if now >= size && has == quorum {
            return begun.elapsed();
        }
        assert!(
            begun.elapsed() < Duration::from_secs(40),
            "{now} of {size}, quorum {has}: {}\n{}",
            gateway.json("/api/witnesses").await,
            gateway.story()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How a witness fares, once its state and what is wrong with it are these.
async fn fares(gateway: &Gateway, name: &str, state: &str, problem: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(45);
    loop {
        let all = gateway.json("/api/witnesses").await;
        let list = all["witnesses"].as_array().expect("a list");
        let witness = list.iter().find(|w| w["name"] == name).expect(name);
        let found = witness["problem"].as_str().unwrap_or_default();
        if witness["state"] == state && found.contains(problem) {
            return witness.clone();
        }
        assert!(Instant::now() < deadline, "{name} is not {state}: {all}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn metric(gateway: &Gateway, line: &str) {
    let text = gateway.get("/metrics").await.text().await.expect("whole");
    assert!(text.contains(line), "{line} is not in {text}");
}

fn verified(sentinel: &Sentinel, gateway: &Gateway) {
    let pass = sentinel.patient_pass(gateway.url());
    assert_eq!(pass.compare(&Sees::Verified), Ok(()), "{}", pass.stderr);
}

/// Resident memory in KiB.
fn resident(gateway: &Gateway) -> u64 {
    let path = format!("/proc/{}/status", gateway.pid());
    let status = fs::read_to_string(path).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let words = line.and_then(|l| l.split_whitespace().next());
    words.and_then(|n| n.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_has_its_quorum() {
    let log = Log::begun().await;
    let manners = [Manner::Honest, Manner::Slow(300), Manner::Hangs];
    let mut names = [("a", 1), ("b", 2), ("c", 3)].into_iter();
    let [mut a, mut b, c] = manners.map(|manner| {
        let (name, seed) = names.next().expect("three");
        StandIn::start(name, seed, &log.vkey, manner)
    });
    let policy = log.policy(&[&a, &b, &c], "group g 2 a b c\nquorum g");
    let gateway = log.start(&policy).await;
    covers(&gateway, &policy, 1, true).await;
    let mut waits = vec![];
    for round in 0..5 {
        let id = calls(&gateway, 7).await;
        waits.push(covers(&gateway, &policy, 8 + 7 * round, true).await);
        assert!(waits.last() < Some(&Duration::from_secs(5)), "{waits:?}");
        let chain = gateway.json("/api/chain").await;
        let note = chain["checkpoint"].as_str().expect("a note");
        assert_eq!(
            note.matches('\u{2014}').count(),
            1,
            "the log's signature alone"
        );

        // Offline proofs carry the cosignatures.
        let file = gateway.json(&format!("/api/receipts/{id}?proof=1")).await;
        let entry = file["entry"].as_str().expect("a text").as_bytes();
        let path = format!("/api/records/{}/proof", file["index"]);
        let text = gateway.get(&path).await.text().await.expect("whole");
        for proof in [file["proof"].as_str().expect("a proof"), &text] {
            let proof = TlogProof::parse(proof.as_bytes()).expect("of the form");
            let key = VerifierKey::parse(&log.vkey).expect("a vkey");
            proof.verify(Hash::leaf(entry), &key).expect("it proves it");
            let note = Note::parse(proof.checkpoint.as_bytes()).expect("a note");
            let policy = Policy::parse(policy.as_bytes()).expect("a policy");
            assert!(policy.judge(&note).expect("not spoilt").quorum);
        }
    }
    eprintln!("a quorum of 0 and 300 ms: after {waits:?}");
    let sentinel = Sentinel::fresh().with(&["--vkey", &log.vkey]);
    verified(&sentinel, &gateway);

    let said = fares(&gateway, "a", "cosigning", "").await;
    assert!(said["size"].as_u64() >= Some(36) && said["time"].as_u64() > Some(1_700_000_000));
    fares(&gateway, "c", "failing", "did not answer within 10 s").await;
    assert_eq!(gateway.json("/api/witnesses").await["quorum"], true);
    for line in [
        "tally_checkpoint_quorum 1\n",
        "tally_witness_size{witness=\"a\"} 36\n",
        "tally_witness_alarm{witness=\"c\"} 0\n",
        "tally_witness_requests_total{witness=\"c\",answer=\"failed\"}",
    ] {
        metric(&gateway, line).await;
    }

    // Asked again while the log rests: the times show that it is the newest.
    let before = served(&gateway, &policy).await.0;
    let asked = a.requests(0).len();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let again = a.requests(asked);
    assert!((1..=2).contains(&again.len()), "{again:?}");
    assert!(
        again
            .iter()
            .all(|r| (r.old, r.size, r.proof, r.status) == (36, 36, 0, 200))
    );
    assert_ne!(served(&gateway, &policy).await.0, before);
    assert!(
        a.connections() <= 3 && a.requests(0).len() >= 6,
        "kept alive"
    );
    for witness in [&a, &b, &c] {
        witness.was_asked_decently();
    }

    // Killed, and started while no witness is there: not an older one, nor
    // one without its quorum.
    let (before, size, ..) = served(&gateway, &policy).await;
    gateway.kill();
    a.down();
    b.down();
    let gateway = log.start(&policy).await;
    let (after, same, by, quorum) = served(&gateway, &policy).await;
    assert!(same == size && quorum && by >= 2, "{before}{after}");
    // With the size that each cosigned, they are asked from there.
    let asked = a.requests(0).len();
    a.up();
    b.up();
    calls(&gateway, 1).await;
    covers(&gateway, &policy, size + 1, true).await;
    let again = a.requests(asked);
    assert_eq!((again[0].old, again[0].status), (size, 200), "{again:?}");
    verified(&sentinel, &gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_witness_can_do_any_harm() {
    let log = Log::begun().await;
    let faults = [
        (
            "hangs",
            Manner::Hangs,
            "failing",
            "did not answer within 10 s",
        ),
        ("garbage", Manner::Garbage, "failing", "not signature lines"),
        (
            "endless",
            Manner::Endless,
            "failing",
            "more than 65536 bytes",
        ),
        ("foreign", Manner::Foreign, "failing", "no cosignature by"),
        ("redirects", Manner::Redirects, "failing", "it answered 307"),
        ("busy", Manner::Status(429), "failing", "it answered 429"),
        (
            "stranger",
            Manner::Status(404),
            "failing",
            "does not know this log",
        ),
        ("forged", Manner::Forged, "alarm", "does not verify"),
        (
            "no-size",
            Manner::Conflict("many\n"),
            "alarm",
            "409 without a size",
        ),
        (
            "negative",
            Manner::Conflict("-1\n"),
            "alarm",
            "409 without a size",
        ),
        (
            "beyond",
            Manner::Conflict("999999\n"),
            "alarm",
            "it holds 999999 entries",
        ),
        ("echo", Manner::Echo, "alarm", "it has another root"),
        ("slow", Manner::Slow(3_000), "cosigning", ""),
    ];
    let seeds = 10_u8..;
    let faulty: Vec<_> = faults
        .iter()
        .zip(seeds)
        .map(|((name, manner, ..), seed)| StandIn::start(name, seed, &log.vkey, *manner))
        .collect();
    let honest = StandIn::start("honest", 1, &log.vkey, Manner::Honest);
    let gone = StandIn::start("gone", 2, &log.vkey, Manner::Honest).line();
    let (gone, _) = gone.rsplit_once(" http").expect("a URL");
    let all: Vec<_> = faulty.iter().chain([&honest]).collect();
    let policy = log.policy(&all, &format!("{gone} http://127.0.0.1:9/\nquorum honest"));
    let gateway = log.start(&policy).await;
    covers(&gateway, &policy, 1, true).await;
    let before = resident(&gateway);

    let mut size = 1;
    for _ in 0..6 {
        calls(&gateway, 10).await;
        size += 10;
        let took = covers(&gateway, &policy, size, true).await;
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
    for (name, _, state, problem) in faults {
        fares(&gateway, name, state, problem).await;
    }
    fares(&gateway, "gone", "failing", "can't be reached").await;
    let more = resident(&gateway).saturating_sub(before);
    eprintln!("{} faulty witnesses cost {more} KiB", faults.len() + 1);
    assert!(more < 40 << 10, "{more} KiB");
    assert_eq!(gateway.get("/readyz").await.status(), 200);
    metric(&gateway, "tally_witness_alarm{witness=\"beyond\"} 1\n").await;
    metric(&gateway, "tally_witness_alarm{witness=\"garbage\"} 0\n").await;
    for told in [
        "a witness contradicts this log",
        "somebody else signs with its key",
    ] {
        assert!(gateway.story().contains(told), "{}", gateway.story());
    }
    verified(&Sentinel::fresh().with(&["--vkey", &log.vkey]), &gateway);

    // All come to their senses, and each is caught up with.
    faulty.iter().for_each(|w| w.answers(Manner::Honest));
    for (name, ..) in faults {
        fares(&gateway, name, "cosigning", "").await;
    }
    for witness in all {
        witness.was_asked_decently();
        assert!(witness.held() >= size);
    }
    // What is served takes up cosignatures once a second.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let (_, _, by, _) = served(&gateway, &policy).await;
        if by == faults.len() + 1 {
            break;
        }
        assert!(Instant::now() < deadline, "{by} of all that are there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    metric(&gateway, "tally_witness_alarm{witness=\"beyond\"} 0\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_quorum_the_log_is_published_in_time_and_somebody_is_told() {
    let log = Log::begun().await;
    let [a, b] = [("a", 1), ("b", 2)]
        .map(|(name, seed)| StandIn::start(name, seed, &log.vkey, Manner::Honest));
    let policy = log.policy(&[&a, &b], "group g all a b\nquorum g");
    let gateway = log.start(&policy).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", &log.vkey]);
    calls(&gateway, 3).await;
    covers(&gateway, &policy, 4, true).await;

    // It gives its last cosignature, and then refuses every proof.
    b.answers(Manner::Status(422));
    let mut size = 4;
    for _ in 0..3 {
        calls(&gateway, 2).await;
        size += 2;
        let took = covers(&gateway, &policy, size, false).await;
        assert!(took < Duration::from_secs(9), "{took:?}");
        verified(&sentinel, &gateway);
    }
    fares(
        &gateway,
        "b",
        "alarm",
        "refuses the proof from the 4 entries",
    )
    .await;
    assert_eq!(gateway.json("/api/witnesses").await["quorum"], false);
    metric(&gateway, "tally_checkpoint_quorum 0\n").await;
    metric(&gateway, "tally_witness_alarm{witness=\"b\"} 1\n").await;
    assert!(gateway.story().contains("did not cosign within 5 s"));
    let story = gateway.story();
    assert_eq!(
        story.matches("did not cosign within 5 s").count(),
        1,
        "once"
    );

    b.answers(Manner::Honest);
    covers(&gateway, &policy, size, true).await;
    assert_eq!(gateway.json("/api/witnesses").await["quorum"], true);
    assert!(gateway.story().contains("has its quorum again"));
    verified(&sentinel, &gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_was_away_is_caught_up_with_by_one_proof() {
    let log = Log::begun().await;
    let mut away = StandIn::start("away", 1, &log.vkey, Manner::Honest);
    let policy = log.policy(&[&away], "quorum none");
    let gateway = log.start(&policy).await;
    calls(&gateway, 4).await;
    covers(&gateway, &policy, 5, true).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while away.held() < 5 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let asked = away.requests(0).len();
    away.down();
    for _ in 0..4 {
        calls(&gateway, 100).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    covers(&gateway, &policy, 405, true).await;
    fares(&gateway, "away", "failing", "can't be reached").await;
    away.up();
    fares(&gateway, "away", "cosigning", "").await;
    let first = away.requests(asked)[0];
    assert_eq!((first.old, first.size, first.status), (5, 405, 200));
    assert!((1..=16).contains(&first.proof), "{first:?}");

    // One that lost what it knew says so, and is begun with anew.
    let asked = away.requests(0).len();
    away.forgets();
    calls(&gateway, 1).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while away.held() < 406 {
        assert!(Instant::now() < deadline, "{:?}", away.requests(asked));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let again: Vec<_> = away.requests(asked);
    let again: Vec<_> = again.iter().map(|r| (r.old, r.proof, r.status)).collect();
    assert_eq!(again[0].2, 409, "{again:?}");
    assert!(again.contains(&(0, 0, 200)), "{again:?}");
    away.was_asked_decently();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_gateways_the_writer_asks_and_all_serve_the_same() {
    let url = Server::shared().database();
    let data = Folder::new();
    use_database(data.path(), &url);
    let log = Log::begun_in(data).await;
    let witness = StandIn::start("w", 1, &log.vkey, Manner::Honest);
    let policy = log.policy(&[&witness], "quorum w");
    let writer = log.start(&policy).await;
    let second = Folder::new();
    use_database(second.path(), &url);
    for key in ["log.key", "evm.key"] {
        fs::copy(log.data.path().join(key), second.path().join(key)).expect("ours");
    }
    let follower = start(second.path(), log.provider.url(), &policy).await;
    // One that would publish otherwise, if it took over, is refused.
    let third = Folder::new();
    use_database(third.path(), &url);
    for key in ["log.key", "evm.key"] {
        fs::copy(log.data.path().join(key), third.path().join(key)).expect("ours");
    }
    let refused = command(third.path(), log.provider.url(), &free_address()).output();
    let refused = refused.expect("it starts");
    let story = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{story}");
    assert!(story.contains("another --policy file"), "{story}");
    let mut size = 1;
    for gateway in [&writer, &follower, &writer] {
        calls(gateway, 5).await;
        size += 5;
        covers(&writer, &policy, size, true).await;
        covers(&follower, &policy, size, true).await;
        let notes = [
            served(&writer, &policy).await.0,
            served(&follower, &policy).await.0,
        ];
        assert_eq!(notes[0], notes[1]);
    }
    let said = fares(&follower, "w", "waiting", "").await;
    assert_eq!(said["size"], size);
    fares(&writer, "w", "cosigning", "").await;
    witness.was_asked_decently();

    // The follower takes over, from where the witness is.
    let asked = witness.requests(0).len();
    writer.kill();
    calls(&follower, 3).await;
    covers(&follower, &policy, size + 3, true).await;
    let again = witness.requests(asked);
    assert!(again.iter().all(|r| r.status == 200), "{again:?}");
    fares(&follower, "w", "cosigning", "").await;
    verified(&Sentinel::fresh().with(&["--vkey", &log.vkey]), &follower);
    witness.was_asked_decently();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_work_is_refused_with_its_line() {
    let log = Log::begun().await;
    let witness = StandIn::start("w", 1, &log.vkey, Manner::Honest);
    let line = witness.line();
    let (short, _) = line.rsplit_once(" http").expect("a URL");
    let other = log.vkey.replace("tally.invalid/", "tally.invalid/x");
    let file = log.data.path().join("bad.policy");
    for (policy, code, said) in [
        (
            format!("{line}quorum v\n"),
            2,
            "line 2 of the policy: no earlier line defines \"v\"",
        ),
        (format!("{line}quorum w"), 2, "does not end in a newline"),
        (
            format!("{short}\nquorum w\n"),
            2,
            "no witness of the policy has a URL",
        ),
        (
            line.replace("http://", "gopher://") + "quorum w\n",
            2,
            "line 1 of the policy: the URL of witness w must begin with https://",
        ),
        (
            format!("log {other}\n{line}quorum w\n"),
            2,
            "line 1 of the policy: key hash",
        ),
        (
            format!(
                "log example.com/behind-the-sofa+e9e3f1a6+AW7Fi/0hTKuuNY1W6QQ6XdPDgL1jPfLm2XfgHrDfGmXh\n{line}quorum w\n"
            ),
            2,
            "line 1 of the policy",
        ),
    ] {
        fs::write(&file, &policy).expect("our folder");
        let mut command = command(log.data.path(), log.provider.url(), &free_address());
        let refused = command
            .arg("--policy")
            .arg(&file)
            .output()
            .expect("it starts");
        let story = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{policy}{story}");
        assert!(story.contains(said), "{said} is not in {story}");
        assert!(story.contains("bad.policy"), "{story}");
    }
    // A policy of another log, whose key is a good one.
    let elsewhere = Log::begun().await;
    fs::write(&file, elsewhere.policy(&[&witness], "quorum w")).expect("our folder");
    let mut command = command(log.data.path(), log.provider.url(), &free_address());
    let refused = command
        .arg("--policy")
        .arg(&file)
        .output()
        .expect("it starts");
    let story = String::from_utf8_lossy(&refused.stderr);
    let hint = format!("add the line `log {}`", log.vkey);
    assert!(
        refused.status.code() == Some(1) && story.contains(&hint),
        "{story}"
    );
}
