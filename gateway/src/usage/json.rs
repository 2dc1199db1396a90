//! JSON: a scanner that is fed bytes and tells what stands at known paths.
//!
//! It holds a position, not a document: values at paths that [`super::paths`]
//! does not name are skipped with a depth counter, so neither their size nor
//! their nesting costs memory, and none of it recurses. What is skipped is
//! checked for balance only; what is looked at follows the grammar, and
//! anything else makes the rest of the document unread.

use memchr::memchr2;

use super::paths::{Node, Shape};

/// How deep paths go, the list around them included.
pub(super) const DEPTH: usize = 8;

/// Texts longer than this many bytes are not told.
pub(super) const TEXT_MAX: usize = 256;

/// Numbers longer than this many bytes make no sense as counts.
const NUMBER_MAX: usize = 64;

/// Hears what stands at known paths, in the order of the document.
pub(super) trait Sink {
    /// Whether the text at `node` is worth keeping. If not, it is told as `Text(None)`.
    fn wants(&self, node: Node) -> bool;
    /// A container at `node` begins; false skips it.
    fn open(&mut self, node: Node) -> bool;
    /// The container at `node` that was opened last has ended.
    fn close(&mut self, node: Node);
    /// A value stands at `node` that is not a container to look into.
    fn value(&mut self, node: Node, value: Value<'_>);
}

/// A value as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    /// A number; absent unless it is a whole one from 0 to 2^32-1.
    Number(Option<u32>),
    /// A text; absent if it is not wanted, too long, or not UTF-8.
    Text(Option<&'a str>),
    /// An object or array where none is looked into.
    Container,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value is due.
    Value,
    /// A value or the end of the array is due.
    ValueOrEnd,
    /// A key is due.
    Key,
    /// A key or the end of the object is due.
    KeyOrEnd,
    InKey,
    Colon,
    /// A comma or the end of the container is due.
    Next,
    InText,
    /// In a text nobody wants.
    InSkippedText,
    InNumber,
    InSkippedNumber,
    InWord,
    /// In a container nobody looks into.
    Skipping,
    SkippingText,
    /// The document has ended.
    Done,
    /// Not JSON: unread from here.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    /// After a backslash.
    Begun,
    /// In `\uXXXX`: digits to come, value so far.
    Unicode(u8, u16),
}

/// Where in a document the bytes fed so far have led.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    /// The containers that are looked into, outermost first.
    stack: [Node; DEPTH],
    depth: usize,
    /// The shape of the innermost of them.
    inside: Shape,
    /// The place of the value that is due or being read.
    node: Node,
    /// Containers open inside the one that is skipped, itself included.
    skipped: u64,
    escape: Escape,
    /// The first half of a surrogate pair.
    high: Option<u16>,
    /// The key, text or number being read, decoded.
    text: Vec<u8>,
    /// `text` would have grown too long.
    long: bool,
    /// The literal being read, and how many bytes of it have come.
    word: (&'static [u8], usize),
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            state: State::Value,
            stack: [Node::Skip; DEPTH],
            depth: 0,
            inside: Shape::Leaf,
            node: Node::Root,
            skipped: 0,
            escape: Escape::None,
            high: None,
            text: Vec::new(),
            long: false,
            word: (b"", 0),
        }
    }

    /// Whether a whole document has been read, and nothing after it.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether what was fed cannot be JSON.
    pub(super) fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Whether a document has begun and not ended.
    pub(super) fn is_inside(&self) -> bool {
        !matches!(self.state, State::Done | State::Broken)
            && (self.depth > 0 || self.state != State::Value)
    }

    /// Forgets where it was: the next byte begins a document.
    pub(super) fn restart(&mut self) {
        self.state = State::Value;
        self.node = Node::Root;
        self.depth = 0;
        self.inside = Shape::Leaf;
    }

    /// Reads on. After the end of the document, white space changes nothing
    /// and anything else breaks it.
    pub(super) fn feed(&mut self, bytes: &[u8], sink: &mut impl Sink) {
        let at = self.feed_document(bytes, sink);
        if self.is_done() && blank(bytes, at) < bytes.len() {
            self.state = State::Broken;
        }
    }

    /// Reads on to the end of the document, and says how many bytes that took.
    /// Once it is done or broken, nothing more is read.
    pub(super) fn feed_document(&mut self, bytes: &[u8], sink: &mut impl Sink) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            at = match self.state {
                State::Value | State::ValueOrEnd => self.value(bytes, at, sink),
                State::Key | State::KeyOrEnd => self.key(bytes, at, sink),
                State::InKey => self.in_key(bytes, at),
                State::Colon => self.colon(bytes, at, sink),
                State::Next => self.next(bytes, at, sink),
                State::InText => self.in_text(bytes, at, sink),
                State::InSkippedText => self.in_skipped_text(bytes, at, sink),
                State::InNumber => self.in_number(bytes, at, sink),
                State::InSkippedNumber => self.in_skipped_number(bytes, at),
                State::InWord => self.in_word(bytes, at, sink),
                State::Skipping => self.skipping(bytes, at),
                State::SkippingText => self.skipping_text(bytes, at),
                State::Done | State::Broken => return at,
            };
        }
        bytes.len()
    }

    fn broken(&mut self) -> usize {
        self.state = State::Broken;
        usize::MAX
    }

    fn value(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        let at = blank(bytes, at);
        let Some(&byte) = bytes.get(at) else {
            return at;
        };
        match byte {
            b'"' => return self.begin_text(bytes, at + 1, sink),
            b'{' => return self.begin_object(bytes, at + 1, sink),
            b'[' => return self.begin_array(bytes, at + 1, sink),
            b']' if self.state == State::ValueOrEnd => self.pop(sink),
            b'-' | b'0'..=b'9' => return self.begin_number(bytes, at),
            b'n' => return self.begin_word(b"null", bytes, at, sink),
            b't' => return self.begin_word(b"true", bytes, at, sink),
            b'f' => return self.begin_word(b"false", bytes, at, sink),
            _ => return self.broken(),
        }
        at + 1
    }

    fn begin_text(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        self.escape = Escape::None;
        if self.is_leaf() && sink.wants(self.node) {
            self.clear();
            self.state = State::InText;
            return at;
        }
        self.state = State::InSkippedText;
        self.in_skipped_text(bytes, at, sink)
    }

    /// Whether a text or number here is looked at.
    fn is_leaf(&self) -> bool {
        self.node != Node::Skip && matches!(self.node.shape(), Shape::Leaf)
    }

    fn begin_object(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        match self.node.shape() {
            Shape::Object(_) if self.depth < DEPTH && sink.open(self.node) => {
                self.push(self.node);
                self.state = State::KeyOrEnd;
                at
            }
            _ => self.skip(bytes, at, sink),
        }
    }

    fn begin_array(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        match self.node.shape() {
            Shape::Array(element) if self.depth < DEPTH && sink.open(self.node) => {
                self.push(self.node);
                self.node = element;
            }
            _ if self.depth == 0 => {
                self.push(Node::List);
                self.node = Node::Root;
            }
            _ => return self.skip(bytes, at, sink),
        }
        self.state = State::ValueOrEnd;
        at
    }

    fn skip(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        if self.node != Node::Skip {
            sink.value(self.node, Value::Container);
        }
        self.skipped = 1;
        self.state = State::Skipping;
        self.skipping(bytes, at)
    }

    fn push(&mut self, node: Node) {
        self.stack[self.depth] = node;
        self.depth += 1;
        self.inside = node.shape();
    }

    /// The innermost container that is looked into has ended.
    fn pop(&mut self, sink: &mut impl Sink) {
        self.depth = self.depth.saturating_sub(1);
        let node = self.stack[self.depth];
        if node != Node::List {
            sink.close(node);
        }
        let outer = self.depth.checked_sub(1).map(|top| self.stack[top].shape());
        self.inside = outer.unwrap_or(Shape::Leaf);
        self.after();
    }

    /// A value has ended.
    #[inline]
    fn after(&mut self) {
        self.state = if self.depth == 0 {
            State::Done
        } else {
            State::Next
        };
    }

    fn next(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        let at = blank(bytes, at);
        let Some(&byte) = bytes.get(at) else {
            return at;
        };
        match (byte, self.inside) {
            (b',', Shape::Object(_)) => {
                self.state = State::Key;
                return self.key(bytes, at + 1, sink);
            }
            (b',', Shape::Array(element)) => {
                self.node = element;
                self.state = State::Value;
            }
            (b'}', Shape::Object(_)) | (b']', Shape::Array(_)) => self.pop(sink),
            _ => return self.broken(),
        }
        at + 1
    }

    fn key(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        let at = blank(bytes, at);
        match bytes.get(at) {
            None => at,
            Some(b'"') => {
                let from = at + 1;
                let end = quote(bytes, from);
                if bytes.get(end) == Some(&b'"') {
                    self.found(&bytes[from..end]);
                    return self.colon(bytes, end + 1, sink);
                }
                self.clear();
                self.escape = Escape::None;
                self.state = State::InKey;
                from
            }
            Some(b'}') if self.state == State::KeyOrEnd => {
                self.pop(sink);
                at + 1
            }
            Some(_) => self.broken(),
        }
    }

    fn in_key(&mut self, bytes: &[u8], at: usize) -> usize {
        let (at, ended) = self.take_text(bytes, at);
        if ended {
            let key = std::mem::take(&mut self.text);
            self.found(if self.long { &[] } else { &key });
            self.text = key;
        }
        at
    }

    fn found(&mut self, key: &[u8]) {
        self.node = match self.inside {
            Shape::Object(table) => table.child(key),
            _ => Node::Skip,
        };
        self.state = State::Colon;
    }

    fn colon(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        let at = blank(bytes, at);
        match bytes.get(at) {
            None => at,
            Some(b':') => {
                self.state = State::Value;
                self.value(bytes, at + 1, sink)
            }
            Some(_) => self.broken(),
        }
    }

    fn in_text(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        let (at, ended) = self.take_text(bytes, at);
        if ended {
            let text = if self.long {
                None
            } else {
                std::str::from_utf8(&self.text).ok()
            };
            sink.value(self.node, Value::Text(text));
            self.after();
        }
        at
    }

    fn in_skipped_text(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        let (at, ended) = self.skip_text(bytes, at);
        if ended {
            if self.node != Node::Skip {
                sink.value(self.node, Value::Text(None));
            }
            self.after();
        }
        at
    }

    fn skipping(&mut self, bytes: &[u8], mut at: usize) -> usize {
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            match CLASS[usize::from(byte)] {
                PLAIN => {}
                QUOTE => {
                    let end = quote(bytes, at);
                    if bytes.get(end) != Some(&b'"') {
                        self.escape = Escape::None;
                        self.state = State::SkippingText;
                        return end;
                    }
                    at = end + 1;
                }
                OPEN => self.skipped += 1,
                _ => {
                    self.skipped -= 1;
                    if self.skipped == 0 {
                        self.after();
                        return at;
                    }
                }
            }
        }
        at
    }

    fn skipping_text(&mut self, bytes: &[u8], at: usize) -> usize {
        let (at, ended) = self.skip_text(bytes, at);
        if ended {
            self.state = State::Skipping;
        }
        at
    }

    /// Passes over a text: where it led, and whether it ended there.
    fn skip_text(&mut self, bytes: &[u8], mut at: usize) -> (usize, bool) {
        while at < bytes.len() {
            if self.escape != Escape::None {
                self.escape = Escape::None;
                at += 1;
                continue;
            }
            at = quote(bytes, at);
            match bytes.get(at) {
                None => break,
                Some(b'"') => return (at + 1, true),
                Some(_) => self.escape = Escape::Begun,
            }
            at += 1;
        }
        (at, false)
    }

    /// Takes in a text, decoded: where it led, and whether it ended there.
    fn take_text(&mut self, bytes: &[u8], mut at: usize) -> (usize, bool) {
        while let Some(&byte) = bytes.get(at) {
            match self.escape {
                Escape::None => {
                    let end = quote(bytes, at);
                    if end > at {
                        self.lone();
                        self.keep(&bytes[at..end]);
                    }
                    at = end + 1;
                    match bytes.get(end) {
                        None => return (end, false),
                        Some(b'"') => {
                            self.lone();
                            return (at, true);
                        }
                        Some(_) => self.escape = Escape::Begun,
                    }
                    continue;
                }
                Escape::Begun if byte == b'u' => self.escape = Escape::Unicode(4, 0),
                Escape::Begun => {
                    self.lone();
                    self.keep(&[unescaped(byte)]);
                    self.escape = Escape::None;
                }
                Escape::Unicode(left, value) => {
                    let Some(digit) = char::from(byte).to_digit(16) else {
                        return (self.broken(), false);
                    };
                    let value = value << 4 | digit as u16;
                    self.escape = Escape::Unicode(left - 1, value);
                    if left == 1 {
                        self.escape = Escape::None;
                        self.unit(value);
                    }
                }
            }
            at += 1;
        }
        (at, false)
    }

    /// Takes in one UTF-16 unit.
    fn unit(&mut self, unit: u16) {
        if let Some(high) = self.high.take() {
            if let Some(Ok(pair)) = char::decode_utf16([high, unit]).next() {
                return self.keep_char(pair);
            }
            self.keep_char(char::REPLACEMENT_CHARACTER);
        }
        match char::from_u32(u32::from(unit)) {
            Some(char) => self.keep_char(char),
            None if unit < 0xdc00 => self.high = Some(unit),
            None => self.keep_char(char::REPLACEMENT_CHARACTER),
        }
    }

    /// A first half that no second one followed.
    fn lone(&mut self) {
        if self.high.take().is_some() {
            self.keep_char(char::REPLACEMENT_CHARACTER);
        }
    }

    fn keep_char(&mut self, char: char) {
        self.keep(char.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.text.len() + bytes.len() > TEXT_MAX {
            self.long = true;
        } else {
            self.text.extend_from_slice(bytes);
        }
    }

    fn clear(&mut self) {
        self.text.clear();
        self.long = false;
        self.high = None;
    }

    fn begin_number(&mut self, bytes: &[u8], at: usize) -> usize {
        if self.is_leaf() {
            self.clear();
            self.state = State::InNumber;
            at
        } else {
            self.state = State::InSkippedNumber;
            self.in_skipped_number(bytes, at)
        }
    }

    fn in_number(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        let end = number(bytes, at);
        self.keep(&bytes[at..end]);
        if end < bytes.len() {
            let short = !self.long && self.text.len() <= NUMBER_MAX;
            let count = if short { count(&self.text) } else { None };
            sink.value(self.node, Value::Number(count));
            self.after();
        }
        end
    }

    fn in_skipped_number(&mut self, bytes: &[u8], at: usize) -> usize {
        let end = number(bytes, at);
        if end < bytes.len() {
            self.after();
        }
        end
    }

    fn begin_word(
        &mut self,
        word: &'static [u8],
        bytes: &[u8],
        at: usize,
        sink: &mut impl Sink,
    ) -> usize {
        self.word = (word, 0);
        self.state = State::InWord;
        self.in_word(bytes, at, sink)
    }

    fn in_word(&mut self, bytes: &[u8], at: usize, sink: &mut impl Sink) -> usize {
        let (word, matched) = self.word;
        let part = &word[matched..];
        let come = part.len().min(bytes.len() - at);
        if bytes[at..at + come] != part[..come] {
            return self.broken();
        }
        self.word.1 += come;
        if come == part.len() {
            if self.node != Node::Skip {
                let value = match word {
                    b"null" => Value::Null,
                    word => Value::Bool(word == b"true"),
                };
                sink.value(self.node, value);
            }
            self.after();
        }
        at + come
    }
}

