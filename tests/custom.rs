//! Hosts that clients name, reached for real: in a network of its own, where
//! public addresses and names lead to this machine.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::binaries::{Folder, program};
use crate::python;
use crate::skipped::skip;

#[test]
fn a_host_that_a_client_names_is_called_and_recorded() {
    let apart = ["--map-root-user", "--mount", "--net"];
    let tried = Command::new("unshare")
        .args(apart)
        .args(["ip", "link"])
        .output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        skip("hosts that clients name: needs unshare and ip, and the right to use them");
        return;
    }
    let data = Folder::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/custom.py");
    let mut command = Command::new("unshare");
    command
        .args(apart)
        .arg(python::interpreter("sdk/requirements.txt"));
    let output = command
        .arg("-B")
        .arg(script)
        .arg(program("gateway"))
        .arg(data.path())
        .output()
        .expect("it was tried");
    let story = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{story}");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let entries = lines.pop().expect("the entries come last");
    let gateway = std::fs::read_to_string(data.path().join("story")).unwrap_or_default();

    let outcomes: Vec<_> = lines.iter().map(|l| l["status"].as_u64()).collect();
    let wanted = [200, 302, 502, 502, 502, 502, 400, 101].map(Some);
    assert_eq!(outcomes, wanted, "{lines:?}\n{gateway}");
    let body = lines[0]["body"].as_str().expect("a text");
    assert!(body.contains("chatcmpl-custom"), "{body}");
    assert_eq!(lines[7]["body"], "true", "the session's events, over TLS");
    for inside in &lines[2..5] {
        let body = inside["body"].as_str().expect("a text");
        assert!(body.contains("upstream_unreachable"), "{inside}");
    }
    let vetted = gateway.matches("an address that is not public").count();
    assert_eq!(vetted, 3, "{gateway}");

    let entries = entries["entries"].as_array().expect("a list");
    let told: Vec<_> = entries
        .iter()
        .map(|e| {
            let of = |field: &str| e[field].to_string();
            ["source", "provider", "model", "input", "output", "outcome"].map(of)
        })
        .collect();
    let entry = |model, input, output| {
        [
            "\"custom\"",
            "\"example.com\"",
            model,
            input,
            output,
            "\"complete\"",
        ]
        .map(str::to_owned)
    };
    assert_eq!(
        told,
        [entry("\"m-1\"", "11", "5"), entry("\"m-2\"", "7", "3")]
    );
}
