//! The gas key: pays for posts, and has no other authority.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::{env, fmt, fs};

use alloy_consensus::{SignableTransaction as _, TxEip1559};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, hex};
use eth_keystore::{EthKeystore, KdfparamsType, KeystoreError};
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
    /// Others may read the password.
    #[error(
        "the password file {file} may be read by others (mode {mode:o}); run: chmod 600 {file}"
    )]
    Mode {
        /// Which.
        file: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The password opens something else.
    #[error("the password does not open the keystore {0}")]
    Password(String),
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
        let password = match password {
            Some(file) => read_password(file)?,
            None => env::var(PASSWORD_VARIABLE).map_err(|_| PurseError::NoPassword)?,
        };
        require_lengths(keystore)?;
        let bytes = eth_keystore::decrypt_key(keystore, password).map_err(|error| match error {
            KeystoreError::MacMismatch => PurseError::Password(keystore.display().to_string()),
            error => failed(keystore)(error),
        })?;
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

/// The first line's text, of a file that is its owner's alone.
fn read_password(file: &Path) -> Result<String, PurseError> {
    let text = fs::read_to_string(file).map_err(failed(file))?;
    let mode = fs::metadata(file).map_err(failed(file))?;
    let mode = mode.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let file = file.display().to_string();
        return Err(PurseError::Mode { file, mode });
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The library takes these for granted.
fn require_lengths(file: &Path) -> Result<(), PurseError> {
    let text = fs::read(file).map_err(failed(file))?;
    let keystore: EthKeystore = serde_json::from_slice(&text).map_err(failed(file))?;
    let (KdfparamsType::Pbkdf2 { dklen, .. } | KdfparamsType::Scrypt { dklen, .. }) =
        keystore.crypto.kdfparams;
    let iv = keystore.crypto.cipherparams.iv.len();
    if dklen < 32 || iv < 16 {
        let found = format!("dklen {dklen} and an iv of {iv} bytes, expected 32 and 16 at least");
        return Err(failed(file)(found));
    }
    Ok(())
}

fn failed<E: ToString>(file: &Path) -> impl Fn(E) -> PurseError {
    let file = file.display().to_string();
    move |cause| PurseError::File {
        file: file.clone(),
        cause: cause.to_string(),
    }
}

impl fmt::Debug for Purse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Purse({})", self.address)
    }
}
