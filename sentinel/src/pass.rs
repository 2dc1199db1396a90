//! One pass over a log, in the order in which traffic cannot disturb it:
//!
//! 1. the key: pinned, given, or trusted on first use;
//! 2. a checkpoint, which must be able to follow the remembered one;
//! 3. aggregates, each naming the size it is computed over;
//! 4. a checkpoint that covers these sizes, and the entries up to it, each
//!    answer being judged as the fold passes its size;
//! 5. the tree and the sums to there are stored;
//! 6. aggregates of users and wallets whom only the entries named are compared,
//!    and chains asked about contract wallets, if chains are known;
//! 7. what peers were shown is compared with it, and its quorum is required;
//! 8. what chains keep is compared with it (`pass/anchors.rs`).
//!
//! A served finding counts only after a second fetch past caches. Out of
//! scope: judging (see [`crate::audit`]), printing (see [`crate::report`]).

mod anchors;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use protocol::entry::RULES;
use protocol::index::TreeSize;
use protocol::key::VerifierKey;
use protocol::name::Address;
use protocol::note::MAX_NOTE;
use protocol::policy::Policy;
use protocol::record::Source;
use protocol::tile::WIDTH;

use crate::anchored::Anchored;
use crate::answer::{self, Answer, Pubkey, Question, Unread};
use crate::audit::{self, Finding, Item, Signed, Unopened};
use crate::chain::{Chains, Word, binding};
use crate::contrast::contrast;
use crate::fetch::{Caches, Client, NoAnswer};
use crate::follow::{Extended, Findings, Follower, Halt, RawBundle};
use crate::judge::{Asked, Judge, Judged, Wrong};
use crate::peers::{self, Shown};
use crate::prove;
use crate::quorum;
use crate::rebuild::Consistency;
use crate::report::{Evidence, Report, Story, Verdict};
use crate::trust::{StateError, Store, Trusted};

/// Users whose sums are compared in one pass: as many who are known, as many
/// whom leaderboards name, and as many who came with it.
const SAMPLE: usize = 8;

/// Wallets with totals whose answers are checked in one pass.
const WALLETS: usize = 4;

/// Aggregates that are asked for at once.
const ASKED_AT_ONCE: usize = 8;

/// A log may promise a long `publish_max`; nobody waits longer than this for it.
const MAX_PUBLISH: u64 = 60;

/// `publish_max` where entry 0 is not read yet (PROTOCOL.md's usual value).
const USUAL_PUBLISH: u64 = 10;

/// What is granted beyond `publish_max`: clocks, ways and caches.
const SLACK: Duration = Duration::from_secs(5);

/// Between two looks at a checkpoint that is waited for.
const POLL: Duration = Duration::from_millis(400);

/// How a session goes about it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The key that the user gave.
    pub vkey: Option<VerifierKey>,
    /// How long a checkpoint is waited for, if not by `publish_max`.
    pub patience: Option<Duration>,
    /// Who is asked about contract wallets and anchors.
    pub chains: Chains,
    /// The log's contract, if it does not stand where it must.
    pub contract: Option<Address>,
    /// How often an anchor is expected.
    pub anchor_interval: Duration,
    /// Shows a progress bar.
    pub progress: bool,
    /// Tells the story.
    pub story: Story,
    /// Who must have cosigned.
    pub policy: Option<Arc<Policy>>,
    /// The monitoring prefixes of other sentinels and witnesses.
    pub peers: Vec<Arc<Client>>,
}

/// Why no session could begin: wrong use.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The address or the way to it.
    #[error(transparent)]
    Client(#[from] crate::fetch::ClientError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The state belongs to another key.
    #[error(
        "--vkey is {given}, but the state in {dir} pins {pinned}; \
         use another --state for another log"
    )]
    Key {
        /// From the command line.
        given: Box<VerifierKey>,
        /// From the state.
        pinned: Box<VerifierKey>,
        /// Where.
        dir: String,
    },
}

/// The key to take: the given one, or the one that the state in `dir` pins.
///
/// # Errors
/// There are both, and they differ.
pub(crate) fn agreed(
    given: Option<VerifierKey>,
    pinned: Option<VerifierKey>,
    dir: &Path,
) -> Result<Option<VerifierKey>, SessionError> {
    match (given, pinned) {
        (Some(given), Some(pinned)) if given != pinned => Err(SessionError::Key {
            given: Box::new(given),
            pinned: Box::new(pinned),
            dir: dir.display().to_string(),
        }),
        (given, pinned) => Ok(given.or(pinned)),
    }
}

