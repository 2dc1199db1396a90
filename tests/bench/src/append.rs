//! Appending at speed: records already metered, signed, and durable before
//! their receipts are released; beside raw signing and raw insertion of the
//! same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use gateway::log::pool::{Pool, Submission};
use gateway::log::publish::Published;
use gateway::log::replica::{Committed, Replica};
use gateway::log::sign::ReceiptSigner;
use gateway::store::Store;
use gateway::witness::Witnessing;
use gateway::witness::enlisted::Witnesses;
use protocol::entry::Body;
use protocol::hash::Hash;
use protocol::index::{Index, Time};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use tokio::sync::{oneshot, watch};

use crate::log::{Calls, Keys, clock, database, new_log};
use crate::{Failed, witness};

/// Records that are made at a time, while the clock stands.
const BLOCK: u64 = 100_000;

/// Records submitted and not yet durable, at the most.
const OUTSTANDING: u64 = 16_384;

/// How long the half load lasts.
const HALF: Duration = Duration::from_secs(10);

/// Records inserted and signed raw.
const RAW: u64 = 200_000;

/// What to measure on.
#[derive(Debug, Args)]
pub(crate) struct Given {
    /// Usage entries to append
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,

    /// Key ids that they are of
    #[arg(long, default_value_t = 100_000)]
    users: u64,

    /// Chooses the made-up records
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// A PostgreSQL database, empty, instead of SQLite
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,

    /// Also with a policy of one witness, on this machine; beside none
    #[arg(long, conflicts_with_all = ["database_url", "keep"])]
    witness: bool,

