//! The lease: which of the gateways on one database may write.
//!
//! Held for five seconds by the server's clock, and renewed every second. It
//! only says whose turn it is; what keeps a former holder from writing, if it
//! believes otherwise, is the epoch: the turn begins by counting it up, and an
//! append moves the size only in its own. SQLite has no lease: there the lock
//! on the data directory says it, and the epoch is counted all the same.

use protocol::hash::Hash;
use sqlx::PgPool;
use uuid::Uuid;

use super::engine::{Engine, Tx, on};
use super::{Store, StoreError};

/// The turn of one writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(pub(super) i64);

impl Store {
    /// Whether several gateways may share this database.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Engine::Postgres { .. })
    }

    /// Begins a turn of `holder`, if no other's lease runs. From then on no
    /// earlier writer can commit anything.
    ///
    /// # Errors
    /// The database failed.
    pub async fn take(&self, holder: Uuid) -> Result<Option<Epoch>, StoreError> {
        let mut tx = self.0.writing().await?;
        if let Tx::Postgres(tx) = &mut tx {
            let taken = sqlx::query(
                "UPDATE lease SET holder = $1, until = clock_timestamp() + interval '5 seconds'
                 WHERE until < clock_timestamp() OR holder = $1",
            )
            .bind(holder.as_bytes().as_slice())
            .execute(&mut **tx)
            .await?;
            if taken.rows_affected() == 0 {
                return Ok(None);
            }
        }
        // Waits for an append that is being committed.
        let epoch = on!(&mut tx, c => {
            sqlx::query_scalar("UPDATE log SET epoch = epoch + 1 RETURNING epoch")
                .fetch_one(c)
                .await?
        });
        tx.commit().await?;
        Ok(Some(Epoch(epoch)))
    }

    /// Renews the lease; says whether `holder` still had it.
    ///
    /// # Errors
    /// The database failed.
    pub async fn renew(&self, holder: Uuid) -> Result<bool, StoreError> {
        let Some(lease) = self.lease() else {
            return Ok(true);
        };
        let renewed = sqlx::query(
            "UPDATE lease SET until = clock_timestamp() + interval '5 seconds' WHERE holder = $1",
        )
        .bind(holder.as_bytes().as_slice())
        .execute(lease)
        .await?;
        Ok(renewed.rows_affected() == 1)
    }

    /// Ends the lease, if `holder` has it: the next one need not wait.
    ///
    /// # Errors
    /// The database failed.
    pub async fn release(&self, holder: Uuid) -> Result<(), StoreError> {
        if let Some(lease) = self.lease() {
            sqlx::query("UPDATE lease SET until = 'epoch' WHERE holder = $1")
                .bind(holder.as_bytes().as_slice())
                .execute(lease)
                .await?;
        }
        Ok(())
    }

    /// Until when the lease runs, in microseconds since 1970: where this grows,
    /// its holder lives.
    ///
    /// # Errors
    /// The database failed.
    pub async fn held_until(&self) -> Result<i64, StoreError> {
        let Some(lease) = self.lease() else {
            return Ok(0);
        };
        let until =
            sqlx::query_scalar("SELECT (extract(epoch FROM until) * 1000000)::bigint FROM lease");
        Ok(until.fetch_one(lease).await?)
    }

    /// Says by which policy `holder` publishes, if it has the lease; otherwise
    /// whether that is the one of the gateway that has it.
    ///
    /// # Errors
    /// The database failed.
    pub async fn shares_policy(&self, holder: Uuid, policy: &Hash) -> Result<bool, StoreError> {
        let Some(lease) = self.lease() else {
            return Ok(true);
        };
        let policy = policy.as_bytes().as_slice();
        let said = sqlx::query("UPDATE lease SET policy = $1 WHERE holder = $2")
            .bind(policy)
            .bind(holder.as_bytes().as_slice())
            .execute(lease)
            .await?;
        if said.rows_affected() == 1 {
            return Ok(true);
        }
        let same = sqlx::query_scalar("SELECT policy IN ($1, '') FROM lease").bind(policy);
        Ok(same.fetch_one(lease).await?)
    }

    fn lease(&self) -> Option<&PgPool> {
        match &self.0 {
            Engine::Sqlite { .. } => None,
            Engine::Postgres { lease, .. } => Some(lease),
        }
    }
}
