//! Entries: the canonical one-line JSON objects that the log hashes.
//!
//! A reader parses, encodes again and requires identical bytes; anything else
//! is misbehaviour of the log. Out of scope: whether what an entry says is
//! true, and what earlier entries make of it.

use alloc::borrow::ToOwned as _;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::{self, Display};

use crate::anchor::Place;
use crate::binding::{Action, Binding, Consent};
use crate::consent::{MAX_CONTRACT_SIGNATURE, MAX_TIME, Signature, Terms};
use crate::hash::{Hash, nibble};
use crate::index::{Time, TreeSize, decimal};
use crate::key::VerifierKey;
use crate::name::{Address, Name, plain};
use crate::record::{Counts, Link, Outcome, Source, Usage};
use crate::tile::MAX_ENTRY;
use crate::totals::Totals;

/// The version of every kind of entry that is defined here.
pub const VERSION: u64 = 1;

/// The version of the rules by which totals are judged; entry 0 names it.
pub const RULES: u64 = 2;

/// The rules before [`RULES`]: they know no bindings, no totals and no anchors.
pub const RULES_WITHOUT_BINDINGS: u64 = 1;

/// Entry 0: what the log is (kind `log`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Origin and Ed25519 key.
    pub key: VerifierKey,
    /// The rules' version, [`RULES`] in logs that begin now.
    pub rules: u64,
    /// Seconds between totals entries.
    pub totals_interval: u64,
    /// Seconds within which an entry is under a published checkpoint.
    pub publish_max: u64,
    /// The address of the log's secp256k1 key.
    pub evm_key: Address,
}

/// What an entry of a known kind says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Kind `log`.
    Log(Log),
    /// Kind `usage`.
    Usage(Usage),
    /// Kind `binding`.
    Binding(Binding),
    /// Kind `totals`.
    Totals(Totals),
    /// Kind `anchor`.
    Anchor(Place),
}

/// An entry that was read.
#[expect(clippy::large_enum_variant, reason = "nearly every entry is known")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A kind and version that is defined here.
    Known {
        /// Integration time.
        time: Time,
        /// What it says.
        body: Body,
    },
    /// A later protocol's entry: it counts in the tree, its meaning is not judged.
    Unknown {
        /// Integration time.
        time: Time,
        /// Its version.
        version: u64,
        /// Its kind.
        kind: String,
    },
}

/// Why bytes are not an entry: the log that holds them misbehaves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not 1 to 65,535 bytes.
    #[error("an entry of {0} bytes, expected 1 to {MAX_ENTRY}")]
    Length(usize),
    /// A byte that no canonical entry has.
    #[error("not a canonical entry at byte {at}: expected {expected}")]
    Syntax {
        /// Offset in the entry.
        at: usize,
        /// What may stand there.
        expected: &'static str,
    },
    /// A value that the field may not have.
    #[error("field {field}: expected {expected}")]
    Value {
        /// The field's name.
        field: &'static str,
        /// What it may hold.
        expected: &'static str,
    },
    /// Fields that contradict each other.
    #[error("{0}")]
    Rule(&'static str),
}

