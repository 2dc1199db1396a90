//! The server: puts the rooms together, listens, and shuts down in order.

use std::convert::Infallible;
use std::io::{self, IsTerminal as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use protocol::anchor::ChainLog;
use protocol::entry::{self, Body, Entry, RULES};
use protocol::hash::{Hash, receipt_commitment};
use protocol::index::{Index, TreeSize};
use protocol::key::{Origin, Signer, VerifierKey};
use protocol::name::Address;
use protocol::record::{Counts, Link, Outcome, Usage};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use tower::ServiceExt as _;
use tracing_subscriber::EnvFilter;

use crate::api::{self, Api, Caller, Holds, Listeners, Notary, Paces, Shown, Stopping, TileCache};
use crate::chain::{self, Asking, ChainsError};
use crate::config::{Config, LogFormat};
use crate::keys::{DataDir, DataDirError, default_origin, evm_address};
use crate::log::calls::Calls;
use crate::log::head::{HeadError, HeadFile};
use crate::log::pool::{Pool, Submission};
use crate::log::publish::Published;
use crate::log::replica::{Committed, Health};
use crate::log::sequencer::{Clock, system_clock};
use crate::log::sign::ReceiptSigner;
use crate::log::turns::{Joined, Log};
use crate::log::{JournalError, Unfinished, publish, unfinished};
use crate::proxy::{Held, Possession, Proxy};
use crate::reply::Reply;
use crate::store::{AppendError, Database, Record, Store, StoreError};
use crate::web;
use crate::witness::enlisted::Witnesses;
use crate::witness::roster::Roster;
use crate::witness::{WitnessError, Witnessing};

/// How long what is in flight may take to finish once shutdown begins.
const GRACE: Duration = Duration::from_secs(15);

/// How long an entry may take to be under a published checkpoint.
const PUBLISH_MAX: u64 = 10;

/// Why a gateway can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The data directory or a key in it.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database.
    #[error("the database {database} can't be used")]
    Store {
        /// Which.
        database: Database,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The head file, or what it says of the database.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Another writer.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The address.
    #[error("can't listen on {address}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate authorities.
    #[error("the system's certificate authorities can't be read")]
    Authorities(#[source] io::Error),
    /// The sequencer ended before its time.
    #[error("the sequencer ended early; calls in flight will be recorded as unknown")]
    Sequencer(#[source] JoinError),
    /// What was recorded could not be stored before the end.
    #[error("records can't be stored; their calls will be recorded as unknown at the next start")]
    Unstored,
    /// The demo was pointed at a real log.
    #[error(
        "{0} is a real log; the demo's made-up records must not go into it: choose another folder with --data-dir"
    )]
    RealLog(Origin),
    /// Signals can't be waited for.
    #[error("signals can't be waited for")]
    Signals(#[source] io::Error),
    /// The stored log has another name.
    #[error(
        "this log is called {kept} and keeps its name for ever; start without --origin, or begin a new log in another --data-dir to call it {asked}"
    )]
    Origin {
        /// What the log is called.
        kept: Origin,
        /// What was asked for.
        asked: Origin,
    },
    /// The stored log has another key.
    #[error("the key files in {} are not those of the log in its database; restore them from a backup, or copy them from another gateway of this log", .0.display())]
    ForeignKey(PathBuf),
    /// The witness policy is for other logs.
    #[error(
        "the witness policy lists logs, but not this one; add the line `log {0}`, or remove the others"
    )]
    ForeignPolicy(Box<VerifierKey>),
    /// The writer publishes by another policy.
    #[error(
        "the gateway that writes this log was started with another --policy file, or only one of \
         the two with any; give all gateways on a database the same (to change it, stop all of \
         them first)"
    )]
    OtherPolicy,
    /// Entry 0 can't be read.
    #[error("the database does not hold a log: entry 0 is not what it should be")]
    NoLog,
}

