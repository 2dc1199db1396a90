//! Tiles and receipt signatures that disagree with the entries.

use protocol::hash::Hash;
use protocol::name::Address;
use protocol::record::Link;

use super::{AFTER, BEFORE, Case, Caught, Scene, play};
use crate::forge::log::{Log, call, first_entry, signer, time_of};
use crate::forge::server::{Answer, Site};
use crate::sentinel::{Sees, Sentinel};

const VERIFIED: Sees = Sees::Verified;
const RECEIPT: Sees = Sees::Served(&["receipt_signature"]);
const TILE: Sees = Sees::Served(&["tile_mismatch"]);

#[test]
fn receipts_signatures_are_the_logs_own() {
    fn everywhere(name: &'static str, bend: fn(&mut Site)) -> Case {
        Case {
            name,
            bend,
            fresh: RECEIPT,
            grown: RECEIPT,
            same: VERIFIED,
        }
    }
    play(&[
        everywhere("all by another key", |site| {
            let other = Log::of(
                signer("log.example.org", 9).into(),
                site.log.entries.clone(),
            );
            site.log.signatures = other.signatures;
        }),
        everywhere("all of other entries", |site| {
            site.log.signatures.rotate_left(1)
        }),
        everywhere("all zeros", |site| site.log.signatures.fill([0; 64])),
        everywhere("all of the same entry", |site| {
            let first = site.log.signatures[0];
            site.log.signatures.fill(first);
        }),
        everywhere("over the leaf hash alone", |site| {
            let sign = |leaf: &Hash| site.log.signer.sign(leaf.as_bytes());
            site.log.signatures = site.log.levels[0].iter().map(sign).collect();
        }),
        Case {
            name: "one of the new ones",
            bend: |site| {
                site.log
                    .signatures
                    .iter_mut()
                    .skip(BEFORE + 20)
                    .take(1)
                    .for_each(|s| s[40] ^= 1)
            },
            fresh: RECEIPT,
            grown: RECEIPT,
            same: VERIFIED,
        },
        Case {
            name: "the first of the new ones",
            bend: |site| {
                site.log
                    .signatures
                    .iter_mut()
                    .skip(BEFORE)
                    .take(1)
                    .for_each(|s| s[40] ^= 1)
            },
            fresh: RECEIPT,
            grown: RECEIPT,
            same: VERIFIED,
        },
        Case {
            name: "the last one",
            bend: |site| {
                site.log
                    .signatures
                    .iter_mut()
                    .skip(AFTER - 1)
                    .for_each(|s| s[0] ^= 1)
            },
            fresh: RECEIPT,
            grown: RECEIPT,
            same: VERIFIED,
        },
    ]);
    // What a returning sentinel has verified before it does not fetch again.
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    for (name, index) in [
        ("the first", 0),
        ("one in the first tile", 122),
        ("the last of a tile", 255),
    ] {
        scene.serve(AFTER, |site| site.log.signatures[index] = [0; 64]);
        scene.sees(&format!("{name}, fresh"), &Sentinel::fresh(), &RECEIPT);
        scene.sees(&format!("{name}, returning"), &returning.twin(), &VERIFIED);
    }
    scene.end();
}

#[test]
fn the_first_of_many_are_shown_and_the_rest_counted() {
    let mut scene = Scene::honest(BEFORE);
    scene.serve(BEFORE, |site| site.log.signatures.fill([0; 64]));
    let pass = scene.sees("all", &Sentinel::fresh(), &RECEIPT);
    let shown = pass.findings();
    let indexes: Vec<_> = shown.iter().map(|f| f["index"].as_u64()).collect();
    assert_eq!(indexes, [Some(0), Some(1), Some(2), Some(3)], "{pass}");
    assert_eq!(shown[0]["more"], BEFORE - 4, "{pass}");
    assert!(shown[1..].iter().all(|f| f["more"].is_null()), "{pass}");
    scene.end();
}

