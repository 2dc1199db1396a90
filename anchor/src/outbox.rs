//! The outbox: every transaction that was signed, on the disk before anybody
//! else sees it, and what became of it.
//!
//! A SQLite database for each chain and gas key, as nonces are counted so.
//! Whoever has its lock file locked is the only one that spends from this key
//! on this chain; others may read.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection};

use crate::rpc::Receipt;

const SCHEMA: &str = include_str!("../../migrations/anchor/0001_outbox.sql");

/// What was sent from one gas key on one chain.
#[derive(Debug)]
pub struct Outbox {
    file: PathBuf,
    database: SqliteConnection,
    /// What is not final yet, by nonce, ascending; as the database has it.
    posts: Vec<Post>,
    next_nonce: u64,
    _lock: File,
}

/// A transaction, in every form in which it was signed: one of them at the
/// most ever gets into the chain, as they share a nonce.
#[derive(Clone, Debug)]
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
    pub mined: Option<Mined>,
}

/// A signed form of a post.
#[derive(Clone, Debug)]
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
    /// Its folder or lock can't be used.
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
    /// The database can't be read or written.
    #[error("the outbox {} can't be read or written; nothing was sent", file.display())]
    Database {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Something else than an outbox, or a later version's.
    #[error(
        "{} is not the outbox of this chain and gas key; what it holds may be in flight, so look before you move it away",
        file.display()
    )]
    Content {
        /// Which file.
        file: PathBuf,
        /// What is wrong, if the schema is.
        #[source]
        source: Option<MigrateError>,
    },
}

/// A row of the table `attempt`.
type Row = (
    i64,
    String,
    Vec<u8>,
    Vec<u8>,
    i64,
    String,
    String,
    Vec<u8>,
    Vec<u8>,
    i64,
);

