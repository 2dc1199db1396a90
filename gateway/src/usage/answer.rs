//! Answers: what the events of one answer say together.
//!
//! An event counts as a whole or not at all: what it says is kept apart until
//! its end shows that it was well formed.

use std::collections::VecDeque;

use super::count::{Reading, Tally};
use super::event::{Event, Mark};
use super::json::{Sink, Value};
use super::meter::Metered;
use super::paths::Node;
use super::{Dialect, Kind};
use protocol::record::Outcome;

/// Items that wait for [`Answer::take`] at most; more are dropped.
const ITEMS_MAX: usize = 1 << 14;

/// The order in which the usage of a batch's items is believed (see `paths`).
const BATCH_USAGE: std::ops::RangeInclusive<u8> = 9..=10;

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
        self.kind == Kind::Batch
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
        let failed = event.error || matches!(event.mark, Mark::Error | Mark::Failed);
        self.failed |= failed && !self.ended;
        self.ended |= event.mark == Mark::End || event.done == Some(true);
        self.pending = event.pending;
        self.more = event.done == Some(false);
        self.model = self.model.take().or(event.model.take());
        self.id = self.id.take().or(event.id.take());
    }

    /// The current event is a response of its own.
    fn item(&mut self) {
        let event = &mut self.event;
        let counts_here = BATCH_USAGE.contains(&event.rank);
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
            Node::Id(_) => self.id.is_none() && self.event.wants(node),
            Node::Model => self.model.is_none() && self.event.wants(node),
            Node::ResponseStatus => false,
            _ => self.event.wants(node),
        }
    }

    fn open(&mut self, node: Node) -> bool {
        match node {
            Node::Root if self.event.whole => self.commit(),
            // What only sessions say.
            Node::Session | Node::ServerContent => return false,
            _ => {}
        }
        self.event.open(node)
    }

    fn close(&mut self, node: Node) {
        self.event.close(node);
    }

    fn value(&mut self, node: Node, value: Value<'_>) {
        self.event.value(node, value);
    }
}