/// A log under watch: its address, its state, and what is known of it.
#[derive(Debug)]
pub struct Session {
    client: Arc<Client>,
    settings: Settings,
    store: Store,
    key: Option<VerifierKey>,
    /// The last accepted checkpoint.
    accepted: Option<Signed>,
    /// The tree and sums of its size; `None` where only the state on disk has
    /// them, as after a pass that ended midway.
    trusted: Option<Trusted>,
    /// Who cosigned, if a policy was met in this pass.
    cosigned_by: Option<Vec<String>>,
    /// How many peers' checkpoints were compared in this pass.
    compared: usize,
    /// Where the log was found anchored in this pass.
    anchored: Vec<Anchored>,
    /// Chains that the log says it is anchored on and no node was of.
    unwatched: Vec<u64>,
}

/// Why a pass ended early.
enum Stop {
    NoVerdict(String),
    Misbehaviour(Findings),
}

impl From<NoAnswer> for Stop {
    fn from(error: NoAnswer) -> Self {
        Self::NoVerdict(error.to_string())
    }
}

impl From<Halt> for Stop {
    fn from(error: Halt) -> Self {
        Self::NoVerdict(error.to_string())
    }
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Self {
        Self::NoVerdict(error.to_string())
    }
}

impl From<Finding> for Stop {
    fn from(finding: Finding) -> Self {
        Self::Misbehaviour(finding.into())
    }
}

impl Session {
    /// Takes the state directory and what is in it.
    ///
    /// # Errors
    /// The directory cannot be used, or pins another key than the given one.
    pub fn open(
        client: Client,
        mut store: Store,
        settings: Settings,
    ) -> Result<Self, SessionError> {
        let (mut key, mut trusted) = (settings.vkey.clone(), Trusted::default());
        if let Some((pinned, stored)) = store.load()? {
            key = agreed(key, Some(pinned), store.dir())?;
            trusted = stored;
        }
        let earlier = crate::report::kept_before(&store.dir().join("evidence"));
        if earlier > 0 {
            let dir = store.dir().join("evidence");
            let line = format!(
                "evidence of earlier findings ({earlier}) is in {}",
                dir.display()
            );
            settings.story.tell(&line);
        }
        Ok(Self {
            client: Arc::new(client),
            settings,
            store,
            key,
            accepted: trusted.accepted.clone(),
            trusted: Some(trusted),
            cosigned_by: None,
            compared: 0,
            anchored: vec![],
            unwatched: vec![],
        })
    }

    /// The key and the last accepted checkpoint, once there are any.
    pub fn accepted(&self) -> Option<(&VerifierKey, &Signed)> {
        self.key.as_ref().zip(self.accepted.as_ref())
    }

    /// Makes one pass.
    pub async fn pass(&mut self) -> Report {
        let (started, before) = (Instant::now(), self.size());
        (self.cosigned_by, self.compared) = (None, 0);
        self.anchored.clear();
        let mut findings = Findings::default();
        let stop = self.check(&mut findings).await.err();
        let mut stop = self.proven(stop).await;
        let log_verified = stop.is_none() && findings.is_empty();
        if stop.is_none() {
            stop = self.watch_anchors(&mut findings).await.err();
        }
        let report = self.report(started, before, findings, stop);
        Report {
            log_verified,
            ..report
        }
    }

    async fn watch_anchors(&mut self, findings: &mut Findings) -> Result<(), Stop> {
        let trusted = self.trusted.as_ref();
        let named = trusted.map(|trusted| trusted.accounts.anchored());
        self.unwatched = named.into_iter().flatten().map(|(id, _)| *id).collect();
        match self.key.clone() {
            Some(key) if !self.settings.chains.is_empty() => self.anchors(&key, findings).await,
            _ => Ok(()),
        }
    }

    /// Verifies the entries up to a checkpoint that came by another way than
    /// the log's `/checkpoint`, and nothing else; the key must be known.
    pub async fn verify_to(&mut self, target: &Signed) -> Report {
        let (started, before) = (Instant::now(), self.size());
        let stop = self.check_to(target).await.err();
        let stop = self.proven(stop).await;
        self.report(started, before, Findings::default(), stop)
    }

