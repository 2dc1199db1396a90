//! Numbers that nobody signed: every field of every answer is bent in turn,
//! while the log itself is honest.

use protocol::entry::Body;
use protocol::hash::Hash;
use protocol::index::Time;
use protocol::record::Usage;
use serde_json::{Map, Value, json};

use super::{AFTER, BEFORE, Caught, Scene, Way};
use crate::forge::api::{self, Request};
use crate::forge::log::{Log, call, first_entry, now, time_of, user};
use crate::forge::server::{Answer, Site};
use crate::sentinel::{Sees, Sentinel};

/// Entries of the logs here: enough for every kind of row.
const SIZE: usize = 60;

const STATS: Sees = Sees::Served(&["aggregate_stats"]);
const MODELS: Sees = Sees::Served(&["aggregate_models"]);
const LEADERBOARD: Sees = Sees::Served(&["aggregate_leaderboard"]);
const USER: Sees = Sees::Served(&["aggregate_user"]);
const CHAIN: Sees = Sees::Served(&["aggregate_chain"]);

/// A way to bend a JSON value, with what it is.
type Bend = (String, Value);

/// Every way to change one field of `value`: numbers by one, texts by a
/// letter, lists by a row less, a row twice or two rows swapped, objects by a
/// field less. Of lists only the first and last row are entered.
fn bent(at: &str, value: &Value) -> Vec<Bend> {
    let mut all: Vec<Bend> = vec![];
    let mut push = |what: &str, value: Value| all.push((format!("{at} {what}"), value));
    match value {
        Value::Number(n) => {
            let n = n.as_u64().expect("counts are u64");
            push("one more", json!(n + 1));
            if at == "/size" {
                push("one less", json!(n - 1));
                push("as text", json!(n.to_string()));
            } else if n > 0 {
                push("zero", json!(0));
            }
        }
        Value::String(text) => push("another text", json!(format!("{text}x"))),
        Value::Array(rows) => {
            let (first, last) = (rows.first().expect("rows"), rows.len() - 1);
            push("without the first", rows[1..].into());
            push("without the last", rows[..last].into());
            push(
                "the first twice",
                [std::slice::from_ref(first), rows].concat().into(),
            );
            if last > 0 {
                let mut swapped = rows.clone();
                swapped.swap(0, last);
                push("first and last swapped", swapped.into());
            }
            for i in [0, last] {
                for (what, row) in bent(&format!("{at}/{i}"), &rows[i]) {
                    let mut rows = rows.clone();
                    rows[i] = row;
                    all.push((what, rows.into()));
                }
            }
        }
        Value::Object(fields) => {
            let with = |name: &String, value: Option<Value>| -> Value {
                let mut fields: Map<String, Value> = fields.clone();
                match value {
                    Some(value) => fields.insert(name.clone(), value),
                    None => fields.remove(name),
                };
                fields.into()
            };
            for (name, value) in fields {
                if !value.is_null() && *value != json!(0) {
                    all.push((format!("{at}/{name} missing"), with(name, None)));
                }
                for (what, value) in bent(&format!("{at}/{name}"), value) {
                    all.push((what, with(name, Some(value))));
                }
            }
        }
        Value::Null => push("something", json!("2025-01-01")),
        Value::Bool(_) => panic!("no answer has such"),
    }
    all
}

