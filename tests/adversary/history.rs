//! Checkpoints against the key, against each other and against what was
//! remembered.

use protocol::hash::Hash;
use protocol::note;

use super::{AFTER, BEFORE, Case, Scene, play};
use crate::forge::api::{self, Request};
use crate::forge::log::{Log, call, first_entry, signer, time_of};
use crate::forge::server::{Answer, Site};
use crate::sentinel::{Sees, Sentinel};

const ROLLBACK: Sees = Sees::Served(&["rollback"]);
const KEY_CHANGED: Sees = Sees::Served(&["key_changed"]);

#[test]
fn a_log_does_not_shrink() {
    let mut scene = Scene::honest(700);
    let returning = scene.returning();
    scene.serve(400, |_| ());
    scene.sees(
        "the last 300 dropped, fresh",
        &Sentinel::fresh(),
        &Sees::Verified,
    );
    let twin = returning.twin();
    scene.sees("the last 300 dropped, returning", &twin, &ROLLBACK);
    scene.sees("still dropped", &twin, &ROLLBACK);
    scene.serve(699, |_| ());
    scene.sees("the last one dropped", &twin, &ROLLBACK);
    scene.serve(1, |_| ());
    scene.sees(
        "only entry 0 left, fresh",
        &Sentinel::fresh(),
        &Sees::Verified,
    );
    scene.sees("only entry 0 left, returning", &twin, &ROLLBACK);
    scene.serve(700, |_| ());
    scene.sees("all of it again", &twin, &Sees::Verified);

    // Dropped, and others in their place: caught at once, and proven.
    let other = |i: u64| call(i + 1).encode(time_of(i));
    scene.serve(700, |site| {
        site.log
            .rewrite(|e| (400..700).for_each(|i| e[i] = other(i as u64)))
    });
    scene.sees("300 others, fresh", &Sentinel::fresh(), &Sees::Verified);
    scene.sees("300 others, returning", &twin, &Sees::Proven(&["fork"]));
    scene.serve(730, |site| {
        site.log
            .rewrite(|e| (400..700).for_each(|i| e[i] = other(i as u64)))
    });
    scene.sees(
        "300 others and more",
        &twin,
        &Sees::Proven(&["history_rewritten"]),
    );
    scene.serve(730, |_| ());
    scene.sees("honest again", &twin, &Sees::Verified);
    scene.end();
}

#[test]
fn a_log_without_entries_or_with_fewer_than_it_answers_from_is_none() {
    const EMPTY: Sees = Sees::Proven(&["empty_log"]);
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    scene.serve(AFTER, |site| {
        site.body_at("/checkpoint", site.log.checkpoint(0))
    });
    scene.sees("size 0, fresh", &Sentinel::fresh(), &EMPTY);
    scene.sees("size 0, returning", &returning.twin(), &EMPTY);
    scene.serve(AFTER, |site| {
        site.body_at("/checkpoint", site.log.checkpoint_of(0, Hash::of(b"x")))
    });
    scene.sees("size 0 of another root", &Sentinel::fresh(), &EMPTY);

    const OVERDUE: Sees = Sees::Served(&["checkpoint_overdue"]);
    scene.serve(AFTER, |site| site.published = Some(1));
    scene.sees("size 1, fresh", &Sentinel::fresh(), &OVERDUE);
    let pass = returning.twin().pass(&scene.forge.url());
    let claims: Vec<_> = pass.findings().iter().map(|f| f["claim"].clone()).collect();
    let caught = pass.exit == Some(1) && claims.contains(&"rollback".into());
    scene.note(
        "size 1, returning",
        if caught {
            Ok(())
        } else {
            Err(pass.to_string())
        },
    );
    scene.serve(AFTER, |site| site.published = Some(AFTER - 1));
    scene.sees("one short, fresh", &Sentinel::fresh(), &OVERDUE);
    scene.sees("one short, returning", &returning.twin(), &OVERDUE);
    scene.end();
}

