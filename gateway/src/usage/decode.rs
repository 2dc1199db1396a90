//! Content codings: a copy of an answer's bytes, as they were before coding.
//!
//! Bounded: each coding holds its window and one buffer, however far its
//! input expands, and one answer is decoded up to [`DECODED_MAX`].
//! Checksums are left to the client, which gets the bytes untouched.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

/// Bytes decoded of one answer at most; the meter is blind from there.
const DECODED_MAX: u64 = 1 << 30;

/// Codings applied to one answer at most.
const STAGES_MAX: usize = 4;

/// Decoded bytes are handed on in pieces of at most this many.
const PIECE: usize = 16 * 1024;

/// The largest window a zstd frame may ask for: 8 MiB, as RFC 9659 has it.
const ZSTD_WINDOW_LOG: u32 = 23;

/// The longest prefix that tells whether a body is coded as claimed.
const SNIFFED: usize = 6;

/// Undoes the codings that a `content-encoding` header lists.
pub(super) struct Decoder {
    /// In the order in which they are undone.
    stages: Vec<Stage>,
    /// The first bytes, until they show whether the header is true.
    prefix: Option<Vec<u8>>,
    /// Bytes that may yet be decoded.
    left: u64,
    blind: bool,
}

/// The bytes are not what their coding allows, or too many.
struct Undecodable;

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("stages", &self.stages.len())
            .field("left", &self.left)
            .field("blind", &self.blind)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// A decoder for what the header says; blind if it names a coding that is
    /// not known.
    pub(super) fn new(content_encoding: Option<&str>) -> Self {
        let names = content_encoding
            .unwrap_or_default()
            .split(',')
            .map(str::trim);
        let coded = names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"));
        let stages: Option<Vec<Stage>> = coded.rev().map(Stage::new).collect();
        let stages = stages.filter(|stages| stages.len() <= STAGES_MAX);
        Self {
            blind: stages.is_none(),
            stages: stages.unwrap_or_default(),
            prefix: Some(Vec::new()),
            left: DECODED_MAX,
        }
    }

    /// Whether bytes went unread.
    pub(super) fn is_blind(&self) -> bool {
        self.blind
    }

    /// Hands the decoded bytes to `out`, as far as they can be told.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) {
        if self.blind || bytes.is_empty() {
            return;
        }
        let Some(mut prefix) = self.prefix.take() else {
            return self.decode(bytes, out);
        };
        // Almost always the first slice shows it, and nothing is copied.
        if prefix.is_empty() && self.sniff(bytes) {
            return self.decode(bytes, out);
        }
        prefix.extend_from_slice(bytes);
        if self.sniff(&prefix) {
            self.decode(&prefix, out);
        } else {
            self.prefix = Some(prefix);
        }
    }

    /// No more bytes come.
    pub(super) fn finish(&mut self, out: &mut dyn FnMut(&[u8])) {
        if let Some(prefix) = self.prefix.take().filter(|_| !self.blind) {
            self.decode(&prefix, out);
        }
    }

    fn decode(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) {
        self.blind = run(&mut self.stages, bytes, &mut self.left, out).is_err();
    }

    /// Compares the first bytes with what the header says, and believes the
    /// bytes. False if more of them are needed.
    fn sniff(&mut self, prefix: &[u8]) -> bool {
        match (self.stages.first(), prefix) {
            (None, [0x1f]) => return false,
            (None, [0x1f, 0x8b, ..]) => self.stages.extend(Stage::new("gzip")),
            (None, _) => {}
            (Some(Stage::Gzip(_)), [0x1f, ..]) => {}
            (Some(Stage::Gzip(_)), _) => self.stages.clear(),
            (Some(_), _) => match is_plain(prefix) {
                Some(true) => self.stages.clear(),
                Some(false) => {}
                None => return false,
            },
        }
        true
    }
}

/// Whether a body begins as an answer does, which no coded one does; absent
/// if that takes more bytes to tell.
fn is_plain(prefix: &[u8]) -> Option<bool> {
    const BEGINNINGS: [&[u8]; 10] = [
        b"data:", b"event:", b": ", b"{\"", b"{\n", b"{\r", b"{ ", b"[{", b"[\n", b"[ ",
    ];
    let text = prefix.trim_ascii_start();
    // Judged by the blanks alone, so that it does not matter how many bytes are there.
    if prefix.len() - text.len() >= SNIFFED {
        return Some(true);
    }
    if text.is_empty() {
        return None;
    }
    if BEGINNINGS
        .iter()
        .any(|beginning| text.starts_with(beginning))
    {
        return Some(true);
    }
    let open = text.len() < SNIFFED
        && BEGINNINGS
            .iter()
            .any(|beginning| beginning.starts_with(text));
    (!open).then_some(false)
}

