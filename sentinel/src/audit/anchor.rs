//! Anchors: what a log's contract keeps, against what the log shows.
//!
//! What only a chain says is served: anyone can ask it again. A root that the
//! log's EVM key signed, which entry 0 names, proves by itself.

use protocol::anchor::ChainLog;
use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::key::VerifierKey;
use protocol::name::Address;
use serde_json::{Value, json};

use super::{Claim, Class, Finding, Item, Signed};
use crate::chain::contract::{Anchor, Emitted, Statement};
use crate::chain::explorer;
use crate::chain::panel::Block;
use crate::rebuild;

/// Where something stands: a contract on a chain, as of a block.
#[derive(Clone, Copy, Debug)]
pub struct Where {
    /// The chain's id.
    pub chain_id: u64,
    /// The contract.
    pub contract: Address,
    /// As of this block.
    pub block: Block,
}

impl Where {
    fn material(&self) -> Value {
        json!({
            "chain_id": self.chain_id,
            "contract": self.contract.to_string(),
            "block": self.block.number,
            "block_hash": format!("0x{}", self.block.hash),
        })
    }

    /// A finding, with where its anchor stands beside what proves it.
    pub fn beside(&self, mut finding: Finding, anchor: &Anchor, emitted: &Emitted) -> Finding {
        let material = &mut finding.material;
        material.insert("chain".into(), self.material());
        material.insert("anchor".into(), anchor_material(anchor, Some(emitted)));
        finding
    }

    fn finding(&self, claim: Claim, what: &str, mut material: Value) -> Finding {
        let chain = explorer::name(self.chain_id);
        let message = format!("contract {} on {chain}: {what}", self.contract);
        material["chain"] = self.material();
        Finding::new(claim, Class::Served, message, material)
    }
}

fn anchor_material(anchor: &Anchor, emitted: Option<&Emitted>) -> Value {
    let mut material = json!({
        "index": anchor.index, "size": anchor.size, "root": format!("0x{}", anchor.root),
        "time": anchor.time, "block_time": anchor.block_time,
    });
    if let Some(emitted) = emitted {
        material["block"] = emitted.block.into();
        material["transaction"] = format!("0x{}", emitted.transaction).into();
    }
    material
}

/// The log as chains know it, from its entry 0; `None` where that is not the
/// log's own.
pub fn chain_log(first: &Item<'_>, key: &VerifierKey) -> Option<ChainLog> {
    match Entry::parse(first.bytes) {
        Ok(Entry::Known {
            body: Body::Log(log),
            ..
        }) if first.index.get() == 0 && log.key == *key => Some(ChainLog::new(key, log.evm_key)),
        _ => None,
    }
}

/// The first entries of the log, as `newest` signs them.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<'a> {
    /// A checkpoint.
    pub newest: &'a Signed,
    /// The root of so many entries as are anchored.
    pub root: Hash,
    /// The consistency proof from there to `newest`.
    pub proof: &'a [Hash],
}

/// `anchor_differs`: the first entries have another root than the anchored one.
/// Proven by the statement that the log's EVM key signed.
pub fn anchor_differs(
    first: &Item<'_>,
    statement: &Statement,
    prefix: Prefix<'_>,
    key: &VerifierKey,
) -> Option<Finding> {
    let (size, newest) = (statement.size, prefix.newest);
    let tree = (newest.size(), newest.root());
    let shown = rebuild::consistent((size, prefix.root), tree, prefix.proof);
    if !shown || prefix.root == statement.root {
        return None;
    }
    let log = chain_log(first, key)?;
    let message = format!(
        "the log's EVM key signed the root {} for its first {size} entries, to be anchored; the \
         checkpoint of size {} gives {} for them",
        statement.root,
        newest.size(),
        prefix.root
    );
    let class = if first.signed && statement.signed_by(&log) {
        Class::Proven
    } else {
        Class::Served
    };
    let mut material = prefix_material(&prefix);
    material["entries"] = json!([first.material(key)]);
    material["statement"] = statement.json();
    Some(Finding::new(Claim::AnchorDiffers, class, message, material))
}

/// The same by the word of a chain alone.
pub fn anchor_differs_there(
    there: &Where,
    (anchor, emitted): (&Anchor, &Emitted),
    prefix: Prefix<'_>,
) -> Finding {
    let mut material = prefix_material(&prefix);
    material["anchor"] = anchor_material(anchor, Some(emitted));
    let what = format!(
        "anchor {} says the root {} of the first {} entries; the checkpoint of size {} gives {} \
         for them",
        anchor.index,
        anchor.root,
        anchor.size,
        prefix.newest.size(),
        prefix.root
    );
    there.finding(Claim::AnchorDiffers, &what, material)
}

fn prefix_material(prefix: &Prefix<'_>) -> Value {
    json!({
        "checkpoint": prefix.newest.note(),
        "prefix_root": prefix.root.to_base64(),
        "proof": prefix.proof.iter().map(|hash| hash.to_base64()).collect::<Vec<_>>(),
    })
}

