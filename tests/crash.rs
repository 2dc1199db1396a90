//! kill -9 under load: nothing that was released is lost, nothing forks, and
//! what was in flight comes back as `unknown`.
//!
//! `TALLY_KILLS=5000` kills more often, `TALLY_SEED` at other moments: which
//! ones, the seed alone says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs};

use protocol::hash::{Hash, receipt_commitment};
use protocol::key::VerifierKey;
use protocol::receipt::Receipt;
use serde_json::Value;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::binaries::Folder;
use crate::flow::{chat, receipt, receipt_id};
use crate::gateway::{Gateway, alter, client, command, free_address, on_postgres};
use crate::provider::Provider;
use crate::sentinel::{Sees, Sentinel};

/// Kills in the test command, by engine.
const KILLS: usize = 200;
const KILLS_ON_POSTGRES: usize = 25;

/// Kills of one log; then a new one is begun.
const KILLS_A_LOG: usize = 250;

/// Calls at a time that are answered, and that hang until the kill.
const ANSWERED: usize = 8;
const HANGING: usize = 2;

/// What clients hold when the process dies.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Receipts that were released.
    pub(crate) receipts: HashMap<Uuid, Value>,
    /// Ids of calls whose answer began.
    pub(crate) begun: HashSet<Uuid>,
}

/// When the process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So many milliseconds after the load began.
    After(u64),
    /// As the database's log, or the head file, grows: within a commit, or
    /// between it and its release.
    Grows(&'static str),
    /// A client has the head of an answer: its record is not yet durable.
    Answer,
    /// Clients have so many receipts.
    Receipts(u64),
    /// The next start, so many milliseconds after it began: while what was
    /// left is taken up.
    Start(u64),
}

/// Draws that a seed decides (Knuth's MMIX generator).
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: u64) -> u64 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn moment(&mut self) -> Moment {
        match self.below(8) {
            0 => Moment::Grows("tally.db-wal"),
            1 => Moment::Grows("log.head"),
            2 => Moment::Answer,
            3..5 => Moment::Receipts(1 + self.below(32)),
            5 => Moment::Start(self.below(120)),
            _ => Moment::After(self.below(300)),
        }
    }
}

/// What is known of a log so far.
#[derive(Debug, Default)]
struct Account {
    size: u64,
    commitments: HashSet<String>,
    outcomes: BTreeMap<String, u64>,
    input: u64,
    output: u64,
    receipts: Vec<(Uuid, Value)>,
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_honours_what_it_released() {
    let kills = number("TALLY_KILLS").and_then(|n| usize::try_from(n).ok());
    let kills = kills.unwrap_or(match on_postgres() {
        true => KILLS_ON_POSTGRES,
        false => KILLS,
    });
    let clock = std::time::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_secs());
    let seed = number("TALLY_SEED").unwrap_or(clock);
    eprintln!("{kills} kills; the same again with TALLY_SEED={seed}");
    let (mut draws, begun) = (Draws(seed), Instant::now());
    let (mut done, mut released, mut unknown) = (0, 0, 0);
    while done < kills {
        let more = (kills - done).min(KILLS_A_LOG);
        let account = kill_a_log(more, &mut draws).await;
        done += more;
        released += account.receipts.len();
        unknown += account.unknown();
        eprintln!(
            "{done} kills in {} s: {released} receipts released and honoured, {unknown} calls back as unknown",
            begun.elapsed().as_secs(),
        );
    }
    assert!(released > kills, "the load was real: {released}");
}

/// Begins a log and kills its gateway so often; what is known of it then.
async fn kill_a_log(kills: usize, draws: &mut Draws) -> Account {
    let (provider, data) = (Provider::start().await, Folder::new());
    let address = free_address();
    // The first start dies, too: what it leaves is no log, or a whole one.
    die_starting(data.path(), &provider, &address, draws.below(150)).await;
    let mut gateway = start(data.path(), &provider, &address).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let mut account = Account::default();
    for kill in 1..=kills {
        let moment = draws.moment();
        let held = under_load(gateway, data.path(), moment).await;
        if let Moment::Start(wait) = moment {
            die_starting(data.path(), &provider, &address, wait).await;
        }
        gateway = start(data.path(), &provider, &address).await;
        let claim = format!("kill {kill}, {moment:?}");
        account.check(&gateway, held, &provider, &claim).await;
        let pass = sentinel.patient_pass(gateway.url());
        assert_eq!(pass.compare(&Sees::Verified), Ok(()), "{claim}");
    }
    // At the end, all of them once more.
    for (id, file) in &account.receipts {
        assert_eq!(&receipt(&gateway, id).await, file);
    }
    account
}

/// Starts the gateway again. On PostgreSQL it need not wait for the lease of
/// the one that was killed: that is another test's.
async fn start(data: &Path, provider: &Provider, address: &str) -> Gateway {
    if on_postgres() && data.join("log.head").exists() {
        alter(data, "UPDATE lease SET until = 'epoch'").await;
    }
    Gateway::start_at(data, provider.url(), address, &[]).await
}

/// Starts a gateway and kills it before it is ready, most likely.
async fn die_starting(data: &Path, provider: &Provider, address: &str, wait: u64) {
    let child = command(data, provider.url(), address).spawn();
    let mut child = child.expect("the gateway was built");
    tokio::time::sleep(Duration::from_millis(wait)).await;
    child.kill().expect("our child");
    child.wait().expect("our child");
}

