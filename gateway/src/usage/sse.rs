//! Server-sent events: the data of each event, as it comes.
//!
//! Lines end in LF, CRLF or CR. Data is handed on while its line is still
//! coming, so an event of any size passes through; several data lines of one
//! event are joined by a newline. Comments and other fields are passed over.

use memchr::memchr2;

/// Hears events.
pub(super) trait Events {
    /// More data of the current event.
    fn data(&mut self, bytes: &[u8]);
    /// The current event has ended; it had data.
    fn end(&mut self);
    /// The current event has ended, and its data was `[DONE]`.
    fn done(&mut self);
    /// The stream is over before the end of the current event; it had data.
    fn cut(&mut self);
}

/// The data of the event with which many streams end.
const DONE: &[u8] = b"[DONE]";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// This many bytes of `data:` have come on this line.
    Field(usize),
    /// After the colon: one space is not data.
    Space,
    /// This many bytes of `[DONE]` have come, and no other data.
    Marker(usize),
    Data,
    /// In a line without data.
    Other,
}

/// Where in a stream the bytes fed so far have led.
#[derive(Debug)]
pub(super) struct Sse {
    state: State,
    /// The last byte was a CR: a LF now belongs to it.
    cr: bool,
    /// The current event has had a data line.
    begun: bool,
    /// The current event's data is `[DONE]`, as far as it has come.
    marker: bool,
}

impl Sse {
    pub(super) fn new() -> Self {
        Self {
            state: State::Field(0),
            cr: false,
            begun: false,
            marker: false,
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8], events: &mut impl Events) {
        let mut at = 0;
        if self.cr && !bytes.is_empty() {
            self.cr = false;
            at = usize::from(bytes[0] == b'\n');
        }
        while at < bytes.len() {
            at = match self.state {
                State::Field(matched) => self.field(bytes, at, matched, events),
                State::Space => self.space(bytes, at, events),
                State::Marker(matched) => self.marker(bytes, at, matched, events),
                State::Data | State::Other => self.rest(bytes, at, events),
            };
        }
    }

    /// The stream is over.
    pub(super) fn finish(&mut self, events: &mut impl Events) {
        if let State::Marker(matched) = self.state {
            self.end_line(matched, events);
        }
        if self.begun && !self.marker {
            self.begun = false;
            events.cut();
        }
        self.end_event(events);
    }

    fn field(
        &mut self,
        bytes: &[u8],
        at: usize,
        matched: usize,
        events: &mut impl Events,
    ) -> usize {
        let name = &b"data:"[matched..];
        let come = name.len().min(bytes.len() - at);
        if bytes[at..at + come] == name[..come] {
            self.state = match matched + come {
                5 => State::Space,
                matched => State::Field(matched),
            };
            return at + come;
        }
        if matched == 0 && matches!(bytes[at], b'\n' | b'\r') {
            self.end_event(events);
            return self.newline(bytes, at);
        }
        self.state = State::Other;
        self.rest(bytes, at, events)
    }

    fn space(&mut self, bytes: &[u8], at: usize, events: &mut impl Events) -> usize {
        self.state = if self.begun {
            self.unmark(events);
            events.data(b"\n");
            State::Data
        } else {
            self.begun = true;
            self.marker = true;
            State::Marker(0)
        };
        at + usize::from(bytes[at] == b' ')
    }

    fn marker(
        &mut self,
        bytes: &[u8],
        at: usize,
        matched: usize,
        events: &mut impl Events,
    ) -> usize {
        let byte = bytes[at];
        if DONE.get(matched) == Some(&byte) {
            self.state = State::Marker(matched + 1);
            return at + 1;
        }
        if matches!(byte, b'\n' | b'\r') {
            self.end_line(matched, events);
            return self.newline(bytes, at);
        }
        self.marker = false;
        events.data(&DONE[..matched]);
        self.state = State::Data;
        at
    }

    /// The rest of a line.
    fn rest(&mut self, bytes: &[u8], at: usize, events: &mut impl Events) -> usize {
        let end = memchr2(b'\n', b'\r', &bytes[at..]).map_or(bytes.len(), |ahead| at + ahead);
        if self.state == State::Data && end > at {
            events.data(&bytes[at..end]);
        }
        if end == bytes.len() {
            end
        } else {
            self.newline(bytes, end)
        }
    }

    /// A first data line has ended with this many bytes of `[DONE]` in it.
    fn end_line(&mut self, matched: usize, events: &mut impl Events) {
        if matched < DONE.len() {
            self.marker = false;
            events.data(&DONE[..matched]);
        }
    }

    /// What looked like the marker is data after all.
    fn unmark(&mut self, events: &mut impl Events) {
        if self.marker {
            self.marker = false;
            events.data(DONE);
        }
    }

