//! What a witness's answer to add-checkpoint means (C2SP tlog-witness,
//! PROTOCOL.md section 6.3). Pure.

use http::StatusCode;
use protocol::cosignature::CosignerKey;
use protocol::index::{Time, TreeSize};
use protocol::witness::{self, AnswerError, SIZE_CONTENT_TYPE};

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The size that the witness was thought to hold.
    pub(super) old: TreeSize,
    /// The size of the checkpoint.
    pub(super) size: TreeSize,
    /// The checkpoint's text.
    pub(super) text: &'a str,
    /// The log's size now: no witness can hold more.
    pub(super) log: TreeSize,
}

/// What came back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    pub(super) content_type: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// What it means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The witness cosigned: when, and its signature line.
    Cosigned(Time, String),
    /// It holds another size than was thought: to be asked again from there.
    Holds(TreeSize),
}

/// Why an attempt brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    #[error("it did not answer within {0} s")]
    Silent(u64),
    #[error("its answer has more than {} bytes", witness::MAX_ANSWER)]
    TooLong,
    #[error("the consistency proof can't be made: {0}")]
    NoProof(String),
    #[error("it answered {0}, expected 200 and a cosignature")]
    Status(u16),
    #[error("404: it does not know this log; its operator adds the log by origin and key")]
    UnknownLog,
    #[error("403: it knows this log by another key, or not from here")]
    Forbidden,
    #[error("400: it does not take the request")]
    BadRequest,
    #[error("{0}")]
    Unusable(AnswerError),
    #[error("it said three times in a row that it holds another size than it did before")]
    Restless,
    #[error("{0}: its key in the policy is wrong, or it answers for somebody else")]
    Forged(AnswerError),
    #[error("409 without a size: {0:?}")]
    NoSize(String),
    #[error(
        "409: it holds {held} entries, but this log has only {log}: the log was restored from an \
         older copy, or somebody else signs with its key"
    )]
    Beyond { held: TreeSize, log: TreeSize },
    #[error(
        "409, though it holds {0} entries as the request says: it has another root for them, and a \
         fork of this log is signed, or it contradicts itself"
    )]
    OtherRoot(TreeSize),
    #[error(
        "422: it refuses the proof from the {0} entries that it holds: it has another root for \
         them, and a fork of this log is signed"
    )]
    OtherHistory(TreeSize),
}

impl Problem {
    /// Whether it makes no sense between an honest log and an honest witness,
    /// so that somebody must look.
    pub(super) fn is_alarming(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::Silent(_)
            | Self::TooLong
            | Self::NoProof(_)
            | Self::Status(_)
            | Self::UnknownLog
            | Self::Forbidden
            | Self::BadRequest
            | Self::Unusable(_)
            | Self::Restless => false,
            Self::Forged(_)
            | Self::NoSize(_)
            | Self::Beyond { .. }
            | Self::OtherRoot(_)
            | Self::OtherHistory(_) => true,
        }
    }
}

/// Judges an answer of the witness with this key.
///
/// # Errors
/// It brings neither a cosignature nor a size to go on from.
pub(super) fn judge(
    asked: Asked<'_>,
    answer: Answer<'_>,
    key: &CosignerKey,
) -> Result<Verdict, Problem> {
    match answer.status {
        StatusCode::OK => match witness::cosignature(answer.body, asked.text, key) {
            Ok((time, line)) => Ok(Verdict::Cosigned(time, line)),
            Err(error @ AnswerError::Cosignature(_)) => Err(Problem::Forged(error)),
            Err(error) => Err(Problem::Unusable(error)),
        },
        StatusCode::CONFLICT => held(asked, answer).map(Verdict::Holds),
        StatusCode::BAD_REQUEST => Err(Problem::BadRequest),
        StatusCode::FORBIDDEN => Err(Problem::Forbidden),
        StatusCode::NOT_FOUND => Err(Problem::UnknownLog),
        // From nothing there is no proof that could be refused.
        StatusCode::UNPROCESSABLE_ENTITY if asked.old > TreeSize::ZERO => {
            Err(Problem::OtherHistory(asked.old))
        }
        other => Err(Problem::Status(other.as_u16())),
    }
}

