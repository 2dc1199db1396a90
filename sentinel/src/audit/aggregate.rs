//! Sums that the log answers, against those of its entries.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use protocol::hash::Hash;
use protocol::key::VerifierKey;
use protocol::name::{Address, Name};
use protocol::record::{Outcome, Source};
use serde_json::json;

use super::{Claim, Class, Finding, Signed, Unopened, wallet_proof};
use crate::accounts::Accounts;
use crate::answer::{
    Answer, Chain, LIMIT, Leaderboard, Line, Models, Question, Stats, User, Wallet,
};
use crate::light::{self, Refused, Shown};
use crate::sums::{Category, Sum, Sums};

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
    /// What they make of keys and wallets.
    pub accounts: &'a Accounts,
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
        (Question::Wallet(address), Answer::Wallet(answer)) => {
            return wallet(*address, answer, body, at);
        }
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
        Question::Wallet(_) => Claim::AggregateWallet,
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

/// A wallet's bound sums, and their proof, as far as these entries can tell.
fn wallet(address: Address, answer: &Wallet, body: &[u8], at: &At<'_>) -> Option<Finding> {
    let sums = at.accounts.wallets().of(address);
    let wrong = differing("wallet", answer.wallet.as_str(), &address.to_string())
        .or_else(|| by_source(&answer.bound, &sums));
    if let Some(wrong) = wrong {
        let wrong = format!("over {} entries: {wrong}", at.size);
        return Some(misanswered(&Question::Wallet(address), &wrong, body));
    }
    let wrong = match light::verify(answer.proof.as_deref()?, address, at.key) {
        Ok(shown) => against(&shown, address, at)?,
        Err(Refused::Wrong(wrong)) => wrong,
        Err(Refused::Checkpoint(finding)) => return Some(finding),
        Err(Refused::Unjudged(_)) => return None,
    };
    Some(wallet_proof(address, &wrong, body))
}

/// What a proof shows that these entries do not.
fn against(shown: &Shown, address: Address, at: &At<'_>) -> Option<String> {
    if shown.signed.size() == at.size && shown.signed.root() != at.root {
        return differing("the checkpoint's root", shown.signed.root(), at.root);
    }
    let newest = at.accounts.newest()?;
    let covered = shown.signed.size() > newest.index.get();
    let named = shown.totals.map(|shown| shown.index);
    match named {
        Some(index) if index == newest.index.get() => {
            let (leaves, own) = (&shown.leaves[..], at.accounts.wallets().settled(address));
            (leaves != own).then(|| "its leaves are not those of the entries".into())
        }
        named if covered && named.is_none_or(|index| index < newest.index.get()) => Some(format!(
            "it names the totals entry {named:?}, the newest one is {}",
            newest.index
        )),
        _ => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::fixtures::*;
    use protocol::checkpoint::Checkpoint;
    use protocol::index::TreeSize;
    use serde_json::Value;

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
            accounts: &Accounts::default(),
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
            accounts: &Accounts::default(),
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
}
