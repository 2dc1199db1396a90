//! Numbers and bytes as sums and the state file hold them: most numbers are
//! small.

use std::io::{self, Write};

/// Appends a number, 7 bits a byte, lowest first (LEB128).
pub fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

/// Takes such a number; `None` where the bytes end within it or it has no 64 bits.
pub fn take(bytes: &mut &[u8]) -> Option<u64> {
    // Most numbers are small, and whole days of them are read at once.
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    if first & 0x80 == 0 {
        return Some(u64::from(*first));
    }
    let mut number = u64::from(first & 0x7f);
    for shift in (7..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Writes a number.
///
/// # Errors
/// Those of `to`.
pub fn number(to: &mut impl Write, value: u64) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(10);
    put(&mut bytes, value);
    to.write_all(&bytes)
}

/// Writes bytes after their number.
///
/// # Errors
/// Those of `to`.
pub fn chunk(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    number(to, bytes.len() as u64)?;
    to.write_all(bytes)
}

/// Takes so many bytes.
pub fn take_array<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*array)
}

/// Takes a number of things that are still to come, each of at least a byte.
pub fn take_count(from: &mut &[u8]) -> Option<usize> {
    let count = usize::try_from(take(from)?).ok()?;
    (count <= from.len()).then_some(count)
}

/// Takes what [`chunk`] wrote.
pub fn take_chunk<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_count(from)?;
    let (chunk, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(chunk)
}

/// The same, of a text.
pub fn take_text<'a>(from: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take_chunk(from)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_packing() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut bytes = vec![];
            put(&mut bytes, value);
            assert_eq!(take(&mut &bytes[..]), Some(value));
            assert_eq!(take(&mut &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(take(&mut &[0xff; 11][..]), None);
        assert_eq!(take(&mut &[&[0xff; 9][..], &[2]].concat()[..]), None);
    }
}