/// Undoes the codings one by one; each hands its output to the next in pieces.
fn run(
    stages: &mut [Stage],
    bytes: &[u8],
    left: &mut u64,
    out: &mut dyn FnMut(&[u8]),
) -> Result<(), Undecodable> {
    let Some((stage, rest)) = stages.split_first_mut() else {
        out(bytes);
        return Ok(());
    };
    stage.decode(bytes, &mut |piece| {
        *left = left.checked_sub(piece.len() as u64).ok_or(Undecodable)?;
        run(rest, piece, left, out)
    })
}

/// Takes decoded bytes.
type Next<'a> = dyn FnMut(&[u8]) -> Result<(), Undecodable> + 'a;

/// One coding being undone.
enum Stage {
    Gzip(Gzip),
    Deflate(Deflate),
    Brotli(Box<Brotli>),
    Zstd(Zstd),
}

impl Stage {
    /// Absent if the coding is not known.
    fn new(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip(Gzip::new())),
            "deflate" => Some(Self::Deflate(Deflate {
                first: None,
                inflate: None,
            })),
            "br" => Some(Self::Brotli(Box::new(Brotli::new()))),
            "zstd" => Zstd::new().map(Self::Zstd),
            _ => None,
        }
    }

    fn decode(&mut self, bytes: &[u8], next: &mut Next<'_>) -> Result<(), Undecodable> {
        match self {
            Self::Gzip(gzip) => gzip.decode(bytes, next),
            Self::Deflate(deflate) => deflate.decode(bytes, next),
            Self::Brotli(brotli) => brotli.decode(bytes, next),
            Self::Zstd(zstd) => zstd.decode(bytes, next),
        }
    }
}

/// DEFLATE data, with or without a zlib wrapper.
struct Inflate {
    state: Decompress,
    piece: Box<[u8]>,
}

impl Inflate {
    fn new(zlib: bool) -> Self {
        Self {
            state: Decompress::new(zlib),
            piece: piece(),
        }
    }

    /// The bytes after the end of the data; absent if it goes on.
    fn decode<'a>(
        &mut self,
        mut bytes: &'a [u8],
        next: &mut Next<'_>,
    ) -> Result<Option<&'a [u8]>, Undecodable> {
        loop {
            let (taken, given) = (self.state.total_in(), self.state.total_out());
            let status = self
                .state
                .decompress(bytes, &mut self.piece, FlushDecompress::None);
            let taken = (self.state.total_in() - taken) as usize;
            let given = (self.state.total_out() - given) as usize;
            bytes = &bytes[taken..];
            next(&self.piece[..given])?;
            match status.map_err(|_| Undecodable)? {
                Status::StreamEnd => return Ok(Some(bytes)),
                // A full buffer may hide more that is ready.
                _ if given == self.piece.len() => {}
                _ if bytes.is_empty() => return Ok(None),
                _ if taken == 0 && given == 0 => return Err(Undecodable),
                _ => {}
            }
        }
    }
}

/// gzip (RFC 1952): members, each a header, DEFLATE data and a trailer.
struct Gzip {
    part: Part,
    inflate: Inflate,
}

/// What of a gzip member comes next.
#[derive(Clone, Copy)]
enum Part {
    /// This many bytes of the fixed header have come; its flags.
    Fixed(usize, u8),
    /// Optional parts, by the flags still to be served.
    Optional(u8),
    /// This many bytes of the length of the extra field have come; its value.
    ExtraLength(usize, usize, u8),
    /// Bytes to skip, then the optional parts left.
    Skip(usize, u8),
    /// Up to a zero byte, then the optional parts left.
    Text(u8),
    Data,
    /// Bytes of the trailer to come.
    Trailer(usize),
    /// After the last member.
    End,
}

impl Gzip {
    const CRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;

    fn new() -> Self {
        Self {
            part: Part::Fixed(0, 0),
            inflate: Inflate::new(false),
        }
    }

