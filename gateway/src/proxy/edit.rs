//! The one edit: asking a streamed chat completion for its usage.
//!
//! OpenAI-style streams state their usage only if the request says
//! `"stream_options":{"include_usage":true}`. Where a client did not say it,
//! these bytes are inserted; every other byte stays as it came. The event that
//! the provider then sends more is hidden again (see [`super::hide`]).

use std::ops::Range;

use super::skim::members;

/// What is inserted into a request without `stream_options`.
const OPTIONS: &str = r#","stream_options":{"include_usage":true}"#;

/// What is inserted into `stream_options` that do not say it.
const OPTION: &str = r#""include_usage":true"#;

/// The body that also asks for usage; `None` where it is no streamed request,
/// asks already, declines, or is not plain enough to be sure.
pub(super) fn asking_for_usage(body: &[u8]) -> Option<Vec<u8>> {
    let members = members(body)?;
    let only = |name: &[u8]| -> Option<Option<Range<usize>>> {
        let mut named = members.iter().filter(|m| &body[m.key.clone()] == name);
        let first = named.next().map(|m| m.value.clone());
        // Said twice: which one counts is the provider's secret.
        named.next().is_none().then_some(first)
    };
    let streams = only(b"stream")?.is_some_and(|value| &body[value] == b"true");
    if !streams {
        return None;
    }
    let Some(options) = only(b"stream_options")? else {
        let last = members.last()?.value.end;
        return Some(inserted(body, last..last, OPTIONS));
    };
    let value = &body[options.clone()];
    if value == b"null" {
        return Some(inserted(body, options, &format!("{{{OPTION}}}")));
    }
    let inner = self::members(value)?;
    if inner
        .iter()
        .any(|m| &value[m.key.clone()] == b"include_usage")
    {
        return None;
    }
    let at = options.start + 1;
    let comma = if inner.is_empty() { "" } else { "," };
    Some(inserted(body, at..at, &format!("{OPTION}{comma}")))
}

/// Whether a refusal names what was inserted.
pub(super) fn is_blamed(refusal: &[u8]) -> bool {
    let names = |name: &[u8]| memchr::memmem::find(refusal, name).is_some();
    names(b"stream_options") || names(b"include_usage")
}

/// `body` with `text` in place of a range.
fn inserted(body: &[u8], place: Range<usize>, text: &str) -> Vec<u8> {
    [&body[..place.start], text.as_bytes(), &body[place.end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_by_the_smallest_edit_and_only_where_it_must() {
        let asks = r#""include_usage":true"#;
        for (body, edited) in [
            (
                r#"{"stream":true}"#,
                Some(format!(r#"{{"stream":true,"stream_options":{{{asks}}}}}"#)),
            ),
            (
                "{ \"model\" : \"m\",\n \"stream\" : true \n} \n",
                Some(format!(
                    "{{ \"model\" : \"m\",\n \"stream\" : true,\"stream_options\":{{{asks}}} \n}} \n"
                )),
            ),
            (
                r#"{"stream":true,"stream_options":{"include_obfuscation":false},"n":1}"#,
                Some(format!(
                    r#"{{"stream":true,"stream_options":{{{asks},"include_obfuscation":false}},"n":1}}"#
                )),
            ),
            (
                r#"{"stream_options":{ },"stream":true}"#,
                Some(format!(r#"{{"stream_options":{{{asks} }},"stream":true}}"#)),
            ),
            (
                r#"{"stream":true,"stream_options":null}"#,
                Some(format!(r#"{{"stream":true,"stream_options":{{{asks}}}}}"#)),
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage":false}}"#,
                None,
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
                None,
            ),
            (r#"{"stream":true,"stream_options":[]}"#, None),
            (r#"{"stream":false}"#, None),
            (r#"{"stream":"true"}"#, None),
            (r#"{"messages":[{"stream":true}]}"#, None),
            (r#"{"a":"\"stream\":true"}"#, None),
            (r#"{"stream":true,"stream":false}"#, None),
            (
                r#"{"stream":true,"stream_options":{},"stream_options":{}}"#,
                None,
            ),
            (r#"{"stream":true"#, None),
            (r#"{"stream":true}}"#, None),
            (r#"[{"stream":true}]"#, None),
            ("", None),
        ] {
            let got = asking_for_usage(body.as_bytes());
            assert_eq!(got, edited.map(String::into_bytes), "{body}");
            if let Some(got) = got {
                let before: serde_json::Value = serde_json::from_str(body).expect("JSON");
                let mut after: serde_json::Value =
                    serde_json::from_slice(&got).expect("still JSON");
                assert_eq!(after["stream_options"]["include_usage"], true);
                assert_eq!(asking_for_usage(&got), None, "asks once");
                let map = after.as_object_mut().expect("an object");
                let options = map.remove("stream_options").expect("there");
                let mut wanted = before.clone();
                let had = wanted
                    .as_object_mut()
                    .expect("an object")
                    .remove("stream_options");
                assert_eq!(after, wanted, "nothing else changed");
                if let Some(had) = had.and_then(|h| h.as_object().cloned()) {
                    assert!(had.iter().all(|(k, v)| options[k] == *v));
                }
            }
        }
    }
}
