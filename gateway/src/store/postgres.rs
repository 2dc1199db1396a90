//! Lists of rows for PostgreSQL.

use sqlx::{Postgres, Transaction};

use super::append::{Append, columns};
use super::inbox::DELETE;
use super::{EPOCH, Record, head, id_bytes, to_i64};

/// A column of values each: a statement a list, however long.
pub(super) async fn lists(
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
    for which in columns(append) {
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
    if !append.taken.is_empty() {
        sqlx::query(DELETE)
            .bind(append.taken)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}
