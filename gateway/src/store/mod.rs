//! The store: entries, tiles and what finds them, moved together by one
//! transaction, in SQLite or PostgreSQL.
//!
//! Out of scope: what is appended and when (see [`crate::log`]), sums (see
//! [`crate::ledger`], of which this holds the slices), and what is answered to
//! whom (see [`crate::api`]).

mod anchors;
mod append;
mod bundle;
mod engine;
mod inbox;
mod lease;
mod named;
mod postgres;
mod published;
mod read;
mod sqlite;

use std::sync::Arc;

use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::mmr::Mmr;
use protocol::tile::{MAX_LEVEL, Tile, TileKind, WIDTH};
use sqlx::migrate::MigrateError;
use uuid::Uuid;

use engine::{Engine, Tx, on};

pub use anchors::AnchorRow;
pub use append::{Append, AppendError, MENTIONS, SliceRow, TileRow};
pub use bundle::Sealed;
pub use engine::Database;
pub use inbox::{Handed, InboxRow};
pub use lease::Epoch;
pub use named::Named;
pub use read::{Coding, Page};

/// Entries of an epoch of the mention table.
const EPOCH: u64 = 16_384;

/// The database of one log. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store(Engine);

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine failed.
    #[error("the database failed")]
    Engine(#[from] sqlx::Error),
    /// The schema is not ours, or could not be brought up to date.
    #[error("the database's schema could not be brought up to date")]
    Migrate(#[source] MigrateError),
    /// A later gateway wrote it.
    #[error(
        "the database was written by a newer version of the gateway (schema {0}); use that version or a newer one"
    )]
    Newer(i64),
    /// What is stored contradicts itself.
    #[error("the database is damaged: {0}")]
    Damaged(&'static str),
}

impl StoreError {
    /// Whether trying again can't help: what was to be stored contradicts
    /// what is.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Engine(sqlx::Error::Database(error)) => error.is_unique_violation(),
            Self::Engine(_) => false,
            Self::Migrate(_) | Self::Newer(_) | Self::Damaged(_) => true,
        }
    }
}

/// An entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub index: Index,
    /// Its canonical bytes.
    pub entry: Vec<u8>,
    /// The signature of its receipt.
    pub signature: [u8; 64],
    /// Its receipt's id; not every kind has one.
    pub receipt_id: Option<Uuid>,
}

/// Where the log stands: what the sequencer needs to go on.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Size and peaks.
    pub mmr: Mmr,
    /// Integration time of the newest entry.
    pub time: Time,
    /// The hashes of each level's partial tile, lowest level first.
    pub edges: Vec<Vec<Hash>>,
    /// The entries after the last full bundle.
    pub tail: Vec<Arc<Record>>,
}

/// Where the log stands, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Size and peaks.
    pub mmr: Mmr,
    /// Integration time of the newest entry.
    pub time: Time,
}

/// The log without entries.
impl Default for Chain {
    fn default() -> Self {
        Self {
            mmr: Mmr::EMPTY,
            time: Time::from_secs(0).expect("zero is a time"),
            edges: Vec::new(),
            tail: Vec::new(),
        }
    }
}

impl Store {
    /// Opens a database, creating its tables or bringing them up to date.
    ///
    /// # Errors
    /// Not a database, not writable, or of a newer version.
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        Ok(Self(Engine::open(database).await?))
    }

    /// Where the log stands; the empty log where nothing was appended yet.
    ///
    /// # Errors
    /// The database failed or contradicts itself.
    pub async fn chain(&self) -> Result<Chain, StoreError> {
        // On the writer's connection: readers may keep all others busy.
        let mut tx = self.0.writing().await?;
        let Head { mmr, time } = tx.head().await?;
        let size = mmr.size();
        let tail = tx.records(size.get() / WIDTH * WIDTH, size.get()).await?;
        if tail.len() as u64 != size.get() % WIDTH {
            return Err(StoreError::Damaged(
                "the entries after the last full bundle are not those of the log's size",
            ));
        }
        let tail: Vec<_> = tail.into_iter().map(Arc::new).collect();
        let mut edges = vec![tail.iter().map(|r| Hash::leaf(&r.entry)).collect()];
        for level in 1..=MAX_LEVEL {
            let n = (size.get() >> (8 * u32::from(level))) / WIDTH;
            edges.push(match Tile::within(TileKind::Hashes(level), n, size) {
                Some(tile) => tx.hashes(level, &tile).await?,
                None => Vec::new(),
            });
        }
        Ok(Chain {
            mmr,
            time,
            edges,
            tail,
        })
    }

    /// Where the log stands, in short.
    ///
    /// # Errors
    /// The database failed or contradicts itself.
    pub async fn head(&self) -> Result<Head, StoreError> {
        self.0.reading().await?.head().await
    }

    /// Keeps the database in shape until it is closed.
    pub async fn maintain(self) {
        self.0.maintain().await;
    }

    /// Ends every connection; what was committed is in the file.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