    /// With evidence of what entries follow.
    async fn proven(&self, stop: Option<Stop>) -> Option<Stop> {
        match (stop, &self.key) {
            (Some(Stop::Misbehaviour(findings)), Some(key)) => Some(Stop::Misbehaviour(
                prove::all(&self.client, key, findings).await,
            )),
            (stop, _) => stop,
        }
    }

    fn report(
        &self,
        started: Instant,
        before: u64,
        mut findings: Findings,
        stop: Option<Stop>,
    ) -> Report {
        let mut reason = None;
        match stop {
            Some(Stop::Misbehaviour(more)) => findings.append(more),
            Some(Stop::NoVerdict(why)) => reason = Some(why),
            None => {}
        }
        let trusted = self.trusted.as_ref();
        let upgrade = trusted.and_then(|trusted| trusted.upgrade.as_ref());
        let verdict = if !findings.is_empty() {
            Verdict::Misbehaviour
        } else if reason.is_some() {
            Verdict::NoVerdict
        } else if let Some((_, why)) = upgrade {
            reason = Some(why.clone());
            Verdict::Upgrade
        } else {
            Verdict::Verified
        };
        let evidence = Evidence {
            dir: self.store.dir().join("evidence"),
            log: self.client.base().to_string(),
            vkey: self.key.as_ref().map(ToString::to_string),
            time: unix_time(),
        };
        let accepted = self.accepted.as_ref();
        Report {
            verdict,
            log: evidence.log.clone(),
            origin: self.key.as_ref().map(|key| key.origin().to_string()),
            vkey: evidence.vkey.clone(),
            size: accepted.map_or(0, Signed::size),
            root: accepted.map(|signed| signed.root().to_string()),
            new_entries: self.size().saturating_sub(before),
            took: started.elapsed(),
            findings: evidence.keep(&findings),
            reason,
            receipt: None,
            cosigned_by: self.cosigned_by.clone(),
            peers: (!self.settings.peers.is_empty()).then_some(self.compared),
            wallet: None,
            contracts: trusted.map_or(0, |trusted| trusted.accounts.contracts().len()),
            anchored: self.anchored.clone(),
            unwatched: self.unwatched.clone(),
            log_verified: false,
        }
    }

    fn size(&self) -> u64 {
        self.accepted.as_ref().map_or(0, Signed::size)
    }

    /// Findings that end a pass are returned; others go to `findings`.
    async fn check(&mut self, findings: &mut Findings) -> Result<(), Stop> {
        self.recall()?;
        let key = self.check_key(findings).await?;
        self.key = Some(key.clone());
        let checkpoint = newest(&self.client, &key, Caches::Allowed).await?;
        if self.size() == 0 {
            // Pinned durably from the first checkpoint on that the key signed.
            self.store.save(&key, &mut Trusted::default(), None)?;
        }
        let checkpoint = self.not_smaller(&key, checkpoint).await?;
        let mut asked = ask(&self.client, &self.questions(), Caches::Allowed).await?;
        let known = self.user_count();
        let users = self.users(&asked);
        asked.extend(ask(&self.client, &users, Caches::Allowed).await?);
        self.compare(&key, asked, &checkpoint, findings).await?;
        // Users whom only the entries named.
        let mut users = self.strangers(known, &users);
        users.extend(self.wallets());
        let asked = ask(&self.client, &users, Caches::Allowed).await?;
        self.compare(&key, asked, &checkpoint, findings).await?;
        self.contracts(&key, findings).await?;
        self.confront(&key, findings).await?;
        self.require_quorum(&key).await
    }

    /// Takes the tree and the sums from the disk, if a pass ended midway.
    fn recall(&mut self) -> Result<(), Stop> {
        if self.trusted.is_none() {
            let stored = self.store.load()?;
            self.trusted = Some(stored.map(|(_, trusted)| trusted).unwrap_or_default());
        }
        Ok(())
    }