/// `anchor_forked`: the log's EVM key signed two roots for one size.
pub fn anchor_forked(
    first: &Item<'_>,
    [one, other]: [&Statement; 2],
    key: &VerifierKey,
) -> Option<Finding> {
    let log = chain_log(first, key)?;
    let both = first.signed && one.signed_by(&log) && other.signed_by(&log);
    (both && one.size == other.size && one.root != other.root).then(|| {
        let message = format!(
            "the log's EVM key signed two roots for size {}: {} and {}",
            one.size, one.root, other.root
        );
        let material = json!({
            "entries": [first.material(key)], "statements": [one.json(), other.json()],
        });
        Finding::new(Claim::AnchorForked, Class::Proven, message, material)
    })
}

/// The same by the word of a chain alone.
pub fn anchor_forked_there(there: &Where) -> Finding {
    let what = "it is marked as forked: the log signed two roots for one size";
    there.finding(Claim::AnchorForked, what, json!({}))
}

/// `anchor_withheld`: more entries are anchored than the log shows.
pub fn anchor_withheld(
    there: &Where,
    (anchor, emitted): (&Anchor, &Emitted),
    newest: &Signed,
    patience_secs: u64,
) -> Option<Finding> {
    (newest.size() < anchor.size).then(|| {
        let what = format!(
            "anchor {} is over {} entries, but the log's newest checkpoint after {patience_secs} s \
             is of size {}",
            anchor.index,
            anchor.size,
            newest.size()
        );
        let material =
            json!({ "newest": newest.note(), "anchor": anchor_material(anchor, Some(emitted)) });
        there.finding(Claim::AnchorWithheld, &what, material)
    })
}

/// `anchor_history`: what the contract said before it says no more.
pub fn anchor_history(there: &Where, before: &Anchor, now: Option<&Anchor>) -> Option<Finding> {
    (now != Some(before)).then(|| {
        let says = now.map_or("it has no such anchor".to_owned(), |now| {
            format!("it says size {} and root {}", now.size, now.root)
        });
        let what = format!(
            "its history was changed: anchor {} was of size {} and root {}, now {says}",
            before.index, before.size, before.root
        );
        let material = json!({
            "before": anchor_material(before, None),
            "now": now.map(|now| anchor_material(now, None)),
        });
        there.finding(Claim::AnchorHistory, &what, material)
    })
}

/// `anchor_contract`: what stands there is not this log's contract.
pub fn anchor_contract(there: &Where, why: &str) -> Finding {
    let what = format!("it is not this log's: {why}");
    there.finding(Claim::AnchorContract, &what, json!({}))
}

/// An entry that is to be anchored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Where it stands.
    pub index: u64,
    /// Since when it waits, in seconds since 1970.
    pub since: u64,
}

/// `anchor_overdue`: an entry waits longer than two intervals, by the time of
/// the block that the contract was read at.
pub fn anchor_overdue(
    there: &Where,
    (count, size): (u64, u64),
    waiting: &Waiting,
    interval_secs: u64,
) -> Option<Finding> {
    let until = waiting
        .since
        .saturating_add(interval_secs.saturating_mul(2));
    (until < there.block.time).then(|| {
        let what = format!(
            "no anchor covers entry {}, which waits since {}, though the chain's final block is of \
             {} and one is expected every {interval_secs} s; {count} anchors cover {size} entries",
            waiting.index, waiting.since, there.block.time
        );
        let material = json!({
            "index": waiting.index, "since": waiting.since, "interval": interval_secs,
            "block_time": there.block.time, "count": count, "size": size,
        });
        there.finding(Claim::AnchorOverdue, &what, material)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::fixtures::*;

    fn there(time: u64) -> Where {
        Where {
            chain_id: 8_453,
            contract: Address::from_bytes([7; 20]),
            block: Block {
                number: 12,
                hash: hash(3),
                time,
            },
        }
    }

    fn anchor(size: u64, root: Hash) -> Anchor {
        Anchor {
            index: 1,
            size,
            root,
            time: 5,
            block_time: 6,
        }
    }

    #[test]
    fn what_is_anchored_is_shown() {
        let emitted = Emitted {
            block: 9,
            transaction: hash(8),
        };
        for (size, expected) in [
            (4, None),
            (5, None),
            (6, Some((Claim::AnchorWithheld, Class::Served))),
        ] {
            let anchor = anchor(size, hash(1));
            let found = anchor_withheld(&there(7), (&anchor, &emitted), &signed(5, hash(1)), 15);
            assert_eq!(claim(found), expected, "{size}");
        }
    }

    #[test]
    fn history_stays_as_it_was() {
        let before = anchor(5, hash(1));
        let changed = Some((Claim::AnchorHistory, Class::Served));
        for (now, expected) in [
            (Some(before), None),
            (Some(anchor(5, hash(2))), changed),
            (Some(anchor(6, hash(1))), changed),
            (None, changed),
        ] {
            let found = claim(anchor_history(&there(7), &before, now.as_ref()));
            assert_eq!(found, expected, "{now:?}");
        }
    }

    #[test]
    fn an_entry_may_wait_for_two_intervals() {
        let waiting = Waiting {
            index: 3,
            since: 100,
        };
        for (time, interval, late) in [
            (300, 100, false),
            (301, 100, true),
            (50, 100, false),
            (u64::MAX, u64::MAX, false),
        ] {
            let found = anchor_overdue(&there(time), (0, 0), &waiting, interval);
            assert_eq!(found.is_some(), late, "{time}");
            let message = found.map(|finding| finding.message).unwrap_or_default();
            let says = "on Base (chain 8453): no anchor covers entry 3,";
            assert_eq!(message.contains(says), late, "{message}");
        }
    }
}
