//! The follower: a gateway that does not write.
//!
//! Its records go to the writer through the store's inbox, and are on the disk
//! there before anything else is done with them. It reads what the writer
//! appends, and takes over when the writer's lease ends.

use std::sync::Arc;
use std::time::Duration;

use protocol::entry::Body;
use protocol::hash::Hash;
use protocol::index::{Time, TreeSize};
use protocol::totals::Totals;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::calls::Call;
use super::pool::{Pool, Submission};
use super::replica::{Replica, Waiting};
use super::sequencer::MAX_BATCH;
use crate::store::{Epoch, Handed, StoreError};

/// Between two looks at what the writer appended.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// Between two tries to take over.
const TRY: Duration = Duration::from_millis(500);

/// How long totals are waited for when a gateway joins.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a follower's turn ended.
#[derive(Debug)]
pub(super) enum Followed {
    /// It is the writer from here on.
    Writes(Box<Replica>, Epoch),
    /// The pool was closed, and all of it is handed over.
    Closed,
}

/// A gateway that does not write.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) replica: Replica,
    /// Under which name it takes the lease.
    pub(super) holder: Uuid,
}

impl Follower {
    /// Follows until the lease is free or the pool closed. What the store
    /// can't take is tried again until it can.
    ///
    /// # Errors
    /// What the store holds contradicts what was signed here.
    pub(super) async fn run(mut self, pool: &Arc<Pool>) -> Result<Followed, StoreError> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_try = Instant::now() + TRY;
        loop {
            tokio::select! {
                taken = pool.take() => match taken {
                    Some(submissions) => self.replica.hand_over(submissions).await?,
                    None => return Ok(self.close()),
                },
                _ = look.tick() => {
                    let tries = next_try <= Instant::now();
                    match self.look(tries).await {
                        Ok(None) => self.replica.health.good(),
                        Ok(Some(epoch)) => {
                            return Ok(Followed::Writes(Box::new(self.replica), epoch));
                        }
                        Err(error) => self.replica.health.wait_out(error).await?,
                    }
                    if tries {
                        next_try = Instant::now() + TRY;
                    }
                }
            }
        }
    }

    /// Asks the writer for a totals entry where the newest one's tree can't be
    /// made here, as entries came since; waits for it, unless the writer rests.
    pub(super) async fn ask_for_totals(&mut self) -> Result<(), StoreError> {
        let sums = self.replica.sums();
        let lacks = || sums.read().lacks_tree();
        if !lacks() {
            return Ok(());
        }
        self.replica
            .hand_over(vec![ask(self.replica.size())])
            .await?;
        let deadline = Instant::now() + PATIENCE;
        while lacks() && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.replica.catch_up().await {
                self.replica.health.wait_out(error).await?;
            }
        }
        Ok(())
    }

    async fn look(&mut self, tries: bool) -> Result<Option<Epoch>, StoreError> {
        self.replica.catch_up().await?;
        if !tries {
            return Ok(None);
        }
        self.replica.settle_discarded().await?;
        self.replica.store.take(self.holder).await
    }

    /// What was handed over is the writer's, and on the disk.
    fn close(self) -> Followed {
        let waiting = self.replica.waiting.into_values();
        waiting
            .filter_map(|waiting| waiting.call)
            .for_each(Call::recorded);
        Followed::Closed
    }
}

impl Replica {
    /// Hands submissions to the writer; who asked for them waits here. When it
    /// returns, they are on the disk.
    ///
    /// # Errors
    /// Trying again can't help.
    pub(super) async fn hand_over(
        &mut self,
        submissions: Vec<Submission>,
    ) -> Result<(), StoreError> {
        let mut rest = submissions;
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(MAX_BATCH));
            let handed: Vec<_> = rest.iter().filter_map(handed).collect();
            while let Err(error) = self.store.hand_over(&handed).await {
                self.health.wait_out(error).await?;
            }
            self.health.good();
            for submission in rest {
                let Submission { call, released, .. } = submission;
                if let Some(id) = submission.receipt_id
                    && (call.is_some() || released.is_some())
                {
                    self.waiting.insert(id, Waiting { call, released });
                }
            }
            rest = later;
        }
        Ok(())
    }
}

/// Asks for totals, which are the writer's to fill in.
fn ask(size: TreeSize) -> Submission {
    let body = Body::Totals(Totals {
        size,
        count: 0,
        root: Hash::EMPTY_ROOT,
    });
    Submission {
        body,
        receipt_id: Some(Uuid::now_v7()),
        retrieval: None,
        released: None,
        call: None,
    }
}

/// A submission as it is handed over. Entry 0, which has no receipt id, never is.
fn handed(submission: &Submission) -> Option<Handed> {
    let never = Time::from_secs(0).expect("zero is a time");
    Some(Handed {
        receipt_id: submission.receipt_id?,
        entry: submission.body.encode(never),
        retrieval: submission.retrieval,
    })
}
