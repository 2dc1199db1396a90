//! Submitting: one task a witness, one request in flight.
//!
//! Nothing here is waited for: a witness that hangs, answers garbage or is
//! gone costs a task that sleeps and a request that ends after ten seconds.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::plan::Plan;
use protocol::witness::{AddCheckpoint, MAX_ANSWER};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::answer::{Answer, Asked, Problem, Verdict, judge};
use super::enlisted::Enlisted;
use super::pace::Pace;
use super::roster::Roster;
use crate::connect::{self, Client, Unheard, causes, post};
use crate::log::publish::Published;
use crate::log::replica::Committed;
use crate::store::{Store, StoreError};

/// How long a request may take, from connecting to the answer's last byte.
const WITHIN: Duration = Duration::from_secs(10);

/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A witness's cosignature over a checkpoint that it was asked for.
#[derive(Debug)]
pub(super) struct Cosignature {
    /// Whose: a number among the enlisted.
    pub(super) number: usize,
    /// Over the checkpoint of which size.
    pub(super) size: TreeSize,
    pub(super) time: Time,
    /// The signature line with its newline.
    pub(super) line: String,
}

/// Asks one witness.
#[derive(Debug)]
pub(super) struct Submitter {
    pub(super) number: usize,
    pub(super) witness: Enlisted,
    pub(super) client: Client,
    pub(super) store: Store,
    /// What to ask for; none while another gateway does.
    pub(super) asked_for: watch::Receiver<Option<Published>>,
    pub(super) committed: watch::Receiver<Committed>,
    pub(super) cosignatures: mpsc::Sender<Cosignature>,
    pub(super) roster: Roster,
}

/// A client for witnesses, on the system's certificate authorities.
pub(super) fn client() -> std::io::Result<Client> {
    connect::client(CONNECT_WITHIN)
}

impl Submitter {
    /// Asks until there is no publisher any more.
    pub(super) async fn run(mut self) {
        let mut pace: Option<Pace> = None;
        loop {
            let Some(published) = self.asked_for.borrow_and_update().clone() else {
                pace = None;
                match self.asked_for.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            let known = || self.roster.of(self.number).size.unwrap_or(TreeSize::ZERO);
            let pace = pace.get_or_insert_with(|| Pace::from(known()));
            let (size, now) = (published.checkpoint.size(), Instant::now());
            let due = pace.due(size, now);
            if due.is_none_or(|due| due > now) {
                tokio::select! {
                    changed = self.asked_for.changed() => if changed.is_err() { return },
                    () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
                }
                continue;
            }
            pace.ask(now);
            if !self.submit(&published, pace).await {
                return;
            }
        }
    }

    /// Asks once; false where nobody takes the answer any more.
    async fn submit(&self, published: &Published, pace: &mut Pace) -> bool {
        let (number, size) = (self.number, published.checkpoint.size());
        let problem = match self.ask(published, pace.held()).await {
            Ok(Verdict::Cosigned(time, line)) => {
                pace.cosigned(size);
                self.count("cosigned");
                self.roster.cosigned(number, size, time);
                let cosignature = Cosignature {
                    number,
                    size,
                    time,
                    line,
                };
                return self.cosignatures.send(cosignature).await.is_ok();
            }
            Ok(Verdict::Holds(held)) => {
                self.count("conflict");
                if pace.holds(held, Instant::now()) {
                    return true;
                }
                Problem::Restless
            }
            Err(problem) => {
                pace.failed(Instant::now());
                self.count(match problem.is_alarming() {
                    true => "alarm",
                    false => "failed",
                });
                problem
            }
        };
        self.roster.fails(number, &problem);
        true
    }

    async fn ask(&self, published: &Published, old: TreeSize) -> Result<Verdict, Problem> {
        let checkpoint = &published.checkpoint;
        let proof = consistency(&self.store, old, checkpoint.size()).await;
        let request = AddCheckpoint {
            old,
            proof: proof.map_err(|error| Problem::NoProof(error.to_string()))?,
            checkpoint: published.note.to_string(),
        };
        let answered = timeout(WITHIN, self.post(request.body())).await;
        let (status, kind, body) = answered.map_err(|_| Problem::Silent(WITHIN.as_secs()))??;
        let answer = Answer {
            status,
            content_type: kind.as_deref(),
            body: &body,
        };
        let text = checkpoint.text();
        let asked = Asked {
            old,
            size: checkpoint.size(),
            text: &text,
            log: self.committed.borrow().checkpoint.size(),
        };
        judge(asked, answer, &self.witness.key)
    }

    async fn post(&self, body: String) -> Result<(StatusCode, Option<String>, Bytes), Problem> {
        let kind = "text/plain; charset=utf-8";
        let target = self.witness.target.clone();
        let answer = post(&self.client, target, (kind, body), MAX_ANSWER).await;
        let (head, body) = answer.map_err(|unheard| match unheard {
            Unheard::TooLong => Problem::TooLong,
            Unheard::Away(error) => Problem::Unreachable(causes(&*error)),
        })?;
        let kind = head.headers.get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        Ok((head.status, kind, body))
    }

    fn count(&self, answer: &'static str) {
        let witness = self.witness.name.clone();
        metrics::counter!("tally_witness_requests_total", "witness" => witness, "answer" => answer)
            .increment(1);
    }
}

/// The proof that the tree of `old` entries is the beginning of that of `new`;
/// empty where there is nothing to prove.
async fn consistency(store: &Store, old: TreeSize, new: TreeSize) -> Result<Vec<Hash>, StoreError> {
    let plan =
        Plan::consistency(old, new).expect("a witness is never asked for less than it holds");
    let mut tiles = Vec::new();
    for tile in plan.tiles() {
        let bytes = store.tile(&tile).await?;
        let bytes = bytes.ok_or(StoreError::Damaged("a tile is missing"))?;
        tiles.push((tile, bytes));
    }
    let found = |tile| tiles.iter().find(|(there, _)| *there == tile);
    let hashes = plan.build(|tile| found(tile).map_or_else(Bytes::new, |(_, bytes)| bytes.clone()));
    hashes.map_err(|_| StoreError::Damaged("a tile is cut"))
}

/// What a task for each witness needs.
pub(super) fn submitters(
    roster: &Roster,
    client: &Client,
    store: &Store,
    asked_for: &watch::Receiver<Option<Published>>,
    committed: &watch::Receiver<Committed>,
    cosignatures: &mpsc::Sender<Cosignature>,
) -> Vec<Submitter> {
    let enlisted = roster.list().map(|(witness, _)| witness.clone());
    let submitters = enlisted.enumerate().map(|(number, witness)| Submitter {
        number,
        witness,
        client: client.clone(),
        store: store.clone(),
        asked_for: asked_for.clone(),
        committed: committed.clone(),
        cosignatures: cosignatures.clone(),
        roster: roster.clone(),
    });
    submitters.collect()
}
