//! Changes of configuration files as text: what is not changed stays byte for
//! byte, comments and order included. Pure.
//!
//! Out of scope: which file says what (see [`super::tools`]), and writing.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use toml::Spanned;

/// One change: what stands at `at` becomes something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Edit {
    /// Where, in bytes.
    pub(super) at: usize,
    /// What stands there; empty for an insertion.
    pub(super) old: String,
    /// What shall.
    pub(super) new: String,
    /// What is shown before both, such as a key's name.
    pub(super) label: String,
}

/// Why a text can't be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TextError {
    /// It does not parse.
    #[error("it is not plain JSON ({0}): comments and trailing commas can't be kept safely")]
    Json(String),
    /// It does not parse.
    #[error("it is not valid TOML: {0}")]
    Toml(String),
    /// Something else stands where an object, table or text is expected.
    #[error("{0} is not {1}")]
    Kind(String, &'static str),
    /// The change would not say what it should.
    #[error("it is written in a way that can't be changed safely")]
    Odd,
}

/// A text after its edits, which are in ascending order.
pub(super) fn apply(text: &str, edits: &[Edit]) -> Option<String> {
    let (mut result, mut from) = (String::new(), 0);
    for Edit { at, old, new, .. } in edits {
        result.push_str(text.get(from..*at)?);
        from = at + old.len();
        if text.get(*at..from)? != old {
            return None;
        }
        result.push_str(new);
    }
    result.push_str(text.get(from..)?);
    Some(result)
}

/// A text without its edits, wherever these stand now, and those that are no
/// longer there just once.
pub(super) fn revert<'a>(text: &str, edits: &'a [Edit]) -> (String, Vec<&'a Edit>) {
    let (mut result, mut lost) = (text.to_owned(), vec![]);
    for edit in edits.iter().rev() {
        let mut found = result.match_indices(&edit.new).map(|(at, _)| at);
        match (found.next(), found.next()) {
            (Some(at), None) if !edit.new.is_empty() => {
                result.replace_range(at..at + edit.new.len(), &edit.old);
            }
            _ => lost.push(edit),
        }
    }
    (result, lost)
}

// --- JSON ------------------------------------------------------------------

/// The text at a path of keys, if there is one.
pub(super) fn json_text(json: &str, path: &[&str]) -> Result<Option<String>, TextError> {
    let Some(raw) = json_at(json, path)? else {
        return Ok(None);
    };
    let text = serde_json::from_str(raw.get());
    text.map(Some)
        .map_err(|_| TextError::Kind(path.join("."), "a text"))
}

/// The edit that sets the text at a path of keys: the last object on the way
/// that is there gets what is missing.
pub(super) fn json_set(json: &str, path: &[&str], value: &str) -> Result<Edit, TextError> {
    let quoted = quote(value);
    if json.trim().is_empty() {
        return Ok(Edit {
            at: 0,
            old: json.to_owned(),
            new: format!("{}\n", nested(path, &quoted, "")),
            label: String::new(),
        });
    }
    if let Some(raw) = json_at(json, path)? {
        return Ok(Edit {
            at: offset(json, raw.get()),
            old: raw.get().to_owned(),
            new: quoted,
            label: format!("{}: ", quote(path[path.len() - 1])),
        });
    }
    let mut depth = path.len() - 1;
    let object = loop {
        match json_at(json, &path[..depth])? {
            Some(raw) => break raw.get(),
            None => depth -= 1,
        }
    };
    let members = members(object, &path[..depth].join("."))?;
    let start = offset(json, object);
    let edit = match members.last() {
        None => Edit {
            at: start,
            old: object.to_owned(),
            new: nested(&path[depth..], &quoted, &"  ".repeat(depth)),
            label: String::new(),
        },
        Some((_, last)) => {
            // As the first one stands below its brace.
            let gap: String = object[1..]
                .chars()
                .take_while(|c| c.is_ascii_whitespace())
                .collect();
            let indent = gap.rsplit('\n').next().unwrap_or_default();
            let member = member(&path[depth..], &quoted, indent);
            Edit {
                at: offset(json, last.get()) + last.get().len(),
                old: String::new(),
                new: format!(",{}{member}", if gap.is_empty() { " " } else { &gap }),
                label: String::new(),
            }
        }
    };
    let set = apply(json, std::slice::from_ref(&edit)).ok_or(TextError::Odd)?;
    match json_text(&set, path)?.as_deref() == Some(value) {
        true => Ok(edit),
        false => Err(TextError::Odd),
    }
}

