//! Skimming JSON: where the members of an object stand, without reading them.

use std::ops::Range;

use memchr::memchr2;

/// A member of an object: where the key's text (without quotation marks) and
/// the value stand.
pub(super) struct Member {
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
}

/// The members of an object that is the whole of `json` but for white space.
/// `None` where it is no object, or a key holds an escape: what it says would
/// have to be read. Values are skipped by their brackets and strings only.
pub(super) fn members(json: &[u8]) -> Option<Vec<Member>> {
    let mut at = blank(json, 0);
    let mut members = Vec::with_capacity(16);
    if json.get(at) != Some(&b'{') {
        return None;
    }
    at = blank(json, at + 1);
    if json.get(at) == Some(&b'}') {
        return (blank(json, at + 1) == json.len()).then_some(members);
    }
    loop {
        let end = string(json, at)?;
        let key = at + 1..end - 1;
        if json[key.clone()].contains(&b'\\') {
            return None;
        }
        at = blank(json, end);
        if json.get(at) != Some(&b':') {
            return None;
        }
        let start = blank(json, at + 1);
        let end = value(json, start)?;
        members.push(Member {
            key,
            value: start..end,
        });
        at = blank(json, end);
        match json.get(at) {
            Some(b',') => at = blank(json, at + 1),
            Some(b'}') => return (blank(json, at + 1) == json.len()).then_some(members),
            _ => return None,
        }
    }
}

/// The first place from `at` on that is no white space.
fn blank(json: &[u8], at: usize) -> usize {
    let rest = json.get(at..).unwrap_or_default();
    let blank = |byte: &&u8| matches!(**byte, b' ' | b'\t' | b'\n' | b'\r');
    at + rest.iter().take_while(blank).count()
}

/// The end of the string that begins at `at`.
fn string(json: &[u8], at: usize) -> Option<usize> {
    if json.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        match json[at] {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

/// The end of the value that begins at `at`.
fn value(json: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    let mut depth = 0_usize;
    loop {
        match json.get(at)? {
            b'"' => at = string(json, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' if depth > 0 => at += 1,
            b'}' | b']' | b',' | b':' => return None,
            _ => {
                let literal = |byte: &&u8| {
                    byte.is_ascii_alphanumeric() || matches!(**byte, b'+' | b'-' | b'.')
                };
                let len = json[at..].iter().take_while(literal).count();
                if len == 0 {
                    return None;
                }
                at += len;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_panics(json in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = members(&json);
        }

        #[test]
        fn finds_the_members_of_every_object(
            pairs in proptest::collection::vec(("[a-z]{0,5}", arbitrary_json()), 0..6),
            pretty in any::<bool>(),
        ) {
            let object: serde_json::Map<_, _> = pairs.into_iter().collect();
            let text = if pretty {
                serde_json::to_string_pretty(&object)
            } else {
                serde_json::to_string(&object)
            }.expect("JSON");
            let found = members(text.as_bytes()).expect("an object");
            prop_assert_eq!(found.len(), object.len());
            for (member, (key, value)) in found.iter().zip(&object) {
                prop_assert_eq!(&text[member.key.clone()], key);
                let read: serde_json::Value =
                    serde_json::from_str(&text[member.value.clone()]).expect("JSON");
                prop_assert_eq!(&read, value);
            }
        }
    }

    fn arbitrary_json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
