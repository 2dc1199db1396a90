//! Single entries, with their receipts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::entry::{Body, Entry, RULES, RULES_WITHOUT_BINDINGS};
use protocol::hash::Hash;
use protocol::index::{Index, Time};
use protocol::key::VerifierKey;
use protocol::receipt::Receipt;
use serde_json::{Value, json};

use super::{Claim, Class, Finding};
use crate::rebuild;

/// An entry as it was served, with its receipt.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    pub(super) index: Index,
    pub(super) bytes: &'a [u8],
    pub(super) signature: &'a [u8; 64],
    pub(super) leaf: Hash,
    pub(super) signed: bool,
}

impl<'a> Item<'a> {
    /// Hashes the entry and verifies its receipt's signature.
    pub fn verify(
        index: Index,
        bytes: &'a [u8],
        signature: &'a [u8; 64],
        key: &VerifierKey,
    ) -> Self {
        let leaf = rebuild::leaf_hash(bytes);
        let signed = Receipt::new(key.origin().clone(), index, leaf).signed_by(key, signature);
        Self {
            index,
            bytes,
            signature,
            leaf,
            signed,
        }
    }

    /// Takes up one that was verified before.
    pub fn again(index: Index, bytes: &'a [u8], signature: &'a [u8; 64], signed: bool) -> Self {
        Self {
            index,
            bytes,
            signature,
            leaf: rebuild::leaf_hash(bytes),
            signed,
        }
    }

    /// The entry's leaf hash.
    pub fn leaf(&self) -> Hash {
        self.leaf
    }

    /// Whether the receipt's signature is the log's.
    pub fn signed(&self) -> bool {
        self.signed
    }

    /// What shows the entry: with a genuine receipt, the log signed it.
    pub(super) fn material(&self, key: &VerifierKey) -> Value {
        let receipt = Receipt::new(key.origin().clone(), self.index, self.leaf);
        json!({
            "index": self.index.get(),
            "entry": STANDARD.encode(self.bytes),
            "receipt": receipt.note(key, self.signature),
        })
    }

    pub(super) fn finding(&self, claim: Claim, message: String, key: &VerifierKey) -> Finding {
        let class = if self.signed {
            Class::Proven
        } else {
            Class::Served
        };
        let material = json!({ "entries": [self.material(key)] });
        Finding::new(claim, class, message, material).at(self.index)
    }
}

/// `receipt_signature`: the receipt's signature is not the log's.
pub fn receipt_signature(item: &Item<'_>, key: &VerifierKey) -> Option<Finding> {
    (!item.signed).then(|| {
        let message = format!(
            "the receipt signature of entry {} is not the log's over this index and entry",
            item.index
        );
        item.finding(Claim::ReceiptSignature, message, key)
    })
}

/// `entry_malformed`: the entry is not canonical or breaks a rule within itself.
///
/// # Errors
/// The finding.
pub fn canonical(item: &Item<'_>, key: &VerifierKey) -> Result<Entry, Box<Finding>> {
    Entry::parse(item.bytes).map_err(|error| {
        let message = format!("entry {} is against PROTOCOL.md: {error}", item.index);
        Box::new(item.finding(Claim::EntryMalformed, message, key))
    })
}

/// `first_entry`: entry 0 is not of kind `log`, or names another key.
pub fn first_entry(item: &Item<'_>, entry: &Entry, key: &VerifierKey) -> Option<Finding> {
    if item.index.get() != 0 {
        return None;
    }
    let wrong = match entry {
        Entry::Known {
            body: Body::Log(log),
            ..
        } if log.key == *key => return None,
        Entry::Known {
            body: Body::Log(log),
            ..
        } => {
            format!("entry 0 names the key {}, pinned is {key}", log.key)
        }
        // A later version of the log's own entry may name its key otherwise.
        Entry::Unknown { kind, .. } if kind == "log" => return None,
        Entry::Unknown { kind, .. } => format!("entry 0 is of kind {kind:?}, expected \"log\""),
        Entry::Known { body, .. } => {
            format!("entry 0 is of kind {:?}, expected \"log\"", kind(body))
        }
    };
    Some(item.finding(Claim::FirstEntry, wrong, key))
}

/// `second_log_entry`: an entry of kind `log` after entry 0.
pub fn second_log_entry(item: &Item<'_>, entry: &Entry, key: &VerifierKey) -> Option<Finding> {
    let log = matches!(
        entry,
        Entry::Known {
            body: Body::Log(_),
            ..
        }
    );
    (log && item.index.get() > 0).then(|| {
        let message = format!(
            "entry {} is of kind \"log\", as only entry 0 may be",
            item.index
        );
        item.finding(Claim::SecondLogEntry, message, key)
    })
}