#[test]
fn without_a_genuine_receipt_nothing_is_proven() {
    let mut scene = Scene::honest(BEFORE);
    let cases: [Caught<Log>; 6] = [
        Caught(
            "time backwards across tiles, the earlier",
            Sees::Served(&["receipt_signature", "time_backwards"]),
            |log| {
                log.rewrite(|e| e[256] = call(256).encode(time_of(254)));
                log.signatures[255] = [0; 64];
            },
        ),
        Caught(
            "malformed",
            Sees::Served(&["entry_malformed", "receipt_signature"]),
            |log| {
                log.respell(122, "\"source\"", "\"Source\"");
                log.signatures[122] = [0; 64];
            },
        ),
        Caught(
            "time backwards, the later",
            Sees::Served(&["receipt_signature", "time_backwards"]),
            |log| {
                log.rewrite(|e| e[122] = call(122).encode(time_of(120)));
                log.signatures[122] = [0; 64];
            },
        ),
        Caught(
            "time backwards, the earlier",
            Sees::Served(&["receipt_signature", "time_backwards"]),
            |log| {
                log.rewrite(|e| e[122] = call(122).encode(time_of(120)));
                log.signatures[121] = [0; 64];
            },
        ),
        Caught(
            "entry 0",
            Sees::Served(&["first_entry", "receipt_signature"]),
            |log| {
                let other = first_entry(signer("log.example.org", 9).verifier(), time_of(0));
                log.rewrite(|e| e[0] = other);
                log.signatures[0] = [0; 64];
            },
        ),
        Caught(
            "a bound wallet",
            Sees::Served(&["receipt_signature", "unbound_wallet"]),
            |log| {
                log.edit(122, |usage| {
                    usage.wallet = Some((Address::from_bytes([1; 20]), Link::Bound))
                });
                log.signatures[122] = [0; 64];
            },
        ),
    ];
    for Caught(name, expected, bend) in cases {
        scene.serve(BEFORE, |site| bend(&mut site.log));
        scene.sees(name, &Sentinel::fresh(), &expected);
    }
    scene.end();
}

#[test]
fn what_was_verified_once_can_be_hidden_from_those_who_remember() {
    // Old full tiles are not fetched again: whoever comes for the first time sees it.
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    scene.serve(AFTER, |site| {
        site.log.entries[122] = call(999).encode(time_of(122));
        site.log.signatures[123] = [0; 64];
    });
    scene.sees("returning", &returning, &VERIFIED);
    let pass = scene.forge_pass(&Sentinel::fresh());
    scene.note(
        "fresh",
        if pass.exit == Some(1) {
            Ok(())
        } else {
            Err(pass.to_string())
        },
    );
    scene.end();
}

