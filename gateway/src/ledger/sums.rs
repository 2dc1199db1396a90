//! Sums of counts, and lists of them by what they are summed over.

use protocol::record::Usage;

/// Sums of usage entries; absent counts are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Usage entries.
    pub records: u64,
    /// Prompt tokens.
    pub input: u64,
    /// Of these read from a cache.
    pub cache_read: u64,
    /// Of these written to a cache.
    pub cache_write: u64,
    /// Generated tokens.
    pub output: u64,
    /// Of these reasoning.
    pub reasoning: u64,
}

impl Sums {
    /// One entry's counts.
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

    /// Adds other sums of the same source.
    pub fn add(&mut self, more: &Self) {
        let mut numbers = self.numbers();
        for (mine, more) in numbers.iter_mut().zip(more.numbers()) {
            *mine = mine.saturating_add(more);
        }
        *self = Self::from_numbers(numbers);
    }

    /// Takes back what was added.
    pub fn take_back(&mut self, less: &Self) {
        let mut numbers = self.numbers();
        for (mine, less) in numbers.iter_mut().zip(less.numbers()) {
            *mine = mine.saturating_sub(less);
        }
        *self = Self::from_numbers(numbers);
    }

    /// The six numbers, in the order of the fields.
    pub(super) fn numbers(&self) -> [u64; 6] {
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

    /// Sums of these six numbers.
    pub(super) fn from_numbers(numbers: [u64; 6]) -> Self {
        let [records, input, cache_read, cache_write, output, reasoning] = numbers;
        Self {
            records,
            input,
            cache_read,
            cache_write,
            output,
            reasoning,
        }
    }
}

impl<'a> std::iter::Sum<&'a Sums> for Sums {
    fn sum<I: Iterator<Item = &'a Sums>>(sums: I) -> Self {
        sums.fold(Self::default(), |mut all, one| {
            all.add(one);
            all
        })
    }
}

/// Sums by a key, sorted by it. Keys mostly come in ascending order, or are few.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cells<K>(Vec<(K, Sums)>);

impl<K> Default for Cells<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Copy + Ord> Cells<K> {
    /// Adds to the sums of `key`; whether there were none before.
    pub(super) fn add(&mut self, key: K, more: &Sums) -> bool {
        let at = match self.0.last() {
            Some((last, _)) if *last == key => Ok(self.0.len() - 1),
            Some((last, _)) if *last < key => Err(self.0.len()),
            _ => self.0.binary_search_by_key(&key, |(key, _)| *key),
        };
        match at {
            Ok(at) => {
                self.0[at].1.add(more);
                false
            }
            Err(at) => {
                // Most have one or two; doubling from four would waste half.
                self.0.reserve_exact(1 + self.0.len() / 4);
                self.0.insert(at, (key, *more));
                true
            }
        }
    }

    /// All of them, ascending.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, (K, Sums)> {
        self.0.iter()
    }

    /// The sums of `key`.
    pub(super) fn get(&self, key: &K) -> Option<&Sums> {
        let at = self.0.binary_search_by_key(key, |(key, _)| *key).ok()?;
        Some(&self.0[at].1)
    }

    /// Those from `first` to `last`, both included.
    pub(super) fn range(&self, first: K, last: K) -> &[(K, Sums)] {
        let from = self.0.partition_point(|(key, _)| *key < first);
        let to = self.0.partition_point(|(key, _)| *key <= last);
        &self.0[from..to.max(from)]
    }

    /// Takes up a list as it was written.
    pub(super) fn from_list(list: Vec<(K, Sums)>) -> Option<Self> {
        list.is_sorted_by(|a, b| a.0 < b.0).then_some(Self(list))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
