//! Hex and words, as nodes and the contract ABI have them.

use std::fmt::Write as _;

use protocol::hash::Hash;
use protocol::name::Address;
use serde_json::Value;

/// Bytes as `0x` and two digits each, in either case.
pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?.as_bytes();
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let nibble = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    let byte = |pair: &[u8; 2]| Some(nibble(pair[0])? << 4 | nibble(pair[1])?);
    pairs.iter().map(byte).collect()
}

/// `0x` and two digits for each byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A number in hex, of at most 2^64 - 1.
pub(super) fn quantity(value: &Value) -> Option<u64> {
    let digits = value.as_str()?.strip_prefix("0x")?;
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| plain)
}

/// 32 bytes in hex.
pub(super) fn hash(value: &Value) -> Option<Hash> {
    let bytes = bytes(value.as_str()?)?;
    Some(Hash::from_bytes(bytes.try_into().ok()?))
}

/// The words of an answer or of data, of which there must be `N`.
pub(super) fn words<const N: usize>(bytes: &[u8]) -> Option<[[u8; 32]; N]> {
    let (words, []) = bytes.as_chunks::<32>() else {
        return None;
    };
    words.try_into().ok()
}

/// An integer of at most 2^64 - 1.
pub(super) fn number(word: &[u8; 32]) -> Option<u64> {
    let (zeros, number) = word.split_last_chunk::<8>()?;
    let fits = zeros.iter().all(|byte| *byte == 0);
    fits.then_some(u64::from_be_bytes(*number))
}

/// An integer as a word.
pub(super) fn word(number: u64) -> [u8; 32] {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&number.to_be_bytes());
    word
}

/// An address as a word.
pub(super) fn address_word(address: Address) -> [u8; 32] {
    let mut word = [0; 32];
    word[12..].copy_from_slice(address.as_bytes());
    word
}

/// The one text of an answer: where it stands, its length, itself, zeros.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let (head, rest) = bytes.split_at_checked(64)?;
    let [place, len] = words::<2>(head)?;
    let len = usize::try_from(number(&len)?).ok()?;
    let (text, zeros) = rest.split_at_checked(len)?;
    let whole = number(&place) == Some(32) && zeros.len() < 32 && rest.len() % 32 == 0;
    let fits = whole && zeros.iter().all(|byte| *byte == 0);
    String::from_utf8(text.to_vec()).ok().filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_as_it_is_written() {
        for (text, expected) in [
            ("0x", Some(vec![])),
            ("0x00ff", Some(vec![0, 255])),
            ("0xAb", Some(vec![0xab])),
            ("0x1", None),
            ("00", None),
            ("0x0g", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        assert_eq!(hex(&[0, 255]), "0x00ff");
        for (text, expected) in [
            ("0x0", Some(0)),
            ("0xff", Some(255)),
            ("0x+1", None),
            ("1", None),
            ("0x", None),
            ("0x10000000000000000", None),
        ] {
            assert_eq!(quantity(&text.into()), expected, "{text}");
        }
    }

    #[test]
    fn words_are_numbers_and_texts_are_padded() {
        assert_eq!(number(&word(7)), Some(7));
        let mut large = word(7);
        large[23] = 1;
        assert_eq!(number(&large), None);
        assert_eq!(words::<1>(&[0; 33]), None);
        let of = |len: u64, rest: &[u8]| text(&[&word(32)[..], &word(len), rest].concat());
        let mut padded = b"a.b".to_vec();
        padded.resize(32, 0);
        assert_eq!(of(3, &padded), Some("a.b".into()));
        assert_eq!(of(0, &[]), Some(String::new()));
        for (len, rest) in [
            (2, &padded[..]),
            (4, b"a.b"),
            (3, b"a.b"),
            (u64::MAX, &padded),
        ] {
            assert_eq!(of(len, rest), None, "{len}");
        }
    }
}