impl Entry {
    /// Reads an entry.
    ///
    /// # Errors
    /// Not canonical, or against a rule of PROTOCOL.md.
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        if !(1..=MAX_ENTRY).contains(&bytes.len()) {
            return Err(EntryError::Length(bytes.len()));
        }
        let text = core::str::from_utf8(bytes).map_err(|error| EntryError::Syntax {
            at: error.valid_up_to(),
            expected: "printable ASCII",
        })?;
        let mut reader = Reader { text, at: 0 };
        reader.literal("{\"v\":", "the head")?;
        let version = reader.digits("v")?;
        let kind = reader.kind()?;
        let time = Time::from_secs(reader.setting("time")?).ok_or(EntryError::Value {
            field: "time",
            expected: "at most 2^53 - 1 seconds",
        })?;
        let body = match (version, kind) {
            (VERSION, "log") => Body::Log(reader.log()?),
            (VERSION, "usage") => Body::Usage(reader.usage()?),
            (VERSION, "binding") => Body::Binding(reader.binding()?),
            (VERSION, "totals") => Body::Totals(reader.totals()?),
            (VERSION, "anchor") => Body::Anchor(reader.anchor()?),
            _ => {
                reader.rest()?;
                return Ok(Self::Unknown {
                    time,
                    version,
                    kind: kind.to_owned(),
                });
            }
        };
        reader.end()?;
        // The reader accepts one spelling only; encoding again proves it.
        let mut again = Expected(text);
        match body.write(time, &mut again) {
            Ok(()) if again.0.is_empty() => Ok(Self::Known { time, body }),
            _ => Err(EntryError::Rule("the entry is not in its canonical form")),
        }
    }

    /// When the log took the entry in.
    pub fn time(&self) -> Time {
        match self {
            Self::Known { time, .. } | Self::Unknown { time, .. } => *time,
        }
    }
}

impl Body {
    /// The entry's canonical bytes.
    pub fn encode(&self, time: Time) -> Vec<u8> {
        let mut text = String::with_capacity(512);
        self.write(time, &mut text)
            .expect("a string takes what it is given");
        text.into_bytes()
    }

    fn write(&self, time: Time, to: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Self::Log(log) => {
                let mut w = Writer::new("log", time, to)?;
                w.text("origin", log.key.origin())?;
                w.text("vkey", &log.key)?;
                w.number("rules", log.rules)?;
                w.number("totals_interval", log.totals_interval)?;
                w.number("publish_max", log.publish_max)?;
                w.text("evm_key", log.evm_key)?;
                w.finish()
            }
            Self::Usage(usage) => {
                let mut w = Writer::new("usage", time, to)?;
                w.text("receipt", usage.receipt)?;
                w.maybe("key_id", usage.key_id)?;
                w.maybe("wallet", usage.wallet.map(|(wallet, _)| wallet))?;
                w.maybe("link", usage.wallet.map(|(_, link)| link.as_str()))?;
                w.text("source", usage.source.as_str())?;
                w.text("provider", &usage.provider)?;
                w.maybe("model", usage.model.as_ref())?;
                for (field, count) in fields(&usage.counts) {
                    if let Some(count) = count {
                        w.number(field, count.into())?;
                    }
                }
                w.text("outcome", usage.outcome.as_str())?;
                w.maybe("flag", usage.inconsistent.then_some(INCONSISTENT))?;
                w.maybe("response", usage.response)?;
                w.finish()
            }
            Self::Binding(binding) => {
                let mut w = Writer::new("binding", time, to)?;
                w.binding(binding)?;
                w.finish()
            }
            Self::Totals(totals) => {
                let mut w = Writer::new("totals", time, to)?;
                w.number("size", totals.size.get())?;
                w.number("count", totals.count)?;
                w.text("root", totals.root)?;
                w.finish()
            }
            Self::Anchor(place) => {
                let mut w = Writer::new("anchor", time, to)?;
                w.number("chain_id", place.chain_id)?;
                w.text("contract", place.contract)?;
                w.finish()
            }
        }
    }
}

/// The fields of a signature, of the wallet that sends and of the one that takes.
struct SignatureFields {
    scheme: &'static str,
    block: &'static str,
    block_hash: &'static str,
    signature: &'static str,
}

const OWN: SignatureFields = SignatureFields {
    scheme: "scheme",
    block: "block",
    block_hash: "block_hash",
    signature: "signature",
};
const TAKEN: SignatureFields = SignatureFields {
    scheme: "to_scheme",
    block: "to_block",
    block_hash: "to_block_hash",
    signature: "to_signature",
};
const EIP191: &str = "eip191";
const EIP1271: &str = "eip1271";

const INCONSISTENT: &str = "inconsistent";

