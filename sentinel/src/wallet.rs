//! `sentinel wallet`: a light client, which verifies one wallet's total from a
//! checkpoint by a few requests, and does not read the log.
//!
//! The proof shows what the log's key committed itself to. That the totals
//! entry's root is right is for those to say who read every entry: the caller
//! holds the checkpoint against a policy, if there is one.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use protocol::key::VerifierKey;
use protocol::name::Address;
use protocol::record::Source;
use serde_json::{Map, Value, json};

use crate::answer::{Line, Question, Wallet, json as read_json};
use crate::audit::{self, Finding, Signed};
use crate::fetch::{Caches, Client};
use crate::follow::Findings;
use crate::light::{self, Refused, Shown};
use crate::pass;
use crate::report::grouped;
use crate::sums::Sum;
use crate::totals::sum;

/// Said before the log's first totals entry.
pub const NO_TOTALS: &str = "the log has no totals entry yet: nothing is proven of any wallet";

/// Between two looks at an answer that is waited for.
const POLL: Duration = Duration::from_millis(400);

/// A wallet's total, and what the log says beside it.
#[derive(Clone, Debug)]
pub struct Found {
    wallet: Address,
    shown: Shown,
    answer: Wallet,
}

/// What came of asking: the wallet's total, or what is wrong.
pub type Asked = Result<Found, Findings>;

/// Asks for a wallet's total and verifies the answer, which must be under a
/// checkpoint that is no older than the newest published one.
///
/// # Errors
/// No complete answer, or one that can't be judged.
pub async fn ask(
    client: &Client,
    key: &VerifierKey,
    wallet: Address,
    patience: Duration,
) -> Result<Asked, String> {
    let newest = match pass::covering(client, key, 0, patience).await {
        Ok(newest) => newest,
        Err(Ok(findings)) => return Ok(Err(findings)),
        Err(Err(why)) => return Err(why),
    };
    let deadline = Instant::now() + patience;
    let mut caches = Caches::Allowed;
    loop {
        let late = Instant::now() >= deadline;
        match look(client, key, wallet, &newest, caches).await? {
            Look::Found(found) => return Ok(Ok(*found)),
            Look::Wrong(finding) if caches == Caches::Past => {
                let mut findings = Findings::default();
                findings.push(finding);
                return Ok(Err(findings));
            }
            Look::Old(finding) if late => {
                let mut findings = Findings::default();
                findings.push(finding);
                return Ok(Err(findings));
            }
            Look::Unready(why) if late => return Err(why),
            Look::Wrong(_) => {}
            Look::Old(_) | Look::Unready(_) => tokio::time::sleep(POLL).await,
        }
        caches = Caches::Past;
    }
}

enum Look {
    Found(Box<Found>),
    /// Wrong, if it stays so past caches.
    Wrong(Finding),
    /// Right, but under an older checkpoint: waited for.
    Old(Finding),
    /// No proof yet.
    Unready(String),
}

async fn look(
    client: &Client,
    key: &VerifierKey,
    wallet: Address,
    newest: &Signed,
    caches: Caches,
) -> Result<Look, String> {
    let question = Question::Wallet(wallet);
    let path = question.path();
    let body = client.get(&path, question.max_bytes(), caches).await;
    let body = body.map_err(|error| error.to_string())?;
    let wrong = |why: &str| audit::wallet_proof(wallet, why, body.as_ref());
    let answer: Wallet = match read_json(body.as_ref()) {
        Ok(answer) => answer,
        Err(unread) => return Err(format!("{}: {unread}", client.url(&path))),
    };
    let Some(proof) = &answer.proof else {
        let why = format!("{} has no proof at the moment", client.url(&path));
        return Ok(Look::Unready(why));
    };
    let shown = match light::verify(proof, wallet, key) {
        Ok(shown) => shown,
        Err(Refused::Wrong(why)) => return Ok(Look::Wrong(wrong(&why))),
        Err(Refused::Checkpoint(finding)) => return Ok(Look::Wrong(finding)),
        Err(Refused::Unjudged(why)) => return Err(why),
    };
    if let Some(forked) = audit::fork(&shown.signed, newest) {
        return Ok(Look::Wrong(forked));
    }
    if shown.signed.size() < newest.size() {
        let (old, new) = (shown.signed.size(), newest.size());
        let why = format!("it is under a checkpoint of size {old}, after one of size {new}");
        return Ok(Look::Old(wrong(&why)));
    }
    let found = Found {
        wallet,
        shown,
        answer,
    };
    Ok(match found.contradiction() {
        Some(why) => Look::Wrong(wrong(&why)),
        None => Look::Found(Box::new(found)),
    })
}

impl Found {
    /// The checkpoint that it is under.
    pub fn signed(&self) -> &Signed {
        &self.shown.signed
    }

    /// Where the totals entry stands, if there is one.
    pub fn totals_index(&self) -> Option<u64> {
        self.shown.totals.map(|shown| shown.index)
    }

    /// Whether the log has totals at all.
    pub fn has_totals(&self) -> bool {
        self.shown.totals.is_some()
    }

