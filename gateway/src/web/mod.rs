//! Pages for people, rendered here: they read the ledger and the store as the
//! interface does, and need no script to be read.
//!
//! A page is a file: its handler makes the body, `layout` puts the frame
//! around it, `policy` says what browsers refuse on it. Handlers fail with
//! [`ApiError`], which becomes a page where a browser asks (`failure`).

mod anchors;
mod assets;
mod badge;
mod card;
mod check;
mod days;
mod failure;
mod figures;
mod format;
mod heatmap;
mod home;
mod hours;
mod how;
mod key;
mod layout;
mod link;
mod log;
mod mix;
mod mountains;
mod policy;
mod prices;
mod raster;
mod recent;
mod record;
mod records;
mod setup;
mod usage;
mod vouched;
mod wallet;
mod witnesses;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};
use axum::middleware;
use axum::routing::get;
use protocol::key::{Origin, VerifierKey};
use tower_http::compression::CompressionLayer;

use crate::api::Api;
use crate::config::Config;
use crate::reply::ApiError;

/// The pages, and the answer to whatever is nowhere.
pub fn router(api: Api) -> Router {
    let api = Arc::new(api);
    let shown = middleware::from_fn_with_state(Arc::clone(&api), failure::shown);
    Router::new()
        .route("/", get(home::home))
        .route("/anchors", get(anchors::anchors))
        .route("/check", get(check::check))
        .route("/contract.hex", get(check::creation_code))
        .route("/link", get(link::link))
        .route("/setup", get(setup::setup))
        .route("/assets/{name}", get(assets::asset))
        .route("/badge/{file}", get(badge::badge))
        .route("/card/{file}", get(card::card))
        .route("/how", get(how::how))
        .route("/key/{key_id}", get(key::key))
        .route("/log", get(log::log))
        .route("/record/{index}", get(record::record))
        .route("/records", get(records::records))
        .route("/wallet/{address}", get(wallet::wallet))
        .route("/witnesses", get(witnesses::witnesses))
        .fallback(nowhere)
        .layer(shown)
        .layer(CompressionLayer::new())
        .with_state(api)
}

/// What a starting gateway prints.
pub fn greeting(config: &Config, address: SocketAddr, vkey: &VerifierKey) -> String {
    let url = url(address);
    let origin = vkey.origin();
    let mut text = format!(
        "Tallystick gateway at {url}\n\
         \n\
         Point your SDK at it; your API key stays your own and is never stored:\n\
         \x20 OPENAI_BASE_URL={url}/openai/v1\n\
         \x20 ANTHROPIC_BASE_URL={url}/anthropic\n"
    );
    let names: Vec<_> = config.upstreams.keys().map(String::as_str).collect();
    text.push_str(&format!(
        "Others likewise, /NAME/... going to the provider's own path: {}\n",
        names.join(", ")
    ));
    text.push_str(&format!(
        "\n\
         Log      {origin}\n\
         Data     {}\n\
         Key      {vkey}\n\
         \n\
         Check the log from a second terminal:\n\
         \x20 {}\n",
        config.data_dir.display(),
        sentinel_line(&url, vkey),
    ));
    if is_for_trying_out(origin) {
        text.push_str(
            "\nThis log has a name for trying out. Before going public, choose one with --origin\n\
             (such as log.example.org) and a new --data-dir: a log keeps its name for ever.\n",
        );
    }
    text
}

/// Whether a log has the name that it takes when none was chosen.
pub fn is_for_trying_out(origin: &Origin) -> bool {
    origin.as_str().starts_with("tally.invalid/")
}

/// The command that checks the log at `url`.
pub fn sentinel_line(url: &str, vkey: &VerifierKey) -> String {
    format!("cargo run --release -p sentinel -- --watch {url} --vkey {vkey}")
}

/// An address as others on this machine reach it.
pub fn url(address: SocketAddr) -> String {
    let reachable = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], address.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], address.port())),
        _ => address,
    };
    format!("http://{reachable}")
}

/// The address under which the visitor reached us: it works for it. A public
/// name means TLS in front, whether or not that says so: nobody is to send a
/// key in the clear.
fn visited(headers: &HeaderMap) -> String {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(HOST).filter(|host| is_host(host));
    let host = host.unwrap_or("127.0.0.1:8787");
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let here = name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let scheme = match text(HeaderName::from_static("x-forwarded-proto")) {
        Some("https") => "https",
        Some("http") => "http",
        _ if here => "http",
        _ => "https",
    };
    format!("{scheme}://{host}")
}

/// The day it is, as days are counted in sums.
fn today(api: &Api) -> u32 {
    u32::try_from((api.clock)().day()).unwrap_or(u32::MAX)
}

/// Whether a header names a host as addresses do: no longer than names may be
/// (RFC 1035 section 2.3.4), with a port.
fn is_host(host: &str) -> bool {
    host.len() <= 255 + ":65535".len() && host.parse::<Authority>().is_ok()
}

async fn nowhere(uri: Uri) -> ApiError {
    let message = format!(
        "nothing is at {}; calls go to /<provider>/..., the log's interface is described at /openapi.json",
        uri.path()
    );
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}
