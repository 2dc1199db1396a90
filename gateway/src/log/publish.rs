//! Publication: what `/checkpoint` answers.
//!
//! The newest committed checkpoint, at most once a second, once the head file
//! has it. Witnesses will be waited for here.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::head::Head;
use super::sequencer::Committed;

/// A new checkpoint is published at most this often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Publishes until the sequencer ends; `published` and `head` start with what
/// is committed already.
pub async fn run(
    mut committed: watch::Receiver<Committed>,
    published: watch::Sender<Committed>,
    head: Head,
) {
    let mut next = Instant::now();
    while committed.changed().await.is_ok() {
        tokio::time::sleep_until(next).await;
        let newest = committed.borrow_and_update().clone();
        keep(head.clone(), &newest).await;
        published.send_replace(newest);
        next = Instant::now() + INTERVAL;
    }
}

/// Writes the head. A log that can't keep it goes on: the former one stays,
/// and recognises all copies but the newest.
async fn keep(head: Head, newest: &Committed) {
    let note = newest.note.clone();
    let written = tokio::task::spawn_blocking(move || head.write(&note)).await;
    if let Ok(Err(error)) = written {
        tracing::error!(error = &error as &dyn std::error::Error, "head");
    }
}
