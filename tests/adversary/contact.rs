//! First contact, the state between passes, and what reaches a terminal.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{AFTER, BEFORE, Caught, Scene, Way};
use crate::binaries::program;
use crate::forge::log::{Log, call, first_entry, signer, time_of};
use crate::forge::server::{Answer, Sent, Site};
use crate::sentinel::{Pass, Sees, Sentinel};
use crate::vectors;

#[test]
fn keys_on_which_verifiers_disagree_are_refused() {
    let mut scene = Scene::honest(3);
    for (name, vkey) in vectors::refused_keys() {
        let served = vkey.clone();
        scene.serve(3, |site| {
            site.json_at("/api/pubkey", move |value| {
                value["vkey"] = served.clone().into()
            })
        });
        scene.sees(
            &format!("{name}, served"),
            &Sentinel::fresh(),
            &Sees::NoVerdict,
        );
        let pass = scene.forge_pass(&Sentinel::fresh().with(&["--vkey", &vkey]));
        scene.note(
            &format!("{name}, given"),
            if pass.exit == Some(2) {
                Ok(())
            } else {
                Err(pass.to_string())
            },
        );
    }
    scene.end();
}

#[test]
fn a_key_is_pinned_from_its_first_checkpoint_on() {
    let mut scene = Scene::honest(BEFORE);
    let vkey = scene.forge.site().log.key().to_string();
    let another = |site: &mut Site| {
        let signer = signer("log.example.org", 9);
        let mut entries = Log::honest(BEFORE).entries;
        entries[0] = first_entry(signer.verifier(), time_of(0));
        site.log = Log::of(signer.into(), entries);
    };
    let cases: [Caught<Site>; 2] = [
        // Nothing was signed yet, so nothing was trusted.
        Caught("before a checkpoint", Sees::Verified, |site| {
            site.at("/checkpoint", |a| *a = Answer::error(404))
        }),
        Caught(
            "after a checkpoint",
            Sees::Served(&["key_changed"]),
            |site| site.at("/tile/*", |a| *a = Answer::error(404)),
        ),
    ];
    for Caught(name, expected, bend) in cases {
        let sentinel = Sentinel::fresh();
        scene.serve(BEFORE, bend);
        scene.sees(name, &sentinel, &Sees::NoVerdict);
        scene.serve(BEFORE, another);
        let pass = scene.forge_pass(&sentinel);
        scene.note(&format!("{name}, another key"), pass.compare(&expected));
    }
    // A key given by hand must be the pinned one.
    scene.serve(BEFORE, |_| ());
    let sentinel = scene.returning();
    let other = signer("log.example.org", 9).verifier().to_string();
    let pass = scene.forge_pass(&sentinel.twin().with(&["--vkey", &other]));
    scene.note(
        "another key given",
        if pass.exit == Some(2) {
            Ok(())
        } else {
            Err(pass.to_string())
        },
    );
    let pass = scene.forge_pass(&sentinel.with(&["--vkey", &vkey]));
    scene.note("the same key given", pass.compare(&Sees::Verified));
    scene.end();
}

#[test]
fn a_sentinel_that_is_killed_knows_what_it_knew() {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    scene.serve(AFTER, |site| {
        site.at("/tile/0/*", |answer| answer.sent = Sent::Never)
    });
    let mut running = Command::new(program("sentinel"))
        .args(["--json", "--state"])
        .arg(returning.state())
        .arg(scene.forge.url())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the sentinel starts");
    while scene.forge.site().asked("/tile/0/") == 0 {
        thread::sleep(Duration::from_millis(20));
    }
    // Meanwhile its state is its own.
    let second = scene.forge_pass(&returning);
    scene.note(
        "a second one",
        if second.exit == Some(2) {
            Ok(())
        } else {
            Err(second.to_string())
        },
    );
    running.kill().expect("it runs");
    running.wait().expect("it was ours");
    scene.serve(AFTER, |_| ());
    let pass = scene.sees("after the kill", &returning, &Sees::Verified);
    let kept = pass.report["new_entries"] == AFTER - BEFORE;
    scene.note(
        "what it knew",
        if kept { Ok(()) } else { Err(pass.to_string()) },
    );
    scene.end();
}

#[test]
fn evidence_of_earlier_passes_is_not_forgotten() {
    let mut scene = Scene::honest(BEFORE);
    let sentinel = scene.returning();
    let tells = |pass: &Pass| pass.stderr.contains("evidence of earlier findings");
    let pass = scene.sees("nothing yet", &sentinel, &Sees::Verified);
    scene.note(
        "nothing yet",
        if tells(&pass) {
            Err(pass.to_string())
        } else {
            Ok(())
        },
    );
    scene.serve(BEFORE - 1, |_| ());
    let pass = scene.sees("rolled back", &sentinel, &Sees::Served(&["rollback"]));
    let first = pass.evidence();
    scene.serve(BEFORE, |_| ());
    let pass = scene.sees("honest again", &sentinel, &Sees::Verified);
    scene.note(
        "honest again",
        if tells(&pass) {
            Ok(())
        } else {
            Err(pass.to_string())
        },
    );
    // The same finding again is the same file.
    scene.serve(BEFORE - 1, |_| ());
    let pass = scene.sees("rolled back again", &sentinel, &Sees::Served(&["rollback"]));
    assert_eq!(pass.evidence(), first);
    scene.end();
}

