//! What is said: the answer on stdout, the story on stderr, evidence in files.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::anchored::Anchored;
use crate::audit::{Class, Finding};
use crate::chain::explorer;
use crate::follow::Findings;
use crate::trust;
use crate::wallet::Found;

/// Evidence files of one claim that are kept where it is only served; proven
/// ones are always kept.
const MAX_SERVED: usize = 100;

/// What a pass came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything was checked and is right.
    Verified,
    /// The log's key stands for it, and for its whole only those who read it.
    Committed,
    /// Something is wrong.
    Misbehaviour,
    /// There was no complete answer.
    NoVerdict,
    /// What this program knows is right; a newer one knows more.
    Upgrade,
}

impl Verdict {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Committed => "committed",
            Self::Misbehaviour => "misbehaviour",
            Self::NoVerdict => "no_verdict",
            Self::Upgrade => "upgrade",
        }
    }

    /// The exit code.
    pub const fn exit(self) -> u8 {
        match self {
            Self::Verified | Self::Committed => 0,
            Self::Misbehaviour => 1,
            Self::NoVerdict | Self::Upgrade => 3,
        }
    }
}

/// A finding with its evidence.
#[derive(Clone, Debug)]
pub struct Reported {
    /// What was found.
    pub finding: Finding,
    /// How many more of its claim were found and are not listed.
    pub more: u64,
    /// Where the evidence is; `None` if it could not be written.
    pub evidence: Option<PathBuf>,
}

/// One pass, as it is reported.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it came to.
    pub verdict: Verdict,
    /// The log's address.
    pub log: String,
    /// The log's origin, once its key is known.
    pub origin: Option<String>,
    /// The pinned key.
    pub vkey: Option<String>,
    /// The accepted checkpoint's size.
    pub size: u64,
    /// Its root in hex, once one is accepted.
    pub root: Option<String>,
    /// Entries verified in this pass.
    pub new_entries: u64,
    /// How long it took.
    pub took: Duration,
    /// What is wrong.
    pub findings: Vec<Reported>,
    /// Why there is no verdict, or what must be upgraded for.
    pub reason: Option<String>,
    /// Where a receipt was checked.
    pub receipt: Option<Place>,
    /// The witnesses that cosigned, where a policy was met.
    pub cosigned_by: Option<Vec<String>>,
    /// How many peers were compared with, where there are any.
    pub peers: Option<usize>,
    /// The wallet's total, where one was asked for.
    pub wallet: Option<Found>,
    /// Bindings of contract wallets that no chain was asked about.
    pub contracts: usize,
    /// Where the log is anchored, by the chains that were asked.
    pub anchored: Vec<Anchored>,
    /// Chains that it says it is anchored on and that were not asked.
    pub unwatched: Vec<u64>,
    /// Whether the log itself is verified, though chains may have fallen silent.
    pub log_verified: bool,
}

/// Where a receipt's entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The entry's index.
    pub index: u64,
    /// Whether the log was asked; else only the file's proof speaks.
    pub asked: bool,
}

impl Report {
    /// The machine's form.
    pub fn json(&self) -> Value {
        let mut report = Map::new();
        report.insert("verdict".into(), self.verdict.word().into());
        report.insert("exit".into(), self.verdict.exit().into());
        report.insert("log".into(), self.log.clone().into());
        report.insert("origin".into(), self.origin.clone().into());
        report.insert("vkey".into(), self.vkey.clone().into());
        report.insert("size".into(), self.size.into());
        report.insert("root".into(), self.root.clone().into());
        report.insert("new_entries".into(), self.new_entries.into());
        let took_ms = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        report.insert("took_ms".into(), took_ms.into());
        report.insert(
            "findings".into(),
            self.findings.iter().map(finding_json).collect(),
        );
        if let Some(place) = self.receipt {
            report.insert("receipt_index".into(), place.index.into());
            report.insert("log_asked".into(), place.asked.into());
        }
        if let Some(by) = &self.cosigned_by {
            report.insert("cosigned_by".into(), by.clone().into());
        }
        if let Some(peers) = self.peers {
            report.insert("peers".into(), peers.into());
        }
        if self.contracts > 0 {
            report.insert("contracts_not_checked".into(), self.contracts.into());
        }
        if !self.anchored.is_empty() {
            let anchored = self.anchored.iter().map(Anchored::json);
            report.insert("anchors".into(), anchored.collect());
        }
        if !self.unwatched.is_empty() {
            report.insert("anchors_not_checked".into(), self.unwatched.clone().into());
        }
        if self.log_verified && self.verdict == Verdict::NoVerdict {
            report.insert("log_verified".into(), true.into());
        }
        if let Some(found) = &self.wallet {
            report.extend(found.json());
        }
        if let Some(reason) = &self.reason {
            report.insert("reason".into(), reason.clone().into());
        }
        Value::Object(report)
    }

