//! Running sums over usage entries, as PROTOCOL.md section 10 defines them.
//!
//! Memory grows with users, models and the days of the longest window, never
//! with records: names are interned, and all that is not of the current day
//! lies packed, most numbers being small.
//!
//! Out of scope: reading answers and judging them (see [`crate::audit`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io::{self, Write};
use std::ops::RangeInclusive;

use protocol::hash::Hash;
use protocol::index::Time;
use protocol::name::{Address, Name};
use protocol::record::{Outcome, Source, Usage};

use crate::packed::{chunk, number, put, take, take_array, take_chunk, take_count, take_text};

/// The longest window that is judged, in days; older days are forgotten.
pub const MAX_WINDOW: u64 = 30;

/// Changes to users' sums that are gathered before they are packed.
const GATHERED: usize = 32_768;

/// A number of usage entries and the sums of their counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many usage entries.
    pub records: u64,
    /// Prompt tokens, cached ones included.
    pub input: u64,
    /// Of these, read from a cache.
    pub cache_read: u64,
    /// Of these, written to a cache.
    pub cache_write: u64,
    /// Generated tokens, reasoning included.
    pub output: u64,
    /// Of these, reasoning.
    pub reasoning: u64,
}

impl Sum {
    /// One entry's counts, absent ones as 0.
    pub fn of(usage: &Usage) -> Self {
        let count = |count: Option<u32>| count.map_or(0, u64::from);
        Self {
            records: 1,
            input: count(usage.counts.input),
            cache_read: count(usage.counts.cache_read),
            cache_write: count(usage.counts.cache_write),
            output: count(usage.counts.output),
            reasoning: count(usage.counts.reasoning),
        }
    }

    /// Input and output together.
    pub fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// Adds another sum of the same source.
    pub fn add(&mut self, other: &Self) {
        let theirs = other.numbers();
        for (mine, theirs) in self.numbers_mut().into_iter().zip(theirs) {
            *mine = mine.saturating_add(theirs);
        }
    }

    fn numbers(&self) -> [u64; 6] {
        let Self {
            records,
            input,
            cache_read,
            cache_write,
            output,
            reasoning,
        } = *self;
        [records, input, cache_read, cache_write, output, reasoning]
    }

    fn numbers_mut(&mut self) -> [&mut u64; 6] {
        let Self {
            records,
            input,
            cache_read,
            cache_write,
            output,
            reasoning,
        } = self;
        [records, input, cache_read, cache_write, output, reasoning]
    }
}

/// What sums are kept for: a model of a provider, as observed in one way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Category {
    /// How the records were observed.
    pub source: Source,
    /// The provider.
    pub provider: Name,
    /// The model, if the provider named one.
    pub model: Option<Name>,
}

/// `proxy openai gpt-5`; without a model `proxy openai (no model)`.
impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = self.model.as_ref().map_or("(no model)", Name::as_str);
        write!(f, "{} {} {model}", self.source.as_str(), self.provider)
    }
}

/// What `/api/stats` must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Usage entries.
    pub records: u64,
    /// Distinct key ids.
    pub users: u64,
    /// Distinct (provider, model) with a model.
    pub models: u64,
    /// Distinct wallets.
    pub wallets: u64,
    /// Sums by source.
    pub sources: BTreeMap<Source, Sum>,
    /// Usage entries by outcome.
    pub outcomes: BTreeMap<Outcome, u64>,
}

/// Sums over the first entries of a log.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    outcomes: BTreeMap<Outcome, u64>,
    categories: Vec<Category>,
    category_ids: HashMap<Category, u32>,
    by_category: Vec<Sum>,
    users: Vec<Hash>,
    user_ids: HashMap<Hash, u32>,
    /// Per user, by category.
    by_user: Vec<Packed>,
    /// Changes to `by_user` that are not packed yet.
    gathered: HashMap<(u32, u32), Sum>,
    wallets: HashSet<Address>,
    /// Days before the newest that a window can still reach.
    days: BTreeMap<u64, Day>,
    /// Users' sums over all of them, once somebody asked.
    recent: Option<Packed>,
    today: Today,
}

/// A day that no entry can fall on any more, times never decreasing.
#[derive(Clone, Debug, Default)]
struct Day {
    by_category: Packed,
    by_user: Packed,
}

