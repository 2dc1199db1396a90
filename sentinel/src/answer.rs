//! The HTTP interface's JSON answers, as far as the sentinel reads them
//! (PROTOCOL.md section 10). Members that it does not know are ignored.
//!
//! Out of scope: whether they are right (see [`crate::audit`]).

use protocol::hash::Hash;
use protocol::name::Address;
use protocol::record::Source;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::sums::Sum;

/// Rows that a leaderboard is asked for.
pub const LIMIT: usize = 1_000;

/// An aggregate that the sentinel asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The newest committed size.
    Chain,
    /// Counts over everything.
    Stats,
    /// Sums by model, over all time or a number of days.
    Models(Option<u64>),
    /// Users by tokens, of one source, over all time or a number of days.
    Leaderboard(Source, Option<u64>),
    /// One user's sums.
    User(Hash),
    /// One wallet's sums, with their proof.
    Wallet(Address),
}

impl Question {
    /// Where it is asked, without the leading slash.
    pub fn path(&self) -> String {
        let days = |days: &Option<u64>| days.map(|days| format!("days={days}"));
        match self {
            Self::Chain => "api/chain".into(),
            Self::Stats => "api/stats".into(),
            Self::Models(None) => "api/models".into(),
            Self::Models(window) => format!("api/models?{}", days(window).unwrap_or_default()),
            Self::Leaderboard(source, window) => {
                let days = days(window).map_or(String::new(), |days| format!("&{days}"));
                format!(
                    "api/leaderboard?source={}&limit={LIMIT}{days}",
                    source.as_str()
                )
            }
            Self::User(key_id) => format!("api/user/{key_id}"),
            Self::Wallet(wallet) => format!("api/wallet/{wallet}"),
        }
    }

    /// The longest answer that is read. Models are all listed, the rest is short.
    pub fn max_bytes(&self) -> usize {
        match self {
            Self::Models(_) => 16 << 20,
            _ => 2 << 20,
        }
    }
}

