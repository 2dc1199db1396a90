//! Receipts, against what the log holds.

use protocol::hash::Hash;
use protocol::receipt::Receipt;
use protocol::record::Usage;
use serde_json::{Value, json};

use super::{Claim, Class, Finding, Signed};
use crate::rebuild;

/// A receipt's entry in the log, as it was found there.
#[derive(Debug)]
pub struct Held<'a> {
    /// The checkpoint that it was looked up under.
    pub checkpoint: &'a Signed,
    /// The leaf hash at the receipt's index.
    pub leaf: Hash,
    /// Its audit path to the checkpoint's root.
    pub path: &'a [Hash],
}

/// `receipt_not_held`: another entry stands at the index that the receipt
/// promises, or the log ends before it (`held` is `None`).
pub fn receipt_not_held(
    receipt: &Receipt,
    note: &str,
    newest: &Signed,
    held: Option<&Held<'_>>,
) -> Option<Finding> {
    let (index, leaf) = (receipt.index(), receipt.leaf_hash());
    let Some(held) = held else {
        return (newest.size() <= index.get()).then(|| {
            let message = format!(
                "the log signed a receipt for entry {index}, but its checkpoint is of size {}",
                newest.size()
            );
            let material = json!({ "receipt": note, "checkpoint": newest.note() });
            Finding::new(Claim::ReceiptNotHeld, Class::Served, message, material).at(index)
        });
    };
    let tree = (held.checkpoint.size(), held.checkpoint.root());
    let shown = rebuild::included(held.leaf, index.get(), tree, held.path);
    (held.leaf != leaf).then(|| {
        let message = format!(
            "the log signed a receipt for entry {index} with leaf hash {leaf}, but holds {} there",
            held.leaf
        );
        let class = if shown { Class::Proven } else { Class::Served };
        let material = json!({
            "receipt": note,
            "checkpoint": held.checkpoint.note(),
            "leaf_hash": held.leaf.to_base64(),
            "path": held.path.iter().map(|hash| hash.to_base64()).collect::<Vec<_>>(),
        });
        Finding::new(Claim::ReceiptNotHeld, class, message, material).at(index)
    })
}

/// `receipt_foreign_id`: the receipt's entry commits to another id, so that
/// one record would answer two calls.
pub fn receipt_foreign_id(
    receipt: &Receipt,
    usage: &Usage,
    commitment: Hash,
    file: &Value,
) -> Option<Finding> {
    (usage.receipt != commitment).then(|| {
        let message = format!(
            "entry {} does not commit to this receipt id, but to {}: it is another call's record",
            receipt.index(),
            usage.receipt
        );
        let material = json!({ "file": file });
        Finding::new(Claim::ReceiptForeignId, Class::Served, message, material).at(receipt.index())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::fixtures::*;
    use protocol::record::Source;

    #[test]
    fn receipts_are_held_or_not() {
        let made = Made::new(1, b"mine");
        let (mine, other) = (made.item().leaf(), hash(6));
        let receipt = Receipt::new(key().origin().clone(), made.0, mine);
        let judge = |newest: &Signed, held: Option<&Held<'_>>| {
            claim(receipt_not_held(&receipt, "note", newest, held))
        };
        let short = signed(1, hash(1));
        let missing = Some((Claim::ReceiptNotHeld, Class::Served));
        assert_eq!(judge(&short, None), missing);
        assert_eq!(judge(&signed(2, hash(1)), None), None);
        for (leaf, root_of, expected) in [
            (mine, mine, None),
            (other, other, Some((Claim::ReceiptNotHeld, Class::Proven))),
            (other, mine, Some((Claim::ReceiptNotHeld, Class::Served))),
        ] {
            let newest = signed(2, rebuild::node_hash(&hash(1), &root_of));
            let held = Held {
                checkpoint: &newest,
                leaf,
                path: &[hash(1)],
            };
            assert_eq!(judge(&newest, Some(&held)), expected);
        }
        let usage = usage(1, Source::Proxy, None, 5);
        assert_eq!(
            receipt_foreign_id(&receipt, &usage, usage.receipt, &Value::Null),
            None
        );
        let foreign = claim(receipt_foreign_id(&receipt, &usage, other, &Value::Null));
        assert_eq!(foreign, Some((Claim::ReceiptForeignId, Class::Served)));
    }
}
