//! The gateway's process: command line in, exit code out.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser as _;
use gateway::cli::{Cli, Task};
use gateway::config::{Config, ConfigError};
use gateway::demo::DemoError;
use gateway::link::LinkError;
use gateway::setup::SetupError;
use gateway::{demo, link, server, setup};

fn main() -> ExitCode {
    match run(Cli::parse().task()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gateway: {}", chain(&*error));
            let wrong_use = error.is::<ConfigError>()
                || matches!(error.downcast_ref(), Some(DemoError::Anchor(_)))
                || error.downcast_ref().is_some_and(LinkError::is_wrong_use)
                || error.downcast_ref().is_some_and(SetupError::is_wrong_use);
            ExitCode::from(if wrong_use { 2 } else { 1 })
        }
    }
}

fn run(task: Task) -> Result<(), Box<dyn Error>> {
    server::harden();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done: Result<(), Box<dyn Error>> = match task {
        Task::Serve(given) => {
            let config = Config::resolve(given)?;
            server::init_logging(config.log_format);
            runtime.block_on(server::run(config)).map_err(Into::into)
        }
        Task::Demo(given, anchoring) => {
            let config = Config::resolve(demo::defaults(given))?;
            server::init_logging(config.log_format);
            runtime
                .block_on(demo::run(config, anchoring))
                .map_err(Into::into)
        }
        Task::Link(options) => runtime.block_on(link::run(options)).map_err(Into::into),
        Task::Setup(options) => runtime.block_on(setup::run(options)).map_err(Into::into),
    };
    // Calls that were cut off are in the journal; nothing else is worth waiting for.
    runtime.shutdown_background();
    done
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
