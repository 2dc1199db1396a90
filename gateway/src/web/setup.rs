//! Set up: lines to copy, each true for this server as its visitor reached it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use maud::{Markup, html};

use super::format::lines;
use super::layout::Page;
use super::visited;
use crate::api::Api;
use crate::client::is_loopback;
use crate::sdk::{SDKS, Sdk};

/// How to point tools here.
pub(super) async fn setup(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let about = "Lines to copy, to send the calls of your tools through this gateway.";
    let body = body(&visited(&headers), &api.providers);
    Page::new("/setup", "Set up", about, body).answer(&api, &headers)
}

/// A tool or SDK: the provider that it calls, its name, and what to write.
type Tool = (&'static str, &'static str, fn(&str) -> Markup);

/// Those that get a section, in their order; `base` is that of the provider.
const TOOLS: &[Tool] = &[
    ("anthropic", "Claude Code", |base| {
        let settings =
            format!("{{\n  \"env\": {{\n    \"ANTHROPIC_BASE_URL\": \"{base}\"\n  }}\n}}");
        html! {
            p { "For one session:" }
            (lines(&format!("ANTHROPIC_BASE_URL={base} claude")))
            p { "For all of them, in " code { "~/.claude/settings.json" } ":" }
            (lines(&settings))
        }
    }),
    ("openai", "Codex", |base| {
        html! {
            p { "In " code { "~/.codex/config.toml" } ", the first line before all tables. It takes an "
                "API key: a ChatGPT login is good for ChatGPT's own server only." }
            (lines(&format!(
                "model_provider = \"tallystick\"\n\n[model_providers.tallystick]\n\
                 name = \"OpenAI through Tallystick\"\nbase_url = \"{base}\"\n\
                 env_key = \"OPENAI_API_KEY\"\nwire_api = \"responses\""
            )))
        }
    }),
    ("openai", "Cursor", |base| {
        html! {
            @if is_here(base) {
                p { "Cursor's own servers make its calls, and they can't reach a gateway on this "
                    "machine: it takes one with a public address." }
            } @else {
                p { "In Settings, Models, API Keys: give your OpenAI key, turn on "
                    em { "Override OpenAI Base URL" } ", and paste" }
                (lines(base))
            }
        }
    }),
    ("gemini", "Gemini CLI", |base| {
        html! {
            p { "In " code { "~/.gemini/.env" } ". It heeds it with an API key, not with a Google login." }
            (lines(&format!("GOOGLE_GEMINI_BASE_URL={base}")))
        }
    }),
    ("openai", "OpenAI SDK", |base| {
        html! {
            p { "Every language's SDK reads" }
            (lines(&format!("export OPENAI_BASE_URL={base}")))
            p { "Or in Python, and likewise elsewhere:" }
            (lines(&format!("client = OpenAI(base_url=\"{base}\")")))
        }
    }),
    ("anthropic", "Anthropic SDK", |base| {
        html! {
            (lines(&format!("export ANTHROPIC_BASE_URL={base}")))
            p { "Or in Python, and likewise elsewhere:" }
            (lines(&format!("client = Anthropic(base_url=\"{base}\")")))
        }
    }),
    ("openai", "curl", |base| {
        html! {
            (lines(&format!(
                "curl -i {base}/chat/completions \\\n  -H \"Authorization: Bearer $OPENAI_API_KEY\" \
                 -H \"Content-Type: application/json\" \\\n  -d '{{\"model\": \"gpt-5-mini\", \
                 \"messages\": [{{\"role\": \"user\", \"content\": \"hello\"}}]}}'"
            )))
            p { "The answer's header " code { "x-tally-receipt-id" } " names the call's receipt." }
        }
    }),
    ("anthropic", "curl, to Anthropic", |base| {
        html! {
            (lines(&format!(
                "curl -i {base}/v1/messages \\\n  -H \"x-api-key: $ANTHROPIC_API_KEY\" \
                 -H \"anthropic-version: 2023-06-01\" \\\n  -H \"Content-Type: application/json\" \
                 -d '{{\"model\": \"claude-haiku-4-5\", \"max_tokens\": 64, \
                 \"messages\": [{{\"role\": \"user\", \"content\": \"hello\"}}]}}'"
            )))
        }
    }),
];