/// What stands at a path of keys; nothing in an empty file.
fn json_at<'a>(json: &'a str, path: &[&str]) -> Result<Option<&'a RawValue>, TextError> {
    if json.trim().is_empty() {
        return Ok(None);
    }
    let mut at: &RawValue =
        serde_json::from_str(json).map_err(|error| TextError::Json(error.to_string()))?;
    for (depth, key) in path.iter().enumerate() {
        let members = members(at.get(), &path[..depth].join("."))?;
        // Of a key that stands twice the last one counts, as for those who read it.
        match members.iter().rfind(|(name, _)| name == key) {
            Some((_, raw)) => at = raw,
            None => return Ok(None),
        }
    }
    if path.is_empty() {
        members(at.get(), "")?;
    }
    Ok(Some(at))
}

/// The keys of the object at a path.
pub(super) fn json_keys(json: &str, path: &[&str]) -> Result<Vec<String>, TextError> {
    let Some(raw) = json_at(json, path)? else {
        return Ok(vec![]);
    };
    let members = members(raw.get(), &path.join("."))?;
    Ok(members.into_iter().map(|(key, _)| key).collect())
}

type Members<'a> = Vec<(String, &'a RawValue)>;

fn members<'a>(object: &'a str, name: &str) -> Result<Members<'a>, TextError> {
    struct InOrder;
    impl<'de> Visitor<'de> for InOrder {
        type Value = Members<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = vec![];
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    let name = if name.is_empty() { "the root" } else { name };
    let mut json = serde_json::Deserializer::from_str(object);
    json.deserialize_map(InOrder)
        .map_err(|_| TextError::Kind(name.into(), "an object"))
}

/// Where a part of a text begins in it.
fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

/// `{"a": {"b": value}}` for the path a, b.
fn nested(path: &[&str], value: &str, indent: &str) -> String {
    let inner = format!("{indent}  ");
    format!("{{\n{inner}{}\n{indent}}}", member(path, value, &inner))
}

fn member(path: &[&str], value: &str, indent: &str) -> String {
    match path {
        [] => value.to_owned(),
        [key] => format!("{}: {value}", quote(key)),
        [key, rest @ ..] => format!("{}: {}", quote(key), nested(rest, value, indent)),
    }
}

/// A text as JSON and TOML write it, which agree on what goes in here: URLs
/// and names.
fn quote(text: &str) -> String {
    format!("\"{text}\"")
}

// --- TOML ------------------------------------------------------------------

/// Codex's configuration, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Codex {
    model_provider: Option<Spanned<String>>,
    model_providers: toml::Table,
}

