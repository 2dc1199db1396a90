//! The rooms and who may see whom: held by reading the source.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Rust files below a folder, with what they say outside of comments.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = vec![];
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).expect("in the tree") {
            let path = item.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                let code: Vec<_> = text
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"))
                    .collect();
                found.push((path.display().to_string(), code.join("\n")));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has sources");
    found
}

fn never(folder: &str, words: &[&str]) {
    for (path, code) in sources(folder) {
        for word in words {
            assert!(!code.contains(word), "{path} must not say {word:?}");
        }
    }
}

#[test]
fn rooms_see_only_those_below_them() {
    // server -> {proxy, api, web} -> {chain, witness, usage} -> log -> store -> protocol
    never(
        "gateway/src/store",
        &[
            "crate::log",
            "crate::chain",
            "crate::witness",
            "crate::proxy",
            "crate::api",
            "crate::web",
            "crate::usage",
            "hyper",
            "axum",
            "http::",
        ],
    );
    never(
        "gateway/src/log",
        &[
            "crate::chain",
            "crate::witness",
            "crate::proxy",
            "crate::api",
            "crate::web",
            "crate::usage",
            "hyper",
            "axum",
            "http::",
        ],
    );
    never(
        "gateway/src/usage",
        &[
            "crate::log",
            "crate::proxy",
            "crate::api",
            "crate::web",
            "crate::store",
            "hyper",
            "axum",
            "tokio",
            "http::",
        ],
    );
    never(
        "gateway/src/witness",
        &[
            "crate::proxy",
            "crate::api",
            "crate::web",
            "crate::usage",
            "crate::server",
            "axum",
        ],
    );
    never(
        "gateway/src/chain",
        &[
            "crate::proxy",
            "crate::api",
            "crate::web",
            "crate::usage",
            "crate::witness",
            "crate::server",
            "axum",
        ],
    );
    never(
        "gateway/src/proxy",
        &["crate::api", "crate::web", "crate::store", "crate::server"],
    );
    never(
        "gateway/src/api",
        &[
            "crate::proxy",
            "crate::web",
            "crate::server",
            "crate::usage",
        ],
    );
}

#[test]
fn what_is_made_of_a_witnesss_answers_is_pure() {
    let pure = ["answer", "choice", "enlisted", "pace"];
    let files = sources("gateway/src/witness").into_iter();
    let files = files.filter(|(path, _)| pure.iter().any(|f| path.ends_with(&format!("/{f}.rs"))));
    let mut read = 0;
    for (path, code) in files {
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        for word in [
            "async",
            ".await",
            "now()",
            "metrics::",
            "tracing::",
            "Store",
        ] {
            assert!(!code.contains(word), "{path} must not say {word:?}");
        }
        read += 1;
    }
    assert_eq!(read, pure.len());
}

#[test]
fn the_protocol_is_pure() {
    never(
        "protocol/src",
        &[
            "std::",
            "tokio",
            "SystemTime",
            "Instant",
            "async fn",
            "getrandom",
            "unsafe",
        ],
    );
    let manifest = fs::read_to_string(root().join("protocol/Cargo.toml")).expect("in the tree");
    assert!(!manifest.contains("gateway") && !manifest.contains("sentinel"));
}

#[test]
fn the_sentinel_never_uses_what_it_checks() {
    never(
        "sentinel/src",
        &[
            "protocol::mmr",
            "protocol::plan",
            "protocol::proof",
            "gateway::",
            "mmr::",
            "Mmr",
            "Hash::leaf",
            "Hash::node",
            "verify_inclusion",
            "verify_consistency",
        ],
    );
    // A tlog-proof is only taken apart by `protocol`; the witness and the
    // receipt's check verify paths with the sentinel's own `rebuild`.
    for (path, code) in sources("sentinel/src") {
        let code = code.replace(char::is_whitespace, "");
        for word in ["TlogProof::verify", "proof.verify("] {
            assert!(!code.contains(word), "{path} must not say {word:?}");
        }
    }
    let manifest = fs::read_to_string(root().join("sentinel/Cargo.toml")).expect("in the tree");
    assert!(!manifest.contains("gateway"));
}

#[test]
fn the_second_verifier_stands_alone() {
    let path = root().join("gateway/web/verify.js");
    let script = fs::read_to_string(path).expect("in the tree");
    assert!(script.len() < 30_000, "it must be readable in one sitting");
    let code = script.lines().filter(|l| !l.trim_start().starts_with("//"));
    for line in code {
        for word in [
            "import ", "import(", "require(", "fetch(", "process.", "Date",
        ] {
            assert!(
                !line.contains(word),
                "verify.js must not say {word:?}: {line}"
            );
        }
    }
}

#[test]
fn credentials_are_never_formatted() {
    // The proxy reads them in one file; nothing there prints.
    let (_, code) = sources("gateway/src/proxy")
        .into_iter()
        .find(|(path, _)| path.ends_with("credential.rs"))
        .expect("there");
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    for word in ["tracing", "format!", "println", "to_string", "String"] {
        assert!(!code.contains(word), "credential.rs must not say {word:?}");
    }
}

#[test]
fn what_is_fuzzed_is_built_of_what_is_shipped() {
    let read = |file| fs::read_to_string(root().join(file)).expect("in the tree");
    let (ours, fuzzed) = (read("Cargo.toml"), read("fuzz/Cargo.toml"));
    let (_, dependencies) = fuzzed.split_once("[dependencies]\n").expect("a table");
    let (dependencies, _) = dependencies.split_once("\n\n").expect("more tables");
    let foreign = dependencies.lines().filter(|line| !line.contains("path ="));
    for line in foreign {
        assert!(ours.lines().any(|l| l == line), "{line} is not ours");
    }
}
