//! What is judged: one function per claim.
//!
//! Pure: no I/O, no clock, no randomness. A function says what is wrong with
//! what it is given, or nothing. Out of scope: asking a second time before a
//! served finding is believed (see [`crate::pass`] and [`crate::follow`]).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::checkpoint::{Checkpoint, CheckpointError};
use protocol::entry::{Body, Entry, RULES, RULES_WITHOUT_BINDINGS};
use protocol::hash::Hash;
use protocol::index::{Index, Time};
use protocol::key::VerifierKey;
use protocol::name::Name;
use protocol::note::NoteError;
use protocol::receipt::Receipt;
use protocol::record::{Link, Outcome, Source, Usage};
use protocol::tile::Tile;
use serde_json::{Map, Value, json};

use crate::answer::{
    Answer, Chain, LIMIT, Leaderboard, Line, Models, Pubkey, Question, Stats, User,
};
use crate::rebuild;
use crate::sums::{Category, Sum, Sums};

macro_rules! claims {
    ($($(#[$doc:meta])* $claim:ident => $code:literal),+ $(,)?) => {
        /// What can be found. The code is stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Claim { $($(#[$doc])* $claim),+ }

        impl Claim {
            /// Every claim.
            pub const ALL: &[Self] = &[$(Self::$claim),+];

            /// The stable code.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$claim => $code),+ }
            }
        }
    };
}

claims! {
    /// Another key than the pinned one is served, or signed the checkpoint.
    KeyChanged => "key_changed",
    /// Two signed roots for one size.
    Fork => "fork",
    /// A smaller checkpoint than the remembered one, and it stays.
    Rollback => "rollback",
    /// The signed new tree does not contain the signed old one.
    HistoryRewritten => "history_rewritten",
    /// The entries do not open the signed root.
    RootMismatch => "root_mismatch",
    /// A tile is not what the entries give.
    TileMismatch => "tile_mismatch",
    /// An entry is not canonical, or breaks a rule within itself.
    EntryMalformed => "entry_malformed",
    /// A receipt's signature is not the log's over its index and entry.
    ReceiptSignature => "receipt_signature",
    /// Entry 0 is not the log's own.
    FirstEntry => "first_entry",
    /// Another entry than entry 0 is of kind `log`.
    SecondLogEntry => "second_log_entry",
    /// An entry's time is before that of the entry before.
    TimeBackwards => "time_backwards",
    /// A wallet counts as bound that no entry bound.
    UnboundWallet => "unbound_wallet",
    /// A signed checkpoint of no entries.
    EmptyLog => "empty_log",
    /// The key signed something else than a checkpoint.
    CheckpointMalformed => "checkpoint_malformed",
    /// `/api/stats` is wrong.
    AggregateStats => "aggregate_stats",
    /// `/api/models` is wrong.
    AggregateModels => "aggregate_models",
    /// `/api/leaderboard` is wrong.
    AggregateLeaderboard => "aggregate_leaderboard",
    /// `/api/user` is wrong.
    AggregateUser => "aggregate_user",
    /// `/api/chain` is wrong.
    AggregateChain => "aggregate_chain",
    /// No published checkpoint covers what is already answered from.
    CheckpointOverdue => "checkpoint_overdue",
    /// The log does not hold what a receipt promises.
    ReceiptNotHeld => "receipt_not_held",
    /// A receipt's entry commits to another receipt id.
    ReceiptForeignId => "receipt_foreign_id",
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// How far a finding carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Signed statements contradict each other or PROTOCOL.md: anyone can
    /// check them with the log's key alone.
    Proven,
    /// Complete answers that are wrong: anyone can fetch them again.
    Served,
}

impl Class {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Served => "served",
        }
    }
}

/// Misbehaviour, with what shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What was found.
    pub claim: Claim,
    /// Whether it is proven.
    pub class: Class,
    /// The entry it is about, if it is about one.
    pub index: Option<u64>,
    /// One sentence for a person.
    pub message: String,
    /// What shows it, as PROTOCOL.md section 11.1 lists it.
    pub material: Map<String, Value>,
}

impl Finding {
    fn new(claim: Claim, class: Class, message: String, material: Value) -> Self {
        let material = match material {
            Value::Object(material) => material,
            other => Map::from_iter([("value".into(), other)]),
        };
        Self {
            claim,
            class,
            index: None,
            message,
            material,
        }
    }

    fn at(self, index: Index) -> Self {
        Self {
            index: Some(index.get()),
            ..self
        }
    }
}

/// A checkpoint that the log's key signed, with its note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    note: String,
    checkpoint: Checkpoint,
}

/// Why a note gives no checkpoint.
#[derive(Debug, PartialEq)]
pub enum Unopened {
    /// It is no signed note: whatever answered, it gave no complete answer.
    NotANote(String),
    /// It is one, and shows misbehaviour.
    Misbehaviour(Finding),
}

impl Signed {
    /// Opens a checkpoint note: claims `key_changed` and `checkpoint_malformed`.
    ///
    /// # Errors
    /// No note, or one that is not this log's checkpoint.
    pub fn open(note: &[u8], key: &VerifierKey) -> Result<Self, Unopened> {
        let text = String::from_utf8_lossy(note).into_owned();
        let material = json!({ "note": text });
        match Checkpoint::open(note, key) {
            Ok(checkpoint) => Ok(Self {
                note: text,
                checkpoint,
            }),
            Err(CheckpointError::Note(error @ NoteError::Malformed(_))) => {
                Err(Unopened::NotANote(error.to_string()))
            }
            Err(CheckpointError::Note(error)) => {
                let message = format!("the checkpoint is not signed by the pinned key: {error}");
                let claim = Claim::KeyChanged;
                Err(Unopened::Misbehaviour(Finding::new(
                    claim,
                    Class::Served,
                    message,
                    material,
                )))
            }
            Err(error @ CheckpointError::Text { .. }) => {
                // A receipt is rightly signed; it is only not a checkpoint.
                let receipt = Receipt::open(note, key).is_ok();
                let class = if receipt {
                    Class::Served
                } else {
                    Class::Proven
                };
                let claim = Claim::CheckpointMalformed;
                let message = error.to_string();
                Err(Unopened::Misbehaviour(Finding::new(
                    claim, class, message, material,
                )))
            }
        }
    }

    /// The note as it was served.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// How many entries it is over.
    pub fn size(&self) -> u64 {
        self.checkpoint.size().get()
    }

    /// The root it signs.
    pub fn root(&self) -> Hash {
        self.checkpoint.root()
    }
}

/// `key_changed`: the served key is not the pinned one, or not one key.
pub fn pubkey(pinned: &VerifierKey, served: &Pubkey) -> Option<Finding> {
    let hex = Hash::from_bytes(*pinned.as_bytes()).to_string();
    let expected = [pinned.to_string(), pinned.origin().to_string(), hex];
    let found = [&served.vkey, &served.origin, &served.key];
    let names = ["vkey", "origin", "key"];
    let differing = (0..3).find(|i| expected[*i] != *found[*i])?;
    let message = format!(
        "/api/pubkey serves the {} {:?}, the pinned key's is {:?}",
        names[differing], found[differing], expected[differing]
    );
    let material = json!({
        "pinned": expected[0],
        "served": { "vkey": served.vkey, "origin": served.origin, "key": served.key },
    });
    Some(Finding::new(
        Claim::KeyChanged,
        Class::Served,
        message,
        material,
    ))
}

