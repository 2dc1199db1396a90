//! The sentinel's first pass over a log, and a pass after one new record,
//! beside the rate at which this machine verifies the same signatures.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use ed25519_dalek::{Signature, VerifyingKey};
use protocol::hash::Hash;
use protocol::index::{Index, TreeSize};
use protocol::key::VerifierKey;
use protocol::receipt::Receipt;
use protocol::tile::{self, Tile, TileKind, WIDTH};

use crate::Failed;
use crate::log::{DAYS, Made, make_log};
use crate::processes::{self, Counted, Gateway, Run, run as run_process};

/// How long raw verifying is measured, before the pass and after it.
const RAW: Duration = Duration::from_secs(5);

/// Bundles whose signatures are verified in that time, over and over.
const RAW_BUNDLES: u64 = 16;

/// Passes after one new record, of which the median counts.
const SECOND_PASSES: usize = 5;

/// What to measure on.
#[derive(Debug, Args)]
pub(crate) struct Given {
    /// Usage entries in the log
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,

    /// Key ids that they are of
    #[arg(long, default_value_t = 100_000)]
    users: u64,

    /// Chooses the made-up records
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Keeps the log in this folder, and takes the one that is there already
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Measures, and prints a row for RESULTS.md.
///
/// # Errors
/// What keeps it from measuring; a pass that does not verify the log.
pub(crate) async fn run(given: Given) -> Result<(), Failed> {
    let scratch = std::env::temp_dir().join(format!("tally-bench-{}", std::process::id()));
    let data = given.keep.clone().unwrap_or_else(|| scratch.join("data"));
    if !data.join("tally.db").exists() {
        let made = Made {
            records: given.records,
            users: given.users,
            seed: given.seed,
            days: DAYS,
            bound: false,
        };
        make_log(&data, made).await?;
    }
    let programs = processes::build()?;
    let measured = measure(&programs, &data, &scratch.join("state")).await;
    std::fs::remove_dir_all(&scratch)?;
    println!("{}", measured?);
    Ok(())
}

async fn measure(programs: &Path, data: &Path, state: &Path) -> Result<String, Failed> {
    let provider = processes::provider().await?;
    let gateway = Gateway::start(programs, data, &provider).await?;
    let signed = Signed::fetch(&gateway).await?;
    let size = checkpoint_size(&gateway).await?;
    let sentinel = |url: &str| {
        let mut command = Command::new(programs.join("sentinel"));
        command.arg("--json").arg("--state").arg(state).arg(url);
        verified(run_process(&mut command)?)
    };

    let before = signed.rate();
    let first = sentinel(&gateway.url)?;
    let after = signed.rate();
    let raw = (before + after) / 2.0;
    let rate = size as f64 / first.took.as_secs_f64();
    eprintln!(
        "raw {before:.0}/s before, {after:.0}/s after; first pass {rate:.0}/s, {:.3} of raw, {} MB",
        rate / raw,
        first.peak / 1_000_000
    );

    let mut again = Vec::with_capacity(SECOND_PASSES);
    for _ in 0..SECOND_PASSES {
        append_one(&gateway).await?;
        again.push(sentinel(&gateway.url)?);
    }
    again.sort_by_key(|run| run.took);
    let took = |run: &Run| run.took.as_millis();
    append_one(&gateway).await?;
    let way = Counted::to(&gateway).await?;
    // Apart, so that the way is driven meanwhile.
    let counted = tokio::task::block_in_place(|| sentinel(&way.url))?;
    eprintln!(
        "counted pass: {} ms through the counting way",
        took(&counted)
    );
    Ok(format!(
        "| {size} | {raw:.0} | {rate:.0} | {:.1} % | {} MB | {} to {} ms | {} MB | {} |",
        100.0 * rate / raw,
        first.peak / 1_000_000,
        took(&again[again.len() / 2]),
        took(&again[again.len() - 1]),
        again.iter().map(|run| run.peak).max().unwrap_or_default() / 1_000_000,
        way.requests(),
    ))
}

/// A run that ended well.
fn verified(run: Run) -> Result<Run, Failed> {
    if run.status.success() {
        Ok(run)
    } else {
        Err(format!("the sentinel did not verify the log: {}", run.status).into())
    }
}

/// The log's key, and signed texts of its first bundles.
struct Signed {
    key: VerifyingKey,
    texts: Vec<(String, Signature)>,
}

impl Signed {
    /// Fetches what the sentinel fetches.
    async fn fetch(gateway: &Gateway) -> Result<Self, Failed> {
        let pubkey: serde_json::Value = serde_json::from_slice(&get(gateway, "api/pubkey").await?)?;
        let key = VerifierKey::parse(pubkey["vkey"].as_str().unwrap_or_default())?;
        let size = TreeSize::new(checkpoint_size(gateway).await?).ok_or("a log's size")?;
        let mut texts = Vec::new();
        for n in 0..RAW_BUNDLES.min(size.get() / WIDTH) {
            let path = |kind| Tile::within(kind, n, size).map(|tile| tile.path());
            let paths = (path(TileKind::Entries), path(TileKind::Receipts));
            let (Some(entries), Some(receipts)) = paths else {
                break;
            };
            let entries = get(gateway, &entries).await?;
            let receipts = get(gateway, &receipts).await?;
            let entries = tile::entries(&entries).ok_or("a whole bundle of entries")?;
            let (signatures, _) = receipts.as_chunks::<64>();
            for ((at, entry), signature) in (n * WIDTH..).zip(entries).zip(signatures) {
                let index = Index::new(at).ok_or("an index")?;
                let receipt = Receipt::new(key.origin().clone(), index, Hash::leaf(entry));
                texts.push((receipt.text(), Signature::from_bytes(signature)));
            }
        }
        let key = VerifyingKey::from_bytes(key.as_bytes())?;
        Ok(Self { key, texts })
    }

