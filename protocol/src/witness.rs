//! What a log and a witness say to each other: the bodies of add-checkpoint
//! (C2SP tlog-witness, "add-checkpoint").
//!
//! Out of scope: HTTP, and the witness's decision: opening the checkpoint,
//! comparing sizes, verifying the proof, remembering.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use crate::cosignature::{CosignatureError, CosignerKey};
use crate::hash::Hash;
use crate::index::{Time, TreeSize, decimal};
use crate::note::{MAX_NOTE, NoteError, SignatureLine};

/// The most consistency proof lines in a request.
pub const MAX_PROOF: usize = 63;

/// The longest request body, in bytes: a size, a proof and a note.
pub const MAX_REQUEST: usize = 32 + MAX_PROOF * 45 + MAX_NOTE;

/// The longest answer that is read, in bytes: as long as a note.
pub const MAX_ANSWER: usize = MAX_NOTE;

/// The content type of a 409 that tells the size the witness holds.
pub const SIZE_CONTENT_TYPE: &str = "text/x.tlog.size";

/// A request to cosign a checkpoint. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size that the witness is thought to hold; 0 if it holds nothing.
    pub old: TreeSize,
    /// The consistency proof from it to the checkpoint's size.
    pub proof: Vec<Hash>,
    /// The checkpoint, a signed note.
    pub checkpoint: String,
}

/// A body that is not of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More than [`MAX_REQUEST`] bytes.
    #[error("the request has {0} bytes, expected at most {MAX_REQUEST}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("the request is not UTF-8")]
    Encoding,
    /// The first line is not `old <size>`.
    #[error("the first line is not `old` and a size")]
    Old,
    /// A line before the empty one is not base64 of 32 bytes.
    #[error("line {0} is not the base64 of a hash")]
    Hash(usize),
    /// More than 63 hashes.
    #[error("the proof has more than {MAX_PROOF} lines")]
    ProofLength,
    /// No empty line.
    #[error("no empty line before the checkpoint")]
    NoCheckpoint,
}

/// Why a witness's answer brings no cosignature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not signature lines.
    #[error("the answer is not signature lines: {0}")]
    Form(NoteError),
    /// A line of the witness does not verify.
    #[error(transparent)]
    Cosignature(#[from] CosignatureError),
    /// No line is by the witness.
    #[error("the answer carries no cosignature by {0}")]
    Missing(String),
}

impl AddCheckpoint {
    /// Reads a request's body.
    ///
    /// # Errors
    /// Not of the form.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        if body.len() > MAX_REQUEST {
            return Err(RequestError::TooLong(body.len()));
        }
        let body = core::str::from_utf8(body).map_err(|_| RequestError::Encoding)?;
        let (head, checkpoint) = body.split_once("\n\n").ok_or(RequestError::NoCheckpoint)?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let old = old.and_then(decimal).and_then(TreeSize::new);
        let mut proof = Vec::new();
        for (number, line) in (2..).zip(lines) {
            if proof.len() == MAX_PROOF {
                return Err(RequestError::ProofLength);
            }
            proof.push(Hash::from_base64(line).ok_or(RequestError::Hash(number))?);
        }
        Ok(Self {
            old: old.ok_or(RequestError::Old)?,
            proof,
            checkpoint: checkpoint.into(),
        })
    }

    /// The request's body.
    pub fn body(&self) -> String {
        let mut body = format!("old {}\n", self.old);
        for hash in &self.proof {
            body += &hash.to_base64();
            body.push('\n');
        }
        body.push('\n');
        body + &self.checkpoint
    }
}

/// The body of a 409: the size of the checkpoint that the witness holds.
pub fn conflict(held: TreeSize) -> String {
    format!("{held}\n")
}

/// Reads the body of a 409; anything but a size and a newline is `None`.
pub fn parse_conflict(body: &[u8]) -> Option<TreeSize> {
    let text = core::str::from_utf8(body).ok()?;
    TreeSize::new(decimal(text.strip_suffix('\n')?)?)
}

