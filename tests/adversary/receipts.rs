//! Receipts: the half of the tally that users keep.

use std::fs;

use protocol::entry::{Body, Entry};
use protocol::hash;
use serde_json::{Value, json};

use super::{AFTER, BEFORE, Caught, Way, evidence, quorum};
use crate::binaries::Folder;
use crate::forge::api;
use crate::forge::log::{Log, call, first_entry, receipt_id, signer, time_of, uuid};
use crate::forge::server::{Answer, Forge, Site};
use crate::sentinel::{Pass, Sees, Sentinel};

/// The file that a gateway gives for entry `index` of `log`, under the receipt id of call `id`.
fn file(log: &Log, index: usize, id: u64) -> Value {
    let mut file = api::record(log, index).expect("an entry");
    file["id"] = uuid(&receipt_id(id)).into();
    file
}

struct Desk {
    forge: Forge,
    folder: Folder,
    failures: Vec<String>,
}

impl Desk {
    fn new(log: Log) -> Self {
        Self {
            forge: Forge::start(Site::new(log)),
            folder: Folder::new(),
            failures: vec![],
        }
    }

    fn ask(&self, sentinel: &Sentinel, content: &str) -> Pass {
        let path = self.folder.path().join("receipt.json");
        fs::write(&path, content).expect("the target folder is writable");
        let path = path.to_str().expect("UTF-8");
        sentinel.run(&[
            "receipt",
            "--json",
            "--patience",
            "300ms",
            path,
            &self.forge.url(),
        ])
    }

    fn sees(&mut self, name: &str, sentinel: &Sentinel, file: &Value, expected: &Sees) {
        let pass = self.ask(sentinel, &file.to_string());
        let vkey = self.forge.site().log.key().to_string();
        let held = pass
            .compare(expected)
            .and_then(|()| evidence::holds(&pass, &vkey));
        self.failures
            .extend(held.err().map(|wrong| format!("{name}: {wrong}")));
    }

    /// The same, asked with these arguments instead of the log's address; the
    /// file is `receipt.json` in the folder that they can name.
    fn told(&mut self, name: &str, file: &Value, arguments: &[&str], expected: &Sees) -> Pass {
        let path = self.folder.path().join("receipt.json");
        fs::write(&path, file.to_string()).expect("the target folder is writable");
        let path = path.to_str().expect("UTF-8");
        let vkey = self.forge.site().log.key().to_string();
        let given = ["receipt", "--json", "--patience", "300ms", "--vkey", &vkey];
        let arguments = arguments
            .iter()
            .map(|a| if *a == "FILE" { path } else { a });
        let arguments: Vec<&str> = given.into_iter().chain(arguments).collect();
        // Its folder holds the evidence.
        let sentinel = Sentinel::fresh();
        let pass = sentinel.run(&arguments);
        let held = pass
            .compare(expected)
            .and_then(|()| evidence::holds(&pass, &vkey));
        self.failures
            .extend(held.err().map(|wrong| format!("{name}: {wrong}")));
        pass
    }

    fn end(self) {
        assert!(
            self.failures.is_empty(),
            "{} cases:\n{}",
            self.failures.len(),
            self.failures.join("\n")
        );
    }
}

