//! The answers below `/api`: plain loops over the log's first `size` entries.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use protocol::name::Address;
use serde_json::{Map, Value, json};

use super::log::{Log, now};
use super::wallet;

const SOURCES: [&str; 2] = ["proxy", "custom"];
const OUTCOMES: [&str; 5] = ["complete", "aborted", "partial", "unmetered", "unknown"];
const COUNTS: [&str; 5] = ["input", "cache_read", "cache_write", "output", "reasoning"];

/// What a usage entry adds to the sums.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    day: u64,
    key_id: Option<String>,
    wallet: Option<(String, String)>,
    source: String,
    provider: String,
    model: Option<String>,
    counts: [u64; 5],
    outcome: String,
}

impl Call {
    /// Reads an entry as leniently as it can, so that sums agree even with
    /// entries that no strict reader takes. `None` for other kinds.
    pub(crate) fn read(entry: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(entry).ok()?;
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        if text("kind")? != "usage" || value["v"] != 1 {
            return None;
        }
        Some(Self {
            day: value["time"].as_u64()? / 86_400,
            key_id: text("key_id"),
            wallet: text("wallet").zip(text("link")),
            source: text("source")?,
            provider: text("provider")?,
            model: text("model"),
            counts: COUNTS.map(|name| value.get(name).and_then(Value::as_u64).unwrap_or(0)),
            outcome: text("outcome")?,
        })
    }
}

/// Sums over some calls.
#[derive(Clone, Copy, Default)]
struct Sums {
    records: u64,
    counts: [u64; 5],
}

impl Sums {
    fn of<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Self {
        calls.into_iter().fold(Self::default(), Self::with)
    }

    fn with(mut self, call: &Call) -> Self {
        self.records += 1;
        for (sum, count) in self.counts.iter_mut().zip(call.counts) {
            *sum += count;
        }
        self
    }

    fn total(&self) -> u64 {
        self.counts[0] + self.counts[3]
    }

    /// The sums, flat beside what they are of.
    fn beside(&self, of: Value) -> Value {
        let Value::Object(mut object) = of else {
            panic!("sums stand in objects")
        };
        object.insert("records".into(), self.records.into());
        for (name, sum) in COUNTS.into_iter().zip(self.counts) {
            object.insert(name.into(), sum.into());
        }
        object.insert("total".into(), self.total().into());
        Value::Object(object)
    }
}

/// What is asked for below the log's URL.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
}

