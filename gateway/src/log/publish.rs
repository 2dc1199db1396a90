//! Publication: what `/checkpoint` answers, where no witness is waited for.
//!
//! The newest committed checkpoint, at most once a second, once the head file
//! is on the disk with it. With a witness policy [`crate::witness`] publishes
//! instead.

use std::sync::Arc;
use std::time::Duration;

use protocol::checkpoint::Checkpoint;
use tokio::sync::watch;
use tokio::time::Instant;

use super::head::{HeadError, HeadFile};
use super::replica::{Committed, Health};

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
/// committed already, and in `head`.
pub async fn run(
    mut committed: watch::Receiver<Committed>,
    published: watch::Sender<Published>,
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
                published.send_replace(Published::from(&newest));
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

/// Has the head file on the disk with a checkpoint.
pub(crate) async fn kept(head: HeadFile, note: Arc<str>) -> Result<(), HeadError> {
    let synced = tokio::task::spawn_blocking(move || head.sync(&note));
    synced.await.expect("it does not panic and is not aborted")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::checkpoint::Checkpoint;
    use protocol::hash::Hash;
    use protocol::index::{Time, TreeSize};
    use protocol::key::{Origin, Signer};
    use uuid::Uuid;

    fn committed(size: u64) -> Committed {
        let origin = Origin::parse("log.example.org").expect("valid");
        let signer = Signer::new(origin.clone(), &[1; 32]);
        let size = TreeSize::new(size).expect("small");
        let checkpoint = Checkpoint::new(origin, size, Hash::of(b"root"));
        Committed {
            note: checkpoint.seal(&signer).into(),
            checkpoint,
            time: Time::from_secs(0).expect("zero"),
        }
    }

    #[tokio::test]
    async fn nothing_is_published_that_is_not_taken_down() {
        let folder = std::env::temp_dir().join(format!("tally-publish-{}", Uuid::now_v7()));
        let (head, health) = (HeadFile::at(folder.join("log.head")), Health::default());
        let (commit, follows) = watch::channel(committed(1));
        let (publisher, mut published) = watch::channel(Published::from(&committed(1)));
        tokio::spawn(run(follows, publisher, head, health.clone()));
        // The folder is not there yet.
        commit.send_replace(committed(2));
        while health.is_good() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!published.has_changed().expect("it runs"));
        commit.send_replace(committed(3));
        std::fs::create_dir(&folder).expect("ours");
        published.changed().await.expect("it runs");
        assert_eq!(published.borrow().checkpoint.size().get(), 3);
        let text = std::fs::read_to_string(folder.join("log.head")).expect("there");
        assert!(text.contains("\n3\n"), "{text}");
        while !health.is_good() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::remove_dir_all(&folder).expect("ours");
    }
}
