//! Frames: what a side of a WebSocket says, read from a copy of its bytes
//! (RFC 6455 section 5, RFC 7692).
//!
//! Sans-IO. Nothing is buffered but a frame's head, so memory does not grow
//! with a message; what is compressed is decoded into one small piece at a time.

use flate2::{Decompress, FlushDecompress, Status};

/// What is decoded at a time.
const PIECE: usize = 8 << 10;

/// A session's compressed messages are decoded up to this many bytes.
const DECODED_MAX: u64 = 1 << 30;

/// Ends a compressed message, as its sender cut it off (RFC 7692 section 7.2.2).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The longest payload of a control frame.
const CONTROL_MAX: u64 = 125;

/// Gets the messages of one side.
pub(super) trait Messages {
    /// The next bytes of a message, decoded.
    fn data(&mut self, bytes: &[u8]);
    /// The message is whole.
    fn end(&mut self);
    /// Nothing that comes from here on can be read.
    fn unreadable(&mut self);
}

/// Whose frames are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The client's: masked. Told are only the bounds of frames, and the end.
    Client,
    /// The server's: never masked.
    Server,
}

/// What an answer to a handshake says of compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extension {
    None,
    /// Messages may be compressed; each by itself, if `alone`.
    Deflate {
        alone: bool,
    },
    /// One that is not known here.
    Unknown,
}

/// Reads the frames of one side.
#[derive(Debug)]
pub(super) struct Frames {
    side: Side,
    extension: Extension,
    /// A frame's head as far as it has come.
    head: [u8; 14],
    headed: usize,
    /// Bytes of the frame's payload that are still to come.
    left: u64,
    opcode: Opcode,
    last: bool,
    message: Message,
    inflate: Option<Box<Inflate>>,
    closed: bool,
    broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    /// Text, binary, and the frames that continue them.
    Data,
    Close,
    /// Ping and pong.
    Control,
}

/// The message that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    None,
    Plain,
    Compressed,
}

/// The bytes are not what they should be.
#[derive(Debug)]
struct Broken;

impl Extension {
    /// Reads the values of `sec-websocket-extensions` (RFC 6455 section 9.1).
    pub(super) fn agreed<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut agreed = Self::None;
        for extension in values.flat_map(|line| line.split(',')) {
            let mut parts = extension.split(';').map(str::trim);
            match parts.next().unwrap_or_default() {
                "" => {}
                name if name.eq_ignore_ascii_case("permessage-deflate") && agreed == Self::None => {
                    let mut parts = parts;
                    let alone = parts.any(|p| p.eq_ignore_ascii_case("server_no_context_takeover"));
                    agreed = Self::Deflate { alone };
                }
                _ => return Self::Unknown,
            }
        }
        agreed
    }
}

impl Frames {
    pub(super) fn new(side: Side, extension: Extension) -> Self {
        Self {
            side,
            extension,
            head: [0; 14],
            headed: 0,
            left: 0,
            opcode: Opcode::Control,
            last: false,
            message: Message::None,
            inflate: None,
            closed: false,
            broken: false,
        }
    }

    /// Whether this side has said that it closes.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the bytes so far end where a frame does.
    pub(super) fn is_between(&self) -> bool {
        self.headed == 0 && self.left == 0 && !self.broken
    }

    /// Whether what came is not what it should be.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Reads on, in slices of any size.
    pub(super) fn feed(&mut self, bytes: &[u8], to: &mut impl Messages) {
        if !self.broken && self.read(bytes, to).is_err() {
            self.broken = true;
            to.unreadable();
        }
    }

    fn read(&mut self, mut bytes: &[u8], to: &mut impl Messages) -> Result<(), Broken> {
        // What follows a close is to be ignored (RFC 6455 section 5.5.1).
        while !self.closed {
            if self.left == 0 {
                let Some((&byte, rest)) = bytes.split_first() else {
                    return Ok(());
                };
                bytes = rest;
                self.head[self.headed] = byte;
                self.headed += 1;
                if self.headed < self.head_len() {
                    continue;
                }
                self.begin()?;
            } else {
                let here = usize::try_from(self.left).map_or(bytes.len(), |l| l.min(bytes.len()));
                if here == 0 {
                    return Ok(());
                }
                let (payload, rest) = bytes.split_at(here);
                bytes = rest;
                self.left -= here as u64;
                self.payload(payload, to)?;
            }
            if self.left == 0 {
                self.headed = 0;
                self.end(to)?;
            }
        }
        Ok(())
    }

