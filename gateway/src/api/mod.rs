//! The HTTP interface of the log (PROTOCOL.md section 10).
//!
//! Out of scope: proxied calls (see [`crate::proxy`]) and pages (see [`crate::web`]).

mod anchors;
mod bindings;
mod events;
mod operator;
mod proofs;
mod records;
mod statement;
mod sums;
mod tiles;
mod wallet;
mod wallet_records;
mod witnesses;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{Method, StatusCode};
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use protocol::index::TreeSize;
use protocol::key::VerifierKey;
use tokio::sync::watch;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{Any, CorsLayer};
use utoipa::OpenApi;

use crate::chain::{Anchors, Wallets};
use crate::ledger::Shared;
use crate::log::calls::Calls;
use crate::log::pool::Pool;
use crate::log::publish::Published;
use crate::log::replica::{Committed, Health};
use crate::log::sequencer::Clock;
use crate::reply::{ApiError, ErrorBody};
use crate::store::Store;
use crate::witness::roster::Roster;
pub use bindings::{Holds, Paces, Shown};
pub use events::{Listeners, Stopping};
pub use statement::Notary;
pub use tiles::TileCache;

/// What the handlers see.
#[derive(Clone, Debug)]
pub struct Api {
    /// The log's name and key.
    pub verifier: VerifierKey,
    /// Records and tiles.
    pub store: Store,
    /// Sums over them.
    pub sums: Shared,
    /// Tiles that were served.
    pub tiles: TileCache,
    /// Calls whose records are not in the store yet.
    pub calls: Calls,
    /// Takes what is to become an entry.
    pub pool: Arc<Pool>,
    /// Tells who holds a key.
    pub holds: Holds,
    /// How often an address may ask for an entry.
    pub paces: Arc<Paces>,
    /// The providers that calls are forwarded to, by name.
    pub providers: Arc<[String]>,
    /// The newest durable state.
    pub committed: watch::Receiver<Committed>,
    /// What `/checkpoint` answers.
    pub published: watch::Receiver<Published>,
    /// Signs that for EVM chains.
    pub notary: Notary,
    /// How the witnesses fare, if there are any.
    pub witnesses: Option<Roster>,
    /// Where the log is anchored.
    pub anchors: Anchors,
    /// Asks chains about contract wallets.
    pub wallets: Wallets,
    /// Room for those who listen to news.
    pub listeners: Listeners,
    /// Whether records can be stored.
    pub health: Health,
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
    /// Where "today" comes from.
    pub clock: Clock,
}

/// Whom a request is from; the server puts it with every request.
#[derive(Clone, Copy, Debug)]
pub struct Caller(pub IpAddr);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tallystick",
        description = "A verifiable log of LLM usage. PROTOCOL.md is normative.",
    ),
    paths(
        records::pubkey,
        records::providers,
        records::chain,
        records::list,
        records::one,
        records::receipt,
        proofs::inclusion,
        proofs::consistency,
        proofs::offline,
        sums::user,
        records::of_user,
        sums::stats,
        sums::models,
        sums::leaderboard,
        sums::model_leaderboard,
        sums::provider_leaderboard,
        events::events,
        witnesses::witnesses,
        anchors::anchors,
        wallet::wallet,
        wallet_records::list,
        bindings::template,
        bindings::state,
        bindings::bind,
        bindings::totals,
        tiles::checkpoint,
        tiles::tile,
        operator::healthz,
        operator::readyz,
        operator::metrics,
    ),
    components(schemas(ErrorBody))
)]
struct Description;

/// The description of the interface, as `/openapi.json` has it.
pub fn openapi() -> String {
    let json = Description::openapi().to_pretty_json();
    json.expect("the description is plain JSON")
}

/// All routes of the interface.
pub fn router(api: Api) -> Router {
    let api = Arc::new(api);
    let answers = Router::new()
        .route("/api/pubkey", get(records::pubkey))
        .route("/api/providers", get(records::providers))
        .route("/api/chain", get(records::chain))
        .route("/api/records", get(records::list))
        .route("/api/records/{index}", get(records::one))
        .route("/api/records/{index}/proof", get(proofs::offline))
        .route("/api/proof/inclusion", get(proofs::inclusion))
        .route("/api/proof/consistency", get(proofs::consistency))
        .route("/api/receipts/{id}", get(records::receipt))
        .route("/api/user/{key_id}", get(sums::user))
        .route("/api/user/{key_id}/receipts", get(records::of_user))
        .route("/api/stats", get(sums::stats))
        .route("/api/models", get(sums::models))
        .route("/api/leaderboard", get(sums::leaderboard))
        .route("/api/leaderboard/model", get(sums::model_leaderboard))
        .route("/api/leaderboard/provider", get(sums::provider_leaderboard))
        .route("/api/events", get(events::events))
        .route("/api/witnesses", get(witnesses::witnesses))
        .route("/api/anchors", get(anchors::anchors))
        .route("/api/wallet/{addr}", get(wallet::wallet))
        .route("/api/wallet/{addr}/records", get(wallet_records::list))
        .route("/api/bindings", post(bindings::bind))
        .route("/api/bindings/template", get(bindings::template))
        .route("/api/bindings/{key_id}", get(bindings::state))
        .route("/api/totals", post(bindings::totals))
        .route("/healthz", get(operator::healthz))
        .route("/readyz", get(operator::readyz))
        .route("/metrics", get(operator::metrics))
        .route("/openapi.json", get(operator::description))
        .layer(CompressionLayer::new());
    // Outside of the layer: full bundles are stored compressed and sent so; the
    // rest is small, or does not compress.
    let tiles = Router::new()
        .route("/checkpoint", get(tiles::checkpoint))
        .route("/tile/{*path}", get(tiles::tile));
    answers
        .merge(tiles)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(api)
        // The log is public: pages from anywhere may read it.
        .layer(
            CorsLayer::new()
                .allow_origin(Any)
                .allow_methods([Method::GET]),
        )
}

impl Api {
    /// The log's size, as far as it is released: the database may be ahead of
    /// the head file.
    fn size(&self) -> TreeSize {
        self.committed.borrow().checkpoint.size()
    }

    /// The UTC day by our clock.
    fn today(&self) -> u64 {
        (self.clock)().day()
    }
}

async fn method_not_allowed() -> ApiError {
    let message = "the log is read with GET; calls go to /<provider>/...";
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        message,
    )
}

/// A query that was parsed, or a 400 that says what is wrong with it.
fn query<T>(parsed: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    parsed
        .map(|Query(query)| query)
        .map_err(|e| ApiError::bad_request(e.body_text()))
}

fn limit(given: Option<u32>, default: u32) -> Result<u32, ApiError> {
    let limit = given.unwrap_or(default);
    let fits = (1..=1_000).contains(&limit);
    fits.then_some(limit)
        .ok_or_else(|| ApiError::bad_request("limit is 1 to 1,000"))
}

/// Nothing can be read.
pub(crate) fn store_failed(error: crate::store::StoreError) -> ApiError {
    ApiError::internal("store_unavailable", &error)
}
