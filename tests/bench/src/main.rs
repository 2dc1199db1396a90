//! Measures Tallystick beside what the machine allows in the same run.
//!
//! Each subcommand prints rows for `tests/bench/RESULTS.md` on stdout and tells
//! what it does on stderr.

mod append;
mod log;
mod processes;
mod reads;
mod sentinel;
mod totals;
mod witness;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a benchmark ends with where it can't measure.
type Failed = Box<dyn Error + Send + Sync>;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Measures Tallystick on this machine")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Appending at speed, and what an append waits at half of it
    Append(append::Given),
    /// Tiles, bundles and aggregates of a log that a gateway process serves
    Reads(reads::Given),
    /// The sentinel's passes over a log that a gateway process serves
    Sentinel(sentinel::Given),
    /// The totals tree of many wallets
    Totals(totals::Given),
    /// Answers every request with as many constant bytes: what reads stand beside
    #[command(hide = true)]
    Constant { bytes: usize },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Chosen here, once for the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ran = runtime
        .map_err(Failed::from)
        .and_then(|runtime| match cli.command {
            Command::Append(given) => runtime.block_on(append::run(given)),
            Command::Reads(given) => runtime.block_on(reads::run(given)),
            Command::Sentinel(given) => runtime.block_on(sentinel::run(given)),
            Command::Totals(given) => totals::run(&given),
            Command::Constant { bytes } => runtime.block_on(reads::constant(bytes)),
        });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
