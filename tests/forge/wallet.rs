//! A log of bound keys and totals, in the forger's hands; the totals tree and
//! a wallet's proof by plain loops.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use k256::ecdsa::SigningKey;
use protocol::anchor::ChainLog;
use protocol::binding::{Action, Binding, Consent};
use protocol::consent::{Message, Role, Signature, Terms, recover};
use protocol::entry::{Body, Entry, Log as LogBody};
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::name::Address;
use protocol::record::Link;
use protocol::totals::Totals;
use serde_json::{Value, json};

use super::api::record;
use super::log::{Log, call, now, signer, tree_head, user};

/// Seconds between totals entries in these logs.
pub(crate) const INTERVAL: u64 = 600;

/// Every how many entries one is of kind totals.
const EVERY: usize = 20;

/// The entry that releases the key of user 2.
pub(crate) const RELEASED: usize = 50;

/// The address of these logs' EVM key.
const EVM_KEY: Address = Address::from_bytes([0xe0; 20]);

/// A wallet whose key the forger holds: 1 and up.
pub(crate) struct Purse(SigningKey);

impl Purse {
    pub(crate) fn new(n: u8) -> Self {
        Self(SigningKey::from_slice(&[n; 32]).expect("a secret"))
    }

    pub(crate) fn address(&self) -> Address {
        let digest = [1; 32];
        recover(digest, &self.sign(digest)).expect("own signature")
    }

    pub(crate) fn sign(&self, digest: [u8; 32]) -> [u8; 65] {
        let signed = self.0.sign_prehash_recoverable(&digest);
        let (signature, recovery) = signed.expect("a digest of 32 bytes");
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&signature.to_bytes());
        bytes[64] = 27 + recovery.to_byte();
        bytes
    }

    /// A binding of `key_id` to this wallet, or its release, as honest as can be.
    pub(crate) fn binds(
        &self,
        log: &Log,
        role: Role,
        (key_id, previous): (Hash, Hash),
        time: Time,
    ) -> Binding {
        let wallet = self.address();
        let terms = Terms {
            chain_id: 1,
            issued_at: time,
            expires_at: Time::from_secs(time.secs() + 3_600).expect("small"),
        };
        let message = Message {
            origin: log.key().origin(),
            key_id,
            previous,
            wallet,
            role,
            terms,
        };
        let signature = Signature::Eip191(self.sign(message.digest()));
        let consent = Consent {
            wallet,
            terms,
            signature,
        };
        let action = match role {
            Role::Release => Action::Release(consent),
            _ => Action::Link(consent),
        };
        Binding {
            key_id,
            previous,
            action,
        }
    }
}

/// When entry `i` came: the log began an hour ago, and takes 5 seconds each.
pub(crate) fn time_of(i: usize) -> Time {
    static START: LazyLock<u64> = LazyLock::new(|| now() - 3_600);
    Time::from_secs(*START + 5 * i as u64).expect("small")
}

/// An honest log: users 1 to 3 are bound to wallets 1 to 3 by entries 1 to 3,
/// user 2 lets go at [`RELEASED`], the others claim what they like.
pub(crate) fn log(size: usize) -> Log {
    let signer = Arc::new(signer("log.example.org", 7));
    let first = Body::Log(LogBody {
        key: signer.verifier().clone(),
        rules: 2,
        totals_interval: INTERVAL,
        publish_max: 10,
        evm_key: EVM_KEY,
    });
    let mut log = Log::of(signer, vec![first.encode(time_of(0))]);
    for i in 1..size {
        let entry = entry(&log, i);
        log.push(entry);
    }
    log
}

fn entry(log: &Log, i: usize) -> Vec<u8> {
    let time = time_of(i);
    let body = match i {
        1..=3 => {
            let n = u8::try_from(i).expect("small");
            let key = (user(i as u64), log.levels[0][0]);
            Body::Binding(Purse::new(n).binds(log, Role::Link, key, time))
        }
        RELEASED => {
            let key = (user(2), log.levels[0][2]);
            Body::Binding(Purse::new(2).binds(log, Role::Release, key, time))
        }
        i if i % EVERY == 0 => Body::Totals(totals(&log.entries, i - 2)),
        i => {
            let Body::Usage(mut usage) = call(i as u64) else {
                panic!("calls are usage")
            };
            let holder = [1_u8, 2, 3]
                .into_iter()
                .find(|n| usage.key_id == Some(user((*n).into())) && (*n != 2 || i < RELEASED));
            if let Some(n) = holder {
                usage.wallet = Some((Purse::new(n).address(), Link::Bound));
            }
            Body::Usage(usage)
        }
    };
    body.encode(time)
}

/// The address of the log's contract on every chain.
pub(crate) fn own_contract(log: &Log) -> Address {
    ChainLog::new(log.key(), EVM_KEY).contract()
}

