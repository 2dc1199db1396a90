//! Leaderboards: what each key id or wallet used, kept current once it was
//! asked for.
//!
//! A board is a few numbers an account. Built by a walk over the accounts when
//! it is first asked for, it is then kept by every entry that counts; the few
//! best, in whatever order, are picked from it when they are asked for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use protocol::hash::Hash;
use protocol::name::{Address, Name};
use protocol::record::Source;

use super::sums::Cells;
use super::{Category, Ledger, Number, Sums, Window, days};

/// Boards that are kept; the one not asked for the longest goes.
const KEPT: usize = 16;

/// Who is ranked: key ids, or wallets by what is bound to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Whoever holds a credential or link token.
    Key,
    /// Whoever signed bindings.
    Wallet,
}

/// Which of their records count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Ever,
    /// Those within a window.
    Within(Window),
    /// Those with one model's name; those without one, if it is empty.
    Model(String),
    /// Those of one provider.
    Provider(String),
}

/// What is ranked: one source's accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// Who.
    pub by: By,
    /// How the records were observed.
    pub source: Source,
    /// Which of them count.
    pub scope: Scope,
}

/// By what accounts are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Input and output tokens together.
    Total,
    /// Input tokens.
    Input,
    /// Output tokens.
    Output,
    /// Distinct models.
    Models,
    /// Distinct UTC days.
    Days,
}

/// Whose row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A key id's.
    Key(Hash),
    /// A wallet's.
    Wallet(Address),
}

/// A row of a leaderboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Whose it is.
    pub who: Who,
    /// The sums.
    pub sums: Sums,
    /// Distinct (provider, model) with a model, where the scope tells them.
    pub models: Option<u64>,
    /// Distinct UTC days with a record, where the scope tells them.
    pub days: Option<u64>,
}

/// The boards that are kept, the one asked for last at the end.
#[derive(Debug, Default)]
pub(super) struct Boards(Vec<Kept>);

#[derive(Debug)]
struct Kept {
    board: Board,
    /// By the account's number.
    marks: Vec<Mark>,
}

/// What an account is ranked by; it has no row without records.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    records: u64,
    input: u64,
    output: u64,
    models: u32,
    days: u32,
}

/// An entry of an account, as boards count it.
pub(super) struct Counted<'a> {
    pub(super) day: u64,
    pub(super) category: &'a Category,
    pub(super) sums: &'a Sums,
    /// Whether the account has no other of this category.
    pub(super) new_category: bool,
    /// Whether it has no other of this source on this day.
    pub(super) new_day: bool,
}

impl By {
    /// As the interface says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Wallet => "wallet",
        }
    }

    /// Reads what the interface says.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Key, Self::Wallet]
            .into_iter()
            .find(|by| by.as_str() == word)
    }
}

impl Sort {
    /// Every order there is.
    pub const ALL: &[Self] = &[
        Self::Total,
        Self::Input,
        Self::Output,
        Self::Models,
        Self::Days,
    ];

    /// As the interface says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Input => "input",
            Self::Output => "output",
            Self::Models => "models",
            Self::Days => "days",
        }
    }

    /// Reads what the interface says.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|sort| sort.as_str() == word)
    }

    /// Whether a board of this scope tells what is asked for.
    pub fn fits(self, scope: &Scope) -> bool {
        match self {
            Self::Total | Self::Input | Self::Output => true,
            Self::Models => scope.tells_models(),
            Self::Days => scope.tells_days(),
        }
    }

    /// What decides, and what does among equals.
    fn rank(self, mark: &Mark) -> (u64, u64) {
        let total = mark.input.saturating_add(mark.output);
        let first = match self {
            Self::Total => total,
            Self::Input => mark.input,
            Self::Output => mark.output,
            Self::Models => mark.models.into(),
            Self::Days => mark.days.into(),
        };
        (first, total)
    }
}

impl Scope {
    fn tells_models(&self) -> bool {
        matches!(self, Self::Ever | Self::Provider(_))
    }

    fn tells_days(&self) -> bool {
        matches!(self, Self::Ever | Self::Within(_))
    }

    /// Whether records of a category can be within.
    fn may_hold(&self, category: &Category) -> bool {
        match self {
            Self::Ever | Self::Within(_) => true,
            Self::Model(name) => category.model.as_ref().map_or("", Name::as_str) == name,
            Self::Provider(name) => category.provider.as_str() == name,
        }
    }

    fn counts(&self, day: u64, category: &Category) -> bool {
        let then = match self {
            Self::Within(window) => (window.from..=window.to).contains(&day),
            _ => true,
        };
        then && self.may_hold(category)
    }
}

impl Boards {
    /// Counts an entry of an account.
    pub(super) fn add(&mut self, by: By, account: Number, counted: &Counted<'_>) {
        let Counted { day, category, .. } = *counted;
        for kept in &mut self.0 {
            let Board {
                by: whose,
                source,
                scope,
            } = &kept.board;
            if *whose == by && *source == category.source && scope.counts(day, category) {
                let told = (scope.tells_models(), scope.tells_days());
                kept.mark(account).add(counted, told);
            }
        }
    }
}