#[test]
fn a_damaged_state_is_not_taken_for_the_log() {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let path = |sentinel: &Sentinel| sentinel.state().join("state");
    let whole = fs::read(path(&returning)).expect("a state was stored");
    let middle = whole.len() / 2;
    for (name, content, exit) in [
        ("cut", whole[..middle].to_vec(), 2),
        ("empty", vec![], 2),
        // As a crash leaves a step that was being added.
        ("a step that was cut off", [&whole[..], b"x"].concat(), 0),
        (
            "a bit in the middle",
            {
                let mut bent = whole.clone();
                bent[middle] ^= 1;
                bent
            },
            2,
        ),
    ] {
        let twin = returning.twin();
        fs::write(path(&twin), content).expect("writable");
        let pass = scene.forge_pass(&twin);
        scene.note(
            name,
            if pass.exit == Some(exit) {
                Ok(())
            } else {
                Err(pass.to_string())
            },
        );
    }
    scene.end();
}

#[test]
fn what_a_log_says_does_not_reach_the_terminal_raw() {
    let mut scene = Scene::honest(3);
    let returning = scene.returning();
    fn evil() -> String {
        "\u{1b}[2J\u{7}verified".into()
    }
    let bends: [Way<Site>; 6] = [
        Way("/api/pubkey", |site| {
            site.json_at("/api/pubkey", |v| v["origin"] = evil().into())
        }),
        Way("the vkey", |site| {
            site.json_at("/api/pubkey", |v| v["vkey"] = evil().into())
        }),
        Way("/api/stats", |site| {
            site.json_at("/api/stats", |v| v["records"] = evil().into())
        }),
        Way("an outcome", |site| {
            site.json_at("/api/stats", |v| v["outcomes"][evil()] = 5.into())
        }),
        Way("a model", |site| {
            site.json_at("/api/models", |v| v["models"][0]["model"] = evil().into())
        }),
        Way("a checkpoint", |site| site.body_at("/checkpoint", evil())),
    ];
    for Way(name, bend) in bends {
        scene.serve(20, bend);
        let sentinel = returning.twin();
        for arguments in [&["--patience", "0s"][..], &["--patience", "0s", "--json"]] {
            let output = Command::new(program("sentinel"))
                .arg("--state")
                .arg(sentinel.state())
                .args(arguments)
                .arg(scene.forge.url())
                .output()
                .expect("the sentinel starts");
            let raw = [output.stdout, output.stderr].concat().contains(&0x1b);
            scene.note(
                name,
                if raw {
                    Err("an escape sequence".into())
                } else {
                    Ok(())
                },
            );
            let code = output.status.code();
            scene.note(
                name,
                if matches!(code, Some(1 | 3)) {
                    Ok(())
                } else {
                    Err(format!("exit {code:?}"))
                },
            );
        }
    }
    scene.end();
}

#[test]
fn compressed_answers_do_not_grow_without_end() {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let bomb = gzip(&vec![b' '; 64 << 20]);
    for path in ["/checkpoint", "/tile/entries/*", "/tile/0/*", "/api/models"] {
        let bomb = bomb.clone();
        scene.serve(AFTER, |site| {
            site.at(path, move |answer| {
                answer.headers.push(("content-encoding", "gzip".into()));
                answer.body.clone_from(&bomb);
            });
        });
        scene.sees(path, &returning.twin(), &Sees::NoVerdict);
    }
    // And honest ones are read.
    scene.serve(AFTER, |site| {
        site.bend(|_, _, answer| {
            answer.headers.push(("content-encoding", "gzip".into()));
            answer.body = gzip(&answer.body);
        });
    });
    scene.sees("honest", &returning, &Sees::Verified);
    scene.end();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("to memory");
    encoder.finish().expect("to memory")
}

#[test]
fn a_time_to_come_is_a_time() {
    // Nothing in PROTOCOL.md says when an entry may be of; windows then end there.
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let year_3000 = protocol::index::Time::from_secs(32_503_680_000).expect("small");
    scene.serve(AFTER, |site| {
        site.log
            .rewrite(|e| e[AFTER - 1] = call(5).encode(year_3000))
    });
    scene.sees("fresh", &Sentinel::fresh(), &Sees::Verified);
    scene.sees("returning", &returning, &Sees::Verified);
    scene.end();
}
