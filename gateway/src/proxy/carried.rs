//! Bodies that are carried along: as they come in, or with a part of them
//! read already.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::connections::Answer;

/// How long a body is read that is refused.
const DRAINED_WITHIN: Duration = Duration::from_secs(10);

/// A body on its way through.
#[derive(Debug)]
pub(super) struct Carried {
    /// What was read already.
    first: VecDeque<Bytes>,
    /// What comes after that.
    rest: Option<Rest>,
    /// How much of it may still come.
    left: u64,
}

/// A body as it comes in.
#[derive(Debug)]
enum Rest {
    /// A client's.
    Asked(Incoming),
    /// A provider's.
    Answered(Answer),
}

/// Why a body could not be carried to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum CarriedError {
    /// It broke off.
    #[error(transparent)]
    BrokeOff(#[from] hyper::Error),
    /// It is longer than it may be.
    #[error("the body is longer than it may be")]
    TooLong,
}

/// A body that was read, up to a limit.
pub(super) enum Read {
    /// All of it.
    Whole(Bytes),
    /// It is longer than the limit: to be carried on.
    Longer(Carried),
}

impl Carried {
    /// A body that breaks off when it turns out longer than `limit` bytes.
    ///
    /// # Errors
    /// It says that it is.
    pub(super) fn limited(body: Incoming, limit: u64) -> Result<Self, CarriedError> {
        if body.size_hint().lower() > limit {
            drain(Rest::Asked(body));
            return Err(CarriedError::TooLong);
        }
        Ok(Self {
            left: limit,
            ..Self::from(Rest::Asked(body))
        })
    }

    /// Reads a body into memory if it is at most `limit` bytes long.
    ///
    /// # Errors
    /// The body broke off, or is too long.
    pub(super) async fn read(mut self, limit: usize) -> Result<Read, CarriedError> {
        let announced = usize::try_from(self.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > limit {
            return Ok(Read::Longer(self));
        }
        let mut frames = VecDeque::new();
        let mut len = 0;
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            len += data.len();
            frames.push_back(data);
            if len > limit {
                frames.append(&mut self.first);
                return Ok(Read::Longer(Self {
                    first: frames,
                    ..self
                }));
            }
        }
        if frames.len() == 1 {
            return Ok(Read::Whole(frames.pop_front().unwrap_or_default()));
        }
        let mut whole = BytesMut::with_capacity(len);
        frames
            .iter()
            .for_each(|frame| whole.extend_from_slice(frame));
        Ok(Read::Whole(whole.freeze()))
    }
}

impl From<Rest> for Carried {
    fn from(body: Rest) -> Self {
        Self {
            first: VecDeque::new(),
            rest: Some(body),
            left: u64::MAX,
        }
    }
}

impl From<Answer> for Carried {
    fn from(body: Answer) -> Self {
        Rest::Answered(body).into()
    }
}

impl From<Bytes> for Carried {
    fn from(body: Bytes) -> Self {
        let first = if body.is_empty() {
            VecDeque::new()
        } else {
            VecDeque::from([body])
        };
        Self {
            first,
            rest: None,
            left: 0,
        }
    }
}

impl Body for Rest {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Asked(body) => Pin::new(body).poll_frame(cx),
            Self::Answered(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Asked(body) => body.is_end_stream(),
            Self::Answered(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Asked(body) => body.size_hint(),
            Self::Answered(body) => body.size_hint(),
        }
    }
}

impl Body for Carried {
    type Data = Bytes;
    type Error = CarriedError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CarriedError>>> {
        if let Some(data) = self.first.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let Some(frame) = ready!(Pin::new(rest).poll_frame(cx)?) else {
            return Poll::Ready(None);
        };
        let len = frame.data_ref().map_or(0, Bytes::len);
        Poll::Ready(Some(match self.left.checked_sub(len as u64) {
            Some(left) => {
                self.left = left;
                Ok(frame)
            }
            None => {
                if let Some(rest) = self.rest.take() {
                    drain(rest);
                }
                Err(CarriedError::TooLong)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let first: u64 = self.first.iter().map(|data| data.len() as u64).sum();
        let rest = self.rest.as_ref();
        longer(rest.map_or(SizeHint::with_exact(0), Body::size_hint), first)
    }
}

/// Reads what is refused to its end, for a while: most clients look for an
/// answer when they have sent all, and a connection closed before loses it.
fn drain(mut body: Rest) {
    let drained = async move { while let Some(Ok(_)) = body.frame().await {} };
    tokio::spawn(tokio::time::timeout(DRAINED_WITHIN, drained));
}

/// The hint of a body before which `more` bytes stand.
pub(super) fn longer(mut hint: SizeHint, more: u64) -> SizeHint {
    if let Some(upper) = hint.upper() {
        hint.set_upper(upper + more);
    }
    hint.set_lower(hint.lower() + more);
    hint
}
