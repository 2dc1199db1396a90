//! Configuration: flags, then environment, then the TOML file, then defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use protocol::key::{Origin, OriginError};
use protocol::name::Name;
use protocol::record::Source;
use serde::Deserialize;

use crate::chain::{RpcUrl, Settings, Template};
use crate::store::Database;
use crate::usage::Dialect;
use crate::witness::enlisted::{EnlistError, Witnesses};

/// Path segments that are the gateway's own, so no upstream may be called so.
pub const RESERVED: &[&str] = &[
    "anchors",
    "api",
    "assets",
    "badge",
    "card",
    "check",
    "checkpoint",
    "custom",
    "healthz",
    "how",
    "key",
    "link",
    "log",
    "metrics",
    "readyz",
    "record",
    "records",
    "setup",
    "tile",
    "wallet",
    "witnesses",
];

/// Where providers are by default.
const PROVIDERS: &[(&str, &str)] = &[
    ("anthropic", "https://api.anthropic.com"),
    ("cohere", "https://api.cohere.com"),
    ("deepseek", "https://api.deepseek.com"),
    ("fireworks", "https://api.fireworks.ai"),
    ("gemini", "https://generativelanguage.googleapis.com"),
    ("groq", "https://api.groq.com"),
    ("mistral", "https://api.mistral.ai"),
    ("ollama", "http://127.0.0.1:11434"),
    ("openai", "https://api.openai.com"),
    ("openrouter", "https://openrouter.ai"),
    ("perplexity", "https://api.perplexity.ai"),
    ("together", "https://api.together.xyz"),
    ("xai", "https://api.x.ai"),
];

/// Bindings a minute from one address.
const ENTRIES_PER_ADDRESS: NonZeroU32 = NonZeroU32::new(60).expect("it is not zero");

/// Providers whose chat streams state usage only when asked, and that take
/// being asked. The others state it by themselves, or refuse the question.
const ASKED: &[&str] = &["azure", "gemini", "ollama", "openai"];

/// A complete, checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The folder that holds database, keys and journal.
    pub data_dir: PathBuf,
    /// A PostgreSQL server's database for the log, by URL; else a file in the folder.
    pub database_url: Option<String>,
    /// The log's origin, if one was chosen.
    pub origin: Option<Origin>,
    /// Providers by name.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Who is asked to cosign checkpoints, and how many of them must.
    pub witnesses: Option<Witnesses>,
    /// Which chains are looked at.
    pub chains: Settings,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Seconds between totals entries of a log that this gateway begins.
    pub totals_interval: u64,
    /// Ports of hosts that clients may name; none: they may name none.
    pub custom_ports: BTreeSet<u16>,
    /// How long connecting to a provider may take.
    pub connect_within: Duration,
    /// How long a provider may take until its answer begins.
    pub answer_within: Duration,
    /// How long a provider may be silent within its answer.
    pub idle_within: Duration,
    /// Bytes of a request's body, at the most.
    pub max_request_body: u64,
    /// Calls in flight and records not yet durable, at the most.
    pub max_in_flight: usize,
    /// Calls a minute of one key id, if limited.
    pub calls_per_key: Option<NonZeroU32>,
    /// Calls a minute from one address, if limited.
    pub calls_per_address: Option<NonZeroU32>,
    /// Bindings a minute from one address; as many requests for totals.
    pub entries_per_address: NonZeroU32,
}

