//! The data directory: its lock, and the log's two secret keys.
//!
//! Each key is one line of 64 hex digits in a file of mode 0600.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use k256::ecdsa::SigningKey as EvmKey;
use protocol::hash::Hash;
use protocol::key::{Origin, Signer};
use protocol::name::Address;

use crate::store::Database;

/// The folder that one gateway holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// What is wrong with the data directory or a key in it.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It can't be created or written.
    #[error("{} can't be {doing}; choose another folder with --data-dir", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Done with it.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another gateway runs on it.
    #[error("the data directory {} is held by another gateway; stop that one or choose another folder with --data-dir", .0.display())]
    Held(PathBuf),
    /// Others may read a secret key.
    #[error("the key file {} may be read by others (mode {mode:o}); run: chmod 600 {}", path.display(), path.display())]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A key file does not hold a key.
    #[error("the key file {} does not hold a key (expected {expected}); restore it from a backup, for without it this log can't go on", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A database without its key.
    #[error(
        "the database {database} holds a log, and the data directory {} does not hold its key {file}; \
         restore the file from a backup, or copy it from another gateway of this log",
        dir.display()
    )]
    Lost {
        /// The folder.
        dir: PathBuf,
        /// Where the log is.
        database: Database,
        /// The missing file.
        file: &'static str,
    },
    /// The operating system gives no randomness.
    #[error("no randomness for a new key: {0}")]
    Random(getrandom::Error),
}

/// The files in the data directory.
const LOCK: &str = "lock";
const LOG_KEY: &str = "log.key";
const EVM_KEY: &str = "evm.key";
const JOURNAL: &str = "journal";
const HEAD: &str = "log.head";

impl DataDir {
    /// Creates the folder if need be and takes it for this process.
    ///
    /// # Errors
    /// Not writable, or held by another gateway.
    pub fn take(path: &Path) -> Result<Self, DataDirError> {
        let journal = path.join(JOURNAL);
        fs::create_dir_all(&journal).map_err(io_error(&journal, "created"))?;
        let lock = path.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .map_err(io_error(&lock, "written"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                path: path.into(),
                _lock: file,
            }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::Held(path.into())),
            Err(TryLockError::Error(source)) => Err(io_error(&lock, "locked")(source)),
        }
    }

    /// The folder of the journal; it exists.
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// The file that says how far the log was signed here.
    pub fn head(&self) -> PathBuf {
        self.path.join(HEAD)
    }

    /// The log's Ed25519 seed; made if need be, unless there is a log `in_use`.
    ///
    /// # Errors
    /// The file can't be read or written, may be read by others, or holds no key.
    pub fn log_seed(&self, in_use: Option<&Database>) -> Result<[u8; 32], DataDirError> {
        self.secret(LOG_KEY, in_use)
    }

    /// The log's secp256k1 key, which is made likewise.
    ///
    /// # Errors
    /// As [`DataDir::log_seed`].
    pub fn evm_key(&self, in_use: Option<&Database>) -> Result<EvmKey, DataDirError> {
        let secret = self.secret(EVM_KEY, in_use)?;
        EvmKey::from_slice(&secret).map_err(|_| DataDirError::Content {
            path: self.path.join(EVM_KEY),
            expected: "a secp256k1 secret key as 64 hex digits",
        })
    }

    fn secret(
        &self,
        file: &'static str,
        in_use: Option<&Database>,
    ) -> Result<[u8; 32], DataDirError> {
        let path = self.path.join(file);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.create(file, in_use);
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
            Err(error) => return Err(io_error(&path, "read")(error)),
        };
        let metadata = fs::metadata(&path).map_err(io_error(&path, "read"))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(DataDirError::Mode { path, mode });
        }
        let secret = Hash::from_hex(text.trim_end());
        let expected = "64 lower-case hex digits";
        secret
            .map(|s| *s.as_bytes())
            .ok_or(DataDirError::Content { path, expected })
    }

    fn create(
        &self,
        file: &'static str,
        in_use: Option<&Database>,
    ) -> Result<[u8; 32], DataDirError> {
        if let Some(database) = in_use {
            return Err(DataDirError::Lost {
                dir: self.path.clone(),
                database: database.clone(),
                file,
            });
        }
        let mut secret = [0; 32];
        // Any 32 bytes are an Ed25519 seed; all but about one in 2^128 are a secp256k1 key.
        getrandom::fill(&mut secret).map_err(DataDirError::Random)?;
        let path = self.path.join(file);
        // Whole or not at all: a key that was cut would lock the log out.
        let draft = self.path.join(format!("{file}.new"));
        let mut options = OpenOptions::new();
        let written = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut f| {
                // The umask may only take away; this is what the mode is held to be.
                f.set_permissions(Permissions::from_mode(0o600))?;
                f.write_all(format!("{}\n", Hash::from_bytes(secret)).as_bytes())?;
                f.sync_all()
            })
            .and_then(|()| fs::rename(&draft, &path))
            .and_then(|()| File::open(&self.path)?.sync_all());
        written.map_err(io_error(&path, "written"))?;
        Ok(secret)
    }
}

/// The address of a secp256k1 key.
pub fn evm_address(key: &EvmKey) -> Address {
    let address = alloy_primitives::Address::from_private_key(key);
    Address::from_bytes(address.into_array())
}

/// The origin that a log takes when none was chosen: it names nobody, and
/// two logs never share it.
pub fn default_origin(seed: &[u8; 32]) -> Origin {
    let any = Origin::parse("tally.invalid").expect("valid");
    let key = *Signer::new(any, seed).verifier().as_bytes();
    let hash = Hash::of(&key).to_string();
    Origin::parse(&format!("tally.invalid/{}", &hash[..16])).expect("hex is a path segment")
}

fn io_error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io {
        path,
        doing,
        source,
    }
}
