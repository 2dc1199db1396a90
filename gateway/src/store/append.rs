//! The append transaction.
//!
//! Order: the size moves first, and only from what the batch was staged on. A
//! second writer, or a batch staged on a state that was never committed, fails
//! there and writes nothing.

use std::sync::Arc;

use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::mmr::Mmr;
use protocol::tile::WIDTH;
use sqlx::{Postgres, QueryBuilder, Sqlite, Transaction};

use super::bundle::Sealed;
use super::engine::{Tx, on};
use super::{EPOCH, Record, Store, StoreError, head, id_bytes, to_i64};

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
    /// The size that the batch was staged on.
    pub from: TreeSize,
    /// The tree that it leads to.
    pub mmr: &'a Mmr,
    /// The integration time of its entries.
    pub time: Time,
    /// Its entries, at least one.
    pub records: &'a [Arc<Record>],
    /// The key id, and the commitment to a response id, that each of them names.
    pub mentions: &'a [[Option<Hash>; 2]],
    /// The bundles that are full now.
    pub sealed: &'a [Sealed],
    /// The tiles that are full now, and the edges above level 0 that changed.
    pub tiles: &'a [TileRow],
    /// The slices of the ledger that are due.
    pub slices: &'a [SliceRow],
}

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The log is not where the batch was staged: another writer is at work.
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
        if !tx.moved(&append).await? {
            return Err(AppendError::Moved {
                expected: append.from,
            });
        }
        tx.seal(&append).await?;
        match &mut tx {
            Tx::Sqlite(tx) => lists_sqlite(tx, &append).await?,
            Tx::Postgres(tx) => lists_postgres(tx, &append).await?,
        }
        tx.tiles_and_slices(&append).await?;
        tx.commit().await?;
        self.0.appended(append.records.len());
        Ok(())
    }
}

impl Tx {
    /// Moves the size; says whether it stood where it should.
    async fn moved(&mut self, append: &Append<'_>) -> Result<bool, sqlx::Error> {
        const BEGIN: &str = "INSERT INTO log (one, size, peaks, time) VALUES (1, $1, $2, $3)
            ON CONFLICT DO NOTHING";
        const MOVE: &str = "UPDATE log SET size = $1, peaks = $2, time = $3 WHERE size = $4";
        let peaks: Vec<u8> = append.mmr.peaks().iter().flat_map(bytes).collect();
        let (size, time) = (to_i64(append.mmr.size().get()), to_i64(append.time.secs()));
        let begins = append.from == TreeSize::ZERO;
        let rows = on!(self, c => {
            let query = sqlx::query(if begins { BEGIN } else { MOVE });
            let query = query.bind(size).bind(peaks).bind(time);
            let query = if begins { query } else { query.bind(to_i64(append.from.get())) };
            query.execute(c).await?.rows_affected()
        });
        Ok(rows == 1)
    }

