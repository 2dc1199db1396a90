//! Trust policies: which logs are accepted, which witnesses are known, and how
//! many of them must have cosigned (C2SP tlog-policy).
//!
//! Out of scope: opening the checkpoint under the log's key, and whether a
//! cosignature is too old.

use alloc::string::String;
use alloc::vec::Vec;

use crate::cosignature::{CosignatureError, CosignerKey};
use crate::index::Time;
use crate::key::VerifierKey;
use crate::note::Note;
use crate::vkey::{ED25519, KeyError, PublicKey, Vkey};

/// The longest policy that is read, in bytes.
pub const MAX_POLICY: usize = 1 << 20;

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<Log>,
    witnesses: Vec<Witness>,
    /// Witnesses and groups, in the order of their lines.
    nodes: Vec<Node>,
    /// `None`: no cosignatures are required.
    quorum: Option<usize>,
}

/// A log whose checkpoints are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    vkey: Vkey,
    url: Option<Vec<u8>>,
}

/// A known witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    name: Vec<u8>,
    key: CosignerKey,
    url: Option<Vec<u8>>,
}

/// What a quorum can be made of; members are places in [`Policy::nodes`].
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Witness(usize),
    Group { needed: usize, members: Vec<usize> },
}

/// Who cosigned a checkpoint, and whether that is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// Places in [`Policy::witnesses`], with each one's newest time.
    pub by: Vec<(usize, Time)>,
    /// Whether the policy's quorum is among them.
    pub quorum: bool,
}

/// Why a text is no policy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More than 1 MiB.
    #[error("the policy has {0} bytes, expected at most {MAX_POLICY}")]
    TooLong(usize),
    /// The last line is not ended.
    #[error("the policy's last line does not end in a newline")]
    NoNewline,
    /// No quorum line.
    #[error("the policy has no quorum line")]
    NoQuorum,
    /// A line is wrong.
    #[error("line {line} of the policy: {wrong}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        wrong: Wrong,
    },
}

/// What can be wrong with a policy's line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// A control character other than tab.
    #[error("a byte {0:#04x}, expected text, spaces and tabs")]
    Byte(u8),
    /// Not the words that belong there.
    #[error(
        "expected `log <vkey> [<url>]`, `witness <name> <vkey> [<url>]`, \
             `group <name> all|any|<k> <name>...` or `quorum <name>|none`"
    )]
    Form,
    /// A key that cannot stand there.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key that stands on an earlier line.
    #[error("the key stands on an earlier line already")]
    SameKey,
    /// A name that is taken, or `none`.
    #[error("the name {0:?} is taken")]
    Taken(String),
    /// A name that no earlier line defines.
    #[error("no earlier line defines {0:?}")]
    Undefined(String),
    /// A name that is a member of a group already.
    #[error("{0:?} is a member of a group already")]
    Again(String),
    /// A threshold that is no number of members.
    #[error("expected `all`, `any` or a number from 1 to {members}, found {found:?}")]
    Threshold {
        /// How many members the group has.
        members: usize,
        /// What stands there.
        found: String,
    },
    /// A second quorum line.
    #[error("a second quorum line")]
    SecondQuorum,
}

