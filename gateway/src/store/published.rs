//! What `/checkpoint` answered last, where witnesses are waited for: after a
//! restart it must not be older, and gateways that follow serve the same.

use protocol::index::TreeSize;

use super::engine::on;
use super::{Store, StoreError, to_i64};

impl Store {
    /// The note that was published last, if one was.
    ///
    /// # Errors
    /// The database failed.
    pub async fn published(&self) -> Result<Option<String>, StoreError> {
        let mut tx = self.0.reading().await?;
        Ok(on!(&mut tx, c => {
            sqlx::query_scalar("SELECT note FROM published").fetch_optional(c).await?
        }))
    }

    /// Keeps a note, unless one of a larger log is kept; says whether it did.
    ///
    /// # Errors
    /// The database failed.
    pub async fn publish(&self, size: TreeSize, note: &str) -> Result<bool, StoreError> {
        let mut tx = self.0.writing().await?;
        let kept = on!(&mut tx, c => {
            sqlx::query(
                "INSERT INTO published (one, size, note) VALUES (1, $1, $2)
                 ON CONFLICT (one) DO UPDATE SET size = excluded.size, note = excluded.note
                 WHERE published.size <= excluded.size",
            )
            .bind(to_i64(size.get()))
            .bind(note)
            .execute(c)
            .await?
            .rows_affected()
        });
        tx.commit().await?;
        self.0.appended(1);
        Ok(kept == 1)
    }

    /// Forgets what was published.
    ///
    /// # Errors
    /// The database failed.
    pub async fn unpublish(&self) -> Result<(), StoreError> {
        let mut tx = self.0.writing().await?;
        on!(&mut tx, c => {
            sqlx::query("DELETE FROM published WHERE one = 1").execute(c).await?;
        });
        tx.commit().await?;
        Ok(())
    }
}
