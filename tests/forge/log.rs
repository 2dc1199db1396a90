//! The forger's log: entries, receipts' signatures, tree, checkpoints.
//!
//! A log that exists is consistent unless somebody reached into its fields:
//! [`Log::rewrite`] signs and hashes again whatever changed.

use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::checkpoint::Checkpoint;
use protocol::entry::{Body, Entry, Log as LogBody};
use protocol::hash::{self, Hash};
use protocol::index::{Index, Time, TreeSize};
use protocol::key::{Origin, Signer, VerifierKey};
use protocol::name::{Address, Name};
use protocol::receipt::Receipt;
use protocol::record::{Counts, Link, Outcome, Source, Usage};
use protocol::tile::{self, Tile, TileKind};
use protocol::tlog_proof::TlogProof;

use super::api::Call;

/// Seconds within which the forger's logs promise a checkpoint.
pub(crate) const PUBLISH_MAX: u64 = 10;

/// A log whose key the forger holds.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) signer: Arc<Signer>,
    pub(crate) entries: Vec<Vec<u8>>,
    /// Slot i signs the receipt of entry i.
    pub(crate) signatures: Vec<[u8; 64]>,
    /// What each entry adds to the sums.
    pub(crate) calls: Vec<Option<Call>>,
    /// `levels[l][i]` is item i of the hash tiles at level l.
    pub(crate) levels: Vec<Vec<Hash>>,
}

impl Log {
    /// An honest log of `size` entries, the same for the same day and size.
    pub(crate) fn honest(size: usize) -> Self {
        static LONGEST: LazyLock<Log> = LazyLock::new(|| {
            let signer = Arc::new(signer("log.example.org", 7));
            let mut log = Log::of(signer.clone(), vec![first_entry(signer.verifier(), *START)]);
            (1..1_000).for_each(|i| log.push(call(i).encode(time_of(i))));
            log
        });
        let mut log = LONGEST.clone();
        assert!(
            size <= log.size(),
            "honest logs have up to {} entries",
            log.size()
        );
        log.truncate(size);
        log
    }

    /// The log of `entries`, all signed.
    pub(crate) fn of(signer: Arc<Signer>, entries: Vec<Vec<u8>>) -> Self {
        let (signatures, calls, levels) = (vec![], vec![], vec![vec![]]);
        let mut log = Self {
            signer,
            entries: vec![],
            signatures,
            calls,
            levels,
        };
        entries.into_iter().for_each(|entry| log.push(entry));
        log
    }

    /// Appends as the gateway would.
    pub(crate) fn push(&mut self, entry: Vec<u8>) {
        let signature = self
            .receipt(self.size(), Hash::leaf(&entry))
            .sign(&self.signer);
        self.push_signed(entry, signature);
    }

