//! Bound keys, totals and anchors are bent, and everything else made to fit: the
//! entries alone tell.

use protocol::anchor::Place;
use protocol::binding::Action;
use protocol::consent::{Role, Signature};
use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::index::Time;
use protocol::name::Address;
use protocol::record::Link;
use protocol::totals::Totals;
use serde_json::{Value, json};

use super::{Caught, Scene};
use crate::forge::chain::Node;
use crate::forge::log::{Log, user};
use crate::forge::server::Site;
use crate::forge::wallet::{
    INTERVAL, Purse, RELEASED, leaves, log, own_contract, sum_again, time_of, totals_of,
};
use crate::sentinel::{Sees, Sentinel};

/// The log's size, and that at which returning sentinels saw it.
const SIZE: usize = 110;
const SEEN: usize = 45;

/// The totals entry that is bent, and its size.
const BENT: usize = 80;
const OVER: usize = 78;

const FALSE: Sees = Sees::Proven(&["totals_false"]);
const UNBOUND: Sees = Sees::Proven(&["unbound_wallet"]);
const IGNORED: Sees = Sees::Proven(&["binding_ignored"]);
const INVALID: Sees = Sees::Proven(&["binding_invalid"]);
const ANCHOR: Sees = Sees::Proven(&["anchor_invalid"]);
const OVERDUE: Sees = Sees::Proven(&["totals_overdue"]);

/// Puts other totals into entry [`BENT`].
fn say(log: &mut Log, totals: Totals) {
    log.rewrite(|entries| entries[BENT] = Body::Totals(totals).encode(time_of(BENT)));
}

/// Signs totals over leaves that are bent.
fn bend(log: &mut Log, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let mut bent = leaves(&log.entries, OVER);
    change(&mut bent);
    say(log, totals_of(OVER, &bent));
}

/// Adds to the first leaf's input.
fn add(leaf: &mut [u8], more: i64) {
    let input: [u8; 8] = leaf[30..38].try_into().expect("8 bytes");
    let input = u64::from_be_bytes(input).checked_add_signed(more);
    leaf[30..38].copy_from_slice(&input.expect("in range").to_be_bytes());
}

/// Changes a binding's own signature, and makes everything else fit again.
fn sign_otherwise(log: &mut Log, index: usize, change: impl FnOnce(&mut [u8; 65])) {
    log.rewrite(|entries| {
        let Ok(Entry::Known {
            time,
            body: Body::Binding(mut binding),
        }) = Entry::parse(&entries[index])
        else {
            panic!("entry {index} is no binding");
        };
        let (Action::Link(consent) | Action::Release(consent)) = &mut binding.action else {
            panic!("entry {index} has no signature of its own");
        };
        let Signature::Eip191(bytes) = &mut consent.signature else {
            panic!("entry {index} is not signed by an account");
        };
        change(bytes);
        entries[index] = Body::Binding(binding).encode(time);
    });
}

/// n - s, and the other point: the same signature in its other spelling.
fn high_s(signature: &mut [u8; 65]) {
    const N: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xfe, 0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36,
        0x41, 0x41,
    ];
    let mut borrow = 0;
    for i in (0..32).rev() {
        let digit = i16::from(N[i]) - i16::from(signature[32 + i]) - borrow;
        borrow = i16::from(digit < 0);
        signature[32 + i] = u8::try_from(digit.rem_euclid(256)).expect("a byte");
    }
    signature[64] = 55 - signature[64];
}

/// The place of a usage entry of a user between two others.
fn call_of(log: &Log, n: u64, from: usize) -> usize {
    let of_user = |i: &usize| {
        matches!(Entry::parse(&log.entries[*i]),
            Ok(Entry::Known { body: Body::Usage(usage), .. }) if usage.key_id == Some(user(n)))
    };
    (from..log.size()).find(of_user).expect("users call often")
}

/// Changes whom a call counts for, the totals with it.
fn credit(log: &mut Log, at: usize, purse: u8, link: Link) {
    let wallet = Purse::new(purse).address();
    log.edit(at, |usage| usage.wallet = Some((wallet, link)));
    sum_again(log);
}