/// Whether an address is of the machine that it is used on.
fn is_here(base: &str) -> bool {
    let uri = base.parse::<Uri>();
    uri.is_ok_and(|uri| uri.host().is_some_and(is_loopback))
}

fn body(here: &str, providers: &[String]) -> Markup {
    let served = |name: &str| providers.iter().any(|provider| provider == name);
    let base = |name| Sdk::of(name).map(|sdk| sdk.base_url(here, ""));
    let tools = TOOLS.iter().filter(|(provider, ..)| served(provider));
    let tools = tools.filter_map(|(provider, title, text)| Some((title, text(&base(provider)?))));
    html! {
        h1 { "Set up" }
        p.lead {
            "Your tools call this gateway instead of the provider, with your own API key, which "
            "is forwarded and forgotten. Everything else stays as it is."
        }
        h2 { "One command" }
        p { "It finds Claude Code, Codex, Gemini CLI, Cursor, OpenClaw and your SDKs' variables, "
            "shows what it would change, asks, tries one call, and can take all of it back." }
        (lines(&format!("gateway setup {here}")))
        p.small { code { "--dry-run" } " only looks, " code { "--undo" } " takes it back." }
        h2 { "Or by hand" }
        div.cards {
            @for (title, text) in tools {
                section.card { h3 { (title) } (text) }
            }
        }
        h2 { "Base URLs" }
        div.wide {
            table.rows {
                caption { "The providers that calls are forwarded to." }
                thead { tr { th scope="col" { "Provider" } th scope="col" { "Base URL" } } }
                tbody {
                    @for name in providers {
                        tr {
                            @match Sdk::of(name) {
                                Some(sdk) => {
                                    td.first { (sdk.title) }
                                    td.whole { code.hash { (sdk.base_url(here, "")) } }
                                },
                                None => {
                                    td.first { (name) }
                                    td.whole { code.hash { (here) "/" (name) } " and the provider's own path" }
                                },
                            }
                        }
                    }
                }
            }
        }
        h2 { "Count them for a wallet" }
        p {
            "A base URL with a link token, " code { "/" (SDKS[0].provider) "/t/<token>/v1" }
            ", counts your calls for the token, whatever key they are made with. "
            a href="/link" { "Link a wallet" } " makes one and shows the URLs."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_of_this_server_and_of_its_providers_only() {
        let some = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let https = "https://log.example.org";
        for (here, providers, with, without) in [
            (
                https,
                some(&["anthropic"]),
                vec![
                    "ANTHROPIC_BASE_URL=https://log.example.org/anthropic claude",
                    "Claude Code",
                ],
                vec!["/openai/v1", "Codex", "Gemini CLI", "127.0.0.1"],
            ),
            (
                https,
                some(&["gemini", "mine", "openai"]),
                vec![
                    "base_url = &quot;https://log.example.org/openai/v1&quot;",
                    "GOOGLE_GEMINI_BASE_URL=https://log.example.org/gemini<",
                    "https://log.example.org/mine",
                    "Override OpenAI Base URL",
                    "gateway setup https://log.example.org<",
                ],
                vec!["Claude Code", "claude"],
            ),
            (
                "http://127.0.0.1:8787",
                some(&["openai"]),
                vec![
                    "can't reach a gateway",
                    "export OPENAI_BASE_URL=http://127.0.0.1:8787/openai/v1",
                ],
                vec!["Override OpenAI Base URL", "log.example.org"],
            ),
            (
                "https://a\"><script>",
                some(&["openai"]),
                vec!["&lt;script&gt;"],
                vec!["<script>"],
            ),
        ] {
            let page = body(here, &providers).into_string();
            for part in with {
                assert!(page.contains(part), "{part}: {page}");
            }
            for part in without {
                // The command is said to look for every tool.
                let page = page.split("Or by hand").nth(1).unwrap_or_default();
                assert!(!page.contains(part), "{part}: {page}");
            }
        }
    }
}
