//! The newest records of somebody, as a table.

use maud::{Markup, html};
use protocol::entry::{Body, Entry};
use protocol::index::{Index, Time};
use protocol::record::{Link, Outcome, Source, Usage};

use super::format::{source_label, time, tokens};
use crate::store::Record;

/// How many are shown.
pub(super) const SHOWN: u32 = 12;

/// A usage entry and where it stands.
#[derive(Debug)]
pub(super) struct Recent {
    index: Index,
    time: Time,
    usage: Usage,
}

/// What entries say, of those that are usage entries.
pub(super) fn read(records: &[Record]) -> Vec<Recent> {
    let usage = |record: &Record| match Entry::parse(&record.entry) {
        Ok(Entry::Known {
            time,
            body: Body::Usage(usage),
        }) => Some(Recent {
            index: record.index,
            time,
            usage,
        }),
        _ => None,
    };
    records.iter().filter_map(usage).collect()
}

/// A table of them, called `caption`.
pub(super) fn table(records: &[Recent], caption: &str) -> Markup {
    html! {
        div.wide {
            table.rows {
                caption { (caption) }
                thead { tr {
                    th scope="col" { "Record" }
                    th scope="col" { "Time" }
                    th scope="col" { "Model" }
                    th scope="col" { "Provider" }
                    th.n scope="col" { "Input" }
                    th.n scope="col" { "Output" }
                    th scope="col" { "How" }
                } }
                tbody {
                    @for Recent { index, time: at, usage } in records {
                        tr {
                            td.first { a href=(format!("/record/{index}")) { "#" (index) } }
                            td.whole { (time(*at)) }
                            td data-label="Model" { (usage.model.as_ref().map_or("–", |model| model.as_str())) }
                            td data-label="Provider" { (usage.provider.as_str()) }
                            td.n data-label="Input" { (count_of(usage.counts.input)) }
                            td.n data-label="Output" { (count_of(usage.counts.output)) }
                            td.whole { (how(usage)) }
                        }
                    }
                }
            }
        }
    }
}

/// A count, or a dash where the provider did not say it.
fn count_of(count: Option<u32>) -> Markup {
    match count {
        Some(count) => tokens(count.into()),
        None => html! { abbr title="not said by the provider" { "–" } },
    }
}

/// The labels of a record: how it was observed and linked, and how it ended.
pub(super) fn how(usage: &Usage) -> Markup {
    html! {
        (source_label(usage.source))
        @if let Some((_, linked)) = usage.wallet { " " (link(linked)) }
        @if usage.outcome != Outcome::Complete {
            " " span.label.warn title=(ended(usage.outcome)) { (usage.outcome.as_str()) }
        }
        @if usage.inconsistent {
            " " span.label.warn title=(INCONSISTENT) { "inconsistent" }
        }
    }
}

/// How a wallet came to stand in a record, as a label.
pub(super) fn link(link: Link) -> Markup {
    match link {
        Link::Bound => html! { span.label.bound title=(linked(link)) { "bound" } },
        Link::Claimed => html! { span.label.claimed title=(linked(link)) { "claimed" } },
    }
}

pub(super) const INCONSISTENT: &str =
    "the provider contradicts itself: its own total is another one, or parts exceed their whole";

/// What a source means.
pub(super) fn observed(source: Source) -> &'static str {
    match source {
        Source::Proxy => "the gateway saw the answer of a provider that its operator configured",
        Source::Custom => "the gateway saw the answer of a host that the client named",
    }
}

/// What a link means.
pub(super) fn linked(link: Link) -> &'static str {
    match link {
        Link::Bound => "the wallet signed for the key of these calls, earlier in the log",
        Link::Claimed => "the request named the wallet; nobody proved that it is theirs",
    }
}

/// What an outcome means.
pub(super) fn ended(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Complete => "the provider's answer was over, and stated its usage",
        Outcome::Aborted => "the client left: the counts are what was seen until then",
        Outcome::Partial => {
            "the provider broke off, or its answer held an error: the counts are what was seen"
        }
        Outcome::Unmetered => {
            "the provider accepted the call and stated no usage in tokens that makes sense"
        }
        Outcome::Unknown => "the gateway's process ended while the call ran",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::hash::Hash;
    use protocol::name::{Address, Name};
    use protocol::record::Counts;

    #[test]
    fn what_was_not_said_is_no_zero_and_names_are_no_markup() {
        let usage = Usage {
            receipt: Hash::of(b"receipt"),
            key_id: None,
            wallet: Some((Address::from_bytes([7; 20]), Link::Claimed)),
            source: Source::Custom,
            provider: Name::new("evil.example").expect("a name"),
            model: Name::new("<script>alert(1)</script>"),
            counts: Counts {
                input: Some(0),
                ..Counts::NONE
            },
            outcome: Outcome::Aborted,
            inconsistent: true,
            response: None,
        };
        let at = Time::from_secs(1_764_000_000).expect("small");
        let index = Index::new(17).expect("small");
        let record = |entry: Vec<u8>| Record {
            index,
            entry,
            signature: [0; 64],
            receipt_id: None,
        };
        let entry = Body::Usage(usage).encode(at);
        let read = read(&[record(entry), record(b"no entry".to_vec())]);
        let drawn = table(&read, "Recent").into_string();
        for part in [
            r#"<a href="/record/17">#17</a>"#,
            "&lt;script&gt;alert(1)&lt;/script&gt;",
            r#"<data value="0""#,
            r#"<abbr title="not said by the provider">"#,
            ">claimed<",
            ">aborted<",
            ">inconsistent<",
            ">custom<",
        ] {
            assert!(drawn.contains(part), "{part} in {drawn}");
        }
        assert!(!drawn.contains("<script") && !drawn.contains(">bound<"));
        assert_eq!(drawn.matches("<tr>").count(), 2);
    }
}