    /// The person's form, without a newline at the end.
    pub fn text(&self) -> String {
        let mut lines = vec![];
        let root = self.root.as_deref().unwrap_or("none");
        match self.verdict {
            Verdict::Verified | Verdict::Committed => lines.push(self.good()),
            Verdict::Misbehaviour => {}
            Verdict::NoVerdict => lines.push(format!("no verdict: {}", self.reason())),
            Verdict::Upgrade => lines.push(format!(
                "upgrade: tree and receipts of {} entries are right, root {root}, but {}; \
                 a newer sentinel is needed to judge totals",
                grouped(self.size),
                self.reason()
            )),
        }
        if self.log_verified && self.verdict == Verdict::NoVerdict {
            lines.push(format!("apart from what chains keep: {}", self.good()));
        }
        lines.extend(self.anchored.iter().map(Anchored::text));
        if !self.unwatched.is_empty() {
            let chains: Vec<_> = self
                .unwatched
                .iter()
                .map(|id| explorer::name(*id))
                .collect();
            lines.push(format!(
                "not checked: anchors on {} (see --rpc-url)",
                chains.join(", ")
            ));
        }
        if self.contracts > 0 {
            lines.push(format!(
                "not checked: bindings signed by contract wallets, which only their chain can \
                 judge ({}; see --rpc-url)",
                grouped(self.contracts as u64)
            ));
        }
        for Reported {
            finding,
            more,
            evidence,
        } in &self.findings
        {
            let word = finding.class.word();
            lines.push(format!(
                "MISBEHAVIOUR ({word}) {}: {}",
                finding.claim, finding.message
            ));
            if *more > 0 {
                lines.push(format!("  and {} more of these", grouped(*more)));
            }
            if let Some(path) = evidence {
                lines.push(format!("  evidence: {}", path.display()));
            }
        }
        if self.verdict == Verdict::Misbehaviour && self.reason.is_some() {
            lines.push(format!("  also: {}", self.reason()));
        }
        lines.join("\n")
    }

    /// What is right.
    fn good(&self) -> String {
        let root = self.root.as_deref().unwrap_or("none");
        if let Some(found) = &self.wallet {
            return found.text() + &self.company();
        }
        if let Some(Place { index, asked }) = self.receipt {
            let place = match (self.size, asked) {
                (0, _) => "the log was not asked whether it holds its entry".into(),
                (size, true) => format!("its entry is in the log of size {size}"),
                (size, false) => format!(
                    "its proof shows its entry in the log of size {size}, which was not asked"
                ),
            };
            return format!(
                "verified: the receipt of entry {index} is genuine; {place}{}",
                self.company()
            );
        }
        let secs = self.took.as_secs_f64();
        let rate = match self.new_entries {
            ..1_000 => String::new(),
            #[expect(clippy::cast_precision_loss, reason = "a rate for a person")]
            new => format!(" in {secs:.1} s ({:.0} per s)", new as f64 / secs),
        };
        let (size, new) = (grouped(self.size), grouped(self.new_entries));
        format!(
            "verified: {size} entries, root {root}, {new} new{rate}{}",
            self.company()
        )
    }

    /// Who else stands behind it.
    fn company(&self) -> String {
        let mut company = String::new();
        if let Some(by) = &self.cosigned_by {
            company += &match &by[..] {
                [] => ", no cosignature required".into(),
                by => format!(", cosigned by {}", by.join(", ")),
            };
        }
        if let Some(peers) = self.peers {
            let ending = if peers == 1 { "" } else { "s" };
            company += &format!(", compared with {peers} peer{ending}");
        }
        company
    }

    fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("for an unknown reason")
    }

    /// Prints it on stdout.
    ///
    /// # Errors
    /// Nobody reads.
    pub fn print(&self, as_json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if as_json {
            writeln!(out, "{}", self.json())?;
        } else {
            writeln!(out, "{}", self.text())?;
        }
        out.flush()
    }
}

