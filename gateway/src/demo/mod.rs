//! The demo: a gateway, a stand-in provider in the same process, and a caller
//! that keeps sending calls of every kind through the proxy. With a chain on
//! this machine the log is anchored, too.

mod anchor;
mod caller;
mod provider;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Given};
use crate::server::{Server, ServerError, Stop, serve_until};
use crate::web;
use anchor::{Chain, Programs};

pub use anchor::AnchorError;

/// What a demo does unless told otherwise.
pub fn defaults(mut given: Given) -> Given {
    given.data_dir.get_or_insert_with(|| "tally-demo".into());
    given
}

/// Between two looks at the chain, which has a block as often.
const LOOK: Duration = Duration::from_secs(3);

/// On which chain the log is anchored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchoring {
    /// The program that is the chain, if it was said.
    pub anvil: Option<PathBuf>,
}

/// Why a demo can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The gateway.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The chain.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
}

/// Runs the demo until SIGTERM or SIGINT.
///
/// # Errors
/// [`DemoError`].
pub async fn run(mut config: Config, anchoring: Option<Anchoring>) -> Result<(), DemoError> {
    let programs = anchoring.map(|anchoring| Programs::find(anchoring.anvil.as_deref()));
    let programs = programs.transpose()?;
    let mut stop = Stop::new().map_err(ServerError::Signals)?;
    let provider = provider::start()
        .await
        .map_err(|source| ServerError::Listen {
            address: ([127, 0, 0, 1], 0).into(),
            source,
        })?;
    for upstream in config.upstreams.values_mut() {
        upstream.base = crate::config::Base::local(provider);
    }
    let mut chain = None;
    if let Some(programs) = programs {
        let starting = Chain::start(programs, config.data_dir.join("chain"));
        let Some(started) = stop.or(starting).await else {
            return Ok(());
        };
        let started = started?;
        config.chains.rpc_urls.push(started.node().clone());
        config.chains.every = LOOK;
        chain = Some(Arc::new(started));
    }
    let Some(server) = stop.or(Server::bind(&config)).await else {
        return Ok(());
    };
    let server = server?;
    let origin = server.vkey().origin();
    if !web::is_for_trying_out(origin) {
        return Err(ServerError::RealLog(origin.clone()).into());
    }
    let url = web::url(server.address());
    println!(
        "{}",
        web::greeting(&config, server.address(), server.vkey())
    );
    println!("Demo: a stand-in provider answers, and a call goes out every half second.\n");
    let calls = tokio::spawn(caller::run(url.clone()));
    let anchored = chain.clone().map(|chain| {
        let key = server.vkey().clone();
        tokio::spawn(async move { chain.anchor(&url, &key).await })
    });
    let ended = serve_until(server, stop).await;
    calls.abort();
    if let Some(anchored) = anchored {
        anchored.abort();
        // The job ends before its chain does.
        let _ = anchored.await;
    }
    drop(chain);
    Ok(ended?)
}