/// The day of the newest usage entry.
#[derive(Clone, Debug, Default)]
struct Today {
    day: u64,
    by_category: HashMap<u32, Sum>,
    by_user: HashMap<u64, Sum>,
}

/// A user's place in the days' sums: source beside user, since they never mix.
fn user_of_day(user: u32, source: Source) -> u64 {
    u64::from(user) * 2 + u64::from(source == Source::Custom)
}

impl Sums {
    /// Adds a usage entry.
    pub fn add(&mut self, time: Time, usage: Usage) {
        let sum = Sum::of(&usage);
        *self.outcomes.entry(usage.outcome).or_default() += 1;
        if let Some((wallet, _)) = usage.wallet {
            self.wallets.insert(wallet);
        }
        let source = usage.source;
        let category = self.category(Category {
            source,
            provider: usage.provider,
            model: usage.model,
        });
        self.by_category[category as usize].add(&sum);
        self.turn_to(time.day());
        self.today
            .by_category
            .entry(category)
            .or_default()
            .add(&sum);
        if let Some(key_id) = usage.key_id {
            let user = self.intern(key_id);
            self.gathered.entry((user, category)).or_default().add(&sum);
            self.today
                .by_user
                .entry(user_of_day(user, source))
                .or_default()
                .add(&sum);
            if self.gathered.len() >= GATHERED {
                self.pack();
            }
        }
    }

    /// What `/api/stats` must say.
    pub fn totals(&self) -> Totals {
        let mut sources: BTreeMap<Source, Sum> = BTreeMap::new();
        for (category, sum) in self.categories.iter().zip(&self.by_category) {
            sources.entry(category.source).or_default().add(sum);
        }
        let named = |c: &'_ Category| c.model.is_some();
        let models: HashSet<_> = (self.categories.iter().filter(|c| named(c)))
            .map(|category| (&category.provider, &category.model))
            .collect();
        Totals {
            records: self.outcomes.values().sum(),
            users: self.users.len() as u64,
            models: models.len() as u64,
            wallets: self.wallets.len() as u64,
            sources,
            outcomes: self.outcomes.clone(),
        }
    }

    /// Sums by category, over all time or over days.
    pub fn models(&self, days: Option<&RangeInclusive<u64>>) -> BTreeMap<&Category, Sum> {
        let mut sums: BTreeMap<&Category, Sum> = BTreeMap::new();
        let mut add = |category: u64, sum: &Sum| {
            if let Some(category) = at(&self.categories, category) {
                sums.entry(category).or_default().add(sum);
            }
        };
        match days {
            None => (0..)
                .zip(&self.by_category)
                .for_each(|(id, sum)| add(id, sum)),
            Some(days) => {
                for day in self.days.range(days.clone()).map(|(_, day)| day) {
                    day.by_category.iter().for_each(|(id, sum)| add(id, &sum));
                }
                if days.contains(&self.today.day) {
                    self.today
                        .by_category
                        .iter()
                        .for_each(|(id, sum)| add(u64::from(*id), sum));
                }
            }
        }
        sums
    }

    /// The first `limit` users of one source, by total descending, then key id;
    /// over all time or over days.
    pub fn leaderboard(
        &mut self,
        source: Source,
        days: Option<&RangeInclusive<u64>>,
        limit: usize,
    ) -> Vec<(Hash, Sum)> {
        self.pack();
        let mut by_user = vec![Sum::default(); self.users.len()];
        match days {
            None => {
                for (mine, packed) in by_user.iter_mut().zip(&self.by_user) {
                    let of_source =
                        |id: u64| at(&self.categories, id).is_some_and(|c| c.source == source);
                    let rows = packed.iter().filter(|(id, _)| of_source(*id));
                    rows.for_each(|(_, sum)| mine.add(&sum));
                }
            }
            Some(days) => {
                self.sum_days();
                let mut add = |id: u64, sum: &Sum| {
                    let user = usize::try_from(id / 2).ok();
                    if let Some(mine) = user.and_then(|user| by_user.get_mut(user))
                        && id % 2 == u64::from(source == Source::Custom)
                    {
                        mine.add(sum);
                    }
                };
                match self.recent.as_ref().filter(|_| self.all_within(days)) {
                    Some(recent) => recent.iter().for_each(|(id, sum)| add(id, &sum)),
                    None => {
                        let days = self.days.range(days.clone()).map(|(_, day)| day);
                        days.for_each(|day| {
                            day.by_user.iter().for_each(|(id, sum)| add(id, &sum));
                        });
                    }
                }
                if days.contains(&self.today.day) {
                    self.today
                        .by_user
                        .iter()
                        .for_each(|(id, sum)| add(*id, sum));
                }
            }
        }
        let mut rows: Vec<u32> = (0..).take(by_user.len()).collect();
        rows.retain(|user| by_user[*user as usize].records > 0);
        let rank = |user: &u32| {
            (
                std::cmp::Reverse(by_user[*user as usize].total()),
                self.users[*user as usize],
            )
        };
        if rows.len() > limit {
            rows.select_nth_unstable_by_key(limit, rank);
            rows.truncate(limit);
        }
        rows.sort_unstable_by_key(rank);
        rows.into_iter()
            .map(|user| (self.users[user as usize], by_user[user as usize]))
            .collect()
    }

