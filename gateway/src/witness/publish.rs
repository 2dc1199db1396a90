//! Publishing with witnesses: what [`super::choice`] decides, made to last
//! before it is served, so that no restart serves an older checkpoint.
//!
//! Of several gateways the log's writer has the witnesses asked; the others
//! serve what it published.

use std::sync::Arc;
use std::time::Duration;

use protocol::key::VerifierKey;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::choice::{Choice, PATIENCE};
use super::enlisted::Witnesses;
use super::roster::Roster;
use super::submit::Cosignature;
use crate::log::head::HeadFile;
use crate::log::publish::{INTERVAL, Published, kept};
use crate::log::replica::{Committed, Health};
use crate::store::{Store, StoreError};

/// Between two looks at whose turn it is, and at what the writer published.
const LOOK: Duration = Duration::from_millis(250);

/// Decides what `/checkpoint` answers.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) witnesses: Witnesses,
    pub(super) key: VerifierKey,
    pub(super) store: Store,
    pub(super) health: Health,
    pub(super) head: HeadFile,
    pub(super) committed: watch::Receiver<Committed>,
    pub(super) published: watch::Sender<Published>,
    pub(super) asked_for: watch::Sender<Option<Published>>,
    pub(super) cosignatures: mpsc::Receiver<Cosignature>,
    pub(super) roster: Roster,
}

/// The sequencer ended.
struct Ended;

impl Publisher {
    /// What is served first: what was served last, if that is known.
    ///
    /// # Errors
    /// The store failed.
    pub(super) async fn first(
        store: &Store,
        witnesses: &Witnesses,
        key: &VerifierKey,
        newest: Published,
    ) -> Result<Published, StoreError> {
        let stored = store.published().await?;
        let stored = stored.and_then(|note| read(&note, witnesses, key, &newest));
        Ok(stored.map_or(newest, |choice| choice.served()))
    }

    /// Publishes until the sequencer ends.
    pub(super) async fn run(mut self) {
        loop {
            let turn = match self.health.is_writer() {
                true => self.publish().await,
                false => self.follow().await,
            };
            if turn.is_err() {
                return;
            }
        }
    }

