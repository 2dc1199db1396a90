//! What the sentinel holds true between passes, and where it keeps it.
//!
//! A state directory belongs to one log: the pinned key, the last accepted
//! checkpoint with its tree's right edge, and the sums to there. The accepted
//! checkpoint never moves back. One sentinel at a time uses a directory: a
//! lock file keeps a second one out.
//!
//! Out of scope: what makes a checkpoint acceptable (see [`crate::pass`]).

use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::hash::Hash;
use protocol::index::{Index, Time};
use protocol::key::VerifierKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::audit::{Item, Signed};
use crate::rebuild::Tree;
use crate::sums::Sums;

/// The first bytes of a state file; the number is its format's.
const MAGIC: &[u8] = b"tallystick sentinel state 1\n";

/// The longest header that is read: edges, a note and an entry fit well.
const MAX_HEADER: u64 = 1 << 20;

/// A log as far as it is verified.
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    /// The last accepted checkpoint; `None` before the first.
    pub accepted: Option<Signed>,
    /// The tree of its size.
    pub tree: Tree,
    /// Its entries' sums.
    pub sums: Sums,
    /// Its last entry.
    pub last: Option<Last>,
    /// Why and from which entry on aggregates are not judged.
    pub upgrade: Option<(u64, String)>,
    /// Seconds within which an entry is under a checkpoint, as entry 0 says.
    pub publish_max: Option<u64>,
}

/// The last entry that was verified.
#[derive(Clone, Debug)]
pub struct Last {
    /// Its index.
    pub index: Index,
    /// Its time.
    pub time: Time,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its receipt's signature.
    pub signature: [u8; 64],
    /// Whether the signature is the log's.
    pub signed: bool,
}

impl Last {
    /// As the audit takes it.
    pub fn item(&self) -> Item<'_> {
        Item::again(self.index, &self.bytes, &self.signature, self.signed)
    }
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("{}: {cause}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Another sentinel uses it.
    #[error("another sentinel uses the state in {}", .0.display())]
    Locked(PathBuf),
    /// The file is not what was written.
    #[error(
        "the state in {} is damaged ({what}); move it away to verify from the beginning",
        path.display()
    )]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The new checkpoint is older than the stored one.
    #[error("refused to move the accepted checkpoint back from size {from} to {to}")]
    Backwards {
        /// The stored size.
        from: u64,
        /// The size that was to be stored.
        to: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    vkey: String,
    checkpoint: Option<String>,
    edges: Vec<String>,
    last: Option<StoredLast>,
    upgrade: Option<(u64, String)>,
    publish_max: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct StoredLast {
    index: u64,
    time: u64,
    entry: String,
    signature: String,
    signed: bool,
}

/// A state directory, held against other sentinels.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// The size of the accepted checkpoint on disk.
    size: u64,
    _lock: File,
}

impl Store {
    /// Makes the directory if it is not there, and takes it.
    ///
    /// # Errors
    /// It cannot be written, or another sentinel has it.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        let path = dir.join("lock");
        let options = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path);
        let lock = options.map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                dir: dir.into(),
                size: 0,
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked(dir.into())),
            Err(TryLockError::Error(cause)) => Err(at(&path)(cause)),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is stored, if anything is.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written.
    pub fn load(&mut self) -> Result<Option<(VerifierKey, Trusted)>, StateError> {
        let loaded = load(&self.dir)?;
        let accepted = loaded
            .as_ref()
            .and_then(|(_, trusted)| trusted.accepted.as_ref());
        self.size = accepted.map_or(0, Signed::size);
        Ok(loaded)
    }

    /// Stores durably, all or nothing.
    ///
    /// # Errors
    /// It cannot be written, or would move the accepted checkpoint back.
    pub fn save(&mut self, key: &VerifierKey, trusted: &mut Trusted) -> Result<(), StateError> {
        let size = trusted.accepted.as_ref().map_or(0, Signed::size);
        if size < self.size {
            return Err(StateError::Backwards {
                from: self.size,
                to: size,
            });
        }
        let path = self.dir.join("state");
        replace(&path, |to| write(to, key, trusted)).map_err(at(&path))?;
        self.size = size;
        Ok(())
    }
}

/// What is stored in a directory that another sentinel may be using.
///
/// # Errors
/// It cannot be read, or is not what was written.
pub fn load(dir: &Path) -> Result<Option<(VerifierKey, Trusted)>, StateError> {
    let path = dir.join("state");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path)(error)),
    };
    let mut from = Hashing {
        inner: BufReader::new(file),
        hasher: Sha256::new(),
    };
    read(&mut from)
        .map(Some)
        .map_err(|error| StateError::Damaged {
            path,
            what: error.to_string(),
        })
}

