//! Publication: what `/checkpoint` answers.
//!
//! The newest committed checkpoint, at most once a second. Witnesses will be
//! waited for here.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::replica::Committed;

/// A new checkpoint is published at most this often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Publishes until the sequencer ends; `published` starts with what is
/// committed already.
pub async fn run(mut committed: watch::Receiver<Committed>, published: watch::Sender<Committed>) {
    let mut next = Instant::now();
    while committed.changed().await.is_ok() {
        tokio::time::sleep_until(next).await;
        published.send_replace(committed.borrow_and_update().clone());
        next = Instant::now() + INTERVAL;
    }
}
