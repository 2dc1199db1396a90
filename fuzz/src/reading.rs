//! Laws of reading usage: the same records however the bytes are cut, and only
//! such as an entry may hold. Memory is bounded by the fuzzer's limits.

#[path = "../../gateway/src/usage/decode.rs"]
#[expect(clippy::duplicate_mod, reason = "`usage` does not show its own")]
mod decoding;

use std::collections::HashSet;

use protocol::entry::{Body, Entry};
use protocol::hash::{Hash, response_commitment};
use protocol::index::Time;
use protocol::name::Name;
use protocol::record::{Source, Usage};

use crate::usage::{
    AnswerHead, Dialect, End, Kind, Meter, Metered, Progress, SessionMeter, base_model, classify,
};

const DIALECTS: [Dialect; 5] = [
    Dialect::OpenAi,
    Dialect::Anthropic,
    Dialect::Gemini,
    Dialect::Cohere,
    Dialect::Ollama,
];

const KINDS: [Kind; 6] = [
    Kind::Generate,
    Kind::Retrieve,
    Kind::Batch,
    Kind::Session,
    Kind::Other,
    Kind::None,
];

const STATUSES: [u16; 4] = [200, 101, 299, 400];

const CONTENT_TYPES: [Option<&str>; 6] = [
    None,
    Some("application/json"),
    Some("text/event-stream; charset=utf-8"),
    Some("application/x-ndjson"),
    Some("text/plain"),
    Some("audio/mpeg"),
];

const CODINGS: [Option<&str>; 9] = [
    None,
    Some("gzip"),
    Some("deflate"),
    Some("br"),
    Some("zstd"),
    Some("gzip, br"),
    Some("zstd, deflate, identity"),
    Some("gzip,gzip,gzip,gzip,gzip"),
    Some("unknown"),
];

const ENDS: [End; 3] = [End::Complete, End::ProviderBroke, End::ClientLeft];

/// Records that wait to be taken at most; of more in one slice some are lost.
const WAITING_MAX: usize = 1 << 14;

/// An answer: what is known of it before its body, how it ends, and the body.
pub fn meter(data: &[u8]) {
    let Some(([dialect, kind, content, coding, end, seed], body)) = data.split_first_chunk() else {
        return;
    };
    let head = AnswerHead {
        dialect: chosen(&DIALECTS, *dialect),
        kind: chosen(&KINDS, *kind),
        status: chosen(&STATUSES, kind / 8),
        content_type: chosen(&CONTENT_TYPES, *content),
        content_encoding: chosen(&CODINGS, *coding),
        cached_prompt_tokens: (content / 8 == 1).then_some("17"),
    };
    let end = chosen(&ENDS, *end);
    let whole = records(&head, end, std::iter::once(body));
    let single = records(&head, end, body.chunks(1));
    let sliced = records(&head, end, crate::slices(body, crate::lengths(*seed)));
    // How much precedes a fault of its input is the coding's library's to say.
    let decodes = decoded(head.content_encoding, std::iter::once(body)).is_ok();
    if decodes && single.len() < WAITING_MAX {
        assert_eq!(whole, single);
        assert_eq!(whole, sliced);
    }
    for record in [&whole, &single, &sliced].into_iter().flatten() {
        is_an_entry(head.dialect, record);
    }
    match head.kind {
        Kind::Batch => {}
        Kind::None | Kind::Session => assert!(single.is_empty()),
        _ => assert!(whole.len().max(single.len()).max(sliced.len()) <= 1),
    }
}

/// A session's messages, which newlines divide: the same responses however
/// they are cut, each beginning once and then ending once, as an entry may say.
pub fn session(data: &[u8]) {
    let Some(([dialect, end, seed], messages)) = data.split_first_chunk() else {
        return;
    };
    let (dialect, end) = (chosen(&DIALECTS, *dialect), chosen(&ENDS, *end));
    let whole = progress(dialect, end, messages, |message| vec![message]);
    let single = progress(dialect, end, messages, |message| {
        message.chunks(1).collect()
    });
    let sliced = progress(dialect, end, messages, |message| {
        crate::slices(message, crate::lengths(*seed)).collect()
    });
    assert_eq!(whole, single);
    assert_eq!(whole, sliced);
    let (mut running, mut next) = (HashSet::new(), 0);
    for step in &whole {
        match step {
            Progress::Began(number) => {
                assert_eq!(*number, next);
                next += 1;
                running.insert(number);
            }
            Progress::Ended(number, metered) => {
                assert!(running.remove(number), "{number} does not run");
                is_an_entry(dialect, metered);
            }
        }
    }
    assert!(running.is_empty(), "{running:?} have not ended");
}

