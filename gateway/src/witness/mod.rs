//! Witnesses: others who cosign the log's checkpoints, so that it can't show
//! different histories to different people; and which checkpoint is published
//! when there are any (PROTOCOL.md sections 6 and 6.3).
//!
//! ```text
//! log: committed ──▶ publish (choice) ──▶ store, then /checkpoint
//!                     │            ▲
//!        what to ask for           cosignatures
//!                     ▼            │
//!                    submit (pace, answer), a task for each ──▶ its witness
//! ```
//! Pure: [`enlisted`] whom the policy names, `choice` what is served and asked
//! for, `pace` when a witness is asked, `answer` what its answer means.
//!
//! Out of scope: being a witness, and what was checked by whom that cosigned.

mod answer;
mod choice;
pub mod enlisted;
mod pace;
mod publish;
pub mod roster;
mod submit;

use std::io;

use protocol::key::VerifierKey;
use tokio::sync::{mpsc, watch};

use crate::log::head::HeadFile;
use crate::log::publish::Published;
use crate::log::replica::{Committed, Health};
use crate::store::{Store, StoreError};
use enlisted::Witnesses;
use publish::Publisher;
use roster::Roster;

/// Cosignatures that wait to be taken.
const TAKEN: usize = 64;

/// Publishing with witnesses, not yet begun.
#[derive(Debug)]
pub struct Witnessing {
    publisher: Publisher,
    submitters: Vec<submit::Submitter>,
}

/// Why witnesses can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate authorities.
    #[error("the system's certificate authorities can't be read")]
    Authorities(#[from] io::Error),
}

impl Witnessing {
    /// Takes up where the log's publication stands; what is served follows
    /// [`Self::published`].
    ///
    /// # Errors
    /// The store failed, or there are no certificate authorities.
    pub async fn open(
        witnesses: Witnesses,
        key: VerifierKey,
        store: Store,
        (committed, health, head): (watch::Receiver<Committed>, Health, HeadFile),
    ) -> Result<Self, WitnessError> {
        let client = submit::client()?;
        let newest = Published::from(&*committed.borrow());
        let first = Publisher::first(&store, &witnesses, &key, newest).await?;
        let (asked_for, ask_for) = watch::channel(None);
        let (given, cosignatures) = mpsc::channel(TAKEN);
        let roster = Roster::new(witnesses.clone());
        let submitters = submit::submitters(&roster, &client, &store, &ask_for, &committed, &given);
        let publisher = Publisher {
            witnesses,
            key,
            store,
            health,
            head,
            committed,
            published: watch::Sender::new(first),
            asked_for,
            cosignatures,
            roster,
        };
        Ok(Self {
            publisher,
            submitters,
        })
    }

    /// What `/checkpoint` answers.
    pub fn published(&self) -> watch::Receiver<Published> {
        self.publisher.published.subscribe()
    }

    /// How the witnesses fare.
    pub fn roster(&self) -> Roster {
        self.publisher.roster.clone()
    }

    /// Begins; it ends with the sequencer.
    pub fn spawn(self) {
        for submitter in self.submitters {
            tokio::spawn(submitter.run());
        }
        tokio::spawn(self.publisher.run());
    }
}
