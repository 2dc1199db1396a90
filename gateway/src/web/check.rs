//! The page that takes files and checks them in the visitor's browser, and
//! what the browser reads of the contract.
//!
//! Nothing is checked here: what checks must not be what is checked.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use protocol::anchor::CREATION_CODE;
use protocol::hash::Hash;
use protocol::key::VerifierKey;

use super::layout::Page;
use super::policy::Policy;
use super::{assets, format, visited};
use crate::api::Api;

/// The page.
pub(super) async fn check(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let body = html! {
        h1 { "Check a file" }
        p.lead {
            "Drop or paste what you hold. Your browser checks it by the log's key alone; it is sent nowhere."
        }
        (form())
        h2 { "What is taken" }
        (taken())
        h2 { "The verifier" }
        (verifier(&visited(&headers), &api.verifier))
    };
    let description =
        "Checks receipts, proofs and evidence of this log in your own browser, by its key alone.";
    Page::new("/check", "Check a file", description, body)
        .scripts(&["check.js"])
        .policy(Policy::Checking)
        .answer(&api, &headers)
}

/// Off until the script is there: without it the browser would send the text.
fn form() -> Markup {
    html! {
        section #verify data-files aria-label="Check a file" {
            noscript {
                p.callout.warn {
                    "Checking takes JavaScript. Without it, use the verifier below, or the sentinel."
                }
            }
            form {
                fieldset.drop disabled {
                    label for="check-text" { "Paste it here, or drop a file" }
                    textarea #check-text name="text" rows="8" spellcheck="false" autocomplete="off" {}
                    label for="check-file" { "Or choose a file" }
                    input #check-file name="file" type="file";
                    label for="check-key" { "The log's verifier key (this log's, if you leave it)" }
                    input #check-key name="key" type="text" autocomplete="off" spellcheck="false";
                    p { button.main { "Check" } }
                }
            }
        }
    }
}

fn taken() -> Markup {
    html! {
        dl.facts {
            dt { "Receipt file" }
            dd {
                "What " code { "/api/receipts/<id>" } " answers: the log's promise, the entry, and, with "
                code { "?proof=1" } ", that the promise was kept."
            }
            dt { "Receipt note" }
            dd { "As text, or in base64 as it stands in " code { "x-tally-receipt" } "." }
            dt { "tlog-proof" }
            dd { "What " code { "/api/records/<index>/proof" } " answers. Its entry is asked for here." }
            dt { "Record, wallet's answer, checkpoint" }
            dd { "As the interface gives them." }
            dt { "Evidence" }
            dd {
                "Judged here: two checkpoints that differ or do not continue each other, an empty log, "
                "malformed checkpoints and entries, a wrong first or a second log entry, times that go "
                "backwards, a receipt that the log does not hold, and a binding or a totals entry that is "
                "wrong by itself. Not judged here: what follows from all entries before, as invalid or "
                "ignored bindings, wrong sums and late totals, and what was signed for chains; "
                code { "sentinel evidence FILE" } " judges it. What was only served nobody can judge offline."
            }
        }
    }
}

fn verifier(url: &str, vkey: &VerifierKey) -> Markup {
    let digest = assets::hash("verify.js");
    let name = "verify.js";
    html! {
        p {
            "One file, no dependencies, to be read in one sitting: "
            a href=(format!("/assets/{name}")) { (name) }
            ". A server that lies could serve another one; compare its hash with one from elsewhere, "
            "or run your own copy. Its SHA-256:"
        }
        p { (format::hash(&digest)) }
        p { "To check a receipt file with it elsewhere (Node 20 or newer):" }
        (format::lines(&elsewhere(url, vkey, &digest)))
    }
}

/// The line that runs the verifier on a receipt file, if it is the one that
/// was hashed.
fn elsewhere(url: &str, vkey: &VerifierKey, digest: &Hash) -> String {
    format!(
        "curl -s {url}/assets/verify.js -o verify.mjs && echo '{digest}  verify.mjs' | sha256sum -c && \
         node --input-type=module -e 'import * as v from \"./verify.mjs\"; \
         import {{ readFileSync }} from \"node:fs\"; \
         const file = JSON.parse(readFileSync(\"receipt.json\", \"utf8\")); \
         console.log(await v.openReceiptFile(file, await v.parseLogKey(\"{vkey}\")))'"
    )
}

/// The contract's creation code in hex, from which browsers work out where a
/// log's contract stands (PROTOCOL.md section 13.2).
pub(super) async fn creation_code() -> Response {
    let about = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "public, max-age=3600"),
    ];
    (about, alloy_primitives::hex::encode(CREATION_CODE)).into_response()
}
