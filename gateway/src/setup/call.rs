//! One call end to end: through the gateway to a provider and back, and its
//! receipt out of the log.

use std::env;
use std::io::IsTerminal as _;
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use protocol::entry::{Body, Entry};
use protocol::hash::{Hash, receipt_commitment};
use protocol::key::VerifierKey;
use protocol::receipt::Receipt;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client::{Log, json_headers, secret_header};
use crate::sdk::{Key, SDKS, Sdk};

/// How often a receipt is asked for, and how many times.
const PACE: Duration = Duration::from_millis(250);
const TRIES: u32 = 60;

/// The trial of a log's gateway.
pub(super) struct Trial<'a> {
    pub(super) log: &'a Log,
    pub(super) key: &'a VerifierKey,
    /// What base URLs say behind the provider's name.
    pub(super) within: &'a str,
    pub(super) providers: &'a [String],
    /// The model, if one was named.
    pub(super) model: Option<&'a str>,
    /// Whether the call may be made without asking.
    pub(super) agreed: bool,
}

/// How providers are asked for a few tokens.
#[derive(Clone, Copy, Debug)]
struct Asked {
    provider: &'static str,
    models: &'static str,
    /// Small models by words in their names, the best first.
    small: &'static [&'static str],
    request: fn(&str) -> (String, Value),
}

const PROVIDERS: &[Asked] = &[
    Asked {
        provider: "anthropic",
        models: "/v1/models",
        small: &["haiku"],
        request: |model| {
            let body = json!({"model": model, "max_tokens": 1, "messages": question()});
            ("/v1/messages".into(), body)
        },
    },
    Asked {
        provider: "openai",
        models: "/v1/models",
        small: &["nano", "mini"],
        request: |model| {
            let body = json!({"model": model, "max_completion_tokens": 16, "messages": question()});
            ("/v1/chat/completions".into(), body)
        },
    },
    Asked {
        provider: "gemini",
        models: "/v1beta/models",
        small: &["flash-lite", "flash"],
        request: |model| {
            let body = json!({
                "contents": [{"parts": [{"text": "Say ok."}]}],
                "generationConfig": {"maxOutputTokens": 16},
            });
            (format!("/v1beta/models/{model}:generateContent"), body)
        },
    },
];

fn question() -> Value {
    json!([{"role": "user", "content": "Say ok."}])
}

