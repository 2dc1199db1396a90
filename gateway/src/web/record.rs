//! An entry's page: what it says in words, its bytes, and what vouches for it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use maud::{Markup, html};
use protocol::anchor::Place;
use protocol::binding::{Action, Binding};
use protocol::consent::{Signature, Terms};
use protocol::entry::{Body, Entry, Log};
use protocol::hash::Hash;
use protocol::index::Index;
use protocol::key::Origin;
use protocol::name::Address;
use protocol::network::Network;
use protocol::record::Usage;
use protocol::totals::Totals;

use super::figures::counted;
use super::format::{count, hash, source_label, time};
use super::layout::Page;
use super::policy::Policy;
use super::recent;
use super::vouched::vouched;
use crate::api::{Api, store_failed};
use crate::reply::ApiError;
use crate::store::Record;

/// Shows an entry.
pub(super) async fn record(
    State(api): State<Arc<Api>>,
    Path(asked): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let path = format!("/record/{asked}");
    let size = api.committed.borrow().checkpoint.size().get();
    let found = match Index::parse(&asked).filter(|index| index.get() < size) {
        Some(index) => api.store.record(index).await,
        None => Ok(None),
    };
    let found = found.map_err(store_failed)?;
    let Some(record) = found else {
        let page = Page::new(
            &path,
            "No such record",
            "There is no such entry.",
            missing(&asked, size),
        );
        return Ok(page.status(StatusCode::NOT_FOUND).answer(&api, &headers));
    };
    let entry = Entry::parse(&record.entry);
    let (kind, about) = entry.as_ref().map_or(UNREADABLE, told);
    let index = record.index;
    let title = format!("{kind} #{index}");
    let body = html! {
        h1 { (kind) " " span.muted { "#" (index) } }
        p.lead { (about) }
        (around(index, size))
        dl.facts {
            @if let Ok(entry) = &entry {
                dt { "Time" } dd { (time(entry.time())) }
                (fields(entry, api.verifier.origin()))
            }
        }
        (vouched(&api, index))
        section #verify aria-label="Checked in your browser" data-record=(index) {
            h2 { "Checked in your browser" }
            noscript { p { "With a script, your browser checks this record here." } }
        }
        (bytes(&record))
        (around(index, size))
    };
    let page = Page::new(&path, &title, about, body)
        .scripts(&["check.js"])
        .policy(Policy::Checking);
    Ok(page.answer(&api, &headers))
}

fn missing(asked: &str, size: u64) -> Markup {
    html! {
        h1 { "There is no record " span.hash { (asked) } }
        p {
            "The log has " (counted(size, "record")) ", numbered from 0"
            @if let Some(last) = size.checked_sub(1) {
                ": the last one is " a href=(format!("/record/{last}")) { "#" (last) }
            }
            "."
        }
    }
}

/// The entries before and after.
fn around(index: Index, size: u64) -> Markup {
    let (before, after) = (index.get().checked_sub(1), index.get() + 1);
    html! {
        nav.pages aria-label="Neighbours" {
            @match before {
                Some(before) => a rel="prev" href=(format!("/record/{before}")) { "← #" (before) },
                None => span.muted { "the first one" },
            }
            @if after < size {
                a rel="next" href=(format!("/record/{after}")) { "#" (after) " →" }
            } @else {
                span.muted { "the newest one" }
            }
        }
    }
}

const UNREADABLE: (&str, &str) = (
    "Entry",
    "These bytes are no entry as the protocol has it: the log misbehaves, or this gateway is older than its log.",
);

/// What kind of entry it is, and what that means.
fn told(entry: &Entry) -> (&'static str, &'static str) {
    let Entry::Known { body, .. } = entry else {
        return (
            "Unknown entry",
            "An entry of a later protocol than this gateway's: it counts in the tree, its meaning is not known here.",
        );
    };
    match body {
        Body::Log(_) => (
            "Log",
            "The log's own entry: what it is, and what it promises.",
        ),
        Body::Usage(_) => (
            "Record",
            "One response of a provider: who used which model, and how many tokens. Never a prompt, an answer or a key.",
        ),
        Body::Binding(_) => (
            "Binding",
            "Says which wallet the calls of a key count for, from here on.",
        ),
        Body::Totals(_) => (
            "Totals",
            "Commits to what every wallet used so far: each one's sum can be proven against this root.",
        ),
        Body::Anchor(_) => (
            "Anchor",
            "Says where the log is anchored: roots that this contract holds are the log's, or the log misbehaves.",
        ),
    }
}