    /// Keeps the log in this folder, which is not there yet
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Measures, and prints a row for RESULTS.md.
///
/// # Errors
/// The gateway's, or the machine's.
pub(crate) async fn run(given: Given) -> Result<(), Failed> {
    let scratch = std::env::temp_dir().join(format!("tally-bench-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let data = given.keep.clone().unwrap_or_else(|| scratch.join("data"));
    let rows = rows(&given, &data, &scratch).await;
    fs::remove_dir_all(&scratch)?;
    print!("{}", rows?);
    Ok(())
}

async fn rows(given: &Given, data: &Path, scratch: &Path) -> Result<String, Failed> {
    let alone = measure(given, data, scratch, None).await?;
    if !given.witness {
        return Ok(format!("{alone}\n"));
    }
    fs::remove_dir_all(data)?;
    fs::remove_file(scratch.join("raw.db"))?;
    let cosigned = measure(given, data, scratch, Some(witness::start().await?)).await?;
    Ok(format!("{alone}no witness |\n{cosigned}one witness |\n"))
}

/// Publishes as a gateway does that waits for witnesses.
async fn publish(
    witnesses: Witnesses,
    keys: &Keys,
    store: &Store,
    replica: &Replica,
) -> Result<watch::Receiver<Published>, Failed> {
    let (key, store) = (keys.signer.verifier().clone(), store.clone());
    let log = (replica.committed(), replica.health(), keys.head.clone());
    let witnessing = Witnessing::open(witnesses, key, store, log).await?;
    let published = witnessing.published();
    witnessing.spawn();
    Ok(published)
}

async fn measure(
    given: &Given,
    data: &Path,
    scratch: &Path,
    witnesses: Option<Witnesses>,
) -> Result<String, Failed> {
    let keys = new_log(data, given.database_url.clone()).await?;
    let mut calls = Calls::new(&keys.origin, given.users, given.seed);
    let signing = raw_signing(&keys.receipts(), &mut calls);
    let inserting = raw_inserting(&mut calls, &scratch.join("raw.db")).await?;
    eprintln!("raw: {signing:.0} signatures/s on all cores, {inserting:.0} rows/s inserted");

    let database = database(data, given.database_url.clone());
    let store = Store::open(&database).await?;
    tokio::spawn(store.clone().maintain());
    let log = keys.join(&store).await?;
    let committed = log.replica().committed();
    let published = match witnesses {
        Some(witnesses) => Some(publish(witnesses, &keys, &store, log.replica()).await?),
        None => None,
    };
    let pool = Arc::new(Pool::default());
    // As the gateway does: on a thread of its own.
    let writing = Arc::clone(&pool);
    let running = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok::<_, Failed>(runtime.block_on(log.run(writing))?)
    });
    let rates = flat_out(given.records, &pool, &committed, &mut calls).await?;
    let half = rates.iter().sum::<f64>() / rates.len() as f64 / 2.0;
    let latencies = at_rate(half, &pool, &mut calls).await;
    if let Some(published) = published {
        let note = Arc::clone(&published.borrow().note);
        assert!(
            note.contains("\u{2014} witness.bench.invalid "),
            "nobody cosigned"
        );
    }
    pool.close();
    running.await??;
    store.close().await;

    let size = fs::metadata(data.join("tally.db")).map_or(0, |file| file.len());
    let count = committed.borrow().checkpoint.size().get();
    let started = Instant::now();
    let store = Store::open(&database).await?;
    let resumed = keys.join(&store).await?;
    let start = started.elapsed();
    assert_eq!(resumed.replica().size().get(), count, "nothing is lost");
    store.close().await;
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    let (first, last) = (rates[0], rates[rates.len() - 1]);
    Ok(format!(
        "| {count} | {:.0} | {first:.0} to {last:.0} | {:.2} of {signing:.0} | {:.2} of {inserting:.0} | {:.1} / {:.1} ms | {} | {} ms |",
        2.0 * half,
        2.0 * half / signing,
        2.0 * half / inserting,
        at(0.5).as_secs_f64() * 1e3,
        at(0.99).as_secs_f64() * 1e3,
        size / count,
        start.as_millis(),
    ))
}

/// Submits as fast as records become durable; the rate of each million.
async fn flat_out(
    records: u64,
    pool: &Arc<Pool>,
    committed: &watch::Receiver<Committed>,
    calls: &mut Calls,
) -> Result<Vec<f64>, Failed> {
    let mut committed = committed.clone();
    let (mut rates, mut spent, mut counted, mut done) = (vec![], Duration::ZERO, 0, 0);
    while done < records {
        let block: Vec<_> = (0..BLOCK.min(records - done))
            .map(|_| calls.submission())
            .collect();
        let (count, base) = (block.len() as u64, size(&committed));
        let started = Instant::now();
        for (n, submission) in (1..).zip(block) {
            pool.submit(submission);
            if n % 256 == 0 {
                while base + n > size(&committed) + OUTSTANDING {
                    committed.changed().await?;
                }
            }
        }
        while size(&committed) < base + count {
            committed.changed().await?;
        }
        spent += started.elapsed();
        (done, counted) = (done + count, counted + count);
        if counted >= 1_000_000 || done == records {
            let rate = counted as f64 / spent.as_secs_f64();
            eprintln!("{done} records: {rate:.0}/s");
            rates.push(rate);
            (spent, counted) = (Duration::ZERO, 0);
        }
    }
    Ok(rates)
}

/// Submits at a fixed rate; the times from submission to receipt, sorted.
async fn at_rate(rate: f64, pool: &Arc<Pool>, calls: &mut Calls) -> Vec<Duration> {
    let count = (rate * HALF.as_secs_f64()) as u64;
    let block: Vec<_> = (0..count).map(|_| calls.submission()).collect();
    let mut waiting = Vec::new();
    let started = Instant::now();
    for (n, mut submission) in (0..).zip(block) {
        let due = Duration::from_secs_f64(f64::from(n) / rate);
        if let Some(early) = due
            .checked_sub(started.elapsed())
            .filter(|early| early.as_millis() > 0)
        {
            tokio::time::sleep(early).await;
        }
        if n % 64 == 0 {
            let (released, receipt) = oneshot::channel();
            submission.released = Some(released);
            let submitted = Instant::now();
            waiting.push(tokio::spawn(async move {
                let _ = receipt.await;
                submitted.elapsed()
            }));
        }
        pool.submit(submission);
    }
    let mut latencies = Vec::with_capacity(waiting.len());
    for receipt in waiting {
        latencies.extend(receipt.await);
    }
    latencies.sort_unstable();
    latencies
}

fn size(committed: &watch::Receiver<Committed>) -> u64 {
    committed.borrow().checkpoint.size().get()
}

/// Receipts that all cores together sign in a second.
fn raw_signing(signer: &ReceiptSigner, calls: &mut Calls) -> f64 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let leaves: Vec<Hash> = (0..10_000)
        .map(|_| Hash::leaf(&entry(&calls.submission())))
        .collect();
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                for n in 0..RAW {
                    let index = Index::new(n).expect("small");
                    let leaf = leaves[n as usize % leaves.len()];
                    std::hint::black_box(signer.sign(index, leaf));
                }
            });
        }
    });
    (RAW * cores as u64) as f64 / started.elapsed().as_secs_f64()
}

/// Rows of an entry, a signature and a receipt id, inserted one by one on one
/// connection, 4,096 to a transaction, durable.
async fn raw_inserting(calls: &mut Calls, path: &Path) -> Result<f64, Failed> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    sqlx::query("CREATE TABLE raw (idx INTEGER PRIMARY KEY, entry BLOB, signature BLOB, id BLOB)")
        .execute(&mut connection)
        .await?;
    let rows: Vec<_> = (0..RAW).map(|_| calls.submission()).collect();
    let rows: Vec<_> = rows.iter().map(|s| (entry(s), s.receipt_id)).collect();
    let started = Instant::now();
    for (n, part) in (0_i64..).zip(rows.chunks(4_096)) {
        let mut tx = connection.begin().await?;
        let mut insert = sqlx::QueryBuilder::<sqlx::Sqlite>::new("INSERT INTO raw ");
        insert.push_values((n * 4_096..).zip(part), |mut row, (index, (entry, id))| {
            let id = id.unwrap_or_default().as_bytes().to_vec();
            row.push_bind(index)
                .push_bind(entry)
                .push_bind(vec![7_u8; 64])
                .push_bind(id);
        });
        insert.build().execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(RAW as f64 / started.elapsed().as_secs_f64())
}

fn entry(submission: &Submission) -> Vec<u8> {
    let now: Time = clock();
    let body: &Body = &submission.body;
    body.encode(now)
}
