//! Which checkpoint is served, and which the witnesses are asked for. Pure.
//!
//! ```text
//!             quorum, or 5 s                 the log grew, 1 s
//! candidate ─────────────────▶ served ───────────────────────▶ next candidate
//! ```
//! All witnesses are asked for the same checkpoint until it has its quorum, or
//! those of two slow ones might never meet. One that does not get it in time
//! is given up for the newest of all, so that every entry is under a served
//! checkpoint within the log's promise, whatever the witnesses do: see
//! [`PATIENCE`] and [`PROMISE`].

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::checkpoint::Checkpoint;
use protocol::index::{Time, TreeSize};
use protocol::key::VerifierKey;
use protocol::note::{self, Note};
use tokio::time::Instant;

use super::enlisted::Witnesses;
use crate::log::publish::{INTERVAL, Published};

/// How long a quorum is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long an entry waits, at the most: for the quorum of a checkpoint before
/// its own, and then for its own. Below `publish_max`, with time to spare.
pub(super) const PROMISE: Duration = Duration::from_secs(8);

/// A checkpoint and who cosigned it, by number among the enlisted.
#[derive(Clone, Debug)]
struct Cosigned {
    /// With the log's signature only.
    plain: Published,
    lines: BTreeMap<usize, (Time, String)>,
}

/// What is served and what is asked for.
#[derive(Debug)]
pub(super) struct Choice {
    witnesses: Witnesses,
    served: Cosigned,
    /// Waits for its quorum; of a larger size than what is served.
    candidate: Option<Cosigned>,
    /// When the newer of the two was chosen, and until when its quorum is
    /// waited for.
    chosen: Instant,
    deadline: Instant,
    /// Since when the log is larger than both.
    grown: Option<Instant>,
    /// When what is served changed last, and whether it has more cosignatures
    /// by now.
    served_at: Instant,
    fuller: bool,
    /// What is served was given up waiting for.
    given_up: bool,
}

impl Choice {
    /// Begins with the newest checkpoint.
    pub(super) fn new(witnesses: Witnesses, newest: &Published, now: Instant) -> Self {
        Self::begin(witnesses, Cosigned::plain(newest), now)
    }

    /// Goes on from what was served before, a note of this log; `None` if it
    /// is none, or of a larger log.
    pub(super) fn resume(
        witnesses: Witnesses,
        key: &VerifierKey,
        before: &str,
        newest: &Published,
        now: Instant,
    ) -> Option<Self> {
        let served = Cosigned::open(before, key, &witnesses)?;
        let fits = served.size() <= newest.checkpoint.size();
        fits.then(|| Self::begin(witnesses, served, now))
    }

    fn begin(witnesses: Witnesses, served: Cosigned, now: Instant) -> Self {
        Self {
            witnesses,
            served,
            candidate: None,
            chosen: now.checked_sub(INTERVAL).unwrap_or(now),
            deadline: now + PATIENCE,
            grown: None,
            served_at: now,
            fuller: false,
            given_up: false,
        }
    }

    /// What is to be served.
    pub(super) fn served(&self) -> Published {
        self.served.published()
    }

    /// What the witnesses are to be asked for: the log's signature only.
    pub(super) fn asked_for(&self) -> &Published {
        &self.newer().plain
    }

    /// The newest time at which one of the enlisted cosigned, and what.
    pub(super) fn last_of(&self, number: usize) -> Option<(TreeSize, Time)> {
        let both = self.candidate.iter().chain([&self.served]);
        let mut times = both.filter_map(|c| Some((c.size(), c.lines.get(&number)?.0)));
        times.next()
    }

    /// Whether what is served lacks its quorum although that was waited for.
    pub(super) fn lacks_quorum(&self, now: Instant) -> bool {
        !self.served.has_quorum(&self.witnesses) && (self.given_up || now >= self.deadline)
    }

    /// Takes a cosignature over the checkpoint of `size`.
    pub(super) fn cosigned(&mut self, number: usize, size: TreeSize, time: Time, line: String) {
        if self.served.size() == size {
            self.served.lines.insert(number, (time, line));
            self.fuller = true;
        } else if let Some(candidate) = self.candidate.as_mut().filter(|c| c.size() == size) {
            candidate.lines.insert(number, (time, line));
        }
    }

