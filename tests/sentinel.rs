//! Runs the sentinel as a process and reads what it says.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::binaries::{Folder, program};

/// A sentinel with a state of its own.
#[derive(Debug)]
pub(crate) struct Sentinel {
    state: Folder,
    arguments: Vec<String>,
}

/// What one pass said.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) exit: Option<i32>,
    /// The last object on stdout; null without one.
    pub(crate) report: Value,
    pub(crate) stderr: String,
}

/// What a pass is expected to come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sees {
    /// Exit 0.
    Verified,
    /// Exit 0: a wallet's total that the log's key stands for.
    Committed,
    /// Exit 1, with exactly these claims, proven.
    Proven(&'static [&'static str]),
    /// Exit 1, with exactly these claims, served.
    Served(&'static [&'static str]),
    /// Exit 3: no complete answer.
    NoVerdict,
    /// Exit 3: an upgrade is needed.
    Upgrade,
}

impl Sentinel {
    /// One that knows nothing.
    pub(crate) fn fresh() -> Self {
        Self {
            state: Folder::new(),
            arguments: vec![],
        }
    }

    /// Another one with the same state.
    pub(crate) fn twin(&self) -> Self {
        Self {
            state: self.state.copied(),
            arguments: self.arguments.clone(),
        }
    }

    /// Where its state is.
    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    /// With more arguments.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|a| (*a).to_owned()));
        self
    }

    /// One pass over the log at `url`, by an impatient one.
    pub(crate) fn pass(&self, url: &str) -> Pass {
        self.run(&["--json", "--patience", "300ms", url])
    }

    /// One pass over a real gateway's log at `url`: it publishes when it
    /// promised to, not within a forger's second.
    pub(crate) fn patient_pass(&self, url: &str) -> Pass {
        self.run(&["--json", url])
    }

    /// Runs it with `arguments` behind the state's.
    pub(crate) fn run(&self, arguments: &[&str]) -> Pass {
        let mut command = Command::new(program("sentinel"));
        command
            .arg("--state")
            .arg(self.state.path())
            .args(&self.arguments)
            .args(arguments);
        Pass::of(&command.output().expect("the sentinel starts"))
    }
}

impl Pass {
    fn of(output: &Output) -> Self {
        let stdout = String::from_utf8_lossy(&output.stdout);
        let last = stdout
            .lines()
            .rfind(|line| line.starts_with('{'))
            .unwrap_or("null");
        Self {
            exit: output.status.code(),
            report: serde_json::from_str(last).unwrap_or(Value::Null),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The findings that were reported.
    pub(crate) fn findings(&self) -> &[Value] {
        self.report["findings"]
            .as_array()
            .map_or(&[], Vec::as_slice)
    }

    /// The evidence files that were written.
    pub(crate) fn evidence(&self) -> Vec<PathBuf> {
        self.findings()
            .iter()
            .filter_map(|f| f["evidence"].as_str())
            .map(PathBuf::from)
            .collect()
    }

    /// Whether this is what was expected; what differs otherwise.
    pub(crate) fn compare(&self, expected: &Sees) -> Result<(), String> {
        let (exit, verdict, class, claims): (_, _, _, &[&str]) = match expected {
            Sees::Verified => (0, "verified", "", &[]),
            Sees::Committed => (0, "committed", "", &[]),
            Sees::Proven(claims) => (1, "misbehaviour", "proven", claims),
            Sees::Served(claims) => (1, "misbehaviour", "served", claims),
            Sees::NoVerdict => (3, "no_verdict", "", &[]),
            Sees::Upgrade => (3, "upgrade", "", &[]),
        };
        let mut found: Vec<&str> = self
            .findings()
            .iter()
            .filter_map(|f| f["claim"].as_str())
            .collect();
        found.sort_unstable();
        found.dedup();
        let mut claims = claims.to_vec();
        claims.sort_unstable();
        let as_expected = self.exit == Some(exit)
            && self.report["verdict"] == verdict
            && self.report["exit"] == exit
            && self.findings().iter().all(|f| f["class"] == class)
            && found == claims;
        if as_expected {
            Ok(())
        } else {
            Err(format!("expected {expected:?}, got {self}"))
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {:?}, {}", self.exit, self.report)?;
        let mut story = String::new();
        self.stderr
            .lines()
            .try_for_each(|line| write!(story, "\n    {line}"))?;
        f.write_str(&story)
    }
}
