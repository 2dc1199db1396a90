//! Evidence of what an entry follows: fetches what stands before it.
//!
//! Out of scope: what that proves (see [`crate::audit`]).

use protocol::index::{Index, TreeSize};
use protocol::key::VerifierKey;
use protocol::tile::WIDTH;

use crate::audit::{self, Before, Claim, Class, Finding, Item};
use crate::fetch::{Caches, Client, NoAnswer};
use crate::follow::{Findings, RawBundle};

/// The entries that evidence holds at most beside the one it is about.
const MAX_BEFORE: u64 = 16_384;

/// And their bytes.
const MAX_BEFORE_BYTES: usize = 8 << 20;

/// Puts what stands before an entry beside each finding that is about what the
/// entry follows, where that is not too much and the log still serves it.
pub async fn all(client: &Client, key: &VerifierKey, mut findings: Findings) -> Findings {
    for finding in findings.kept_mut() {
        let follows = matches!(
            finding.claim,
            Claim::UnboundWallet
                | Claim::BindingIgnored
                | Claim::BindingInvalid
                | Claim::TotalsFalse
                | Claim::TotalsOverdue
                | Claim::AnchorInvalid
        );
        let index = finding.index.and_then(Index::new);
        if let (Class::Served, true, Some(index)) = (finding.class, follows, index)
            && let Ok(Some(proven)) = one(client, key, finding, index).await
        {
            *finding = proven;
        }
    }
    findings
}

async fn one(
    client: &Client,
    key: &VerifierKey,
    finding: &Finding,
    index: Index,
) -> Result<Option<Finding>, NoAnswer> {
    // Where nothing can bind, and which contract is the log's, entry 0 says
    // for all others.
    let by_first = [Claim::UnboundWallet, Claim::AnchorInvalid].contains(&finding.claim);
    let first_only = by_first && index.get() >= MAX_BEFORE;
    let size = TreeSize::new(index.get() + 1);
    let Some(size) = size.filter(|_| first_only || index.get() < MAX_BEFORE) else {
        return Ok(None);
    };
    let last = index.get() / WIDTH;
    let mut bundles = vec![];
    for n in (0..=last).filter(|n| !first_only || [0, last].contains(n)) {
        bundles.push(RawBundle::fetch(client, n, size, Caches::Past).await?);
    }
    let all = bundles
        .iter()
        .flat_map(|bundle| bundle.entries().into_iter().zip(bundle.signatures()));
    let mut all: Vec<_> = all.collect();
    let Some((bytes, signature)) = all.pop() else {
        return Ok(None);
    };
    if first_only {
        all.truncate(1);
    }
    let len: usize = all.iter().map(|(bytes, _)| bytes.len()).sum();
    if len > MAX_BEFORE_BYTES {
        return Ok(None);
    }
    let before = Before::verify(all, key);
    let item = Item::verify(index, bytes, signature, key);
    Ok(audit::proven(finding, &before, &item, key))
}
