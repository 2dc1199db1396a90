//! Whom each key's calls count for, what the log owes, and where it is
//! anchored: the rules between entries of the kinds `usage`, `binding`, `totals`
//! and `anchor` (PROTOCOL.md sections 4.2 to 4.4 and 4.6).
//!
//! Pure. It follows the log entry by entry and says what is against the rules.
//! Out of scope: what one entry shows alone, signatures among it, and what a
//! finding is made of (see [`crate::audit`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, Write};

use protocol::anchor::{ChainLog, Place};
use protocol::binding::{Action, BindingError, Consent, Holding, KeyState};
use protocol::consent::Signature;
use protocol::entry::{Body, RULES, RULES_WITHOUT_BINDINGS};
use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::name::Address;
use protocol::record::{Link, Usage};
use protocol::totals::Totals;

use crate::packed::{number, take, take_array, take_count};
use crate::totals::Wallets;

/// A rule between entries that an entry breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// It counts for a wallet that its key is not bound to.
    Unbound(Address),
    /// It does not count for the wallet that its key is bound to.
    Ignored {
        /// That wallet.
        wallet: Address,
        /// The entry that bound the key to it.
        since: Index,
    },
    /// A binding that the key's earlier entries refuse.
    Binding(BindingError),
    /// Totals over a size that they can't be over.
    Size {
        /// The size that they name.
        size: u64,
        /// The size of the totals before.
        before: u64,
    },
    /// Totals that are not those of the entries.
    Sums {
        /// How many leaves there are.
        count: u64,
        /// The root over them.
        root: Hash,
    },
    /// An entry that comes too late after one that is in no totals.
    Overdue {
        /// The one that is left out.
        left: Index,
        /// Its time.
        since: Time,
    },
    /// An anchor's contract that is not this log's.
    Contract {
        /// That of this log.
        expected: Address,
        /// The one that is named.
        found: Address,
    },
    /// A chain that the log was said to be anchored on before.
    Again {
        /// The chain's id.
        chain_id: u64,
        /// The entry that said so.
        before: Index,
    },
}

/// The newest totals entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// Where it stands.
    pub index: Index,
    /// What it says.
    pub totals: Totals,
}

/// The log's settings that are judged by, from entry 0.
#[derive(Clone, Copy, Debug)]
struct Terms {
    rules: u64,
    interval: u64,
    /// Entry 0's leaf hash.
    first: Hash,
    /// Where the log's contract stands, on whatever chain.
    contract: Address,
}

/// What the log's entries so far make of keys and wallets.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    terms: Option<Terms>,
    /// Keys of which a binding entry tells.
    keys: HashMap<Hash, KeyState>,
    wallets: Wallets,
    newest: Option<Newest>,
    /// Entries that no totals have summed up: of each second the last one.
    left_out: VecDeque<(Time, Index)>,
    /// Bindings signed by contract wallets, which only their chain can judge.
    contracts: Vec<Index>,
    /// The chains that the log says it is anchored on, and the entry of each.
    anchored: BTreeMap<u64, Index>,
}

impl Accounts {
    /// Takes the next entry, and says what it breaks.
    pub fn take(&mut self, index: Index, leaf: Hash, time: Time, body: &Body) -> Vec<Breach> {
        let mut breaches = vec![];
        let Some(terms) = self.terms else {
            if let Body::Log(log) = body {
                self.terms = Some(Terms {
                    rules: log.rules,
                    interval: log.totals_interval,
                    first: leaf,
                    contract: ChainLog::new(&log.key, log.evm_key).contract(),
                });
            }
            return breaches;
        };
        if terms.rules != RULES {
            if let (RULES_WITHOUT_BINDINGS, Body::Usage(usage)) = (terms.rules, body) {
                breaches.extend(self.link(usage));
            }
            return breaches;
        }
        match body {
            Body::Totals(totals) => breaches.extend(self.totals(index, totals)),
            other => {
                breaches.extend(self.overdue(terms.interval, time));
                breaches.extend(self.other(index, leaf, other, terms));
            }
        }
        if let Body::Usage(_) | Body::Binding(_) = body {
            // Times never decrease, so that each second has one place.
            match self.left_out.back_mut().filter(|(last, _)| *last == time) {
                Some((_, last)) => *last = index,
                None => self.left_out.push_back((time, index)),
            }
        }
        breaches
    }

