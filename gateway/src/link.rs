//! `gateway link`: makes a link token or takes a credential, has a wallet sign
//! what it agrees to, and shows the binding's receipt.
//!
//! A client of any log. What the log says is not believed: the text to sign is
//! made here, and the receipt is checked.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use http::header::{HeaderName, HeaderValue};
use protocol::binding::{Action, Binding};
use protocol::consent::{Message, Role, Signature, Terms, recover};
use protocol::entry::{Body, Entry};
use protocol::hash::{Hash, key_id};
use protocol::index::Time;
use protocol::key::{Origin, VerifierKey};
use protocol::name::{Address, AddressError};
use protocol::receipt::Receipt;
use serde_json::{Value, json};

use crate::client::{AskError, Log, json_headers, secret_header};
use crate::proxy::LinkToken;
use crate::sdk::{Key, SDKS, Sdk};

/// Where a token that was made before stands: in no list of processes.
pub(crate) const TOKEN: &str = "TALLY_LINK_TOKEN";

/// How often a log is asked whether a browser has bound the key.
const PACE: Duration = Duration::from_secs(1);

/// How long a browser may take: a message from a template holds as long.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What `gateway link` is asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct LinkOptions {
    /// The log's URL, such as `https://log.example.org`
    url: String,

    /// The wallet to bind: 0x and 40 hex digits. Without it the browser's
    /// wallet says which it is
    #[arg(long, value_name = "ADDRESS")]
    wallet: Option<String>,

    /// Bind the API key in this environment variable, such as OPENAI_API_KEY,
    /// instead of a link token. A call with it must have been recorded before
    #[arg(long, value_name = "VARIABLE")]
    credential: Option<String>,

    /// The chain that the message names
    #[arg(long, value_name = "ID", default_value_t = 1)]
    chain_id: u64,

    /// The log's verifier key, if you know it: nothing is asked of another log
    #[arg(long, value_name = "VKEY")]
    vkey: Option<String>,

    /// Print one JSON object; everything for people goes to standard error
    #[arg(long)]
    json: bool,
}