    fn decode(&mut self, mut bytes: &[u8], next: &mut Next<'_>) -> Result<(), Undecodable> {
        loop {
            match self.part {
                Part::Optional(flags) => {
                    self.part = Self::optional(flags);
                    continue;
                }
                Part::Skip(0, flags) => {
                    self.part = Part::Optional(flags);
                    continue;
                }
                Part::Data if !bytes.is_empty() => {
                    let Some(rest) = self.inflate.decode(bytes, next)? else {
                        return Ok(());
                    };
                    bytes = rest;
                    self.part = Part::Trailer(8);
                    continue;
                }
                _ => {}
            }
            let Some((&byte, rest)) = bytes.split_first() else {
                return Ok(());
            };
            bytes = rest;
            self.part = match self.part {
                Part::Fixed(at, flags) => self.fixed(at, flags, byte)?,
                Part::ExtraLength(0, _, flags) => Part::ExtraLength(1, usize::from(byte), flags),
                Part::ExtraLength(_, low, flags) => Part::Skip(usize::from(byte) << 8 | low, flags),
                Part::Skip(left, flags) => Part::Skip(left - 1, flags),
                Part::Text(flags) if byte == 0 => Part::Optional(flags),
                Part::Trailer(1) => Part::End,
                Part::Trailer(left) => Part::Trailer(left - 1),
                Part::End if byte == 0x1f => self.fixed(0, 0, byte)?,
                part => part,
            };
        }
    }

    fn fixed(&mut self, at: usize, flags: u8, byte: u8) -> Result<Part, Undecodable> {
        let wrong = match at {
            0 => byte != 0x1f,
            1 => byte != 0x8b,
            2 => byte != 8,
            _ => false,
        };
        if wrong {
            return Err(Undecodable);
        }
        Ok(match at {
            3 => Part::Fixed(4, byte),
            9 => {
                self.inflate.state.reset(false);
                Part::Optional(flags)
            }
            at => Part::Fixed(at + 1, flags),
        })
    }

    /// The first of the optional parts that `flags` still names.
    fn optional(flags: u8) -> Part {
        if flags & Self::EXTRA != 0 {
            Part::ExtraLength(0, 0, flags & !Self::EXTRA)
        } else if flags & Self::NAME != 0 {
            Part::Text(flags & !Self::NAME)
        } else if flags & Self::COMMENT != 0 {
            Part::Text(flags & !Self::COMMENT)
        } else if flags & Self::CRC != 0 {
            Part::Skip(2, flags & !Self::CRC)
        } else {
            Part::Data
        }
    }
}

/// `deflate`: zlib (RFC 1950) by name, raw DEFLATE in what some servers send.
struct Deflate {
    first: Option<u8>,
    /// Absent until two bytes have shown which of them it is.
    inflate: Option<Inflate>,
}

impl Deflate {
    fn decode(&mut self, bytes: &[u8], next: &mut Next<'_>) -> Result<(), Undecodable> {
        if let Some(inflate) = &mut self.inflate {
            return inflate.decode(bytes, next).map(|_| ());
        }
        let Some((&byte, rest)) = bytes.split_first() else {
            return Ok(());
        };
        let Some(first) = self.first else {
            self.first = Some(byte);
            return self.decode(rest, next);
        };
        let header = u16::from_be_bytes([first, byte]);
        let zlib = first & 0x0f == 8 && first >> 4 <= 7 && header % 31 == 0;
        let inflate = self.inflate.insert(Inflate::new(zlib));
        inflate.decode(&[first], next)?;
        inflate.decode(bytes, next).map(|_| ())
    }
}

struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    piece: Box<[u8]>,
    ended: bool,
}

impl Brotli {
    fn new() -> Self {
        // Strict: windows of up to 16 MiB, as RFC 7932 has it.
        let state = BrotliState::new_strict(
            StandardAlloc::default(),
            StandardAlloc::default(),
            StandardAlloc::default(),
        );
        Self {
            state,
            piece: piece(),
            ended: false,
        }
    }

    fn decode(&mut self, bytes: &[u8], next: &mut Next<'_>) -> Result<(), Undecodable> {
        let (mut left, mut at) = (bytes.len(), 0);
        while !self.ended {
            let (mut room, mut given, mut total) = (self.piece.len(), 0, 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut at,
                bytes,
                &mut room,
                &mut given,
                &mut self.piece,
                &mut total,
                &mut self.state,
            );
            next(&self.piece[..given])?;
            match result {
                BrotliResult::NeedsMoreOutput => {}
                // A full buffer may hide more that is ready.
                BrotliResult::NeedsMoreInput if given == self.piece.len() => {}
                BrotliResult::NeedsMoreInput => return Ok(()),
                BrotliResult::ResultSuccess => self.ended = true,
                BrotliResult::ResultFailure => return Err(Undecodable),
            }
        }
        Ok(())
    }
}

