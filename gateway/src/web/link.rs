//! Link a wallet: what becomes public, said before anybody signs, and the form
//! that `link.js` brings to life.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::format::lines;
use super::layout::Page;
use super::visited;
use crate::api::Api;
use crate::sdk::{SDKS, Sdk};

/// Where a wallet is linked.
pub(super) async fn link(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let about = "Count your calls for a wallet: what becomes public, and how to sign it.";
    let here = visited(&headers);
    let body = html! {
        h1 { "Link a wallet" }
        p.lead {
            "Your wallet signs once that the calls of a key count for it. From then on its total "
            "is proven, and on the leaderboard."
        }
        (public(api.verifier.origin().as_str()))
        noscript {
            p.callout.warn {
                "A browser's wallet can be asked by a script only. Without one, link it in a "
                "terminal, as below."
            }
        }
        (form(&api.providers))
        p #link-status .callout role="status" hidden {}
        (result(&here, &api.providers))
        h2 { "In a terminal" }
        p { "The same without this page: it makes the link token, shows the text, and takes the "
            "signature from wherever your key is, such as " code { "cast wallet sign" } "." }
        (command(&here))
    };
    let page = Page::new("/link", "Link a wallet", about, body);
    page.scripts(&["link.js"]).answer(&api, &headers)
}

fn command(here: &str) -> Markup {
    lines(&format!("gateway link {here} --wallet 0x..."))
}

/// The account of what is public (PROTOCOL.md sections 4.2, 4.3 and 12).
fn public(origin: &str) -> Markup {
    html! {
        h2 #public { "What becomes public" }
        div.cards {
            section.card {
                h3 { "For ever, for everybody" }
                ul {
                    li { "Your wallet's address, the key's id (a hash), your signature, its time and chain." }
                    li { "Of every call with that key from then on: time to the second, provider, model, "
                         "token counts, how it ended, and your wallet." }
                    li { "Of earlier calls with that key: the same, under the key's id, which now leads to your wallet." }
                }
                p { strong { "Nothing of this can be taken back." } " The log " code { (origin) }
                    " is append-only, and others keep copies. Releasing the key ends it for calls "
                    "that come after." }
            }
            section.card {
                h3 { "Never stored" }
                ul {
                    li { "Prompts, answers, headers, URLs." }
                    li { "Your API key and your link token: only their hash. Whoever learns one can "
                         "compute the hash, and so find its history." }
                    li { "Network addresses." }
                }
                p { "That whoever links a key holds it is attested by this log's operator alone. If "
                    "somebody linked yours, you can see it and burn it." }
            }
        }
    }
}

