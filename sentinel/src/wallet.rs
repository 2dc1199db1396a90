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

use crate::answer::{Line, Question, Wallet, WalletRecords, json as read_json};
use crate::audit::{self, Finding, Signed};
use crate::contrast::contrast;
use crate::fetch::{Caches, Client};
use crate::follow::Findings;
use crate::light::{self, Refused, Shown};
use crate::newer::{self, Newer};
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
    newer: Option<Newer>,
}

/// What came of asking: the wallet's total, or what is wrong.
pub type Asked = Result<Found, Findings>;

/// Asks for a wallet's total and verifies the answer, which must be under a
/// checkpoint that is no older than the newest published one; with `newer`,
/// also for the records that the totals leave out.
///
/// # Errors
/// No complete answer, or one that can't be judged.
pub async fn ask(
    client: &Client,
    key: &VerifierKey,
    (wallet, newer): (Address, bool),
    patience: Duration,
) -> Result<Asked, String> {
    let newest = match pass::covering(client, key, 0, patience).await {
        Ok(newest) => newest,
        Err(Ok(findings)) => return Ok(Err(findings)),
        Err(Err(why)) => return Err(why),
    };
    let found = patiently(patience, async |caches| {
        look(client, key, wallet, &newest, caches).await
    });
    match found.await? {
        Ok(mut found) if newer && found.has_totals() => {
            let newer = patiently(patience, async |caches| {
                look_newer(client, key, &found, caches).await
            });
            let newer = newer.await?;
            Ok(newer.map(|newer| {
                found.newer = Some(newer);
                found
            }))
        }
        asked => Ok(asked),
    }
}

/// Looks until the answer is right, or stays wrong or unready.
async fn patiently<T>(
    patience: Duration,
    look: impl AsyncFn(Caches) -> Result<Look<T>, String>,
) -> Result<Result<T, Findings>, String> {
    let deadline = Instant::now() + patience;
    let mut caches = Caches::Allowed;
    loop {
        let late = Instant::now() >= deadline;
        match look(caches).await? {
            Look::Found(found) => return Ok(Ok(found)),
            Look::Wrong(finding) if caches == Caches::Past => return Ok(Err(finding.into())),
            Look::Old(finding) if late => return Ok(Err(finding.into())),
            Look::Unready(why) if late => return Err(why),
            Look::Wrong(_) => {}
            Look::Old(_) | Look::Unready(_) => tokio::time::sleep(POLL).await,
        }
        caches = Caches::Past;
    }
}

enum Look<T> {
    Found(T),
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
) -> Result<Look<Found>, String> {
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
        newer: None,
    };
    Ok(match found.contradiction() {
        Some(why) => Look::Wrong(wrong(&why)),
        None => Look::Found(found),
    })
}

