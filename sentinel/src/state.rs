//! The state file: what is in it, byte for byte.
//!
//! ```text
//! magic │ length │ header, sums, accounts │ SHA-256       the whole: written at once
//! length │ check │ note, signature, entries │ SHA-256 │ \n       a step
//! length │ check │ note, signature, entries │ SHA-256 │ \n       a step
//!   ..
//! ```
//!
//! A step is what came since: a checkpoint and the entries up to it, as they
//! were served. Reading it makes the tree and the sums go the same way again,
//! so its entries must give the root that its checkpoint signs. Each hash
//! covers the one before it: steps stand in their order, on their whole.
//!
//! A step is durable before the newline is written. So an end that was cut, or
//! does not fit its hash and has no newline, is a step that nobody relied on:
//! it is left out. Whatever else does not fit is damage.
//!
//! Out of scope: files (see [`crate::trust`]).

use std::io::{self, Read as _, Write};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::entry::Entry;
use protocol::hash::Hash;
use protocol::index::{Index, Time};
use protocol::key::VerifierKey;
use protocol::tile;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::accounts::Accounts;
use crate::audit::Signed;
use crate::rebuild::{Tree, leaf_hash};
use crate::sums::Sums;
use crate::trust::{Last, Trusted};

/// The first bytes of a state file; the number is its format's.
const MAGIC: &[u8] = b"tallystick sentinel state 4\n";

/// Ends a step that is durable.
pub const DURABLE: &[u8] = b"\n";

/// The longest header: a note, six edges and an entry.
const MAX_HEADER: u64 = 1 << 20;

/// The bytes of a step's length with its check.
const STEP_HEAD: usize = 16;

/// What a state file holds.
#[derive(Debug)]
pub struct Read {
    /// The pinned key.
    pub key: VerifierKey,
    /// The log as far as it is verified.
    pub trusted: Trusted,
    /// Where the next step goes; `None` where there can be none, because
    /// something that was left out stands there.
    pub end: Option<End>,
}

/// The end of a state file.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The last hash.
    pub digest: [u8; 32],
    /// The bytes of the whole.
    pub whole: u64,
    /// The bytes of the whole and its steps.
    pub len: u64,
}

/// What the whole says beside the sums.
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

/// Writes the whole.
///
/// # Errors
/// Those of `to`.
pub fn write(to: &mut impl Write, key: &VerifierKey, trusted: &mut Trusted) -> io::Result<End> {
    let header = serde_json::to_vec(&Header::of(key, trusted))?;
    // The length stands before what it is of, and memory must not hold both.
    let mut counted = Counting(0);
    trusted.sums.write(&mut counted)?;
    trusted.accounts.write(&mut counted)?;
    let len = 8 + header.len() as u64 + counted.0;
    let mut to = Hashing {
        inner: to,
        hasher: Sha256::new(),
    };
    to.write_all(MAGIC)?;
    to.write_all(&len.to_be_bytes())?;
    to.write_all(&(header.len() as u64).to_be_bytes())?;
    to.write_all(&header)?;
    trusted.sums.write(&mut to)?;
    trusted.accounts.write(&mut to)?;
    let digest: [u8; 32] = to.hasher.finalize().into();
    to.inner.write_all(&digest)?;
    let whole = (MAGIC.len() + 8) as u64 + len + 32;
    Ok(End {
        digest,
        whole,
        len: whole,
    })
}

/// A step after `end`, without what says that it is durable, and the file's
/// end when that stands there too.
pub fn step(end: &End, checkpoint: &Signed, last: &Last, entries: &[u8]) -> (Vec<u8>, End) {
    let note = checkpoint.note().as_bytes();
    let len = 4 + note.len() + last.signature.len() + entries.len();
    let mut bytes = Vec::with_capacity(STEP_HEAD + len + 32);
    bytes.extend_from_slice(&(len as u64).to_be_bytes());
    bytes.extend_from_slice(&check(&end.digest, len as u64));
    let note_len = u32::try_from(note.len()).expect("notes are at most 64 KiB");
    bytes.extend_from_slice(&note_len.to_be_bytes());
    bytes.extend_from_slice(note);
    bytes.extend_from_slice(&last.signature);
    bytes.extend_from_slice(entries);
    let digest = chained(&end.digest, &bytes);
    bytes.extend_from_slice(&digest);
    let len = end.len + (bytes.len() + DURABLE.len()) as u64;
    let end = End {
        digest,
        len,
        ..*end
    };
    (bytes, end)
}

