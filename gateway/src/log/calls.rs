//! Calls in flight: each has a receipt id, a line in the journal, and a place
//! within the bound on what may be pending.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::journal::{Journal, JournalError, Segment, Unfinished};

/// How many calls without a record are remembered, newest first.
const REMEMBERED: usize = 20_000;

/// What is known of a receipt id whose entry is not in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The call runs, or its record is not yet durable.
    Pending,
    /// The call gave no record.
    NoRecord,
    /// Never seen, or long ago.
    Unknown,
}

/// Why a call can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Too much is pending.
    #[error("too many calls are in flight or not yet durable")]
    Full,
    /// The journal can't be written, so a crash would lose the call.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// All calls in flight. Clones share them.
#[derive(Clone, Debug)]
pub struct Calls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    journal: Journal,
    places: Arc<Semaphore>,
    ids: Mutex<Ids>,
    closing: AtomicBool,
}

#[derive(Debug, Default)]
struct Ids {
    pending: HashSet<Uuid>,
    none: HashSet<Uuid>,
    order: VecDeque<Uuid>,
}

impl Calls {
    /// Begins a journal in `dir`, for up to `capacity` calls in flight and
    /// records not yet durable.
    ///
    /// # Errors
    /// The journal can't be created.
    pub fn open(dir: &Path, capacity: usize) -> Result<Self, JournalError> {
        Ok(Self(Arc::new(Shared {
            journal: Journal::open(dir)?,
            places: Arc::new(Semaphore::new(capacity)),
            ids: Mutex::default(),
            closing: AtomicBool::new(false),
        })))
    }

    /// Takes a call in; `generates` says that it uses tokens, so that it must
    /// not vanish in a crash.
    ///
    /// # Errors
    /// Too much is pending, or the journal can't be written.
    pub fn begin(&self, call: &Unfinished, generates: bool) -> Result<Unanswered, Refused> {
        let place = Arc::clone(&self.0.places)
            .try_acquire_owned()
            .map_err(|_| Refused::Full)?;
        let segment = generates.then(|| self.0.journal.begin(call)).transpose()?;
        self.0.ids().pending.insert(call.id);
        let shared = Arc::clone(&self.0);
        Ok(Unanswered(Some(Call {
            id: call.id,
            shared,
            segment,
            settled: false,
            _place: place,
        })))
    }

    /// What became of a receipt id whose entry is not in the store.
    pub fn fate(&self, id: &Uuid) -> Fate {
        let ids = self.0.ids();
        if ids.pending.contains(id) {
            Fate::Pending
        } else if ids.none.contains(id) {
            Fate::NoRecord
        } else {
            Fate::Unknown
        }
    }

    /// How many calls are in flight or not yet durable.
    pub fn pending(&self) -> usize {
        self.0.ids().pending.len()
    }

    /// Whether the journal could be written when it was last tried, or can be now.
    pub fn can_be_noted(&self) -> bool {
        self.0.journal.is_writable()
    }

    /// From here on a call without an answer is left to the next process: the
    /// one at hand is shutting down and cuts calls off.
    pub fn close(&self) {
        self.0.closing.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn ids(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call whose answer has not begun. Dropped, it gave no record: nothing was
/// accepted, as far as anyone saw.
#[derive(Debug)]
pub struct Unanswered(Option<Call>);

impl Unanswered {
    /// The answer begins: what becomes of the call is its meter's to say.
    pub fn answered(mut self) -> Call {
        self.0.take().expect("taken only here, and by the drop")
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(call) = self.0.take()
            && !call.shared.closing.load(Ordering::SeqCst)
        {
            call.no_record();
        }
    }
}

/// A call whose answer has begun. Dropped without a verdict, as when its
/// record can't be stored any more, it is left to the next process.
#[derive(Debug)]
pub struct Call {
    id: Uuid,
    shared: Arc<Shared>,
    segment: Option<Arc<Segment>>,
    settled: bool,
    _place: OwnedSemaphorePermit,
}

impl Call {
    /// The call's receipt id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Its record is durable.
    pub(super) fn recorded(mut self) {
        self.settled = true;
        self.shared.ids().pending.remove(&self.id);
    }

    /// It gives no record: refused, or counting nothing, or recorded before.
    pub fn no_record(mut self) {
        self.settled = true;
        if let Some(segment) = &self.segment {
            segment.none(self.id);
        }
        let mut ids = self.shared.ids();
        ids.pending.remove(&self.id);
        ids.none.insert(self.id);
        ids.order.push_back(self.id);
        if ids.order.len() > REMEMBERED
            && let Some(oldest) = ids.order.pop_front()
        {
            ids.none.remove(&oldest);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.settled {
            if let Some(segment) = &self.segment {
                segment.keep();
            }
            self.shared.ids().pending.remove(&self.id);
        }
    }
}
