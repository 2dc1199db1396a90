//! What the sentinel holds true between passes, and where it keeps it.
//!
//! A state directory belongs to one log: the pinned key, the last accepted
//! checkpoint with its tree's right edge, and the sums to there. The accepted
//! checkpoint never moves back. One sentinel at a time uses a directory: a
//! lock file keeps a second one out.
//!
//! What a pass brought is appended to the file as a step, while steps are few;
//! then the whole is written anew, and takes the file's place.
//!
//! Out of scope: the file's content (see [`crate::state`]), and what makes a
//! checkpoint acceptable (see [`crate::pass`]).

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use protocol::entry::{Body, Entry};
use protocol::hash::Hash;
use protocol::index::{Index, Time};
use protocol::key::VerifierKey;
use sha2::{Digest as _, Sha256};

use crate::accounts::{Accounts, Breach};
use crate::audit::{self, Item, Signed};
use crate::rebuild::{Full, Tree};
use crate::state::{self, DURABLE, End};
use crate::sums::Sums;

/// The most entries that are appended as one step, and their bytes: loading
/// goes their way again, and must stay quick.
const MAX_STEP_ENTRIES: u64 = 2_048;
const MAX_STEP: usize = 1 << 20;

/// Steps are appended up to here, or to a part of the whole, if that is more.
const FEW_STEPS: u64 = 1 << 16;

/// That part of the whole: one of so many.
const PART: u64 = 16;

/// A log as far as it is verified.
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    /// The last accepted checkpoint; `None` before the first.
    pub accepted: Option<Signed>,
    /// The tree of its size.
    pub tree: Tree,
    /// Its entries' sums.
    pub sums: Sums,
    /// What they make of keys and wallets.
    pub accounts: Accounts,
    /// Its last entry.
    pub last: Option<Last>,
    /// Why and from which entry on aggregates are not judged.
    pub upgrade: Option<(u64, String)>,
    /// Seconds within which an entry is under a checkpoint, as entry 0 says.
    pub publish_max: Option<u64>,
}

/// An entry that breaks rules between entries.
#[derive(Debug)]
pub struct Broken {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The rules.
    pub breaches: Vec<Breach>,
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

/// The entries since the size that was stored, as bundles hold them.
#[derive(Debug)]
pub struct News {
    from: u64,
    /// `None` where they are too many to be stored one by one.
    entries: Option<Vec<u8>>,
}

impl News {
    /// None yet of those from index `from` up to size `to`.
    pub fn between(from: u64, to: u64) -> Self {
        let entries = (to - from <= MAX_STEP_ENTRIES).then(Vec::new);
        Self { from, entries }
    }

    /// Whether they are few enough.
    pub fn wanted(&self) -> bool {
        self.entries.is_some()
    }

