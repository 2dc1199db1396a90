//! The log itself is bent, and everything else made to fit it: what remains
//! is what signed statements say against each other or against PROTOCOL.md.

use protocol::entry::Entry;
use protocol::hash::Hash;
use protocol::index::Time;
use protocol::name::{Address, Name};
use protocol::record::Link;

use super::{AFTER, BEFORE, Case, Caught, Scene, Way, play};
use crate::forge::log::{Log, call, first_entry, signer, time_of};
use crate::forge::server::Site;
use crate::sentinel::{Sees, Sentinel};
use crate::vectors;

const VERIFIED: Sees = Sees::Verified;
const REWRITTEN: Sees = Sees::Proven(&["history_rewritten"]);
const FORK: Sees = Sees::Proven(&["fork"]);

/// A consistent log that says something else than before: only those who
/// remember can tell.
fn another_past(name: &'static str, bend: fn(&mut Site)) -> Case {
    Case {
        name,
        bend,
        fresh: VERIFIED,
        grown: REWRITTEN,
        same: FORK,
    }
}

#[test]
fn only_memory_tells_one_consistent_past_from_another() {
    play(&[
        Case {
            name: "nothing",
            bend: |_| (),
            fresh: VERIFIED,
            grown: VERIFIED,
            same: VERIFIED,
        },
        another_past("a changed count", |site| {
            site.log.edit(122, |usage| usage.counts.input = Some(1));
        }),
        another_past("a changed model", |site| {
            site.log
                .edit(122, |usage| usage.model = Name::new("gpt-5-nano"));
        }),
        another_past("a changed user", |site| {
            site.log
                .edit(122, |usage| usage.key_id = Some(Hash::of(b"somebody else")));
        }),
        another_past("the first record changed", |site| {
            site.log.edit(2, |usage| usage.counts.output = Some(1));
        }),
        another_past("the last remembered record changed", |site| {
            site.log.edit(BEFORE - 1, |usage| {
                usage.provider = Name::new("other").expect("a name")
            });
        }),
        another_past("the last of a tile changed", |site| {
            site.log.edit(255, |usage| {
                usage.provider = Name::new("other").expect("a name")
            });
        }),
        another_past("one dropped", |site| {
            let next = call(999).encode(time_of(999));
            site.log.rewrite(|entries| {
                entries.remove(122);
                entries.push(next);
            });
        }),
        another_past("two swapped", |site| {
            let (a, b) = (
                call(123).encode(time_of(122)),
                call(122).encode(time_of(123)),
            );
            site.log
                .rewrite(|entries| (entries[122], entries[123]) = (a, b));
        }),
        another_past("one inserted", |site| {
            site.log.rewrite(|entries| {
                entries.insert(122, call(999).encode(time_of(122)));
                entries.pop();
            });
        }),
        another_past("one doubled", |site| {
            site.log.rewrite(|entries| {
                entries.insert(122, entries[122].clone());
                entries.pop();
            });
        }),
        another_past("settings of entry 0 changed", |site| {
            site.log
                .respell(0, "\"totals_interval\":600", "\"totals_interval\":6000");
        }),
    ]);
}

#[test]
fn what_nobody_has_seen_yet_can_still_be_changed() {
    // Only the receipt's holder can tell (see `receipts`).
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let changes: [Way<Log>; 2] = [
        Way("changed", |log| {
            log.edit(BEFORE + 22, |u| u.counts.input = Some(1))
        }),
        Way("dropped", |log| {
            log.rewrite(|entries| drop(entries.remove(BEFORE + 22)))
        }),
    ];
    for Way(name, change) in changes {
        scene.serve(AFTER, |site| change(&mut site.log));
        scene.sees(name, &Sentinel::fresh(), &VERIFIED);
        scene.sees(name, &returning.twin(), &VERIFIED);
    }
    scene.end();
}

fn time(secs: u64) -> Time {
    Time::from_secs(secs).expect("below 2^53")
}

