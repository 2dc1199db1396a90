//! The gas key: pays for posts, and has no other authority.

use std::path::Path;
use std::{env, fmt, fs};

use alloy_consensus::{SignableTransaction as _, TxEip1559};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, hex};
use k256::ecdsa::SigningKey;

/// Holds the key as 64 hex digits, where there is no keystore.
pub const KEY_VARIABLE: &str = "TALLY_ANCHOR_KEY";
/// Holds the keystore's password, where it is in no file.
pub const PASSWORD_VARIABLE: &str = "TALLY_ANCHOR_PASSWORD";

/// A gas key.
pub struct Purse {
    key: SigningKey,
    address: Address,
}

/// Why there is no gas key.
#[derive(Debug, thiserror::Error)]
pub enum PurseError {
    /// None was given.
    #[error(
        "no gas key: give an encrypted keystore with --keystore, or the key in the environment variable {KEY_VARIABLE}"
    )]
    None,
    /// No password was given.
    #[error(
        "no password for the keystore: give a file with --password-file, or set {PASSWORD_VARIABLE}"
    )]
    NoPassword,
    /// A file can't be read.
    #[error("{file} can't be read: {cause}")]
    File {
        /// Which.
        file: String,
        /// Why.
        cause: String,
    },
    /// Not a key. What it is instead is not said: it may be one that was cut.
    #[error("{0} does not hold a secp256k1 key, expected 64 hex digits")]
    Key(&'static str),
}

impl Purse {
    /// The key in the keystore (Web3 Secret Storage, version 3), or else in the environment.
    ///
    /// # Errors
    /// [`PurseError`].
    pub fn open(keystore: Option<&Path>, password: Option<&Path>) -> Result<Self, PurseError> {
        let Some(keystore) = keystore else {
            let text = env::var(KEY_VARIABLE).map_err(|_| PurseError::None)?;
            let bytes = hex::decode(text.trim()).map_err(|_| PurseError::Key(KEY_VARIABLE))?;
            return Self::new(&bytes).ok_or(PurseError::Key(KEY_VARIABLE));
        };
        let failed = |file: &Path, cause: String| PurseError::File {
            file: file.display().to_string(),
            cause,
        };
        let password = match password {
            Some(file) => fs::read_to_string(file)
                .map_err(|error| failed(file, error.to_string()))?
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
            None => env::var(PASSWORD_VARIABLE).map_err(|_| PurseError::NoPassword)?,
        };
        let bytes = eth_keystore::decrypt_key(keystore, password)
            .map_err(|error| failed(keystore, error.to_string()))?;
        Self::new(&bytes).ok_or(PurseError::Key("the keystore"))
    }

    fn new(secret: &[u8]) -> Option<Self> {
        let key = SigningKey::from_slice(secret).ok()?;
        let address = Address::from_private_key(&key);
        Some(Self { key, address })
    }

    /// Whose ether is spent.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Signs a transaction: its bytes as they are broadcast, and its hash.
    /// Deterministic (RFC 6979).
    pub fn sign(&self, transaction: TxEip1559) -> (Bytes, B256) {
        let digest = transaction.signature_hash();
        let signed = self.key.sign_prehash_recoverable(digest.as_slice());
        let signature = Signature::from(signed.expect("a digest has 32 bytes"));
        let signed = transaction.into_signed(signature);
        (signed.encoded_2718().into(), *signed.hash())
    }
}

impl fmt::Debug for Purse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Purse({})", self.address)
    }
}
