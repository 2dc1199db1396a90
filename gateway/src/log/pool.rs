//! The pool: what waits to be sequenced. Bounded by the places that calls hold;
//! the lines of a batch, which hold none, wait outside while it is busy.
//!
//! What arrives is handed on in groups: waking the sequencer, and a commit,
//! cost as much for one as for fifty.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::entry::Body;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::calls::Call;

/// From this many submissions on the pool is busy.
const BUSY: usize = 8_192;

/// How long the first of a group waits for others.
const GATHERED: Duration = Duration::from_millis(20);

/// A group of this many waits no longer.
const GROUP: usize = 1_024;

/// What is to become an entry.
#[derive(Debug)]
pub struct Submission {
    /// What the entry says.
    pub body: Body,
    /// The id of its receipt, to which the body commits; entry 0 has none.
    pub receipt_id: Option<Uuid>,
    /// Set for a response that was retrieved: which retrieval it came with. It
    /// is dropped if the log has its response commitment from anything else.
    pub retrieval: Option<Uuid>,
    /// Gets the receipt, a signed note, when it is released.
    pub released: Option<oneshot::Sender<String>>,
    /// The call that it settles. Further records of one call have none.
    pub call: Option<Call>,
}

/// What waits to be sequenced.
#[derive(Debug, Default)]
pub struct Pool {
    waiting: Mutex<Waiting>,
    arrived: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Waiting {
    submissions: Vec<Submission>,
    /// When the first of them came.
    since: Option<Instant>,
    /// Somebody waits for a receipt within an answer.
    urgent: bool,
    closed: bool,
}

impl Pool {
    /// Hands a submission to the sequencer. After [`Pool::close`] it is left
    /// to the next process.
    pub fn submit(&self, submission: Submission) {
        let mut waiting = self.waiting();
        if waiting.closed {
            return;
        }
        waiting.urgent |= submission.released.is_some();
        waiting.since.get_or_insert_with(Instant::now);
        waiting.submissions.push(submission);
        // Who takes a group waits for its first, and then for what ends it.
        let wakes = waiting.submissions.len() == 1 || waiting.is_ready();
        let urgent = waiting.urgent;
        drop(waiting);
        if urgent {
            self.arrived.notify_one();
        } else if wakes {
            // After the answer is on its way, of which this task has the rest.
            let arrived = Arc::clone(&self.arrived);
            tokio::spawn(async move { arrived.notify_one() });
        }
    }

    /// Whether so much waits that what can wait elsewhere should.
    pub fn is_busy(&self) -> bool {
        self.waiting().submissions.len() > BUSY
    }

    /// Ends the pool: the sequencer gets what is there, then nothing more.
    pub fn close(&self) {
        self.waiting().closed = true;
        self.arrived.notify_one();
    }

    /// All that has piled up, once it is a group; `None` when the pool is
    /// closed and empty.
    pub(super) async fn take(&self) -> Option<Vec<Submission>> {
        loop {
            let since = {
                let mut waiting = self.waiting();
                let waited = waiting
                    .since
                    .is_some_and(|since| since.elapsed() >= GATHERED);
                if waiting.is_ready() || waited {
                    waiting.since = None;
                    waiting.urgent = false;
                    let group = mem::take(&mut waiting.submissions);
                    return (!group.is_empty()).then_some(group);
                }
                waiting.since
            };
            let arrived = self.arrived.notified();
            match since {
                // That it waited long enough is seen above.
                Some(since) => drop(timeout_at(since + GATHERED, arrived).await),
                None => arrived.await,
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Whether there is no reason to wait for more.
    fn is_ready(&self) -> bool {
        self.closed || self.urgent || self.submissions.len() >= GROUP
    }
}
