//! Turns: whether this gateway writes the log or follows the one that does.
//!
//! SQLite's only gateway always writes. Of several on one PostgreSQL database
//! the one with the lease writes; another takes over when it ends. A writer
//! that lost its lease hands what it could not commit to the new one, and
//! follows.

use std::sync::Arc;
use std::time::Duration;

use protocol::hash::Hash;
use protocol::index::TreeSize;
use protocol::key::Signer;
use uuid::Uuid;

use super::follower::{Followed, Follower};
use super::head::HeadFile;
use super::lease::Lease;
use super::pool::{Pool, Submission};
use super::replica::Replica;
use super::sequencer::{Clock, Sequencer};
use super::sign::ReceiptSigner;
use crate::store::{AppendError, Epoch, Store, StoreError};

/// Between two looks whether the lease is free or its holder alive.
const LOOK: Duration = Duration::from_millis(200);

/// This gateway's part in the log.
#[derive(Debug)]
pub struct Log {
    clock: Clock,
    holder: Uuid,
    turn: Turn,
}

#[derive(Debug)]
enum Turn {
    Writes(Box<Sequencer>, Lease),
    Follows(Box<Follower>),
}

/// Whose turn it is when a gateway starts.
#[derive(Clone, Copy, Debug)]
pub struct Joined {
    holder: Uuid,
    epoch: Option<Epoch>,
}

