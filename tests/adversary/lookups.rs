//! What the log answers about wallets is bent: to a light client, and to
//! sentinels that read the log.

use protocol::entry::{Body, Entry};
use protocol::index::Time;
use protocol::name::Address;
use serde_json::{Value, json};

use super::{Caught, Scene, evidence};
use crate::forge::log::Log;
use crate::forge::server::Site;
use crate::forge::wallet::{Purse, log, proof, time_of, totals};
use crate::sentinel::{Pass, Sees, Sentinel};

/// An honest log, with two totals entries more than it had before it paused.
fn paused() -> Log {
    let mut log = log(110);
    let late = |secs: u64| Time::from_secs(time_of(110).secs() + secs).expect("small");
    let Ok(Entry::Known {
        body: Body::Usage(usage),
        ..
    }) = Entry::parse(&log.entries[109])
    else {
        panic!("the last entry is a call");
    };
    log.push(Body::Usage(usage.clone()).encode(late(1_000)));
    let summed = totals(&log.entries, 111);
    log.push(Body::Totals(summed).encode(late(1_001)));
    log.push(Body::Usage(usage).encode(late(2_000)));
    log
}

/// Of whom totals of both sources are known, and who stands around it.
fn wallet() -> Address {
    Purse::new(1).address()
}

fn look_up(scene: &Scene, sentinel: &Sentinel, wallet: &str) -> Pass {
    let url = scene.forge.url();
    sentinel.run(&["wallet", "--json", "--patience", "300ms", wallet, &url])
}

/// Bends the proof in every answer about a wallet.
fn bend(site: &mut Site, change: fn(&mut Value)) {
    site.json_at("/api/wallet/*", move |answer| change(&mut answer["proof"]));
}

fn leaves(proof: &mut Value) -> &mut Vec<Value> {
    proof["leaves"].as_array_mut().expect("a list")
}

/// Adds one to the input in a leaf's hex.
fn raise(leaf: &mut Value) {
    let hex = leaf["leaf"].as_str().expect("hex").to_owned();
    let input = u64::from_str_radix(&hex[60..76], 16).expect("a number") + 1;
    leaf["leaf"] = format!("{}{input:016x}{}", &hex[..60], &hex[76..]).into();
}

fn own(proof: &mut Value) -> usize {
    let of_wallet = wallet().to_string()[2..].to_owned();
    let is_own = |leaf: &Value| {
        leaf["leaf"]
            .as_str()
            .is_some_and(|hex| hex[2..42] == of_wallet)
    };
    leaves(proof)
        .iter()
        .position(is_own)
        .expect("it has leaves")
}