fn fields(entry: &Entry, origin: &Origin) -> Markup {
    match entry {
        Entry::Known { body, .. } => match body {
            Body::Log(log) => of_log(log),
            Body::Usage(usage) => of_usage(usage),
            Body::Binding(binding) => of_binding(binding, origin),
            Body::Totals(totals) => of_totals(totals),
            Body::Anchor(place) => of_anchor(place),
        },
        Entry::Unknown { version, kind, .. } => html! {
            dt { "Kind" } dd { code { (kind) } }
            dt { "Version" } dd { (version) }
        },
    }
}

fn of_log(log: &Log) -> Markup {
    html! {
        dt { "Origin" } dd { (log.key.origin().as_str()) }
        dt { "Verifier key" } dd { code.hash { (log.key.to_string()) } }
        dt { "Rules" } dd { (log.rules) }
        dt { "Totals" } dd { "every " (counted(log.totals_interval, "second")) " in which something was used" }
        dt { "Published" } dd { "within " (counted(log.publish_max, "second")) }
        dt { "EVM key" } dd { code.hash { (log.evm_key) } ", which signs for contracts on chains" }
    }
}

fn of_usage(usage: &Usage) -> Markup {
    let counts = &usage.counts;
    html! {
        dt { "Model" }
        dd {
            @match &usage.model {
                Some(model) => (model.as_str()),
                None => span.muted { "none named" },
            }
        }
        dt { "Provider" } dd { (usage.provider.as_str()) }
        dt { "Input" } dd { (said(counts.input)) }
        dt { "of it, read from a cache" } dd { (said(counts.cache_read)) }
        dt { "of it, written to a cache" } dd { (said(counts.cache_write)) }
        dt { "Output" } dd { (said(counts.output)) }
        dt { "of it, reasoning" } dd { (said(counts.reasoning)) }
        dt { "Outcome" }
        dd { (usage.outcome.as_str()) ": " (recent::ended(usage.outcome)) }
        @if usage.inconsistent {
            dt { "Flag" } dd { "inconsistent: " (recent::INCONSISTENT) }
        }
        dt { "Source" } dd { (source_label(usage.source)) " " (recent::observed(usage.source)) }
        dt { "Key" }
        dd {
            @match &usage.key_id {
                Some(key_id) => a.hash href=(format!("/key/{key_id}")) { (hash(key_id)) },
                None => span.muted { "none: the call was anonymous" },
            }
        }
        dt { "Wallet" }
        dd {
            @match &usage.wallet {
                Some((wallet, link)) => {
                    (wallet_link(wallet)) " " (recent::link(*link)) " " (recent::linked(*link))
                },
                None => span.muted { "none" },
            }
        }
        dt { "Receipt id" }
        dd {
            "committed to: " (hash(&usage.receipt))
            div.small.muted {
                "A hash of the id that the caller got with the answer. Its holder checks that this is "
                "the call's own record: no other id has this hash, so one record can't answer two calls."
            }
        }
        dt { "Response id" }
        dd {
            @match &usage.response {
                Some(response) => {
                    "committed to: " (hash(response))
                    div.small.muted { "A hash of the provider and the id of its response, by which the provider's bill can be compared." }
                },
                None => span.muted { "the provider named none" },
            }
        }
    }
}

/// A count, or that it was not said.
fn said(count_: Option<u32>) -> Markup {
    match count_ {
        Some(tokens) => html! { (counted(tokens.into(), "token")) },
        None => html! { span.muted { "not said by the provider" } },
    }
}

fn wallet_link(wallet: &Address) -> Markup {
    let wallet = wallet.checksummed();
    html! { a.hash href=(format!("/wallet/{wallet}")) { code { (wallet) } } }
}

