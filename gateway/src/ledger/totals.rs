//! The totals tree: what every wallet used, as a totals entry commits to it
//! (PROTOCOL.md section 4.4), and the proofs that wallets' answers hold.
//!
//! A tree holds its leaves, and nodes from groups of 16 leaves upwards: what
//! lies within a group is hashed again for each proof. The next tree is made
//! from the one before and the leaves that changed, beside the log, which goes
//! on meanwhile: its totals entry then leaves the newest entries out.

use std::collections::HashSet;
use std::sync::Arc;

use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::name::Address;
use protocol::record::{Link, Source};
use protocol::totals::{LEAF, Leaf, Sums as LeafSums, Totals};

use super::recent::{Entry, Recent, Undone};
use super::{Ledger, Number};

/// Leaves under a node of the lowest level that is kept.
const GROUP: usize = 16;

/// Trees that are kept: the newest, and the one before, which a published
/// checkpoint may still end with.
const KEPT: usize = 2;

/// A leaf's bytes.
pub(super) type LeafBytes = [u8; LEAF];

/// All wallets' totals at one size of the log.
#[derive(Debug, Default)]
pub struct Tree {
    leaves: Vec<LeafBytes>,
    /// Groups' roots, then each level above; a node without a sibling stands
    /// on the next level as it is, which gives the tree of RFC 6962.
    levels: Vec<Vec<Hash>>,
}

/// A leaf and the way up from it.
#[derive(Clone, Debug)]
pub struct Proven {
    /// Its place among the leaves.
    pub index: u64,
    /// Its bytes.
    pub leaf: LeafBytes,
    /// From its sibling up (RFC 9162 section 2.1.3.1).
    pub hashes: Vec<Hash>,
}

/// What there is of the totals entries below a size.
#[derive(Clone, Debug)]
pub enum Below {
    /// The newest one's index and tree.
    Tree(Index, Arc<Tree>),
    /// There is none.
    Nothing,
    /// This process did not make its tree: it began later, or two newer ones
    /// came since.
    Unknown,
}

/// What the next tree is made of.
#[derive(Debug)]
pub struct Changes {
    before: Arc<Tree>,
    /// Leaves that are new, or replace one of their wallet and source.
    leaves: Vec<LeafBytes>,
}

/// What the ledger keeps of the totals entries.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// The newest totals entry.
    pub(super) newest: Option<(Index, Totals)>,
    /// The first usage or binding entry that it leaves out.
    pub(super) left_out: Option<(Index, Time)>,
    /// Whether totals entries stand before the newest one.
    pub(super) earlier: bool,
    /// To which size the three above were loaded.
    pub(super) through: u64,
    /// What the next totals entries may leave out.
    pub(super) recent: Recent,
    /// The newest trees, the newest first.
    trees: Vec<(Index, Arc<Tree>)>,
    /// Wallets whose leaves changed since the newest tree.
    changed: HashSet<Number>,
    /// The next tree, made before its entry.
    staged: Option<Arc<Tree>>,
    /// From which size on trees are made: not while entries are read again.
    live: Option<u64>,
}

impl Changes {
    /// Makes the tree; a second of work for a million wallets, at the most.
    pub fn make(self) -> Tree {
        let Self { before, mut leaves } = self;
        leaves.sort_unstable_by(|a, b| order(a).cmp(order(b)));
        before.with(leaves)
    }
}

impl Tree {
    /// Its root (RFC 6962 section 2.1).
    pub fn root(&self) -> Hash {
        let top = self.levels.last().and_then(|level| level.first());
        top.copied().unwrap_or(Hash::EMPTY_ROOT)
    }

