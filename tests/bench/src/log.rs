//! A log of made-up records, written through the gateway's own sequencer.
//!
//! The records are spread over the last days, [`DAYS`] of them unless told
//! otherwise, the longest window that aggregates are asked for, so that every
//! sum by day is as long as it gets.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use gateway::config::{Config, Given};
use gateway::keys::DataDir;
use gateway::log::head::HeadFile;
use gateway::log::pool::Submission;
use gateway::log::replica::Replica;
use gateway::log::sequencer::Sequencer;
use gateway::log::sign::ReceiptSigner;
use gateway::log::turns::{Joined, Log};
use gateway::server::Server;
use gateway::store::{Database, Store};
use protocol::binding::{Action, Binding, Consent};
use protocol::consent::{Signature, Terms};
use protocol::entry::Body;
use protocol::hash::{Hash, key_id, receipt_commitment, response_commitment};
use protocol::index::Time;
use protocol::key::{Origin, Signer};
use protocol::name::{Address, Name};
use protocol::record::{Counts, Link, Outcome, Source, Usage};
use uuid::{Timestamp, Uuid};

use crate::Failed;

/// The days that records are spread over; the last one is today.
pub(crate) const DAYS: u64 = 30;

/// Records in one append.
const BATCH: u64 = 4_096;

/// The log's name.
pub(crate) const ORIGIN: &str = "bench.invalid/log";

/// Providers with a model each, and how many of 100 calls they get.
const MODELS: &[(&str, &str, u64)] = &[
    ("openai", "gpt-5-mini-2025-08-07", 24),
    ("anthropic", "claude-sonnet-4-5-20250929", 20),
    ("gemini", "gemini-2.5-flash", 14),
    ("openai", "gpt-5-2025-08-07", 10),
    ("anthropic", "claude-opus-4-1-20250805", 7),
    ("deepseek", "deepseek-chat", 6),
    ("openai", "text-embedding-3-small", 5),
    ("groq", "llama-3.3-70b-versatile", 5),
    ("mistral", "mistral-large-latest", 3),
    ("gemini", "gemini-2.5-pro", 3),
    ("openrouter", "qwen/qwen3-coder", 2),
    ("together", "openai/gpt-oss-120b", 1),
];

/// The time that the sequencer is told, in seconds.
static NOW: AtomicU64 = AtomicU64::new(0);

pub(crate) fn clock() -> Time {
    Time::from_secs(NOW.load(Ordering::Relaxed)).expect("this century")
}

/// A log's name and keys.
pub(crate) struct Keys {
    pub(crate) origin: Origin,
    pub(crate) signer: Arc<Signer>,
    /// Where it takes down what it signed.
    pub(crate) head: HeadFile,
    seed: [u8; 32],
}

impl Keys {
    /// What signs its receipts.
    pub(crate) fn receipts(&self) -> ReceiptSigner {
        ReceiptSigner::new(self.signer.verifier().clone(), &self.seed)
    }

    /// A gateway's part in the log in `store`: the writer's.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn join(&self, store: &Store) -> Result<Log, Failed> {
        let joined = Joined::wait(store).await?;
        let signer = Arc::clone(&self.signer);
        Ok(joined
            .open(
                store.clone(),
                signer,
                self.receipts(),
                self.head.clone(),
                clock,
            )
            .await?)
    }

    async fn sequencer(&self, store: &Store) -> Result<Sequencer, Failed> {
        let signer = Arc::clone(&self.signer);
        let replica =
            Replica::open(store.clone(), signer, self.receipts(), self.head.clone()).await?;
        let epoch = store.take(Uuid::now_v7()).await?;
        let epoch = epoch.ok_or("another gateway writes to the database")?;
        let resumed = Sequencer::resume(replica, epoch, clock).await;
        Ok(resumed.map_err(|failed| failed.1)?)
    }
}