fn of_binding(binding: &Binding, origin: &Origin) -> Markup {
    html! {
        dt { "Action" }
        dd {
            @match &binding.action {
                Action::Link(from) => { "link: the key is bound to " (wallet_link(&from.wallet)) },
                Action::Move { from, to, .. } => {
                    "move: the key goes from " (wallet_link(&from.wallet)) " to " (wallet_link(to))
                },
                Action::Release(from) => { "release: " (wallet_link(&from.wallet)) " lets go of the key" },
                Action::Burn => { "burn: the key is bound to nobody ever after; whoever held it said so" },
            }
        }
        dt { "Key" }
        dd { a.hash href=(format!("/key/{}", binding.key_id)) { (hash(&binding.key_id)) } }
        dt { "Follows" }
        dd {
            (hash(&binding.previous))
            div.small.muted { "The leaf hash of the key's binding before, or of entry 0: a message can't be used twice." }
        }
        @if let Action::Link(from) | Action::Release(from) | Action::Move { from, .. } = &binding.action {
            (terms(&from.terms))
        }
        @for (message, signature) in binding.messages(origin) {
            dt { "Signed by" }
            dd {
                (wallet_link(&message.wallet)) " " (scheme(signature))
                details {
                    summary { "The text that was signed" }
                    pre.whole tabindex="0" { (message) }
                }
            }
        }
    }
}

fn terms(terms: &Terms) -> Markup {
    let Terms {
        chain_id,
        issued_at,
        expires_at,
    } = terms;
    html! {
        dt { "Chain id" } dd { (chain_id) }
        dt { "Message made" } dd { (time(*issued_at)) }
        dt { "to be used until" } dd { (time(*expires_at)) }
    }
}

fn scheme(signature: &Signature) -> Markup {
    match signature {
        Signature::Eip191(_) => html! { "with its key (EIP-191), which anyone can check offline" },
        Signature::Eip1271 { block, .. } => html! {
            "as a contract (EIP-1271), which its chain said at block " (count(*block))
        },
    }
}

fn of_totals(totals: &Totals) -> Markup {
    html! {
        dt { "Over" } dd { "the first " (count(totals.size.get())) " entries" }
        dt { "Sums" } dd { (count(totals.count)) ", one for each wallet and source" }
        dt { "Root" } dd { (hash(&totals.root)) }
    }
}

fn of_anchor(place: &Place) -> Markup {
    let known = Network::of(place.chain_id);
    html! {
        dt { "Chain" }
        dd {
            @if let Some(known) = known { (known.title) ", " }
            "id " (place.chain_id)
        }
        dt { "Contract" }
        dd {
            code.hash { (place.contract.checksummed()) }
            @if let Some(explorer) = known.and_then(|known| known.explorer) {
                " " a href=(format!("{explorer}/address/{}", place.contract)) rel="noreferrer" { "in an explorer" }
            }
            div.small.muted { "Its address follows from the log's name and keys, on every chain the same." }
        }
        dt { "All anchors" } dd { a href="/anchors" { "list" } }
    }
}

