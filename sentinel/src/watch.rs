//! Running a command: one pass, passes without end, or a file's check.

use std::future::Future;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use protocol::key::VerifierKey;
use reqwest::Url;

use crate::audit::{Class, Signed};
use crate::cli::{Cli, Command, Common};
use crate::evidence;
use crate::fetch::Client;
use crate::follow::Findings;
use crate::pass::{Session, SessionError, Settings, served_key, unix_time};
use crate::receipt::Unverified;
use crate::report::{Evidence, Report, Reported, Story, Verdict};
use crate::trust::{self, Store};

/// How long a receipt's entry may take to come under a checkpoint.
const PATIENCE: Duration = Duration::from_secs(15);

/// Wrong use: a sentence for the person.
#[derive(Debug, thiserror::Error)]
pub enum UseError {
    /// The session could not begin.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The receipt file.
    #[error(transparent)]
    File(#[from] crate::receipt::FileError),
    /// The evidence file.
    #[error(transparent)]
    Evidence(#[from] evidence::FileError),
    /// No state directory is given, and the user has none.
    #[error("there is no folder for the state: set HOME or XDG_STATE_HOME, or give --state")]
    NoHome,
    /// No address is given.
    #[error("expected the log's URL")]
    NoLog,
    /// Nothing says whose receipt it is.
    #[error("nothing says which log's receipt this is: give --vkey, --state or the log's URL")]
    NoKey,
    /// stdout is closed.
    #[error("the answer could not be printed: {0}")]
    Print(#[from] std::io::Error),
}

/// Runs a command until it is done or `stop` comes; gives the exit code.
///
/// # Errors
/// Wrong use (exit code 2).
pub async fn run(cli: Cli, stop: impl Future<Output = ()>) -> Result<u8, UseError> {
    let mut stop = pin!(stop);
    if let Some(command) = cli.command {
        let checked = async {
            match command {
                Command::Receipt { file, log } => receipt(&cli.common, &file, log.as_ref()).await,
                Command::Evidence { file } => evidence(&cli.common, &file),
            }
        };
        return tokio::select! {
            report = checked => {
                let report = report?;
                report.print(cli.common.json)?;
                Ok(report.verdict.exit())
            }
            () = stop => Ok(Verdict::NoVerdict.exit()),
        };
    }
    let log = cli.log.ok_or(UseError::NoLog)?;
    let mut session = open(&cli.common, &log)?;
    let (mut verified, mut misbehaved) = (false, false);
    loop {
        let report = tokio::select! {
            report = session.pass() => report,
            () = &mut stop => break,
        };
        report.print(cli.common.json)?;
        if !cli.watch {
            return Ok(report.verdict.exit());
        }
        verified |= report.verdict == Verdict::Verified;
        misbehaved |= report.verdict == Verdict::Misbehaviour;
        tokio::select! {
            () = tokio::time::sleep(cli.interval) => {}
            () = &mut stop => break,
        }
    }
    Ok(match (misbehaved, verified) {
        (true, _) => Verdict::Misbehaviour.exit(),
        (false, true) => Verdict::Verified.exit(),
        (false, false) => Verdict::NoVerdict.exit(),
    })
}

fn open(common: &Common, log: &Url) -> Result<Session, UseError> {
    let dir = state_dir(common, log)?;
    let store = Store::open(&dir).map_err(SessionError::from)?;
    let progress = !common.json && !common.quiet && std::io::stderr().is_terminal();
    let settings = Settings {
        vkey: common.vkey.clone(),
        patience: common.patience,
        progress,
        story: Story {
            quiet: common.quiet,
        },
    };
    Ok(Session::open(client(common, log)?, store, settings)?)
}

fn client(common: &Common, log: &Url) -> Result<Client, UseError> {
    let seed = getrandom::u64().unwrap_or_else(|_| unix_time());
    Ok(Client::new(log.clone(), common.timeout, seed).map_err(SessionError::from)?)
}

fn state_dir(common: &Common, log: &Url) -> Result<PathBuf, UseError> {
    common
        .state
        .clone()
        .or_else(|| trust::default_dir(log))
        .ok_or(UseError::NoHome)
}

async fn receipt(common: &Common, file: &Path, log: Option<&Url>) -> Result<Report, UseError> {
    let started = Instant::now();
    let unverified = Unverified::read(file)?;
    let client = log.map(|log| client(common, log)).transpose()?;
    let dir = match log {
        Some(log) => Some(state_dir(common, log)?),
        None => common.state.clone(),
    };
    let stored = match &dir {
        Some(dir) => trust::load(dir).map_err(SessionError::from)?,
        None => None,
    };
    let (pinned, remembered) =
        stored.map_or((None, None), |(key, trusted)| (Some(key), trusted.accepted));
    if let (Some(given), Some(pinned), Some(dir)) = (&common.vkey, &pinned, &dir)
        && given != pinned
    {
        let dir = dir.display().to_string();
        let (given, pinned) = (Box::new(given.clone()), Box::new(pinned.clone()));
        return Err(SessionError::Key { given, pinned, dir }.into());
    }
    let key = match (common.vkey.clone().or(pinned), &client) {
        (Some(key), _) => Ok(key),
        (None, Some(client)) => first_contact(common, client).await,
        (None, None) => return Err(UseError::NoKey),
    };
    let patience = common.patience.unwrap_or(PATIENCE);
    let mut index = None;
    let checked = match &key {
        Err(why) => Err(why.clone()),
        Ok(key) => match unverified.verify(key) {
            Err(wrong) => Err(format!(
                "the file is no genuine receipt of this log: {wrong}"
            )),
            Ok(genuine) => {
                index = Some(genuine.index());
                match &client {
                    Some(client) => genuine.ask(client, key, remembered, patience).await,
                    None => {
                        let mut findings = Findings::default();
                        findings.extend(genuine.foreign());
                        Ok((None, findings))
                    }
                }
            }
        },
    };
    let key = key.ok();
    let evidence = Evidence {
        dir: dir.unwrap_or_else(|| PathBuf::from(".")).join("evidence"),
        log: log.map_or_else(String::new, Url::to_string),
        vkey: key.as_ref().map(VerifierKey::to_string),
        time: unix_time(),
    };
    let (checkpoint, findings, reason) = match checked {
        Ok((checkpoint, findings)) => (checkpoint, findings, None),
        Err(why) => (None, Findings::default(), Some(why)),
    };
    let verdict = match (&reason, findings.is_empty()) {
        (_, false) => Verdict::Misbehaviour,
        (Some(_), true) => Verdict::NoVerdict,
        (None, true) => Verdict::Verified,
    };
    Ok(Report {
        verdict,
        log: evidence.log.clone(),
        origin: key.as_ref().map(|key| key.origin().to_string()),
        vkey: evidence.vkey.clone(),
        size: checkpoint.as_ref().map_or(0, Signed::size),
        root: checkpoint.as_ref().map(|signed| signed.root().to_string()),
        new_entries: 0,
        took: started.elapsed(),
        findings: evidence.keep(&findings),
        reason,
        receipt_index: index,
    })
}

fn evidence(common: &Common, path: &Path) -> Result<Report, UseError> {
    let started = Instant::now();
    let file = evidence::File::read(path)?;
    let (key, own) = match &common.vkey {
        Some(given) => (given.clone(), None),
        None => {
            let key = file.own_key(path)?;
            let own = format!(
                "the key is the one that the file names, {key}, and anybody can write such a file: \
                 compare it with the log's key, or give --vkey"
            );
            (key, Some(own))
        }
    };
    let judged = file.judge(&key);
    let (verdict, findings, reason) = match judged {
        Ok(finding) if finding.class == Class::Proven => {
            let shown = Reported {
                finding,
                more: 0,
                evidence: Some(path.to_owned()),
            };
            (Verdict::Misbehaviour, vec![shown], own)
        }
        Ok(finding) => {
            let reason = format!(
                "the file shows {}, but nothing proves that the log served it: who kept the file \
                 vouches for that ({})",
                finding.claim, finding.message
            );
            (Verdict::NoVerdict, vec![], Some(reason))
        }
        Err(why) => {
            let reason = format!("the file does not show {}: {why}", file.title());
            (Verdict::NoVerdict, vec![], Some(reason))
        }
    };
    Ok(Report {
        verdict,
        log: file.log().into(),
        origin: Some(key.origin().to_string()),
        vkey: Some(key.to_string()),
        size: 0,
        root: None,
        new_entries: 0,
        took: started.elapsed(),
        findings,
        reason,
        receipt_index: None,
    })
}

async fn first_contact(common: &Common, client: &Client) -> Result<VerifierKey, String> {
    let key = served_key(client).await?;
    Story {
        quiet: common.quiet,
    }
    .tell(&format!(
        "trusting the key that {} serves, this once:\n  {key}\n\
         Ask the operator for it by another way and compare, or give --vkey.",
        client.base()
    ));
    Ok(key)
}
