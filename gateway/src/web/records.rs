//! The newest entries, in parts.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};
use protocol::binding::Action;
use protocol::entry::{Body, Entry};
use protocol::record::{Link, Outcome, Usage};
use serde::Deserialize;

use super::format::{self, count, source_label, time, tokens};
use super::layout::Page;
use crate::api::{Api, store_failed};
use crate::reply::ApiError;
use crate::store::Record;

/// Entries on a page.
const PART: u64 = 50;

/// Which part.
#[derive(Debug, Deserialize)]
pub(super) struct Part {
    /// Only entries of a lower index.
    before: Option<u64>,
}

/// Entries, newest first.
pub(super) async fn records(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(part) = part.map_err(|e| ApiError::bad_request(e.body_text()))?;
    // What is seen in the store before it is committed here is not shown.
    let size = api.committed.borrow().checkpoint.size().get();
    let end = part.before.map_or(size, |before| before.min(size));
    let from = end.saturating_sub(PART);
    let found = api.store.range(from, end).await;
    let mut records = found.map_err(store_failed)?;
    records.reverse();
    let newest = (part.before.is_none()).then_some("");
    let body = html! {
        h1 { "Records" }
        p.lead { "Every entry of the log, newest first: what was used, who bound a key, and what the log says of itself." }
        div #records data-refresh=[newest] {
            table.rows {
                caption {
                    @if end > 0 { "Entries " (count(from)) " to " (count(end - 1)) " of " (count(size)) }
                    @else { "There are no entries." }
                }
                thead {
                    tr {
                        th.n scope="col" { "Index" }
                        th scope="col" { "Time" }
                        th scope="col" { "What" }
                        th scope="col" { "Who" }
                        th.n scope="col" { "Input" }
                        th.n scope="col" { "Output" }
                    }
                }
                tbody { @for record in &records { (row(record)) } }
            }
        }
        nav.pages aria-label="Parts" {
            @if end < size {
                @let above = end + PART;
                @if above < size { a rel="prev" href=(format!("/records?before={above}")) { "← Newer" } }
                @else { a rel="prev" href="/records" { "← Newest" } }
            } @else { span {} }
            @if from > 0 { a rel="next" href=(format!("/records?before={from}")) { "Older →" } }
        }
    };
    let about = "Every entry of a verifiable log of LLM usage.";
    Ok(Page::new("/records", "Records", about, body).answer(&api, &headers))
}

fn row(record: &Record) -> Markup {
    let index = record.index.get();
    let place = html! { a href=(format!("/record/{index}")) { (count(index)) } };
    match Entry::parse(&record.entry) {
        Ok(Entry::Known {
            time: at,
            body: Body::Usage(usage),
        }) => html! {
            tr {
                td.n.first { (place) }
                td data-label="Time" { (time(at)) }
                td.whole { (what(&usage)) }
                td.whole { (who(&usage)) }
                td.n data-label="Input" { (counted(usage.counts.input)) }
                td.n data-label="Output" { (counted(usage.counts.output)) }
            }
        },
        Ok(Entry::Known { time: at, body }) => html! {
            tr {
                td.n.first { (place) }
                td data-label="Time" { (time(at)) }
                td.whole colspan="4" { (other(&body)) }
            }
        },
        Ok(Entry::Unknown { time: at, kind, .. }) => html! {
            tr {
                td.n.first { (place) }
                td data-label="Time" { (time(at)) }
                td.whole colspan="4" { "Of a kind that this gateway does not know: " (kind) }
            }
        },
        Err(_) => html! {
            tr { td.n.first { (place) } td.whole colspan="5" { "Not an entry that this gateway can read" } }
        },
    }
}

fn counted(tokens_used: Option<u32>) -> Markup {
    match tokens_used {
        Some(n) => tokens(n.into()),
        None => html! { span title="The provider did not say" { "–" } },
    }
}