/// Reads a state file.
///
/// # Errors
/// What is damaged.
pub fn read(file: &[u8]) -> Result<Read, String> {
    let Whole {
        hashed,
        content,
        digest,
        mut rest,
    } = whole(file)?;
    let len = (file.len() - rest.len()) as u64;
    // Both take a while: side by side.
    let (found, parsed) = thread::scope(|scope| {
        let hashing = scope.spawn(|| Sha256::digest(hashed));
        let parsed = parse(content);
        (hashing.join(), parsed)
    });
    let found = found.ok().map(<[u8; 32]>::from);
    let digest = found.filter(|found| found == digest);
    let digest = digest.ok_or("its hash does not fit")?;
    let (key, mut trusted) = parsed.ok_or("its parts do not fit")?;
    let mut end = End {
        digest,
        whole: len,
        len,
    };
    while !rest.is_empty() {
        match next(&end.digest, rest) {
            Next::Step {
                content,
                digest,
                after,
            } => {
                replay(content, &key, &mut trusted).ok_or("the parts of a step do not fit")?;
                end.digest = digest;
                rest = match after {
                    [b'\n', rest @ ..] => rest,
                    // Durable, though it does not say so.
                    after if unwritten(after) => {
                        return Ok(Read {
                            key,
                            trusted,
                            end: None,
                        });
                    }
                    _ => return Err("a step has no end".into()),
                };
                end.len = (file.len() - rest.len()) as u64;
            }
            Next::Cut => {
                return Ok(Read {
                    key,
                    trusted,
                    end: None,
                });
            }
            Next::Damaged => return Err("the hash of a step does not fit".into()),
        }
    }
    Ok(Read {
        key,
        trusted,
        end: Some(end),
    })
}

/// The pinned key alone, from the head of a file whose hash is not looked at;
/// `None` where it is no such head.
///
/// # Errors
/// Those of `from`.
pub fn pinned(mut from: impl io::Read) -> io::Result<Option<VerifierKey>> {
    let mut head = [0; MAGIC.len() + 16];
    from.read_exact(&mut head)?;
    let (magic, lengths) = head.split_at(MAGIC.len());
    let len = lengths
        .last_chunk()
        .map_or(0, |len| u64::from_be_bytes(*len));
    if magic != MAGIC || len > MAX_HEADER {
        return Ok(None);
    }
    let mut header = vec![];
    from.take(len).read_to_end(&mut header)?;
    let header: Option<Header> = serde_json::from_slice(&header).ok();
    Ok(header.and_then(|header| VerifierKey::parse(&header.vkey).ok()))
}

struct Whole<'a> {
    hashed: &'a [u8],
    content: &'a [u8],
    digest: &'a [u8; 32],
    rest: &'a [u8],
}

fn whole(file: &[u8]) -> Result<Whole<'_>, &'static str> {
    let rest = file.strip_prefix(MAGIC).ok_or("of another format")?;
    let (len, rest) = rest.split_first_chunk().ok_or("it is cut")?;
    let len = usize::try_from(u64::from_be_bytes(*len)).map_err(|_| "its length is wrong")?;
    let (content, rest) = rest.split_at_checked(len).ok_or("it is cut")?;
    let (digest, rest) = rest.split_first_chunk().ok_or("it is cut")?;
    let hashed = &file[..MAGIC.len() + 8 + len];
    Ok(Whole {
        hashed,
        content,
        digest,
        rest,
    })
}

enum Next<'a> {
    /// A step, and what stands after it.
    Step {
        content: &'a [u8],
        digest: [u8; 32],
        after: &'a [u8],
    },
    /// The beginning of one that was not finished.
    Cut,
    Damaged,
}