impl Outbox {
    /// Opens that of a gas key on a chain in a folder, both made if need be,
    /// and takes it for this process.
    ///
    /// # Errors
    /// [`OutboxError`].
    pub async fn open(folder: &Path, chain: u64, purse: Address) -> Result<Self, OutboxError> {
        fs::create_dir_all(folder).map_err(failed(folder, "created"))?;
        let name = format!("{chain}-{purse:#x}");
        let lock = locked(folder.join(format!("{name}.lock")))?;
        let file = folder.join(format!("{name}.db"));
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A transaction is broadcast when it is on the disk, not before.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let opened = SqliteConnection::connect_with(&options).await;
        let mut outbox = Self {
            database: opened.map_err(broken(&file))?,
            file,
            posts: vec![],
            next_nonce: 0,
            _lock: lock,
        };
        // So that not the file itself is lost with the power.
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed(folder, "written"))?;
        outbox.migrate().await?;
        outbox.identify(chain, purse).await?;
        outbox.read().await?;
        Ok(outbox)
    }

    /// What is not final yet, by nonce.
    pub fn posts(&self) -> &[Post] {
        &self.posts
    }

    /// The nonce after that of every post ever signed here; 0 before there was one.
    pub fn next_nonce(&self) -> u64 {
        self.next_nonce
    }

    /// The number of the newest block that a post was seen in; 0 without one.
    pub fn height(&self) -> u64 {
        let mined = self.posts.iter().filter_map(|post| post.mined);
        mined.map(|mined| mined.receipt.block).max().unwrap_or(0)
    }

    /// Takes down a signed post. It must not be broadcast before this returns.
    ///
    /// # Errors
    /// It is not on the disk.
    pub async fn add(&mut self, post: Post) -> Result<(), OutboxError> {
        self.insert(&post, 0, post.newest()).await?;
        self.next_nonce = post.nonce + 1;
        self.posts.push(post);
        Ok(())
    }

    /// Takes down another form of the post at a place; likewise.
    ///
    /// # Errors
    /// It is not on the disk.
    pub async fn replace(&mut self, place: usize, attempt: Attempt) -> Result<(), OutboxError> {
        let post = self.posts[place].clone();
        self.insert(&post, post.attempts.len(), &attempt).await?;
        self.posts[place].attempts.push(attempt);
        Ok(())
    }

    /// Notes where a post was seen, or that it is no longer there.
    pub fn see(&mut self, place: usize, mined: Option<Mined>) {
        self.posts[place].mined = mined;
    }

    /// Takes down what became of the posts that nothing can change any more.
    ///
    /// # Errors
    /// It is not on the disk.
    pub async fn settle(&mut self, done: impl Fn(&Post) -> bool) -> Result<(), OutboxError> {
        const SETTLE: &str = "UPDATE attempt
            SET outcome = CASE WHEN hash = $2 THEN 'final' ELSE 'displaced' END WHERE nonce = $1";
        for post in self.posts.iter().filter(|post| done(post)) {
            let in_chain = post.mined.map_or(B256::ZERO, |mined| mined.hash);
            let settled = sqlx::query(SETTLE)
                .bind(integer(post.nonce))
                .bind(in_chain.to_vec())
                .execute(&mut self.database);
            settled.await.map_err(broken(&self.file))?;
        }
        self.posts.retain(|post| !done(post));
        Ok(())
    }

    /// Takes down how many anchors a contract has; gives how many it had.
    ///
    /// # Errors
    /// It is not on the disk.
    pub async fn count(&mut self, contract: Address, count: u64) -> Result<u64, OutboxError> {
        const COUNT: &str = "INSERT INTO contract (address, count) VALUES ($1, $2)
            ON CONFLICT (address) DO UPDATE SET count = excluded.count";
        let before = sqlx::query_as("SELECT count FROM contract WHERE address = $1")
            .bind(contract.to_vec())
            .fetch_optional(&mut self.database);
        let before: Option<(i64,)> = before.await.map_err(broken(&self.file))?;
        let before = before.map_or(0, |(count,)| count.unsigned_abs());
        if before != count {
            let counted = sqlx::query(COUNT)
                .bind(contract.to_vec())
                .bind(integer(count))
                .execute(&mut self.database);
            counted.await.map_err(broken(&self.file))?;
        }
        Ok(before)
    }

    async fn migrate(&mut self) -> Result<(), OutboxError> {
        let sql = sqlx::SqlStr::from_static(SCHEMA);
        let first = Migration::new(1, "outbox".into(), MigrationType::Simple, sql, false);
        let migrator = Migrator::with_migrations(vec![first]);
        let file = self.file.clone();
        match migrator.run(&mut self.database).await {
            Ok(()) => Ok(()),
            Err(MigrateError::Execute(source)) => Err(OutboxError::Database { file, source }),
            Err(source) => Err(OutboxError::Content {
                file,
                source: Some(source),
            }),
        }
    }

    /// Requires that it is this one's.
    async fn identify(&mut self, chain: u64, purse: Address) -> Result<(), OutboxError> {
        const NEW: &str = "INSERT INTO purse (one, chain, address) VALUES (1, $1, $2)
            ON CONFLICT DO NOTHING";
        let new = sqlx::query(NEW)
            .bind(chain.to_string())
            .bind(purse.to_vec());
        let new = new.execute(&mut self.database).await;
        new.map_err(broken(&self.file))?;
        let known = sqlx::query_as("SELECT chain, address FROM purse");
        let known = known.fetch_one(&mut self.database).await;
        let known: (String, Vec<u8>) = known.map_err(broken(&self.file))?;
        if known.0 != chain.to_string() || known.1 != purse.as_slice() {
            return Err(self.foreign());
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), OutboxError> {
        const OPEN: &str = "SELECT nonce, what, recipient, data, gas, max_fee, tip, hash, raw, time
            FROM attempt WHERE outcome IS NULL ORDER BY nonce, number";
        let newest = sqlx::query_as("SELECT coalesce(max(nonce) + 1, 0) FROM attempt");
        let newest = newest.fetch_one(&mut self.database).await;
        let (next,): (i64,) = newest.map_err(broken(&self.file))?;
        self.next_nonce = next.unsigned_abs();
        let rows = sqlx::query_as(OPEN).fetch_all(&mut self.database).await;
        let rows: Vec<Row> = rows.map_err(broken(&self.file))?;
        for row in rows {
            let post = parse(row).ok_or_else(|| self.foreign())?;
            match self
                .posts
                .last_mut()
                .filter(|last| last.nonce == post.nonce)
            {
                Some(last) => last.attempts.extend(post.attempts),
                None => self.posts.push(post),
            }
        }
        Ok(())
    }

    async fn insert(
        &mut self,
        post: &Post,
        number: usize,
        attempt: &Attempt,
    ) -> Result<(), OutboxError> {
        const INSERT: &str = "INSERT INTO attempt
            (nonce, number, what, recipient, data, gas, max_fee, tip, hash, raw, time)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let inserted = sqlx::query(INSERT)
            .bind(integer(post.nonce))
            .bind(integer(number as u64))
            .bind(&post.what)
            .bind(post.to.to_vec())
            .bind(post.data.to_vec())
            .bind(integer(post.gas))
            .bind(attempt.max_fee.to_string())
            .bind(attempt.tip.to_string())
            .bind(attempt.hash.to_vec())
            .bind(attempt.raw.to_vec())
            .bind(integer(attempt.time))
            .execute(&mut self.database);
        inserted.await.map_err(broken(&self.file)).map(drop)
    }

    fn foreign(&self) -> OutboxError {
        OutboxError::Content {
            file: self.file.clone(),
            source: None,
        }
    }
}