    /// Stores the bundles that are full, and removes their entries' rows.
    async fn seal(&mut self, append: &Append<'_>) -> Result<(), sqlx::Error> {
        for sealed in append.sealed {
            on!(self, c => {
                sqlx::query("INSERT INTO bundle (n, entries, signatures, receipt_ids) VALUES ($1, $2, $3, $4)")
                    .bind(to_i64(sealed.n))
                    .bind(&sealed.entries)
                    .bind(&sealed.signatures)
                    .bind(&sealed.receipt_ids)
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
    fn unsealed(&self) -> &'a [Arc<Record>] {
        let sealed = self
            .records
            .partition_point(|r| r.index.get() < self.tail());
        &self.records[sealed..]
    }
}

/// Rows of records, found by number in one value that holds them all: a
/// statement a list, however long.
async fn lists_sqlite(
    tx: &mut Transaction<'static, Sqlite>,
    append: &Append<'_>,
) -> Result<(), sqlx::Error> {
    const RECEIPTS: &str = "INSERT INTO receipt (id, idx)
        WITH RECURSIVE i(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i WHERE n + 1 < $2)
        SELECT substr($3, n * 16 + 1, 16), $1 + n FROM i
        WHERE substr($3, n * 16 + 1, 16) <> zeroblob(16)";
    const MENTIONS: &str = "INSERT INTO mention (epoch, head, idx)
        WITH RECURSIVE i(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i WHERE n + 1 < $2)
        SELECT ($1 + n) / $4, substr($3, n * 8 + 1, 8), $1 + n FROM i
        WHERE substr($3, n * 8 + 1, 8) <> zeroblob(8)
        ON CONFLICT DO NOTHING";
    let (from, count) = (to_i64(append.from.get()), append.records.len() as i64);
    let ids = append.records.iter().flat_map(|r| id_bytes(r.receipt_id));
    sqlx::query(RECEIPTS)
        .bind(from)
        .bind(count)
        .bind(ids.collect::<Vec<u8>>())
        .execute(&mut **tx)
        .await?;
    for which in 0..2 {
        let heads = append.mentions.iter();
        let heads = heads.flat_map(|m| m[which].as_ref().map_or([0; 8], head));
        sqlx::query(MENTIONS)
            .bind(from)
            .bind(count)
            .bind(heads.collect::<Vec<u8>>())
            .bind(to_i64(EPOCH))
            .execute(&mut **tx)
            .await?;
    }
    if !append.unsealed().is_empty() {
        QueryBuilder::<Sqlite>::new("INSERT INTO tail (idx, entry, signature, receipt_id) ")
            .push_values(append.unsealed(), |mut row, record| {
                row.push_bind(to_i64(record.index.get()))
                    .push_bind(&record.entry)
                    .push_bind(record.signature.to_vec())
                    .push_bind(id_bytes(record.receipt_id).to_vec());
            })
            .build()
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

async fn lists_postgres(
    tx: &mut Transaction<'static, Postgres>,
    append: &Append<'_>,
) -> Result<(), sqlx::Error> {
    const RECEIPTS: &str = "INSERT INTO receipt (id, idx)
        SELECT id, $1 + n - 1 FROM unnest($2::bytea[]) WITH ORDINALITY AS list(id, n)
        WHERE id IS NOT NULL";
    const MENTIONS: &str = "INSERT INTO mention (epoch, head, idx)
        SELECT ($1 + n - 1) / $3, head, $1 + n - 1
        FROM unnest($2::bytea[]) WITH ORDINALITY AS list(head, n)
        WHERE head IS NOT NULL ON CONFLICT DO NOTHING";
    const TAIL: &str = "INSERT INTO tail (idx, entry, signature, receipt_id)
        SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[])";
    let from = to_i64(append.from.get());
    let ids = append.records.iter();
    let ids = ids.map(|r| r.receipt_id.map(|id| id.as_bytes().to_vec()));
    sqlx::query(RECEIPTS)
        .bind(from)
        .bind(ids.collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    for which in 0..2 {
        let heads = append.mentions.iter();
        let heads = heads.map(|m| m[which].as_ref().map(|hash| head(hash).to_vec()));
        sqlx::query(MENTIONS)
            .bind(from)
            .bind(heads.collect::<Vec<_>>())
            .bind(to_i64(EPOCH))
            .execute(&mut **tx)
            .await?;
    }
    let unsealed = append.unsealed();
    let column =
        |field: fn(&Record) -> Vec<u8>| unsealed.iter().map(|r| field(r)).collect::<Vec<_>>();
    let indexes = unsealed.iter().map(|r| to_i64(r.index.get()));
    sqlx::query(TAIL)
        .bind(indexes.collect::<Vec<_>>())
        .bind(column(|r| r.entry.clone()))
        .bind(column(|r| r.signature.to_vec()))
        .bind(column(|r| id_bytes(r.receipt_id).to_vec()))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn bytes(hash: &Hash) -> [u8; 32] {
    *hash.as_bytes()
}
