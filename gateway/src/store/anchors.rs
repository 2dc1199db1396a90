//! Anchors that are final: what was read of chains, so that no chain is read twice.

use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};

use super::engine::on;
use super::{Store, StoreError, parse_size, to_i64};

/// An anchor in a final block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnchorRow {
    /// The chain, below 2^53.
    pub chain_id: u64,
    /// Its number in the log's contract there.
    pub number: u64,
    /// How many entries it covers.
    pub size: TreeSize,
    /// Their root.
    pub root: Hash,
    /// The time of the last of them.
    pub time: Time,
    /// The transaction's hash.
    pub transaction: Hash,
    /// The transaction's block.
    pub block: u64,
    /// That block's hash.
    pub block_hash: Hash,
}

type Columns = (i64, i64, i64, Vec<u8>, i64, Vec<u8>, i64, Vec<u8>);

impl Store {
    /// All that were kept, by chain and number.
    ///
    /// # Errors
    /// The database failed or contradicts itself.
    pub async fn anchors(&self) -> Result<Vec<AnchorRow>, StoreError> {
        let mut tx = self.0.reading().await?;
        let rows: Vec<Columns> = on!(&mut tx, c => {
            sqlx::query_as(
                "SELECT chain_id, number, size, root, time, tx, block, block_hash FROM anchor
                 ORDER BY chain_id, number",
            )
            .fetch_all(c)
            .await?
        });
        rows.into_iter().map(parse).collect()
    }

    /// Keeps anchors; those that are kept already stay as they are.
    ///
    /// # Errors
    /// The database failed.
    pub async fn keep_anchors(&self, rows: &[AnchorRow]) -> Result<(), StoreError> {
        let mut tx = self.0.writing().await?;
        for row in rows {
            on!(&mut tx, c => {
                sqlx::query(
                    "INSERT INTO anchor
                     (chain_id, number, size, root, time, tx, block, block_hash)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
                )
                .bind(to_i64(row.chain_id))
                .bind(to_i64(row.number))
                .bind(to_i64(row.size.get()))
                .bind(row.root.as_bytes().as_slice())
                .bind(to_i64(row.time.secs()))
                .bind(row.transaction.as_bytes().as_slice())
                .bind(to_i64(row.block))
                .bind(row.block_hash.as_bytes().as_slice())
                .execute(c)
                .await?;
            });
        }
        tx.commit().await?;
        self.0.appended(rows.len());
        Ok(())
    }

    /// Forgets a chain's anchors.
    ///
    /// # Errors
    /// The database failed.
    pub async fn forget_anchors(&self, chain_id: u64) -> Result<(), StoreError> {
        let mut tx = self.0.writing().await?;
        on!(&mut tx, c => {
            sqlx::query("DELETE FROM anchor WHERE chain_id = $1")
                .bind(to_i64(chain_id))
                .execute(c)
                .await?;
        });
        tx.commit().await?;
        Ok(())
    }
}

fn parse(columns: Columns) -> Result<AnchorRow, StoreError> {
    let (chain_id, number, size, root, time, transaction, block, block_hash) = columns;
    let damaged = || StoreError::Damaged("an anchor can't be read");
    let count = |value: i64| u64::try_from(value).map_err(|_| damaged());
    let hash = |bytes: Vec<u8>| {
        let bytes = bytes.try_into().map_err(|_| damaged())?;
        Ok::<_, StoreError>(Hash::from_bytes(bytes))
    };
    Ok(AnchorRow {
        chain_id: count(chain_id)?,
        number: count(number)?,
        size: parse_size(size)?,
        root: hash(root)?,
        time: Time::from_secs(count(time)?).ok_or_else(damaged)?,
        transaction: hash(transaction)?,
        block: count(block)?,
        block_hash: hash(block_hash)?,
    })
}