/// The folder where states lie without `--state`.
pub fn default_dir(log: &reqwest::Url) -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let state = set("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(set("HOME")?.join(".local").join("state")))?;
    Some(state.join("tallystick").join(safe_name(log.as_str())))
}

/// A file name of a log's address: readable, and different for each.
fn safe_name(url: &str) -> String {
    let text = url
        .split_once("://")
        .map_or(url, |(_, rest)| rest)
        .trim_end_matches('/');
    let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let safe: String = text
        .chars()
        .map(|c| if kept(c) { c } else { '_' })
        .take(80)
        .collect();
    let digest = Hash::from_bytes(Sha256::digest(url.as_bytes()).into()).to_string();
    format!("{}-{}", safe.trim_start_matches('.'), &digest[..8])
}

/// Replaces a file: whoever looks, also after a crash, sees the old or the new one.
///
/// # Errors
/// Those of writing.
pub fn replace(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let staged = path.with_extension("new");
    let file = File::create(&staged)?;
    let mut to = BufWriter::new(&file);
    content(&mut to)?;
    to.flush()?;
    drop(to);
    // The bytes before the name, the name before we go on: a rename is only
    // durable when its directory is.
    file.sync_all()?;
    fs::rename(&staged, path)?;
    path.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    |cause| StateError::Io { path, cause }
}

/// Hashes what passes, so that a damaged file is known as such.
struct Hashing<T> {
    inner: T,
    hasher: Sha256,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.hasher.update(&bytes[..read]);
        Ok(read)
    }
}

fn write(to: &mut impl Write, key: &VerifierKey, trusted: &mut Trusted) -> io::Result<()> {
    let edge = |hashes: &Vec<Hash>| {
        STANDARD.encode(
            hashes
                .iter()
                .flat_map(|hash| *hash.as_bytes())
                .collect::<Vec<u8>>(),
        )
    };
    let header = Header {
        vkey: key.to_string(),
        checkpoint: trusted
            .accepted
            .as_ref()
            .map(|signed| signed.note().to_owned()),
        edges: trusted.tree.edges().iter().map(edge).collect(),
        last: trusted.last.as_ref().map(|last| StoredLast {
            index: last.index.get(),
            time: last.time.secs(),
            entry: STANDARD.encode(&last.bytes),
            signature: STANDARD.encode(last.signature),
            signed: last.signed,
        }),
        upgrade: trusted.upgrade.clone(),
        publish_max: trusted.publish_max,
    };
    let header = serde_json::to_vec(&header)?;
    let mut to = Hashing {
        inner: to,
        hasher: Sha256::new(),
    };
    to.write_all(MAGIC)?;
    to.write_all(&(header.len() as u64).to_be_bytes())?;
    to.write_all(&header)?;
    trusted.sums.write(&mut to)?;
    let digest = to.hasher.finalize();
    to.inner.write_all(&digest)
}

fn read(from: &mut Hashing<impl Read>) -> io::Result<(VerifierKey, Trusted)> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(damaged("of another format"));
    }
    let mut len = [0; 8];
    from.read_exact(&mut len)?;
    let len = u64::from_be_bytes(len);
    if len > MAX_HEADER {
        return Err(damaged("its header is too long"));
    }
    let mut header = vec![];
    from.take(len).read_to_end(&mut header)?;
    let header: Header = serde_json::from_slice(&header)?;
    let sums = Sums::read(from)?;
    let digest = from.hasher.clone().finalize();
    let mut stored = [0; 32];
    from.inner.read_exact(&mut stored)?;
    if stored[..] != digest[..] || from.inner.read(&mut [0])? != 0 {
        return Err(damaged("its hash does not fit"));
    }
    let key = VerifierKey::parse(&header.vkey).map_err(|error| damaged(&error.to_string()))?;
    let trusted = header
        .unpack(&key, sums)
        .ok_or_else(|| damaged("its parts do not fit"))?;
    Ok((key, trusted))
}

