//! No false alarms: an honest log, however busy and however badly served,
//! never misbehaves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{AFTER, BEFORE, Scene};
use crate::forge::log::{Log, call, now, time_of};
use crate::forge::server::{Answer, Site};
use crate::sentinel::{Sees, Sentinel};

#[test]
fn a_log_that_grows_at_full_speed_verifies_all_the_while() {
    let scene = Scene::honest(BEFORE);
    scene.serve(BEFORE, |site| site.published = Some(BEFORE));
    let returning = scene.returning();
    let (stop, began) = (AtomicBool::new(false), Instant::now());
    let mut passes = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut published = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let mut site = scene.forge.site();
                for _ in 0..20 {
                    let i = site.log.size() as u64;
                    // Today's calls, so that windows move under the sentinel.
                    let time = protocol::index::Time::from_secs(now().max(time_of(i).secs()))
                        .expect("small");
                    site.log.push(call(i).encode(time));
                }
                // At most once a second, as a gateway does.
                if published.elapsed() > Duration::from_secs(1) {
                    published = Instant::now();
                    site.published = Some(site.log.size());
                }
                drop(site);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let url = scene.forge.url();
        let mut sizes = vec![];
        while began.elapsed() < Duration::from_secs(6) {
            for sentinel in [&returning, &Sentinel::fresh()] {
                let pass = sentinel.run(&["--json", &url]);
                sizes.push(pass.report["size"].as_u64().unwrap_or(0));
                let verified = pass.compare(&Sees::Verified);
                if verified.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                verified.expect("an honest log verifies");
                passes += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(sizes.last() > sizes.first(), "{sizes:?}");
    });
    assert!(passes >= 4, "{passes} passes");
    scene.serve(BEFORE, |_| ());
    scene.end();
}

#[test]
fn a_cached_checkpoint_is_no_rollback() {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    // A cache has an old checkpoint; past it, the log has the new one.
    scene.serve(AFTER, |site| {
        let old = Log::honest(290).checkpoint(290);
        site.bend(move |request, before, answer| {
            if request.path == "/checkpoint" && before == 0 {
                answer.body = old.clone().into_bytes();
            }
        });
    });
    scene.sees(
        "smaller than remembered, once",
        &returning.twin(),
        &Sees::Verified,
    );
    // Of the same size: nothing new, all is well; the answers below /api are newer.
    scene.serve(AFTER, |site| {
        let old = Log::honest(BEFORE).checkpoint(BEFORE);
        site.bend(move |request, before, answer| {
            if request.path == "/checkpoint" && before < 2 {
                answer.body = old.clone().into_bytes();
            }
        });
    });
    scene.sees("as remembered, twice", &returning.twin(), &Sees::Verified);
    scene.sees("older than the sums", &Sentinel::fresh(), &Sees::Verified);
    // Published late, but within patience.
    let began = Instant::now();
    scene.serve(AFTER, |site| {
        let old = Log::honest(310).checkpoint(310);
        site.bend(move |request, _, answer| {
            if request.path == "/checkpoint" && began.elapsed() < Duration::from_millis(900) {
                answer.body = old.clone().into_bytes();
            }
        });
    });
    let pass = returning.run(&["--json", &scene.forge.url()]);
    scene.note("late", pass.compare(&Sees::Verified));
    // While it is waited for, it cannot be had for a while.
    let began = Instant::now();
    scene.serve(AFTER + 20, |site| {
        let old = Log::honest(AFTER).checkpoint(AFTER);
        site.bend(move |request, before, answer| {
            if request.path == "/checkpoint" && began.elapsed() < Duration::from_millis(1_800) {
                match before {
                    0 | 1 => answer.body = old.clone().into_bytes(),
                    _ => *answer = Answer::error(503),
                }
            }
        });
    });
    let pass = returning.run(&["--json", &scene.forge.url()]);
    scene.note("late and away", pass.compare(&Sees::Verified));
    scene.end();
}

