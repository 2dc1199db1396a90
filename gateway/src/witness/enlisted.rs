//! Whom the operator's policy file names, and where they are.
//!
//! The file is a C2SP tlog-policy: the same that verifiers take. Witnesses with
//! a URL are submitted to; one without is only known.

use std::sync::Arc;

use http::Uri;
use protocol::cosignature::CosignerKey;
use protocol::hash::Hash;
use protocol::key::VerifierKey;
use protocol::note::MAX_SIGNATURES;
use protocol::policy::{Policy, PolicyError};

/// The most witnesses that are submitted to: a note has one line of each, and
/// the log's.
const MAX_ENLISTED: usize = MAX_SIGNATURES - 1;

/// The witnesses of a log, and how many of them must cosign. Clones share it.
#[derive(Clone, Debug)]
pub struct Witnesses(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Of the file.
    hash: Hash,
    policy: Policy,
    enlisted: Vec<Enlisted>,
}

/// A witness that is submitted to.
#[derive(Clone, Debug)]
pub struct Enlisted {
    /// Its place in the policy.
    pub place: usize,
    /// Its name in the policy.
    pub name: String,
    /// Its verifier key.
    pub key: CosignerKey,
    /// Its submission prefix, as the policy has it.
    pub url: String,
    /// Where checkpoints are posted to.
    pub(super) target: Uri,
}

/// What is wrong with a policy file.
#[derive(Debug, thiserror::Error)]
pub enum EnlistError {
    /// Not a C2SP tlog-policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A witness's URL.
    #[error("line {line} of the policy: the URL of witness {name} {problem}")]
    Url {
        /// Which line, from 1.
        line: usize,
        /// The witness.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A key whose cosignatures can't be verified.
    #[error(
        "line {line} of the policy: witness {name} has a URL, but a key of type {kind:#04x}; \
         checkpoints go to witnesses with Ed25519 cosignature keys (type 0x04)"
    )]
    Key {
        /// Which line, from 1.
        line: usize,
        /// The witness.
        name: String,
        /// The key's type.
        kind: u8,
    },
    /// Nobody to submit to.
    #[error(
        "no witness of the policy has a URL, so none can be asked to cosign; a witness's line is \
         `witness <name> <vkey> https://<its submission prefix>`"
    )]
    Nobody,
    /// More than a note can hold.
    #[error("the policy has {0} witnesses with URLs, expected at most {MAX_ENLISTED}")]
    TooMany(usize),
    /// The quorum needs witnesses that can't be asked.
    #[error(
        "the policy's quorum can't be met by the witnesses that have a URL; give the others \
         theirs, or ask for fewer"
    )]
    Quorum,
}

impl Witnesses {
    /// Reads a policy file.
    ///
    /// # Errors
    /// Not a policy, or none that can be met by asking its witnesses.
    pub fn parse(text: &[u8]) -> Result<Self, EnlistError> {
        let policy = Policy::parse(text)?;
        let mut enlisted = Vec::new();
        for (place, witness) in policy.witnesses().iter().enumerate() {
            let Some(url) = witness.url() else { continue };
            let line = line_of(text, witness.name());
            let name = String::from_utf8_lossy(witness.name()).into_owned();
            if !witness.key().is_understood() {
                let kind = witness.key().vkey().kind();
                return Err(EnlistError::Key { line, name, kind });
            }
            let target = target(url).map_err(|problem| EnlistError::Url {
                line,
                name: name.clone(),
                problem,
            })?;
            enlisted.push(Enlisted {
                place,
                name,
                key: witness.key().clone(),
                url: String::from_utf8_lossy(url).into_owned(),
                target,
            });
        }
        if enlisted.is_empty() {
            return Err(EnlistError::Nobody);
        }
        if enlisted.len() > MAX_ENLISTED {
            return Err(EnlistError::TooMany(enlisted.len()));
        }
        if !policy.is_met(|place| enlisted.iter().any(|w| w.place == place)) {
            return Err(EnlistError::Quorum);
        }
        let hash = Hash::of(text);
        Ok(Self(Arc::new(Inner {
            hash,
            policy,
            enlisted,
        })))
    }

    /// The file's SHA-256.
    pub fn hash(&self) -> Hash {
        self.0.hash
    }

    /// Whether the policy is for this log: it is listed, or none is.
    pub fn accept(&self, log: &VerifierKey) -> bool {
        self.0.policy.accepts(log)
    }

    /// Those that are submitted to, in the policy's order.
    pub fn enlisted(&self) -> &[Enlisted] {
        &self.0.enlisted
    }

    /// Whether those of the enlisted for which `cosigned` holds, asked by
    /// their number in [`Self::enlisted`], are enough.
    pub(super) fn are_enough(&self, cosigned: impl Fn(usize) -> bool) -> bool {
        let Inner {
            policy, enlisted, ..
        } = &*self.0;
        policy.is_met(|place| {
            let number = enlisted.iter().position(|w| w.place == place);
            number.is_some_and(&cosigned)
        })
    }
}

