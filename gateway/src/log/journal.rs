//! The journal: a line for every call in flight, so that a killed process
//! leaves no call without a record.
//!
//! Lines go to the operating system before a call is forwarded and are not
//! fsynced: kill -9 loses none, a power cut may lose the last. A segment is
//! deleted when every call in it is settled.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::hash::Hash;
use protocol::index::Time;
use protocol::name::{Address, Name};
use protocol::record::Source;
use uuid::Uuid;

/// A segment's size at which the next one is begun, in bytes.
const SEGMENT: u64 = 4 << 20;

/// The journal can't be written or read.
#[derive(Debug, thiserror::Error)]
#[error("the journal {} can't be {doing}", path.display())]
pub struct JournalError {
    path: PathBuf,
    doing: &'static str,
    #[source]
    source: io::Error,
}

/// A call that a former process left unfinished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Its receipt id.
    pub id: Uuid,
    /// Whose call it was.
    pub key_id: Option<Hash>,
    /// The wallet that the request named.
    pub wallet: Option<Address>,
    /// How its answer would have been observed.
    pub source: Source,
    /// The provider.
    pub provider: Name,
    /// When it was forwarded.
    pub time: Time,
}

/// Writes lines to the newest segment.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    current: Mutex<Arc<Segment>>,
    /// The last call could not be noted.
    failed: AtomicBool,
}

/// One file. Its calls share it; with the last of them it is deleted.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    written: AtomicU64,
    keep: AtomicBool,
}

impl Segment {
    fn create(dir: &Path) -> Result<Arc<Self>, JournalError> {
        let path = dir.join(format!("{}.calls", Uuid::now_v7()));
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.map_err(|source| failed(&path, "created", source))?;
        let (written, keep) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Arc::new(Self {
            path,
            file,
            written,
            keep,
        }))
    }

    /// One write call a line: lines of several threads don't mix.
    fn line(&self, line: &str) -> Result<(), JournalError> {
        (&self.file)
            .write_all(line.as_bytes())
            .map_err(|source| failed(&self.path, "written", source))?;
        self.written.fetch_add(line.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Notes that a call gave no record.
    pub(super) fn none(&self, id: Uuid) {
        // Failing here errs to the safe side: the call comes back as `unknown`.
        if let Err(error) = self.line(&format!("\nnone {id} end\n")) {
            tracing::error!(error = &error as &dyn std::error::Error, "journal");
            self.keep();
        }
    }

    /// Leaves the file for the next process, which finds an unsettled call in it.
    pub(super) fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            // What stays behind is read again at the next start and settled there.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Journal {
    /// Begins a segment in `dir`, which exists.
    pub(super) fn open(dir: &Path) -> Result<Self, JournalError> {
        let current = Mutex::new(Segment::create(dir)?);
        Ok(Self {
            dir: dir.to_owned(),
            current,
            failed: AtomicBool::new(false),
        })
    }

    /// Notes a call before it is forwarded.
    pub(super) fn begin(&self, call: &Unfinished) -> Result<Arc<Segment>, JournalError> {
        self.line(&format_line(call))
    }

    /// Whether calls can be noted: after a failure an empty line is tried.
    pub(super) fn is_writable(&self) -> bool {
        !self.failed.load(Ordering::Relaxed) || self.line("\n").is_ok()
    }

    fn line(&self, line: &str) -> Result<Arc<Segment>, JournalError> {
        let segment = self.segment();
        let noted = segment.and_then(|segment| segment.line(line).map(|()| segment));
        self.failed.store(noted.is_err(), Ordering::Relaxed);
        noted
    }

    /// The segment that has room.
    fn segment(&self) -> Result<Arc<Segment>, JournalError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.written.load(Ordering::Relaxed) >= SEGMENT {
            *current = Segment::create(&self.dir)?;
        }
        Ok(Arc::clone(&current))
    }
}

