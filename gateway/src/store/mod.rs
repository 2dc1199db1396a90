//! The store: entries, tiles and what finds them, moved together by one
//! transaction, in SQLite or PostgreSQL.
//!
//! Out of scope: what is appended and when (see [`crate::log`]), sums (see
//! [`crate::ledger`], of which this holds the slices), and what is answered to
//! whom (see [`crate::api`]).

mod append;
mod bundle;
mod engine;
mod read;

use std::sync::Arc;

use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::mmr::Mmr;
use protocol::tile::{MAX_LEVEL, Tile, TileKind, WIDTH};
use sqlx::migrate::MigrateError;
use uuid::Uuid;

use engine::{Engine, on};

pub use append::{Append, AppendError, SliceRow, TileRow};
pub use bundle::Sealed;
pub use engine::Database;
pub use read::{Page, TileBytes};

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
        let row: Option<(i64, Vec<u8>, i64)> = on!(&mut tx, c => {
            sqlx::query_as("SELECT size, peaks, time FROM log").fetch_optional(c).await?
        });
        let Some((size, peaks, time)) = row else {
            return Ok(Chain::default());
        };
        let size = parse_size(size)?;
        let time = u64::try_from(time).ok().and_then(Time::from_secs);
        let time = time.ok_or(StoreError::Damaged("the log's time is out of range"))?;
        let mmr = Mmr::from_peaks(size, parse_hashes(&peaks)?).ok_or(StoreError::Damaged(
            "the number of peaks does not fit the size",
        ))?;
        // What was signed hangs on the peaks: a damaged page would be a fork.
        if tx.peaks(size, size).await? != mmr.peaks() {
            return Err(StoreError::Damaged(
                "the entries do not give the root that was committed; restore the newest copy",
            ));
        }
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

    /// Keeps the database in shape until it is closed.
    pub async fn maintain(self) {
        self.0.maintain().await;
    }

    /// Ends every connection; what was committed is in the file.
    pub async fn close(&self) {
        self.0.close().await;
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