fn finding_json(reported: &Reported) -> Value {
    let Reported {
        finding,
        more,
        evidence,
    } = reported;
    let mut json = json!({
        "claim": finding.claim.code(),
        "class": finding.class.word(),
        "message": finding.message,
        "evidence": evidence.as_ref().map(|path| path.display().to_string()),
    });
    if let Some(index) = finding.index {
        json["index"] = index.into();
    }
    if *more > 0 {
        json["more"] = (*more).into();
    }
    json
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Where evidence is kept, and about what log.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The folder.
    pub dir: PathBuf,
    /// The log's address.
    pub log: String,
    /// The pinned key.
    pub vkey: Option<String>,
    /// Seconds since 1970.
    pub time: u64,
}

impl Evidence {
    /// Writes down what shows each finding. What was written down before, in
    /// the same words, is left as it is.
    pub fn keep(&self, findings: &Findings) -> Vec<Reported> {
        let mut reported: Vec<Reported> = vec![];
        for finding in findings.kept() {
            let first = reported
                .iter()
                .all(|other| other.finding.claim != finding.claim);
            let more = if first {
                findings.more(finding.claim)
            } else {
                0
            };
            let evidence = match self.write(finding) {
                Ok(path) => Some(path),
                Err(error) => {
                    let dir = self.dir.display();
                    tracing::error!(%error, %dir, "the evidence could not be written");
                    None
                }
            };
            reported.push(Reported {
                finding: finding.clone(),
                more,
                evidence,
            });
        }
        reported
    }

    fn write(&self, finding: &Finding) -> io::Result<PathBuf> {
        let mut content = json!({
            "tallystick_evidence": 1,
            "claim": finding.claim.code(),
            "class": finding.class.word(),
            "log": self.log,
            "vkey": self.vkey,
            "message": finding.message,
            "material": finding.material,
        });
        if let Some(index) = finding.index {
            content["index"] = index.into();
        }
        // The name is of the content without its time: one file per thing found.
        let digest = Sha256::digest(content.to_string().as_bytes());
        let id: String = digest
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        content["time"] = self.time.into();
        let path = self.dir.join(format!("{}-{id}.json", finding.claim.code()));
        if !path.exists() {
            std::fs::create_dir_all(&self.dir)?;
            // A log that answers wrongly in ever new words must not fill the disk.
            let code = finding.claim.code();
            if finding.class == Class::Served
                && kept_of(&self.dir, &format!("{code}-")) >= MAX_SERVED
            {
                return Err(io::Error::other(format!(
                    "{MAX_SERVED} files of {code} are kept already"
                )));
            }
            trust::replace(&path, |to| {
                serde_json::to_writer_pretty(to, &content).map_err(Into::into)
            })?;
        }
        Ok(path)
    }
}

/// How many evidence files a folder holds.
pub fn kept_before(dir: &Path) -> usize {
    kept_of(dir, "")
}

/// How many of them have names that begin so.
fn kept_of(dir: &Path, prefix: &str) -> usize {
    let counts = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(prefix) && name.ends_with(".json")
    };
    std::fs::read_dir(dir).map_or(0, |files| files.flatten().filter(counts).count())
}

/// The story for a person, on stderr.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// Says nothing.
    pub quiet: bool,
}

