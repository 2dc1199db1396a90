//! Sessions: WebSockets, passed on byte for byte both ways.
//!
//! Each direction has one small buffer, filled again when it has been written
//! out: back-pressure is the connections' own, and memory does not grow with
//! a message. Of the provider's frames a copy is read (see [`super::frames`]).

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Method, Request, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use super::frames::{Frames, Messages};
use super::tee::{BUSY, announce, submission};
use crate::log::Unfinished;
use crate::log::calls::{Call, Calls, Unanswered};
use crate::log::pool::{Pool, Submission};
use crate::log::sequencer::Clock;
use crate::usage::{Dialect, End, Metered, Progress, SessionMeter};

/// What is read at a time.
const BUFFER: usize = 16 << 10;

/// How long a side may take to close once the other one has.
const CLOSING: Duration = Duration::from_secs(3);

/// A close frame of ours, going away (RFC 6455 section 7.4.1): to the client,
/// and, masked with zeros, to the provider.
const LEAVING: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];
const LEAVING_MASKED: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// Whether a request asks to become a WebSocket (RFC 6455 section 4.2.1).
pub(super) fn is_asked<B>(request: &Request<B>) -> bool {
    let says = |name, wanted: &str| {
        let mut values = request.headers().get_all(name).iter();
        values.any(|value| {
            let mut words = value.to_str().unwrap_or_default().split(',');
            words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
        })
    };
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && says(CONNECTION, "upgrade")
        && says(UPGRADE, "websocket")
}

/// Puts back what makes a request or an answer one that switches protocols.
pub(super) fn switches(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Two sides that have agreed to speak.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: OnUpgrade,
    pub(super) provider: OnUpgrade,
    /// Both may be silent for so long.
    pub(super) idle: Duration,
    /// The client's frames, and the provider's.
    pub(super) said: (Frames, Frames),
    pub(super) ledger: Ledger,
    /// Says when the gateway is to end.
    pub(super) stopping: watch::Receiver<bool>,
}

impl Session {
    /// Passes on what the sides say until one of them has closed, or says
    /// nothing for too long; then records what had begun.
    pub(super) async fn run(self) {
        let Self {
            client,
            provider,
            idle,
            said,
            mut ledger,
            mut stopping,
        } = self;
        let (Ok(client), Ok(provider)) = tokio::join!(client, provider) else {
            return ledger.finish(End::ClientLeft);
        };
        let mut sides = Sides {
            client: TokioIo::new(client),
            provider: TokioIo::new(provider),
            outward: Pipe::new(said.0),
            inward: Pipe::new(said.1),
            left: None,
            stopping: *stopping.borrow(),
            last: Instant::now(),
        };
        let mut limit = idle;
        let mut silence = std::pin::pin!(sleep_until(sides.last + limit));
        loop {
            tokio::select! {
                biased;
                passed = std::future::poll_fn(|cx| sides.poll(cx, &mut ledger)) => match passed {
                    Passed::Ahead => sleep(BUSY).await,
                    Passed::Closing => {
                        limit = idle.min(CLOSING);
                        silence.as_mut().reset(Instant::now() + limit);
                    }
                    Passed::Over => break,
                    Passed::Quiet => {
                        sides.leave().await;
                        break;
                    }
                },
                _ = stopping.changed(), if !sides.stopping => sides.stopping = true,
                () = &mut silence => {
                    let end = sides.last + limit;
                    if end <= Instant::now() {
                        break;
                    }
                    silence.as_mut().reset(end);
                }
            }
        }
        ledger.finish(sides.left.unwrap_or(End::ProviderBroke));
    }
}

/// Why passing on has paused or ended.
enum Passed {
    /// Records came faster than they are stored.
    Ahead,
    /// One side has left.
    Closing,
    /// Both have, or one broke off.
    Over,
    /// The gateway is to end, and no response runs.
    Quiet,
}

/// Both connections, and what is on its way between them.
struct Sides {
    client: TokioIo<Upgraded>,
    provider: TokioIo<Upgraded>,
    outward: Pipe,
    inward: Pipe,
    /// Who left first, once one has.
    left: Option<End>,
    stopping: bool,
    /// When anything was last passed on.
    last: Instant,
}