fn form(providers: &[String]) -> Markup {
    html! {
        form #link-form hidden autocomplete="off" {
            h2 { "1. Which key" }
            fieldset.kinds {
                legend.quiet { "Which key" }
                label { input type="radio" name="kind" value="new" checked; " A new link token " span.label.ok { "recommended" } }
                label { input type="radio" name="kind" value="given"; " A link token that I have" }
                label { input type="radio" name="kind" value="credential"; " An API key" }
            }
            div #link-made {
                p { "It is yours to keep: whoever has it calls in your name. It outlasts API keys and "
                    "logins that rotate (Claude Code, Codex), and was made in this page." }
                div.code data-copy { pre tabindex="0" { code #link-new {} } }
            }
            div #link-given hidden {
                p { label for="link-token" { "Link token, 43 characters" } }
                input #link-token type="password" size="44" maxlength="64" spellcheck="false" autocomplete="off";
            }
            div #link-credential hidden {
                p { "It goes to this gateway, which hashes it and forgets it. A call with it must have been "
                    "recorded here before. A key that rotates (OAuth, JWT) is linked only until it does: take a link token." }
                div.line {
                    label for="link-provider" { "Provider" }
                    select #link-provider {
                        @for sdk in known(providers).filter(|sdk| !sdk.keys.is_empty()) {
                            option value=(sdk.provider) { (sdk.title) }
                        }
                    }
                    label for="link-key" { "API key" }
                    input #link-key type="password" size="44" spellcheck="false" autocomplete="off";
                }
            }
            h2 { "2. Which wallet" }
            p #wallet-none .callout.warn {
                "No wallet is in this browser. Install one, or sign elsewhere: below, or in a terminal."
            }
            p #wallet-choice hidden {
                label for="wallet" { "Wallet" } " "
                select #wallet {}
            }
            p { button #wallet-connect .main type="button" { "Connect wallet" } }
            details {
                summary { "Sign elsewhere" }
                p { label for="hand-wallet" { "Wallet, 0x and 40 hex digits" } }
                p { input #hand-wallet size="44" spellcheck="false"; " "
                    button #hand-text type="button" { "Show the text to sign" } }
                p { label for="hand-signature" { "Signature of that text, 0x and 130 hex digits" } }
                p { input #hand-signature size="44" spellcheck="false"; " "
                    button #hand-send type="button" { "Link" } }
            }
            h2 { "3. Read and sign" }
            p { "Signing costs nothing and moves nothing: it is no transaction. The text comes after you connect." }
            div #link-message hidden { pre.whole tabindex="0" { code #link-text {} } }
            p { button #wallet-sign .main type="button" disabled { "Sign and link" } }
        }
    }
}

/// What `link.js` fills in.
fn result(here: &str, providers: &[String]) -> Markup {
    html! {
        section #link-result .callout.ok tabindex="-1" hidden aria-label="The link" {
            h2 { "Linked" }
            p { "Entry " a #result-entry href="/link" {} " of the log binds the key to "
                a #result-wallet .hash href="/link" {} ". Its total is proven with the log's next totals entry." }
            div #result-urls hidden {
                p { "With these base URLs your calls count for it, whatever API key they are made with:" }
                @for sdk in known(providers).filter(|sdk| sdk.base.is_some()) { (base_url(sdk, here)) }
                details {
                    summary { "Other providers" }
                    @for sdk in known(providers).filter(|sdk| sdk.base.is_none()) { (base_url(sdk, here)) }
                }
            }
            details {
                summary { "The receipt: keep it" }
                div.code data-copy { pre tabindex="0" { code #result-receipt {} } }
            }
        }
    }
}

/// A base URL, in which `link.js` puts the token.
fn base_url(sdk: &Sdk, here: &str) -> Markup {
    html! {
        p { (sdk.title) @if let Some(variable) = sdk.base { " (" code { (variable) } ")" } }
        div.code data-copy {
            pre tabindex="0" { code data-base=(sdk.base_url(here, "/t/{token}")) {} }
        }
    }
}

/// The providers that calls are forwarded to and whose clients are known.
fn known(providers: &[String]) -> impl Iterator<Item = &'static Sdk> {
    let served = |sdk: &&Sdk| providers.iter().any(|name| name == sdk.provider);
    SDKS.iter().filter(served)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_the_signed_text_says() {
        let page = public("log.example.org").into_string();
        for word in [
            "time",
            "provider",
            "model",
            "token counts",
            "For ever",
            "Prompts",
            "Network addresses",
        ] {
            assert!(page.contains(word), "{word}");
        }
    }

    #[test]
    fn keys_are_taken_and_urls_shown_of_this_logs_providers_only() {
        let providers = [
            "anthropic".to_owned(),
            "mine".to_owned(),
            "ollama".to_owned(),
        ];
        let form = form(&providers).into_string();
        assert!(form.contains("<option value=\"anthropic\">"));
        assert!(
            !form.contains("openai") && !form.contains("ollama"),
            "it has no keys"
        );
        let result = result("https://log.example.org", &providers).into_string();
        assert!(result.contains("data-base=\"https://log.example.org/anthropic/t/{token}\""));
        assert!(!result.contains("openai"));
    }
}