/// The counts' field names, in the order in which an entry has them.
fn fields(counts: &Counts) -> [(&'static str, Option<u32>); 5] {
    [
        ("input", counts.input),
        ("cache_read", counts.cache_read),
        ("cache_write", counts.cache_write),
        ("output", counts.output),
        ("reasoning", counts.reasoning),
    ]
}

/// Takes what is written only as long as it is this text.
struct Expected<'a>(&'a str);

impl fmt::Write for Expected<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(text).ok_or(fmt::Error)?;
        Ok(())
    }
}

struct Writer<'a, T>(&'a mut T);

impl<'a, T: fmt::Write> Writer<'a, T> {
    fn new(kind: &str, time: Time, to: &'a mut T) -> Result<Self, fmt::Error> {
        let mut writer = Self(to);
        write!(writer.0, "{{\"v\":{VERSION}")?;
        writer.text("kind", kind)?;
        writer.number("time", time.secs())?;
        Ok(writer)
    }

    fn text(&mut self, field: &str, value: impl Display) -> fmt::Result {
        self.name(field)?;
        write!(self.0, "\"{value}\"")
    }

    fn maybe(&mut self, field: &str, value: Option<impl Display>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.text(field, value))
    }

    fn number(&mut self, field: &str, value: u64) -> fmt::Result {
        self.name(field)?;
        write!(self.0, "{value}")
    }

    fn binding(&mut self, binding: &Binding) -> fmt::Result {
        let (word, consent, taken) = match &binding.action {
            Action::Link(consent) => ("link", Some(consent), None),
            Action::Move { from, to, taken } => ("move", Some(from), Some((to, taken))),
            Action::Release(consent) => ("release", Some(consent), None),
            Action::Burn => ("burn", None, None),
        };
        self.text("action", word)?;
        self.text("key_id", binding.key_id)?;
        self.text("previous", binding.previous)?;
        let Some(Consent {
            wallet,
            terms,
            signature,
        }) = consent
        else {
            return Ok(());
        };
        self.text("wallet", wallet)?;
        self.maybe("to", taken.map(|(to, _)| to))?;
        self.number("chain_id", terms.chain_id)?;
        self.number("issued_at", terms.issued_at.secs())?;
        self.number("expires_at", terms.expires_at.secs())?;
        self.signature(&OWN, signature)?;
        taken.map_or(Ok(()), |(_, taken)| self.signature(&TAKEN, taken))
    }

    fn signature(&mut self, fields: &SignatureFields, signature: &Signature) -> fmt::Result {
        match signature {
            Signature::Eip191(bytes) => {
                self.text(fields.scheme, EIP191)?;
                self.text(fields.signature, Hex(bytes))
            }
            Signature::Eip1271 {
                block,
                block_hash,
                bytes,
            } => {
                self.text(fields.scheme, EIP1271)?;
                self.number(fields.block, *block)?;
                self.text(fields.block_hash, block_hash)?;
                self.text(fields.signature, Hex(bytes))
            }
        }
    }

    fn name(&mut self, field: &str) -> fmt::Result {
        self.0.write_str(",\"")?;
        self.0.write_str(field)?;
        self.0.write_str("\":")
    }

    fn finish(self) -> fmt::Result {
        self.0.write_str("}")
    }
}

/// `0x` and two lower-case hex digits for each byte.
struct Hex<'a>(&'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads what [`Hex`] writes.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?.as_bytes();
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let byte = |[high, low]: &[u8; 2]| Some(nibble(*high)? << 4 | nibble(*low)?);
    pairs.iter().map(byte).collect()
}

