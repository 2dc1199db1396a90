//! The pool: what waits to be sequenced. Bounded by the places that calls hold;
//! the lines of a batch, which hold none, wait outside while it is busy.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::entry::Body;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::calls::Call;

/// From this many submissions on the pool is busy.
const BUSY: usize = 8_192;

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
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    submissions: Vec<Submission>,
    closed: bool,
}

impl Pool {
    /// Hands a submission to the sequencer. After [`Pool::close`] it is left
    /// to the next process.
    pub fn submit(&self, submission: Submission) {
        let mut waiting = self.waiting();
        if !waiting.closed {
            waiting.submissions.push(submission);
            drop(waiting);
            self.arrived.notify_one();
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

    /// All that has piled up, once there is something; `None` when the pool
    /// is closed and empty.
    pub(super) async fn take(&self) -> Option<Vec<Submission>> {
        loop {
            {
                let mut waiting = self.waiting();
                if !waiting.submissions.is_empty() {
                    return Some(mem::take(&mut waiting.submissions));
                }
                if waiting.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