/// Limits as they are given; what is left open is `None`.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct GivenLimits {
    /// Seconds that connecting to a provider may take [default: 10]
    #[arg(long, env = "TALLY_CONNECT_TIMEOUT", value_name = "SECONDS")]
    connect_timeout: Option<u64>,

    /// Seconds until a provider's answer begins; longer than SDKs wait [default: 900]
    #[arg(long, env = "TALLY_ANSWER_TIMEOUT", value_name = "SECONDS")]
    answer_timeout: Option<u64>,

    /// Seconds that a provider may be silent within an answer, and both sides
    /// within a session; there is no limit on the whole of either [default: 600]
    #[arg(long, env = "TALLY_IDLE_TIMEOUT", value_name = "SECONDS")]
    idle_timeout: Option<u64>,

    /// MiB of a request's body; longer ones are refused with 413 [default: 256]
    #[arg(long, env = "TALLY_MAX_REQUEST_BODY", value_name = "MIB")]
    max_request_body: Option<u32>,

    /// Calls that run or are not yet durable; more are refused with 503
    /// [default: 20000]
    #[arg(long, env = "TALLY_MAX_IN_FLIGHT", value_name = "CALLS")]
    max_in_flight: Option<usize>,

    /// Calls a minute of one key; more are refused with 429 [default: no limit]
    #[arg(long, env = "TALLY_CALLS_PER_KEY", value_name = "CALLS")]
    calls_per_key: Option<NonZeroU32>,

    /// Calls a minute from one address; more are refused with 429. Behind a
    /// proxy of your own all calls come from one [default: no limit]
    #[arg(long, env = "TALLY_CALLS_PER_ADDRESS", value_name = "CALLS")]
    calls_per_address: Option<NonZeroU32>,

    /// Bindings a minute from one address, and requests for totals: they cost
    /// nobody a call, and lengthen the log; more are refused with 429 [default: 60]
    #[arg(long, env = "TALLY_ENTRIES_PER_ADDRESS", value_name = "ENTRIES")]
    entries_per_address: Option<NonZeroU32>,
}

/// A provider that calls are forwarded to.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The provider's name, as records have it.
    pub name: Name,
    /// Where it is: scheme, authority and what comes before the provider's own path.
    pub base: Base,
    /// How its answers are read.
    pub dialect: Dialect,
    /// Whether it checks credentials; where it does not, calls are anonymous.
    pub checks_credentials: bool,
    /// Whether streamed chat completions are asked for their usage: the
    /// provider needs to be asked and takes it.
    pub asks_for_usage: bool,
    /// How its records are observed.
    pub source: Source,
}

/// The part of an upstream's URL that stands before the provider's own path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    uri: Uri,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What flags and environment say; what they leave open is `None`.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--database-url`
    pub database_url: Option<String>,
    /// `--origin`
    pub origin: Option<String>,
    /// `--policy`
    pub policy: Option<PathBuf>,
    /// `--upstream`
    pub upstreams: Vec<NamedUrl>,
    /// `--rpc-url`
    pub rpc_urls: Vec<RpcUrl>,
    /// `--rpc-poll`
    pub rpc_poll: Option<u64>,
    /// `--explorer`
    pub explorers: Vec<Template>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
    /// `--totals-interval`
    pub totals_interval: Option<u64>,
    /// `--strict-passthrough`
    pub strict_passthrough: bool,
    /// `--custom-port`
    pub custom_ports: Vec<u16>,
    /// `--connect-timeout` and the like.
    pub limits: GivenLimits,
}

