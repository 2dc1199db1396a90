//! Tests: recorded shapes of answers, replayed through a whole [`Meter`].
//!
//! `tests/providers/` holds the bodies and the counts that each must yield.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use proptest::prelude::*;
use protocol::record::{Counts, Outcome};
use serde_json::Value;

use super::{AnswerHead, Dialect, End, Kind, Meter, Metered, Progress, SessionMeter, classify};

/// One file of `tests/providers/`, and what is expected of it.
struct Sample {
    name: String,
    dialect: Dialect,
    kind: Kind,
    status: u16,
    content_type: String,
    content_encoding: Option<String>,
    cached: Option<String>,
    body: Vec<u8>,
    expected: Value,
}

impl Sample {
    fn head(&self) -> AnswerHead<'_> {
        AnswerHead {
            dialect: self.dialect,
            kind: self.kind,
            status: self.status,
            content_type: Some(&self.content_type),
            content_encoding: self.content_encoding.as_deref(),
            cached_prompt_tokens: self.cached.as_deref(),
        }
    }
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/providers"))
}

fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    for provider in std::fs::read_dir(folder()).expect("the samples").flatten() {
        let Ok(expected) = std::fs::read(provider.path().join("expected.json")) else {
            continue;
        };
        let expected: Value = serde_json::from_slice(&expected).expect("expectations are JSON");
        let provider_name = provider.file_name().into_string().expect("a name in UTF-8");
        for (file, expected) in expected.as_object().expect("a map of files") {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let headers = &expected["response_headers"];
            let dialect = Dialect::of(&provider_name);
            samples.push(Sample {
                name: format!("{provider_name}/{file}"),
                dialect,
                kind: kind(dialect, expected["endpoint"].as_str().expect("an endpoint")),
                status: status(file),
                content_type: text(&expected["content_type"]).expect("a content type"),
                content_encoding: text(&headers["content-encoding"]),
                cached: text(&headers["fireworks-cached-prompt-tokens"]),
                body: std::fs::read(provider.path().join(file)).expect("a body"),
                expected: expected.clone(),
            });
        }
    }
    assert!(samples.len() > 60, "{} samples", samples.len());
    samples
}

fn sample(name: &str) -> Sample {
    samples()
        .into_iter()
        .find(|sample| sample.name == name)
        .expect("a sample of that name")
}

/// The kind of request that an endpoint, as the expectations describe it, stands for.
fn kind(dialect: Dialect, endpoint: &str) -> Kind {
    let mut words = endpoint.split(' ');
    match (words.next(), words.next()) {
        (Some("WebSocket"), Some("BidiGenerateContent")) => {
            classify(dialect, "GET", "/ws/x.BidiGenerateContent")
        }
        (Some("WebSocket"), Some(path)) => classify(dialect, "GET", path),
        (Some(method @ ("GET" | "POST")), Some(path)) => classify(dialect, method, path),
        (Some(method), None) => classify(dialect, "POST", &format!("/v1beta/models/m{method}")),
        _ => Kind::Generate,
    }
}

/// Errors carry their status in their names.
fn status(file: &str) -> u16 {
    let digits = file.split(['_', '.']).filter_map(|part| part.parse().ok());
    digits
        .into_iter()
        .find(|status| *status >= 400)
        .unwrap_or(200)
}