/// Reads fields in their fixed order.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// Takes the next `len` bytes; they are ASCII.
    fn ascii(&mut self, len: usize) -> &'a str {
        let from = self.at;
        self.at += len;
        self.text.get(from..self.at).unwrap_or_default()
    }

    fn literal(&mut self, literal: &str, expected: &'static str) -> Result<(), EntryError> {
        if !self.left().starts_with(literal.as_bytes()) {
            return Err(EntryError::Syntax {
                at: self.at,
                expected,
            });
        }
        self.at += literal.len();
        Ok(())
    }

    /// Whether `,"field":` comes next; takes it if so.
    fn field(&mut self, field: &str) -> bool {
        let rest = self.left().strip_prefix(b",\"");
        let rest = rest.and_then(|rest| rest.strip_prefix(field.as_bytes()));
        let found = rest.is_some_and(|rest| rest.starts_with(b"\":"));
        if found {
            self.at += field.len() + 4;
        }
        found
    }

    fn required(&mut self, field: &'static str) -> Result<(), EntryError> {
        let missing = EntryError::Value {
            field,
            expected: "the field to stand here",
        };
        self.field(field).then_some(()).ok_or(missing)
    }

    fn digits(&mut self, field: &'static str) -> Result<u64, EntryError> {
        let len = self
            .left()
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
        let expected = "a number of 0 to 2^53 - 1 without leading zeros";
        decimal(self.ascii(len)).ok_or(EntryError::Value { field, expected })
    }

    fn string(&mut self) -> Result<&'a str, EntryError> {
        self.literal("\"", "a string")?;
        let len = self.left().iter().take_while(|b| plain(**b)).count();
        let text = self.ascii(len);
        self.literal(
            "\"",
            "printable ASCII without backslash, then a quotation mark",
        )?;
        Ok(text)
    }

    fn kind(&mut self) -> Result<&'a str, EntryError> {
        self.required("kind")?;
        let kind = self.string()?;
        let fits = (1..=32).contains(&kind.len())
            && kind
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        let expected = "1 to 32 of a-z, 0-9, hyphen and underscore";
        fits.then_some(kind).ok_or(EntryError::Value {
            field: "kind",
            expected,
        })
    }

    fn value<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, EntryError> {
        self.required(field)?;
        parse(self.string()?).ok_or(EntryError::Value { field, expected })
    }

    fn maybe<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, EntryError> {
        if !self.field(field) {
            return Ok(None);
        }
        let value = parse(self.string()?);
        value.map(Some).ok_or(EntryError::Value { field, expected })
    }

    fn setting(&mut self, field: &'static str) -> Result<u64, EntryError> {
        self.required(field)?;
        self.digits(field)
    }

    fn count(&mut self, field: &'static str) -> Result<Option<u32>, EntryError> {
        if !self.field(field) {
            return Ok(None);
        }
        let count = u32::try_from(self.digits(field)?).ok();
        count.map(Some).ok_or(EntryError::Value {
            field,
            expected: "at most 2^32 - 1",
        })
    }

    fn log(&mut self) -> Result<Log, EntryError> {
        let origin = self.value("origin", "an origin", |t| Some(t.to_string()))?;
        let key = self.value("vkey", "the origin's verifier key", |text| {
            VerifierKey::parse(text)
                .ok()
                .filter(|key| key.origin().as_str() == origin)
        })?;
        Ok(Log {
            key,
            rules: self.setting("rules")?,
            totals_interval: self.setting("totals_interval")?,
            publish_max: self.setting("publish_max")?,
            evm_key: self.value("evm_key", ADDRESS, Address::from_canonical)?,
        })
    }

    fn usage(&mut self) -> Result<Usage, EntryError> {
        let receipt = self.value("receipt", HEX, Hash::from_hex)?;
        let key_id = self.maybe("key_id", HEX, Hash::from_hex)?;
        let wallet = self.maybe("wallet", ADDRESS, Address::from_canonical)?;
        let link = self.maybe("link", "claimed or bound", Link::parse)?;
        let wallet = match (wallet, link) {
            (Some(wallet), Some(link)) => Some((wallet, link)),
            (None, None) => None,
            _ => {
                return Err(EntryError::Rule(
                    "wallet and link stand together or not at all",
                ));
            }
        };
        let usage = Usage {
            receipt,
            key_id,
            wallet,
            source: self.value("source", "proxy or custom", Source::parse)?,
            provider: self.value("provider", NAME, Name::new)?,
            model: self.maybe("model", NAME, Name::new)?,
            counts: Counts {
                input: self.count("input")?,
                cache_read: self.count("cache_read")?,
                cache_write: self.count("cache_write")?,
                output: self.count("output")?,
                reasoning: self.count("reasoning")?,
            },
            outcome: self.value("outcome", "an outcome", Outcome::parse)?,
            inconsistent: self
                .maybe("flag", INCONSISTENT, |t| (t == INCONSISTENT).then_some(()))?
                .is_some(),
            response: self.maybe("response", HEX, Hash::from_hex)?,
        };
        usage.judge().map(|()| usage)
    }

    fn binding(&mut self) -> Result<Binding, EntryError> {
        let word = self.value("action", ACTION, |word| {
            let known = ["link", "move", "release", "burn"];
            known.into_iter().find(|known| *known == word)
        })?;
        let key_id = self.value("key_id", HEX, Hash::from_hex)?;
        let previous = self.value("previous", HEX, Hash::from_hex)?;
        let action = match word {
            "link" => Action::Link(self.consent()?),
            "release" => Action::Release(self.consent()?),
            "move" => {
                let wallet = self.value("wallet", ADDRESS, Address::from_canonical)?;
                let to = self.value("to", ADDRESS, Address::from_canonical)?;
                let from = self.consent_of(wallet)?;
                let taken = self.signature(&TAKEN)?;
                Action::Move { from, to, taken }
            }
            _ => Action::Burn,
        };
        Ok(Binding {
            key_id,
            previous,
            action,
        })
    }

    fn consent(&mut self) -> Result<Consent, EntryError> {
        let wallet = self.value("wallet", ADDRESS, Address::from_canonical)?;
        self.consent_of(wallet)
    }

    fn consent_of(&mut self, wallet: Address) -> Result<Consent, EntryError> {
        let terms = Terms {
            chain_id: self.chain_id()?,
            issued_at: self.dated("issued_at")?,
            expires_at: self.dated("expires_at")?,
        };
        let signature = self.signature(&OWN)?;
        Ok(Consent {
            wallet,
            terms,
            signature,
        })
    }

    fn chain_id(&mut self) -> Result<u64, EntryError> {
        let chain_id = self.setting("chain_id")?;
        (chain_id > 0).then_some(chain_id).ok_or(EntryError::Value {
            field: "chain_id",
            expected: "1 or more",
        })
    }

    fn dated(&mut self, field: &'static str) -> Result<Time, EntryError> {
        let time = Time::from_secs(self.setting(field)?);
        let time = time.filter(|time| time.secs() <= MAX_TIME);
        let expected = "a time before the year 10000";
        time.ok_or(EntryError::Value { field, expected })
    }

    fn signature(&mut self, fields: &SignatureFields) -> Result<Signature, EntryError> {
        let scheme = self.value(fields.scheme, "eip191 or eip1271", |word| {
            let known = [EIP191, EIP1271];
            known.into_iter().find(|known| *known == word)
        })?;
        if scheme == EIP191 {
            let of_65 = |text: &str| bytes(text)?.try_into().ok();
            let signature = self.value(fields.signature, "0x and 130 hex digits", of_65)?;
            return Ok(Signature::Eip191(signature));
        }
        Ok(Signature::Eip1271 {
            block: self.setting(fields.block)?,
            block_hash: self.value(fields.block_hash, HEX, Hash::from_hex)?,
            bytes: self.value(
                fields.signature,
                "0x and up to 2,048 bytes in hex",
                |text| bytes(text).filter(|bytes| bytes.len() <= MAX_CONTRACT_SIGNATURE),
            )?,
        })
    }

    fn totals(&mut self) -> Result<Totals, EntryError> {
        let size = TreeSize::new(self.setting("size")?);
        let size = size.filter(|size| size.get() > 0);
        Ok(Totals {
            size: size.ok_or(EntryError::Value {
                field: "size",
                expected: "1 or more",
            })?,
            count: self.setting("count")?,
            root: self.value("root", HEX, Hash::from_hex)?,
        })
    }

    fn anchor(&mut self) -> Result<Place, EntryError> {
        Ok(Place {
            chain_id: self.chain_id()?,
            contract: self.value("contract", ADDRESS, Address::from_canonical)?,
        })
    }

    fn end(&mut self) -> Result<(), EntryError> {
        self.literal("}", "a field in its place, or the closing brace")?;
        let at = self.at;
        let expected = "the end";
        self.left()
            .is_empty()
            .then_some(())
            .ok_or(EntryError::Syntax { at, expected })
    }

    /// The rest of a later protocol's entry: more fields, or the end.
    fn rest(&mut self) -> Result<(), EntryError> {
        if self.left().starts_with(b",") {
            let plain = |b: &u8| matches!(b, 0x20..=0x7e);
            let len = self.left().iter().take_while(|b| plain(b)).count();
            let expected = "printable ASCII";
            if len < self.left().len() {
                return Err(EntryError::Syntax {
                    at: self.at + len,
                    expected,
                });
            }
            self.at = self.text.len() - 1;
        }
        self.end()
    }
}

