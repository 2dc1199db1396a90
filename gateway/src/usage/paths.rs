//! Paths: the places in an answer that are looked at.
//!
//! A path is walked from the root of an event, one key at a time. What no
//! table here names is skipped unread, whatever it holds.

use super::count::Field;

/// A place in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// Nothing of interest in or below it.
    Skip,
    /// One event or body; also an array of them.
    Root,
    /// The array that holds events when a body is one.
    List,
    Response,
    ResponseBody,
    Message,
    XGroq,
    Delta,
    Interaction,
    Result,
    ResultMessage,
    Session,
    SessionAudio,
    SessionInput,
    Transcription,
    ServerContent,
    Choices,
    Choice,
    Candidates,
    Candidate,
    PromptFeedback,
    Predictions,
    Prediction,
    Embeddings,
    Statistics,
    /// An object that holds counts, by the order in which they are believed:
    /// when an event states several, the lowest counts and the others are dropped.
    Usage(u8),
    InputDetails,
    OutputDetails,
    Iterations,
    Iteration,
    CohereTokens,
    CohereBilled,
    /// A number, taken as it is.
    Count(Field),
    /// A number, summed over the event.
    Sum(Field),
    /// A response id, by the order in which they are believed.
    Id(u8),
    /// The name of the model.
    Model,
    /// What an event is.
    Type,
    /// How far a response is.
    Status,
    /// How a response within an event ended.
    ResponseStatus,
    /// The name of a session's model.
    SessionModel,
    /// The name of the model that transcribes in a session.
    TranscriptionModel,
    /// Anything but null is something that the model says.
    Output,
    /// Anything but null is a call of a tool.
    ToolCall,
    /// Whether the model's turn is over.
    TurnOver,
    /// Anything but null, false and an empty text is an error.
    Error,
    /// Anything but null says that generating has ended.
    Finish,
    /// Whether this is the last event.
    Done,
    /// What usage is counted in.
    Unit,
}

/// What a value at a node must be for its parts to be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Object(&'static Table),
    Array(Node),
    Leaf,
}

impl Node {
    pub(super) fn shape(self) -> Shape {
        match self {
            Self::Root => Shape::Object(&ROOT),
            Self::List => Shape::Array(Self::Root),
            Self::Response => Shape::Object(&RESPONSE),
            Self::ResponseBody => Shape::Object(&RESPONSE_BODY),
            Self::Message => Shape::Object(&MESSAGE),
            Self::XGroq => Shape::Object(&X_GROQ),
            Self::Delta => Shape::Object(&DELTA),
            Self::Interaction => Shape::Object(&INTERACTION),
            Self::Result => Shape::Object(&RESULT),
            Self::ResultMessage => Shape::Object(&RESULT_MESSAGE),
            Self::Session => Shape::Object(&SESSION),
            Self::SessionAudio => Shape::Object(&SESSION_AUDIO),
            Self::SessionInput => Shape::Object(&SESSION_INPUT),
            Self::Transcription => Shape::Object(&TRANSCRIPTION),
            Self::ServerContent => Shape::Object(&SERVER_CONTENT),
            Self::Choices => Shape::Array(Self::Choice),
            Self::Choice => Shape::Object(&CHOICE),
            Self::Candidates => Shape::Array(Self::Candidate),
            Self::Candidate => Shape::Object(&CANDIDATE),
            Self::PromptFeedback => Shape::Object(&PROMPT_FEEDBACK),
            Self::Predictions => Shape::Array(Self::Prediction),
            Self::Prediction => Shape::Object(&PREDICTION),
            Self::Embeddings => Shape::Object(&EMBEDDINGS),
            Self::Statistics => Shape::Object(&STATISTICS),
            Self::Usage(_) => Shape::Object(&USAGE),
            Self::InputDetails => Shape::Object(&INPUT_DETAILS),
            Self::OutputDetails => Shape::Object(&OUTPUT_DETAILS),
            Self::Iterations => Shape::Array(Self::Iteration),
            Self::Iteration => Shape::Object(&ITERATION),
            Self::CohereTokens => Shape::Object(&COHERE_TOKENS),
            Self::CohereBilled => Shape::Object(&COHERE_BILLED),
            _ => Shape::Leaf,
        }
    }
}

/// The keys of one object that are looked at.
#[derive(Debug)]
pub(super) struct Table {
    keys: &'static [(&'static str, Node)],
    /// For each hash, one more than the place in `keys` of the key that has
    /// it; keys of equal hash take the next free slots. 0 is a free slot.
    slots: [u8; SLOTS],
}

const SLOTS: usize = 64;