    fn newline(&mut self, bytes: &[u8], at: usize) -> usize {
        self.state = State::Field(0);
        let mut next = at + 1;
        if bytes[at] == b'\r' {
            match bytes.get(next) {
                None => self.cr = true,
                Some(b'\n') => next += 1,
                Some(_) => {}
            }
        }
        next
    }

    fn end_event(&mut self, events: &mut impl Events) {
        if self.begun {
            self.begun = false;
            if self.marker {
                events.done()
            } else {
                events.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Events, Sse};

    /// What a stream says, as a list.
    #[derive(Default)]
    struct Heard {
        data: Vec<u8>,
        events: Vec<String>,
    }

    impl Heard {
        fn event(&mut self, name: &str) {
            let data = String::from_utf8_lossy(&std::mem::take(&mut self.data)).into_owned();
            self.events.push(format!("{name} {data}"));
        }
    }

    impl Events for Heard {
        fn data(&mut self, bytes: &[u8]) {
            self.data.extend_from_slice(bytes);
        }

        fn end(&mut self) {
            self.event("end");
        }

        fn done(&mut self) {
            self.event("done");
        }

        fn cut(&mut self) {
            self.event("cut");
        }
    }

    fn heard(stream: &str, slices: &[usize]) -> Vec<String> {
        let (mut sse, mut heard) = (Sse::new(), Heard::default());
        let mut rest = stream.as_bytes();
        for length in slices.iter().cycle() {
            let (slice, tail) = rest.split_at((*length).min(rest.len()));
            sse.feed(slice, &mut heard);
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        sse.finish(&mut heard);
        heard.events
    }

    /// The same, told line by line.
    fn told(stream: &str) -> Vec<String> {
        let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
        let (mut events, mut data) = (Vec::new(), None::<String>);
        let mut lines: Vec<&str> = stream.split('\n').collect();
        // What follows the last line's end is a line only if it is not empty.
        let tail = lines.pop().unwrap_or_default();
        let mut line = |line: &str, events: &mut Vec<String>, last: bool| {
            if let Some(value) = line
                .strip_prefix("data:")
                .filter(|value| !last || !value.is_empty())
            {
                let value = value.strip_prefix(' ').unwrap_or(value);
                data = Some(
                    data.take()
                        .map_or_else(|| value.to_owned(), |data| data + "\n" + value),
                );
            }
            if line.is_empty()
                && let Some(data) = data.take()
            {
                match data.as_str() {
                    "[DONE]" => events.push("done ".to_owned()),
                    _ if last => events.push(format!("cut {data}")),
                    _ => events.push(format!("end {data}")),
                }
            }
        };
        lines
            .into_iter()
            .for_each(|each| line(each, &mut events, false));
        line(tail, &mut events, true);
        line("", &mut events, true);
        events
    }

    #[test]
    fn events_are_told_apart() {
        let check = |stream: &str, expected: &[&str]| {
            for slices in [&[1][..], &[2], &[3], &[usize::MAX]] {
                assert_eq!(heard(stream, slices), expected, "{stream:?} {slices:?}");
            }
            assert_eq!(told(stream), expected, "{stream:?}");
        };
        check("data: a\n\ndata:b\n\n", &["end a", "end b"]);
        check("data: a\r\n\r\ndata: b\r\r", &["end a", "end b"]);
        check("data: a\ndata: b\n\n", &["end a\nb"]);
        check("data:  a\n\n", &["end  a"]);
        check(": c\nevent: x\nid: 1\ndata: a\nretry: 5\n\n", &["end a"]);
        check("event: x\n\n\n\ndata: a\n\n", &["end a"]);
        check("data\n\nxdata: a\n\ndatax: b\n\n", &[]);
        check("data: a", &["cut a"]);
        check("data: a\n", &["cut a"]);
        check("data: [DONE]\n\n", &["done "]);
        check("data:[DONE]", &["done "]);
        check("data: [DON", &["cut [DON"]);
        check("data: [DONE]x\n\n", &["end [DONE]x"]);
        check("data: [DOG]\n\n", &["end [DOG]"]);
        check("data: [DONE]\ndata: a\n\n", &["end [DONE]\na"]);
        check("data: a\ndata: [DONE]\n\n", &["end a\n[DONE]"]);
        check("data:\n\n", &["end "]);
        check("", &[]);
    }

    proptest! {
        #[test]
        fn streams_are_read_as_their_lines_say(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "data:", "data: ", "\n", "\n\n", "\r", "\r\n", "[DONE]", "{}", ":", "event: x", " ", "d",
                ]),
                0..24,
            ),
            slices in prop::collection::vec(1..9_usize, 1..6),
        ) {
            let stream = parts.concat();
            prop_assert_eq!(heard(&stream, &slices), told(&stream));
        }
    }
}
