//! Slices: the ledger's accounts as the database holds them.
//!
//! A slice stands for itself: a format byte, what is known of totals and
//! anchors, the categories that its users name, then its users, models, wallets
//! and keys. Numbers are LEB128.

use std::collections::HashMap;

use protocol::binding::{Holding, KeyState};
use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::name::{Address, Name};
use protocol::record::{Link, Outcome, Source};
use protocol::totals::Totals;

use super::sums::Cells;
use super::{Bound, Category, Ledger, Model, Number, SLICES, STRIDE, Sums, User, Wallet, intern};
use crate::store::SliceRow;

/// The format of a slice.
const FORMAT: u8 = 4;

/// The formats before wallets' hours and before anchors. What they lack is in
/// the entries, so that such a slice is left alone and they are read again.
const INCOMPLETE: [u8; 2] = [2, 3];

/// The format before bindings: without keys and totals entries, and of wallets
/// the sums by link only.
const UNBOUND: u8 = 1;

/// A stored slice is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("slice {0} of the ledger can't be read")]
pub struct Damaged(u8);

impl Ledger {
    /// Takes up what was stored. Entries from the answer on are to be added
    /// again, in order, before anything is asked.
    ///
    /// # Errors
    /// A slice is not what was written.
    pub fn load(slices: &[SliceRow]) -> Result<(Self, TreeSize), Damaged> {
        let mut ledger = Self::default();
        for slice in slices {
            ledger.read(slice).ok_or(Damaged(slice.number))?;
        }
        let oldest = ledger.through.iter().copied().min().unwrap_or_default();
        ledger.settled.recent.begin(oldest);
        let oldest = TreeSize::new(oldest).expect("slices were written as of sizes");
        Ok((ledger, oldest))
    }

    /// The slices that an append from the ledger's size to `to` writes.
    pub fn due(&self, to: TreeSize) -> Vec<SliceRow> {
        let (from, to) = (self.size.get() / STRIDE, to.get() / STRIDE);
        let rounds = from + 1..=to.min(from + SLICES as u64);
        rounds
            .map(|round| {
                let number = u8::try_from(round % SLICES as u64).expect("below 256");
                SliceRow {
                    number,
                    through: self.size,
                    state: self.write(number),
                }
            })
            .collect()
    }

    fn write(&self, number: u8) -> Vec<u8> {
        let slice = usize::from(number);
        let mut named = Named::default();
        let mut users = Vec::new();
        for user in &self.users.slices[slice] {
            let user = self.users.account(*user);
            users.extend_from_slice(user.key.as_bytes());
            put_models(&mut users, &user.sums.models, &mut named);
            put_days(&mut users, &user.sums.days);
        }
        let wallets = self.write_wallets(slice, &mut named);
        let mut out = vec![FORMAT];
        put(&mut out, self.newest.secs());
        self.write_settled(&mut out);
        put(&mut out, self.anchored.len() as u64);
        for (chain_id, index) in &self.anchored {
            put(&mut out, *chain_id);
            put(&mut out, index.get());
        }
        put(&mut out, named.order.len() as u64);
        for category in &named.order {
            put_category(&mut out, &self.models.account(*category).key);
        }
        put(&mut out, self.users.slices[slice].len() as u64);
        out.extend_from_slice(&users);
        put(&mut out, self.models.slices[slice].len() as u64);
        for model in &self.models.slices[slice] {
            let model = self.models.account(*model);
            put_category(&mut out, &model.key);
            put_sums(&mut out, &model.sums.all);
            model.sums.outcomes.iter().for_each(|n| put(&mut out, *n));
            put(&mut out, model.sums.days.len() as u64);
            for (day, sums) in model.sums.days.iter() {
                put(&mut out, u64::from(*day));
                put_sums(&mut out, sums);
            }
        }
        out.extend_from_slice(&wallets);
        self.write_keys(slice, &mut out);
        out
    }