/// A running gateway.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    verifier: VerifierKey,
    listener: TcpListener,
    front: Arc<Front>,
    calls: Calls,
    pool: Arc<Pool>,
    store: Store,
    committed: watch::Receiver<Committed>,
    log: JoinHandle<Result<(), AppendError>>,
    // Held until the end: a second gateway must not take the folder before.
    _data: DataDir,
}

/// What every request goes through.
#[derive(Debug)]
struct Front {
    proxy: Proxy,
    router: Router,
}

impl Server {
    /// Opens the log and the listening socket. Connections wait until [`Server::run`].
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind(config: &Config) -> Result<Self, ServerError> {
        Self::bind_with_clock(config, system_clock).await
    }

    /// [`Server::bind`] with another clock.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind_with_clock(config: &Config, clock: Clock) -> Result<Self, ServerError> {
        let data = DataDir::take(&config.data_dir)?;
        let database = config.database();
        let failed = |source| ServerError::Store {
            database: database.clone(),
            source,
        };
        let store = Store::open(&database).await.map_err(failed)?;
        let stored = first_entry(&store).await.map_err(failed)?;
        let in_use = stored.as_ref().map(|_| &database);
        let seed = data.log_seed(in_use)?;
        let evm_secret = data.evm_key(in_use)?;
        let evm_key = evm_address(&evm_secret);
        let origin = settle_origin(stored, config, &seed, evm_key)?;
        // The address before the first entry: a port in use begins no log.
        let listener =
            TcpListener::bind(config.listen)
                .await
                .map_err(|source| ServerError::Listen {
                    address: config.listen,
                    source,
                })?;
        let address = listener
            .local_addr()
            .map_err(|source| ServerError::Listen {
                address: config.listen,
                source,
            })?;

        // Before another writer's turn is ended: one that must not write must
        // not do that either.
        let head_file = HeadFile::at(data.head());
        let key = Signer::new(origin, &seed).verifier().clone();
        head_file.require(&key, &store, &database).await?;
        let joined = Joined::wait(&store).await.map_err(failed)?;
        let policy = config.witnesses.as_ref();
        let policy = policy.map_or(Hash::EMPTY_ROOT, Witnesses::hash);
        let shares = joined.shares_policy(&store, &policy).await;
        if !shares.map_err(failed)? {
            return Err(ServerError::OtherPolicy);
        }
        // Asked again: another gateway may have begun the log by now.
        let stored = first_entry(&store).await.map_err(failed)?;
        let origin = settle_origin(stored, config, &seed, evm_key)?;
        let signer = Arc::new(Signer::new(origin.clone(), &seed));
        let verifier = signer.verifier().clone();
        let receipts = ReceiptSigner::new(verifier.clone(), &seed);
        let opened = joined.open(store.clone(), signer, receipts, head_file.clone(), clock);
        let opened = opened.await;
        let mut log = opened.map_err(failed)?;
        if log.replica().size() == TreeSize::ZERO {
            let first = genesis(&verifier, evm_key, config.totals_interval);
            log.begin(first).await?;
        }
        // Before anything that was signed leaves the process.
        head_file.sync(&log.replica().committed().borrow().note)?;
        settle_unfinished(&data, &store, &mut log)
            .await
            .map_err(|error| match error {
                Unsettled::Store(source) => failed(source),
                Unsettled::Other(error) => error,
            })?;
        log.settle_totals().await?;
        let calls = Calls::open(&data.journal(), config.max_in_flight)?;
        let pool = Arc::new(Pool::default());
        let replica = log.replica();
        let committed = replica.committed();
        let (health, sums) = (replica.health(), replica.sums());
        let publication =
            publication(config, &verifier, &store, &committed, &health, head_file).await;
        let (published, witnesses) = publication.map_err(|error| match error {
            Unsettled::Store(source) => failed(source),
            Unsettled::Other(error) => error,
        })?;
        tokio::spawn(store.clone().maintain());
        let log = tokio::task::spawn_blocking(writer(log, Arc::clone(&pool)));

