//! Others' client: a log of Tessera's (github.com/transparency-dev/tessera)
//! gets its checkpoints cosigned by our witness.

use std::path::{Path, PathBuf};
use std::process::Command;

use protocol::cosignature::CosignerKey;
use protocol::key::VerifierKey;
use protocol::note::Note;

use super::Witness;
use crate::binaries::Folder;
use crate::python::run;

/// The oldest Go that builds it.
const OLDEST: (u32, u32) = (1, 24);

#[test]
fn tesseras_log_is_cosigned() {
    let Some(tessera) = built() else { return };
    let (folder, log) = (Folder::new(), Folder::new());
    let key = log.path().join("key");
    let vkey = Command::new(&tessera).arg("key").arg(&key).output();
    let vkey = String::from_utf8(vkey.expect("it was built").stdout).expect("UTF-8");
    let vkey = vkey.trim();
    let witness = Witness::start(&folder, &["--log", vkey]);
    let policy = log.path().join("policy");
    let text = format!(
        "witness ours {} {}\nquorum ours\n",
        witness.key, witness.url
    );
    std::fs::write(&policy, text).expect("our folder");
    // A second run does not know what the witness holds: it must be told by a 409.
    let mut sizes = vec![];
    for _ in 0..2 {
        let mut command = Command::new(&tessera);
        command
            .arg("log")
            .arg(&key)
            .arg(log.path().join("tiles"))
            .arg(&policy);
        let output = command.output().expect("it was built");
        let story = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{story}");
        sizes.push(judge(
            &String::from_utf8_lossy(&output.stdout),
            vkey,
            &witness.key,
        ));
    }
    assert_eq!(sizes, [7, 14]);
}

/// Requires both signatures on a checkpoint; gives its size.
fn judge(checkpoint: &str, log: &str, witness: &CosignerKey) -> u64 {
    let note = Note::parse(checkpoint.as_bytes()).expect("a note");
    let log = VerifierKey::parse(log).expect("a vkey");
    assert_eq!(note.verify(&log), Ok(()));
    assert!(
        matches!(witness.cosigned(&note), Ok(Some(_))),
        "{checkpoint}"
    );
    let size = note.text().lines().nth(1).expect("a size");
    size.parse().expect("a number")
}

/// The Go program, built; `None` where there is no Go that can, which CI must have.
fn built() -> Option<PathBuf> {
    let found = version();
    if found.is_none_or(|version| version < OLDEST) {
        let (major, minor) = OLDEST;
        let why = format!("Tessera's witness client: needs Go {major}.{minor}, found {found:?}");
        assert!(std::env::var_os("CI").is_none(), "{why}");
        crate::skipped::skip(&why);
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tessera");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tessera");
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-o"]).arg(&program);
    run(build.arg(".").current_dir(source));
    Some(program)
}

fn version() -> Option<(u32, u32)> {
    let output = Command::new("go")
        .args(["env", "GOVERSION"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut parts = text.trim().strip_prefix("go")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