    /// Goes on as far as it can where the log's newest checkpoint is `newest`;
    /// says whether what is served changed.
    pub(super) fn advance(&mut self, newest: &Published, now: Instant) -> bool {
        let mut changed = false;
        loop {
            let witnesses = &self.witnesses;
            if let Some(cosigned) = self.candidate.take_if(|c| c.has_quorum(witnesses)) {
                self.serve(cosigned, now);
                changed = true;
                continue;
            }
            let late = now >= self.deadline;
            if newest.checkpoint.size() <= self.newer().size() {
                if let Some(candidate) = self.candidate.take_if(|_| late) {
                    self.serve(candidate, now);
                    self.given_up = true;
                    changed = true;
                }
                break;
            }
            let grown = *self.grown.get_or_insert(now);
            if self.is_settled() {
                if now < self.chosen + INTERVAL {
                    break;
                }
                self.candidate = Some(Cosigned::plain(newest));
                self.choose(now, (now + PATIENCE).min(grown + PROMISE));
            } else if late {
                self.candidate = None;
                self.serve(Cosigned::plain(newest), now);
                self.given_up = true;
                changed = true;
                self.choose(now, now + PATIENCE);
            } else {
                break;
            }
        }
        if self.served.has_quorum(&self.witnesses) {
            self.given_up = false;
        }
        if self.fuller && now >= self.served_at + INTERVAL {
            (self.fuller, self.served_at) = (false, now);
            changed = true;
        }
        changed
    }

    /// When to go on if nothing comes before.
    pub(super) fn next(&self) -> Option<Instant> {
        let waits = self.candidate.is_some() || (self.grown.is_some() && !self.is_settled());
        let quorum = waits.then_some(self.deadline);
        let grown = (self.grown.is_some() && self.is_settled()).then(|| self.chosen + INTERVAL);
        let fuller = self.fuller.then(|| self.served_at + INTERVAL);
        [quorum, grown, fuller].into_iter().flatten().min()
    }

    /// Whether it is known already that the log is larger.
    pub(super) fn has_grown(&self) -> bool {
        self.grown.is_some()
    }

    /// Whether nothing is waited for.
    fn is_settled(&self) -> bool {
        self.candidate.is_none() && self.served.has_quorum(&self.witnesses)
    }

    fn newer(&self) -> &Cosigned {
        self.candidate.as_ref().unwrap_or(&self.served)
    }

    fn choose(&mut self, now: Instant, deadline: Instant) {
        (self.chosen, self.deadline, self.grown) = (now, deadline, None);
    }

    fn serve(&mut self, cosigned: Cosigned, now: Instant) {
        self.served = cosigned;
        (self.served_at, self.fuller) = (now, false);
    }
}

impl Cosigned {
    fn plain(published: &Published) -> Self {
        Self {
            plain: published.clone(),
            lines: BTreeMap::new(),
        }
    }

    /// Opens a note of this log. Cosignatures that are no witness's, or do not
    /// verify, are left out.
    fn open(text: &str, key: &VerifierKey, witnesses: &Witnesses) -> Option<Self> {
        let checkpoint = Checkpoint::open(text.as_bytes(), key).ok()?;
        let note = Note::parse(text.as_bytes()).ok()?;
        let mut lines = BTreeMap::new();
        let mut of_the_log = None;
        for line in note.signatures() {
            if line.name() == key.origin().as_str() && line.key_hash() == key.key_hash() {
                of_the_log = line.signature().try_into().ok();
                continue;
            }
            for (number, witness) in witnesses.enlisted().iter().enumerate() {
                if let Ok(Some(time)) = witness.key.cosigned_in(line, note.text()) {
                    lines.insert(number, (time, line.to_string()));
                }
            }
        }
        let note = note::with_signature(note.text(), key, &of_the_log?).into();
        Some(Self {
            plain: Published { checkpoint, note },
            lines,
        })
    }

    fn size(&self) -> TreeSize {
        self.plain.checkpoint.size()
    }

    fn has_quorum(&self, witnesses: &Witnesses) -> bool {
        witnesses.are_enough(|number| self.lines.contains_key(&number))
    }

