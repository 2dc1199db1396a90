//! `sentinel witness` as a process: what logs, monitors and crashes see of it.

mod full;
mod tessera;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use protocol::checkpoint::Checkpoint;
use protocol::cosignature::CosignerKey;
use protocol::hash::Hash;
use protocol::index::TreeSize;
use protocol::witness::{AddCheckpoint, MAX_REQUEST, cosignature};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::binaries::{Folder, program};
use crate::forge::log::{Log, signer};
use crate::gateway::{client, terminate};

/// For requests: the forge, which some tests need, has a runtime of its own.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::new().expect("threads can be started"));

/// A witness that runs, killed when dropped.
pub(crate) struct Witness {
    child: Child,
    pub(crate) url: String,
    pub(crate) key: CosignerKey,
    pub(crate) full: Option<CosignerKey>,
}

impl Witness {
    /// Starts one with its keys and its state in `folder`.
    pub(crate) fn start(folder: &Folder, arguments: &[&str]) -> Self {
        let path = |name| folder.path().join(name);
        let mut child = Command::new(program("sentinel"))
            .args(["witness", "--json", "--listen", "127.0.0.1:0"])
            .args(["--name", "w.example.org", "--key"])
            .arg(path("key"))
            .arg("--state")
            .arg(path("state"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the sentinel starts");
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it says where it is");
        let started: Value = serde_json::from_str(&line).expect("JSON");
        // Reports follow, and must find a reader.
        std::thread::spawn(move || said.lines().for_each(drop));
        let key = |member: &str| started[member].as_str().map(CosignerKey::parse);
        Self {
            child,
            url: started["url"].as_str().expect("an address").to_owned(),
            key: key("vkey").expect("a key").expect("a vkey"),
            full: key("full_vkey").transpose().expect("a vkey or none"),
        }
    }

    fn ask(&self, method: Method, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = client().request(method, format!("{}{path}", self.url));
        let request = request.body(body);
        RUNTIME.block_on(async {
            let answer = request.send().await.expect("answers");
            let kind = answer.headers()["content-type"].to_str();
            Answer {
                status: answer.status(),
                kind: kind.expect("ASCII").to_owned(),
                body: answer.text().await.expect("whole"),
            }
        })
    }

    fn add(&self, request: &AddCheckpoint) -> Answer {
        self.ask(Method::POST, "/add-checkpoint", request.body())
    }

    /// What it shows monitors of the log; `None` if nothing.
    fn shown(&self) -> Option<String> {
        let path = format!("/{}/checkpoint", Hash::of(b"log.example.org"));
        let answer = self.ask(Method::GET, &path, "");
        match answer.status {
            StatusCode::OK => Some(answer.body),
            status => {
                assert_eq!(status, StatusCode::NOT_FOUND);
                None
            }
        }
    }

    /// SIGTERM; gives the exit code.
    fn stop(mut self) -> Option<i32> {
        terminate(self.child.id());
        self.child.wait().expect("it was ours").code()
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.child.kill().expect("it was ours");
        self.child.wait().expect("it was ours");
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // Best effort: it ended already, but for a failing test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    kind: String,
    body: String,
}

/// The right request of a log from size `old` to `new`.
fn request(log: &Log, old: usize, new: usize) -> AddCheckpoint {
    AddCheckpoint {
        old: TreeSize::new(old as u64).expect("small"),
        proof: log.consistency(old, new),
        checkpoint: log.checkpoint(new),
    }
}

/// The checkpoint's text, which cosigners sign.
fn text(log: &Log, size: usize) -> String {
    let tree = TreeSize::new(size as u64).expect("small");
    Checkpoint::new(log.key().origin().clone(), tree, log.root(size)).text()
}

fn cosigned(answer: &Answer, log: &Log, size: usize, key: &CosignerKey) -> bool {
    answer.status == StatusCode::OK
        && cosignature(answer.body.as_bytes(), &text(log, size), key).is_ok()
}

#[test]
fn logs_and_monitors_are_answered_as_c2sp_says() {
    let (log, folder) = (Log::honest(300), Folder::new());
    let vkey = log.key().to_string();
    let witness = Witness::start(&folder, &["--log", &vkey, "--prefix", "/w"]);
    assert!(witness.url.ends_with("/w") && witness.full.is_none());
    assert_eq!(witness.shown(), None);
    let first = witness.add(&request(&log, 0, 100));
    assert!(cosigned(&first, &log, 100, &witness.key), "{first:?}");
    let shown = witness.shown().expect("cosigned");
    assert_eq!(shown, format!("{}{}", log.checkpoint(100), first.body));
    let of = |origin| {
        let stranger = signer(origin, 5);
        let tree = TreeSize::new(100).expect("small");
        let origin = stranger.verifier().origin().clone();
        let checkpoint = Checkpoint::new(origin, tree, log.root(100)).seal(&stranger);
        AddCheckpoint {
            checkpoint,
            ..request(&log, 100, 100)
        }
    };
    let mut forked = log.clone();
    forked.edit(50, |usage| usage.counts.output = Some(1));
    let lines = "A".repeat(MAX_REQUEST + 1);
    const PLAIN: &str = "text/plain; charset=utf-8";
    for (claim, body, status, kind, said) in [
        ("no request", "hello".into(), 400, PLAIN, "no empty line"),
        (
            "too early",
            request(&log, 50, 200).body(),
            409,
            "text/x.tlog.size",
            "100\n",
        ),
        (
            "from nothing",
            request(&log, 0, 200).body(),
            409,
            "text/x.tlog.size",
            "100\n",
        ),
        (
            "older",
            request(&log, 50, 90).body(),
            409,
            "text/x.tlog.size",
            "100\n",
        ),
        (
            "another root",
            request(&forked, 100, 100).body(),
            409,
            PLAIN,
            "two roots for size 100",
        ),
        (
            "another branch",
            request(&forked, 100, 200).body(),
            422,
            PLAIN,
            "from size 100",
        ),
        (
            "old above new",
            request(&log, 0, 99).body().replace("old 0", "old 100"),
            400,
            PLAIN,
            "above",
        ),
        (
            "another key",
            of("log.example.org").body(),
            403,
            PLAIN,
            "not signed by a key",
        ),
        (
            "another log",
            of("log.example.net").body(),
            404,
            PLAIN,
            "log.example.net",
        ),
        ("too long", lines, 413, PLAIN, "at most"),
    ] {
        let answer = witness.ask(Method::POST, "/add-checkpoint", body);
        assert_eq!(
            (answer.status.as_u16(), &answer.kind[..]),
            (status, kind),
            "{claim}"
        );
        assert!(answer.body.contains(said), "{claim}: {answer:?}");
        assert_eq!(witness.shown().as_ref(), Some(&shown), "{claim}");
    }
    for (method, path, status) in [
        (Method::GET, "/add-checkpoint", 405),
        (Method::POST, "/x/checkpoint", 405),
        (Method::GET, "/x/checkpoint", 404),
        (Method::GET, "/", 404),
    ] {
        let answer = witness.ask(method, path, "");
        assert_eq!(answer.status.as_u16(), status, "{path}");
    }
    // The second root was kept: it is a fork, proven by both notes.
    let evidence = folder.path().join("state/evidence");
    let kept = fs::read_dir(evidence)
        .expect("there")
        .next()
        .expect("a file")
        .expect("readable");
    let kept = kept.path();
    let file = kept.to_str().expect("UTF-8");
    let judged =
        crate::sentinel::Sentinel::fresh().run(&["evidence", "--json", "--vkey", &vkey, file]);
    assert_eq!(
        judged.compare(&crate::sentinel::Sees::Proven(&["fork"])),
        Ok(())
    );

    let again = witness.add(&request(&log, 100, 100));
    assert!(cosigned(&again, &log, 100, &witness.key), "{again:?}");
    let more = witness.add(&request(&log, 100, 257));
    assert!(cosigned(&more, &log, 257, &witness.key), "{more:?}");
    let key = witness.key.clone();
    assert_eq!(witness.stop(), Some(0));
    // It goes on from there, with the key that it made; a list names logs, too.
    let list = folder.path().join("logs");
    fs::write(&list, format!("# ours\n\nlog {vkey}\nquorum none\n")).expect("our folder");
    let list = list.to_str().expect("UTF-8");
    let witness = Witness::start(&folder, &["--logs", list]);
    assert_eq!(witness.key, key);
    assert_eq!(
        witness.shown(),
        Some(format!("{}{}", log.checkpoint(257), more.body))
    );
    let answer = witness.add(&request(&log, 100, 257));
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (409, "257\n"));
    assert_eq!(witness.stop(), Some(0));
}

/// Sends a request in two halves, the second when asked for.
struct Slow {
    stream: TcpStream,
    rest: Vec<u8>,
}

impl Slow {
    fn begin(witness: &Witness, request: &AddCheckpoint) -> Self {
        let host = witness.url.strip_prefix("http://").expect("an address");
        let mut stream = TcpStream::connect(host).expect("it listens");
        let body = request.body();
        let (head, rest) = body.as_bytes().split_at(body.len() / 2);
        let lines = format!(
            "POST /add-checkpoint HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(lines.as_bytes()).expect("it reads");
        stream.write_all(head).expect("it reads");
        let rest = rest.to_vec();
        Self { stream, rest }
    }

    /// The whole answer, or what came of it.
    fn end(mut self) -> String {
        let mut answer = String::new();
        let sent = self.stream.write_all(&self.rest);
        let read = sent.and_then(|()| self.stream.read_to_string(&mut answer));
        match read {
            Ok(_) => answer,
            Err(error) => format!("{answer}{error}"),
        }
    }
}

#[test]
fn a_request_that_was_overtaken_is_refused() {
    let (log, folder) = (Log::honest(300), Folder::new());
    let witness = Witness::start(&folder, &["--log", &log.key().to_string()]);
    witness.add(&request(&log, 0, 100));
    let slow = Slow::begin(&witness, &request(&log, 100, 150));
    let quick = witness.add(&request(&log, 100, 200));
    assert!(cosigned(&quick, &log, 200, &witness.key), "{quick:?}");
    let answer = slow.end();
    assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n200\n"), "{answer}");
    assert!(
        witness
            .shown()
            .is_some_and(|note| note.starts_with(&log.checkpoint(200)))
    );
}

#[test]
fn a_request_without_an_end_is_given_up() {
    let (log, folder) = (Log::honest(100), Folder::new());
    let witness = Witness::start(&folder, &["--log", &log.key().to_string()]);
    let mut slow = Slow::begin(&witness, &request(&log, 0, 50));
    slow.rest.clear();
    let waited = Instant::now();
    let answer = slow.end();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(waited.elapsed() < Duration::from_secs(30));
    assert_eq!(witness.shown(), None);
    let quick = witness.add(&request(&log, 0, 100));
    assert!(cosigned(&quick, &log, 100, &witness.key), "{quick:?}");
}

#[test]
fn a_witness_killed_at_any_moment_never_goes_back() {
    let (log, folder) = (Log::honest(300), Folder::new());
    let vkey = log.key().to_string();
    let place = Hash::of(b"log.example.org").to_string();
    let kept = folder
        .path()
        .join("state")
        .join(format!("{place}.checkpoint"));
    let size = |note: &str| {
        note.lines()
            .nth(1)
            .and_then(|size| size.parse::<usize>().ok())
    };
    let held = || {
        fs::read_to_string(&kept)
            .ok()
            .as_deref()
            .and_then(size)
            .unwrap_or(0)
    };
    let mut before = 0;
    for round in 1..=6 {
        let witness = Witness::start(&folder, &["--log", &vkey]);
        let next = before + 7 * round;
        let slow = Slow::begin(&witness, &request(&log, before, next));
        let answer = std::thread::spawn(move || slow.end());
        // As soon as it is kept, which is before it is answered.
        let deadline = Instant::now() + Duration::from_secs(20);
        while held() != next {
            assert!(Instant::now() < deadline, "nothing is kept");
            std::thread::yield_now();
        }
        witness.kill();
        let answered = answer.join().expect("no panic");
        assert_eq!(held(), next, "round {round}: {answered}");
        let witness = Witness::start(&folder, &["--log", &vkey]);
        let lost = witness.add(&request(&log, before, next));
        assert_eq!(
            (lost.status.as_u16(), lost.body),
            (409, format!("{next}\n"))
        );
        let again = witness.add(&request(&log, next, next));
        assert!(cosigned(&again, &log, next, &witness.key), "{again:?}");
        witness.kill();
        before = next;
    }
}

#[test]
fn wrong_use_is_said_before_anything_is_served() {
    let (folder, log) = (Folder::new(), Log::honest(1));
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let vkey = log.key().to_string();
    fs::write(path("bad"), "hello\n").expect("our folder");
    let (key, bad, state) = (path("key"), path("bad"), path("state"));
    let with_key = ["--key", &key, "--name", "w.example.org"];
    for (claim, arguments, said) in [
        ("no key", vec!["--key", &key, "--log", &vkey], "give --name"),
        (
            "not a key",
            vec!["--key", &bad, "--log", &vkey],
            "holds no key",
        ),
        ("no log", with_key.to_vec(), "no log is named"),
        (
            "a log twice",
            [&with_key[..], &["--log", &vkey, "--log", &vkey]].concat(),
            "twice",
        ),
        (
            "a bad list",
            [&with_key[..], &["--logs", &bad]].concat(),
            "line 1",
        ),
        (
            "nothing to verify",
            [
                &with_key[..],
                &["--log", &vkey, "--full-key", &path("full")],
            ]
            .concat(),
            "address of at least one",
        ),
        (
            "one key twice",
            vec!["--key", &key, "--log", &vkey, "--full-key", &key],
            "different",
        ),
    ] {
        let mut command = Command::new(program("sentinel"));
        command
            .args(["witness", "--state", &state])
            .args(&arguments);
        let output = command.output().expect("the sentinel starts");
        let story = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{claim}: {story}");
        assert!(story.contains(said), "{claim}: {story}");
    }
}