    /// Chooses and publishes while this gateway writes the log.
    async fn publish(&mut self) -> Result<(), Ended> {
        let Some(mut choice) = self.resume().await? else {
            return Ok(());
        };
        let mut look = looks();
        // What is served must be in the store: at the beginning it may not be.
        let (mut unstored, mut again) = (true, Instant::now());
        let mut newest = None;
        loop {
            self.take_down(&mut newest).await;
            let now = Instant::now();
            if let Some(newest) = &newest {
                unstored |= choice.advance(newest, now);
            }
            // Nobody is shown what the head file does not have.
            let taken_down = newest.is_some();
            if taken_down && unstored && now >= again {
                unstored = !self.serve(choice.served()).await;
                again = now + if unstored { INTERVAL } else { Duration::ZERO };
            }
            let served = self.published.borrow().checkpoint.size();
            self.roster.quorum(!choice.lacks_quorum(now), served);
            let asked_for = choice.asked_for();
            self.asked_for.send_if_modified(|there| {
                let changes = taken_down && there.as_ref() != Some(asked_for);
                if changes {
                    *there = Some(asked_for.clone());
                }
                changes
            });
            let next = choice.next();
            tokio::select! {
                changed = self.committed.changed(), if !choice.has_grown() => {
                    changed.map_err(|_| Ended)?;
                }
                Some(given) = self.cosignatures.recv() => {
                    let Cosignature { number, size, time, line } = given;
                    choice.cosigned(number, size, time, line);
                }
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
                _ = look.tick() => {
                    if !self.health.is_writer() {
                        self.asked_for.send_replace(None);
                        self.roster.rest();
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Sets `taken_down` to the newest checkpoint, once the head file is on the
    /// disk with it: before anybody else is shown it.
    async fn take_down(&mut self, taken_down: &mut Option<Published>) {
        let newest = Published::from(&*self.committed.borrow_and_update());
        if taken_down.as_ref() == Some(&newest) {
            return;
        }
        let kept = kept(self.head.clone(), Arc::clone(&newest.note)).await;
        self.health.publishes(kept.is_ok());
        match kept {
            Ok(()) => *taken_down = Some(newest),
            Err(error) => report(&error),
        }
    }

    /// Where the former writer left off; `None` if another one writes by now.
    async fn resume(&self) -> Result<Option<Choice>, Ended> {
        let mut look = looks();
        while self.health.is_writer() {
            look.tick().await;
            self.committed.has_changed().map_err(|_| Ended)?;
            let newest = Published::from(&*self.committed.borrow());
            match self.stored(&newest).await {
                Ok(choice) => {
                    for number in 0..self.witnesses.enlisted().len() {
                        self.roster.shown(number, choice.last_of(number));
                    }
                    return Ok(Some(choice));
                }
                Err(error) => report(&error),
            }
        }
        Ok(None)
    }

    async fn stored(&self, newest: &Published) -> Result<Choice, StoreError> {
        let stored = self.store.published().await?;
        let read = stored.map(|note| read(&note, &self.witnesses, &self.key, newest));
        if let Some(None) = read {
            self.store.unpublish().await?;
        }
        let fresh = || Choice::new(self.witnesses.clone(), newest, Instant::now());
        Ok(read.flatten().unwrap_or_else(fresh))
    }

    /// Stores what is to be served, then serves it; false if it can't be stored.
    async fn serve(&self, served: Published) -> bool {
        let size = served.checkpoint.size();
        match self.store.publish(size, &served.note).await {
            Ok(true) => {
                self.published.send_replace(served);
                true
            }
            // Another writer published a newer one: this gateway's turn is over.
            Ok(false) => true,
            Err(error) => {
                report(&error);
                false
            }
        }
    }

    /// Serves what the writer publishes while this gateway follows.
    async fn follow(&mut self) -> Result<(), Ended> {
        let mut look = looks();
        let mut lacking: Option<Instant> = None;
        let mut last = String::new();
        while !self.health.is_writer() {
            look.tick().await;
            self.committed.has_changed().map_err(|_| Ended)?;
            // Left over from a turn that is over.
            while self.cosignatures.try_recv().is_ok() {}
            let stored = match self.store.published().await {
                Ok(stored) => stored.unwrap_or_default(),
                Err(error) => {
                    report(&error);
                    continue;
                }
            };
            let now = Instant::now();
            if stored != last {
                let newest = Published::from(&*self.committed.borrow());
                // It may be ahead of what was read of the log.
                let Some(choice) = read(&stored, &self.witnesses, &self.key, &newest) else {
                    continue;
                };
                lacking = choice.lacks_quorum(now + PATIENCE).then_some(now);
                self.repeat(&choice, &stored);
                last = stored;
            }
            let waited = lacking.is_some_and(|since| now >= since + PATIENCE);
            let served = self.published.borrow().checkpoint.size();
            self.roster.quorum(!waited, served);
        }
        Ok(())
    }

    /// Serves what the writer published, byte for byte.
    fn repeat(&self, choice: &Choice, note: &str) {
        let checkpoint = choice.served().checkpoint;
        for number in 0..self.witnesses.enlisted().len() {
            self.roster.shown(number, choice.last_of(number));
        }
        self.published.send_if_modified(|there| {
            let newer = checkpoint.size() >= there.checkpoint.size();
            if newer {
                *there = Published {
                    checkpoint,
                    note: note.into(),
                };
            }
            newer
        });
    }
}

fn read(
    note: &str,
    witnesses: &Witnesses,
    key: &VerifierKey,
    newest: &Published,
) -> Option<Choice> {
    Choice::resume(witnesses.clone(), key, note, newest, Instant::now())
}

fn looks() -> tokio::time::Interval {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look
}

fn report(error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(error, "the published checkpoint; trying again in a second");
}