const PLAIN: u8 = 0;
const QUOTE: u8 = 1;
const OPEN: u8 = 2;
const CLOSE: u8 = 3;

/// What a byte does to a container that is skipped.
static CLASS: [u8; 256] = {
    let mut class = [PLAIN; 256];
    class[b'"' as usize] = QUOTE;
    class[b'{' as usize] = OPEN;
    class[b'[' as usize] = OPEN;
    class[b'}' as usize] = CLOSE;
    class[b']' as usize] = CLOSE;
    class
};

/// The first byte at or after `at` that is not white space.
#[inline]
fn blank(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The first quote or backslash at or after `at`.
#[inline]
fn quote(bytes: &[u8], mut at: usize) -> usize {
    // Most texts are short, and a call costs more than these steps.
    for _ in 0..4 {
        let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) else {
            break;
        };
        let word = u64::from_le_bytes(*word);
        let found = zero(word ^ repeated(b'"')) | zero(word ^ repeated(b'\\'));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    memchr2(b'"', b'\\', rest).map_or(bytes.len(), |ahead| at + ahead)
}

const fn repeated(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Has the highest bit of the lowest byte that is zero set, and no lower one.
const fn zero(word: u64) -> u64 {
    word.wrapping_sub(repeated(0x01)) & !word & repeated(0x80)
}

/// The first byte at or after `at` that cannot be part of a number.
fn number(bytes: &[u8], mut at: usize) -> usize {
    while matches!(
        bytes.get(at),
        Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
    ) {
        at += 1;
    }
    at
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        byte => byte,
    }
}

/// The number `text` writes if it is a whole one from 0 to 2^32-1, in any notation.
fn count(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    if text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let zero_led = text.len() > 1 && text.starts_with('0');
        return if zero_led { None } else { text.parse().ok() };
    }
    let number: f64 = text.parse().ok()?;
    let whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    whole.then_some(number as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::super::paths::{Node, Shape};
    use super::{Scanner, Sink, TEXT_MAX, Value};

    /// What a document says, as a list.
    #[derive(Default)]
    struct Heard(Vec<String>);

    impl Sink for Heard {
        fn wants(&self, _: Node) -> bool {
            true
        }

        fn open(&mut self, node: Node) -> bool {
            self.0.push(format!("open {node:?}"));
            true
        }

        fn close(&mut self, node: Node) {
            self.0.push(format!("close {node:?}"));
        }

        fn value(&mut self, node: Node, value: Value<'_>) {
            // A text where a container is due is not kept.
            let value = match (node.shape(), value) {
                (Shape::Leaf, value) => value,
                (_, Value::Text(_)) => Value::Text(None),
                (_, Value::Number(_)) => return,
                (_, value) => value,
            };
            self.0.push(format!("{node:?} {value:?}"));
        }
    }

    /// The same, told by a parser that builds the document.
    fn told(node: Node, json: &Json, heard: &mut Heard) {
        let mut descend = |children: Vec<(Node, &Json)>| {
            heard.open(node);
            children
                .into_iter()
                .for_each(|(child, json)| told(child, json, heard));
            heard.close(node);
        };
        match (node.shape(), json) {
            _ if node == Node::Skip => {}
            (Shape::Object(table), Json::Object(map)) => {
                let child = |(key, json)| (table.child(String::as_bytes(key)), json);
                descend(map.iter().map(child).collect());
            }
            (Shape::Array(element), Json::Array(list)) => {
                descend(list.iter().map(|json| (element, json)).collect());
            }
            (_, Json::Array(_) | Json::Object(_)) => heard.value(node, Value::Container),
            (_, Json::Null) => heard.value(node, Value::Null),
            (_, Json::Bool(value)) => heard.value(node, Value::Bool(*value)),
            (_, Json::Number(number)) => {
                let number = number.as_f64().expect("a finite number");
                let whole = number.fract() == 0.0 && (0.0..=4_294_967_295.0).contains(&number);
                heard.value(node, Value::Number(whole.then_some(number as u32)));
            }
            (_, Json::String(text)) => {
                let text = Some(text.as_str()).filter(|text| text.len() <= TEXT_MAX);
                heard.value(node, Value::Text(text));
            }
        }
    }

    fn scan(document: &str, slices: &[usize]) -> (Scanner, Vec<String>) {
        let (mut scanner, mut heard) = (Scanner::new(), Heard::default());
        let mut rest = document.as_bytes();
        for length in slices.iter().cycle() {
            let (slice, tail) = rest.split_at((*length).min(rest.len()));
            scanner.feed(slice, &mut heard);
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        (scanner, heard.0)
    }

    #[test]
    fn only_whole_documents_are_done() {
        let check = |document: &str, done: bool, broken: bool| {
            for slices in [&[1][..], &[usize::MAX]] {
                let (scanner, _) = scan(document, slices);
                assert_eq!(
                    (scanner.is_done(), scanner.is_broken()),
                    (done, broken),
                    "{document}"
                );
            }
        };
        check("{}", true, false);
        check(" {\"a\" : [1, {}], \"usage\" : null } \n", true, false);
        check("[]", true, false);
        check("[{},{}]", true, false);
        check("\"\\\"\"", true, false);
        check("null", true, false);
        check("{\"a\":\"\\u12", false, false);
        check("{\"a\":1", false, false);
        check("", false, false);
        for broken in [
            "{}x",
            "{} {}",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{a:1}",
            "[1,]",
            "[,]",
            "[}",
            "{]",
            "{\"usage\":{\"a\":nul}}",
            "{\"a\":tru e}",
            "}",
            "{\"id\":\"\\uzzzz\"}",
            "{\"usage\":[1,2]}}",
            "[1 2]",
            "{\"a\":1 2}",
        ] {
            check(broken, false, true);
        }
    }

    /// Any JSON, in which known keys are as likely as others.
    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<u32>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            (-1e3..1e10_f64).prop_map(|number| Json::from(number.round())),
            any::<f64>().prop_map(Json::from),
            ".{0,20}".prop_map(Json::from),
            "[a-z\"\\\\]{250,260}".prop_map(Json::from),
        ];
        let known = vec![
            "usage",
            "response",
            "message",
            "delta",
            "meta",
            "prompt_tokens",
            "input_tokens",
            "body",
            "iterations",
            "choices",
            "finish_reason",
            "tokens",
            "id",
            "model",
            "type",
            "result",
            "usageMetadata",
            "predictions",
            "embeddings",
            "statistics",
            "token_count",
            "error",
            "input_tokens_details",
            "cached_tokens",
            "x_groq",
            "done",
            "status",
        ];
        let known = prop::sample::select(known).prop_map(str::to_owned);
        let key = prop_oneof![3 => known, 1 => ".{0,9}"];
        leaf.prop_recursive(7, 80, 6, move |inner| {
            let pairs = prop::collection::vec((key.clone(), inner.clone()), 0..6);
            prop_oneof![
                1 => prop::collection::vec(inner, 0..6).prop_map(Json::from),
                2 => pairs.prop_map(|pairs| Json::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn documents_say_what_serde_json_reads_in_them(
            json in json(),
            pretty in any::<bool>(),
            slices in prop::collection::vec(1..30_usize, 1..9),
        ) {
            prop_assume!(!json.is_array());
            let text = if pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) };
            // A number without an end may go on.
            let text = text.expect("a value writes itself") + "\n";
            let (scanner, heard) = scan(&text, &slices);
            let mut expected = Heard::default();
            told(Node::Root, &json, &mut expected);
            prop_assert!(scanner.is_done());
            prop_assert_eq!(heard, expected.0);
        }

        #[test]
        fn valid_documents_are_done_and_their_beginnings_are_not(json in json(), cut in any::<prop::sample::Index>()) {
            prop_assume!(json.is_object() || json.is_array());
            let text = json.to_string();
            prop_assert!(scan(&text, &[5]).0.is_done());
            let (mut cut, bytes) = (cut.index(text.len()), text.as_bytes());
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            let (scanner, _) = scan(&text[..cut], &[5]);
            prop_assert!(!scanner.is_done() && !scanner.is_broken(), "{:?}", &bytes[..cut]);
        }
    }
}