fn what(usage: &Usage) -> Markup {
    let model = usage.model.as_ref().map(|model| model.as_str());
    html! {
        (model.unwrap_or("(no model named)")) " " span.muted.small { (usage.provider) } " "
        (source_label(usage.source))
        @match usage.outcome {
            Outcome::Complete => {}
            outcome => { " " span.label.warn { (outcome.as_str()) } }
        }
        @if usage.inconsistent { " " span.label.warn { "inconsistent" } }
    }
}

fn who(usage: &Usage) -> Markup {
    html! {
        @if let Some((wallet, link)) = &usage.wallet {
            a href=(format!("/wallet/{wallet}")) { (format::address(wallet)) } " "
            @match link {
                Link::Bound => span.label.bound { "bound" },
                Link::Claimed => span.label.claimed { "claimed" },
            }
        } @else if let Some(key_id) = &usage.key_id {
            a href=(format!("/key/{key_id}")) { (format::key_id(key_id)) }
        } @else { span.muted { "anonymous" } }
    }
}

fn other(body: &Body) -> Markup {
    match body {
        Body::Usage(usage) => what(usage),
        Body::Log(log) => html! { "The log begins: " (log.key.origin().as_str()) },
        Body::Totals(totals) => html! {
            "Totals of " (count(totals.count)) " wallets' sums over " (count(totals.size.get())) " entries"
        },
        Body::Anchor(place) => html! {
            "The log is anchored on chain " (place.chain_id) ", at " (format::address(&place.contract))
        },
        Body::Binding(binding) => html! {
            a href=(format!("/key/{}", binding.key_id)) { (format::key_id(&binding.key_id)) }
            @match &binding.action {
                Action::Link(consent) => { " is bound to " (format::address(&consent.wallet)) },
                Action::Move { from, to, .. } => {
                    " moves from " (format::address(&from.wallet)) " to " (format::address(to))
                },
                Action::Release(consent) => { " is let go by " (format::address(&consent.wallet)) },
                Action::Burn => { " is burnt: bound to nobody ever after" },
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::hash::Hash;
    use protocol::index::{Index, Time};
    use protocol::name::{Address, Name};
    use protocol::record::{Counts, Source};

    fn record(entry: Vec<u8>) -> Record {
        Record {
            index: Index::new(1_234).expect("small"),
            entry,
            signature: [0; 64],
            receipt_id: None,
        }
    }

    #[test]
    fn a_row_says_what_its_entry_does_and_no_more() {
        let time = Time::from_secs(1_764_000_000).expect("small");
        let name = |text| Some(Name::new(text).expect("a name"));
        let usage = |wallet, model, outcome| Usage {
            receipt: Hash::of(b"receipt"),
            key_id: Some(Hash::of(b"key")),
            wallet,
            source: Source::Custom,
            provider: Name::new("x").expect("a name"),
            model,
            counts: Counts {
                input: Some(1_234_567),
                ..Counts::NONE
            },
            outcome,
            inconsistent: false,
            response: None,
        };
        let wallet = Address::from_bytes([7; 20]);
        for (wallet, model, outcome, said, unsaid) in [
            (
                Some((wallet, Link::Bound)),
                name("m"),
                Outcome::Complete,
                ">bound<",
                ">claimed<",
            ),
            (
                Some((wallet, Link::Claimed)),
                name("m"),
                Outcome::Complete,
                ">claimed<",
                ">bound<",
            ),
            (None, None, Outcome::Aborted, ">aborted<", ">bound<"),
            (
                None,
                name("<img src=x>"),
                Outcome::Complete,
                "&lt;img src=x&gt;",
                "<img",
            ),
        ] {
            let body = Body::Usage(usage(wallet, model, outcome));
            let text = row(&record(body.encode(time))).into_string();
            assert!(text.contains(said) && !text.contains(unsaid), "{text}");
            assert!(
                text.contains("1.23M") && text.contains("/record/1234"),
                "{text}"
            );
        }
        let text = row(&record(b"junk".to_vec())).into_string();
        assert!(text.contains("can read"), "{text}");
    }
}