#[test]
fn a_light_client_believes_only_what_is_proven() {
    const WRONG: Sees = Sees::Served(&["wallet_proof"]);
    let mut scene = Scene::new(Site::new(paused()));
    let cases: [Caught<Site>; 15] = [
        Caught("nothing", Sees::Committed, |_| ()),
        Caught("a total raised", WRONG, |site| {
            bend(site, |proof| {
                let at = own(proof);
                raise(&mut leaves(proof)[at]);
            })
        }),
        Caught("one of its leaves left out", WRONG, |site| {
            bend(site, |proof| {
                let at = own(proof);
                leaves(proof).remove(at);
            })
        }),
        Caught("a leaf twice", WRONG, |site| {
            bend(site, |proof| {
                let at = own(proof);
                let leaf = leaves(proof)[at].clone();
                leaves(proof).insert(at, leaf);
            })
        }),
        Caught("unsorted", WRONG, |site| {
            bend(site, |proof| leaves(proof).reverse())
        }),
        Caught("no leaves", WRONG, |site| {
            bend(site, |proof| leaves(proof).clear())
        }),
        Caught("a gap before a neighbour", WRONG, |site| {
            bend(site, |proof| {
                let last = leaves(proof).len() - 1;
                leaves(proof)[last]["index"] = (last + 7).into();
            })
        }),
        Caught("older totals passed off as new", WRONG, |site| {
            let log = site.log.clone();
            site.json_at("/api/wallet/*", move |answer| {
                answer["proof"] = proof(&log, log.size(), 111, wallet());
            });
        }),
        Caught("an old answer as a whole", WRONG, |site| {
            let log = site.log.clone();
            site.json_at("/api/wallet/*", move |answer| {
                answer["proof"] = proof(&log, 101, 101, wallet());
            });
        }),
        Caught("the entry that totals leave out left out", WRONG, |site| {
            bend(site, |proof| proof["next"] = Value::Null)
        }),
        Caught("no totals", WRONG, |site| {
            bend(site, |proof| proof["totals"] = Value::Null)
        }),
        Caught("another last entry", WRONG, |site| {
            bend(site, |proof| proof["last"] = proof["log"].clone())
        }),
        Caught("its own sums below what it proves", WRONG, |site| {
            site.json_at("/api/wallet/*", |answer| answer["bound"] = json!([]));
        }),
        Caught("no proof at the moment", Sees::NoVerdict, |site| {
            site.json_at("/api/wallet/*", |answer| answer["proof"] = Value::Null);
        }),
        Caught("an error", Sees::NoVerdict, |site| {
            site.at("/api/wallet/*", |answer| answer.status = 503);
        }),
    ];
    let vkey = scene.forge.site().log.key().to_string();
    for Caught(name, expected, change) in cases {
        let mut site = Site::new(paused());
        change(&mut site);
        scene.forge.serve(site);
        let sentinel = Sentinel::fresh();
        let pass = look_up(&scene, &sentinel, &wallet().to_string());
        let held = pass.compare(&expected);
        let held = held.and_then(|()| evidence::holds(&pass, &vkey));
        scene.note(name, held);
    }
    scene.end();
}

/// Bends the list of a wallet's newer records.
fn bend_newer(site: &mut Site, change: fn(&mut Vec<Value>)) {
    site.bend(move |request, _, answer| {
        if request.path.ends_with("/records") {
            let mut value: Value = serde_json::from_slice(&answer.body).expect("JSON");
            change(value["records"].as_array_mut().expect("a list"));
            answer.body = value.to_string().into_bytes();
        }
    });
}

#[test]
fn a_light_client_adds_up_newer_records_and_misses_none() {
    const WRONG: Sees = Sees::Served(&["wallet_proof"]);
    let mut scene = Scene::new(Site::new(log(110)));
    let cases: [Caught<Site>; 7] = [
        Caught("nothing", Sees::Committed, |_| ()),
        Caught("one left out", WRONG, |site| {
            bend_newer(site, |records| drop(records.remove(0)))
        }),
        Caught("all left out", WRONG, |site| {
            bend_newer(site, |records| records.clear())
        }),
        Caught("one twice", WRONG, |site| {
            bend_newer(site, |records| records.insert(0, records[0].clone()))
        }),
        Caught("an entry bent", WRONG, |site| {
            bend_newer(site, |records| {
                let entry = records[0]["entry"].as_str().expect("a text");
                records[0]["entry"] = entry.replace("custom", "proxy").into();
            })
        }),
        Caught("its own sums raised", WRONG, |site| {
            site.json_at("/api/wallet/*", |answer| {
                if let Some(line) = answer["bound"].get_mut(0) {
                    line["records"] = 999.into();
                }
            });
        }),
        Caught("no list", Sees::NoVerdict, |site| {
            site.bend(|request, _, answer| {
                if request.path.ends_with("/records") {
                    answer.status = 404;
                }
            });
        }),
    ];
    let vkey = scene.forge.site().log.key().to_string();
    for Caught(name, expected, change) in cases {
        let mut site = Site::new(log(110));
        change(&mut site);
        scene.forge.serve(site);
        let sentinel = Sentinel::fresh().with(&["wallet", "--newer"]);
        let (url, wallet) = (scene.forge.url(), wallet().to_string());
        let pass = sentinel.run(&["--json", "--patience", "300ms", &wallet, &url]);
        let held = pass.compare(&expected);
        let held = held.and_then(|()| evidence::holds(&pass, &vkey));
        let held = held.and_then(|()| match expected {
            Sees::Committed if pass.report["newer"]["sums"][0]["records"].as_u64() < Some(1) => {
                Err(format!("nothing newer was found: {pass}"))
            }
            _ => Ok(()),
        });
        scene.note(name, held);
    }
    scene.end();
}

