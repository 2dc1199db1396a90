//! Files of the user's: read with care, changed as one, and put back.
//!
//! What was done is recorded in a folder of its own before it is done, with a
//! backup of each file: a crash leaves nothing that can't be undone. Both may
//! hold credentials, and are their owner's alone.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use protocol::hash::Hash;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::text::{self, Edit};
use super::tools::Change;

/// A configuration that is longer is none, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// A file that may be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Existing {
    /// Where it is, links followed.
    pub(super) path: PathBuf,
    /// What it holds; nothing if it is not there.
    pub(super) before: Option<String>,
}

/// Why a file is left alone.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("{} can't be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} can't be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is {what}", path.display())]
    Kind { path: PathBuf, what: &'static str },
    #[error("{} has changed meanwhile: run this again", .0.display())]
    Changed(PathBuf),
    #[error("the record of what was done, {}, is not one of this program", .0.display())]
    Record(PathBuf),
}

/// Reads a file that may be changed.
pub(super) fn read(path: &Path) -> Result<Existing, FileError> {
    let kind = |what| FileError::Kind {
        path: path.into(),
        what,
    };
    let failed = |source| FileError::Read {
        path: path.into(),
        source,
    };
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match fs::symlink_metadata(path) {
        Err(error) if absent(&error) => {
            return Ok(Existing {
                path: path.into(),
                before: None,
            });
        }
        Err(error) => return Err(failed(error)),
        Ok(_) => {}
    }
    let real = match fs::canonicalize(path) {
        Err(error) if absent(&error) => return Err(kind("a link to nothing")),
        real => real.map_err(failed)?,
    };
    let metadata = fs::metadata(&real).map_err(failed)?;
    if !metadata.is_file() {
        return Err(kind("not a file"));
    }
    if metadata.permissions().readonly() {
        return Err(kind("read-only"));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(kind("another user's"));
    }
    if metadata.len() > MAX_FILE {
        return Err(kind("too long for a configuration"));
    }
    let bytes = fs::read(&real).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| kind("not UTF-8"))?;
    Ok(Existing {
        path: real,
        before: Some(text),
    })
}

/// Replaces a file as one: whoever reads it sees the old or the new one.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError::Write {
        path: path.into(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let new = folder.join(format!(".tallystick-{}", Uuid::now_v7()));
    let written = || {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        // Not subject to the umask: a file keeps its mode.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    written().map_err(|error| {
        let _ = fs::remove_file(&new);
        failed(error)
    })
}

/// What was done on this machine, newest last.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(skip)]
    folder: PathBuf,
    done: Vec<Done>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Done {
    path: PathBuf,
    /// The backup's name; without one the file was not there.
    backup: Option<String>,
    /// SHA-256 of the file before and after, in hex.
    before: Option<String>,
    after: String,
    edits: Vec<Edit>,
    urls: Vec<String>,
}

/// What became of a change that was to be undone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undone {
    /// The file is as it was before.
    Back(PathBuf),
    /// What was changed is taken out; what came since stays.
    Partly(PathBuf),
    /// Nothing: why.
    Left(PathBuf, String),
}

