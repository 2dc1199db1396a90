//! A sentinel that goes on watching.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use super::{AFTER, BEFORE, Scene};
use crate::binaries::program;
use crate::forge::server::Answer;
use crate::gateway::terminate;
use crate::sentinel::Sentinel;

/// A watching sentinel and what it says, pass by pass.
struct Watch {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Watch {
    fn start(sentinel: &Sentinel, url: &str) -> Self {
        let mut child = Command::new(program("sentinel"))
            .args([
                "--watch",
                "--json",
                "--interval",
                "200ms",
                "--patience",
                "300ms",
                "--state",
            ])
            .arg(sentinel.state())
            .arg(url)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the sentinel starts");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, said }
    }

    /// The next pass.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a pass");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }

    /// Passes until one comes to `verdict`.
    fn until(&mut self, verdict: &str) -> Value {
        for _ in 0..50 {
            let pass = self.next();
            if pass["verdict"] == verdict {
                return pass;
            }
        }
        panic!("no pass came to {verdict}");
    }

    fn stop(mut self) -> Option<i32> {
        terminate(self.child.id());
        self.child.wait().expect("it was ours").code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Best effort: it ended already, but for a failing test.
        let _ = self.child.kill();
    }
}

#[test]
fn it_goes_on_and_remembers_what_it_saw() {
    let scene = Scene::honest(BEFORE);
    let sentinel = Sentinel::fresh();
    let url = scene.forge.url();
    let mut watch = Watch::start(&sentinel, &url);
    assert_eq!(watch.next()["size"], BEFORE);
    scene.serve(AFTER, |_| ());
    while watch.until("verified")["size"] != AFTER {}
    scene.serve(AFTER, |site| {
        site.at("/checkpoint", |answer| *answer = Answer::error(503))
    });
    watch.until("no_verdict");
    scene.serve(AFTER, |_| ());
    assert_eq!(watch.until("verified")["new_entries"], 0);
    assert_eq!(watch.stop(), Some(0));

    let mut watch = Watch::start(&sentinel, &url);
    assert_eq!(watch.next()["size"], AFTER);
    scene.serve(BEFORE, |_| ());
    assert_eq!(
        watch.until("misbehaviour")["findings"][0]["claim"],
        "rollback"
    );
    scene.serve(AFTER + 10, |_| ());
    while watch.until("verified")["size"] != AFTER + 10 {}
    assert_eq!(watch.stop(), Some(1));

    let mut nobody = Watch::start(&Sentinel::fresh(), "http://127.0.0.1:9");
    nobody.until("no_verdict");
    assert_eq!(nobody.stop(), Some(3));
}