/// `empty_log`: entry 0 always exists, so no checkpoint is over nothing.
pub fn not_empty(signed: &Signed) -> Option<Finding> {
    (signed.size() == 0).then(|| {
        let message = "a signed checkpoint of size 0, though entry 0 always exists".into();
        let material = json!({ "checkpoint": signed.note });
        Finding::new(Claim::EmptyLog, Class::Proven, message, material)
    })
}

/// `fork`: two signed roots for one size.
pub fn fork(one: &Signed, other: &Signed) -> Option<Finding> {
    (one.size() == other.size() && one.root() != other.root()).then(|| {
        let message = format!(
            "the log signed two roots for size {}: {} and {}",
            one.size(),
            one.root(),
            other.root()
        );
        let material = json!({ "checkpoints": [one.note, other.note] });
        Finding::new(Claim::Fork, Class::Proven, message, material)
    })
}

/// `rollback`: a checkpoint smaller than the remembered one.
pub fn rollback(remembered: &Signed, served: &Signed) -> Option<Finding> {
    (served.size() < remembered.size()).then(|| {
        let message = format!(
            "the log serves a checkpoint of size {}, after one of size {}",
            served.size(),
            remembered.size()
        );
        let material = json!({ "remembered": remembered.note, "served": served.note });
        Finding::new(Claim::Rollback, Class::Served, message, material)
    })
}

/// `checkpoint_overdue`: something was answered from `size` entries, and no
/// published checkpoint came to cover them.
pub fn overdue(size: u64, newest: &Signed, patience_secs: u64) -> Option<Finding> {
    (newest.size() < size).then(|| {
        let message = format!(
            "the log answers from {size} entries, but its newest checkpoint after {patience_secs} s \
             is of size {}",
            newest.size()
        );
        let material = json!({ "size": size, "newest": newest.note });
        Finding::new(Claim::CheckpointOverdue, Class::Served, message, material)
    })
}

/// `checkpoint_overdue`: the log signed `shown` for somebody else, and no
/// published checkpoint came to cover it.
pub fn withheld(shown: &Signed, newest: &Signed, patience_secs: u64) -> Option<Finding> {
    (newest.size() < shown.size()).then(|| {
        let message = format!(
            "the log signed a checkpoint of size {}, which was shown elsewhere, but its newest \
             here after {patience_secs} s is of size {}",
            shown.size(),
            newest.size()
        );
        let material = json!({ "size": shown.size(), "newest": newest.note, "shown": shown.note });
        Finding::new(Claim::CheckpointOverdue, Class::Served, message, material)
    })
}

/// `root_mismatch`: the entries give another root than the signed one.
pub fn root(signed: &Signed, rebuilt: Hash) -> Option<Finding> {
    (signed.root() != rebuilt).then(|| {
        let message = format!(
            "the first {} entries give the root {rebuilt}, signed is {}",
            signed.size(),
            signed.root()
        );
        let material = json!({ "checkpoint": signed.note, "rebuilt_root": rebuilt.to_string() });
        Finding::new(Claim::RootMismatch, Class::Served, message, material)
    })
}

/// `history_rewritten`: `proof` shows that the newer signed tree begins with
/// a tree of the older one's size and root `prefix_root`, which is not the
/// older signed root.
pub fn rewritten(
    older: &Signed,
    newer: &Signed,
    prefix_root: Hash,
    proof: &[Hash],
) -> Option<Finding> {
    let within = (older.size(), prefix_root);
    let shown = rebuild::consistent(within, (newer.size(), newer.root()), proof);
    (shown && prefix_root != older.root()).then(|| {
        let message = format!(
            "history was rewritten: the first {} entries of the log of size {} give the root \
             {prefix_root}, the log signed {} for them before",
            older.size(),
            newer.size(),
            older.root()
        );
        let material = json!({
            "older": older.note,
            "newer": newer.note,
            "prefix_root": prefix_root.to_base64(),
            "proof": proof.iter().map(|hash| hash.to_base64()).collect::<Vec<_>>(),
        });
        Finding::new(Claim::HistoryRewritten, Class::Proven, message, material)
    })
}

/// `tile_mismatch`: a served tile differs from the rebuilt hashes.
pub fn tile(tile: Tile, served: &[u8], rebuilt: &[Hash]) -> Option<Finding> {
    let expected: Vec<u8> = rebuilt.iter().flat_map(|hash| *hash.as_bytes()).collect();
    if served == expected {
        return None;
    }
    let same = served
        .chunks(32)
        .zip(expected.chunks(32))
        .take_while(|(a, b)| a == b)
        .count();
    let path = tile.path();
    let message = format!("hash {same} of /{path} is not what the entries give");
    let material = json!({
        "path": path,
        "served": STANDARD.encode(served),
        "rebuilt": STANDARD.encode(expected),
    });
    Some(Finding::new(
        Claim::TileMismatch,
        Class::Served,
        message,
        material,
    ))
}

/// An entry as it was served, with its receipt.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    index: Index,
    bytes: &'a [u8],
    signature: &'a [u8; 64],
    leaf: Hash,
    signed: bool,
}

impl<'a> Item<'a> {
    /// Hashes the entry and verifies its receipt's signature.
    pub fn verify(
        index: Index,
        bytes: &'a [u8],
        signature: &'a [u8; 64],
        key: &VerifierKey,
    ) -> Self {
        let leaf = rebuild::leaf_hash(bytes);
        let signed = Receipt::new(key.origin().clone(), index, leaf).signed_by(key, signature);
        Self {
            index,
            bytes,
            signature,
            leaf,
            signed,
        }
    }

    /// Takes up one that was verified before.
    pub fn again(index: Index, bytes: &'a [u8], signature: &'a [u8; 64], signed: bool) -> Self {
        Self {
            index,
            bytes,
            signature,
            leaf: rebuild::leaf_hash(bytes),
            signed,
        }
    }

    /// The entry's leaf hash.
    pub fn leaf(&self) -> Hash {
        self.leaf
    }

    /// Whether the receipt's signature is the log's.
    pub fn signed(&self) -> bool {
        self.signed
    }

    /// What shows the entry: with a genuine receipt, the log signed it.
    fn material(&self, key: &VerifierKey) -> Value {
        let receipt = Receipt::new(key.origin().clone(), self.index, self.leaf);
        json!({
            "index": self.index.get(),
            "entry": STANDARD.encode(self.bytes),
            "receipt": receipt.note(key, self.signature),
        })
    }

    fn finding(&self, claim: Claim, message: String, key: &VerifierKey) -> Finding {
        let class = if self.signed {
            Class::Proven
        } else {
            Class::Served
        };
        let material = json!({ "entries": [self.material(key)] });
        Finding::new(claim, class, message, material).at(self.index)
    }
}

