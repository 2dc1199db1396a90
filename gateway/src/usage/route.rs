//! Routes: what a request asks for, judged from its method and path.
//!
//! Paths are matched by their last segments, because providers and
//! compatible servers differ in what they put before them. The tables are
//! part of PROTOCOL.md.

use std::borrow::Cow;

/// How a provider's answers are to be read.
///
/// Counts are told apart by the names in an answer, so that a server which
/// speaks another's language is still understood. The dialect settles only
/// what names leave open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Prompt tokens include cached ones. All providers not named below.
    OpenAi,
    /// `input_tokens` excludes cache reads and writes.
    Anthropic,
    /// Gemini API and Vertex AI.
    Gemini,
    /// `billed_units` and `tokens`.
    Cohere,
    /// `prompt_eval_count` and `eval_count`.
    Ollama,
}

impl Dialect {
    /// The dialect of the provider that the configuration calls `provider`;
    /// [`Dialect::OpenAi`] for names without a dialect of their own.
    pub fn of(provider: &str) -> Self {
        match provider {
            "anthropic" => Self::Anthropic,
            "gemini" | "google" | "vertex" => Self::Gemini,
            "cohere" => Self::Cohere,
            "ollama" => Self::Ollama,
            _ => Self::OpenAi,
        }
    }
}

/// What a request asks for, which decides whether its answer gives a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Work of a model: an accepted answer always gives one record, unless it
    /// only says that the work is pending. A refused one if it states usage.
    Generate,
    /// A stored response: one record if the accepted answer states usage. The
    /// same response may be retrieved, or have been recorded, before.
    Retrieve,
    /// Results of a batch, one response a line: one record for each that
    /// states usage, of which [`Kind::Retrieve`] holds too.
    Batch,
    /// A WebSocket of which responses are asked, one after another: see
    /// [`SessionMeter`](super::SessionMeter). Without an upgrade it is [`Kind::None`].
    Session,
    /// Anything else that is posted: one record if the accepted answer states usage.
    Other,
    /// Never a record: lists, counting tokens, deleting.
    None,
}

/// `POST` to a path that ends so is [`Kind::Generate`], whatever the dialect.
const GENERATE: &[&str] = &[
    "chat/completions",
    "completions",
    "responses",
    "responses/compact",
    "messages",
    "complete",
    "embeddings",
    "images/generations",
    "images/edits",
    "images/variations",
    "audio/speech",
    "audio/transcriptions",
    "audio/translations",
    "rerank",
    "ocr",
    "interactions",
    "api/chat",
    "api/generate",
    "api/embed",
    "v1/chat",
    "v2/chat",
    "v1/embed",
    "v2/embed",
];

/// `POST` to a path that ends so is [`Kind::Generate`] in Cohere's and Ollama's dialects.
const GENERATE_SHORT: &[&str] = &["chat", "embed", "generate", "summarize", "classify"];

/// `POST` to `<resource>:<method>` with one of these is [`Kind::Generate`].
const GENERATE_METHODS: &[&str] = &[
    "generateContent",
    "streamGenerateContent",
    "embedContent",
    "batchEmbedContents",
    "generateAnswer",
    "predict",
    "rawPredict",
    "streamRawPredict",
];

/// `POST` to a path that ends so counts tokens and uses none.
const COUNTING: &[&str] = &["count_tokens", "input_tokens", "tokenize", "detokenize"];

/// `POST` to `<resource>:<method>` with one of these counts tokens and uses none.
const COUNTING_METHODS: &[&str] = &["countTokens", "computeTokens"];

/// `GET` of a path that ends so, `*` being any one segment, is [`Kind::Retrieve`].
const RETRIEVE: &[&str] = &[
    "responses/*",
    "chat/completions/*",
    "chat/deferred-completion/*",
    "interactions/*",
];

/// `POST` to a path that ends so answers with a stored response: [`Kind::Retrieve`].
const RETRIEVE_POSTED: &[&str] = &[
    "responses/*/cancel",
    "chat/completions/*",
    "interactions/*/cancel",
];

