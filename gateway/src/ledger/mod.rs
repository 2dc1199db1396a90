//! The ledger: running sums over the log's usage entries, exact at one size.
//!
//! It lives in memory and is a function of the entries. In the database it
//! lies in 256 slices, each holding the accounts whose key falls on it, and
//! each as of a size of its own. Every append that crosses a multiple of
//! [`STRIDE`] writes the next slice in its transaction; a start loads the
//! slices and reads only the entries since the oldest of them, at most
//! `256 * STRIDE` and those of one batch.
//!
//! ```text
//!           slice 0     slice 1     slice 2         slice 255
//! as of     131,072     131,584       512    ..      130,560      size 131,700
//!                                      └── entries from here on are read again
//! ```
//! Sums in tables would touch five pages of an index for each record; these
//! cost a hundred bytes. Out of scope: I/O, and what an answer looks like.

mod board;
mod recent;
mod state;
mod sums;
mod totals;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash as StdHash;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use protocol::binding::{Binding, KeyState};
use protocol::entry::{Body, RULES};
use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::name::{Address, Name};
use protocol::record::{Link, Outcome, Source, Usage};

pub use board::{Board, By, Leader, Scope, Sort, Who};
use board::{Boards, Counted};
use recent::{Entry, Undo};
pub use state::Damaged;
use sums::Cells;
pub use sums::Sums;
use totals::Settled;
pub use totals::{Below, Changes, Contradiction, Proven, Tree};

/// Slices there are.
const SLICES: usize = 256;

/// Entries between two slices' writing.
pub const STRIDE: u64 = 512;

/// UTC days, both included, since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// The first day.
    pub from: u64,
    /// The last day.
    pub to: u64,
}

/// What is told apart in sums: a model of a provider, as observed in one way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Category {
    /// How the records were observed.
    pub source: Source,
    /// The provider.
    pub provider: Name,
    /// The model, if one was named.
    pub model: Option<Name>,
}

/// The log as a whole.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Distinct key ids.
    pub users: u64,
    /// Distinct (provider, model).
    pub models: u64,
    /// Distinct wallets.
    pub wallets: u64,
    /// Sums by source.
    pub sources: Vec<(Source, Sums)>,
    /// Usage entries by outcome, in the order of [`Outcome::ALL`].
    pub outcomes: Vec<(Outcome, u64)>,
}

/// The number of a category or an account in this process.
type Number = u32;

/// A key id's sums.
#[derive(Debug, Default)]
struct User {
    models: Cells<Number>,
    days: Cells<(u32, Source)>,
}

/// A category's sums.
#[derive(Debug, Default)]
struct Model {
    all: Sums,
    days: Cells<u32>,
    outcomes: [u64; Outcome::ALL.len()],
}

/// A wallet's sums.
#[derive(Debug, Default)]
struct Wallet {
    links: Cells<(Link, Source)>,
    /// Of bound records, as what follows.
    models: Cells<Number>,
    days: Cells<(u32, Source)>,
    /// The first and the last of them, by source, in the order of sources.
    ends: Vec<(Source, Index, Index)>,
    /// How many there are in each UTC hour of the day that has any, ascending.
    hours: Vec<(u8, Source, u32)>,
}

/// What became of a key; of most nothing did.
#[derive(Debug, Default)]
struct Bound(Option<KeyState>);

/// What the log's own entry says to those who go on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// Its leaf hash.
    pub leaf_hash: Hash,
    /// Whether its rules know bindings, totals and anchors.
    pub binds: bool,
    /// Seconds between totals entries.
    pub totals_interval: u64,
}

/// Sums by source, by category, and by day and source.
#[derive(Clone, Debug, Default)]
pub struct WalletSums {
    /// Bound records by source.
    pub bound: Vec<(Source, Sums)>,
    /// Records whose requests named the wallet.
    pub claimed: Vec<(Source, Sums)>,
    /// Bound records by category, in the order of names.
    pub models: Vec<(Category, Sums)>,
    /// Bound records by UTC day, ascending, and source.
    pub days: Vec<(u32, Source, Sums)>,
    /// How many bound records there are by UTC hour of the day (0 to 23), those
    /// that have any, ascending, and source.
    pub hours: Vec<(u8, Source, u32)>,
    /// The first and the last bound record of each source.
    pub ends: Vec<(Source, Index, Index)>,
}