/// Bends the honest answer to `target` in every way; all must be found as
/// `expected`, except what `but` says otherwise.
fn every_field(target: &'static str, expected: &Sees, but: impl Fn(&str) -> Option<Sees>) {
    let mut scene = Scene::honest(SIZE);
    let returning = {
        scene.serve(SIZE - 10, |_| ());
        scene.returning()
    };
    let (log, wanted) = (Log::honest(SIZE), Request::new(target));
    let honest = api::answer(&log, SIZE, &wanted).expect("an answer");
    let mut bends = bent("", &honest);
    bends.push(("another answer".into(), json!([])));
    assert!(bends.len() > 10, "{target}");
    for (i, (what, bend)) in bends.into_iter().enumerate() {
        let asked_for = wanted.clone();
        scene.serve(SIZE, |site| {
            site.bend(move |request, _, answer| {
                let asked = asked_for
                    .query
                    .iter()
                    .all(|(name, value)| request.query.get(name) == Some(value));
                let window =
                    asked_for.query.contains_key("days") == request.query.contains_key("days");
                if request.path == asked_for.path && asked && window {
                    *answer = Answer::json(&bend);
                }
            });
        });
        // Sums that did not change with the last entry are right at the size before, too.
        let right = what == "/size one less"
            && at_the_size_before(&honest) == api::answer(&log, SIZE - 1, &wanted);
        let expected = if right {
            Sees::Verified
        } else {
            but(&what).unwrap_or_else(|| expected.clone())
        };
        // Both kinds of sentinel take turns: the check is the same.
        let sentinel = if i % 2 == 0 {
            Sentinel::fresh()
        } else {
            returning.twin()
        };
        scene.sees(&format!("{target} {what}"), &sentinel, &expected);
    }
    scene.end();
}

/// The answer, naming the size before.
fn at_the_size_before(honest: &Value) -> Option<Value> {
    let mut answer = honest.clone();
    answer["size"] = (SIZE - 1).into();
    Some(answer)
}

/// A size that no checkpoint covers; a smaller one is judged by what is right there.
fn sizes(what: &str) -> Option<Sees> {
    (what == "/size one more").then_some(Sees::Served(&["checkpoint_overdue"]))
}

#[test]
fn stats() {
    every_field("/api/stats", &STATS, sizes);
}

#[test]
fn models() {
    every_field("/api/models", &MODELS, sizes);
}

#[test]
fn leaderboard_of_proxied_calls() {
    every_field("/api/leaderboard?source=proxy", &LEADERBOARD, sizes);
}

#[test]
fn leaderboard_of_custom_calls() {
    every_field("/api/leaderboard?source=custom", &LEADERBOARD, sizes);
}

#[test]
fn chain() {
    every_field("/api/chain", &CHAIN, |what| {
        sizes(what).or_else(|| what.contains("checkpoint another").then_some(CHAIN))
    });
}

#[test]
fn users() {
    let target: &'static str = Box::leak(format!("/api/user/{}", user(3)).into_boxed_str());
    every_field(target, &USER, sizes);
}

#[test]
fn fields_that_are_not_known_change_nothing() {
    let mut scene = Scene::honest(SIZE);
    scene.serve(SIZE, |site| {
        for path in [
            "/api/stats",
            "/api/models",
            "/api/leaderboard",
            "/api/user/*",
            "/api/chain",
            "/api/pubkey",
        ] {
            site.json_at(path, |value| value["cost"] = json!({"usd": [1, null]}));
        }
    });
    scene.sees("more fields", &Sentinel::fresh(), &Sees::Verified);
    scene.end();
}

