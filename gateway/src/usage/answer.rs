//! Answers: what the events of one answer say together.
//!
//! An event counts as a whole or not at all: what it says is kept apart until
//! its end shows that it was well formed.

use std::collections::VecDeque;

use super::count::{Field, Reading, Tally};
use super::json::{Sink, Value};
use super::meter::Metered;
use super::paths::Node;
use super::{Dialect, Kind};
use protocol::record::Outcome;

/// Items that wait for [`Answer::take`] at most; more are dropped.
const ITEMS_MAX: usize = 1 << 14;

/// The order in which the usage of a batch's items is believed (see `paths`).
const BATCH_USAGE: std::ops::RangeInclusive<u8> = 9..=10;

/// No usage has been found.
const NO_RANK: u8 = u8::MAX;

/// What an answer has said so far.
#[derive(Debug)]
pub(super) struct Answer {
    dialect: Dialect,
    kind: Kind,
    /// What a response header says was read from the cache.
    cached: Option<u32>,
    event: Event,
    tally: Tally,
    model: Option<String>,
    id: Option<String>,
    /// Objects read to their end.
    pub(super) events: u64,
    /// The event came that only comes last.
    pub(super) ended: bool,
    /// Generating has ended; more may come, usage for one.
    pub(super) finished: bool,
    /// Usage came when or after generating had ended.
    pub(super) settled: bool,
    /// The provider said that it failed, before it said that it was through.
    pub(super) failed: bool,
    /// The last object says that the response is still to come.
    pub(super) pending: bool,
    /// The last object says that more follow.
    pub(super) more: bool,
    items: VecDeque<Metered>,
}

/// What one event says.
#[derive(Debug)]
struct Event {
    /// Its root is closed.
    whole: bool,
    /// The usage that is believed, and its rank.
    usage: Tally,
    rank: u8,
    /// The usage object being read.
    open: Tally,
    /// Counts that stand outside a usage object.
    loose: Tally,
    model: Option<String>,
    id: Option<String>,
    id_rank: u8,
    mark: Mark,
    finish: bool,
    error: bool,
    pending: bool,
    /// Whether it says that it is the last.
    done: Option<bool>,
}

/// What the type of an event says about the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    None,
    End,
    Error,
}

impl Answer {
    pub(super) fn new(dialect: Dialect, kind: Kind, cached: Option<u32>) -> Self {
        Self {
            dialect,
            kind,
            cached,
            event: Event::new(),
            tally: Tally::new(),
            model: None,
            id: None,
            events: 0,
            ended: false,
            finished: false,
            settled: false,
            failed: false,
            pending: false,
            more: false,
            items: VecDeque::new(),
        }
    }

    /// What the usage stated so far comes to.
    pub(super) fn reading(&self) -> Option<Reading> {
        self.tally.reading(self.dialect, self.cached)
    }

    pub(super) fn names(&mut self) -> (Option<String>, Option<String>) {
        (self.model.take(), self.id.take())
    }

    pub(super) fn take(&mut self) -> Option<Metered> {
        self.items.pop_front()
    }

    /// The current event ends here: it counts if its root is closed.
    pub(super) fn commit(&mut self) {
        if self.event.whole {
            self.merge();
        }
        self.event.clear();
    }

    /// The current event turned out not to be JSON.
    pub(super) fn discard(&mut self) {
        self.event.clear();
    }

    /// The answer was cut within the current event: the usage objects and
    /// names that had come whole still count, and nothing else of it does.
    pub(super) fn salvage(&mut self) {
        if self.event.whole {
            self.merge();
        } else if !self.has_items() {
            self.tally.merge(self.event.stated());
            self.model = self.model.take().or(self.event.model.take());
            self.id = self.id.take().or(self.event.id.take());
        }
        self.event.clear();
    }

    fn has_items(&self) -> bool {
        matches!(self.kind, Kind::Batch | Kind::Frames)
    }

    fn merge(&mut self) {
        self.events += 1;
        if self.has_items() {
            return self.item();
        }
        let event = &mut self.event;
        self.finished |= event.finish;
        let usage = event.stated();
        if self.finished && !usage.is_empty() {
            self.settled = true;
        }
        self.tally.merge(usage);
        self.failed |= (event.error || event.mark == Mark::Error) && !self.ended;
        self.ended |= event.mark == Mark::End || event.done == Some(true);
        self.pending = event.pending;
        self.more = event.done == Some(false);
        self.model = self.model.take().or(event.model.take());
        self.id = self.id.take().or(event.id.take());
    }