impl Policy {
    /// Parses a policy file.
    ///
    /// # Errors
    /// Anything that C2SP tlog-policy does not allow.
    pub fn parse(text: &[u8]) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY {
            return Err(PolicyError::TooLong(text.len()));
        }
        let mut draft = Draft::default();
        let lines = match text {
            [] => return Err(PolicyError::NoQuorum),
            _ => text.strip_suffix(b"\n").ok_or(PolicyError::NoNewline)?,
        };
        for (line, words) in (1..).zip(lines.split(|byte| *byte == b'\n')) {
            draft
                .read(words)
                .map_err(|wrong| PolicyError::Line { line, wrong })?;
        }
        let quorum = draft.quorum.ok_or(PolicyError::NoQuorum)?;
        Ok(Self {
            logs: draft.logs,
            witnesses: draft.witnesses,
            nodes: draft.nodes,
            quorum,
        })
    }

    /// The logs, in their order.
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// The witnesses, in their order.
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Whether checkpoints of this log are accepted: it is listed, or none
    /// is, in which case the log is known from elsewhere.
    pub fn accepts(&self, log: &VerifierKey) -> bool {
        let vkey = log.vkey();
        self.logs.is_empty() || self.logs.iter().any(|line| line.vkey == vkey)
    }

    /// Whether the witnesses for which `cosigned` holds, asked by their place
    /// in [`Self::witnesses`], are enough.
    pub fn is_met(&self, cosigned: impl Fn(usize) -> bool) -> bool {
        let mut met: Vec<bool> = Vec::with_capacity(self.nodes.len());
        // Members stand on earlier lines, so each is judged before its group.
        for node in &self.nodes {
            met.push(match node {
                Node::Witness(place) => cosigned(*place),
                Node::Group { needed, members } => {
                    members.iter().filter(|member| met[**member]).count() >= *needed
                }
            });
        }
        self.quorum.is_none_or(|quorum| met[quorum])
    }

    /// Who of the witnesses cosigned a note's text, and whether that is
    /// enough. Says nothing of the log's own signature.
    ///
    /// # Errors
    /// A line by a known witness does not verify: the note is spoilt.
    pub fn judge(&self, note: &Note<'_>) -> Result<Cosigned, CosignatureError> {
        let mut by = Vec::new();
        for (place, witness) in self.witnesses.iter().enumerate() {
            by.extend(witness.key.cosigned(note)?.map(|time| (place, time)));
        }
        let quorum = self.is_met(|place| by.iter().any(|(cosigner, _)| *cosigner == place));
        Ok(Cosigned { by, quorum })
    }
}

impl Log {
    /// The log's verifier key; its name is the log's origin.
    pub fn vkey(&self) -> &Vkey {
        &self.vkey
    }

    /// Where the log is, as the policy writes it.
    pub fn url(&self) -> Option<&[u8]> {
        self.url.as_deref()
    }
}

impl Witness {
    /// Its name within the policy; opaque bytes.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Its verifier key.
    pub fn key(&self) -> &CosignerKey {
        &self.key
    }

    /// Its submission prefix, as the policy writes it.
    pub fn url(&self) -> Option<&[u8]> {
        self.url.as_deref()
    }
}

/// A policy while its lines are read.
#[derive(Default)]
struct Draft {
    logs: Vec<Log>,
    witnesses: Vec<Witness>,
    nodes: Vec<Node>,
    /// The names of `nodes`.
    names: Vec<Vec<u8>>,
    /// Which of `nodes` are members of a group.
    taken: Vec<bool>,
    quorum: Option<Option<usize>>,
}

impl Draft {
    fn read(&mut self, line: &[u8]) -> Result<(), Wrong> {
        if let Some(byte) = line.iter().find(|b| b.is_ascii_control() && **b != b'\t') {
            return Err(Wrong::Byte(*byte));
        }
        let words: Vec<&[u8]> = line
            .split(|byte| matches!(byte, b' ' | b'\t'))
            .filter(|word| !word.is_empty())
            .collect();
        match &words[..] {
            [] => Ok(()),
            [first, ..] if first.starts_with(b"#") => Ok(()),
            [b"log", vkey] => self.log(vkey, None),
            [b"log", vkey, url] => self.log(vkey, Some(url)),
            [b"witness", name, vkey] => self.witness(name, vkey, None),
            [b"witness", name, vkey, url] => self.witness(name, vkey, Some(url)),
            [b"group", name, needed, members @ ..] if !members.is_empty() => {
                self.group(name, needed, members)
            }
            [b"quorum", name] => self.quorum(name),
            _ => Err(Wrong::Form),
        }
    }

    fn log(&mut self, vkey: &[u8], url: Option<&[u8]>) -> Result<(), Wrong> {
        let vkey = Vkey::parse(text(vkey)?)?;
        if vkey.kind() == ED25519 {
            let key = vkey.key().try_into().map_err(|_| KeyError::Point)?;
            PublicKey::admit(key)?;
        }
        if self.logs.iter().any(|log| log.vkey.key() == vkey.key()) {
            return Err(Wrong::SameKey);
        }
        let url = url.map(<[u8]>::to_vec);
        self.logs.push(Log { vkey, url });
        Ok(())
    }