#[test]
fn every_receipt_of_an_honest_log_is_good() {
    let log = Log::honest(AFTER);
    let mut desk = Desk::new(log.clone());
    let returning = Sentinel::fresh();
    desk.failures.extend(
        returning
            .pass(&desk.forge.url())
            .compare(&Sees::Verified)
            .err(),
    );
    for index in [1, 2, 254, 255, 256, 300, AFTER - 1] {
        let file = file(&log, index, index as u64);
        desk.sees(
            &format!("{index}, fresh"),
            &Sentinel::fresh(),
            &file,
            &Sees::Verified,
        );
        desk.sees(
            &format!("{index}, returning"),
            &returning,
            &file,
            &Sees::Verified,
        );
    }
    // The log has grown since the sentinel was there, and since the receipt was given.
    let grown = Log::honest(700);
    desk.forge.serve(Site::new(grown.clone()));
    for index in [2, 256, AFTER, 511, 512, 699] {
        let file = file(&grown, index, index as u64);
        desk.sees(
            &format!("{index} of 700, returning"),
            &returning,
            &file,
            &Sees::Verified,
        );
        desk.sees(
            &format!("{index} of 700, fresh"),
            &Sentinel::fresh(),
            &file,
            &Sees::Verified,
        );
    }
    // A receipt may be a moment ahead of the published checkpoint.
    let behind = {
        let mut site = Site::new(grown.clone());
        site.bend(|request, before, answer| {
            if request.path == "/checkpoint" && before < 1 {
                let log = Log::honest(700);
                *answer = Answer::ok("text/plain", log.checkpoint(650).into_bytes());
            }
        });
        site
    };
    desk.forge.serve(behind);
    desk.sees(
        "ahead of the checkpoint",
        &Sentinel::fresh(),
        &file(&grown, 680, 680),
        &Sees::Verified,
    );
    // Receipts of all kinds of sizes: paths through every shape of small tree.
    for size in [2, 3, 4, 5, 7, 8, 255, 256, 257, 258, 512, 513] {
        let log = Log::honest(size);
        desk.forge.serve(Site::new(log.clone()));
        for index in [1, size / 2, size - 1].into_iter().filter(|i| *i > 0) {
            desk.sees(
                &format!("{index} of {size}"),
                &Sentinel::fresh(),
                &file(&log, index, index as u64),
                &Sees::Verified,
            );
        }
    }
    desk.end();
}

#[test]
fn one_record_answers_one_call() {
    const FOREIGN: Sees = Sees::Served(&["receipt_foreign_id"]);
    let log = Log::honest(BEFORE);
    let mut desk = Desk::new(log.clone());
    let theirs = file(&log, 122, 123);
    desk.sees(
        "another call's record",
        &Sentinel::fresh(),
        &theirs,
        &FOREIGN,
    );
    // The gateway insists.
    let insisting = |answer: Value| {
        let mut site = Site::new(Log::honest(BEFORE));
        site.at("/api/receipts/*", move |a| *a = Answer::json(&answer));
        site
    };
    desk.forge.serve(insisting(theirs.clone()));
    desk.sees(
        "and the gateway insists",
        &Sentinel::fresh(),
        &theirs,
        &FOREIGN,
    );
    // The holder changed the file: the log itself has the right answer for this id.
    desk.forge.serve(insisting(file(&log, 123, 123)));
    desk.sees(
        "the holder changed the id",
        &Sentinel::fresh(),
        &theirs,
        &Sees::NoVerdict,
    );
    // A right answer of another log, or one that is itself foreign, puts nothing right.
    desk.forge
        .serve(insisting(file(&another(BEFORE), 123, 123)));
    desk.sees(
        "put right by another log",
        &Sentinel::fresh(),
        &theirs,
        &FOREIGN,
    );
    desk.forge.serve(insisting(file(&log, 124, 124)));
    desk.sees(
        "put right for another id",
        &Sentinel::fresh(),
        &theirs,
        &FOREIGN,
    );
    desk.end();
}

#[test]
fn what_was_promised_is_held() {
    const NOT_HELD: Sees = Sees::Proven(&["receipt_not_held"]);
    const NOT_THERE: Sees = Sees::Served(&["receipt_not_held"]);
    let honest = Log::honest(AFTER);
    let mut desk = Desk::new(Log::honest(BEFORE));
    let returning = Sentinel::fresh();
    desk.failures.extend(
        returning
            .pass(&desk.forge.url())
            .compare(&Sees::Verified)
            .err(),
    );

    // Nobody saw entry 322 yet but its caller: the log is rewritten without it.
    let promised = file(&honest, 322, 322);
    let changes: [Caught<Log>; 5] = [
        Caught("dropped", NOT_HELD, |log| {
            log.rewrite(|entries| drop(entries.remove(322)))
        }),
        Caught("changed", NOT_HELD, |log| {
            log.edit(322, |usage| usage.counts.output = Some(1))
        }),
        Caught("moved", NOT_HELD, |log| {
            log.rewrite(|entries| entries.insert(310, call(999).encode(time_of(310))))
        }),
        Caught("cut off with all after it", NOT_THERE, |log| {
            log.truncate(322)
        }),
        Caught("cut off alone", NOT_THERE, |log| log.truncate(321)),
    ];
    for Caught(name, expected, change) in changes {
        let mut log = honest.clone();
        change(&mut log);
        desk.forge.serve(Site::new(log));
        desk.sees(
            &format!("{name}, fresh"),
            &Sentinel::fresh(),
            &promised,
            &expected,
        );
        desk.sees(
            &format!("{name}, returning"),
            &returning.twin(),
            &promised,
            &expected,
        );
    }
    // Dropped from the past that the sentinel remembers: the remembered root still holds it,
    // and the log no longer opens that.
    let mut log = honest.clone();
    log.rewrite(|entries| drop(entries.remove(122)));
    desk.forge.serve(Site::new(log));
    let past = file(&honest, 122, 122);
    desk.sees("long ago, fresh", &Sentinel::fresh(), &past, &NOT_HELD);
    let pass = desk.ask(&returning.twin(), &past.to_string());
    if pass.exit == Some(0) {
        desk.failures.push(format!("long ago, returning: {pass}"));
    }
    // The entry is served, but under a root that does not cover it.
    let mut site = Site::new(honest.clone());
    let mut without = honest.clone();
    without.edit(322, |usage| usage.counts.output = Some(1));
    site.body_at("/checkpoint", without.checkpoint(AFTER));
    desk.forge.serve(site);
    let pass = desk.ask(&Sentinel::fresh(), &promised.to_string());
    if pass.exit == Some(0) {
        desk.failures.push(format!("under another root: {pass}"));
    }
    desk.end();
}

