//! The command line: flags and the environment behind them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use protocol::key::VerifierKey;
use protocol::name::Address;
use protocol::vkey::KeyName;
use reqwest::Url;

use crate::receipt::run::Source;
use crate::{fetch, witness};

const ABOUT: &str = "\
Verifies a Tallystick log of LLM usage from its public key alone.

Fetches every entry, receipt signature and tile, rebuilds the Merkle tree in two independent ways, \
and compares: every tile, the signed root, entry 0, the canonical form of each entry, the order of \
times, every receipt's Ed25519 signature, every binding of a key to a wallet and whom each call counts for, \
every totals entry, and the sums that the log publishes with its own at exactly the size they name. It remembers what it verified: the next run fetches only what is \
new, and requires that the old log is its beginning. Of the log only GET requests are made.";

const AFTER: &str = "\
Pins:
  The key that verifies a log is pinned at first contact: the one given with --vkey, or else the
  one that the log serves, which is then trusted on first use. Ask the operator for the key by
  another way. From then on another key is misbehaviour.

Exit codes:
  0  verified
  1  misbehaviour: proven (signed statements contradict each other; anyone can check them with the
     log's key alone) or served (complete answers were wrong twice, past caches too)
  2  wrong use: arguments, files, a state directory that cannot be used
  3  no verdict: no complete answer (network, a status other than 200, a wrong length), or entries
     that a newer sentinel is needed for. Never called tampering.

With --watch it goes on until SIGINT or SIGTERM, then exits with 1 if it ever saw misbehaviour,
else 0 if it ever verified the log, else 3.

Evidence of misbehaviour is written to <state>/evidence/, one JSON file for each thing found.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "sentinel", version, about = ABOUT, after_help = AFTER)]
#[command(subcommand_negates_reqs = true, max_term_width = 100)]
pub struct Cli {
    /// The log's address.
    #[arg(help = "The log's address, such as https://log.example.org or http://127.0.0.1:8787")]
    #[arg(value_name = "LOG_URL", env = "TALLY_SENTINEL_LOG", required = true)]
    #[arg(value_parser = log_url)]
    pub log: Option<Url>,

    /// Goes on: makes a pass, waits, makes the next one; says what is new
    #[arg(long, env = "TALLY_SENTINEL_WATCH")]
    pub watch: bool,

    /// How long to wait between two passes of --watch: 60s, 5m, 1h
    #[arg(
        long,
        env = "TALLY_SENTINEL_INTERVAL",
        default_value = "60s",
        value_name = "TIME"
    )]
    #[arg(value_parser = duration)]
    pub interval: Duration,

    /// Other sentinels and witnesses.
    #[arg(
        help = "The monitoring prefix of another sentinel or a witness, which may have been shown \
                another log: compares. May be given several times"
    )]
    #[arg(long = "peer", env = "TALLY_SENTINEL_PEERS", value_name = "URL")]
    #[arg(value_delimiter = ',', value_parser = log_url)]
    pub peers: Vec<Url>,

    /// Where the own monitoring prefix is.
    #[arg(
        help = "With --watch: where to show peers the last accepted checkpoint, such as \
                127.0.0.1:8789"
    )]
    #[arg(
        long,
        env = "TALLY_SENTINEL_LISTEN",
        value_name = "ADDR",
        requires = "watch"
    )]
    pub listen: Option<String>,

    /// What holds for every command.
    #[command(flatten)]
    pub common: Common,

    /// Another task than verifying a log.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What holds for every command.
