//! The command line: flags and the environment behind them.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use protocol::key::VerifierKey;
use reqwest::Url;

use crate::network::Network;

const ABOUT: &str = "\
Anchors a Tallystick log's roots on an EVM chain.

Anyone may: what counts is the signature of the log's EVM key, which the log serves with its \
checkpoint. The gas key only pays. The checkpoint, its signatures and that it continues what is \
anchored are verified before anything is sent.";

const AFTER: &str = "\
The gas key is never given on the command line: it is in an encrypted keystore file (--keystore; its
password in --password-file or TALLY_ANCHOR_PASSWORD), or in TALLY_ANCHOR_KEY as 64 hex digits.

Exit codes:
  0  done, or nothing to do
  1  the log misbehaves: its key, signatures or history are not what they must be
  2  wrong use: arguments, files, another chain than --chain, no contract or a foreign one there
  3  not now: no answer, no quorum of witnesses, fees above the cap, an empty purse, no block in
     time. What was signed is in the outbox; the next run goes on with it and never sends anything
     twice.

`run` goes on until SIGTERM or SIGINT, which end it with 0, or until the log misbehaves. Errors and
alarms are on stderr: a stuck transaction, fees above the cap, a gas key that runs low, an anchor that
is overdue, a contract with fewer anchors than before.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "anchor", version, about = ABOUT, after_help = AFTER, max_term_width = 100)]
pub struct Cli {
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Puts the log's contract on the chain, at the address that follows from the log
    Deploy {
        /// Which log, which chain.
        #[command(flatten)]
        target: Target,
        /// Who pays, and how much.
        #[command(flatten)]
        spending: Spending,
        /// Writes what an explorer needs to verify the contract to this file
        #[arg(long, value_name = "FILE")]
        verification_input: Option<PathBuf>,
    },
    /// Anchors the newest published checkpoint, unless it is anchored already
    Once {
        /// Which log, which chain.
        #[command(flatten)]
        target: Target,
        /// Who pays, and how much.
        #[command(flatten)]
        spending: Spending,
    },
    /// Anchors again and again
    Run {
        /// Which log, which chain.
        #[command(flatten)]
        target: Target,
        /// Who pays, and how much.
        #[command(flatten)]
        spending: Spending,
        /// How often.
        #[command(flatten)]
        pace: Pace,
    },
    /// Says what is anchored
    Status {
        /// Which log, which chain.
        #[command(flatten)]
        target: Target,
    },
}

/// Which log, which chain.
#[derive(Debug, Args)]
pub struct Target {
    /// The log's address, such as `https://log.example.org`
    #[arg(value_name = "LOG_URL", env = "TALLY_ANCHOR_LOG", value_parser = http_url)]
    pub log: Url,

    /// The chain.
    #[command(flatten)]
    pub chain: Chain,

    /// The log's verifier key; without it the one of first contact is pinned
    #[arg(long, env = "TALLY_ANCHOR_VKEY", value_name = "VKEY", value_parser = vkey)]
    pub vkey: Option<VerifierKey>,

    /// A C2SP tlog-policy file: nothing is anchored unless its quorum of witnesses cosigned the
    /// checkpoint
    #[arg(long, env = "TALLY_ANCHOR_POLICY", value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// Where the outbox is
    #[arg(
        help = "Where the outbox is [default: $XDG_STATE_HOME/tallystick-anchor, else \
                ~/.local/state/tallystick-anchor]"
    )]
    #[arg(long, env = "TALLY_ANCHOR_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// A chain, and a way to it.
#[derive(Debug, Args)]
pub struct Chain {
    /// A node's JSON-RPC
    #[arg(long, env = "TALLY_ANCHOR_RPC_URL", value_name = "URL", value_parser = http_url)]
    #[arg(hide_env_values = true)]
    pub rpc_url: Url,

    /// The chain that the node must be on: its id, or ethereum, op, base, arbitrum, base-sepolia,
    /// sepolia, anvil
    #[arg(long, env = "TALLY_ANCHOR_CHAIN", value_name = "CHAIN")]
    pub chain: Network,
}