    fn witness(&mut self, name: &[u8], vkey: &[u8], url: Option<&[u8]>) -> Result<(), Wrong> {
        let key = CosignerKey::parse(text(vkey)?)?;
        let same = |witness: &Witness| witness.key.vkey().key() == key.vkey().key();
        if self.witnesses.iter().any(same) {
            return Err(Wrong::SameKey);
        }
        self.define(name, Node::Witness(self.witnesses.len()))?;
        self.witnesses.push(Witness {
            name: name.to_vec(),
            key,
            url: url.map(<[u8]>::to_vec),
        });
        Ok(())
    }

    fn group(&mut self, name: &[u8], needed: &[u8], members: &[&[u8]]) -> Result<(), Wrong> {
        let threshold = match needed {
            b"all" => Some(members.len()),
            b"any" => Some(1),
            _ => (1..=members.len()).find(|k| alloc::format!("{k}").as_bytes() == needed),
        };
        let needed = threshold.ok_or_else(|| Wrong::Threshold {
            members: members.len(),
            found: shown(needed),
        })?;
        let mut places = Vec::with_capacity(members.len());
        for member in members {
            let place = self.place(member)?;
            if core::mem::replace(&mut self.taken[place], true) {
                return Err(Wrong::Again(shown(member)));
            }
            places.push(place);
        }
        let members = places;
        self.define(name, Node::Group { needed, members })
    }

    fn quorum(&mut self, name: &[u8]) -> Result<(), Wrong> {
        if self.quorum.is_some() {
            return Err(Wrong::SecondQuorum);
        }
        self.quorum = Some(match name {
            b"none" => None,
            _ => Some(self.place(name)?),
        });
        Ok(())
    }

    fn define(&mut self, name: &[u8], node: Node) -> Result<(), Wrong> {
        if name == b"none" || self.names.iter().any(|known| known == name) {
            return Err(Wrong::Taken(shown(name)));
        }
        self.names.push(name.to_vec());
        self.nodes.push(node);
        self.taken.push(false);
        Ok(())
    }

    fn place(&self, name: &[u8]) -> Result<usize, Wrong> {
        let place = self.names.iter().position(|known| known == name);
        place.ok_or_else(|| Wrong::Undefined(shown(name)))
    }
}

/// A vkey is UTF-8, as key names are.
fn text(word: &[u8]) -> Result<&str, Wrong> {
    core::str::from_utf8(word).map_err(|_| KeyError::Form(shown(word)).into())
}

