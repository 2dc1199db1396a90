//! A badge for READMEs: a wallet's tokens in one small picture.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::HeaderName;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use protocol::name::Address;
use protocol::record::Source;

use super::format::rounded;
use crate::api::Api;
use crate::ledger::Sums;
use crate::reply::ApiError;

const LABEL: &str = "LLM tokens";

/// How wide text of 11 units is, in tenths: about Verdana's, in which the
/// label is set where there is one. The text is fitted to it.
fn width(text: &str) -> usize {
    let letter = |letter: char| match letter {
        '0'..='9' => 70,
        'i' | 'l' | 'j' | 'f' | 't' | ' ' | '.' => 40,
        'M' | 'm' | 'w' => 100,
        'A'..='Z' => 78,
        _ => 66,
    };
    text.chars().map(letter).sum()
}

/// Answers a wallet's badge.
pub(super) async fn badge(
    State(api): State<Arc<Api>>,
    Path(file): Path<String>,
) -> Result<Response, ApiError> {
    let wallet = wallet_of(&file)?;
    let bound = api.sums.read().wallet(&wallet).bound;
    let title = format!(
        "LLM tokens of calls that are bound to {} in the log {}",
        wallet.checksummed(),
        api.verifier.origin()
    );
    let drawn = draw(&message(&bound), &title).into_string();
    Ok(picture("image/svg+xml", drawn))
}

/// The address that a picture's name begins with.
pub(super) fn wallet_of(file: &str) -> Result<Address, ApiError> {
    let address = file.strip_suffix(".svg").and_then(Address::from_any_case);
    let message = "a wallet's picture is at its address and .svg, a card also at .png";
    address.ok_or_else(|| ApiError::not_found("not_found", message))
}

/// A picture as it is answered: kept for five minutes, and harmless when opened.
pub(super) fn picture(kind: &str, bytes: impl IntoResponse) -> Response {
    let about: [(HeaderName, &str); 4] = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "public, max-age=300"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (about, bytes).into_response()
}

/// One source's tokens; what a client's own host said is labelled, and only
/// shown where there is nothing else.
fn message(bound: &[(Source, Sums)]) -> String {
    let of = |source| bound.iter().find(|(by, _)| *by == source);
    match (of(Source::Proxy), of(Source::Custom)) {
        (Some((_, sums)), _) => rounded(sums.total()),
        (None, Some((_, sums))) => format!("{} custom", rounded(sums.total())),
        (None, None) => "0".into(),
    }
}

fn draw(message: &str, title: &str) -> Markup {
    let (left, right) = (width(LABEL) / 10 + 10, width(message) / 10 + 10);
    let whole = left + right;
    let text = |text: &str, from: usize, room: usize| {
        let x = from * 10 + room * 5;
        html! {
            text x=(x) y="140" transform="scale(.1)" textLength=(width(text)) lengthAdjust="spacingAndGlyphs" {
                (text)
            }
        }
    };
    html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(whole) height="20"
            role="img" aria-label=(format!("{LABEL}: {message}")) {
            title { (title) }
            clipPath id="round" { rect width=(whole) height="20" rx="3" fill="#fff" {} }
            g clip-path="url(#round)" {
                rect width=(left) height="20" fill="#4a5258" {}
                rect x=(left) width=(right) height="20" fill="#0b6e7a" {}
            }
            g fill="#fff" text-anchor="middle" font-family="Verdana,Geneva,DejaVu Sans,sans-serif" font-size="110" {
                (text(LABEL, 0, left))
                (text(message, left, right))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_not_added_and_custom_ones_are_labelled() {
        let sums = |input| Sums {
            records: 1,
            input,
            ..Sums::default()
        };
        let (proxy, custom) = (Source::Proxy, Source::Custom);
        for (bound, text) in [
            (vec![], "0"),
            (vec![(proxy, sums(12_345_678))], "12.3M"),
            (vec![(proxy, sums(999)), (custom, sums(1 << 40))], "999"),
            (vec![(custom, sums(5_000))], "5.00k custom"),
        ] {
            assert_eq!(message(&bound), text);
        }
    }

    #[test]
    fn a_picture_is_named_by_an_address() {
        let address = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        for (file, there) in [
            (format!("{address}.svg"), true),
            (format!("{}.svg", address.to_lowercase()), true),
            (address.to_owned(), false),
            (format!("{address}.png"), false),
            ("0x12.svg".to_owned(), false),
        ] {
            assert_eq!(wallet_of(&file).is_ok(), there, "{file}");
        }
    }

    #[test]
    fn both_halves_are_as_wide_as_their_text() {
        let drawn = draw("12.3M", "a < b").into_string();
        assert!(drawn.contains("<title>a &lt; b</title>"), "{drawn}");
        let (left, right) = (width(LABEL) / 10 + 10, width("12.3M") / 10 + 10);
        assert!(drawn.contains(&format!(r#"width="{}" height="20" role"#, left + right)));
        assert!(drawn.contains(&format!(r#"<rect x="{left}" width="{right}""#)));
    }
}
