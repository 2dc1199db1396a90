//! What vouches for an entry: a checkpoint, witnesses, a chain.
//!
//! As this gateway knows it; whoever doubts that asks for proofs.

use maud::{Markup, html};
use protocol::index::{Index, Time};

use super::format::{count, time};
use crate::api::Api;
use crate::chain::{Anchor, Status};

/// What stands behind an entry by now.
pub(super) fn vouched(api: &Api, index: Index) -> Markup {
    let published = api.published.borrow().checkpoint.clone();
    let under = index.get() < published.size().get();
    html! {
        h2 { "Who vouches for it" }
        dl.facts {
            dt { "Checkpoint" }
            dd {
                @if under {
                    span.label.ok { "published" } " under the log's signature over its first "
                    (count(published.size().get())) " entries: " a href="/checkpoint" { "checkpoint" }
                } @else {
                    span.label.warn { "not yet published" } " the next checkpoint covers it, within seconds"
                }
            }
            dt { "Witnesses" }
            dd { (witnessed(api, index)) }
            dt { "Anchor" }
            dd { (anchored(api.anchors.covering(index).as_ref())) }
            dt { "Proof" }
            dd {
                @if under {
                    a href=(format!("/api/records/{index}/proof")) { "tlog-proof" }
                    ", offline: the entry is under that checkpoint"
                } @else {
                    "with the next checkpoint"
                }
            }
            dt { "For programs" }
            dd { a href=(format!("/api/records/{index}")) { "JSON, with the receipt" } }
        }
    }
}

/// The witnesses that cosigned a checkpoint over the entry.
fn witnessed(api: &Api, index: Index) -> Markup {
    let Some(roster) = &api.witnesses else {
        return html! { span.muted { "none are asked to cosign this log" } };
    };
    let over = |size: u64| size > index.get();
    let list: Vec<(String, Option<Time>)> = roster
        .list()
        .filter(|(_, standing)| standing.size.is_some_and(|size| over(size.get())))
        .map(|(enlisted, standing)| (enlisted.name.clone(), standing.time))
        .collect();
    html! {
        @if list.is_empty() {
            span.label.warn { "not yet" } " none has cosigned a checkpoint over it, as far as this gateway knows"
        } @else {
            span.label.ok { "cosigned" } " by "
            @for (at, (name, when)) in list.iter().enumerate() {
                @if at > 0 { ", " }
                (name)
                @if let Some(when) = when { " (" (time(*when)) ")" }
            }
        }
    }
}

/// The first anchor that covers an entry.
pub(super) fn anchored(anchor: Option<&Anchor>) -> Markup {
    let Some(anchor) = anchor else {
        return html! { span.muted { "no anchor over it is known to this gateway" } };
    };
    let row = &anchor.row;
    let transaction = row.transaction.to_string();
    html! {
        @match row.status {
            Status::Finalized => span.label.ok { "final" },
            Status::Included => span.label.warn title="in a block that the chain can still drop" { "included" },
        }
        " on " (anchor.chain) ", block " (count(row.block)) ", over the first "
        (count(row.size.get())) " entries: transaction "
        @match &anchor.link {
            Some(link) => a.hash href=(link) rel="noreferrer" { "0x" (transaction) },
            None => code.hash { "0x" (transaction) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Row;
    use protocol::hash::Hash;
    use protocol::index::TreeSize;
    use protocol::name::Address;

    #[test]
    fn an_anchor_says_where_it_is_and_whether_it_stays() {
        let mut anchor = Anchor {
            chain_id: 1,
            chain: "<Chain>".into(),
            contract: Address::from_bytes([1; 20]),
            row: Row {
                index: 0,
                size: TreeSize::new(1_000).expect("small"),
                root: Hash::of(b"root"),
                log_time: Time::from_secs(1_764_000_000).expect("small"),
                transaction: Hash::of(b"transaction"),
                block: 77,
                block_hash: Hash::of(b"block"),
                status: Status::Included,
            },
            link: None,
        };
        let mut check = |status, link: Option<&str>, parts: &[&str]| {
            anchor.row.status = status;
            anchor.link = link.map(str::to_owned);
            let drawn = anchored(Some(&anchor)).into_string();
            for part in parts {
                assert!(drawn.contains(part), "{part} in {drawn}");
            }
        };
        let transaction = format!("0x{}", Hash::of(b"transaction"));
        check(
            Status::Included,
            None,
            &[
                "included",
                "&lt;Chain&gt;",
                "block 77",
                "first 1\u{202f}000 entries",
                &transaction,
            ],
        );
        let link = "https://explorer.example/tx/0x1";
        check(
            Status::Finalized,
            Some(link),
            &["final", &format!(r#"href="{link}""#)],
        );
        assert!(anchored(None).into_string().contains("no anchor"));
    }
}