/// Replaces a call by another entry.
fn replace(log: &mut Log, at: usize, entry: Vec<u8>) {
    log.rewrite(|entries| entries[at] = entry);
    sum_again(log);
}

/// Says that the log is anchored, in entries from 62 on.
fn anchor(log: &mut Log, places: impl IntoIterator<Item = Place>) {
    for (at, place) in (62..).zip(places) {
        replace(log, at, Body::Anchor(place).encode(time_of(at)));
    }
}

/// The log's own contract on a chain.
fn place(log: &Log, chain_id: u64) -> Place {
    let contract = own_contract(log);
    Place { chain_id, contract }
}

#[test]
fn false_totals_bindings_and_anchors_are_proven() {
    let mut scene = Scene::new(Site::new(log(SEEN)));
    let returning = scene.returning();
    let cases: [Caught<Log>; 31] = [
        Caught("nothing", Sees::Verified, |_| ()),
        Caught("a total raised", FALSE, |log| {
            bend(log, |leaves| add(&mut leaves[0], 1))
        }),
        Caught("a total lowered", FALSE, |log| {
            bend(log, |leaves| add(&mut leaves[1], -1))
        }),
        Caught("a wallet left out", FALSE, |log| {
            bend(log, |leaves| drop(leaves.remove(1)))
        }),
        Caught("one of its leaves left out", FALSE, |log| {
            bend(log, |leaves| drop(leaves.pop()))
        }),
        Caught("a leaf twice", FALSE, |log| {
            bend(log, |leaves| leaves.insert(0, leaves[0].clone()))
        }),
        Caught("unsorted", FALSE, |log| {
            bend(log, |leaves| leaves.swap(0, 1))
        }),
        Caught("no leaves", FALSE, |log| bend(log, Vec::clear)),
        Caught("another count", FALSE, |log| {
            let mut said = totals_of(OVER, &leaves(&log.entries, OVER));
            said.count += 1;
            say(log, said);
        }),
        Caught("of a smaller size than they name", FALSE, |log| {
            let older = leaves(&log.entries, OVER - 10);
            say(log, totals_of(OVER, &older));
        }),
        Caught("of a larger size than they name", FALSE, |log| {
            let newer = leaves(&log.entries, BENT);
            say(log, totals_of(OVER - 8, &newer));
        }),
        Caught("over entries that are yet to come", FALSE, |log| {
            let all = leaves(&log.entries, BENT);
            say(log, totals_of(BENT + 1, &all));
        }),
        Caught("over no more than the last ones", FALSE, |log| {
            let same = leaves(&log.entries, 58);
            say(log, totals_of(58, &same));
        }),
        Caught("claimed usage in the totals", FALSE, |log| {
            let mut bent = log.clone();
            let at = call_of(log, 5, 60);
            bent.edit(at, |usage| {
                usage.wallet = Some((Purse::new(1).address(), Link::Bound))
            });
            say(log, totals_of(OVER, &leaves(&bent.entries, OVER)));
        }),
        Caught("claimed usage as bound", UNBOUND, |log| {
            let at = call_of(log, 5, 60);
            credit(log, at, 1, Link::Bound);
        }),
        Caught("usage bound to another's wallet", UNBOUND, |log| {
            let at = call_of(log, 1, 60);
            credit(log, at, 3, Link::Bound);
        }),
        Caught("usage of a released key", UNBOUND, |log| {
            let at = call_of(log, 2, RELEASED);
            credit(log, at, 2, Link::Bound);
        }),
        Caught("usage of nobody", UNBOUND, |log| {
            let at = call_of(log, 5, 60);
            log.edit(at, |usage| usage.key_id = None);
            credit(log, at, 1, Link::Bound);
        }),
        Caught("usage of a burnt key", UNBOUND, |log| {
            let burn = protocol::binding::Binding {
                key_id: user(1),
                previous: log.levels[0][1],
                action: Action::Burn,
            };
            // Nothing of that user is bound after it, but one call.
            log.rewrite(|entries| entries[61] = Body::Binding(burn).encode(time_of(61)));
            let bound = call_of(log, 1, 62);
            let mut at = bound + 1;
            while at < SIZE - 9 {
                at = call_of(log, 1, at);
                log.edit(at, |usage| usage.wallet = None);
                at += 1;
            }
            sum_again(log);
        }),
        Caught("a bound key's usage without its wallet", IGNORED, |log| {
            let at = call_of(log, 1, 60);
            log.edit(at, |usage| usage.wallet = None);
            sum_again(log);
        }),
        Caught("a bound key's usage as claimed", IGNORED, |log| {
            let at = call_of(log, 1, 60);
            credit(log, at, 1, Link::Claimed);
        }),
        Caught("a bad signature", INVALID, |log| {
            sign_otherwise(log, RELEASED, |signature| signature[40] ^= 1)
        }),
        Caught("a high s", INVALID, |log| {
            sign_otherwise(log, RELEASED, high_s)
        }),
        Caught("a replayed signature", INVALID, |log| {
            // The link of user 2 again, after its release.
            let link = log.entries[2].clone();
            let Ok(Entry::Known {
                body: Body::Binding(binding),
                ..
            }) = Entry::parse(&link)
            else {
                panic!("entry 2 is a binding");
            };
            replace(log, 62, Body::Binding(binding).encode(time_of(62)));
        }),
        Caught("a bound key linked again", INVALID, |log| {
            let key = (user(1), log.levels[0][1]);
            let again = Purse::new(4).binds(log, Role::Link, key, time_of(62));
            replace(log, 62, Body::Binding(again).encode(time_of(62)));
        }),
        Caught("a message of the past", INVALID, |log| {
            let long_ago = Time::from_secs(time_of(62).secs() - 3_600).expect("small");
            let key = (Hash::of(b"a key without calls"), log.levels[0][0]);
            let late = Purse::new(4).binds(log, Role::Link, key, long_ago);
            replace(log, 62, Body::Binding(late).encode(time_of(62)));
        }),
        Caught("anchored on two chains", Sees::Verified, |log| {
            let places = [place(log, 1), place(log, 8_453)];
            anchor(log, places);
        }),
        Caught("anchored on a chain twice", ANCHOR, |log| {
            let places = [place(log, 1), place(log, 1)];
            anchor(log, places);
        }),
        Caught("anchored by another's contract", ANCHOR, |log| {
            let contract = Address::from_bytes([0xc0; 20]);
            anchor(
                log,
                [Place {
                    contract,
                    ..place(log, 1)
                }],
            );
        }),
        Caught("an anchor after what is in no totals", OVERDUE, |log| {
            let late = Time::from_secs(time_of(98).secs() + 2 * INTERVAL + 1).expect("small");
            let place = place(log, 1);
            log.rewrite(|entries| {
                entries.truncate(SIZE - 1);
                entries.push(Body::Anchor(place).encode(late));
            });
        }),
        Caught("totals missing for too long", OVERDUE, |log| {
            let late = Time::from_secs(time_of(98).secs() + 2 * INTERVAL + 1).expect("small");
            log.rewrite(|entries| {
                entries.truncate(SIZE - 1);
                let Ok(Entry::Known {
                    body: Body::Usage(usage),
                    ..
                }) = Entry::parse(&entries[SIZE - 2])
                else {
                    panic!("the last entries are calls");
                };
                entries.push(Body::Usage(usage).encode(late));
            });
        }),
    ];
    for Caught(name, expected, change) in cases {
        let mut bent = log(SIZE);
        change(&mut bent);
        scene.forge.serve(Site::new(bent));
        scene.sees(&format!("{name}, fresh"), &Sentinel::fresh(), &expected);
        scene.sees(&format!("{name}, returning"), &returning.twin(), &expected);
    }
    scene.end();
}