    fn write_wallets(&self, slice: usize, named: &mut Named) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, self.wallets.slices[slice].len() as u64);
        for wallet in &self.wallets.slices[slice] {
            let wallet = self.wallets.account(*wallet);
            out.extend_from_slice(wallet.key.as_bytes());
            put(&mut out, wallet.sums.links.len() as u64);
            for ((link, source), sums) in wallet.sums.links.iter() {
                out.push(code(Link::ALL, *link));
                out.push(code(Source::ALL, *source));
                put_sums(&mut out, sums);
            }
            put_models(&mut out, &wallet.sums.models, named);
            put_days(&mut out, &wallet.sums.days);
            put(&mut out, wallet.sums.ends.len() as u64);
            for (source, first, last) in &wallet.sums.ends {
                out.push(code(Source::ALL, *source));
                put(&mut out, first.get());
                put(&mut out, last.get());
            }
            put(&mut out, wallet.sums.hours.len() as u64);
            for (hour, source, records) in &wallet.sums.hours {
                out.push(*hour);
                out.push(code(Source::ALL, *source));
                put(&mut out, u64::from(*records));
            }
        }
        out
    }

    fn write_keys(&self, slice: usize, out: &mut Vec<u8>) {
        put(out, self.keys.slices[slice].len() as u64);
        for key in &self.keys.slices[slice] {
            let key = self.keys.account(*key);
            let Some(state) = key.sums.0 else { continue };
            out.extend_from_slice(key.key.as_bytes());
            out.extend_from_slice(state.newest.as_bytes());
            match state.holding {
                Holding::Free => out.push(0),
                Holding::Bound { wallet, since } => {
                    out.push(1);
                    out.extend_from_slice(wallet.as_bytes());
                    put(out, since.get());
                }
                Holding::Burnt => out.push(2),
            }
        }
    }

    fn write_settled(&self, out: &mut Vec<u8>) {
        match self.settled.newest {
            None => out.push(0),
            Some((index, totals)) => {
                out.push(1);
                put(out, index.get());
                put(out, totals.size.get());
                put(out, totals.count);
                out.extend_from_slice(totals.root.as_bytes());
            }
        }
        match self.settled.left_out {
            None => out.push(0),
            Some((index, time)) => {
                out.push(1);
                put(out, index.get());
                put(out, time.secs());
            }
        }
    }

    fn read(&mut self, slice: &SliceRow) -> Option<()> {
        let mut reader = Reader(&slice.state);
        let format = reader.byte()?;
        if INCOMPLETE.contains(&format) {
            return Some(());
        }
        if ![FORMAT, UNBOUND].contains(&format) {
            return None;
        }
        self.newest = self.newest.max(Time::from_secs(reader.number()?)?);
        if format == FORMAT {
            self.read_settled(slice.through.get(), &mut reader)?;
            for _ in 0..reader.number()? {
                let chain_id = reader.number()?;
                let index = Index::new(reader.number()?)?;
                self.anchored.insert(chain_id, index);
            }
        }
        let mut named = Vec::new();
        for _ in 0..reader.number()? {
            let category = reader.category()?;
            named.push(intern(&mut self.models, &mut self.named, &category));
        }
        for _ in 0..reader.number()? {
            let key = Hash::from_bytes(reader.array()?);
            let (models, days) = (reader.models(&named)?, reader.days()?);
            let user = self.users.number(&key);
            self.users.account_mut(user).sums = User { models, days };
        }
        for _ in 0..reader.number()? {
            let category = reader.category()?;
            let all = reader.sums()?;
            let mut outcomes = [0; Outcome::ALL.len()];
            for outcome in &mut outcomes {
                *outcome = reader.number()?;
            }
            let mut days = Vec::new();
            for _ in 0..reader.number()? {
                let day = u32::try_from(reader.number()?).ok()?;
                days.push((day, reader.sums()?));
            }
            let number = intern(&mut self.models, &mut self.named, &category);
            self.models.account_mut(number).sums = Model {
                all,
                days: Cells::from_list(days)?,
                outcomes,
            };
        }
        for _ in 0..reader.number()? {
            let key = Address::from_bytes(reader.array()?);
            let mut links = Vec::new();
            for _ in 0..reader.number()? {
                let link = reader.one_of(Link::ALL)?;
                let source = reader.one_of(Source::ALL)?;
                links.push(((link, source), reader.sums()?));
            }
            let mut wallet = Wallet {
                links: Cells::from_list(links)?,
                ..Wallet::default()
            };
            if format != UNBOUND {
                reader.bound(&mut wallet, &named)?;
            }
            let number = self.wallets.number(&key);
            self.wallets.account_mut(number).sums = wallet;
        }
        if format != UNBOUND {
            self.read_keys(&mut reader)?;
        }
        self.through[usize::from(slice.number)] = slice.through.get();
        reader.0.is_empty().then_some(())
    }
}

impl Ledger {
    fn read_keys(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        for _ in 0..reader.number()? {
            let key = Hash::from_bytes(reader.array()?);
            let newest = Hash::from_bytes(reader.array()?);
            let holding = match reader.byte()? {
                0 => Holding::Free,
                1 => Holding::Bound {
                    wallet: Address::from_bytes(reader.array()?),
                    since: Index::new(reader.number()?)?,
                },
                2 => Holding::Burnt,
                _ => return None,
            };
            let number = self.keys.number(&key);
            self.keys.account_mut(number).sums = Bound(Some(KeyState { holding, newest }));
        }
        Some(())
    }

