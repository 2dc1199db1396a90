//! When a witness is asked next, and from which size. Pure.
//!
//! At most once a second; again after a while when there is nothing new, so
//! that the cosignature's time shows that the checkpoint is still the newest;
//! ever more seldom while it fails.

use std::time::Duration;

use protocol::index::TreeSize;
use tokio::time::Instant;

/// Between two requests to one witness, at the least.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// Between two requests of one checkpoint that is cosigned.
pub(super) const REFRESH: Duration = Duration::from_secs(10);

/// Between two requests to a witness that fails, at the most.
pub(super) const SELDOM: Duration = Duration::from_secs(30);

/// Conflicts in a row that are followed at once.
const CONFLICTS: u32 = 3;

/// How one witness is asked.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// What it holds, as far as is known.
    held: TreeSize,
    /// Whether it cosigned at that size, in answer to the last request.
    cosigned: bool,
    /// When it was asked last, or when that failed: from then on it rests.
    last: Option<Instant>,
    /// Attempts that failed since it last made sense.
    failures: u32,
    conflicts: u32,
}

impl Pace {
    /// Of a witness that holds `held`, as far as is known.
    pub(super) fn from(held: TreeSize) -> Self {
        Self {
            held,
            cosigned: false,
            last: None,
            failures: 0,
            conflicts: 0,
        }
    }

    /// The size to ask from.
    pub(super) fn held(&self) -> TreeSize {
        self.held
    }

    /// When to ask it for a checkpoint of `size`; `None`: not for this one,
    /// as it holds a larger one.
    pub(super) fn due(&self, size: TreeSize, now: Instant) -> Option<Instant> {
        if size < self.held {
            return None;
        }
        let wait = match self.failures {
            0 if self.cosigned && self.held == size => REFRESH,
            0 => INTERVAL,
            // 1, 2, 4, 8, 16 s, then the longest.
            n => SELDOM.min(INTERVAL * 2_u32.saturating_pow(n - 1)),
        };
        Some(self.last.map_or(now, |last| last + wait))
    }

    /// A request begins.
    pub(super) fn ask(&mut self, now: Instant) {
        self.last = Some(now);
        self.cosigned = false;
    }

    /// It cosigned a checkpoint of `size`.
    pub(super) fn cosigned(&mut self, size: TreeSize) {
        (self.held, self.cosigned) = (size, true);
        (self.failures, self.conflicts) = (0, 0);
    }

    /// It holds `size`; says whether that can still be believed.
    pub(super) fn holds(&mut self, size: TreeSize, now: Instant) -> bool {
        self.held = size;
        self.conflicts += 1;
        let believed = self.conflicts < CONFLICTS;
        if !believed {
            self.failed(now);
        }
        believed
    }

    /// It did not answer, or not so that it helps.
    pub(super) fn failed(&mut self, now: Instant) {
        self.last = Some(now);
        self.failures = self.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(n: u64) -> TreeSize {
        TreeSize::new(n).expect("small")
    }

    /// After how many seconds it is asked again for a checkpoint of this size.
    fn wait(pace: &Pace, asked: Instant, for_size: u64) -> Option<u64> {
        let due = pace.due(size(for_size), asked)?;
        Some(due.duration_since(asked).as_secs())
    }

    #[test]
    fn asked_once_a_second_and_again_when_idle() {
        let now = Instant::now();
        let mut pace = Pace::from(size(0));
        assert_eq!(wait(&pace, now, 5), Some(0));
        pace.ask(now);
        pace.cosigned(size(5));
        assert_eq!(wait(&pace, now, 5), Some(REFRESH.as_secs()));
        assert_eq!(wait(&pace, now, 6), Some(1));
        assert_eq!(wait(&pace, now, 4), None, "it never goes back");
        pace.ask(now);
        assert_eq!((wait(&pace, now, 5), pace.held()), (Some(1), size(5)));
    }

    #[test]
    fn asked_ever_more_seldom_while_it_fails() {
        let now = Instant::now();
        let mut pace = Pace::from(size(3));
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            pace.ask(now - REFRESH);
            // However long it took to fail.
            pace.failed(now);
            assert_eq!(wait(&pace, now, 9), Some(expected));
        }
        pace.failures = u32::MAX;
        pace.failed(now);
        assert_eq!(wait(&pace, now, 9), Some(30));
        assert_eq!(pace.held(), size(3), "the proof goes on from there");
        pace.cosigned(size(9));
        assert_eq!(wait(&pace, now, 10), Some(1));
    }

    #[test]
    fn a_size_that_it_holds_is_followed_but_not_for_ever() {
        let now = Instant::now();
        let mut pace = Pace::from(size(9));
        pace.ask(now);
        assert!(pace.holds(size(4), now) && pace.holds(size(7), now));
        assert_eq!((wait(&pace, now, 9), pace.held()), (Some(1), size(7)));
        assert!(!pace.holds(size(4), now) && !pace.holds(size(7), now));
        assert_eq!(wait(&pace, now, 9), Some(2));
        pace.cosigned(size(9));
        assert!(pace.holds(size(12), now));
        assert_eq!(wait(&pace, now, 11), None, "the log's next one is larger");
    }
}