        let chains = chain::begin(
            &config.chains,
            Asking {
                log: ChainLog::new(&verifier, evm_key),
                store: store.clone(),
                sums: sums.clone(),
                pool: Arc::clone(&pool),
                committed: committed.clone(),
                clock,
            },
        );
        let (anchors, wallets) = chains.await.map_err(|error| match error {
            ChainsError::Store(source) => failed(source),
            ChainsError::Authorities(source) => ServerError::Authorities(source),
        })?;
        let possession = Possession::new(origin.clone(), config.upstreams.clone());
        let proxy = Proxy::new(origin, config, calls.clone(), Arc::clone(&pool), clock)
            .map_err(ServerError::Authorities)?;
        let api = Api {
            verifier: verifier.clone(),
            store: store.clone(),
            sums,
            tiles: TileCache::default(),
            calls: calls.clone(),
            pool: Arc::clone(&pool),
            holds: Holds::new(move |headers, key| {
                possession.shown(headers, key).map(|held| match held {
                    Held::Token => Shown::Token,
                    Held::Credential => Shown::Credential,
                })
            }),
            paces: Arc::new(Paces::new(config.entries_per_address)),
            providers: config.upstreams.keys().cloned().collect(),
            committed: committed.clone(),
            published,
            notary: Notary::new(ChainLog::new(&verifier, evm_key), evm_secret),
            witnesses,
            anchors,
            wallets,
            listeners: Listeners::default(),
            health,
            metrics: recorder(),
            clock,
        };
        let router = web::router(api.clone()).merge(api::router(api));
        let front = Arc::new(Front { proxy, router });
        Ok(Self {
            address,
            verifier,
            listener,
            front,
            calls,
            pool,
            store,
            committed,
            log,
            _data: data,
        })
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The log's verifier key.
    pub fn vkey(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The log's newest durable state.
    pub fn committed(&self) -> watch::Receiver<Committed> {
        self.committed.clone()
    }

    /// Serves until `stop` resolves, then finishes what is in flight (15 s at
    /// the most) and commits it.
    ///
    /// # Errors
    /// Another writer moved the log.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self {
            listener,
            front,
            calls,
            pool,
            store,
            mut log,
            _data,
            ..
        } = self;
        let (stop_connections, stopping) = watch::channel(false);
        let mut stop = std::pin::pin!(stop);
        let ended = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        let connection = Connection {
                            from: from.ip(),
                            front: Arc::clone(&front),
                            stopping: stopping.clone(),
                        };
                        tokio::spawn(serve(stream, connection));
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: others must close first.
                        tracing::warn!(error = &error as &dyn std::error::Error, "accept");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                ended = &mut log => break Some(ended),
                () = &mut stop => break None,
            }
        };
        drop(listener);
        if let Some(ended) = ended {
            calls.close();
            return finished(ended);
        }
        tracing::info!("shutting down: finishing what is in flight");
        // Connections and sessions hold a receiver each, as long as they last.
        drop(stopping);
        stop_connections.send_replace(true);
        if tokio::time::timeout(GRACE, stop_connections.closed())
            .await
            .is_err()
        {
            tracing::warn!(
                calls = calls.pending(),
                "cut off; they will be recorded as unknown"
            );
        }
        // What is cut off from here on is left to the next process.
        calls.close();
        pool.close();
        let committed = tokio::time::timeout(GRACE, log).await;
        store.close().await;
        match committed {
            Ok(ended) => finished(ended),
            Err(_) => Err(ServerError::Unstored),
        }
    }
}

