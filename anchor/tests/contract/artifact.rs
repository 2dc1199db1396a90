//! The committed artifact: the pinned compiler makes it of the committed
//! source, byte for byte, and an explorer's verification of a deployment
//! finds it perfect.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

const FILES: [&str; 8] = [
    "package.json",
    "package-lock.json",
    "build.mjs",
    "sourcify.mjs",
    "TallystickAnchor.sol",
    "standard-input.json",
    "artifact.json",
    "creation.hex",
];

#[test]
fn the_artifact_is_what_the_pinned_compiler_makes() {
    let Some(folder) = installed() else { return };
    run(Command::new("node")
        .current_dir(folder)
        .args(["build.mjs", "--check"]));
}

#[test]
fn a_deployment_is_verified_as_explorers_do() {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        eprintln!("SKIPPED: verifying a deployment: anvil is pinned for Linux on x86-64 only");
        return;
    }
    let Some(folder) = installed() else { return };
    run(Command::new("node").current_dir(folder).arg("sourcify.mjs"));
}

/// A copy of the contract's folder with the locked packages; none without Node and npm.
fn installed() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        for tool in ["node", "npm"] {
            let found = Command::new(tool).arg("--version").output();
            if !found.is_ok_and(|output| output.status.success()) {
                let why = format!("the contract's build: needs {tool}");
                assert!(env::var_os("CI").is_none(), "{why}");
                eprintln!("SKIPPED: {why}");
                return None;
            }
        }
        Some(install())
    });
    folder.as_deref()
}

fn install() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("contract");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("contract");
    fs::create_dir_all(&folder).expect("writable");
    for file in FILES {
        fs::copy(source.join(file), folder.join(file)).expect("in the tree");
    }
    let locked = fs::read(source.join("package-lock.json")).expect("in the tree");
    let stamp = folder.join("installed");
    if fs::read(&stamp).is_ok_and(|installed| installed == locked) {
        return folder;
    }
    // Nothing that a package brings along is run to install it.
    let options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    run(Command::new("npm").current_dir(&folder).args(options));
    fs::write(&stamp, locked).expect("writable");
    folder
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&said)
    );
}