/// Accounts of one kind: numbered as they come, found by their keys.
#[derive(Debug)]
struct Table<K, A> {
    numbers: HashMap<K, Number>,
    accounts: Vec<Account<K, A>>,
    /// The accounts of each slice.
    slices: Vec<Vec<Number>>,
}

#[derive(Debug)]
struct Account<K, A> {
    key: K,
    slice: u8,
    sums: A,
}

/// A ledger that one task adds to and many read. Clones share it.
#[derive(Clone, Debug)]
pub struct Shared(Arc<RwLock<Ledger>>);

impl Shared {
    /// Shares a ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self(Arc::new(RwLock::new(ledger)))
    }

    /// To ask.
    pub fn read(&self) -> RwLockReadGuard<'_, Ledger> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To add, or to ask what is kept for the next time.
    pub fn write(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Running sums over the first entries of a log.
#[derive(Debug)]
pub struct Ledger {
    size: TreeSize,
    newest: Time,
    users: Table<Hash, User>,
    models: Table<Category, Model>,
    wallets: Table<Address, Wallet>,
    keys: Table<Hash, Bound>,
    genesis: Option<Genesis>,
    settled: Settled,
    /// The chains that entries of kind `anchor` name, and which entries these are.
    anchored: BTreeMap<u64, Index>,
    /// Distinct (provider, model).
    named: HashSet<(Name, Name)>,
    /// To which size each slice was loaded.
    through: [u64; SLICES],
    boards: Boards,
}

/// A key of an account.
trait Key: Clone + Eq + StdHash {
    /// The slice it falls on, the same for ever.
    fn slice(&self) -> u8;
}

impl Key for Hash {
    fn slice(&self) -> u8 {
        self.as_bytes()[0]
    }
}

impl Key for Address {
    fn slice(&self) -> u8 {
        // The first bytes of an address may have been chosen.
        self.as_bytes()[19]
    }
}

impl Key for Category {
    fn slice(&self) -> u8 {
        let model = self.model.as_ref().map_or("", Name::as_str);
        Hash::of(format!("{}\0{model}", self.provider).as_bytes()).slice()
    }
}

impl<K: Key, A: Default> Table<K, A> {
    fn new() -> Self {
        Self {
            numbers: HashMap::new(),
            accounts: Vec::new(),
            slices: vec![Vec::new(); SLICES],
        }
    }

    /// The account of `key`, opened if need be.
    fn number(&mut self, key: &K) -> Number {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let number = Number::try_from(self.accounts.len()).expect("fewer accounts than 2^32");
        let slice = key.slice();
        self.slices[usize::from(slice)].push(number);
        self.accounts.push(Account {
            key: key.clone(),
            slice,
            sums: A::default(),
        });
        self.numbers.insert(key.clone(), number);
        number
    }

    fn find(&self, key: &K) -> Option<&A> {
        let number = *self.numbers.get(key)?;
        Some(&self.account(number).sums)
    }

    fn account(&self, number: Number) -> &Account<K, A> {
        &self.accounts[number as usize]
    }

    fn account_mut(&mut self, number: Number) -> &mut Account<K, A> {
        &mut self.accounts[number as usize]
    }

    fn len(&self) -> u64 {
        self.accounts.len() as u64
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            size: TreeSize::ZERO,
            newest: Time::from_secs(0).expect("zero is a time"),
            users: Table::new(),
            models: Table::new(),
            wallets: Table::new(),
            keys: Table::new(),
            genesis: None,
            settled: Settled::default(),
            anchored: BTreeMap::new(),
            named: HashSet::new(),
            through: [0; SLICES],
            boards: Boards::default(),
        }
    }
}

impl Ledger {
    /// Of how many entries the sums are.
    pub fn size(&self) -> TreeSize {
        self.size
    }

    /// Adds the entry at `index`, which comes after all others: its bytes, and
    /// what it says if that is known.
    ///
    /// # Errors
    /// It is a totals entry, and these are not the sums.
    pub fn add(
        &mut self,
        index: Index,
        time: Time,
        entry: &[u8],
        body: Option<&Body>,
    ) -> Result<(), Contradiction> {
        let settled = match body {
            Some(Body::Log(_)) if index.get() == 0 => {
                self.begin(entry, body);
                Ok(())
            }
            Some(Body::Usage(usage)) => {
                self.use_up(index, time, usage);
                Ok(())
            }
            Some(Body::Binding(binding)) => {
                self.bind(index, time, binding, Hash::leaf(entry));
                Ok(())
            }
            Some(Body::Totals(totals)) => self.settle(index, totals),
            Some(Body::Anchor(place)) => {
                self.anchored.entry(place.chain_id).or_insert(index);
                Ok(())
            }
            Some(Body::Log(_)) | None => Ok(()),
        };
        self.size = TreeSize::new(index.get() + 1).expect("an index is followed by a size");
        self.newest = self.newest.max(time);
        settled
    }