/// Begins publishing: with the witnesses of the policy, if there is one.
async fn publication(
    config: &Config,
    verifier: &VerifierKey,
    store: &Store,
    committed: &watch::Receiver<Committed>,
    health: &Health,
    head: HeadFile,
) -> Result<(watch::Receiver<Published>, Option<Roster>), Unsettled> {
    let Some(witnesses) = config.witnesses.clone() else {
        // What was published with witnesses is older than what is served now.
        store.unpublish().await.map_err(Unsettled::Store)?;
        let (publisher, published) = watch::channel(Published::from(&*committed.borrow()));
        tokio::spawn(publish::run(
            committed.clone(),
            publisher,
            head,
            health.clone(),
        ));
        return Ok((published, None));
    };
    if !witnesses.accept(verifier) {
        let foreign = ServerError::ForeignPolicy(Box::new(verifier.clone()));
        return Err(Unsettled::Other(foreign));
    }
    let (key, store) = (verifier.clone(), store.clone());
    let log = (committed.clone(), health.clone(), head);
    let opened = Witnessing::open(witnesses, key, store, log);
    let witnessing = opened.await.map_err(|error| match error {
        WitnessError::Store(source) => Unsettled::Store(source),
        WitnessError::Authorities(source) => Unsettled::Other(ServerError::Authorities(source)),
    })?;
    let (published, roster) = (witnessing.published(), witnessing.roster());
    witnessing.spawn();
    Ok((published, Some(roster)))
}

/// Runs the sequencer on a thread of its own: it talks to the database in
/// small steps, which would wake the threads that forward calls.
fn writer(log: Log, pool: Arc<Pool>) -> impl FnOnce() -> Result<(), AppendError> + Send + 'static {
    || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| AppendError::Store(sqlx::Error::Io(error).into()))?;
        runtime.block_on(log.run(pool))
    }
}

/// How the log's task ended.
fn finished(ended: Result<Result<(), AppendError>, JoinError>) -> Result<(), ServerError> {
    Ok(ended.map_err(ServerError::Sequencer)??)
}

/// Runs a gateway until SIGTERM or SIGINT; a second one ends it at once.
///
/// # Errors
/// [`ServerError`].
pub async fn run(config: Config) -> Result<(), ServerError> {
    let mut stop = Stop::new().map_err(ServerError::Signals)?;
    let Some(server) = stop.or(Server::bind(&config)).await else {
        return Ok(());
    };
    let server = server?;
    for warning in config.upstreams.values().filter_map(|u| u.warning()) {
        tracing::warn!("{warning}");
    }
    println!(
        "{}",
        web::greeting(&config, server.address(), server.vkey())
    );
    serve_until(server, stop).await
}

/// Serves until the first signal, and gives up waiting at the second.
pub(crate) async fn serve_until(server: Server, mut stop: Stop) -> Result<(), ServerError> {
    let calls = server.calls.clone();
    let (stopped, stopping) = oneshot::channel();
    let mut serving = std::pin::pin!(server.run(async {
        let _ = stopping.await;
    }));
    if let Some(ended) = stop.or(&mut serving).await {
        return ended;
    }
    let _ = stopped.send(());
    match stop.or(serving).await {
        Some(ended) => ended,
        None => {
            calls.close();
            Ok(())
        }
    }
}

/// SIGTERM and SIGINT.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(crate) fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            terminate,
            interrupt,
        })
    }

    /// What `work` gives, unless a signal comes first.
    pub(crate) async fn or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            _ = self.terminate.recv() => None,
            _ = self.interrupt.recv() => None,
            done = work => Some(done),
        }
    }
}

/// No core dumps: memory holds credentials and answers.
pub fn harden() {
    let none = rustix::process::Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Core, none) {
        eprintln!("gateway: core dumps can't be switched off: {error}");
    }
}

/// Log lines to stderr; RUST_LOG filters them.
pub fn init_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A log that can't be written must not stop the gateway.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => lines
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// One recorder a process, however many servers tests start.
fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new().install_recorder();
            recorder.expect("no other recorder is installed in this process")
        })
        .clone()
}

/// A client's connection.
#[derive(Debug)]
struct Connection {
    from: IpAddr,
    front: Arc<Front>,
    stopping: watch::Receiver<bool>,
}