impl Sides {
    fn poll(&mut self, cx: &mut Context<'_>, ledger: &mut Ledger) -> Poll<Passed> {
        let stayed = self.left.is_none();
        let mut moved = false;
        let (client, provider) = (Pin::new(&mut self.client), Pin::new(&mut self.provider));
        let outward = self
            .outward
            .poll(cx, client, provider, (&mut Ignored, &mut moved));
        self.note(self.outward.is_leaving(), End::ClientLeft);
        let (client, provider) = (Pin::new(&mut self.client), Pin::new(&mut self.provider));
        let inward = self
            .inward
            .poll(cx, provider, client, (&mut *ledger, &mut moved));
        self.note(self.inward.is_leaving(), End::ProviderBroke);
        if moved {
            self.last = Instant::now();
        }
        match (outward, inward) {
            (Poll::Ready(Err(Failed::From)), _) | (_, Poll::Ready(Err(Failed::To))) => {
                self.note(true, End::ClientLeft);
                return Poll::Ready(Passed::Over);
            }
            (_, Poll::Ready(_)) => {
                self.note(true, End::ProviderBroke);
                return Poll::Ready(Passed::Over);
            }
            // What the provider said before it stopped listening still comes.
            (outward, _) => self.note(outward.is_ready(), End::ProviderBroke),
        }
        if stayed && self.left.is_some() {
            return Poll::Ready(Passed::Closing);
        }
        if ledger.is_ahead() {
            return Poll::Ready(Passed::Ahead);
        }
        let quiet = self.stopping && !ledger.meter.is_busy() && self.inward.rests();
        if quiet && self.left.is_none() {
            return Poll::Ready(Passed::Quiet);
        }
        Poll::Pending
    }

    fn note(&mut self, leaves: bool, end: End) {
        if leaves && self.left.is_none() {
            self.left = Some(end);
        }
    }

    /// Tells both sides that the gateway ends.
    async fn leave(&mut self) {
        let (inward, outward) = (self.inward.is_between(), self.outward.is_between());
        let told = async {
            if inward {
                self.client.write_all(&LEAVING).await?;
            }
            self.client.shutdown().await?;
            if outward {
                self.provider.write_all(&LEAVING_MASKED).await?;
            }
            self.provider.shutdown().await
        };
        // Who does not listen is not waited for.
        let _ = timeout(Duration::from_secs(1), told).await;
    }
}

/// Which connection of a pipe failed.
enum Failed {
    From,
    To,
}

/// One direction.
struct Pipe {
    buffer: Box<[u8]>,
    /// What of the buffer is still to be written.
    start: usize,
    end: usize,
    flushed: bool,
    /// The side that speaks has ended.
    ended: bool,
    said: Frames,
}

impl Pipe {
    fn new(said: Frames) -> Self {
        Self {
            buffer: vec![0; BUFFER].into(),
            start: 0,
            end: 0,
            flushed: true,
            ended: false,
            said,
        }
    }

    /// Whether the side that speaks has said that it closes, or is gone.
    fn is_leaving(&self) -> bool {
        self.ended || self.said.is_closed()
    }

    /// Whether nothing is on its way that should not be cut.
    fn rests(&self) -> bool {
        self.is_between() || self.start == self.end && self.said.is_broken()
    }

    /// Whether everything is passed on, up to the end of a frame.
    fn is_between(&self) -> bool {
        self.start == self.end && self.said.is_between()
    }