    /// Takes in entry 0, which is always to be known.
    pub fn begin(&mut self, entry: &[u8], body: Option<&Body>) {
        if let Some(Body::Log(log)) = body {
            self.genesis = Some(Genesis {
                leaf_hash: Hash::leaf(entry),
                binds: log.rules == RULES,
                totals_interval: log.totals_interval,
            });
        }
    }

    /// What the log's own entry says.
    pub fn genesis(&self) -> Option<Genesis> {
        self.genesis
    }

    /// Whether the log's rules know bindings, totals and anchors.
    pub fn binds(&self) -> bool {
        self.genesis.is_some_and(|genesis| genesis.binds)
    }

    /// The entry that names a chain as one that the log is anchored on.
    pub fn anchored(&self, chain_id: u64) -> Option<Index> {
        self.anchored.get(&chain_id).copied()
    }

    /// A key's state; `None` in an empty log.
    pub fn key(&self, key_id: &Hash) -> Option<KeyState> {
        let known = self.keys.find(key_id).and_then(|bound| bound.0);
        known.or_else(|| Some(KeyState::fresh(self.genesis?.leaf_hash)))
    }

    /// Whether a usage entry names the key.
    pub fn was_used(&self, key_id: &Hash) -> bool {
        self.users.find(key_id).is_some()
    }

    fn bind(&mut self, index: Index, time: Time, binding: &Binding, leaf_hash: Hash) {
        self.leave_out(Entry {
            index,
            time,
            undo: None,
        });
        if self.through[usize::from(binding.key_id.slice())] > index.get() {
            return;
        }
        let state = self.key(&binding.key_id);
        // The writer judged it; what it would not have taken changes nothing.
        let Some(Ok(state)) = state.map(|state| state.take(binding, index, leaf_hash)) else {
            return;
        };
        let number = self.keys.number(&binding.key_id);
        self.keys.account_mut(number).sums = Bound(Some(state));
    }

    fn use_up(&mut self, index: Index, time: Time, usage: &Usage) {
        let mut undo = None;
        let day = u32::try_from(time.day()).unwrap_or(u32::MAX);
        let (sums, source) = (Sums::of(usage), usage.source);
        let category = Category {
            source,
            provider: usage.provider.clone(),
            model: usage.model.clone(),
        };
        // An account of a slice that was loaded as of a later size has it already.
        let through = &self.through;
        let news = |slice: u8| through[usize::from(slice)] <= index.get();
        let number = intern(&mut self.models, &mut self.named, &category);
        let model = self.models.account_mut(number);
        if news(model.slice) {
            model.sums.all.add(&sums);
            model.sums.days.add(day, &sums);
            let outcome = Outcome::ALL.iter().position(|o| *o == usage.outcome);
            model.sums.outcomes[outcome.expect("all outcomes are listed")] += 1;
        }
        let counted = |models: &mut Cells<Number>, days: &mut Cells<(u32, Source)>| Counted {
            day: time.day(),
            category: &category,
            sums: &sums,
            new_category: models.add(number, &sums),
            new_day: days.add((day, source), &sums),
        };
        if let Some((wallet, link)) = usage.wallet
            && news(wallet.slice())
        {
            let account = self.wallets.number(&wallet);
            let mine = &mut self.wallets.account_mut(account).sums;
            mine.links.add((link, source), &sums);
            if link == Link::Bound {
                let counted = counted(&mut mine.models, &mut mine.days);
                self.boards.add(By::Wallet, account, &counted);
                let last = match mine.ends.iter_mut().find(|(by, ..)| *by == source) {
                    Some((_, _, last)) => Some(std::mem::replace(last, index)),
                    None => {
                        mine.ends.push((source, index, index));
                        mine.ends.sort_unstable();
                        None
                    }
                };
                mine.count_hour(time, source);
                self.settled.touch(account);
                undo = Some(Undo {
                    wallet: account,
                    source,
                    sums,
                    last,
                });
            }
        }
        if let Some(key_id) = usage.key_id
            && news(key_id.slice())
        {
            let user = self.users.number(&key_id);
            let mine = &mut self.users.account_mut(user).sums;
            let counted = counted(&mut mine.models, &mut mine.days);
            self.boards.add(By::Key, user, &counted);
        }
        self.leave_out(Entry { index, time, undo });
    }