/// `receipt_signature`: the receipt's signature is not the log's.
pub fn receipt_signature(item: &Item<'_>, key: &VerifierKey) -> Option<Finding> {
    (!item.signed).then(|| {
        let message = format!(
            "the receipt signature of entry {} is not the log's over this index and entry",
            item.index
        );
        item.finding(Claim::ReceiptSignature, message, key)
    })
}

/// `entry_malformed`: the entry is not canonical or breaks a rule within itself.
///
/// # Errors
/// The finding.
pub fn canonical(item: &Item<'_>, key: &VerifierKey) -> Result<Entry, Box<Finding>> {
    Entry::parse(item.bytes).map_err(|error| {
        let message = format!("entry {} is against PROTOCOL.md: {error}", item.index);
        Box::new(item.finding(Claim::EntryMalformed, message, key))
    })
}

/// `first_entry`: entry 0 is not of kind `log`, or names another key.
pub fn first_entry(item: &Item<'_>, entry: &Entry, key: &VerifierKey) -> Option<Finding> {
    if item.index.get() != 0 {
        return None;
    }
    let wrong = match entry {
        Entry::Known {
            body: Body::Log(log),
            ..
        } if log.key == *key => return None,
        Entry::Known {
            body: Body::Log(log),
            ..
        } => {
            format!("entry 0 names the key {}, pinned is {key}", log.key)
        }
        // A later version of the log's own entry may name its key otherwise.
        Entry::Unknown { kind, .. } if kind == "log" => return None,
        Entry::Unknown { kind, .. } => format!("entry 0 is of kind {kind:?}, expected \"log\""),
        Entry::Known { body, .. } => {
            format!("entry 0 is of kind {:?}, expected \"log\"", kind(body))
        }
    };
    Some(item.finding(Claim::FirstEntry, wrong, key))
}

/// `second_log_entry`: an entry of kind `log` after entry 0.
pub fn second_log_entry(item: &Item<'_>, entry: &Entry, key: &VerifierKey) -> Option<Finding> {
    let log = matches!(
        entry,
        Entry::Known {
            body: Body::Log(_),
            ..
        }
    );
    (log && item.index.get() > 0).then(|| {
        let message = format!(
            "entry {} is of kind \"log\", as only entry 0 may be",
            item.index
        );
        item.finding(Claim::SecondLogEntry, message, key)
    })
}

/// `time_backwards`: an entry's time is before that of the entry before.
pub fn time_backwards(
    (before, earlier): (&Item<'_>, Time),
    (item, time): (&Item<'_>, Time),
    key: &VerifierKey,
) -> Option<Finding> {
    (time < earlier).then(|| {
        let message = format!(
            "time goes backwards: entry {} is of {earlier}, entry {} of {time}",
            before.index, item.index
        );
        let both = before.signed && item.signed;
        let class = if both { Class::Proven } else { Class::Served };
        let material = json!({ "entries": [before.material(key), item.material(key)] });
        Finding::new(Claim::TimeBackwards, class, message, material).at(item.index)
    })
}

/// `unbound_wallet`: a wallet counts as bound, though no kind of entry that
/// stands before can bind one.
pub fn unbound_wallet(
    item: &Item<'_>,
    usage: &Usage,
    unknown_before: bool,
    key: &VerifierKey,
) -> Option<Finding> {
    let (wallet, _) = usage.wallet.filter(|(_, link)| *link == Link::Bound)?;
    (!unknown_before).then(|| {
        let message = format!(
            "entry {} counts for wallet {wallet} as bound, but no entry before bound it",
            item.index
        );
        item.finding(Claim::UnboundWallet, message, key)
    })
}

/// Why this program must be upgraded before it can judge aggregates from this
/// entry on; `None` where it can.
pub fn upgrade(index: Index, entry: &Entry) -> Option<String> {
    match entry {
        Entry::Unknown { version, kind, .. } => Some(format!(
            "entry {index} is of kind {kind:?} version {version}"
        )),
        Entry::Known {
            body: Body::Log(log),
            ..
        } if ![RULES, RULES_WITHOUT_BINDINGS].contains(&log.rules) => {
            Some(format!("entry {index} names rules version {}", log.rules))
        }
        Entry::Known {
            body: body @ (Body::Binding(_) | Body::Totals(_)),
            ..
        } => Some(format!(
            "entry {index} is of kind {:?}, of which this program reads the form only",
            kind(body)
        )),
        Entry::Known { .. } => None,
    }
}

fn kind(body: &Body) -> &'static str {
    match body {
        Body::Log(_) => "log",
        Body::Usage(_) => "usage",
        Body::Binding(_) => "binding",
        Body::Totals(_) => "totals",
    }
}

/// The state at exactly an answer's size, against which it is judged.
#[derive(Debug)]
pub struct At<'a> {
    /// The log's pinned key.
    pub key: &'a VerifierKey,
    /// How many entries.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// The day of the newest of them.
    pub newest_day: u64,
    /// This machine's day.
    pub own_day: u64,
    /// Their sums.
    pub sums: &'a mut Sums,
}

/// The `aggregate_*` claims: `answer` says something else than the log's first
/// `size` entries. `body` is the answer as it was served.
pub fn aggregate(
    question: &Question,
    answer: &Answer,
    body: &[u8],
    at: &mut At<'_>,
) -> Option<Finding> {
    let wrong = match (question, answer) {
        (Question::Chain, Answer::Chain(answer)) => chain(answer, at),
        (Question::Stats, Answer::Stats(answer)) => stats(answer, at),
        (Question::Models(days), Answer::Models(answer)) => models(*days, answer, at),
        (Question::Leaderboard(source, days), Answer::Leaderboard(answer)) => {
            leaderboard(*source, *days, answer, at)
        }
        (Question::User(key_id), Answer::User(answer)) => user(key_id, answer, at),
        _ => Some("the answer is to another question".into()),
    }?;
    Some(misanswered(
        question,
        &format!("over {} entries: {wrong}", at.size),
        body,
    ))
}

/// The finding that `question` was answered wrongly.
pub fn misanswered(question: &Question, wrong: &str, body: &[u8]) -> Finding {
    let claim = match question {
        Question::Chain => Claim::AggregateChain,
        Question::Stats => Claim::AggregateStats,
        Question::Models(_) => Claim::AggregateModels,
        Question::Leaderboard(..) => Claim::AggregateLeaderboard,
        Question::User(_) => Claim::AggregateUser,
    };
    let path = question.path();
    let message = format!("/{path} {wrong}");
    let material = json!({ "path": path, "answer": String::from_utf8_lossy(body) });
    Finding::new(claim, Class::Served, message, material)
}

fn differing<T: PartialEq + fmt::Debug>(what: &str, found: T, expected: T) -> Option<String> {
    (found != expected).then(|| format!("{what} is {found:?}, expected {expected:?}"))
}