/// Begins a log in the data directory `dir`; gives its name and keys.
///
/// # Errors
/// The gateway's.
pub(crate) async fn new_log(dir: &Path, database_url: Option<String>) -> Result<Keys, Failed> {
    new_log_since(dir, database_url, DAYS).await
}

/// The same, begun so many days ago, today included.
async fn new_log_since(
    dir: &Path,
    database_url: Option<String>,
    days: u64,
) -> Result<Keys, Failed> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    NOW.store(now - (days - 1) * 86_400, Ordering::Relaxed);
    let origin = Origin::parse(ORIGIN)?;
    let config = Config::resolve(Given {
        data_dir: Some(dir.into()),
        database_url,
        listen: Some(([127, 0, 0, 1], 0).into()),
        origin: Some(ORIGIN.into()),
        ..Given::default()
    })?;
    // A start and a stop: keys, database, entry 0.
    let server = Server::bind_with_clock(&config, clock).await?;
    server.run(std::future::ready(())).await?;
    let seed = DataDir::take(dir)?.log_seed(None)?;
    let signer = Arc::new(Signer::new(origin.clone(), &seed));
    Ok(Keys {
        origin,
        signer,
        head: HeadFile::at(dir.join("log.head")),
        seed,
    })
}

/// Where the log of the data directory `dir` is kept.
pub(crate) fn database(dir: &Path, url: Option<String>) -> Database {
    match url {
        Some(url) => Database::Postgres(url),
        None => Database::Sqlite(dir.join("tally.db")),
    }
}

/// What a log is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    /// Usage entries.
    pub(crate) records: u64,
    /// Key ids that they are of.
    pub(crate) users: u64,
    /// Chooses counts and models.
    pub(crate) seed: u64,
    /// Days that they are spread over; the last one is today.
    pub(crate) days: u64,
    /// Whether the wallets that every tenth user names are bound, by entries
    /// before all others; else they are claimed.
    pub(crate) bound: bool,
}

/// Makes a log in the data directory `dir` of signed usage entries. The same
/// seed gives the same counts.
///
/// # Errors
/// The gateway's.
pub(crate) async fn make_log(dir: &Path, made: Made) -> Result<(), Failed> {
    let Made {
        records,
        users,
        seed,
        days,
        bound,
    } = made;
    let keys = new_log_since(dir, None, days).await?;
    let first = NOW.load(Ordering::Relaxed);
    let now = first + (days - 1) * 86_400;
    let store = Store::open(&database(dir, None)).await?;
    tokio::spawn(store.clone().maintain());
    let mut sequencer = keys.sequencer(&store).await?;
    let mut calls = Calls::new(&keys.origin, users, seed);
    if bound {
        let genesis = store.range(0, 1).await?;
        let genesis = genesis.first().ok_or("a log has its own entry")?;
        let bindings = calls.bindings(Hash::leaf(&genesis.entry));
        for batch in bindings.chunks(BATCH as usize) {
            let batch = batch.iter().map(|binding| plain(binding.clone()));
            sequencer.append(batch.collect()).await?;
        }
    }
    for from in (0..records).step_by(BATCH as usize) {
        let to = records.min(from + BATCH);
        NOW.store(first + (now - first) * from / records, Ordering::Relaxed);
        let batch = (from..to).map(|_| calls.submission()).collect();
        sequencer.append(batch).await?;
        if (from / BATCH).is_multiple_of(64) {
            eprint!("\rmaking the log: {to} of {records} records");
        }
    }
    eprintln!("\rmade a log of {records} records and {users} users     ");
    store.close().await;
    Ok(())
}

/// Where calls come from.
pub(crate) struct Calls {
    random: Random,
    users: Vec<Hash>,
    next: u64,
}

impl Calls {
    /// Calls of `users` key ids of the log called `origin`.
    pub(crate) fn new(origin: &Origin, users: u64, seed: u64) -> Self {
        Self {
            random: Random(seed),
            users: (0..users)
                .map(|user| key_id(origin, "openai", &user.to_be_bytes()))
                .collect(),
            next: 0,
        }
    }