/// The provider that is put into Codex's configuration.
const PROVIDER: &str = "tallystick";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ours {
    model_providers: OursOnly,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OursOnly {
    tallystick: Option<OursTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OursTable {
    base_url: Option<Spanned<String>>,
}

impl Codex {
    /// Reads it.
    pub(super) fn parse(text: &str) -> Result<Self, TextError> {
        toml::from_str(text).map_err(|error| TextError::Toml(error.message().to_owned()))
    }

    /// The provider that it chooses.
    pub(super) fn chosen(&self) -> Option<&str> {
        self.model_provider
            .as_ref()
            .map(|name| name.get_ref().as_str())
    }

    /// The base URL of our provider.
    pub(super) fn base_url(&self) -> Option<&str> {
        let ours = self.model_providers.get(PROVIDER)?;
        ours.get("base_url")?.as_str()
    }

    /// The edits that make our provider, at this base URL, the chosen one.
    pub(super) fn set(text: &str, base_url: &str) -> Result<Vec<Edit>, TextError> {
        let codex = Self::parse(text)?;
        let mut edits = vec![];
        match &codex.model_provider {
            Some(name) if name.get_ref() == PROVIDER => {}
            Some(name) => edits.push(replaced(text, name, PROVIDER, "model_provider = ")?),
            // Before everything: after a table's head it would be the table's.
            None => edits.push(Edit {
                at: 0,
                old: String::new(),
                new: format!("model_provider = {}\n", quote(PROVIDER)),
                label: String::new(),
            }),
        }
        let ours: Ours = toml::from_str(text).map_err(|_| TextError::Odd)?;
        match ours.model_providers.tallystick {
            Some(OursTable {
                base_url: Some(url),
            }) if url.get_ref() == base_url => {}
            Some(OursTable {
                base_url: Some(url),
            }) => {
                edits.push(replaced(text, &url, base_url, "base_url = ")?);
            }
            Some(OursTable { base_url: None }) => return Err(TextError::Odd),
            None => {
                let gap = match text {
                    "" => "\n",
                    text if text.ends_with('\n') => "\n",
                    _ => "\n\n",
                };
                edits.push(Edit {
                    at: text.len(),
                    old: String::new(),
                    new: format!(
                        "{gap}[model_providers.{PROVIDER}]\n\
                         name = \"OpenAI through Tallystick\"\n\
                         base_url = {}\n\
                         env_key = \"OPENAI_API_KEY\"\n\
                         wire_api = \"responses\"\n",
                        quote(base_url)
                    ),
                    label: String::new(),
                });
            }
        }
        edits.sort_by_key(|edit| edit.at);
        let set = apply(text, &edits).ok_or(TextError::Odd)?;
        let set = Self::parse(&set).map_err(|_| TextError::Odd)?;
        match set.chosen() == Some(PROVIDER) && set.base_url() == Some(base_url) {
            true => Ok(edits),
            false => Err(TextError::Odd),
        }
    }
}

fn replaced(
    text: &str,
    found: &Spanned<String>,
    value: &str,
    label: &str,
) -> Result<Edit, TextError> {
    let span = found.span();
    Ok(Edit {
        at: span.start,
        old: text.get(span).ok_or(TextError::Odd)?.to_owned(),
        new: quote(value),
        label: label.to_owned(),
    })
}

// --- Lines of variables ----------------------------------------------------

/// The value that a file of `NAME=value` lines gives a variable: the last one.
pub(super) fn variable<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().rev();
    let value = lines.filter_map(|line| assigned(line, name)).next()?;
    Some(value.trim().trim_matches(['"', '\'']))
}

/// The edit that gives a variable a value: in its last line, or in a new one.
pub(super) fn set_variable(text: &str, name: &str, value: &str) -> Edit {
    let line = text.lines().rfind(|line| assigned(line, name).is_some());
    match line.and_then(|line| assigned(line, name)) {
        Some(old) => Edit {
            at: offset(text, old),
            old: old.to_owned(),
            new: value.to_owned(),
            label: format!("{name}="),
        },
        None => {
            let gap = if text.is_empty() || text.ends_with('\n') {
                ""
            } else {
                "\n"
            };
            Edit {
                at: text.len(),
                old: String::new(),
                new: format!("{gap}{name}={value}\n"),
                label: String::new(),
            }
        }
    }
}

/// What a line gives a variable: of `.env` files and of shells.
pub(super) fn assigned<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let line = line.trim_start();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    if let Some(rest) = line.strip_prefix(name) {
        return rest.trim_start().strip_prefix('=');
    }
    // fish: set -gx NAME value
    let rest = line.strip_prefix("set ")?;
    let at = rest.find(name)?;
    let plain = rest[..at]
        .split_whitespace()
        .all(|word| word.starts_with('-'));
    let after = &rest[at + name.len()..];
    (plain && after.starts_with(' ')).then_some(after)
}

/// What stands before and after the lines that are ours in a shell's profile.
const BLOCK: [&str; 2] = [
    "# >>> tallystick >>> gateway setup wrote this; gateway setup --undo takes it out\n",
    "# <<< tallystick <<<\n",
];

/// Our block in a shell's profile: where it begins, and its text.
pub(super) fn block(text: &str) -> Result<Option<(usize, &str)>, TextError> {
    let [begin, end] = BLOCK.map(|mark| {
        let found = text.match_indices(mark).map(|(at, _)| at);
        found.collect::<Vec<_>>()
    });
    match (begin.as_slice(), end.as_slice()) {
        ([], []) => Ok(None),
        ([begin], [end]) if begin < end => Ok(Some((*begin, &text[*begin..end + BLOCK[1].len()]))),
        _ => Err(TextError::Odd),
    }
}