/// Where a witness is posted to: its submission prefix and `/add-checkpoint`.
fn target(url: &[u8]) -> Result<Uri, &'static str> {
    let url = std::str::from_utf8(url).map_err(|_| "is not UTF-8")?;
    let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("must begin with https:// (or http:// for a witness in your own network)");
    }
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err("may not hold a user or password");
    }
    if uri.query().is_some() {
        return Err("may not have a query");
    }
    let target = format!("{}/add-checkpoint", url.trim_end_matches('/'));
    target.parse().map_err(|_| "is not a URL")
}

/// On which line of a policy a witness is defined, from 1.
fn line_of(text: &[u8], name: &[u8]) -> usize {
    let defines = |line: &[u8]| {
        let words = line.split(|b| matches!(b, b' ' | b'\t'));
        let mut words = words.filter(|word| !word.is_empty());
        words.next() == Some(b"witness") && words.next() == Some(name)
    };
    let line = text.split(|b| *b == b'\n').position(defines);
    line.map_or(0, |line| line + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::cosignature::Cosigner;
    use protocol::key::{Origin, Signer};
    use protocol::vkey::{COSIGNATURE_ML_DSA_44, KeyName, Vkey};

    fn line(name: &str, seed: u8, url: &str) -> String {
        let key = KeyName::new(&format!("w.example/{seed}")).expect("a name");
        let key = Cosigner::new(key, &[seed; 32]);
        format!("witness {name} {} {url}\n", key.verifier())
    }

    #[test]
    fn those_with_a_url_are_submitted_to() {
        let text = format!(
            "{}{}{}group g 1 a b c\nquorum g\n",
            line("a", 1, "https://a.example/w/"),
            line("b", 2, ""),
            line("c", 3, "http://127.0.0.1:7/x/y"),
        );
        let witnesses = Witnesses::parse(text.as_bytes()).expect("a policy");
        let targets = witnesses.enlisted().iter();
        let targets: Vec<_> = targets.map(|w| (w.place, w.target.to_string())).collect();
        let expected = [
            (0, "https://a.example/w/add-checkpoint".to_owned()),
            (2, "http://127.0.0.1:7/x/y/add-checkpoint".to_owned()),
        ];
        assert_eq!(targets, expected);
        assert!(witnesses.are_enough(|number| number == 1));
        assert!(!witnesses.are_enough(|_| false));
    }

    #[test]
    fn says_which_line_is_wrong_and_why() {
        let (a, b) = (line("a", 1, "https://a.example"), line("b", 2, ""));
        let name = KeyName::new("pq.example").expect("a name");
        let pq = Vkey::new(name, COSIGNATURE_ML_DSA_44, vec![7; 1312]);
        for (text, expected) in [
            (
                format!("{a}quorum c\n"),
                "line 2 of the policy: no earlier line defines \"c\"",
            ),
            (
                format!("{b}quorum b\n"),
                "no witness of the policy has a URL",
            ),
            (format!("{a}{b}quorum b\n"), "quorum can't be met"),
            (
                format!("{a}{b}group g all a b\nquorum g\n"),
                "quorum can't be met",
            ),
            (
                format!("# one\n\n{}quorum a\n", line("a", 1, "a.example")),
                "line 3 of the policy: the URL of witness a must begin with https://",
            ),
            (
                format!("{}quorum a\n", line("a", 1, "ftp://a.example")),
                "must begin with https://",
            ),
            (
                format!("{}quorum a\n", line("a", 1, "https://u:p@a.example")),
                "may not hold a user",
            ),
            (
                format!("{}quorum a\n", line("a", 1, "https://a.example/?k=v")),
                "may not have a query",
            ),
            (
                format!("{a}witness p {pq} https://p.example\nquorum a\n"),
                "line 2 of the policy: witness p has a URL, but a key of type 0x06",
            ),
        ] {
            let error = Witnesses::parse(text.as_bytes()).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
        }
        let many: String = (1..=64)
            .map(|n| line(&format!("w{n}"), n, "https://a.example"))
            .collect();
        let refused = Witnesses::parse(format!("{many}quorum none\n").as_bytes());
        assert!(matches!(refused, Err(EnlistError::TooMany(64))));
    }

    #[test]
    fn a_policy_may_be_for_other_logs() {
        let key = |seed| Signer::new(Origin::parse("log.example").expect("valid"), &[seed; 32]);
        let text = format!(
            "log {}\n{}quorum a\n",
            key(1).verifier(),
            line("a", 2, "https://a.example")
        );
        let witnesses = Witnesses::parse(text.as_bytes()).expect("a policy");
        assert!(witnesses.accept(key(1).verifier()));
        assert!(!witnesses.accept(key(3).verifier()));
    }
}
