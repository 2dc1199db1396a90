//! A log's key and what it signs, for tests.

use protocol::checkpoint::Checkpoint;
use protocol::entry::{Body, Entry, Log};
use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::key::{Origin, Signer, VerifierKey};
use protocol::name::{Address, Name};
use protocol::receipt::Receipt;
use protocol::record::{Counts, Link, Outcome, Source, Usage};

use super::{Claim, Class, Finding, Item, Signed, canonical};
use crate::rebuild;

pub(super) const DAY: u64 = 86_400;

pub(super) fn signer() -> Signer {
    Signer::new(Origin::parse("a.b").expect("valid"), &[1; 32])
}

pub(super) fn stranger() -> Signer {
    Signer::new(Origin::parse("a.b").expect("valid"), &[2; 32])
}

pub(super) fn key() -> VerifierKey {
    signer().verifier().clone()
}

pub(super) fn hash(byte: u8) -> Hash {
    Hash::from_bytes([byte; 32])
}

pub(super) fn index(value: u64) -> Index {
    Index::new(value).expect("small")
}

pub(super) fn time(secs: u64) -> Time {
    Time::from_secs(secs).expect("small")
}

pub(super) fn note_of(size: u64, root: Hash) -> String {
    let size = TreeSize::new(size).expect("small");
    Checkpoint::new(key().origin().clone(), size, root).seal(&signer())
}

pub(super) fn signed(size: u64, root: Hash) -> Signed {
    Signed::open(note_of(size, root).as_bytes(), &key()).expect("ours")
}

pub(super) fn claim(finding: Option<Finding>) -> Option<(Claim, Class)> {
    finding.map(|finding| (finding.claim, finding.class))
}

pub(super) fn log(signer: &Signer, rules: u64) -> Body {
    Body::Log(Log {
        key: signer.verifier().clone(),
        rules,
        totals_interval: 600,
        publish_max: 10,
        evm_key: Address::from_bytes([1; 20]),
    })
}

pub(super) fn usage(user: u8, source: Source, model: Option<&str>, input: u32) -> Usage {
    Usage {
        receipt: hash(9),
        key_id: Some(hash(user)),
        wallet: Some((Address::from_bytes([user; 20]), Link::Claimed)),
        source,
        provider: Name::new("openai").expect("valid"),
        model: model.and_then(Name::new),
        counts: Counts {
            input: Some(input),
            output: Some(1),
            ..Counts::NONE
        },
        outcome: Outcome::Complete,
        inconsistent: false,
        response: None,
    }
}

/// An entry's bytes, parsed form and genuine receipt signature.
pub(super) struct Made(pub(super) Index, pub(super) Vec<u8>, pub(super) [u8; 64]);

impl Made {
    pub(super) fn new(at: u64, bytes: &[u8]) -> Self {
        let receipt = Receipt::new(key().origin().clone(), index(at), rebuild::leaf_hash(bytes));
        Self(index(at), bytes.to_vec(), receipt.sign(&signer()))
    }

    pub(super) fn of(at: u64, body: &Body) -> Self {
        Self::new(at, &body.encode(time(7)))
    }

    pub(super) fn unsigned(mut self) -> Self {
        self.2[0] ^= 1;
        self
    }

    pub(super) fn item(&self) -> Item<'_> {
        Item::verify(self.0, &self.1, &self.2, &key())
    }

    pub(super) fn entry(&self) -> Entry {
        canonical(&self.item(), &key()).expect("canonical")
    }
}
