//! The outbox: every transaction that was signed and is not final yet, on the
//! disk before anybody else sees it.
//!
//! One file for each chain and gas key, as nonces are counted so. Whoever has
//! it locked is the only one that spends from this key on this chain.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B256, Bytes};
use serde::{Deserialize, Serialize};

use crate::rpc::Receipt;

/// What is in flight from one gas key on one chain.
#[derive(Debug)]
pub struct Outbox {
    file: PathBuf,
    content: Content,
    _lock: File,
}

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    chain: u64,
    purse: Address,
    /// The nonce after that of every post ever signed here.
    next_nonce: u64,
    /// By nonce, ascending.
    posts: Vec<Post>,
}

/// A transaction, in every form in which it was signed: one of them at the
/// most ever gets into the chain, as they share a nonce.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Post {
    /// What it does, for people.
    pub what: String,
    /// To whom.
    pub to: Address,
    /// With what.
    pub data: Bytes,
    /// With how much gas at the most.
    pub gas: u64,
    /// At which nonce.
    pub nonce: u64,
    /// Oldest first; never empty.
    pub attempts: Vec<Attempt>,
    /// Where one of them was seen in the chain; it can still fall out of it.
    #[serde(skip)]
    pub mined: Option<Mined>,
}

/// A signed form of a post.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Its hash.
    pub hash: B256,
    /// Its bytes as they are broadcast.
    pub raw: Bytes,
    /// The most that is paid for a unit of gas, in wei.
    pub max_fee: u128,
    /// The part of it that goes to the block's builder.
    pub tip: u128,
    /// When it was signed, in seconds since 1970.
    pub time: u64,
}

/// An attempt in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mined {
    /// Which attempt.
    pub hash: B256,
    /// What the node says.
    pub receipt: Receipt,
}

/// Why there is no outbox.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// It can't be read or written.
    #[error("{} can't be {doing}", file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// Done with it.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another job spends from this gas key.
    #[error("{} is held by another anchor job; stop that one, or use another gas key", .0.display())]
    Held(PathBuf),
    /// Something else than an outbox.
    #[error(
        "{} is not the outbox of this chain and gas key; what it holds may be in flight, so look before you move it away",
        file.display()
    )]
    Content {
        /// Which file.
        file: PathBuf,
        /// What is wrong, if it is not JSON.
        #[source]
        source: Option<serde_json::Error>,
    },
}