    /// The log as a whole.
    pub fn stats(&self) -> Stats {
        let mut outcomes = [0; Outcome::ALL.len()];
        for model in &self.models.accounts {
            for (all, more) in outcomes.iter_mut().zip(model.sums.outcomes) {
                *all += more;
            }
        }
        let sources = self.models.accounts.iter();
        Stats {
            users: self.users.len(),
            models: self.named.len() as u64,
            wallets: self.wallets.len(),
            sources: by_source(sources.map(|model| (model.key.source, &model.sums.all))),
            outcomes: Outcome::ALL.iter().copied().zip(outcomes).collect(),
        }
    }

    /// What each model was used, by total, in a window or ever.
    pub fn models(&self, window: Option<Window>) -> Vec<(Category, Sums)> {
        let sums = |model: &Model| match window {
            None => model.all,
            Some(window) => {
                let (from, to) = days(window);
                model.days.range(from, to).iter().map(|(_, s)| s).sum()
            }
        };
        let mut rows: Vec<_> = self
            .models
            .accounts
            .iter()
            .map(|model| (&model.key, sums(&model.sums)))
            .filter(|(_, sums)| sums.records > 0)
            .collect();
        rows.sort_unstable_by(|(a, x), (b, y)| y.total().cmp(&x.total()).then_with(|| a.cmp(b)));
        rows.into_iter().map(|(c, s)| (c.clone(), s)).collect()
    }

    /// What a key id used: by source, and by category in the order of names.
    #[expect(clippy::type_complexity, reason = "two lists of the same kind")]
    pub fn user(&self, key_id: &Hash) -> (Vec<(Source, Sums)>, Vec<(Category, Sums)>) {
        let Some(user) = self.users.find(key_id) else {
            return (Vec::new(), Vec::new());
        };
        let models = self.by_name(&user.models);
        let sources = by_source(models.iter().map(|(c, sums)| (c.source, sums)));
        (sources, models)
    }

    /// What names a wallet.
    pub fn wallet(&self, wallet: &Address) -> WalletSums {
        let Some(account) = self.wallets.find(wallet) else {
            return WalletSums::default();
        };
        let linked = |link: Link| {
            let cells = account.links.iter().filter(|((by, _), _)| *by == link);
            by_source(cells.map(|((_, source), sums)| (*source, sums)))
        };
        let days = account.days.iter();
        WalletSums {
            bound: linked(Link::Bound),
            claimed: linked(Link::Claimed),
            models: self.by_name(&account.models),
            days: days
                .map(|((day, source), sums)| (*day, *source, *sums))
                .collect(),
            hours: account.hours.clone(),
            ends: account.ends.clone(),
        }
    }

    /// Sums by category, in the order of names.
    fn by_name(&self, sums: &Cells<Number>) -> Vec<(Category, Sums)> {
        let key = |number: Number| self.models.account(number).key.clone();
        let named = sums.iter().map(|(number, sums)| (key(*number), *sums));
        let mut models: Vec<_> = named.collect();
        models.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        models
    }

    /// What a key id used by UTC day, ascending, and source.
    pub fn user_days(&self, key_id: &Hash) -> Vec<(u32, Source, Sums)> {
        let days = self.users.find(key_id).map(|user| user.days.iter());
        let days = days.into_iter().flatten();
        days.map(|((day, source), sums)| (*day, *source, *sums))
            .collect()
    }

    /// The window of `days` that ends with `today` or with the newest entry's
    /// day, if that is later.
    pub fn window(&self, days: u32, today: u64) -> Window {
        let to = today.max(self.newest.day());
        let from = to.saturating_sub(u64::from(days).saturating_sub(1));
        Window { from, to }
    }
}

impl Wallet {
    fn count_hour(&mut self, time: Time, source: Source) {
        let hour = u8::try_from(time.secs() % 86_400 / 3_600).expect("a day has 24");
        let at = |(hour, source, _): &(u8, Source, u32)| (*hour, *source);
        match self.hours.binary_search_by_key(&(hour, source), at) {
            Ok(at) => self.hours[at].2 = self.hours[at].2.saturating_add(1),
            Err(at) => {
                self.hours.reserve_exact(1 + self.hours.len() / 4);
                self.hours.insert(at, (hour, source, 1));
            }
        }
    }
}

