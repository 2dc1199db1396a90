//! Where a witness keeps what it cosigned: a file for each log.
//!
//! Out of scope: what may replace what (see [`super::Witness`]).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::trust::{self, StateError};

/// Keeps the last cosigned checkpoint of each log.
pub trait Keep: Send + Sync + 'static {
    /// The note that was kept at a place, if any was.
    ///
    /// # Errors
    /// It cannot be read.
    fn kept(&self, place: &str) -> io::Result<Option<String>>;

    /// Replaces it, durably: after a return without an error a crash loses nothing.
    ///
    /// # Errors
    /// It cannot be written; either note may then be there.
    fn keep(&self, place: &str, note: &str) -> io::Result<()>;
}

/// A folder that belongs to one witness at a time.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is not there, and takes it.
    ///
    /// # Errors
    /// It cannot be written, or another witness has it.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let lock = trust::take(dir)?;
        Ok(Self {
            dir: dir.into(),
            _lock: lock,
        })
    }

    /// Where a log's note is.
    pub fn path(&self, place: &str) -> PathBuf {
        self.dir.join(format!("{place}.checkpoint"))
    }
}

impl Keep for Folder {
    fn kept(&self, place: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.path(place)) {
            Ok(note) => Ok(Some(note)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn keep(&self, place: &str, note: &str) -> io::Result<()> {
        trust::replace(&self.path(place), |to| {
            io::Write::write_all(to, note.as_bytes())
        })
    }
}