    /// Adds the next ones.
    pub fn push(&mut self, bundle: &[u8]) {
        if let Some(entries) = &mut self.entries {
            entries.extend_from_slice(bundle);
        }
        self.entries.take_if(|entries| entries.len() > MAX_STEP);
    }
}

impl Trusted {
    /// Takes up the next entry; `None` where it cannot be read. `full` gets
    /// the tiles that it filled. Gives what the entry breaks, if it does.
    pub fn take(
        &mut self,
        index: Index,
        leaf: Hash,
        entry: Option<Entry>,
        full: &mut Vec<Full>,
    ) -> Option<Broken> {
        self.tree.push(leaf, full);
        let entry = entry?;
        if self.upgrade.is_none() {
            let rules = self.accounts.rules();
            self.upgrade = audit::upgrade(index, &entry, rules).map(|why| (index.get(), why));
        }
        let judged = self.upgrade.is_none();
        let Entry::Known { time, body } = entry else {
            return None;
        };
        if let (Body::Log(log), 0) = (&body, index.get()) {
            self.publish_max = Some(log.publish_max);
        }
        if !judged {
            return None;
        }
        let breaches = self.accounts.take(index, leaf, time, &body);
        let broken = (!breaches.is_empty()).then(|| Broken {
            bytes: body.encode(time),
            breaches,
        });
        if let Body::Usage(usage) = body {
            self.sums.add(time, usage);
        }
        broken
    }
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

/// A state directory, held against other sentinels.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// The size of the accepted checkpoint on disk.
    size: u64,
    /// Where a step goes, if one can.
    end: Option<End>,
    _lock: File,
}

impl Store {
    /// Makes the directory if it is not there, and takes it.
    ///
    /// # Errors
    /// It cannot be written, or another sentinel has it.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        Ok(Self {
            dir: dir.into(),
            size: 0,
            end: None,
            _lock: take(dir)?,
        })
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
        let loaded = read(&self.dir)?;
        self.end = loaded.as_ref().and_then(|read| read.end);
        let accepted = loaded
            .as_ref()
            .and_then(|read| read.trusted.accepted.as_ref());
        self.size = accepted.map_or(0, Signed::size);
        Ok(loaded.map(|read| (read.key, read.trusted)))
    }

    /// Stores durably, all or nothing. `news` are the entries since the size
    /// that is stored, if `trusted` came of that.
    ///
    /// # Errors
    /// It cannot be written, or would move the accepted checkpoint back.
    pub fn save(
        &mut self,
        key: &VerifierKey,
        trusted: &mut Trusted,
        news: Option<&News>,
    ) -> Result<(), StateError> {
        let size = trusted.accepted.as_ref().map_or(0, Signed::size);
        if size < self.size {
            return Err(StateError::Backwards {
                from: self.size,
                to: size,
            });
        }
        let path = self.dir.join("state");
        let step = self.step(trusted, news);
        // What a failed write left is not known: the next one is of the whole.
        self.end = None;
        let end = match step {
            Some((from, step, end)) => append(&path, from, &step).map(|()| end),
            None => replace(&path, |to| state::write(to, key, trusted)),
        };
        self.end = Some(end.map_err(at(&path))?);
        self.size = size;
        Ok(())
    }

    /// The step from what is stored to `trusted`, with the length of the file
    /// before it, and the file's end after it; `None` where the whole must be
    /// written.
    fn step(&self, trusted: &Trusted, news: Option<&News>) -> Option<(u64, Vec<u8>, End)> {
        let from = self.end?;
        let news = news.filter(|news| news.from == self.size)?;
        let entries = news.entries.as_ref()?;
        let accepted = trusted.accepted.as_ref()?;
        let last = trusted.last.as_ref().filter(|last| last.signed)?;
        if last.index.get() + 1 != accepted.size() || news.from == accepted.size() {
            return None;
        }
        let (step, end) = state::step(&from, accepted, last, entries);
        let few = end.len - end.whole <= FEW_STEPS.max(end.whole / PART);
        few.then_some((from.len, step, end))
    }
}

/// Makes a directory if it is not there, and takes it while the file is held.
///
/// # Errors
/// It cannot be written, or another sentinel has it.
pub fn take(dir: &Path) -> Result<File, StateError> {
    fs::create_dir_all(dir).map_err(at(dir))?;
    let path = dir.join("lock");
    let options = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path);
    let lock = options.map_err(at(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StateError::Locked(dir.into())),
        Err(TryLockError::Error(cause)) => Err(at(&path)(cause)),
    }
}

/// The key that is pinned in a directory, without reading all that is stored.
///
/// # Errors
/// It cannot be read, or is not what was written.
pub fn pinned(dir: &Path) -> Result<Option<VerifierKey>, StateError> {
    let path = dir.join("state");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path)(error)),
    };
    match state::pinned(file) {
        Ok(Some(key)) => Ok(Some(key)),
        Ok(None) => {
            let what = "its head does not fit".into();
            Err(StateError::Damaged { path, what })
        }
        Err(error) => Err(at(&path)(error)),
    }
}

/// What is stored in a directory that another sentinel may be using.
///
/// # Errors
/// It cannot be read, or is not what was written.
pub fn load(dir: &Path) -> Result<Option<(VerifierKey, Trusted)>, StateError> {
    Ok(read(dir)?.map(|read| (read.key, read.trusted)))
}

fn read(dir: &Path) -> Result<Option<state::Read>, StateError> {
    let path = dir.join("state");
    let file = match fs::read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path)(error)),
    };
    state::read(&file)
        .map(Some)
        .map_err(|what| StateError::Damaged { path, what })
}

/// The folder where a log's state lies without `--state`.
pub fn default_dir(log: &reqwest::Url) -> Option<PathBuf> {
    Some(home()?.join(safe_name(log.as_str())))
}

/// The folder below which states lie without `--state`.
pub fn home() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let state = set("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(set("HOME")?.join(".local").join("state")))?;
    Some(state.join("tallystick"))
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
pub fn replace<T>(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<&File>) -> io::Result<T>,
) -> io::Result<T> {
    let staged = path.with_extension("new");
    let file = File::create(&staged)?;
    let mut to = BufWriter::new(&file);
    let written = content(&mut to)?;
    to.flush()?;
    drop(to);
    // The bytes before the name, the name before we go on: a rename is only
    // durable when its directory is.
    file.sync_all()?;
    fs::rename(&staged, path)?;
    path.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())?;
    Ok(written)
}