fn progress(
    dialect: Dialect,
    end: End,
    messages: &[u8],
    cut: impl Fn(&[u8]) -> Vec<&[u8]>,
) -> Vec<Progress> {
    let mut meter = SessionMeter::new(dialect);
    let mut progress = Vec::new();
    for message in messages.split(|byte| *byte == b'\n') {
        cut(message).into_iter().for_each(|slice| meter.feed(slice));
        meter.end_message();
        progress.extend(std::iter::from_fn(|| meter.take()));
    }
    progress.extend(meter.finish(end));
    progress
}

/// A coded body: however it is cut, the same bytes come of it, or of one that
/// can't be decoded to its end, beginnings of the same bytes.
pub fn decode(data: &[u8]) {
    let Some(([coding, seed], body)) = data.split_first_chunk() else {
        return;
    };
    let coding = chosen(&CODINGS, *coding);
    let whole = decoded(coding, std::iter::once(body));
    let single = decoded(coding, body.chunks(1));
    let sliced = decoded(coding, crate::slices(body, crate::lengths(*seed)));
    for cut in [single, sliced] {
        match (&whole, &cut) {
            (Ok(whole), Ok(cut)) => assert!(whole == cut, "they differ"),
            (Err(whole), Err(cut)) => {
                assert!(
                    whole.starts_with(cut) || cut.starts_with(whole),
                    "they part"
                );
            }
            _ => panic!("decodable or not: {} and {}", whole.is_ok(), cut.is_ok()),
        }
    }
}

/// The decoded bytes, the first mebibyte of them, or those before a fault.
fn decoded<'a>(
    coding: Option<&str>,
    slices: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, Vec<u8>> {
    let mut decoder = decoding::Decoder::new(coding);
    let mut bytes = Vec::new();
    let mut keep = |piece: &[u8]| {
        let room = (1 << 20) - bytes.len();
        bytes.extend_from_slice(&piece[..piece.len().min(room)]);
    };
    slices.for_each(|slice| decoder.feed(slice, &mut keep));
    decoder.finish(&mut keep);
    if decoder.is_blind() {
        Err(bytes)
    } else {
        Ok(bytes)
    }
}

/// A request's method and path are always judged, and a model's name is cut to
/// a part of itself, or to nothing.
pub fn path(data: &[u8]) {
    let Some((dialect, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let dialect = chosen(&DIALECTS, *dialect);
    let (method, path) = text.split_once(' ').unwrap_or(("POST", text));
    let kind = classify(dialect, method, path);
    if !matches!(method, "GET" | "POST") {
        assert_eq!(kind, Kind::None);
    }
    // What stands before the last segments decides nothing.
    assert_eq!(classify(dialect, method, &format!("/v0/{path}")), kind);
    if let Some(base) = base_model(dialect, text) {
        assert!(!base.is_empty() && text.contains(base));
    }
}

fn records<'a>(
    head: &AnswerHead<'_>,
    end: End,
    slices: impl Iterator<Item = &'a [u8]>,
) -> Vec<Metered> {
    let mut meter = Meter::new(head);
    let mut records = Vec::new();
    for slice in slices {
        meter.feed(slice);
        records.extend(std::iter::from_fn(|| meter.take()));
    }
    records.extend(meter.finish(end));
    records
}

/// What was read is stored as the proxy stores it, and a reader accepts that.
fn is_an_entry(dialect: Dialect, metered: &Metered) {
    let names = [&metered.model, &metered.response_id];
    assert!(names.into_iter().flatten().all(|name| name.len() <= 256));
    let model = metered.model.as_deref();
    let body = Body::Usage(Usage {
        receipt: Hash::EMPTY_ROOT,
        key_id: None,
        wallet: None,
        source: Source::Proxy,
        provider: Name::new("openai").expect("a name"),
        model: model
            .and_then(|m| base_model(dialect, m))
            .and_then(Name::new),
        counts: metered.counts,
        outcome: metered.outcome,
        inconsistent: metered.inconsistent,
        response: metered
            .response_id
            .as_deref()
            .map(|id| response_commitment("openai", id)),
    });
    let time = Time::from_secs(1).expect("small");
    let read = Entry::parse(&body.encode(time));
    assert_eq!(read, Ok(Entry::Known { time, body }), "{metered:?}");
}

fn chosen<T: Copy>(choices: &[T], byte: u8) -> T {
    choices[usize::from(byte) % choices.len()]
}
