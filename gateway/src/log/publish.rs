//! Publication: what `/checkpoint` answers.
//!
//! The newest committed checkpoint, at most once a second, once the head file
//! is on the disk with it. Witnesses will be waited for here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::head::{HeadError, HeadFile};
use super::replica::{Committed, Health};

/// A new checkpoint is published at most this often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Publishes until the sequencer ends; `published` starts with what is
/// committed already, and in `head`.
pub async fn run(
    mut committed: watch::Receiver<Committed>,
    published: watch::Sender<Committed>,
    head: HeadFile,
    health: Health,
) {
    let mut next = Instant::now();
    while committed.changed().await.is_ok() {
        tokio::time::sleep_until(next).await;
        let newest = committed.borrow_and_update().clone();
        next = Instant::now() + INTERVAL;
        match kept(head.clone(), Arc::clone(&newest.note)).await {
            Ok(()) => {
                published.send_replace(newest);
                health.publishes(true);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "not published; trying again in a second");
                health.publishes(false);
                committed.mark_changed();
            }
        }
    }
}

async fn kept(head: HeadFile, note: Arc<str>) -> Result<(), HeadError> {
    let synced = tokio::task::spawn_blocking(move || head.sync(&note));
    synced.await.expect("it does not panic and is not aborted")
}