#[test]
fn a_cache_that_is_wrong_once_accuses_nobody() {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let flip: fn(&mut Answer) = |answer| {
        let middle = answer.body.len() / 2;
        answer.body[middle] ^= 1;
    };
    let numbers: fn(&mut Answer) = |answer| {
        let mut value: Value = serde_json::from_slice(&answer.body).expect("JSON");
        for member in ["records", "root", "key_id", "source"] {
            if value.get(member).is_some() {
                value[member] = "wrong".into();
            }
        }
        for list in ["rows", "models", "sources"] {
            if let Some(Value::Array(rows)) = value.get_mut(list) {
                rows.clear();
            }
        }
        *answer = Answer::json(&value);
    };
    let foreign: fn(&mut Answer) =
        |answer| answer.body = Log::honest(3).receipt_note(1).into_bytes();
    for (path, bend) in [
        ("/tile/0/", flip),
        ("/tile/1/", flip),
        ("/tile/entries/", flip),
        ("/tile/receipts/", flip),
        ("/tile/", flip),
        ("/checkpoint", flip),
        ("/checkpoint", foreign),
        ("/api/stats", numbers),
        ("/api/models", numbers),
        ("/api/leaderboard", numbers),
        ("/api/user", numbers),
        ("/api/chain", numbers),
        ("/api/pubkey", |answer| {
            *answer = Answer::json(
                &serde_json::json!({"origin": "a.b", "vkey": "a.b+00+00", "key": "00"}),
            )
        }),
    ] {
        scene.serve(AFTER, |site| {
            // What a cache holds, it gives to whoever does not ask past it.
            site.bend(move |request, _, answer| {
                let past = request.query.contains_key("past_caches");
                if request.path.starts_with(path) && !past {
                    bend(answer);
                }
            });
        });
        if path != "/api/pubkey" {
            scene.sees(
                &format!("{path}, fresh"),
                &Sentinel::fresh(),
                &Sees::Verified,
            );
        }
        scene.sees(
            &format!("{path}, returning"),
            &returning.twin(),
            &Sees::Verified,
        );
    }
    scene.end();
}

#[test]
fn nothing_is_fetched_twice_and_nothing_old() {
    let scene = Scene::honest(700);
    let returning = scene.returning();
    scene.serve(720, |_| ());
    let pass = scene.forge_pass(&returning);
    pass.compare(&Sees::Verified)
        .expect("an honest log verifies");
    assert_eq!(pass.report["new_entries"], 20, "{pass}");
    let site = scene.forge.site();
    for (prefix, times) in [
        ("/tile/entries/000", 0),
        ("/tile/entries/001", 0),
        ("/tile/entries/002.p/208", 1),
        ("/tile/receipts/002.p/208", 1),
        ("/tile/0/", 1),
        ("/tile/1/", 0),
    ] {
        assert_eq!(site.asked(prefix), times, "{prefix}");
    }
    drop(site);
    scene.end();
}

#[test]
fn logs_of_every_small_size_verify() {
    let mut scene = Scene::honest(1);
    let growing = scene.returning();
    for size in [
        1, 2, 3, 4, 5, 100, 255, 256, 257, 300, 511, 512, 513, 600, 767, 768, 769,
    ] {
        scene.serve(size, |_| ());
        scene.sees(
            &format!("{size}, fresh"),
            &Sentinel::fresh(),
            &Sees::Verified,
        );
        let pass = scene.sees(&format!("{size}, growing"), &growing, &Sees::Verified);
        let right = pass.report["size"] == size
            && pass.report["root"] == Log::honest(size).root(size).to_string();
        scene.note(
            &format!("{size}"),
            if right { Ok(()) } else { Err(pass.to_string()) },
        );
    }
    scene.end();
}

#[test]
fn a_log_below_a_path_verifies() {
    let mut scene = Scene::honest(BEFORE);
    scene.serve(BEFORE, |site: &mut Site| site.base = "/usage/log");
    let pass = Sentinel::fresh().pass(&format!("{}/usage/log", scene.forge.url()));
    scene.note("below a path", pass.compare(&Sees::Verified));
    scene.end();
}