/// Feeds `body` in slices whose lengths `slices` repeats.
fn run(head: &AnswerHead<'_>, body: &[u8], slices: &[usize], end: End) -> Vec<Metered> {
    if head.kind == Kind::Session {
        return run_session(head.dialect, body, slices, end);
    }
    let mut meter = Meter::new(head);
    let mut records = Vec::new();
    let mut rest = body;
    for length in slices.iter().cycle() {
        let (slice, tail) = rest.split_at((*length).clamp(1, rest.len().max(1)).min(rest.len()));
        meter.feed(slice);
        records.extend(std::iter::from_fn(|| meter.take()));
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    records.extend(meter.finish(end));
    records
}

/// Feeds messages, one a line, in slices whose lengths `slices` repeats.
fn run_session(dialect: Dialect, body: &[u8], slices: &[usize], end: End) -> Vec<Metered> {
    let mut meter = SessionMeter::new(dialect);
    let mut progress = Vec::new();
    let mut lengths = slices.iter().cycle();
    for mut message in body.split(|byte| *byte == b'\n') {
        while !message.is_empty() {
            let length = lengths.next().map_or(1, |length| (*length).max(1));
            let (slice, rest) = message.split_at(length.min(message.len()));
            meter.feed(slice);
            message = rest;
        }
        meter.end_message();
        progress.extend(std::iter::from_fn(|| meter.take()));
    }
    progress.extend(meter.finish(end));
    let ended = progress.into_iter().filter_map(|step| match step {
        Progress::Began(_) => None,
        Progress::Ended(_, metered) => Some(metered),
    });
    ended.collect()
}

/// The sums of the records' counts, as the expectations give them.
fn summed(records: &[Metered]) -> Value {
    let sum = |of: fn(&Counts) -> Option<u32>| {
        records
            .iter()
            .filter_map(|record| of(&record.counts))
            .map(u64::from)
            .reduce(|a, b| a + b)
    };
    serde_json::json!({
        "input": sum(|counts| counts.input),
        "output": sum(|counts| counts.output),
        "cache_read": sum(|counts| counts.cache_read),
        "cache_write": sum(|counts| counts.cache_write),
        "reasoning": sum(|counts| counts.reasoning),
    })
}

fn check(sample: &Sample, records: &[Metered], context: &str) {
    let name = format!("{} ({context})", sample.name);
    let outcomes: Vec<Outcome> = records.iter().map(|record| record.outcome).collect();
    let expected = match sample.expected["status"].as_str().expect("a status") {
        "not_usage" | "pending" => None,
        "error" if sample.status >= 400 => None,
        "complete" => Some(Outcome::Complete),
        "aborted" | "aborted_partial" | "partial" | "error" | "error_partial" => {
            Some(Outcome::Partial)
        }
        "no_usage" | "non_token_usage" | "invalid_usage" => Some(Outcome::Unmetered),
        other => panic!("{name}: unknown status {other}"),
    };
    match expected {
        None => return assert_eq!(records, [], "{name}"),
        Some(outcome) if matches!(sample.kind, Kind::Batch | Kind::Session) => {
            assert!(
                outcomes.iter().all(|each| *each == outcome),
                "{name}: {outcomes:?}"
            );
        }
        Some(outcome) => assert_eq!(outcomes, [outcome], "{name}"),
    }
    let mut usage = sample.expected["usage"].clone();
    let Some(fields) = usage.as_object_mut() else {
        return assert_eq!(records[0].counts, Counts::NONE, "{name}");
    };
    let total = fields.remove("total").and_then(|total| total.as_u64());
    assert_eq!(summed(records), usage, "{name}");
    let sum = usage["input"]
        .as_u64()
        .zip(usage["output"].as_u64())
        .map(|(i, o)| i + o);
    let inconsistent = records.iter().any(|record| record.inconsistent);
    assert_eq!(inconsistent, total != sum, "{name}");
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(body).expect("memory takes all");
    out.finish().expect("memory takes all")
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(body).expect("memory takes all");
    out.finish().expect("memory takes all")
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(body).expect("memory takes all");
    out.finish().expect("memory takes all")
}

fn brotli(body: &[u8]) -> Vec<u8> {
    let mut out = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
    out.write_all(body).expect("memory takes all");
    out.into_inner()
}

fn zstd(body: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(body, 3).expect("memory takes all")
}

/// A way to code a body.
#[derive(Clone, Copy, Debug)]
struct Coding {
    /// The header that names it.
    name: &'static str,
    code: fn(&[u8]) -> Vec<u8>,
}

const CODINGS: [Coding; 8] = [
    Coding {
        name: "gzip",
        code: gzip,
    },
    Coding {
        name: "x-gzip",
        code: gzip,
    },
    Coding {
        name: "deflate",
        code: zlib,
    },
    Coding {
        name: "deflate",
        code: deflate,
    },
    Coding {
        name: "br",
        code: brotli,
    },
    Coding {
        name: "zstd",
        code: zstd,
    },
    Coding {
        name: "gzip, br",
        code: |body| brotli(&gzip(body)),
    },
    Coding {
        name: " zstd , identity,GZIP",
        code: |body| gzip(&zstd(body)),
    },
];

const SLICES: [&[usize]; 7] = [
    &[1],
    &[2],
    &[3],
    &[7],
    &[64],
    &[1000],
    &[1, 7, 64, 2, 1000, 3],
];

#[test]
fn samples_count_as_expected_in_slices_of_any_size() {
    for sample in &samples() {
        for slices in SLICES.into_iter().chain([&[usize::MAX][..]]) {
            let records = run(&sample.head(), &sample.body, slices, End::Complete);
            check(sample, &records, &format!("slices {slices:?}"));
        }
    }
}

#[test]
fn samples_count_as_expected_in_every_coding() {
    for sample in samples().iter().filter(|sample| {
        // Frames are compressed one by one: see the proxy's reader of them.
        sample.content_encoding.is_none() && sample.kind != Kind::Session
    }) {
        for Coding { name, code } in CODINGS {
            let body = code(&sample.body);
            let head = AnswerHead {
                content_encoding: Some(name),
                ..sample.head()
            };
            for slices in SLICES {
                let records = run(&head, &body, slices, End::Complete);
                check(sample, &records, &format!("{name}, slices {slices:?}"));
            }
        }
    }
}

#[test]
fn wrong_content_types_and_codings_are_seen_through() {
    for sample in samples().iter().filter(|sample| {
        let lines = sample.content_type.contains("ndjson");
        sample.kind == Kind::Generate && sample.content_encoding.is_none() && !lines
    }) {
        for lie in [
            "application/json",
            "text/event-stream",
            "text/plain",
            "application/octet-stream",
        ] {
            let head = AnswerHead {
                content_type: Some(lie),
                ..sample.head()
            };
            check(sample, &run(&head, &sample.body, &[5], End::Complete), lie);
        }
        for coding in ["gzip", "br", "zstd", "deflate", "gzip, br"] {
            let head = AnswerHead {
                content_encoding: Some(coding),
                ..sample.head()
            };
            for slices in [&[1][..], &[usize::MAX]] {
                check(
                    sample,
                    &run(&head, &sample.body, slices, End::Complete),
                    coding,
                );
            }
        }
        let head = AnswerHead {
            content_encoding: Some("identity"),
            ..sample.head()
        };
        check(
            sample,
            &run(&head, &gzip(&sample.body), &[1], End::Complete),
            "undeclared gzip",
        );
    }
}

#[test]
fn names_are_those_of_the_response() {
    let check = |name: &str, model: Option<&str>, id: Option<&str>| {
        let sample = sample(name);
        let records = run(&sample.head(), &sample.body, &[3], End::Complete);
        assert_eq!(records[0].model.as_deref(), model, "{name}");
        assert_eq!(records[0].response_id.as_deref(), id, "{name}");
    };
    let gpt = Some("gpt-5-mini-2025-08-07");
    let claude = Some("claude-sonnet-4-5-20250929");
    check(
        "openai/chat.sse",
        gpt,
        Some("chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT"),
    );
    check(
        "openai/responses.sse",
        gpt,
        Some("resp_67ccd2bed1ec8190b14f964abc054267"),
    );
    check(
        "openai/responses.json",
        gpt,
        Some("resp_67ccd2bed1ec8190b14f964abc054267"),
    );
    check("openai/realtime.ndjson", None, Some("resp_1"));
    check("openai/image.json", None, None);
    check(
        "anthropic/messages.sse",
        claude,
        Some("msg_013Zva2CMHLNnjNjJJKqJ2EF"),
    );
    check(
        "anthropic/batch_results.ndjson",
        claude,
        Some("msg_013Zva2CMHLNnjNjJJKqJ2EF"),
    );
    let id = Some("mAitaLmkHPPlz7IPvtfUqQ4");
    check(
        "gemini/streamGenerateContent.sse",
        Some("gemini-2.5-flash"),
        id,
    );
    check(
        "gemini/streamGenerateContent_array.json",
        Some("gemini-2.5-flash"),
        id,
    );
    check(
        "gemini/interactions.json",
        Some("gemini-3-flash"),
        Some("v1_x"),
    );
    check("cohere/v1_chat.json", None, Some("r1"));
    check("ollama/chat.ndjson", Some("llama3.2"), None);
}

#[test]
fn a_batch_gives_one_record_a_response() {
    let sample = sample("anthropic/batch_results.ndjson");
    let records = run(&sample.head(), &sample.body, &[10], End::ClientLeft);
    assert_eq!(
        records
            .iter()
            .map(|each| each.counts.output)
            .collect::<Vec<_>>(),
        [Some(36), Some(4)]
    );

    let line = |id: u32| {
        format!(
            r#"{{"id":"batch_req_{id}","custom_id":"c","response":{{"status_code":200,"request_id":"r","body":{{"id":"chatcmpl-{id}","model":"m","usage":{{"prompt_tokens":{id},"completion_tokens":1,"total_tokens":{}}}}}}},"error":null}}"#,
            id + 1
        )
    };
    let head = AnswerHead {
        kind: Kind::Batch,
        ..openai("application/octet-stream")
    };
    let usage = r#"{"usage":{"prompt_tokens":9,"completion_tokens":9}}"#;
    let body = format!("{}\n{{broken\n{usage}\n\n{}", line(1), line(2));
    let records = run(&head, body.as_bytes(), &[7], End::Complete);
    let ids: Vec<_> = records
        .iter()
        .map(|each| each.response_id.as_deref())
        .collect();
    assert_eq!(ids, [Some("chatcmpl-1"), Some("chatcmpl-2")]);
}

/// What one body gives, told by its end, outcome and counts (input, output).
fn judge(
    kind: Kind,
    status: u16,
    content_type: &str,
    body: &str,
    end: End,
) -> Option<(Outcome, Option<u32>, Option<u32>)> {
    let head = AnswerHead {
        kind,
        status,
        ..openai(content_type)
    };
    let whole = run(&head, body.as_bytes(), &[usize::MAX], end);
    assert_eq!(whole, run(&head, body.as_bytes(), &[1], end), "{body}");
    assert!(whole.len() <= 1, "{body}");
    whole
        .first()
        .map(|each| (each.outcome, each.counts.input, each.counts.output))
}

#[test]
fn outcomes_tell_how_an_answer_ended() {
    use Outcome::{Aborted, Complete, Partial, Unmetered};
    const JSON: &str = "application/json";
    const SSE: &str = "text/event-stream";
    let check = |body: &str, content_type, end, expected| {
        assert_eq!(
            judge(Kind::Generate, 200, content_type, body, end),
            Some(expected),
            "{body} {end:?}"
        );
    };
    let counted = |outcome| (outcome, Some(1), Some(2));
    let none = |outcome| (outcome, None, None);
    let usage = r#""usage":{"prompt_tokens":1,"completion_tokens":2}"#;
    let json = format!("{{{usage}}}");
    check(&json, JSON, End::Complete, counted(Complete));
    check(&json, JSON, End::ClientLeft, counted(Complete));
    check(&json, JSON, End::ProviderBroke, counted(Complete));
    check(&format!("{{{usage}"), JSON, End::Complete, counted(Partial));
    check(
        &format!("{{{usage}"),
        JSON,
        End::ClientLeft,
        counted(Aborted),
    );
    check(
        &format!("{{{usage},nonsense"),
        JSON,
        End::ClientLeft,
        counted(Aborted).min(none(Aborted)),
    );
    check(
        r#"{"usage":{"prompt_tokens":1"#,
        JSON,
        End::ClientLeft,
        none(Aborted),
    );
    // An entry that is unmetered holds no counts.
    check(
        &format!("[{json},{{}},nonsense"),
        JSON,
        End::Complete,
        counted(Partial),
    );
    check("not json", JSON, End::Complete, none(Unmetered));
    check("not json", JSON, End::ClientLeft, none(Aborted));
    check("", JSON, End::Complete, none(Unmetered));
    check("", JSON, End::ProviderBroke, none(Partial));
    check("", SSE, End::Complete, none(Partial));
    check("  \n ", JSON, End::Complete, none(Unmetered));
    check("RIFF", "audio/wav", End::Complete, none(Unmetered));
    check("RIFF", "audio/wav", End::ClientLeft, none(Aborted));
    check(
        &format!(r#"{{"error":{{"message":"x"}},{usage}}}"#),
        JSON,
        End::Complete,
        counted(Partial),
    );
    check(
        &format!(r#"{{"error":null,{usage}}}"#),
        JSON,
        End::Complete,
        counted(Complete),
    );
    check(
        r#"{"status":"cancelled","usage":null}"#,
        JSON,
        End::Complete,
        none(Unmetered),
    );

    let chunk = format!("data: {{\"choices\":[{{\"finish_reason\":null}}],{usage}}}\n\n");
    let last = format!("data: {{\"choices\":[{{\"finish_reason\":\"stop\"}}],{usage}}}\n\n");
    let stop = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n";
    let done = "data: [DONE]\n\n";
    check(&chunk, SSE, End::Complete, counted(Partial));
    check(&chunk, SSE, End::ClientLeft, counted(Aborted));
    check(
        &format!("{chunk}{done}"),
        SSE,
        End::ClientLeft,
        counted(Complete),
    );
    check(
        &format!("{chunk}data:[DONE]"),
        SSE,
        End::ClientLeft,
        counted(Complete),
    );
    check(
        &format!("{chunk}data: [DONE"),
        SSE,
        End::ClientLeft,
        counted(Aborted),
    );
    check(&last, SSE, End::Complete, counted(Complete));
    check(&last, SSE, End::ClientLeft, counted(Complete));
    check(stop, SSE, End::Complete, none(Unmetered));
    check(stop, SSE, End::ClientLeft, none(Aborted));
    check(stop, SSE, End::ProviderBroke, none(Partial));
    check(
        &format!("{stop}data: {{{usage}}}"),
        SSE,
        End::ClientLeft,
        counted(Complete),
    );
    check(
        &format!("{chunk}data: {{\"error\":\"x\"}}\n\n{done}"),
        SSE,
        End::Complete,
        counted(Partial),
    );
    check(
        &format!("{last}{done}data: {{\"error\":\"x\"}}\n\n"),
        SSE,
        End::Complete,
        counted(Complete),
    );
    check(
        &format!("data: {{broken\n\n{chunk}{done}"),
        SSE,
        End::Complete,
        counted(Complete),
    );
    check(
        &format!("data: {{{usage}}} x\n\n{done}"),
        SSE,
        End::Complete,
        none(Unmetered),
    );
    check(
        &format!("data: {{\ndata: {usage}\ndata: }}\n\n{done}"),
        SSE,
        End::Complete,
        counted(Complete),
    );
    check(
        &format!("\u{feff}: hi\r\rid: 1\rdata:{{{usage}}}\r\r{done}"),
        SSE,
        End::Complete,
        counted(Complete),
    );
    check(
        &format!("{chunk}event: x\n\n{done}"),
        SSE,
        End::Complete,
        counted(Complete),
    );
    check(
        "data: {\"type\":\"response.incomplete\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}}\n\n",
        SSE,
        End::Complete,
        counted(Complete),
    );

    let lines = "application/x-ndjson";
    check("{\"done\":false}\n", lines, End::Complete, none(Partial));
    check(
        "{\"done\":false}\n{\"done\":true,\"prompt_eval_count\":1,\"eval_count\":2}",
        lines,
        End::ClientLeft,
        counted(Complete),
    );
    check(
        "{\"done\":false}\n{\"done\":true,\"prompt_eval_count\":1,\"eval_count\":2}",
        JSON,
        End::Complete,
        counted(Complete),
    );
}

#[test]
fn refusals_and_other_requests_count_only_what_they_state() {
    let check = |kind, status, body, expected: Option<Outcome>| {
        let judged = judge(kind, status, "application/json", body, End::Complete);
        assert_eq!(
            judged.map(|(outcome, _, _)| outcome),
            expected,
            "{kind:?} {status} {body}"
        );
    };
    let usage = r#"{"error":{},"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    let plain = r#"{"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    let wrong = r#"{"usage":{"prompt_tokens":-1,"completion_tokens":2}}"#;
    check(Kind::Generate, 400, usage, Some(Outcome::Complete));
    check(Kind::Generate, 400, wrong, None);
    check(Kind::Generate, 400, "{}", None);
    check(Kind::Generate, 200, "{}", Some(Outcome::Unmetered));
    check(Kind::Other, 200, plain, Some(Outcome::Complete));
    check(Kind::Other, 200, wrong, None);
    check(Kind::Other, 200, "{}", None);
    check(Kind::Other, 400, plain, None);
    check(Kind::Retrieve, 200, plain, Some(Outcome::Complete));
    check(Kind::Retrieve, 200, "{}", None);
    check(Kind::Retrieve, 404, plain, None);
    check(
        Kind::Retrieve,
        200,
        r#"{"status":"in_progress","usage":null}"#,
        None,
    );
    check(Kind::None, 200, plain, None);
}

#[test]
fn usage_that_makes_no_sense_is_refused() {
    let check = |prompt: &str, counted: Option<u32>| {
        let body = format!(r#"{{"usage":{{"prompt_tokens":{prompt},"completion_tokens":3}}}}"#);
        let judged = judge(
            Kind::Generate,
            200,
            "application/json",
            &body,
            End::Complete,
        );
        let expected = match counted {
            Some(count) => (Outcome::Complete, Some(count), Some(3)),
            None => (Outcome::Unmetered, None, None),
        };
        assert_eq!(judged, Some(expected), "{prompt}");
    };
    check("0", Some(0));
    check("17.0", Some(17));
    check("1.7e1", Some(17));
    check("-0", Some(0));
    check("4294967295", Some(u32::MAX));
    check("4294967296", None);
    check("99999999999999999999999999", None);
    check("17.5", None);
    check("-1", None);
    check("1e400", None);
    check("\"17\"", None);
    check("true", None);
    check("{}", None);
    check("[1]", None);
    check("017", None);
    check(&"1".repeat(100_000), None);
    let null = r#"{"usage":{"prompt_tokens":null,"completion_tokens":3}}"#;
    let judged = judge(Kind::Generate, 200, "application/json", null, End::Complete);
    assert_eq!(judged, Some((Outcome::Complete, None, Some(3))));
    let over =
        r#"{"usage":{"input_tokens":4294967295,"cache_read_input_tokens":1,"output_tokens":1}}"#;
    let judged = judge(Kind::Generate, 200, "application/json", over, End::Complete);
    assert_eq!(judged, Some((Outcome::Unmetered, None, None)));
}

#[test]
fn a_client_may_leave_at_any_byte() {
    for name in [
        "anthropic/messages.sse",
        "anthropic/messages.json",
        "openai/chat.sse",
        "openai/responses.sse",
    ] {
        let sample = sample(name);
        let whole = run(&sample.head(), &sample.body, &[usize::MAX], End::Complete);
        let mut before = Counts::NONE;
        let mut complete = false;
        for end in 0..=sample.body.len() {
            let records = run(&sample.head(), &sample.body[..end], &[64], End::ClientLeft);
            let [record] = records.as_slice() else {
                panic!("{name} at {end}: {records:?}")
            };
            complete |= record.outcome == Outcome::Complete;
            let expected = if complete {
                Outcome::Complete
            } else {
                Outcome::Aborted
            };
            assert_eq!(record.outcome, expected, "{name} at {end}");
            assert!(record.counts.input >= before.input, "{name} at {end}");
            assert!(record.counts.output >= before.output, "{name} at {end}");
            before = record.counts;
        }
        assert!(complete && before == whole[0].counts, "{name}");
    }
}

#[test]
fn anthropic_iterations_are_summed() {
    let body = r#"{"usage":{"input_tokens":23000,"output_tokens":1000,"cache_read_input_tokens":5,"iterations":[{"type":"compaction","input_tokens":180000,"output_tokens":3500},{"type":"message","input_tokens":23000,"output_tokens":1000}]}}"#;
    let judged = judge(Kind::Generate, 200, "application/json", body, End::Complete);
    assert_eq!(judged, Some((Outcome::Complete, Some(203_005), Some(4500))));
}

#[test]
fn rules_without_a_sample_hold() {
    let check = |dialect, body: &str, expected: [Option<u32>; 5], inconsistent| {
        let head = AnswerHead {
            dialect,
            cached_prompt_tokens: Some("4"),
            ..openai("application/json")
        };
        let records = run(&head, body.as_bytes(), &[5], End::Complete);
        let [input, cache_read, cache_write, output, reasoning] = expected;
        let counts = Counts {
            input,
            cache_read,
            cache_write,
            output,
            reasoning,
        };
        assert_eq!(
            (records[0].counts, records[0].inconsistent),
            (counts, inconsistent),
            "{body}"
        );
    };
    use Dialect::{Anthropic, Gemini, OpenAi};
    let is = Some;
    // Reasoning beside the completion, as the total shows.
    check(
        OpenAi,
        r#"{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":22,"completion_tokens_details":{"reasoning_tokens":7}}}"#,
        [is(10), is(4), None, is(12), is(7)],
        false,
    );
    check(
        OpenAi,
        r#"{"usage":{"prompt_tokens":10,"completion_tokens":9,"total_tokens":19,"prompt_cache_hit_tokens":0,"completion_tokens_details":{"reasoning_tokens":7}}}"#,
        [is(10), is(0), None, is(9), is(7)],
        false,
    );
    // Parts that exceed their whole.
    check(
        OpenAi,
        r#"{"usage":{"prompt_tokens":3,"completion_tokens":9}}"#,
        [is(3), is(4), None, is(9), None],
        true,
    );
    // One event, stated twice and differently: the first path is believed.
    check(
        OpenAi,
        r#"{"x_groq":{"usage":{"prompt_tokens":50,"completion_tokens":50}},"usage":{"prompt_tokens":10,"completion_tokens":9}}"#,
        [is(10), is(4), None, is(9), None],
        false,
    );
    check(
        OpenAi,
        r#"{"usage":{"prompt_tokens":10,"completion_tokens":9},"x_groq":{"usage":{"prompt_tokens":50,"completion_tokens":50}}}"#,
        [is(10), is(4), None, is(9), None],
        false,
    );
    // Anthropic's names mean what they mean to Anthropic, wherever they come from.
    for dialect in [OpenAi, Anthropic] {
        check(
            dialect,
            r#"{"usage":{"input_tokens":10,"cache_read_input_tokens":100,"cache_creation_input_tokens":7,"output_tokens":2}}"#,
            [is(117), is(100), is(7), is(2), None],
            false,
        );
    }
    check(
        Gemini,
        r#"{"usageMetadata":{"promptTokenCount":10,"toolUsePromptTokenCount":5,"candidatesTokenCount":3,"thoughtsTokenCount":2,"totalTokenCount":20}}"#,
        [is(15), None, None, is(5), is(2)],
        false,
    );
    check(
        Gemini,
        r#"{"usageMetadata":{"totalTokenCount":20}}"#,
        [None; 5],
        false,
    );
    // Only output: the input is not made up.
    check(
        Anthropic,
        r#"{"usage":{"output_tokens":2}}"#,
        [None, None, None, is(2), None],
        false,
    );
}

#[test]
fn what_cannot_be_decoded_is_not_counted() {
    let sample = sample("openai/chat.json");
    let check = |coding, body: &[u8], end, expected| {
        let head = AnswerHead {
            content_encoding: Some(coding),
            ..sample.head()
        };
        let records = run(&head, body, &[100], end);
        assert_eq!(records.len(), 1, "{coding}");
        assert_eq!(
            (records[0].outcome, records[0].counts.output),
            expected,
            "{coding} {end:?}"
        );
    };
    let coded = gzip(&sample.body);
    check(
        "compress",
        &sample.body,
        End::Complete,
        (Outcome::Unmetered, None),
    );
    check(
        "compress",
        &sample.body,
        End::ClientLeft,
        (Outcome::Aborted, None),
    );
    check(
        "gzip",
        &coded[..coded.len() / 2],
        End::ClientLeft,
        (Outcome::Aborted, None),
    );
    let mut wrong = coded.clone();
    wrong[10] |= 6;
    check("gzip", &wrong, End::Complete, (Outcome::Unmetered, None));
    check(
        "gzip",
        &[&coded[..], &[0xff; 200]].concat(),
        End::Complete,
        (Outcome::Complete, Some(300)),
    );
    check(
        "gzip",
        &coded[..coded.len() - 8],
        End::Complete,
        (Outcome::Complete, Some(300)),
    );
    check("br", &coded, End::Complete, (Outcome::Unmetered, None));
    check(
        "gzip,gzip,gzip,gzip,gzip",
        &coded,
        End::Complete,
        (Outcome::Unmetered, None),
    );
}

#[test]
fn gzip_headers_and_members_are_read() {
    let sample = sample("openai/chat.json");
    let mut header = vec![
        0x1f,
        0x8b,
        8,
        4 | 8 | 16 | 2,
        0,
        0,
        0,
        0,
        0,
        255,
        3,
        0,
        1,
        2,
        3,
    ];
    header.extend_from_slice(b"name\0comment\0cc");
    let middle = sample.body.len() / 2;
    let (first, second) = sample.body.split_at(middle);
    let body = [&header[..], &gzip(first)[10..], &gzip(second)].concat();
    let head = AnswerHead {
        content_encoding: Some("gzip"),
        ..sample.head()
    };
    for slices in SLICES {
        check(
            &sample,
            &run(&head, &body, slices, End::Complete),
            "two members",
        );
    }
}

/// Resident memory in bytes, where the system tells it.
fn resident() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm
        .split(' ')
        .nth(1)?
        .parse::<usize>()
        .ok()
        .map(|pages| pages * 4096)
}

/// What is fed to a meter in `memory_does_not_grow_with_the_body`.
const GROWN: usize = if cfg!(debug_assertions) {
    24 << 20
} else {
    100 << 20
};

#[test]
fn memory_does_not_grow_with_the_body() {
    // In a process of its own, where no other test moves the figure.
    let (_, module) = module_path!().split_once("::").expect("a path in a crate");
    let status = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .arg(format!("{module}::alone"))
        .output()
        .expect("this program runs");
    let told = String::from_utf8_lossy(&status.stdout);
    assert!(
        status.status.success() && told.contains("1 passed"),
        "{told}"
    );
}

#[test]
#[ignore = "run by memory_does_not_grow_with_the_body"]
fn alone() {
    let usage = "\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}";
    let numbers = "-0.0123456789,".repeat(1 << 10);
    let text = "lorem \\\"ipsum ".repeat(1 << 10);
    let event = "data: {\"choices\":[]}\n\n".repeat(1 << 10);
    let deep = "[{\"a\":".repeat(1 << 10);
    let cases = [
        ("application/json", "{\"data\":[", &numbers, "0],"),
        ("application/json", "{\"data\":\"", &text, "\","),
        ("application/json", "{\"model\":\"", &text, "\","),
        ("application/json", "{\"", &text, "\":0,"),
        ("text/event-stream", "data: {\"data\":[", &numbers, "0],"),
        ("text/event-stream", "", &event, "data: [DONE]\n\ndata: {"),
        (
            "text/event-stream",
            "data: {}\ndata: {\"data",
            &text,
            "\":0}\n\ndata: [DONE]\n\ndata: {",
        ),
        ("application/jsonl", "{\"data\":[", &numbers, "0],"),
        ("application/json", "{\"data\":[", &deep, ""),
    ];
    for (content_type, begin, piece, end) in cases {
        for coding in [None, Some(CODINGS[0]), Some(CODINGS[4]), Some(CODINGS[5])] {
            let times = GROWN / piece.len();
            let closing = if *piece == deep {
                "}]".repeat(times << 10) + "],"
            } else {
                end.to_owned()
            };
            let body = [begin, &piece.repeat(times), &closing, usage].concat();
            let body = coding.map_or_else(
                || body.clone().into_bytes(),
                |coding| (coding.code)(body.as_bytes()),
            );
            let head = AnswerHead {
                content_encoding: coding.map(|coding| coding.name),
                ..openai(content_type)
            };
            let before = resident();
            let mut meter = Meter::new(&head);
            body.chunks(16 << 10).for_each(|slice| meter.feed(slice));
            let after = resident();
            let grown = after
                .zip(before)
                .map_or(0, |(after, before)| after.saturating_sub(before));
            let name = format!("{content_type} {begin} {:?}", head.content_encoding);
            println!("{name}: grew by {grown} bytes");
            // brotli's window is up to 16 MiB, zstd's up to 8.
            assert!(
                grown < if coding.is_none() { 4 << 20 } else { 24 << 20 },
                "{name}: {grown}"
            );
            assert_eq!(
                meter.finish(End::Complete)[0].counts.input,
                Some(8),
                "{name}"
            );
        }
    }
}

#[test]
#[ignore = "a measurement, for a run by itself, in release"]
fn how_long_an_answer_takes() {
    let mut stream = Vec::new();
    for at in 0..64 {
        stream.extend_from_slice(format!("data: {{\"id\":\"chatcmpl-mock0001\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_mock\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"tok T={at} \"}},\"logprobs\":null,\"finish_reason\":null}}],\"usage\":null}}\n\n").as_bytes());
    }
    stream.extend_from_slice(b"data: {\"id\":\"chatcmpl-mock0001\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"gpt-4o-mini\",\"choices\":[],\"usage\":{\"prompt_tokens\":21,\"completion_tokens\":64,\"total_tokens\":85,\"prompt_tokens_details\":{\"cached_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0}}}\n\ndata: [DONE]\n\n");
    let json = format!(
        "{{\"id\":\"c\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{}\"}},\"finish_reason\":\"stop\"}}],\"usage\":{{\"prompt_tokens\":21,\"completion_tokens\":64,\"total_tokens\":85}}}}",
        "lorem ipsum ".repeat(200)
    );
    let long = stream.repeat(16);
    let cases: [(&str, &[u8], &str, usize); 5] = [
        (
            "64 events, 1400-byte slices",
            &stream,
            "text/event-stream",
            1400,
        ),
        (
            "64 events, 274-byte slices",
            &stream,
            "text/event-stream",
            274,
        ),
        (
            "64 events, one slice",
            &stream,
            "text/event-stream",
            usize::MAX,
        ),
        (
            "1024 events, 1400-byte slices",
            &long,
            "text/event-stream",
            1400,
        ),
        (
            "2.5 kB of JSON",
            json.as_bytes(),
            "application/json",
            usize::MAX,
        ),
    ];
    for (name, body, content_type, slice) in cases {
        let head = openai(content_type);
        let mut times: Vec<u128> = (0..9)
            .map(|_| {
                let began = Instant::now();
                for _ in 0..2000 {
                    let mut meter = Meter::new(&head);
                    body.chunks(slice.min(body.len()))
                        .for_each(|slice| meter.feed(std::hint::black_box(slice)));
                    assert_eq!(
                        std::hint::black_box(meter.finish(End::Complete))[0]
                            .counts
                            .input,
                        Some(21)
                    );
                }
                began.elapsed().as_nanos() / 2000
            })
            .collect();
        times.sort_unstable();
        println!(
            "{name}: {} bytes, median {} ns, best {} ns",
            body.len(),
            times[4],
            times[0]
        );
    }
    println!("a meter is {} bytes", std::mem::size_of::<Meter>());
}

/// Any JSON, also with the keys that paths are made of.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    let key = prop_oneof![
        ".*".prop_map(String::from),
        prop::sample::select(vec![
            "usage",
            "response",
            "message",
            "delta",
            "meta",
            "prompt_tokens",
            "completion_tokens",
            "input_tokens",
            "iterations",
            "choices",
            "finish_reason",
            "tokens",
            "x\"\\\u{1f600}",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn openai(content_type: &str) -> AnswerHead<'_> {
    AnswerHead {
        dialect: Dialect::OpenAi,
        kind: Kind::Generate,
        status: 200,
        content_type: Some(content_type),
        content_encoding: None,
        cached_prompt_tokens: None,
    }
}

proptest! {
    #[test]
    fn any_slicing_gives_the_same(
        which in any::<prop::sample::Index>(),
        slices in prop::collection::vec(1..200_usize, 1..20),
        cut in any::<prop::sample::Index>(),
        end in prop::sample::select(vec![End::Complete, End::ProviderBroke, End::ClientLeft]),
    ) {
        let samples = samples();
        let sample = which.get(&samples);
        let body = &sample.body[..=cut.index(sample.body.len())];
        let whole = run(&sample.head(), body, &[usize::MAX], end);
        prop_assert_eq!(run(&sample.head(), body, &slices, end), whole);
    }

    #[test]
    fn damaged_answers_never_panic(
        which in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        coding in prop::sample::select(CODINGS.to_vec()),
        slices in prop::collection::vec(1..200_usize, 1..8),
    ) {
        let samples = samples();
        let sample = which.get(&samples);
        let mut body = (coding.code)(&sample.body);
        for (at, byte) in flips {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let head = AnswerHead { content_encoding: Some(coding.name), ..sample.head() };
        run(&head, &body, &slices, End::Complete);
        run(&head, &body, &[usize::MAX], End::Complete);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            r#"[\[\]{}:,"\\ \n\rdatuesg0-9.e-]{0,200}"#.prop_map(String::into_bytes),
        ],
        content_type in prop::sample::select(vec!["application/json", "text/event-stream", "application/jsonl", "x/y"]),
        coding in prop::sample::select(vec!["", "gzip", "deflate", "br", "zstd", "gzip, br", "?"]),
        slices in prop::collection::vec(1..50_usize, 1..8),
    ) {
        let head = AnswerHead { content_encoding: Some(coding), ..openai(content_type) };
        let records = run(&head, &body, &slices, End::Complete);
        prop_assert_eq!(records.len(), 1);
        prop_assert_eq!(&run(&head, &body, &[usize::MAX], End::Complete), &records);
    }

    #[test]
    fn content_never_counts(text in ".*", hostile in json(), pretty in any::<bool>()) {
        let usage = serde_json::json!({"usage": {"prompt_tokens": 9, "completion_tokens": 9}});
        let content = format!("{text}{usage}\ndata: {usage}\n\n{hostile}");
        let body = serde_json::json!({
            "choices": [
                {"message": {"content": content, "usage": hostile, "nested": usage}, "finish_reason": "stop"},
                usage,
            ],
            "data": [usage, [usage], {"response": usage}],
            content.as_str(): usage,
            "output": hostile,
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        });
        let body = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) };
        let body = body.expect("a value writes itself");
        let expected = Some((Outcome::Complete, Some(3), Some(4)));
        prop_assert_eq!(judge(Kind::Generate, 200, "application/json", &body, End::Complete), expected);
        if !pretty {
            let stream = format!("data: {body}\r\n\r\n");
            prop_assert_eq!(judge(Kind::Generate, 200, "text/event-stream", &stream, End::Complete), expected);
        }
    }

    #[test]
    fn names_are_decoded_as_serde_json_decodes_them(
        id in ".{0,70}",
        escaped in any::<bool>(),
        slices in prop::collection::vec(1..20_usize, 1..8),
    ) {
        let mut body = serde_json::json!({"id": id, "usage": {}}).to_string();
        if escaped {
            let units: String = id.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            body = format!("{{\"\\u0069d\":\"{units}\"}}");
        }
        let records = run(&openai("application/json"), body.as_bytes(), &slices, End::Complete);
        let kept = Some(id).filter(|id| !id.is_empty() && id.len() <= 256);
        prop_assert_eq!(&records[0].response_id, &kept);
    }
}
