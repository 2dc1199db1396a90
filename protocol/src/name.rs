//! Strings that entries may hold: names and wallet addresses.

use alloc::string::String;
use core::fmt;

/// The longest name an entry may hold, in bytes.
pub const MAX_NAME: usize = 128;

/// A provider's or model's name: 1 to 128 bytes of 0x20 to 0x7E without `"` and `\`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// `None` where the text is not such a name; the field is then absent.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(plain);
        fits.then(|| Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a byte may stand in an entry's string.
pub(crate) fn plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

/// An EVM address, 20 bytes. In entries: `0x` and 40 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u8; 20]);

/// Why a text that a person gave is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It has another form.
    #[error("{0:?} is not a wallet address: expected 0x and 40 hex digits")]
    Form(String),
    /// Its letters are neither all of lower case nor the checksum's.
    #[error("the letters of {0} are not its checksum (EIP-55): is it mistyped?")]
    Checksum(String),
}

impl Address {
    /// Wraps 20 bytes.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The address's 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Parses the form that entries hold: `0x` and 40 lower-case hex digits.
    pub fn from_canonical(text: &str) -> Option<Self> {
        let lower = text.bytes().all(|b| !b.is_ascii_uppercase());
        lower.then(|| Self::from_any_case(text)).flatten()
    }

    /// Parses `0x` and 40 hex digits of either case, without judging an EIP-55 checksum.
    pub fn from_any_case(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0x")?.as_bytes();
        if digits.len() != 40 {
            return None;
        }
        let mut bytes = [0; 20];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |d: u8| {
                char::from(d)
                    .to_digit(16)
                    .and_then(|n| u8::try_from(n).ok())
            };
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// Parses what a person gave: lower-case digits, or their checksum's case (EIP-55).
    ///
    /// # Errors
    /// Another form, or letters of another case.
    pub fn from_checked(text: &str) -> Result<Self, AddressError> {
        let address = Self::from_any_case(text).ok_or_else(|| AddressError::Form(text.into()))?;
        if Self::from_canonical(text).is_some() || address.checksummed() == text {
            return Ok(address);
        }
        Err(AddressError::Checksum(text.into()))
    }

    /// The form that people and wallets use: the digits' case is a checksum (EIP-55).
    pub fn checksummed(&self) -> String {
        alloy_primitives::Address::from(self.0).to_checksum(None)
    }
}

/// `0x` and 40 lower-case hex digits.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_addresses_are_told_from_malformed_ones() {
        // EIP-55's own example.
        let right = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        let lower = right.to_lowercase();
        let flipped = right.replace("0x5aA", "0x5AA");
        let upper = alloc::format!("0x{}", lower[2..].to_uppercase());
        for (text, fits) in [
            (right, Ok(())),
            (&lower, Ok(())),
            (&flipped, Err(AddressError::Checksum(flipped.clone()))),
            (&upper, Err(AddressError::Checksum(upper.clone()))),
            (&right[..41], Err(AddressError::Form(right[..41].into()))),
            ("", Err(AddressError::Form("".into()))),
        ] {
            assert_eq!(Address::from_checked(text).map(drop), fits, "{text}");
        }
    }
}
