//! What is judged: one function per claim, by subject.
//!
//! Pure: no I/O, no clock, no randomness. A function says what is wrong with
//! what it is given, or nothing. Out of scope: asking a second time before a
//! served finding is believed (see [`crate::pass`] and [`crate::follow`]).

mod aggregate;
mod anchor;
mod entry;
#[cfg(test)]
mod fixtures;
mod history;
mod receipt;
mod wallet;

use std::fmt;

use protocol::index::Index;
use serde_json::{Map, Value};

pub use aggregate::{At, aggregate, misanswered};
pub use anchor::{
    Prefix, Waiting, Where, anchor_contract, anchor_differs, anchor_differs_there, anchor_forked,
    anchor_forked_there, anchor_history, anchor_overdue, anchor_withheld, chain_log,
};
pub use entry::{
    Item, canonical, first_entry, receipt_signature, second_log_entry, time_backwards, upgrade,
};
pub use history::{
    Signed, Unopened, fork, not_empty, overdue, pubkey, rewritten, rollback, root, tile, withheld,
};
pub use receipt::{Held, receipt_foreign_id, receipt_not_held};
pub use wallet::{Before, binding, breach, by_itself, concerns, contract, proven, wallet_proof};

macro_rules! claims {
    ($($(#[$doc:meta])* $claim:ident => $code:literal),+ $(,)?) => {
        /// What can be found. The code is stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Claim { $($(#[$doc])* $claim),+ }

        impl Claim {
            /// Every claim.
            pub const ALL: &[Self] = &[$(Self::$claim),+];

            /// The stable code.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$claim => $code),+ }
            }
        }
    };
}

claims! {
    /// Another key than the pinned one is served, or signed the checkpoint.
    KeyChanged => "key_changed",
    /// Two signed roots for one size.
    Fork => "fork",
    /// A smaller checkpoint than the remembered one, and it stays.
    Rollback => "rollback",
    /// The signed new tree does not contain the signed old one.
    HistoryRewritten => "history_rewritten",
    /// The entries do not open the signed root.
    RootMismatch => "root_mismatch",
    /// A tile is not what the entries give.
    TileMismatch => "tile_mismatch",
    /// An entry is not canonical, or breaks a rule within itself.
    EntryMalformed => "entry_malformed",
    /// A receipt's signature is not the log's over its index and entry.
    ReceiptSignature => "receipt_signature",
    /// Entry 0 is not the log's own.
    FirstEntry => "first_entry",
    /// Another entry than entry 0 is of kind `log`.
    SecondLogEntry => "second_log_entry",
    /// An entry's time is before that of the entry before.
    TimeBackwards => "time_backwards",
    /// Usage counts for a wallet that its key is not bound to.
    UnboundWallet => "unbound_wallet",
    /// Usage does not count for the wallet that its key is bound to.
    BindingIgnored => "binding_ignored",
    /// A binding is against the rules.
    BindingInvalid => "binding_invalid",
    /// A totals entry does not say what the entries before it give.
    TotalsFalse => "totals_false",
    /// An entry stands in no totals for longer than the log promises.
    TotalsOverdue => "totals_overdue",
    /// An anchor entry names another contract, or a chain again.
    AnchorInvalid => "anchor_invalid",
    /// An anchored root is not that of the entries.
    AnchorDiffers => "anchor_differs",
    /// More entries are anchored than the log shows.
    AnchorWithheld => "anchor_withheld",
    /// Entries wait for an anchor for longer than two intervals.
    AnchorOverdue => "anchor_overdue",
    /// The log's contract says something else than before.
    AnchorHistory => "anchor_history",
    /// The log's EVM key signed two roots for one size.
    AnchorForked => "anchor_forked",
    /// What stands in the place of the log's contract is another one.
    AnchorContract => "anchor_contract",
    /// A signed checkpoint of no entries.
    EmptyLog => "empty_log",
    /// The key signed something else than a checkpoint.
    CheckpointMalformed => "checkpoint_malformed",
    /// `/api/stats` is wrong.
    AggregateStats => "aggregate_stats",
    /// `/api/models` is wrong.
    AggregateModels => "aggregate_models",
    /// `/api/leaderboard` is wrong.
    AggregateLeaderboard => "aggregate_leaderboard",
    /// `/api/user` is wrong.
    AggregateUser => "aggregate_user",
    /// `/api/wallet` is wrong.
    AggregateWallet => "aggregate_wallet",
    /// The proof in `/api/wallet` does not prove what it must.
    WalletProof => "wallet_proof",
    /// `/api/chain` is wrong.
    AggregateChain => "aggregate_chain",
    /// No published checkpoint covers what is already answered from.
    CheckpointOverdue => "checkpoint_overdue",
    /// The log does not hold what a receipt promises.
    ReceiptNotHeld => "receipt_not_held",
    /// A receipt's entry commits to another receipt id.
    ReceiptForeignId => "receipt_foreign_id",
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// How far a finding carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Signed statements contradict each other or PROTOCOL.md: anyone can
    /// check them with the log's key alone.
    Proven,
    /// Complete answers that are wrong: anyone can fetch them again.
    Served,
}

impl Class {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Served => "served",
        }
    }
}

/// Misbehaviour, with what shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What was found.
    pub claim: Claim,
    /// Whether it is proven.
    pub class: Class,
    /// The entry it is about, if it is about one.
    pub index: Option<u64>,
    /// One sentence for a person.
    pub message: String,
    /// What shows it, as PROTOCOL.md section 11.1 lists it.
    pub material: Map<String, Value>,
}

impl Finding {
    pub(crate) fn new(claim: Claim, class: Class, message: String, material: Value) -> Self {
        let material = match material {
            Value::Object(material) => material,
            other => Map::from_iter([("value".into(), other)]),
        };
        Self {
            claim,
            class,
            index: None,
            message,
            material,
        }
    }

    pub(crate) fn at(self, index: Index) -> Self {
        Self {
            index: Some(index.get()),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable_and_different() {
        let codes: std::collections::BTreeSet<_> = Claim::ALL.iter().map(|c| c.code()).collect();
        assert_eq!(codes.len(), Claim::ALL.len());
        assert!(
            Claim::ALL
                .iter()
                .all(|claim| claim.to_string() == claim.code())
        );
        assert_eq!(
            (Class::Proven.word(), Class::Served.word()),
            ("proven", "served")
        );
    }
}
