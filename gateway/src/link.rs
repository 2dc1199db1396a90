//! `gateway link`: makes a link token, has a wallet sign what it agrees to,
//! and shows the binding's receipt.
//!
//! A client of any log. What the log says is not believed: the text to sign is
//! made here, and the receipt is checked.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use protocol::binding::{Action, Binding, Consent};
use protocol::consent::{Message, Role, Signature, Terms, recover};
use protocol::entry::{Body, Entry};
use protocol::hash::{Hash, key_id};
use protocol::index::Time;
use protocol::key::VerifierKey;
use protocol::name::Address;
use protocol::receipt::Receipt;
use rustls::ClientConfig;
use serde_json::{Value, json};

/// Where a token that was made before stands: in no list of processes.
const TOKEN: &str = "TALLY_LINK_TOKEN";

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// What `gateway link` is asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct LinkOptions {
    /// The log's URL, such as `https://log.example.org`
    url: String,

    /// The wallet to bind: 0x and 40 hex digits
    #[arg(long, value_name = "ADDRESS")]
    wallet: String,

    /// The chain that the message names
    #[arg(long, value_name = "ID", default_value_t = 1)]
    chain_id: u64,

    /// The log's verifier key, if you know it: nothing is asked of another log
    #[arg(long, value_name = "VKEY")]
    vkey: Option<String>,
}

/// Why nothing was bound.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// An argument.
    #[error("{0}")]
    Argument(String),
    /// The log gave no answer.
    #[error("{url} gives no answer: {cause}")]
    NoAnswer {
        /// What was asked.
        url: String,
        /// Why.
        cause: String,
    },
    /// The log refused.
    #[error("the log refuses: {0}")]
    Refused(String),
    /// The log answered something that can't be right.
    #[error("the log's answer is wrong: {0}")]
    Wrong(String),
    /// The signature can't be the wallet's.
    #[error("the signature: {0}")]
    Signature(String),
    /// The terminal.
    #[error("no signature was given")]
    NoSignature(#[source] std::io::Error),
    /// The operating system gives no randomness.
    #[error("no randomness for a link token: {0}")]
    Random(getrandom::Error),
}

/// The log that is asked.
struct Log {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
}

/// Runs it on the terminal.
///
/// # Errors
/// [`LinkError`].
pub async fn run(options: LinkOptions) -> Result<(), LinkError> {
    let wallet = wallet(&options.wallet)?;
    let log = Log::new(&options.url)?;
    let key = log.key(options.vkey.as_deref()).await?;
    let (token, made) = token(std::env::var(TOKEN).ok().as_deref())?;
    let key_id = key_id(key.origin(), "link", &token);
    let text = URL_SAFE_NO_PAD.encode(token);
    let template = log.template(&key_id, &wallet, options.chain_id).await?;
    let message = rebuilt(&template, &key, key_id, wallet, options.chain_id)?;
    if made {
        println!("Your link token, which is yours to keep: whoever has it calls in your name.");
        println!("\n  {text}\n\nTo use it again: TALLY_LINK_TOKEN={text}");
    }
    println!(
        "\nWith these base URLs your calls count for it, whatever API key they are made with:"
    );
    println!("  OPENAI_BASE_URL={}/openai/t/{text}/v1", log.url);
    println!("  ANTHROPIC_BASE_URL={}/anthropic/t/{text}", log.url);
    println!("Others likewise: {}/<provider>/t/{text}/...\n", log.url);
    println!(
        "This is what {} signs:\n---\n{message}\n---",
        wallet.checksummed()
    );
    let signature = signature(&message, wallet)?;
    let binding = Binding {
        key_id,
        previous: message.previous,
        action: Action::Link(Consent {
            wallet,
            terms: message.terms,
            signature: Signature::Eip191(signature),
        }),
    };
    let answer = log.bind(&text, &template, &signature).await?;
    let (index, note) = opened(&answer, &key, &binding)?;
    println!(
        "\nBound by entry {index} of {}. Its receipt:\n\n{note}",
        key.origin()
    );
    println!("What it is worth: {}/api/wallet/{wallet}", log.url);
    Ok(())
}

fn wallet(text: &str) -> Result<Address, LinkError> {
    let wallet = Address::from_any_case(text);
    let wallet =
        wallet.filter(|w| Address::from_canonical(text).is_some() || w.checksummed() == text);
    wallet.ok_or_else(|| {
        LinkError::Argument(format!(
            "{text:?} is no wallet's address: expected 0x and 40 hex digits, in lower case or \
             with their checksum (EIP-55)"
        ))
    })
}

/// The link token, and whether it is new.
fn token(given: Option<&str>) -> Result<([u8; 32], bool), LinkError> {
    let Some(given) = given else {
        let mut token = [0; 32];
        getrandom::fill(&mut token).map_err(LinkError::Random)?;
        return Ok((token, true));
    };
    let token = URL_SAFE_NO_PAD.decode(given.trim()).ok();
    let token = token.and_then(|token| token.try_into().ok());
    let token = token.ok_or_else(|| {
        LinkError::Argument("TALLY_LINK_TOKEN is not 43 characters of base64url".into())
    })?;
    Ok((token, false))
}

