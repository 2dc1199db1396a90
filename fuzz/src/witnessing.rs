//! Laws of proofs, and of what logs, witnesses and those who trust them say to
//! each other.

use std::sync::LazyLock;

use protocol::checkpoint::Checkpoint;
use protocol::cosignature::{Cosigner, CosignerKey};
use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::note::Note;
use protocol::policy::Policy;
use protocol::proof::{consistency_len, inclusion_len, verify_consistency, verify_inclusion};
use protocol::tlog_proof::TlogProof;
use protocol::vkey::{KeyName, Vkey};
use protocol::witness::{AddCheckpoint, conflict, cosignature, parse_conflict};

use crate::formats::SIGNER;

/// The witness's key of the test vectors, so that those are seeds.
static WITNESS: LazyLock<Cosigner> = LazyLock::new(|| {
    let seed = [
        0xb0, 0x59, 0x13, 0x21, 0xc6, 0x02, 0x0d, 0xaf, 0x38, 0xae, 0x34, 0xb6, 0x58, 0xa9, 0x8f,
        0xf5, 0x32, 0x52, 0xc9, 0x3e, 0x86, 0x42, 0x56, 0x6f, 0x46, 0xae, 0xd3, 0xc1, 0x4c, 0x70,
        0x6f, 0xc8,
    ];
    Cosigner::new(
        KeyName::new("witness.example.net/w1").expect("a name"),
        &seed,
    )
});

/// What it cosigned there.
const COSIGNED: &str = "log.example.org\n300\nfLOKOnIRIx2QL0I/zT9Dz5rG2gqh8x3gh2yZJ0Ue48U=\n";

/// A note is its text and its lines as they are written again; a cosignature
/// that is put under it is found in it, and spoils nothing.
pub fn cosigned(data: &[u8]) {
    let Ok(note) = Note::parse(data) else { return };
    let lines: String = note.signatures().iter().map(ToString::to_string).collect();
    let again = format!("{}\n{lines}", note.text());
    assert_eq!(again.as_bytes(), data);
    let (witness, time) = (WITNESS.verifier(), Time::from_secs(7).expect("small"));
    let before = witness.cosigned(&note);
    let cosigned = again + &WITNESS.cosign(note.text(), time);
    if let (Ok(before), Ok(after)) = (before, Note::parse(cosigned.as_bytes())) {
        assert_eq!(witness.cosigned(&after), Ok(before.max(Some(time))));
    }
}

/// An offline proof has one spelling. Under the root that its path leads to it
/// proves its leaf, and no other.
pub fn offline(data: &[u8]) {
    let Ok(mut proof) = TlogProof::parse(data) else {
        return;
    };
    assert_eq!(proof.to_string().as_bytes(), data);
    let (log, leaf) = (SIGNER.verifier(), Hash::of(b"leaf"));
    // Of the trees that hold the index, one of each height.
    let index = proof.index.get();
    for size in (0..53).map(|digit| index + (1 << digit)) {
        let root = rebuilt(index, size, leaf, &proof.path);
        let (Some(root), Some(size)) = (root, TreeSize::new(size)) else {
            continue;
        };
        let checkpoint = Checkpoint::new(log.origin().clone(), size, root);
        proof.checkpoint = checkpoint.seal(&SIGNER);
        assert_eq!(proof.verify(leaf, log), Ok(checkpoint));
        assert!(proof.verify(Hash::of(b"fool"), log).is_err());
    }
}

/// A policy that is read is met by all witnesses, and whoever is added to
/// some never makes it unmet.
pub fn policy(data: &[u8]) {
    let Ok(policy) = Policy::parse(data) else {
        return;
    };
    assert!(policy.is_met(|_| true));
    let seed = data
        .iter()
        .fold(0_u64, |seed, byte| seed << 5 ^ seed >> 3 ^ u64::from(*byte));
    let some = |place: usize| seed >> (place % 64) & 1 == 1;
    let more = |place: usize| some(place) || seed >> (place * 7 % 64) & 1 == 1;
    assert!(!policy.is_met(some) || policy.is_met(more));
    assert!(!policy.is_met(|_| false) || policy.is_met(some));
    for witness in policy.witnesses() {
        let vkey = witness.key().vkey().to_string();
        assert_eq!(CosignerKey::parse(&vkey).as_ref(), Ok(witness.key()));
    }
}

/// Keys of witnesses have one spelling.
pub fn vkey(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(vkey) = Vkey::parse(text) {
        assert_eq!(vkey.to_string(), text);
    }
    if let Ok(key) = CosignerKey::parse(text) {
        assert_eq!(key.vkey().to_string(), text);
    }
}

/// What is asked of a witness, and what it answers, has one spelling; of an
/// answer only a line that verifies is taken, as it stands there.
pub fn witness(data: &[u8]) {
    if let Ok(request) = AddCheckpoint::parse(data) {
        assert_eq!(request.body().as_bytes(), data);
    }
    if let Some(held) = parse_conflict(data) {
        assert_eq!(conflict(held).as_bytes(), data);
    }
    if let Ok((time, line)) = cosignature(data, COSIGNED, WITNESS.verifier()) {
        assert_eq!(line, WITNESS.cosign(COSIGNED, time));
    }
}

/// Proofs of any sizes and lengths are judged; one that is accepted has as
/// many hashes as there are between the two.
pub fn proof(data: &[u8]) {
    let Some((numbers, rest)) = data.split_first_chunk::<16>() else {
        return;
    };
    let (low, high) = numbers.split_at(8);
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)) >> 11;
    let (low, high) = (number(low), number(high));
    let proof: Vec<Hash> = rest.chunks(2).map(Hash::of).collect();
    let size = |n| TreeSize::new(n).expect("53 bits");
    let index = Index::new(low).expect("53 bits");

    // Given the root that the definition leads to, it is accepted if there is one.
    let leaf = Hash::EMPTY_ROOT;
    let root = rebuilt(low, high, leaf, &proof);
    let tree = (size(high), root.unwrap_or(leaf));
    let accepted = verify_inclusion(leaf, index, tree, &proof).is_ok();
    assert_eq!(accepted, root.is_some());
    assert!(!accepted || proof.len() == inclusion_len(low, high));

    let (from, to) = ((size(low), leaf), (size(high), leaf));
    if verify_consistency(from, to, &proof).is_ok() {
        assert!(low <= high);
        assert_eq!(proof.len(), consistency_len(low, high));
    }
}

/// The root that an audit path leads to (RFC 9162 section 2.1.3, PATH read
/// backwards); `None` where it is too short or too long.
fn rebuilt(index: u64, size: u64, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    if size <= 1 {
        return (size == 1 && index == 0 && path.is_empty()).then_some(leaf);
    }
    let (sibling, below) = path.split_last()?;
    let left = size.next_power_of_two() / 2;
    if index < left {
        Some(Hash::node(&rebuilt(index, left, leaf, below)?, sibling))
    } else {
        let right = rebuilt(index - left, size - left, leaf, below)?;
        Some(Hash::node(sibling, &right))
    }
}
