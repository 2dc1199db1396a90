//! What is no complete answer is never misbehaviour: exit 3, and the state is
//! as it was.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use super::{AFTER, BEFORE, Scene, Way};
use crate::forge::server::{Answer, Sent, Site};
use crate::sentinel::{Sees, Sentinel};

/// One resource of each kind that a pass needs, and one of the new tiles.
const NEEDED: [&str; 9] = [
    "/checkpoint",
    "/tile/entries/001.p/84",
    "/tile/receipts/001.p/84",
    "/tile/0/001.p/84",
    "/tile/*",
    "/api/stats",
    "/api/models",
    "/api/leaderboard",
    "/api/chain",
];

/// Bends every resource in `ways`, for fresh sentinels and returning ones.
/// Most of the time is spent waiting to try again, so all resources at once.
fn no_verdict(ways: &[Way<Answer>]) {
    let returning = &Scene::honest(BEFORE).returning();
    let wrong: Vec<String> = thread::scope(|scope| {
        let all = NEEDED.map(|path| scope.spawn(move || no_verdict_at(path, ways, returning)));
        all.into_iter()
            .flat_map(|one| one.join().expect("it collects what is wrong"))
            .collect()
    });
    assert!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn no_verdict_at(path: &'static str, ways: &[Way<Answer>], returning: &Sentinel) -> Vec<String> {
    let mut scene = Scene::honest(BEFORE);
    for (i, Way(way, bend)) in ways.iter().enumerate() {
        let name = format!("{path} {way}");
        scene.serve(AFTER, |site| site.at(path, *bend));
        if i == 0 {
            scene.sees(
                &format!("{name}, fresh"),
                &Sentinel::fresh(),
                &Sees::NoVerdict,
            );
        }
        let twin = returning.twin();
        scene.sees(&format!("{name}, returning"), &twin, &Sees::NoVerdict);
        scene.serve(AFTER, |_| ());
        let pass = scene.sees(&format!("{name}, then honest"), &twin, &Sees::Verified);
        // What was verified on the way may be kept; what was before must be.
        let kept = pass.report["new_entries"]
            .as_u64()
            .is_some_and(|new| new <= (AFTER - BEFORE) as u64);
        scene.note(
            &name,
            if kept {
                Ok(())
            } else {
                Err(format!("state was lost: {pass}"))
            },
        );
    }
    scene.failures
}

#[test]
fn other_statuses() {
    no_verdict(&[
        Way("not found", |answer| *answer = Answer::error(404)),
        Way("busy", |answer| answer.status = 503),
        Way("another success", |answer| answer.status = 203),
    ]);
}

#[test]
fn cut_and_wrong_bodies() {
    no_verdict(&[
        Way("cut", |answer| answer.sent = Sent::Cut),
        Way("short", |answer| {
            answer.body.truncate(answer.body.len() - 1)
        }),
        Way("empty", |answer| answer.body.clear()),
        Way("a login page", |answer| {
            *answer = Answer::ok(
                "text/html",
                b"<!doctype html><title>Log in</title>".to_vec(),
            );
        }),
    ]);
}

#[test]
fn redirects_and_long_bodies() {
    fn elsewhere(answer: &mut Answer) {
        *answer = Answer {
            status: 302,
            ..Answer::error(302)
        };
        answer.headers.push(("location", "/elsewhere".into()));
    }
    no_verdict(&[
        Way("sent elsewhere", elsewhere),
        Way("in a circle", |answer| {
            answer.status = 307;
            answer.headers.push(("location", "?again".into()));
        }),
        Way("endless", |answer| answer.sent = Sent::Endless),
    ]);
}

#[test]
fn longer_than_it_may_be() {
    let mut scene = Scene::honest(BEFORE);
    for path in [
        "/tile/entries/001.p/84",
        "/tile/receipts/001.p/84",
        "/tile/0/001.p/84",
        "/tile/1/000.p/1",
    ] {
        for more in [1, 32, 64] {
            scene.serve(AFTER, |site| {
                site.at(path, move |answer| answer.body.extend(vec![0; more]))
            });
            scene.sees(
                &format!("{path} with {more} bytes more"),
                &Sentinel::fresh(),
                &Sees::NoVerdict,
            );
        }
    }
    scene.end();
}

#[test]
fn nobody_there() {
    let mut scene = Scene::honest(BEFORE);
    let returning = scene.returning();
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port");
    for (who, sentinel) in [("fresh", Sentinel::fresh()), ("returning", returning)] {
        let pass = sentinel.pass(&format!("http://{address}"));
        scene.note(who, pass.compare(&Sees::NoVerdict));
    }
    // Names are no addresses here: nothing resolves below .invalid.
    let pass = Sentinel::fresh().pass("http://log.invalid");
    scene.note("a name that is none", pass.compare(&Sees::NoVerdict));
    scene.end();
}

#[test]
fn slow_but_complete_answers_are_answers() {
    let mut scene = Scene::honest(BEFORE);
    scene.serve(BEFORE, |site| {
        site.at("/tile/entries/*", |answer| {
            answer.sent = Sent::After(Duration::from_millis(700))
        });
        site.at("/checkpoint", |answer| {
            answer.sent = Sent::After(Duration::from_millis(700))
        });
    });
    scene.sees("slow", &Sentinel::fresh(), &Sees::Verified);
    scene.end();
}

#[test]
fn hanging_answers_are_given_up() {
    let returning = &Scene::honest(BEFORE).returning();
    let bends: [Way<Site>; 3] = [
        Way("no head", |site| {
            site.at("/tile/entries/*", |answer| answer.sent = Sent::Never)
        }),
        Way("no end", |site| {
            site.at("/tile/0/*", |answer| answer.sent = Sent::Stalled)
        }),
        Way("no checkpoint", |site| {
            site.at("/checkpoint", |answer| answer.sent = Sent::Never)
        }),
    ];
    thread::scope(|scope| {
        for Way(name, bend) in bends {
            scope.spawn(move || {
                let mut scene = Scene::honest(BEFORE);
                scene.serve(AFTER, bend);
                let twin = returning.twin().with(&["--timeout", "1"]);
                let began = Instant::now();
                scene.sees(name, &twin, &Sees::NoVerdict);
                let took = began.elapsed();
                let soon = took < Duration::from_secs(20);
                scene.note(
                    name,
                    if soon {
                        Ok(())
                    } else {
                        Err(format!("took {took:?}"))
                    },
                );
                scene.serve(AFTER, |_| ());
                scene.sees(&format!("{name}, then honest"), &twin, &Sees::Verified);
                scene.end();
            });
        }
    });
}

#[test]
fn what_fails_once_is_asked_for_again() {
    let mut scene = Scene::honest(BEFORE);
    scene.serve(BEFORE, |site| {
        site.bend(|request, before, answer| {
            if before == 0 && request.path != "/favicon.ico" {
                *answer = Answer::error(502);
            }
        });
    });
    scene.sees("each path fails once", &Sentinel::fresh(), &Sees::Verified);
    scene.serve(BEFORE, |site| {
        site.bend(|_, before, answer| {
            if before == 0 {
                answer.sent = Sent::Cut;
            }
        });
    });
    scene.sees("each path is cut once", &Sentinel::fresh(), &Sees::Verified);
    scene.end();
}

#[test]
fn wrong_use_is_said_so() {
    let sentinel = Sentinel::fresh();
    for arguments in [
        &["--json"][..],
        &["--json", "log.example.org"],
        &["--json", "ftp://a.b"],
        &["--json", "--vkey", "x", "http://a.b"],
        &["--frobnicate", "http://a.b"],
    ] {
        let pass = sentinel.run(arguments);
        assert_eq!(pass.exit, Some(2), "{arguments:?}: {pass}");
        assert!(!pass.stderr.is_empty(), "{arguments:?}");
    }
}