    /// How many leaves it has.
    pub fn count(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// All of a wallet's leaves and the neighbour on each side, as far as
    /// there is one (PROTOCOL.md section 4.5).
    pub fn prove(&self, wallet: &Address) -> Vec<Proven> {
        let named = |leaf: &LeafBytes| Address::from_bytes(*wallet_of(leaf));
        let first = self.leaves.partition_point(|leaf| named(leaf) < *wallet);
        let end = self.leaves.partition_point(|leaf| named(leaf) <= *wallet);
        let shown = first.saturating_sub(1)..self.leaves.len().min(end + 1);
        let proven = |at: usize| Proven {
            index: at as u64,
            leaf: self.leaves[at],
            hashes: self.path(at),
        };
        shown.map(proven).collect()
    }

    fn path(&self, at: usize) -> Vec<Hash> {
        let group = at / GROUP * GROUP;
        let end = self.leaves.len().min(group + GROUP);
        let mut level: Vec<Hash> = self.leaves[group..end]
            .iter()
            .map(|l| Hash::leaf(l))
            .collect();
        let (mut place, mut path) = (at % GROUP, Vec::new());
        while level.len() > 1 {
            path.extend(level.get(place ^ 1));
            (level, place) = (above(&level), place / 2);
        }
        place = at / GROUP;
        for level in &self.levels {
            path.extend(level.get(place ^ 1));
            place /= 2;
        }
        path
    }

    fn with(&self, changed: Vec<LeafBytes>) -> Self {
        let (leaves, kept) = self.merged(changed);
        let groups = leaves.chunks(GROUP).enumerate();
        let old = self.levels.first();
        let groups: Vec<Hash> = groups
            .map(|(n, group)| match old.and_then(|old| old.get(n)) {
                Some(root) if kept(n) => *root,
                _ => head(group),
            })
            .collect();
        let mut levels = vec![];
        let mut level = groups;
        while level.len() > 1 {
            let next = above(&level);
            levels.push(std::mem::replace(&mut level, next));
        }
        levels.push(level);
        Self { leaves, levels }
    }

    /// The leaves with those that changed, and which groups are as they were.
    fn merged(&self, changed: Vec<LeafBytes>) -> (Vec<LeafBytes>, impl Fn(usize) -> bool) {
        let (mut leaves, changed) = match self.leaves.is_empty() {
            true => (changed, Vec::new()),
            false => (
                Vec::with_capacity(self.leaves.len() + changed.len()),
                changed,
            ),
        };
        // From here on leaves stand in other places than before.
        let mut shifted = usize::MAX;
        let mut touched = vec![false; self.leaves.len().div_ceil(GROUP)];
        let mut rest = self.leaves.as_slice();
        for leaf in changed {
            let before = rest.partition_point(|old| order(old) < order(&leaf));
            leaves.extend_from_slice(&rest[..before]);
            rest = &rest[before..];
            match rest.split_first() {
                Some((old, after)) if order(old) == order(&leaf) => {
                    rest = after;
                    if let Some(touched) = touched.get_mut(leaves.len() / GROUP) {
                        *touched = true;
                    }
                }
                _ => shifted = shifted.min(leaves.len()),
            }
            leaves.push(leaf);
        }
        leaves.extend_from_slice(rest);
        // Leaves are never fewer; added ones shift what follows, so that a
        // group that was cut by the end is among those from there on.
        let kept = move |n: usize| {
            let before = n.saturating_add(1).saturating_mul(GROUP) <= shifted;
            before && touched.get(n).is_some_and(|touched| !touched)
        };
        (leaves, kept)
    }
}

fn wallet_of(leaf: &LeafBytes) -> &[u8; 20] {
    let (_, rest) = leaf.split_first().expect("a leaf has 86 bytes");
    rest.first_chunk().expect("a leaf has 86 bytes")
}

/// What leaves are sorted by: wallet and source.
fn order(leaf: &LeafBytes) -> &[u8] {
    &leaf[1..22]
}

/// The tree head over a group's leaves.
fn head(group: &[LeafBytes]) -> Hash {
    let mut level: Vec<Hash> = group.iter().map(|leaf| Hash::leaf(leaf)).collect();
    while level.len() > 1 {
        level = above(&level);
    }
    level.first().copied().unwrap_or(Hash::EMPTY_ROOT)
}

/// The level above: pairs are joined, a node without a sibling stays.
fn above(level: &[Hash]) -> Vec<Hash> {
    let join = |pair: &[Hash]| match pair {
        [left, right] => Hash::node(left, right),
        alone => alone.first().copied().unwrap_or(Hash::EMPTY_ROOT),
    };
    level.chunks(2).map(join).collect()
}

impl Settled {
    /// A wallet's leaves change.
    pub(super) fn touch(&mut self, wallet: Number) {
        // Without a tree, the next one is made of all wallets.
        if !self.trees.is_empty() {
            self.changed.insert(wallet);
        }
    }
}

impl Ledger {
    /// The newest totals entry, and its tree if this process has made it.
    pub fn newest_totals(&self) -> Option<(Index, Totals)> {
        self.settled.newest
    }

    /// The first entry that no totals entry covers, and when it came.
    pub fn left_out(&self) -> Option<(Index, Time)> {
        self.settled.left_out
    }