const HEX: &str = "64 lower-case hex digits";
const ADDRESS: &str = "0x and 40 lower-case hex digits";
const NAME: &str = "1 to 128 bytes";
const ACTION: &str = "link, move, release or burn";

impl Usage {
    /// The rules that hold within one usage entry (PROTOCOL.md, "Usage entries").
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn judge(&self) -> Result<(), EntryError> {
        let none = self.counts == Counts::NONE;
        match self.outcome {
            Outcome::Unmetered | Outcome::Unknown if !none => Err(EntryError::Rule(
                "an unmetered or unknown response has no counts",
            )),
            Outcome::Complete if self.counts.input.is_none() && self.counts.output.is_none() => {
                Err(EntryError::Rule("a complete response has input or output"))
            }
            _ if none && self.inconsistent => Err(EntryError::Rule(
                "a response without counts contradicts nothing",
            )),
            _ if self.counts.contradict() && !self.inconsistent => Err(EntryError::Rule(
                "parts exceed their whole and no flag says so",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Origin, Signer};
    use alloc::vec;
    use proptest::prelude::*;

    fn log() -> Body {
        let signer = Signer::new(Origin::parse("log.example.org/a").expect("valid"), &[3; 32]);
        Body::Log(Log {
            key: signer.verifier().clone(),
            rules: RULES,
            totals_interval: 600,
            publish_max: 10,
            evm_key: Address::from_bytes([0xab; 20]),
        })
    }

    fn usage() -> Usage {
        Usage {
            receipt: Hash::of(b"r"),
            key_id: Some(Hash::of(b"k")),
            wallet: Some((Address::from_bytes([1; 20]), Link::Claimed)),
            source: Source::Proxy,
            provider: Name::new("openai").expect("valid"),
            model: Name::new("gpt-5-mini-2025-08-07"),
            counts: Counts {
                input: Some(u32::MAX),
                cache_read: Some(0),
                cache_write: None,
                output: Some(300),
                reasoning: Some(192),
            },
            outcome: Outcome::Complete,
            inconsistent: false,
            response: Some(Hash::of(b"x")),
        }
    }

    fn text(body: &Body) -> String {
        String::from_utf8(body.encode(Time::from_secs(1_760_000_000).expect("small")))
            .expect("ASCII")
    }

    #[test]
    fn an_entry_reads_as_it_was_written() {
        let time = Time::from_secs(1_760_000_000).expect("small");
        for body in [log(), Body::Usage(usage())] {
            let read = Entry::parse(&body.encode(time));
            assert_eq!(read, Ok(Entry::Known { time, body }));
        }
    }

    #[test]
    fn refuses_every_other_spelling() {
        let good = text(&Body::Usage(usage()));
        assert!(Entry::parse(good.as_bytes()).is_ok());
        for (claim, from, to) in [
            ("white space", ",\"source\"", ", \"source\""),
            ("a leading zero", ":300,", ":0300,"),
            ("a fraction", ":300,", ":300.0,"),
            ("a sign", ":300,", ":-300,"),
            ("a count as text", ":300,", ":\"300\","),
            ("a count over 2^32-1", "4294967295", "4294967296"),
            (
                "an unknown field",
                ",\"outcome\"",
                ",\"cost\":1,\"outcome\"",
            ),
            (
                "a field twice",
                ",\"output\":300",
                ",\"output\":300,\"output\":300",
            ),
            (
                "fields swapped",
                "\"source\":\"proxy\",\"provider\":\"openai\"",
                "\"provider\":\"openai\",\"source\":\"proxy\"",
            ),
            ("a required field left out", "\"source\":\"proxy\",", ""),
            ("an empty name", "\"openai\"", "\"\""),
            ("an escape", "\"openai\"", "\"open\\u0061i\""),
            ("another letter", "\"openai\"", "\"openäi\""),
            ("an unknown outcome", "complete", "completed"),
            ("an unknown source", "\"proxy\"", "\"import\""),
            ("a wallet without link", ",\"link\":\"claimed\"", ""),
            (
                "an upper-case hash",
                &Hash::of(b"r").to_string(),
                &Hash::of(b"r").to_string().to_uppercase(),
            ),
            ("a time too large", "1760000000", "9007199254740992"),
            ("a newline at the end", "}", "}\n"),
            ("two objects", "}", "}{}"),
            (
                "parts over the whole",
                "\"reasoning\":192",
                "\"reasoning\":301",
            ),
            (
                "no counts though complete",
                ",\"input\":4294967295,\"cache_read\":0,\"output\":300,\"reasoning\":192",
                "",
            ),
            ("counts though unmetered", "complete", "unmetered"),
            ("no brace", "{\"v\"", "\"v\""),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{claim}");
            assert!(Entry::parse(bad.as_bytes()).is_err(), "{claim}: {bad}");
        }
        let foreign = text(&log()).replace("\"origin\":\"log.", "\"origin\":\"lag.");
        assert!(Entry::parse(foreign.as_bytes()).is_err());
        assert_eq!(Entry::parse(&[]), Err(EntryError::Length(0)));
        let long = vec![b' '; MAX_ENTRY + 1];
        assert_eq!(Entry::parse(&long), Err(EntryError::Length(MAX_ENTRY + 1)));
    }

    #[test]
    fn later_kinds_and_versions_are_known_to_be_unknown() {
        for (text, version, kind) in [
            (
                r#"{"v":1,"kind":"later","time":5,"x":{"y":[1]}}"#,
                1,
                "later",
            ),
            (r#"{"v":2,"kind":"usage","time":5}"#, 2, "usage"),
        ] {
            let time = Time::from_secs(5).expect("small");
            let unknown = Entry::Unknown {
                time,
                version,
                kind: kind.into(),
            };
            assert_eq!(Entry::parse(text.as_bytes()), Ok(unknown));
        }
        for bad in [
            r#"{"v":2,"kind":"Usage","time":5}"#,
            r#"{"v":2,"kind":"usage","time":"5"}"#,
            r#"{"v":2,"kind":"usage","time":5"#,
            r#"{"v":2,"kind":"usage","time":5x}"#,
            "{\"v\":2,\"kind\":\"usage\",\"time\":5,\"a\":\"\n\"}",
            r#"{"kind":"usage","v":2,"time":5}"#,
        ] {
            assert!(Entry::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Entry::parse(&bytes);
        }

        #[test]
        fn what_parses_encodes_to_itself(at in 0_usize..600, byte in any::<u8>()) {
            let mut bytes = text(&Body::Usage(usage())).into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(Entry::Known { time, body }) = Entry::parse(&bytes) {
                prop_assert_eq!(body.encode(time), bytes);
            }
        }
    }
}
