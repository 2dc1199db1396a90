//! Answers that wait for the fold to pass their size.
//!
//! Out of scope: asking, and asking again (see [`crate::pass`]).

use protocol::hash::Hash;
use protocol::key::VerifierKey;
use sha2::{Digest as _, Sha256};

use crate::answer::{Answer, Question};
use crate::audit::{self, At, Finding, Signed};
use crate::rebuild::Disagreement;
use crate::trust::Trusted;

/// The longest answer that is kept as it was served, for evidence.
const KEPT_BODY: usize = 1 << 20;

/// A question with its answer.
#[derive(Debug)]
pub struct Asked {
    /// What was asked.
    pub question: Question,
    /// The answer; the finding, where it has not the form it must have.
    pub answer: Result<Answer, Finding>,
    /// The answer as it was served, if it is not very long.
    body: Vec<u8>,
    /// The hash of the answer as it was served.
    digest: [u8; 32],
}

/// A wrong answer.
#[derive(Debug)]
pub struct Wrong {
    /// What was asked.
    pub question: Question,
    /// What is wrong.
    pub finding: Finding,
    digest: [u8; 32],
}

impl Wrong {
    /// Whether `asked` brought the very same answer again: it is then as
    /// wrong as it was.
    pub fn again(&self, asked: &Asked) -> bool {
        self.question == asked.question && self.digest == asked.digest
    }
}

impl Asked {
    /// Takes an answer, keeping its bytes if they are not too many.
    pub fn new(question: Question, answer: Result<Answer, Finding>, body: &[u8]) -> Self {
        let digest = Sha256::digest(body).into();
        let body = if body.len() <= KEPT_BODY {
            body.to_vec()
        } else {
            vec![]
        };
        Self {
            question,
            answer,
            body,
            digest,
        }
    }

    /// Key ids that a leaderboard names.
    pub fn users(&self) -> Vec<Hash> {
        let Ok(Answer::Leaderboard(answer)) = &self.answer else {
            return vec![];
        };
        let key_ids = answer.rows.iter().filter_map(|row| row.key_id.as_deref());
        key_ids.filter_map(Hash::from_hex).collect()
    }
}

/// Judges answers, each at exactly its size.
#[derive(Debug)]
pub struct Judge {
    key: Option<VerifierKey>,
    own_day: u64,
    waiting: Vec<(u64, Asked)>,
    /// The least size that an answer waits for.
    next: Option<u64>,
    wrong: Vec<Wrong>,
    /// A signed root in `/api/chain` that is not the rebuilt one.
    conflict: Option<Signed>,
}

impl Judge {
    /// Nothing to judge.
    pub fn of_nothing() -> Self {
        let (waiting, wrong) = (vec![], vec![]);
        Self {
            key: None,
            own_day: 0,
            waiting,
            next: None,
            wrong,
            conflict: None,
        }
    }

    /// Takes answers; `own_day` is this machine's day.
    pub fn new(key: VerifierKey, own_day: u64, asked: Vec<Asked>) -> Self {
        let mut judge = Self {
            key: Some(key),
            own_day,
            ..Self::of_nothing()
        };
        for asked in asked {
            let Asked {
                question, digest, ..
            } = asked;
            match &asked.answer {
                Ok(answer) => judge.waiting.push((answer.size(), asked)),
                Err(finding) => {
                    judge.wrong.push(Wrong {
                        question,
                        finding: finding.clone(),
                        digest,
                    });
                }
            }
        }
        judge.next = judge.waiting.iter().map(|(size, _)| *size).min();
        judge
    }

    /// The largest size that an answer waits for, and its question.
    pub fn largest(&self) -> Option<(u64, Question)> {
        let largest = self.waiting.iter().max_by_key(|(size, _)| *size);
        largest.map(|(size, asked)| (*size, asked.question))
    }

    /// The fold stands at `trusted`'s size: judges what waits for it.
    ///
    /// # Errors
    /// An internal one.
    pub fn reach(&mut self, trusted: &mut Trusted, newest_day: u64) -> Result<(), Disagreement> {
        let size = trusted.tree.size();
        if self.next.is_none_or(|next| next > size) {
            return Ok(());
        }
        let root = trusted.tree.root()?;
        let waiting = std::mem::take(&mut self.waiting);
        let (due, later) = waiting.into_iter().partition(|(wanted, _)| *wanted == size);
        self.waiting = later;
        self.next = self
            .waiting
            .iter()
            .map(|(s, _)| *s)
            .filter(|wanted| *wanted > size)
            .min();
        for (_, asked) in due {
            self.judge(&asked, trusted, (size, root, newest_day));
        }
        Ok(())
    }

    fn judge(
        &mut self,
        asked: &Asked,
        trusted: &mut Trusted,
        (size, root, newest_day): (u64, Hash, u64),
    ) {
        let (Some(key), Ok(answer)) = (&self.key, &asked.answer) else {
            return;
        };
        // Beyond an entry that it does not know this program knows no sums.
        let understood = trusted
            .upgrade
            .as_ref()
            .is_none_or(|(from, _)| size <= *from);
        if !understood && asked.question != Question::Chain {
            return;
        }
        let sums = &mut trusted.sums;
        let mut at = At {
            key,
            size,
            root,
            newest_day,
            own_day: self.own_day,
            sums,
            accounts: &trusted.accounts,
        };
        let Some(finding) = audit::aggregate(&asked.question, answer, &asked.body, &mut at) else {
            return;
        };
        if let Answer::Chain(chain) = answer {
            let signed = Signed::open(chain.checkpoint.as_bytes(), key).ok();
            self.conflict = signed.filter(|s| s.size() == size && s.root() != root);
        }
        self.wrong.push(Wrong {
            question: asked.question,
            finding,
            digest: asked.digest,
        });
    }

    /// What is wrong, what was never judged (with its size), and a signed
    /// root that contradicts the rebuilt one.
    pub fn finish(self) -> Judged {
        let waiting = self.waiting.into_iter();
        Judged {
            wrong: self.wrong,
            stale: waiting
                .map(|(size, asked)| (asked.question, size))
                .collect(),
            conflict: self.conflict,
        }
    }
}

/// What came of answers.
#[derive(Debug, Default)]
pub struct Judged {
    /// Those that are wrong.
    pub wrong: Vec<Wrong>,
    /// Those of a size that the fold had passed before, and the size.
    pub stale: Vec<(Question, u64)>,
    /// A signed root in `/api/chain` that is not the rebuilt one.
    pub conflict: Option<Signed>,
}