    /// Whether the newest totals entry's tree is not known here, as this
    /// gateway began between two.
    pub fn lacks_tree(&self) -> bool {
        let newest = self.settled.newest.map(|(index, _)| index);
        let made = self.settled.trees.first().map(|(index, _)| *index);
        newest != made
    }

    /// Whether it is still known what a totals entry over the first `size`
    /// entries would leave out.
    pub fn remembers(&self, size: TreeSize) -> bool {
        self.settled.recent.reaches(size.get())
    }

    /// The tree of the newest totals entry below `size`.
    pub fn tree_below(&self, size: TreeSize) -> Below {
        let mut trees = self.settled.trees.iter();
        let below = trees.find(|(index, _)| index.get() < size.get());
        let later = |(index, _): (Index, Totals)| index.get() >= size.get();
        match below {
            Some((index, tree)) => Below::Tree(*index, Arc::clone(tree)),
            None if self.settled.newest.is_none_or(later) && !self.settled.earlier => {
                Below::Nothing
            }
            None => Below::Unknown,
        }
    }

    /// What a totals entry over all that the ledger holds would sum up.
    pub fn changes(&self) -> Changes {
        self.changes_without(&Undone::new())
    }

    fn changes_without(&self, undone: &Undone) -> Changes {
        let newest = self.settled.trees.first();
        let leaves = match newest {
            Some(_) => {
                let changed = self.settled.changed.iter();
                changed.flat_map(|n| self.leaves(*n, undone)).collect()
            }
            None => (0..self.wallets.accounts.len())
                .map(|n| Number::try_from(n).expect("fewer than 2^32"))
                .flat_map(|n| self.leaves(n, undone))
                .collect(),
        };
        let before = newest.map(|(_, tree)| Arc::clone(tree));
        Changes {
            before: before.unwrap_or_default(),
            leaves,
        }
    }

    /// Takes the tree of the totals entry that comes next.
    pub fn stage_tree(&mut self, tree: Arc<Tree>) {
        self.settled.staged = Some(tree);
    }

    /// From here on entries are new: trees are made of them.
    ///
    /// # Errors
    /// The sums are not those that the newest totals entry commits to.
    pub fn go_live(&mut self) -> Result<(), Contradiction> {
        self.settled.live = Some(self.size.get());
        match (self.settled.newest, self.settled.left_out) {
            (Some((index, totals)), None) => self.plant(index, &totals),
            _ => Ok(()),
        }
    }

    /// A totals entry is added at `index`.
    pub(super) fn settle(&mut self, index: Index, totals: &Totals) -> Result<(), Contradiction> {
        if index.get() < self.settled.through {
            return Ok(());
        }
        self.settled.earlier = self.settled.newest.replace((index, *totals)).is_some();
        let size = totals.size.get();
        // Of what is forgotten it is the time that counts: rather too early.
        if self.settled.recent.reaches(size) {
            self.settled.left_out = self.settled.recent.first_from(size);
        }
        match self.settled.live {
            Some(_) => self.plant(index, totals),
            None => Ok(()),
        }
    }

    /// The tree of the newest totals entry, where all that it leaves out is known.
    fn plant(&mut self, index: Index, totals: &Totals) -> Result<(), Contradiction> {
        let size = totals.size.get();
        let fits = |tree: &Arc<Tree>| tree.root() == totals.root && tree.count() == totals.count;
        let staged = self.settled.staged.take().filter(fits);
        let live = self.settled.live.is_some_and(|live| size >= live);
        let known = self.settled.left_out.is_none() || live && self.settled.recent.reaches(size);
        if !known {
            self.settled.trees.clear();
            self.settled.changed.clear();
            return Ok(());
        }
        let made = || {
            let undone = self.settled.recent.undone_from(size);
            Arc::new(self.changes_without(&undone).make())
        };
        let tree = staged.unwrap_or_else(made);
        if !fits(&tree) {
            return Err(Contradiction(index));
        }
        self.settled.changed = self.settled.recent.wallets_from(size).collect();
        self.settled.trees.insert(0, (index, tree));
        self.settled.trees.truncate(KEPT);
        Ok(())
    }

    /// A usage or binding entry is added.
    pub(super) fn leave_out(&mut self, entry: Entry) {
        if entry.index.get() >= self.settled.through {
            let first = (entry.index, entry.time);
            self.settled.left_out.get_or_insert(first);
        }
        self.settled.recent.push(entry);
    }

