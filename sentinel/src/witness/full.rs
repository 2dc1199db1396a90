//! Full cosignatures: a second key that cosigns only what this sentinel
//! verified, entry by entry (PROTOCOL.md section 6.3).
//!
//! Each log is followed by one task, which alone holds its state and verifies
//! up to what was submitted; an answer waits for that a little, and the
//! monitoring prefix has the line afterwards. The log's own `/checkpoint` and
//! aggregates are not looked at: they may be waiting for this very witness.
//! Once a log misbehaved, it gets no line until the witness is started again
//! by somebody who looked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::cosignature::Cosigner;
use protocol::index::Time;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::keep::Folder;
use super::{Cosigned, Witness, text_of};
use crate::audit::Signed;
use crate::pass::{Session, unix_time};
use crate::report::{Report, Verdict};

/// How long an answer is held for the second line: a log waits 5 s for its quorum.
const WAIT: Duration = Duration::from_secs(3);

/// Checkpoints that wait for one log; only the newest is verified.
const WAITING: usize = 8;

/// The followers of all logs; they end when this is dropped.
#[derive(Debug)]
pub struct Full {
    logs: BTreeMap<String, mpsc::Sender<Asked>>,
    _followers: JoinSet<()>,
}

/// A submitted checkpoint, and who waits for its line.
#[derive(Debug)]
struct Asked {
    signed: Signed,
    line: oneshot::Sender<Option<String>>,
}

/// What every follower needs.
#[derive(Clone, Debug)]
pub struct Common {
    /// The second key.
    pub cosigner: Arc<Cosigner>,
    /// Whose monitoring prefix shows the lines.
    pub witness: Arc<Witness<Folder>>,
    /// Reports as JSON.
    pub json: bool,
}

impl Full {
    /// Follows logs, each by its place and session.
    pub fn start(common: &Common, logs: impl IntoIterator<Item = (String, Session)>) -> Self {
        let (mut followers, mut senders) = (JoinSet::new(), BTreeMap::new());
        for (place, session) in logs {
            let (sender, asked) = mpsc::channel(WAITING);
            let follower = Follower {
                common: common.clone(),
                place: place.clone(),
                session,
                misbehaved: false,
            };
            followers.spawn(follower.run(asked));
            senders.insert(place, sender);
        }
        Self {
            logs: senders,
            _followers: followers,
        }
    }

    /// The full cosignature's line over a checkpoint that was just cosigned,
    /// if it is verified in time.
    pub async fn line(&self, cosigned: &Cosigned) -> Option<String> {
        let (line, waiting) = oneshot::channel();
        let asked = Asked {
            signed: cosigned.signed.clone(),
            line,
        };
        self.logs.get(&cosigned.place)?.try_send(asked).ok()?;
        tokio::time::timeout(WAIT, waiting).await.ok()?.ok()?
    }
}

struct Follower {
    common: Common,
    place: String,
    session: Session,
    misbehaved: bool,
}

impl Follower {
    async fn run(mut self, mut asked: mpsc::Receiver<Asked>) {
        while let Some(mut newest) = asked.recv().await {
            while let Ok(newer) = asked.try_recv() {
                newest = newer;
            }
            self.cosign(newest).await;
        }
    }

    async fn cosign(&mut self, Asked { signed, line }: Asked) {
        let mut cosigned = None;
        if !self.misbehaved {
            let report = self.session.verify_to(&signed).await;
            if report.verdict != Verdict::Verified {
                self.note(&report);
            } else if let Some(time) = Time::from_secs(unix_time()) {
                let line = self.common.cosigner.cosign(&text_of(&signed), time);
                self.common.witness.add_full(&self.place, &signed, &line);
                cosigned = Some(line);
            }
        }
        // Who asked may have gone on without it.
        let _ = line.send(cosigned);
    }

    fn note(&mut self, report: &Report) {
        self.misbehaved |= report.verdict == Verdict::Misbehaviour;
        if let Err(error) = report.print(self.common.json) {
            tracing::warn!(%error, "a report could not be printed");
        }
    }
}