fn shown(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cosignature::Cosigner;
    use crate::key::{Origin, Signer};
    use crate::vkey::{COSIGNATURE_ML_DSA_44, KeyName};
    use alloc::format;
    use alloc::string::ToString as _;
    use alloc::vec;

    fn signer(origin: &str, seed: u8) -> Signer {
        Signer::new(Origin::parse(origin).expect("an origin"), &[seed; 32])
    }

    fn cosigner(seed: u8) -> Cosigner {
        let name = KeyName::new(&format!("witness.example/{seed}")).expect("a name");
        Cosigner::new(name, &[seed; 32])
    }

    fn witness(name: &str, seed: u8) -> String {
        format!("witness {name} {}\n", cosigner(seed).verifier())
    }

    /// The example of C2SP tlog-policy, with keys.
    fn example() -> String {
        let log = signer("log.example.org", 100);
        let xs = [("X1", 1), ("X2", 2), ("X3", 3)].map(|(name, seed)| witness(name, seed));
        let ys = [("Y1", 4), ("Y2", 5), ("Y3", 6)].map(|(name, seed)| witness(name, seed));
        format!(
            "log {}\n\n{}group X-witnesses 2 X1 X2 X3\n\n{}group Y-witnesses any Y1 Y2 Y3\n\n\
             group X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n",
            log.verifier(),
            xs.concat(),
            ys.concat()
        )
    }

    fn met(policy: &str, cosigned: &[usize]) -> bool {
        let policy = Policy::parse(policy.as_bytes()).expect("a policy");
        policy.is_met(|place| cosigned.contains(&place))
    }

    #[test]
    fn the_specifications_quorum_is_two_of_x_and_one_of_y() {
        for (cosigned, enough) in [
            (&[][..], false),
            (&[0, 1], false),
            (&[3], false),
            (&[0, 3], false),
            (&[3, 4, 5], false),
            (&[0, 1, 2], false),
            (&[0, 1, 3], true),
            (&[1, 2, 5], true),
            (&[0, 1, 2, 3, 4, 5], true),
        ] {
            assert_eq!(met(&example(), cosigned), enough, "{cosigned:?}");
        }
    }

    #[test]
    fn quorums_are_none_a_witness_or_a_group() {
        let three = [witness("a", 1), witness("b", 2), witness("c", 3)].concat();
        for (rest, cosigned, enough) in [
            ("quorum none\n", &[][..], true),
            ("quorum b\n", &[0, 2], false),
            ("quorum b\n", &[1], true),
            ("group g 1 a b c\nquorum g\n", &[2], true),
            ("group g 3 a b c\nquorum g\n", &[0, 1], false),
            ("group g all a\nquorum g\n", &[0], true),
            (
                "group any any a b\ngroup all all any c\nquorum all\n",
                &[1, 2],
                true,
            ),
            ("group g any a b\nquorum c\n", &[0, 1], false),
            ("\tquorum \t none  \n  # a comment, \u{fc}\n", &[], true),
        ] {
            assert_eq!(met(&format!("{three}{rest}"), cosigned), enough, "{rest}");
        }
    }

    #[test]
    fn judges_the_cosignatures_of_a_note() {
        let policy = Policy::parse(example().as_bytes()).expect("a policy");
        let text = "log.example.org\n1\nx\n";
        let time = |secs| Time::from_secs(secs).expect("within bounds");
        let judged = |lines: &[String]| {
            let note = format!("{text}\n{}", lines.concat());
            policy.judge(&Note::parse(note.as_bytes()).expect("a note"))
        };
        let line = |seed: u8| cosigner(seed).cosign(text, time(u64::from(seed)));
        let stranger = line(9);
        assert_eq!(
            judged(&[line(1), stranger.clone(), line(5)]),
            Ok(Cosigned {
                by: vec![(0, time(1)), (4, time(5))],
                quorum: false
            })
        );
        assert!(judged(&[line(1), line(2), line(5)]).is_ok_and(|cosigned| cosigned.quorum));
        let forged = cosigner(2).cosign("else\n", time(2));
        assert!(judged(&[line(1), line(3), line(5), forged]).is_err());
        assert!(judged(&[stranger]).is_ok_and(|cosigned| cosigned.by.is_empty()));
    }

    #[test]
    fn accepts_listed_logs_or_all_if_none_is_listed() {
        let (ours, theirs) = (
            signer("log.example.org", 100),
            signer("log.example.org", 101),
        );
        let listed = Policy::parse(example().as_bytes()).expect("a policy");
        assert!(listed.accepts(ours.verifier()) && !listed.accepts(theirs.verifier()));
        let open = Policy::parse(b"quorum none\n").expect("a policy");
        assert!(open.accepts(ours.verifier()) && open.accepts(theirs.verifier()));
    }

    #[test]
    fn witnesses_of_other_types_are_known_and_never_count() {
        let name = KeyName::new("pq.example/w").expect("a name");
        let vkey = Vkey::new(name, COSIGNATURE_ML_DSA_44, vec![7; 1312]);
        let text = format!("witness pq {vkey} https://pq.example/\nquorum pq\n");
        let policy = Policy::parse(text.as_bytes()).expect("a policy");
        let witness = &policy.witnesses()[0];
        assert_eq!(witness.name(), b"pq");
        assert_eq!(witness.url(), Some(&b"https://pq.example/"[..]));
        assert!(!witness.key().is_understood());
        assert!(!policy.is_met(|_| false));
    }

    #[test]
    fn refuses_what_the_specification_does_not_allow() {
        let (a, b) = (witness("a", 1), witness("b", 2));
        let both = format!("{a}{b}");
        let log = format!("log {}\n", signer("a.b", 7).verifier());
        let twin = format!("log {}\n", signer("c.d", 7).verifier());
        let plain = format!("witness a {}\n", signer("a.b", 7).verifier());
        let line = |line, wrong| PolicyError::Line { line, wrong };
        let taken = |name: &str| Wrong::Taken(name.into());
        let threshold = |members, found: &str| {
            let found = found.into();
            line(3, Wrong::Threshold { members, found })
        };
        for (claim, text, expected) in [
            ("empty", String::new(), PolicyError::NoQuorum),
            ("no quorum", both.clone(), PolicyError::NoQuorum),
            ("no newline", "quorum none".into(), PolicyError::NoNewline),
            (
                "too long",
                "#".repeat(MAX_POLICY + 1),
                PolicyError::TooLong(MAX_POLICY + 1),
            ),
            (
                "two quorums",
                "quorum none\nquorum none\n".into(),
                line(2, Wrong::SecondQuorum),
            ),
            (
                "an unknown word",
                "witnesses a\n".into(),
                line(1, Wrong::Form),
            ),
            (
                "a word in capitals",
                "Quorum none\n".into(),
                line(1, Wrong::Form),
            ),
            (
                "quorum of two",
                format!("{both}quorum a b\n"),
                line(3, Wrong::Form),
            ),
            (
                "a group of nobody",
                format!("{both}group g any\n"),
                line(3, Wrong::Form),
            ),
            (
                "a comment at the end",
                "quorum none # why\n".into(),
                line(1, Wrong::Form),
            ),
            (
                "carriage returns",
                "quorum none\r\n".into(),
                line(1, Wrong::Byte(13)),
            ),
            ("a null byte", "#\0\n".into(), line(1, Wrong::Byte(0))),
            (
                "a later name",
                format!("{a}group g all a b\n{b}"),
                line(2, Wrong::Undefined("b".into())),
            ),
            (
                "an unknown quorum",
                "quorum a\n".into(),
                line(1, Wrong::Undefined("a".into())),
            ),
            (
                "none in a group",
                format!("{both}group g any a none\n"),
                line(3, Wrong::Undefined("none".into())),
            ),
            (
                "itself",
                format!("{both}group g any g\n"),
                line(3, Wrong::Undefined("g".into())),
            ),
            ("a witness none", witness("none", 1), line(1, taken("none"))),
            (
                "a group none",
                format!("{both}group none any a\n"),
                line(3, taken("none")),
            ),
            (
                "a name twice",
                format!("{a}{}", witness("a", 2)),
                line(2, taken("a")),
            ),
            (
                "a group's name taken",
                format!("{both}group a any b\n"),
                line(3, taken("a")),
            ),
            (
                "a member twice",
                format!("{both}group g 2 a a\n"),
                line(3, Wrong::Again("a".into())),
            ),
            (
                "a member of two groups",
                format!("{both}group g any a\ngroup h any b a\n"),
                line(4, Wrong::Again("a".into())),
            ),
            (
                "k of 0",
                format!("{both}group g 0 a b\n"),
                threshold(2, "0"),
            ),
            (
                "k above n",
                format!("{both}group g 3 a b\n"),
                threshold(2, "3"),
            ),
            (
                "k with a zero",
                format!("{both}group g 01 a b\n"),
                threshold(2, "01"),
            ),
            (
                "k as a word",
                format!("{both}group g both a b\n"),
                threshold(2, "both"),
            ),
            (
                "a key twice",
                format!("{a}{}", witness("b", 1)),
                line(2, Wrong::SameKey),
            ),
            (
                "a log's key under two names",
                format!("{log}{twin}"),
                line(2, Wrong::SameKey),
            ),
            (
                "a log's type for a witness",
                plain,
                line(
                    1,
                    Wrong::Key(KeyError::Type {
                        expected: "0x04 (Ed25519 cosignatures)",
                        found: ED25519,
                    }),
                ),
            ),
        ] {
            assert_eq!(Policy::parse(text.as_bytes()), Err(expected), "{claim}");
        }
        let broken = log.replace("a.b", "a.c");
        let parsed = Policy::parse(format!("{broken}quorum none\n").as_bytes());
        assert!(parsed.is_err_and(|e| e.to_string().starts_with("line 1 of the policy: key hash")));
    }
}
