//! Whether a checkpoint is cosigned by whom the user trusts (C2SP tlog-policy).
//!
//! Too few cosignatures prove nothing about the log: witnesses may be down, and
//! whoever stands between can leave lines out or spoil them. So the answer is
//! no verdict, never misbehaviour.

use std::path::{Path, PathBuf};

use protocol::key::VerifierKey;
use protocol::note::Note;
use protocol::policy::{Policy, PolicyError};

/// Why a policy file cannot be used: wrong use.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: {cause}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// It is no policy.
    #[error("{}: {cause}", path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: PolicyError,
    },
}

/// Reads a policy file.
///
/// # Errors
/// It cannot be read, or is no policy.
pub fn read(path: &Path) -> Result<Policy, FileError> {
    let text = std::fs::read(path).map_err(|cause| FileError::Io {
        path: path.into(),
        cause,
    })?;
    Policy::parse(&text).map_err(|cause| FileError::Form {
        path: path.into(),
        cause,
    })
}

/// The witnesses that cosigned a checkpoint's note, if they are enough.
///
/// # Errors
/// They are not, or the policy is not about this log.
pub fn cosigners(policy: &Policy, key: &VerifierKey, note: &str) -> Result<Vec<String>, String> {
    if !policy.accepts(key) {
        return Err(format!("the policy lists other logs, but not {key}"));
    }
    let note = Note::parse(note.as_bytes()).map_err(|error| error.to_string())?;
    let judged = policy.judge(&note).map_err(|error| error.to_string())?;
    let name = |place: usize| {
        let name = policy.witnesses()[place].name();
        String::from_utf8_lossy(name).into_owned()
    };
    let by: Vec<String> = judged.by.iter().map(|(place, _)| name(*place)).collect();
    if judged.quorum {
        return Ok(by);
    }
    let by = if by.is_empty() {
        "nobody of the policy".into()
    } else {
        by.join(", ")
    };
    Err(format!(
        "not yet witnessed: the checkpoint is cosigned by {by}, which is not the policy's quorum"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::checkpoint::Checkpoint;
    use protocol::cosignature::Cosigner;
    use protocol::hash::Hash;
    use protocol::index::{Time, TreeSize};
    use protocol::key::{Origin, Signer};
    use protocol::vkey::KeyName;

    #[test]
    fn a_quorum_is_of_whom_the_policy_names() {
        let signer = |origin| Signer::new(Origin::parse(origin).expect("valid"), &[1; 32]);
        let (log, other) = (signer("a.b"), signer("c.d"));
        let (size, root) = (TreeSize::new(3).expect("small"), Hash::of(b"x"));
        let checkpoint = Checkpoint::new(log.verifier().origin().clone(), size, root);
        let note = checkpoint.seal(&log);
        let witness = |seed| Cosigner::new(KeyName::new("w").expect("a name"), &[seed; 32]);
        let time = Time::from_secs(7).expect("small");
        let line = |seed| witness(seed).cosign(&checkpoint.text(), time);
        let spoilt = witness(2).cosign("another text\n", time);
        let policy = format!(
            "log {}\nwitness one {}\nwitness two {}\ngroup both all one two\nquorum both\n",
            log.verifier(),
            witness(2).verifier(),
            witness(3).verifier()
        );
        let policy = Policy::parse(policy.as_bytes()).expect("a policy");
        let judged =
            |lines: &[String], key| cosigners(&policy, key, &format!("{note}{}", lines.concat()));
        let key = log.verifier();
        let both = Ok(vec!["one".into(), "two".into()]);
        assert_eq!(judged(&[line(2), line(3)], key), both);
        assert_eq!(judged(&[line(3), line(9), line(2)], key), both);
        for (claim, lines, key, said) in [
            ("none", vec![], key, "by nobody of the policy"),
            ("one", vec![line(3)], key, "by two, which"),
            ("a stranger", vec![line(2), line(9)], key, "by one, which"),
            (
                "a spoilt line",
                vec![line(2), line(3), spoilt],
                key,
                "verify",
            ),
            (
                "another log",
                vec![line(2), line(3)],
                other.verifier(),
                "other logs",
            ),
        ] {
            let judged = judged(&lines, key);
            assert!(judged.is_err_and(|why| why.contains(said)), "{claim}");
        }
    }
}