#[test]
fn tiles_are_what_the_entries_give() {
    fn flip(answer: &mut Answer) {
        let last = answer.body.len() - 1;
        answer.body[last] ^= 1;
    }
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let cases: [(&str, &'static str, Sees); 4] = [
        ("level 0, full", "/tile/0/000", VERIFIED),
        ("level 0, partial", "/tile/0/001.p/84", TILE),
        ("level 1, partial", "/tile/1/000.p/1", VERIFIED),
        ("level 0, all", "/tile/0/*", TILE),
    ];
    for (name, path, later) in cases {
        scene.serve(AFTER, |site| site.at(path, flip));
        scene.sees(&format!("{name}, fresh"), &Sentinel::fresh(), &TILE);
        let pass = returning.twin().pass(&scene.forge.url());
        // One that knows a tile already may ask for it or not.
        let held = pass.compare(&later).or_else(|_| pass.compare(&TILE));
        scene.note(&format!("{name}, returning"), held);
    }
    // A tile that a later tile completes.
    scene.serve(600, |site| site.at("/tile/0/001", flip));
    scene.sees("completed, fresh", &Sentinel::fresh(), &TILE);
    scene.sees("completed, returning", &returning.twin(), &TILE);
    scene.serve(600, |site| site.at("/tile/1/000.p/2", flip));
    scene.sees("above the completed, fresh", &Sentinel::fresh(), &TILE);
    scene.sees("above the completed, returning", &returning.twin(), &TILE);
    // All items, one after the other.
    for item in [0, 1, 41, 83] {
        scene.serve(AFTER, |site| {
            site.at("/tile/0/001.p/84", move |answer| {
                answer.body[32 * item] ^= 0x80
            })
        });
        scene.sees(&format!("item {item}"), &Sentinel::fresh(), &TILE);
    }
    scene.end();
}

#[test]
fn entries_are_those_under_the_root() {
    // The forger changes what he serves as entries and nothing else.
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let other = call(320).encode(time_of(319));
    scene.serve(AFTER, |site| {
        let mut entries = site.log.entries.clone();
        entries[320] = other;
        site.log.entries = entries;
    });
    for (name, sentinel) in [
        ("fresh", Sentinel::fresh()),
        ("returning", returning.twin()),
    ] {
        let pass = scene.forge_pass(&sentinel);
        let claims: Vec<_> = pass
            .findings()
            .iter()
            .filter_map(|f| f["claim"].as_str())
            .collect();
        let caught = pass.exit == Some(1)
            && claims.contains(&"receipt_signature")
            && pass.findings().iter().all(|f| f["class"] == "served");
        scene.note(
            name,
            if caught {
                Ok(())
            } else {
                Err(pass.to_string())
            },
        );
    }
    // Receipts signed anew: now only the tree speaks against him.
    scene.serve(AFTER, |site| {
        let mut forged = site.log.clone();
        forged.rewrite(|e| e[320] = call(321).encode(time_of(320)));
        site.log.entries = forged.entries;
        site.log.signatures = forged.signatures;
        site.log.calls = forged.calls;
    });
    for (name, sentinel) in [
        ("signed, fresh", Sentinel::fresh()),
        ("signed, returning", returning.twin()),
    ] {
        let pass = scene.forge_pass(&sentinel);
        let claims: Vec<_> = pass
            .findings()
            .iter()
            .filter_map(|f| f["claim"].as_str())
            .collect();
        let caught = pass.exit == Some(1)
            && (claims.contains(&"root_mismatch") || claims.contains(&"tile_mismatch"))
            && pass.findings().iter().all(|f| f["class"] == "served");
        scene.note(
            name,
            if caught {
                Ok(())
            } else {
                Err(pass.to_string())
            },
        );
    }
    // Tiles made to fit as well: only the root is left.
    scene.serve(AFTER, |site| {
        let signed = site.log.checkpoint(AFTER);
        site.log
            .rewrite(|e| e[320] = call(321).encode(time_of(320)));
        site.body_at("/checkpoint", signed);
        site.json_at("/api/chain", |_| ());
    });
    let pass = scene.forge_pass(&Sentinel::fresh());
    let claims: Vec<_> = pass
        .findings()
        .iter()
        .filter_map(|f| f["claim"].as_str())
        .collect();
    let caught = pass.exit == Some(1) && claims.contains(&"root_mismatch");
    scene.note(
        "only the root",
        if caught {
            Ok(())
        } else {
            Err(pass.to_string())
        },
    );
    scene.end();
}

#[test]
fn higher_levels_are_checked_too() {
    // 65,536 entries fill the first tile of level 1 and begin level 2.
    let size = 65_540;
    let log = {
        let signer = std::sync::Arc::new(signer("log.example.org", 7));
        let mut log = Log::honest(1);
        let first = log.entries.remove(0);
        log = Log::of(signer, vec![first]);
        (1..size).for_each(|i| log.push(call(i).encode(time_of(i))));
        log
    };
    let mut site = Site::new(log);
    for path in ["/tile/2/000.p/1", "/tile/1/000"] {
        site.at(path, |answer| answer.body[31] ^= 1);
    }
    let mut scene = Scene::new(site);
    let pass = scene.sees("both", &Sentinel::fresh(), &TILE);
    let said = pass.report.to_string();
    let both = said.contains("tile/2/000.p/1 ") && said.contains("tile/1/000 ");
    scene.note("both", if both { Ok(()) } else { Err(said) });
    scene.end();
}