impl Table {
    const fn new(keys: &'static [(&'static str, Node)]) -> Self {
        assert!(keys.len() < SLOTS, "a free slot ends each search");
        let mut slots = [0; SLOTS];
        let mut at = 0;
        while at < keys.len() {
            let mut slot = hash(keys[at].0.as_bytes());
            while slots[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            at += 1;
            slots[slot] = at as u8;
        }
        Self { keys, slots }
    }

    #[inline]
    pub(super) fn child(&self, key: &[u8]) -> Node {
        let mut slot = hash(key);
        while let Some(at) = usize::from(self.slots[slot]).checked_sub(1) {
            let (name, node) = self.keys[at];
            if name.as_bytes() == key {
                return node;
            }
            slot = (slot + 1) % SLOTS;
        }
        Node::Skip
    }
}

/// Few keys share it, and it reads three bytes.
#[inline]
const fn hash(key: &[u8]) -> usize {
    match key {
        [] => 0,
        [first, .., last] => (key.len() * 5 + *first as usize * 3 + *last as usize * 7) % SLOTS,
        [only] => *only as usize % SLOTS,
    }
}

static ROOT: Table = Table::new(&[
    ("id", Node::Id(5)),
    ("type", Node::Type),
    ("model", Node::Model),
    ("choices", Node::Choices),
    ("usage", Node::Usage(0)),
    ("delta", Node::Delta),
    ("response", Node::Response),
    ("message", Node::Message),
    ("error", Node::Error),
    ("status", Node::Status),
    ("x_groq", Node::XGroq),
    ("candidates", Node::Candidates),
    ("usageMetadata", Node::Usage(4)),
    ("modelVersion", Node::Model),
    ("responseId", Node::Id(6)),
    ("promptFeedback", Node::PromptFeedback),
    ("interaction", Node::Interaction),
    ("event_type", Node::Type),
    ("predictions", Node::Predictions),
    ("result", Node::Result),
    ("meta", Node::Usage(6)),
    ("response_id", Node::Id(7)),
    ("done", Node::Done),
    ("is_finished", Node::Done),
    ("prompt_eval_count", Node::Count(Field::PromptEval)),
    ("eval_count", Node::Count(Field::Eval)),
    ("session", Node::Session),
    ("serverContent", Node::ServerContent),
    ("toolCall", Node::ToolCall),
]);
static RESPONSE: Table = Table::new(&[
    ("id", Node::Id(2)),
    ("model", Node::Model),
    ("usage", Node::Usage(1)),
    ("error", Node::Error),
    ("status", Node::ResponseStatus),
    ("meta", Node::Usage(7)),
    ("body", Node::ResponseBody),
    ("response_id", Node::Id(7)),
]);
static RESPONSE_BODY: Table = Table::new(&[
    ("id", Node::Id(0)),
    ("model", Node::Model),
    ("usage", Node::Usage(9)),
]);
static MESSAGE: Table = Table::new(&[
    ("id", Node::Id(3)),
    ("model", Node::Model),
    ("usage", Node::Usage(2)),
]);
static X_GROQ: Table = Table::new(&[("usage", Node::Usage(3))]);
static DELTA: Table = Table::new(&[("usage", Node::Usage(5))]);
static INTERACTION: Table = Table::new(&[
    ("id", Node::Id(4)),
    ("model", Node::Model),
    ("usage", Node::Usage(8)),
    ("error", Node::Error),
]);
static RESULT: Table = Table::new(&[("message", Node::ResultMessage)]);
static RESULT_MESSAGE: Table = Table::new(&[
    ("id", Node::Id(1)),
    ("model", Node::Model),
    ("usage", Node::Usage(10)),
]);
static SESSION: Table = Table::new(&[
    ("model", Node::SessionModel),
    ("audio", Node::SessionAudio),
    ("input_audio_transcription", Node::Transcription),
]);
static SESSION_AUDIO: Table = Table::new(&[("input", Node::SessionInput)]);
static SESSION_INPUT: Table = Table::new(&[("transcription", Node::Transcription)]);
static TRANSCRIPTION: Table = Table::new(&[("model", Node::TranscriptionModel)]);
static SERVER_CONTENT: Table = Table::new(&[
    ("modelTurn", Node::Output),
    ("outputTranscription", Node::Output),
    ("turnComplete", Node::TurnOver),
]);
static CHOICE: Table = Table::new(&[("finish_reason", Node::Finish)]);
static CANDIDATE: Table = Table::new(&[("finishReason", Node::Finish)]);
static PROMPT_FEEDBACK: Table = Table::new(&[("blockReason", Node::Finish)]);
static PREDICTION: Table = Table::new(&[("embeddings", Node::Embeddings)]);
static EMBEDDINGS: Table = Table::new(&[("statistics", Node::Statistics)]);
static STATISTICS: Table = Table::new(&[("token_count", Node::Sum(Field::Vertex))]);
static USAGE: Table = Table::new(&[
    ("prompt_tokens", Node::Count(Field::Prompt)),
    ("completion_tokens", Node::Count(Field::Completion)),
    ("total_tokens", Node::Count(Field::Total)),
    ("prompt_tokens_details", Node::InputDetails),
    ("completion_tokens_details", Node::OutputDetails),
    ("input_tokens", Node::Count(Field::Input)),
    ("output_tokens", Node::Count(Field::Output)),
    ("input_tokens_details", Node::InputDetails),
    ("input_token_details", Node::InputDetails),
    ("output_tokens_details", Node::OutputDetails),
    ("output_token_details", Node::OutputDetails),
    ("prompt_cache_hit_tokens", Node::Count(Field::CacheHit)),
    ("cached_tokens", Node::Count(Field::CachedFlat)),
    ("cache_read_input_tokens", Node::Count(Field::CacheRead)),
    (
        "cache_creation_input_tokens",
        Node::Count(Field::CacheCreation),
    ),
    ("iterations", Node::Iterations),
    ("type", Node::Unit),
    ("promptTokenCount", Node::Count(Field::PromptCount)),
    ("candidatesTokenCount", Node::Count(Field::CandidatesCount)),
    ("responseTokenCount", Node::Count(Field::ResponseCount)),
    ("thoughtsTokenCount", Node::Count(Field::ThoughtsCount)),
    ("toolUsePromptTokenCount", Node::Count(Field::ToolCount)),
    ("cachedContentTokenCount", Node::Count(Field::CachedCount)),
    ("totalTokenCount", Node::Count(Field::TotalCount)),
    ("total_input_tokens", Node::Count(Field::TotalInput)),
    ("total_output_tokens", Node::Count(Field::TotalOutput)),
    ("total_thought_tokens", Node::Count(Field::TotalThought)),
    ("total_tool_use_tokens", Node::Count(Field::TotalTool)),
    ("total_cached_tokens", Node::Count(Field::TotalCached)),
    ("tokens", Node::CohereTokens),
    ("billed_units", Node::CohereBilled),
]);
static INPUT_DETAILS: Table = Table::new(&[
    ("cached_tokens", Node::Count(Field::Cached)),
    ("cache_write_tokens", Node::Count(Field::CacheWrite)),
]);
static OUTPUT_DETAILS: Table = Table::new(&[
    ("reasoning_tokens", Node::Count(Field::Reasoning)),
    ("thinking_tokens", Node::Count(Field::Thinking)),
]);
static ITERATION: Table = Table::new(&[
    ("input_tokens", Node::Sum(Field::IterationInput)),
    ("output_tokens", Node::Sum(Field::IterationOutput)),
    (
        "cache_read_input_tokens",
        Node::Sum(Field::IterationCacheRead),
    ),
    (
        "cache_creation_input_tokens",
        Node::Sum(Field::IterationCacheCreation),
    ),
]);
static COHERE_TOKENS: Table = Table::new(&[
    ("input_tokens", Node::Count(Field::CohereInput)),
    ("output_tokens", Node::Count(Field::CohereOutput)),
]);
static COHERE_BILLED: Table = Table::new(&[
    ("input_tokens", Node::Count(Field::BilledInput)),
    ("output_tokens", Node::Count(Field::BilledOutput)),
]);

#[cfg(test)]
mod tests {
    use super::{Node, ROOT, Shape};

    /// The longest chain of containers from the root, which the scanner's
    /// stack must hold beside the list around it.
    fn depth(node: Node) -> usize {
        match node.shape() {
            Shape::Leaf => 0,
            Shape::Array(element) => 1 + depth(element),
            Shape::Object(table) => {
                1 + table
                    .keys
                    .iter()
                    .map(|(_, node)| depth(*node))
                    .max()
                    .unwrap_or(0)
            }
        }
    }

    #[test]
    fn the_scanners_stack_holds_every_path() {
        assert!(depth(Node::List) <= super::super::json::DEPTH);
    }

    #[test]
    fn keys_are_found_whole() {
        assert_eq!(ROOT.child(b"usage"), Node::Usage(0));
        assert_eq!(ROOT.child(b"usagf"), Node::Skip);
        assert_eq!(ROOT.child(b"Usage"), Node::Skip);
        assert_eq!(ROOT.child(b""), Node::Skip);
        assert_eq!(ROOT.child(&[b'x'; 64]), Node::Skip);
        assert_eq!(ROOT.child(&[b'x'; 64 + 5]), Node::Skip);
    }
}