/// Who pays, and how much.
#[derive(Debug, Args)]
pub struct Spending {
    /// An encrypted keystore file with the gas key
    #[arg(long, env = "TALLY_ANCHOR_KEYSTORE", value_name = "FILE")]
    pub keystore: Option<PathBuf>,

    /// A file with the keystore's password, of mode 600
    #[arg(long, env = "TALLY_ANCHOR_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// The most to pay for a unit of gas, in gwei
    #[arg(
        long,
        env = "TALLY_ANCHOR_MAX_FEE",
        value_name = "GWEI",
        default_value = "3"
    )]
    #[arg(value_parser = gwei)]
    pub max_fee: u128,

    /// After how long a waiting transaction is sent with higher fees: 60s, 5m
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub stuck_after: Duration,

    /// How long to wait for a block
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub patience: Duration,

    /// How often the chain is asked meanwhile
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub poll: Duration,
}

/// How often.
#[derive(Debug, Args)]
pub struct Pace {
    /// The time between two anchors: 10m, 1h
    #[arg(
        long,
        env = "TALLY_ANCHOR_EVERY",
        value_name = "TIME",
        default_value = "1h"
    )]
    #[arg(value_parser = duration)]
    pub every: Duration,

    /// Anchors only if so many entries of kind usage and binding came since the last anchor
    #[arg(
        long,
        env = "TALLY_ANCHOR_MIN_GROWTH",
        value_name = "N",
        default_value = "1"
    )]
    pub min_growth: u64,
}

impl Target {
    /// Where the outbox is; `None` if nothing says.
    pub fn state_folder(&self) -> Option<PathBuf> {
        let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".local/state"));
        let base = || {
            env::var_os("XDG_STATE_HOME")
                .map(PathBuf::from)
                .or_else(home)
        };
        let default = || Some(base()?.join("tallystick-anchor"));
        self.state.clone().or_else(default)
    }
}

fn http_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| "expected http:// or https://, a host and perhaps a path".into())
}

fn vkey(text: &str) -> Result<VerifierKey, String> {
    VerifierKey::parse(text).map_err(|error| error.to_string())
}

/// Reads 500ms, 60s, 5m, 1h.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let read = units.iter().find_map(|(unit, millis)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*millis).map(Duration::from_millis)
    });
    read.filter(|time| !time.is_zero())
        .ok_or_else(|| format!("{text:?} is no time such as 60s or 5m"))
}

/// Reads gwei with up to nine decimals; gives wei.
fn gwei(text: &str) -> Result<u128, String> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = [whole, decimals].concat();
    let valid =
        decimals.len() <= 9 && whole.len() <= 12 && digits.bytes().all(|b| b.is_ascii_digit());
    let wei = format!(
        "{digits}{}",
        "0".repeat(9_usize.saturating_sub(decimals.len()))
    );
    wei.parse()
        .ok()
        .filter(|_| valid && !whole.is_empty())
        .ok_or_else(|| format!("{text:?} is no amount of gwei such as 3 or 0.05"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readmes_commands_are_understood() {
        let readme = include_str!("../../README.md").lines();
        let commands = readme.filter(|line| line.starts_with("anchor "));
        let mut read = 0;
        for line in commands {
            if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                panic!("{line}: {error}");
            }
            read += 1;
        }
        assert_eq!(read, 4, "deploy, once, run and status");
    }

    #[test]
    fn amounts_and_times_are_read_exactly() {
        assert_eq!(gwei("3"), Ok(3_000_000_000));
        assert_eq!(gwei("0.05"), Ok(50_000_000));
        assert_eq!(gwei("0.000000001"), Ok(1));
        for bad in ["", ".5", "1.0000000001", "-1", "1e9", "+1", "1.-1"] {
            assert!(gwei(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3_600)));
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        for bad in ["", "1", "h", "0s", "1.5h", "1d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