    async fn check_to(&mut self, target: &Signed) -> Result<(), Stop> {
        self.recall()?;
        let no_key = || Stop::NoVerdict("no key is known yet".into());
        let key = self.key.clone().ok_or_else(no_key)?;
        audit::not_empty(target).map_or(Ok(()), |finding| Err(Stop::from(finding)))?;
        match &self.accepted {
            Some(accepted) if target.size() <= accepted.size() => {
                let found = contrast(&self.client, accepted, target).await;
                let found = found.map_err(Stop::NoVerdict)?;
                found.map_or(Ok(()), |finding| Err(finding.into()))
            }
            accepted => {
                if accepted.is_none() {
                    self.store.save(&key, &mut Trusted::default(), None)?;
                }
                self.advance(&key, target, &mut Judge::of_nothing()).await?;
                let mut findings = Findings::default();
                self.contracts(&key, &mut findings).await?;
                if findings.is_empty() {
                    return Ok(());
                }
                Err(Stop::Misbehaviour(findings))
            }
        }
    }

    /// Compares what peers were shown with what was accepted here. A peer that
    /// does not answer says nothing about the log.
    async fn confront(&mut self, key: &VerifierKey, findings: &mut Findings) -> Result<(), Stop> {
        for peer in self.settings.peers.clone() {
            let shown = match peers::ask(&peer, key).await {
                Ok(Shown::Checkpoint(shown)) => shown,
                Ok(Shown::Misbehaviour(finding)) => {
                    findings.push(finding);
                    continue;
                }
                Err(why) => {
                    let line = format!("a peer could not be compared with: {why}");
                    self.settings.story.tell(&line);
                    continue;
                }
            };
            if shown.size() > self.size() {
                let newest = self.wait_for(key, shown.size()).await?;
                let newest = self.not_smaller(key, newest).await?;
                let patience = self.patience().as_secs();
                if let Some(finding) = audit::withheld(&shown, &newest, patience) {
                    findings.push(finding);
                    continue;
                }
                self.advance(key, &newest, &mut Judge::of_nothing()).await?;
            }
            let Some(accepted) = &self.accepted else {
                continue;
            };
            let found = contrast(&self.client, accepted, &shown).await;
            findings.extend(found.map_err(Stop::NoVerdict)?);
            self.compared += 1;
        }
        Ok(())
    }

