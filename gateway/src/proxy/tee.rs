//! The tee: passes a body's frames on as they are and shows them to the meter.
//!
//! There is no channel between upstream and client, so back-pressure is the
//! connection's own, and dropping the body cancels the upstream call.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use protocol::entry::Body as EntryBody;
use protocol::hash::{receipt_commitment, response_commitment};
use protocol::name::Name;
use protocol::record::{Link, Usage};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use uuid::Uuid;

use super::carried::{Carried, longer};
use super::hide::Hide;
use crate::log::Unfinished;
use crate::log::calls::Call;
use crate::log::pool::{Pool, Submission};
use crate::usage::{Dialect, End, Meter, Metered, base_model};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A provider's body on its way to the client.
#[derive(Debug)]
pub struct Tee {
    body: Carried,
    metering: Option<Box<Metering>>,
    hide: Option<Box<Hide>>,
    silence: Silence,
    /// Frames that were read before the answer began, and wait.
    held: VecDeque<Bytes>,
    /// A receipt that the stream ends with.
    receipt: Option<Trailing>,
    ended: bool,
    /// The next frame waits for the log to catch up.
    busy: Option<Pin<Box<Sleep>>>,
}

/// A receipt that was asked for within the answer.
#[derive(Debug)]
pub(super) struct Trailing {
    released: oneshot::Receiver<String>,
    timer: Pin<Box<Sleep>>,
}

impl Trailing {
    /// A receipt that is waited for once the stream has ended.
    pub(super) fn new(released: oneshot::Receiver<String>) -> Self {
        let timer = Box::pin(sleep_until(Instant::now()));
        Self { released, timer }
    }

    /// Waits from now on.
    fn begin(&mut self) {
        self.timer.as_mut().reset(Instant::now() + RELEASED_WITHIN);
    }

    /// The receipt in base64; nothing if there is none, or not in time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<String>> {
        if let Poll::Ready(released) = Pin::new(&mut self.released).poll(cx) {
            return Poll::Ready(released.ok().map(|note| STANDARD.encode(note)));
        }
        self.timer.as_mut().poll(cx).map(|()| None)
    }
}

/// How long a body pauses when the log has to catch up.
pub(super) const BUSY: Duration = Duration::from_millis(20);

/// How long an answer waits for a receipt that was asked for within it.
pub(super) const RELEASED_WITHIN: Duration = Duration::from_secs(2);

/// Ends an answer whose provider says nothing for too long.
#[derive(Debug)]
struct Silence {
    within: Duration,
    last: Instant,
    /// Set when it first matters: most answers come at once.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The provider said nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("the provider was silent for {0:?}")]
struct Silent(Duration);

impl Silence {
    /// Ready when the provider was silent for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Silent> {
        loop {
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(self.last + self.within)));
            ready!(timer.as_mut().poll(cx));
            let end = self.last + self.within;
            if end <= Instant::now() {
                return Poll::Ready(Silent(self.within));
            }
            timer.as_mut().reset(end);
        }
    }
}

/// The meter of one call and where its records go.
#[derive(Debug)]
pub(super) struct Metering {
    /// Taken when the body ends.
    pub(super) meter: Option<Meter>,
    pub(super) dialect: Dialect,
    /// Settled by the first record, or dropped without one.
    pub(super) call: Option<Call>,
    pub(super) draft: Unfinished,
    pub(super) retrieval: Option<Uuid>,
    pub(super) status: u16,
    /// Gets the receipt of the first record.
    pub(super) released: Option<oneshot::Sender<String>>,
    pub(super) pool: Arc<Pool>,
}

impl Tee {
    /// A body that may be silent for `idle` at a time; that is metered, if a
    /// record may come of it; of which an event may be hidden.
    pub(super) fn new(
        body: Carried,
        idle: Duration,
        metering: Option<Metering>,
        hide: Option<Hide>,
    ) -> Self {
        let silence = Silence {
            within: idle,
            last: Instant::now(),
            timer: None,
        };
        Self {
            body,
            metering: metering.map(Box::new),
            hide: hide.map(Box::new),
            silence,
            held: VecDeque::new(),
            receipt: None,
            ended: false,
            busy: None,
        }
    }

    /// Reads on until the body has ended, or more than `limit` bytes are held.
    ///
    /// # Errors
    /// The provider broke off.
    pub(super) async fn hold(&mut self, limit: usize) -> Result<(), BoxError> {
        let mut held = VecDeque::new();
        let mut len = 0;
        while len <= limit {
            let Some(frame) = self.frame().await else {
                break;
            };
            if let Ok(data) = frame?.into_data() {
                len += data.len();
                held.push_back(data);
            }
        }
        self.held = held;
        Ok(())
    }

    /// Whether the whole body is held.
    pub(super) fn is_held(&self) -> bool {
        self.ended
    }

    /// Ends the stream with a comment that holds the receipt.
    #[must_use]
    pub(super) fn with_receipt(mut self, receipt: Trailing) -> Self {
        self.receipt = Some(receipt);
        self
    }