    /// How the total is to be called: `committed`, as only the log's key
    /// stands for it.
    fn trust(&self) -> &'static str {
        "committed"
    }

    /// What the log says besides must not be less than what it proves.
    fn contradiction(&self) -> Option<String> {
        let named = self.wallet.to_string();
        if self.answer.wallet != named {
            return Some(format!("it is about {:?}", self.answer.wallet));
        }
        let over = self.shown.totals.map_or(0, |shown| shown.totals.size.get());
        let less = self.shown.leaves.iter().find(|leaf| {
            let (proven, said) = (sum(&leaf.sums), self.said(leaf.source));
            said.records < proven.records || said.total() < proven.total()
        });
        less.filter(|_| self.answer.size >= over).map(|leaf| {
            let source = leaf.source.as_str();
            format!("its own sums of source {source} are below what it proves")
        })
    }

    /// What the log says it used in all, without a proof.
    fn said(&self, source: Source) -> Sum {
        let lines = self.answer.bound.iter();
        let line = lines.filter(|line| line.source.as_deref() == Some(source.as_str()));
        line.map(Line::sum).next().unwrap_or_default()
    }

    /// Bound usage that is newer than the totals, as the log says it.
    fn since(&self, source: Source) -> (u64, u64) {
        let of_source = self.shown.leaves.iter().find(|leaf| leaf.source == source);
        let proven = of_source.map(|leaf| sum(&leaf.sums)).unwrap_or_default();
        let said = self.said(source);
        let more = |said: u64, proven: u64| said.saturating_sub(proven);
        (
            more(said.records, proven.records),
            more(said.total(), proven.total()),
        )
    }

    /// The machine's form: members beside those of the report.
    pub fn json(&self) -> Map<String, Value> {
        let proven = self.shown.leaves.iter().map(|leaf| {
            let mut row = row(leaf.source, &sum(&leaf.sums));
            row["first"] = leaf.first.get().into();
            row["last"] = leaf.last.get().into();
            row
        });
        let since = Source::ALL
            .iter()
            .map(|source| (source, self.since(*source)));
        let since = since.filter(|(_, (records, _))| *records > 0);
        let totals = self.shown.totals.map(|shown| {
            json!({
                "index": shown.index, "time": shown.time.secs(),
                "size": shown.totals.size.get(), "count": shown.totals.count,
            })
        });
        let claimed = self.answer.claimed.iter().map(
            |line| json!({ "source": line.source, "records": line.sum().records, "total": line.total }),
        );
        let members = [
            ("wallet", Value::from(self.wallet.to_string())),
            ("trust", self.trust().into()),
            ("last_time", self.shown.last.secs().into()),
            ("totals", totals.into()),
            ("proven", proven.collect()),
            (
                "since",
                since
                    .map(|(source, (records, total))| {
                        json!({ "source": source.as_str(), "records": records, "total": total })
                    })
                    .collect(),
            ),
            ("claimed", claimed.collect()),
        ];
        members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// The person's form, without a newline at the end.
    pub fn text(&self) -> String {
        let signed = &self.shown.signed;
        let mut text = format!("{}: wallet {}\n", self.trust(), self.wallet.checksummed());
        if let Some(shown) = self.shown.totals {
            let age = self.shown.last.secs().saturating_sub(shown.time.secs());
            let _ = writeln!(
                text,
                "totals over the first {} entries, of {} wallets' sums, in entry {}; the log's \
                 last entry came {age} s later",
                grouped(shown.totals.size.get()),
                grouped(shown.totals.count),
                grouped(shown.index),
            );
            text += &match self.shown.leaves[..] {
                [] => "it has no bound usage there: its absence is proven\n".into(),
                _ => self.table(),
            };
        }
        for source in Source::ALL {
            let (records, total) = self.since(*source);
            if records > 0 {
                let _ = writeln!(
                    text,
                    "since then, not proven here: {} more records of source {}, {} tokens",
                    grouped(records),
                    source.as_str(),
                    grouped(total)
                );
            }
        }
        for line in &self.answer.claimed {
            let _ = writeln!(
                text,
                "claimed by requests, proven by nobody: {} records of source {}, {} tokens",
                grouped(line.sum().records),
                line.source.as_deref().unwrap_or("?"),
                grouped(line.total)
            );
        }
        let _ = write!(
            text,
            "under the checkpoint of {} entries, root {}",
            grouped(signed.size()),
            signed.root()
        );
        text
    }

    fn table(&self) -> String {
        const HEAD: [&str; 9] = [
            "source",
            "records",
            "input",
            "cached",
            "written",
            "output",
            "reasoning",
            "total",
            "entries",
        ];
        let mut rows = vec![HEAD.map(str::to_owned)];
        rows.extend(self.shown.leaves.iter().map(|leaf| {
            let sum = sum(&leaf.sums);
            [
                leaf.source.as_str().to_owned(),
                grouped(sum.records),
                grouped(sum.input),
                grouped(sum.cache_read),
                grouped(sum.cache_write),
                grouped(sum.output),
                grouped(sum.reasoning),
                grouped(sum.total()),
                format!("{} to {}", leaf.first, leaf.last),
            ]
        }));
        let width = |at: usize| rows.iter().map(|row| row[at].len()).max().unwrap_or(0);
        let widths: [usize; 9] = std::array::from_fn(width);
        let mut table = String::new();
        for row in &rows {
            let cells = row.iter().zip(widths).enumerate();
            let cells = cells.map(|(at, (cell, width))| match at {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            table += &format!("  {}\n", cells.collect::<Vec<_>>().join("  "));
        }
        table
    }
}

fn row(source: Source, sum: &Sum) -> Value {
    json!({
        "source": source.as_str(), "records": sum.records, "input": sum.input,
        "cache_read": sum.cache_read, "cache_write": sum.cache_write, "output": sum.output,
        "reasoning": sum.reasoning, "total": sum.total(),
    })
}
