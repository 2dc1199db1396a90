//! Full cosignatures: only what was verified, entry by entry.

use std::time::{Duration, Instant};

use super::{Answer, Witness, cosigned, request};
use crate::binaries::Folder;
use crate::forge::log::Log;
use crate::forge::server::{self, Forge, Site};
use crate::sentinel::{Sees, Sentinel};

struct Scene {
    log: Log,
    forge: Forge,
    folder: Folder,
    witness: Witness,
}

impl Scene {
    fn of(log: Log, bend: impl FnOnce(&mut Site)) -> Self {
        let mut site = Site::new(log.clone());
        bend(&mut site);
        let (forge, folder) = (Forge::start(site), Folder::new());
        let witness = Self::witness(&log, &forge, &folder);
        Self {
            log,
            forge,
            folder,
            witness,
        }
    }

    fn witness(log: &Log, forge: &Forge, folder: &Folder) -> Witness {
        let followed = format!("{} {}", log.key(), forge.url());
        let full = folder.path().join("full");
        let full = full.to_str().expect("UTF-8");
        let keys = ["--log", &followed, "--full-key", full];
        Witness::start(folder, &keys)
    }

    /// Whether an answer has the plain and the full cosignature.
    fn both(&self, answer: &Answer, size: usize) -> (bool, bool) {
        let full = self.witness.full.as_ref().expect("it has a second key");
        let by = |key| cosigned(answer, &self.log, size, key);
        (by(&self.witness.key), by(full))
    }

    fn add(&self, old: usize, new: usize) -> Answer {
        self.witness.add(&request(&self.log, old, new))
    }
}

#[test]
fn what_is_verified_gets_a_second_line() {
    // The log's own /checkpoint stays behind: it waits for this witness.
    let scene = Scene::of(Log::honest(340), |site| site.published = Some(100));
    for (old, new) in [(0, 100), (100, 300), (300, 340), (340, 340)] {
        let answer = scene.add(old, new);
        assert_eq!(scene.both(&answer, new), (true, true), "{new}: {answer:?}");
    }
    let shown = scene.witness.shown().expect("cosigned");
    let full = scene.witness.full.clone().expect("it has a second key");
    assert_eq!(full.name().as_str(), "w.example.org/full");
    assert!(shown.contains("w.example.org/full "), "{shown}");

    // Whoever asks for full cosigners is content with what is shown there.
    let policy = scene.folder.path().join("policy");
    let text = format!("witness full {full}\nquorum full\n");
    std::fs::write(&policy, text).expect("our folder");
    let policy = policy.to_str().expect("UTF-8");
    let pass = || {
        let sentinel = Sentinel::fresh().with(&["--policy", policy]);
        sentinel.pass(&scene.forge.url())
    };
    scene.forge.serve(Site::new(scene.log.clone()));
    assert_eq!(pass().compare(&Sees::NoVerdict), Ok(()));
    let mut site = Site::new(scene.log.clone());
    site.body_at("/checkpoint", shown);
    scene.forge.serve(site);
    assert_eq!(pass().compare(&Sees::Verified), Ok(()));
    assert_eq!(scene.witness.stop(), Some(0));
}

#[test]
fn what_is_not_verified_gets_only_the_first() {
    // A log that is consistent, but against the rules; and one that is not there.
    let mut wrong = Log::honest(340);
    wrong.respell(201, "\"source\":\"proxy\"", "\"source\":\"poxy\"");
    let scene = Scene::of(wrong.clone(), |_| ());
    let answer = scene.add(0, 150);
    assert_eq!(scene.both(&answer, 150), (true, true), "{answer:?}");
    let answer = scene.add(150, 340);
    assert_eq!(scene.both(&answer, 340), (true, false), "{answer:?}");
    // It does not come back by being asked again.
    let answer = scene.add(340, 340);
    assert_eq!(scene.both(&answer, 340), (true, false), "{answer:?}");
    assert!(
        scene
            .witness
            .shown()
            .is_some_and(|note| !note.contains("/full "))
    );

    let scene = Scene::of(Log::honest(340), |site| {
        site.bend(|_, _, answer| *answer = server::Answer::error(503));
    });
    let answer = scene.add(0, 300);
    assert_eq!(scene.both(&answer, 300), (true, false), "{answer:?}");
    // Once the log can be read again, asking again is enough.
    scene.forge.serve(Site::new(scene.log.clone()));
    let deadline = Instant::now() + Duration::from_secs(30);
    while scene.both(&scene.add(300, 300), 300) != (true, true) {
        assert!(Instant::now() < deadline, "it never catches up");
    }
}

#[test]
fn a_kind_that_is_not_known_is_not_verified() {
    let mut later = Log::honest(200);
    let time = protocol::entry::Entry::parse(&later.entries[199])
        .expect("valid")
        .time();
    later.push(format!("{{\"v\":1,\"kind\":\"later\",\"time\":{time}}}").into_bytes());
    let scene = Scene::of(later, |_| ());
    let answer = scene.add(0, 200);
    assert_eq!(scene.both(&answer, 200), (true, true), "{answer:?}");
    let answer = scene.add(200, 201);
    assert_eq!(scene.both(&answer, 201), (true, false), "{answer:?}");
}
