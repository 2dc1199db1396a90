//! Hiding what the edit brought: the one event of a stream whose `choices` are
//! empty and which states usage.
//!
//! Bytes pass as they come but for the event that is not yet whole: only a
//! whole one tells whether it is the one. Nothing is held for longer.

use memchr::memchr;

use super::skim::members;

/// A longer event is not the one that is looked for: it passes.
const MAX_EVENT: usize = 64 * 1024;

/// A stream of events of which one is left out.
#[derive(Debug, Default)]
pub(super) struct Hide {
    /// The beginning of an event that is not yet whole.
    held: Vec<u8>,
    /// The event was met, or the stream is not what it should be.
    over: bool,
}

impl Hide {
    /// The bytes that pass now.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.held.len() + bytes.len());
        self.held.extend_from_slice(bytes);
        let mut from = 0;
        while !self.over
            && let Some(len) = event(&self.held[from..])
        {
            let end = from + len;
            if states_usage_only(&self.held[from..end]) {
                self.over = true;
            } else {
                out.extend_from_slice(&self.held[from..end]);
            }
            from = end;
        }
        if self.over || self.held.len() - from > MAX_EVENT {
            self.over = true;
            out.extend_from_slice(&self.held[from..]);
            from = self.held.len();
        }
        self.held.drain(..from);
        out
    }

    /// What is left when the stream has ended.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        self.over = true;
        let held = std::mem::take(&mut self.held);
        // The last event may lack its empty line.
        if states_usage_only(&held) {
            Vec::new()
        } else {
            held
        }
    }
}

/// The length of the first event, empty line included, if it is whole.
fn event(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr(b'\n', &bytes[at..])? + 1;
        match bytes[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// Whether an event is one line of data with empty `choices` and usage.
fn states_usage_only(event: &[u8]) -> bool {
    let line = event.trim_ascii();
    let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii_start) else {
        return false;
    };
    let Some(members) = members(data) else {
        return false;
    };
    let value = |name: &[u8]| {
        let member = members.iter().find(|m| &data[m.key.clone()] == name)?;
        Some(&data[member.value.clone()])
    };
    let empty = |list: &[u8]| {
        let inner = list.strip_prefix(b"[").and_then(|l| l.strip_suffix(b"]"));
        inner.is_some_and(|inner| inner.trim_ascii().is_empty())
    };
    value(b"choices").is_some_and(empty) && value(b"usage").is_some_and(|u| u.starts_with(b"{"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: &str = "data: {\"choices\":[{\"delta\":{}}],\"usage\":null}";
    const USAGE: &str = "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":1}}";

    /// Feeds `stream` in slices of every size; the result must be the same.
    fn check(stream: &str, expected: &str) {
        for size in 1..=stream.len().max(1) {
            let mut hide = Hide::default();
            let mut out = vec![];
            for slice in stream.as_bytes().chunks(size) {
                out.extend(hide.feed(slice));
            }
            out.extend(hide.finish());
            assert_eq!(String::from_utf8_lossy(&out), expected, "slices of {size}");
        }
    }

    #[test]
    fn exactly_one_event_is_left_out() {
        let done = "data: [DONE]\n\n";
        check(
            &format!("{CHUNK}\n\n{USAGE}\n\n{done}"),
            &format!("{CHUNK}\n\n{done}"),
        );
        check(
            &format!("{CHUNK}\r\n\r\n{USAGE}\r\n\r\n{done}"),
            &format!("{CHUNK}\r\n\r\n{done}"),
        );
        check(&format!("{USAGE}\n\n{USAGE}\n\n"), &format!("{USAGE}\n\n"));
        check(&format!("{CHUNK}\n\n{USAGE}"), &format!("{CHUNK}\n\n"));
        check(&format!("{CHUNK}\n\n{USAGE}\n"), &format!("{CHUNK}\n\n"));
    }

    #[test]
    fn everything_else_passes() {
        for stream in [
            "",
            "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
            "data: {\"choices\":[],\"usage\":null}\n\n",
            "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":1}}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"choices\\\":[],\\\"usage\\\":{}\"}}]}\n\n",
            ": comment\n\ndata: x\n\n\n\n",
            "{\"error\":{\"message\":\"not a stream\"}}",
            "data: {\"choices\":[],\"usage\":{",
        ] {
            check(stream, stream);
        }
        let long = format!(
            "data: {{\"choices\":[],\"x\":\"{}\",\"usage\":{{}}}}\n\n",
            "y".repeat(70_000)
        );
        let mut hide = Hide::default();
        let mut out = hide.feed(&long.as_bytes()[..68_000]);
        out.extend(hide.feed(&long.as_bytes()[68_000..]));
        assert_eq!(out, long.as_bytes(), "what is too long passes whole");
    }

    #[test]
    fn a_whole_event_is_never_held() {
        let mut hide = Hide::default();
        let event = format!("{CHUNK}\n\n");
        assert_eq!(hide.feed(event.as_bytes()), event.as_bytes());
    }
}