    /// Whom a key's calls count for.
    pub fn holding(&self, key_id: &Hash) -> Holding {
        let state = self.keys.get(key_id);
        state.map_or(Holding::Free, |state| state.holding)
    }

    /// What wallets used.
    pub fn wallets(&self) -> &Wallets {
        &self.wallets
    }

    /// The newest totals entry.
    pub fn newest(&self) -> Option<&Newest> {
        self.newest.as_ref()
    }

    /// Bindings signed by contract wallets, of which no chain was asked yet.
    pub fn contracts(&self) -> &[Index] {
        &self.contracts
    }

    /// A chain was asked about this one: it is valid.
    pub fn judged_by_chain(&mut self, binding: Index) {
        self.contracts.retain(|index| *index != binding);
    }

    /// The chains that the log says it is anchored on, in ascending order, and
    /// the entry that says so.
    pub fn anchored(&self) -> &BTreeMap<u64, Index> {
        &self.anchored
    }

    /// The address of the log's contract on every chain, once entry 0 is read.
    pub fn contract(&self) -> Option<Address> {
        self.terms.map(|terms| terms.contract)
    }

    /// The rules that the log names, once entry 0 is read.
    pub fn rules(&self) -> Option<u64> {
        self.terms.map(|terms| terms.rules)
    }

    fn other(&mut self, index: Index, leaf: Hash, body: &Body, terms: Terms) -> Option<Breach> {
        match body {
            Body::Usage(usage) => {
                let breach = self.link(usage);
                // Totals sum up what entries say, whether it is right or not.
                if let Some((wallet, Link::Bound)) = usage.wallet {
                    self.wallets.add(index, wallet, usage.source, &usage.counts);
                }
                breach
            }
            Body::Binding(binding) => {
                let state = self.keys.get(&binding.key_id);
                let state = state.copied().unwrap_or(KeyState::fresh(terms.first));
                match state.take(binding, index, leaf) {
                    Ok(state) => drop(self.keys.insert(binding.key_id, state)),
                    Err(error) => return Some(Breach::Binding(error)),
                }
                if signed_by_contract(&binding.action) {
                    self.contracts.push(index);
                }
                None
            }
            Body::Anchor(place) => self.anchor(index, place, terms.contract),
            Body::Log(_) | Body::Totals(_) => None,
        }
    }

    fn anchor(&mut self, index: Index, place: &Place, expected: Address) -> Option<Breach> {
        let (chain_id, found) = (place.chain_id, place.contract);
        if found != expected {
            return Some(Breach::Contract { expected, found });
        }
        if let Some(before) = self.anchored.get(&chain_id) {
            let before = *before;
            return Some(Breach::Again { chain_id, before });
        }
        self.anchored.insert(chain_id, index);
        None
    }

    /// Whether a usage entry counts for whom it must.
    fn link(&self, usage: &Usage) -> Option<Breach> {
        let holding = usage.key_id.map_or(Holding::Free, |key| self.holding(&key));
        match (holding, usage.wallet) {
            (Holding::Bound { wallet, .. }, Some((named, Link::Bound))) if named == wallet => None,
            (_, Some((named, Link::Bound))) => Some(Breach::Unbound(named)),
            (Holding::Bound { wallet, since }, _) => Some(Breach::Ignored { wallet, since }),
            _ => None,
        }
    }

    fn totals(&mut self, index: Index, totals: &Totals) -> Option<Breach> {
        let size = totals.size.get();
        let before = self.newest.map_or(0, |newest| newest.totals.size.get());
        if size <= before || size > index.get() {
            return Some(Breach::Size { size, before });
        }
        let (count, root) = self.wallets.settle(size);
        while self
            .left_out
            .pop_front_if(|(_, last)| last.get() < size)
            .is_some()
        {}
        let totals = *totals;
        self.newest = Some(Newest { index, totals });
        (count != totals.count || root != totals.root).then_some(Breach::Sums { count, root })
    }

    fn overdue(&self, interval: u64, time: Time) -> Option<Breach> {
        let (since, left) = *self.left_out.front()?;
        let until = since.secs().saturating_add(interval.saturating_mul(2));
        (time.secs() > until).then_some(Breach::Overdue { left, since })
    }

