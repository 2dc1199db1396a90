//! The inbox: what gateways that do not write hand to the one that does.
//!
//! Only in PostgreSQL. A row may be handed over twice, by a gateway that lost
//! its connection or was restarted: it is recorded once all the same, for the
//! writer looks whether its receipt id is recorded already, and only the
//! writer records any.

use std::collections::HashSet;

use uuid::Uuid;

use super::engine::Tx;
use super::{Store, StoreError};

/// Removes rows by their numbers.
pub(super) const DELETE: &str = "DELETE FROM inbox WHERE seq = ANY($1)";

/// What is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// The id of its receipt.
    pub receipt_id: Uuid,
    /// The entry as of time 0.
    pub entry: Vec<u8>,
    /// Which retrieval it came with, if with one.
    pub retrieval: Option<Uuid>,
}

/// A row of the inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxRow {
    /// Its number: rows are taken in this order.
    pub seq: i64,
    /// What was handed over.
    pub handed: Handed,
    /// Whether the log has its receipt id already.
    pub recorded: bool,
}

/// A number, receipt id, entry, retrieval, and whether it is recorded.
type Row = (i64, Vec<u8>, Vec<u8>, Option<Vec<u8>>, bool);

impl Store {
    /// Hands records to the writer. When it returns, they are on the disk.
    ///
    /// # Errors
    /// The database failed.
    pub async fn hand_over(&self, handed: &[Handed]) -> Result<(), StoreError> {
        let mut tx = self.0.writing().await?;
        if let Tx::Postgres(tx) = &mut tx {
            let ids = handed.iter().map(|h| h.receipt_id.as_bytes().to_vec());
            let entries = handed.iter().map(|h| h.entry.clone());
            let retrievals = handed.iter().map(|h| h.retrieval);
            let retrievals = retrievals.map(|r| r.map(|id| id.as_bytes().to_vec()));
            sqlx::query(
                "INSERT INTO inbox (receipt_id, entry, retrieval)
                 SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[])
                 ON CONFLICT (receipt_id) DO NOTHING",
            )
            .bind(ids.collect::<Vec<_>>())
            .bind(entries.collect::<Vec<_>>())
            .bind(retrievals.collect::<Vec<_>>())
            .execute(&mut **tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The first `limit` rows of the inbox. Asked by the writer, on its
    /// connection.
    ///
    /// # Errors
    /// The database failed.
    pub async fn inbox(&self, limit: usize) -> Result<Vec<InboxRow>, StoreError> {
        let mut tx = self.0.writing().await?;
        let Tx::Postgres(tx) = &mut tx else {
            return Ok(Vec::new());
        };
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT seq, receipt_id, entry, retrieval,
                 EXISTS (SELECT FROM receipt WHERE receipt.id = inbox.receipt_id)
             FROM inbox ORDER BY seq LIMIT $1",
        )
        .bind(limit as i64)
        .fetch_all(&mut **tx)
        .await?;
        let row = |(seq, receipt_id, entry, retrieval, recorded): Row| {
            Ok(InboxRow {
                seq,
                handed: Handed {
                    receipt_id: parse_id(&receipt_id)?,
                    entry,
                    retrieval: retrieval.as_deref().map(parse_id).transpose()?,
                },
                recorded,
            })
        };
        rows.into_iter().map(row).collect()
    }

    /// Removes rows that give no record.
    ///
    /// # Errors
    /// The database failed.
    pub async fn discard(&self, rows: &[i64]) -> Result<(), StoreError> {
        let mut tx = self.0.writing().await?;
        if let Tx::Postgres(tx) = &mut tx {
            sqlx::query(DELETE).bind(rows).execute(&mut **tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Those of these ids, handed over before, that came to no record: neither
    /// is a row left, nor does the log have them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn discarded(&self, ids: Vec<Uuid>) -> Result<Vec<Uuid>, StoreError> {
        let mut tx = self.0.reading().await?;
        let Tx::Postgres(tx) = &mut tx else {
            return Ok(Vec::new());
        };
        let asked = ids.iter().map(|id| id.as_bytes().to_vec());
        let left: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT receipt_id FROM inbox WHERE receipt_id = ANY($1)
             UNION ALL SELECT id FROM receipt WHERE id = ANY($1)",
        )
        .bind(asked.collect::<Vec<_>>())
        .fetch_all(&mut **tx)
        .await?;
        let left = left.iter().map(|id| parse_id(id));
        let left: HashSet<Uuid> = left.collect::<Result<_, _>>()?;
        Ok(ids.into_iter().filter(|id| !left.contains(id)).collect())
    }
}

fn parse_id(bytes: &[u8]) -> Result<Uuid, StoreError> {
    Uuid::from_slice(bytes).map_err(|_| StoreError::Damaged("an id in the inbox is cut"))
}
