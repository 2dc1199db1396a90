//! Styles, scripts and pictures, which are part of the program.
//!
//! Pages link to them by name and hash, and such an answer may be kept for
//! ever. Modules import each other by name alone: those are asked for again,
//! and answered with 304 while they are the same.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::extract::{Path, RawQuery};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use protocol::hash::Hash;

use crate::reply::ApiError;

/// An asset by its name, its media type, and its bytes.
type Embedded = (&'static str, &'static str, &'static str);

const CSS: &str = "text/css; charset=utf-8";
const JSON: &str = "application/json";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// All there are.
const ASSETS: &[Embedded] = &[
    ("anchored.js", SCRIPT, include_str!("../../web/anchored.js")),
    ("app.js", SCRIPT, include_str!("../../web/app.js")),
    ("chain.js", SCRIPT, include_str!("../../web/chain.js")),
    ("check.js", SCRIPT, include_str!("../../web/check.js")),
    ("checks.js", SCRIPT, include_str!("../../web/checks.js")),
    ("evidence.js", SCRIPT, include_str!("../../web/evidence.js")),
    ("files.js", SCRIPT, include_str!("../../web/files.js")),
    ("panel.js", SCRIPT, include_str!("../../web/panel.js")),
    ("icon.svg", SVG, include_str!("../../web/icon.svg")),
    ("link.js", SCRIPT, include_str!("../../web/link.js")),
    ("prices.json", JSON, super::prices::FILE),
    ("style.css", CSS, include_str!("../../web/style.css")),
    ("verify.js", SCRIPT, include_str!("../../web/verify.js")),
    (
        "witnessed.js",
        SCRIPT,
        include_str!("../../web/witnessed.js"),
    ),
];

struct Asset {
    kind: &'static str,
    text: &'static str,
    /// Its SHA-256.
    hash: Hash,
    /// The first 16 hex digits of that.
    tag: String,
}

static BY_NAME: LazyLock<BTreeMap<&str, Asset>> = LazyLock::new(|| {
    let asset = |&(name, kind, text): &Embedded| {
        let hash = Hash::of(text.as_bytes());
        let mut tag = hash.to_string();
        tag.truncate(16);
        let asset = Asset {
            kind,
            text,
            hash,
            tag,
        };
        (name, asset)
    };
    ASSETS.iter().map(asset).collect()
});

/// Where an asset is, by its name and what it is now.
///
/// # Panics
/// There is none of this name; that is a mistake of ours, which tests find.
pub(super) fn link(name: &str) -> String {
    let asset = BY_NAME.get(name).expect("an asset that there is");
    format!("/assets/{name}?v={}", asset.tag)
}

/// The SHA-256 of an asset's bytes.
///
/// # Panics
/// As [`link`].
pub(super) fn hash(name: &str) -> Hash {
    BY_NAME.get(name).expect("an asset that there is").hash
}

/// Answers an asset.
pub(super) async fn asset(
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let missing = || ApiError::not_found("not_found", "there is no such style, script or picture");
    let asset = BY_NAME.get(name.as_str()).ok_or_else(missing)?;
    // Weak: the bytes are sent in several codings.
    let tag = format!("W/\"{}\"", asset.tag);
    let asked_for = query.as_deref().and_then(|q| q.strip_prefix("v="));
    let keep = match asked_for == Some(asset.tag.as_str()) {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    let known = headers
        .get(IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok());
    let known = known.is_some_and(|tags| tags.split(',').any(|t| t.trim() == tag));
    let about = [
        (CACHE_CONTROL, keep),
        (ETAG, tag.as_str()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    if known {
        return Ok((StatusCode::NOT_MODIFIED, about).into_response());
    }
    Ok((about, [(CONTENT_TYPE, asset.kind)], asset.text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_are_small() {
        let whole: usize = ASSETS.iter().map(|(_, _, text)| text.len()).sum();
        assert!(whole < 150_000, "{whole} bytes");
    }

    #[test]
    fn they_ask_nobody_else_for_anything() {
        for (name, _, text) in ASSETS {
            for word in ["@import", "url(http", "src=\"http", "from \"http"] {
                assert!(!text.contains(word), "{name} must not say {word:?}");
            }
        }
    }

    #[tokio::test]
    async fn they_are_kept_by_hash_and_asked_for_again_by_name() {
        let ask = async |query: Option<&str>, known: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(tags) = known {
                headers.insert(IF_NONE_MATCH, tags.parse().expect("a header"));
            }
            let query = RawQuery(query.map(str::to_owned));
            let answer = asset(Path("app.js".to_owned()), query, headers).await;
            answer.expect("there is one")
        };
        let current = link("app.js");
        let (_, current) = current.split_once('?').expect("with its hash");
        let plain = ask(None, None).await;
        let tag = plain.headers()[ETAG].to_str().expect("ASCII").to_owned();
        let both = format!("\"other\", {tag}");
        for (query, known, status, kept) in [
            (None, None, 200, false),
            (Some(current), None, 200, true),
            (Some("v=0000000000000000"), None, 200, false),
            (None, Some(tag.as_str()), 304, false),
            (Some(current), Some(both.as_str()), 304, true),
            (None, Some("\"other\""), 200, false),
        ] {
            let answer = ask(query, known).await;
            assert_eq!(answer.status(), status, "{query:?} {known:?}");
            let keep = answer.headers()[CACHE_CONTROL].to_str().expect("ASCII");
            assert_eq!(keep.contains("immutable"), kept, "{query:?} {known:?}");
        }
        let lost = asset(Path("../keys".to_owned()), RawQuery(None), HeaderMap::new()).await;
        assert!(lost.is_err());
    }
}