impl Request {
    /// Takes a path with its query apart.
    pub(crate) fn new(target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self {
            path: path.to_owned(),
            query: pairs
                .map(|(name, value)| (name.to_owned(), value.replace("%20", " ")))
                .collect(),
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.query.get(name)?.parse().ok()
    }
}

/// The answer to `request` over the first `size` entries of `log`.
pub(crate) fn answer(log: &Log, size: usize, request: &Request) -> Option<Value> {
    answer_on(now() / 86_400, log, size, request)
}

/// The same, given on day `today`.
pub(crate) fn answer_on(today: u64, log: &Log, size: usize, request: &Request) -> Option<Value> {
    let calls: Vec<&Call> = log.calls[..size].iter().flatten().collect();
    let source = request.query.get("source").map_or("proxy", String::as_str);
    let limit = request
        .number("limit")
        .map_or(50, |n| usize::try_from(n).expect("small"));
    let window = request
        .number("days")
        .map(|days| window(log, size, days, today));
    let (from, to) = (window.map(|w| date(w.0)), window.map(|w| date(w.1)));
    let within: Vec<&Call> = calls
        .iter()
        .copied()
        .filter(|c| window.is_none_or(|(from, to)| (from..=to).contains(&c.day)))
        .collect();

    Some(match request.path.strip_prefix("/api/")? {
        "pubkey" => json!({
            "origin": log.key().origin().as_str(),
            "vkey": log.key().to_string(),
            "key": hex(log.key().as_bytes()),
        }),
        "chain" => json!({
            "origin": log.key().origin().as_str(),
            "size": size,
            "root": log.root(size).to_string(),
            "root_base64": log.root(size).to_base64(),
            "checkpoint": log.checkpoint(size),
        }),
        "stats" => stats(&calls, size),
        "models" => {
            let mut rows = models(&within);
            rows.sort_by_key(|row| Reverse(row["total"].as_u64()));
            json!({"size": size, "from": from, "to": to, "models": rows})
        }
        "leaderboard" => {
            let rows = board(&within, source, limit);
            json!({"size": size, "from": from, "to": to, "source": source, "rows": rows})
        }
        "leaderboard/model" => {
            let model = request.query.get("model")?;
            let theirs: Vec<&Call> = calls
                .iter()
                .copied()
                .filter(|c| c.model.as_ref() == Some(model))
                .collect();
            json!({"size": size, "model": model, "source": source, "rows": board(&theirs, source, limit)})
        }
        other => {
            if let Some(user) = other.strip_prefix("user/") {
                let theirs: Vec<&Call> = calls
                    .iter()
                    .copied()
                    .filter(|c| c.key_id.as_deref() == Some(user))
                    .collect();
                json!({"size": size, "key_id": user, "sources": by_source(&theirs), "models": models(&theirs)})
            } else if let Some(listed) = other.strip_prefix("wallet/")
                && let Some(wallet) = listed.strip_suffix("/records")
            {
                let after = usize::try_from(request.number("after")?).expect("small");
                wallet::newer(log, size, after, wallet)
            } else if let Some(wallet) = other.strip_prefix("wallet/") {
                wallets_sums(log, &calls, size, wallet)
            } else {
                let index: usize = other.strip_prefix("records/")?.parse().ok()?;
                record(log, index).filter(|_| index < size)?
            }
        }
    })
}

/// A record as `/api/records/{index}` answers it.
pub(crate) fn record(log: &Log, index: usize) -> Option<Value> {
    Some(json!({
        "index": index,
        "leaf_hash": log.levels[0].get(index)?.to_string(),
        "entry": String::from_utf8_lossy(&log.entries[index]),
        "receipt": log.receipt_note(index),
    }))
}

fn stats(calls: &[&Call], size: usize) -> Value {
    let users: BTreeSet<&String> = calls.iter().filter_map(|c| c.key_id.as_ref()).collect();
    let modelled: BTreeSet<(&String, &String)> = calls
        .iter()
        .filter_map(|c| Some((&c.provider, c.model.as_ref()?)))
        .collect();
    let wallets: BTreeSet<&String> = calls
        .iter()
        .filter_map(|c| Some(&c.wallet.as_ref()?.0))
        .collect();
    let outcomes: Map<String, Value> = OUTCOMES
        .map(|outcome| {
            (
                outcome.to_owned(),
                calls.iter().filter(|c| c.outcome == outcome).count().into(),
            )
        })
        .into_iter()
        .collect();
    json!({
        "size": size,
        "records": calls.len(),
        "users": users.len(),
        "models": modelled.len(),
        "wallets": wallets.len(),
        "sources": by_source(calls),
        "outcomes": outcomes,
    })
}

fn wallets_sums(log: &Log, calls: &[&Call], size: usize, wallet: &str) -> Value {
    let linked = |link: &str| {
        let theirs: Vec<&Call> = calls
            .iter()
            .copied()
            .filter(|c| {
                c.wallet
                    .as_ref()
                    .is_some_and(|(w, l)| *w == wallet.to_lowercase() && l == link)
            })
            .collect();
        by_source(&theirs)
    };
    let address = Address::from_any_case(wallet).expect("an address");
    json!({
        "size": size, "wallet": wallet.to_lowercase(),
        "bound": linked("bound"), "claimed": linked("claimed"),
        "proof": wallet::proof(log, size, size, address),
    })
}

fn by_source(calls: &[&Call]) -> Vec<Value> {
    SOURCES
        .into_iter()
        .map(|source| {
            (
                source,
                Sums::of(calls.iter().copied().filter(|c| c.source == source)),
            )
        })
        .filter(|(_, sums)| sums.records > 0)
        .map(|(source, sums)| sums.beside(json!({"source": source})))
        .collect()
}

/// By source (proxy first), provider, model (absent first).
fn models(calls: &[&Call]) -> Vec<Value> {
    let mut groups: BTreeMap<(Option<usize>, &str, Option<&str>), Sums> = BTreeMap::new();
    for call in calls {
        let place = SOURCES.iter().position(|s| *s == call.source);
        let group = groups
            .entry((place, &call.provider, call.model.as_deref()))
            .or_default();
        *group = group.with(call);
    }
    groups
        .into_iter()
        .map(|((place, provider, model), sums)| {
            let source = place.map(|p| SOURCES[p]);
            sums.beside(json!({"source": source, "provider": provider, "model": model}))
        })
        .collect()
}

fn board(calls: &[&Call], source: &str, limit: usize) -> Vec<Value> {
    let mut users: BTreeMap<&str, Sums> = BTreeMap::new();
    for call in calls.iter().filter(|c| c.source == source) {
        if let Some(user) = &call.key_id {
            let sums = users.entry(user).or_default();
            *sums = sums.with(call);
        }
    }
    let mut rows: Vec<(&str, Sums)> = users.into_iter().collect();
    rows.sort_by_key(|(_, sums)| Reverse(sums.total()));
    rows.truncate(limit);
    rows.into_iter()
        .map(|(user, sums)| sums.beside(json!({"key_id": user})))
        .collect()
}

/// First and last day of a window of `days`.
fn window(log: &Log, size: usize, days: u64, today: u64) -> (u64, u64) {
    let newest = log.calls[..size]
        .iter()
        .flatten()
        .map(|c| c.day)
        .max()
        .unwrap_or(0);
    let to = newest.max(today);
    (to + 1 - days, to)
}

/// A day since 1970 as `YYYY-MM-DD`, counted out year by year.
pub(crate) fn date(day: u64) -> String {
    let leap = |y: u64| y.is_multiple_of(4) && !y.is_multiple_of(100) || y.is_multiple_of(400);
    // The calendar repeats every 400 years.
    let (mut year, mut left) = (1970 + day / 146_097 * 400, day % 146_097);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    format!("{year:04}-{:02}-{:02}", month + 1, left + 1)
}

/// The day since 1970 of `YYYY-MM-DD`.
pub(crate) fn day(text: &str) -> u64 {
    (0..40_000)
        .find(|day| date(*day) == text)
        .expect("a day within a century")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn dates_are_those_of_the_calendar() {
    for (day, expected) in [
        (0, "1970-01-01"),
        (58, "1970-02-28"),
        (789, "1972-02-29"),
        (11_016, "2000-02-29"),
        (20_370, "2025-10-09"),
    ] {
        assert_eq!(date(day), expected);
        assert_eq!(self::day(expected), day);
    }
}