    /// Requires a checkpoint with the policy's quorum, over no fewer entries
    /// than are verified, and verifies those that it has more.
    async fn require_quorum(&mut self, key: &VerifierKey) -> Result<(), Stop> {
        let Some(policy) = self.settings.policy.clone() else {
            return Ok(());
        };
        let deadline = Instant::now() + self.patience();
        loop {
            let newest = newest(&self.client, key, Caches::Past).await?;
            let newest = self.not_smaller(key, newest).await?;
            match quorum::cosigners(&policy, key, newest.note()) {
                Ok(by) => {
                    if newest.size() > self.size() {
                        self.advance(key, &newest, &mut Judge::of_nothing()).await?;
                    }
                    self.cosigned_by = Some(by);
                    return Ok(());
                }
                Err(why) if Instant::now() >= deadline => return Err(Stop::NoVerdict(why)),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Asks chains about bindings that contract wallets signed.
    async fn contracts(&mut self, key: &VerifierKey, findings: &mut Findings) -> Result<(), Stop> {
        let (Some(trusted), false) = (&mut self.trusted, self.settings.chains.is_empty()) else {
            return Ok(());
        };
        let Some(size) = TreeSize::new(trusted.tree.size()) else {
            return Ok(());
        };
        let contracts = trusted.accounts.contracts().to_vec();
        if contracts.is_empty() {
            return Ok(());
        }
        let (panels, silent) = self.settings.chains.panels().await;
        for index in contracts {
            let (n, at) = (index.get() / WIDTH, index.get() % WIDTH);
            let bundle = RawBundle::fetch(&self.client, n, size, Caches::Allowed).await?;
            let entries = bundle.entries().into_iter().zip(bundle.signatures());
            let Some((bytes, signature)) = entries.zip(0..).find(|(_, i)| *i == at).map(|(e, _)| e)
            else {
                continue;
            };
            // The receipt says that it is the entry that was read before.
            let item = Item::verify(index, bytes, signature, key);
            match binding((&panels, &silent), bytes, key.origin()).await {
                Word::Valid if item.signed() => trusted.accounts.judged_by_chain(index),
                Word::Invalid(why) if item.signed() => {
                    findings.push(audit::contract(&item, &why, key));
                }
                Word::Unknown(why) => self.settings.story.tell(&format!(
                    "the binding in entry {index}, signed by a contract wallet, is not checked: {why}"
                )),
                Word::Valid | Word::Invalid(_) => {}
            }
        }
        Ok(())
    }

    /// The key to verify under; a served key that is another is a finding.
    async fn check_key(&self, findings: &mut Findings) -> Result<VerifierKey, Stop> {
        let served = pubkey(&self.client, Caches::Allowed).await?;
        let (key, first) = match &self.key {
            Some(key) => (key.clone(), false),
            None => {
                let key = VerifierKey::parse(&served.vkey);
                let refused =
                    |error| Stop::NoVerdict(format!("the served key is refused: {error}"));
                (key.map_err(refused)?, true)
            }
        };
        if audit::pubkey(&key, &served).is_some() {
            let again = pubkey(&self.client, Caches::Past).await?;
            findings.extend(audit::pubkey(&key, &again));
        }
        if first {
            self.settings.story.tell(&format!(
                "first contact: trusting the key that {} serves:\n  {key}\n\
                 Ask the operator for it by another way and compare, or start with --vkey.",
                self.client.base()
            ));
        }
        Ok(key)
    }

    /// `checkpoint`, or a later one, if it can follow the accepted one.
    async fn not_smaller(&self, key: &VerifierKey, checkpoint: Signed) -> Result<Signed, Stop> {
        audit::not_empty(&checkpoint).map_or(Ok(()), |finding| Err(Stop::from(finding)))?;
        let Some(accepted) = &self.accepted else {
            return Ok(checkpoint);
        };
        let newest = if checkpoint.size() < accepted.size() {
            self.settings.story.tell(&format!(
                "the log serves a checkpoint of size {}, after one of size {}; waiting for a newer one",
                checkpoint.size(),
                accepted.size()
            ));
            self.wait_for(key, accepted.size()).await?
        } else {
            checkpoint
        };
        let wrong = audit::rollback(accepted, &newest).or_else(|| audit::fork(accepted, &newest));
        wrong.map_or(Ok(newest), |finding| Err(finding.into()))
    }

    /// Looks for a checkpoint over at least `size` entries as long as one may
    /// take to appear; gives the last one seen.
    async fn wait_for(&self, key: &VerifierKey, size: u64) -> Result<Signed, Stop> {
        let deadline = Instant::now() + self.patience();
        loop {
            let newest = newest(&self.client, key, Caches::Past).await;
            let late = Instant::now() >= deadline;
            match newest {
                Ok(newest) if newest.size() >= size || late => return Ok(newest),
                Err(stop) if late || matches!(stop, Stop::Misbehaviour(_)) => return Err(stop),
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn patience(&self) -> Duration {
        let promised = self
            .trusted
            .as_ref()
            .and_then(|trusted| trusted.publish_max);
        let promised = promised.unwrap_or(USUAL_PUBLISH).min(MAX_PUBLISH);
        self.settings
            .patience
            .unwrap_or(Duration::from_secs(promised) + SLACK)
    }

    /// Verifies the entries up to `target` and accepts it.
    async fn advance(
        &mut self,
        key: &VerifierKey,
        target: &Signed,
        judge: &mut Judge,
    ) -> Result<(), Stop> {
        let trusted = self.trusted.take().unwrap_or_default();
        if trusted
            .accepted
            .as_ref()
            .is_some_and(|old| old.size() == target.size())
        {
            self.trusted = Some(trusted);
            return Ok(());
        }
        let old = trusted.accepted.clone();
        let follower = self.follower(key, target.size() - trusted.tree.size());
        let first = follower
            .extend(trusted, target, Caches::Allowed, judge, None)
            .await?;
        let opens = first.prefix_kept && audit::root(target, first.root).is_none();
        let extended = if opens {
            first
        } else {
            drop(first);
            self.settings.story.tell(
                "the entries do not give the signed root; fetching all of them again, past caches",
            );
            self.verify_again(key, target, old.as_ref()).await?
        };
        if !extended.findings.is_empty() {
            return Err(Stop::Misbehaviour(extended.findings));
        }
        let Extended {
            mut trusted, news, ..
        } = extended;
        trusted.accepted = Some(target.clone());
        self.store.save(key, &mut trusted, Some(&news))?;
        self.accepted = Some(target.clone());
        self.trusted = Some(trusted);
        Ok(())
    }

    /// Verifies the whole log again, past caches: a log that opens its new
    /// root, but not the `old` one that it signed, rewrote its history.
    async fn verify_again(
        &self,
        key: &VerifierKey,
        target: &Signed,
        old: Option<&Signed>,
    ) -> Result<Extended, Stop> {
        let mut proof = old.map(|old| Consistency::between(old.size(), target.size()));
        let follower = self.follower(key, target.size());
        let (fresh, judge) = (Trusted::default(), &mut Judge::of_nothing());
        let again = follower
            .extend(fresh, target, Caches::Past, judge, proof.as_mut())
            .await?;
        let mut findings = again.findings.clone();
        let mut wrong = audit::root(target, again.root);
        if let (None, Some(old), Some(proof)) = (&wrong, old, proof) {
            let (prefix_root, hashes) = proof.finish();
            wrong = audit::rewritten(old, target, prefix_root, &hashes);
        }
        match wrong {
            None => Ok(again),
            Some(finding) => {
                findings.push_front(finding);
                Err(Stop::Misbehaviour(findings))
            }
        }
    }

    fn follower(&self, key: &VerifierKey, new: u64) -> Follower {
        let shown = self.settings.progress && new > 20_000;
        let target = if shown {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let progress = ProgressBar::with_draw_target(None, target);
        let style = "{bar:40} {human_pos} of {human_len} entries, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            progress.set_style(style);
        }
        Follower::new(Arc::clone(&self.client), key.clone(), progress)
    }

    /// Verifies the entries up to `checkpoint` or, where answers are from
    /// more entries, up to one that covers these, and compares each answer
    /// with the sums at exactly its size.
    async fn compare(
        &mut self,
        key: &VerifierKey,
        asked: Vec<Asked>,
        checkpoint: &Signed,
        findings: &mut Findings,
    ) -> Result<(), Stop> {
        let first = self.settle(key, asked, checkpoint, Caches::Allowed).await?;
        let questions: Vec<Question> = (first.wrong.iter().map(|wrong| wrong.question))
            .chain(first.stale.iter().map(|(question, _)| *question))
            .collect();
        let asked = ask(&self.client, &questions, Caches::Past).await?;
        // The same answer again may be from fewer entries than are verified by
        // now; it was judged when the fold passed its size.
        let repeats = |wrong: &&Wrong| asked.iter().any(|asked| wrong.again(asked));
        let (confirmed, _): (Vec<&Wrong>, Vec<&Wrong>) = first.wrong.iter().partition(repeats);
        let confirmed: Vec<Finding> = confirmed.iter().map(|w| w.finding.clone()).collect();
        let new = |asked: &Asked| !first.wrong.iter().any(|wrong| wrong.again(asked));
        let asked = asked.into_iter().filter(new).collect();
        let second = self.settle(key, asked, checkpoint, Caches::Past).await?;
        confirmed
            .into_iter()
            .for_each(|finding| findings.push(finding));
        second
            .wrong
            .into_iter()
            .for_each(|wrong| findings.push(wrong.finding));
        if let Some(signed) = first.conflict.or(second.conflict) {
            self.contradiction(key, &signed).await?;
        }
        match second.stale.first().filter(|_| findings.is_empty()) {
            None => Ok(()),
            Some((question, size)) => Err(Stop::NoVerdict(format!(
                "{} answers from {size} entries only, past caches too, though {} are verified",
                self.client.url(&question.path()),
                self.size()
            ))),
        }
    }

    async fn settle(
        &mut self,
        key: &VerifierKey,
        asked: Vec<Asked>,
        checkpoint: &Signed,
        caches: Caches,
    ) -> Result<Judged, Stop> {
        let mut judge = Judge::new(key.clone(), unix_time() / 86_400, asked);
        self.reach(&mut judge)?;
        let covered = self.size().max(checkpoint.size());
        let target = match judge.largest().filter(|(size, _)| *size > covered) {
            None => checkpoint.clone(),
            Some((size, question)) => {
                let newest = self.wait_for(key, size).await?;
                let newest = self.not_smaller(key, newest).await?;
                let patience = self.patience().as_secs();
                let mut overdue = audit::overdue(size, &newest, patience);
                if overdue.is_some() && caches == Caches::Allowed {
                    // The size itself is an unsigned answer: asked a second time.
                    let again = ask(&self.client, &[question], Caches::Past).await?;
                    let size = Judge::new(key.clone(), 0, again)
                        .largest()
                        .map_or(0, |(s, _)| s);
                    overdue = audit::overdue(size, &newest, patience);
                }
                overdue.map_or(Ok(newest), |finding| Err(Stop::from(finding)))?
            }
        };
        if target.size() > self.size() {
            self.advance(key, &target, &mut judge).await?;
        }
        Ok(judge.finish())
    }

    /// The log signed a root that its entries do not give at that size.
    async fn contradiction(&mut self, key: &VerifierKey, signed: &Signed) -> Result<(), Stop> {
        let Some(accepted) = self.accepted.clone() else {
            return Ok(());
        };
        audit::fork(&accepted, signed).map_or(Ok(()), |finding| Err(Stop::from(finding)))?;
        if signed.size() < accepted.size() {
            self.verify_again(key, &accepted, Some(signed)).await?;
        }
        Ok(())
    }

    /// The fold may stand at an answer's size already.
    fn reach(&mut self, judge: &mut Judge) -> Result<(), Stop> {
        let Some(trusted) = &mut self.trusted else {
            return Ok(());
        };
        let newest_day = trusted.last.as_ref().map_or(0, |last| last.time.day());
        judge
            .reach(trusted, newest_day)
            .map_err(|error| Stop::NoVerdict(error.to_string()))
    }

    fn questions(&self) -> Vec<Question> {
        let mut questions = vec![Question::Chain];
        if self.judges_sums() {
            questions.extend([
                Question::Stats,
                Question::Models(None),
                Question::Models(Some(7)),
            ]);
            questions.push(Question::Leaderboard(Source::Custom, None));
            for days in [None, Some(1), Some(7), Some(30)] {
                questions.push(Question::Leaderboard(Source::Proxy, days));
            }
        }
        questions
    }

    fn judges_sums(&self) -> bool {
        self.trusted
            .as_ref()
            .is_some_and(|trusted| trusted.upgrade.is_none())
    }

    /// Users to ask for before the entries are read: those who are known, and
    /// those whom the leaderboards name.
    fn users(&self, asked: &[Asked]) -> Vec<Question> {
        let Some(trusted) = self.trusted.as_ref().filter(|_| self.judges_sums()) else {
            return vec![];
        };
        let mut users = trusted.sums.sample(0, SAMPLE, below);
        let mut named: Vec<_> = asked.iter().flat_map(Asked::users).collect();
        named.sort_unstable();
        named.dedup();
        // As many known ones as named ones: a leaderboard must not choose alone.
        while !named.is_empty() && users.len() < 2 * SAMPLE {
            let user = named.swap_remove(below(named.len()));
            if !users.contains(&user) {
                users.push(user);
            }
        }
        users.into_iter().map(Question::User).collect()
    }

    /// Users beyond the first `known` ones who were not among `asked`.
    fn strangers(&self, known: usize, asked: &[Question]) -> Vec<Question> {
        let Some(trusted) = self.trusted.as_ref().filter(|_| self.judges_sums()) else {
            return vec![];
        };
        let new = trusted.sums.sample(known, SAMPLE, below);
        let users = new.into_iter().map(Question::User);
        users.filter(|user| !asked.contains(user)).collect()
    }

    /// Wallets to ask for: some that have totals, and one that nobody has.
    fn wallets(&self) -> Vec<Question> {
        let trusted = self.trusted.as_ref().filter(|_| self.judges_sums());
        let Some(accounts) = trusted
            .map(|trusted| &trusted.accounts)
            .filter(|accounts| accounts.rules() == Some(RULES))
        else {
            return vec![];
        };
        let wallets = accounts.wallets();
        let mut chosen: Vec<_> = match wallets.leaf_count() {
            0 => vec![],
            count => (0..WALLETS)
                .filter_map(|_| wallets.wallet(below(count)))
                .collect(),
        };
        let mut absent = [0; 20];
        // Without randomness the log could foresee it, and no more than that.
        let _ = getrandom::fill(&mut absent);
        chosen.push(Address::from_bytes(absent));
        chosen.sort_unstable();
        chosen.dedup();
        chosen.into_iter().map(Question::Wallet).collect()
    }

    /// How many users are known.
    fn user_count(&self) -> usize {
        let trusted = self.trusted.as_ref();
        trusted.map_or(0, |trusted| trusted.sums.user_count())
    }
}

/// The newest published checkpoint; asked for past caches if it is not right.
async fn newest(client: &Client, key: &VerifierKey, caches: Caches) -> Result<Signed, Stop> {
    let mut caches = caches;
    loop {
        let body = client.get("checkpoint", MAX_NOTE, caches).await?;
        match Signed::open(body.as_ref(), key) {
            Ok(signed) => return Ok(signed),
            Err(_) if caches == Caches::Allowed => caches = Caches::Past,
            Err(Unopened::Misbehaviour(finding)) => return Err(finding.into()),
            Err(Unopened::NotANote(cause)) => {
                let url = client.url("checkpoint");
                return Err(NoAnswer::Form {
                    url,
                    expected: "a signed note",
                    cause,
                }
                .into());
            }
        }
    }
}

async fn pubkey(client: &Client, caches: Caches) -> Result<Pubkey, NoAnswer> {
    let body = client.get("api/pubkey", MAX_NOTE, caches).await?;
    answer::json(body.as_ref()).map_err(|unread| {
        let (Unread::Incomplete(cause) | Unread::Malformed(cause)) = unread;
        let url = client.url("api/pubkey");
        NoAnswer::Form {
            url,
            expected: "an origin, a vkey and a key in JSON",
            cause,
        }
    })
}

/// Asks a few at a time.
async fn ask(
    client: &Arc<Client>,
    questions: &[Question],
    caches: Caches,
) -> Result<Vec<Asked>, Stop> {
    let mut asked = Vec::with_capacity(questions.len());
    for some in questions.chunks(ASKED_AT_ONCE) {
        let mut tasks = tokio::task::JoinSet::new();
        for question in some.iter().copied() {
            let client = Arc::clone(client);
            tasks.spawn(async move { ask_one(&client, question, caches).await });
        }
        while let Some(task) = tasks.join_next().await {
            asked.push(task.map_err(Halt::from)??);
        }
    }
    Ok(asked)
}

async fn ask_one(client: &Client, question: Question, caches: Caches) -> Result<Asked, NoAnswer> {
    let path = question.path();
    let body = client.get(&path, question.max_bytes(), caches).await?;
    let answer = match Answer::read(&question, body.as_ref()) {
        Ok(answer) if answer.size() == 0 => {
            let wrong = "is over no entries, though entry 0 always exists";
            Err(audit::misanswered(&question, wrong, body.as_ref()))
        }
        Ok(answer) => Ok(answer),
        Err(Unread::Incomplete(cause)) => {
            return Err(NoAnswer::Form {
                url: client.url(&path),
                expected: "JSON",
                cause,
            });
        }
        Err(Unread::Malformed(cause)) => {
            let wrong = format!("is not of the form in PROTOCOL.md: {cause}");
            Err(audit::misanswered(&question, &wrong, body.as_ref()))
        }
    };
    Ok(Asked::new(question, answer, body.as_ref()))
}

/// This machine's clock, in seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A number below `n` that the log cannot foresee; `n` is not 0.
fn below(n: usize) -> usize {
    let random = getrandom::u64().unwrap_or(0);
    usize::try_from(random % (n as u64)).expect("below a usize")
}

/// The key that `/api/pubkey` serves, for who has none yet.
///
/// # Errors
/// No complete answer, or a key that must be refused.
pub async fn served_key(client: &Client) -> Result<VerifierKey, String> {
    let served = pubkey(client, Caches::Allowed)
        .await
        .map_err(|error| error.to_string())?;
    VerifierKey::parse(&served.vkey).map_err(|error| format!("the served key is refused: {error}"))
}

/// A checkpoint over more than `index` entries, waited for as long as
/// `patience` says; else the last one seen.
///
/// # Errors
/// No complete answer, or misbehaviour: the reason, or the finding.
pub async fn covering(
    client: &Client,
    key: &VerifierKey,
    index: u64,
    patience: Duration,
) -> Result<Signed, Result<Findings, String>> {
    let deadline = Instant::now() + patience;
    let mut caches = Caches::Allowed;
    loop {
        let late = Instant::now() >= deadline;
        match newest(client, key, caches).await {
            Ok(newest) if newest.size() > index || late => return Ok(newest),
            Err(Stop::Misbehaviour(findings)) => return Err(Ok(findings)),
            Err(Stop::NoVerdict(why)) if late => return Err(Err(why)),
            _ => tokio::time::sleep(POLL).await,
        }
        caches = Caches::Past;
    }
}