    /// How many all cores together verify in a second, by the library alone.
    fn rate(&self) -> f64 {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let started = Instant::now();
        let verify = || {
            let mut count: u64 = 0;
            while started.elapsed() < RAW {
                for (text, signature) in &self.texts {
                    let valid = self.key.verify_strict(text.as_bytes(), signature);
                    valid.expect("the log signed it");
                    count += 1;
                }
            }
            count
        };
        let count: u64 = thread::scope(|scope| {
            let workers: Vec<_> = (0..cores).map(|_| scope.spawn(verify)).collect();
            let counts = workers.into_iter().map(|worker| worker.join());
            counts
                .map(|count| count.expect("verifying does not panic"))
                .sum()
        });
        count as f64 / started.elapsed().as_secs_f64()
    }
}

/// Makes one call through the gateway, and waits until its record is published.
async fn append_one(gateway: &Gateway) -> Result<(), Failed> {
    let before = checkpoint_size(gateway).await?;
    let call = reqwest::Client::new()
        .post(format!("{}/openai/v1/chat/completions", gateway.url))
        .bearer_auth("sk-bench-0123456789abcdefghij")
        .body(r#"{"model":"gpt-5-mini","messages":[]}"#);
    call.send().await?.error_for_status()?;
    while checkpoint_size(gateway).await? == before {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn checkpoint_size(gateway: &Gateway) -> Result<u64, Failed> {
    let note = String::from_utf8(get(gateway, "checkpoint").await?)?;
    let size = note.lines().nth(1).ok_or("a checkpoint has a size")?;
    Ok(size.parse()?)
}

async fn get(gateway: &Gateway, path: &str) -> Result<Vec<u8>, Failed> {
    let answer = reqwest::get(format!("{}/{path}", gateway.url)).await?;
    Ok(answer.error_for_status()?.bytes().await?.to_vec())
}