async fn serve(stream: TcpStream, connection: Connection) {
    // Chunks of a stream are small and must not wait for one another.
    let _ = stream.set_nodelay(true);
    let mut stopping = connection.stopping.clone();
    let connection = Arc::new(connection);
    let service = service_fn(move |request| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        _ = stopping.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    // Errors here are clients that left or spoke no HTTP.
    if let Err(error) = served {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection");
    }
}

impl Connection {
    async fn answer(&self, request: Request<Incoming>) -> Response<Reply> {
        let Self {
            from,
            front,
            stopping,
        } = self;
        let forwarded = *request.method() != Method::CONNECT;
        if forwarded && front.proxy.serves(request.uri().path()) {
            return front.proxy.forward(request, *from, stopping).await;
        }
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Stopping(stopping.clone()));
        request.extensions_mut().insert(Caller(*from));
        let answer = front.router.clone().oneshot(request).await;
        match answer {
            Ok(response) => response.map(Reply::Own),
            Err(never) => match never {},
        }
    }
}

async fn first_entry(store: &Store) -> Result<Option<Record>, StoreError> {
    let first = Index::new(0).expect("zero is an index");
    store.record(first).await
}

/// The log's name: the stored one, else the chosen one, else one after its key.
fn settle_origin(
    stored: Option<Record>,
    config: &Config,
    seed: &[u8; 32],
    evm_key: Address,
) -> Result<Origin, ServerError> {
    let asked = config.origin.clone();
    let Some(stored) = stored else {
        return Ok(asked.unwrap_or_else(|| default_origin(seed)));
    };
    let Ok(Entry::Known {
        body: Body::Log(log),
        ..
    }) = Entry::parse(&stored.entry)
    else {
        return Err(ServerError::NoLog);
    };
    let kept = log.key.origin().clone();
    if *Signer::new(kept.clone(), seed).verifier() != log.key || evm_key != log.evm_key {
        return Err(ServerError::ForeignKey(config.data_dir.clone()));
    }
    match asked {
        Some(asked) if asked != kept => Err(ServerError::Origin { kept, asked }),
        _ => Ok(kept),
    }
}

/// Entry 0.
fn genesis(verifier: &VerifierKey, evm_key: Address, totals_interval: u64) -> Submission {
    let body = Body::Log(entry::Log {
        key: verifier.clone(),
        rules: RULES,
        totals_interval,
        publish_max: PUBLISH_MAX,
        evm_key,
    });
    Submission {
        body,
        receipt_id: None,
        retrieval: None,
        released: None,
        call: None,
    }
}

enum Unsettled {
    Store(StoreError),
    Other(ServerError),
}

/// Records the calls that a former process left in flight as `unknown`.
async fn settle_unfinished(data: &DataDir, store: &Store, log: &mut Log) -> Result<(), Unsettled> {
    let found = unfinished(&data.journal()).map_err(|e| Unsettled::Other(e.into()))?;
    let (calls, files) = found;
    let mut batch = Vec::new();
    for call in calls {
        if store
            .receipt(&call.id)
            .await
            .map_err(Unsettled::Store)?
            .is_none()
        {
            batch.push(unknown(call));
        }
    }
    if !batch.is_empty() {
        tracing::warn!(
            calls = batch.len(),
            "a former process was killed with calls in flight; recording them as unknown"
        );
        log.settle(batch)
            .await
            .map_err(|e| Unsettled::Other(e.into()))?;
    }
    for file in files {
        // A file that stays is read again at the next start, to the same end.
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

fn unknown(call: Unfinished) -> Submission {
    let usage = Usage {
        receipt: receipt_commitment(call.id.as_bytes()),
        key_id: call.key_id,
        wallet: call.wallet.map(|wallet| (wallet, Link::Claimed)),
        source: call.source,
        provider: call.provider,
        model: None,
        counts: Counts::NONE,
        outcome: Outcome::Unknown,
        inconsistent: false,
        response: None,
    };
    let body = Body::Usage(usage);
    Submission {
        body,
        receipt_id: Some(call.id),
        retrieval: None,
        released: None,
        call: None,
    }
}