impl Outbox {
    /// Opens that of a gas key on a chain in a folder, both made if need be,
    /// and takes it for this process.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub fn open(folder: &Path, chain: u64, purse: Address) -> Result<Self, OutboxError> {
        fs::create_dir_all(folder).map_err(failed(folder, "created"))?;
        let name = format!("{chain}-{purse:#x}");
        let lock_file = folder.join(format!("{name}.lock"));
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_file)
            .map_err(failed(&lock_file, "written"))?;
        match lock.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Err(OutboxError::Held(lock_file)),
            Err(TryLockError::Error(source)) => return Err(failed(&lock_file, "locked")(source)),
        }
        let file = folder.join(format!("{name}.json"));
        let content = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| OutboxError::Content {
                file: file.clone(),
                source: Some(error),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content {
                chain,
                purse,
                next_nonce: 0,
                posts: vec![],
            },
            Err(error) => return Err(failed(&file, "read")(error)),
        };
        let whole = content.posts.iter().all(|post| !post.attempts.is_empty());
        if (content.chain, content.purse) != (chain, purse) || !whole {
            return Err(OutboxError::Content { file, source: None });
        }
        Ok(Self {
            file,
            content,
            _lock: lock,
        })
    }

    /// What is not final yet, by nonce.
    pub fn posts(&self) -> &[Post] {
        &self.content.posts
    }

    /// The nonce after that of every post ever signed here.
    pub fn next_nonce(&self) -> u64 {
        self.content.next_nonce
    }

    /// Takes down a signed post. It must not be broadcast before this returns.
    ///
    /// # Errors
    /// It is not on the disk.
    pub fn add(&mut self, post: Post) -> Result<(), OutboxError> {
        self.content.next_nonce = post.nonce + 1;
        self.content.posts.push(post);
        self.save()
    }

    /// Takes down another form of the post at a place; likewise.
    ///
    /// # Errors
    /// It is not on the disk.
    pub fn replace(&mut self, place: usize, attempt: Attempt) -> Result<(), OutboxError> {
        self.content.posts[place].attempts.push(attempt);
        self.save()
    }

    /// Notes where a post was seen, or that it is no longer there.
    pub fn see(&mut self, place: usize, mined: Option<Mined>) {
        self.content.posts[place].mined = mined;
    }

    /// Drops the posts that nothing can change any more.
    ///
    /// # Errors
    /// It is not on the disk.
    pub fn settle(&mut self, done: impl Fn(&Post) -> bool) -> Result<(), OutboxError> {
        let before = self.content.posts.len();
        self.content.posts.retain(|post| !done(post));
        if self.content.posts.len() == before {
            return Ok(());
        }
        self.save()
    }

    /// Whole or not at all.
    fn save(&self) -> Result<(), OutboxError> {
        let json = serde_json::to_vec_pretty(&self.content).expect("plain JSON");
        let draft = self.file.with_extension("json.new");
        let folder = self.file.parent().expect("a file in a folder");
        let written = File::create(&draft)
            .and_then(|mut file| {
                file.write_all(&json)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&draft, &self.file))
            .and_then(|()| File::open(folder)?.sync_all());
        written.map_err(failed(&self.file, "written"))
    }
}

impl Post {
    /// The form that was signed last.
    pub fn newest(&self) -> &Attempt {
        self.attempts.last().expect("a post was signed")
    }
}

fn failed(file: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OutboxError {
    let file = file.to_owned();
    move |source| OutboxError::Io {
        file,
        doing,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::env;
    use std::process;

    #[test]
    fn what_was_added_is_there_again_and_nobody_else_gets_in() {
        let folder = env::temp_dir().join(format!("tally-outbox-{}", process::id()));
        let purse = Address::repeat_byte(7);
        let mut outbox = Outbox::open(&folder, 1, purse).expect("new");
        let attempt = |n: u8| Attempt {
            hash: B256::repeat_byte(n),
            raw: vec![n; 3].into(),
            max_fee: u128::from(u64::MAX) + u128::from(n),
            tip: 1,
            time: 2,
        };
        let post = Post {
            what: "anchor".into(),
            to: Address::repeat_byte(8),
            data: vec![1].into(),
            gas: 9,
            nonce: 41,
            attempts: vec![attempt(1)],
            mined: None,
        };
        outbox.add(post).expect("writable");
        outbox.replace(0, attempt(2)).expect("writable");
        let held = Outbox::open(&folder, 1, purse);
        assert!(matches!(held, Err(OutboxError::Held(_))));
        Outbox::open(&folder, 2, purse).expect("another chain's");
        drop(outbox);
        let mut outbox = Outbox::open(&folder, 1, purse).expect("there");
        assert_eq!(outbox.next_nonce(), 42);
        assert_eq!(outbox.posts()[0].attempts.len(), 2);
        assert_eq!(outbox.posts()[0].newest().max_fee, attempt(2).max_fee);
        outbox.settle(|post| post.nonce == 41).expect("writable");
        drop(outbox);
        let outbox = Outbox::open(&folder, 1, purse).expect("there");
        assert!(outbox.posts().is_empty());
        assert_eq!(outbox.next_nonce(), 42, "a nonce is never given twice");
        drop(outbox);
        fs::write(folder.join(format!("1-{purse:#x}.json")), "{}").expect("ours");
        let other = Outbox::open(&folder, 1, purse);
        assert!(matches!(other, Err(OutboxError::Content { .. })));
        fs::remove_dir_all(&folder).expect("ours");
    }
}
