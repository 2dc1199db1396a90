//! Bodies: how decoded bytes divide into events.
//!
//! What the header says is believed unless the first bytes show otherwise.

use memchr::memchr;

use super::answer::Answer;
use super::json::Scanner;
use super::sse::{Events, Sse};

/// How a body divides into events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Server-sent events.
    Sse,
    /// One JSON document a line.
    Lines,
    /// JSON documents, usually one; or one array of them.
    Json,
    /// Not read.
    Opaque,
}

impl Framing {
    /// What a content type says; absent if it leaves it open.
    pub(super) fn of(content_type: Option<&str>) -> Option<Self> {
        let kind = content_type?.split(';').next()?.trim().to_ascii_lowercase();
        match kind.as_str() {
            "text/event-stream" => Some(Self::Sse),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonl"
            | "application/jsonlines"
            | "application/stream+json" => Some(Self::Lines),
            "application/json" | "text/json" => Some(Self::Json),
            kind if kind.ends_with("+json") => Some(Self::Json),
            kind if ["audio/", "image/", "video/"]
                .iter()
                .any(|of| kind.starts_with(of)) =>
            {
                Some(Self::Opaque)
            }
            _ => None,
        }
    }
}

/// The longest prefix that tells what a body is.
const SNIFFED: usize = 6;

/// A body as far as it has come.
#[derive(Debug)]
pub(super) struct Body {
    claimed: Option<Framing>,
    /// Absent until the first bytes have shown it.
    framing: Option<Framing>,
    /// The first bytes that are not blank, until they have.
    prefix: Vec<u8>,
    sse: Sse,
    documents: Documents,
}

impl Body {
    /// `forced` is believed whatever the bytes look like.
    pub(super) fn new(claimed: Option<Framing>, forced: Option<Framing>, answer: Answer) -> Self {
        let settled = forced.or(claimed.filter(|claimed| *claimed == Framing::Opaque));
        Self {
            claimed,
            framing: settled,
            prefix: Vec::new(),
            sse: Sse::new(),
            documents: Documents {
                scanner: Scanner::new(),
                answer,
                closed: 0,
            },
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        match self.framing {
            Some(framing) => self.read(framing, bytes),
            None => self.sniff(bytes),
        }
    }

    /// The body is over, or will not be read on.
    pub(super) fn finish(&mut self) {
        if self.framing.is_none() {
            self.settle(true);
        }
        match self.framing {
            Some(Framing::Sse) => self.sse.finish(&mut self.documents),
            Some(Framing::Lines | Framing::Json) => self.documents.cut(),
            Some(Framing::Opaque) | None => {}
        }
    }

    pub(super) fn answer(&self) -> &Answer {
        &self.documents.answer
    }

    pub(super) fn answer_mut(&mut self) -> &mut Answer {
        &mut self.documents.answer
    }

    /// Whether the answer has logically ended, as far as it has come. `cut`
    /// asks for more certainty: the body did not end by itself.
    pub(super) fn is_over(&self, cut: bool) -> bool {
        let answer = &self.documents.answer;
        let ended = answer.ended || answer.finished && (answer.settled || !cut);
        match self.framing {
            Some(Framing::Sse) => ended,
            Some(Framing::Lines) => ended || answer.events > 0 && !answer.more && !cut,
            Some(Framing::Json) => match self.documents.closed {
                0 => false,
                1 => !self.documents.scanner.is_inside(),
                _ => ended || !answer.more && !self.documents.scanner.is_inside() && !cut,
            },
            Some(Framing::Opaque) | None => false,
        }
    }

    /// Whether it only says that the response is still to come.
    pub(super) fn is_pending(&self) -> bool {
        self.framing == Some(Framing::Json)
            && self.documents.closed > 0
            && self.documents.answer.pending
    }

    /// Whether it is not something that could state usage.
    pub(super) fn is_unreadable(&self) -> bool {
        let scanner = &self.documents.scanner;
        match self.framing {
            Some(Framing::Opaque) => true,
            // An empty stream has broken off.
            None => self.claimed != Some(Framing::Sse),
            Some(Framing::Json) => scanner.is_broken() || self.documents.is_blank(),
            Some(Framing::Lines) => self.documents.answer.events == 0,
            Some(Framing::Sse) => false,
        }
    }

    fn sniff(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            let blank = self.prefix.is_empty() && byte.is_ascii_whitespace();
            if !blank {
                self.prefix.push(byte);
            }
            if self.prefix == b"\xef\xbb\xbf" {
                self.prefix.clear();
            }
            if let Some(framing) = self.settle(false) {
                return self.read(framing, rest);
            }
        }
    }

    /// Decides on the framing if the prefix shows it, and reads the prefix.
    fn settle(&mut self, last: bool) -> Option<Framing> {
        let framing = match self.prefix.first() {
            None => return None,
            Some(b'{' | b'[') => match self.claimed {
                Some(Framing::Lines) => Framing::Lines,
                _ => Framing::Json,
            },
            Some(0xef) if self.prefix.len() < 3 && !last => return None,
            Some(_) => {
                let mut fields = [&b"data:"[..], b"event:", b":", b"id:", b"retry:"].into_iter();
                let prefix = self.prefix.as_slice();
                if fields.any(|field| prefix.starts_with(field)) {
                    Framing::Sse
                } else if self.prefix.len() < SNIFFED && !last {
                    return None;
                } else {
                    self.claimed.unwrap_or(Framing::Opaque)
                }
            }
        };
        self.framing = Some(framing);
        let prefix = std::mem::take(&mut self.prefix);
        self.read(framing, &prefix);
        Some(framing)
    }

    fn read(&mut self, framing: Framing, bytes: &[u8]) {
        match framing {
            Framing::Sse => self.sse.feed(bytes, &mut self.documents),
            Framing::Lines => self.documents.lines(bytes),
            Framing::Json => self.documents.stream(bytes),
            Framing::Opaque => {}
        }
    }
}

/// JSON documents that follow one another.
#[derive(Debug)]
struct Documents {
    scanner: Scanner,
    answer: Answer,
    /// Documents read to their end.
    closed: u64,
}

impl Documents {
    /// Reads on in documents that nothing but their syntax divides.
    fn stream(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && !self.scanner.is_broken() {
            if self.scanner.is_done() {
                rest = rest.trim_ascii_start();
                if rest.is_empty() {
                    return;
                }
                self.scanner.restart();
            }
            rest = &rest[self.scanner.feed_document(rest, &mut self.answer)..];
            if self.scanner.is_done() {
                self.closed += 1;
                self.answer.commit();
            }
        }
    }

    /// Reads on in documents that lines divide.
    fn lines(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(end) = memchr(b'\n', rest) {
            self.data(&rest[..end]);
            self.end();
            rest = &rest[end + 1..];
        }
        self.data(rest);
    }

    fn is_blank(&self) -> bool {
        self.closed == 0 && !self.scanner.is_inside()
    }
}

impl Events for Documents {
    fn data(&mut self, bytes: &[u8]) {
        self.scanner.feed(bytes, &mut self.answer);
    }

    fn end(&mut self) {
        if self.scanner.is_done() {
            self.answer.commit();
        } else {
            self.answer.discard();
        }
        self.scanner.restart();
    }

    fn done(&mut self) {
        self.answer.ended = true;
    }

    fn cut(&mut self) {
        if self.scanner.is_done() {
            self.answer.commit();
        } else if self.scanner.is_inside() {
            self.answer.salvage();
        }
    }
}
