//! Reading the log: tiles and bundles beside a server that answers as many
//! constant bytes, and how long aggregates take.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use clap::Args;
use protocol::hash::key_id;
use protocol::index::TreeSize;
use protocol::key::Origin;
use protocol::tile::{Tile, TileKind, WIDTH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::Failed;
use crate::log::{DAYS, Made, ORIGIN, Random, make_log, wallet};
use crate::processes::{self, Constant, Gateway};

/// How long each kind of question is asked.
const LASTS: Duration = Duration::from_secs(3);

/// Connections that ask for tiles, and that ask for aggregates.
const READERS: usize = 16;
const ASKERS: usize = 4;

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

    /// Days that they are spread over, today included
    #[arg(long, default_value_t = DAYS)]
    days: u64,

    /// Binds every tenth user's wallet, which else is claimed
    #[arg(long)]
    bound: bool,

    /// Keeps the log in this folder, and takes the one that is there already
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Answers a second, the times they took, sorted, and their bytes.
struct Measured {
    rate: f64,
    took: Vec<Duration>,
    bytes: usize,
}

/// Measures, and prints rows for RESULTS.md.
///
/// # Errors
/// What keeps it from measuring.
pub(crate) async fn run(given: Given) -> Result<(), Failed> {
    let scratch = std::env::temp_dir().join(format!("tally-bench-{}", std::process::id()));
    let data = given.keep.clone().unwrap_or_else(|| scratch.join("data"));
    if !data.join("tally.db").exists() {
        let made = Made {
            records: given.records,
            users: given.users,
            seed: given.seed,
            days: given.days,
            bound: given.bound,
        };
        make_log(&data, made).await?;
    }
    let programs = processes::build()?;
    let gateway = Gateway::start(&programs, &data, "http://127.0.0.1:9").await?;
    let address = gateway.url.trim_start_matches("http://").to_owned();
    let size = size(&address).await?;
    for (what, kind, accept) in [
        ("level-0 tiles", TileKind::Hashes(0), "identity"),
        ("bundles, zstd", TileKind::Entries, "zstd"),
        ("bundles, gzip", TileKind::Entries, "gzip"),
        ("receipts", TileKind::Receipts, "identity"),
    ] {
        println!("{}", tiles(&address, what, kind, accept, size).await?);
    }
    for (what, path) in questions(given.users, size)? {
        let asked = measure(&address, ASKERS, "identity", path).await?;
        println!(
            "| `{what}` | {:.0} | {:.2} ms | {:.2} ms | {} |",
            asked.rate,
            asked.at(0.5),
            asked.at(0.99),
            asked.bytes
        );
    }
    drop(gateway);
    let _ = std::fs::remove_dir_all(&scratch);
    Ok(())
}

/// Answers with constant bytes until it is killed; prints its address.
///
/// # Errors
/// No port is free.
pub(crate) async fn constant(bytes: usize) -> Result<(), Failed> {
    let body = Bytes::from(vec![7; bytes]);
    let answer = Router::new().route("/", get(move || async move { body }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Ok(axum::serve(listener, answer).await?)
}

/// Full tiles all over the log, beside constant bytes of the same length.
async fn tiles(
    address: &str,
    what: &str,
    kind: TileKind,
    accept: &'static str,
    size: TreeSize,
) -> Result<String, Failed> {
    let full = size.get() / WIDTH;
    let path = move |random: &mut Random| {
        let tile = Tile::within(kind, random.below(full), size);
        format!("/{}", tile.expect("a full tile is within").path())
    };
    let read = measure(address, READERS, accept, path).await?;
    // A process of its own, as the gateway is.
    let constant = Constant::start(read.bytes)?;
    let floor = measure(&constant.address, READERS, accept, |_| "/".into()).await?;
    Ok(format!(
        "| {what} | {} | {:.0} | {:.0} | {:.2} |",
        read.bytes,
        read.rate,
        floor.rate,
        read.rate / floor.rate
    ))
}

/// Chooses a path.
type Path = Box<dyn Fn(&mut Random) -> String + Send + Sync>;

/// What is asked, and paths that ask it.
fn questions(users: u64, size: TreeSize) -> Result<Vec<(&'static str, Path)>, Failed> {
    let origin = Origin::parse(ORIGIN)?;
    let key_id = move |random: &mut Random| {
        let key_id = key_id(&origin, "openai", &random.below(users).to_be_bytes());
        key_id.to_string()
    };
    let of_key = |before: &'static str, after: &'static str| {
        let key_id = key_id.clone();
        move |random: &mut Random| format!("{before}{}{after}", key_id(random))
    };
    let of_wallet = |before: &'static str, after: &'static str| {
        move |random: &mut Random| {
            let user = random.below(users.div_ceil(10)) * 10;
            format!("{before}{}{after}", wallet(user))
        }
    };
    let record = move |random: &mut Random| format!("/record/{}", random.below(size.get()));
    let fixed = |path: &'static str| move |_: &mut Random| path.to_owned();
    Ok(vec![
        ("/api/stats", Box::new(fixed("/api/stats"))),
        ("/api/models", Box::new(fixed("/api/models"))),
        (
            "/api/models?days=30",
            Box::new(fixed("/api/models?days=30")),
        ),
        ("/api/leaderboard", Box::new(fixed("/api/leaderboard"))),
        (
            "/api/leaderboard?days=1",
            Box::new(fixed("/api/leaderboard?days=1")),
        ),
        (
            "/api/leaderboard?days=7",
            Box::new(fixed("/api/leaderboard?days=7")),
        ),
        (
            "/api/leaderboard?days=30",
            Box::new(fixed("/api/leaderboard?days=30")),
        ),
        (
            "/api/leaderboard/model",
            Box::new(fixed("/api/leaderboard/model?model=gemini-2.5-flash")),
        ),
        ("/api/user/{key_id}", Box::new(of_key("/api/user/", ""))),
        (
            "/api/user/{key_id}/receipts?limit=20",
            Box::new(of_key("/api/user/", "/receipts?limit=20")),
        ),
        (
            "/api/wallet/{addr}",
            Box::new(of_wallet("/api/wallet/", "")),
        ),
        ("/wallet/{addr}", Box::new(of_wallet("/wallet/", ""))),
        ("/card/{addr}.svg", Box::new(of_wallet("/card/", ".svg"))),
        ("/key/{key_id}", Box::new(of_key("/key/", ""))),
        ("/record/{index}", Box::new(record)),
    ])
}

impl Measured {
    /// The time in milliseconds within which this part of the answers came.
    fn at(&self, part: f64) -> f64 {
        let at = (self.took.len().saturating_sub(1)) as f64 * part;
        self.took
            .get(at as usize)
            .map_or(0.0, |took| took.as_secs_f64() * 1e3)
    }
}

/// Asks on some connections, one question after the other on each.
async fn measure<P>(
    address: &str,
    connections: usize,
    accept: &'static str,
    path: P,
) -> Result<Measured, Failed>
where
    P: Fn(&mut Random) -> String + Send + Sync + 'static,
{
    let path = std::sync::Arc::new(path);
    let started = Instant::now();
    let mut asking = Vec::new();
    for seed in 0..connections as u64 {
        let (path, address) = (std::sync::Arc::clone(&path), address.to_owned());
        asking.push(tokio::spawn(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let mut stream = BufReader::with_capacity(1 << 16, stream);
            let mut random = Random(seed);
            let (mut took, mut bytes) = (Vec::new(), 0);
            while started.elapsed() < LASTS {
                let asked = Instant::now();
                bytes += ask(&mut stream, &path(&mut random), accept).await?;
                took.push(asked.elapsed());
            }
            Ok::<_, Failed>((took, bytes))
        }));
    }
    let (mut took, mut bytes) = (Vec::new(), 0);
    for asker in asking {
        let (more, len) = asker.await??;
        took.extend(more);
        bytes += len;
    }
    took.sort_unstable();
    Ok(Measured {
        rate: took.len() as f64 / started.elapsed().as_secs_f64(),
        bytes: bytes / took.len().max(1),
        took,
    })
}

/// Asks once; the length of the answer's body.
async fn ask(stream: &mut BufReader<TcpStream>, path: &str, accept: &str) -> Result<usize, Failed> {
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: bench\r\naccept-encoding: {accept}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).await?;
    let head = head(stream).await?;
    if !head.starts_with("http/1.1 200") {
        return Err(format!("{path}: {}", head.lines().next().unwrap_or_default()).into());
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.ok_or("an answer of known length")?.trim().parse()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(length)
}

/// An answer's head in lower case, to its empty line.
async fn head(stream: &mut BufReader<TcpStream>) -> Result<String, Failed> {
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head)?.to_ascii_lowercase())
}

async fn size(address: &str) -> Result<TreeSize, Failed> {
    let note = reqwest::get(format!("http://{address}/checkpoint"))
        .await?
        .text()
        .await?;
    let size = note.lines().nth(1).and_then(|size| size.parse().ok());
    size.and_then(TreeSize::new)
        .ok_or_else(|| "a checkpoint has a size".into())
}
