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

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    /// The messages that were told, and whether reading was given up.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Told {
        begun: Vec<u8>,
        whole: Vec<Vec<u8>>,
        given_up: u32,
    }

    impl Messages for Told {
        fn data(&mut self, bytes: &[u8]) {
            self.begun.extend_from_slice(bytes);
        }
        fn end(&mut self) {
            self.whole.push(std::mem::take(&mut self.begun));
        }
        fn unreadable(&mut self) {
            self.given_up += 1;
        }
    }

    const DEFLATE: Extension = Extension::Deflate { alone: false };

    /// A frame as a server sends it; `head` are its first byte and what it
    /// says of its length.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..=125 => frame.push(short as u8),
            long @ 126..=0xffff => {
                frame.push(126);
                frame.extend((long as u16).to_be_bytes());
            }
            longer => {
                frame.push(127);
                frame.extend((longer as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    fn read(extension: Extension, bytes: &[u8], slice: usize) -> (Told, Frames) {
        let mut told = Told::default();
        let mut frames = Frames::new(Side::Server, extension);
        for slice in bytes.chunks(slice) {
            frames.feed(slice, &mut told);
        }
        (told, frames)
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), slice in 1_usize..9) {
            for side in [Side::Client, Side::Server] {
                let mut frames = Frames::new(side, DEFLATE);
                let mut told = Told::default();
                bytes.chunks(slice).for_each(|slice| frames.feed(slice, &mut told));
                prop_assert!(told.given_up <= 1);
                prop_assert_eq!(told.given_up == 1, frames.is_broken());
            }
        }

        #[test]
        fn messages_come_out_whole_however_they_are_sent(
            messages in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..400), 1_usize..200, any::<bool>(), any::<bool>()),
                0..6,
            ),
            slice in 1_usize..300,
            alone in any::<bool>(),
        ) {
            let mut bytes = vec![];
            let mut deflate = Compress::new(Compression::fast(), false);
            for (message, piece, compressed, binary) in &messages {
                let mut payload = message.clone();
                // The compressor has nothing to flush of an empty message
                // (RFC 7692 section 7.2.3.6 says how it is sent).
                if *compressed && message.is_empty() {
                    payload = vec![0];
                } else if *compressed {
                    payload = Vec::with_capacity(message.len() + 1024);
                    deflate.compress_vec(message, &mut payload, FlushCompress::Sync).expect("memory");
                    payload.truncate(payload.len() - TAIL.len());
                    if alone {
                        deflate.reset();
                    }
                }
                let count = payload.len().div_ceil(*piece).max(1);
                for n in 0..count {
                    let piece = &payload[n * piece..payload.len().min((n + 1) * piece)];
                    let opcode = if n > 0 { 0 } else { 1 + u8::from(*binary) };
                    let reserved = if *compressed && n == 0 { 0x40 } else { 0 };
                    let last = if n + 1 == count { 0x80 } else { 0 };
                    bytes.extend(frame(last | reserved | opcode, piece));
                    bytes.extend(frame(0x89, b"between"));
                    bytes.extend(frame(0x8a, b""));
                }
            }
            let (told, frames) = read(Extension::Deflate { alone }, &bytes, slice);
            let wanted: Vec<_> = messages.into_iter().map(|(message, ..)| message).collect();
            prop_assert_eq!(told, Told { whole: wanted, ..Told::default() });
            prop_assert!(frames.is_between() && !frames.is_closed());
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_not_read() {
        let check = |extension, bytes: &[u8], broken: bool| {
            for slice in [1, 3, 1_000] {
                let (told, frames) = read(extension, bytes, slice);
                assert_eq!(told.given_up, u32::from(broken), "{bytes:?}");
                assert_eq!(frames.is_broken(), broken, "{bytes:?}");
                assert!(!broken || !frames.is_between());
            }
        };
        let none = Extension::None;
        check(none, &frame(0x81, b"{}"), false);
        check(none, &frame(0x82, &vec![b' '; 70_000]), false);
        check(none, &[0x81, 0x82, 0, 0, 0, 0, b'{', b'}'], true);
        check(none, &frame(0xc1, b"x"), true);
        check(Extension::Unknown, &frame(0xc1, b"x"), true);
        check(DEFLATE, &frame(0xa1, b"x"), true);
        check(DEFLATE, &frame(0xc1, b"\xff\xff"), true);
        check(DEFLATE, &frame(0xc9, b""), true);
        for reserved in [3, 7, 0xb, 0xf] {
            check(none, &frame(0x80 | reserved, b""), true);
        }
        check(none, &frame(0x80, b"continues nothing"), true);
        check(none, &[frame(0x01, b"{"), frame(0x81, b"}")].concat(), true);
        check(
            none,
            &[frame(0x01, b"{"), frame(0x80, b"}")].concat(),
            false,
        );
        check(
            DEFLATE,
            &[frame(0x01, b"{"), frame(0xc0, b"}")].concat(),
            true,
        );
        check(none, &frame(0x09, b"in pieces"), true);
        check(none, &frame(0x89, &[0; 126]), true);
        check(none, &[0x81, 0xff - 0x80, 0x80, 0, 0, 0, 0, 0, 0, 0], true);
        // Nothing counts after a close.
        let closed = [frame(0x88, b""), frame(0x83, b"x")].concat();
        check(none, &closed, false);
        assert!(read(none, &closed, 1).1.is_closed());
    }

    #[test]
    fn a_block_that_says_it_is_the_last_ends_only_its_message() {
        let mut bytes = vec![];
        for text in [&b"{\"a\":1}"[..], b"{\"b\":2}"] {
            let mut payload = Vec::with_capacity(1024);
            let mut deflate = Compress::new(Compression::fast(), false);
            let whole = deflate.compress_vec(text, &mut payload, FlushCompress::Finish);
            whole.expect("memory");
            payload.push(0);
            bytes.extend(frame(0xc1, &payload));
        }
        for slice in [1, 1_000] {
            let (told, _) = read(DEFLATE, &bytes, slice);
            let wanted = [b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()];
            assert_eq!((told.whole, told.given_up), (wanted.to_vec(), 0));
        }
    }

    #[test]
    fn what_is_decoded_is_bounded() {
        let mut payload = Vec::with_capacity(1 << 20);
        let mut deflate = Compress::new(Compression::best(), false);
        let zeros = vec![0; 16 << 20];
        deflate
            .compress_vec(&zeros, &mut payload, FlushCompress::Sync)
            .expect("memory");
        payload.truncate(payload.len() - TAIL.len());
        struct Counted(u64, u32);
        impl Messages for Counted {
            fn data(&mut self, bytes: &[u8]) {
                assert!(bytes.len() <= PIECE);
                self.0 += bytes.len() as u64;
            }
            fn end(&mut self) {}
            fn unreadable(&mut self) {
                self.1 += 1;
            }
        }
        let mut told = Counted(0, 0);
        let mut frames = Frames::new(Side::Server, DEFLATE);
        frames.inflate().left = 20 << 20;
        frames.feed(&frame(0xc1, &payload), &mut told);
        assert_eq!((told.0, told.1), (16 << 20, 0));
        frames.inflate().state.reset(false);
        frames.feed(&frame(0xc1, &payload), &mut told);
        assert!(told.0 <= 20 << 20 && told.1 == 1, "{} {}", told.0, told.1);
    }

    #[test]
    fn clients_frames_tell_their_bounds_and_the_end() {
        let mut frames = Frames::new(Side::Client, DEFLATE);
        let mut told = Told::default();
        let masked = |first: u8, payload: &[u8]| {
            let mut frame = vec![first, 0x80 | payload.len() as u8, 1, 2, 3, 4];
            frame.extend(payload);
            frame
        };
        frames.feed(&masked(0xc1, b"anything"), &mut told);
        assert!(frames.is_between());
        frames.feed(&[0x89, 0x80, 1], &mut told);
        assert!(!frames.is_between());
        frames.feed(&[2, 3, 4], &mut told);
        assert!(frames.is_between() && !frames.is_closed());
        frames.feed(&masked(0x88, b"\x03\xe8"), &mut told);
        assert!(frames.is_closed());
        assert_eq!(told, Told::default());
    }

    #[test]
    fn extensions_are_read_as_they_are_agreed() {
        let check = |lines: &[&str], wanted| {
            assert_eq!(
                Extension::agreed(lines.iter().copied()),
                wanted,
                "{lines:?}"
            );
        };
        let alone = Extension::Deflate { alone: true };
        check(&[], Extension::None);
        check(&[""], Extension::None);
        check(&["permessage-deflate"], DEFLATE);
        check(&["Permessage-Deflate ; client_max_window_bits=15"], DEFLATE);
        check(
            &["permessage-deflate; server_no_context_takeover; server_max_window_bits=10"],
            alone,
        );
        check(
            &["permessage-deflate, permessage-deflate"],
            Extension::Unknown,
        );
        check(&["permessage-deflate", "x-other"], Extension::Unknown);
        check(&["x-webkit-deflate-frame"], Extension::Unknown);
    }
}
