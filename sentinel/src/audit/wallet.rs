//! Bindings, links, totals and anchors: rules that an entry breaks by itself, or by
//! what stands before it.
//!
//! That an entry is against what stands before it is proven by all of that:
//! a finding is at first only served, and proven once the entries before are
//! put beside it with their receipts ([`proven`]).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::entry::{Body, Entry, RULES_WITHOUT_BINDINGS};
use protocol::index::Index;
use protocol::key::VerifierKey;
use protocol::name::Address;
use protocol::record::{Link, Usage};
use protocol::tile;
use serde_json::{Value, json};

use super::{Claim, Class, Finding, Item, upgrade};
use crate::accounts::{Accounts, Breach};

/// `binding_invalid`, as far as the entry shows it alone: a time, or the
/// signature of an account with a key.
pub fn binding(item: &Item<'_>, entry: &Entry, key: &VerifierKey) -> Option<Finding> {
    let Entry::Known {
        time,
        body: Body::Binding(binding),
    } = entry
    else {
        return None;
    };
    let error = binding.judge(key.origin(), *time).err()?;
    let message = format!("the binding in entry {} is invalid: {error}", item.index);
    Some(item.finding(Claim::BindingInvalid, message, key))
}

/// The finding that an entry breaks a rule between entries: proven where it
/// shows that alone.
pub fn breach(item: &Item<'_>, breach: &Breach, key: &VerifierKey) -> Finding {
    let finding = item.finding(breach.claim(), breach.message(item.index), key);
    if alone(item).is_some() {
        return finding;
    }
    Finding {
        class: Class::Served,
        ..finding
    }
}

impl Breach {
    /// Of what claim it is.
    fn claim(&self) -> Claim {
        match self {
            Self::Unbound(_) => Claim::UnboundWallet,
            Self::Ignored { .. } => Claim::BindingIgnored,
            Self::Binding(_) => Claim::BindingInvalid,
            Self::Size { .. } | Self::Sums { .. } => Claim::TotalsFalse,
            Self::Overdue { .. } => Claim::TotalsOverdue,
            Self::Contract { .. } | Self::Again { .. } => Claim::AnchorInvalid,
        }
    }

    fn message(&self, index: Index) -> String {
        match self {
            Self::Unbound(wallet) => format!(
                "entry {index} counts for wallet {wallet} as bound, but its key is not bound to it"
            ),
            Self::Ignored { wallet, since } => format!(
                "entry {index} does not count for wallet {wallet}, to which entry {since} bound its key"
            ),
            Self::Binding(error) => format!("the binding in entry {index} is invalid: {error}"),
            Self::Size { size, before } => format!(
                "the totals in entry {index} are over {size} entries, expected more than {before} \
                 and at most {index}"
            ),
            Self::Sums { count, root } => format!(
                "the totals in entry {index} are not those of the entries, which give {count} \
                 leaves and the root {root}"
            ),
            Self::Overdue { left, since } => format!(
                "entry {left} of {since} is in no totals, but entry {index} came over two \
                 intervals later"
            ),
            Self::Contract { expected, found } => format!(
                "entry {index} names the contract {found} as this log's, which is {expected}"
            ),
            Self::Again { chain_id, before } => format!(
                "entry {index} names chain {chain_id} as one that the log is anchored on, as \
                 entry {before} did"
            ),
        }
    }
}

/// What an entry breaks whatever stands before it: nothing binds calls of
/// nobody, and nobody sums up what is yet to come.
fn alone(item: &Item<'_>) -> Option<Breach> {
    let Ok(Entry::Known { body, .. }) = Entry::parse(item.bytes) else {
        return None;
    };
    match body {
        Body::Usage(Usage {
            key_id: None,
            wallet: Some((wallet, Link::Bound)),
            ..
        }) => Some(Breach::Unbound(wallet)),
        Body::Totals(totals) => {
            let (size, before) = (totals.size.get(), 0);
            (size > item.index.get()).then_some(Breach::Size { size, before })
        }
        _ => None,
    }
}

/// What an entry shows against itself of bindings, links and totals.
pub fn by_itself(item: &Item<'_>, entry: &Entry, key: &VerifierKey) -> Option<Finding> {
    let broken = alone(item).map(|broken| breach(item, &broken, key));
    broken.or_else(|| binding(item, entry, key))
}

