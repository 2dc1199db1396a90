//! WebSockets from both ends: a stand-in for providers whose sessions play
//! the sample answers in `providers/`, and a client that shows every byte.
//!
//! The model that a client names decides: `realtime.ndjson` is played turn by
//! turn, one for each message of the client; what follows a `~` is the manner
//! (see [`Manner`]).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::Value;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::provider::body;

/// How big the message is that [`Manner::Huge`] sends.
pub(crate) const HUGE: usize = 100 << 20;

/// A session as the stand-in saw it.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// The request, up to the empty line.
    pub(crate) head: String,
    /// Everything after it.
    pub(crate) bytes: Vec<u8>,
    /// The connection has ended.
    pub(crate) over: bool,
}

/// A running stand-in.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// How a session is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Plain,
    /// In fragments with pings between them, written in slices.
    Fragmented,
    /// Compressed, if the client offers it, in fragments.
    Compressed,
    /// Breaks off within the second turn.
    Abort,
    /// Says nothing more within the second turn.
    Stall,
    /// Takes a second for each turn.
    Slow,
    /// Sends a message of 100 MiB in the second turn.
    Huge,
    /// Masks a frame, which a server must not.
    Masked,
    /// Closes after the second turn.
    Leaves,
    /// Agrees to an extension that nobody knows, and uses it.
    Strange,
    /// Refuses the handshake.
    Refuse,
}

impl Speaker {
    /// Starts one on a free port.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let heard = Arc::new(Mutex::new(vec![]));
        let shared = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let heard = Arc::clone(&shared);
                tokio::spawn(async move {
                    let mut end = End {
                        stream,
                        heard,
                        place: None,
                    };
                    // A client that leaves is what some tests are about.
                    let _ = end.serve().await;
                    if let Some(place) = end.place {
                        end.heard.lock().expect("no panic")[place].over = true;
                    }
                });
            }
        });
        Self { url, heard }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Every session so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("no panic").clone()
    }
}

/// The stand-in's end of one connection.
struct End {
    stream: TcpStream,
    heard: Arc<Mutex<Vec<Heard>>>,
    place: Option<usize>,
}

