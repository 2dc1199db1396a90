//! Who cosigns the log, and how that goes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::format::{count, time};
use super::layout::Page;
use crate::api::Api;
use crate::witness::enlisted::Enlisted;
use crate::witness::roster::{Roster, Standing, State as Fares};

/// The witnesses of the policy.
pub(super) async fn witnesses(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let size = api.published.borrow().checkpoint.size().get();
    let body = html! {
        h1 { "Witnesses" }
        p.lead {
            "A witness cosigns a checkpoint only if it continues the last one that it cosigned. "
            "So nobody can be shown another history of this log than everybody else."
        }
        div #witnesses data-refresh {
            @match &api.witnesses {
                Some(roster) => (roll(roster, size)),
                None => {
                    div.callout.warn {
                        p { "No witness is asked to cosign this log. Until then it can show different people different histories, which only those find out who compare, or look at its anchors." }
                    }
                }
            }
        }
        p.muted { "Anybody can be one: see " code { "sentinel witness --help" } "." }
    };
    let about = "Who cosigns this log, so that everybody sees the same history.";
    Page::new("/witnesses", "Witnesses", about, body).answer(&api, &headers)
}

fn roll(roster: &Roster, size: u64) -> Markup {
    html! {
        @if roster.has_quorum() {
            div.callout.ok { p { "The published checkpoint of " (count(size)) " entries has its quorum, or may yet get it in time." } }
        } @else {
            div.callout.bad { p { "The published checkpoint of " (count(size)) " entries lacks its quorum: too few witnesses answered in time." } }
        }
        table.rows {
            caption { "In the order of the policy" }
            thead {
                tr {
                    th scope="col" { "Name" }
                    th scope="col" { "State" }
                    th.n scope="col" { "Cosigned size" }
                    th scope="col" { "At, by its clock" }
                }
            }
            tbody { @for (enlisted, standing) in roster.list() { (row(enlisted, &standing)) } }
        }
    }
}

fn row(enlisted: &Enlisted, standing: &Standing) -> Markup {
    let label = match standing.state {
        Fares::Waiting => "",
        Fares::Cosigning => "ok",
        Fares::Failing => "warn",
        Fares::Alarm => "bad",
    };
    html! {
        tr {
            td.first {
                strong { (enlisted.name) }
                div.small.muted { code.hash { (enlisted.key.to_string()) } }
            }
            td.whole {
                span.label class=(label) { (standing.state.as_str()) }
                @if let Some(problem) = &standing.problem { div.small { (problem) } }
            }
            td.n data-label="Size" {
                @match standing.size { Some(size) => (count(size.get())), None => "–" }
            }
            td data-label="At" { @match standing.time { Some(at) => (time(at)), None => "–" } }
        }
    }
}