#[test]
fn rules_between_entries_hold() {
    const BACKWARDS: Sees = Sees::Proven(&["time_backwards"]);
    const SECOND: Sees = Sees::Proven(&["second_log_entry"]);
    const UNBOUND: Sees = Sees::Proven(&["unbound_wallet"]);
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let cases: [Caught<Log>; 8] = [
        Caught("a time before the last one", BACKWARDS, |log| {
            log.rewrite(|e| e[320] = call(320).encode(time(time_of(320).secs() - 20)));
        }),
        Caught(
            "a time before the last one, at the remembered edge",
            BACKWARDS,
            |log| {
                log.rewrite(|e| {
                    e[BEFORE] =
                        call(BEFORE as u64).encode(time(time_of(BEFORE as u64 - 1).secs() - 1))
                });
            },
        ),
        Caught("the last entry's time", BACKWARDS, |log| {
            log.rewrite(|e| e[AFTER - 1] = call(1).encode(time(0)));
        }),
        Caught("an unknown kind's time", BACKWARDS, |log| {
            log.rewrite(|e| e[AFTER - 1] = br#"{"v":1,"kind":"later","time":5}"#.to_vec());
        }),
        Caught("a second log entry", SECOND, |log| {
            let again = first_entry(log.key(), time_of(320));
            log.rewrite(|e| e[320] = again);
        }),
        Caught("a second log entry of another key", SECOND, |log| {
            let other = first_entry(
                signer("log.example.net", 9).verifier(),
                time_of(BEFORE as u64),
            );
            log.rewrite(|e| e[BEFORE] = other);
        }),
        Caught("a bound wallet", UNBOUND, |log| {
            log.edit(320, |usage| {
                usage.wallet = Some((Address::from_bytes([1; 20]), Link::Bound))
            });
        }),
        Caught(
            "a bound wallet before the first unknown kind",
            UNBOUND,
            |log| {
                log.edit(320, |usage| {
                    usage.wallet = Some((Address::from_bytes([1; 20]), Link::Bound))
                });
                log.rewrite(|e| e[322] = unknown(322));
            },
        ),
    ];
    // Placed among what returning sentinels have not seen: both kinds see the same.
    for Caught(name, expected, bend) in cases {
        scene.serve(AFTER, |site| bend(&mut site.log));
        scene.sees(&format!("{name}, fresh"), &Sentinel::fresh(), &expected);
        let twin = returning.twin();
        scene.sees(&format!("{name}, returning"), &twin, &expected);
        scene.serve(AFTER, |_| ());
        scene.sees(&format!("{name}, honest again"), &twin, &VERIFIED);
    }
    // Equal times are in order.
    scene.serve(AFTER, |site| {
        site.log
            .rewrite(|e| e[320] = call(320).encode(time_of(319)))
    });
    scene.sees("equal times", &Sentinel::fresh(), &VERIFIED);
    // Across a tile's edge.
    scene.serve(AFTER, |site| {
        site.log
            .rewrite(|e| e[256] = call(256).encode(time_of(254)))
    });
    scene.sees("across a tile's edge", &Sentinel::fresh(), &BACKWARDS);
    // Between entry 0 and the first call.
    scene.serve(AFTER, |site| {
        site.log
            .rewrite(|e| e[1] = call(1).encode(time(time_of(0).secs() - 1)))
    });
    scene.sees("before entry 0", &Sentinel::fresh(), &BACKWARDS);
    scene.end();
}

#[test]
fn entry_0_is_the_logs_own() {
    const FIRST: Sees = Sees::Proven(&["first_entry"]);
    let mut scene = Scene::honest(3);
    let cases: [Caught<Log>; 9] = [
        Caught("missing", FIRST, |log| log.rewrite(|e| drop(e.remove(0)))),
        Caught("missing, of a log of one", FIRST, |log| {
            log.rewrite(|e| *e = vec![call(2).encode(time(0))])
        }),
        Caught("of another key", FIRST, |log| {
            let other = first_entry(signer("log.example.org", 9).verifier(), time(0));
            log.rewrite(|e| e[0] = other);
        }),
        Caught("of another origin", FIRST, |log| {
            let other = first_entry(signer("log.example.net", 7).verifier(), time(0));
            log.rewrite(|e| e[0] = other);
        }),
        Caught("of an unknown kind", FIRST, |log| {
            log.rewrite(|e| e[0] = unknown(0))
        }),
        Caught("of an unknown version of another kind", FIRST, |log| {
            log.rewrite(|e| e[0] = br#"{"v":2,"kind":"usage","time":5}"#.to_vec());
        }),
        Caught("of an unknown version", Sees::Upgrade, |log| {
            log.rewrite(|e| e[0] = br#"{"v":2,"kind":"log","time":5}"#.to_vec());
        }),
        Caught("of unknown rules", Sees::Upgrade, |log| {
            log.respell(0, "\"rules\":1", "\"rules\":3")
        }),
        Caught("of rules 0", Sees::Upgrade, |log| {
            log.respell(0, "\"rules\":1", "\"rules\":0")
        }),
    ];
    for Caught(name, expected, bend) in cases {
        scene.serve(3, |site| bend(&mut site.log));
        scene.sees(name, &Sentinel::fresh(), &expected);
    }
    // After an entry 0 that is the log's own, though misplaced.
    scene.serve(3, |site| site.log.rewrite(|e| e.swap(0, 1)));
    scene.sees(
        "second",
        &Sentinel::fresh(),
        &Sees::Proven(&["first_entry", "second_log_entry", "time_backwards"]),
    );
    scene.end();
}

/// An entry of a kind of tomorrow.
fn unknown(i: u64) -> Vec<u8> {
    format!(r#"{{"v":1,"kind":"later","time":{},"size":3}}"#, time_of(i)).into_bytes()
}

#[test]
fn an_unknown_kind_asks_for_an_upgrade_and_hides_nothing() {
    const UPGRADE: Sees = Sees::Upgrade;
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let cases: [Caught<Site>; 12] = [
        Caught("an unknown kind", UPGRADE, |site| {
            site.log.rewrite(|e| e[320] = unknown(320))
        }),
        Caught("as the last entry", UPGRADE, |site| {
            site.log.rewrite(|e| e[AFTER - 1] = unknown(AFTER as u64))
        }),
        Caught("an unknown version", UPGRADE, |site| {
            site.log.rewrite(|e| {
                e[320] = format!(r#"{{"v":2,"kind":"usage","time":{}}}"#, time_of(320)).into_bytes()
            });
        }),
        Caught("an unknown version of kind log", UPGRADE, |site| {
            site.log.rewrite(|e| {
                e[320] = format!(r#"{{"v":2,"kind":"log","time":{}}}"#, time_of(320)).into_bytes()
            });
        }),
        Caught("then a bound wallet", UPGRADE, |site| {
            site.log.rewrite(|e| e[320] = unknown(320));
            site.log.edit(322, |usage| {
                usage.wallet = Some((Address::from_bytes([1; 20]), Link::Bound))
            });
        }),
        Caught("and sums that don't add up", UPGRADE, |site| {
            site.log.rewrite(|e| e[320] = unknown(320));
            site.json_at("/api/stats", |stats| stats["records"] = 1.into());
        }),
        Caught(
            "then a malformed entry",
            Sees::Proven(&["entry_malformed"]),
            |site| {
                site.log.rewrite(|e| e[320] = unknown(320));
                site.log.respell(322, "\"source\"", "\"Source\"");
            },
        ),
        Caught(
            "then a receipt's signature that is none",
            Sees::Served(&["receipt_signature"]),
            |site| {
                site.log.rewrite(|e| e[320] = unknown(320));
                site.log.signatures[322] = [7; 64];
            },
        ),
        Caught(
            "then a second log entry",
            Sees::Proven(&["second_log_entry"]),
            |site| {
                let again = first_entry(site.log.key(), time_of(322));
                site.log
                    .rewrite(|e| (e[320], e[322]) = (unknown(320), again));
            },
        ),
        Caught(
            "then time going backwards",
            Sees::Proven(&["time_backwards"]),
            |site| {
                site.log
                    .rewrite(|e| (e[320], e[321]) = (unknown(320), call(321).encode(time_of(310))));
            },
        ),
        Caught(
            "then a wrong root",
            Sees::Served(&["root_mismatch"]),
            |site| {
                site.log.rewrite(|e| e[320] = unknown(320));
                let wrong = site.log.checkpoint_of(AFTER, Hash::of(b"wrong"));
                site.body_at("/checkpoint", wrong);
            },
        ),
        Caught(
            "then a wrong tile",
            Sees::Served(&["tile_mismatch"]),
            |site| {
                site.log.rewrite(|e| e[320] = unknown(320));
                site.at("/tile/0/001.p/84", |answer| answer.body[5] ^= 1);
            },
        ),
    ];
    for Caught(name, expected, bend) in cases {
        scene.serve(AFTER, bend);
        scene.sees(&format!("{name}, fresh"), &Sentinel::fresh(), &expected);
        scene.sees(&format!("{name}, returning"), &returning.twin(), &expected);
    }
    // The past of those who remember is checked all the same.
    scene.serve(AFTER, |site| site.log.rewrite(|e| e[122] = unknown(122)));
    scene.sees("in the past, fresh", &Sentinel::fresh(), &UPGRADE);
    scene.sees("in the past, returning", &returning.twin(), &REWRITTEN);
    scene.end();
}

#[test]
fn a_sentinel_remembers_that_it_needs_an_upgrade() {
    let mut scene = Scene::honest(BEFORE);
    scene.serve(AFTER, |site| site.log.rewrite(|e| e[320] = unknown(320)));
    let sentinel = Sentinel::fresh();
    scene.sees("at first", &sentinel, &Sees::Upgrade);
    scene.sees("without anything new", &sentinel, &Sees::Upgrade);
    scene.serve(AFTER + 9, |site| {
        site.log.rewrite(|e| e[320] = unknown(320));
        site.log.edit(AFTER + 5, |usage| {
            usage.wallet = Some((Address::from_bytes([1; 20]), Link::Bound))
        });
    });
    scene.sees("grown", &sentinel, &Sees::Upgrade);
    scene.serve(AFTER + 19, |_| ());
    scene.sees("without the unknown kind", &sentinel, &REWRITTEN);
    scene.end();
}

#[test]
fn every_spelling_but_one_is_misbehaviour() {
    // What no reader may take is in the vectors; here the whole way is gone.
    let mut scene = Scene::honest(3);
    for (name, entry) in vectors::entries("bad") {
        if !(1..=65_535).contains(&entry.len()) {
            continue;
        }
        assert!(Entry::parse(&entry).is_err(), "{name}");
        scene.serve(3, |site| site.log.rewrite(|e| e[2] = entry));
        scene.sees(
            &name,
            &Sentinel::fresh(),
            &Sees::Proven(&["entry_malformed"]),
        );
    }
    scene.serve(3, |site| site.log.rewrite(|e| e[1] = vec![]));
    scene.sees(
        "an empty entry",
        &Sentinel::fresh(),
        &Sees::Proven(&["entry_malformed"]),
    );
    scene.serve(AFTER, |site| {
        site.log.respell(122, "\"source\"", "\"Source\"")
    });
    scene.sees(
        "amid many",
        &Sentinel::fresh(),
        &Sees::Proven(&["entry_malformed"]),
    );
    scene.serve(3, |site| site.log.respell(0, "\"rules\":1", "\"rules\":01"));
    scene.sees(
        "entry 0",
        &Sentinel::fresh(),
        &Sees::Proven(&["entry_malformed"]),
    );
    scene.end();
}

#[test]
fn every_good_entry_verifies() {
    let mut scene = Scene::honest(3);
    let mut good = vectors::entries("usage_good");
    good.retain(|(name, _)| name != "a bound wallet" && name != "the last time");
    good.sort_by_key(|(_, entry)| Entry::parse(entry).expect("good").time());
    let good = good.into_iter().map(|(_, entry)| entry);
    scene.serve(3, |site| {
        let first = first_entry(site.log.key(), time(0));
        site.log
            .rewrite(|log| *log = [first].into_iter().chain(good).collect());
    });
    scene.sees("all of them", &Sentinel::fresh(), &VERIFIED);
    scene.forge.serve(Site::new(vectors::whole_log()));
    scene.sees("the vectors' log", &Sentinel::fresh(), &VERIFIED);
    scene.end();
}