    /// The current event is a response of its own.
    fn item(&mut self) {
        let event = &mut self.event;
        let counts_here = self.kind == Kind::Frames || BATCH_USAGE.contains(&event.rank);
        let reading = event.stated().reading(self.dialect, None);
        let Some(reading) = reading.filter(|_| counts_here && self.items.len() < ITEMS_MAX) else {
            return;
        };
        self.items.push_back(Metered {
            counts: reading.counts,
            outcome: Outcome::Complete,
            inconsistent: reading.inconsistent,
            model: event.model.take(),
            response_id: event.id.take(),
        });
    }
}

impl Sink for Answer {
    fn wants(&self, node: Node) -> bool {
        match node {
            Node::Id(rank) => self.id.is_none() && rank < self.event.id_rank,
            Node::Model => self.model.is_none() && self.event.model.is_none(),
            Node::Type | Node::Status | Node::Error | Node::Unit => true,
            _ => false,
        }
    }

    fn open(&mut self, node: Node) -> bool {
        match node {
            Node::Root if self.event.whole => self.commit(),
            Node::Usage(rank) if rank > self.event.rank => return false,
            Node::Usage(_) => self.event.open.clear(),
            _ => {}
        }
        true
    }

    fn close(&mut self, node: Node) {
        let event = &mut self.event;
        match node {
            Node::Root => event.whole = true,
            Node::Usage(rank) if !event.open.is_empty() => {
                std::mem::swap(&mut event.usage, &mut event.open);
                event.rank = rank;
            }
            _ => {}
        }
    }

    fn value(&mut self, node: Node, value: Value<'_>) {
        let event = &mut self.event;
        let stated = !matches!(value, Value::Null);
        match (node, value) {
            (Node::Count(_) | Node::Sum(_), Value::Null) => {}
            (Node::Count(field), Value::Number(Some(count))) => {
                event.tally(field).set(field, count)
            }
            (Node::Sum(field), Value::Number(Some(count))) => event.tally(field).add(field, count),
            (Node::Count(field) | Node::Sum(field), _) => event.tally(field).refuse(),
            (Node::Unit, Value::Text(Some("duration"))) => event.open.other_unit(),
            (Node::Id(rank), Value::Text(Some(id))) if !id.is_empty() => {
                event.id = Some(id.to_owned());
                event.id_rank = rank;
            }
            (Node::Model, Value::Text(Some(model))) if !model.is_empty() => {
                event.model = Some(model.to_owned());
            }
            (Node::Type, Value::Text(Some(text))) => event.mark = Mark::of(text),
            (Node::Status, Value::Text(Some(text))) => {
                event.pending = matches!(text, "queued" | "in_progress");
            }
            (Node::Error, Value::Bool(false) | Value::Text(Some(""))) => {}
            (Node::Error, _) => event.error |= stated,
            (Node::Finish, _) => event.finish |= stated,
            (Node::Done, Value::Bool(done)) => event.done = Some(done),
            _ => {}
        }
    }
}

impl Event {
    fn new() -> Self {
        Self {
            whole: false,
            usage: Tally::new(),
            rank: NO_RANK,
            open: Tally::new(),
            loose: Tally::new(),
            model: None,
            id: None,
            id_rank: NO_RANK,
            mark: Mark::None,
            finish: false,
            error: false,
            pending: false,
            done: None,
        }
    }

    /// Makes room for the next event; `open` is cleared when it is opened.
    fn clear(&mut self) {
        self.whole = false;
        self.usage.clear();
        self.rank = NO_RANK;
        self.loose.clear();
        self.model = None;
        self.id = None;
        self.id_rank = NO_RANK;
        self.mark = Mark::None;
        self.finish = false;
        self.error = false;
        self.pending = false;
        self.done = None;
    }

    /// The usage that is believed: an event that says it twice counts once.
    fn stated(&self) -> &Tally {
        if self.rank == NO_RANK {
            &self.loose
        } else {
            &self.usage
        }
    }

    /// Where a count belongs.
    fn tally(&mut self, field: Field) -> &mut Tally {
        match field {
            Field::PromptEval | Field::Eval | Field::Vertex => &mut self.loose,
            _ => &mut self.open,
        }
    }
}

impl Mark {
    fn of(text: &str) -> Self {
        match text {
            "message_stop"
            | "response.completed"
            | "response.incomplete"
            | "response.done"
            | "image_generation.completed"
            | "image_edit.completed"
            | "speech.audio.done"
            | "transcript.text.done"
            | "interaction.complete"
            | "interaction.completed"
            | "message-end"
            | "stream-end" => Self::End,
            "error" | "response.failed" => Self::Error,
            _ => Self::None,
        }
    }
}
