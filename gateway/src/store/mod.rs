//! The store: records, tiles and sums, moved together by one transaction.
//!
//! Out of scope: what is appended and when (see [`crate::log`]), and what is
//! answered to whom (see [`crate::api`]).

mod append;
mod read;

use std::path::Path;
use std::time::Duration;

use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::mmr::Mmr;
use protocol::record::Usage;
use protocol::tile::{Tile, TileKind, WIDTH};
use sqlx::SqlitePool;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use uuid::Uuid;

pub use append::{AppendError, Staged, TileRow};
pub use read::{Leader, ModelSums, Page, Record, Stats, Sums, Window};

const MIGRATIONS: &[(i64, &str, &str)] = &[(
    1,
    "log",
    include_str!("../../../migrations/sqlite/0001_log.sql"),
)];

/// The database of one log.
#[derive(Clone, Debug)]
pub struct Store {
    /// One connection: SQLite has one writer at a time, and so has the log.
    writer: SqlitePool,
    readers: SqlitePool,
}

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

/// Where the log stands: what the sequencer needs to go on.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Size and peaks.
    pub mmr: Mmr,
    /// Integration time of the newest entry.
    pub time: Time,
    /// The hashes of each level's partial tile, lowest level first.
    pub edges: Vec<Vec<Hash>>,
}

impl Store {
    /// Opens the SQLite database at `path`, creating it or bringing it up to date.
    ///
    /// # Errors
    /// Not a database, not writable, or of a newer version.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A receipt is released when its transaction is on the disk, not before.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await?;
        let migrations = MIGRATIONS.iter().map(|(version, name, sql)| {
            let name = (*name).into();
            Migration::new(
                *version,
                name,
                MigrationType::Simple,
                sqlx::SqlStr::from_static(sql),
                false,
            )
        });
        match Migrator::with_migrations(migrations.collect())
            .run(&writer)
            .await
        {
            Ok(()) => {}
            Err(MigrateError::VersionMissing(version)) => return Err(StoreError::Newer(version)),
            Err(MigrateError::Execute(error)) => return Err(error.into()),
            Err(error) => return Err(StoreError::Migrate(error)),
        }
        let readers = SqlitePoolOptions::new()
            .max_connections(8)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Self { writer, readers })
    }

    /// Where the log stands; the empty log where nothing was appended yet.
    ///
    /// # Errors
    /// The database failed or contradicts itself.
    pub async fn chain(&self) -> Result<Chain, StoreError> {
        // On the writer's connection: readers may keep all others busy.
        let mut tx = self.writer.begin().await?;
        let row: Option<(i64, Vec<u8>, i64)> = sqlx::query_as("SELECT size, peaks, time FROM log")
            .fetch_optional(&mut *tx)
            .await?;
        let Some((size, peaks, time)) = row else {
            let time = Time::from_secs(0).expect("zero is a time");
            return Ok(Chain {
                mmr: Mmr::EMPTY,
                time,
                edges: Vec::new(),
            });
        };
        let size = parse_size(size)?;
        let time = u64::try_from(time).ok().and_then(Time::from_secs);
        let time = time.ok_or(StoreError::Damaged("the log's time is out of range"))?;
        let mmr = Mmr::from_peaks(size, parse_hashes(&peaks)?).ok_or(StoreError::Damaged(
            "the number of peaks does not fit the size",
        ))?;
        let mut edges = Vec::new();
        for level in 0..=protocol::tile::MAX_LEVEL {
            let tiles = (size.get() >> (8 * u32::from(level))) / WIDTH;
            let edge = match Tile::within(TileKind::Hashes(level), tiles, size) {
                Some(tile) => self.hashes(&mut tx, level, &tile).await?,
                None => Vec::new(),
            };
            edges.push(edge);
        }
        Ok(Chain { mmr, time, edges })
    }

    /// Ends every connection; what was committed is in the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// What the sums need of a usage entry.
#[derive(Clone, Debug)]
pub struct Counted {
    /// The record.
    pub usage: Usage,
    /// The UTC day of its time.
    pub day: u64,
}

/// A UUID's bytes as the receipt tables hold them.
fn id_bytes(id: &Uuid) -> Vec<u8> {
    id.as_bytes().to_vec()
}

fn parse_size(size: i64) -> Result<TreeSize, StoreError> {
    let size = u64::try_from(size).ok().and_then(TreeSize::new);
    size.ok_or(StoreError::Damaged("the log's size is out of range"))
}

fn parse_hashes(bytes: &[u8]) -> Result<Vec<Hash>, StoreError> {
    let (chunks, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(StoreError::Damaged("a list of hashes is cut"));
    }
    Ok(chunks.iter().copied().map(Hash::from_bytes).collect())
}

fn parse_hash(bytes: &[u8]) -> Result<Hash, StoreError> {
    let hash = <[u8; 32]>::try_from(bytes).map(Hash::from_bytes);
    hash.map_err(|_| StoreError::Damaged("a hash is not 32 bytes"))
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).expect("indices, times and days stay below 2^53")
}

/// The first 8 bytes of a commitment: the key of the response table.
fn head(commitment: &Hash) -> i64 {
    let bytes = commitment
        .as_bytes()
        .first_chunk()
        .expect("32 bytes hold 8");
    i64::from_be_bytes(*bytes)
}