#[test]
fn the_pinned_key_signs_or_it_is_misbehaviour() {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let vkey = scene.forge.site().log.key().to_string();
    let pinned = Sentinel::fresh().with(&["--vkey", &vkey]);
    scene.sees("pinned by hand", &pinned.twin(), &Sees::Verified);

    let others = [
        ("another key", another_log("log.example.org", 9)),
        ("another origin", another_log("log.example.net", 7)),
    ];
    for (name, log) in others {
        scene.forge.serve(Site::new(log));
        scene.sees(
            &format!("{name}, fresh"),
            &Sentinel::fresh(),
            &Sees::Verified,
        );
        let url = scene.forge.url();
        for (who, sentinel) in [("returning", returning.twin()), ("pinned", pinned.twin())] {
            // The evidence speaks of the pinned key, which is not the one served.
            let pass = sentinel.pass(&url);
            let held = pass
                .compare(&KEY_CHANGED)
                .and_then(|()| super::evidence::holds(&pass, &vkey));
            scene.note(&format!("{name}, {who}"), held);
        }
    }
    scene.serve(AFTER, |site| {
        site.body_at(
            "/checkpoint",
            another_log("log.example.org", 9).checkpoint(AFTER),
        )
    });
    scene.sees(
        "only the checkpoint by another key, fresh",
        &Sentinel::fresh(),
        &KEY_CHANGED,
    );
    scene.sees(
        "only the checkpoint by another key, returning",
        &returning.twin(),
        &KEY_CHANGED,
    );
    for (name, member, value) in [
        (
            "vkey",
            "vkey",
            another_log("log.example.org", 9).key().to_string(),
        ),
        ("key", "key", "00".repeat(32)),
        ("origin", "origin", "log.example.net".into()),
    ] {
        scene.serve(AFTER, |site| {
            site.json_at("/api/pubkey", move |v| v[member] = value.clone().into())
        });
        scene.sees(
            &format!("/api/pubkey with another {name}"),
            &returning.twin(),
            &KEY_CHANGED,
        );
    }
    scene.serve(AFTER, |_| ());
    scene.sees("honest again", &returning.twin(), &Sees::Verified);
    scene.end();
}

fn another_log(origin: &str, seed: u8) -> Log {
    let signer = signer(origin, seed);
    let first = first_entry(signer.verifier(), time_of(0));
    let mut log = Log::honest(AFTER);
    log.rewrite(|entries| entries[0] = first);
    let entries = log.entries;
    Log::of(signer.into(), entries)
}

#[test]
fn what_the_key_signs_as_a_checkpoint_is_one() {
    // Signed, but no checkpoint; a note that is none is no complete answer.
    const MALFORMED: Sees = Sees::Proven(&["checkpoint_malformed"]);
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let log = Log::honest(AFTER);
    let seal = |text: &str| note::seal(text, &log.signer);
    let good = log.checkpoint(AFTER);
    let text = good.split("\n\n").next().expect("a text").to_owned() + "\n";
    let root = log.root(AFTER).to_base64();
    let mut high_s = good.clone().into_bytes();
    add_group_order(&mut high_s);
    for (name, note, expected) in [
        (
            "an extension line",
            seal(&format!("{text}extension\n")),
            MALFORMED,
        ),
        ("a line less", seal("log.example.org\n340\n"), MALFORMED),
        (
            "a leading zero",
            seal(&text.replace("340", "0340")),
            MALFORMED,
        ),
        (
            "another origin",
            seal(&text.replace(".org", ".net")),
            MALFORMED,
        ),
        (
            "a size of 2^53",
            seal(&text.replace("340", "9007199254740992")),
            MALFORMED,
        ),
        (
            "a root without padding",
            seal(&text.replace('=', "")),
            MALFORMED,
        ),
        (
            "a receipt",
            log.receipt_note(5),
            Sees::Served(&["checkpoint_malformed"]),
        ),
        (
            "another text under the signature",
            good.replace(&root, &Hash::of(b"x").to_base64()),
            KEY_CHANGED,
        ),
        (
            "another size under the signature",
            good.replace("\n340\n", "\n339\n"),
            KEY_CHANGED,
        ),
        (
            "S + L",
            String::from_utf8(high_s).expect("base64"),
            KEY_CHANGED,
        ),
        ("no signature", format!("{text}\n"), Sees::NoVerdict),
        ("no note", "hello\n".into(), Sees::NoVerdict),
        ("nothing", String::new(), Sees::NoVerdict),
        ("no end", good[..good.len() - 1].into(), Sees::NoVerdict),
    ] {
        scene.serve(AFTER, |site| site.body_at("/checkpoint", note));
        scene.sees(&format!("{name}, fresh"), &Sentinel::fresh(), &expected);
        let twin = returning.twin();
        scene.sees(&format!("{name}, returning"), &twin, &expected);
        scene.serve(AFTER, |_| ());
        scene.sees(&format!("{name}, honest again"), &twin, &Sees::Verified);
    }
    // Other signers' lines are none of the sentinel's business.
    let witness = note::seal(&text, &signer("witness.example.net", 3));
    let line = witness.rsplit("\n\n").next().expect("a signature line");
    scene.serve(AFTER, |site| {
        site.body_at("/checkpoint", format!("{good}{line}"))
    });
    scene.sees("a witness's line", &returning.twin(), &Sees::Verified);
    scene.end();
}

