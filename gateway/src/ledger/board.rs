//! Leaderboards: totals by user, kept current once they were asked for.
//!
//! A board is one number a user. Built by a walk over the accounts when it is
//! first asked for, it is then kept by every entry that counts; the few best
//! are picked from it when they are asked for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use protocol::hash::Hash;
use protocol::record::Source;

use super::{Category, Ledger, Number, Sums, Window, days};

/// Boards that are kept; the one not asked for the longest goes.
const KEPT: usize = 16;

/// What is ranked: one source's users, by their totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Board {
    /// Over all time.
    Ever(Source),
    /// Within a window.
    Within(Source, Window),
    /// Over all time, with one model's name.
    Model(Source, String),
}

/// A row of a leaderboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Whose it is.
    pub key_id: Hash,
    /// The sums.
    pub sums: Sums,
}

/// The boards that are kept, the one asked for last at the end.
#[derive(Debug, Default)]
pub(super) struct Boards(Vec<Kept>);

#[derive(Debug)]
struct Kept {
    board: Board,
    /// By the user's number: 0 where nothing counts, else 1 and the total.
    totals: Vec<u64>,
}

impl Board {
    fn counts(&self, day: u64, category: &Category) -> bool {
        match self {
            Self::Ever(source) => category.source == *source,
            Self::Within(source, window) => {
                category.source == *source && (window.from..=window.to).contains(&day)
            }
            Self::Model(source, model) => {
                let name = category.model.as_ref().map_or("", |name| name.as_str());
                category.source == *source && name == model
            }
        }
    }
}

impl Boards {
    /// Counts an entry of `user`.
    pub(super) fn add(&mut self, user: Number, day: u64, category: &Category, sums: &Sums) {
        for kept in &mut self.0 {
            if kept.board.counts(day, category) {
                kept.add(user, sums.total());
            }
        }
    }
}

impl Kept {
    fn add(&mut self, user: Number, total: u64) {
        let at = user as usize;
        if self.totals.len() <= at {
            self.totals.resize(at + 1, 0);
        }
        self.totals[at] = self.totals[at].max(1).saturating_add(total);
    }
}

impl Ledger {
    /// The `limit` first of a board, by total and then key id.
    pub fn leaders(&mut self, board: &Board, limit: usize) -> Vec<Leader> {
        let kept = match self.boards.0.iter().position(|kept| kept.board == *board) {
            Some(at) => self.boards.0.remove(at),
            None => self.build(board),
        };
        let leaders = self.best(&kept, limit);
        if self.boards.0.len() == KEPT {
            self.boards.0.remove(0);
        }
        self.boards.0.push(kept);
        leaders
    }

    fn build(&self, board: &Board) -> Kept {
        let mut kept = Kept {
            board: board.clone(),
            totals: Vec::new(),
        };
        for user in (0..).take(self.users.accounts.len()) {
            let sums = self.counted(board, user);
            if sums.records > 0 {
                kept.add(user, sums.total());
            }
        }
        kept
    }

    fn best(&self, kept: &Kept, limit: usize) -> Vec<Leader> {
        let key = |user: Number| &self.users.account(user).key;
        // The smallest of the best on top: most users are below it.
        let mut best = BinaryHeap::with_capacity(limit + 1);
        let mut bar = 0;
        for (user, total) in (0..).zip(&kept.totals) {
            if *total == 0 || *total < bar {
                continue;
            }
            best.push(Reverse((*total, Reverse(key(user)), user)));
            if best.len() > limit {
                best.pop();
                bar = best.peek().map_or(0, |Reverse((total, ..))| *total);
            }
        }
        let row = |Reverse((_, Reverse(key_id), user)): Reverse<(u64, Reverse<&Hash>, Number)>| {
            let sums = self.counted(&kept.board, user);
            let key_id = *key_id;
            Leader { key_id, sums }
        };
        best.into_sorted_vec().into_iter().map(row).collect()
    }

    /// What counts of a user for a board.
    fn counted(&self, board: &Board, user: Number) -> Sums {
        let user = &self.users.account(user).sums;
        let category = |number: &Number| &self.models.account(*number).key;
        match board {
            Board::Within(source, window) => {
                let (from, to) = days(*window);
                let all = user.days.range((from, Source::ALL[0]), (to, LAST_SOURCE));
                let counted = all.iter().filter(|((_, by), _)| by == source);
                counted.map(|(_, sums)| sums).sum()
            }
            Board::Ever(_) | Board::Model(..) => {
                let cells = user.models.iter();
                let counted = cells.filter(|(number, _)| board.counts(0, category(number)));
                counted.map(|(_, sums)| sums).sum()
            }
        }
    }
}

/// The source that comes last in their order.
const LAST_SOURCE: Source = Source::ALL[Source::ALL.len() - 1];