/// Why nothing was bound.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// An argument.
    #[error("{0}")]
    Argument(String),
    /// The wallet's address.
    #[error(transparent)]
    Wallet(#[from] AddressError),
    /// The log could not be asked, or refused.
    #[error(transparent)]
    Log(#[from] AskError),
    /// Somebody holds the key, or it was burnt.
    #[error("{0}")]
    Held(String),
    /// The signature can't be the wallet's.
    #[error("the signature: {0}")]
    Signature(String),
    /// The terminal.
    #[error("no signature was given")]
    NoSignature(#[source] io::Error),
    /// The browser took too long.
    #[error("no browser bound the key within {} minutes", PATIENCE.as_secs() / 60)]
    NoBrowser,
    /// The operating system gives no randomness.
    #[error("no randomness for a link token: {0}")]
    Random(getrandom::Error),
}

impl LinkError {
    /// Whether the command line is to blame.
    pub fn is_wrong_use(&self) -> bool {
        matches!(
            self,
            Self::Argument(_) | Self::Wallet(_) | Self::Log(AskError::Url(_))
        )
    }
}

/// What shows that we hold a key.
enum Secret {
    /// A link token, and whether it is new.
    Token { bytes: [u8; 32], made: bool },
    /// A provider's API key.
    Credential {
        sdk: &'static Sdk,
        key: Key,
        value: String,
    },
}

/// A binding in the log, with what was checked of it.
struct Bound {
    index: u64,
    wallet: Address,
    entry: String,
    note: String,
}

/// Runs it on the terminal.
///
/// # Errors
/// [`LinkError`].
pub async fn run(options: LinkOptions) -> Result<(), LinkError> {
    let wallet = options.wallet.as_deref().map(Address::from_checked);
    let wallet = wallet.transpose()?;
    let log = Log::new(&options.url)?;
    let secret = Secret::choose(&options)?;
    if !log.is_private() && matches!(secret, Secret::Credential { .. }) {
        return Err(LinkError::Argument(
            "an API key is not sent over plain http to another machine: give the log's https URL"
                .into(),
        ));
    }
    let key = log.key(options.vkey.as_deref()).await?;
    let key_id = secret.key_id(key.origin());
    let providers = log.providers().await?;
    let mut out = Out::new(options.json);
    secret.introduce(&mut out, &log, &providers);
    let bound = match holder(&log, &key, key_id).await? {
        Some(bound) if wallet.is_none_or(|wallet| wallet == bound.wallet) => bound,
        Some(bound) => {
            let (holder, index) = (bound.wallet.checksummed(), bound.index);
            return Err(LinkError::Held(format!(
                "the key is bound to {holder} since entry {index}: only that wallet can move or \
                 release it"
            )));
        }
        None => {
            let asks = Asks {
                log: &log,
                key: &key,
                key_id,
                secret: &secret,
                chain_id: options.chain_id,
            };
            asks.bind(&mut out, wallet).await?
        }
    };
    out.answer(&log, &key, &secret, key_id, &providers, &bound);
    Ok(())
}

impl Secret {
    fn choose(options: &LinkOptions) -> Result<Self, LinkError> {
        if let Some(variable) = &options.credential {
            return Self::credential(variable);
        }
        let given = std::env::var(TOKEN).ok();
        if given.is_none() && !options.json && io::stdin().is_terminal() {
            let found = SDKS.iter().flat_map(|sdk| sdk.keys);
            let found: Vec<_> = found
                .map(|key| key.variable)
                .filter(|variable| std::env::var_os(variable).is_some())
                .collect();
            if let Some(variable) = ask_which(&found)? {
                return Self::credential(&variable);
            }
        }
        Self::token(given.as_deref())
    }

    fn token(given: Option<&str>) -> Result<Self, LinkError> {
        let Some(given) = given else {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(LinkError::Random)?;
            return Ok(Self::Token { bytes, made: true });
        };
        let token = LinkToken::parse(given.trim().as_bytes()).ok_or_else(|| {
            LinkError::Argument(format!("{TOKEN} is not 43 characters of base64url"))
        })?;
        Ok(Self::Token {
            bytes: *token.as_bytes(),
            made: false,
        })
    }

    fn credential(variable: &str) -> Result<Self, LinkError> {
        let mut known = SDKS
            .iter()
            .flat_map(|sdk| sdk.keys.iter().map(move |key| (sdk, key)));
        let found = known.find(|(_, key)| key.variable == variable);
        let (sdk, key) = found.ok_or_else(|| {
            let names = SDKS.iter().flat_map(|sdk| sdk.keys).map(|key| key.variable);
            let names = names.collect::<Vec<_>>().join(", ");
            LinkError::Argument(format!("{variable:?} is none of {names}"))
        })?;
        let value = std::env::var(variable)
            .unwrap_or_default()
            .trim()
            .to_owned();
        if value.is_empty() {
            return Err(LinkError::Argument(format!("{variable} is not set")));
        }
        Ok(Self::Credential {
            sdk,
            key: *key,
            value,
        })
    }

    fn key_id(&self, origin: &Origin) -> Hash {
        match self {
            Self::Token { bytes, .. } => key_id(origin, "link", bytes),
            Self::Credential { sdk, value, .. } => key_id(origin, sdk.provider, value.as_bytes()),
        }
    }

    fn header(&self) -> Result<(HeaderName, HeaderValue), LinkError> {
        let header = match self {
            Self::Token { bytes, .. } => {
                secret_header("x-tally-link", &URL_SAFE_NO_PAD.encode(bytes))
            }
            Self::Credential { key, value, .. } => secret_header(key.header, &key.value(value)),
        };
        header.ok_or_else(|| LinkError::Argument("the credential can't stand in a header".into()))
    }

    /// Tells what is about to be bound, and where the token goes.
    fn introduce(&self, out: &mut Out, log: &Log, providers: &[String]) {
        let Self::Token { bytes, made } = self else {
            return;
        };
        let text = URL_SAFE_NO_PAD.encode(bytes);
        if *made {
            out.say("Your link token, which is yours to keep: whoever has it calls in your name.");
            out.say(&format!("\n  {text}\n\nTo use it again: {TOKEN}={text}"));
        }
        out.say(
            "\nWith these base URLs your calls count for it, whatever API key they are made with:",
        );
        for sdk in SDKS
            .iter()
            .filter(|sdk| providers.iter().any(|p| p == sdk.provider))
        {
            if let Some(variable) = sdk.base {
                let url = sdk.base_url(log.url(), &format!("/t/{text}"));
                out.say(&format!("  {variable}={url}"));
            }
        }
        out.say(&format!(
            "Others likewise: {}/<provider>/t/{text}/...",
            log.url()
        ));
    }
}

/// Which credential to bind, if not a link token.
fn ask_which(found: &[&str]) -> Result<Option<String>, LinkError> {
    if found.is_empty() {
        return Ok(None);
    }
    eprintln!(
        "These variables hold API keys: {}.\n\
         A link token is the better way: it outlasts keys and logins that rotate, and several\n\
         people may share a key.",
        found.join(", ")
    );
    eprint!("Press Enter to make a link token, or name the variable whose key to bind: ");
    let answer = line().map_err(LinkError::NoSignature)?;
    let answer = answer.trim();
    Ok((!answer.is_empty()).then(|| answer.to_owned()))
}

/// What a key is to be bound with.
struct Asks<'a> {
    log: &'a Log,
    key: &'a VerifierKey,
    key_id: Hash,
    secret: &'a Secret,
    chain_id: u64,
}

impl Asks<'_> {
    /// Has it bound: by the browser, or by a signature that is made elsewhere
    /// if the wallet is known.
    async fn bind(&self, out: &mut Out, wallet: Option<Address>) -> Result<Bound, LinkError> {
        let by_browser = async {
            match self.secret {
                Secret::Token { .. } => self.waits().await,
                // A page is given no credential but by its visitor.
                Secret::Credential { .. } => std::future::pending().await,
            }
        };
        match (self.secret, wallet) {
            (Secret::Token { bytes, .. }, _) => {
                let token = URL_SAFE_NO_PAD.encode(bytes);
                // What follows # is sent to nobody.
                let page = format!("{}/link#token={token}", self.log.url());
                out.say(&format!("\nTo sign with a browser wallet, open\n  {page}"));
            }
            (Secret::Credential { .. }, Some(_)) => {}
            (Secret::Credential { .. }, None) => {
                return Err(LinkError::Argument(format!(
                    "with --credential, give --wallet, too; or paste the key at {}/link",
                    self.log.url()
                )));
            }
        }
        let Some(wallet) = wallet else {
            return by_browser.await;
        };
        tokio::select! {
            bound = by_browser => bound,
            bound = self.by_signature(out, wallet) => bound,
        }
    }

    /// Waits until somebody bound the key.
    async fn waits(&self) -> Result<Bound, LinkError> {
        let bound = async {
            loop {
                tokio::time::sleep(PACE).await;
                match holder(self.log, self.key, self.key_id).await {
                    Ok(Some(bound)) => return Ok(bound),
                    // A browser takes longer than a log is away.
                    Ok(None) | Err(LinkError::Log(AskError::NoAnswer { .. })) => {}
                    Err(error) => return Err(error),
                }
            }
        };
        let bound = tokio::time::timeout(PATIENCE, bound).await;
        bound.unwrap_or(Err(LinkError::NoBrowser))
    }

    async fn by_signature(&self, out: &mut Out, wallet: Address) -> Result<Bound, LinkError> {
        let (key_id, chain_id) = (self.key_id, self.chain_id);
        let path =
            format!("/api/bindings/template?key_id={key_id}&wallet={wallet}&chain_id={chain_id}");
        let template = self.log.get(&path).await?;
        let message = rebuilt(&template, self.key, key_id, wallet, chain_id)?;
        let signer = wallet.checksummed();
        out.say(&format!(
            "\nThis is what {signer} signs:\n---\n{message}\n---"
        ));
        let signature = signature(&message, wallet).await?;
        let mut fields = template.clone();
        fields["signature"] = json!(alloy_primitives::hex::encode_prefixed(signature));
        let mut headers = json_headers();
        headers.extend([self.secret.header()?]);
        let body = Some(fields.to_string());
        let answer = self.log.ask(Method::POST, "/api/bindings", headers, body);
        let bound = opened(&answer.await?.granted()?, self.key, key_id)?;
        let (bound, Action::Link(consent)) = bound else {
            return Err(wrong("the receipt is of another binding"));
        };
        let same = consent.terms == message.terms
            && consent.signature == Signature::Eip191(signature)
            && consent.wallet == wallet;
        match same {
            true => Ok(bound),
            false => Err(wrong("the receipt is of another binding")),
        }
    }
}