/// The edit that makes these lines our block.
pub(super) fn set_block(text: &str, lines: &str) -> Result<Edit, TextError> {
    let new = format!("{}{lines}{}", BLOCK[0], BLOCK[1]);
    if let Some((at, old)) = block(text)? {
        return Ok(Edit {
            at,
            old: old.to_owned(),
            new,
            label: String::new(),
        });
    }
    let gap = match text {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    Ok(Edit {
        at: text.len(),
        old: String::new(),
        new: format!("{gap}{new}"),
        label: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: [&str; 2] = ["env", "URL"];

    #[test]
    fn json_keeps_everything_but_what_is_set() {
        for (before, after) in [
            ("", "{\n  \"env\": {\n    \"URL\": \"new\"\n  }\n}\n"),
            ("{}", "{\n  \"env\": {\n    \"URL\": \"new\"\n  }\n}"),
            ("{\"b\":1}", "{\"b\":1, \"env\": {\n  \"URL\": \"new\"\n}}"),
            (
                "{\n  \"z\": [1, 2],\n  \"a\": \"x\"\n}\n",
                "{\n  \"z\": [1, 2],\n  \"a\": \"x\",\n  \"env\": {\n    \"URL\": \"new\"\n  }\n}\n",
            ),
            (
                "{\n\t\"env\": {\n\t\t\"K\": \"secret\"\n\t}\n}",
                "{\n\t\"env\": {\n\t\t\"K\": \"secret\",\n\t\t\"URL\": \"new\"\n\t}\n}",
            ),
            (
                "{\"env\": {\"URL\" : \"old\", \"K\":\"s\"}}",
                "{\"env\": {\"URL\" : \"new\", \"K\":\"s\"}}",
            ),
            ("{\"env\": { }}", "{\"env\": {\n    \"URL\": \"new\"\n  }}"),
        ] {
            let edit = json_set(before, &PATH, "new").expect(before);
            let found = apply(before, std::slice::from_ref(&edit)).expect(before);
            assert_eq!(found, after);
            assert_eq!(json_text(&found, &PATH), Ok(Some("new".into())));
            let (back, lost) = revert(&found, std::slice::from_ref(&edit));
            assert_eq!((back.as_str(), lost.len()), (before, 0));
        }
        for bad in [
            "{\"a\": 1,}",
            "// x\n{}",
            "{\"env\": 1}",
            "[]",
            "{",
            "\u{feff}{}",
            "{} x",
        ] {
            assert!(json_set(bad, &PATH, "new").is_err(), "{bad}");
        }
        assert!(json_text("{\"env\": {\"URL\": 1}}", &PATH).is_err());
    }

    #[test]
    fn toml_keeps_everything_but_what_is_set() {
        let table = "\n[model_providers.tallystick]\nname = \"OpenAI through Tallystick\"\nbase_url = \"new\"\nenv_key = \"OPENAI_API_KEY\"\nwire_api = \"responses\"\n";
        let chosen = "model_provider = \"tallystick\"\n";
        for (before, after) in [
            (String::new(), format!("{chosen}{table}")),
            (
                "# mine\nmodel = \"m\" # here\n[mcp.x]\na = 1".into(),
                format!("{chosen}# mine\nmodel = \"m\" # here\n[mcp.x]\na = 1\n{table}"),
            ),
            (
                "model_provider = 'openai' # usual\n".into(),
                format!("model_provider = \"tallystick\" # usual\n{table}"),
            ),
            (
                format!("{chosen}{}", table.replace("new", "old")),
                format!("{chosen}{table}"),
            ),
        ] {
            let edits = Codex::set(&before, "new").expect("it can be set");
            let found = apply(&before, &edits).expect("edits of this text");
            assert_eq!(found, after);
            assert_eq!(Codex::set(&found, "new"), Ok(vec![]), "set already");
            let (back, lost) = revert(&found, &edits);
            assert_eq!((back, lost.len()), (before, 0));
        }
        for bad in [
            "model_provider = ",
            "model_providers = {a = {base_url = \"x\"}}",
            "[model_providers.tallystick]\nname = \"x\"",
            "model_provider = 1",
        ] {
            assert!(Codex::set(bad, "new").is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_are_set_where_they_stand() {
        for (before, after) in [
            ("", "URL=new\n"),
            ("KEY=secret", "KEY=secret\nURL=new\n"),
            ("URL=old\nKEY=secret\n", "URL=new\nKEY=secret\n"),
            ("export URL=\"old\"\n#URL=x\n", "export URL=new\n#URL=x\n"),
            ("URL2=x\n", "URL2=x\nURL=new\n"),
        ] {
            let edit = set_variable(before, "URL", "new");
            let found = apply(before, std::slice::from_ref(&edit)).expect("of this text");
            assert_eq!(found, after);
            assert_eq!(variable(&found, "URL"), Some("new"));
        }
        for (line, value) in [
            ("set -gx URL 'x'", Some(" 'x'")),
            ("set -gx MY_URL x", None),
            ("setopt URL", None),
            ("echo URL=x", None),
        ] {
            assert_eq!(assigned(line, "URL"), value, "{line}");
        }
    }

    #[test]
    fn a_block_is_replaced_and_never_doubled() {
        let one =
            apply("a\n", &[set_block("a\n", "x\n").expect("none yet")]).expect("of this text");
        let two = apply(&one, &[set_block(&one, "y\n").expect("one")]).expect("of this text");
        assert_eq!(two, one.replace("x\n", "y\n"));
        let (at, ours) = block(&two).expect("one").expect("there");
        assert_eq!((&two[..at], ours.ends_with(BLOCK[1])), ("a\n\n", true));
        assert!(block(&one.replace(BLOCK[1], "")).is_err());
    }

    #[test]
    fn what_is_there_twice_or_no_more_is_not_reverted() {
        let edit = set_variable("", "URL", "new");
        for text in ["", "URL=other\n", "URL=new\nURL=new\n"] {
            let edits = [edit.clone()];
            let (back, lost) = revert(text, &edits);
            assert_eq!((back.as_str(), lost.len()), (text, 1));
        }
    }
}
