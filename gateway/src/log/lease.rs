//! The writer's lease, kept while it writes.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::store::Store;

/// Between two renewals of a lease of five seconds.
const RENEW: Duration = Duration::from_secs(1);

/// A lease that is renewed until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    keeper: JoinHandle<()>,
    lost: oneshot::Receiver<()>,
}

impl Lease {
    /// Renews the lease that `holder` took.
    pub(super) fn keep(store: Store, holder: Uuid) -> Self {
        let (lose, lost) = oneshot::channel();
        let keeper = tokio::spawn(async move {
            while held(&store, holder).await {
                tokio::time::sleep(RENEW).await;
            }
            // A writer that is gone needs not be told.
            let _ = lose.send(());
        });
        Self { keeper, lost }
    }

    /// Resolves when another gateway has the lease.
    pub(super) async fn lost(&mut self) {
        // The keeper ends only after it said so.
        let _ = (&mut self.lost).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Renews; false where another has the lease. A database that does not answer
/// gave it to nobody, as far as is known: appends tell.
async fn held(store: &Store, holder: Uuid) -> bool {
    match tokio::time::timeout(RENEW, store.renew(holder)).await {
        Ok(Ok(held)) => held,
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "lease");
            true
        }
        Err(_) => {
            tracing::warn!("the database takes more than a second to renew the lease");
            true
        }
    }
}