    fn push_signed(&mut self, entry: Vec<u8>, signature: [u8; 64]) {
        let mut item = Hash::leaf(&entry);
        self.signatures.push(signature);
        self.calls.push(Call::read(&entry));
        self.entries.push(entry);
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(vec![]);
            }
            let items = &mut self.levels[level];
            items.push(item);
            if !items.len().is_multiple_of(256) {
                break;
            }
            item = tree_head(&items[items.len() - 256..]);
        }
    }

    /// Changes the entries and makes everything else fit again.
    pub(crate) fn rewrite(&mut self, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
        let mut entries = self.entries.clone();
        change(&mut entries);
        let mut new = Self::of(self.signer.clone(), vec![]);
        for (i, entry) in entries.into_iter().enumerate() {
            if self.entries.get(i) == Some(&entry) {
                new.push_signed(entry, self.signatures[i]);
            } else {
                new.push(entry);
            }
        }
        *self = new;
    }

    /// Changes one usage entry and makes everything else fit again.
    pub(crate) fn edit(&mut self, index: usize, change: impl FnOnce(&mut Usage)) {
        self.rewrite(|entries| {
            let Ok(Entry::Known {
                time,
                body: Body::Usage(mut usage),
            }) = Entry::parse(&entries[index])
            else {
                panic!("entry {index} is no usage entry");
            };
            change(&mut usage);
            entries[index] = Body::Usage(usage).encode(time);
        });
    }

    /// Changes an entry's text and makes everything else fit again.
    pub(crate) fn respell(&mut self, index: usize, from: &str, to: &str) {
        self.rewrite(|entries| {
            let text = String::from_utf8(entries[index].clone()).expect("entries are ASCII");
            assert!(text.contains(from), "{text} has no {from}");
            entries[index] = text.replacen(from, to, 1).into_bytes();
        });
    }

    /// Takes back everything after the first `size` entries.
    pub(crate) fn truncate(&mut self, size: usize) {
        self.entries.truncate(size);
        self.signatures.truncate(size);
        self.calls.truncate(size);
        for (level, items) in self.levels.iter_mut().enumerate() {
            items.truncate(size >> (8 * level));
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn key(&self) -> &VerifierKey {
        self.signer.verifier()
    }

    pub(crate) fn root(&self, size: usize) -> Hash {
        tree_head(&self.levels[0][..size])
    }

    /// The signed checkpoint of the first `size` entries.
    pub(crate) fn checkpoint(&self, size: usize) -> String {
        self.checkpoint_of(size, self.root(size))
    }

    /// A signed checkpoint that says whatever the forger likes.
    pub(crate) fn checkpoint_of(&self, size: usize, root: Hash) -> String {
        let size = TreeSize::new(size as u64).expect("below 2^53");
        Checkpoint::new(self.key().origin().clone(), size, root).seal(&self.signer)
    }

    /// The consistency proof between two sizes.
    pub(crate) fn consistency(&self, old: usize, new: usize) -> Vec<Hash> {
        match old {
            0 => vec![],
            _ => subproof(old, &self.levels[0][..new], true),
        }
    }

    /// The tlog-proof of entry `index` under a checkpoint of the first `size`
    /// entries, whose note is given.
    pub(crate) fn tlog_proof(&self, index: usize, size: usize, note: String) -> String {
        let proof = TlogProof {
            extra: None,
            index: Index::new(index as u64).expect("below 2^53"),
            path: audit_path(index, &self.levels[0][..size]),
            checkpoint: note,
        };
        proof.to_string()
    }

    pub(crate) fn receipt(&self, index: usize, leaf: Hash) -> Receipt {
        let index = Index::new(index as u64).expect("below 2^53");
        Receipt::new(self.key().origin().clone(), index, leaf)
    }

    /// The receipt note of entry `index`.
    pub(crate) fn receipt_note(&self, index: usize) -> String {
        self.receipt(index, self.levels[0][index])
            .note(self.key(), &self.signatures[index])
    }

    /// The bytes of a tile of any kind, where the log has all of it.
    pub(crate) fn tile(&self, tile: Tile) -> Option<Vec<u8>> {
        let first = usize::try_from(tile.n()).ok()?.checked_mul(256)?;
        let range = first..first + usize::from(tile.width());
        Some(match tile.kind() {
            TileKind::Hashes(level) => {
                let items = self.levels.get(usize::from(level))?.get(range)?;
                items.iter().flat_map(|hash| *hash.as_bytes()).collect()
            }
            TileKind::Entries => {
                let mut bundle = vec![];
                self.entries
                    .get(range)?
                    .iter()
                    .for_each(|entry| tile::push_entry(&mut bundle, entry));
                bundle
            }
            TileKind::Receipts => self.signatures.get(range)?.concat(),
        })
    }
}

/// RFC 6962 section 2.1, as it is written.
pub(crate) fn tree_head(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::EMPTY_ROOT,
        [leaf] => *leaf,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            Hash::node(&tree_head(&leaves[..split]), &tree_head(&leaves[split..]))
        }
    }
}

/// RFC 6962 section 2.1.1, as it is written.
fn audit_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return vec![];
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut path, sibling) = if index < left.len() {
        (audit_path(index, left), right)
    } else {
        (audit_path(index - left.len(), right), left)
    };
    path.push(tree_head(sibling));
    path
}