/// `GET` of a path that ends so is [`Kind::Batch`].
///
/// A file's content is not: a client can upload lines of its own making and
/// retrieve them as if a batch had given them.
const BATCH: &[&str] = &["messages/batches/*/results"];

/// `GET` of a path that ends so is [`Kind::Session`].
const SESSION: &[&str] = &[
    "realtime",
    "responses",
    "audio/transcriptions/realtime",
    "*BidiGenerateContent",
    "*BidiGenerateContentConstrained",
];

/// What a request asks for. `path` is what follows the provider's prefix,
/// with or without a query; the method is compared in upper case.
pub fn classify(dialect: Dialect, method: &str, path: &str) -> Kind {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = decoded(path);
    let segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    let ends = |patterns: &[&str]| patterns.iter().any(|pattern| ends_with(&segments, pattern));
    let verb = segments
        .last()
        .and_then(|last| last.rsplit_once(':'))
        .map(|(_, verb)| verb);
    let calls = |methods: &[&str]| verb.is_some_and(|verb| methods.contains(&verb));
    let short = matches!(dialect, Dialect::Cohere | Dialect::Ollama);
    match method {
        "GET" if ends(SESSION) => Kind::Session,
        "GET" if ends(BATCH) => Kind::Batch,
        "GET" if ends(RETRIEVE) => Kind::Retrieve,
        "POST" if ends(COUNTING) || calls(COUNTING_METHODS) => Kind::None,
        "POST" if ends(GENERATE) || calls(GENERATE_METHODS) => Kind::Generate,
        "POST" if short && ends(GENERATE_SHORT) => Kind::Generate,
        "POST" if ends(RETRIEVE_POSTED) => Kind::Retrieve,
        "POST" => Kind::Other,
        _ => Kind::None,
    }
}

/// Whether the last segments match `pattern`, where `*` is any segment and
/// `*x` any segment that ends in `x`.
fn ends_with(segments: &[&str], pattern: &str) -> bool {
    let mut rest = segments.iter().rev();
    pattern.rsplit('/').all(|wanted| {
        rest.next()
            .is_some_and(|segment| match wanted.strip_prefix('*') {
                Some(tail) => segment.ends_with(tail),
                None => *segment == wanted,
            })
    })
}