fn next<'a>(before: &[u8; 32], bytes: &'a [u8]) -> Next<'a> {
    let head = bytes.split_first_chunk::<8>();
    let Some((len, (given, rest))) = head
        .and_then(|(len, rest)| Some((u64::from_be_bytes(*len), rest.split_first_chunk::<8>()?)))
    else {
        return Next::Cut;
    };
    if *given != check(before, len) {
        return if unwritten(rest) {
            Next::Cut
        } else {
            Next::Damaged
        };
    }
    let split = usize::try_from(len)
        .ok()
        .and_then(|len| rest.split_at_checked(len));
    let Some((content, (found, after))) =
        split.and_then(|(content, rest)| Some((content, rest.split_first_chunk::<32>()?)))
    else {
        return Next::Cut;
    };
    let digest = chained(before, &bytes[..STEP_HEAD + content.len()]);
    if digest == *found {
        return Next::Step {
            content,
            digest,
            after,
        };
    }
    if unwritten(after) {
        Next::Cut
    } else {
        Next::Damaged
    }
}

/// Whether nothing is there, or space that was claimed and never written.
fn unwritten(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Protects a step's length: a wrong one would look like a cut.
fn check(before: &[u8; 32], len: u64) -> [u8; 8] {
    let digest = chained(before, &len.to_be_bytes());
    *digest.first_chunk().expect("32 bytes hold 8")
}

fn chained(before: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    let digest = Sha256::new().chain_update(before).chain_update(bytes);
    digest.finalize().into()
}

/// Takes `trusted` the way of a step.
fn replay(content: &[u8], key: &VerifierKey, trusted: &mut Trusted) -> Option<()> {
    let (note_len, rest) = content.split_first_chunk::<4>()?;
    let note_len = usize::try_from(u32::from_be_bytes(*note_len)).ok()?;
    let (note, rest) = rest.split_at_checked(note_len)?;
    let (signature, entries) = rest.split_first_chunk::<64>()?;
    let accepted = Signed::open(note, key).ok()?;
    let entries = tile::entries(entries)?;
    let newest = entries.last()?;
    for bytes in &entries {
        let entry = Entry::parse(bytes).ok()?;
        let index = Index::new(trusted.tree.size())?;
        if std::ptr::eq(bytes, newest) {
            trusted.last = Some(Last {
                index,
                time: entry.time(),
                bytes: bytes.to_vec(),
                signature: *signature,
                signed: true,
            });
        }
        trusted.take(index, leaf_hash(bytes), Some(entry), &mut vec![]);
    }
    let fits =
        trusted.tree.size() == accepted.size() && trusted.tree.root().ok()? == accepted.root();
    trusted.accepted = Some(accepted);
    fits.then_some(())
}

fn parse(content: &[u8]) -> Option<(VerifierKey, Trusted)> {
    let (len, rest) = content.split_first_chunk()?;
    let len = usize::try_from(u64::from_be_bytes(*len)).ok()?;
    let (header, mut rest) = rest.split_at_checked(len)?;
    let header: Header = serde_json::from_slice(header).ok()?;
    let sums = Sums::read(&mut rest)?;
    let accounts = Accounts::read(&mut rest).filter(|_| rest.is_empty())?;
    let key = VerifierKey::parse(&header.vkey).ok()?;
    let trusted = header.unpack(&key, sums, accounts)?;
    Some((key, trusted))
}

impl Header {
    fn of(key: &VerifierKey, trusted: &Trusted) -> Self {
        let edge = |hashes: &Vec<Hash>| {
            let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
            STANDARD.encode(bytes)
        };
        let accepted = trusted.accepted.as_ref();
        Self {
            vkey: key.to_string(),
            checkpoint: accepted.map(|signed| signed.note().to_owned()),
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
        }
    }

    fn unpack(self, key: &VerifierKey, sums: Sums, accounts: Accounts) -> Option<Trusted> {
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
        Some(Trusted {
            accepted,
            tree,
            sums,
            accounts,
            last,
            upgrade: self.upgrade,
            publish_max: self.publish_max,
        })
    }
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

/// Counts what passes.
struct Counting(u64);

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