/// The bytes that were hashed, and their hash.
fn bytes(record: &Record) -> Markup {
    let leaf = Hash::leaf(&record.entry);
    html! {
        h2 { "Its bytes" }
        p { "Exactly these are hashed: the entry's canonical text, " (counted(record.entry.len() as u64, "byte")) "." }
        div.code data-copy {
            pre.whole tabindex="0" { code { (String::from_utf8_lossy(&record.entry)) } }
        }
        dl.facts {
            dt { "Leaf hash" }
            dd {
                (hash(&leaf))
                div.small.muted { "SHA-256 of a zero byte and these bytes (RFC 6962); base64: " code.hash { (leaf.to_base64()) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::binding::Consent;
    use protocol::index::{Time, TreeSize};
    use protocol::key::Signer;
    use protocol::name::Name;
    use protocol::record::{Counts, Link, Outcome, Source};

    fn drawn(entry: &Entry) -> String {
        let origin = Origin::parse("log.example.org/a").expect("valid");
        fields(entry, &origin).into_string()
    }

    fn known(body: Body) -> Entry {
        let time = Time::from_secs(1_764_000_000).expect("small");
        Entry::parse(&body.encode(time)).expect("canonical")
    }

    fn check(body: Body, kind: &str, parts: &[&str]) {
        let entry = known(body);
        assert_eq!(told(&entry).0, kind);
        let text = drawn(&entry);
        for part in parts {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn every_kind_is_told_in_words() {
        let wallet = Address::from_bytes([0xab; 20]);
        let other = Address::from_bytes([0xcd; 20]);
        let time = |secs| Time::from_secs(secs).expect("small");
        let origin = Origin::parse("log.example.org/a").expect("valid");
        check(
            Body::Log(Log {
                key: Signer::new(origin, &[3; 32]).verifier().clone(),
                rules: 2,
                totals_interval: 600,
                publish_max: 10,
                evm_key: wallet,
            }),
            "Log",
            &[
                "log.example.org/a",
                "every 600 seconds",
                "within 10 seconds",
            ],
        );
        let usage = Usage {
            receipt: Hash::of(b"receipt"),
            key_id: Some(Hash::of(b"key")),
            wallet: Some((wallet, Link::Claimed)),
            source: Source::Proxy,
            provider: Name::new("openai").expect("a name"),
            model: Name::new("<script>&"),
            counts: Counts {
                input: Some(2_006),
                cache_read: Some(0),
                ..Counts::NONE
            },
            outcome: Outcome::Partial,
            inconsistent: true,
            response: None,
        };
        check(
            Body::Usage(usage),
            "Record",
            &[
                "&lt;script&gt;&amp;",
                "2\u{202f}006 tokens",
                "<dd>0 tokens</dd>",
                "not said by the provider",
                &format!("/wallet/{}", wallet.checksummed()),
                &format!("/key/{}", Hash::of(b"key")),
                "claimed",
                "partial: ",
                "inconsistent: ",
                "the provider named none",
            ],
        );
        let consent = Consent {
            wallet,
            terms: Terms {
                chain_id: 8_453,
                issued_at: time(1_764_000_000),
                expires_at: time(1_764_000_600),
            },
            signature: Signature::Eip191([1; 65]),
        };
        let binding = |action| {
            Body::Binding(Binding {
                key_id: Hash::of(b"key"),
                previous: Hash::of(b"before"),
                action,
            })
        };
        check(
            binding(Action::Link(consent.clone())),
            "Binding",
            &[
                "link: the key is bound to",
                "8453",
                "I bind the key",
                "EIP-191",
            ],
        );
        check(
            binding(Action::Release(consent.clone())),
            "Binding",
            &["release: ", "I release the key"],
        );
        let contract = Signature::Eip1271 {
            block: 1_234_567,
            block_hash: Hash::of(b"block"),
            bytes: vec![1, 2, 3],
        };
        check(
            binding(Action::Move {
                from: consent,
                to: other,
                taken: contract,
            }),
            "Binding",
            &[
                "move: the key goes from",
                "I give the key",
                "I take the key",
                "at block 1\u{202f}234\u{202f}567",
                &other.checksummed(),
            ],
        );
        check(binding(Action::Burn), "Binding", &["burn: "]);
        let root = Hash::of(b"root");
        check(
            Body::Totals(Totals {
                size: TreeSize::new(3).expect("small"),
                count: 2,
                root,
            }),
            "Totals",
            &["the first 3 entries", &root.to_string()],
        );
        check(
            Body::Anchor(Place {
                chain_id: 8_453,
                contract: other,
            }),
            "Anchor",
            &[
                "Base, id 8453",
                &other.checksummed(),
                "https://basescan.org/address/0xcdcd",
            ],
        );
        check(
            Body::Anchor(Place {
                chain_id: 4_242_424_242,
                contract: other,
            }),
            "Anchor",
            &["<dd>id 4242424242</dd>", &other.checksummed()],
        );
        let later = Entry::parse(br#"{"v":7,"kind":"novel","time":1764000000,"x":"<b>"}"#);
        let later = later.expect("a head");
        assert_eq!(told(&later).0, "Unknown entry");
        assert!(drawn(&later).contains("<code>novel</code>"));
    }

    #[test]
    fn neighbours_end_where_the_log_does() {
        let check = |index: u64, size: u64, links: &[&str]| {
            let drawn = around(Index::new(index).expect("small"), size).into_string();
            let found: Vec<_> = drawn.split("href=\"").skip(1).collect();
            let found: Vec<_> = found.iter().filter_map(|l| l.split('"').next()).collect();
            assert_eq!(found, links, "{index} of {size}");
        };
        check(0, 1, &[]);
        check(0, 2, &["/record/1"]);
        check(1, 2, &["/record/0"]);
        check(5, 9, &["/record/4", "/record/6"]);
    }
}