/// `time_backwards`: an entry's time is before that of the entry before.
pub fn time_backwards(
    (before, earlier): (&Item<'_>, Time),
    (item, time): (&Item<'_>, Time),
    key: &VerifierKey,
) -> Option<Finding> {
    (time < earlier).then(|| {
        let message = format!(
            "time goes backwards: entry {} is of {earlier}, entry {} of {time}",
            before.index, item.index
        );
        let both = before.signed && item.signed;
        let class = if both { Class::Proven } else { Class::Served };
        let material = json!({ "entries": [before.material(key), item.material(key)] });
        Finding::new(Claim::TimeBackwards, class, message, material).at(item.index)
    })
}

/// Why this program must be upgraded before it can judge aggregates from this
/// entry on; `None` where it can. `rules` are those that entry 0 names.
pub fn upgrade(index: Index, entry: &Entry, rules: Option<u64>) -> Option<String> {
    match entry {
        Entry::Unknown { version, kind, .. } => Some(format!(
            "entry {index} is of kind {kind:?} version {version}"
        )),
        Entry::Known {
            body: Body::Log(log),
            ..
        } if ![RULES, RULES_WITHOUT_BINDINGS].contains(&log.rules) => {
            Some(format!("entry {index} names rules version {}", log.rules))
        }
        Entry::Known {
            body: body @ (Body::Binding(_) | Body::Totals(_) | Body::Anchor(_)),
            ..
        } if rules != Some(RULES) => Some(format!(
            "entry {index} is of kind {:?}, which the log's rules do not know",
            kind(body)
        )),
        Entry::Known { .. } => None,
    }
}

fn kind(body: &Body) -> &'static str {
    match body {
        Body::Log(_) => "log",
        Body::Usage(_) => "usage",
        Body::Binding(_) => "binding",
        Body::Totals(_) => "totals",
        Body::Anchor(_) => "anchor",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::fixtures::*;
    use protocol::record::Source;

    #[test]
    fn entries_and_receipts_are_judged_one_by_one() {
        let key = key();
        let call = Body::Usage(usage(1, Source::Proxy, None, 5));
        let own = log(&signer(), RULES);
        let good = Made::of(3, &call);
        assert!(good.item().signed());
        assert_eq!(good.item().leaf(), rebuild::leaf_hash(&good.1));
        assert_eq!(receipt_signature(&good.item(), &key), None);
        let elsewhere = Item::verify(index(4), &good.1, &good.2, &key);
        for bad in [&elsewhere, &Made::of(3, &call).unsigned().item()] {
            let found = claim(receipt_signature(bad, &key));
            assert_eq!(found, Some((Claim::ReceiptSignature, Class::Served)));
        }
        let again = Item::again(good.0, &good.1, &good.2, true);
        assert_eq!((again.leaf(), again.signed()), (good.item().leaf(), true));
        assert!(!elsewhere.signed());

        // The evidence shows the entry with a receipt that opens under the key.
        let shown = good.item().material(&key);
        assert_eq!(shown["index"], 3);
        assert_eq!(shown["entry"], STANDARD.encode(&good.1));
        let receipt = shown["receipt"].as_str().expect("a note");
        let opened = Receipt::open(receipt.as_bytes(), &key).expect("genuine");
        assert_eq!(
            (opened.index(), opened.leaf_hash()),
            (good.0, good.item().leaf())
        );

        let malformed = Made::new(3, b"{}");
        let finding = canonical(&malformed.item(), &key).expect_err("not canonical");
        assert_eq!(
            (finding.claim, finding.class),
            (Claim::EntryMalformed, Class::Proven)
        );
        assert_eq!(finding.index, Some(3));
        let finding = canonical(&malformed.unsigned().item(), &key).expect_err("not canonical");
        assert_eq!(finding.class, Class::Served);

        let unknown = |kind: &str| format!(r#"{{"v":2,"kind":"{kind}","time":7}}"#).into_bytes();
        let first = Some((Claim::FirstEntry, Class::Proven));
        let second = Some((Claim::SecondLogEntry, Class::Proven));
        for (name, made, expected) in [
            ("own entry 0", Made::of(0, &own), (None, None)),
            (
                "another key's",
                Made::of(0, &log(&stranger(), RULES)),
                (first, None),
            ),
            ("a call", Made::of(0, &call), (first, None)),
            (
                "a later log entry",
                Made::new(0, &unknown("log")),
                (None, None),
            ),
            (
                "a later kind",
                Made::new(0, &unknown("later")),
                (first, None),
            ),
            ("a call later", Made::of(1, &call), (None, None)),
            ("a second", Made::of(1, &own), (None, second)),
            (
                "a later second",
                Made::new(1, &unknown("log")),
                (None, None),
            ),
        ] {
            let (item, entry) = (made.item(), made.entry());
            let found = (
                first_entry(&item, &entry, &key),
                second_log_entry(&item, &entry, &key),
            );
            assert_eq!((claim(found.0), claim(found.1)), expected, "{name}");
        }
        for (name, made, judged) in [
            ("known rules", Made::of(0, &own), true),
            (
                "unknown rules",
                Made::of(0, &log(&signer(), RULES + 1)),
                false,
            ),
            ("a call", Made::of(1, &call), true),
            ("an unknown kind", Made::new(1, &unknown("later")), false),
        ] {
            let found = upgrade(made.0, &made.entry(), None);
            assert_eq!(found.is_none(), judged, "{name}");
        }
    }

    #[test]
    fn times_do_not_decrease() {
        let key = key();
        let [a, b] = [Made::new(1, b"a"), Made::new(2, b"b")];
        let judge = |a: &Made, b: &Made, earlier, later| {
            let (before, this) = ((&a.item(), time(earlier)), (&b.item(), time(later)));
            claim(time_backwards(before, this, &key))
        };
        assert_eq!(judge(&a, &b, 5, 5), None);
        assert_eq!(judge(&a, &b, 5, 6), None);
        assert_eq!(
            judge(&a, &b, 5, 4),
            Some((Claim::TimeBackwards, Class::Proven))
        );
        let served = Some((Claim::TimeBackwards, Class::Served));
        assert_eq!(judge(&a, &Made::new(2, b"b").unsigned(), 5, 4), served);
        assert_eq!(judge(&Made::new(1, b"a").unsigned(), &b, 5, 4), served);
    }
}
