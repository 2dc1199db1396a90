//! What is newer than a wallet's proven totals: records that the totals leave
//! out, each with its inclusion proof (PROTOCOL.md section 4.5).
//!
//! Each of them is proven; that there are no others is only held against the
//! log's own sums. Out of scope: the totals themselves (see [`crate::light`]).

use std::collections::BTreeMap;

use protocol::entry::{Body, Entry};
use protocol::key::VerifierKey;
use protocol::name::Address;
use protocol::receipt::Receipt;
use protocol::record::{Link, Source, Usage};

use crate::answer::{NewerRecord, WalletRecords};
use crate::audit::Signed;
use crate::light::{self, Refused, need};
use crate::rebuild::leaf_hash;
use crate::sums::Sum;

/// Records asked for at once: an answer of them fits an evidence file.
pub const LIMIT: usize = 250;

/// The longest answer that is read: an entry, a receipt and a path each.
pub const MAX_BYTES: usize = LIMIT * 8_192;

/// A wallet's proven records from an index on.
#[derive(Clone, Debug)]
pub struct Newer {
    wallet: Address,
    /// The next one is not below it.
    from: u64,
    /// Those of a lower index are held against the log's own sums.
    within: u64,
    /// Until when all were listed, by the log's word.
    through: u64,
    sums: BTreeMap<Source, Sum>,
    sums_within: BTreeMap<Source, Sum>,
    more: bool,
}

impl Newer {
    /// Nothing of `wallet` yet, of which what stands from `from` on is newer,
    /// and what stands below `within` is in the log's own sums.
    pub fn new(wallet: Address, from: u64, within: u64) -> Self {
        Self {
            wallet,
            from,
            within,
            through: 0,
            sums: BTreeMap::new(),
            sums_within: BTreeMap::new(),
            more: true,
        }
    }

    /// Where the next part is, without the leading slash; `None` once it is
    /// all there.
    pub fn path(&self) -> Option<String> {
        // Totals are over one entry at least.
        let after = self.from.saturating_sub(1);
        let wallet = self.wallet;
        let path = format!("api/wallet/{wallet}/records?after={after}&limit={LIMIT}&proof=1");
        self.more.then_some(path)
    }

    /// Takes the next part, under a checkpoint that is given back.
    ///
    /// # Errors
    /// What is wrong with it, or why it can't be judged.
    pub fn take(&mut self, part: &WalletRecords, key: &VerifierKey) -> Result<Signed, Refused> {
        let signed = light::open(&part.checkpoint, key)?;
        for record in &part.records {
            let usage = self.read(record, &signed, key)?;
            let sum = Sum::of(&usage);
            self.sums.entry(usage.source).or_default().add(&sum);
            if record.proven.index < self.within {
                let within = self.sums_within.entry(usage.source).or_default();
                within.add(&sum);
            }
            self.from = record.proven.index + 1;
        }
        let last = part.records.last().map(|record| record.proven.index);
        need(part.next.is_none() || part.next == last, || {
            "its next part begins elsewhere than after its last record".into()
        })?;
        self.more = part.next.is_some();
        self.through = signed.size();
        Ok(signed)
    }

    fn read(
        &self,
        record: &NewerRecord,
        signed: &Signed,
        key: &VerifierKey,
    ) -> Result<Usage, Refused> {
        let (proven, wallet) = (&record.proven, self.wallet);
        let index = proven.index;
        need(index >= self.from, || {
            let from = self.from;
            format!("entry {index} is listed where one from {from} on is asked for")
        })?;
        let entry = light::read(proven, signed)?;
        let receipt = Receipt::open(record.receipt.as_bytes(), key);
        let leaf = leaf_hash(proven.entry.as_bytes());
        let genuine = receipt.is_ok_and(|r| r.index().get() == index && r.leaf_hash() == leaf);
        need(genuine, || {
            format!("the receipt of entry {index} is not genuine")
        })?;
        match entry {
            Entry::Known {
                body: Body::Usage(usage),
                ..
            } if usage.wallet == Some((wallet, Link::Bound)) => Ok(usage),
            Entry::Unknown { kind, version, .. } => Err(Refused::Unjudged(format!(
                "entry {index} is of kind {kind:?}, version {version}, which a newer sentinel may \
                 know"
            ))),
            Entry::Known { .. } => Err(Refused::Wrong(format!(
                "entry {index} does not count for the wallet"
            ))),
        }
    }

    /// Whether the log's own sums are covered.
    pub fn covers(&self) -> bool {
        self.through >= self.within
    }

    /// The size of the checkpoint that the last of it is under.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// Their sums, by source.
    pub fn sums(&self) -> impl Iterator<Item = (Source, &Sum)> {
        self.sums.iter().map(|(source, sum)| (*source, sum))
    }