fn chain(answer: &Chain, at: &At<'_>) -> Option<String> {
    differing("origin", answer.origin.as_str(), at.key.origin().as_str())
        .or_else(|| differing("root", &answer.root, &at.root.to_string()))
        .or_else(|| differing("root_base64", &answer.root_base64, &at.root.to_base64()))
        .or_else(
            || match Signed::open(answer.checkpoint.as_bytes(), at.key) {
                Ok(signed) => differing("the checkpoint's size", signed.size(), answer.size)
                    .or_else(|| differing("the checkpoint's root", signed.root(), at.root)),
                Err(Unopened::NotANote(error)) => Some(format!("the checkpoint: {error}")),
                Err(Unopened::Misbehaviour(finding)) => Some(finding.message),
            },
        )
}

fn stats(answer: &Stats, at: &At<'_>) -> Option<String> {
    let expected = at.sums.totals();
    differing("records", answer.records, expected.records)
        .or_else(|| differing("users", answer.users, expected.users))
        .or_else(|| differing("models", answer.models, expected.models))
        .or_else(|| differing("wallets", answer.wallets, expected.wallets))
        .or_else(|| by_source(&answer.sources, &expected.sources))
        .or_else(|| {
            let count = |outcome: &Outcome| expected.outcomes.get(outcome).copied();
            let words: BTreeMap<&str, u64> = (Outcome::ALL.iter())
                .map(|outcome| (outcome.as_str(), count(outcome).unwrap_or_default()))
                .collect();
            // One that is not there counts 0; one that nobody knows must not count.
            let found = |word: &str| answer.outcomes.get(word).copied().unwrap_or_default();
            let strange = answer
                .outcomes
                .iter()
                .find(|(word, n)| !words.contains_key(word.as_str()) && **n != 0);
            words
                .iter()
                .find_map(|(word, n)| differing(&format!("outcome {word}"), found(word), *n))
                .or_else(|| strange.map(|(word, n)| format!("outcome {word:?} has {n} records")))
        })
}

fn models(days: Option<u64>, answer: &Models, at: &At<'_>) -> Option<String> {
    let days = match window(days, answer.from.as_deref(), answer.to.as_deref(), at) {
        Ok(days) => days,
        Err(wrong) => return Some(wrong),
    };
    let mut expected: Vec<_> = at.sums.models(days.as_ref()).into_iter().collect();
    expected.sort_by_key(|(category, sum)| (Reverse(sum.total()), *category));
    by_category(&answer.models, &expected)
}

fn leaderboard(
    source: Source,
    days: Option<u64>,
    answer: &Leaderboard,
    at: &mut At<'_>,
) -> Option<String> {
    let days = match window(days, answer.from.as_deref(), answer.to.as_deref(), at) {
        Ok(days) => days,
        Err(wrong) => return Some(wrong),
    };
    let expected = at.sums.leaderboard(source, days.as_ref(), LIMIT);
    differing("source", answer.source.as_str(), source.as_str()).or_else(|| {
        for (place, (row, (key_id, sum))) in (1..).zip(answer.rows.iter().zip(&expected)) {
            let what = format!("row {place}");
            let found = row.key_id.as_deref().unwrap_or_default();
            let wrong = differing(&format!("{what}'s key_id"), found, &key_id.to_string())
                .or_else(|| line(&what, row, sum));
            if wrong.is_some() {
                return wrong;
            }
        }
        differing("the number of rows", answer.rows.len(), expected.len())
    })
}

fn user(key_id: &Hash, answer: &User, at: &mut At<'_>) -> Option<String> {
    let expected: Vec<_> = at.sums.user(key_id).into_iter().collect();
    let mut sources: BTreeMap<Source, Sum> = BTreeMap::new();
    for (category, sum) in &expected {
        sources.entry(category.source).or_default().add(sum);
    }
    differing("key_id", answer.key_id.as_str(), &key_id.to_string())
        .or_else(|| by_source(&answer.sources, &sources))
        .or_else(|| by_category(&answer.models, &expected))
}

/// The days that a windowed answer is over, `None` for all time.
fn window(
    days: Option<u64>,
    from: Option<&str>,
    to: Option<&str>,
    at: &At<'_>,
) -> Result<Option<RangeInclusive<u64>>, String> {
    let Some(days) = days else {
        return match (from, to) {
            (None, None) => Ok(None),
            _ => Err(format!(
                "has a window {from:?} to {to:?}, but was not asked for one"
            )),
        };
    };
    let (Some(first), Some(last)) = (from.and_then(day_number), to.and_then(day_number)) else {
        return Err(format!("has no window of days, but {from:?} to {to:?}"));
    };
    if first + days != last + 1 {
        return Err(format!(
            "has a window of other than {days} days: {from:?} to {to:?}"
        ));
    }
    if last < at.newest_day {
        return Err(format!(
            "has a window that ends before the newest entry's day: {to:?}"
        ));
    }
    if last > at.newest_day.max(at.own_day + 1) {
        return Err(format!("has a window that ends in the future: {to:?}"));
    }
    Ok(Some(first..=last))
}

/// The number of a day since 1970-01-01, written `YYYY-MM-DD`; `None` of what
/// is no day of the years 1970 to 9999.
fn day_number(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| -> Option<u64> {
        let digits = bytes.get(range)?;
        digits.iter().try_fold(0, |n, b| {
            b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0'))
        })
    };
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let february = if leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).ok()?.checked_sub(1)?;
    if year < 1970 || day < 1 || day > *months.get(month)? {
        return None;
    }
    let leap_days = (1970..year).filter(|year| leap(*year)).count() as u64;
    Some((year - 1970) * 365 + leap_days + months[..month].iter().sum::<u64>() + day - 1)
}

fn line(what: &str, found: &Line, expected: &Sum) -> Option<String> {
    differing(what, found.sum(), *expected)
        .or_else(|| differing(&format!("{what}'s total"), found.total, expected.total()))
}

fn by_source(found: &[Line], expected: &BTreeMap<Source, Sum>) -> Option<String> {
    let expected = expected
        .iter()
        .map(|(source, sum)| (*source, *sum))
        .collect();
    let is = |line: &Line, source: &Source| line.source.as_deref() == Some(source.as_str());
    same_lines(found, &expected, is, |source| source.as_str().into())
}

fn by_category(found: &[Line], expected: &Vec<(&Category, Sum)>) -> Option<String> {
    let is = |line: &Line, category: &&Category| {
        line.source.as_deref() == Some(category.source.as_str())
            && line.provider.as_deref() == Some(category.provider.as_str())
            && line.model.as_deref() == category.model.as_ref().map(Name::as_str)
    };
    same_lines(found, expected, is, ToString::to_string)
}

/// Whether lines are exactly the expected ones, in their order.
fn same_lines<K>(
    found: &[Line],
    expected: &Vec<(K, Sum)>,
    is: impl Fn(&Line, &K) -> bool,
    name: impl Fn(&K) -> String,
) -> Option<String> {
    for (place, (found, (key, sum))) in (1..).zip(found.iter().zip(expected)) {
        if !is(found, key) {
            let Line {
                source,
                provider,
                model,
                ..
            } = found;
            return Some(format!(
                "row {place} is of source {source:?}, provider {provider:?}, model {model:?}, \
                 expected {}",
                name(key)
            ));
        }
        let wrong = line(&name(key), found, sum);
        if wrong.is_some() {
            return wrong;
        }
    }
    differing("the number of rows", found.len(), expected.len())
}