/// `NAME=URL`, as `--upstream` takes it.
#[derive(Clone, Debug)]
pub struct NamedUrl {
    name: String,
    base: Base,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration file {} can't be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration file {} is not valid", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The database's URL is none of PostgreSQL's. It may hold a password.
    #[error(
        "the database URL does not begin with postgres://; without one the log is kept in SQLite, in the data directory"
    )]
    DatabaseUrl,
    /// The witness policy can't be read.
    #[error("the witness policy {} can't be read", path.display())]
    ReadPolicy {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The witness policy is not what it should be.
    #[error("the witness policy {} can't be used: {source}", path.display())]
    Policy {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: EnlistError,
    },
    /// The origin is none.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// A node's address, which may hold a key, or an explorer's template.
    #[error("{setting} in the configuration file: {problem}")]
    Chain {
        /// Which setting.
        setting: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// An upstream's name or URL.
    #[error("upstream {name:?}: {problem}")]
    Upstream {
        /// The upstream.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<SocketAddr>,
    data_dir: Option<PathBuf>,
    database_url: Option<String>,
    origin: Option<String>,
    policy: Option<PathBuf>,
    log_format: Option<LogFormat>,
    totals_interval: Option<u64>,
    strict_passthrough: Option<bool>,
    #[serde(default)]
    rpc_urls: Vec<String>,
    rpc_poll: Option<u64>,
    #[serde(default)]
    explorers: Vec<String>,
    #[serde(default)]
    custom_ports: Vec<u16>,
    #[serde(default)]
    limits: GivenLimits,
    #[serde(default)]
    upstreams: BTreeMap<String, FileUpstream>,
}

/// A URL alone, or a table with more.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum FileUpstream {
    Url(String),
    Table(UpstreamTable),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpstreamTable {
    url: String,
    format: Option<Dialect>,
    checks_credentials: Option<bool>,
    asks_for_usage: Option<bool>,
}

/// What an operator can say of an upstream; the rest follows from its name.
#[derive(Clone, Copy, Debug, Default)]
struct Traits {
    format: Option<Dialect>,
    checks_credentials: Option<bool>,
    asks_for_usage: Option<bool>,
}

impl Config {
    /// Puts together what was given, the file it names, and the defaults.
    ///
    /// # Errors
    /// The file, the origin or an upstream is wrong.
    pub fn resolve(given: Given) -> Result<Self, ConfigError> {
        let file = given
            .config
            .as_deref()
            .map(read)
            .transpose()?
            .unwrap_or_default();
        let origin = given.origin.or(file.origin);
        let mut upstreams = BTreeMap::new();
        let strict = given.strict_passthrough || file.strict_passthrough.unwrap_or(false);
        let add = |upstreams: &mut BTreeMap<_, _>, name: &str, base, traits| {
            let mut upstream = Upstream::new(name, base, traits)?;
            upstream.asks_for_usage &= !strict;
            upstreams.insert(name.to_owned(), upstream);
            Ok::<_, ConfigError>(())
        };
        let usual: SocketAddr = (Ipv4Addr::LOCALHOST, 8787).into();
        let listen = given.listen.or(file.listen).unwrap_or(usual);
        for (name, url) in PROVIDERS {
            // A server of this machine is not the world's to use.
            if *name == "ollama" && !listen.ip().is_loopback() {
                continue;
            }
            add(
                &mut upstreams,
                name,
                Base::parse(name, url)?,
                Traits::default(),
            )?;
        }
        for (name, upstream) in file.upstreams {
            let (url, traits) = match upstream {
                FileUpstream::Url(url) => (url, Traits::default()),
                FileUpstream::Table(UpstreamTable {
                    url,
                    format,
                    checks_credentials,
                    asks_for_usage,
                }) => {
                    let traits = Traits {
                        format,
                        checks_credentials,
                        asks_for_usage,
                    };
                    (url, traits)
                }
            };
            add(&mut upstreams, &name, Base::parse(&name, &url)?, traits)?;
        }
        for NamedUrl { name, base } in given.upstreams {
            match upstreams.get_mut(&name) {
                // What the file says of it besides its URL stays.
                Some(upstream) => upstream.base = base,
                None => add(&mut upstreams, &name, base, Traits::default())?,
            }
        }
        let (flags, limits) = (given.limits, file.limits);
        let database_url = given.database_url.or(file.database_url);
        if let Some(url) = &database_url
            && !["postgres://", "postgresql://"]
                .iter()
                .any(|s| url.starts_with(s))
        {
            return Err(ConfigError::DatabaseUrl);
        }
        let policy = given.policy.or(file.policy);
        let every = given.rpc_poll.or(file.rpc_poll).unwrap_or(12).max(1);
        let chains = Settings {
            rpc_urls: given_or("rpc_urls", given.rpc_urls, file.rpc_urls)?,
            every: Duration::from_secs(every),
            explorers: given_or("explorers", given.explorers, file.explorers)?,
        };
        let seconds = |given: Option<u64>, usual| Duration::from_secs(given.unwrap_or(usual));
        Ok(Self {
            listen,
            data_dir: given
                .data_dir
                .or(file.data_dir)
                .unwrap_or_else(|| "tally-data".into()),
            database_url,
            origin: origin.map(|text| Origin::parse(&text)).transpose()?,
            upstreams,
            witnesses: policy.as_deref().map(witnesses).transpose()?,
            chains,
            log_format: given.log_format.or(file.log_format).unwrap_or_default(),
            totals_interval: given
                .totals_interval
                .or(file.totals_interval)
                .unwrap_or(600)
                .clamp(1, 86_400),
            custom_ports: if given.custom_ports.is_empty() {
                file.custom_ports.into_iter().collect()
            } else {
                given.custom_ports.into_iter().collect()
            },
            connect_within: seconds(flags.connect_timeout.or(limits.connect_timeout), 10),
            answer_within: seconds(flags.answer_timeout.or(limits.answer_timeout), 900),
            idle_within: seconds(flags.idle_timeout.or(limits.idle_timeout), 600),
            max_request_body: u64::from(
                flags
                    .max_request_body
                    .or(limits.max_request_body)
                    .unwrap_or(256),
            ) << 20,
            max_in_flight: flags
                .max_in_flight
                .or(limits.max_in_flight)
                .unwrap_or(20_000),
            calls_per_key: flags.calls_per_key.or(limits.calls_per_key),
            calls_per_address: flags.calls_per_address.or(limits.calls_per_address),
            entries_per_address: flags
                .entries_per_address
                .or(limits.entries_per_address)
                .unwrap_or(ENTRIES_PER_ADDRESS),
        })
    }
}

impl Config {
    /// Where the log is kept.
    pub fn database(&self) -> Database {
        match &self.database_url {
            Some(url) => Database::Postgres(url.clone()),
            None => Database::Sqlite(self.data_dir.join("tally.db")),
        }
    }
}

impl Upstream {
    fn new(name: &str, base: Base, traits: Traits) -> Result<Self, ConfigError> {
        let wrong = |problem| ConfigError::Upstream {
            name: name.into(),
            problem,
        };
        let fits = (1..=32).contains(&name.len())
            && name
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !fits {
            return Err(wrong("a name is 1 to 32 of a-z, 0-9 and hyphen"));
        }
        if RESERVED.contains(&name) {
            return Err(wrong("this name is one of the gateway's own paths"));
        }
        Ok(Self {
            name: Name::new(name).ok_or(wrong("a name is 1 to 32 of a-z, 0-9 and hyphen"))?,
            base,
            dialect: traits.format.unwrap_or(Dialect::of(name)),
            checks_credentials: traits.checks_credentials.unwrap_or(name != "ollama"),
            asks_for_usage: traits.asks_for_usage.unwrap_or(ASKED.contains(&name)),
            source: Source::Proxy,
        })
    }

    /// What an operator should know of this upstream's URL, if anything.
    pub fn warning(&self) -> Option<String> {
        let path = self.base.uri.path().trim_end_matches('/');
        path.ends_with("/v1").then(|| {
            format!(
                "upstream {}: {} ends in /v1, so calls go to {}/<path of the call>; \
                 usually the URL ends before the provider's own path, as in {}",
                self.name,
                self.base,
                self.base,
                self.base.to_string().trim_end_matches("/v1"),
            )
        })
    }
}

impl Base {
    fn parse(name: &str, url: &str) -> Result<Self, ConfigError> {
        let wrong = |problem| ConfigError::Upstream {
            name: name.into(),
            problem,
        };
        let uri: Uri = url
            .trim_end_matches('/')
            .parse()
            .map_err(|_| wrong("not a URL; expected something like https://api.example.com"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong(
                "the URL begins with https:// (or http:// for a local server)",
            ));
        }
        let authority = uri.authority().ok_or(wrong("the URL names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("the URL may not hold a user or password"));
        }
        if uri.query().is_some() {
            return Err(wrong("the URL may not have a query"));
        }
        Ok(Self { uri })
    }

    /// A URL that was vetted.
    pub(crate) fn of(uri: Uri) -> Self {
        Self { uri }
    }

    /// A server on this machine.
    pub fn local(address: SocketAddr) -> Self {
        let uri = format!("http://{address}")
            .parse()
            .expect("an address is an authority");
        Self { uri }
    }

    /// The URI of a call: this base, then `/rest`, query included.
    ///
    /// # Errors
    /// `rest` can't stand in a URI.
    pub fn join(&self, rest: &str) -> Result<Uri, http::Error> {
        let base = self.uri.path().trim_end_matches('/');
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(format!("{base}/{rest}").parse()?);
        Ok(Uri::from_parts(parts)?)
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri.to_string().trim_end_matches('/'))
    }
}

impl std::str::FromStr for NamedUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, url) = text.split_once('=').ok_or_else(|| ConfigError::Upstream {
            name: text.into(),
            problem: "expected NAME=URL, such as openai=https://api.openai.com",
        })?;
        Ok(Self {
            name: name.into(),
            base: Base::parse(name, url)?,
        })
    }
}