    fn leaves(&self, number: Number, undone: &Undone) -> impl Iterator<Item = LeafBytes> {
        let account = self.wallets.account(number);
        let ends = account.sums.ends.iter();
        ends.filter_map(move |(source, first, last)| {
            let sums = account.sums.links.get(&(Link::Bound, *source));
            let mut sums = sums.copied().unwrap_or_default();
            let last = match undone.get(&(number, *source)) {
                None => *last,
                Some((less, last)) => {
                    sums.take_back(less);
                    (*last)?
                }
            };
            Some(leaf(account.key, *source, &sums, (*first, last)))
        })
    }
}

fn leaf(
    wallet: Address,
    source: Source,
    sums: &super::Sums,
    (first, last): (Index, Index),
) -> LeafBytes {
    let leaf = Leaf {
        wallet,
        source,
        sums: LeafSums {
            records: sums.records,
            input: sums.input,
            output: sums.output,
            cache_read: sums.cache_read,
            cache_write: sums.cache_write,
            reasoning: sums.reasoning,
        },
        first,
        last,
    };
    leaf.encode()
}

/// The sums in the database are not those that the log committed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sums are not those of totals entry {0}")]
pub struct Contradiction(pub Index);

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::entry::Body;
    use protocol::name::Name;
    use protocol::record::{Counts, Outcome, Usage};