/// Makes the signature of a note one that only lax verifiers take: S + L.
fn add_group_order(note: &mut Vec<u8>) {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let blank = note
        .iter()
        .rposition(|b| *b == b' ')
        .expect("a signature line");
    let mut blob = STANDARD
        .decode(&note[blank + 1..note.len() - 1])
        .expect("base64");
    let mut carry = 0;
    for (byte, add) in blob[36..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    note.truncate(blank + 1);
    note.extend(STANDARD.encode(blob).bytes());
    note.push(b'\n');
}

#[test]
fn a_signed_root_is_that_of_the_entries() {
    const WRONG: Sees = Sees::Served(&["root_mismatch"]);
    play(&[
        Case {
            name: "any root",
            bend: |site| {
                let note = site.log.checkpoint_of(site.log.size(), Hash::of(b"wrong"));
                site.body_at("/checkpoint", note);
            },
            fresh: WRONG,
            grown: WRONG,
            same: Sees::Proven(&["fork"]),
        },
        Case {
            name: "the root of one entry less",
            bend: |site| {
                let size = site.log.size();
                let note = site.log.checkpoint_of(size, site.log.root(size - 1));
                site.body_at("/checkpoint", note);
            },
            fresh: WRONG,
            grown: WRONG,
            same: Sees::Proven(&["fork"]),
        },
        Case {
            name: "more entries than there are",
            bend: |site| {
                let size = site.log.size();
                let note = site.log.checkpoint_of(size + 5, site.log.root(size));
                site.body_at("/checkpoint", note);
            },
            fresh: Sees::NoVerdict,
            grown: Sees::NoVerdict,
            same: Sees::NoVerdict,
        },
        Case {
            name: "2^53 - 1 entries",
            bend: |site| {
                let note = site.log.checkpoint_of((1 << 53) - 1, Hash::of(b"x"));
                site.body_at("/checkpoint", note);
            },
            fresh: Sees::NoVerdict,
            grown: Sees::NoVerdict,
            same: Sees::NoVerdict,
        },
    ]);
}

#[test]
fn what_api_chain_signs_counts_too() {
    // The fork hides where few look: another signed history, below /api.
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    for (size, claim) in [(AFTER, "fork"), (AFTER - 10, "history_rewritten")] {
        scene.serve(AFTER, |site| {
            let mut other = site.log.clone();
            other.edit(122, |usage| usage.counts.output = Some(1));
            let chain = api::answer(&other, size, &Request::new("/api/chain")).expect("an answer");
            site.at("/api/chain", move |answer| *answer = Answer::json(&chain));
        });
        for (who, sentinel) in [
            ("fresh", Sentinel::fresh()),
            ("returning", returning.twin()),
        ] {
            let pass = scene.forge_pass(&sentinel);
            let vkey = scene.forge.site().log.key().to_string();
            let found = |claim: &str, class: &str| {
                pass.findings()
                    .iter()
                    .any(|f| f["claim"] == claim && f["class"] == class)
            };
            let both = found(claim, "proven") && found("aggregate_chain", "served");
            let only = pass.findings().len() == 2 && pass.exit == Some(1);
            let said = if both && only {
                Ok(())
            } else {
                Err(pass.to_string())
            };
            scene.note(
                &format!("{claim}, {who}"),
                said.and_then(|()| super::evidence::holds(&pass, &vkey)),
            );
        }
    }
    scene.end();
}
