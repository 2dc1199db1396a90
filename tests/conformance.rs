//! The log as others read it: Go's own library for transparency logs and a
//! Merkle tree from PyPI verify a real gateway's log at sizes around every edge.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::binaries::Folder;
use crate::flow::chat;
use crate::gateway::Gateway;
use crate::provider::Provider;
use crate::python::{interpreter, run};

/// Where checkpoints are taken: the smallest trees, those around the edge of a
/// tile and of a tile of tiles, and some with partial tiles.
const SIZES: [u64; 9] = [1, 2, 255, 256, 257, 300, 65_536, 65_537, 70_000];

/// Up to here each record comes of a call of its own. Beyond, the lines of one
/// batch's results do, as many as are missing: no other call runs meanwhile,
/// so the log comes to rest at exactly the size wanted.
const BY_CALLS: u64 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn others_verify_the_log_at_every_edge() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let checkpoints = Folder::new();
    for size in SIZES {
        grow(&gateway, size).await;
        let chain = gateway.json("/api/chain").await;
        assert_eq!(chain["size"], size);
        let note = chain["checkpoint"].as_str().expect("a note");
        fs::write(checkpoints.path().join(size.to_string()), note).expect("a fresh folder");
    }
    published(&gateway, &checkpoints).await;
    let forged = forged(&checkpoints);

    let python = interpreter("conformance/requirements.txt");
    let pymerkle = |folder: &Folder| {
        let mut command = Command::new(&python);
        command.arg(sources().join("check.py"));
        told(&mut command, &gateway, folder)
    };
    assert_eq!(verified(&pymerkle(&checkpoints)), account("root"));
    refused(&pymerkle(&forged), "don't give the root");

    let Some(sumdb) = built() else { return };
    let sumdb = |folder: &Folder| told(&mut Command::new(&sumdb), &gateway, folder);
    assert_eq!(verified(&sumdb(&checkpoints)), account("signature, root"));
    refused(&sumdb(&forged), "invalid signature");
}

/// Brings the log to `size` entries.
async fn grow(gateway: &Gateway, size: u64) {
    let there = gateway.json("/api/chain").await["size"].as_u64();
    let missing = size - there.expect("a size");
    if size <= BY_CALLS || missing == 1 {
        for _ in 0..missing {
            let answer = chat(gateway, "chat.json").send().await.expect("answers");
            answer.bytes().await.expect("whole");
        }
    } else {
        let results = format!("/anthropic/v1/messages/batches/batch:{missing}/results");
        gateway.get(&results).await.bytes().await.expect("whole");
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    while gateway.reaches(size).await < size {
        assert!(Instant::now() < deadline, "{size} entries take too long");
    }
}

/// Waits until the last checkpoint is the one at `/checkpoint`.
async fn published(gateway: &Gateway, checkpoints: &Folder) {
    let newest = checkpoints.path().join(SIZES[SIZES.len() - 1].to_string());
    let newest = fs::read_to_string(newest).expect("it was written");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let served = gateway.get("/checkpoint").await.text().await;
        if served.expect("whole") == newest {
            return;
        }
        assert!(Instant::now() < deadline, "{newest} is not published");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The same checkpoints, but that one states another's root.
fn forged(checkpoints: &Folder) -> Folder {
    let forged = checkpoints.copied();
    let note = |size: u64| {
        let file = forged.path().join(size.to_string());
        fs::read_to_string(file).expect("it was written")
    };
    let (victim, donor) = (note(257), note(256));
    let root = |note: &str| note.lines().nth(2).map(str::to_owned).expect("a root");
    let text = victim.replace(&root(&victim), &root(&donor));
    fs::write(forged.path().join("257"), text).expect("our folder");
    forged
}

/// What either program says when all is well.
fn account(what: &str) -> String {
    let sizes = SIZES.map(|size| {
        let below = |back: u64| size.checked_sub(back);
        let fixed = [0, 1, 2, 254, 255, 256, 257, 65_535, 65_536].map(Some);
        let moving = [Some(size / 3), Some(size / 2), below(1), below(2)];
        let chosen = fixed.into_iter().chain(moving).flatten();
        let distinct: BTreeSet<u64> = chosen.filter(|n| *n < size).collect();
        format!("size {size}: {what}, {} inclusions\n", distinct.len())
    });
    let pairs = SIZES.len() * (SIZES.len() - 1) / 2;
    format!("{}consistency: {pairs} pairs\n", sizes.concat())
}

fn told(command: &mut Command, gateway: &Gateway, folder: &Folder) -> Output {
    let log = [gateway.url(), gateway.vkey()];
    let output = command.args(log).arg(folder.path()).output();
    output.unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn verified(output: &Output) -> String {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

fn refused(output: &Output, why: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(why), "{stderr}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The Go program, built; `None` where there is no Go, which CI must have
/// (`tests/run` names it in its summary).
fn built() -> Option<PathBuf> {
    let version = Command::new("go").arg("version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "CI has no Go");
        crate::skipped::skip("golang.org/x/mod/sumdb reads no log: there is no Go");
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-o"]).arg(&program);
    run(build.arg(".").current_dir(sources()));
    Some(program)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}