    /// One user's sums by category; empty for a key id without records.
    pub fn user(&mut self, key_id: &Hash) -> BTreeMap<&Category, Sum> {
        self.pack();
        let Some(user) = self.user_ids.get(key_id) else {
            return BTreeMap::new();
        };
        self.by_user[*user as usize]
            .iter()
            .filter_map(|(id, sum)| Some((at(&self.categories, id)?, sum)))
            .collect()
    }

    /// How many users there are.
    pub fn user_count(&self) -> usize {
        self.users.len()
    }

    /// At most `count` users beyond the first `known` ones; `below(n)` chooses
    /// a number below n.
    pub fn sample(
        &self,
        known: usize,
        count: usize,
        mut below: impl FnMut(usize) -> usize,
    ) -> Vec<Hash> {
        let users = self.users.get(known..).unwrap_or_default();
        if users.len() <= count {
            return users.to_vec();
        }
        let mut chosen = HashSet::new();
        // More draws than needed, as some fall together; no endless loop on a bad `below`.
        for _ in 0..count * 4 {
            if chosen.len() < count {
                chosen.insert(users[below(users.len()).min(users.len() - 1)]);
            }
        }
        chosen.into_iter().collect()
    }

    fn category(&mut self, category: Category) -> u32 {
        if let Some(id) = self.category_ids.get(&category) {
            return *id;
        }
        let id = u32::try_from(self.categories.len()).expect("far fewer than 2^32 models");
        self.categories.push(category.clone());
        self.by_category.push(Sum::default());
        self.category_ids.insert(category, id);
        id
    }

    fn intern(&mut self, key_id: Hash) -> u32 {
        let users = &mut self.users;
        *self.user_ids.entry(key_id).or_insert_with(|| {
            let id = u32::try_from(users.len()).expect("2^32 users do not fit into memory");
            users.push(key_id);
            self.by_user.push(Packed::default());
            id
        })
    }

    /// Closes the current day when a later one begins.
    fn turn_to(&mut self, day: u64) {
        if day <= self.today.day {
            return;
        }
        let closed = std::mem::replace(
            &mut self.today,
            Today {
                day,
                ..Today::default()
            },
        );
        if !closed.by_category.is_empty() {
            let by_category = closed
                .by_category
                .into_iter()
                .map(|(id, sum)| (u64::from(id), sum));
            let by_category = Packed::of(by_category.collect());
            let by_user = Packed::of(closed.by_user.into_iter().collect());
            self.days.insert(
                closed.day,
                Day {
                    by_category,
                    by_user,
                },
            );
        }
        self.days = self.days.split_off(&(day + 1).saturating_sub(MAX_WINDOW));
        self.recent = None;
    }

    /// Whether all days before the newest are within `days`.
    fn all_within(&self, days: &RangeInclusive<u64>) -> bool {
        self.days.keys().all(|day| days.contains(day))
    }

    /// Sums up the days before the newest: the longest window takes all of
    /// them, and they change once a day.
    fn sum_days(&mut self) {
        if self.recent.is_some() {
            return;
        }
        let mut sums = vec![Sum::default(); 2 * self.users.len()];
        for (id, sum) in self.days.values().flat_map(|day| day.by_user.iter()) {
            let mine = usize::try_from(id).ok().and_then(|id| sums.get_mut(id));
            mine.into_iter().for_each(|mine| mine.add(&sum));
        }
        let rows = (0..).zip(sums).filter(|(_, sum)| sum.records > 0);
        self.recent = Some(Packed::of(rows.collect()));
    }

