//! The command `sentinel witness`: keys, logs and folders put together.

use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::body::Bytes;
use protocol::cosignature::Cosigner;
use protocol::index::Time;
use protocol::key::VerifierKey;
use protocol::vkey::KeyName;
use reqwest::Url;
use serde_json::json;
use tokio::net::TcpListener;

use super::full::{self, Full};
use super::keep::Folder;
use super::serve::{Site, serve};
use super::{Answer, Refused, Witness, keys, place};
use crate::cli::{Common, WitnessArgs};
use crate::fetch;
use crate::follow::Findings;
use crate::pass::{Session, SessionError, Settings, unix_time};
use crate::report::{Evidence, Story};
use crate::trust::{self, Store};
use crate::watch::{UseError, chains, client};

/// A log to witness.
#[derive(Clone, Debug)]
pub struct Log {
    /// Its key.
    pub key: VerifierKey,
    /// Where it is, if it is to be followed.
    pub url: Option<Url>,
}

/// Wrong use of the command.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A key file.
    #[error(transparent)]
    Key(#[from] keys::KeyFileError),
    /// The list of logs.
    #[error("{}: {cause}", path.display())]
    Logs {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Nothing to witness.
    #[error("no log is named: give --log or --logs")]
    NoLogs,
    /// The same log twice.
    #[error("the log {0} is named twice")]
    Twice(Box<VerifierKey>),
    /// Two roles for one key or name.
    #[error("--key and --full-key must have different names and different keys")]
    OneKey,
    /// Nothing can be verified.
    #[error("--full-key needs the address of at least one log: --log '<vkey> <url>'")]
    NoUrl,
    /// The address cannot be listened on.
    #[error("{address}: {cause}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        cause: std::io::Error,
    },
    /// What was kept cannot be used.
    #[error("{}: {cause}", path.display())]
    Kept {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

/// Reads `<vkey> [<url>]`.
///
/// # Errors
/// It is something else.
pub fn log(text: &str) -> Result<Log, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (vkey, url) = match words[..] {
        [vkey] => (vkey, None),
        [vkey, url] => (vkey, Some(url)),
        _ => return Err(format!("{text:?} is not <vkey> [<url>]")),
    };
    let key = VerifierKey::parse(vkey).map_err(|error| error.to_string())?;
    let url = url.map(fetch::log_url).transpose();
    let url = url.map_err(|error| error.to_string())?;
    Ok(Log { key, url })
}

/// Reads a list of logs: `log <vkey> [<url>]` a line, `#` before comments, as
/// in a C2SP tlog-policy file, whose other lines are passed over.
fn logs(path: &Path) -> Result<Vec<Log>, WitnessError> {
    let wrong = |cause: String| WitnessError::Logs {
        path: path.into(),
        cause,
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let mut logs = vec![];
    for (number, line) in (1..).zip(text.lines()) {
        let (word, rest) = line.trim().split_once([' ', '\t']).unwrap_or((line, ""));
        match word.trim() {
            "log" => {
                let log = log(rest).map_err(|why| wrong(format!("line {number}: {why}")))?;
                logs.push(log);
            }
            "witness" | "group" | "quorum" | "" => {}
            word if word.starts_with('#') => {}
            word => {
                return Err(wrong(format!(
                    "line {number}: expected log, found {word:?}"
                )));
            }
        }
    }
    Ok(logs)
}

/// Serves until `stop` comes; gives the exit code.
///
/// # Errors
/// Wrong use.
pub async fn run(
    common: &Common,
    args: &WitnessArgs,
    stop: impl Future<Output = ()>,
) -> Result<u8, UseError> {
    let mut witnessed = args.log.clone();
    if let Some(path) = &args.logs {
        witnessed.extend(logs(path)?);
    }
    for (at, log) in witnessed.iter().enumerate() {
        if witnessed[..at].iter().any(|other| other.key == log.key) {
            return Err(WitnessError::Twice(Box::new(log.key.clone())).into());
        }
    }
    if witnessed.is_empty() {
        return Err(WitnessError::NoLogs.into());
    }
    let story = Story {
        quiet: common.quiet,
    };
    let plain = load(&args.key, args.name.as_deref(), story)?;
    let full_name = args.name.as_ref().map(|name| format!("{name}/full"));
    let full = args.full_key.as_ref();
    let full = full.map(|path| load(path, full_name.as_deref(), story));
    let full = full.transpose()?;
    if let Some(full) = &full {
        different(&plain, full)?;
        if witnessed.iter().all(|log| log.url.is_none()) {
            return Err(WitnessError::NoUrl.into());
        }
    }
    let dir = match &common.state {
        Some(dir) => dir.clone(),
        None => trust::home().ok_or(UseError::NoHome)?.join("witness"),
    };
    let folder = Folder::open(&dir).map_err(SessionError::from)?;
    let (vkey, full_vkey) = (
        plain.verifier().clone(),
        full.as_ref().map(|f| f.verifier().clone()),
    );
    let keys = witnessed.iter().map(|log| log.key.clone());
    let witness = Witness::open(plain, keys, folder).map_err(|cause| WitnessError::Kept {
        path: dir.clone(),
        cause,
    })?;
    let witness = Arc::new(witness);
    let listen = |cause| WitnessError::Listen {
        address: args.listen.clone(),
        cause,
    };
    let listener = TcpListener::bind(&args.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let full = match full {
        Some(cosigner) => {
            let followed = full::Common {
                cosigner: Arc::new(cosigner),
                witness: Arc::clone(&witness),
                json: common.json,
            };
            let sessions = sessions(common, &witnessed, &dir, story)?;
            Some(Full::start(&followed, sessions))
        }
        None => None,
    };
    let prefix = args.prefix.trim_end_matches('/').to_owned();
    let url = format!("http://{address}{prefix}");
    let full_vkey = full_vkey.map(|vkey| vkey.to_string());
    let mut out = std::io::stdout();
    if common.json {
        let started = json!({"url": url, "vkey": vkey.to_string(), "full_vkey": full_vkey});
        writeln!(out, "{started}")?;
    } else {
        writeln!(out, "witness {vkey}")?;
        if let Some(full) = full_vkey {
            writeln!(out, "full    {full}")?;
        }
        writeln!(out, "at {url} for {} logs", witnessed.len())?;
    }
    out.flush()?;
    let site = Desk {
        witness,
        full,
        evidence: dir.join("evidence"),
    };
    serve(listener, prefix, Arc::new(site), stop).await;
    Ok(0)
}

fn load(path: &Path, name: Option<&str>, story: Story) -> Result<Cosigner, WitnessError> {
    let name = name.and_then(KeyName::new);
    let (key, made) = keys::load(path, name.as_ref())?;
    if made {
        let path = path.display();
        story.tell(&format!(
            "made a key in {path}: keep it; who has it, cosigns"
        ));
    }
    Ok(key)
}

/// A key has one role (PROTOCOL.md section 3).
fn different(plain: &Cosigner, full: &Cosigner) -> Result<(), WitnessError> {
    let (plain, full) = (plain.verifier().vkey(), full.verifier().vkey());
    if plain.name() == full.name() || plain.key() == full.key() {
        return Err(WitnessError::OneKey);
    }
    Ok(())
}

/// The sessions of the logs that are followed, each with a state of its own.
fn sessions(
    common: &Common,
    logs: &[Log],
    dir: &Path,
    story: Story,
) -> Result<Vec<(String, Session)>, UseError> {
    let mut sessions = vec![];
    for log in logs {
        let Some(url) = &log.url else { continue };
        let place = place(log.key.origin().as_str());
        let store = Store::open(&dir.join(&place)).map_err(SessionError::from)?;
        let settings = Settings {
            vkey: Some(log.key.clone()),
            patience: common.patience,
            chains: chains(common)?,
            contract: None,
            anchor_interval: common.anchor_interval,
            progress: false,
            story,
            policy: None,
            peers: vec![],
        };
        let session = Session::open(client(common, url)?, store, settings)?;
        sessions.push((place, session));
    }
    Ok(sessions)
}

/// What the witness serves.
struct Desk {
    witness: Arc<Witness<Folder>>,
    full: Option<Full>,
    evidence: PathBuf,
}

impl Site for Desk {
    async fn add_checkpoint(&self, body: Bytes) -> Option<Answer> {
        let witness = Arc::clone(&self.witness);
        let now = Time::from_secs(unix_time());
        // It waits for the disk.
        let added = tokio::task::spawn_blocking(move || now.map(|now| witness.add(&body, now)));
        let broken = || Answer::text(500, "internal error\n");
        let added = match added.await {
            Ok(Some(added)) => added,
            Ok(None) => return Some(broken()),
            Err(error) => {
                tracing::error!(%error, "a request ended early");
                return Some(broken());
            }
        };
        let cosigned = match added {
            Ok(cosigned) => cosigned,
            Err(refused) => {
                self.note(&refused);
                return Some(Answer::from(&refused));
            }
        };
        tracing::info!(
            size = cosigned.signed.size(),
            log = cosigned.place,
            "cosigned"
        );
        let full = match &self.full {
            Some(full) => full.line(&cosigned).await.unwrap_or_default(),
            None => String::new(),
        };
        Some(Answer::text(200, format!("{}{full}", cosigned.line)))
    }

    fn checkpoint(&self, place: &str) -> Option<String> {
        self.witness.checkpoint(place)
    }
}

impl Desk {
    /// A second root for one size is kept: it proves a fork.
    fn note(&self, refused: &Refused) {
        tracing::info!(why = %refused, "refused");
        if let Refused::Fork { finding, key } = refused {
            let evidence = Evidence {
                dir: self.evidence.clone(),
                log: String::new(),
                vkey: Some(key.to_string()),
                time: unix_time(),
            };
            let mut findings = Findings::default();
            findings.push((**finding).clone());
            for kept in evidence.keep(&findings) {
                let path = kept.evidence.map(|path| path.display().to_string());
                tracing::error!(why = finding.message, evidence = path, "a log forked");
            }
        }
    }
}