    /// Writes them down.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        number(to, self.terms.is_some().into())?;
        if let Some(terms) = self.terms {
            number(to, terms.rules)?;
            number(to, terms.interval)?;
            to.write_all(terms.first.as_bytes())?;
            to.write_all(terms.contract.as_bytes())?;
        }
        number(to, self.keys.len() as u64)?;
        let mut keys: Vec<_> = self.keys.iter().collect();
        keys.sort_unstable_by_key(|(key_id, _)| **key_id);
        for (key_id, state) in keys {
            to.write_all(key_id.as_bytes())?;
            to.write_all(state.newest.as_bytes())?;
            match state.holding {
                Holding::Free => number(to, FREE)?,
                Holding::Burnt => number(to, BURNT)?,
                Holding::Bound { wallet, since } => {
                    number(to, BOUND)?;
                    to.write_all(wallet.as_bytes())?;
                    number(to, since.get())?;
                }
            }
        }
        self.wallets.write(to)?;
        number(to, self.newest.is_some().into())?;
        if let Some(Newest { index, totals }) = self.newest {
            number(to, index.get())?;
            number(to, totals.size.get())?;
            number(to, totals.count)?;
            to.write_all(totals.root.as_bytes())?;
        }
        number(to, self.left_out.len() as u64)?;
        for (time, index) in &self.left_out {
            number(to, time.secs())?;
            number(to, index.get())?;
        }
        number(to, self.contracts.len() as u64)?;
        let mut contracts = self.contracts.iter();
        contracts.try_for_each(|index| number(to, index.get()))?;
        number(to, self.anchored.len() as u64)?;
        let mut anchored = self.anchored.iter();
        anchored.try_for_each(|(chain_id, index)| {
            number(to, *chain_id)?;
            number(to, index.get())
        })
    }

    /// Reads what [`Self::write`] wrote, and takes it off `from`; `None` of
    /// what was not written so.
    pub fn read(from: &mut &[u8]) -> Option<Self> {
        let terms = match take(from)? {
            0 => None,
            _ => Some(Terms {
                rules: take(from)?,
                interval: take(from)?,
                first: Hash::from_bytes(take_array(from)?),
                contract: Address::from_bytes(take_array(from)?),
            }),
        };
        let count = take_count(from)?;
        if count > from.len() / 65 {
            return None;
        }
        let mut keys = HashMap::with_capacity(count);
        for _ in 0..count {
            let key_id = Hash::from_bytes(take_array(from)?);
            let newest = Hash::from_bytes(take_array(from)?);
            let holding = match take(from)? {
                FREE => Holding::Free,
                BURNT => Holding::Burnt,
                BOUND => Holding::Bound {
                    wallet: Address::from_bytes(take_array(from)?),
                    since: Index::new(take(from)?)?,
                },
                _ => return None,
            };
            keys.insert(key_id, KeyState { holding, newest });
        }
        let wallets = Wallets::read(from)?;
        let newest = match take(from)? {
            0 => None,
            _ => Some(Newest {
                index: Index::new(take(from)?)?,
                totals: Totals {
                    size: TreeSize::new(take(from)?)?,
                    count: take(from)?,
                    root: Hash::from_bytes(take_array(from)?),
                },
            }),
        };
        let mut left_out = VecDeque::new();
        for _ in 0..take_count(from)? {
            left_out.push_back((Time::from_secs(take(from)?)?, Index::new(take(from)?)?));
        }
        let contracts = (0..take_count(from)?).map(|_| Index::new(take(from)?));
        let contracts = contracts.collect::<Option<_>>()?;
        let anchored =
            (0..take_count(from)?).map(|_| Some((take(from)?, Index::new(take(from)?)?)));
        let anchored = anchored.collect::<Option<_>>()?;
        Some(Self {
            terms,
            keys,
            wallets,
            newest,
            left_out,
            contracts,
            anchored,
        })
    }
}

const FREE: u64 = 0;
const BOUND: u64 = 1;
const BURNT: u64 = 2;