/// The text to sign, from the template's numbers; the template's own text must
/// be the same.
fn rebuilt<'a>(
    template: &Value,
    key: &'a VerifierKey,
    key_id: Hash,
    wallet: Address,
    chain_id: u64,
) -> Result<Message<'a>, LinkError> {
    let wrong = |field: &str| LinkError::Wrong(format!("the template's {field}"));
    let time = |field: &str| {
        let time = template[field].as_u64().and_then(Time::from_secs);
        time.ok_or_else(|| wrong(field))
    };
    let previous = template["previous"].as_str().and_then(Hash::from_hex);
    let message = Message {
        origin: key.origin(),
        key_id,
        previous: previous.ok_or_else(|| wrong("previous"))?,
        wallet,
        role: Role::Link,
        terms: Terms {
            chain_id,
            issued_at: time("issued_at")?,
            expires_at: time("expires_at")?,
        },
    };
    match template["message"] == message.to_string() {
        true => Ok(message),
        false => Err(wrong("message is not what PROTOCOL.md says")),
    }
}

/// Asks for the wallet's signature until there is one.
fn signature(message: &Message<'_>, wallet: Address) -> Result<[u8; 65], LinkError> {
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprintln!(
            "\nSign it with your wallet as a personal message (EIP-191), for instance:\n  \
             cast wallet sign --interactive '<the text between the lines>'"
        );
        eprint!("Signature: ");
        let _ = std::io::stderr().flush();
    }
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(LinkError::NoSignature)?;
    let wrong = || LinkError::Signature("expected 0x and 130 hex digits: r, s, v".into());
    let digits = line.trim().strip_prefix("0x").ok_or_else(wrong)?;
    let bytes = (0..digits.len()).step_by(2).map(|at| {
        let pair = digits.get(at..at + 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    let bytes: Option<Vec<u8>> = bytes.collect();
    let bytes: [u8; 65] = bytes.and_then(|b| b.try_into().ok()).ok_or_else(wrong)?;
    let signer = recover(message.digest(), &bytes);
    let signer = signer.map_err(|error| LinkError::Signature(error.to_string()))?;
    if signer != wallet {
        let found = signer.checksummed();
        return Err(LinkError::Signature(format!(
            "it is of {found} on this text"
        )));
    }
    Ok(bytes)
}

/// The binding's index and receipt, if the log promises just this binding.
fn opened(
    answer: &Value,
    key: &VerifierKey,
    binding: &Binding,
) -> Result<(u64, String), LinkError> {
    let text = |field: &str| answer[field].as_str().unwrap_or_default();
    let entry = text("entry");
    let receipt = Receipt::open(text("receipt").as_bytes(), key);
    let receipt = receipt.map_err(|error| LinkError::Wrong(error.to_string()))?;
    let same = matches!(
        Entry::parse(entry.as_bytes()),
        Ok(Entry::Known { body: Body::Binding(said), .. }) if said == *binding
    );
    if !same || receipt.leaf_hash() != Hash::leaf(entry.as_bytes()) {
        return Err(LinkError::Wrong(
            "the receipt is not of this binding".into(),
        ));
    }
    Ok((receipt.index().get(), text("receipt").to_owned()))
}

impl Log {
    fn new(url: &str) -> Result<Self, LinkError> {
        let parsed = url.parse::<Uri>().ok();
        let whole = parsed.filter(|uri| uri.scheme().is_some() && uri.authority().is_some());
        whole.ok_or_else(|| {
            LinkError::Argument(format!("{url:?} is no URL: expected https://host[:port]"))
        })?;
        let tls =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let tls = tls.with_safe_default_protocol_versions();
        let tls = tls.map_err(|error| no_answer(url, &error))?;
        let tls = tls
            .with_native_roots()
            .map_err(|error| no_answer(url, &error))?;
        let tls = tls.with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls);
        let connector = connector.https_or_http().enable_http1().build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            url: url.trim_end_matches('/').to_owned(),
        })
    }

    async fn key(&self, expected: Option<&str>) -> Result<VerifierKey, LinkError> {
        let answer = self.ask(Method::GET, "/api/pubkey", None).await?;
        let text = answer["vkey"].as_str().unwrap_or_default();
        if expected.is_some_and(|expected| expected != text) {
            return Err(LinkError::Wrong(format!("its verifier key is {text}")));
        }
        VerifierKey::parse(text).map_err(|error| LinkError::Wrong(error.to_string()))
    }

    async fn template(
        &self,
        key_id: &Hash,
        wallet: &Address,
        chain_id: u64,
    ) -> Result<Value, LinkError> {
        let path =
            format!("/api/bindings/template?key_id={key_id}&wallet={wallet}&chain_id={chain_id}");
        self.ask(Method::GET, &path, None).await
    }

    async fn bind(
        &self,
        token: &str,
        template: &Value,
        signature: &[u8; 65],
    ) -> Result<Value, LinkError> {
        let digits: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut fields = template.clone();
        fields["signature"] = json!(format!("0x{digits}"));
        let body = Some((token, fields.to_string()));
        self.ask(Method::POST, "/api/bindings", body).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        sent: Option<(&str, String)>,
    ) -> Result<Value, LinkError> {
        let url = format!("{}{path}", self.url);
        let mut request = Request::builder().method(method).uri(&url);
        let mut body = Bytes::new();
        if let Some((token, text)) = sent {
            request = request.header("x-tally-link", token);
            request = request.header(CONTENT_TYPE, "application/json");
            body = text.into();
        }
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| no_answer(&url, &error))?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| no_answer(&url, &error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| no_answer(&url, &*error))?.to_bytes();
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.as_u16() == 200 {
            return Ok(json);
        }
        let message = json["message"].as_str();
        let message = message.map_or_else(|| status.to_string(), str::to_owned);
        Err(LinkError::Refused(message))
    }
}

fn no_answer(url: &str, error: &(dyn std::error::Error + 'static)) -> LinkError {
    let mut cause = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        cause = format!("{cause}: {error}");
        inner = error.source();
    }
    LinkError::NoAnswer {
        url: url.into(),
        cause,
    }
}
