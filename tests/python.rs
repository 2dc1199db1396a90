//! Python for the tests that need it: virtual environments with pinned packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The interpreter of a virtual environment that has exactly `requirements`,
/// a file of pinned versions below the tests' folder. Made once per content.
pub(crate) fn interpreter(requirements: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);

    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join(requirements);
    let pinned = fs::read_to_string(&requirements).expect("the requirements are in the tree");
    let folder = requirements
        .parent()
        .and_then(Path::file_name)
        .expect("below the tests' folder");
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("venv")
        .join(folder);
    let python = venv.join("bin/python");
    let installed = venv.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|done| done == pinned) {
        return python;
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&venv));
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "-r"])
        .arg(&requirements));
    fs::write(&installed, pinned).expect("the environment was just made");
    python
}

/// Runs `command` and requires success.
pub(crate) fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}: {stderr}",
        output.status
    );
}