/// An answer that was read.
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Chain`].
    Chain(Chain),
    /// To [`Question::Stats`].
    Stats(Stats),
    /// To [`Question::Models`].
    Models(Models),
    /// To [`Question::Leaderboard`].
    Leaderboard(Leaderboard),
    /// To [`Question::User`].
    User(User),
    /// To [`Question::Wallet`].
    Wallet(Wallet),
}

/// Why an answer could not be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// Not JSON, or cut off: no answer.
    Incomplete(String),
    /// JSON, but not of the form that PROTOCOL.md gives it.
    Malformed(String),
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Incomplete(why) | Self::Malformed(why)) = self;
        f.write_str(why)
    }
}

impl Answer {
    /// Reads the answer to `question`.
    ///
    /// # Errors
    /// Not JSON, or JSON of another form.
    pub fn read(question: &Question, body: &[u8]) -> Result<Self, Unread> {
        Ok(match question {
            Question::Chain => Self::Chain(json(body)?),
            Question::Stats => Self::Stats(json(body)?),
            Question::Models(_) => Self::Models(json(body)?),
            Question::Leaderboard(..) => Self::Leaderboard(json(body)?),
            Question::User(_) => Self::User(json(body)?),
            Question::Wallet(_) => Self::Wallet(json(body)?),
        })
    }

    /// The number of entries that it is computed over.
    pub fn size(&self) -> u64 {
        match self {
            Self::Chain(answer) => answer.size,
            Self::Stats(answer) => answer.size,
            Self::Models(answer) => answer.size,
            Self::Leaderboard(answer) => answer.size,
            Self::User(answer) => answer.size,
            Self::Wallet(answer) => answer.size,
        }
    }
}

/// Reads JSON.
///
/// # Errors
/// [`Unread::Incomplete`] where a cut answer could look so, otherwise
/// [`Unread::Malformed`].
pub fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Unread> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        if error.is_data() {
            Unread::Malformed(text)
        } else {
            Unread::Incomplete(text)
        }
    })
}

/// `/api/pubkey`.
#[derive(Debug, Deserialize)]
pub struct Pubkey {
    /// The origin.
    pub origin: String,
    /// The verifier key.
    pub vkey: String,
    /// The public key in hex.
    pub key: String,
}

/// `/api/chain`.
#[derive(Debug, Deserialize)]
pub struct Chain {
    /// The origin.
    pub origin: String,
    /// The newest committed size.
    pub size: u64,
    /// Its root in hex.
    pub root: String,
    /// Its root in base64.
    pub root_base64: String,
    /// Its checkpoint.
    pub checkpoint: String,
}

/// `/api/stats`.
#[derive(Debug, Deserialize)]
pub struct Stats {
    /// Entries it is computed over.
    pub size: u64,
    /// Usage entries.
    pub records: u64,
    /// Distinct key ids.
    pub users: u64,
    /// Distinct models.
    pub models: u64,
    /// Distinct wallets.
    pub wallets: u64,
    /// Sums by source.
    pub sources: Vec<Line>,
    /// Usage entries by outcome.
    pub outcomes: std::collections::BTreeMap<String, u64>,
}

/// `/api/models`.
#[derive(Debug, Deserialize)]
pub struct Models {
    /// Entries it is computed over.
    pub size: u64,
    /// The first day.
    pub from: Option<String>,
    /// The last day.
    pub to: Option<String>,
    /// Sums by source, provider and model.
    pub models: Vec<Line>,
}

/// `/api/leaderboard`.
#[derive(Debug, Deserialize)]
pub struct Leaderboard {
    /// Entries it is computed over.
    pub size: u64,
    /// The first day.
    pub from: Option<String>,
    /// The last day.
    pub to: Option<String>,
    /// The source whose sums these are.
    pub source: String,
    /// Sums by user.
    pub rows: Vec<Line>,
}

/// `/api/wallet/{addr}`.
#[derive(Clone, Debug, Deserialize)]
pub struct Wallet {
    /// Entries it is computed over.
    pub size: u64,
    /// The wallet, in lower case.
    pub wallet: String,
    /// Sums of bound records by source.
    pub bound: Vec<Line>,
    /// Sums of claimed records by source.
    pub claimed: Vec<Line>,
    /// What proves the bound ones; `None` where the gateway has none at the moment.
    pub proof: Option<Box<Proof>>,
}

/// A wallet's proof (PROTOCOL.md section 4.5). Nothing of it is verified.
#[derive(Clone, Debug, Deserialize)]
pub struct Proof {
    /// A checkpoint note.
    pub checkpoint: String,
    /// Entry 0.
    pub log: ProvenEntry,
    /// The newest totals entry.
    pub totals: Option<ProvenEntry>,
    /// The first entry that it leaves out.
    pub next: Option<ProvenEntry>,
    /// The checkpoint's last entry.
    pub last: ProvenEntry,
    /// The wallet's leaves and the neighbour on each side.
    pub leaves: Vec<ProvenLeaf>,
}

/// `/api/wallet/{addr}/records?proof=1`. Nothing of it is verified.
#[derive(Clone, Debug, Deserialize)]
pub struct WalletRecords {
    /// A checkpoint note.
    pub checkpoint: String,
    /// The wallet's records.
    pub records: Vec<NewerRecord>,
    /// Where the next part begins, if there is one.
    pub next: Option<u64>,
}

/// A record with its inclusion proof.
#[derive(Clone, Debug, Deserialize)]
pub struct NewerRecord {
    /// The entry and its proof.
    #[serde(flatten)]
    pub proven: ProvenEntry,
    /// Its receipt, a signed note.
    pub receipt: String,
}

/// An entry with its inclusion proof.
#[derive(Clone, Debug, Deserialize)]
pub struct ProvenEntry {
    /// Where it stands.
    pub index: u64,
    /// Its text.
    pub entry: String,
    /// From its sibling up, in base64.
    pub hashes: Vec<String>,
}

/// A leaf of the totals tree with its inclusion proof.
#[derive(Clone, Debug, Deserialize)]
pub struct ProvenLeaf {
    /// Its place among the leaves.
    pub index: u64,
    /// Its bytes in hex.
    pub leaf: String,
    /// From its sibling up, in base64.
    pub hashes: Vec<String>,
}

/// `/api/user/{key_id}`.
#[derive(Debug, Deserialize)]
pub struct User {
    /// Entries it is computed over.
    pub size: u64,
    /// Whose sums these are.
    pub key_id: String,
    /// Sums by source.
    pub sources: Vec<Line>,
    /// Sums by source, provider and model.
    pub models: Vec<Line>,
}

/// Sums, and what they are of.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// Whose.
    pub key_id: Option<Box<str>>,
    /// Of what source.
    pub source: Option<Box<str>>,
    /// Of what provider.
    pub provider: Option<Box<str>>,
    /// Of what model.
    pub model: Option<Box<str>>,
    records: u64,
    input: u64,
    cache_read: u64,
    cache_write: u64,
    output: u64,
    reasoning: u64,
    /// Input and output together, as the answer says.
    pub total: u64,
}

impl Line {
    /// The sums.
    pub fn sum(&self) -> Sum {
        Sum {
            records: self.records,
            input: self.input,
            cache_read: self.cache_read,
            cache_write: self.cache_write,
            output: self.output,
            reasoning: self.reasoning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_cut_answers_from_wrong_ones() {
        let good = r#"{"origin":"a.b","vkey":"v","key":"k","new":[1]}"#;
        assert!(json::<Pubkey>(good.as_bytes()).is_ok());
        for len in 0..good.len() {
            let cut = json::<Pubkey>(&good.as_bytes()[..len]);
            assert!(matches!(cut, Err(Unread::Incomplete(_))), "{len}: {cut:?}");
        }
        let deep = format!(r#"{{"new":{}"#, "[".repeat(100_000));
        for (incomplete, body) in [
            (true, "<html>busy</html>"),
            (true, r#"{"size":NaN}"#),
            (true, &deep),
            (false, r#"{"origin":"a.b","vkey":"v"}"#),
            (false, r#"{"origin":"a.b","vkey":"v","key":"k","key":"k"}"#),
            (false, r#"{"origin":"a.b","vkey":-1,"key":"k"}"#),
            (false, "[]"),
        ] {
            let read = json::<Pubkey>(body.as_bytes());
            assert_eq!(
                matches!(read, Err(Unread::Incomplete(_))),
                incomplete,
                "{read:?}"
            );
            assert!(read.is_err());
        }
    }

    #[test]
    fn questions_have_their_paths() {
        for (question, path) in [
            (Question::Chain, "api/chain"),
            (Question::Models(None), "api/models"),
            (Question::Models(Some(7)), "api/models?days=7"),
            (
                Question::Leaderboard(Source::Proxy, None),
                "api/leaderboard?source=proxy&limit=1000",
            ),
            (
                Question::Leaderboard(Source::Custom, Some(30)),
                "api/leaderboard?source=custom&limit=1000&days=30",
            ),
        ] {
            assert_eq!(question.path(), path);
        }
    }
}