impl End {
    async fn serve(&mut self) -> std::io::Result<()> {
        let head = head(&mut self.stream).await?;
        let place = {
            let mut heard = self.heard.lock().expect("no panic");
            heard.push(Heard {
                head: head.clone(),
                bytes: vec![],
                over: false,
            });
            heard.len() - 1
        };
        self.place = Some(place);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let provider = path.split('/').nth(1).unwrap_or_default().to_owned();
        let mut name = parameter(&path, "model");
        let mut waiting = None;
        let mut manner = Manner::of(name.as_deref().unwrap_or_default());
        if manner == Manner::Refuse {
            let body = r#"{"error":{"message":"no such key"}}"#;
            let answer = format!(
                "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            return self.stream.write_all(answer.as_bytes()).await;
        }
        // Who has not said yet what is wanted may want it compressed.
        let compresses = manner == Manner::Compressed || name.is_none();
        let compresses = self.agree(&head, compresses, manner).await?;
        let mut inflate = Decompress::new(false);
        // Gemini's clients say in their first message what they want.
        if name.is_none() {
            let message = self.message(&mut inflate).await?;
            let setup: Value = serde_json::from_slice(&message).unwrap_or_default();
            let named = setup["setup"]["model"].as_str().or(setup["model"].as_str());
            let named = named.unwrap_or_default().trim_start_matches("models/");
            manner = Manner::of(named);
            name = Some(named.to_owned());
            waiting = Some(());
        }
        let turns = turns(&provider, name.as_deref().unwrap_or_default());
        let mut voice = Voice {
            manner,
            deflate: (compresses && manner == Manner::Compressed)
                .then(|| Compress::new(Compression::default(), false)),
            // As Gemini sends JSON.
            opcode: if provider == "gemini" { 2 } else { 1 },
        };
        for (at, turn) in turns.iter().enumerate() {
            let unprompted = at == 0 && turn[0].contains("session.created");
            if !unprompted && waiting.take().is_none() {
                self.message(&mut inflate).await?;
            }
            if !self.play(&mut voice, at, turn).await? {
                return Ok(());
            }
        }
        if manner == Manner::Leaves {
            self.stream.write_all(&[0x88, 2, 0x03, 0xe8]).await?;
        }
        // Until the client closes.
        loop {
            self.message(&mut inflate).await?;
        }
    }

    /// Answers the handshake; whether messages may be compressed from now on.
    async fn agree(
        &mut self,
        head: &str,
        compresses: bool,
        manner: Manner,
    ) -> std::io::Result<bool> {
        let key = header(head, "sec-websocket-key").unwrap_or_default();
        let hash = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
        let offers = header(head, "sec-websocket-extensions").unwrap_or_default();
        let compresses = compresses && offers.contains("permessage-deflate");
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\nx-request-id: req_1\r\n",
            STANDARD.encode(hash)
        );
        if compresses {
            answer += "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        }
        if manner == Manner::Strange {
            answer += "Sec-WebSocket-Extensions: x-rot13\r\n";
        }
        if let Some(offered) = header(head, "sec-websocket-protocol") {
            let first = offered.split(',').next().unwrap_or_default();
            answer += &format!("Sec-WebSocket-Protocol: {first}\r\n");
        }
        answer += "\r\n";
        self.stream.write_all(answer.as_bytes()).await?;
        Ok(compresses)
    }

    /// Plays a turn; false ends the connection there.
    async fn play(
        &mut self,
        voice: &mut Voice,
        at: usize,
        turn: &[String],
    ) -> std::io::Result<bool> {
        for (line, text) in turn.iter().enumerate() {
            self.stream
                .write_all(&voice.frames(text.as_bytes()))
                .await?;
            if at != 1 || line != 0 {
                continue;
            }
            match voice.manner {
                Manner::Abort => return Ok(false),
                Manner::Stall => std::future::pending().await,
                Manner::Slow => tokio::time::sleep(Duration::from_secs(1)).await,
                Manner::Masked => {
                    self.stream
                        .write_all(&[0x81, 0x82, 0, 0, 0, 0, b'{', b'}'])
                        .await?
                }
                Manner::Huge => self.huge().await?,
                _ => {}
            }
        }
        Ok(true)
    }

    async fn huge(&mut self) -> std::io::Result<()> {
        let start = br#"{"type":"response.output_audio.delta","usage":{},"delta":""#;
        let end = br#""}"#;
        let len = (start.len() + HUGE + end.len()) as u64;
        let mut head = vec![0x81, 127];
        head.extend(len.to_be_bytes());
        self.stream.write_all(&head).await?;
        self.stream.write_all(start).await?;
        let piece = vec![b'A'; 1 << 20];
        for _ in 0..HUGE / piece.len() {
            self.stream.write_all(&piece).await?;
        }
        self.stream.write_all(end).await
    }

    /// The client's next message; pings are answered, and a close ends it all.
    async fn message(&mut self, inflate: &mut Decompress) -> std::io::Result<Vec<u8>> {
        loop {
            let (first, payload, raw) = frame(&mut self.stream).await?;
            if let Some(place) = self.place {
                let mut heard = self.heard.lock().expect("no panic");
                heard[place].bytes.extend(&raw);
            }
            match first & 0x0f {
                8 => {
                    let answer = [&[0x88, payload.len() as u8], payload.as_slice()].concat();
                    self.stream.write_all(&answer).await?;
                    self.stream.shutdown().await?;
                    return Err(std::io::Error::other("the client closes"));
                }
                9 => {
                    let answer = [&[0x8a, payload.len() as u8], payload.as_slice()].concat();
                    self.stream.write_all(&answer).await?;
                }
                10 => {}
                _ if first & 0x40 != 0 => return Ok(inflated(inflate, &payload)),
                _ => return Ok(payload),
            }
        }
    }
}

impl Manner {
    fn of(model: &str) -> Self {
        match model.split_once('~').map_or("", |(_, manner)| manner) {
            "fragmented" => Self::Fragmented,
            "compressed" => Self::Compressed,
            "abort" => Self::Abort,
            "stall" => Self::Stall,
            "slow" => Self::Slow,
            "huge" => Self::Huge,
            "masked" => Self::Masked,
            "leaves" => Self::Leaves,
            "strange" => Self::Strange,
            "refuse" => Self::Refuse,
            _ => Self::Plain,
        }
    }
}

/// How messages become frames.
struct Voice {
    manner: Manner,
    /// Goes on from message to message, as the protocol allows.
    deflate: Option<Compress>,
    opcode: u8,
}

impl Voice {
    fn frames(&mut self, text: &[u8]) -> Vec<u8> {
        let mut payload = text.to_vec();
        let mut reserved = if self.manner == Manner::Strange {
            0x20
        } else {
            0
        };
        if let Some(deflate) = &mut self.deflate {
            payload = Vec::with_capacity(text.len() + 1024);
            deflate
                .compress_vec(text, &mut payload, FlushCompress::Sync)
                .expect("memory takes all");
            payload.truncate(payload.len() - 4);
            reserved = 0x40;
        }
        let pieces = match self.manner {
            Manner::Fragmented => payload.len().div_ceil(3).max(1),
            Manner::Compressed => payload.len().div_ceil(2).max(1),
            _ => payload.len().max(1),
        };
        let mut out = vec![];
        let count = payload.len().div_ceil(pieces);
        for (n, piece) in payload.chunks(pieces).enumerate() {
            let opcode = if n == 0 { self.opcode | reserved } else { 0 };
            let last = if n + 1 == count { 0x80 } else { 0 };
            out.extend(head_of(last | opcode, piece.len(), 0));
            out.extend(piece);
            if self.manner == Manner::Fragmented {
                out.extend([0x89, 2, b'h', b'i']);
            }
        }
        out
    }
}

fn head_of(first: u8, len: usize, mask: u8) -> Vec<u8> {
    let mut head = vec![first];
    match len {
        0..=125 => head.push(mask | len as u8),
        126..=0xffff => {
            head.push(mask | 126);
            head.extend((len as u16).to_be_bytes());
        }
        _ => {
            head.push(mask | 127);
            head.extend((len as u64).to_be_bytes());
        }
    }
    head
}

/// The messages of a sample, turn by turn.
fn turns(provider: &str, model: &str) -> Vec<Vec<String>> {
    let file = model.split('~').next().unwrap_or_default();
    let text = String::from_utf8(body(provider, file)).expect("UTF-8");
    let events = text
        .lines()
        .map(|line| line.strip_prefix("data: ").unwrap_or(line))
        .filter(|line| line.starts_with('{'));
    let ends = |line: &str| {
        let last = [
            "\"session.created\"",
            "\"response.done\"",
            "\"response.completed\"",
            "setupComplete",
            "turnComplete",
        ];
        last.iter().any(|mark| line.contains(mark))
    };
    let mut turns = vec![vec![]];
    for event in events {
        turns
            .last_mut()
            .expect("there is one")
            .push(event.to_owned());
        if ends(event) {
            turns.push(vec![]);
        }
    }
    turns.retain(|turn| !turn.is_empty());
    assert!(!turns.is_empty(), "{provider} has no sample {file}");
    turns
}

fn inflated(inflate: &mut Decompress, payload: &[u8]) -> Vec<u8> {
    let payload = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut out = Vec::with_capacity(1 << 16);
    inflate
        .decompress_vec(&payload, &mut out, FlushDecompress::Sync)
        .expect("compressed");
    out
}

/// Reads up to the empty line after a request or an answer.
async fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The value of a header; several are joined by commas.
pub(crate) fn header(head: &str, name: &str) -> Option<String> {
    let values: Vec<&str> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn parameter(path: &str, name: &str) -> Option<String> {
    let (_, query) = path.split_once('?')?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(value.replace("%7E", "~"))
}

/// Reads one frame: its first byte, its payload, and all of it.
async fn frame(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>, Vec<u8>)> {
    let mut raw = vec![stream.read_u8().await?, stream.read_u8().await?];
    let more = match raw[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut len = u64::from(raw[1] & 0x7f);
    if more > 0 {
        len = 0;
        for _ in 0..more {
            raw.push(stream.read_u8().await?);
            len = len << 8 | u64::from(raw[raw.len() - 1]);
        }
    }
    let mut mask = [0; 4];
    if raw[1] & 0x80 != 0 {
        stream.read_exact(&mut mask).await?;
        raw.extend(mask);
    }
    let mut payload = vec![0; usize::try_from(len).expect("fits")];
    stream.read_exact(&mut payload).await?;
    raw.extend(&payload);
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok((raw[0], payload, raw))
}

/// A client that shows every byte.
#[derive(Debug)]
pub(crate) struct Client {
    /// The answer to the handshake.
    pub(crate) head: String,
    pub(crate) stream: TcpStream,
}

impl Client {
    /// Asks for a session at `base` + `path`, with further header lines.
    pub(crate) async fn connect(base: &str, path: &str, headers: &[&str]) -> Self {
        let host = base.trim_start_matches("http://");
        let (host, prefix) = host.split_once('/').unwrap_or((host, ""));
        let prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("/{prefix}")
        };
        let mut stream = TcpStream::connect(host).await.expect("listens");
        let mut request = format!(
            "GET {prefix}{path} HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        for line in headers {
            request += line;
            request += "\r\n";
        }
        request += "\r\n";
        stream.write_all(request.as_bytes()).await.expect("sent");
        let head = head(&mut stream).await.expect("an answer");
        Self { head, stream }
    }

    /// Sends a text message.
    pub(crate) async fn say(&mut self, text: &str) {
        let mask = [7, 77, 177, 211];
        let mut frame = head_of(0x81, text.len(), 0x80);
        frame.extend(mask);
        frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        self.stream.write_all(&frame).await.expect("sent");
    }

    /// Says that it closes.
    pub(crate) async fn close(&mut self) {
        let frame = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];
        self.stream.write_all(&frame).await.expect("sent");
    }

    /// The next frame's first byte and payload; absent at the end.
    pub(crate) async fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, payload, _) = frame(&mut self.stream).await.ok()?;
        Some((first, payload))
    }

    /// Hears frames until one holds `text`.
    pub(crate) async fn hear_until(&mut self, text: &str) {
        loop {
            let (_, payload) = self.hear().await.expect("it goes on");
            if payload.windows(text.len()).any(|w| w == text.as_bytes()) {
                return;
            }
        }
    }

    /// Every byte up to the end.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = vec![];
        // A reset ends it, too.
        let _ = self.stream.read_to_end(&mut bytes).await;
        bytes
    }
}