#[test]
fn windows_are_judged_by_their_days() {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    /// Bends windowed answers only.
    fn windowed(
        site: &mut Site,
        path: &'static str,
        bend: impl Fn(&mut Value) + Send + Sync + 'static,
    ) {
        site.bend(move |request, _, answer| {
            if request.path == path && request.query.contains_key("days") {
                let mut value = serde_json::from_slice(&answer.body).expect("JSON");
                bend(&mut value);
                *answer = Answer::json(&value);
            }
        });
    }
    fn shift(value: &mut Value, member: &str, by: i64) {
        let day = api::day(value[member].as_str().expect("a day"));
        value[member] = api::date(day.checked_add_signed(by).expect("after 1970")).into();
    }
    let bends: [Way<Value>; 12] = [
        Way("from a day earlier", |v| shift(v, "from", -1)),
        Way("from a day later", |v| shift(v, "from", 1)),
        Way("to a day earlier", |v| shift(v, "to", -1)),
        Way("to a week later", |v| shift(v, "to", 7)),
        Way("the window a day earlier", |v| {
            (shift(v, "from", -1), shift(v, "to", -1)).1
        }),
        Way("the window a week later", |v| {
            (shift(v, "from", 7), shift(v, "to", 7)).1
        }),
        Way("no from", |v| v["from"] = Value::Null),
        Way("no to", |v| v["to"] = Value::Null),
        Way("no window", |v| {
            (v["from"], v["to"]) = (Value::Null, Value::Null)
        }),
        Way("another spelling", |v| {
            v["to"] = v["to"].as_str().expect("a day").replace('-', "/").into()
        }),
        Way("no such day", |v| v["to"] = "2025-02-30".into()),
        Way("a number for a day", |v| v["to"] = 20_000.into()),
    ];
    for (path, expected) in [("/api/models", MODELS), ("/api/leaderboard", LEADERBOARD)] {
        for Way(name, bend) in &bends {
            scene.serve(AFTER, |site| windowed(site, path, *bend));
            scene.sees(&format!("{path}: {name}"), &returning.twin(), &expected);
        }
        // A right window with the sums of all time, or of another window.
        for (name, days) in [
            ("all time's sums", None),
            ("a shorter window's sums", Some("1")),
            ("a longer window's sums", Some("39")),
        ] {
            scene.serve(AFTER, |site| {
                let log = site.log.clone();
                site.bend(move |request, _, answer| {
                    let Some(own) = request.query.get("days").filter(|_| request.path == path)
                    else {
                        return;
                    };
                    if days == Some(&own[..]) {
                        return;
                    }
                    let mut other = request.clone();
                    other.query.remove("days");
                    other
                        .query
                        .extend(days.map(|d| ("days".to_owned(), d.to_owned())));
                    let mut wrong = api::answer(&log, log.size(), &other).expect("an answer");
                    let right: Value = serde_json::from_slice(&answer.body).expect("JSON");
                    (wrong["from"], wrong["to"]) = (right["from"].clone(), right["to"].clone());
                    *answer = Answer::json(&wrong);
                });
            });
            scene.sees(&format!("{path}: {name}"), &Sentinel::fresh(), &expected);
        }
    }
    scene.end();
}

#[test]
fn somebody_left_out_or_made_up() {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    fn rows(site: &mut Site, path: &'static str, list: &'static str, bend: fn(&mut Vec<Value>)) {
        site.json_at(path, move |value| {
            let rows = value[list].as_array_mut().expect("a list");
            // A day may be too quiet for the trick.
            if rows.len() > 2 {
                bend(rows);
            }
        });
    }
    let bends: [Caught<Site>; 8] = [
        Caught("a user left out", LEADERBOARD, |s| {
            rows(s, "/api/leaderboard", "rows", |rows| drop(rows.remove(1)))
        }),
        Caught("a user made up", LEADERBOARD, |s| {
            rows(s, "/api/leaderboard", "rows", |rows| {
                let mut made_up = rows[0].clone();
                made_up["key_id"] = "00".repeat(32).into();
                rows.insert(0, made_up);
            });
        }),
        Caught("two users' names exchanged", LEADERBOARD, |s| {
            rows(s, "/api/leaderboard", "rows", |rows| {
                let (a, b) = (rows[0]["key_id"].take(), rows[1]["key_id"].take());
                (rows[0]["key_id"], rows[1]["key_id"]) = (b, a);
            });
        }),
        Caught("nobody", LEADERBOARD, |s| {
            rows(s, "/api/leaderboard", "rows", Vec::clear)
        }),
        Caught("a model left out", MODELS, |s| {
            rows(s, "/api/models", "models", |rows| drop(rows.remove(2)))
        }),
        Caught("a model in two rows", MODELS, |s| {
            rows(s, "/api/models", "models", |rows| {
                let half = rows[0].clone();
                rows.push(half);
            });
        }),
        Caught("nothing for users", USER, |s| {
            s.json_at("/api/user/*", |v| {
                (v["sources"], v["models"]) = (json!([]), json!([]))
            });
        }),
        Caught("another user's sums", USER, |s| {
            let theirs = api::answer(
                &s.log,
                s.log.size(),
                &Request::new(&format!("/api/user/{}", user(1))),
            )
            .expect("a user");
            s.json_at("/api/user/*", move |v| {
                (v["sources"], v["models"]) = (theirs["sources"].clone(), theirs["models"].clone())
            });
        }),
    ];
    for Caught(name, expected, bend) in bends {
        scene.serve(AFTER, bend);
        scene.sees(&format!("{name}, fresh"), &Sentinel::fresh(), &expected);
        scene.sees(&format!("{name}, returning"), &returning.twin(), &expected);
    }
    scene.end();
}

