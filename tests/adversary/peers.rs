//! Split views: a log that shows different people different histories, and
//! people who ask each other.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use protocol::hash::Hash;
use serde_json::Value;

use super::{AFTER, BEFORE, evidence};
use crate::binaries::program;
use crate::forge::log::{Log, signer};
use crate::forge::server::{Answer, Forge, Site};
use crate::gateway::{free_address, terminate};
use crate::sentinel::{Pass, Sees, Sentinel};

/// The honest log with another past.
fn other(size: usize) -> Log {
    let mut log = Log::honest(size);
    log.edit(50, |usage| usage.counts.output = Some(1));
    log
}

/// A watching sentinel that shows what it accepted.
struct Watch {
    child: Child,
    /// Its folder holds the evidence.
    _sentinel: Sentinel,
}

impl Watch {
    fn start(log: &str, address: &str, peer: &str) -> Self {
        let sentinel = Sentinel::fresh();
        let mut command = Command::new(program("sentinel"));
        command
            .args([
                "--watch",
                "--json",
                "--interval",
                "200ms",
                "--patience",
                "300ms",
            ])
            .args(["--listen", address, "--peer"])
            .arg(format!("http://{peer}"))
            .arg("--state")
            .arg(sentinel.state())
            .arg(log);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let child = child.expect("the sentinel starts");
        Self {
            child,
            _sentinel: sentinel,
        }
    }

    /// The first pass that came to misbehaviour.
    fn convicts(&mut self) -> Value {
        let mut said = BufReader::new(self.child.stdout.take().expect("piped")).lines();
        let report = (0..100)
            .map(|_| said.next().expect("it goes on").expect("UTF-8"))
            .map(|line| serde_json::from_str::<Value>(&line).expect("JSON"))
            .find(|report| report["verdict"] == "misbehaviour");
        // It goes on and must be able to say so.
        std::thread::spawn(move || said.for_each(drop));
        report.expect("within 100 passes")
    }

    fn stops(&mut self, report: Value) -> Pass {
        terminate(self.child.id());
        Pass {
            exit: self.child.wait().expect("it was ours").code(),
            report,
            stderr: String::new(),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Best effort: it ended already, but for a failing test.
        let _ = self.child.kill();
    }
}

#[test]
fn two_sentinels_that_were_shown_different_logs_both_find_out() {
    let one = Forge::start(Site::new(Log::honest(AFTER)));
    let two = Forge::start(Site::new(other(AFTER)));
    let vkey = one.site().log.key().to_string();
    for forge in [&one, &two] {
        let alone = Sentinel::fresh().pass(&forge.url());
        assert_eq!(
            alone.compare(&Sees::Verified),
            Ok(()),
            "each is a right log"
        );
    }
    let (here, there) = (free_address(), free_address());
    let watching = [
        Watch::start(&one.url(), &here, &there),
        Watch::start(&two.url(), &there, &here),
    ];
    // Both must have seen it before either stops showing what it has.
    let mut watching = watching;
    let reports = watching.each_mut().map(Watch::convicts);
    for (watch, report) in watching.iter_mut().zip(reports) {
        let pass = watch.stops(report);
        assert_eq!(pass.compare(&Sees::Proven(&["fork"])), Ok(()));
        assert_eq!(evidence::holds(&pass, &vkey), Ok(()));
    }
}

#[test]
fn what_a_peer_was_shown_counts_only_if_the_log_signed_it() {
    let log = Log::honest(BEFORE);
    let vkey = log.key().to_string();
    let here = Forge::start(Site::new(log.clone()));
    let there = Forge::start(Site::new(Log::honest(1)));
    let place: &'static str = format!("/{}/checkpoint", Hash::of(b"log.example.org")).leak();
    let mut stranger = log.clone();
    stranger.signer = signer("log.example.org", 9).into();
    const REWRITTEN: Sees = Sees::Proven(&["history_rewritten"]);
    const WITHHELD: Sees = Sees::Served(&["checkpoint_overdue"]);
    let mut failures = vec![];
    for (name, shown, expected, compared) in [
        ("the same", log.checkpoint(BEFORE), Sees::Verified, 1),
        ("less of it", log.checkpoint(257), Sees::Verified, 1),
        ("its first entry", log.checkpoint(1), Sees::Verified, 1),
        (
            "nothing of it",
            log.checkpoint(0),
            Sees::Proven(&["empty_log"]),
            1,
        ),
        (
            "another",
            other(BEFORE).checkpoint(BEFORE),
            Sees::Proven(&["fork"]),
            1,
        ),
        (
            "less of another",
            other(BEFORE).checkpoint(256),
            REWRITTEN,
            1,
        ),
        (
            "what they share",
            other(BEFORE).checkpoint(50),
            Sees::Verified,
            1,
        ),
        (
            "more than is served",
            Log::honest(AFTER).checkpoint(AFTER),
            WITHHELD,
            0,
        ),
        (
            "more of another",
            other(AFTER).checkpoint(AFTER),
            WITHHELD,
            0,
        ),
        ("another key's", stranger.checkpoint(256), Sees::Verified, 0),
        ("no note", "hello\n".into(), Sees::Verified, 0),
        ("a receipt", log.receipt_note(5), Sees::Verified, 0),
    ] {
        let mut site = Site::new(Log::honest(1));
        site.at(place, move |answer| {
            *answer = Answer::ok("text/plain", shown.clone().into_bytes())
        });
        there.serve(site);
        let sentinel = Sentinel::fresh().with(&["--peer", &there.url()]);
        let pass = sentinel.pass(&here.url());
        let held = pass
            .compare(&expected)
            .and_then(|()| evidence::holds(&pass, &vkey));
        failures.extend(held.err().map(|wrong| format!("{name}: {wrong}")));
        assert_eq!(pass.report["peers"], compared, "{name}");
    }
    // A log that grows to what its peer was shown; and a peer that is gone.
    let grown = Log::honest(AFTER);
    let mut site = Site::new(grown.clone());
    site.bend(move |request, before, answer| {
        if request.path == "/checkpoint" && before < 1 {
            *answer = Answer::ok(
                "text/plain",
                Log::honest(AFTER).checkpoint(BEFORE).into_bytes(),
            );
        }
        if request.path.starts_with("/api/") && request.path != "/api/pubkey" {
            let less = crate::forge::api::answer(&Log::honest(BEFORE), BEFORE, request);
            *answer = Answer::json(&less.expect("it has an answer"));
        }
    });
    here.serve(site);
    let mut site = Site::new(Log::honest(1));
    let shown = grown.checkpoint(AFTER);
    site.at(place, move |answer| {
        *answer = Answer::ok("text/plain", shown.clone().into_bytes())
    });
    there.serve(site);
    let nobody = format!("http://{}", free_address());
    let sentinel = Sentinel::fresh().with(&["--peer", &nobody, "--peer", &there.url()]);
    let pass = sentinel.pass(&here.url());
    failures.extend(pass.compare(&Sees::Verified).err());
    assert_eq!(
        (&pass.report["size"], &pass.report["peers"]),
        (&AFTER.into(), &1.into())
    );
    assert!(pass.stderr.contains("could not be compared with"), "{pass}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