#[test]
fn a_light_client_says_what_is_proven_and_what_is_not() {
    let scene = Scene::new(Site::new(paused()));
    let vkey = scene.forge.site().log.key().to_string();
    let sentinel = Sentinel::fresh().with(&["--vkey", &vkey]);
    for text in [wallet().to_string(), wallet().checksummed()] {
        let pass = look_up(&scene, &sentinel, &text);
        pass.compare(&Sees::Committed)
            .unwrap_or_else(|e| panic!("{e}"));
        let report = &pass.report;
        assert_eq!(report["trust"], "committed");
        assert_eq!(report["wallet"], wallet().to_string());
        assert_eq!(report["totals"]["size"], 111);
        let sources: Vec<&Value> = report["proven"]
            .as_array()
            .expect("a list")
            .iter()
            .collect();
        assert_eq!(sources.len(), 2, "{pass}");
        assert_eq!(
            (&sources[0]["source"], &sources[1]["source"]),
            (&json!("proxy"), &json!("custom"))
        );
        assert!(
            sources.iter().all(|row| row["records"].as_u64() > Some(0)),
            "{pass}"
        );
    }
    assert!(scene.forge.site().asked("/tile/") == 0 && scene.forge.site().asked("/") <= 4);
    let nobody = Address::from_bytes([0x77; 20]).to_string();
    let pass = look_up(&scene, &sentinel, &nobody);
    pass.compare(&Sees::Committed)
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(pass.report["proven"], json!([]));
    scene.end();
}

#[test]
fn sentinels_that_read_the_log_look_wallets_up() {
    let mut scene = Scene::new(Site::new(paused()));
    let cases: [Caught<Site>; 6] = [
        Caught("nothing", Sees::Verified, |_| ()),
        Caught("sums raised", Sees::Served(&["aggregate_wallet"]), |site| {
            site.json_at("/api/wallet/*", |answer| {
                if let Some(line) = answer["bound"].get_mut(0) {
                    line["records"] = 999.into();
                }
            });
        }),
        Caught(
            "sums of nobody",
            Sees::Served(&["aggregate_wallet"]),
            |site| {
                site.json_at("/api/wallet/*", |answer| {
                    answer["bound"] = json!([{
                        "source": "proxy", "records": 1, "input": 1, "cache_read": 0,
                        "cache_write": 0, "output": 1, "reasoning": 0, "total": 2,
                    }]);
                });
            },
        ),
        Caught("leaves left out", Sees::Served(&["wallet_proof"]), |site| {
            bend(site, |proof| leaves(proof).truncate(1))
        }),
        Caught("older totals", Sees::Served(&["wallet_proof"]), |site| {
            let log = site.log.clone();
            site.bend(move |request, _, answer| {
                let Some(wallet) = request.path.strip_prefix("/api/wallet/") else {
                    return;
                };
                let wallet = Address::from_any_case(wallet).expect("an address");
                let mut value: Value = serde_json::from_slice(&answer.body).expect("JSON");
                // Under a checkpoint from before time went on: nothing is overdue.
                value["proof"] = proof(&log, 112, 111, wallet);
                answer.body = value.to_string().into_bytes();
            });
        }),
        Caught("no proof at the moment", Sees::Verified, |site| {
            site.json_at("/api/wallet/*", |answer| answer["proof"] = Value::Null);
        }),
    ];
    for Caught(name, expected, change) in cases {
        let mut site = Site::new(paused());
        change(&mut site);
        scene.forge.serve(site);
        scene.sees(name, &Sentinel::fresh(), &expected);
    }
    scene.end();
}