impl Story {
    /// Tells one line.
    pub fn tell(self, line: &str) {
        if !self.quiet {
            // Nobody listening is no reason to stop.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Claim;

    fn finding(claim: Claim, class: Class, message: &str) -> Finding {
        let material = Map::from_iter([("note".to_owned(), Value::from("x"))]);
        Finding {
            claim,
            class,
            index: Some(5),
            message: message.into(),
            material,
        }
    }

    fn report(verdict: Verdict) -> Report {
        Report {
            verdict,
            log: "http://a.b/".into(),
            origin: Some("a.b".into()),
            vkey: None,
            size: 1_234_567,
            root: Some("00ff".into()),
            new_entries: 2_000,
            took: Duration::from_millis(500),
            findings: vec![],
            reason: None,
            receipt: None,
            cosigned_by: None,
            peers: None,
            wallet: None,
            contracts: 0,
            anchored: vec![],
            unwatched: vec![],
            log_verified: false,
        }
    }

    #[test]
    fn verdicts_have_their_words_and_exit_codes() {
        for (verdict, word, exit) in [
            (Verdict::Verified, "verified", 0),
            (Verdict::Misbehaviour, "misbehaviour", 1),
            (Verdict::NoVerdict, "no_verdict", 3),
            (Verdict::Upgrade, "upgrade", 3),
        ] {
            let json = report(verdict).json();
            assert_eq!(
                (&json["verdict"], &json["exit"]),
                (&word.into(), &exit.into())
            );
            assert!(report(verdict).text().starts_with(&word.replace('_', " ")) || exit == 1);
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let verified = report(Verdict::Verified);
        assert_eq!(
            verified.text(),
            "verified: 1,234,567 entries, root 00ff, 2,000 new in 0.5 s (4000 per s)"
        );
        let in_company = Report {
            cosigned_by: Some(vec!["one".into(), "two".into()]),
            peers: Some(1),
            receipt: Some(Place {
                index: 7,
                asked: false,
            }),
            ..report(Verdict::Verified)
        };
        assert_eq!(
            in_company.text(),
            "verified: the receipt of entry 7 is genuine; its proof shows its entry in the log of \
             size 1234567, which was not asked, cosigned by one, two, compared with 1 peer"
        );
        let json = in_company.json();
        assert_eq!(json["cosigned_by"], json!(["one", "two"]));
        assert_eq!(
            (&json["peers"], &json["log_asked"]),
            (&json!(1), &json!(false))
        );
        let mut wrong = report(Verdict::Misbehaviour);
        wrong.reason = Some("it stopped".into());
        wrong.findings.push(Reported {
            finding: finding(Claim::Fork, Class::Proven, "two roots"),
            more: 7,
            evidence: Some("e/fork.json".into()),
        });
        assert_eq!(
            wrong.text(),
            "MISBEHAVIOUR (proven) fork: two roots\n  and 7 more of these\n  \
             evidence: e/fork.json\n  also: it stopped"
        );
        assert_eq!(
            wrong.json(),
            json!({
                "verdict": "misbehaviour", "exit": 1, "log": "http://a.b/", "origin": "a.b",
                "vkey": null, "size": 1_234_567, "root": "00ff", "new_entries": 2_000,
                "took_ms": 500, "reason": "it stopped",
                "findings": [{
                    "claim": "fork", "class": "proven", "index": 5, "message": "two roots",
                    "more": 7, "evidence": "e/fork.json",
                }],
            })
        );
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (12_345, "12,345"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn evidence_is_kept_once_and_served_evidence_is_bounded() {
        let dir = std::env::temp_dir().join(format!("sentinel-evidence-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let evidence = Evidence {
            dir: dir.clone(),
            log: "http://a.b/".into(),
            vkey: None,
            time: 7,
        };
        let keep = |finding: Finding, time| {
            let mut findings = Findings::default();
            findings.push(finding);
            let evidence = Evidence {
                time,
                ..evidence.clone()
            };
            evidence.keep(&findings)[0].evidence.clone()
        };
        let first = keep(finding(Claim::Fork, Class::Proven, "a"), 7).expect("written");
        let again = keep(finding(Claim::Fork, Class::Proven, "a"), 8).expect("there");
        assert_eq!(first, again);
        let content = std::fs::read(&first).expect("written");
        assert_eq!(
            serde_json::from_slice::<Value>(&content).expect("JSON"),
            json!({
                "tallystick_evidence": 1, "claim": "fork", "class": "proven", "index": 5,
                "log": "http://a.b/", "vkey": null, "time": 7, "message": "a",
                "material": {"note": "x"},
            })
        );
        for i in 0..MAX_SERVED {
            let served = finding(Claim::AggregateStats, Class::Served, &i.to_string());
            assert!(keep(served, 7).is_some(), "{i}");
        }
        assert_eq!(
            keep(finding(Claim::AggregateStats, Class::Served, "more"), 7),
            None
        );
        assert!(keep(finding(Claim::AggregateUser, Class::Served, "other"), 7).is_some());
        assert!(keep(finding(Claim::AggregateStats, Class::Proven, "proven"), 7).is_some());
        assert_eq!(kept_before(&dir), MAX_SERVED + 3);
        std::fs::remove_dir_all(dir).expect("ours");
    }
}
