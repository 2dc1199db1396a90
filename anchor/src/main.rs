//! The anchor's command: see `anchor --help`.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anchor::cli::Cli;
use anchor::run;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

/// Wrong use, as for arguments that clap refuses.
const WRONG_USE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("TALLY_ANCHOR_LOG_LEVEL");
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info")))
        .with_target(false)
        .with_writer(io::stderr)
        .init();
    // Chosen here, once for the process; whoever was faster chose the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("anchor: {error}");
            return ExitCode::from(WRONG_USE);
        }
    };
    match runtime.block_on(run::run(cli)) {
        Ok(told) => {
            // A reader that has left is no reason to fail.
            let _ = io::stdout().write_all(told.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("anchor: {}", chain(&error));
            ExitCode::from(error.code())
        }
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
