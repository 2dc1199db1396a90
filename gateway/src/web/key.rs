//! A key id's page: what calls with one credential or link token used.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use maud::{Markup, html};
use protocol::binding::Holding;
use protocol::hash::Hash;
use protocol::record::Source;

use super::format::{address, count};
use super::layout::Page;
use super::recent::{self, SHOWN};
use super::{today, usage};
use crate::api::{Api, store_failed};
use crate::ledger::Sums;
use crate::reply::ApiError;
use crate::store::Named;

/// Shows a key id.
pub(super) async fn key(
    State(api): State<Arc<Api>>,
    Path(asked): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let path = format!("/key/{asked}");
    let Some(key_id) = Hash::from_hex(&asked) else {
        let page = Page::new(&path, "No key id", ABOUT, no_key_id(&asked));
        return Ok(page.status(StatusCode::NOT_FOUND).answer(&api, &headers));
    };
    let (size, (sources, models), days, state) = {
        let sums = api.sums.read();
        let days = sums.user_days(&key_id);
        (sums.size(), sums.user(&key_id), days, sums.key(&key_id))
    };
    let newest = match sources.is_empty() {
        true => Vec::new(),
        false => {
            let committed = api.committed.borrow().checkpoint.size().get();
            let named = Named::Key(key_id);
            let found = api.store.newest(&named, committed, SHOWN).await;
            recent::read(&found.map_err(store_failed)?)
        }
    };
    let today = today(&api);
    let row = |(source, sums): &(Source, Sums)| (None, *source, *sums);
    let rows: Vec<_> = sources.iter().map(row).collect();
    let body = html! {
        h1 { "Key " code.hash { (key_id) } }
        p.lead {
            "Calls with one credential or link token, of which this is a hash that only its holder "
            "and this gateway can compute. As of the log's first " (count(size.get())) " entries."
        }
        (held(state.map(|state| state.holding)))
        (usage::figures(&sources, &days, &models, today))
        @if rows.is_empty() {
            p { "The log holds no record of this key." }
        } @else {
            h2 { "Totals" }
            (usage::sums(&rows))
            (usage::year(&days, today))
            (usage::models(&models))
            (usage::cost(&models))
            h2 { "Recent records" }
            (recent::table(&newest, "The newest records of this key, the newest first"))
        }
        h2 { "For programs" }
        ul {
            li { a href=(format!("/api/user/{key_id}")) { "Sums" } }
            li { a href=(format!("/api/user/{key_id}/receipts")) { "Receipts" } }
            li { a href=(format!("/api/bindings/{key_id}")) { "Whom it is bound to" } }
        }
    };
    let title = format!("Key {}…", &asked[..8]);
    Ok(Page::new(&path, &title, ABOUT, body).answer(&api, &headers))
}

const ABOUT: &str =
    "What calls with one credential or link token used, in a log that anyone can check.";

fn no_key_id(asked: &str) -> Markup {
    html! {
        h1 { "This is no key id" }
        p.lead { code.hash { (asked) } }
        p {
            "A key id is 64 lower-case hex digits: a hash of the log's name and a credential or link "
            "token. Every answer of this gateway says it, in the header " code { "x-tally-key-id" } "."
        }
    }
}

/// Whom a key's calls count for.
fn held(holding: Option<Holding>) -> Markup {
    html! {
        dl.facts {
            dt { "Counts for" }
            dd {
                @match holding {
                    Some(Holding::Bound { wallet, since }) => {
                        a href=(format!("/wallet/{}", wallet.checksummed())) { (address(&wallet)) }
                        ", since entry " a href=(format!("/record/{since}")) { "#" (since) }
                    },
                    Some(Holding::Burnt) => { "nobody, for ever: its holder burnt it" },
                    Some(Holding::Free) | None => { "no wallet: it is not bound" },
                }
            }
        }
    }
}