#[derive(Debug, Args)]
pub struct Common {
    /// The log's verifier key.
    #[arg(
        help = "The log's verifier key, <origin>+<hash>+<base64>. Without it the pinned key is \
                  used, or at first contact the served one"
    )]
    #[arg(long, global = true, env = "TALLY_SENTINEL_VKEY", value_name = "VKEY")]
    #[arg(value_parser = vkey)]
    pub vkey: Option<VerifierKey>,

    /// Where this log's key, checkpoint and evidence are kept.
    #[arg(
        help = "Where this log's key, checkpoint and evidence are kept [default: \
                  $XDG_STATE_HOME/tallystick/<log>, else ~/.local/state/tallystick/<log>]"
    )]
    #[arg(long, global = true, env = "TALLY_SENTINEL_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// Whose cosignatures are required.
    #[arg(
        help = "A C2SP tlog-policy file: requires its quorum of witnesses on the checkpoint. Too few \
                  cosignatures are no verdict (exit code 3)"
    )]
    #[arg(
        long,
        global = true,
        env = "TALLY_SENTINEL_POLICY",
        value_name = "FILE"
    )]
    pub policy: Option<PathBuf>,

    /// Prints one JSON object per pass on stdout
    #[arg(long, global = true, env = "TALLY_SENTINEL_JSON")]
    pub json: bool,

    /// Tells no story on stderr; the answer stays on stdout
    #[arg(long, global = true, env = "TALLY_SENTINEL_QUIET")]
    pub quiet: bool,

    /// Nodes of chains.
    #[arg(
        help = "JSON-RPC address of a node of a chain: compares what the log's contract there \
                keeps with the log, and asks contract wallets about the signatures of their \
                bindings (EIP-1271). May be given several times, or separated by commas: nodes \
                are taken by the chain that they say they are of, and all of one chain must agree. \
                Silence and disagreement are no verdict (exit code 3)"
    )]
    #[arg(
        long,
        global = true,
        env = "TALLY_SENTINEL_RPC_URL",
        value_name = "URL"
    )]
    #[arg(value_delimiter = ',', hide_env_values = true)]
    pub rpc_url: Vec<Url>,

    /// The log's contract.
    #[arg(
        help = "The log's contract, the same on each chain [default: the address that follows \
                from entry 0]. With it, a log that was begun anew under another EVM key is caught"
    )]
    #[arg(
        long,
        global = true,
        env = "TALLY_SENTINEL_CONTRACT",
        value_name = "ADDRESS"
    )]
    #[arg(value_parser = address, requires = "rpc_url")]
    pub contract: Option<Address>,

    /// How often an anchor is expected where there are new calls: 10m, 1h
    #[arg(
        long,
        global = true,
        env = "TALLY_SENTINEL_ANCHOR_INTERVAL",
        value_name = "TIME"
    )]
    #[arg(default_value = "1h", value_parser = duration)]
    pub anchor_interval: Duration,

    /// The longest wait for one answer; what fails is tried three times
    #[arg(
        long,
        global = true,
        env = "TALLY_SENTINEL_TIMEOUT",
        value_name = "TIME"
    )]
    #[arg(default_value = "30s", value_parser = duration)]
    pub timeout: Duration,

    /// How long to wait for a checkpoint, instead of what the log promises and 5 s
    #[arg(
        long,
        global = true,
        env = "TALLY_SENTINEL_PATIENCE",
        value_name = "TIME"
    )]
    #[arg(value_parser = duration, hide = true)]
    pub patience: Option<Duration>,
}