    /// How long the head will be, as far as its first two bytes tell.
    fn head_len(&self) -> usize {
        if self.headed < 2 {
            return 2;
        }
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        mask + match self.head[1] & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        }
    }

    /// A frame's head is complete.
    fn begin(&mut self) -> Result<(), Broken> {
        let [first, second, ..] = self.head;
        let (last, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
        let masked = second & 0x80 != 0;
        let long = |bytes: &[u8]| bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b));
        let len = match second & 0x7f {
            126 => long(&self.head[2..4]),
            127 => long(&self.head[2..10]),
            short => u64::from(short),
        };
        if masked != (self.side == Side::Client) || len > i64::MAX as u64 {
            return Err(Broken);
        }
        self.opcode = match opcode {
            0..=2 => Opcode::Data,
            8 => Opcode::Close,
            9 | 10 => Opcode::Control,
            _ => return Err(Broken),
        };
        // The client's are forwarded, whatever they mean.
        if self.side == Side::Server {
            self.check(opcode, reserved, last, len)?;
        }
        self.last = last;
        self.left = len;
        Ok(())
    }

    fn check(&mut self, opcode: u8, reserved: u8, last: bool, len: u64) -> Result<(), Broken> {
        let compressed = match reserved {
            0 => false,
            0x40 if matches!(self.extension, Extension::Deflate { .. }) => true,
            _ => return Err(Broken),
        };
        let fits = match opcode {
            0 => self.message != Message::None && !compressed,
            1 | 2 => self.message == Message::None,
            _ => last && !compressed && len <= CONTROL_MAX,
        };
        if !fits {
            return Err(Broken);
        }
        if matches!(opcode, 1 | 2) {
            self.message = match compressed {
                true => Message::Compressed,
                false => Message::Plain,
            };
        }
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8], to: &mut impl Messages) -> Result<(), Broken> {
        if self.side == Side::Client || self.opcode != Opcode::Data {
            return Ok(());
        }
        match self.message {
            Message::Compressed => self.inflate().decode(bytes, to),
            _ => {
                to.data(bytes);
                Ok(())
            }
        }
    }

    /// A frame has ended.
    fn end(&mut self, to: &mut impl Messages) -> Result<(), Broken> {
        match self.opcode {
            Opcode::Close => self.closed = true,
            Opcode::Data if self.last && self.side == Side::Server => {
                if self.message == Message::Compressed {
                    let alone = self.extension == Extension::Deflate { alone: true };
                    self.inflate().end(alone, to)?;
                }
                self.message = Message::None;
                to.end();
            }
            Opcode::Data | Opcode::Control => {}
        }
        Ok(())
    }

    fn inflate(&mut self) -> &mut Inflate {
        self.inflate.get_or_insert_with(Box::default)
    }
}

/// Decodes compressed messages; one may refer to what an earlier one said.
#[derive(Debug)]
struct Inflate {
    state: Decompress,
    piece: Box<[u8]>,
    left: u64,
}

impl Default for Inflate {
    fn default() -> Self {
        Self {
            state: Decompress::new(false),
            piece: vec![0; PIECE].into(),
            left: DECODED_MAX,
        }
    }
}

impl Inflate {
    fn decode(&mut self, mut bytes: &[u8], to: &mut impl Messages) -> Result<(), Broken> {
        loop {
            let (taken, given) = (self.state.total_in(), self.state.total_out());
            let none = FlushDecompress::None;
            let status = self.state.decompress(bytes, &mut self.piece, none);
            let taken = (self.state.total_in() - taken) as usize;
            let given = (self.state.total_out() - given) as usize;
            bytes = &bytes[taken..];
            self.left = self.left.checked_sub(given as u64).ok_or(Broken)?;
            to.data(&self.piece[..given]);
            match status.map_err(|_| Broken)? {
                // A block may say that it is the last (RFC 7692 section 7.2.3.4).
                Status::StreamEnd => self.state.reset(false),
                _ if given == self.piece.len() => {}
                _ if bytes.is_empty() => return Ok(()),
                _ if taken == 0 && given == 0 => return Err(Broken),
                _ => {}
            }
            if bytes.is_empty() && given < self.piece.len() {
                return Ok(());
            }
        }
    }

    /// The message is whole; the next one is compressed by itself, if `alone`.
    fn end(&mut self, alone: bool, to: &mut impl Messages) -> Result<(), Broken> {
        self.decode(&TAIL, to)?;
        if alone {
            self.state.reset(false);
        }
        Ok(())
    }
}
