//! Policies: who must have cosigned before a sentinel calls a log verified.

use std::fs;

use protocol::cosignature::Cosigner;
use protocol::index::Time;
use protocol::vkey::KeyName;

use super::{AFTER, BEFORE, Scene};
use crate::binaries::Folder;
use crate::forge::log::Log;
use crate::sentinel::{Sees, Sentinel};

fn witness(seed: u8) -> Cosigner {
    let name = KeyName::new(&format!("w{seed}.example.org")).expect("a name");
    Cosigner::new(name, &[seed; 32])
}

/// The cosignature's line by a witness over the first `size` entries.
fn line(log: &Log, size: usize, seed: u8) -> String {
    let note = log.checkpoint(size);
    let text = note.split("\n\n").next().expect("a text").to_owned() + "\n";
    let time = Time::from_secs(1_760_000_000).expect("small");
    witness(seed).cosign(&text, time)
}

/// Requires both of two witnesses.
pub(super) fn policy(log: &Log) -> String {
    let (one, two) = (witness(21), witness(22));
    format!(
        "log {}\nwitness one {}\nwitness two {}\ngroup both all one two\nquorum both\n",
        log.key(),
        one.verifier(),
        two.verifier()
    )
}

/// The checkpoint of the first `size` entries, with both cosignatures.
pub(super) fn cosigned(log: &Log, size: usize) -> String {
    let lines = [21, 22].map(|seed| line(log, size, seed)).concat();
    log.checkpoint(size) + &lines
}

#[test]
fn too_few_cosignatures_are_no_verdict() {
    let mut scene = Scene::honest(BEFORE);
    let (folder, log) = (Folder::new(), Log::honest(AFTER));
    let path = folder.path().join("policy");
    fs::write(&path, policy(&log)).expect("the target folder is writable");
    let path = path.to_str().expect("UTF-8");
    let returning = scene.returning();
    let note = log.checkpoint(AFTER);
    let (one, two) = (line(&log, AFTER, 21), line(&log, AFTER, 22));
    let old = line(&log, BEFORE, 22);
    for (name, lines, expected) in [
        ("both", format!("{one}{two}"), Sees::Verified),
        ("none", String::new(), Sees::NoVerdict),
        ("one", one.clone(), Sees::NoVerdict),
        ("one twice", format!("{one}{one}"), Sees::NoVerdict),
        (
            "a stranger",
            format!("{one}{}", line(&log, AFTER, 23)),
            Sees::NoVerdict,
        ),
        (
            "one over another size",
            format!("{one}{old}"),
            Sees::NoVerdict,
        ),
        (
            "a spoilt line beside both",
            format!("{one}{two}{old}"),
            Sees::NoVerdict,
        ),
    ] {
        let note = format!("{note}{lines}");
        scene.serve(AFTER, |site| site.body_at("/checkpoint", note));
        for (who, sentinel) in [
            ("fresh", Sentinel::fresh()),
            ("returning", returning.twin()),
        ] {
            let strict = sentinel.twin().with(&["--policy", path]);
            let pass = scene.sees(&format!("{name}, {who}"), &strict, &expected);
            let by = pass.report["cosigned_by"].as_array().map_or(0, Vec::len);
            assert_eq!(by == 2, expected == Sees::Verified, "{name}");
            // What nobody cosigned is verified and remembered all the same.
            assert_eq!(pass.report["size"], AFTER, "{name}");
            scene.sees(
                &format!("{name}, {who}, not strict"),
                &sentinel,
                &Sees::Verified,
            );
        }
    }
    // Misbehaviour is that, witnessed or not.
    let strict = returning.twin().with(&["--policy", path]);
    scene.serve(BEFORE, |site| {
        site.log.edit(50, |usage| usage.counts.output = Some(1))
    });
    scene.sees("a fork", &strict, &Sees::Proven(&["fork"]));

    for (name, text) in [
        (
            "of another log",
            policy(&log).replace(&format!("log {}", log.key()), &other()),
        ),
        ("none", "quorum nobody\n".into()),
    ] {
        fs::write(path, text).expect("the target folder is writable");
        scene.serve(AFTER, |site| {
            let note = cosigned(&site.log, AFTER);
            site.body_at("/checkpoint", note);
        });
        let pass = scene.forge_pass(&Sentinel::fresh().with(&["--policy", path]));
        let expected = if name == "none" { 2 } else { 3 };
        assert_eq!(pass.exit, Some(expected), "{name}: {pass}");
    }
    scene.end();
}

fn other() -> String {
    format!(
        "log {}",
        crate::forge::log::signer("log.example.net", 7).verifier()
    )
}
