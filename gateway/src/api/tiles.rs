//! The log as C2SP tlog-tiles has it.
//!
//! Full bundles of entries are stored in each coding and sent so. Hashes and
//! signatures don't compress.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use protocol::tile::{Tile, TileKind, WIDTH};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::{Api, store_failed};
use crate::log::replica::Committed;
use crate::reply::{ApiError, ErrorBody};
use crate::store::{Coding, StoreError};

/// Tiles never change.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// A signed note is asked for again and again.
const FRESH: &str = "no-cache";

/// How long a tile's release is waited for.
const SOON: Duration = Duration::from_secs(1);

/// Bytes of tiles that are kept.
const KEPT: u64 = 32 << 20;

/// Tiles that were served of late.
#[derive(Clone)]
pub struct TileCache(Arc<Cache<(Tile, Coding), Bytes, Length>>);

#[derive(Clone)]
struct Length;

impl Weighter<(Tile, Coding), Bytes> for Length {
    fn weight(&self, _: &(Tile, Coding), bytes: &Bytes) -> u64 {
        bytes.len() as u64 + 64
    }
}

impl Default for TileCache {
    fn default() -> Self {
        Self(Arc::new(Cache::with_weighter(1_024, KEPT, Length)))
    }
}

impl fmt::Debug for TileCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TileCache").finish_non_exhaustive()
    }
}

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
        (status = 304, description = "The client has it"),
        (status = 404, body = ErrorBody)))]
pub(super) async fn tile(
    State(api): State<Arc<Api>>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let missing = |why: &str| ApiError::not_found("unknown_tile", why);
    let tile = Tile::parse(&format!("tile/{path}")).ok_or_else(|| {
        missing("no tile has this path; C2SP tlog-tiles says how they are written")
    })?;
    let coding = Coding::of(&tile, headers.get(ACCEPT_ENCODING));
    let bytes = api.tile_bytes(&tile, coding).await.map_err(store_failed)?;
    let bytes = bytes.ok_or_else(|| missing("the log is not large enough for this tile"))?;
    let tag = coding.tag(&api, &path);
    let mut answer = if headers.get(IF_NONE_MATCH) == Some(&tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let octets = HeaderValue::from_static("application/octet-stream");
        ([(CONTENT_TYPE, octets)], bytes).into_response()
    };
    let more: [(HeaderName, HeaderValue); 3] = [
        (CACHE_CONTROL, IMMUTABLE),
        (ETAG, tag),
        (VARY, HeaderValue::from_static("accept-encoding")),
    ];
    answer.headers_mut().extend(more);
    if let Some(name) = coding.name() {
        let name = HeaderValue::from_static(name);
        answer.headers_mut().insert(CONTENT_ENCODING, name);
    }
    Ok(answer)
}

impl Api {
    /// A tile's bytes as they are; `None` where the log is not that large.
    pub(super) async fn hashes(&self, tile: &Tile) -> Result<Option<Bytes>, StoreError> {
        self.tile_bytes(tile, Coding::Identity).await
    }

    async fn tile_bytes(&self, tile: &Tile, coding: Coding) -> Result<Option<Bytes>, StoreError> {
        // A partial tile never changes either: a wider one is another tile.
        if let Some(kept) = self.tiles.0.get(&(*tile, coding)) {
            return Ok(Some(kept));
        }
        let found = match u64::from(tile.width()) == WIDTH {
            true => self.store.full_tile(tile, coding).await?,
            false => self.store.tile(tile).await?,
        };
        let Some(bytes) = found else { return Ok(None) };
        if !self.released(tile).await {
            return Ok(None);
        }
        self.tiles.0.insert((*tile, coding), bytes.clone());
        Ok(Some(bytes))
    }

    /// Whether a tile that is in the database is released, or is soon: this
    /// gateway's head file may be behind, or another one wrote it just now.
    async fn released(&self, tile: &Tile) -> bool {
        let mut committed = self.committed.clone();
        let covers = |committed: &Committed| tile.is_within(committed.checkpoint.size());
        let released = committed.wait_for(covers);
        matches!(tokio::time::timeout(SOON, released).await, Ok(Ok(_)))
    }
}

impl Coding {
    /// What is sent to a client that accepts this.
    fn of(tile: &Tile, accepted: Option<&HeaderValue>) -> Self {
        let full = u64::from(tile.width()) == WIDTH;
        let accepted = accepted.and_then(|value| value.to_str().ok());
        let accepts = |name: &str| {
            let mut codings = accepted.unwrap_or_default().split(',');
            codings.any(|coding| {
                let (coding, weight) = coding.split_once(';').unwrap_or((coding, ""));
                let refused = matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
                coding.trim().eq_ignore_ascii_case(name) && !refused
            })
        };
        match tile.kind() {
            TileKind::Entries if full && accepts("zstd") => Self::Zstd,
            TileKind::Entries if full && accepts("gzip") => Self::Gzip,
            _ => Self::Identity,
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// The entity tag: a tile of a log is its path, and its coding.
    fn tag(self, api: &Api, path: &str) -> HeaderValue {
        let [a, b, c, d] = api.verifier.key_hash();
        let coding = self.name().unwrap_or("identity");
        let tag = format!("\"{a:02x}{b:02x}{c:02x}{d:02x}/{path}/{coding}\"");
        HeaderValue::from_str(&tag).expect("a tile's path is ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::index::TreeSize;

    #[test]
    fn a_bundle_comes_as_the_client_takes_it() {
        let size = TreeSize::new(300).expect("small");
        let full = Tile::within(TileKind::Entries, 0, size).expect("within");
        let partial = Tile::within(TileKind::Entries, 1, size).expect("within");
        let hashes = Tile::within(TileKind::Hashes(0), 0, size).expect("within");
        for (tile, accepted, coding) in [
            (full, Some("gzip, zstd"), Coding::Zstd),
            (full, Some("GZIP;q=0.5 , deflate"), Coding::Gzip),
            (full, Some("zstd;q=0, gzip;q=1.0"), Coding::Gzip),
            (full, Some("br"), Coding::Identity),
            (full, None, Coding::Identity),
            (partial, Some("gzip, zstd"), Coding::Identity),
            (hashes, Some("gzip, zstd"), Coding::Identity),
        ] {
            let value = accepted.map(HeaderValue::from_static);
            assert_eq!(Coding::of(&tile, value.as_ref()), coding, "{accepted:?}");
        }
    }
}