/// The newest cosignature by `key` over a checkpoint's text in the body of a
/// 200: its time, and its line with the newline. Lines of other keys are ignored.
///
/// # Errors
/// Not signature lines, none by `key`, or one by it that does not verify.
pub fn cosignature(
    answer: &[u8],
    text: &str,
    key: &CosignerKey,
) -> Result<(Time, String), AnswerError> {
    let malformed = |what| AnswerError::Form(NoteError::Malformed(what));
    if answer.len() > MAX_ANSWER {
        return Err(malformed("longer than 65,536 bytes"));
    }
    let answer = core::str::from_utf8(answer).map_err(|_| malformed("not UTF-8"))?;
    if answer.chars().any(|c| c.is_ascii_control() && c != '\n') {
        return Err(malformed("a control character"));
    }
    let mut newest: Option<(Time, String)> = None;
    for line in SignatureLine::parse_all(answer).map_err(AnswerError::Form)? {
        let Some(time) = key.cosigned_in(&line, text)? else {
            continue;
        };
        if newest.as_ref().is_none_or(|(newest, _)| time > *newest) {
            newest = Some((time, line.to_string()));
        }
    }
    newest.ok_or_else(|| AnswerError::Missing(key.name().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cosignature::Cosigner;
    use crate::vkey::KeyName;

    /// The example of C2SP tlog-witness, "add-checkpoint".
    const REQUEST: &str = "old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
\u{2014} example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
";

    /// The example's answer: two keys of one name, and another witness.
    const ANSWER: &str = "\u{2014} witness.example/w1 CMp+6LWBU0anHGH5aNDTJkH/gj79sG+T6+iP2ThYN5krrDJbR1HDnucjL39QsZTSvVjyQLrdk3DXDqI5G2HgLatVs0pWh6Up69HVOw==
\u{2014} witness.example/w1 I7rEps0pvK2UqkS2gSpVUDhrhVtQV9lgF6pRrWAvjJHjyWpW7VcE3SiOlVlbQNt64vWhO+DlkL0+UfzuOBMh9ChdMkP1vi/lCAsmlw==
\u{2014} witness.example/w2 AWui8Sk55XjYLOijihBjhqEH6nS1ndDymE0a+6idX7pLcnoB+dhnz0854aLZgrrKbYKA7nC3HNJhm/kWl7oJlqU3rXXvpysAdyP3wQ==
";

    fn size(n: u64) -> TreeSize {
        TreeSize::new(n).expect("within bounds")
    }

    #[test]
    fn the_specifications_request_is_read_and_written() {
        let request = AddCheckpoint::parse(REQUEST.as_bytes()).expect("of the form");
        assert_eq!(request.old, size(20_852_014));
        assert_eq!(request.proof.len(), 4);
        assert!(
            request
                .checkpoint
                .starts_with("example.com/behind-the-sofa\n20852163\n")
        );
        assert_eq!(request.body(), REQUEST);
        let first = AddCheckpoint {
            old: size(0),
            proof: Vec::new(),
            ..request
        };
        assert!(first.body().starts_with("old 0\n\nexample.com/"));
        assert_eq!(AddCheckpoint::parse(first.body().as_bytes()), Ok(first));
    }

    #[test]
    fn refuses_requests_of_another_form() {
        let hash = Hash::EMPTY_ROOT.to_base64();
        let lines = |n: usize| format!("old 1\n{}\na", format!("{hash}\n").repeat(n));
        assert!(AddCheckpoint::parse(lines(63).as_bytes()).is_ok());
        for (claim, body, expected) in [
            ("64 hashes", lines(64), RequestError::ProofLength),
            (
                "no size",
                REQUEST.replace("old 20852014", "old"),
                RequestError::Old,
            ),
            (
                "another word",
                REQUEST.replace("old ", "new "),
                RequestError::Old,
            ),
            (
                "two spaces",
                REQUEST.replace("old ", "old  "),
                RequestError::Old,
            ),
            (
                "a leading zero",
                REQUEST.replace("old ", "old 0"),
                RequestError::Old,
            ),
            (
                "a sign",
                REQUEST.replace("old ", "old +"),
                RequestError::Old,
            ),
            (
                "carriage returns",
                REQUEST.replace('\n', "\r\n"),
                RequestError::NoCheckpoint,
            ),
            (
                "a short hash",
                REQUEST.replace("PlRN", ""),
                RequestError::Hash(2),
            ),
            (
                "no padding",
                REQUEST.replace("swk=", "swk"),
                RequestError::Hash(3),
            ),
            ("empty", String::new(), RequestError::NoCheckpoint),
            (
                "no empty line",
                "old 0\n".into(),
                RequestError::NoCheckpoint,
            ),
            (
                "too long",
                "x".repeat(MAX_REQUEST + 1),
                RequestError::TooLong(MAX_REQUEST + 1),
            ),
        ] {
            assert_eq!(
                AddCheckpoint::parse(body.as_bytes()),
                Err(expected),
                "{claim}"
            );
        }
        let not_text = [REQUEST.as_bytes(), &[0xff]].concat();
        assert_eq!(AddCheckpoint::parse(&not_text), Err(RequestError::Encoding));
    }

    #[test]
    fn conflicts_are_a_size_and_a_newline() {
        assert_eq!(conflict(size(20_852_014)), "20852014\n");
        assert_eq!(parse_conflict(b"20852014\n"), Some(size(20_852_014)));
        for bad in [
            "",
            "\n",
            "7",
            "07\n",
            "7\n\n",
            "7 \n",
            "-7\n",
            "+7\n",
            "7\r\n",
            "9007199254740992\n",
        ] {
            assert_eq!(parse_conflict(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn answers_bring_the_witnesss_newest_cosignature() {
        let name = KeyName::new("witness.example/w1").expect("a name");
        let ours = Cosigner::new(name, &[1; 32]);
        let time = |n| Time::from_secs(n).expect("within bounds");
        let text =
            "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let missing = Err(AnswerError::Missing("witness.example/w1".into()));
        assert_eq!(
            cosignature(ANSWER.as_bytes(), text, ours.verifier()),
            missing
        );
        let (early, late) = (ours.cosign(text, time(5)), ours.cosign(text, time(9)));
        let answer = format!("{ANSWER}{late}{early}");
        let found = cosignature(answer.as_bytes(), text, ours.verifier());
        assert_eq!(found, Ok((time(9), late.clone())));
        let other = ours.cosign("another text\n", time(5));
        for (claim, bad) in [
            ("empty", String::new()),
            ("no newline", late.trim_end().into()),
            ("an empty line", format!("{late}\n")),
            ("an HTML page", "<html>\n".into()),
            ("a null byte", format!("{late}\0\n")),
            ("over another text", format!("{late}{other}")),
            ("too long", late.repeat(MAX_ANSWER / late.len() + 1)),
        ] {
            let found = cosignature(bad.as_bytes(), text, ours.verifier());
            assert!(found.is_err() && found != missing, "{claim}: {found:?}");
        }
    }
}
