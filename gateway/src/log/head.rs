//! The head file: the newest checkpoint that this gateway published, kept
//! outside of the database, so that an older copy of it is recognised.
//!
//! Written after the commit it tells of and before the checkpoint is published:
//! it is never ahead of the database, and at most a second behind. Each write
//! replaces the file whole.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use protocol::checkpoint::Checkpoint;
use protocol::index::TreeSize;
use protocol::key::VerifierKey;

use crate::store::{Store, StoreError};

/// The file that holds the head, as a signed note.
#[derive(Clone, Debug)]
pub struct Head(PathBuf);

/// Why a log must not go on, or its head can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The file can't be read or written.
    #[error("the head file {} can't be {doing}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Done with it.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "the head file {} does not hold a checkpoint of this log; restore it, or, if you know \
         that the database is not an older copy, remove it", .0.display()
    )]
    Foreign(PathBuf),
    /// Nothing of what was signed is left.
    #[error(
        "this log has signed entries (see {}), and its database is gone: it holds none; \
         restore the newest copy, for a second log under the same key would be a fork. To give \
         this log up, begin another one in another --data-dir", .0.display()
    )]
    Gone(PathBuf),
    /// The database is an older copy.
    #[error(
        "the database is older than the log: it holds {stored} entries, and a checkpoint of \
         {signed} was signed (see {}). Going on would be a fork, which every receipt since then \
         proves: restore the newest copy. If none is left, this log has ended; begin another one \
         in another --data-dir", path.display()
    )]
    Behind {
        /// Which file tells.
        path: PathBuf,
        /// The database's size.
        stored: TreeSize,
        /// The head's.
        signed: TreeSize,
    },
    /// The database went another way.
    #[error(
        "the database is not that of this log: its first {size} entries have another root than \
         the checkpoint that was signed (see {}). Restore the newest copy of the right one, and \
         use this one with this key never again", path.display()
    )]
    Forked {
        /// Which file tells.
        path: PathBuf,
        /// The head's size.
        size: TreeSize,
    },
    /// The database can't tell.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Head {
    /// The head in the file at `path`, which may not be there yet.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Requires that `store`, which holds `size` entries of the log of `key`,
    /// leads on from the head.
    ///
    /// # Errors
    /// [`HeadError`]: nothing may be signed then.
    pub async fn require(
        &self,
        key: &VerifierKey,
        store: &Store,
        size: TreeSize,
    ) -> Result<(), HeadError> {
        let path = || self.0.clone();
        let note = match fs::read(&self.0) {
            Ok(note) => note,
            // The first start, or one that died before the log was published.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.failed("read", error)),
        };
        if size == TreeSize::ZERO {
            return Err(HeadError::Gone(path()));
        }
        let head = Checkpoint::open(&note, key).map_err(|_| HeadError::Foreign(path()))?;
        let signed = head.size();
        match store.root_at(signed).await? {
            None => Err(HeadError::Behind {
                path: path(),
                stored: size,
                signed,
            }),
            Some(root) if root != head.root() => Err(HeadError::Forked {
                path: path(),
                size: signed,
            }),
            Some(_) => Ok(()),
        }
    }

    /// Replaces the head by the signed note of a checkpoint that is committed.
    ///
    /// # Errors
    /// Not writable; the former head stays.
    pub fn write(&self, note: &str) -> Result<(), HeadError> {
        let draft = self.0.with_extension("new");
        let written = File::create(&draft)
            .and_then(|mut file| {
                file.write_all(note.as_bytes())?;
                // Else a power cut could leave the name without the bytes.
                file.sync_data()
            })
            .and_then(|()| fs::rename(&draft, &self.0));
        written.map_err(|error| self.failed("written", error))
    }

    /// [`Head::write`], and the file's name is on the disk too. For the first
    /// write of a process.
    ///
    /// # Errors
    /// As [`Head::write`].
    pub fn begin(&self, note: &str) -> Result<(), HeadError> {
        self.write(note)?;
        let folder = self.0.parent().unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| self.failed("written", error))
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> HeadError {
        HeadError::Io {
            path: self.0.clone(),
            doing,
            source,
        }
    }
}