/// A receipt's entry in the log, as it was found there.
#[derive(Debug)]
pub struct Held<'a> {
    /// The checkpoint that it was looked up under.
    pub checkpoint: &'a Signed,
    /// The leaf hash at the receipt's index.
    pub leaf: Hash,
    /// Its audit path to the checkpoint's root.
    pub path: &'a [Hash],
}

/// `receipt_not_held`: another entry stands at the index that the receipt
/// promises, or the log ends before it (`held` is `None`).
pub fn receipt_not_held(
    receipt: &Receipt,
    note: &str,
    newest: &Signed,
    held: Option<&Held<'_>>,
) -> Option<Finding> {
    let (index, leaf) = (receipt.index(), receipt.leaf_hash());
    let Some(held) = held else {
        return (newest.size() <= index.get()).then(|| {
            let message = format!(
                "the log signed a receipt for entry {index}, but its checkpoint is of size {}",
                newest.size()
            );
            let material = json!({ "receipt": note, "checkpoint": newest.note });
            Finding::new(Claim::ReceiptNotHeld, Class::Served, message, material).at(index)
        });
    };
    let tree = (held.checkpoint.size(), held.checkpoint.root());
    let shown = rebuild::included(held.leaf, index.get(), tree, held.path);
    (held.leaf != leaf).then(|| {
        let message = format!(
            "the log signed a receipt for entry {index} with leaf hash {leaf}, but holds {} there",
            held.leaf
        );
        let class = if shown { Class::Proven } else { Class::Served };
        let material = json!({
            "receipt": note,
            "checkpoint": held.checkpoint.note,
            "leaf_hash": held.leaf.to_base64(),
            "path": held.path.iter().map(|hash| hash.to_base64()).collect::<Vec<_>>(),
        });
        Finding::new(Claim::ReceiptNotHeld, class, message, material).at(index)
    })
}

