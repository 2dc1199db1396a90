//! The head file: how far this gateway signed, kept outside of the database,
//! so that an older copy of that is recognised.
//!
//! Each commit's checkpoint is appended to it after the commit that it tells
//! of, and before anything that was signed for it is released: it is never
//! ahead of the database. What is appended goes to the operating system, so
//! that kill -9 loses none of it, and is fsynced before a checkpoint is
//! published, so that a power cut loses a second of it at the most. A file
//! that has grown is replaced, whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::checkpoint::Checkpoint;
use protocol::index::TreeSize;
use protocol::key::VerifierKey;

use crate::store::{Database, Store, StoreError};

/// A file of this many bytes is begun anew.
const FULL: u64 = 1 << 20;

/// Lines of a note with one signature.
const LINES: usize = 5;

/// The file that says how far was signed, as signed notes. Clones share it.
#[derive(Clone, Debug)]
pub struct HeadFile(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// None where it must be written anew: at first, and when it failed.
    open: Option<Open>,
    /// What was added last, or was to be: the database has it.
    newest: Option<String>,
}

#[derive(Debug)]
struct Open {
    file: Arc<File>,
    written: u64,
}

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
        "the head file {} does not hold a checkpoint of this log; restore it, or remove it if you \
         know that the database is no older copy", .0.display()
    )]
    Foreign(PathBuf),
    /// Nothing of what was signed is left.
    #[error(
        "the log's database is gone: {database} holds no entries, and this log has signed some \
         (see {}). Restore the newest copy of it, for a second log under the same key would be a \
         fork. To give this log up, begin another one in another --data-dir", path.display()
    )]
    Gone {
        /// Which file tells.
        path: PathBuf,
        /// Where the log was.
        database: Database,
    },
    /// The database is an older copy.
    #[error(
        "the database {database} is older than the log: it holds {stored} entries, and a \
         checkpoint of {signed} was signed (see {}). Going on would be a fork, which every \
         receipt since then proves. Restore the newest copy of it; if none is left, this log has \
         ended: begin another one in another --data-dir", path.display()
    )]
    Behind {
        /// Which file tells.
        path: PathBuf,
        /// Where the log is.
        database: Database,
        /// The database's size.
        stored: TreeSize,
        /// The head's.
        signed: TreeSize,
    },
    /// The database went another way.
    #[error(
        "the database {database} is not that of this log: its first {size} entries have another \
         root than the checkpoint that was signed (see {}). Restore the newest copy of the right \
         one, and use this one under this key never again", path.display()
    )]
    Forked {
        /// Which file tells.
        path: PathBuf,
        /// Where the log is.
        database: Database,
        /// The head's size.
        size: TreeSize,
    },
    /// The database can't tell.
    #[error("the database {database} can't be compared with what was signed")]
    Store {
        /// Which.
        database: Database,
        /// Why.
        #[source]
        source: StoreError,
    },
}