    /// The frame after the stream's end, if there is one.
    fn poll_receipt(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(receipt) = &mut self.receipt else {
            return Poll::Ready(None);
        };
        let note = ready!(receipt.poll(cx));
        self.receipt = None;
        Poll::Ready(note.map(|note| {
            let comment = format!(": x-tally-receipt {note}\n\n");
            Ok(Frame::data(comment.into()))
        }))
    }

    /// The stream has ended: what comes now is ours.
    fn end(&mut self) {
        self.ended = true;
        if let Some(receipt) = &mut self.receipt {
            receipt.begin();
        }
    }

    fn finish(&mut self, end: End) {
        if let Some(metering) = self.metering.take() {
            metering.finish(end);
        }
    }
}

impl Body for Tee {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(data) = self.held.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        loop {
            if let Some(busy) = &mut self.busy {
                ready!(busy.as_mut().poll(cx));
                self.busy = None;
            }
            if self.ended {
                return self.poll_receipt(cx);
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                let silent = ready!(self.silence.poll(cx));
                self.finish(End::ProviderBroke);
                return Poll::Ready(Some(Err(silent.into())));
            };
            self.silence.last = Instant::now();
            let frame = frame.map(|frame| frame.map_err(BoxError::from));
            match &frame {
                Some(Ok(frame)) => {
                    if let (Some(metering), Some(data)) = (&mut self.metering, frame.data_ref()) {
                        metering.feed(data);
                        if metering.retrieval.is_some() && metering.pool.is_busy() {
                            // A batch's lines come faster than they are stored.
                            self.busy = Some(Box::pin(sleep(BUSY)));
                        }
                    }
                    // A body of known length is never polled to its end.
                    if self.body.is_end_stream() {
                        self.finish(End::Complete);
                    }
                }
                Some(Err(_)) => self.finish(End::ProviderBroke),
                None => self.finish(End::Complete),
            }
            if frame.is_none() {
                self.end();
            }
            let Some(hide) = &mut self.hide else {
                match frame {
                    None => continue,
                    some => return Poll::Ready(some),
                }
            };
            let passing = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => hide.feed(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let rest = hide.finish();
                    self.hide = None;
                    rest
                }
            };
            if !passing.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(passing.into()))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let ours = self.hide.is_some() || self.receipt.is_some() || !self.held.is_empty();
        !ours && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.hide.is_some() || self.receipt.is_some() {
            return SizeHint::default();
        }
        let held: u64 = self.held.iter().map(|data| data.len() as u64).sum();
        longer(self.body.size_hint(), held)
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        let end = if self.body.is_end_stream() {
            End::Complete
        } else {
            End::ClientLeft
        };
        self.finish(end);
    }
}

impl Metering {
    fn feed(&mut self, data: &[u8]) {
        let Some(meter) = &mut self.meter else { return };
        meter.feed(data);
        let finished: Vec<_> = std::iter::from_fn(|| meter.take()).collect();
        for metered in finished {
            self.submit(metered);
        }
    }

    fn finish(mut self, end: End) {
        let Some(meter) = self.meter.take() else {
            return;
        };
        for metered in meter.finish(end) {
            self.submit(metered);
        }
        if let Some(call) = self.call.take() {
            call.no_record();
            announce(self.draft.provider.as_str(), self.status, &self.draft.id);
        }
    }

    fn submit(&mut self, metered: Metered) {
        self.pool.submit(Submission {
            released: self.released.take(),
            retrieval: self.retrieval,
            ..submission(&self.draft, self.dialect, metered, self.call.take())
        });
    }
}

/// What a response's record says. The first record of a call settles it and
/// has its receipt id; further ones (lines of a batch's results) get their own.
pub(super) fn submission(
    draft: &Unfinished,
    dialect: Dialect,
    metered: Metered,
    call: Option<Call>,
) -> Submission {
    let id = call.as_ref().map_or_else(Uuid::now_v7, Call::id);
    let provider = draft.provider.clone();
    let response = metered.response_id.as_deref();
    let model = metered.model.as_deref();
    let model = model.and_then(|model| base_model(dialect, model));
    let usage = Usage {
        receipt: receipt_commitment(id.as_bytes()),
        key_id: draft.key_id,
        wallet: draft.wallet.map(|wallet| (wallet, Link::Claimed)),
        source: draft.source,
        model: model.and_then(Name::new),
        counts: metered.counts,
        outcome: metered.outcome,
        inconsistent: metered.inconsistent,
        response: response.map(|r| response_commitment(provider.as_str(), r)),
        provider,
    };
    Submission {
        body: EntryBody::Usage(usage),
        receipt_id: Some(id),
        retrieval: None,
        released: None,
        call,
    }
}

/// The line of a call that gave no record; one that did logs its line when it
/// is durable, with its index.
pub(super) fn announce(provider: &str, status: u16, id: &Uuid) {
    tracing::info!(target: "gateway::call", provider, status, receipt = %id, "no record");
}