/// The size in a 409 that makes sense.
fn held(asked: Asked<'_>, answer: Answer<'_>) -> Result<TreeSize, Problem> {
    let kind = answer.content_type.unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let size = kind
        .eq_ignore_ascii_case(SIZE_CONTENT_TYPE)
        .then(|| witness::parse_conflict(answer.body))
        .flatten();
    match size {
        Some(held) if held > asked.log => Err(Problem::Beyond {
            held,
            log: asked.log,
        }),
        Some(held) if held == asked.old => Err(Problem::OtherRoot(held)),
        Some(held) => Ok(held),
        // Asked for the size it holds, it need not say which.
        None if asked.old == asked.size => Err(Problem::OtherRoot(asked.old)),
        None => {
            let body = String::from_utf8_lossy(answer.body);
            Err(Problem::NoSize(body.chars().take(40).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::cosignature::Cosigner;
    use protocol::vkey::KeyName;

    const TEXT: &str = "log.example\n9\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    fn size(n: u64) -> TreeSize {
        TreeSize::new(n).expect("small")
    }

    fn witness(seed: u8) -> Cosigner {
        Cosigner::new(KeyName::new("w.example").expect("a name"), &[seed; 32])
    }

    fn asked(old: u64) -> Asked<'static> {
        Asked {
            old: size(old),
            size: size(9),
            text: TEXT,
            log: size(12),
        }
    }

    fn check(old: u64, status: u16, kind: Option<&str>, body: &str) -> Result<Verdict, Problem> {
        let answer = Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            content_type: kind,
            body: body.as_bytes(),
        };
        judge(asked(old), answer, witness(1).verifier())
    }

    #[test]
    fn a_cosignature_by_the_configured_key_counts_and_no_other() {
        let time = Time::from_secs(7).expect("small");
        let (ours, theirs) = (witness(1).cosign(TEXT, time), witness(2).cosign(TEXT, time));
        let both = format!("{theirs}{ours}");
        assert_eq!(
            check(3, 200, None, &both),
            Ok(Verdict::Cosigned(time, ours))
        );
        let other = witness(1).cosign("log.example\n8\n", time);
        for (body, alarming) in [
            (theirs.as_str(), false),
            ("", false),
            ("<html>sign in</html>", false),
            (other.as_str(), true),
        ] {
            let problem = check(3, 200, None, body).expect_err(body);
            assert_eq!(problem.is_alarming(), alarming, "{problem}");
        }
    }

    #[test]
    fn a_conflict_is_a_size_to_go_on_from_or_an_alarm() {
        let kind = Some(SIZE_CONTENT_TYPE);
        for (claim, old, kind, body, expected) in [
            ("an older size", 5, kind, "3\n", Ok(3)),
            ("nothing", 5, kind, "0\n", Ok(0)),
            ("a newer one, of the log", 5, kind, "12\n", Ok(12)),
            (
                "parameters",
                0,
                Some("Text/X.Tlog.Size; charset=utf-8"),
                "3\n",
                Ok(3),
            ),
            (
                "beyond the log",
                5,
                kind,
                "13\n",
                Err(Problem::Beyond {
                    held: size(13),
                    log: size(12),
                }),
            ),
            (
                "what was said",
                5,
                kind,
                "5\n",
                Err(Problem::OtherRoot(size(5))),
            ),
            (
                "nothing, as was said",
                0,
                kind,
                "0\n",
                Err(Problem::OtherRoot(size(0))),
            ),
            (
                "no size between equal sizes",
                9,
                None,
                "",
                Err(Problem::OtherRoot(size(9))),
            ),
            (
                "no number",
                5,
                kind,
                "many\n",
                Err(Problem::NoSize("many\n".into())),
            ),
            (
                "negative",
                5,
                kind,
                "-1\n",
                Err(Problem::NoSize("-1\n".into())),
            ),
            (
                "another type",
                5,
                Some("text/plain"),
                "3\n",
                Err(Problem::NoSize("3\n".into())),
            ),
            (
                "a page",
                5,
                Some("text/html"),
                &"x".repeat(99),
                Err(Problem::NoSize("x".repeat(40))),
            ),
        ] {
            let found = check(old, 409, kind, body);
            let expected = expected.map(|held| Verdict::Holds(size(held)));
            let alarming = found.as_ref().is_err_and(Problem::is_alarming);
            assert_eq!(alarming, found.is_err(), "{claim}");
            assert_eq!(found, expected, "{claim}");
        }
    }

    #[test]
    fn a_refused_proof_is_an_alarm_and_other_refusals_are_not() {
        for (old, status, expected, alarming) in [
            (5, 422, Problem::OtherHistory(size(5)), true),
            (0, 422, Problem::Status(422), false),
            (5, 400, Problem::BadRequest, false),
            (5, 403, Problem::Forbidden, false),
            (5, 404, Problem::UnknownLog, false),
            (5, 302, Problem::Status(302), false),
            (5, 429, Problem::Status(429), false),
            (5, 503, Problem::Status(503), false),
        ] {
            assert_eq!(expected.is_alarming(), alarming);
            assert_eq!(check(old, status, None, ""), Err(expected), "{status}");
        }
    }
}