/// `receipt_foreign_id`: the receipt's entry commits to another id, so that
/// one record would answer two calls.
pub fn receipt_foreign_id(
    receipt: &Receipt,
    usage: &Usage,
    commitment: Hash,
    file: &Value,
) -> Option<Finding> {
    (usage.receipt != commitment).then(|| {
        let message = format!(
            "entry {} does not commit to this receipt id, but to {}: it is another call's record",
            receipt.index(),
            usage.receipt
        );
        let material = json!({ "file": file });
        Finding::new(Claim::ReceiptForeignId, Class::Served, message, material).at(receipt.index())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::entry::Log;
    use protocol::index::TreeSize;
    use protocol::key::{Origin, Signer};
    use protocol::name::Address;
    use protocol::note;
    use protocol::record::Counts;
    use protocol::tile::TileKind;

    const DAY: u64 = 86_400;

    fn signer() -> Signer {
        Signer::new(Origin::parse("a.b").expect("valid"), &[1; 32])
    }

    fn stranger() -> Signer {
        Signer::new(Origin::parse("a.b").expect("valid"), &[2; 32])
    }

    fn key() -> VerifierKey {
        signer().verifier().clone()
    }

    fn hash(byte: u8) -> Hash {
        Hash::from_bytes([byte; 32])
    }

    fn index(value: u64) -> Index {
        Index::new(value).expect("small")
    }

    fn time(secs: u64) -> Time {
        Time::from_secs(secs).expect("small")
    }

    fn note_of(size: u64, root: Hash) -> String {
        let size = TreeSize::new(size).expect("small");
        Checkpoint::new(key().origin().clone(), size, root).seal(&signer())
    }

    fn signed(size: u64, root: Hash) -> Signed {
        Signed::open(note_of(size, root).as_bytes(), &key()).expect("ours")
    }

    fn claim(finding: Option<Finding>) -> Option<(Claim, Class)> {
        finding.map(|finding| (finding.claim, finding.class))
    }

    fn log(signer: &Signer, rules: u64) -> Body {
        Body::Log(Log {
            key: signer.verifier().clone(),
            rules,
            totals_interval: 600,
            publish_max: 10,
            evm_key: Address::from_bytes([1; 20]),
        })
    }

    fn usage(user: u8, source: Source, model: Option<&str>, input: u32) -> Usage {
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
    struct Made(Index, Vec<u8>, [u8; 64]);

    impl Made {
        fn new(at: u64, bytes: &[u8]) -> Self {
            let receipt =
                Receipt::new(key().origin().clone(), index(at), rebuild::leaf_hash(bytes));
            Self(index(at), bytes.to_vec(), receipt.sign(&signer()))
        }

        fn of(at: u64, body: &Body) -> Self {
            Self::new(at, &body.encode(time(7)))
        }

        fn unsigned(mut self) -> Self {
            self.2[0] ^= 1;
            self
        }

        fn item(&self) -> Item<'_> {
            Item::verify(self.0, &self.1, &self.2, &key())
        }

        fn entry(&self) -> Entry {
            canonical(&self.item(), &key()).expect("canonical")
        }
    }

    #[test]
    fn codes_are_stable_and_different() {
        let codes: std::collections::BTreeSet<_> = Claim::ALL.iter().map(|c| c.code()).collect();
        assert_eq!(codes.len(), Claim::ALL.len());
        assert!(
            Claim::ALL
                .iter()
                .all(|claim| claim.to_string() == claim.code())
        );
        assert_eq!(
            (Class::Proven.word(), Class::Served.word()),
            ("proven", "served")
        );
    }

    #[test]
    fn checkpoints_are_opened_or_say_why_not() {
        let ours = signed(5, hash(1));
        assert_eq!((ours.size(), ours.root()), (5, hash(1)));
        assert_eq!(ours.note(), note_of(5, hash(1)));
        let receipt = Made::new(3, b"x");
        let receipt = Receipt::new(key().origin().clone(), receipt.0, receipt.item().leaf())
            .note(&key(), &receipt.2);
        let foreign = note_of(5, hash(1)).replace(&hash(1).to_base64(), &hash(2).to_base64());
        for (name, note, expected) in [
            (
                "another key",
                note::seal("a.b\n1\nx\n", &stranger()),
                Some((Claim::KeyChanged, Class::Served)),
            ),
            (
                "a bad signature",
                foreign,
                Some((Claim::KeyChanged, Class::Served)),
            ),
            (
                "another text",
                note::seal("hello\n", &signer()),
                Some((Claim::CheckpointMalformed, Class::Proven)),
            ),
            (
                "a receipt",
                receipt,
                Some((Claim::CheckpointMalformed, Class::Served)),
            ),
            ("no note", "<html>".into(), None),
        ] {
            let found = match Signed::open(note.as_bytes(), &key()) {
                Err(Unopened::Misbehaviour(finding)) => claim(Some(finding)),
                Err(Unopened::NotANote(_)) => None,
                Ok(_) => panic!("{name}"),
            };
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn the_served_key_is_the_pinned_one_in_all_its_forms() {
        let good = || Pubkey {
            origin: "a.b".into(),
            vkey: key().to_string(),
            key: Hash::from_bytes(*key().as_bytes()).to_string(),
        };
        assert_eq!(pubkey(&key(), &good()), None);
        for bad in [
            Pubkey {
                origin: "a.c".into(),
                ..good()
            },
            Pubkey {
                vkey: stranger().verifier().to_string(),
                ..good()
            },
            Pubkey {
                key: hash(3).to_string(),
                ..good()
            },
        ] {
            let found = claim(pubkey(&key(), &bad));
            assert_eq!(found, Some((Claim::KeyChanged, Class::Served)), "{bad:?}");
        }
    }

    #[test]
    fn checkpoints_follow_each_other() {
        let [four, five, other] = [signed(4, hash(1)), signed(5, hash(1)), signed(5, hash(2))];
        assert_eq!(
            claim(not_empty(&signed(0, Hash::EMPTY_ROOT))),
            Some((Claim::EmptyLog, Class::Proven))
        );
        assert_eq!(not_empty(&signed(1, hash(1))), None);
        assert_eq!(
            claim(fork(&five, &other)),
            Some((Claim::Fork, Class::Proven))
        );
        assert_eq!(fork(&five, &five), None);
        assert_eq!(fork(&four, &other), None);
        assert_eq!(
            claim(rollback(&five, &four)),
            Some((Claim::Rollback, Class::Served))
        );
        assert_eq!(rollback(&five, &other), None);
        assert_eq!(rollback(&four, &five), None);
        let late = claim(overdue(6, &five, 9));
        assert_eq!(late, Some((Claim::CheckpointOverdue, Class::Served)));
        assert_eq!(overdue(5, &five, 9), None);
        assert_eq!(
            claim(root(&five, hash(2))),
            Some((Claim::RootMismatch, Class::Served))
        );
        assert_eq!(root(&five, hash(1)), None);
    }

    #[test]
    fn a_rewritten_history_is_shown_by_a_proof_that_holds() {
        let [a, b, c] = [1, 2, 3].map(hash);
        let prefix = rebuild::node_hash(&a, &b);
        let newer = signed(3, rebuild::node_hash(&prefix, &c));
        let found = rewritten(&signed(2, hash(7)), &newer, prefix, &[c]);
        assert_eq!(claim(found), Some((Claim::HistoryRewritten, Class::Proven)));
        assert_eq!(rewritten(&signed(2, prefix), &newer, prefix, &[c]), None);
        assert_eq!(rewritten(&signed(2, hash(7)), &newer, prefix, &[a]), None);
    }

    #[test]
    fn tiles_are_compared_to_the_byte() {
        let place = Tile::within(TileKind::Hashes(1), 0, TreeSize::new(700).expect("small"));
        let place = place.expect("within");
        let rebuilt = [hash(1), hash(2)];
        let mut served = [[1; 32], [2; 32]].concat();
        assert_eq!(tile(place, &served, &rebuilt), None);
        assert!(tile(place, &served[..32], &rebuilt).is_some());
        served[63] ^= 1;
        let finding = tile(place, &served, &rebuilt).expect("differs");
        assert_eq!(
            (finding.claim, finding.class),
            (Claim::TileMismatch, Class::Served)
        );
        assert_eq!(
            finding.message,
            "hash 1 of /tile/1/000.p/2 is not what the entries give"
        );
    }

    #[test]
    fn entries_and_receipts_are_judged_one_by_one() {
        let key = key();
        let call = Body::Usage(usage(1, Source::Proxy, None, 5));
        let own = log(&signer(), RULES);
        let good = Made::of(3, &call);
        assert!(good.item().signed());
        assert_eq!(good.item().leaf(), rebuild::leaf_hash(&good.1));
        assert_eq!(receipt_signature(&good.item(), &key), None);
        let elsewhere = Item::verify(index(4), &good.1, &good.2, &key);
        for bad in [&elsewhere, &Made::of(3, &call).unsigned().item()] {
            let found = claim(receipt_signature(bad, &key));
            assert_eq!(found, Some((Claim::ReceiptSignature, Class::Served)));
        }
        let again = Item::again(good.0, &good.1, &good.2, true);
        assert_eq!((again.leaf(), again.signed()), (good.item().leaf(), true));
        assert!(!elsewhere.signed());

        // The evidence shows the entry with a receipt that opens under the key.
        let shown = good.item().material(&key);
        assert_eq!(shown["index"], 3);
        assert_eq!(shown["entry"], STANDARD.encode(&good.1));
        let receipt = shown["receipt"].as_str().expect("a note");
        let opened = Receipt::open(receipt.as_bytes(), &key).expect("genuine");
        assert_eq!(
            (opened.index(), opened.leaf_hash()),
            (good.0, good.item().leaf())
        );

        let malformed = Made::new(3, b"{}");
        let finding = canonical(&malformed.item(), &key).expect_err("not canonical");
        assert_eq!(
            (finding.claim, finding.class),
            (Claim::EntryMalformed, Class::Proven)
        );
        assert_eq!(finding.index, Some(3));
        let finding = canonical(&malformed.unsigned().item(), &key).expect_err("not canonical");
        assert_eq!(finding.class, Class::Served);

        let unknown = |kind: &str| format!(r#"{{"v":2,"kind":"{kind}","time":7}}"#).into_bytes();
        let first = Some((Claim::FirstEntry, Class::Proven));
        let second = Some((Claim::SecondLogEntry, Class::Proven));
        for (name, made, expected) in [
            ("own entry 0", Made::of(0, &own), (None, None)),
            (
                "another key's",
                Made::of(0, &log(&stranger(), RULES)),
                (first, None),
            ),
            ("a call", Made::of(0, &call), (first, None)),
            (
                "a later log entry",
                Made::new(0, &unknown("log")),
                (None, None),
            ),
            (
                "a later kind",
                Made::new(0, &unknown("later")),
                (first, None),
            ),
            ("a call later", Made::of(1, &call), (None, None)),
            ("a second", Made::of(1, &own), (None, second)),
            (
                "a later second",
                Made::new(1, &unknown("log")),
                (None, None),
            ),
        ] {
            let (item, entry) = (made.item(), made.entry());
            let found = (
                first_entry(&item, &entry, &key),
                second_log_entry(&item, &entry, &key),
            );
            assert_eq!((claim(found.0), claim(found.1)), expected, "{name}");
        }
        for (name, made, judged) in [
            ("known rules", Made::of(0, &own), true),
            (
                "unknown rules",
                Made::of(0, &log(&signer(), RULES + 1)),
                false,
            ),
            ("a call", Made::of(1, &call), true),
            ("an unknown kind", Made::new(1, &unknown("later")), false),
        ] {
            assert_eq!(upgrade(made.0, &made.entry()).is_none(), judged, "{name}");
        }
    }

    #[test]
    fn times_do_not_decrease() {
        let key = key();
        let [a, b] = [Made::new(1, b"a"), Made::new(2, b"b")];
        let judge = |a: &Made, b: &Made, earlier, later| {
            let (before, this) = ((&a.item(), time(earlier)), (&b.item(), time(later)));
            claim(time_backwards(before, this, &key))
        };
        assert_eq!(judge(&a, &b, 5, 5), None);
        assert_eq!(judge(&a, &b, 5, 6), None);
        assert_eq!(
            judge(&a, &b, 5, 4),
            Some((Claim::TimeBackwards, Class::Proven))
        );
        let served = Some((Claim::TimeBackwards, Class::Served));
        assert_eq!(judge(&a, &Made::new(2, b"b").unsigned(), 5, 4), served);
        assert_eq!(judge(&Made::new(1, b"a").unsigned(), &b, 5, 4), served);
    }

    #[test]
    fn wallets_are_bound_by_something() {
        let mut usage = usage(1, Source::Proxy, None, 5);
        let made = Made::of(1, &Body::Usage(usage.clone()));
        assert_eq!(unbound_wallet(&made.item(), &usage, false, &key()), None);
        usage.wallet = Some((Address::from_bytes([1; 20]), Link::Bound));
        let found = claim(unbound_wallet(&made.item(), &usage, false, &key()));
        assert_eq!(found, Some((Claim::UnboundWallet, Class::Proven)));
        assert_eq!(unbound_wallet(&made.item(), &usage, true, &key()), None);
        usage.wallet = None;
        assert_eq!(unbound_wallet(&made.item(), &usage, false, &key()), None);
    }

    /// Sums over a few calls on days 100 and 103.
    fn sums() -> Sums {
        let mut sums = Sums::default();
        for (day, user, source, model, input) in [
            (100, 1, Source::Proxy, Some("a"), 10),
            (100, 2, Source::Proxy, Some("b"), 20),
            (103, 1, Source::Custom, Some("a"), 30),
            (103, 3, Source::Proxy, None, 40),
        ] {
            sums.add(time(day * DAY), usage(user, source, model, input));
        }
        sums
    }

    fn row(key_id: Option<u8>, of: [Option<&str>; 3], records: u64, input: u64) -> Value {
        json!({
            "key_id": key_id.map(|user| hash(user).to_string()),
            "source": of[0], "provider": of[1], "model": of[2],
            "records": records, "input": input, "cache_read": 0, "cache_write": 0,
            "output": records, "reasoning": 0, "total": input + records,
        })
    }

    fn answers() -> Vec<(Question, Claim, Value)> {
        let [proxy, custom, openai] = [Some("proxy"), Some("custom"), Some("openai")];
        let models = json!([
            row(None, [proxy, openai, None], 1, 40),
            row(None, [custom, openai, Some("a")], 1, 30),
            row(None, [proxy, openai, Some("b")], 1, 20),
            row(None, [proxy, openai, Some("a")], 1, 10),
        ]);
        let rows = |users: &[(u8, u64)]| -> Value {
            users
                .iter()
                .map(|(user, input)| row(Some(*user), [None; 3], 1, *input))
                .collect()
        };
        let board = |from: Value, to: Value, source: &str, rows: Value| json!({ "size": 5, "from": from, "to": to, "source": source, "rows": rows });
        let size = TreeSize::new(5).expect("small");
        let note = Checkpoint::new(key().origin().clone(), size, hash(4)).seal(&signer());
        vec![
            (
                Question::Chain,
                Claim::AggregateChain,
                json!({
                    "origin": "a.b", "size": 5, "root": hash(4).to_string(),
                    "root_base64": hash(4).to_base64(), "checkpoint": note,
                }),
            ),
            (
                Question::Stats,
                Claim::AggregateStats,
                json!({
                    "size": 5, "records": 4, "users": 3, "models": 2, "wallets": 3,
                    "sources": [row(None, [proxy, None, None], 3, 70), row(None, [custom, None, None], 1, 30)],
                    "outcomes": {"complete": 4, "unknown": 0},
                }),
            ),
            (
                Question::Models(None),
                Claim::AggregateModels,
                json!({
                    "size": 5, "from": null, "to": null, "models": models,
                }),
            ),
            (
                Question::Models(Some(3)),
                Claim::AggregateModels,
                json!({
                    "size": 5, "from": "1970-04-12", "to": "1970-04-14",
                    "models": [models[0], models[1]],
                }),
            ),
            (
                Question::Leaderboard(Source::Proxy, None),
                Claim::AggregateLeaderboard,
                board(
                    Value::Null,
                    Value::Null,
                    "proxy",
                    rows(&[(3, 40), (2, 20), (1, 10)]),
                ),
            ),
            (
                Question::Leaderboard(Source::Custom, None),
                Claim::AggregateLeaderboard,
                board(Value::Null, Value::Null, "custom", rows(&[(1, 30)])),
            ),
            (
                Question::Leaderboard(Source::Proxy, Some(1)),
                Claim::AggregateLeaderboard,
                board(
                    "1970-04-14".into(),
                    "1970-04-14".into(),
                    "proxy",
                    rows(&[(3, 40)]),
                ),
            ),
            (
                Question::User(hash(1)),
                Claim::AggregateUser,
                json!({
                    "size": 5, "key_id": hash(1).to_string(),
                    "sources": [row(None, [proxy, None, None], 1, 10), row(None, [custom, None, None], 1, 30)],
                    "models": [models[3], models[1]],
                }),
            ),
            (
                Question::User(hash(8)),
                Claim::AggregateUser,
                json!({
                    "size": 5, "key_id": hash(8).to_string(), "sources": [], "models": [],
                }),
            ),
        ]
    }

    fn judged(question: &Question, answer: &Value, own_day: u64) -> Option<Finding> {
        let body = answer.to_string().into_bytes();
        let answer = Answer::read(question, &body).expect("of the right form");
        let (key, mut sums) = (key(), sums());
        let at = &mut At {
            key: &key,
            size: answer.size(),
            root: hash(4),
            newest_day: 103,
            own_day,
            sums: &mut sums,
        };
        aggregate(question, &answer, &body, at)
    }

    /// Every single change of a number, text or list, as a list of values.
    fn bent(value: &Value) -> Vec<Value> {
        match value {
            Value::Number(n) => vec![json!(n.as_u64().expect("counts") + 1)],
            Value::String(text) => vec![json!(format!("{text}x")), json!("")],
            Value::Array(rows) if rows.is_empty() => {
                vec![json!([row(
                    None,
                    [Some("proxy"), Some("openai"), None],
                    1,
                    1
                )])]
            }
            Value::Array(rows) => {
                let mut all = vec![json!(rows[1..]), json!([&rows[..], &rows[..1]].concat())];
                if rows.len() > 1 {
                    let mut swapped = rows.clone();
                    swapped.swap(0, 1);
                    all.push(json!(swapped));
                }
                for (i, row) in rows.iter().enumerate() {
                    for row in bent(row) {
                        let mut rows = rows.clone();
                        rows[i] = row;
                        all.push(json!(rows));
                    }
                }
                all
            }
            Value::Object(fields) => {
                let with = |(name, value): (&String, &Value)| -> Vec<Value> {
                    let put = |value| {
                        let mut fields = fields.clone();
                        fields.insert(name.clone(), value);
                        Value::Object(fields)
                    };
                    bent(value).into_iter().map(put).collect()
                };
                fields
                    .iter()
                    .filter(|(name, _)| *name != "size")
                    .flat_map(with)
                    .collect()
            }
            Value::Null | Value::Bool(_) => vec![],
        }
    }

    #[test]
    fn aggregates_are_the_sums_and_nothing_else() {
        for (question, expected, answer) in answers() {
            assert_eq!(judged(&question, &answer, 103), None, "{question:?}");
            let all = bent(&answer);
            assert!(all.len() > 3);
            for bad in all {
                let found = claim(judged(&question, &bad, 103));
                assert_eq!(
                    found,
                    Some((expected, Class::Served)),
                    "{question:?}: {bad}"
                );
            }
        }
    }

    #[test]
    fn chains_checkpoint_is_its_own() {
        let (question, _, good) = answers().swap_remove(0);
        let other = |size, root| {
            let mut answer = good.clone();
            answer["checkpoint"] = note_of(size, root).into();
            judged(&question, &answer, 103)
        };
        assert_eq!(other(5, hash(4)), None);
        assert!(other(4, hash(4)).is_some());
        assert!(other(5, hash(5)).is_some());
    }

    #[test]
    fn strange_outcomes_must_not_count() {
        let (question, _, good) = answers().swap_remove(1);
        for (outcomes, right) in [
            (json!({"complete": 4}), true),
            (json!({"complete": 4, "later": 0}), true),
            (json!({"complete": 4, "later": 1}), false),
            (json!({"complete": 4, "aborted": 1}), false),
            (json!({}), false),
        ] {
            let mut answer = good.clone();
            answer["outcomes"] = outcomes;
            assert_eq!(judged(&question, &answer, 103).is_none(), right, "{answer}");
        }
    }

    #[test]
    fn windows_end_between_the_newest_entry_and_tomorrow() {
        let question = Question::Leaderboard(Source::Custom, Some(2));
        let board = |from: &str, to: &str, rows: u64| {
            let rows: Vec<Value> = (0..rows).map(|_| row(Some(1), [None; 3], 1, 30)).collect();
            json!({ "size": 5, "from": from, "to": to, "source": "custom", "rows": rows })
        };
        for (name, answer, own_day, right) in [
            (
                "the newest entry's day",
                board("1970-04-13", "1970-04-14", 1),
                103,
                true,
            ),
            (
                "though our clock is late",
                board("1970-04-13", "1970-04-14", 1),
                90,
                true,
            ),
            (
                "though our clock is ahead",
                board("1970-04-13", "1970-04-14", 1),
                900,
                true,
            ),
            ("tomorrow", board("1970-04-14", "1970-04-15", 1), 103, true),
            (
                "the day after",
                board("1970-04-15", "1970-04-16", 0),
                103,
                false,
            ),
            (
                "today, later",
                board("1970-04-19", "1970-04-20", 0),
                109,
                true,
            ),
            (
                "yesterday",
                board("1970-04-12", "1970-04-13", 0),
                103,
                false,
            ),
            (
                "a day too many",
                board("1970-04-12", "1970-04-14", 1),
                103,
                false,
            ),
            (
                "a day too few",
                board("1970-04-14", "1970-04-14", 1),
                103,
                false,
            ),
            ("no day", board("1970-04-13", "1970-04-31", 1), 103, false),
        ] {
            assert_eq!(
                judged(&question, &answer, own_day).is_none(),
                right,
                "{name}"
            );
        }
        let mut all = answers().swap_remove(4);
        all.2["to"] = "1970-04-14".into();
        assert!(judged(&all.0, &all.2, 103).is_some());
    }

    #[test]
    fn an_answer_to_another_question_is_wrong() {
        let all = answers();
        let body = all[1].2.to_string().into_bytes();
        let answer = Answer::read(&all[1].0, &body).expect("stats");
        let (key, mut sums) = (key(), sums());
        let at = &mut At {
            key: &key,
            size: 5,
            root: hash(4),
            newest_day: 103,
            own_day: 103,
            sums: &mut sums,
        };
        let found = aggregate(&Question::Models(None), &answer, &body, at);
        assert_eq!(claim(found), Some((Claim::AggregateModels, Class::Served)));
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (text, day) in [
            ("1970-01-01", Some(0)),
            ("1970-12-31", Some(364)),
            ("1972-02-29", Some(789)),
            ("1972-03-01", Some(790)),
            ("2000-02-29", Some(11_016)),
            ("2000-03-01", Some(11_017)),
            ("2025-10-09", Some(20_370)),
            ("2100-03-01", Some(47_541)),
            ("9999-12-31", Some(2_932_896)),
            ("1969-12-31", None),
            ("2001-02-29", None),
            ("2100-02-29", None),
            ("2025-13-01", None),
            ("2025-00-01", None),
            ("2025-01-00", None),
            ("2025-01-32", None),
            ("2025-04-31", None),
            ("2025/01/01", None),
            ("2025-01/01", None),
            ("2025-1-01", None),
            ("2025-01-01Z", None),
            ("2025-01-0a", None),
            ("", None),
        ] {
            assert_eq!(day_number(text), day, "{text}");
        }
    }

    #[test]
    fn receipts_are_held_or_not() {
        let made = Made::new(1, b"mine");
        let (mine, other) = (made.item().leaf(), hash(6));
        let receipt = Receipt::new(key().origin().clone(), made.0, mine);
        let judge = |newest: &Signed, held: Option<&Held<'_>>| {
            claim(receipt_not_held(&receipt, "note", newest, held))
        };
        let short = signed(1, hash(1));
        let missing = Some((Claim::ReceiptNotHeld, Class::Served));
        assert_eq!(judge(&short, None), missing);
        assert_eq!(judge(&signed(2, hash(1)), None), None);
        for (leaf, root_of, expected) in [
            (mine, mine, None),
            (other, other, Some((Claim::ReceiptNotHeld, Class::Proven))),
            (other, mine, Some((Claim::ReceiptNotHeld, Class::Served))),
        ] {
            let newest = signed(2, rebuild::node_hash(&hash(1), &root_of));
            let held = Held {
                checkpoint: &newest,
                leaf,
                path: &[hash(1)],
            };
            assert_eq!(judge(&newest, Some(&held)), expected);
        }
        let usage = usage(1, Source::Proxy, None, 5);
        assert_eq!(
            receipt_foreign_id(&receipt, &usage, usage.receipt, &Value::Null),
            None
        );
        let foreign = claim(receipt_foreign_id(&receipt, &usage, other, &Value::Null));
        assert_eq!(foreign, Some((Claim::ReceiptForeignId, Class::Served)));
    }
}
