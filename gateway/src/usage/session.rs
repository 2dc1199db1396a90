//! Sessions: from the messages of a WebSocket's server to usage records.
//!
//! ```text
//! OpenAI   response.created .. response.done           a response, by its id
//!          .. transcription.completed {usage}          a response of its own
//! Gemini   modelTurn .. turnComplete {usageMetadata}   a response, one at a time
//!          toolCall .. {usageMetadata}                 another: the answer to
//!                                                      the call is the next one
//! ```
//! Gemini's counts are of the turn, not of the session so far, though each
//! prompt holds what was said before.

use std::collections::VecDeque;

use protocol::record::{Counts, Outcome};

use super::count::{Reading, Tally};
use super::event::{Event, Mark};
use super::json::Scanner;
use super::{Dialect, End, Metered};

/// Responses that run at once, at most; of more, the oldest counts as broken off.
const OPEN_MAX: usize = 64;

/// What a session has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A response has begun. Sessions number theirs from 0.
    Began(u64),
    /// The response has ended; it had begun.
    Ended(u64, Metered),
}

/// Reads the messages of a session's server, in memory that grows neither with
/// them nor with their number.
///
/// It never fails: what cannot be read is not counted.
#[derive(Debug)]
pub struct SessionMeter {
    dialect: Dialect,
    scanner: Scanner,
    event: Event,
    responses: VecDeque<Response>,
    turn: Option<Turn>,
    model: Option<String>,
    transcription_model: Option<String>,
    /// The number of the next response.
    next: u64,
    progress: VecDeque<Progress>,
    unreadable: bool,
}

/// A response that has begun.
#[derive(Debug)]
struct Response {
    number: u64,
    id: Option<String>,
    model: Option<String>,
    usage: Tally,
}

/// A response that only the order of events tells of.
#[derive(Debug)]
struct Turn {
    response: Response,
    /// It called a tool, so that it ends when it has stated its usage.
    called: bool,
    /// It is over, but for its usage.
    over: bool,
}

