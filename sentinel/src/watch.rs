//! Running a command: one pass, passes without end, or a file's check.

use std::future::Future;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::key::VerifierKey;
use protocol::name::Address;
use protocol::policy::Policy;
use reqwest::Url;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::anchored::{Asker, Cover};
use crate::audit::{Class, Signed};
use crate::chain::Chains;
use crate::cli::{Cli, Command, Common};
use crate::fetch::Client;
use crate::follow::Findings;
use crate::pass::{Session, SessionError, Settings, agreed, served_key, unix_time};
use crate::peers::Board;
use crate::report::{Evidence, Report, Reported, Story, Verdict};
use crate::trust::{self, Store};
use crate::witness::run::WitnessError;
use crate::witness::serve::serve;
use crate::{evidence, quorum, receipt, witness};

/// How long a proof may take to come under the newest checkpoint.
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
    /// The policy file.
    #[error(transparent)]
    Policy(#[from] quorum::FileError),
    /// The witness.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The monitoring prefix cannot be served.
    #[error("{address}: {cause}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        cause: std::io::Error,
    },
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
    let stop = pin!(stop);
    let common = &cli.common;
    let policy = common.policy.as_deref().map(quorum::read).transpose()?;
    let report = match cli.command {
        None => return verify(cli, policy, stop).await,
        Some(Command::Witness(args)) => return witness::run::run(common, &args, stop).await,
        Some(Command::Evidence { file }) => evidence(common, &file)?,
        Some(Command::Wallet {
            address,
            newer,
            log,
        }) => tokio::select! {
            report = wallet(common, (address, newer), &log, policy.as_ref()) => report?,
            () = stop => return Ok(Verdict::NoVerdict.exit()),
        },
        Some(Command::Receipt {
            source,
            log,
            offline,
        }) => tokio::select! {
            report = receipt::run::run(common, source, log, offline, policy.as_ref()) => report?,
            () = stop => return Ok(Verdict::NoVerdict.exit()),
        },
    };
    report.print(common.json)?;
    Ok(report.verdict.exit())
}