    /// Passes on what there is; ready when the side that speaks has ended, or
    /// one of both has failed. Says whether anything moved.
    fn poll<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
        (messages, moved): (&mut impl Messages, &mut bool),
    ) -> Poll<Result<(), Failed>> {
        loop {
            while self.start < self.end {
                let rest = &self.buffer[self.start..self.end];
                let written = ready!(to.as_mut().poll_write(cx, rest));
                match written {
                    Ok(0) | Err(_) => return Poll::Ready(Err(Failed::To)),
                    Ok(written) => self.start += written,
                }
                (*moved, self.flushed) = (true, false);
            }
            if self.ended {
                let closed = ready!(to.as_mut().poll_shutdown(cx));
                return Poll::Ready(closed.map_err(|_| Failed::To));
            }
            let read = self.fill(cx, from.as_mut());
            if !self.flushed && read.is_pending() {
                let flushed = ready!(to.as_mut().poll_flush(cx));
                flushed.map_err(|_| Failed::To)?;
                self.flushed = true;
            }
            ready!(read).map_err(|_| Failed::From)?;
            *moved = true;
            // Before it is written: a client that never reads is counted, too.
            self.said.feed(&self.buffer[..self.end], messages);
        }
    }

    fn fill<R: AsyncRead>(
        &mut self,
        cx: &mut Context<'_>,
        from: Pin<&mut R>,
    ) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(from.poll_read(cx, &mut buffer))?;
        (self.start, self.end) = (0, buffer.filled().len());
        self.ended = self.end == 0;
        Poll::Ready(Ok(()))
    }
}

/// What the client says is not looked at.
struct Ignored;

impl Messages for Ignored {
    fn data(&mut self, _: &[u8]) {}
    fn end(&mut self) {}
    fn unreadable(&mut self) {}
}

/// The meter of one session and where its records go.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) meter: SessionMeter,
    pub(super) dialect: Dialect,
    pub(super) draft: Unfinished,
    /// Set where others may be told of the same responses.
    pub(super) retrieval: Option<Uuid>,
    /// What the session's receipt id stands for, until a response has begun.
    pub(super) first: Option<Call>,
    /// The responses that run, by their numbers.
    pub(super) running: HashMap<u64, Option<Call>>,
    pub(super) calls: Calls,
    pub(super) pool: Arc<Pool>,
    pub(super) clock: Clock,
    /// There were records since that was last asked.
    pub(super) recorded: bool,
}

impl Ledger {
    fn is_ahead(&mut self) -> bool {
        std::mem::take(&mut self.recorded) && self.pool.is_busy()
    }

    fn take(&mut self, progress: Progress) {
        match progress {
            Progress::Began(number) => {
                let call = self.begin();
                self.running.insert(number, call);
            }
            Progress::Ended(number, metered) => {
                let call = self.running.remove(&number).flatten();
                self.submit(metered, call);
            }
        }
    }

    /// A response has begun: it has a receipt id, and a line in the journal.
    fn begin(&mut self) -> Option<Call> {
        let time = (self.clock)();
        let draft = |id| Unfinished {
            id,
            time,
            ..self.draft.clone()
        };
        let begun = match self.first.take() {
            Some(mut call) => match call.generates(&draft(call.id())) {
                Ok(()) => Ok(call),
                Err(error) => {
                    refused(&error);
                    return Some(call);
                }
            },
            None => {
                let begun = self.calls.begin(&draft(Uuid::now_v7()), true);
                begun.map(Unanswered::answered)
            }
        };
        begun.inspect_err(|error| refused(error)).ok()
    }

    fn submit(&mut self, metered: Metered, call: Option<Call>) {
        self.recorded = true;
        self.pool.submit(Submission {
            retrieval: self.retrieval,
            ..submission(&self.draft, self.dialect, metered, call)
        });
    }

    fn finish(mut self, end: End) {
        for progress in self.meter.finish(end) {
            self.take(progress);
        }
        if let Some(call) = self.first.take() {
            let id = call.id();
            call.no_record();
            announce(self.draft.provider.as_str(), 101, &id);
        }
    }
}

/// A response that can't be noted runs already, and is recorded all the same.
fn refused(error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(error, "a session's response is not in the journal");
}

impl Messages for Ledger {
    fn data(&mut self, bytes: &[u8]) {
        self.meter.feed(bytes);
    }

    fn end(&mut self) {
        self.meter.end_message();
        while let Some(progress) = self.meter.take() {
            self.take(progress);
        }
    }

    fn unreadable(&mut self) {
        self.meter.give_up();
    }
}