impl SessionMeter {
    /// Begins a session.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            scanner: Scanner::new(),
            event: Event::new(),
            responses: VecDeque::new(),
            turn: None,
            model: None,
            transcription_model: None,
            next: 0,
            progress: VecDeque::new(),
            unreadable: false,
        }
    }

    /// Reads on in a message, in slices of any size.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.scanner.feed(bytes, &mut self.event);
    }

    /// The message is whole. One that is no JSON object says nothing.
    pub fn end_message(&mut self) {
        if self.scanner.is_done() && self.event.whole {
            self.merge();
        }
        self.event.clear();
        self.scanner.restart();
    }

    /// The session's messages can't be read any more.
    pub fn give_up(&mut self) {
        self.unreadable = true;
    }

    /// What has come of the messages so far, to be taken after each.
    pub fn take(&mut self) -> Option<Progress> {
        self.progress.pop_front()
    }

    /// Whether a response runs.
    pub fn is_busy(&self) -> bool {
        !self.responses.is_empty() || self.turn.as_ref().is_some_and(|turn| !turn.over)
    }

    /// Ends the session: what had begun and not ended. If it could not be
    /// read, one response stands for those that were missed.
    pub fn finish(&mut self, end: End) -> Vec<Progress> {
        let cut = match end {
            End::ClientLeft => Outcome::Aborted,
            End::Complete | End::ProviderBroke => Outcome::Partial,
        };
        while let Some(response) = self.responses.pop_front() {
            self.end(response, Some(cut));
        }
        if let Some(turn) = self.turn.take() {
            self.end(turn.response, (!turn.over).then_some(cut));
        }
        if self.unreadable {
            let missed = self.begin();
            self.end(missed, Some(Outcome::Unmetered));
        }
        self.progress.drain(..).collect()
    }

    fn merge(&mut self) {
        if let Some(model) = self.event.session_model.take() {
            self.model = Some(model);
        }
        if let Some(model) = self.event.transcription_model.take() {
            self.transcription_model = Some(model);
        }
        match self.event.mark {
            Mark::Begin => {
                let mut response = self.begin();
                response.id = self.event.id.take();
                response.model = self.event.model.take().or_else(|| self.model.clone());
                self.responses.push_back(response);
                if self.responses.len() > OPEN_MAX
                    && let Some(oldest) = self.responses.pop_front()
                {
                    self.end(oldest, Some(Outcome::Partial));
                }
            }
            Mark::End | Mark::Failed => self.ended(),
            Mark::Transcribed => self.alone(self.transcription_model.clone()),
            Mark::None | Mark::Error if self.speaks_in_turns() => self.turn(),
            Mark::None | Mark::Error => match self.running() {
                Some(at) => self.responses[at].usage.merge(self.event.stated()),
                None => self.alone(self.model.clone()),
            },
        }
    }

    /// Which response the event is about, by the id that it names; the oldest
    /// without an id, if none has that.
    fn running(&self) -> Option<usize> {
        let of = |id: Option<&String>| {
            let mut running = self.responses.iter();
            running.position(|response| response.id.as_ref() == id)
        };
        of(self.event.id.as_ref()).or_else(|| of(None))
    }

    /// A response has ended, by its own event.
    fn ended(&mut self) {
        let known = self.running().and_then(|at| self.responses.remove(at));
        let mut response = match known {
            Some(response) => response,
            None => self.begin(),
        };
        response.id = response.id.or(self.event.id.take());
        response.model = self.event.model.take().or(response.model);
        response.model = response.model.or_else(|| self.model.clone());
        response.usage.merge(self.event.stated());
        let failed = self.event.error || self.event.mark == Mark::Failed;
        self.end(response, failed.then_some(Outcome::Partial));
    }

    /// An event that states usage is a response by itself.
    fn alone(&mut self, model: Option<String>) {
        if self.event.stated().is_empty() {
            return;
        }
        let mut response = self.begin();
        response.id = self.event.id.take();
        response.model = self.event.model.take().or(model);
        response.usage.merge(self.event.stated());
        self.end(response, None);
    }

    /// Whether the event is of a session whose responses have no ids.
    fn speaks_in_turns(&self) -> bool {
        let turn = self.event.turn;
        turn.output || turn.called || turn.over || self.turn.is_some() && self.event.id.is_none()
    }

    fn turn(&mut self) {
        let said = self.event.turn;
        let stated = !self.event.stated().is_empty();
        let speaks = said.output || said.called;
        if speaks && let Some(before) = self.turn.take_if(|turn| turn.over) {
            self.end(before.response, None);
        }
        if self.turn.is_none() && (speaks || stated) {
            let mut response = self.begin();
            response.model = self.event.model.take();
            self.turn = Some(Turn {
                response,
                called: false,
                over: false,
            });
        }
        // With nothing under way, an end closes nothing.
        let Some(turn) = &mut self.turn else { return };
        turn.response.usage.merge(self.event.stated());
        turn.called |= said.called;
        turn.over |= said.over;
        let settled = turn.over && !turn.response.usage.is_empty() || turn.called && stated;
        if settled && let Some(turn) = self.turn.take() {
            self.end(turn.response, None);
        }
    }

    fn begin(&mut self) -> Response {
        let number = self.next;
        self.next += 1;
        self.progress.push_back(Progress::Began(number));
        Response {
            number,
            id: None,
            model: None,
            usage: Tally::new(),
        }
    }

    /// A response ends as `outcome` says, else by what it stated.
    fn end(&mut self, response: Response, outcome: Option<Outcome>) {
        let reading = response.usage.reading(self.dialect, None);
        let stated = match &reading {
            Some(_) => Outcome::Complete,
            None => Outcome::Unmetered,
        };
        let Reading {
            counts,
            inconsistent,
        } = reading.unwrap_or(Reading {
            counts: Counts::NONE,
            inconsistent: false,
        });
        let metered = Metered {
            counts,
            outcome: outcome.unwrap_or(stated),
            inconsistent,
            model: response.model,
            response_id: response.id,
        };
        self.progress
            .push_back(Progress::Ended(response.number, metered));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of a session whose server sends `messages` and which then
    /// ends so: outcome, input, output, model and response id of each.
    fn records(dialect: Dialect, messages: &[&str], end: End) -> Vec<String> {
        let mut meter = SessionMeter::new(dialect);
        let mut progress = vec![];
        for message in messages {
            for slice in message.as_bytes().chunks(7) {
                meter.feed(slice);
            }
            meter.end_message();
            progress.extend(std::iter::from_fn(|| meter.take()));
        }
        progress.extend(meter.finish(end));
        let mut begun = std::collections::HashSet::new();
        let mut records = vec![];
        for step in progress {
            match step {
                Progress::Began(number) => assert!(begun.insert(number), "begun twice"),
                Progress::Ended(number, metered) => {
                    assert!(begun.remove(&number), "ended without having begun");
                    let count = |n: Option<u32>| n.map_or("-".into(), |n| n.to_string());
                    let name = |n: Option<String>| n.unwrap_or_else(|| "-".into());
                    records.push(format!(
                        "{} {} {} {} {}",
                        metered.outcome.as_str(),
                        count(metered.counts.input),
                        count(metered.counts.output),
                        name(metered.model),
                        name(metered.response_id),
                    ));
                }
            }
        }
        assert!(begun.is_empty(), "all that began has ended");
        records
    }

    const CREATED: &str =
        r#"{"type":"response.created","response":{"id":"r1","status":"in_progress","usage":null}}"#;
    const DONE: &str = r#"{"type":"response.done","response":{"id":"r1","status":"completed","usage":{"input_tokens":7,"output_tokens":2}}}"#;

    #[test]
    fn openais_responses_are_told_apart_by_their_ids() {
        let check = |messages: &[&str], end, expected: &[&str]| {
            let found = records(Dialect::OpenAi, messages, end);
            assert_eq!(found, expected, "{messages:?} {end:?}");
        };
        let session = r#"{"type":"session.created","session":{"model":"gpt-realtime","audio":{"input":{"transcription":{"model":"gpt-transcribe"}}}}}"#;
        let older = r#"{"type":"session.updated","session":{"model":"gpt-4o-realtime","input_audio_transcription":{"model":"whisper-1"}}}"#;
        let second = CREATED.replace("r1", "r2");
        let cancelled = r#"{"type":"response.done","response":{"id":"r2","status":"cancelled","usage":{"input_tokens":5,"output_tokens":1}}}"#;
        let failed = r#"{"type":"response.done","response":{"id":"r1","status":"failed","status_details":{"type":"failed"},"usage":null}}"#;
        let spoken = |usage: &str| {
            format!(
                r#"{{"type":"conversation.item.input_audio_transcription.completed","item_id":"i","transcript":"{{\"usage\":{{\"input_tokens\":9}}}}","usage":{usage}}}"#
            )
        };
        let tokens = spoken(r#"{"type":"tokens","input_tokens":4,"output_tokens":3}"#);
        let seconds = spoken(r#"{"type":"duration","seconds":2.5}"#);
        let complete = "complete 7 2 gpt-realtime r1";
        check(&[session, CREATED, DONE], End::Complete, &[complete]);
        check(
            &[session, CREATED, &second, DONE, cancelled],
            End::ClientLeft,
            &[complete, "complete 5 1 gpt-realtime r2"],
        );
        check(&[DONE, DONE], End::Complete, &["complete 7 2 - r1"; 2]);
        check(&[CREATED], End::ClientLeft, &["aborted - - - r1"]);
        check(&[CREATED], End::ProviderBroke, &["partial - - - r1"]);
        check(&[CREATED], End::Complete, &["partial - - - r1"]);
        check(&[CREATED, failed], End::Complete, &["partial - - - r1"]);
        check(
            &[CREATED, &DONE.replace("7", "-7")],
            End::Complete,
            &["unmetered - - - r1"],
        );
        check(
            &[session, &tokens, older, &seconds],
            End::Complete,
            &["complete 4 3 gpt-transcribe -", "unmetered - - whisper-1 -"],
        );
        // Nothing began: nothing is recorded.
        let error = r#"{"type":"error","error":{"message":"no"}}"#;
        for end in [End::Complete, End::ClientLeft, End::ProviderBroke] {
            check(&[session, error, "", "hello", "[1", "17"], end, &[]);
        }
        // What responses over HTTP stream, over a WebSocket.
        let completed = r#"{"type":"response.completed","response":{"id":"r1","model":"gpt-5","usage":{"input_tokens":1,"output_tokens":2}}}"#;
        let failed = r#"{"type":"response.failed","response":{"id":"r1","error":{"code":"x"},"usage":null}}"#;
        check(
            &[CREATED, completed],
            End::Complete,
            &["complete 1 2 gpt-5 r1"],
        );
        check(&[CREATED, failed], End::Complete, &["partial - - - r1"]);
        let done = r#"{"type":"transcription.done","model":"voxtral","text":"x","usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}"#;
        check(&[done], End::Complete, &["complete 3 5 voxtral -"]);
    }

    #[test]
    fn geminis_responses_are_turns_and_calls_of_tools() {
        let check = |messages: &[&str], end, expected: &[&str]| {
            let found = records(Dialect::Gemini, messages, end);
            assert_eq!(found, expected, "{messages:?} {end:?}");
        };
        let says =
            r#"{"serverContent":{"modelTurn":{"parts":[{"text":"{\"usageMetadata\":1}"}]}}}"#;
        let heard = r#"{"serverContent":{"inputTranscription":{"text":"hi"}}}"#;
        let over = r#"{"serverContent":{"turnComplete":true}}"#;
        let calls = r#"{"toolCall":{"functionCalls":[{"name":"f"}]}}"#;
        let usage = |prompt: u32, answer: u32| {
            format!(
                r#""usageMetadata":{{"promptTokenCount":{prompt},"responseTokenCount":{answer},"totalTokenCount":{}}}"#,
                prompt + answer
            )
        };
        let states = |prompt, answer| format!("{{{}}}", usage(prompt, answer));
        let ends = |prompt, answer| {
            format!(
                r#"{{"serverContent":{{"turnComplete":true}},{}}}"#,
                usage(prompt, answer)
            )
        };
        let setup = r#"{"setupComplete":{}}"#;
        let (first, second) = (ends(10, 4), ends(20, 6));
        check(
            &[setup, heard, says, says, &first, says, &second],
            End::ClientLeft,
            &["complete 10 4 - -", "complete 20 6 - -"],
        );
        // Counts that grow within a turn are of one response.
        let grown = states(10, 2);
        check(
            &[says, &grown, says, &first],
            End::Complete,
            &["complete 10 4 - -"],
        );
        // Usage after the turn; a turn that never states any.
        check(
            &[says, over, &states(10, 4), says, over, says, &second],
            End::Complete,
            &[
                "complete 10 4 - -",
                "unmetered - - - -",
                "complete 20 6 - -",
            ],
        );
        check(&[says, over], End::ClientLeft, &["unmetered - - - -"]);
        // The call of a tool is a response, its answer's is another; the
        // boundary between the two says nothing.
        check(
            &[says, calls, &states(10, 4), over, says, &second],
            End::Complete,
            &["complete 10 4 - -", "complete 20 6 - -"],
        );
        let called = calls.replacen('{', &format!("{{{},", usage(10, 4)), 1);
        check(
            &[&called, over, over],
            End::Complete,
            &["complete 10 4 - -"],
        );
        check(&[says, &grown], End::ClientLeft, &["aborted 10 2 - -"]);
        check(&[says], End::ProviderBroke, &["partial - - - -"]);
        check(&[setup, heard, over], End::ClientLeft, &[]);
    }

    #[test]
    fn a_session_that_cannot_be_read_gives_one_record() {
        let mut meter = SessionMeter::new(Dialect::OpenAi);
        meter.give_up();
        let progress = meter.finish(End::Complete);
        assert!(
            matches!(&progress[..], [Progress::Began(0), Progress::Ended(0, metered)]
            if metered.outcome == Outcome::Unmetered && metered.counts == Counts::NONE)
        );
    }

    #[test]
    fn responses_that_never_end_are_bounded() {
        let mut meter = SessionMeter::new(Dialect::OpenAi);
        let mut ended = 0;
        for n in 0..1_000 {
            let id = format!("r{n}");
            meter.feed(CREATED.replace("r1", &id).as_bytes());
            meter.end_message();
            while let Some(progress) = meter.take() {
                ended += usize::from(matches!(progress, Progress::Ended(..)));
            }
            assert!(meter.responses.len() <= OPEN_MAX && meter.is_busy());
        }
        assert_eq!(ended, 1_000 - OPEN_MAX);
    }
}
