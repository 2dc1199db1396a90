//! Bindings and anchors as the writer decides them: at each entry's own index,
//! after all that stands before it.
//!
//! Out of scope: who may ask for a binding (see [`crate::api`]), and what stands
//! on a chain.

use std::collections::{HashMap, HashSet};

use protocol::anchor::Place;
use protocol::binding::{BindingError, KeyState};
use protocol::entry::Body;
use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::key::Origin;
use protocol::record::{Link, Usage};

use super::pool::Submission;
use crate::ledger::Ledger;

/// Gives usage entries the wallets that their keys are bound to; bindings that
/// are not valid there, and chains that the log has named, come second. To be
/// dropped when the first are durable: who asked then sees why.
pub(super) fn decide(
    ledger: &Ledger,
    origin: &Origin,
    (from, now): (TreeSize, Time),
    batch: Vec<Submission>,
) -> (Vec<Submission>, Vec<Submission>) {
    let mut refused = Vec::new();
    let mut news = HashMap::new();
    let mut chains = HashSet::new();
    let mut kept: Vec<Submission> = Vec::with_capacity(batch.len());
    for mut submission in batch {
        let index = Index::new(from.get() + kept.len() as u64);
        let index = index.expect("a log does not reach 2^53 entries");
        let after = match &mut submission.body {
            Body::Usage(usage) => {
                attribute(ledger, &news, usage);
                None
            }
            body @ Body::Binding(_) => match bound(ledger, origin, &news, (index, now), body) {
                Ok(after) => Some(after),
                Err(error) => {
                    tracing::info!(error = &error as &dyn std::error::Error, "binding refused");
                    refused.push(submission);
                    continue;
                }
            },
            // Several gateways may have seen the contract.
            Body::Anchor(place) if !anchors(ledger, &mut chains, place) => {
                refused.push(submission);
                continue;
            }
            Body::Anchor(_) | Body::Log(_) | Body::Totals(_) => None,
        };
        news.extend(after);
        kept.push(submission);
    }
    (kept, refused)
}

/// Whether the log does not name the chain yet, and its rules know anchors.
fn anchors(ledger: &Ledger, chains: &mut HashSet<u64>, place: &Place) -> bool {
    ledger.binds() && ledger.anchored(place.chain_id).is_none() && chains.insert(place.chain_id)
}

/// Why a binding can't be appended.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not valid.
    #[error(transparent)]
    Rule(#[from] BindingError),
    /// The log's rules know no bindings.
    #[error("this log was begun under rules that know no bindings")]
    Rules,
}

/// The state of the binding's key after it, with which the key is found.
fn bound(
    ledger: &Ledger,
    origin: &Origin,
    news: &HashMap<Hash, KeyState>,
    (index, now): (Index, Time),
    body: &Body,
) -> Result<(Hash, KeyState), Refused> {
    let Body::Binding(binding) = body else {
        return Err(Refused::Rules);
    };
    let known = ledger.genesis().filter(|genesis| genesis.binds);
    let state = news.get(&binding.key_id).copied();
    let state = state.or_else(|| ledger.key(&binding.key_id));
    let state = known.and(state).ok_or(Refused::Rules)?;
    binding.judge(origin, now)?;
    let after = state.take(binding, index, Hash::leaf(&body.encode(now)))?;
    Ok((binding.key_id, after))
}

/// A binding stands before any claim.
fn attribute(ledger: &Ledger, news: &HashMap<Hash, KeyState>, usage: &mut Usage) {
    let state = usage.key_id.and_then(|key_id| {
        let new = news.get(&key_id).copied();
        new.or_else(|| ledger.key(&key_id))
    });
    match state.and_then(|state| state.holding.wallet()) {
        Some(wallet) => usage.wallet = Some((wallet, Link::Bound)),
        // It was bound where another writer could not commit it.
        None => usage.wallet = usage.wallet.filter(|(_, link)| *link == Link::Claimed),
    }
}
