//! Meters: from the bytes of one answer to its usage records.

use protocol::record::{Counts, Outcome};

use super::answer::Answer;
use super::body::{Body, Framing};
use super::count::Reading;
use super::decode::Decoder;
use super::{Dialect, Kind};

/// What is known of an answer before its body.
#[derive(Clone, Copy, Debug)]
pub struct AnswerHead<'a> {
    /// How the provider's answers are to be read.
    pub dialect: Dialect,
    /// What the request asked for.
    pub kind: Kind,
    /// The HTTP status code.
    pub status: u16,
    /// The header `content-type`.
    pub content_type: Option<&'a str>,
    /// The header `content-encoding`, several joined by commas.
    pub content_encoding: Option<&'a str>,
    /// The header `fireworks-cached-prompt-tokens`.
    pub cached_prompt_tokens: Option<&'a str>,
}

/// How a body came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// It ended as HTTP says it should.
    Complete,
    /// The provider's connection failed first.
    ProviderBroke,
    /// The client left first.
    ClientLeft,
}

/// What one response used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metered {
    /// What the provider said it used; [`Counts::NONE`] if unmetered.
    pub counts: Counts,
    /// How it ended; never [`Outcome::Unknown`].
    pub outcome: Outcome,
    /// Whether the provider contradicted itself, its own total included.
    pub inconsistent: bool,
    /// The model that answered, as the provider names it: see
    /// [`base_model`](super::base_model) for what may be recorded. At most 256 bytes.
    pub model: Option<String>,
    /// The provider's id of the response. At most 256 bytes.
    pub response_id: Option<String>,
}

/// Reads one answer as it passes, in memory that does not grow with it.
///
/// It never fails: what cannot be read is not counted.
#[derive(Debug)]
pub struct Meter {
    kind: Kind,
    accepted: bool,
    decoder: Decoder,
    /// Absent if no record can come of the answer.
    body: Option<Body>,
}

impl Meter {
    /// Begins an answer.
    pub fn new(head: &AnswerHead<'_>) -> Self {
        let kind = head.kind;
        let accepted = (200..300).contains(&head.status);
        let counted = match kind {
            Kind::None | Kind::Session => false,
            Kind::Generate => true,
            _ => accepted,
        };
        let forced = (kind == Kind::Batch).then_some(Framing::Lines);
        let cached = head
            .cached_prompt_tokens
            .and_then(|count| count.trim().parse().ok());
        let body = counted.then(|| {
            let answer = Answer::new(head.dialect, kind, cached);
            Body::new(Framing::of(head.content_type), forced, answer)
        });
        Self {
            kind,
            accepted,
            decoder: Decoder::new(head.content_encoding),
            body,
        }
    }

    /// Reads on. `bytes` are those of the body as the provider sent it, in
    /// slices of any size.
    pub fn feed(&mut self, bytes: &[u8]) {
        if let Some(body) = &mut self.body {
            self.decoder.feed(bytes, &mut |bytes| body.feed(bytes));
        }
    }

    /// The next of the records that a batch has given so far.
    /// Those not taken wait, up to 16,384; more are lost.
    pub fn take(&mut self) -> Option<Metered> {
        self.body.as_mut().and_then(|body| body.answer_mut().take())
    }

    /// Ends the answer: the records that it gave and that were not taken.
    ///
    /// At most one, but for [`Kind::Batch`].
    pub fn finish(mut self, end: End) -> Vec<Metered> {
        let Some(mut body) = self.body.take() else {
            return Vec::new();
        };
        self.decoder.finish(&mut |bytes| body.feed(bytes));
        body.finish();
        match self.kind {
            Kind::Batch => std::iter::from_fn(|| body.answer_mut().take()).collect(),
            _ => self.judge(body, end).into_iter().collect(),
        }
    }

    fn judge(&self, mut body: Body, end: End) -> Option<Metered> {
        let reading = body.answer().reading();
        let always = self.kind == Kind::Generate && self.accepted;
        if body.is_pending() || !always && reading.is_none() {
            return None;
        }
        let outcome = self.outcome(&body, reading.is_some(), end);
        let (model, response_id) = body.answer_mut().names();
        let Reading {
            counts,
            inconsistent,
        } = reading.unwrap_or(Reading {
            counts: Counts::NONE,
            inconsistent: false,
        });
        Some(Metered {
            counts,
            outcome,
            inconsistent,
            model,
            response_id,
        })
    }

    fn outcome(&self, body: &Body, stated: bool, end: End) -> Outcome {
        let cut = end != End::Complete;
        // A refusal that states usage says all of it, however it is worded.
        if self.accepted && body.answer().failed {
            return Outcome::Partial;
        }
        if body.is_over(cut) {
            return if stated {
                Outcome::Complete
            } else {
                Outcome::Unmetered
            };
        }
        // What stated usage was read so far: its counts stand, and the rest is missing.
        let unreadable = !stated && (body.is_unreadable() || self.decoder.is_blind());
        match end {
            End::ClientLeft => Outcome::Aborted,
            End::Complete if unreadable => Outcome::Unmetered,
            End::Complete | End::ProviderBroke => Outcome::Partial,
        }
    }
}
