//! The laws that hold for every input of every parser; a target for each.
//!
//! What reads a provider's answer is part of the gateway, whose other
//! dependencies (TLS, HTTP, SQLite) would have to be built with the fuzzer's
//! flags too; so its source files are compiled here once more by their paths.

pub mod formats;
pub mod proxy;
pub mod reading;
pub mod witnessing;

#[path = "../../gateway/src/usage/mod.rs"]
#[expect(dead_code, reason = "the gateway asks more of it than the laws do")]
mod usage;

/// The lengths into which an input is to be cut, as `seed` says: some of one
/// byte, some of many.
fn lengths(seed: u8) -> impl Iterator<Item = usize> {
    let mut state = u32::from(seed) + 1;
    std::iter::repeat_with(move || {
        // A linear congruential generator: the same cuts for the same input.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match state >> 24 {
            large @ 224.. => large as usize,
            small => 1 + (small as usize >> 4),
        }
    })
}

/// `bytes`, cut so.
fn slices(bytes: &[u8], lengths: impl Iterator<Item = usize>) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    lengths.map_while(move |length| {
        let (slice, tail) = rest.split_at(length.min(rest.len()));
        rest = tail;
        (!slice.is_empty()).then_some(slice)
    })
}