fn format_line(call: &Unfinished) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    format!(
        "\ncall {} {} {} {} {} {} end\n",
        call.id,
        or_dash(call.key_id.map(|k| k.to_string())),
        or_dash(call.wallet.map(|w| w.to_string())),
        call.source.as_str(),
        call.time,
        call.provider,
    )
}

fn parse_line(line: &str) -> Option<Unfinished> {
    let line = line.strip_prefix("call ")?.strip_suffix(" end")?;
    let words: Vec<&str> = line.split(' ').collect();
    let [id, key_id, wallet, source, time, provider] = words[..] else {
        return None;
    };
    let optional = |word: &str| (word != "-").then(|| word.to_owned());
    let key_id = optional(key_id)
        .map(|hex| Hash::from_hex(&hex).ok_or(()))
        .transpose();
    let wallet = optional(wallet)
        .map(|hex| Address::from_canonical(&hex).ok_or(()))
        .transpose();
    Some(Unfinished {
        id: Uuid::parse_str(id).ok()?,
        key_id: key_id.ok()?,
        wallet: wallet.ok()?,
        source: Source::parse(source)?,
        provider: Name::new(provider)?,
        time: Time::from_secs(time.parse().ok()?)?,
    })
}

/// The calls that former processes left unsettled in `dir`, in order, and the
/// files they stand in. A call may have a record all the same: ask the store.
///
/// # Errors
/// A file can't be read.
pub fn unfinished(dir: &Path) -> Result<(Vec<Unfinished>, Vec<PathBuf>), JournalError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|source| failed(dir, "read", source))? {
        let path = entry.map_err(|source| failed(dir, "read", source))?.path();
        if path.extension().is_some_and(|e| e == "calls") {
            files.push(path);
        }
    }
    files.sort();
    let mut calls = Vec::new();
    let mut none = HashSet::new();
    for path in &files {
        let bytes = fs::read(path).map_err(|source| failed(path, "read", source))?;
        // A full disk or a power cut can leave a torn line, which lacks its
        // end; the next one begins anew.
        for line in String::from_utf8_lossy(&bytes).lines() {
            match line.strip_prefix("none ") {
                Some(id) => none.extend(
                    id.strip_suffix(" end")
                        .and_then(|id| Uuid::parse_str(id).ok()),
                ),
                None => calls.extend(parse_line(line)),
            }
        }
    }
    // A folder that was copied back can hold a line twice.
    let mut seen = none;
    calls.retain(|call: &Unfinished| seen.insert(call.id));
    Ok((calls, files))
}

fn failed(path: &Path, doing: &'static str, source: io::Error) -> JournalError {
    JournalError {
        path: path.to_owned(),
        doing,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Unfinished {
        Unfinished {
            id: Uuid::now_v7(),
            key_id: Some(Hash::of(b"k")),
            wallet: None,
            source: Source::Proxy,
            provider: Name::new("openai").expect("valid"),
            time: Time::from_secs(5).expect("small"),
        }
    }

    #[test]
    fn what_is_not_settled_is_found_again() {
        let dir = std::env::temp_dir().join(format!("tally-journal-{}", Uuid::now_v7()));
        fs::create_dir(&dir).expect("a fresh folder");
        let journal = Journal::open(&dir).expect("opens");
        let (refused, lost, torn) = (call(), call(), call());
        journal.begin(&refused).expect("writes").none(refused.id);
        let segment = journal.begin(&lost).expect("writes");
        let line = format_line(&torn);
        segment.line(&line[..line.len() - 8]).expect("writes");
        let after = call();
        segment.line(&format_line(&after)).expect("writes");
        segment.line(&format_line(&after)).expect("writes");
        let (calls, files) = unfinished(&dir).expect("reads");
        assert_eq!((calls, files.len()), (vec![lost, after], 1));

        drop((journal, segment));
        assert_eq!(unfinished(&dir).expect("reads"), (vec![], vec![]));
        fs::remove_dir(&dir).expect("empty again");
    }
}