impl Post {
    /// The form that was signed last.
    pub fn newest(&self) -> &Attempt {
        self.attempts.last().expect("a post was signed")
    }
}

fn locked(file: PathBuf) -> Result<File, OutboxError> {
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&file)
        .map_err(failed(&file, "written"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OutboxError::Held(file)),
        Err(TryLockError::Error(source)) => Err(failed(&file, "locked")(source)),
    }
}

/// A post in one of its forms.
fn parse(row: Row) -> Option<Post> {
    let (nonce, what, to, data, gas, max_fee, tip, hash, raw, time) = row;
    let attempt = Attempt {
        hash: B256::try_from(&hash[..]).ok()?,
        raw: raw.into(),
        max_fee: max_fee.parse().ok()?,
        tip: tip.parse().ok()?,
        time: time.try_into().ok()?,
    };
    Some(Post {
        what,
        to: Address::try_from(&to[..]).ok()?,
        data: data.into(),
        gas: gas.try_into().ok()?,
        nonce: nonce.try_into().ok()?,
        attempts: vec![attempt],
        mined: None,
    })
}

/// Nonces, gas, block numbers and times never come near 2^63; a node that says
/// so gets what no other row has.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn failed(file: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OutboxError {
    let file = file.to_owned();
    move |source| OutboxError::Io {
        file,
        doing,
        source,
    }
}

fn broken(file: &Path) -> impl FnOnce(sqlx::Error) -> OutboxError {
    let file = file.to_owned();
    move |source| OutboxError::Database { file, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::env;
    use std::process;

    fn attempt(n: u8) -> Attempt {
        Attempt {
            hash: B256::repeat_byte(n),
            raw: vec![n; 3].into(),
            max_fee: u128::from(u64::MAX) + u128::from(n),
            tip: 1,
            time: 2,
        }
    }

    fn post(nonce: u64, n: u8) -> Post {
        Post {
            what: "anchor".into(),
            to: Address::repeat_byte(8),
            data: vec![1].into(),
            gas: 9,
            nonce,
            attempts: vec![attempt(n)],
            mined: None,
        }
    }

    /// Dropping it leaves that to a thread, which takes its time.
    async fn close(outbox: Outbox) {
        outbox.database.close().await.expect("closes");
    }

    #[tokio::test]
    async fn what_was_added_is_there_again_and_nobody_else_gets_in() {
        let folder = env::temp_dir().join(format!("tally-outbox-{}", process::id()));
        let purse = Address::repeat_byte(7);
        let mut outbox = Outbox::open(&folder, 1, purse).await.expect("new");
        outbox.add(post(41, 1)).await.expect("writable");
        outbox.replace(0, attempt(2)).await.expect("writable");
        outbox.add(post(42, 3)).await.expect("writable");
        let again = outbox.add(post(41, 4)).await;
        assert!(
            matches!(again, Err(OutboxError::Database { .. })),
            "a nonce is never given twice"
        );
        assert_eq!(outbox.posts().len(), 2);
        let contract = Address::repeat_byte(9);
        assert_eq!(outbox.count(contract, 7).await.expect("writable"), 0);
        let held = Outbox::open(&folder, 1, purse).await;
        assert!(matches!(held, Err(OutboxError::Held(_))));
        close(Outbox::open(&folder, 2, purse).await.expect("another's")).await;
        close(outbox).await;
        let mut outbox = Outbox::open(&folder, 1, purse).await.expect("there");
        assert_eq!(outbox.next_nonce(), 43);
        assert_eq!(outbox.count(contract, 6).await.expect("writable"), 7);
        assert_eq!(outbox.posts()[0].attempts.len(), 2);
        assert_eq!(outbox.posts()[0].newest().max_fee, attempt(2).max_fee);
        assert_eq!(outbox.posts()[1].newest().raw, attempt(3).raw);
        let settled = outbox.settle(|post| post.nonce == 41).await;
        settled.expect("writable");
        close(outbox).await;
        let outbox = Outbox::open(&folder, 1, purse).await.expect("there");
        let open: Vec<_> = outbox.posts().iter().map(|post| post.nonce).collect();
        assert_eq!((open, outbox.next_nonce()), (vec![42], 43));
        close(outbox).await;
        let name = |chain: u64| folder.join(format!("{chain}-{purse:#x}.db"));
        fs::rename(name(2), name(3)).expect("ours");
        fs::write(name(1), "{}, and no database at all").expect("ours");
        for chain in [1, 3] {
            let other = Outbox::open(&folder, chain, purse).await;
            assert!(
                matches!(
                    other,
                    Err(OutboxError::Content { .. } | OutboxError::Database { .. })
                ),
                "{chain}"
            );
        }
        fs::remove_dir_all(&folder).expect("ours");
    }
}
