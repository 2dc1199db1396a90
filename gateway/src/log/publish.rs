//! Publication: what `/checkpoint` answers, where no witness is waited for.
//!
//! The newest committed checkpoint, at most once a second. With a witness
//! policy [`crate::witness`] publishes instead.

use std::sync::Arc;
use std::time::Duration;

use protocol::checkpoint::Checkpoint;
use tokio::sync::watch;
use tokio::time::Instant;

use super::replica::Committed;

/// A new checkpoint is published at most this often.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// A checkpoint as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Size and root.
    pub checkpoint: Checkpoint,
    /// The signed note, cosignatures included.
    pub note: Arc<str>,
}

impl From<&Committed> for Published {
    fn from(committed: &Committed) -> Self {
        Self {
            checkpoint: committed.checkpoint.clone(),
            note: Arc::clone(&committed.note),
        }
    }
}

/// Publishes until the sequencer ends; `published` starts with what is
/// committed already.
pub async fn run(mut committed: watch::Receiver<Committed>, published: watch::Sender<Published>) {
    let mut next = Instant::now();
    while committed.changed().await.is_ok() {
        tokio::time::sleep_until(next).await;
        published.send_replace(Published::from(&*committed.borrow_and_update()));
        next = Instant::now() + INTERVAL;
    }
}