/// Who holds a key, by the binding entry that says so.
async fn holder(log: &Log, key: &VerifierKey, key_id: Hash) -> Result<Option<Bound>, LinkError> {
    let state = log.get(&format!("/api/bindings/{key_id}")).await?;
    match state["state"].as_str() {
        Some("free") => return Ok(None),
        Some("bound") => {}
        Some("burnt") => return Err(LinkError::Held("the key was burnt".into())),
        _ => return Err(wrong("it does not say what became of the key")),
    }
    let since = state["since"].as_u64();
    let since = since.ok_or_else(|| wrong("it does not say since when the key is bound"))?;
    let record = log.get(&format!("/api/records/{since}")).await?;
    let (bound, _) = opened(&record, key, key_id)?;
    Ok(Some(bound))
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
    let wrong = |field: &str| wrong(&format!("the template's {field}"));
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

/// Asks for the wallet's signature.
async fn signature(message: &Message<'_>, wallet: Address) -> Result<[u8; 65], LinkError> {
    if io::stdin().is_terminal() {
        eprintln!(
            "\nOr sign it as a personal message (EIP-191), for instance:\n  \
             cast wallet sign --interactive '<the text between the lines>'"
        );
        eprint!("Signature: ");
        let _ = io::stderr().flush();
    }
    let line = tokio::task::spawn_blocking(line).await;
    let line = line.map_err(io::Error::other).and_then(|line| line);
    let line = line.map_err(LinkError::NoSignature)?;
    let wrong = || LinkError::Signature("expected 0x and 130 hex digits: r, s, v".into());
    let text = Some(line.trim()).filter(|line| line.starts_with("0x"));
    let bytes = text.and_then(|text| alloy_primitives::hex::decode(text).ok());
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

/// A line of standard input; its end is an error.
fn line() -> io::Result<String> {
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line),
    }
}