/// Whether one of a binding's signatures is a contract's.
fn signed_by_contract(action: &Action) -> bool {
    let contract = |signature: &Signature| matches!(signature, Signature::Eip1271 { .. });
    match action {
        Action::Link(Consent { signature, .. }) | Action::Release(Consent { signature, .. }) => {
            contract(signature)
        }
        Action::Move { from, taken, .. } => contract(&from.signature) || contract(taken),
        Action::Burn => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::binding::Binding;
    use protocol::consent::Terms;
    use protocol::entry::Log;
    use protocol::key::{Origin, Signer};
    use protocol::name::Name;
    use protocol::record::{Counts, Outcome, Source};

    fn hash(byte: u8) -> Hash {
        Hash::from_bytes([byte; 32])
    }

    fn wallet(n: u8) -> Address {
        Address::from_bytes([n; 20])
    }

    fn time(secs: u64) -> Time {
        Time::from_secs(secs).expect("small")
    }

    fn log(rules: u64) -> Body {
        let signer = Signer::new(Origin::parse("a.b").expect("valid"), &[1; 32]);
        Body::Log(Log {
            key: signer.verifier().clone(),
            rules,
            totals_interval: 600,
            publish_max: 10,
            evm_key: wallet(0),
        })
    }

    /// A call of key 1, and for whom it counts.
    fn call(counts_for: Option<(u8, Link)>) -> Body {
        Body::Usage(Usage {
            receipt: hash(9),
            key_id: Some(hash(1)),
            wallet: counts_for.map(|(n, link)| (wallet(n), link)),
            source: Source::Proxy,
            provider: Name::new("openai").expect("valid"),
            model: None,
            counts: Counts::NONE,
            outcome: Outcome::Unmetered,
            inconsistent: false,
            response: None,
        })
    }

    /// A binding of key 1 after the entry of this leaf hash.
    fn binds(previous: u8, action: fn(Consent) -> Action) -> Body {
        let consent = Consent {
            wallet: wallet(1),
            terms: Terms {
                chain_id: 1,
                issued_at: time(1),
                expires_at: time(2),
            },
            signature: Signature::Eip191([0; 65]),
        };
        Body::Binding(Binding {
            key_id: hash(1),
            previous: hash(previous),
            action: action(consent),
        })
    }

    fn totals(size: u64, count: u64, root: Hash) -> Body {
        let size = TreeSize::new(size).expect("small");
        Body::Totals(Totals { size, count, root })
    }

    /// Takes a log whose entry i has the leaf hash of i; gives what its last entry breaks.
    fn last(rules: u64, entries: &[(u64, Body)]) -> Vec<Breach> {
        let mut accounts = Accounts::default();
        let mut breaches =
            accounts.take(Index::new(0).expect("small"), hash(0), time(0), &log(rules));
        for (i, (secs, body)) in (1_u8..).zip(entries) {
            assert_eq!(breaches, [], "before entry {i}");
            // What is stored goes on as what was not.
            let mut bytes = vec![];
            accounts.write(&mut bytes).expect("into memory");
            for len in 0..bytes.len() {
                assert!(Accounts::read(&mut &bytes[..len]).is_none(), "{len}");
            }
            let mut stored = Accounts::read(&mut &bytes[..]).expect("as written");
            let index = Index::new(i.into()).expect("small");
            breaches = accounts.take(index, hash(i), time(*secs), body);
            assert_eq!(stored.take(index, hash(i), time(*secs), body), breaches);
        }
        breaches
    }

    #[test]
    fn calls_count_for_whom_their_key_is_bound_to() {
        let bound = |n| call(Some((n, Link::Bound)));
        let claimed = || call(Some((1, Link::Claimed)));
        let link = || binds(0, Action::Link);
        let since = Index::new(1).expect("small");
        let ignored = Breach::Ignored {
            wallet: wallet(1),
            since,
        };
        for (name, rules, entries, expected) in [
            ("nobody", RULES, vec![call(None)], None),
            ("claimed", RULES, vec![claimed()], None),
            (
                "not bound",
                RULES,
                vec![bound(1)],
                Some(Breach::Unbound(wallet(1))),
            ),
            ("bound", RULES, vec![link(), bound(1)], None),
            (
                "to another",
                RULES,
                vec![link(), bound(2)],
                Some(Breach::Unbound(wallet(2))),
            ),
            (
                "as claimed",
                RULES,
                vec![link(), claimed()],
                Some(ignored.clone()),
            ),
            (
                "as nobody's",
                RULES,
                vec![link(), call(None)],
                Some(ignored),
            ),
            (
                "released",
                RULES,
                vec![link(), binds(1, Action::Release), bound(1)],
                Some(Breach::Unbound(wallet(1))),
            ),
            (
                "released, claimed",
                RULES,
                vec![link(), binds(1, Action::Release), claimed()],
                None,
            ),
            (
                "burnt",
                RULES,
                vec![link(), binds(1, |_| Action::Burn), bound(1)],
                Some(Breach::Unbound(wallet(1))),
            ),
            (
                "linked twice",
                RULES,
                vec![link(), binds(1, Action::Link)],
                Some(Breach::Binding(BindingError::Held(wallet(1)))),
            ),
            (
                "replayed",
                RULES,
                vec![link(), binds(1, Action::Release), link()],
                Some(Breach::Binding(BindingError::Previous {
                    expected: hash(2),
                    found: hash(0),
                })),
            ),
            (
                "rules 1",
                RULES_WITHOUT_BINDINGS,
                vec![bound(1)],
                Some(Breach::Unbound(wallet(1))),
            ),
            (
                "rules 1, claimed",
                RULES_WITHOUT_BINDINGS,
                vec![claimed()],
                None,
            ),
        ] {
            let entries: Vec<_> = entries.into_iter().map(|body| (5, body)).collect();
            let expected: Vec<Breach> = expected.into_iter().collect();
            assert_eq!(last(rules, &entries), expected, "{name}");
        }
    }

    #[test]
    fn totals_come_in_time_and_are_over_what_they_say() {
        let none = |size| totals(size, 0, Hash::EMPTY_ROOT);
        let overdue = |left, since| Breach::Overdue {
            left: Index::new(left).expect("small"),
            since: time(since),
        };
        let size = |size, before| Some(Breach::Size { size, before });
        for (name, entries, expected) in [
            ("in time", vec![(5, call(None)), (1_205, call(None))], None),
            (
                "late",
                vec![(5, call(None)), (1_206, call(None))],
                Some(overdue(1, 5)),
            ),
            ("late totals", vec![(5, call(None)), (9_999, none(2))], None),
            (
                "summed up",
                vec![(5, call(None)), (6, none(2)), (9_999, call(None))],
                None,
            ),
            (
                "summed up in part",
                vec![
                    (5, call(None)),
                    (6, call(None)),
                    (7, none(2)),
                    (1_207, call(None)),
                ],
                Some(overdue(2, 6)),
            ),
            (
                "over what is to come",
                vec![(5, call(None)), (6, none(3))],
                size(3, 0),
            ),
            (
                "over no more than before",
                vec![(5, call(None)), (6, none(2)), (7, none(2))],
                size(2, 2),
            ),
            (
                "of another count",
                vec![(5, call(None)), (6, totals(2, 1, Hash::EMPTY_ROOT))],
                Some(Breach::Sums {
                    count: 0,
                    root: Hash::EMPTY_ROOT,
                }),
            ),
        ] {
            let expected: Vec<Breach> = expected.into_iter().collect();
            assert_eq!(last(RULES, &entries), expected, "{name}");
        }
    }

    #[test]
    fn a_log_is_anchored_by_its_own_contract_once_on_a_chain() {
        let Body::Log(first) = log(RULES) else {
            panic!("entry 0 is of kind log");
        };
        let expected = ChainLog::new(&first.key, first.evm_key).contract();
        let on = |chain_id, contract| Body::Anchor(Place { chain_id, contract });
        let (ours, foreign) = (|chain_id| on(chain_id, expected), wallet(9));
        let before = Index::new(1).expect("small");
        for (name, bodies, breach) in [
            ("once", vec![ours(1)], None),
            ("on two chains", vec![ours(1), ours(8_453)], None),
            (
                "twice on one",
                vec![ours(1), ours(2), ours(1)],
                Some(Breach::Again {
                    chain_id: 1,
                    before,
                }),
            ),
            (
                "another contract",
                vec![ours(1), on(2, foreign)],
                Some(Breach::Contract {
                    expected,
                    found: foreign,
                }),
            ),
        ] {
            let entries: Vec<_> = bodies.into_iter().map(|body| (5, body)).collect();
            let breaches: Vec<Breach> = breach.into_iter().collect();
            assert_eq!(last(RULES, &entries), breaches, "{name}");
        }
        let late = [(5, call(None)), (1_206, ours(1))];
        assert!(matches!(last(RULES, &late)[..], [Breach::Overdue { .. }]));
    }
}