/// All answers below `/api` are those of an earlier size.
fn stale(site: &mut Site, size: usize) {
    let log = site.log.clone();
    site.bend(move |request, _, answer| {
        if request.path != "/api/pubkey"
            && let Some(older) = api::answer(&log, size, request)
        {
            *answer = Answer::json(&older);
        }
    });
}

#[test]
fn each_answer_is_judged_at_the_size_it_names() {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    // Windows end today in stale answers too, so newest entries must be of today or before.
    for (name, size) in [
        ("a moment old", AFTER - 3),
        ("as old as the sentinel's", BEFORE),
    ] {
        scene.serve(AFTER, |site| stale(site, size));
        scene.sees(
            &format!("{name}, fresh"),
            &Sentinel::fresh(),
            &Sees::Verified,
        );
        scene.sees(
            &format!("{name}, returning"),
            &returning.twin(),
            &Sees::Verified,
        );
    }
    for (path, expected) in [
        ("/api/stats", &STATS),
        ("/api/models", &MODELS),
        ("/api/leaderboard", &LEADERBOARD),
    ] {
        scene.serve(AFTER, |site| {
            site.json_at(path, |v| v["size"] = (AFTER - 3).into());
        });
        scene.sees(
            &format!("{path} over more than it says"),
            &Sentinel::fresh(),
            expected,
        );
    }
    scene.serve(AFTER, |site| {
        stale(site, AFTER - 3);
        site.json_at("/api/stats", |v| v["users"] = 1_000.into());
    });
    scene.sees("a moment old and wrong, fresh", &Sentinel::fresh(), &STATS);
    scene.sees(
        "a moment old and wrong, returning",
        &returning.twin(),
        &STATS,
    );
    // Older than what the sentinel remembers: it cannot judge, and says so or asks again.
    scene.serve(AFTER, |site| {
        stale(site, 200);
        site.json_at("/api/stats", |v| v["users"] = 1_000.into());
    });
    scene.sees("long ago and wrong, fresh", &Sentinel::fresh(), &STATS);
    let pass = returning.twin().pass(&scene.forge.url());
    scene.note(
        "long ago and wrong, returning",
        if pass.exit == Some(0) {
            Err(pass.to_string())
        } else {
            Ok(())
        },
    );
    scene.serve(AFTER, |site| site.json_at("/api/stats", |v| *v = json!({
        "size": 0, "records": 9, "users": 9, "models": 9, "wallets": 9, "sources": [], "outcomes": {},
    })));
    let pass = Sentinel::fresh().pass(&scene.forge.url());
    scene.note(
        "over no entries, and wrong",
        if pass.exit == Some(0) {
            Err(pass.to_string())
        } else {
            Ok(())
        },
    );
    scene.end();
}