fn another(size: usize) -> Log {
    let signer = signer("log.example.org", 9);
    let first = first_entry(signer.verifier(), time_of(0));
    let mut entries = Log::honest(size).entries;
    entries[0] = first;
    Log::of(signer.into(), entries)
}

#[test]
fn a_file_that_proves_nothing_accuses_nobody() {
    let log = Log::honest(BEFORE);
    let mut desk = Desk::new(log.clone());
    let good = file(&log, 122, 122);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut file = good.clone();
        change(&mut file);
        file
    };
    let mut other = log.clone();
    other.edit(122, |usage| usage.counts.input = Some(1));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    for (name, file) in [
        ("another index", changed(&|f| f["index"] = 123.into())),
        (
            "another leaf hash",
            changed(&|f| f["leaf_hash"] = "00".repeat(32).into()),
        ),
        (
            "another entry",
            changed(&|f| f["entry"] = String::from_utf8_lossy(&other.entries[122]).into()),
        ),
        (
            "another entry with its leaf hash",
            changed(&|f| {
                f["entry"] = String::from_utf8_lossy(&other.entries[122]).into();
                f["leaf_hash"] = other.levels[0][122].to_string().into();
            }),
        ),
        (
            "an entry with white space",
            changed(&|f| f["entry"] = text(&f["entry"]).replace(',', ", ").into()),
        ),
        ("another log's receipt", file_of_another()),
        (
            "a receipt of another entry",
            changed(&|f| f["receipt"] = log.receipt_note(123).into()),
        ),
        (
            "a checkpoint for a receipt",
            changed(&|f| f["receipt"] = log.checkpoint(BEFORE).into()),
        ),
        (
            "another index in the receipt",
            changed(&|f| f["receipt"] = text(&f["receipt"]).replace("\n122\n", "\n123\n").into()),
        ),
        (
            "a receipt without signature",
            changed(&|f| {
                f["receipt"] = text(&f["receipt"])
                    .split('\u{2014}')
                    .next()
                    .expect("text")
                    .into()
            }),
        ),
        (
            "an id of another version",
            changed(&|f| f["id"] = "0190a1b2-c3d4-4e5f-8a6b-7c8d9e0f1a2b".into()),
        ),
        (
            "an id that is none",
            changed(&|f| f["id"] = "call-122".into()),
        ),
        (
            "an id in upper case",
            changed(&|f| f["id"] = text(&f["id"]).to_uppercase().into()),
        ),
        ("entry 0", file(&log, 0, 0)),
    ] {
        desk.sees(name, &Sentinel::fresh(), &file, &Sees::NoVerdict);
    }
    for junk in [
        "",
        "{}",
        "[]",
        "hello",
        "\u{0}\u{1}",
        &"[".repeat(200_000),
        &good.to_string()[..200],
    ] {
        let pass = desk.ask(&Sentinel::fresh(), junk);
        if pass.exit != Some(2) {
            desk.failures
                .push(format!("{:?}: {pass}", &junk[..junk.len().min(20)]));
        }
    }
    let more = json!({"cost": 5});
    desk.sees(
        "a member more",
        &Sentinel::fresh(),
        &changed(&|f| f["more"] = more.clone()),
        &Sees::Verified,
    );
    let pass = Sentinel::fresh().run(&["receipt", "--json", "/no/such/file", &desk.forge.url()]);
    if pass.exit != Some(2) {
        desk.failures.push(format!("no file: {pass}"));
    }
    // No answer is no verdict, also for receipts.
    let ways: [Way<Site>; 3] = [
        Way("no checkpoint", |site| {
            site.at("/checkpoint", |a| *a = Answer::error(503))
        }),
        Way("no bundle", |site| {
            site.at("/tile/entries/*", |a| *a = Answer::error(404))
        }),
        Way("no tile", |site| {
            site.at("/tile/0/*", |a| *a = Answer::error(404))
        }),
    ];
    for Way(name, bend) in ways {
        let mut site = Site::new(log.clone());
        bend(&mut site);
        desk.forge.serve(site);
        desk.sees(name, &Sentinel::fresh(), &good, &Sees::NoVerdict);
    }
    desk.end();
}