/// Makes one pass, or passes until `stop` comes.
async fn verify(
    cli: Cli,
    policy: Option<Policy>,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<u8, UseError> {
    let log = cli.log.ok_or(UseError::NoLog)?;
    let peers = cli.peers.iter().map(|peer| client(&cli.common, peer));
    let peers = peers
        .map(|peer| peer.map(Arc::new))
        .collect::<Result<_, _>>()?;
    let mut session = open(&cli.common, &log, policy, peers)?;
    let board = Arc::new(Board::default());
    if let Some((key, accepted)) = session.accepted() {
        board.show(key, accepted);
    }
    // Ends with this function.
    let _server = match &cli.listen {
        Some(address) => Some(publish(address, Arc::clone(&board), cli.common.quiet).await?),
        None => None,
    };
    let (mut verified, mut misbehaved) = (false, false);
    loop {
        let report = tokio::select! {
            report = session.pass() => report,
            () = &mut stop => break,
        };
        report.print(cli.common.json)?;
        if let Some((key, accepted)) = session.accepted() {
            board.show(key, accepted);
        }
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

/// Serves the monitoring prefix until what is given back is dropped.
async fn publish(address: &str, board: Arc<Board>, quiet: bool) -> Result<JoinSet<()>, UseError> {
    let listen = |cause| UseError::Listen {
        address: address.into(),
        cause,
    };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Story { quiet }.tell(&format!(
        "peers find what is accepted here at http://{bound}"
    ));
    let mut server = JoinSet::new();
    server.spawn(serve(
        listener,
        String::new(),
        board,
        std::future::pending(),
    ));
    Ok(server)
}

fn open(
    common: &Common,
    log: &Url,
    policy: Option<Policy>,
    peers: Vec<Arc<Client>>,
) -> Result<Session, UseError> {
    let dir = state_dir(common, log)?;
    let store = Store::open(&dir).map_err(SessionError::from)?;
    let progress = !common.json && !common.quiet && std::io::stderr().is_terminal();
    let settings = Settings {
        vkey: common.vkey.clone(),
        patience: common.patience,
        chains: chains(common)?,
        contract: common.contract,
        anchor_interval: common.anchor_interval,
        progress,
        story: Story {
            quiet: common.quiet,
        },
        policy: policy.map(Arc::new),
        peers,
    };
    Ok(Session::open(client(common, log)?, store, settings)?)
}

pub(crate) fn chains(common: &Common) -> Result<Chains, UseError> {
    let chains = Chains::new(common.rpc_url.clone(), common.timeout);
    Ok(chains.map_err(|error| SessionError::Client(error.into()))?)
}

pub(crate) fn client(common: &Common, log: &Url) -> Result<Client, UseError> {
    let seed = getrandom::u64().unwrap_or_else(|_| unix_time());
    Ok(Client::new(log.clone(), common.timeout, seed).map_err(SessionError::from)?)
}

pub(crate) fn state_dir(common: &Common, log: &Url) -> Result<PathBuf, UseError> {
    common
        .state
        .clone()
        .or_else(|| trust::default_dir(log))
        .ok_or(UseError::NoHome)
}

async fn wallet(
    common: &Common,
    asked: (Address, bool),
    log: &Url,
    policy: Option<&Policy>,
) -> Result<Report, UseError> {
    let started = Instant::now();
    let client = client(common, log)?;
    let dir = state_dir(common, log)?;
    let pinned = trust::pinned(&dir).map_err(SessionError::from)?;
    let key = match agreed(common.vkey.clone(), pinned, &dir)? {
        Some(key) => Ok(key),
        None => first_contact(common, &client).await,
    };
    let patience = common.patience.unwrap_or(PATIENCE);
    let asked = match &key {
        Ok(key) => crate::wallet::ask(&client, key, asked, patience).await,
        Err(why) => Err(why.clone()),
    };
    let mut cosigned_by = None;
    let (verdict, found, mut findings, reason) = match asked {
        Ok(Ok(found)) if found.has_totals() => {
            let signed = found.signed();
            let met = match (policy, &key) {
                (Some(policy), Ok(key)) => quorum::cosigners(policy, key, signed.note()).map(Some),
                _ => Ok(None),
            };
            match met {
                Ok(by) => {
                    cosigned_by = by;
                    (Verdict::Committed, Some(found), Findings::default(), None)
                }
                Err(why) => (
                    Verdict::NoVerdict,
                    Some(found),
                    Findings::default(),
                    Some(why),
                ),
            }
        }
        Ok(Ok(found)) => {
            let why = crate::wallet::NO_TOTALS.to_owned();
            (
                Verdict::NoVerdict,
                Some(found),
                Findings::default(),
                Some(why),
            )
        }
        Ok(Err(findings)) => (Verdict::Misbehaviour, None, findings, None),
        Err(why) => (Verdict::NoVerdict, None, Findings::default(), Some(why)),
    };
    let log_verified = verdict == Verdict::Committed;
    let totals = found.as_ref().and_then(|found| {
        let index = found.totals_index().filter(|_| log_verified)?;
        Some((found.signed(), index))
    });
    let mut cover = Cover::default();
    if let (Some(covered), Ok(key)) = (totals, &key) {
        cover = cover_by_anchors(common, &client, key, covered, patience).await?;
    }
    let (verdict, reason) = cover.settle(verdict, reason);
    findings.append(cover.findings);
    let key = key.ok();
    let evidence = Evidence {
        dir: dir.join("evidence"),
        log: log.to_string(),
        vkey: key.as_ref().map(VerifierKey::to_string),
        time: unix_time(),
    };
    let signed = found.as_ref().map(crate::wallet::Found::signed);
    Ok(Report {
        verdict,
        log: evidence.log.clone(),
        origin: key.as_ref().map(|key| key.origin().to_string()),
        vkey: evidence.vkey.clone(),
        size: signed.map_or(0, Signed::size),
        root: signed.map(|signed| signed.root().to_string()),
        new_entries: 0,
        took: started.elapsed(),
        findings: evidence.keep(&findings),
        reason,
        receipt: None,
        cosigned_by,
        peers: None,
        wallet: found,
        contracts: 0,
        anchored: cover.anchored,
        unwatched: vec![],
        log_verified,
    })
}

/// By which anchors an entry is covered, of those chains that can be asked.
pub(crate) async fn cover_by_anchors(
    common: &Common,
    client: &Client,
    key: &VerifierKey,
    (signed, index): (&Signed, u64),
    patience: Duration,
) -> Result<Cover, UseError> {
    let chains = chains(common)?;
    if chains.is_empty() {
        return Ok(Cover::default());
    }
    let asker = Asker {
        chains: &chains,
        contract: common.contract,
        client,
        key,
        patience,
    };
    Ok(asker.cover(signed, index).await)
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
        receipt: None,
        cosigned_by: None,
        peers: None,
        wallet: None,
        contracts: 0,
        anchored: vec![],
        unwatched: vec![],
        log_verified: false,
    })
}

pub(crate) async fn first_contact(common: &Common, client: &Client) -> Result<VerifierKey, String> {
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