/// Reads the records that the totals leave out, part after part.
async fn look_newer(
    client: &Client,
    key: &VerifierKey,
    found: &Found,
    caches: Caches,
) -> Result<Look<Newer>, String> {
    let (wallet, over) = (found.wallet, found.over());
    let mut newer = Newer::new(wallet, over, found.answer.size);
    let mut before = found.signed().clone();
    while let Some(path) = newer.path() {
        let body = client.get(&path, newer::MAX_BYTES, caches).await;
        let body = body.map_err(|error| error.to_string())?;
        let part: WalletRecords = match read_json(body.as_ref()) {
            Ok(part) => part,
            Err(unread) => return Err(format!("{}: {unread}", client.url(&path))),
        };
        let wrong = |why: &str| Look::Wrong(audit::wallet_proof(wallet, why, body.as_ref()));
        let signed = match newer.take(&part, key) {
            Ok(signed) => signed,
            Err(Refused::Wrong(why)) => return Ok(wrong(&why)),
            Err(Refused::Checkpoint(finding)) => return Ok(Look::Wrong(finding)),
            Err(Refused::Unjudged(why)) => return Err(why),
        };
        let (old, new) = match signed.size() < before.size() {
            true => (&signed, &before),
            false => (&before, &signed),
        };
        if let Some(forked) = contrast(client, new, old).await? {
            return Ok(Look::Wrong(forked));
        }
        before = signed;
        if newer.path().is_none()
            && newer.covers()
            && let Some(why) = found.misses(&newer)
        {
            return Ok(wrong(&why));
        }
    }
    if newer.covers() {
        return Ok(Look::Found(newer));
    }
    let (end, size) = (newer.through(), found.answer.size);
    Ok(Look::Unready(format!(
        "the newest published checkpoint is of size {end}, and the wallet's sums are over {size}"
    )))
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
        let over = self.over();
        let less = self.shown.leaves.iter().find(|leaf| {
            let (proven, said) = (sum(&leaf.sums), self.said(leaf.source));
            said.records < proven.records || said.total() < proven.total()
        });
        less.filter(|_| self.answer.size >= over).map(|leaf| {
            let source = leaf.source.as_str();
            format!("its own sums of source {source} are below what it proves")
        })
    }

    /// The log's own sums must be those that are proven, and those of the
    /// newer records, together.
    fn misses(&self, newer: &Newer) -> Option<String> {
        // Sums that are older than the totals say nothing of newer records.
        let counts = self.answer.size >= self.over();
        let missed = Source::ALL.iter().find(|source| {
            let mut shown = self.proven(**source);
            shown.add(&newer.within(**source));
            shown != self.said(**source)
        });
        missed.filter(|_| counts).map(|source| {
            let source = source.as_str();
            let size = self.answer.size;
            format!(
                "what it proves of source {source}, newer records included, is not what its own \
                 sums over {size} entries say"
            )
        })
    }

    /// Over how many entries the totals are.
    fn over(&self) -> u64 {
        self.shown.totals.map_or(0, |shown| shown.totals.size.get())
    }

    fn proven(&self, source: Source) -> Sum {
        let leaf = self.shown.leaves.iter().find(|leaf| leaf.source == source);
        leaf.map(|leaf| sum(&leaf.sums)).unwrap_or_default()
    }

    /// What the log says it used in all, without a proof.
    fn said(&self, source: Source) -> Sum {
        let lines = self.answer.bound.iter();
        let line = lines.filter(|line| line.source.as_deref() == Some(source.as_str()));
        line.map(Line::sum).next().unwrap_or_default()
    }

    /// Bound usage that is newer than the totals, as the log says it.
    fn since(&self, source: Source) -> (u64, u64) {
        let (proven, said) = (self.proven(source), self.said(source));
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
            ("newer", self.newer.as_ref().map(newer_json).into()),
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
        text += &self
            .newer
            .as_ref()
            .map_or_else(|| self.since_text(), newer_text);
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

    fn since_text(&self) -> String {
        let mut text = String::new();
        for source in Source::ALL {
            let (records, total) = self.since(*source);
            if records > 0 {
                let _ = writeln!(
                    text,
                    "since then, not proven here (see --newer): {} more records of source {}, {} \
                     tokens",
                    grouped(records),
                    source.as_str(),
                    grouped(total)
                );
            }
        }
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

fn newer_json(newer: &Newer) -> Value {
    let sums = newer.sums().map(|(source, sum)| row(source, sum));
    json!({ "size": newer.through(), "sums": sums.collect::<Value>() })
}

fn newer_text(newer: &Newer) -> String {
    let mut text = String::new();
    for (source, sum) in newer.sums() {
        let _ = writeln!(
            text,
            "newer, each with its own proof: {} more records of source {}, {} tokens",
            grouped(sum.records),
            source.as_str(),
            grouped(sum.total())
        );
    }
    if text.is_empty() {
        text = "newer: nothing\n".into();
    }
    text
}

fn row(source: Source, sum: &Sum) -> Value {
    json!({
        "source": source.as_str(), "records": sum.records, "input": sum.input,
        "cache_read": sum.cache_read, "cache_write": sum.cache_write, "output": sum.output,
        "reasoning": sum.reasoning, "total": sum.total(),
    })
}