impl Header {
    fn unpack(self, key: &VerifierKey, sums: Sums) -> Option<Trusted> {
        let accepted = match self.checkpoint {
            Some(note) => Some(Signed::open(note.as_bytes(), key).ok()?),
            None => None,
        };
        let edges = self.edges.iter().map(|edge| {
            let bytes = STANDARD.decode(edge).ok()?;
            let (hashes, rest) = bytes.as_chunks::<32>();
            rest.is_empty()
                .then(|| hashes.iter().map(|hash| Hash::from_bytes(*hash)).collect())
        });
        let size = accepted.as_ref().map_or(0, Signed::size);
        let root = accepted.as_ref().map_or(Hash::EMPTY_ROOT, Signed::root);
        let tree = Tree::from_edges(size, edges.collect::<Option<_>>()?)?;
        if tree.root().ok()? != root {
            return None;
        }
        let last = match self.last {
            Some(last) => Some(Last {
                index: Index::new(last.index)?,
                time: Time::from_secs(last.time)?,
                bytes: STANDARD.decode(last.entry).ok()?,
                signature: STANDARD.decode(last.signature).ok()?.try_into().ok()?,
                signed: last.signed,
            }),
            None => None,
        };
        let Self {
            upgrade,
            publish_max,
            ..
        } = self;
        Some(Trusted {
            accepted,
            tree,
            sums,
            last,
            upgrade,
            publish_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rebuild::leaf_hash;
    use protocol::checkpoint::Checkpoint;
    use protocol::index::TreeSize;
    use protocol::key::{Origin, Signer};

    fn signer() -> Signer {
        Signer::new(Origin::parse("a.b").expect("valid"), &[1; 32])
    }

    fn trusted(size: u64) -> Trusted {
        let mut tree = Tree::default();
        (0..size).for_each(|i| tree.push(leaf_hash(&i.to_be_bytes()), &mut vec![]));
        let root = tree.root().expect("both ways agree");
        let size = TreeSize::new(size).expect("small");
        let note =
            Checkpoint::new(signer().verifier().origin().clone(), size, root).seal(&signer());
        let last = Last {
            index: Index::new(size.get() - 1).expect("small"),
            time: Time::from_secs(9).expect("small"),
            bytes: b"entry".to_vec(),
            signature: [7; 64],
            signed: true,
        };
        Trusted {
            accepted: Some(Signed::open(note.as_bytes(), signer().verifier()).expect("ours")),
            tree,
            last: Some(last),
            upgrade: Some((5, "later".into())),
            publish_max: Some(10),
            ..Trusted::default()
        }
    }

    fn dir(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("sentinel-trust-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = dir("saved");
        let mut store = Store::open(&dir).expect("fresh");
        assert!(store.load().expect("empty").is_none());
        let key = signer().verifier().clone();
        store
            .save(&key, &mut Trusted::default())
            .expect("pin alone");
        let (pinned, empty) = store.load().expect("whole").expect("saved");
        assert_eq!((pinned, empty.accepted), (key.clone(), None));

        for size in [1, 300, 70_000] {
            let mut saved = trusted(size);
            store.save(&key, &mut saved).expect("writable");
            let (pinned, loaded) = store.load().expect("whole").expect("saved");
            assert_eq!(pinned, key);
            assert_eq!(loaded.accepted, saved.accepted);
            assert_eq!(loaded.tree, saved.tree);
            assert_eq!(loaded.upgrade, saved.upgrade);
            assert_eq!(loaded.publish_max, saved.publish_max);
            let (found, last) = (loaded.last.expect("saved"), saved.last.expect("set"));
            assert_eq!(
                (found.index, found.time, found.bytes),
                (last.index, last.time, last.bytes)
            );
            assert_eq!(
                (found.signature, found.signed),
                (last.signature, last.signed)
            );
        }
        assert!(matches!(
            store.save(&key, &mut trusted(299)),
            Err(StateError::Backwards {
                from: 70_000,
                to: 299
            })
        ));
        assert_eq!(
            store.load().expect("whole").expect("saved").1.tree.size(),
            70_000
        );
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn a_second_sentinel_is_kept_out() {
        let dir = dir("locked");
        let first = Store::open(&dir).expect("fresh");
        assert!(matches!(Store::open(&dir), Err(StateError::Locked(_))));
        drop(first);
        assert!(Store::open(&dir).is_ok());
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn damage_is_known_as_such() {
        let dir = dir("damaged");
        let mut store = Store::open(&dir).expect("fresh");
        store
            .save(signer().verifier(), &mut trusted(3))
            .expect("writable");
        let good = fs::read(dir.join("state")).expect("saved");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            fs::write(dir.join("state"), bad).expect("writable");
            assert!(
                matches!(store.load(), Err(StateError::Damaged { .. })),
                "byte {at}"
            );
        }
        for bad in [&good[..good.len() - 1], &[&good[..], b"x"].concat(), b""] {
            fs::write(dir.join("state"), bad).expect("writable");
            assert!(matches!(store.load(), Err(StateError::Damaged { .. })));
        }
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn names_are_safe_and_different() {
        let names: Vec<String> = [
            "http://a.b/",
            "https://a.b/",
            "http://a.b/c",
            "http://../x",
            "http://a_b",
        ]
        .map(safe_name)
        .to_vec();
        for (i, name) in names.iter().enumerate() {
            assert!(!name.contains('/') && !name.starts_with('.'), "{name}");
            assert!(!names[..i].contains(name), "{name}");
        }
        assert!(names[0].starts_with("a.b-"));
    }
}
