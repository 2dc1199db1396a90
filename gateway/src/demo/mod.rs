//! The demo: a gateway, a stand-in provider in the same process, and a caller
//! that keeps sending calls of every kind through the proxy.

mod caller;
mod provider;

use crate::config::{Config, Given};
use crate::server::{Server, ServerError, Stop, serve_until};
use crate::web;

/// What a demo does unless told otherwise.
pub fn defaults(mut given: Given) -> Given {
    given.data_dir.get_or_insert_with(|| "tally-demo".into());
    given
}

/// Runs the demo until SIGTERM or SIGINT.
///
/// # Errors
/// [`ServerError`].
pub async fn run(mut config: Config) -> Result<(), ServerError> {
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
    let Some(server) = stop.or(Server::bind(&config)).await else {
        return Ok(());
    };
    let server = server?;
    let origin = server.vkey().origin();
    if !web::is_for_trying_out(origin) {
        return Err(ServerError::RealLog(origin.clone()));
    }
    let url = web::url(server.address());
    println!(
        "{}",
        web::greeting(&config, server.address(), server.vkey())
    );
    println!("Demo: a stand-in provider answers, and a call goes out every half second.\n");
    let calls = tokio::spawn(caller::run(url));
    let ended = serve_until(server, stop).await;
    calls.abort();
    ended
}