impl Record {
    /// The record below a user's folder; an empty one if there is none.
    pub(super) fn open(home: &Path) -> Result<Self, FileError> {
        let folder = home.join(".tallystick");
        let file = folder.join("setup.json");
        let done = match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            Err(source) => return Err(FileError::Read { path: file, source }),
            Ok(bytes) => {
                let record: Self =
                    serde_json::from_slice(&bytes).map_err(|_| FileError::Record(file))?;
                record.done
            }
        };
        Ok(Self { folder, done })
    }

    /// Whether nothing is there to be undone.
    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// The base URLs that were written.
    pub(super) fn urls(&self) -> impl Iterator<Item = &String> {
        self.done.iter().flat_map(|done| &done.urls)
    }

    /// Changes a file, if it still is as it was looked at.
    pub(super) fn change(&mut self, change: &Change) -> Result<(), FileError> {
        let Change { path, before, .. } = change;
        let now = read(path)?;
        let after = text::apply(before.as_deref().unwrap_or_default(), &change.edits);
        let after = after.filter(|_| now.before == *before);
        let after = after.ok_or_else(|| FileError::Changed(path.clone()))?;
        // What did not exist may hold a link token.
        let mode = fs::metadata(path).map_or(0o600, |m| m.permissions().mode() & 0o7777);
        let backup = before.as_ref().map(|_| Uuid::now_v7().to_string());
        if let (Some(name), Some(before)) = (&backup, before) {
            self.keep(name, before)?;
        }
        self.done.push(Done {
            path: path.clone(),
            backup,
            before: before.as_deref().map(digest),
            after: digest(&after),
            edits: change.edits.clone(),
            urls: change.urls.clone(),
        });
        self.save()?;
        let written = match path.parent() {
            Some(folder) if before.is_none() => {
                fs::create_dir_all(folder).map_err(|source| FileError::Write {
                    path: path.clone(),
                    source,
                })
            }
            _ => Ok(()),
        };
        let written = written.and_then(|()| write(path, &after, mode));
        if written.is_err() {
            let done = self.done.pop();
            self.save()?;
            self.forget(done);
        }
        written
    }

    /// Undoes everything, newest first, where the files are as they were left;
    /// where they are not, takes out what still stands there.
    pub(super) fn undo(&mut self) -> Result<Vec<Undone>, FileError> {
        let (mut said, mut kept) = (vec![], vec![]);
        while let Some(done) = self.done.pop() {
            let undone = match done.undo(&self.folder) {
                Ok(undone) => undone,
                Err(error) => Undone::Left(done.path.clone(), error.to_string()),
            };
            match undone {
                Undone::Left(..) => kept.push(done),
                _ => self.forget(Some(done)),
            }
            said.push(undone);
        }
        kept.reverse();
        self.done = kept;
        self.save()?;
        Ok(said)
    }

    fn keep(&self, name: &str, text: &str) -> Result<(), FileError> {
        let path = self.folder.join(name);
        let made = fs::create_dir_all(&self.folder)
            .and_then(|()| fs::set_permissions(&self.folder, Permissions::from_mode(0o700)));
        made.map_err(|source| FileError::Write {
            path: self.folder.clone(),
            source,
        })?;
        write(&path, text, 0o600)
    }

    fn save(&self) -> Result<(), FileError> {
        let text = serde_json::to_string_pretty(self).expect("texts and numbers are JSON");
        self.keep("setup.json", &text)
    }

    fn forget(&self, done: Option<Done>) {
        if let Some(name) = done.and_then(|done| done.backup) {
            // One that stays is its owner's alone, and never read again.
            let _ = fs::remove_file(self.folder.join(name));
        }
    }
}

impl Done {
    fn undo(&self, folder: &Path) -> Result<Undone, FileError> {
        let path = &self.path;
        let now = read(path)?.before;
        let found = now.as_deref().map(digest);
        if found == self.before {
            return Ok(Undone::Back(path.clone()));
        }
        let Some(now) = now else {
            let why = "it is gone".to_owned();
            return Ok(Undone::Left(path.clone(), why));
        };
        let mode = fs::metadata(path).map_or(0o600, |m| m.permissions().mode() & 0o7777);
        if found.as_ref() == Some(&self.after) {
            match &self.backup {
                None => fs::remove_file(path).map_err(|source| FileError::Write {
                    path: path.clone(),
                    source,
                })?,
                Some(name) => {
                    let backup = folder.join(name);
                    let text = fs::read_to_string(&backup).map_err(|source| FileError::Read {
                        path: backup,
                        source,
                    })?;
                    write(path, &text, mode)?;
                }
            }
            return Ok(Undone::Back(path.clone()));
        }
        let (back, lost) = text::revert(&now, &self.edits);
        if !lost.is_empty() {
            let why = "it was changed since, and what was written is not there just once; see \
                       for yourself";
            return Ok(Undone::Left(path.clone(), why.into()));
        }
        write(path, &back, mode)?;
        Ok(Undone::Partly(path.clone()))
    }
}

fn digest(text: &str) -> String {
    Hash::of(text.as_bytes()).to_string()
}