    /// The sums of those that the log's own are over.
    pub fn within(&self, source: Source) -> Sum {
        self.sums_within.get(&source).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::checkpoint::Checkpoint;
    use protocol::hash::Hash;
    use protocol::index::{Index, Time, TreeSize};
    use protocol::key::{Origin, Signer};
    use protocol::name::Name;
    use protocol::record::{Counts, Outcome};

    use crate::answer::ProvenEntry;
    use crate::rebuild::node_hash;

    fn signer() -> Signer {
        let origin = Origin::parse("log.example.org").expect("valid");
        Signer::new(origin, &[1; 32])
    }

    fn usage(wallet: u8, link: Link) -> Body {
        Body::Usage(Usage {
            receipt: Hash::of(b"receipt"),
            key_id: Some(Hash::of(b"key")),
            wallet: Some((Address::from_bytes([wallet; 20]), link)),
            source: Source::Proxy,
            provider: Name::new("openai").expect("a name"),
            model: None,
            counts: Counts {
                input: Some(5),
                output: Some(2),
                ..Counts::NONE
            },
            outcome: Outcome::Complete,
            inconsistent: false,
            response: None,
        })
    }

    /// A log of two entries, both of which are listed.
    fn listed(bodies: [Body; 2]) -> WalletRecords {
        let signer = signer();
        let (key, time) = (signer.verifier(), Time::from_secs(9).expect("small"));
        let entries = bodies.map(|body| body.encode(time));
        let leaves = entries.each_ref().map(|entry| leaf_hash(entry));
        let origin = key.origin().clone();
        let size = TreeSize::new(2).expect("small");
        let root = node_hash(&leaves[0], &leaves[1]);
        let checkpoint = Checkpoint::new(origin.clone(), size, root).seal(&signer);
        let record = |(index, entry): (u64, &Vec<u8>)| {
            let at = usize::try_from(index).expect("small");
            let place = Index::new(index).expect("small");
            let receipt = Receipt::new(origin.clone(), place, leaves[at]);
            let proven = ProvenEntry {
                index,
                entry: String::from_utf8(entry.clone()).expect("ASCII"),
                hashes: vec![leaves[1 - at].to_base64()],
            };
            let receipt = receipt.note(key, &receipt.sign(&signer));
            NewerRecord { proven, receipt }
        };
        WalletRecords {
            checkpoint,
            records: (0..).zip(&entries).map(record).collect(),
            next: None,
        }
    }

    #[test]
    fn only_proven_records_of_the_wallet_are_added_up() {
        let (key, wallet) = (signer().verifier().clone(), Address::from_bytes([7; 20]));
        let good = || listed([usage(7, Link::Bound), usage(7, Link::Bound)]);
        let mut newer = Newer::new(wallet, 0, 1);
        newer.take(&good(), &key).expect("it holds");
        let sums: Vec<_> = newer
            .sums()
            .map(|(_, sum)| (sum.records, sum.total()))
            .collect();
        assert_eq!(
            (sums, newer.within(Source::Proxy).records),
            (vec![(2, 14)], 1)
        );
        assert!(newer.covers() && newer.path().is_none());

        let check = |what: &str, from: u64, part: WalletRecords| {
            let taken = Newer::new(wallet, from, 1).take(&part, &key);
            assert!(matches!(taken, Err(Refused::Wrong(_))), "{what}: {taken:?}");
        };
        check("one that the totals hold", 1, good());
        let claimed = listed([usage(7, Link::Bound), usage(7, Link::Claimed)]);
        check("a claimed one", 0, claimed);
        let foreign = listed([usage(7, Link::Bound), usage(8, Link::Bound)]);
        check("another wallet's", 0, foreign);
        let bent = |change: fn(&mut WalletRecords)| {
            let mut part = good();
            change(&mut part);
            part
        };
        check(
            "one twice",
            0,
            bent(|part| part.records[1] = part.records[0].clone()),
        );
        check("unsorted", 0, bent(|part| part.records.reverse()));
        check(
            "a raised count",
            0,
            bent(|part| {
                let entry = &mut part.records[0].proven.entry;
                *entry = entry.replace(r#""input":5"#, r#""input":6"#);
            }),
        );
        check(
            "without its path",
            0,
            bent(|part| part.records[0].proven.hashes.clear()),
        );
        check(
            "another's receipt",
            0,
            bent(|part| {
                part.records[0].receipt = part.records[1].receipt.clone();
            }),
        );
        check(
            "a part that goes nowhere",
            0,
            bent(|part| part.next = Some(9)),
        );
        let other = Signer::new(key.origin().clone(), &[2; 32]);
        let taken = Newer::new(wallet, 0, 1).take(&good(), other.verifier());
        assert!(matches!(taken, Err(Refused::Checkpoint(_))), "{taken:?}");
    }
}