fn file_of_another() -> Value {
    file(&another(BEFORE), 122, 122)
}

#[test]
fn receipts_can_be_checked_offline() {
    let log = Log::honest(BEFORE);
    let desk = Desk::new(log.clone());
    let vkey = log.key().to_string();
    let path = desk.folder.path().join("receipt.json");
    let mut cases = vec![
        (file(&log, 122, 122), 0),
        (file(&log, 122, 123), 1),
        (file_of_another(), 3),
    ];
    // The commitment is what counts, not where the id came from.
    let Ok(Entry::Known {
        body: Body::Usage(usage),
        ..
    }) = Entry::parse(&log.entries[122])
    else {
        panic!("usage")
    };
    assert_eq!(usage.receipt, hash::receipt_commitment(&receipt_id(122)));
    cases.push((json!({"id": uuid(&receipt_id(122))}), 2));
    for (file, exit) in cases {
        fs::write(&path, file.to_string()).expect("writable");
        let path = path.to_str().expect("UTF-8");
        let pass = Sentinel::fresh().run(&["receipt", "--json", "--vkey", &vkey, path]);
        assert_eq!(pass.exit, Some(exit), "{file}: {pass}");
    }
}

#[test]
fn a_file_with_a_proof_stands_alone() {
    let log = Log::honest(BEFORE);
    let mut desk = Desk::new(log.clone());
    let with = |proof: String| {
        let mut file = file(&log, 122, 122);
        file["proof"] = proof.into();
        file
    };
    let note = log.checkpoint(200);
    let good = log.tlog_proof(122, 200, note.clone());
    let pass = desk.told("offline", &with(good.clone()), &["FILE"], &Sees::Verified);
    assert_eq!(
        (&pass.report["size"], &pass.report["log_asked"]),
        (&200.into(), &false.into())
    );
    let url = desk.forge.url();
    let pass = desk.told(
        "offline at will",
        &with(good.clone()),
        &["FILE", "--offline", &url],
        &Sees::Verified,
    );
    assert_eq!(pass.report["log_asked"], false);
    let pass = desk.told(
        "online",
        &with(good.clone()),
        &["FILE", &url],
        &Sees::Verified,
    );
    assert_eq!(
        (&pass.report["size"], &pass.report["log_asked"]),
        (&BEFORE.into(), &true.into())
    );
    let first = good.lines().nth(2).expect("a hash").to_owned();
    for (name, proof) in [
        ("no proof", "hello".into()),
        ("a hash less", good.replacen(&format!("{first}\n"), "", 1)),
        (
            "a hash twice",
            good.replacen(&first, &format!("{first}\n{first}"), 1),
        ),
        ("another index", good.replace("index 122", "index 123")),
        ("another entry's", log.tlog_proof(123, 200, note.clone())),
        (
            "another size's root",
            log.tlog_proof(122, 200, log.checkpoint(201)),
        ),
        (
            "of another log",
            another(BEFORE).tlog_proof(122, 200, another(BEFORE).checkpoint(200)),
        ),
        (
            "unsigned",
            good.replace("log.example.org\n200", "log.example.org\n201"),
        ),
    ] {
        desk.told(name, &with(proof), &["FILE"], &Sees::NoVerdict);
    }
    // The log signed the proof's tree for the holder, and shows others another.
    let mut forked = log.clone();
    forked.edit(50, |usage| usage.counts.output = Some(1));
    let theirs = forked.tlog_proof(122, 200, forked.checkpoint(200));
    const REWRITTEN: Sees = Sees::Proven(&["history_rewritten"]);
    desk.told(
        "of another history",
        &with(theirs.clone()),
        &["FILE", &url],
        &REWRITTEN,
    );
    desk.told(
        "alone it is good",
        &with(theirs),
        &["FILE"],
        &Sees::Verified,
    );
    let more = Log::honest(AFTER);
    let ahead = more.tlog_proof(122, AFTER, more.checkpoint(AFTER));
    const WITHHELD: Sees = Sees::Served(&["checkpoint_overdue"]);
    desk.told(
        "of more than is served",
        &with(ahead),
        &["FILE", &url],
        &WITHHELD,
    );
    desk.end();
}

