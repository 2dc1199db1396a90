//! The second verifier, gateway/web/verify.js, under Node: it must meet the
//! same vectors as `protocol`.

use std::env;
use std::process::Command;

use crate::{python, vectors};

/// The oldest Node whose WebCrypto has Ed25519 without a flag.
const OLDEST: u32 = 20;

#[test]
fn the_second_verifier_meets_every_vector() {
    let found = version();
    if found.is_none_or(|major| major < OLDEST) {
        let found = found.map_or("none".into(), |major| format!("version {major}"));
        let why = format!("gateway/web/verify.js: needs Node {OLDEST} or newer, found {found}");
        assert!(env::var_os("CI").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        return;
    }
    python::run(Command::new("node").arg(vectors::folder().join("verify.mjs")));
}

/// Node's major version, if there is one.
fn version() -> Option<u32> {
    let output = Command::new("node").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.strip_prefix('v')?.split('.').next()?.parse().ok()
}