/// The path with percent escapes undone, as a server reads it: otherwise
/// `/v1/chat/completion%73` would pass unrecorded.
fn decoded(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match tail.first_chunk().and_then(hex).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex([high, low]: &[u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::{Dialect, Kind, classify};

    #[test]
    fn requests_are_told_apart_by_their_last_segments() {
        let check = |dialect, request: &str, kind| {
            let (method, path) = request.split_once(' ').expect("a method and a path");
            assert_eq!(classify(dialect, method, path), kind, "{request}");
        };
        use Dialect::{Anthropic, Cohere, Gemini, Ollama, OpenAi};
        check(OpenAi, "POST /v1/chat/completions", Kind::Generate);
        check(
            OpenAi,
            "POST /inference/v1/chat/completions?x=/y",
            Kind::Generate,
        );
        check(OpenAi, "POST //v1/chat/completions/", Kind::Generate);
        check(OpenAi, "POST /v1/chat/completion%73", Kind::Generate);
        check(
            OpenAi,
            "POST /openai/deployments/d/chat/completions?api-version=1",
            Kind::Generate,
        );
        check(OpenAi, "POST /v1/fim/completions", Kind::Generate);
        check(OpenAi, "POST /v1/responses", Kind::Generate);
        check(OpenAi, "POST /v1/responses/compact", Kind::Generate);
        check(OpenAi, "POST /v1/responses/input_tokens", Kind::None);
        check(OpenAi, "POST /v1/responses/resp_1/cancel", Kind::Retrieve);
        check(
            OpenAi,
            "POST /v1/chat/completions/chatcmpl-1",
            Kind::Retrieve,
        );
        check(OpenAi, "POST /v1/audio/transcriptions", Kind::Generate);
        check(OpenAi, "POST /v1/images/edits", Kind::Generate);
        check(OpenAi, "POST /v1/moderations", Kind::Other);
        check(OpenAi, "POST /v1/files", Kind::Other);
        check(OpenAi, "POST /v1/chat", Kind::Generate);
        check(OpenAi, "POST /chat", Kind::Other);
        check(OpenAi, "GET /v1/models", Kind::None);
        check(OpenAi, "GET /v1/chat/completions", Kind::None);
        check(
            OpenAi,
            "GET /v1/chat/completions/chatcmpl-1",
            Kind::Retrieve,
        );
        check(
            OpenAi,
            "GET /v1/chat/completions/chatcmpl-1/messages",
            Kind::None,
        );
        check(
            OpenAi,
            "GET /v1/responses/resp_1?stream=true",
            Kind::Retrieve,
        );
        check(OpenAi, "GET /v1/responses/resp_1/input_items", Kind::None);
        check(OpenAi, "DELETE /v1/responses/resp_1", Kind::None);
        check(OpenAi, "GET /v1/files/file-1/content", Kind::None);
        check(OpenAi, "GET /v1/files/file-1", Kind::None);
        check(OpenAi, "GET /v1/realtime?model=m", Kind::Session);
        check(OpenAi, "GET /v1/responses", Kind::Session);
        check(OpenAi, "GET /v1/realtime/calls", Kind::None);
        check(Anthropic, "POST /v1/messages", Kind::Generate);
        check(Anthropic, "POST /v1/messages/count_tokens", Kind::None);
        check(Anthropic, "POST /v1/messages/batches", Kind::Other);
        check(Anthropic, "GET /v1/messages/batches/b/results", Kind::Batch);
        check(Anthropic, "GET /v1/messages/batches/b", Kind::None);
        check(
            Gemini,
            "POST /v1beta/models/m:generateContent",
            Kind::Generate,
        );
        check(
            Gemini,
            "POST /v1beta/models/m%3AstreamGenerateContent?alt=sse",
            Kind::Generate,
        );
        check(Gemini, "POST /v1beta/models/m:countTokens", Kind::None);
        check(
            Gemini,
            "POST /v1beta/openai/chat/completions",
            Kind::Generate,
        );
        check(Gemini, "POST /v1beta/interactions", Kind::Generate);
        check(Gemini, "GET /v1beta/interactions/i", Kind::Retrieve);
        for path in [
            "google.ai.GenerativeService.BidiGenerateContent",
            "google.ai.GenerativeService.BidiGenerateContentConstrained?access_token=x",
            "google.cloud.aiplatform.v1.LlmBidiService/BidiGenerateContent",
        ] {
            check(Gemini, &format!("GET /ws/{path}"), Kind::Session);
        }
        check(Cohere, "POST /v2/chat", Kind::Generate);
        check(Cohere, "POST /chat", Kind::Generate);
        check(Cohere, "POST /v2/rerank", Kind::Generate);
        check(Cohere, "POST /v1/tokenize", Kind::None);
        check(Ollama, "POST /api/chat", Kind::Generate);
        check(Ollama, "POST /api/embed", Kind::Generate);
        check(Ollama, "POST /api/pull", Kind::Other);
        check(Ollama, "GET /api/tags", Kind::None);
        check(OpenAi, "post /v1/chat/completions", Kind::None);
        check(OpenAi, "POST ", Kind::Other);
        check(OpenAi, "POST /%", Kind::Other);
    }

    #[test]
    fn providers_without_a_dialect_speak_openai() {
        assert_eq!(Dialect::of("anthropic"), Dialect::Anthropic);
        assert_eq!(Dialect::of("groq"), Dialect::OpenAi);
        assert_eq!(Dialect::of(""), Dialect::OpenAi);
    }
}