    /// What the slice as of the largest size says of totals entries counts.
    fn read_settled(&mut self, through: u64, reader: &mut Reader<'_>) -> Option<()> {
        let newest = match reader.byte()? {
            0 => None,
            _ => {
                let index = Index::new(reader.number()?)?;
                let totals = Totals {
                    size: TreeSize::new(reader.number()?)?,
                    count: reader.number()?,
                    root: Hash::from_bytes(reader.array()?),
                };
                Some((index, totals))
            }
        };
        let left_out = match reader.byte()? {
            0 => None,
            _ => {
                let index = Index::new(reader.number()?)?;
                Some((index, Time::from_secs(reader.number()?)?))
            }
        };
        if through >= self.settled.through {
            self.settled.newest = newest;
            self.settled.left_out = left_out;
            // Whether there are is not kept: a proof needs a tree anyway.
            self.settled.earlier = self.settled.newest.is_some();
            self.settled.through = through;
        }
        Some(())
    }
}

/// The categories that a slice names, numbered in the order in which it does.
#[derive(Default)]
struct Named {
    numbers: HashMap<Number, u64>,
    order: Vec<Number>,
}

impl Named {
    fn number(&mut self, category: Number) -> u64 {
        let next = self.order.len() as u64;
        let number = *self.numbers.entry(category).or_insert(next);
        if number == next {
            self.order.push(category);
        }
        number
    }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_sums(out: &mut Vec<u8>, sums: &Sums) {
    sums.numbers().iter().for_each(|number| put(out, *number));
}

fn put_models(out: &mut Vec<u8>, models: &Cells<Number>, named: &mut Named) {
    put(out, models.len() as u64);
    for (category, sums) in models.iter() {
        put(out, named.number(*category));
        put_sums(out, sums);
    }
}

fn put_days(out: &mut Vec<u8>, days: &Cells<(u32, Source)>) {
    put(out, days.len() as u64);
    for ((day, source), sums) in days.iter() {
        put(out, u64::from(*day));
        out.push(code(Source::ALL, *source));
        put_sums(out, sums);
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    put(out, name.len() as u64);
    out.extend_from_slice(name.as_bytes());
}

fn put_category(out: &mut Vec<u8>, category: &Category) {
    out.push(code(Source::ALL, category.source));
    put_name(out, category.provider.as_str());
    // A name has at least one byte, so that none is told apart.
    put_name(out, category.model.as_ref().map_or("", Name::as_str));
}

/// A word's place among all there are; new ones come at the end.
fn code<T: Copy + PartialEq>(all: &[T], one: T) -> u8 {
    let at = all.iter().position(|word| *word == one);
    u8::try_from(at.expect("all are listed")).expect("a handful")
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn sums(&mut self) -> Option<Sums> {
        let mut numbers = [0; 6];
        for number in &mut numbers {
            *number = self.number()?;
        }
        Some(Sums::from_numbers(numbers))
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        all.get(usize::from(self.byte()?)).copied()
    }

    /// What a wallet's bound records add.
    fn bound(&mut self, wallet: &mut Wallet, named: &[Number]) -> Option<()> {
        wallet.models = self.models(named)?;
        wallet.days = self.days()?;
        for _ in 0..self.number()? {
            let source = self.one_of(Source::ALL)?;
            let ends = (Index::new(self.number()?)?, Index::new(self.number()?)?);
            wallet.ends.push((source, ends.0, ends.1));
        }
        for _ in 0..self.number()? {
            let hour = self.byte().filter(|hour| *hour < 24)?;
            let source = self.one_of(Source::ALL)?;
            let records = u32::try_from(self.number()?).ok()?;
            wallet.hours.push((hour, source, records));
        }
        let place = |(hour, source, _): &(u8, Source, u32)| (*hour, *source);
        wallet.hours.is_sorted_by_key(place).then_some(())
    }

    fn models(&mut self, named: &[Number]) -> Option<Cells<Number>> {
        let mut models = Vec::new();
        for _ in 0..self.number()? {
            let category = *named.get(usize::try_from(self.number()?).ok()?)?;
            models.push((category, self.sums()?));
        }
        // In the order of this process's numbers, not of the one that wrote.
        models.sort_unstable_by_key(|(category, _)| *category);
        Cells::from_list(models)
    }

    fn days(&mut self) -> Option<Cells<(u32, Source)>> {
        let mut days = Vec::new();
        for _ in 0..self.number()? {
            let day = u32::try_from(self.number()?).ok()?;
            let source = self.one_of(Source::ALL)?;
            days.push(((day, source), self.sums()?));
        }
        Cells::from_list(days)
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.bytes(len)?).ok()
    }

    fn category(&mut self) -> Option<Category> {
        let source = self.one_of(Source::ALL)?;
        let provider = Name::new(self.text()?)?;
        let model = match self.text()? {
            "" => None,
            name => Some(Name::new(name)?),
        };
        Some(Category {
            source,
            provider,
            model,
        })
    }
}