#[test]
fn a_receipt_is_fetched_by_its_address_or_id() {
    let log = Log::honest(BEFORE);
    let mut desk = Desk::new(log.clone());
    let mut answer = file(&log, 122, 122);
    answer["proof"] = log.tlog_proof(122, BEFORE, log.checkpoint(BEFORE)).into();
    let id = answer["id"].as_str().expect("an id").to_owned();
    let mut site = Site::new(log);
    let served = answer.clone();
    site.bend(move |request, before, answer| {
        if request.path.starts_with("/api/receipts/") {
            *answer = match (before, request.query.contains_key("proof")) {
                (0, true) => Answer {
                    status: 202,
                    ..Answer::error(404)
                },
                _ => Answer::json(&served),
            };
        }
    });
    desk.forge.serve(site);
    let url = desk.forge.url();
    let address = format!("{url}/api/receipts/{id}");
    for arguments in [&[&id[..], &url][..], &[&address], &[&address, "--offline"]] {
        let pass = desk.told("fetched", &answer, arguments, &Sees::Verified);
        assert_eq!(pass.report["receipt_index"], 122);
        assert_eq!(
            pass.report["log_asked"],
            arguments.last() != Some(&"--offline")
        );
    }
    desk.forge.serve(Site::new(Log::honest(BEFORE)));
    desk.told("unknown", &answer, &[&address], &Sees::NoVerdict);
    assert_eq!(
        Sentinel::fresh().run(&["receipt", &id]).exit,
        Some(2),
        "of no log"
    );
    desk.end();
}

#[test]
fn a_receipt_is_witnessed_if_its_proof_or_the_log_is() {
    let log = Log::honest(BEFORE);
    let mut desk = Desk::new(log.clone());
    let policy = desk.folder.path().join("policy");
    fs::write(&policy, quorum::policy(&log)).expect("the target folder is writable");
    let policy = policy.to_str().expect("UTF-8");
    let plain = file(&log, 122, 122);
    let with = |note: String| {
        let mut file = plain.clone();
        file["proof"] = log.tlog_proof(122, 200, note).into();
        file
    };
    let alone = with(log.checkpoint(200));
    let cosigned = with(quorum::cosigned(&log, 200));
    let url = desk.forge.url();
    for (name, file, arguments, expected) in [
        ("no proof", &plain, &["FILE"][..], Sees::NoVerdict),
        ("by nobody", &alone, &["FILE"], Sees::NoVerdict),
        (
            "by nobody, online",
            &alone,
            &["FILE", &url],
            Sees::NoVerdict,
        ),
        ("cosigned", &cosigned, &["FILE"], Sees::Verified),
        (
            "cosigned, online",
            &cosigned,
            &["FILE", &url],
            Sees::Verified,
        ),
    ] {
        let arguments = [arguments, &["--policy", policy]].concat();
        let pass = desk.told(name, file, &arguments, &expected);
        let said = pass.report["reason"].as_str().unwrap_or_default();
        assert_eq!(
            said.contains("not yet witnessed"),
            expected == Sees::NoVerdict,
            "{name}"
        );
    }
    let mut site = Site::new(log.clone());
    site.body_at("/checkpoint", quorum::cosigned(&log, BEFORE));
    desk.forge.serve(site);
    let online = ["FILE", &url, "--policy", policy];
    desk.told(
        "only the log's is cosigned",
        &plain,
        &online,
        &Sees::Verified,
    );
    desk.end();
}