/// A log with a key that a contract wallet bound.
fn by_contract() -> Log {
    let mut bent = log(SIZE);
    let key = (user(5), bent.levels[0][0]);
    let mut binding = Purse::new(4).binds(&bent, Role::Link, key, time_of(108));
    if let Action::Link(consent) = &mut binding.action {
        consent.signature = Signature::Eip1271 {
            block: 7,
            block_hash: Hash::of(b"a block"),
            bytes: vec![1, 2, 3],
        };
    }
    replace(&mut bent, 109, Body::Binding(binding).encode(time_of(109)));
    bent
}

#[test]
fn a_contracts_signature_is_said_not_to_be_checked() {
    let mut scene = Scene::new(Site::new(by_contract()));
    let sentinel = Sentinel::fresh();
    for turn in ["at first", "remembered"] {
        let pass = scene.sees(turn, &sentinel, &Sees::Verified);
        assert_eq!(pass.report["contracts_not_checked"], 1, "{turn}: {pass}");
    }
    scene.end();
}

/// What a node that is honest about a contract answers.
fn honest_node(method: &str, params: &Value) -> Value {
    let block = format!("0x{}", Hash::of(b"a block"));
    match method {
        "eth_chainId" => json!({ "result": "0x1" }),
        // The log is not anchored there.
        "eth_getCode" => json!({ "result": "0x" }),
        "eth_getBlockByNumber" if params[0] == "0x7" => json!({ "result": { "hash": block } }),
        "eth_call" if params[1]["blockHash"] == block => {
            let to = Purse::new(4).address().to_string();
            assert_eq!(params[0]["to"], to);
            let data = params[0]["data"].as_str().expect("hex");
            assert!(
                data.ends_with(&format!("03010203{}", "00".repeat(29))),
                "{data}"
            );
            json!({ "result": format!("0x1626ba7e{}", "00".repeat(28)) })
        }
        _ => json!({ "error": { "code": -32_602, "message": "unexpected" } }),
    }
}