    /// Packs what was gathered for users.
    fn pack(&mut self) {
        let mut changes: Vec<_> = self.gathered.drain().collect();
        changes.sort_unstable_by_key(|(place, _)| *place);
        for of_user in changes.chunk_by(|a, b| a.0.0 == b.0.0) {
            let rows = of_user.iter().map(|((_, id), sum)| (u64::from(*id), *sum));
            let packed = &mut self.by_user[of_user[0].0.0 as usize];
            *packed = Packed::of(packed.iter().chain(rows).collect());
        }
    }
}

/// The thing of an id; `None` where stored rows name one that is not there.
fn at<T>(things: &[T], id: u64) -> Option<&T> {
    usize::try_from(id).ok().and_then(|id| things.get(id))
}

/// Sums by small number, ascending, as variable-length integers: the number's
/// distance from the last one, then the six counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Packed(Box<[u8]>);

impl Packed {
    /// Packs rows; those of the same id are added.
    fn of(mut rows: Vec<(u64, Sum)>) -> Self {
        rows.sort_unstable_by_key(|(id, _)| *id);
        let mut bytes = Vec::with_capacity(rows.len() * 12);
        let mut last = 0;
        for same in rows.chunk_by(|a, b| a.0 == b.0) {
            let mut sum = Sum::default();
            same.iter().for_each(|(_, more)| sum.add(more));
            put(&mut bytes, same[0].0 - last);
            last = same[0].0;
            sum.numbers()
                .into_iter()
                .for_each(|number| put(&mut bytes, number));
        }
        Self(bytes.into_boxed_slice())
    }

    fn iter(&self) -> impl Iterator<Item = (u64, Sum)> + '_ {
        let mut rest = &self.0[..];
        let mut id = 0;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            id = take(&mut rest)?.checked_add(id)?;
            let mut sum = Sum::default();
            for number in sum.numbers_mut() {
                *number = take(&mut rest)?;
            }
            Some((id, sum))
        })
    }
}

// Stored form: numbers and length-prefixed bytes, in the order of the fields.
impl Sums {
    /// Writes the sums down.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&mut self, to: &mut impl Write) -> io::Result<()> {
        self.pack();
        self.sum_days();
        for outcome in Outcome::ALL {
            number(to, self.outcomes.get(outcome).copied().unwrap_or_default())?;
        }
        number(to, self.categories.len() as u64)?;
        for (category, sum) in self.categories.iter().zip(&self.by_category) {
            chunk(to, category.source.as_str().as_bytes())?;
            chunk(to, category.provider.as_str().as_bytes())?;
            chunk(
                to,
                category.model.as_ref().map_or("", Name::as_str).as_bytes(),
            )?;
            sum.numbers().into_iter().try_for_each(|n| number(to, n))?;
        }
        number(to, self.users.len() as u64)?;
        for (key_id, packed) in self.users.iter().zip(&self.by_user) {
            to.write_all(key_id.as_bytes())?;
            chunk(to, &packed.0)?;
        }
        number(to, self.wallets.len() as u64)?;
        for wallet in &self.wallets {
            to.write_all(wallet.as_bytes())?;
        }
        number(to, self.days.len() as u64)?;
        for (day, sums) in &self.days {
            number(to, *day)?;
            chunk(to, &sums.by_category.0)?;
            chunk(to, &sums.by_user.0)?;
        }
        chunk(to, self.recent.as_ref().map_or(&[], |recent| &recent.0))?;
        number(to, self.today.day)?;
        let by_category = self
            .today
            .by_category
            .iter()
            .map(|(id, sum)| (u64::from(*id), *sum));
        chunk(to, &Packed::of(by_category.collect()).0)?;
        chunk(
            to,
            &Packed::of(self.today.by_user.iter().map(|(id, s)| (*id, *s)).collect()).0,
        )
    }

    /// Reads what [`Self::write`] wrote, and takes it off `from`; `None` of
    /// what was not written so. Packed rows are looked at when they are needed:
    /// bytes that are no rows count as nothing.
    pub fn read(from: &mut &[u8]) -> Option<Self> {
        let mut sums = Self::default();
        for outcome in Outcome::ALL {
            match take(from)? {
                0 => {}
                count => drop(sums.outcomes.insert(*outcome, count)),
            }
        }
        for _ in 0..take(from)? {
            let source = Source::parse(take_text(from)?)?;
            let provider = Name::new(take_text(from)?)?;
            let model = match take_text(from)? {
                "" => None,
                text => Some(Name::new(text)?),
            };
            let id = sums.category(Category {
                source,
                provider,
                model,
            });
            for number in sums.by_category[id as usize].numbers_mut() {
                *number = take(from)?;
            }
        }
        let users = take_count(from)?;
        if users > from.len() / 32 {
            return None;
        }
        sums.users.reserve_exact(users);
        sums.user_ids.reserve(users);
        sums.by_user.reserve_exact(users);
        for _ in 0..users {
            let id = sums.intern(Hash::from_bytes(take_array(from)?));
            sums.by_user[id as usize] = take_packed(from)?;
        }
        for _ in 0..take(from)? {
            sums.wallets.insert(Address::from_bytes(take_array(from)?));
        }
        for _ in 0..take(from)? {
            let day = take(from)?;
            let (by_category, by_user) = (take_packed(from)?, take_packed(from)?);
            sums.days.insert(
                day,
                Day {
                    by_category,
                    by_user,
                },
            );
        }
        sums.recent = Some(take_packed(from)?);
        let day = take(from)?;
        let (by_category, by_user) = (take_packed(from)?, take_packed(from)?);
        sums.today = Today {
            day,
            by_category: (by_category.iter())
                .map(|(id, sum)| Some((u32::try_from(id).ok()?, sum)))
                .collect::<Option<_>>()?,
            by_user: by_user.iter().collect(),
        };
        Some(sums)
    }
}

