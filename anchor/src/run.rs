//! The commands: deploy, once, run, status.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, hex};
use alloy_sol_types::SolCall as _;
use protocol::anchor::{CREATE2_SALT, ChainLog};
use protocol::hash::Hash;
use protocol::index::TreeSize;
use protocol::key::VerifierKey;
use protocol::policy::{Policy, PolicyError};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Chain, Cli, Command, Pace, Spending, Target};
use crate::contract::TallystickAnchor::postCall;
use crate::job::{Job, JobError, Manner, now, require_chain};
use crate::network::{Anchored, Contract, ContractError, Network, word};
use crate::outbox::{Mined, OutboxError, Post};
use crate::purse::{Purse, PurseError};
use crate::rpc::{Rpc, RpcError};
use crate::source::{Known, Offer, Source, SourceError};

/// What an explorer compiles to verify the contract.
const VERIFICATION_INPUT: &str = include_str!("../contract/standard-input.json");
/// As explorers list it.
const COMPILER: &str = "v0.8.37+commit.f401782d";

/// How long a log may take to publish an entry (publish_max), and some more.
const PUBLISHING: Duration = Duration::from_secs(15);

/// Why a command did not do what it is for.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The chain, or what is sent to it.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The gas key.
    #[error(transparent)]
    Purse(#[from] PurseError),
    /// TLS or proxy settings.
    #[error("no HTTP client could be made")]
    Http(#[from] reqwest::Error),
    /// A file.
    #[error("{} can't be read or written", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No verifier key.
    #[error("{} does not hold a verifier key", .0.display())]
    Pin(PathBuf),
    /// A policy file is none.
    #[error("{} is no policy", file.display())]
    Policy {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        #[source]
        source: PolicyError,
    },
    /// Signals can't be waited for.
    #[error("signals can't be waited for")]
    Signals(#[source] io::Error),
    /// No folder for the state.
    #[error("no place for the outbox: give one with --state")]
    NoState,
    /// The log shows one root and the chain another.
    #[error(
        "the log offers the root {offered} for size {size}, and the node at {host} says that {anchored} is anchored for it: two signed roots for one size prove a fork, unless the node lies; ask another"
    )]
    Fork {
        /// For which size.
        size: TreeSize,
        /// What the log offers.
        offered: Hash,
        /// What is anchored.
        anchored: Hash,
        /// Who says so.
        host: String,
    },
    /// The log does not go on from what is anchored.
    #[error(
        "the log does not continue the root {anchored} that, as the node at {host} says, is anchored for size {size}: the log was rewritten, unless the node lies; ask another"
    )]
    Rewritten {
        /// For which size.
        size: TreeSize,
        /// What is anchored.
        anchored: Hash,
        /// Who says so.
        host: String,
        /// What is wrong with the log's proof.
        #[source]
        source: Box<SourceError>,
    },
    /// The log is shorter than what is anchored.
    #[error(
        "the log offers {offered} entries, and {anchored} are anchored: it lags, or it was cut"
    )]
    Shorter {
        /// What the log offers.
        offered: TreeSize,
        /// What is anchored.
        anchored: TreeSize,
    },
    /// The transaction came to nothing.
    #[error(
        "size {size} is not anchored: its transaction was refused, or another took its place; try again"
    )]
    NotAnchored {
        /// Which size.
        size: TreeSize,
    },
    /// A transaction failed in its block.
    #[error(
        "{what} is in the chain as {hash}, and was refused there: somebody else was faster, or the log was marked as ended"
    )]
    Reverted {
        /// What it was to do.
        what: String,
        /// Which transaction.
        hash: B256,
    },
}

impl From<ContractError> for RunError {
    fn from(error: ContractError) -> Self {
        Self::Job(error.into())
    }
}

impl From<RpcError> for RunError {
    fn from(error: RpcError) -> Self {
        Self::Job(error.into())
    }
}

impl From<OutboxError> for RunError {
    fn from(error: OutboxError) -> Self {
        Self::Job(error.into())
    }
}

impl RunError {
    /// The process's exit code: 1 the log misbehaves, 2 wrong use, 3 not now.
    pub fn code(&self) -> u8 {
        match self {
            Self::Source(error) if error.is_misbehaviour() => 1,
            Self::Fork { .. } | Self::Rewritten { .. } => 1,
            Self::Source(SourceError::ForeignPolicy(_)) => 2,
            Self::Purse(_) | Self::Http(_) | Self::File { .. } | Self::Pin(_) | Self::NoState => 2,
            Self::Policy { .. } | Self::Signals(_) => 2,
            Self::Job(JobError::Outbox(_)) => 2,
            Self::Job(JobError::Contract(
                ContractError::Chain { .. } | ContractError::Missing(_) | ContractError::Foreign(_),
            )) => 2,
            _ => 3,
        }
    }
}