    fn published(&self) -> Published {
        let lines = self.lines.values().map(|(_, line)| line.as_str());
        let note: String = [&*self.plain.note].into_iter().chain(lines).collect();
        Published {
            checkpoint: self.plain.checkpoint.clone(),
            note: note.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::cosignature::Cosigner;
    use protocol::hash::Hash;
    use protocol::key::{Origin, Signer};
    use protocol::policy::Policy;
    use protocol::vkey::KeyName;

    fn cosigner(seed: u8) -> Cosigner {
        let name = KeyName::new(&format!("w.example/{seed}")).expect("a name");
        Cosigner::new(name, &[seed; 32])
    }

    fn signer() -> Signer {
        Signer::new(Origin::parse("log.example").expect("valid"), &[9; 32])
    }

    /// The checkpoint of a log of so many entries.
    fn of(size: u64) -> Published {
        let size = TreeSize::new(size).expect("small");
        let root = Hash::of(&size.get().to_be_bytes());
        let checkpoint = Checkpoint::new(signer().verifier().origin().clone(), size, root);
        let note = checkpoint.seal(&signer()).into();
        Published { checkpoint, note }
    }

    /// Three witnesses, `quorum` of which must cosign.
    fn policy(quorum: &str) -> String {
        let line = |n| format!("witness w{n} {} http://w\n", cosigner(n).verifier());
        let lines = [1, 2, 3].map(line).concat();
        match quorum {
            "none" => format!("{lines}quorum none\n"),
            k => format!("{lines}group g {k} w1 w2 w3\nquorum g\n"),
        }
    }

    /// A choice, with a clock in milliseconds.
    struct Check {
        choice: Choice,
        policy: Policy,
        start: Instant,
        log: u64,
    }

    impl Check {
        fn new(quorum: &str, log: u64) -> Self {
            Self::resumed(quorum, log, None)
        }

        fn resumed(quorum: &str, log: u64, stored: Option<&str>) -> Self {
            let text = policy(quorum);
            let witnesses = Witnesses::parse(text.as_bytes()).expect("a policy");
            let start = Instant::now();
            let key = signer().verifier().clone();
            let resumed = stored
                .and_then(|note| Choice::resume(witnesses.clone(), &key, note, &of(log), start));
            let choice = resumed.unwrap_or_else(|| Choice::new(witnesses, &of(log), start));
            let policy = Policy::parse(text.as_bytes()).expect("a policy");
            Self {
                choice,
                policy,
                start,
                log,
            }
        }

        /// At `ms` the log has `log` entries: what is served and asked for
        /// then, by size, and how many cosigned what is served.
        fn at(&mut self, ms: u64, log: u64) -> (u64, u64, usize) {
            assert!(log >= self.log);
            self.log = log;
            let now = self.start + Duration::from_millis(ms);
            let before = self.choice.served();
            let changed = self.choice.advance(&of(log), now);
            let served = self.choice.served();
            assert!(changed || self.choice.fuller || served == before, "at {ms}");
            assert!(served.checkpoint.size() >= before.checkpoint.size());
            assert!(self.choice.next().is_none_or(|next| next > now), "at {ms}");
            let note = Note::parse(served.note.as_bytes()).expect("a note");
            note.verify(signer().verifier()).expect("the log's");
            let by = self.policy.judge(&note).expect("not spoilt").by;
            let asked = self.choice.asked_for().checkpoint.size().get();
            (served.checkpoint.size().get(), asked, by.len())
        }

        fn cosigns(&mut self, n: u8, size: u64) {
            let time = Time::from_secs(size).expect("small");
            let line = cosigner(n).cosign(&of(size).checkpoint.text(), time);
            let size = TreeSize::new(size).expect("small");
            self.choice.cosigned(usize::from(n) - 1, size, time, line);
        }

        fn lacks(&self, ms: u64) -> bool {
            let now = self.start + Duration::from_millis(ms);
            self.choice.lacks_quorum(now)
        }
    }

    #[test]
    fn what_has_its_quorum_is_served_and_then_the_next_is_asked_for() {
        let mut check = Check::new("2", 1);
        assert_eq!(check.at(0, 1), (1, 1, 0), "something must be served");
        assert!(!check.lacks(4_999), "it may yet come");
        check.cosigns(1, 1);
        check.cosigns(2, 1);
        assert_eq!(check.at(1_000, 5), (1, 5, 2));
        check.cosigns(1, 5);
        assert_eq!(check.at(1_100, 6), (1, 5, 2));
        check.cosigns(3, 5);
        assert_eq!(check.at(1_200, 7), (5, 5, 2), "once a second");
        check.cosigns(2, 5);
        assert_eq!(check.at(1_999, 8), (5, 5, 3));
        assert_eq!(check.at(2_000, 9), (5, 9, 3));
        assert!(!check.lacks(2_000));
    }

    #[test]
    fn late_cosignatures_are_added_and_strangers_sizes_dropped() {
        let mut check = Check::new("1", 1);
        check.cosigns(1, 1);
        check.at(1_000, 4);
        check.cosigns(2, 3);
        check.cosigns(2, 1);
        assert_eq!(check.at(1_500, 4).2, 2, "while it is still served");
        check.cosigns(2, 4);
        assert_eq!(check.at(1_600, 4), (4, 4, 1));
        check.cosigns(1, 4);
        check.cosigns(1, 4);
        assert_eq!(check.at(2_600, 4), (4, 4, 2));
        assert_eq!(check.choice.next(), None, "nothing is left to do");
    }

    #[test]
    fn without_a_quorum_every_entry_is_served_in_time() {
        let mut check = Check::new("all", 1);
        for n in [1, 2, 3] {
            check.cosigns(n, 1);
        }
        check.at(0, 1);
        assert_eq!(check.at(2_000, 5), (1, 5, 3));
        check.cosigns(1, 5);
        assert_eq!(check.at(6_999, 8), (1, 5, 3));
        assert!(!check.lacks(6_999));
        assert_eq!(check.at(7_000, 8), (8, 8, 0), "the newest of all");
        assert!(check.lacks(7_000));
        assert_eq!(check.at(11_999, 9), (8, 8, 0));
        assert_eq!(check.at(12_000, 12), (12, 12, 0));
        assert!(check.lacks(12_000));
        // Idle, and then the witnesses are back.
        assert_eq!(check.at(60_000, 12), (12, 12, 0));
        for n in [1, 2, 3] {
            check.cosigns(n, 12);
        }
        assert_eq!(check.at(61_000, 12), (12, 12, 3));
        assert!(!check.lacks(61_000));
        assert_eq!(check.at(61_100, 14), (12, 14, 3), "waited for again");
    }

    #[test]
    fn an_entry_never_waits_for_two_slow_quorums() {
        let mut check = Check::new("1", 1);
        check.cosigns(1, 1);
        assert_eq!(check.at(1_000, 2), (1, 2, 1));
        assert_eq!(check.at(1_001, 3), (1, 2, 1), "the third comes just after");
        check.cosigns(1, 2);
        assert_eq!(check.at(5_900, 3), (2, 3, 1));
        assert_eq!(check.at(9_000, 3), (2, 3, 1));
        assert_eq!(check.at(9_001, 3), (3, 3, 0), "8 s after it came");
    }

    #[test]
    fn where_none_is_required_none_is_waited_for() {
        let mut check = Check::new("none", 1);
        assert_eq!(check.at(0, 1), (1, 1, 0));
        assert_eq!(check.at(10, 5), (5, 5, 0));
        check.cosigns(3, 5);
        assert_eq!(check.at(1_009, 6), (5, 5, 1));
        assert_eq!(check.at(1_010, 6), (6, 6, 0));
        assert!(!check.lacks(99_000));
    }

    #[test]
    fn goes_on_from_what_was_served_before() {
        let mut before = Check::new("2", 4);
        before.cosigns(1, 4);
        before.cosigns(3, 4);
        before.at(1_000, 4);
        let stored = before.choice.served().note;
        let mut check = Check::resumed("2", 7, Some(&stored));
        assert_eq!(check.at(0, 7), (4, 7, 2));
        let last = |number| check.choice.last_of(number).map(|(size, _)| size.get());
        assert_eq!([last(0), last(1), last(2)], [Some(4), None, Some(4)]);
        assert_eq!(check.at(5_000, 7), (7, 7, 0));

        let spoilt = stored.replace("w.example/3", "w.example/2");
        for (claim, stored, log, expected) in [
            ("a smaller log", &*stored, 3, (3, 3, 0)),
            (
                "another log's",
                &stored.replace("log.example", "log.other"),
                7,
                (7, 7, 0),
            ),
            ("no note", "?", 7, (7, 7, 0)),
            ("a line that is nobody's", &spoilt, 4, (4, 4, 1)),
        ] {
            let mut check = Check::resumed("2", log, Some(stored));
            assert_eq!(check.at(0, log), expected, "{claim}");
        }
    }

    /// Whatever witnesses do and however the log grows, an entry is under what
    /// is served within the promise, and served sizes never descend.
    #[test]
    fn the_promise_holds_however_slow_the_witnesses_are() {
        for answer_ms in [0_u64, 300, 1_100, 4_900, 5_100, 9_000] {
            for every_ms in [50_u64, 700, 3_000] {
                let mut check = Check::new("2", 1);
                let mut came: Vec<u64> = vec![0];
                let mut asked: Vec<(u64, u64)> = vec![];
                for ms in (0..60_000).step_by(50) {
                    if ms % every_ms == 0 {
                        came.push(ms);
                    }
                    for (at, size) in &asked {
                        if at + answer_ms == ms {
                            check.cosigns(1, *size);
                            check.cosigns(2, *size);
                        }
                    }
                    let (served, asked_for, _) = check.at(ms, came.len() as u64);
                    if asked.last().is_none_or(|(_, size)| *size != asked_for) {
                        asked.push((ms, asked_for));
                    }
                    let served = usize::try_from(served).expect("small");
                    let waits = came.get(served).map_or(0, |came| ms - came);
                    assert!(waits <= 8_000, "{answer_ms} {every_ms}: {waits} ms at {ms}");
                }
            }
        }
    }
}
