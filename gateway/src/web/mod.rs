//! Pages for people. One so far: what this is and what to do next.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use protocol::key::{Origin, VerifierKey};

use crate::api::Api;
use crate::config::Config;
use crate::reply::ApiError;

/// The pages, and the answer to whatever is nowhere.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/", get(home))
        .fallback(nowhere)
        .with_state(Arc::new(api))
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

async fn home(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let address = visited(&headers);
    let url = escape(&address);
    let (vkey, size) = (
        escape(&api.verifier.to_string()),
        api.committed.borrow().checkpoint.size(),
    );
    let origin = escape(api.verifier.origin().as_str());
    let sentinel = escape(&sentinel_line(&address, &api.verifier));
    let page = format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tallystick: {origin}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }}
pre {{ padding: .75rem 1rem; overflow-x: auto; background: color-mix(in srgb, currentColor 8%, transparent); border-radius: .4rem; }}
dt {{ font-weight: 600; }} dd {{ margin: 0 0 .6rem; overflow-wrap: anywhere; }}
</style>
<h1>Tallystick</h1>
<p>A transparent proxy in front of LLM providers that keeps a verifiable log of token usage.
Calls are forwarded untouched. The provider's own usage numbers become records in an append-only
log with signed receipts, which anyone can check. Prompts, answers and keys are never stored.</p>
<h2>Use it</h2>
<pre>OPENAI_BASE_URL={url}/openai/v1
ANTHROPIC_BASE_URL={url}/anthropic</pre>
<h2>The log</h2>
<dl>
<dt>Name</dt><dd>{origin}</dd>
<dt>Verifier key</dt><dd><code>{vkey}</code></dd>
<dt>Entries</dt><dd>{size}</dd>
</dl>
<p><a href="/checkpoint">checkpoint</a> · <a href="/api/chain">chain</a> ·
<a href="/api/records?limit=20">records</a> · <a href="/api/leaderboard">leaderboard</a> ·
<a href="/api/models">models</a> · <a href="/api/stats">statistics</a> ·
<a href="/openapi.json">OpenAPI</a></p>
<h2>Check it</h2>
<pre>{sentinel}</pre>
</html>
"#
    );
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        ),
    ];
    (headers, page).into_response()
}

/// The address under which the visitor reached us: it works for it. A public
/// name means TLS in front, whether or not that says so: nobody is to send a
/// key in the clear.
fn visited(headers: &HeaderMap) -> String {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(HOST).unwrap_or("127.0.0.1:8787");
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

async fn nowhere(uri: axum::http::Uri) -> ApiError {
    let message = format!(
        "nothing is at {}; calls go to /<provider>/..., the log's interface is described at /openapi.json",
        uri.path()
    );
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