/// Does what the command line says; the answer is what is to be printed.
///
/// # Errors
/// [`RunError`].
pub async fn run(cli: Cli) -> Result<String, RunError> {
    match cli.command {
        Command::Deploy {
            target,
            spending,
            verification_input,
        } => {
            if let Some(file) = verification_input {
                fs::write(&file, VERIFICATION_INPUT)
                    .map_err(|source| RunError::File { file, source })?;
            }
            deploy(&mut Opened::new(&target, &spending).await?).await
        }
        Command::Once { target, spending } => {
            let mut opened = Opened::new(&target, &spending).await?;
            opened.job.follow().await?;
            once(&mut opened, 0).await
        }
        Command::Run {
            target,
            spending,
            pace,
        } => {
            let mut stop = pin!(stop().map_err(RunError::Signals)?);
            let mut opened = tokio::select! {
                opened = Opened::new(&target, &spending) => opened?,
                () = &mut stop => return Ok("stopped\n".into()),
            };
            tokio::select! {
                ended = go_on(&mut opened, &pace) => return Err(ended),
                () = stop => (),
            }
            Ok(match opened.job.posts().len() {
                0 => "stopped; nothing is in flight\n".into(),
                n => format!("stopped; the next run follows what is not final yet: {n}\n"),
            })
        }
        Command::Status { target } => status(&target).await,
    }
}

/// A log, and a way to its contract.
#[derive(Debug)]
struct Opened {
    source: Source,
    job: Job,
    pin: Pin,
    /// What the log's entry 0 says, once it was asked.
    log: Option<ChainLog>,
}

fn source(target: &Target) -> Result<Source, RunError> {
    let policy = target.policy.as_deref().map(|file| {
        let file = file.to_owned();
        match fs::read(&file) {
            Ok(text) => Policy::parse(&text).map_err(|source| RunError::Policy { file, source }),
            Err(source) => Err(RunError::File { file, source }),
        }
    });
    Ok(Source::new(target.log.clone(), policy.transpose()?)?)
}

impl Opened {
    async fn new(target: &Target, spending: &Spending) -> Result<Self, RunError> {
        let keystore = spending.keystore.as_deref();
        let purse = Purse::open(keystore, spending.password_file.as_deref())?;
        let folder = target.state_folder().ok_or(RunError::NoState)?;
        let manner = Manner {
            fee_cap: spending.max_fee,
            stuck_after: spending.stuck_after,
            patience: spending.patience,
            pace: spending.poll,
        };
        let Chain { rpc_url, chain } = &target.chain;
        let rpc = Rpc::new(rpc_url.clone())?;
        Ok(Self {
            source: source(target)?,
            pin: Pin::open(target, &folder)?,
            job: Job::open(rpc, *chain, purse, &folder, manner).await?,
            log: None,
        })
    }

    async fn offer(&mut self) -> Result<(Known, Offer), RunError> {
        let (known, offer) = self.source.offer(self.pin.key.as_ref()).await?;
        self.pin.keep(&known.key)?;
        self.log = Some(known.log.clone());
        Ok((known, offer))
    }

    /// What is offered once it holds all wallets' totals; what it was, if the
    /// log does not get that far in time.
    async fn summed_up(&mut self, mut offer: Offer) -> Result<Offer, RunError> {
        let index = match self.source.sum_up().await {
            Ok(Some(index)) => index,
            Ok(None) => return Ok(offer),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "anchoring without a totals entry of now");
                return Ok(offer);
            }
        };
        let begun = tokio::time::Instant::now();
        while offer.size.get() <= index {
            if begun.elapsed() >= PUBLISHING {
                tracing::warn!(
                    index,
                    "the totals entry is not published; anchoring without"
                );
                break;
            }
            tokio::time::sleep(self.job.pace()).await;
            let newer = self.offer().await?.1;
            // Of several gateways of one log some may be behind.
            if newer.size > offer.size {
                offer = newer;
            }
        }
        Ok(offer)
    }

    /// The contract as it is now, and what is anchored there.
    async fn anchored(&mut self, log: &ChainLog) -> Result<Option<Anchored>, RunError> {
        let height = self.job.height().await?;
        let contract = Contract::of(log, self.job.rpc()).at(height);
        contract.require().await?;
        let (address, latest) = (contract.address(), contract.latest().await?);
        let count = latest.map_or(0, |anchored| anchored.index.saturating_add(1));
        self.job.count(address, count).await?;
        Ok(latest)
    }
}

/// The log's key: given, or as it was at first contact.
#[derive(Debug)]
struct Pin {
    key: Option<VerifierKey>,
    file: PathBuf,
}