/// Other tasks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Checks a receipt: that the log signed it, that its entry commits to its id, that its proof
    /// shows the entry, and, given the log's address, that the log holds the entry at its index
    ///
    /// A file is what `/api/receipts/{id}?proof=1` answers; without `?proof=1` it holds no proof.
    /// With --policy the proof's checkpoint, or the log's, must have the quorum. Exit codes: 0 the
    /// receipt is genuine and kept; 1 the log breaks its promise, or answers this call with another
    /// call's record; 2 not a receipt file; 3 no verdict: the log gave no complete answer, the file's
    /// signature, content or proof is wrong, which proves nothing about the log, or it is not yet
    /// witnessed. With --rpc-url and the log's address it says by which anchor the entry is covered.
    Receipt {
        /// The receipt file, its address (LOG/api/receipts/ID), or its id
        #[arg(value_name = "FILE|URL|ID", value_parser = Source::parse)]
        source: Source,
        /// The log's address; without it the receipt is checked offline, under --vkey or --state
        #[arg(value_name = "LOG_URL", env = "TALLY_SENTINEL_LOG", value_parser = log_url)]
        log: Option<Url>,
        /// Does not ask the log whether it holds the entry
        #[arg(long)]
        offline: bool,
    },
    /// Cosigns the checkpoints of logs that are consistent with what it cosigned before
    /// (C2SP tlog-witness)
    ///
    /// Serves POST PREFIX/add-checkpoint, and GET PREFIX/HASH/checkpoint, hex SHA-256 of an origin:
    /// the newest checkpoint it cosigned. It remembers in --state [default:
    /// $XDG_STATE_HOME/tallystick/witness, else ~/.local/state/tallystick/witness]; without that
    /// folder the key must not be used any more. With --full-key it also verifies every entry up to
    /// what logs submit whose address it knows, and cosigns what it verified with that key, too. Prints its vkeys
    /// and its address; goes on until SIGINT or SIGTERM, then exits with 0.
    Witness(WitnessArgs),
    /// Verifies one wallet's total, without reading the log
    ///
    /// Asks the log for the wallet's total and for its proof: a checkpoint that the log's key
    /// signed, the totals entry under it, the wallet's sums under that with the neighbours on each
    /// side (so that nothing is left out, and a wallet without usage is proven to have none), and
    /// the log's last entry (so that old totals can't pass for new ones). Two or three requests,
    /// whatever the log's size.
    ///
    /// The total is called `committed`: the log's key stands for it, and can't show anybody another
    /// one. That it is the sum of the log's records is what `sentinel LOG_URL` verifies, by
    /// reading all of them. Sums of different sources are never added. Usage that requests only
    /// claimed for the wallet, and what came after the totals, is shown apart: the log's word, or,
    /// with --newer, records that are each proven, and that together with the total must be what
    /// the log says.
    ///
    /// Exit codes: 0 the total is the log's; 1 the log misbehaves; 2 wrong use; 3 no verdict: no
    /// complete answer, no totals yet, or a log that a newer sentinel is needed for.
    ///
    /// With --rpc-url it says by which anchor of the log's contract the totals are covered, having
    /// verified that the checkpoint goes on from the anchored root.
    Wallet {
        /// The wallet's address
        #[arg(help = "The wallet's address: 0x and 40 hex digits, in any case, or checksummed")]
        #[arg(value_parser = address)]
        address: Address,
        /// Also fetches the records that are newer than the totals, verifies each, and adds them up
        #[arg(long)]
        newer: bool,
        /// The log's address
        #[arg(value_name = "LOG_URL", env = "TALLY_SENTINEL_LOG", value_parser = log_url)]
        log: Url,
    },
    /// Checks an evidence file, offline: whether it shows the misbehaviour that it says
    ///
    /// Needs nothing but the log's key: --vkey, got from the operator by another way; without it the
    /// key that the file itself names is taken, which anybody can have made. Exit codes: 1
    /// misbehaviour is proven; 2 not an evidence file; 3 no verdict: the file shows nothing, or only
    /// what the log is said to have served, which whoever kept the file vouches for.
    Evidence {
        /// The evidence file, as this program writes it into its state directory
        file: PathBuf,
    },
}

/// How to witness.
#[derive(Debug, Args)]
pub struct WitnessArgs {
    /// Where to listen; TLS is for what stands in front
    #[arg(long, env = "TALLY_WITNESS_LISTEN", value_name = "ADDR")]
    #[arg(default_value = "127.0.0.1:8788")]
    pub listen: String,

    /// The file with the key. If there is none, one is made; needs --name then
    #[arg(long, env = "TALLY_WITNESS_KEY", value_name = "FILE")]
    pub key: PathBuf,

    /// The key's name, such as witness.example.org; that of a new --full-key is NAME/full
    #[arg(long, env = "TALLY_WITNESS_NAME", value_name = "NAME", value_parser = key_name)]
    pub name: Option<String>,

    /// The file with the key for full cosignatures, made likewise
    #[arg(long, env = "TALLY_WITNESS_FULL_KEY", value_name = "FILE")]
    pub full_key: Option<PathBuf>,

    /// A log to witness: 'VKEY', or 'VKEY URL' to follow it. May be given several times
    #[arg(long, value_name = "LOG", value_parser = witness::run::log)]
    pub log: Vec<witness::run::Log>,

    /// A file with a line `log <vkey> [<url>]` for each log, as in a C2SP tlog-policy file
    #[arg(long, env = "TALLY_WITNESS_LOGS", value_name = "FILE")]
    pub logs: Option<PathBuf>,

    /// The path that add-checkpoint is below, such as /w
    #[arg(
        long,
        env = "TALLY_WITNESS_PREFIX",
        value_name = "PATH",
        default_value = ""
    )]
    #[arg(value_parser = prefix)]
    pub prefix: String,
}

fn key_name(text: &str) -> Result<String, String> {
    let name = KeyName::new(text).map(|name| name.to_string());
    name.ok_or_else(|| format!("{text:?} is no key's name: expected text without spaces and +"))
}

fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('/') {
        Ok(text.into())
    } else {
        Err(format!("{text:?} does not begin with a slash"))
    }
}

fn log_url(text: &str) -> Result<Url, String> {
    fetch::log_url(text).map_err(|error| error.to_string())
}

