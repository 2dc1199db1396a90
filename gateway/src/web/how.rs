//! What is proven here, and what is not.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::html;

use super::layout::Page;
use crate::api::Api;

/// What could go wrong, what stops it, and who can check that.
const PROVEN: &[(&str, &str, &str)] = &[
    (
        "The operator alters, drops or reorders a past record",
        "A Merkle root in every signed checkpoint; each must continue the last",
        "Every sentinel, witness and contract",
    ),
    (
        "The operator shows different people different logs",
        "Witnesses' cosignatures; one anchored history on chain, whose contract refuses another",
        "Sentinels; anybody with an explorer",
    ),
    (
        "The operator leaves out a call",
        "The receipt names the entry's place and hash, and the entry the receipt",
        "The receipt's holder, offline",
    ),
    (
        "The operator publishes a wrong total for a wallet",
        "All totals are a tree, whose root is an entry of the log",
        "Sentinels; your browser, for one wallet",
    ),
    (
        "Somebody counts their usage for another's wallet",
        "Only what the wallet signed for is bound; all else is labelled as claimed",
        "Every sentinel",
    ),
];

/// What nothing here stops.
const UNPROVEN: &[(&str, &str)] = &[
    (
        "An operator can invent calls for its own wallet.",
        "Each record commits to the provider's response id, so a provider's bill can settle it; the log alone can't.",
    ),
    (
        "Whoever learns an API key can find its history.",
        "Key ids are hashes of keys.",
    ),
    (
        "A stolen log key forges receipts.",
        "A second history is caught; a receipt for nothing is not.",
    ),
    (
        "A power cut may lose what was in flight.",
        "A killed process loses nothing: its calls come back as unknown.",
    ),
    (
        "Without witnesses and anchors, two histories are found only by comparing.",
        "Whoever looks alone sees one of them, and it looks right.",
    ),
];

/// The whole of it on one screen.
pub(super) async fn how(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let body = html! {
        h1 { "How it works" }
        p.lead {
            "A tally stick was split in two, so that neither side could change the count alone. "
            "Here you keep signed receipts, the operator keeps the log, and anybody can check that "
            "the two halves still match."
        }
        ol {
            li { "Your tools call their providers through this gateway, with your own key, which is forwarded and forgotten." }
            li { "The provider's own count becomes an entry of the log: time, model, tokens. Never a prompt, an answer or a key." }
            li { "You get a receipt, signed, once the entry is safely stored." }
            li { "Every second or so the log signs a checkpoint over all entries; witnesses cosign it, and chains keep its root." }
        }
        h2 { "What is proven" }
        table.rows {
            caption.quiet { "What could go wrong, what stops it, and who can check that" }
            thead { tr { th scope="col" { "If" } th scope="col" { "it is stopped by" } th scope="col" { "which is checked by" } } }
            tbody {
                @for (threat, stopped, by) in PROVEN {
                    tr { td.first { (threat) } td.whole { (stopped) } td.whole { (by) } }
                }
            }
        }
        h2 { "What is not" }
        ul { @for (limit, but) in UNPROVEN { li { strong { (limit) } " " (but) } } }
        p {
            "How a number was observed stands beside it: " span.label { "proxy" } " the gateway saw a configured "
            "provider's answer, " span.label { "custom" } " that of a host the client named. Wallets are "
            span.label.bound { "bound" } " by their signature, or only " span.label.claimed { "claimed" }
            " by a request. What differs in that is never added."
        }
    };
    let about = "What this log proves about LLM usage, what it does not, and who checks it.";
    Page::new("/how", "How it works", about, body).answer(&api, &headers)
}