impl Joined {
    /// Takes the lease if it is free, or ends within its five seconds; else
    /// another gateway lives, and has begun the log.
    ///
    /// # Errors
    /// The store failed.
    pub async fn wait(store: &Store) -> Result<Self, StoreError> {
        let holder = Uuid::now_v7();
        let first = store.held_until().await?;
        loop {
            let epoch = store.take(holder).await?;
            let lives = store.held_until().await? > first;
            if epoch.is_some() || lives && store.head().await?.mmr.size() > TreeSize::ZERO {
                return Ok(Self { holder, epoch });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether the gateway that writes the log, which may be this one, publishes
    /// by this policy.
    ///
    /// # Errors
    /// The store failed.
    pub async fn shares_policy(&self, store: &Store, policy: &Hash) -> Result<bool, StoreError> {
        store.shares_policy(self.holder, policy).await
    }

    /// Takes up the log, as its writer or as a follower.
    ///
    /// # Errors
    /// The store failed.
    pub async fn open(
        self,
        store: Store,
        signer: Arc<Signer>,
        receipts: ReceiptSigner,
        head_file: HeadFile,
        clock: Clock,
    ) -> Result<Log, StoreError> {
        // Kept from here on: reading the log can take longer than a lease.
        let lease = self
            .epoch
            .map(|epoch| (epoch, Lease::keep(store.clone(), self.holder)));
        let replica = Replica::open(store, signer, receipts, head_file).await?;
        let turn = match lease {
            Some((epoch, lease)) => {
                let sequencer = Sequencer::resume(replica, epoch, clock).await;
                let sequencer = sequencer.map_err(|failed| failed.1)?;
                sequencer.replica.health.writes(true);
                Turn::Writes(Box::new(sequencer), lease)
            }
            None => Turn::Follows(Box::new(Follower {
                replica,
                holder: self.holder,
            })),
        };
        let holder = self.holder;
        Ok(Log {
            clock,
            holder,
            turn,
        })
    }
}

impl Log {
    /// What this gateway keeps of the log.
    pub fn replica(&self) -> &Replica {
        match &self.turn {
            Turn::Writes(sequencer, _) => &sequencer.replica,
            Turn::Follows(follower) => &follower.replica,
        }
    }

    /// Begins an empty log, which only a writer finds, with its first entry.
    ///
    /// # Errors
    /// Another writer was faster, or the store failed.
    pub async fn begin(&mut self, first: Submission) -> Result<(), AppendError> {
        match &mut self.turn {
            Turn::Writes(sequencer, _) => sequencer.append(vec![first]).await,
            Turn::Follows(_) => Err(AppendError::Deposed),
        }
    }

    /// Has summed up what no totals entry covers: only from then on can
    /// wallets' totals be proven. One that follows asks the writer, for a while.
    ///
    /// # Errors
    /// Another writer moved the log, or the store failed for good.
    pub async fn settle_totals(&mut self) -> Result<(), AppendError> {
        match &mut self.turn {
            Turn::Writes(sequencer, _) => {
                // A log that never summed up has no wallets to prove yet.
                let summed_up = sequencer.replica.sums().read().newest_totals().is_some();
                match summed_up {
                    true => sequencer.settle_totals().await,
                    false => Ok(()),
                }
            }
            Turn::Follows(follower) => Ok(follower.ask_for_totals().await?),
        }
    }

    /// Records what a former process left. Handed over where gateways share
    /// the log: what that process handed over itself stays as it was.
    ///
    /// # Errors
    /// Another writer moved the log, or the store failed for good.
    pub async fn settle(&mut self, left: Vec<Submission>) -> Result<(), AppendError> {
        match &mut self.turn {
            Turn::Writes(sequencer, _) if sequencer.replica.store.is_shared() => {
                sequencer.replica.hand_over(left).await?;
                sequencer.empty_inbox().await
            }
            Turn::Writes(sequencer, _) => sequencer.append(left).await,
            Turn::Follows(follower) => Ok(follower.replica.hand_over(left).await?),
        }
    }

    /// Writes or follows until the pool is closed and empty.
    ///
    /// # Errors
    /// Another writer moved the log without a lease, or the store contradicts
    /// what was signed here.
    pub async fn run(self, pool: Arc<Pool>) -> Result<(), AppendError> {
        let Self {
            clock,
            holder,
            mut turn,
        } = self;
        loop {
            turn = match turn {
                Turn::Writes(mut sequencer, mut lease) => {
                    let store = sequencer.replica.store.clone();
                    match sequencer.run(&pool, &mut lease).await {
                        Err(AppendError::Deposed) if store.is_shared() => {
                            follow(*sequencer, holder).await?
                        }
                        ended => {
                            release(lease, &store, holder).await;
                            return ended;
                        }
                    }
                }
                Turn::Follows(follower) => match follower.run(&pool).await? {
                    Followed::Closed => return Ok(()),
                    Followed::Writes(replica, epoch) => {
                        write(*replica, epoch, holder, clock).await?
                    }
                },
            }
        }
    }
}

/// From writer to follower: what was not committed is handed over.
async fn follow(sequencer: Sequencer, holder: Uuid) -> Result<Turn, StoreError> {
    tracing::warn!("another gateway writes this log now; this one follows");
    let Sequencer {
        mut replica,
        unsettled,
        ..
    } = sequencer;
    replica.health.writes(false);
    replica.hand_over(unsettled).await?;
    Ok(Turn::Follows(Box::new(Follower { replica, holder })))
}

/// From follower to writer.
async fn write(
    mut replica: Replica,
    epoch: Epoch,
    holder: Uuid,
    clock: Clock,
) -> Result<Turn, StoreError> {
    let lease = Lease::keep(replica.store.clone(), holder);
    loop {
        match Sequencer::resume(replica, epoch, clock).await {
            Ok(sequencer) => {
                let size = sequencer.size().get();
                tracing::info!(size, "this gateway writes the log now");
                sequencer.replica.health.writes(true);
                return Ok(Turn::Writes(Box::new(sequencer), lease));
            }
            Err(failed) => {
                let (given_back, error) = *failed;
                replica = given_back;
                replica.health.wait_out(error).await?;
            }
        }
    }
}

async fn release(lease: Lease, store: &Store, holder: Uuid) {
    drop(lease);
    // Not released, it ends by itself.
    if let Err(error) = store.release(holder).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "lease");
    }
}