impl Pin {
    fn open(target: &Target, folder: &Path) -> Result<Self, RunError> {
        let name = Hash::of(target.log.as_str().as_bytes()).to_string();
        let file = folder.join(format!("{}.vkey", &name[..16]));
        if let Some(key) = &target.vkey {
            let key = Some(key.clone());
            return Ok(Self { key, file });
        }
        let key = match fs::read_to_string(&file) {
            Ok(text) => {
                let key = VerifierKey::parse(text.trim_end());
                Some(key.map_err(|_| RunError::Pin(file.clone()))?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(RunError::File { file, source }),
        };
        Ok(Self { key, file })
    }

    fn keep(&mut self, key: &VerifierKey) -> Result<(), RunError> {
        if self.key.is_some() {
            return Ok(());
        }
        tracing::warn!(%key, "trusted on first use; ask the operator for the key and give it with --vkey");
        fs::write(&self.file, format!("{key}\n")).map_err(|source| RunError::File {
            file: self.file.clone(),
            source,
        })?;
        self.key = Some(key.clone());
        Ok(())
    }
}

async fn deploy(opened: &mut Opened) -> Result<String, RunError> {
    opened.job.follow().await?;
    let (known, _) = opened.offer().await?;
    let contract = Contract::of(&known.log, opened.job.rpc());
    let (address, init_code) = (contract.address(), contract.init_code().clone());
    let mut told = format!("contract {address}\n");
    if contract.is_there().await? {
        told += "deployed already\n";
    } else {
        let deployer = contract.deployer().await?;
        let data: Bytes = [&CREATE2_SALT[..], &init_code].concat().into();
        let what = format!("the deployment of {address}");
        opened.job.send(what, deployer, data).await?;
        let done = opened.job.follow().await?;
        told += &sent(opened.job.network(), &done)?;
        let contract = Contract::of(&known.log, opened.job.rpc());
        if !contract.is_there().await? {
            return Err(ContractError::Missing(address).into());
        }
    }
    if let Some(link) = opened.job.network().explorer(&format!("address/{address}")) {
        told += &format!("explorer {link}\n");
    }
    let arguments = &init_code[protocol::anchor::CREATION_CODE.len()..];
    told += &format!(
        "compiler {COMPILER}\nsource   TallystickAnchor.sol:TallystickAnchor, standard JSON input (--verification-input FILE writes it)\narguments {}\n",
        hex::encode(arguments)
    );
    Ok(told)
}

/// Anchors what the log offers, unless it is anchored already or grew by less
/// than `least` entries of kind usage and binding.
async fn once(opened: &mut Opened, least: u64) -> Result<String, RunError> {
    let (known, offer) = opened.offer().await?;
    let address = Contract::of(&known.log, opened.job.rpc()).address();
    let latest = opened.anchored(&known.log).await?;
    let (from, root) = latest.map_or((TreeSize::ZERO, Hash::EMPTY_ROOT), |a| (a.size, a.root));
    if let Some(anchored) = latest.filter(|anchored| anchored.size >= offer.size) {
        return already(&anchored, &offer, opened.job.rpc().host());
    }
    if !opened.source.grew(from.get(), offer.size, least).await? {
        return Ok(format!(
            "not grown by {least} since size {from}; nothing was sent\n"
        ));
    }
    let offer = opened.summed_up(offer).await?;
    let proof = opened.source.consistency((from, root), &offer).await;
    let proof = proof.map_err(|source| rewritten(source, (from, root), opened.job.rpc()))?;
    let call = postCall {
        size: offer.size.get(),
        root: word(offer.root),
        time: offer.time.secs(),
        proof: proof.into_iter().map(word).collect(),
        signature: offer.signature.clone(),
    };
    let data: Bytes = call.abi_encode().into();
    opened.job.preflight(address, &data).await?;
    let what = format!("the anchor of size {}", offer.size);
    opened.job.send(what, address, data).await?;
    let done = opened.job.follow().await?;
    let told = sent(opened.job.network(), &done)?;
    // A post that was refused, or displaced, and final when it was first seen is gone.
    let latest = opened.anchored(&known.log).await?;
    if latest.is_none_or(|anchored| anchored.size < offer.size) {
        return Err(RunError::NotAnchored { size: offer.size });
    }
    Ok(format!(
        "anchored size {} root 0x{}\n{told}",
        offer.size, offer.root
    ))
}

/// What is to be said where the contract is as far as the log.
fn already(anchored: &Anchored, offer: &Offer, host: String) -> Result<String, RunError> {
    if anchored.size > offer.size {
        return Err(RunError::Shorter {
            offered: offer.size,
            anchored: anchored.size,
        });
    }
    if anchored.root != offer.root {
        return Err(RunError::Fork {
            size: offer.size,
            offered: offer.root,
            anchored: anchored.root,
            host,
        });
    }
    Ok(format!(
        "size {} root 0x{} is anchored already; nothing was sent\n",
        anchored.size, anchored.root
    ))
}

/// A proof that fails may be the log's doing or the node's: both are named.
fn rewritten(source: SourceError, (size, anchored): (TreeSize, Hash), node: &Rpc) -> RunError {
    let host = node.host();
    match source {
        SourceError::Proof { .. } => RunError::Rewritten {
            size,
            anchored,
            host,
            source: Box::new(source),
        },
        source => source.into(),
    }
}

/// What became of the newest transaction.
fn sent(network: Network, done: &[(Post, Mined)]) -> Result<String, RunError> {
    // Final already, if there is none.
    let Some((post, mined)) = done.last() else {
        return Ok(String::new());
    };
    if !mined.receipt.succeeded {
        return Err(RunError::Reverted {
            what: post.what.clone(),
            hash: mined.hash,
        });
    }
    let mut told = format!("transaction {} block {}\n", mined.hash, mined.receipt.block);
    if let Some(link) = network.explorer(&format!("tx/{}", mined.hash)) {
        told += &format!("explorer {link}\n");
    }
    Ok(told)
}

/// Anchors again and again; ends only with an error that time does not mend.
async fn go_on(opened: &mut Opened, pace: &Pace) -> RunError {
    let mut next = tokio::time::Instant::now();
    let mut first = true;
    loop {
        if tokio::time::Instant::now() >= next {
            next = tokio::time::Instant::now() + pace.every;
            match round(opened, pace).await {
                Ok(told) => tell(&told),
                // Wrong use shows at once; later it is a node that fails to see what was there.
                Err(error) if error.code() == 1 || (first && error.code() == 2) => return error,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "not anchored; trying again");
                    // Sooner than in an interval: what is away often comes back soon.
                    next = tokio::time::Instant::now() + pace.every.min(Duration::from_secs(60));
                }
            }
            first = false;
        }
        tokio::time::sleep(opened.job.pace().min(pace.every)).await;
        if let Err(error) = opened.job.look().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the outbox waits");
        }
    }
}