/// Whether an entry is one that `claim` can be about.
pub fn concerns(claim: Claim, entry: &Entry) -> bool {
    let Entry::Known { body, .. } = entry else {
        return false;
    };
    match (claim, body) {
        (Claim::UnboundWallet, Body::Usage(usage)) => {
            usage.wallet.is_some_and(|(_, link)| link == Link::Bound)
        }
        (Claim::BindingIgnored, Body::Usage(usage)) => usage.key_id.is_some(),
        (Claim::BindingInvalid, Body::Binding(_)) | (Claim::TotalsFalse, Body::Totals(_)) => true,
        (Claim::AnchorInvalid, Body::Anchor(_)) => true,
        (Claim::TotalsOverdue, body) => !matches!(body, Body::Totals(_)),
        _ => false,
    }
}

/// `binding_invalid`, by the word of a chain: a contract wallet's signature.
pub fn contract(item: &Item<'_>, why: &str, key: &VerifierKey) -> Finding {
    let message = format!(
        "the binding in entry {} is invalid, as its chain says: {why}",
        item.index
    );
    Finding {
        class: Class::Served,
        ..item.finding(Claim::BindingInvalid, message, key)
    }
}

/// `wallet_proof`: the answer about a wallet does not prove what it must.
pub fn wallet_proof(wallet: Address, wrong: &str, body: &[u8]) -> Finding {
    let message = format!("/api/wallet/{wallet} does not prove its total: {wrong}");
    let material = json!({ "wallet": wallet.to_string(), "answer": String::from_utf8_lossy(body) });
    Finding::new(Claim::WalletProof, Class::Served, message, material)
}

/// The first entries of the log, in order, with the signatures of their receipts.
#[derive(Debug)]
pub struct Before<'a>(Vec<Item<'a>>);

impl<'a> Before<'a> {
    /// Verifies the receipts of the log's first entries.
    pub fn verify(
        entries: impl IntoIterator<Item = (&'a [u8], &'a [u8; 64])>,
        key: &VerifierKey,
    ) -> Self {
        let indexes = (0..).map_while(Index::new);
        let items = indexes
            .zip(entries)
            .map(|(index, (bytes, signature))| Item::verify(index, bytes, signature, key));
        Self(items.collect())
    }

    fn material(&self) -> Value {
        let (mut entries, mut signatures) = (vec![], vec![]);
        for item in &self.0 {
            tile::push_entry(&mut entries, item.bytes);
            signatures.extend_from_slice(item.signature);
        }
        json!({ "entries": STANDARD.encode(entries), "signatures": STANDARD.encode(signatures) })
    }

    /// What `item` breaks after these entries: proven if they are all that
    /// stands before it, or enough of it, and every receipt is genuine.
    pub fn judge(&self, item: &Item<'_>, key: &VerifierKey) -> Vec<Finding> {
        let mut accounts = Accounts::default();
        let mut breaches = vec![];
        for item in self.0.iter().chain([item]) {
            let Ok(entry) = Entry::parse(item.bytes) else {
                return vec![];
            };
            // From an entry of unknown meaning on, nothing is judged.
            if upgrade(item.index, &entry, accounts.rules()).is_some() {
                return vec![];
            }
            if let Entry::Known { time, body } = entry {
                breaches = accounts.take(item.index, item.leaf, time, &body);
            }
        }
        let complete = self.0.len() as u64 == item.index.get();
        // Under the first rules nothing binds, and the log has one contract,
        // wherever the entry stands.
        let first = !self.0.is_empty();
        let unbound = accounts.rules() == Some(RULES_WITHOUT_BINDINGS);
        let signed = item.signed && self.0.iter().all(|item| item.signed);
        let found = breaches.iter().map(|breached| {
            let finding = breach(item, breached, key);
            let enough = first && (unbound || matches!(breached, Breach::Contract { .. }));
            let class = match finding.class {
                Class::Served if signed && (complete || enough) => Class::Proven,
                class => class,
            };
            Finding { class, ..finding }
        });
        found.collect()
    }
}

/// Puts what stands before an entry beside a finding about it, if that proves it.
pub fn proven(
    finding: &Finding,
    before: &Before<'_>,
    item: &Item<'_>,
    key: &VerifierKey,
) -> Option<Finding> {
    let judged = before.judge(item, key);
    let mut shown = judged
        .into_iter()
        .find(|shown| shown.claim == finding.claim && shown.class == Class::Proven)?;
    shown.material.insert("before".into(), before.material());
    Some(shown)
}
