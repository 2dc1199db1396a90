//! Lists of rows for SQLite.

use sqlx::{QueryBuilder, Sqlite, Transaction};

use super::append::{Append, columns};
use super::{EPOCH, head, id_bytes, to_i64};

/// Rows of records, found by number in one value that holds them all: a
/// statement a list, however long.
pub(super) async fn lists(
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
    for which in columns(append) {
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