    /// Bindings of every tenth user to its wallet. They are contracts', whose
    /// signatures the writer leaves to those who asked their chain.
    fn bindings(&self, genesis: Hash) -> Vec<Binding> {
        let users = (0..).zip(&self.users).step_by(10);
        let terms = Terms {
            chain_id: 1,
            issued_at: clock(),
            expires_at: Time::from_secs(clock().secs() + 3_600).expect("this century"),
        };
        let binding = |(user, key_id): (u64, &Hash)| Binding {
            key_id: *key_id,
            previous: genesis,
            action: Action::Link(Consent {
                wallet: wallet(user),
                terms,
                signature: Signature::Eip1271 {
                    block: 1,
                    block_hash: genesis,
                    bytes: Vec::new(),
                },
            }),
        };
        users.map(binding).collect()
    }

    /// The next: half of them go around all users, the others are of few.
    pub(crate) fn submission(&mut self) -> Submission {
        let n = self.next;
        self.next += 1;
        let random = &mut self.random;
        let users = self.users.len() as u64;
        let user = if n.is_multiple_of(2) {
            n / 2 % users
        } else {
            // Cubing draws towards the first ones: a tenth gets nearly half.
            let draw = random.below(1 << 20);
            ((u128::from(users) * u128::from(draw).pow(3)) >> 60) as u64
        };
        let (provider, model) = random.model();
        let input = 50 + random.below(8_000) as u32;
        let output = 1 + random.below(1_500) as u32;
        let part = |random: &mut Random, whole: u32, of: u64| {
            (random.below(of) == 0).then(|| random.below(u64::from(whole) + 1) as u32)
        };
        let counts = Counts {
            input: Some(input),
            cache_read: part(random, input, 2),
            cache_write: None,
            output: Some(output),
            reasoning: part(random, output, 3),
        };
        let (outcome, counts) = match random.below(100) {
            0 => (Outcome::Unmetered, Counts::NONE),
            1..=2 => (Outcome::Aborted, counts),
            _ => (Outcome::Complete, counts),
        };
        let receipt_id = Uuid::new_v7(Timestamp::from_unix_time(clock().secs(), 0, n.into(), 42));
        let wallet = user
            .is_multiple_of(10)
            .then(|| (wallet(user), Link::Claimed));
        let usage = Usage {
            receipt: receipt_commitment(receipt_id.as_bytes()),
            key_id: Some(self.users[user as usize]),
            wallet,
            source: if random.below(50) == 0 {
                Source::Custom
            } else {
                Source::Proxy
            },
            provider: Name::new(provider).expect("a plain name"),
            model: Name::new(model),
            counts,
            outcome,
            inconsistent: false,
            response: Some(response_commitment(provider, &receipt_id.to_string())),
        };
        Submission {
            body: Body::Usage(usage),
            receipt_id: Some(receipt_id),
            retrieval: None,
            released: None,
            call: None,
        }
    }
}

/// The wallet of a user.
pub(crate) fn wallet(user: u64) -> Address {
    let mut wallet = [7; 20];
    wallet[..8].copy_from_slice(&user.to_be_bytes());
    Address::from_bytes(wallet)
}

fn plain(binding: Binding) -> Submission {
    Submission {
        body: Body::Binding(binding),
        receipt_id: None,
        retrieval: None,
        released: None,
        call: None,
    }
}

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn model(&mut self) -> (&'static str, &'static str) {
        let draw = self.below(MODELS.iter().map(|(.., share)| share).sum());
        let mut passed = 0;
        let (provider, model, _) = MODELS
            .iter()
            .find(|(.., share)| {
                passed += share;
                draw < passed
            })
            .expect("the draw is below the sum of the shares");
        (provider, model)
    }
}
