//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::chain::{RpcUrl, Template};
use crate::config::{Given, GivenLimits, LogFormat, NamedUrl};
use crate::demo::Anchoring;
use crate::link::LinkOptions;
use crate::setup::SetupOptions;

/// A transparent proxy in front of LLM providers that keeps a verifiable log of token usage.
///
/// Point an SDK's base URL at it and use your own API key as before: the call
/// is forwarded untouched, the provider's own usage numbers become a record in
/// an append-only Merkle log, and you get a signed receipt. Prompts, answers
/// and keys are never stored.
///
/// Anyone can check the log: sentinel --watch <this gateway's URL>
#[derive(Debug, Parser)]
#[command(name = "gateway", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The same with a stand-in provider inside that needs no API key: it keeps
    /// sending calls of every kind through the proxy, so that the whole loop
    /// can be watched. Data in ./tally-demo unless --data-dir says otherwise.
    /// With --anchor the log's roots go to a chain on this machine, too.
    Demo(Box<DemoOptions>),
    /// Bind calls to a wallet, in any log: makes a link token, prints the base
    /// URLs to use and the page where a browser wallet signs, or the text to
    /// sign, takes the signature from standard input (made by `cast wallet
    /// sign`, say), and shows the binding's receipt. A token that was made
    /// before is taken from TALLY_LINK_TOKEN.
    Link(LinkOptions),
    /// Point the tools on this machine at a log's gateway: finds Claude Code,
    /// Codex, Gemini CLI, Cursor, OpenClaw and SDKs' environment variables,
    /// shows what it would change, changes it if you say yes, and makes one
    /// call end to end. With TALLY_LINK_TOKEN set, calls count for that token.
    Setup(SetupOptions),
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Task {
    /// Run a gateway.
    Serve(Given),
    /// Run a gateway with a stand-in provider and calls, and perhaps a chain.
    Demo(Given, Option<Anchoring>),
    /// Bind calls to a wallet.
    Link(LinkOptions),
    /// Point tools at a gateway.
    Setup(SetupOptions),
}

#[derive(Args, Debug)]
struct DemoOptions {
    #[command(flatten)]
    options: Options,

    /// Anchor the log every 15 seconds on a chain on this machine: an anvil,
    /// which is started and kept in the data directory. Needs the anchor job
    /// beside this program: cargo build --release -p anchor
    #[arg(long, help_heading = "Demo")]
    anchor: bool,

