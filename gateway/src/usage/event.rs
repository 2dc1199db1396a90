//! Events: what one JSON document of an answer or a session says.

use super::count::{Field, Tally};
use super::json::{Sink, Value};
use super::paths::Node;

/// No usage has been found.
const NO_RANK: u8 = u8::MAX;

/// What one event says.
#[derive(Debug)]
pub(super) struct Event {
    /// Its root is closed.
    pub(super) whole: bool,
    /// The usage that is believed, and its rank.
    usage: Tally,
    pub(super) rank: u8,
    /// The usage object being read.
    open: Tally,
    /// Counts that stand outside a usage object.
    loose: Tally,
    pub(super) model: Option<String>,
    pub(super) id: Option<String>,
    id_rank: u8,
    pub(super) mark: Mark,
    pub(super) finish: bool,
    pub(super) error: bool,
    pub(super) pending: bool,
    /// Whether it says that it is the last.
    pub(super) done: Option<bool>,
    pub(super) turn: Turn,
    /// The model of a session, and the one that transcribes in it.
    pub(super) session_model: Option<String>,
    pub(super) transcription_model: Option<String>,
}

/// What an event of a session says of the model's turn (Gemini).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    /// The model said something.
    pub(super) output: bool,
    /// The model calls a tool.
    pub(super) called: bool,
    /// The turn is over.
    pub(super) over: bool,
}

/// What the type of an event says about the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    None,
    /// A response begins.
    Begin,
    End,
    /// The response failed.
    Failed,
    Error,
    /// What the user said was transcribed.
    Transcribed,
}

impl Event {
    pub(super) fn new() -> Self {
        Self {
            whole: false,
            usage: Tally::new(),
            rank: NO_RANK,
            open: Tally::new(),
            loose: Tally::new(),
            model: None,
            id: None,
            id_rank: NO_RANK,
            mark: Mark::None,
            finish: false,
            error: false,
            pending: false,
            done: None,
            turn: Turn::default(),
            session_model: None,
            transcription_model: None,
        }
    }

    /// Makes room for the next event; `open` is cleared when it is opened.
    pub(super) fn clear(&mut self) {
        self.whole = false;
        self.usage.clear();
        self.rank = NO_RANK;
        self.loose.clear();
        self.model = None;
        self.id = None;
        self.id_rank = NO_RANK;
        self.mark = Mark::None;
        self.finish = false;
        self.error = false;
        self.pending = false;
        self.done = None;
        self.turn = Turn::default();
        self.session_model = None;
        self.transcription_model = None;
    }

    /// The usage that is believed: an event that says it twice counts once.
    pub(super) fn stated(&self) -> &Tally {
        if self.rank == NO_RANK {
            &self.loose
        } else {
            &self.usage
        }
    }

    /// Where a count belongs.
    fn tally(&mut self, field: Field) -> &mut Tally {
        match field {
            Field::PromptEval | Field::Eval | Field::Vertex => &mut self.loose,
            _ => &mut self.open,
        }
    }
}

impl Sink for Event {
    fn wants(&self, node: Node) -> bool {
        match node {
            Node::Id(rank) => rank < self.id_rank,
            Node::Model => self.model.is_none(),
            Node::Type | Node::Status | Node::ResponseStatus | Node::Error | Node::Unit => true,
            Node::SessionModel | Node::TranscriptionModel => true,
            _ => false,
        }
    }

    fn open(&mut self, node: Node) -> bool {
        match node {
            Node::Usage(rank) if rank > self.rank => return false,
            Node::Usage(_) => self.open.clear(),
            _ => {}
        }
        true
    }

    fn close(&mut self, node: Node) {
        match node {
            Node::Root => self.whole = true,
            Node::Usage(rank) if !self.open.is_empty() => {
                std::mem::swap(&mut self.usage, &mut self.open);
                self.rank = rank;
            }
            _ => {}
        }
    }

    fn value(&mut self, node: Node, value: Value<'_>) {
        let stated = !matches!(value, Value::Null);
        match (node, value) {
            (Node::Count(_) | Node::Sum(_), Value::Null) => {}
            (Node::Count(field), Value::Number(Some(count))) => self.tally(field).set(field, count),
            (Node::Sum(field), Value::Number(Some(count))) => self.tally(field).add(field, count),
            (Node::Count(field) | Node::Sum(field), _) => self.tally(field).refuse(),
            (Node::Unit, Value::Text(Some("duration"))) => self.open.other_unit(),
            (Node::Id(rank), Value::Text(Some(id))) if !id.is_empty() => {
                self.id = Some(id.to_owned());
                self.id_rank = rank;
            }
            (Node::Model, Value::Text(Some(model))) => self.model = named(model),
            (Node::SessionModel, Value::Text(Some(model))) => self.session_model = named(model),
            (Node::TranscriptionModel, Value::Text(Some(model))) => {
                self.transcription_model = named(model);
            }
            (Node::Type, Value::Text(Some(text))) => self.mark = Mark::of(text),
            (Node::Status, Value::Text(Some(text))) => {
                self.pending = matches!(text, "queued" | "in_progress");
            }
            (Node::ResponseStatus, Value::Text(Some("failed"))) => self.error = true,
            (Node::Error, Value::Bool(false) | Value::Text(Some(""))) => {}
            (Node::Error, _) => self.error |= stated,
            (Node::Finish, _) => self.finish |= stated,
            (Node::Done, Value::Bool(done)) => self.done = Some(done),
            (Node::Output, _) => self.turn.output |= stated,
            (Node::ToolCall, _) => self.turn.called |= stated,
            (Node::TurnOver, Value::Bool(over)) => self.turn.over = over,
            _ => {}
        }
    }
}

/// A name, unless it is empty.
fn named(model: &str) -> Option<String> {
    (!model.is_empty()).then(|| model.to_owned())
}

impl Mark {
    fn of(text: &str) -> Self {
        match text {
            "message_stop"
            | "response.completed"
            | "response.incomplete"
            | "response.done"
            | "image_generation.completed"
            | "image_edit.completed"
            | "speech.audio.done"
            | "transcript.text.done"
            | "interaction.complete"
            | "interaction.completed"
            | "message-end"
            | "stream-end" => Self::End,
            "response.created" => Self::Begin,
            "response.failed" => Self::Failed,
            "error" => Self::Error,
            "conversation.item.input_audio_transcription.completed" => Self::Transcribed,
            _ => Self::None,
        }
    }
}