fn take_packed(from: &mut &[u8]) -> Option<Packed> {
    Some(Packed(take_chunk(from)?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::record::{Counts, Link};

    const DAY: u64 = 86_400;

    fn usage(user: Option<u8>, source: Source, model: Option<&str>, input: u32) -> Usage {
        Usage {
            receipt: Hash::from_bytes([0; 32]),
            key_id: user.map(|user| Hash::from_bytes([user; 32])),
            wallet: user.map(|user| (Address::from_bytes([user / 2; 20]), Link::Claimed)),
            source,
            provider: Name::new("openai").expect("valid"),
            model: model.and_then(Name::new),
            counts: Counts {
                input: Some(input),
                output: Some(1),
                ..Counts::NONE
            },
            outcome: Outcome::Complete,
            inconsistent: false,
            response: None,
        }
    }

    fn key_id(user: u8) -> Hash {
        Hash::from_bytes([user; 32])
    }

    fn time(secs: u64) -> Time {
        Time::from_secs(secs).expect("small")
    }

    /// (day, usage): the plain way, over all records.
    fn plain(
        records: &[(u64, Usage)],
        source: Source,
        days: Option<&RangeInclusive<u64>>,
    ) -> Vec<(Hash, Sum)> {
        let mut users: BTreeMap<Hash, Sum> = BTreeMap::new();
        for (day, usage) in records {
            if let Some(key_id) = usage.key_id
                && usage.source == source
                && days.is_none_or(|days| days.contains(day))
            {
                users.entry(key_id).or_default().add(&Sum::of(usage));
            }
        }
        let mut rows: Vec<_> = users.into_iter().collect();
        rows.sort_by_key(|(key_id, sum)| (std::cmp::Reverse(sum.total()), *key_id));
        rows
    }

    #[test]
    fn totals_count_distinct_things_once() {
        let mut sums = Sums::default();
        for (user, source, model) in [
            (Some(1), Source::Proxy, Some("a")),
            (Some(1), Source::Custom, Some("a")),
            (Some(2), Source::Proxy, None),
            (None, Source::Proxy, Some("b")),
        ] {
            sums.add(time(5), usage(user, source, model, 10));
        }
        let totals = sums.totals();
        assert_eq!(
            (totals.records, totals.users, totals.models, totals.wallets),
            (4, 2, 2, 2)
        );
        assert_eq!(totals.sources[&Source::Proxy].records, 3);
        assert_eq!(totals.sources[&Source::Proxy].input, 30);
        assert_eq!(totals.sources[&Source::Custom].total(), 11);
        assert_eq!(totals.outcomes, BTreeMap::from([(Outcome::Complete, 4)]));
        let unknown = Hash::from_bytes([9; 32]);
        assert!(sums.user(&unknown).is_empty());
        assert_eq!(sums.user(&Hash::from_bytes([1; 32])).len(), 2);
    }

    #[test]
    fn days_out_of_every_window_are_forgotten() {
        let mut sums = Sums::default();
        for day in 0..100 {
            sums.add(time(day * DAY), usage(Some(1), Source::Proxy, Some("a"), 1));
        }
        assert_eq!(sums.days.len(), 29);
        assert_eq!(
            sums.leaderboard(Source::Proxy, Some(&(70..=99)), 9)[0]
                .1
                .records,
            30
        );
        assert_eq!(sums.leaderboard(Source::Proxy, None, 9)[0].1.records, 100);
        sums.add(time(1_000 * DAY), usage(None, Source::Proxy, Some("a"), 1));
        assert!(sums.days.is_empty());
    }

    #[test]
    fn a_sample_is_of_known_users_and_all_of_few() {
        let mut sums = Sums::default();
        for user in 0..20 {
            sums.add(time(0), usage(Some(user), Source::Proxy, None, 1));
        }
        assert_eq!(sums.sample(0, 20, |_| 0).len(), 20);
        assert_eq!(sums.sample(0, 5, |_| 0).len(), 1);
        let mut next = 0;
        let counted = |n: usize| {
            next += 1;
            next % n
        };
        assert_eq!(sums.sample(0, 5, counted).len(), 5);
        assert_eq!(sums.sample(18, 5, |_| 0), [18, 19].map(key_id));
        assert_eq!(sums.sample(10, 5, |_| 0), [10].map(key_id));
        assert_eq!(sums.sample(20, 5, |_| 0), []);
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_as_something() {
        let mut sums = Sums::default();
        for user in 0..9 {
            sums.add(
                time(u64::from(user) * DAY),
                usage(Some(user), Source::Proxy, Some("a"), 1),
            );
        }
        let mut bytes = vec![];
        sums.write(&mut bytes).expect("into memory");
        for len in 0..bytes.len() {
            assert!(Sums::read(&mut &bytes[..len]).is_none(), "{len}");
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x41;
            if let Some(mut read) = Sums::read(&mut &bad[..]) {
                read.leaderboard(Source::Proxy, Some(&(0..=9)), 5);
                read.leaderboard(Source::Proxy, None, 5);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sums_are_those_of_the_plain_way(
            steps in proptest::collection::vec(
                (0_u64..3, proptest::option::of(0_u8..12), any::<bool>(), 0_u8..4, any::<u32>()), 0..200),
            span in 0_u64..31,
            limit in 0_usize..15,
        ) {
            let mut sums = Sums::default();
            let mut records = vec![];
            let mut day = 100;
            for (i, (days, user, custom, model, input)) in steps.into_iter().enumerate() {
                day += days / 2;
                let source = if custom { Source::Custom } else { Source::Proxy };
                let model = ["a", "b", "c"].get(usize::from(model)).copied();
                let usage = usage(user, source, model, input);
                sums.add(time(day * DAY + 7), usage.clone());
                records.push((day, usage));
                if i % 50 == 7 {
                    let mut bytes = vec![];
                    sums.write(&mut bytes).expect("into memory");
                    sums = Sums::read(&mut &bytes[..]).expect("as written");
                    let mut again = vec![];
                    sums.clone().write(&mut again).expect("into memory");
                    prop_assert_eq!(again.len(), bytes.len());
                }
                if i % 40 == 3 {
                    sums.pack();
                }
            }
            let window = (day + 1).saturating_sub(span)..=day + 1;
            for source in [Source::Proxy, Source::Custom] {
                for days in [None, Some(&window)] {
                    let mut expected = plain(&records, source, days);
                    expected.truncate(limit);
                    prop_assert_eq!(sums.leaderboard(source, days, limit), expected);
                }
            }
            for days in [None, Some(&window)] {
                let mut expected: BTreeMap<Category, Sum> = BTreeMap::new();
                for (day, usage) in &records {
                    if days.is_none_or(|days| days.contains(day)) {
                        let category = Category {
                            source: usage.source,
                            provider: usage.provider.clone(),
                            model: usage.model.clone(),
                        };
                        expected.entry(category).or_default().add(&Sum::of(usage));
                    }
                }
                let found = sums.models(days).into_iter().map(|(c, s)| (c.clone(), s)).collect();
                prop_assert_eq!(expected, found);
            }
        }
    }
}