impl Trial<'_> {
    /// Makes it, or says why it can't.
    ///
    /// # Errors
    /// A call was made, and something is wrong with it.
    pub(super) async fn run(&self) -> Result<(), String> {
        let Some((asked, sdk, key)) = self.with() else {
            println!(
                "No call was tried: none of {} is set here for a provider of this log.",
                PROVIDERS
                    .iter()
                    .filter_map(|asked| Some(Sdk::of(asked.provider)?.keys.first()?.variable))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            return Ok(());
        };
        if !self.log.is_private() {
            println!("No call was tried: a key is not sent over plain http to another machine.");
            return Ok(());
        }
        let headers = headers(asked, key)?;
        let question = format!(
            "Send the key in {} through {} to {}, to ask for its models and make one call of a \
             few tokens? It may cost a fraction of a cent.",
            key.variable,
            self.log.url(),
            sdk.title
        );
        let may = self.agreed
            || std::io::stdin().is_terminal()
                && super::agreed(&question).is_ok_and(|agreed| agreed);
        if !may {
            println!("No call was made; --call makes one without asking.");
            return Ok(());
        }
        let listed = self.listed(asked, headers.clone()).await?;
        let Some(model) = self.model.map(str::to_owned).or(listed) else {
            println!(
                "No call was tried: {} lists no model known to be small; name one with --model.",
                sdk.title
            );
            return Ok(());
        };
        self.call(asked, headers, &model).await
    }

    /// The first provider of the log for which a key is at hand.
    fn with(&self) -> Option<(Asked, &'static Sdk, Key)> {
        let served = |sdk: &&Sdk| self.providers.iter().any(|name| name == sdk.provider);
        let set = |key: &&Key| env::var_os(key.variable).is_some_and(|value| !value.is_empty());
        SDKS.iter().filter(served).find_map(|sdk| {
            let asked = PROVIDERS
                .iter()
                .find(|asked| asked.provider == sdk.provider)?;
            Some((*asked, sdk, *sdk.keys.iter().find(set)?))
        })
    }

    /// A small model of those that the provider lists, which costs nothing.
    async fn listed(&self, asked: Asked, headers: HeaderMap) -> Result<Option<String>, String> {
        let Asked {
            provider, models, ..
        } = asked;
        let path = format!("/{provider}{}{models}", self.within);
        let answer = self.log.ask(Method::GET, &path, headers, None).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status {
            StatusCode::OK => println!("{provider} answers through the gateway."),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(format!(
                    "{provider} answers through the gateway, but does not take the key: {}",
                    answer.reason()
                ));
            }
            _ => println!("{provider} lists no models: {}", answer.reason()),
        }
        let list = ["data", "models"].map(|list| answer.json[list].as_array());
        let list = list.into_iter().flatten().flatten();
        let names: Vec<_> = list
            .filter_map(|model| model["id"].as_str().or(model["name"].as_str()))
            .map(|name| name.trim_start_matches("models/"))
            .filter(|name| {
                name.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            })
            // What is not for text has such names, too.
            .filter(|name| {
                ![
                    "audio",
                    "realtime",
                    "image",
                    "tts",
                    "transcribe",
                    "search",
                    "live",
                ]
                .iter()
                .any(|word| name.contains(word))
            })
            .collect();
        let small = asked.small.iter().find_map(|word| {
            let mut fitting = names.iter().filter(|name| name.contains(word));
            fitting.next()
        });
        Ok(small.map(|name| (*name).to_owned()))
    }

    async fn call(&self, asked: Asked, headers: HeaderMap, model: &str) -> Result<(), String> {
        let (path, body) = (asked.request)(model);
        let path = format!("/{}{}{path}", asked.provider, self.within);
        let answer = self
            .log
            .ask(Method::POST, &path, headers, Some(body.to_string()));
        let answer = answer.await.map_err(|error| error.to_string())?;
        if answer.status != StatusCode::OK {
            return Err(format!("{} refuses: {}", asked.provider, answer.reason()));
        }
        let id = answer.headers.get("x-tally-receipt-id");
        let id = id.and_then(|id| id.to_str().ok());
        let id = id.and_then(|id| Uuid::parse_str(id).ok());
        let id = id.ok_or("the answer names no receipt: did it come through a gateway?")?;
        let record = self.receipt(id).await?;
        let (index, said) = checked(&record, self.key, id)?;
        println!("The call is in the log as entry {index}: {said}");
        println!("Its receipt {id} is signed by the log, and of this very call:");
        println!("  {}/record/{index}", self.log.url());
        println!("  {}/api/receipts/{id}?proof=1", self.log.url());
        Ok(())
    }

    /// The receipt, as soon as it is durable.
    async fn receipt(&self, id: Uuid) -> Result<Value, String> {
        let path = format!("/api/receipts/{id}");
        for _ in 0..TRIES {
            let answer = self.log.ask(Method::GET, &path, HeaderMap::new(), None);
            let answer = answer.await.map_err(|error| error.to_string())?;
            if answer.status != StatusCode::ACCEPTED {
                return answer.granted().map_err(|error| error.to_string());
            }
            tokio::time::sleep(PACE).await;
        }
        Err(format!(
            "its receipt {id} was still pending after {} s",
            (PACE * TRIES).as_secs()
        ))
    }
}

fn headers(asked: Asked, key: Key) -> Result<HeaderMap, String> {
    let credential = env::var(key.variable).unwrap_or_default();
    let header = secret_header(key.header, &key.value(credential.trim()));
    let header = header.ok_or(format!("{} can't stand in a header", key.variable))?;
    let mut headers = json_headers();
    headers.extend([header]);
    if asked.provider == "anthropic" {
        headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    }
    Ok(headers)
}

/// The index of a receipt, and what its entry counts, if it is of this call.
fn checked(record: &Value, key: &VerifierKey, id: Uuid) -> Result<(u64, String), String> {
    let text = |field: &str| record[field].as_str().unwrap_or_default();
    let receipt = Receipt::open(text("receipt").as_bytes(), key);
    let receipt = receipt.map_err(|error| format!("its receipt is wrong: {error}"))?;
    let entry = text("entry").as_bytes();
    if receipt.leaf_hash() != Hash::leaf(entry) {
        return Err("its receipt is of another entry".into());
    }
    let Ok(Entry::Known {
        body: Body::Usage(usage),
        ..
    }) = Entry::parse(entry)
    else {
        return Err("its receipt is of an entry that is no call".into());
    };
    if usage.receipt != receipt_commitment(id.as_bytes()) {
        return Err("its receipt is of another call".into());
    }
    let counts = usage.counts;
    let said = match (counts.input, counts.output) {
        (Some(input), Some(output)) => format!("{input} tokens in, {output} out."),
        _ => "the provider stated no usage.".into(),
    };
    Ok((receipt.index().get(), said))
}
