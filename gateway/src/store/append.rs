//! The append transaction.
//!
//! Order: the size moves first, and only from what the batch was staged on, in
//! the writer's own epoch. A second writer, one that was deposed, or a batch
//! staged on a state that was never committed fails there and writes nothing.

use std::sync::Arc;

use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::mmr::Mmr;
use protocol::tile::WIDTH;

use super::bundle::Sealed;
use super::engine::{Tx, on};
use super::lease::Epoch;
use super::{Record, Store, StoreError, postgres, sqlite, to_i64};

/// By how many things an entry can be found.
pub const MENTIONS: usize = 3;

/// A tile's content after the batch: full, or its level's right edge.
#[derive(Clone, Debug)]
pub struct TileRow {
    /// 0 for leaf hashes.
    pub level: u8,
    /// The tile's place in its level.
    pub n: u64,
    /// 1 to 256 hashes.
    pub hashes: Vec<Hash>,
}

/// A slice of the ledger, as of a size.
#[derive(Clone, Debug)]
pub struct SliceRow {
    /// 0 to 255.
    pub number: u8,
    /// Of how many entries its sums are.
    pub through: TreeSize,
    /// Its accounts.
    pub state: Vec<u8>,
}

/// What an append stores.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// The epoch of the writer.
    pub epoch: Epoch,
    /// The size that the batch was staged on.
    pub from: TreeSize,
    /// The tree that it leads to.
    pub mmr: &'a Mmr,
    /// The integration time of its entries.
    pub time: Time,
    /// Its entries, at least one.
    pub records: &'a [Arc<Record>],
    /// By what each of them is found: its key id, its commitment to a response
    /// id, its wallet (see [`super::Named`]).
    pub mentions: &'a [[Option<Hash>; MENTIONS]],
    /// The bundles that are full now.
    pub sealed: &'a [Sealed],
    /// The tiles that are full now, and the edges above level 0 that changed.
    pub tiles: &'a [TileRow],
    /// The slices of the ledger that are due.
    pub slices: &'a [SliceRow],
    /// The rows of the inbox that this settles.
    pub taken: &'a [i64],
}

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A later writer began its epoch: this one writes nothing any more.
    #[error("another gateway writes this log now")]
    Deposed,
    /// The log is not where the batch was staged, and nobody said so.
    #[error("the log is no longer at size {expected}: another gateway writes to this database")]
    Moved {
        /// The size the batch was staged on.
        expected: TreeSize,
    },
    /// The database failed; nothing or all of the batch is committed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for AppendError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Commits a batch. When it returns, the batch is on the disk.
    ///
    /// # Errors
    /// [`AppendError`]; after [`AppendError::Store`] the caller must look
    /// whether the commit went through.
    pub async fn append(&self, append: Append<'_>) -> Result<(), AppendError> {
        let mut tx = self.0.writing().await?;
        tx.moves(&append).await?;
        tx.seal(&append).await?;
        match &mut tx {
            Tx::Sqlite(tx) => sqlite::lists(tx, &append).await?,
            Tx::Postgres(tx) => postgres::lists(tx, &append).await?,
        }
        tx.tiles_and_slices(&append).await?;
        tx.commit().await?;
        self.0.appended(append.records.len());
        Ok(())
    }
}

impl Tx {
    /// Moves the size from where it should stand.
    async fn moves(&mut self, append: &Append<'_>) -> Result<(), AppendError> {
        let peaks: Vec<u8> = append.mmr.peaks().iter().flat_map(bytes).collect();
        let moved = on!(&mut *self, c => {
            sqlx::query(
                "UPDATE log SET size = $1, peaks = $2, time = $3 WHERE size = $4 AND epoch = $5",
            )
            .bind(to_i64(append.mmr.size().get()))
            .bind(peaks)
            .bind(to_i64(append.time.secs()))
            .bind(to_i64(append.from.get()))
            .bind(append.epoch.0)
            .execute(c)
            .await?
            .rows_affected()
        });
        if moved == 1 {
            return Ok(());
        }
        let epoch: i64 = on!(self, c => {
            sqlx::query_scalar("SELECT epoch FROM log").fetch_one(c).await?
        });
        if epoch != append.epoch.0 {
            return Err(AppendError::Deposed);
        }
        let expected = append.from;
        Err(AppendError::Moved { expected })
    }

    /// Stores the bundles that are full, and removes their entries' rows.
    async fn seal(&mut self, append: &Append<'_>) -> Result<(), sqlx::Error> {
        for sealed in append.sealed {
            on!(self, c => {
                sqlx::query("INSERT INTO bundle (n, entries, signatures, receipt_ids, gzip) VALUES ($1, $2, $3, $4, $5)")
                    .bind(to_i64(sealed.n))
                    .bind(&sealed.entries)
                    .bind(&sealed.signatures)
                    .bind(&sealed.receipt_ids)
                    .bind(&sealed.gzip)
                    .execute(c)
                    .await?;
            });
        }
        if !append.sealed.is_empty() {
            let tail = append.tail();
            on!(self, c => {
                sqlx::query("DELETE FROM tail WHERE idx < $1").bind(to_i64(tail)).execute(c).await?;
            });
        }
        Ok(())
    }

    async fn tiles_and_slices(&mut self, append: &Append<'_>) -> Result<(), sqlx::Error> {
        for tile in append.tiles {
            let hashes: Vec<u8> = tile.hashes.iter().flat_map(bytes).collect();
            on!(self, c => {
                sqlx::query(
                    "INSERT INTO tile (level, n, hashes) VALUES ($1, $2, $3)
                     ON CONFLICT (level, n) DO UPDATE SET hashes = excluded.hashes",
                )
                .bind(i64::from(tile.level))
                .bind(to_i64(tile.n))
                .bind(hashes)
                .execute(c)
                .await?;
            });
        }
        for slice in append.slices {
            on!(self, c => {
                sqlx::query(
                    "INSERT INTO slice (number, through, state) VALUES ($1, $2, $3)
                     ON CONFLICT (number) DO UPDATE SET through = excluded.through, state = excluded.state",
                )
                .bind(i64::from(slice.number))
                .bind(to_i64(slice.through.get()))
                .bind(&slice.state)
                .execute(c)
                .await?;
            });
        }
        Ok(())
    }
}

impl<'a> Append<'a> {
    /// The first index after the last full bundle.
    fn tail(&self) -> u64 {
        self.mmr.size().get() / WIDTH * WIDTH
    }

    /// The records that stand after it.
    pub(super) fn unsealed(&self) -> &'a [Arc<Record>] {
        let sealed = self
            .records
            .partition_point(|r| r.index.get() < self.tail());
        &self.records[sealed..]
    }
}

/// The lists of what entries are found by that are not empty, in columns.
pub(super) fn columns(append: &Append<'_>) -> impl Iterator<Item = usize> {
    (0..MENTIONS).filter(|at| append.mentions.iter().any(|m| m[*at].is_some()))
}

fn bytes(hash: &Hash) -> [u8; 32] {
    *hash.as_bytes()
}
