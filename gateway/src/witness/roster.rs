//! How each witness fares, for the interface and for metrics.

use std::sync::{Arc, Mutex, PoisonError};

use protocol::index::{Time, TreeSize};

use super::answer::Problem;
use super::enlisted::{Enlisted, Witnesses};

/// What is known of every enlisted witness. Clones share it.
#[derive(Clone, Debug)]
pub struct Roster {
    witnesses: Witnesses,
    standings: Arc<[Mutex<Standing>]>,
    quorum: Arc<Mutex<bool>>,
}

/// What is known of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How it fares.
    pub state: State,
    /// The size that it cosigned last.
    pub size: Option<TreeSize>,
    /// When it did, by its clock.
    pub time: Option<Time>,
    /// Why its last answer brought nothing.
    pub problem: Option<String>,
}

/// How a witness fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing is known of it yet, or another gateway asks it.
    #[default]
    Waiting,
    /// It answered with a cosignature.
    Cosigning,
    /// It did not, for now.
    Failing,
    /// Its answer makes no sense: somebody must look.
    Alarm,
}

impl State {
    /// As the interface says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Cosigning => "cosigning",
            Self::Failing => "failing",
            Self::Alarm => "alarm",
        }
    }
}

impl Roster {
    pub(super) fn new(witnesses: Witnesses) -> Self {
        let standings = witnesses.enlisted().iter().map(|_| Mutex::default());
        Self {
            standings: standings.collect(),
            witnesses,
            quorum: Arc::new(Mutex::new(true)),
        }
    }

    /// Every witness and how it fares, in the policy's order.
    pub fn list(&self) -> impl Iterator<Item = (&Enlisted, Standing)> {
        let standings = self.standings.iter().map(copied);
        self.witnesses.enlisted().iter().zip(standings)
    }

    /// Whether `/checkpoint` has its quorum, or may yet get it in time.
    pub fn has_quorum(&self) -> bool {
        copied(&self.quorum)
    }

    pub(super) fn of(&self, number: usize) -> Standing {
        copied(&self.standings[number])
    }

    /// Says once when the quorum is lost, and when it is back.
    pub(super) fn quorum(&self, has: bool, size: TreeSize) {
        metrics::gauge!("tally_checkpoint_quorum").set(if has { 1.0 } else { 0.0 });
        let had = std::mem::replace(&mut *locked(&self.quorum), has);
        match (had, has) {
            (true, false) => tracing::error!(
                size = size.get(),
                "the witnesses that the policy asks for did not cosign within 5 s: /checkpoint \
                 answers without them, and whoever asks for the quorum waits; /api/witnesses says why",
            ),
            (false, true) => tracing::info!(size = size.get(), "/checkpoint has its quorum again"),
            _ => {}
        }
    }

    /// What a witness cosigned, as the served checkpoint shows.
    pub(super) fn shown(&self, number: usize, last: Option<(TreeSize, Time)>) {
        let mut standing = locked(&self.standings[number]);
        if let Some((size, time)) = last {
            (standing.size, standing.time) = (Some(size), Some(time));
        }
        self.measure(number, &standing);
    }

    /// Another gateway asks the witnesses from here on.
    pub(super) fn rest(&self) {
        for standing in &*self.standings {
            let mut standing = locked(standing);
            (standing.state, standing.problem) = (State::Waiting, None);
        }
    }

    pub(super) fn cosigned(&self, number: usize, size: TreeSize, time: Time) {
        let mut standing = locked(&self.standings[number]);
        let was = standing.state;
        *standing = Standing {
            state: State::Cosigning,
            size: Some(size),
            time: Some(time),
            problem: None,
        };
        self.measure(number, &standing);
        if was != State::Cosigning {
            let witness = self.witnesses.enlisted()[number].name.as_str();
            tracing::info!(witness, size = size.get(), "a witness cosigns");
        }
    }

    /// Says once what is wrong, until that changes.
    pub(super) fn fails(&self, number: usize, problem: &Problem) {
        let mut standing = locked(&self.standings[number]);
        let (state, text) = match problem.is_alarming() {
            true => (State::Alarm, problem.to_string()),
            false => (State::Failing, problem.to_string()),
        };
        let news = standing.state != state || standing.problem.as_ref() != Some(&text);
        (standing.state, standing.problem) = (state, Some(text));
        self.measure(number, &standing);
        if !news {
            return;
        }
        let witness = self.witnesses.enlisted()[number].name.as_str();
        match state {
            State::Alarm => tracing::error!(witness, %problem, "a witness contradicts this log"),
            _ => tracing::warn!(witness, %problem, "a witness does not cosign; asking it again"),
        }
    }

    fn measure(&self, number: usize, standing: &Standing) {
        let witness = &self.witnesses.enlisted()[number].name;
        let gauge = |name: &'static str, value: f64| {
            metrics::gauge!(name, "witness" => witness.clone()).set(value);
        };
        let alarm = standing.state == State::Alarm;
        gauge("tally_witness_alarm", if alarm { 1.0 } else { 0.0 });
        gauge(
            "tally_witness_size",
            standing.size.map_or(0.0, |size| size.get() as f64),
        );
        gauge(
            "tally_witness_cosigned_time_seconds",
            standing.time.map_or(0.0, |time| time.secs() as f64),
        );
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copied<T: Clone>(mutex: &Mutex<T>) -> T {
    locked(mutex).clone()
}