impl Kept {
    fn mark(&mut self, account: Number) -> &mut Mark {
        let at = account as usize;
        if self.marks.len() <= at {
            self.marks.resize(at + 1, Mark::default());
        }
        &mut self.marks[at]
    }
}

impl Mark {
    /// Counts models and days as far as they are told.
    fn add(&mut self, counted: &Counted<'_>, (models, days): (bool, bool)) {
        let named = counted.new_category && counted.category.model.is_some();
        self.records += counted.sums.records;
        self.input = self.input.saturating_add(counted.sums.input);
        self.output = self.output.saturating_add(counted.sums.output);
        self.models += u32::from(models && named);
        self.days += u32::from(days && counted.new_day);
    }
}

impl Ledger {
    /// The `limit` first of a board, by `sort`, then total, then key id or
    /// wallet. What a scope does not tell counts 0 for all.
    pub fn leaders(&mut self, board: &Board, sort: Sort, limit: usize) -> Vec<Leader> {
        let kept = match self.boards.0.iter().position(|kept| kept.board == *board) {
            Some(at) => self.boards.0.remove(at),
            None if self.is_of_nobody(board) => return Vec::new(),
            None => self.build(board),
        };
        let leaders = self.best(&kept, sort, limit);
        if self.boards.0.len() == KEPT {
            self.boards.0.remove(0);
        }
        self.boards.0.push(kept);
        leaders
    }

    /// Whether no record is within a board: nothing is built and kept of names
    /// that somebody made up.
    fn is_of_nobody(&self, board: &Board) -> bool {
        let within = |of: &Category| of.source == board.source && board.scope.may_hold(of);
        !self.models.accounts.iter().any(|model| within(&model.key))
    }

    fn build(&self, board: &Board) -> Kept {
        let accounts = match board.by {
            By::Key => self.users.accounts.len(),
            By::Wallet => self.wallets.accounts.len(),
        };
        let mark = |account| {
            let leader = self.leader(board, account);
            let small = |n: Option<u64>| u32::try_from(n.unwrap_or_default()).unwrap_or(u32::MAX);
            Mark {
                records: leader.sums.records,
                input: leader.sums.input,
                output: leader.sums.output,
                models: small(leader.models),
                days: small(leader.days),
            }
        };
        Kept {
            board: board.clone(),
            marks: (0..).take(accounts).map(mark).collect(),
        }
    }

    fn best(&self, kept: &Kept, sort: Sort, limit: usize) -> Vec<Leader> {
        let key = |account: Number| match kept.board.by {
            By::Key => &self.users.account(account).key.as_bytes()[..],
            By::Wallet => &self.wallets.account(account).key.as_bytes()[..],
        };
        // The smallest of the best on top: most accounts are below it.
        let mut best = BinaryHeap::with_capacity(limit + 1);
        let mut bar = (0, 0);
        for (account, mark) in (0..).zip(&kept.marks) {
            let rank = sort.rank(mark);
            if mark.records == 0 || rank < bar {
                continue;
            }
            best.push(Reverse((rank, Reverse(key(account)), account)));
            if best.len() > limit {
                best.pop();
                bar = best.peek().map_or(bar, |Reverse((rank, ..))| *rank);
            }
        }
        let sorted = best.into_sorted_vec().into_iter();
        sorted
            .map(|Reverse((_, _, account))| self.leader(&kept.board, account))
            .collect()
    }

    /// What counts of an account for a board.
    fn leader(&self, board: &Board, account: Number) -> Leader {
        match board.by {
            By::Key => {
                let user = self.users.account(account);
                let who = Who::Key(user.key);
                self.counted(board, who, &user.sums.models, &user.sums.days)
            }
            By::Wallet => {
                let wallet = self.wallets.account(account);
                let who = Who::Wallet(wallet.key);
                self.counted(board, who, &wallet.sums.models, &wallet.sums.days)
            }
        }
    }

    fn counted(
        &self,
        board: &Board,
        who: Who,
        by_category: &Cells<Number>,
        by_day: &Cells<(u32, Source)>,
    ) -> Leader {
        let Board { source, scope, .. } = board;
        let mut leader = Leader {
            who,
            sums: Sums::default(),
            models: scope.tells_models().then_some(0),
            days: scope.tells_days().then_some(0),
        };
        if let Some(active) = &mut leader.days {
            let (from, to) = match scope {
                Scope::Within(window) => days(*window),
                _ => (0, u32::MAX),
            };
            let all = by_day.range((from, Source::ALL[0]), (to, LAST_SOURCE));
            for (_, sums) in all.iter().filter(|((_, by), _)| by == source) {
                *active += 1;
                leader.sums.add(sums);
            }
            // Days of a source hold all of its records.
            if leader.models.is_none() {
                return leader;
            }
            leader.sums = Sums::default();
        }
        for (number, sums) in by_category.iter() {
            let category = &self.models.account(*number).key;
            if category.source == *source && scope.may_hold(category) {
                leader.sums.add(sums);
                let named = u64::from(category.model.is_some());
                leader.models = leader.models.map(|models| models + named);
            }
        }
        leader
    }
}

/// The source that comes last in their order.
const LAST_SOURCE: Source = Source::ALL[Source::ALL.len() - 1];