impl HeadFile {
    /// The file at `path`, which may not be there yet.
    pub fn at(path: PathBuf) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Shared { path, state }))
    }

    /// Requires that `store`, opened from `database`, leads on from what the
    /// log of `key` signed here.
    ///
    /// # Errors
    /// [`HeadError`]: nothing may be signed then.
    pub async fn require(
        &self,
        key: &VerifierKey,
        store: &Store,
        database: &Database,
    ) -> Result<(), HeadError> {
        let text = match fs::read(&self.0.path) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            // The first start, or one that died before anything was released.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.failed("read", error)),
        };
        let (path, database) = (self.0.path.clone(), database.clone());
        let failed = |source| HeadError::Store {
            database: database.clone(),
            source,
        };
        let stored = store.head().await.map_err(failed)?.mmr.size();
        if stored == TreeSize::ZERO {
            return Err(HeadError::Gone { path, database });
        }
        let Some(head) = newest(&text, key) else {
            return Err(HeadError::Foreign(path));
        };
        let root = store.root_at(head.size()).await.map_err(failed)?;
        match root {
            Some(root) if root == head.root() => Ok(()),
            Some(_) => Err(HeadError::Forked {
                path,
                database,
                size: head.size(),
            }),
            None => Err(HeadError::Behind {
                path,
                database,
                stored,
                signed: head.size(),
            }),
        }
    }

    /// Takes down the note of a checkpoint that is committed. The first one of
    /// a process, and one after a failure, is on the disk when it returns.
    ///
    /// # Errors
    /// Not writable; what stood there before still does.
    pub fn add(&self, note: &str) -> Result<(), HeadError> {
        let mut state = self.state();
        let line = format!("\n{note}");
        let open = state.open.take().filter(|open| open.written < FULL);
        let added = match open {
            Some(mut open) => (&*open.file).write_all(line.as_bytes()).map(|()| {
                open.written += line.len() as u64;
                open
            }),
            None => replace(&self.0.path, &line),
        };
        state.newest = Some(line);
        state.open = Some(added.map_err(|error| self.failed("written", error))?);
        Ok(())
    }

    /// Puts on the disk what was added: `note`, or what came after it.
    ///
    /// # Errors
    /// Not writable; what stood there before still does.
    pub fn sync(&self, note: &str) -> Result<(), HeadError> {
        self.sync_by(note, File::sync_data)
    }

    fn sync_by(
        &self,
        note: &str,
        sync: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), HeadError> {
        let mut state = self.state();
        let Some(open) = &state.open else {
            // Nothing older may come in the place of what was added since.
            let line = state.newest.clone().unwrap_or_else(|| format!("\n{note}"));
            let replaced = replace(&self.0.path, &line);
            state.open = Some(replaced.map_err(|error| self.failed("written", error))?);
            return Ok(());
        };
        let file = Arc::clone(&open.file);
        // The sequencer adds meanwhile.
        drop(state);
        let synced = sync(&file);
        if synced.is_err() {
            // After a failure the system may call clean what never reached the disk.
            let open = &mut self.state().open;
            open.take_if(|open| Arc::ptr_eq(&open.file, &file));
        }
        synced.map_err(|error| self.failed("written", error))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> HeadError {
        HeadError::Io {
            path: self.0.path.clone(),
            doing,
            source,
        }
    }
}

/// The newest checkpoint in `text`. A note begins with a line that is the
/// origin; one that a crash cut off is passed over.
fn newest(text: &str, key: &VerifierKey) -> Option<Checkpoint> {
    let begin = format!("{}\n", key.origin());
    let lines = text.match_indices('\n').map(|(at, _)| &text[at + 1..]);
    let notes = lines.filter(|rest| rest.starts_with(&begin));
    let notes = notes.map(|rest| rest.split_inclusive('\n').take(LINES).collect::<String>());
    let heads = notes.filter_map(|note| Checkpoint::open(note.as_bytes(), key).ok());
    heads.max_by_key(Checkpoint::size)
}

