//! Where the log is anchored.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::format::{count, time};
use super::layout::Page;
use crate::api::Api;
use crate::chain::{Anchor, Chain, Status};
use crate::reply::ApiError;

/// Anchors on a page, but for those of one size, which stay together.
const PART: usize = 50;

/// Which part.
#[derive(Debug, Deserialize)]
pub(super) struct Part {
    /// Only anchors of fewer entries.
    before: Option<u64>,
}

/// The anchors, newest first.
pub(super) async fn anchors(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(part) = part.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let (chains, rows) = (api.anchors.chains(), api.anchors.below(part.before, PART));
    let last = rows.last().map(|anchor| anchor.row.size.get());
    let older = last.filter(|last| !api.anchors.below(Some(*last), 1).is_empty());
    let newest = part.before.is_none().then_some("");
    let body = html! {
        h1 { "Anchors" }
        p.lead {
            "An anchor is the log's root, kept by a contract on a public chain. The contract takes "
            "a root only if it continues the last one, so not even the operator can rewrite what "
            "is anchored. Anybody may anchor this log."
        }
        div #anchors data-refresh=[newest] {
            @if chains.is_empty() {
                div.callout { p { "This log's contract stands on no chain that this gateway looks at." } }
            }
            div.cards { @for chain in &chains { (card(chain)) } }
            @if !rows.is_empty() { (table(&rows)) }
        }
        nav.pages aria-label="Parts" {
            @if part.before.is_some() { a rel="prev" href="/anchors" { "← Newest" } } @else { span {} }
            @if let Some(older) = older { a rel="next" href=(format!("/anchors?before={older}")) { "Older →" } }
        }
    };
    let about = "Every root of this log that a public chain keeps.";
    Ok(Page::new("/anchors", "Anchors", about, body).answer(&api, &headers))
}

fn card(chain: &Chain) -> Markup {
    html! {
        section.card {
            h2 { (chain.name) " " span.muted.small { "chain " (chain.id) } }
            @if chain.forked {
                div.callout.bad { p { "The contract holds proof that this log signed two roots for one size." } }
            }
            @if chain.retired {
                div.callout.warn { p { "The contract was told that this log has ended." } }
            }
            dl.facts {
                dt { "Contract" }
                dd {
                    @match &chain.link {
                        Some(link) => a rel="noopener external" href=(link) { code.hash { (chain.contract) } },
                        None => code.hash { (chain.contract) },
                    }
                }
                dt { "Anchors" } dd { (count(chain.count)) }
                dt { "Read" } dd { @match chain.read_at { Some(at) => (time(at)), None => "not since the gateway began" } }
            }
        }
    }
}

fn table(rows: &[Anchor]) -> Markup {
    html! {
        table.rows {
            caption { "Newest first; roots as explorers show them" }
            thead {
                tr {
                    th.n scope="col" { "Entries" }
                    th scope="col" { "Root" }
                    th scope="col" { "Newest entry" }
                    th scope="col" { "Chain" }
                    th scope="col" { "Transaction" }
                }
            }
            tbody { @for anchor in rows { (row(anchor)) } }
        }
    }
}

fn row(anchor: &Anchor) -> Markup {
    let transaction = format!("0x{}", anchor.row.transaction);
    let short = html! { code title=(transaction) { (&transaction[..10]) "…" } };
    html! {
        tr {
            td.n.first { (count(anchor.row.size.get())) }
            td.whole { code.hash { "0x" (anchor.row.root) } }
            td.whole { (time(anchor.row.log_time)) }
            td.whole { (anchor.chain) ", no. " (anchor.row.index) }
            td.whole {
                @match &anchor.link {
                    Some(link) => a rel="noopener external" href=(link) { (short) },
                    None => (short),
                }
                " in block " (anchor.row.block) " "
                @match anchor.row.status {
                    Status::Finalized => span.label.ok { "finalized" },
                    Status::Included => span.label.warn { "included" },
                }
            }
        }
    }
}
