//! The second verifier, gateway/web/verify.js, under Node: it must meet the
//! same vectors as `protocol`.

use std::env;
use std::process::Command;
use std::sync::LazyLock;

use crate::{python, vectors};

/// The oldest Node whose WebCrypto has Ed25519 without a flag.
const OLDEST: u32 = 20;

#[test]
fn the_second_verifier_meets_every_vector() {
    if is_recent("gateway/web/verify.js") {
        python::run(Command::new("node").arg(vectors::folder().join("verify.mjs")));
    }
}

/// Whether there is a Node that runs the browser's code; that it can't, `what`
/// is said of.
pub(crate) fn is_recent(what: &str) -> bool {
    static FOUND: LazyLock<Option<u32>> = LazyLock::new(version);
    if FOUND.is_some_and(|major| major >= OLDEST) {
        return true;
    }
    let found = FOUND.map_or("none".into(), |major| format!("version {major}"));
    let why = format!("{what}: needs Node {OLDEST} or newer, found {found}");
    assert!(env::var_os("CI").is_none(), "{why}");
    crate::skipped::skip(&why);
    false
}

/// Node's major version, if there is one.
fn version() -> Option<u32> {
    let output = Command::new("node").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.strip_prefix('v')?.split('.').next()?.parse().ok()
}