/// The number of a category, which is new or known.
fn intern(
    models: &mut Table<Category, Model>,
    named: &mut HashSet<(Name, Name)>,
    category: &Category,
) -> Number {
    let known = models.len();
    let number = models.number(category);
    if models.len() > known
        && let Some(model) = &category.model
    {
        named.insert((category.provider.clone(), model.clone()));
    }
    number
}

/// Sums by source, in the order of sources.
fn by_source<'a>(sums: impl Iterator<Item = (Source, &'a Sums)>) -> Vec<(Source, Sums)> {
    let mut list: Vec<(Source, Sums)> = Vec::new();
    for (source, more) in sums {
        match list.binary_search_by_key(&source, |(source, _)| *source) {
            Ok(at) => list[at].1.add(more),
            Err(at) => list.insert(at, (source, *more)),
        }
    }
    list
}

fn days(window: Window) -> (u32, u32) {
    let day = |day: u64| u32::try_from(day).unwrap_or(u32::MAX);
    (day(window.from), day(window.to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SliceRow;
    use protocol::anchor::Place;
    use protocol::record::Counts;
    use std::collections::{BTreeMap, BTreeSet};

    /// Draws that are the same every time.
    struct Draws(u64);

    impl Draws {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 33) % n
        }

        fn usage(&mut self) -> Usage {
            let model = ["a", "b", "c"][self.below(3) as usize];
            let wallet = Address::from_bytes([self.below(9) as u8; 20]);
            let link = [Link::Claimed, Link::Bound][self.below(2) as usize];
            let count = |draw: u64| (draw > 0).then_some(draw as u32);
            Usage {
                receipt: Hash::of(b"receipt"),
                key_id: (self.below(8) > 0).then(|| Hash::of(&[self.below(40) as u8])),
                wallet: (self.below(3) == 0).then_some((wallet, link)),
                source: [Source::Proxy, Source::Custom][self.below(2) as usize],
                provider: Name::new(["x", "y"][self.below(2) as usize]).expect("a name"),
                model: (self.below(4) > 0).then(|| Name::new(model).expect("a name")),
                counts: Counts {
                    input: count(self.below(1_000)),
                    output: count(self.below(50)),
                    cache_read: count(self.below(4)),
                    ..Counts::NONE
                },
                outcome: Outcome::ALL[self.below(5) as usize],
                inconsistent: false,
                response: None,
            }
        }
    }

    /// A log of a few days: each entry's time and usage.
    fn log(count: u64) -> Vec<(Time, Usage)> {
        let mut draws = Draws(7);
        let time = |n: u64| Time::from_secs(20_000 * 86_400 + n * 97).expect("small");
        (0..count).map(|n| (time(n), draws.usage())).collect()
    }

    fn add(ledger: &mut Ledger, log: &[(Time, Usage)], from: u64) {
        for (index, (time, usage)) in (from..).zip(&log[usize::try_from(from).expect("small")..]) {
            let body = Body::Usage(usage.clone());
            let index = Index::new(index).expect("small");
            let added = ledger.add(index, *time, &body.encode(*time), Some(&body));
            assert_eq!(added, Ok(()));
        }
    }

    /// Boards of every kind: fewer than are kept.
    fn all_boards(window: Window) -> Vec<Board> {
        let mut boards = vec![];
        for by in [By::Key, By::Wallet] {
            for source in Source::ALL.iter().copied() {
                for scope in [
                    Scope::Ever,
                    Scope::Within(window),
                    Scope::Model("b".into()),
                    Scope::Provider("x".into()),
                ] {
                    boards.push(Board { by, source, scope });
                }
            }
        }
        boards
    }

    /// A board's rows, from the entries alone.
    fn ranked(log: &[(Time, Usage)], board: &Board, sort: Sort) -> Vec<Leader> {
        let counts = |time: &Time, usage: &Usage| {
            usage.source == board.source
                && match &board.scope {
                    Scope::Ever => true,
                    Scope::Within(window) => (window.from..=window.to).contains(&time.day()),
                    Scope::Model(name) => usage.model.as_ref().is_some_and(|m| m.as_str() == name),
                    Scope::Provider(name) => usage.provider.as_str() == name,
                }
        };
        let mut rows = BTreeMap::<Vec<u8>, (Who, Sums, BTreeSet<_>, BTreeSet<_>)>::new();
        for (time, usage) in log.iter().filter(|(time, usage)| counts(time, usage)) {
            let who = match (board.by, usage.key_id, usage.wallet) {
                (By::Key, Some(key_id), _) => (key_id.as_bytes().to_vec(), Who::Key(key_id)),
                (By::Wallet, _, Some((wallet, Link::Bound))) => {
                    (wallet.as_bytes().to_vec(), Who::Wallet(wallet))
                }
                _ => continue,
            };
            let row = rows.entry(who.0);
            let row =
                row.or_insert_with(|| (who.1, Sums::default(), BTreeSet::new(), BTreeSet::new()));
            row.1.add(&Sums::of(usage));
            if let Some(model) = &usage.model {
                row.2.insert((usage.provider.clone(), model.clone()));
            }
            row.3.insert(time.day());
        }
        let tells = |set: usize, told: bool| told.then_some(set as u64);
        let (models, days) = match board.scope {
            Scope::Ever => (true, true),
            Scope::Within(_) => (false, true),
            Scope::Provider(_) => (true, false),
            Scope::Model(_) => (false, false),
        };
        let rows = rows.into_values();
        let mut rows: Vec<_> = rows
            .map(|(who, sums, named, on)| Leader {
                who,
                sums,
                models: tells(named.len(), models),
                days: tells(on.len(), days),
            })
            .collect();
        // They come in the order of their keys, which decides among equals.
        rows.sort_by_key(|row| {
            let first = match sort {
                Sort::Total => row.sums.total(),
                Sort::Input => row.sums.input,
                Sort::Output => row.sums.output,
                Sort::Models => row.models.unwrap_or_default(),
                Sort::Days => row.days.unwrap_or_default(),
            };
            std::cmp::Reverse((first, row.sums.total()))
        });
        rows
    }

    /// Everything that can be asked, in one text.
    fn answers(ledger: &mut Ledger) -> String {
        let mut boards = vec![];
        for board in all_boards(ledger.window(3, 0)) {
            for sort in Sort::ALL {
                boards.push((board.clone(), ledger.leaders(&board, *sort, 7)));
            }
        }
        let keys = (0..41_u8).map(|n| Hash::of(&[n]));
        let users = keys.map(|key| (ledger.user(&key), ledger.user_days(&key)));
        let users: Vec<_> = users.collect();
        let wallets = (0..9_u8).map(|n| {
            let wallet = Address::from_bytes([n; 20]);
            ledger.wallet(&wallet)
        });
        let wallets: Vec<_> = wallets.collect();
        let window = ledger.window(2, 20_003);
        let models = [ledger.models(None), ledger.models(Some(window))];
        let stats = ledger.stats();
        format!(
            "{:?}{stats:?}{models:?}{users:?}{wallets:?}{boards:?}",
            ledger.size()
        )
    }

    #[test]
    fn sums_are_those_of_the_entries() {
        let log = log(5_000);
        let mut ledger = Ledger::default();
        // Asked early, so that the boards are kept from then on.
        answers(&mut ledger);
        add(&mut ledger, &log, 0);
        let of = |counts: &dyn Fn(&Time, &Usage) -> bool| -> Sums {
            let all = log.iter().filter(|(time, usage)| counts(time, usage));
            let sums: Vec<_> = all.map(|(_, usage)| Sums::of(usage)).collect();
            sums.iter().sum()
        };
        let keys: BTreeSet<_> = log.iter().filter_map(|(_, usage)| usage.key_id).collect();
        for board in all_boards(ledger.window(3, 0)) {
            for sort in Sort::ALL.iter().copied() {
                let mut rows = ranked(&log, &board, sort);
                rows.truncate(12);
                assert!(!rows.is_empty());
                let found = ledger.leaders(&board, sort, 12);
                assert_eq!(found, rows, "{board:?} {sort:?}");
            }
        }
        for key_id in keys {
            let by =
                |source| of(&|_, usage| usage.key_id == Some(key_id) && usage.source == source);
            let sources: Vec<_> = Source::ALL
                .iter()
                .map(|source| (*source, by(*source)))
                .collect();
            assert_eq!(ledger.user(&key_id).0, sources);
        }
        for wallet in (0..9_u8).map(|n| Address::from_bytes([n; 20])) {
            let bound = |usage: &Usage| usage.wallet == Some((wallet, Link::Bound));
            let mut hours = BTreeMap::new();
            for (time, usage) in log.iter().filter(|(_, usage)| bound(usage)) {
                let hour = (time.secs() / 3_600 % 24) as u8;
                *hours.entry((hour, usage.source)).or_insert(0) += 1;
            }
            let hours: Vec<_> = hours.into_iter().map(|((h, s), n)| (h, s, n)).collect();
            assert!(!hours.is_empty());
            assert_eq!(ledger.wallet(&wallet).hours, hours);
        }
        let mut outcomes = BTreeMap::new();
        for (_, usage) in &log {
            *outcomes.entry(usage.outcome).or_insert(0) += 1;
        }
        let mut stated = ledger.stats().outcomes;
        stated.sort_unstable();
        assert_eq!(stated, outcomes.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn chains_that_were_named_are_in_every_slice() {
        let time = Time::from_secs(5).expect("small");
        let mut ledger = Ledger::default();
        for (index, chain_id) in [(1, 8_453), (2, 1)] {
            let contract = Address::from_bytes([7; 20]);
            let body = Body::Anchor(Place { chain_id, contract });
            let index = Index::new(index).expect("small");
            let added = ledger.add(index, time, &body.encode(time), Some(&body));
            assert_eq!(added, Ok(()));
        }
        let named = |ledger: &Ledger| [1, 10, 8_453].map(|id| Some(ledger.anchored(id)?.get()));
        assert_eq!(named(&ledger), [Some(2), None, Some(1)]);
        let mut slices = ledger.due(TreeSize::new(STRIDE).expect("small"));
        let (loaded, _) = Ledger::load(&slices).expect("as written");
        assert_eq!(named(&loaded), named(&ledger));
        // As it was written before there were any: it is read again.
        let mut before = slices.clone();
        before[0].state[0] = 2;
        let (loaded, from) = Ledger::load(&before).expect("it is left alone");
        assert_eq!((named(&loaded), from), ([None; 3], TreeSize::ZERO));
        slices[0].state.truncate(6);
        assert!(Ledger::load(&slices).is_err());
    }

    #[test]
    fn what_was_written_and_the_entries_since_give_the_same_answers() {
        let log = log(3 * STRIDE + 100);
        let (mut whole, mut stored) = (Ledger::default(), BTreeMap::<u8, SliceRow>::new());
        let sizes = [1, 511, 512, 513, 1_000, 1_600, log.len() as u64];
        let mut size = 0;
        for to in sizes {
            // As an append does: what is due is of the size before it.
            let due = whole.due(TreeSize::new(to).expect("small"));
            stored.extend(due.into_iter().map(|slice| (slice.number, slice)));
            add(&mut whole, &log[..to as usize], size);
            size = to;
            let slices: Vec<_> = stored.values().cloned().collect();
            let (mut loaded, from) = Ledger::load(&slices).expect("as written");
            add(&mut loaded, &log[..to as usize], from.get());
            assert_eq!(answers(&mut loaded), answers(&mut whole), "at {to}");
        }
        assert_eq!(stored.len(), 3);

        let slices = |ledger: &Ledger| -> Vec<SliceRow> {
            let rounds = TreeSize::new(size + 256 * STRIDE).expect("small");
            ledger.due(rounds)
        };
        let all = slices(&whole);
        let (mut loaded, from) = Ledger::load(&all).expect("as written");
        assert_eq!((all.len(), from.get()), (256, size));
        // Nothing to add again, as after an entry that is of no account.
        loaded.size = whole.size();
        assert_eq!(answers(&mut loaded), answers(&mut whole));
        // What an older gateway wrote lacks the hours: its entries are read again.
        let mut older = all.clone();
        older[3].state[0] = 2;
        let (mut loaded, from) = Ledger::load(&older).expect("it is not read");
        assert_eq!(from, TreeSize::ZERO);
        add(&mut loaded, &log, 0);
        assert_eq!(answers(&mut loaded), answers(&mut whole));
        for cut in [0, 1, 7, all[3].state.len().saturating_sub(1)] {
            let mut cut_off = all.clone();
            cut_off[3].state.truncate(cut);
            assert!(Ledger::load(&cut_off).is_err(), "{cut} bytes");
        }
    }
}
