//! What is judged: one function per claim.
//!
//! Pure: no I/O, no clock, no randomness. A function says what is wrong with
//! what it is given, or nothing. Out of scope: asking a second time before a
//! served finding is believed (see [`crate::pass`] and [`crate::follow`]).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::checkpoint::{Checkpoint, CheckpointError};
use protocol::entry::{Body, Entry, RULES};
use protocol::hash::Hash;
use protocol::index::{Index, Time};
use protocol::key::VerifierKey;
use protocol::name::Name;
use protocol::note::NoteError;
use protocol::receipt::Receipt;
use protocol::record::{Link, Outcome, Source, Usage};
use protocol::tile::Tile;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, Chain, LIMIT, Leaderboard, Line, Models, Pubkey, Question, Stats, User};
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
        Self { claim, class, index: None, message, material }
    }

    fn at(self, index: Index) -> Self {
        Self { index: Some(index.get()), ..self }
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
            Ok(checkpoint) => Ok(Self { note: text, checkpoint }),
            Err(CheckpointError::Note(error @ NoteError::Malformed(_))) => {
                Err(Unopened::NotANote(error.to_string()))
            }
            Err(CheckpointError::Note(error)) => {
                let message = format!("the checkpoint is not signed by the pinned key: {error}");
                let claim = Claim::KeyChanged;
                Err(Unopened::Misbehaviour(Finding::new(claim, Class::Served, message, material)))
            }
            Err(error @ CheckpointError::Text { .. }) => {
                // A receipt is rightly signed; it is only not a checkpoint.
                let receipt = Receipt::open(note, key).is_ok();
                let class = if receipt { Class::Served } else { Class::Proven };
                let claim = Claim::CheckpointMalformed;
                let message = error.to_string();
                Err(Unopened::Misbehaviour(Finding::new(claim, class, message, material)))
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
    Some(Finding::new(Claim::KeyChanged, Class::Served, message, material))
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
    let same = served.chunks(32).zip(expected.chunks(32)).take_while(|(a, b)| a == b).count();
    let path = tile.path();
    let message = format!("hash {same} of /{path} is not what the entries give");
    let material = json!({
        "path": path,
        "served": STANDARD.encode(served),
        "rebuilt": STANDARD.encode(expected),
    });
    Some(Finding::new(Claim::TileMismatch, Class::Served, message, material))
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
        Self { index, bytes, signature, leaf, signed }
    }

    /// Takes up one that was verified before.
    pub fn again(index: Index, bytes: &'a [u8], signature: &'a [u8; 64], signed: bool) -> Self {
        Self { index, bytes, signature, leaf: rebuild::leaf_hash(bytes), signed }
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
        let class = if self.signed { Class::Proven } else { Class::Served };
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
        Entry::Known { body: Body::Log(log), .. } if log.key == *key => return None,
        Entry::Known { body: Body::Log(log), .. } => {
            format!("entry 0 names the key {}, pinned is {key}", log.key)
        }
        // A later version of the log's own entry may name its key otherwise.
        Entry::Unknown { kind, .. } if kind == "log" => return None,
        Entry::Unknown { kind, .. } => format!("entry 0 is of kind {kind:?}, expected \"log\""),
        Entry::Known { body: Body::Usage(_), .. } => {
            "entry 0 is of kind \"usage\", expected \"log\"".into()
        }
    };
    Some(item.finding(Claim::FirstEntry, wrong, key))
}

/// `second_log_entry`: an entry of kind `log` after entry 0.
pub fn second_log_entry(item: &Item<'_>, entry: &Entry, key: &VerifierKey) -> Option<Finding> {
    let log = matches!(entry, Entry::Known { body: Body::Log(_), .. });
    (log && item.index.get() > 0).then(|| {
        let message = format!("entry {} is of kind \"log\", as only entry 0 may be", item.index);
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
        Entry::Unknown { version, kind, .. } => {
            Some(format!("entry {index} is of kind {kind:?} version {version}"))
        }
        Entry::Known { body: Body::Log(log), .. } if log.rules != RULES => {
            Some(format!("entry {index} names rules version {}", log.rules))
        }
        Entry::Known { .. } => None,
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
    Some(misanswered(question, &format!("over {} entries: {wrong}", at.size), body))
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
        .or_else(|| match Signed::open(answer.checkpoint.as_bytes(), at.key) {
            Ok(signed) => differing("the checkpoint's size", signed.size(), answer.size)
                .or_else(|| differing("the checkpoint's root", signed.root(), at.root)),
            Err(Unopened::NotANote(error)) => Some(format!("the checkpoint: {error}")),
            Err(Unopened::Misbehaviour(finding)) => Some(finding.message),
        })
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
            let strange = answer.outcomes.iter().find(|(word, n)| {
                !words.contains_key(word.as_str()) && **n != 0
            });
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
    let expected = at.sums.models(days.as_ref());
    by_category(&answer.models, &expected).or_else(|| {
        let falling = answer.models.is_sorted_by(|a, b| a.total >= b.total);
        (!falling).then(|| "the models are not by total, descending".into())
    })
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
    let expected = at.sums.user(key_id);
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
            _ => Err(format!("has a window {from:?} to {to:?}, but was not asked for one")),
        };
    };
    let (Some(first), Some(last)) = (from.and_then(day_number), to.and_then(day_number)) else {
        return Err(format!("has no window of days, but {from:?} to {to:?}"));
    };
    if first + days != last + 1 {
        return Err(format!("has a window of other than {days} days: {from:?} to {to:?}"));
    }
    if last < at.newest_day {
        return Err(format!("has a window that ends before the newest entry's day: {to:?}"));
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
        digits.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
    };
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
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
    let key = |line: &Line| Source::parse(line.source.as_deref()?);
    same_lines(found, key, &expected.iter().map(|(source, sum)| (*source, *sum)).collect())
}

fn by_category(found: &[Line], expected: &BTreeMap<&Category, Sum>) -> Option<String> {
    let key = |line: &Line| {
        let category = Category {
            source: Source::parse(line.source.as_deref()?)?,
            provider: Name::new(line.provider.as_deref()?)?,
            model: match line.model.as_deref() {
                Some(model) => Some(Name::new(model)?),
                None => None,
            },
        };
        expected.get_key_value(&category).map(|(category, _)| *category)
    };
    same_lines(found, key, expected)
}

/// Whether lines are exactly the expected ones, in any order.
fn same_lines<K: Ord + Copy + fmt::Debug>(
    found: &[Line],
    key: impl Fn(&Line) -> Option<K>,
    expected: &BTreeMap<K, Sum>,
) -> Option<String> {
    let mut left = expected.clone();
    for found in found {
        let sum = key(found).and_then(|key| left.remove_entry(&key));
        let Some((key, sum)) = sum else {
            let Line { source, provider, model, .. } = found;
            return Some(format!(
                "has a line that the log does not give, or gives once: \
                 source {source:?}, provider {provider:?}, model {model:?}"
            ));
        };
        let wrong = line(&format!("{key:?}"), found, &sum);
        if wrong.is_some() {
            return wrong;
        }
    }
    left.first_key_value().map(|(key, sum)| format!("has no line for {key:?}, expected {sum:?}"))
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
        Finding::new(Claim::ReceiptForeignId, Class::Served, message, material)
            .at(receipt.index())
    })
}