#[test]
fn numbers_are_judged_when_nothing_is_new_too() {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let bends: [Caught<Site>; 4] = [
        Caught("stats", STATS, |s| {
            s.json_at("/api/stats", |v| v["users"] = 1_000.into())
        }),
        Caught("models", MODELS, |s| {
            s.json_at("/api/models", |v| v["models"] = json!([]))
        }),
        Caught("leaderboard", LEADERBOARD, |s| {
            s.json_at("/api/leaderboard", |v| v["rows"] = json!([]))
        }),
        Caught("chain", CHAIN, |s| {
            s.json_at("/api/chain", |v| v["root"] = "00".repeat(32).into())
        }),
    ];
    for Caught(name, expected, bend) in bends {
        scene.serve(BEFORE, bend);
        scene.sees(name, &returning.twin(), &expected);
    }
    scene.end();
}

#[test]
fn windows_are_cut_at_midnight() {
    let mut scene = Scene::honest(BEFORE);
    let today = now() / 86_400;
    // Two seconds before and after each midnight of the last 40 days.
    let midnights = (today - 40..=today).flat_map(|day| [day * 86_400 - 1, day * 86_400]);
    let times: Vec<Time> = midnights
        .map(|secs| Time::from_secs(secs).expect("small"))
        .collect();
    scene.serve(1, |site| {
        let first = first_entry(site.log.key(), times[0]);
        let calls = (1..).zip(&times).map(|(i, time)| call(i).encode(*time));
        site.log
            .rewrite(|entries| *entries = [first].into_iter().chain(calls).collect());
    });
    scene.sees("fresh", &Sentinel::fresh(), &Sees::Verified);
    // The gateway's clock may be ahead of ours by a day, not by a week.
    for (name, days, expected) in [
        ("a day ahead", 1, Sees::Verified),
        ("a week ahead", 7, MODELS),
    ] {
        scene.serve(BEFORE, |site| {
            let log = site.log.clone();
            site.bend(move |request, _, answer| {
                if request.path == "/api/models" && request.query.contains_key("days") {
                    let ahead =
                        api::answer_on(today + days, &log, log.size(), request).expect("an answer");
                    *answer = Answer::json(&ahead);
                }
            });
        });
        scene.sees(name, &Sentinel::fresh(), &expected);
    }
    scene.end();
}

#[test]
fn a_leaderboard_is_as_long_as_it_may_be() {
    // More users than a leaderboard has rows, all alike: key ids decide.
    let mut scene = Scene::honest(3);
    let usage = |i: u64| match call(3) {
        Body::Usage(usage) => Body::Usage(Usage {
            key_id: Some(Hash::of(&i.to_be_bytes())),
            ..usage
        }),
        other => other,
    };
    let log = {
        let mut log = Log::honest(1);
        (1..=1_005).for_each(|i| log.push(usage(i).encode(time_of(300 + i))));
        log
    };
    scene.forge.serve(Site::new(log.clone()));
    scene.sees("honest", &Sentinel::fresh(), &Sees::Verified);
    let bends: [Way<Vec<Value>>; 3] = [
        Way("two of the same total exchanged", |rows| {
            rows.swap(500, 501)
        }),
        Way("the last one exchanged for one behind", |rows| {
            drop(rows.remove(998))
        }),
        Way("one row short", |rows| drop(rows.pop())),
    ];
    for Way(name, bend) in bends {
        let mut site = Site::new(log.clone());
        site.bend(move |request, _, answer| {
            if request.path == "/api/leaderboard" && request.query["source"] == "proxy" {
                let mut value: Value = serde_json::from_slice(&answer.body).expect("JSON");
                let rows = value["rows"].as_array_mut().expect("a list");
                // Not so many within a window.
                if rows.len() == 1_000 {
                    bend(rows);
                }
                *answer = Answer::json(&value);
            }
        });
        scene.forge.serve(site);
        scene.sees(name, &Sentinel::fresh(), &LEADERBOARD);
    }
    scene.end();
}