/// Puts a file that holds `text` in the place of the one at `path`.
fn replace(path: &Path, text: &str) -> io::Result<Open> {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    // Else a power cut could bring the former file back.
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(Open {
        file: Arc::new(file),
        written: text.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::hash::Hash;
    use protocol::key::{Origin, Signer};
    use uuid::Uuid;

    fn signer(origin: &str) -> Signer {
        Signer::new(Origin::parse(origin).expect("valid"), &[1; 32])
    }

    fn note(signer: &Signer, size: u64) -> String {
        let origin = signer.verifier().origin().clone();
        let size = TreeSize::new(size).expect("small");
        Checkpoint::new(origin, size, Hash::of(b"root")).seal(signer)
    }

    #[test]
    fn the_newest_note_that_is_whole_counts() {
        let (ours, other) = (signer("log.example.org"), signer("log.example.com"));
        let [one, two, three] = [1, 2, 3].map(|size| note(&ours, size));
        let foreign = note(&other, 9);
        for (text, expected) in [
            (String::new(), None),
            ("cut off".into(), None),
            (format!("\n{foreign}"), None),
            (format!("\n{one}"), Some(1)),
            (format!("\n{one}\n{two}"), Some(2)),
            (format!("\n{one}\n{}", &two[..two.len() - 9]), Some(1)),
            (format!("\n{one}\n{}\n{three}", &two[..20]), Some(3)),
            (format!("\n{one}\n{}\n{three}", &two[..4]), Some(3)),
            (format!("\n{two}\n{foreign}\n{one}"), Some(2)),
            (format!("\n{one}\n{}\n{three}", &two[..15]), Some(3)),
            (format!("\n{one}{}", "\0".repeat(300)), Some(1)),
        ] {
            let found = newest(&text, ours.verifier()).map(|head| head.size().get());
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn what_was_added_is_found_however_often_the_file_is_begun_anew() {
        let dir = std::env::temp_dir().join(format!("tally-head-{}", Uuid::now_v7()));
        fs::create_dir(&dir).expect("a fresh folder");
        let (signer, path) = (signer("log.example.org"), dir.join("log.head"));
        let head = HeadFile::at(path.clone());
        let found = || {
            let text = fs::read_to_string(&path).expect("there");
            newest(&text, signer.verifier()).map(|head| head.size().get())
        };
        let (mut longest, mut shrank) = (0, false);
        for size in 1..=12_000 {
            head.add(&note(&signer, size)).expect("writable");
            let length = fs::metadata(&path).expect("there").len();
            shrank |= length < longest;
            longest = longest.max(length);
        }
        assert_eq!(found(), Some(12_000));
        assert!(shrank && longest < FULL + 1_000, "{longest}");
        head.sync(&note(&signer, 12_000)).expect("writable");

        // A folder that is gone for a while is found again.
        let away = dir.with_extension("away");
        fs::rename(&dir, &away).expect("ours");
        head.state().open = None;
        head.add(&note(&signer, 12_001)).expect_err("no folder");
        head.sync(&note(&signer, 12_001)).expect_err("no folder");
        fs::rename(&away, &dir).expect("ours");
        assert_eq!(found(), Some(12_000));
        // Whoever syncs may know of an older one only.
        head.sync(&note(&signer, 11_990)).expect("writable");
        assert_eq!(found(), Some(12_001));
        fs::remove_dir_all(&dir).expect("ours");
    }

    #[test]
    fn what_is_added_waits_for_no_sync() {
        let dir = std::env::temp_dir().join(format!("tally-head-{}", Uuid::now_v7()));
        fs::create_dir(&dir).expect("a fresh folder");
        let signer = signer("log.example.org");
        let head = HeadFile::at(dir.join("log.head"));
        head.add(&note(&signer, 1)).expect("writable");
        let found = || {
            let text = fs::read_to_string(dir.join("log.head")).expect("there");
            newest(&text, signer.verifier()).map(|head| head.size().get())
        };
        let add = |size| head.add(&note(&signer, size)).expect("writable");
        let broken = || io::Error::from(io::ErrorKind::StorageFull);
        let synced = head.sync_by(&note(&signer, 1), |_| {
            add(2);
            Ok(())
        });
        synced.expect("writable");
        assert_eq!(found(), Some(2));
        // What a sync that failed may have lost is written anew.
        let synced = head.sync_by(&note(&signer, 2), |_| {
            add(3);
            Err(broken())
        });
        synced.expect_err("broken");
        fs::write(dir.join("log.head"), note(&signer, 1)).expect("ours");
        head.sync(&note(&signer, 2)).expect("writable");
        assert_eq!(found(), Some(3));
        // The file that was begun meanwhile is not the one that failed.
        let synced = head.sync_by(&note(&signer, 3), |_| {
            head.state().open = None;
            add(4);
            Err(broken())
        });
        synced.expect_err("broken");
        assert!(head.state().open.is_some());
        assert_eq!(found(), Some(4));
        fs::remove_dir_all(&dir).expect("ours");
    }
}