impl Tx {
    async fn head(&mut self) -> Result<Head, StoreError> {
        let (size, peaks, time): (i64, Vec<u8>, i64) = on!(self, c => {
            sqlx::query_as("SELECT size, peaks, time FROM log").fetch_one(c).await?
        });
        let time = u64::try_from(time).ok().and_then(Time::from_secs);
        let time = time.ok_or(StoreError::Damaged("the log's time is out of range"))?;
        let mmr = Mmr::from_peaks(parse_size(size)?, parse_hashes(&peaks)?);
        let mmr = mmr.ok_or(StoreError::Damaged(
            "the number of peaks does not fit the size",
        ))?;
        Ok(Head { mmr, time })
    }
}

fn parse_size(size: i64) -> Result<TreeSize, StoreError> {
    let size = u64::try_from(size).ok().and_then(TreeSize::new);
    size.ok_or(StoreError::Damaged("the log's size is out of range"))
}

fn parse_index(index: i64) -> Result<Index, StoreError> {
    let index = u64::try_from(index).ok().and_then(Index::new);
    index.ok_or(StoreError::Damaged("an index is out of range"))
}

fn parse_hashes(bytes: &[u8]) -> Result<Vec<Hash>, StoreError> {
    let (chunks, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(StoreError::Damaged("a list of hashes is cut"));
    }
    Ok(chunks.iter().copied().map(Hash::from_bytes).collect())
}

/// A receipt id as the tables hold it: 16 bytes, zero where there is none.
fn id_bytes(id: Option<Uuid>) -> [u8; 16] {
    *id.unwrap_or(Uuid::nil()).as_bytes()
}

fn parse_id(bytes: [u8; 16]) -> Option<Uuid> {
    Some(Uuid::from_bytes(bytes)).filter(|id| !id.is_nil())
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).expect("indices, times and days stay below 2^53")
}

/// The first 8 bytes of a hash: what the mention table holds of it.
fn head(hash: &Hash) -> [u8; 8] {
    *hash.as_bytes().first_chunk().expect("32 bytes hold 8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Server;
    use sqlx::{AssertSqlSafe, Executor as _, SqlSafeStr as _};
    use std::path::PathBuf;

    impl Store {
        /// Lets SQLite's file grow no further, on the writer's connection.
        pub(crate) async fn grow_no_more(&self) {
            let Engine::Sqlite { writer, .. } = &self.0 else {
                panic!("PostgreSQL has no such bound");
            };
            let limited = sqlx::query("PRAGMA max_page_count = 1").execute(writer);
            limited.await.expect("answers");
        }

        /// Puts another history in the place of the log's.
        pub(crate) async fn forge(&self, mmr: &Mmr) {
            let mut tx = self.0.writing().await.expect("answers");
            let peaks: Vec<u8> = mmr.peaks().iter().flat_map(|h| *h.as_bytes()).collect();
            on!(&mut tx, c => {
                let done = sqlx::query("UPDATE log SET size = $1, peaks = $2")
                    .bind(to_i64(mmr.size().get()))
                    .bind(peaks)
                    .execute(c)
                    .await;
                done.expect("one row");
            });
            tx.commit().await.expect("answers");
        }
    }

    const BOTH: [&str; 6] = [
        include_str!("anchors.rs"),
        include_str!("append.rs"),
        include_str!("lease.rs"),
        include_str!("mod.rs"),
        include_str!("published.rs"),
        include_str!("read.rs"),
    ];

    /// What `source` says to a database: texts that begin as statements do.
    /// One that ends with a space is begun only, and built further.
    fn statements(source: &'static str) -> impl Iterator<Item = &'static str> {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        code.split('"').filter(|text| {
            let verbs = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "];
            verbs.iter().any(|verb| text.starts_with(verb)) && !text.ends_with(' ')
        })
    }

    #[tokio::test]
    async fn every_statement_is_prepared_on_its_engines() {
        let folder: PathBuf = std::env::temp_dir().join(format!("tally-{}", Uuid::now_v7()));
        std::fs::create_dir(&folder).expect("a fresh folder");
        let sqlite = Store::open(&Database::Sqlite(folder.join("tally.db"))).await;
        let postgres = Store::open(&Database::Postgres(Server::shared().database())).await;
        let (
            Engine::Sqlite { writer: sqlite, .. },
            Engine::Postgres {
                writer: postgres, ..
            },
        ) = (sqlite.expect("opens").0, postgres.expect("opens").0)
        else {
            panic!("each is what it was opened as");
        };
        let (mut on_sqlite, mut on_postgres) = (0, 0);
        let only_sqlite = include_str!("sqlite.rs");
        for sql in BOTH.into_iter().chain([only_sqlite]).flat_map(statements) {
            // The lease stands in PostgreSQL only.
            if sql.contains("lease") {
                continue;
            }
            let prepared = sqlite.prepare(AssertSqlSafe(sql).into_sql_str()).await;
            prepared.unwrap_or_else(|error| panic!("{sql}: {error}"));
            on_sqlite += 1;
        }
        let only_postgres = [include_str!("postgres.rs"), include_str!("inbox.rs")];
        for sql in BOTH.into_iter().chain(only_postgres).flat_map(statements) {
            let prepared = postgres.prepare(AssertSqlSafe(sql).into_sql_str()).await;
            prepared.unwrap_or_else(|error| panic!("{sql}: {error}"));
            on_postgres += 1;
        }
        assert!(
            on_sqlite >= 26 && on_postgres >= 33,
            "{on_sqlite}, {on_postgres}"
        );
        std::fs::remove_dir_all(&folder).expect("our folder");
    }
}