    /// The anvil to start [default: the one in PATH, beside this program, or in
    /// ./node_modules]
    #[arg(long, value_name = "PATH", requires = "anchor", help_heading = "Demo")]
    anvil: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Options {
    /// The address to listen on [default: 127.0.0.1:8787]
    #[arg(long, env = "TALLY_LISTEN", value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,

    /// The folder for database, keys and journal; created if it is not there
    /// [default: ./tally-data]. One gateway at a time may use it.
    #[arg(long, env = "TALLY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Keep the log in a PostgreSQL database, postgres://user@host/name, instead
    /// of SQLite in the data directory, which still holds keys and journal.
    /// Several gateways may share the database, each with a data directory of
    /// its own and copies of the first one's log.key and evm.key: one writes,
    /// and another takes over within seconds if it ends.
    #[arg(
        long,
        env = "TALLY_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    database_url: Option<String>,

    /// The log's public name: a host name with a dot and an optional path, such
    /// as log.example.org. Chosen once, at the first start, and kept for ever;
    /// without it the log is called tally.invalid/<hash of its key>.
    #[arg(long, env = "TALLY_ORIGIN", value_name = "NAME")]
    origin: Option<String>,

    /// Witnesses that are asked to cosign every checkpoint, and how many of
    /// them must have before it is served: a C2SP tlog-policy file, the same
    /// that verifiers use. For two of three:
    ///
    ///   witness w1 w1.example+7a6f2d2f+BE.. https://w1.example/submit
    ///   witness w2 .. (and w3)
    ///   group all-of-them 2 w1 w2 w3
    ///   quorum all-of-them
    ///
    /// Each witness's operator must know this log by its key first. Calls and
    /// receipts never wait for witnesses; /api/witnesses says how they fare.
    #[arg(long, env = "TALLY_POLICY", value_name = "FILE", verbatim_doc_comment)]
    policy: Option<PathBuf>,

    /// A TOML file with these settings (listen, data_dir, origin, policy, log_format,
    /// and a table [upstreams]); flags and environment win over it.
    #[arg(long, env = "TALLY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where a provider is; may be repeated. /NAME/<rest> goes to URL/<rest>,
    /// so the URL ends before the provider's own path: openai=https://api.openai.com.
    /// A name that is not known (a-z, 0-9, hyphen) is read as OpenAI-compatible.
    #[arg(
        long = "upstream",
        env = "TALLY_UPSTREAM",
        value_name = "NAME=URL",
        value_delimiter = ','
    )]
    upstreams: Vec<NamedUrl>,

    /// A node of an EVM chain, by its JSON-RPC address; may be repeated, once for
    /// each chain. Where the log's contract stands there (see `anchor deploy`),
    /// its anchors are shown, and an entry of the log names the chain. Contract
    /// wallets of these chains can bind keys. An address with a key in it is
    /// better given by the environment.
    #[arg(
        long = "rpc-url",
        env = "TALLY_RPC_URL",
        value_name = "URL",
        value_delimiter = ',',
        hide_env_values = true
    )]
    rpc_urls: Vec<RpcUrl>,

    /// Seconds between two looks at a chain [default: 12]
    #[arg(long, env = "TALLY_RPC_POLL", value_name = "SECONDS")]
    rpc_poll: Option<u64>,

    /// Where a chain's transactions, or contracts, are shown; may be repeated:
    /// 100=https://gnosisscan.io/tx/{tx}, 100=https://gnosisscan.io/address/{address}.
    /// Known by themselves are Ethereum, Base, OP, Arbitrum, and the test chains
    /// Sepolia and Base Sepolia.
    #[arg(
        long = "explorer",
        env = "TALLY_EXPLORER",
        value_name = "CHAIN_ID=TEMPLATE",
        value_delimiter = ','
    )]
    explorers: Vec<Template>,

    /// How log lines look [default: text]
    #[arg(long, env = "TALLY_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    /// Seconds between totals entries, by which wallets' totals can be proven
    /// [default: 600]. Chosen once, at the first start, as the log's own entry
    /// names it.
    #[arg(long, env = "TALLY_TOTALS_INTERVAL", value_name = "SECONDS")]
    totals_interval: Option<u64>,

    /// Never edit a request. Otherwise a streamed chat completion that does not
    /// ask for its usage is made to ask, where the provider needs and takes
    /// that (openai, azure, gemini, ollama); the event it brings is hidden.
    #[arg(long, env = "TALLY_STRICT_PASSTHROUGH")]
    strict_passthrough: bool,

    /// Let clients name a host of their own: calls to /custom/<rest> with the
    /// header x-tally-upstream: https://host go there. Only https, only public
    /// addresses, only this port (443, say); may be repeated. Such records have
    /// the source `custom`. Without this flag clients can name none.
    #[arg(
        long = "custom-port",
        env = "TALLY_CUSTOM_PORT",
        value_name = "PORT",
        value_delimiter = ','
    )]
    custom_ports: Vec<u16>,

    #[command(flatten, next_help_heading = "Limits")]
    limits: GivenLimits,
}

impl Cli {
    /// What is asked for.
    pub fn task(self) -> Task {
        match self.command {
            None => Task::Serve(self.options.given()),
            Some(Command::Demo(demo)) => {
                let DemoOptions {
                    options,
                    anchor,
                    anvil,
                } = *demo;
                Task::Demo(options.given(), anchor.then_some(Anchoring { anvil }))
            }
            Some(Command::Link(options)) => Task::Link(options),
            Some(Command::Setup(options)) => Task::Setup(options),
        }
    }
}

impl Options {
    fn given(self) -> Given {
        let Self {
            listen,
            data_dir,
            database_url,
            origin,
            policy,
            config,
            upstreams,
            rpc_urls,
            rpc_poll,
            explorers,
            log_format,
            totals_interval,
            strict_passthrough,
            custom_ports,
            limits,
        } = self;
        Given {
            config,
            listen,
            data_dir,
            database_url,
            origin,
            policy,
            upstreams,
            rpc_urls,
            rpc_poll,
            explorers,
            log_format,
            totals_interval,
            strict_passthrough,
            custom_ports,
            limits,
        }
    }
}