/// A record of a binding that holds this key for a wallet, and what it did, if
/// receipt and signatures are right.
fn opened(record: &Value, key: &VerifierKey, key_id: Hash) -> Result<(Bound, Action), LinkError> {
    let text = |field: &str| record[field].as_str().unwrap_or_default();
    let entry = text("entry");
    let receipt = Receipt::open(text("receipt").as_bytes(), key);
    let receipt = receipt.map_err(|error| wrong(&error.to_string()))?;
    if receipt.leaf_hash() != Hash::leaf(entry.as_bytes()) {
        return Err(wrong("the receipt is of another entry"));
    }
    let Ok(Entry::Known {
        time,
        body: Body::Binding(binding),
    }) = Entry::parse(entry.as_bytes())
    else {
        return Err(wrong("the entry is no binding"));
    };
    let Binding { action, .. } = &binding;
    let wallet = match action {
        Action::Link(consent) => consent.wallet,
        Action::Move { to, .. } => *to,
        Action::Release(_) | Action::Burn => return Err(wrong("the entry binds no key")),
    };
    if binding.key_id != key_id {
        return Err(wrong("the entry binds another key"));
    }
    let judged = binding.judge(key.origin(), time);
    judged.map_err(|error| wrong(&error.to_string()))?;
    let bound = Bound {
        index: receipt.index().get(),
        wallet,
        entry: entry.to_owned(),
        note: text("receipt").to_owned(),
    };
    Ok((bound, binding.action))
}

fn wrong(what: &str) -> LinkError {
    LinkError::Log(AskError::Wrong(what.into()))
}

/// Where what is said goes: with `--json`, only the answer to standard output.
struct Out {
    json: bool,
}

impl Out {
    fn new(json: bool) -> Self {
        Self { json }
    }

    fn say(&mut self, text: &str) {
        match self.json {
            true => eprintln!("{text}"),
            false => println!("{text}"),
        }
    }

    fn answer(
        &mut self,
        log: &Log,
        key: &VerifierKey,
        secret: &Secret,
        key_id: Hash,
        providers: &[String],
        bound: &Bound,
    ) {
        let (origin, index, note) = (key.origin(), bound.index, &bound.note);
        if !self.json {
            println!("\nBound by entry {index} of {origin}. Its receipt:\n\n{note}");
            println!("What it is worth: {}/wallet/{}", log.url(), bound.wallet);
            return;
        }
        let mut answer = json!({
            "origin": origin.to_string(),
            "key_id": key_id.to_string(),
            "wallet": bound.wallet.to_string(),
            "index": index,
            "entry": bound.entry,
            "receipt": note,
        });
        if let Secret::Token { bytes, .. } = secret {
            let token = URL_SAFE_NO_PAD.encode(bytes);
            let named = SDKS
                .iter()
                .filter(|s| providers.iter().any(|p| p == s.provider));
            let urls = named.map(|sdk| {
                let url = sdk.base_url(log.url(), &format!("/t/{token}"));
                (sdk.provider.to_owned(), json!(url))
            });
            answer["base_urls"] = Value::Object(urls.collect());
            answer["token"] = json!(token);
        }
        println!("{answer}");
    }
}
