//! The witness's decisions, without HTTP.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use protocol::checkpoint::Checkpoint;
use protocol::index::TreeSize;
use protocol::key::{Origin, Signer};
use protocol::note;
use protocol::vkey::KeyName;
use protocol::witness::cosignature;

use super::*;
use crate::rebuild::{Consistency, Tree};

/// Keeps in memory; a pause lets a test stand between deciding and keeping.
#[derive(Clone, Default)]
struct Memory {
    notes: Arc<Mutex<BTreeMap<String, String>>>,
    pause: Option<Arc<Pause>>,
    full: bool,
}

/// Says that a request is about to be kept, and waits until it may go on.
struct Pause {
    entered: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Keep for Memory {
    fn kept(&self, place: &str) -> std::io::Result<Option<String>> {
        let notes = self.notes.lock().expect("no test panics with it");
        Ok(notes.get(place).cloned())
    }

    fn keep(&self, place: &str, note: &str) -> std::io::Result<()> {
        if self.full {
            return Err(std::io::Error::other("the disk is full"));
        }
        if let Some(pause) = &self.pause {
            let entered = pause.entered.lock().expect("no test panics with it");
            entered.send(()).expect("the test waits for it");
            let go_on = pause.go_on.lock().expect("no test panics with it");
            go_on.recv().expect("the test lets it");
        }
        let mut notes = self.notes.lock().expect("no test panics with it");
        notes.insert(place.into(), note.into());
        Ok(())
    }
}

fn signer(origin: &str, seed: u8) -> Signer {
    Signer::new(Origin::parse(origin).expect("valid"), &[seed; 32])
}

fn cosigner() -> Cosigner {
    Cosigner::new(KeyName::new("w.example.org").expect("a name"), &[9; 32])
}

fn witness(keep: Memory) -> Witness<Memory> {
    let keys = [signer("a.b", 1), signer("a.b", 2), signer("c.d", 3)];
    let keys = keys.map(|signer| signer.verifier().clone());
    Witness::open(cosigner(), keys, keep).expect("nothing is damaged")
}

/// Leaf `i` of the branch `branch`, which parts from branch 0 at leaf 5.
fn leaf(branch: u64, i: u64) -> Hash {
    let branch = if i < 5 { 0 } else { branch };
    Hash::of(&[branch.to_be_bytes(), i.to_be_bytes()].concat())
}

fn root(branch: u64, size: u64) -> Hash {
    let mut tree = Tree::default();
    (0..size).for_each(|i| tree.push(leaf(branch, i), &mut vec![]));
    tree.root().expect("both ways agree")
}

fn checkpoint(branch: u64, size: u64) -> Checkpoint {
    let origin = Origin::parse("a.b").expect("valid");
    let tree = TreeSize::new(size).expect("small");
    Checkpoint::new(origin, tree, root(branch, size))
}

/// The right request from size `old` to `new`.
fn request(branch: u64, old: u64, new: u64) -> AddCheckpoint {
    let proof = if old == 0 || old >= new {
        vec![]
    } else {
        let mut proof = Consistency::between(old, new);
        (0..new).for_each(|i| proof.push(i, leaf(branch, i)));
        proof.finish().1
    };
    AddCheckpoint {
        old: TreeSize::new(old).expect("small"),
        proof,
        checkpoint: checkpoint(branch, new).seal(&signer("a.b", 1)),
    }
}

fn now() -> Time {
    Time::from_secs(1_760_000_000).expect("small")
}

fn add(witness: &Witness<Memory>, request: &AddCheckpoint) -> Result<Cosigned, Refused> {
    witness.add(request.body().as_bytes(), now())
}

/// The answer's status, and what a size answer says.
fn status(added: &Result<Cosigned, Refused>) -> (u16, Option<String>) {
    match added {
        Ok(_) => (200, None),
        Err(refused) => {
            let answer = Answer::from(refused);
            let size = answer.content_type == SIZE_CONTENT_TYPE;
            (answer.status, size.then_some(answer.body))
        }
    }
}

#[test]
fn every_status_has_its_cause_and_only_200_moves() {
    let with = |change: fn(&mut AddCheckpoint), from: AddCheckpoint| {
        let mut changed = from;
        change(&mut changed);
        changed.body().into_bytes()
    };
    let right = || request(0, 7, 12);
    let sealed = |text: &str| note::seal(text, &signer("a.b", 1));
    let text = checkpoint(0, 12).text();
    let noted = |note: String| AddCheckpoint {
        checkpoint: note,
        ..right()
    };
    let body = |request: AddCheckpoint| request.body().into_bytes();
    let size = |size: &str| Some(format!("{size}\n"));
    let rows: Vec<(&str, Vec<u8>, u16, Option<String>)> = vec![
        ("right", body(right()), 200, None),
        ("the same size", body(request(0, 7, 7)), 200, None),
        ("no request", b"hello".to_vec(), 400, None),
        ("no note", body(noted("hello\n".into())), 400, None),
        (
            "old above new",
            body(AddCheckpoint {
                old: TreeSize::new(13).expect("small"),
                ..right()
            }),
            400,
            None,
        ),
        (
            "an extension line",
            body(noted(sealed(&format!("{text}x\n")))),
            400,
            None,
        ),
        (
            "unsigned",
            body(noted(checkpoint(0, 12).seal(&signer("e.f", 4)))),
            403,
            None,
        ),
        (
            "of an unknown key",
            body(noted(checkpoint(0, 12).seal(&signer("a.b", 5)))),
            403,
            None,
        ),
        (
            "another text",
            with(
                |r| r.checkpoint = r.checkpoint.replace("\n12\n", "\n13\n"),
                right(),
            ),
            403,
            None,
        ),
        (
            "an unknown origin",
            body(noted(sealed(&text.replace("a.b", "e.f")))),
            404,
            None,
        ),
        ("too early", body(request(0, 6, 12)), 409, size("7")),
        ("too late", body(request(0, 8, 12)), 409, size("7")),
        ("from nothing", body(request(0, 0, 12)), 409, size("7")),
        ("older", body(request(0, 3, 6)), 409, size("7")),
        (
            "another root of the size",
            body(request(1, 7, 7)),
            409,
            None,
        ),
        ("another branch", body(request(1, 7, 12)), 422, None),
        ("no proof", with(|r| r.proof.clear(), right()), 422, None),
        (
            "a hash less",
            with(|r| r.proof.truncate(2), right()),
            422,
            None,
        ),
        (
            "a hash more",
            with(|r| r.proof.push(Hash::EMPTY_ROOT), right()),
            422,
            None,
        ),
        (
            "another hash",
            with(|r| r.proof[1] = Hash::EMPTY_ROOT, right()),
            422,
            None,
        ),
        (
            "a proof between equals",
            with(|r| r.proof.push(Hash::EMPTY_ROOT), request(0, 7, 7)),
            422,
            None,
        ),
    ];
    for (claim, body, expected, held) in rows {
        let memory = Memory::default();
        let witness = witness(memory.clone());
        add(&witness, &request(0, 0, 7)).expect("the first one");
        let place = place("a.b");
        let before = (
            witness.checkpoint(&place),
            memory.kept(&place).expect("memory"),
        );
        let added = witness.add(&body, now());
        assert_eq!(status(&added), (expected, held), "{claim}");
        let after = (
            witness.checkpoint(&place),
            memory.kept(&place).expect("memory"),
        );
        assert_eq!(before == after, claim != "right", "{claim}");
    }
    let first = |request: AddCheckpoint| status(&add(&witness(Memory::default()), &request)).0;
    assert_eq!(first(request(0, 0, 12)), 200);
    assert_eq!(
        first(AddCheckpoint {
            proof: vec![Hash::EMPTY_ROOT],
            ..request(0, 0, 12)
        }),
        422
    );
    assert_eq!(first(request(0, 0, 0)), 200, "an empty log");
    let full = witness(Memory {
        full: true,
        ..Memory::default()
    });
    assert_eq!(status(&add(&full, &request(0, 0, 7))).0, 500);
    assert_eq!(
        full.checkpoint(&place("a.b")),
        None,
        "nothing is shown that was not kept"
    );
}

#[test]
fn what_is_served_is_signed_by_log_and_witness() {
    let witness = witness(Memory::default());
    let mut asked = request(0, 0, 7);
    let stranger = checkpoint(0, 7).seal(&signer("e.f", 4));
    asked.checkpoint += stranger.rsplit("\n\n").next().expect("a line");
    let cosigned = add(&witness, &asked).expect("right");
    let verifier = cosigner().verifier().clone();
    let text = checkpoint(0, 7).text();
    let found = cosignature(cosigned.line.as_bytes(), &text, &verifier);
    assert_eq!(found, Ok((now(), cosigned.line.clone())));
    let place = place("a.b");
    let served = witness.checkpoint(&place).expect("cosigned");
    let own = checkpoint(0, 7).seal(&signer("a.b", 1));
    assert_eq!(
        served,
        format!("{own}{}", cosigned.line),
        "and by nobody else"
    );
    let full = Cosigner::new(KeyName::new("w/full").expect("a name"), &[8; 32]);
    let line = full.cosign(&text, now());
    witness.add_full(&place, &cosigned.signed, &line);
    assert_eq!(witness.checkpoint(&place), Some(format!("{served}{line}")));
    add(&witness, &request(0, 7, 7)).expect("the same again");
    let again = witness.checkpoint(&place).expect("cosigned");
    assert!(again.ends_with(&line), "the size is as verified as before");
    add(&witness, &request(0, 7, 12)).expect("more");
    witness.add_full(&place, &cosigned.signed, &line);
    let more = witness.checkpoint(&place).expect("cosigned");
    assert!(!more.contains("w/full"), "more is not yet verified");
    assert_eq!(witness.checkpoint(&super::place("c.d")), None);
    assert_eq!(witness.checkpoint("x"), None);
}

#[test]
fn a_slow_older_request_never_rolls_back() {
    // Both are right when they come: whichever is decided first, the other is
    // not looked at before that is durable, and then finds another size.
    for (first, second, held) in [
        (request(0, 3, 7), request(0, 3, 12), 7),
        (request(0, 3, 12), request(0, 3, 7), 12),
    ] {
        let (entered, at_keep) = channel();
        let (go_on, pausing) = channel();
        let pause = Pause {
            entered: Mutex::new(entered),
            go_on: Mutex::new(pausing),
        };
        let before = Memory::default();
        add(&witness(before.clone()), &request(0, 0, 3)).expect("the first one");
        let memory = Memory {
            pause: Some(Arc::new(pause)),
            ..before
        };
        let witness = Arc::new(witness(memory.clone()));
        let slow = thread::spawn({
            let witness = Arc::clone(&witness);
            move || status(&add(&witness, &first))
        });
        at_keep.recv().expect("the slow one was found right");
        let quick = thread::spawn({
            let witness = Arc::clone(&witness);
            move || status(&add(&witness, &second))
        });
        let overtook = at_keep.recv_timeout(Duration::from_millis(200));
        assert!(overtook.is_err(), "two requests are being kept at once");
        go_on.send(()).expect("it waits");
        // Were it let through, it must not wait for ever.
        go_on.send(()).expect("it may");
        assert_eq!(slow.join().expect("no panic").0, 200);
        let refused = quick.join().expect("no panic");
        assert_eq!(refused, (409, Some(format!("{held}\n"))));
        let kept = memory.kept(&place("a.b")).expect("memory").expect("kept");
        assert!(kept.starts_with(&checkpoint(0, held).text()));
    }
}

#[test]
fn a_crash_between_keeping_and_answering_costs_the_log_one_more_request() {
    let memory = Memory::default();
    add(&witness(memory.clone()), &request(0, 0, 7)).expect("kept, never answered");
    let again = witness(memory.clone());
    let lost = status(&add(&again, &request(0, 0, 7)));
    assert_eq!(lost, (409, Some("7\n".into())));
    assert_eq!(status(&add(&again, &request(1, 0, 7))), lost);
    assert_eq!(status(&add(&again, &request(1, 7, 7))).0, 409);
    assert_eq!(status(&add(&again, &request(0, 7, 7))).0, 200);
    let damaged = Memory::default();
    let note = checkpoint(0, 7).seal(&signer("a.b", 5));
    damaged.keep(&place("a.b"), &note).expect("memory");
    let keys = [signer("a.b", 1).verifier().clone()];
    assert!(
        Witness::open(cosigner(), keys, damaged).is_err(),
        "not the log's"
    );
}

#[test]
fn the_newest_time_of_a_size_outlasts_a_restart() {
    let memory = Memory::default();
    let first = witness(memory.clone());
    add(&first, &request(0, 0, 7)).expect("the first one");
    let later = Time::from_secs(now().secs() + 600).expect("small");
    let again = first.add(request(0, 7, 7).body().as_bytes(), later);
    let again = again.expect("the same size");
    let shown = witness(memory).checkpoint(&place("a.b"));
    assert!(shown.is_some_and(|note| note.ends_with(&again.line)));
}
