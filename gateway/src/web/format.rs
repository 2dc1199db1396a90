//! How numbers, times and names are written for people.
//!
//! What is shortened has the whole of it beside it, in the element's `title`
//! or `value`.

use maud::{Markup, html};
use protocol::hash::Hash;
use protocol::index::Time;
use protocol::name::Address;
use protocol::record::Source;
use time::OffsetDateTime;

/// Stands between groups of digits, and does not break a line.
const THIN: char = '\u{202f}';

/// A number in groups of three digits: `1 234 567`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(THIN);
        }
        text.push(digit);
    }
    text
}

/// Tokens in three digits: `1.23M`, with the exact number in the title.
pub(super) fn tokens(n: u64) -> Markup {
    html! { data value=(n) title=(count(n)) { (rounded(n)) } }
}

/// A number's first three digits, rounded down, and what they are of.
pub(super) fn rounded(n: u64) -> String {
    const UNITS: &[&str] = &["", "k", "M", "B", "T", "kT", "MT"];
    let mut unit = 0;
    let mut scale = 1_u64;
    while n / scale >= 1_000 {
        scale *= 1_000;
        unit += 1;
    }
    let (whole, rest) = (n / scale, u128::from(n % scale));
    let name = UNITS[unit];
    let part = |of: u128| rest * of / u128::from(scale);
    match whole {
        _ if unit == 0 => format!("{whole}"),
        0..10 => format!("{whole}.{:02}{name}", part(100)),
        10..100 => format!("{whole}.{}{name}", part(10)),
        _ => format!("{whole}{name}"),
    }
}

/// A time to the second, in UTC.
pub(super) fn time(time: Time) -> Markup {
    let secs = i64::try_from(time.secs()).ok();
    let date = secs.and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
    let Some(date) = date else {
        return html! { (time.secs()) " s" };
    };
    let (day, clock) = (date.date(), date.time());
    let day = format!(
        "{:04}-{:02}-{:02}",
        day.year(),
        u8::from(day.month()),
        day.day()
    );
    let clock = format!(
        "{:02}:{:02}:{:02}",
        clock.hour(),
        clock.minute(),
        clock.second()
    );
    html! { time datetime=(format!("{day}T{clock}Z")) { (day) " " (clock) " UTC" } }
}

/// A wallet's address, shortened: `0x5aed…67de`.
pub(super) fn address(address: &Address) -> Markup {
    let whole = address.checksummed();
    html! { code title=(whole) { (&whole[..6]) "…" (&whole[whole.len() - 4..]) } }
}

/// A key id, shortened: `key 3f09a1…44c2`.
pub(super) fn key_id(key_id: &Hash) -> Markup {
    let whole = key_id.to_string();
    html! { code title=(whole) { "key " (&whole[..6]) "…" (&whole[60..]) } }
}

/// How numbers were observed.
pub(super) fn source_label(source: Source) -> Markup {
    let meaning = match source {
        Source::Proxy => "The gateway saw the answers of providers that its operator configured",
        Source::Custom => "The gateway saw the answers of hosts that clients named",
    };
    html! { span.label title=(meaning) { (source.as_str()) } }
}

/// A UTC day, given in days since 1970-01-01: `2026-11-24`.
pub(super) fn day(day: u64) -> String {
    let secs = day.checked_mul(86_400).and_then(|s| i64::try_from(s).ok());
    let date = secs.and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
    date.map_or_else(|| format!("day {day}"), |date| date.date().to_string())
}

/// A part of the most there is, as a bar; it says nothing that isn't there as
/// a number.
pub(super) fn bar(part: u64, most: u64) -> Markup {
    let permille = super::figures::permille(part, most);
    html! {
        svg.bar viewBox="0 0 1000 8" preserveAspectRatio="none" aria-hidden="true" {
            rect.bar-of width="1000" height="8" {}
            rect.bar-part width=(permille) height="8" {}
        }
    }
}

/// A text within a query or a path's segment (RFC 3986 section 2.1).
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A hash, whole, in hex: it may break anywhere.
pub(super) fn hash(hash: &Hash) -> Markup {
    html! { code.hash { (hash) } }
}

/// Lines to copy. A button for that comes with the script.
pub(super) fn lines(text: &str) -> Markup {
    html! { div.code data-copy { pre tabindex="0" { code { (text) } } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_rounded_down() {
        for (n, grouped, short) in [
            (0, "0", "0"),
            (999, "999", "999"),
            (1_000, "1 000", "1.00k"),
            (1_999, "1 999", "1.99k"),
            (12_345, "12 345", "12.3k"),
            (999_999, "999 999", "999k"),
            (1_234_567, "1 234 567", "1.23M"),
            (5_000_000_000, "5 000 000 000", "5.00B"),
            (u64::MAX, "18 446 744 073 709 551 615", "18.4MT"),
        ] {
            assert_eq!(count(n), grouped.replace(' ', "\u{202f}"));
            assert_eq!(rounded(n), short);
        }
    }

    #[test]
    fn times_are_in_utc() {
        let at = |secs| Time::from_secs(secs).expect("small");
        assert_eq!(
            time(at(1_764_000_000)).into_string(),
            r#"<time datetime="2025-11-24T16:00:00Z">2025-11-24 16:00:00 UTC</time>"#
        );
        // Later than calendars go.
        let last = at((1 << 53) - 1);
        assert_eq!(time(last).into_string(), "9007199254740991 s");
    }

    #[test]
    fn what_is_shortened_is_whole_in_the_title() {
        let wallet = Address::from_bytes([0xab; 20]);
        let text = address(&wallet).into_string();
        assert!(text.contains(&format!("title=\"{}\"", wallet.checksummed())));
        let key = Hash::of(b"key");
        let text = key_id(&key).into_string();
        assert!(text.contains(&format!("title=\"{key}\"")));
    }

    #[test]
    fn texts_are_no_markup() {
        let text = lines("<script>&\"'").into_string();
        assert!(text.contains("&lt;script&gt;&amp;&quot;"), "{text}");
    }
}