/// Says what was done. A reader that has left is no reason to stop.
fn tell(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Resolves at SIGTERM or SIGINT.
fn stop() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    })
}

async fn round(opened: &mut Opened, pace: &Pace) -> Result<String, RunError> {
    opened.job.follow().await?;
    let done = once(opened, pace.min_growth).await;
    if done.is_err() {
        alarm_if_old(opened, pace).await;
    }
    done
}

/// Says so where the newest anchor is older than two intervals.
async fn alarm_if_old(opened: &mut Opened, pace: &Pace) {
    // Known since the first round in which the log answered: now it may not.
    let Some(log) = &opened.log else { return };
    let latest = Contract::of(log, opened.job.rpc()).latest().await;
    if let Ok(Some(anchored)) = latest {
        let age = now().saturating_sub(anchored.block_time);
        if age > 2 * pace.every.as_secs() {
            tracing::error!(age_s = age, size = %anchored.size, "the newest anchor is overdue");
        }
    }
}

async fn status(target: &Target) -> Result<String, RunError> {
    let Chain { rpc_url, chain } = &target.chain;
    let rpc = Rpc::new(rpc_url.clone())?;
    require_chain(&rpc, *chain).await?;
    let folder = target.state_folder().ok_or(RunError::NoState)?;
    let pin = Pin::open(target, &folder)?;
    let source = source(target)?;
    let (known, offer) = source.offer(pin.key.as_ref()).await?;
    let contract = Contract::of(&known.log, &rpc);
    let mut told = format!(
        "log      {} ({})\nevm key  {}\noffered  size {} root 0x{}\ncontract {} on chain {}\n",
        known.key,
        source.base(),
        Address::from(*known.log.evm_key().as_bytes()),
        offer.size,
        offer.root,
        contract.address(),
        chain.id()
    );
    if let Some(link) = chain.explorer(&format!("address/{}", contract.address())) {
        told += &format!("explorer {link}\n");
    }
    if !offer.cosigned.is_empty() {
        told += &format!("cosigned {}\n", offer.cosigned.join(", "));
    }
    contract.require().await?;
    let Some(anchored) = contract.latest().await? else {
        return Ok(told + "anchored nothing yet\n");
    };
    let behind = offer.size.get().saturating_sub(anchored.size.get());
    told += &format!(
        "anchored number {} size {} root 0x{}, {} s ago; {behind} entries behind\n",
        anchored.index,
        anchored.size,
        anchored.root,
        now().saturating_sub(anchored.block_time)
    );
    if anchored.size <= offer.size {
        let from = (anchored.size, anchored.root);
        let proof = source.consistency(from, &offer).await;
        proof.map_err(|source| rewritten(source, from, &rpc))?;
        told += "the anchored root is the beginning of what the log offers\n";
    }
    Ok(told)
}
