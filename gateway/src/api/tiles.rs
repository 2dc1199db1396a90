//! The log as C2SP tlog-tiles has it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use protocol::tile::Tile;

use super::{Api, store_failed};
use crate::reply::{ApiError, ErrorBody};

/// Tiles never change.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// A signed note is asked for again and again.
const FRESH: &str = "no-cache";

/// The newest published checkpoint.
#[utoipa::path(get, path = "/checkpoint", responses(
    (status = 200, body = String, content_type = "text/plain; charset=utf-8")))]
pub(super) async fn checkpoint(State(api): State<Arc<Api>>) -> Response {
    let note = api.published.borrow().note.to_string();
    (
        [
            (CONTENT_TYPE, "text/plain; charset=utf-8"),
            (CACHE_CONTROL, FRESH),
        ],
        note,
    )
        .into_response()
}

/// A tile of hashes (`0/x001/067`), a bundle of entries (`entries/000.p/17`)
/// or the signatures of their receipts (`receipts/000`).
#[utoipa::path(get, path = "/tile/{path}",
    params(("path" = String, Path, description = "As C2SP tlog-tiles writes it")),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, body = ErrorBody)))]
pub(super) async fn tile(
    State(api): State<Arc<Api>>,
    Path(path): Path<String>,
) -> Result<Response, ApiError> {
    let missing = |why: &str| ApiError::not_found("unknown_tile", why);
    let tile = Tile::parse(&format!("tile/{path}")).ok_or_else(|| {
        missing("no tile has this path; C2SP tlog-tiles says how they are written")
    })?;
    let bytes = api.store.tile(&tile).await.map_err(store_failed)?;
    let bytes = bytes.ok_or_else(|| missing("the log is not large enough for this tile"))?;
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        (CACHE_CONTROL, IMMUTABLE),
    ];
    Ok((headers, bytes).into_response())
}