/// The leaves over the first `size` entries, in order.
pub(crate) fn leaves(entries: &[Vec<u8>], size: usize) -> Vec<Vec<u8>> {
    let mut leaves: BTreeMap<(String, u8), [u64; 8]> = BTreeMap::new();
    for (i, entry) in entries[..size].iter().enumerate() {
        let entry: Value = serde_json::from_slice(entry).expect("JSON");
        if entry["kind"] != "usage" || entry["link"] != "bound" {
            continue;
        }
        let wallet = entry["wallet"].as_str().expect("an address").to_owned();
        let source = if entry["source"] == "proxy" { 1 } else { 2 };
        let numbers = leaves
            .entry((wallet, source))
            .or_insert([0, 0, 0, 0, 0, 0, i as u64, 0]);
        numbers[0] += 1;
        let names = ["input", "output", "cache_read", "cache_write", "reasoning"];
        for (place, name) in (1..).zip(names) {
            numbers[place] += entry[name].as_u64().unwrap_or(0);
        }
        numbers[7] = i as u64;
    }
    let encode = |((wallet, source), numbers): ((String, u8), [u64; 8])| {
        let digit = |at| u8::from_str_radix(&wallet[at..at + 2], 16).expect("hex");
        let mut leaf = vec![1];
        leaf.extend((0..20).map(|i| digit(2 + 2 * i)));
        leaf.push(source);
        leaf.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
        leaf
    };
    leaves.into_iter().map(encode).collect()
}

/// The totals over the first `size` entries.
pub(crate) fn totals(entries: &[Vec<u8>], size: usize) -> Totals {
    totals_of(size, &leaves(entries, size))
}

/// Totals that name a size, whatever their leaves.
pub(crate) fn totals_of(size: usize, leaves: &[Vec<u8>]) -> Totals {
    let hashes: Vec<Hash> = leaves.iter().map(|leaf| Hash::leaf(leaf)).collect();
    Totals {
        size: TreeSize::new(size as u64).expect("small"),
        count: hashes.len() as u64,
        root: tree_head(&hashes),
    }
}

/// Makes every totals entry fit the entries again.
pub(crate) fn sum_again(log: &mut Log) {
    log.rewrite(|entries| {
        for i in 0..entries.len() {
            if let Ok(Entry::Known {
                time,
                body: Body::Totals(said),
            }) = Entry::parse(&entries[i])
            {
                let size = usize::try_from(said.size.get()).expect("small");
                entries[i] = Body::Totals(totals(entries, size)).encode(time);
            }
        }
    });
}

/// RFC 6962 section 2.1.1, as it is written.
fn path(at: usize, hashes: &[Hash]) -> Vec<Hash> {
    if hashes.len() == 1 {
        return vec![];
    }
    let (left, right) = hashes.split_at(hashes.len().next_power_of_two() / 2);
    let (mut path, sibling) = match at < left.len() {
        true => (path(at, left), right),
        false => (path(at - left.len(), right), left),
    };
    path.push(tree_head(sibling));
    path
}

fn base64(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|hash| hash.to_base64()).collect()
}

/// `proof` for a wallet under the checkpoint of `size`, with the newest totals
/// entry below `newest`.
pub(crate) fn proof(log: &Log, size: usize, newest: usize, wallet: Address) -> Value {
    let proven = |index: usize| {
        json!({
            "index": index, "entry": String::from_utf8_lossy(&log.entries[index]),
            "hashes": base64(&path(index, &log.levels[0][..size])),
        })
    };
    let totals = log.entries[..newest]
        .iter()
        .enumerate()
        .rev()
        .find_map(|(i, entry)| {
            let entry: Value = serde_json::from_slice(entry).expect("JSON");
            let over = usize::try_from(entry["size"].as_u64()?).expect("small");
            (entry["kind"] == "totals").then_some((i, over))
        });
    let next = totals.map_or(1, |(i, over)| if over == i { over + 1 } else { over });
    json!({
        "checkpoint": log.checkpoint(size),
        "log": proven(0),
        "totals": totals.map(|(index, _)| proven(index)),
        "next": (next < size).then(|| proven(next)),
        "last": proven(size - 1),
        "leaves": totals.map_or(vec![], |(_, over)| proven_leaves(&leaves(&log.entries, over), wallet)),
    })
}

/// The bound records of a wallet above `after`, each with its proof under the
/// checkpoint of `size`.
pub(crate) fn newer(log: &Log, size: usize, after: usize, wallet: &str) -> Value {
    let bound = |index: &usize| {
        let entry: Value = serde_json::from_slice(&log.entries[*index]).expect("JSON");
        entry["link"] == "bound" && entry["wallet"] == wallet
    };
    let records = (after + 1..size).filter(bound).map(|index| {
        let mut record = record(log, index).expect("it is there");
        record["hashes"] = base64(&path(index, &log.levels[0][..size])).into();
        record
    });
    json!({
        "size": size, "wallet": wallet, "link": "bound", "checkpoint": log.checkpoint(size),
        "records": records.collect::<Value>(), "next": null,
    })
}

/// A wallet's leaves with their neighbours.
fn proven_leaves(leaves: &[Vec<u8>], wallet: Address) -> Vec<Value> {
    let hashes: Vec<Hash> = leaves.iter().map(|leaf| Hash::leaf(leaf)).collect();
    let below = leaves
        .iter()
        .take_while(|leaf| leaf[1..21] < wallet.as_bytes()[..])
        .count();
    let upto = leaves
        .iter()
        .take_while(|leaf| leaf[1..21] <= wallet.as_bytes()[..])
        .count();
    let range = below.saturating_sub(1)..(upto + 1).min(leaves.len());
    let leaf = |at: usize| {
        let hex: String = leaves[at]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        json!({ "index": at, "leaf": hex, "hashes": base64(&path(at, &hashes)) })
    };
    range.map(leaf).collect()
}