/// Appends to a file, whose length is known, what must be durable.
fn append(path: &Path, len: u64, step: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    if file.seek(SeekFrom::End(0))? != len {
        return Err(io::Error::other("another program wrote to it"));
    }
    file.write_all(step)?;
    file.sync_all()?;
    // Only now, so that a step without it is one that nobody relied on.
    file.write_all(DURABLE)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    |cause| StateError::Io { path, cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rebuild::leaf_hash;
    use protocol::checkpoint::Checkpoint;
    use protocol::index::TreeSize;
    use protocol::key::{Origin, Signer};
    use protocol::name::Name;
    use protocol::record::{Counts, Outcome, Source, Usage};
    use protocol::tile;

    fn signer() -> Signer {
        Signer::new(Origin::parse("a.b").expect("valid"), &[1; 32])
    }

    fn entry(index: u64) -> Vec<u8> {
        let user = u8::try_from(index % 7).expect("small");
        let usage = Usage {
            receipt: Hash::of(&index.to_be_bytes()),
            key_id: Some(Hash::of(&[user])),
            wallet: None,
            source: Source::Proxy,
            provider: Name::new("openai").expect("valid"),
            model: None,
            counts: Counts {
                input: u32::try_from(index).ok(),
                ..Counts::NONE
            },
            outcome: Outcome::Complete,
            inconsistent: false,
            response: None,
        };
        Body::Usage(usage).encode(Time::from_secs(index * 1_000).expect("small"))
    }

    /// Takes a log on to `size`, as a pass does; gives what came.
    fn grow(trusted: &mut Trusted, size: u64) -> News {
        let mut news = News::between(trusted.tree.size(), size);
        for at in trusted.tree.size()..size {
            let (index, bytes) = (Index::new(at).expect("small"), entry(at));
            let entry = Entry::parse(&bytes).expect("valid");
            trusted.last = Some(Last {
                index,
                time: entry.time(),
                bytes: bytes.clone(),
                signature: [u8::try_from(at % 251).expect("small"); 64],
                signed: true,
            });
            trusted.take(index, leaf_hash(&bytes), Some(entry), &mut vec![]);
            let mut bundle = vec![];
            tile::push_entry(&mut bundle, &bytes);
            news.push(&bundle);
        }
        let root = trusted.tree.root().expect("both ways agree");
        let (origin, size) = (signer().verifier().origin().clone(), TreeSize::new(size));
        let note = Checkpoint::new(origin, size.expect("small"), root).seal(&signer());
        trusted.accepted = Some(Signed::open(note.as_bytes(), signer().verifier()).expect("ours"));
        news
    }

    fn trusted(size: u64) -> Trusted {
        let mut trusted = Trusted {
            upgrade: Some((5, "later".into())),
            ..Trusted::default()
        };
        grow(&mut trusted, size);
        trusted
    }

    fn dir(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("sentinel-trust-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    /// All that a state holds, to compare it.
    fn content(trusted: &mut Trusted) -> (Option<Signed>, Vec<u8>, Option<Vec<u8>>) {
        let mut whole = vec![];
        state::write(&mut whole, signer().verifier(), trusted).expect("into memory");
        let last = trusted.last.as_ref().map(|last| last.bytes.clone());
        (trusted.accepted.clone(), whole, last)
    }

    fn check(store: &mut Store, saved: &mut Trusted) {
        let (key, mut loaded) = store.load().expect("whole").expect("saved");
        assert_eq!(key, *signer().verifier());
        assert_eq!(content(&mut loaded), content(saved));
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = dir("saved");
        let mut store = Store::open(&dir).expect("fresh");
        assert!(store.load().expect("empty").is_none());
        let key = signer().verifier().clone();
        store
            .save(&key, &mut Trusted::default(), None)
            .expect("pin alone");
        check(&mut store, &mut Trusted::default());
        for size in [1, 300, 70_000] {
            let mut saved = trusted(size);
            store.save(&key, &mut saved, None).expect("writable");
            check(&mut store, &mut saved);
        }
        assert!(matches!(
            store.save(&key, &mut trusted(299), None),
            Err(StateError::Backwards {
                from: 70_000,
                to: 299
            })
        ));
        check(&mut store, &mut trusted(70_000));
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn steps_lead_where_the_whole_does() {
        let dir = dir("steps");
        let mut store = Store::open(&dir).expect("fresh");
        let key = signer().verifier().clone();
        let mut saved = Trusted::default();
        store.save(&key, &mut saved, None).expect("writable");
        let mut folded = 0;
        for size in (1..300).chain([600, 5_000, 5_001, 5_002]) {
            let before = fs::read(dir.join("state")).expect("saved");
            let news = grow(&mut saved, size);
            store.save(&key, &mut saved, Some(&news)).expect("writable");
            let after = fs::read(dir.join("state")).expect("saved");
            let step = after.starts_with(&before);
            folded += usize::from(!step);
            assert!(size != 5_000 || !step, "a long way is no step");
            assert!(size < 5_001 || step);
            check(&mut store, &mut saved);
        }
        // About 450 bytes a step and 64 KiB of steps: folded now and then.
        assert!((2..20).contains(&folded), "{folded}");
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn a_step_is_only_one_from_what_is_stored() {
        let dir = dir("gap");
        let mut store = Store::open(&dir).expect("fresh");
        let key = signer().verifier().clone();
        let mut saved = trusted(4);
        store.save(&key, &mut saved, None).expect("writable");
        grow(&mut saved, 6);
        let late = grow(&mut saved, 8);
        store.save(&key, &mut saved, Some(&late)).expect("writable");
        check(&mut store, &mut saved);
        fs::remove_dir_all(dir).expect("ours");
    }

    /// A file of a whole of 3 entries and steps to 4 and 6, and where each ends.
    fn stepped(dir: &Path) -> (Vec<u8>, [usize; 3]) {
        let mut store = Store::open(dir).expect("fresh");
        let mut saved = Trusted::default();
        grow(&mut saved, 3);
        let mut ends = [0; 3];
        for (end, size) in ends.iter_mut().zip([3, 4, 6]) {
            let news = grow(&mut saved, size);
            let news = (size > 3).then_some(&news);
            let key = signer().verifier().clone();
            store.save(&key, &mut saved, news).expect("writable");
            *end = fs::read(dir.join("state")).expect("saved").len();
        }
        (fs::read(dir.join("state")).expect("saved"), ends)
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
    fn a_step_that_was_cut_is_left_out_and_the_next_one_follows() {
        let dir = dir("cut");
        let (good, [whole, one, two]) = stepped(&dir);
        let mut store = Store::open(&dir).expect("ours");
        for len in 0..=good.len() {
            // What was claimed of the disk may be there and be zero.
            for zeros in [0, 700] {
                let cut = [&good[..len], &vec![0; zeros]].concat();
                // Durable from its hash on, the newline being one byte more.
                let size = match len {
                    len if len < whole => None,
                    len if len < one - 1 => Some(3),
                    len if len < two - 1 => Some(4),
                    _ => Some(6),
                };
                let read = state::read(&cut).ok();
                let found = read.map(|read| read.trusted.tree.size());
                assert_eq!(found, size, "{len} and {zeros}");
            }
        }
        for len in [whole, whole + 3, one - 1, one, one + 300, two - 2] {
            fs::write(dir.join("state"), &good[..len]).expect("writable");
            let (key, mut loaded) = store.load().expect("whole").expect("saved");
            let news = grow(&mut loaded, 7);
            store
                .save(&key, &mut loaded, Some(&news))
                .expect("writable");
            check(&mut store, &mut loaded);
        }
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn damage_is_known_as_such() {
        let dir = dir("damaged");
        let (good, [whole, one, two]) = stepped(&dir);
        let damaged = |what: &str, bad: &[u8]| {
            assert!(state::read(bad).is_err(), "{what}");
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            damaged(&format!("byte {at}"), &bad);
        }
        damaged("nothing", b"");
        damaged(
            "a line more",
            &[&good[..], b"0123456789abcdef0123456789abcdef"].concat(),
        );
        damaged(
            "steps swapped",
            &[&good[..whole], &good[one..], &good[whole..one]].concat(),
        );
        damaged("a step left out", &[&good[..whole], &good[one..]].concat());
        damaged("a step twice", &[&good[..two], &good[one..]].concat());
        fs::write(dir.join("state"), &good[1..]).expect("writable");
        assert!(matches!(load(&dir), Err(StateError::Damaged { .. })));
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn a_step_must_give_the_root_that_its_checkpoint_signs() {
        let (mut saved, mut file) = (trusted(3), vec![]);
        let end = state::write(&mut file, signer().verifier(), &mut saved).expect("into memory");
        let news = grow(&mut saved, 5).entries.expect("few");
        let (accepted, last) = (saved.accepted.expect("grown"), saved.last.expect("grown"));
        let mut other = vec![];
        for index in [3, 5] {
            tile::push_entry(&mut other, &entry(index));
        }
        let mut unread = vec![];
        for bytes in [&entry(3)[..], b"{}"] {
            tile::push_entry(&mut unread, bytes);
        }
        for (entries, fits) in [
            (&news[..], true),
            (&other, false),
            (&unread, false),
            (&news[..news.len() / 2], false),
            (&[], false),
        ] {
            let (step, _) = state::step(&end, &accepted, &last, entries);
            let read = state::read(&[&file[..], &step, DURABLE].concat());
            assert_eq!(read.is_ok(), fits, "{read:?}");
        }
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