/// A node that answers one method otherwise.
struct Otherwise(&'static str, Sees, &'static str, fn() -> Value);

#[test]
fn a_contracts_signature_is_what_its_chain_says() {
    const INVALID: Sees = Sees::Served(&["binding_invalid"]);
    let mut scene = Scene::new(Site::new(by_contract()));
    let cases = [
        Otherwise("valid", Sees::Verified, "", || Value::Null),
        Otherwise(
            "refused",
            INVALID,
            "eth_call",
            || json!({ "result": format!("0x{}", "ff".repeat(32)) }),
        ),
        Otherwise(
            "no contract",
            INVALID,
            "eth_call",
            || json!({ "result": "0x" }),
        ),
        Otherwise(
            "reverted",
            INVALID,
            "eth_call",
            || json!({ "error": { "code": 3, "message": "execution reverted" } }),
        ),
        Otherwise(
            "another block",
            INVALID,
            "eth_getBlockByNumber",
            || json!({ "result": { "hash": format!("0x{}", "12".repeat(32)) } }),
        ),
        Otherwise(
            "another chain",
            Sees::Verified,
            "eth_chainId",
            || json!({ "result": "0x2" }),
        ),
        Otherwise(
            "no such block",
            Sees::Verified,
            "eth_getBlockByNumber",
            || json!({ "result": null }),
        ),
        Otherwise(
            "forgotten state",
            Sees::Verified,
            "eth_call",
            || json!({ "error": { "code": -32_000, "message": "missing trie node" } }),
        ),
    ];
    for Otherwise(name, expected, method, answer) in cases {
        let node = Node::start(move |asked, params| match asked == method {
            true => answer(),
            false => honest_node(asked, params),
        });
        let sentinel = Sentinel::fresh().with(&["--rpc-url", node.url()]);
        let pass = scene.sees(name, &sentinel, &expected);
        let unchecked = if name == "valid" {
            Value::Null
        } else {
            1.into()
        };
        assert_eq!(
            pass.report["contracts_not_checked"], unchecked,
            "{name}: {pass}"
        );
    }
    scene.end();
}