struct Zstd {
    state: zstd::stream::raw::Decoder<'static>,
    piece: Box<[u8]>,
}

impl Zstd {
    fn new() -> Option<Self> {
        let mut state = zstd::stream::raw::Decoder::new().ok()?;
        state
            .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))
            .ok()?;
        Some(Self {
            state,
            piece: piece(),
        })
    }

    fn decode(&mut self, bytes: &[u8], next: &mut Next<'_>) -> Result<(), Undecodable> {
        let mut input = InBuffer::around(bytes);
        loop {
            let mut output = OutBuffer::around(&mut *self.piece);
            self.state
                .run(&mut input, &mut output)
                .map_err(|_| Undecodable)?;
            let given = output.pos();
            next(&self.piece[..given])?;
            // A full buffer may hide more that is ready.
            if given < self.piece.len() && input.pos() == bytes.len() {
                return Ok(());
            }
        }
    }
}

fn piece() -> Box<[u8]> {
    vec![0; PIECE].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{DECODED_MAX, Decoder};

    #[test]
    fn expansion_is_bounded_over_all_codings() {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(&vec![b' '; 1 << 20])
            .expect("memory takes all");
        let once = out.finish().expect("memory takes all");
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(&once).expect("memory takes all");
        let twice = out.finish().expect("memory takes all");
        let check = |coding, body: &[u8], left: u64, blind: bool| {
            let mut decoder = Decoder::new(Some(coding));
            assert_eq!(decoder.left, DECODED_MAX);
            decoder.left = left;
            let mut given = 0;
            body.chunks(100)
                .for_each(|slice| decoder.feed(slice, &mut |piece| given += piece.len()));
            decoder.finish(&mut |piece| given += piece.len());
            assert_eq!(decoder.is_blind(), blind, "{coding} {left}");
            assert!(given as u64 <= left, "{coding}: {given} of {left}");
        };
        check("gzip", &once, 1 << 20, false);
        check("gzip", &once, (1 << 20) - 1, true);
        check("gzip", &once, 0, true);
        check("gzip,gzip", &twice, (1 << 20) + once.len() as u64, false);
        check("gzip,gzip", &twice, 1 << 20, true);
    }

    #[test]
    fn all_that_has_come_is_decoded_at_once() {
        let body: Vec<u8> = (0..20_000_u32)
            .flat_map(|i| i.wrapping_mul(i).to_string().into_bytes())
            .collect();
        let gzip = {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            out.write_all(&body).expect("memory takes all");
            out.finish().expect("memory takes all")
        };
        let brotli = {
            let mut out = brotli::CompressorWriter::new(Vec::new(), 4096, 9, 22);
            out.write_all(&body).expect("memory takes all");
            out.into_inner()
        };
        let zstd = zstd::stream::encode_all(&body[..], 9).expect("memory takes all");
        for (coding, coded) in [("gzip", gzip), ("br", brotli), ("zstd", zstd)] {
            let cut = &coded[..coded.len() - 20];
            let given = |size| {
                let (mut decoder, mut given) = (Decoder::new(Some(coding)), 0);
                cut.chunks(size)
                    .for_each(|slice| decoder.feed(slice, &mut |piece| given += piece.len()));
                given
            };
            assert_eq!(given(cut.len()), given(1), "{coding}");
        }
    }

    #[test]
    fn what_a_body_is_does_not_depend_on_its_slices() {
        let check = |body: &[u8], blind: bool| {
            for size in 1..=body.len() {
                let mut decoder = Decoder::new(Some("br"));
                body.chunks(size)
                    .for_each(|slice| decoder.feed(slice, &mut |_| {}));
                decoder.finish(&mut |_| {});
                assert_eq!(decoder.is_blind(), blind, "{body:?}, slices of {size}");
            }
        };
        check(b"     \x07\x1b\x81\x08", true);
        check(b"      \x07\x1b\x81\x08", false);
        check(b"     {\"a\"", false);
    }
}
