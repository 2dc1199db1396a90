//! What a machine can't do is skipped, and said: `tests/run` names it in its
//! summary.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Says that something is not tested here, and why.
pub(crate) fn skip(what: &str) {
    let line = format!("SKIPPED: {what}\n");
    // Past the test harness, which keeps what passing tests print to itself.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let Some(file) = std::env::var_os("TALLY_SKIPPED") else {
        return;
    };
    let file = OpenOptions::new().append(true).create(true).open(file);
    let written = file.and_then(|mut file| file.write_all(format!("{what}\n").as_bytes()));
    written.expect("what TALLY_SKIPPED names is writable");
}