/// Puts load on a gateway until its moment has come; what clients hold then.
async fn under_load(gateway: Gateway, data: &Path, moment: Moment) -> Held {
    let held = Arc::new(Mutex::new(Held::default()));
    let mut callers = JoinSet::new();
    for n in 0..ANSWERED + HANGING {
        let model = if n < HANGING { "hang:" } else { "chat.sse" };
        let url = gateway.url().to_owned();
        callers.spawn(call_on(chat(&gateway, model), url, Arc::clone(&held)));
    }
    let length = |file| fs::metadata(data.join(file)).map_or(0, |file| file.len());
    let begun = Instant::now();
    let before = match moment {
        Moment::Grows(file) => length(file),
        _ => 0,
    };
    let has_come = || {
        let held = held.lock().expect("no caller panics");
        match moment {
            Moment::After(wait) => begun.elapsed() >= Duration::from_millis(wait),
            Moment::Grows(file) => length(file) > before,
            Moment::Answer => !held.begun.is_empty(),
            Moment::Receipts(count) => held.receipts.len() as u64 >= count,
            Moment::Start(_) => !held.receipts.is_empty(),
        }
    };
    // PostgreSQL's log does not grow here: then it is a moment like others.
    while !has_come() && begun.elapsed() < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    gateway.kill();
    callers.shutdown().await;
    let mut held = held.lock().expect("no caller panics");
    std::mem::take(&mut held)
}

impl Account {
    fn unknown(&self) -> u64 {
        self.outcomes.get("unknown").copied().unwrap_or(0)
    }

    /// Reads what the log has more than before, and requires that it is what
    /// clients and the provider know, and what its own sums say.
    async fn check(&mut self, gateway: &Gateway, held: Held, provider: &Provider, claim: &str) {
        let first = self.size;
        let leaves = self.read_on(gateway, claim).await;
        let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
        for (id, file) in held.receipts {
            let note = file["receipt"].as_str().expect("a text");
            let opened = Receipt::open(note.as_bytes(), &key).expect("a receipt");
            let at = opened.index().get().checked_sub(first);
            let leaf = at.and_then(|at| leaves.get(usize::try_from(at).expect("small")));
            let promised = Some(&opened.leaf_hash());
            assert_eq!(leaf, promised, "{claim}: receipt {id} is not honoured");
            self.receipts.push((id, file));
        }
        if let Some((id, file)) = self.receipts.last() {
            assert_eq!(&receipt(gateway, id).await, file, "{claim}");
        }
        for id in held.begun {
            let commitment = receipt_commitment(id.as_bytes()).to_string();
            let there = self.commitments.contains(&commitment);
            assert!(there, "{claim}: {id} has no record");
        }
        let [called, hung] = ["", "hang:"].map(|word| provider.count(word));
        let recorded = self.commitments.len();
        assert!(
            recorded >= called,
            "{claim}: {recorded} records of {called}"
        );
        let unknown = self.unknown();
        assert!(
            unknown >= hung as u64,
            "{claim}: {unknown} of {hung} hanging"
        );
        self.sums_agree(gateway, claim).await;
    }

    /// The leaf hashes of the entries that are new.
    async fn read_on(&mut self, gateway: &Gateway, claim: &str) -> Vec<Hash> {
        let mut leaves = vec![];
        loop {
            let after = self
                .size
                .checked_sub(1)
                .map(|last| format!("&after={last}"));
            let after = after.unwrap_or_default();
            let page = gateway
                .json(&format!("/api/records?limit=1000{after}"))
                .await;
            for record in page["records"].as_array().expect("a list") {
                assert_eq!(record["index"], self.size, "{claim}: an index is skipped");
                let entry = record["entry"].as_str().expect("a text");
                leaves.push(Hash::leaf(entry.as_bytes()));
                self.add(&serde_json::from_str(entry).expect("JSON"), claim);
            }
            if page["next"].is_null() {
                assert_eq!(page["size"], self.size, "{claim}: the log shrank");
                return leaves;
            }
        }
    }

    fn add(&mut self, entry: &Value, claim: &str) {
        self.size += 1;
        let Some(commitment) = entry["receipt"].as_str() else {
            return;
        };
        let new = self.commitments.insert(commitment.to_owned());
        assert!(new, "{claim}: two entries for a call");
        let outcome = entry["outcome"].as_str().expect("a text");
        *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
        self.input += entry["input"].as_u64().unwrap_or(0);
        self.output += entry["output"].as_u64().unwrap_or(0);
    }

    async fn sums_agree(&self, gateway: &Gateway, claim: &str) {
        let stats = gateway.json("/api/stats").await;
        assert_eq!(stats["size"], self.size, "{claim}");
        let outcomes = stats["outcomes"].as_object().expect("a map").iter();
        let outcomes = outcomes.filter_map(|(name, n)| Some((name.clone(), n.as_u64()?)));
        let outcomes: BTreeMap<_, _> = outcomes.filter(|(_, n)| *n > 0).collect();
        assert_eq!(outcomes, self.outcomes, "{claim}");
        let sum = |field: &str| stats["sources"][0][field].as_u64().unwrap_or(0);
        let sums = (sum("input"), sum("output"));
        assert_eq!(sums, (self.input, self.output), "{claim}");
    }
}

/// Calls again and again, and fetches each receipt, until the gateway dies.
pub(crate) async fn call_on(request: reqwest::RequestBuilder, url: String, held: Arc<Mutex<Held>>) {
    let client = client();
    loop {
        let again = request.try_clone().expect("a body in memory");
        let Ok(answer) = again.send().await else {
            return;
        };
        let id = receipt_id(answer.headers());
        held.lock().expect("no caller panics").begun.insert(id);
        if answer.bytes().await.is_err() {
            return;
        }
        loop {
            let Ok(answer) = client.get(format!("{url}/api/receipts/{id}")).send().await else {
                return;
            };
            let ready = answer.status() == 200;
            let Ok(file) = answer.json::<Value>().await else {
                return;
            };
            if ready {
                held.lock()
                    .expect("no caller panics")
                    .receipts
                    .insert(id, file);
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