/// RFC 6962 section 2.1.2, as it is written.
fn subproof(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if whole {
            vec![]
        } else {
            vec![tree_head(leaves)]
        };
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut proof, other) = if old <= left.len() {
        (subproof(old, left, whole), right)
    } else {
        (subproof(old - left.len(), right, false), left)
    };
    proof.push(tree_head(other));
    proof
}

/// A key that the forger holds.
pub(crate) fn signer(origin: &str, seed: u8) -> Signer {
    Signer::new(Origin::parse(origin).expect("an origin"), &[seed; 32])
}

/// Entry 0 of a log under `key`.
pub(crate) fn first_entry(key: &VerifierKey, time: Time) -> Vec<u8> {
    Body::Log(LogBody {
        key: key.clone(),
        rules: 1,
        totals_interval: 600,
        publish_max: PUBLISH_MAX,
        evm_key: Address::from_bytes([0xe0; 20]),
    })
    .encode(time)
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// When honest logs begin: 40 days ago, so that windows cut them.
static START: LazyLock<Time> = LazyLock::new(|| time(now() - 40 * 86_400));

fn time(secs: u64) -> Time {
    Time::from_secs(secs).expect("below 2^53")
}

/// When entry `i` of an honest log came: 300 entries over 39 days, then in seconds.
pub(crate) fn time_of(i: u64) -> Time {
    let gap = 39 * 86_400 / 300;
    time(START.secs() + gap * i.min(300) + i.saturating_sub(300) / 4)
}

/// The receipt id of entry `i` of an honest log, a UUID of version 7.
pub(crate) fn receipt_id(i: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&0x0199_0000_0000_7000_u64.to_be_bytes());
    id[8..].copy_from_slice(&(0x8000_0000_0000_0000 | i).to_be_bytes());
    id
}

/// A UUID's text.
pub(crate) fn uuid(id: &[u8; 16]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

/// What entry `i` of an honest log says: calls of every kind, by seven users
/// and by nobody.
pub(crate) fn call(i: u64) -> Body {
    let n = u32::try_from(i).expect("few entries");
    let (source, provider, model) = match i % 5 {
        0 => (Source::Custom, "example.co.uk", Some("llama-3")),
        1 => (Source::Proxy, "anthropic", Some("claude-sonnet-4-5")),
        2 => (Source::Proxy, "openai", Some("gpt-5-mini")),
        3 => (Source::Proxy, "openai", Some("gpt-5")),
        _ => (Source::Proxy, "openai", None),
    };
    let counts = Counts {
        input: Some(1_000 + n % 97),
        cache_read: i.is_multiple_of(3).then_some(n % 89),
        cache_write: i.is_multiple_of(4).then_some(n % 7),
        output: (!i.is_multiple_of(11)).then_some(100 + n % 53),
        reasoning: (i.is_multiple_of(7) && !i.is_multiple_of(11)).then_some(n % 31),
    };
    let (counts, outcome) = match i % 13 {
        0 => (Counts::NONE, Outcome::Unknown),
        1 => (Counts::NONE, Outcome::Unmetered),
        2 => (
            Counts {
                input: counts.input,
                ..Counts::NONE
            },
            Outcome::Aborted,
        ),
        3 => (counts, Outcome::Partial),
        _ => (counts, Outcome::Complete),
    };
    Body::Usage(Usage {
        receipt: hash::receipt_commitment(&receipt_id(i)),
        key_id: (i % 8 != 7).then(|| user(i % 8)),
        wallet: i
            .is_multiple_of(17)
            .then(|| (Address::from_bytes([n.to_le_bytes()[0]; 20]), Link::Claimed)),
        source,
        provider: Name::new(provider).expect("a name"),
        model: model.and_then(Name::new),
        counts,
        outcome,
        inconsistent: i.is_multiple_of(19) && counts != Counts::NONE,
        response: (!i.is_multiple_of(6))
            .then(|| hash::response_commitment(provider, &format!("resp_{i}"))),
    })
}

/// The key id of one of the honest log's users, 0 to 6.
pub(crate) fn user(n: u64) -> Hash {
    Hash::of(&[b'u', n.to_le_bytes()[0]])
}