/// Of mixed case it must be the checksum's (EIP-55).
fn address(text: &str) -> Result<Address, String> {
    let form = || format!("{text:?} is no address: expected 0x and 40 hex digits");
    let address = Address::from_any_case(text).ok_or_else(form)?;
    let upper = text[2..].bytes().any(|b| b.is_ascii_uppercase());
    let lower = text[2..].bytes().any(|b| b.is_ascii_lowercase());
    if upper && lower && address.checksummed() != text {
        return Err(format!(
            "the case of {text} is not its checksum: a digit is mistyped, or write it in lower case"
        ));
    }
    Ok(address)
}

fn vkey(text: &str) -> Result<VerifierKey, String> {
    VerifierKey::parse(text).map_err(|error| error.to_string())
}

/// Reads 500ms, 60s, 5m, 1h; a bare number is of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let number: Option<u64> = number.parse().ok().filter(|_| millis > 0);
    let millis = number.and_then(|number| number.checked_mul(millis));
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is no time such as 60s or 5m"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    const WALLET: &str = "0x5aeda56215b167893e80b4fe645ba6d5bab767de";

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        for good in [
            &["sentinel", "http://a.b"][..],
            &[
                "sentinel",
                "--watch",
                "--interval",
                "5m",
                "http://a.b",
                "--json",
            ],
            &["sentinel", "receipt", "file.json"],
            &[
                "sentinel",
                "receipt",
                "--json",
                "file.json",
                "http://a.b",
                "--state",
                "x",
            ],
            &["sentinel", "--json", "receipt", "file.json"],
            &["sentinel", "evidence", "file.json", "--json"],
            &[
                "sentinel",
                "receipt",
                "file.json",
                "--offline",
                "--policy",
                "p",
            ],
            &[
                "sentinel",
                "http://a.b",
                "--peer",
                "http://c.d",
                "--peer",
                "http://e.f/g",
            ],
            &[
                "sentinel",
                "--watch",
                "--listen",
                "127.0.0.1:0",
                "http://a.b",
            ],
            &["sentinel", "witness", "--key", "k", "--prefix", "/w"],
            &["sentinel", "wallet", WALLET, "http://a.b"],
            &[
                "sentinel",
                "http://a.b",
                "--rpc-url",
                "http://c.d",
                "--rpc-url",
                "http://e.f",
                "--contract",
                WALLET,
                "--anchor-interval",
                "10m",
            ],
            &[
                "sentinel",
                "wallet",
                WALLET,
                "http://a.b",
                "--rpc-url",
                "http://c.d",
            ],
            &[
                "sentinel",
                "wallet",
                "0x5AEDA56215B167893E80B4FE645BA6D5BAB767DE",
                "http://a.b",
            ],
            &[
                "sentinel",
                "wallet",
                "0x5AEDA56215b167893e80B4fE645BA6d5Bab767DE",
                "http://a.b",
            ],
        ] {
            assert!(Cli::try_parse_from(good).is_ok(), "{good:?}");
        }
        for bad in [
            &["sentinel"][..],
            &["sentinel", "a.b"],
            &["sentinel", "http://a.b", "--vkey", "x"],
            &["sentinel", "http://a.b", "--interval", "soon"],
            &["sentinel", "http://a.b", "--contract", WALLET],
            &[
                "sentinel",
                "http://a.b",
                "--rpc-url",
                "http://c.d",
                "--contract",
                "0x12",
            ],
            &["sentinel", "receipt"],
            &["sentinel", "evidence"],
            &["sentinel", "wallet", WALLET],
            &[
                "sentinel",
                "wallet",
                "0x5aEDA56215b167893e80B4fE645BA6d5Bab767DE",
                "http://a.b",
            ],
            &["sentinel", "wallet", &WALLET[2..], "http://a.b"],
            &["sentinel", "evidence", "file.json", "http://a.b"],
            &["sentinel", "receipt", "http://a.b/no/receipt"],
            &["sentinel", "--listen", "127.0.0.1:0", "http://a.b"],
            &["sentinel", "witness"],
            &["sentinel", "witness", "--key", "k", "--log", "x"],
            &["sentinel", "witness", "--key", "k", "--prefix", "w"],
            &["sentinel", "witness", "--key", "k", "--name", "a b"],
        ] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, millis) in [
            ("500ms", 500),
            ("60s", 60_000),
            ("2", 2_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
        }
        for bad in ["", "s", "1d", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