/// What flags and environment list, or else the file.
fn given_or<T: std::str::FromStr<Err = &'static str>>(
    setting: &'static str,
    given: Vec<T>,
    file: Vec<String>,
) -> Result<Vec<T>, ConfigError> {
    if !given.is_empty() {
        return Ok(given);
    }
    let listed = file.iter().map(|text| text.parse());
    let listed: Result<_, _> = listed.collect();
    listed.map_err(|problem| ConfigError::Chain { setting, problem })
}

fn witnesses(path: &Path) -> Result<Witnesses, ConfigError> {
    let text = std::fs::read(path).map_err(|source| ConfigError::ReadPolicy {
        path: path.into(),
        source,
    })?;
    Witnesses::parse(&text).map_err(|source| ConfigError::Policy {
        path: path.into(),
        source,
    })
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse {
        path: path.into(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(text: &str) -> Result<Config, ConfigError> {
        let upstreams = vec![text.parse()?];
        Config::resolve(Given {
            upstreams,
            ..Given::default()
        })
    }

    #[test]
    fn upstreams_are_names_and_urls() {
        for (text, rest, joined) in [
            (
                "openai=http://127.0.0.1:1",
                "v1/x?y=z",
                "http://127.0.0.1:1/v1/x?y=z",
            ),
            (
                "my-vllm=https://h.example/p/",
                "v1/x",
                "https://h.example/p/v1/x",
            ),
        ] {
            let config = upstream(text).expect("valid");
            let name = text.split('=').next().expect("a name");
            let uri = config.upstreams[name].base.join(rest).expect("joins");
            assert_eq!(uri.to_string(), joined);
        }
        for bad in [
            "openai",
            "=https://a.b",
            "Upper=https://a.b",
            "api=https://a.b",
            "x=ftp://a.b",
            "x=a.b",
            "x=https://u:p@a.b",
            "x=https://a.b?k=v",
            "x=https://",
        ] {
            assert!(upstream(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_url_with_the_providers_path_is_warned_of() {
        let config = upstream("openai=https://api.openai.com/v1").expect("valid");
        assert!(config.upstreams["openai"].warning().is_some());
        assert!(config.upstreams["anthropic"].warning().is_none());
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let path = std::env::temp_dir().join(format!("tally-{}.toml", uuid::Uuid::now_v7()));
        let text = "listen = \"127.0.0.1:9\"\norigin = \"file.example\"\nrpc_urls = [\"http://a.b/key\"]\nexplorers = [\"5=https://e.x/{tx}\"]\n[upstreams]\nlocal = { url = \"http://l\", checks_credentials = false, format = \"ollama\" }\n";
        std::fs::write(&path, text).expect("writes");
        let listen = Some(([127, 0, 0, 1], 7).into());
        let given = Given {
            config: Some(path.clone()),
            listen,
            ..Given::default()
        };
        let config = Config::resolve(given).expect("valid");
        std::fs::remove_file(path).expect("there");
        assert_eq!(config.listen.port(), 7);
        assert_eq!(
            config.origin.map(|o| o.to_string()).as_deref(),
            Some("file.example")
        );
        let local = &config.upstreams["local"];
        assert!(!local.checks_credentials && !local.asks_for_usage);
        assert_eq!(local.dialect, Dialect::Ollama);
        assert!(config.upstreams["openai"].asks_for_usage);
        assert_eq!(config.data_dir, Path::new("tally-data"));
        let chains = config.chains;
        assert_eq!(format!("{:?}", chains.rpc_urls), "[RpcUrl(a.b)]");
        let template = "5=https://e.x/{tx}".parse().expect("a template");
        assert_eq!(chains.explorers, [template]);
        assert_eq!(chains.every, Duration::from_secs(12));
    }

    #[test]
    fn a_policy_is_named_by_the_file_or_the_flag() {
        let folder = std::env::temp_dir().join(format!("tally-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).expect("a fresh folder");
        let (policy, file) = (folder.join("policy"), folder.join("toml"));
        std::fs::write(&policy, "quorum none\n").expect("ours");
        std::fs::write(&file, format!("policy = {policy:?}\n")).expect("ours");
        let given = |config: Option<&PathBuf>, policy: Option<&PathBuf>| Given {
            config: config.cloned(),
            policy: policy.cloned(),
            ..Given::default()
        };
        let missing = folder.join("missing");
        for (given, expected) in [
            (given(Some(&file), None), "policy can't be used: no witness"),
            (
                given(None, Some(&policy)),
                "policy can't be used: no witness",
            ),
            (given(Some(&file), Some(&missing)), "missing can't be read"),
        ] {
            let error = Config::resolve(given).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let without = Config::resolve(Given::default()).expect("valid");
        assert!(without.witnesses.is_none());
        std::fs::remove_dir_all(&folder).expect("ours");
    }
}
