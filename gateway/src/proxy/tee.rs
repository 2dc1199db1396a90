//! The tee: passes a body's frames on as they are and shows them to the meter.
//!
//! There is no channel between upstream and client, so back-pressure is the
//! connection's own, and dropping the body cancels the upstream call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use protocol::entry::Body as EntryBody;
use protocol::hash::{receipt_commitment, response_commitment};
use protocol::name::Name;
use protocol::record::{Link, Usage};
use uuid::Uuid;

use super::carried::Carried;
use super::hide::Hide;
use crate::log::Unfinished;
use crate::log::calls::Call;
use crate::log::pool::{Pool, Submission};
use crate::usage::{Dialect, End, Meter, Metered, base_model};

/// A provider's body on its way to the client.
#[derive(Debug)]
pub struct Tee {
    body: Carried,
    metering: Option<Box<Metering>>,
    hide: Option<Hide>,
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
    pub(super) pool: Arc<Pool>,
}

impl Tee {
    /// A body that no record is made of.
    pub(super) fn passing(body: Carried) -> Self {
        Self {
            body,
            metering: None,
            hide: None,
        }
    }

    /// A body that is metered, and of which an event may be hidden.
    pub(super) fn metering(body: Carried, metering: Metering, hide: Option<Hide>) -> Self {
        Self {
            body,
            metering: Some(Box::new(metering)),
            hide,
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
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            match &frame {
                Some(Ok(frame)) => {
                    if let (Some(metering), Some(data)) = (&mut self.metering, frame.data_ref()) {
                        metering.feed(data);
                    }
                    // A body of known length is never polled to its end.
                    if self.body.is_end_stream() {
                        self.finish(End::Complete);
                    }
                }
                Some(Err(_)) => self.finish(End::ProviderBroke),
                None => self.finish(End::Complete),
            }
            let Some(hide) = &mut self.hide else {
                return Poll::Ready(frame);
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
                    if rest.is_empty() {
                        return Poll::Ready(None);
                    }
                    rest
                }
            };
            if !passing.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(passing.into()))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.hide.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.hide {
            None => self.body.size_hint(),
            Some(_) => SizeHint::default(),
        }
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

    fn finish(mut self: Box<Self>, end: End) {
        let Some(meter) = self.meter.take() else {
            return;
        };
        for metered in meter.finish(end) {
            self.submit(metered);
        }
        if self.call.is_some() {
            announce(self.draft.provider.as_str(), self.status);
        }
    }

    fn submit(&mut self, metered: Metered) {
        let call = self.call.take();
        // The header's receipt id is that of the first record; further ones
        // (lines of a batch's results) get their own.
        let id = call.as_ref().map_or_else(Uuid::now_v7, Call::id);
        let provider = self.draft.provider.clone();
        let response = metered.response_id.as_deref();
        let model = metered
            .model
            .as_deref()
            .and_then(|m| base_model(self.dialect, m));
        let usage = Usage {
            receipt: receipt_commitment(id.as_bytes()),
            key_id: self.draft.key_id,
            wallet: self.draft.wallet.map(|wallet| (wallet, Link::Claimed)),
            source: self.draft.source,
            model: model.and_then(Name::new),
            counts: metered.counts,
            outcome: metered.outcome,
            inconsistent: metered.inconsistent,
            response: response.map(|r| response_commitment(provider.as_str(), r)),
            provider,
        };
        self.pool.submit(Submission {
            body: EntryBody::Usage(usage),
            receipt_id: Some(id),
            retrieval: self.retrieval,
            call,
        });
    }
}

/// The line of a call that gave no record; one that did logs its line when it
/// is durable, with its index.
pub(super) fn announce(provider: &str, status: u16) {
    tracing::info!(target: "gateway::call", provider, status, "no record");
}