    /// RFC 6962 section 2.1, as it is written.
    fn tree_head(leaves: &[LeafBytes]) -> Hash {
        match leaves {
            [] => Hash::EMPTY_ROOT,
            [leaf] => Hash::leaf(leaf),
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                Hash::node(&tree_head(left), &tree_head(right))
            }
        }
    }

    fn made(wallet: u32, source: Source, records: u64) -> LeafBytes {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&wallet.to_be_bytes());
        let sums = super::super::Sums {
            records,
            ..Default::default()
        };
        let index = |n| Index::new(n).expect("small");
        let ends = (index(1), index(9));
        leaf(Address::from_bytes(bytes), source, &sums, ends)
    }

    #[test]
    fn each_tree_is_that_of_its_leaves_however_it_grew() {
        let mut tree = Arc::new(Tree::default());
        assert_eq!(tree.root(), Hash::EMPTY_ROOT);
        let mut all = std::collections::BTreeMap::new();
        let mut draw = 1_u32;
        for round in 0..60 {
            let mut changed = std::collections::BTreeMap::new();
            for _ in 0..round % 9 * 3 {
                draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let source = Source::ALL[(draw >> 9) as usize % 2];
                let leaf = made((draw >> 16) % 400, source, 2 + round);
                changed.insert(order(&leaf).to_vec(), leaf);
            }
            all.extend(changed.clone());
            let before = Arc::clone(&tree);
            let leaves = changed.into_values().collect();
            tree = Arc::new(Changes { before, leaves }.make());
            let leaves: Vec<LeafBytes> = all.values().copied().collect();
            assert_eq!(tree.leaves, leaves, "round {round}");
            assert_eq!(tree.root(), tree_head(&leaves), "round {round}");
        }
        let size = protocol::index::TreeSize::new(tree.count()).expect("small");
        for at in 0..tree.leaves.len() {
            let (leaf, index) = (Hash::leaf(&tree.leaves[at]), Index::new(at as u64));
            let held = protocol::proof::verify_inclusion(
                leaf,
                index.expect("small"),
                (size, tree.root()),
                &tree.path(at),
            );
            assert_eq!(held, Ok(()), "leaf {at}");
        }
    }

    /// A log's bound usage entries, and its totals.
    #[derive(Default)]
    struct Bound {
        ledger: Ledger,
        /// Index, wallet, source and input tokens.
        entries: Vec<(u64, u8, Source, u32)>,
    }

    impl Bound {
        fn add(&mut self, body: &Body) -> Result<(), Contradiction> {
            let size = self.ledger.size().get();
            let (index, time) = (Index::new(size), Time::from_secs(1_000 + size));
            let (index, time) = (index.expect("small"), time.expect("small"));
            let entry = body.encode(time);
            self.ledger.add(index, time, &entry, Some(body))
        }

        fn call(&mut self, draw: u32) {
            let (wallet, source) = (
                (draw >> 16) as u8 % 9,
                Source::ALL[(draw >> 9) as usize % 2],
            );
            let usage = Usage {
                receipt: Hash::of(b"receipt"),
                key_id: None,
                wallet: Some((Address::from_bytes([wallet; 20]), Link::Bound)),
                source,
                provider: Name::new("openai").expect("a name"),
                model: None,
                counts: Counts {
                    input: Some(draw % 1_000),
                    ..Counts::NONE
                },
                outcome: Outcome::Complete,
                inconsistent: false,
                response: None,
            };
            let index = self.ledger.size().get();
            self.entries.push((index, wallet, source, draw % 1_000));
            self.add(&Body::Usage(usage)).expect("no totals");
        }

        /// The leaves over the first `size` entries, by a plain loop.
        fn totals(&self, size: u64) -> Totals {
            let mut sums = std::collections::BTreeMap::new();
            let below = self.entries.iter().filter(|(index, ..)| *index < size);
            for (index, wallet, source, input) in below {
                let leaf = sums.entry((*wallet, *source));
                let (records, all, _, last) = leaf.or_insert((0, 0, *index, *index));
                (*records, *all) = (*records + 1, *all + u64::from(*input));
                *last = *index;
            }
            let leaf = |((wallet, source), (records, input, first, last))| {
                let sums = super::super::Sums {
                    records,
                    input,
                    ..Default::default()
                };
                let index = |n| Index::new(n).expect("small");
                let ends = (index(first), index(last));
                leaf(Address::from_bytes([wallet; 20]), source, &sums, ends)
            };
            let leaves: Vec<LeafBytes> = sums.into_iter().map(leaf).collect();
            Totals {
                size: TreeSize::new(size).expect("small"),
                count: leaves.len() as u64,
                root: tree_head(&leaves),
            }
        }
    }

    #[test]
    fn totals_leave_out_what_came_while_they_were_summed_up() {
        let mut log = Bound::default();
        log.ledger.go_live().expect("nothing is there");
        let mut draw = 7_u32;
        let mut next = || {
            draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            draw
        };
        for round in 0..300 {
            for _ in 0..1 + next() % 9 {
                log.call(next());
            }
            let size = log.ledger.size().get();
            // As the writer does, or made of what was read, as followers do.
            let staged = (round % 3 == 0).then(|| log.ledger.changes());
            for _ in 0..next() % 7 {
                log.call(next());
            }
            if let Some(changes) = staged {
                log.ledger.stage_tree(Arc::new(changes.make()));
            }
            let totals = log.totals(size);
            log.add(&Body::Totals(totals)).expect("these are the sums");
            let left_out = log.ledger.left_out().map(|(index, _)| index.get());
            let indexes = log.entries.iter().map(|(index, ..)| *index);
            let first = indexes.clone().find(|index| *index >= size);
            assert_eq!(left_out, first, "round {round}");
            assert!(!log.ledger.lacks_tree(), "round {round}");
            let Below::Tree(_, tree) = log.ledger.tree_below(log.ledger.size()) else {
                panic!("round {round}");
            };
            assert_eq!((tree.root(), tree.count()), (totals.root, totals.count));
        }
        log.call(next());
        let wrong = log.totals(log.ledger.size().get() - 1);
        let size = log.ledger.size();
        let wrong = Totals { size, ..wrong };
        log.add(&Body::Totals(wrong)).expect_err("one is left out");
    }

    #[test]
    fn who_began_between_two_totals_makes_no_tree_of_the_first() {
        let mut log = Bound::default();
        for draw in 0..20 {
            log.call(draw << 16);
        }
        log.ledger.go_live().expect("no totals are there");
        log.add(&Body::Totals(log.totals(15))).expect("not judged");
        assert!(log.ledger.lacks_tree());
        let left_out = log.ledger.left_out().map(|(index, _)| index.get());
        assert_eq!(left_out, Some(15));
        log.call(1);
        log.add(&Body::Totals(log.totals(21)))
            .expect("these are the sums");
        assert!(!log.ledger.lacks_tree());
    }

    #[test]
    fn only_what_changed_is_hashed_again() {
        let leaves = (0..10_000).map(|n| made(n, Source::Proxy, 2)).collect();
        let before = Arc::new(Tree::default());
        let tree = Arc::new(Changes { before, leaves }.make());
        // What changed is hashed again, and nothing else.
        let leaves = vec![made(77, Source::Proxy, 3)];
        let (_, kept) = tree.merged(leaves.clone());
        let groups = tree.levels[0].len();
        let hashed: Vec<_> = (0..groups).filter(|n| !kept(*n)).collect();
        assert_eq!(hashed, [77 / GROUP]);
        let next = Changes {
            before: Arc::clone(&tree),
            leaves,
        };
        assert_ne!(next.make().root(), tree.root());
        let above: usize = tree.levels.iter().map(Vec::len).sum();
        assert!(above * 32 < tree.leaves.len() * 5, "{above} nodes");
    }
}
