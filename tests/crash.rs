//! kill -9 under load: nothing that was released is lost, nothing forks, and
//! what was in flight comes back as `unknown`.
//!
//! `TALLY_KILLS=5000` and `TALLY_SEED` kill more often, and otherwise.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs};

use protocol::hash::{Hash, receipt_commitment};
use protocol::key::VerifierKey;
use protocol::receipt::Receipt;
use serde_json::Value;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::binaries::Folder;
use crate::flow::{chat, receipt, receipt_id};
use crate::gateway::{Gateway, client, command, free_address};
use crate::provider::Provider;
use crate::sentinel::{Sees, Sentinel};

/// Kills in the test command.
const KILLS: usize = 200;

/// Kills of one log; then a new one is begun.
const KILLS_A_LOG: usize = 200;

/// Kills between two passes of the sentinel.
const KILLS_A_PASS: usize = 10;

/// What clients hold when the process dies.
#[derive(Debug, Default)]
struct Held {
    /// Receipts that were released since the last kill.
    receipts: Vec<(Uuid, Value)>,
    /// Ids of calls whose answer began since then.
    begun: Vec<Uuid>,
}

/// When the process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So many milliseconds after the load began.
    After(u64),
    /// The write-ahead log grows: while a batch is committed.
    Commit,
    /// The head file is replaced: after a commit, before it is published.
    Head,
    /// A client has got an answer's head: its record is not yet durable.
    Answer,
    /// A client has got a receipt.
    Receipt,
    /// So many milliseconds after the next start: while it takes up the log.
    Start(u64),
}

/// Draws that are the same every time.
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: u64) -> u64 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1);
        (self.0 >> 33) % n
    }

    fn moment(&mut self) -> Moment {
        match self.below(8) {
            0 => Moment::Commit,
            1 => Moment::Head,
            2 => Moment::Answer,
            3 => Moment::Receipt,
            4 => Moment::Start(self.below(200)),
            _ => Moment::After(self.below(250)),
        }
    }
}

/// What was seen of a log so far.
#[derive(Debug, Default)]
struct Account {
    size: u64,
    commitments: HashSet<String>,
    outcomes: BTreeMap<String, u64>,
    input: u64,
    output: u64,
    receipts: Vec<(Uuid, Value)>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_honours_what_it_released() {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    let mut left = number("TALLY_KILLS").unwrap_or(KILLS);
    let mut draws = Draws(number("TALLY_SEED").unwrap_or(1) as u64);
    let mut released = 0;
    let (began, all) = (Instant::now(), left);
    while left > 0 {
        let kills = left.min(KILLS_A_LOG);
        released += kill_a_log(kills, &mut draws).await;
        left -= kills;
        println!("{} kills in {:?}", all - left, began.elapsed());
    }
    assert!(released > all / 2, "the load was real: {released} receipts");
}

/// Begins a log and kills its gateway so often; how many receipts it released.
async fn kill_a_log(kills: usize, draws: &mut Draws) -> usize {
    let (provider, data) = (Provider::start().await, Folder::new());
    let address = free_address();
    // The first start dies, too: what it leaves is no log, or a whole one.
    let first = Moment::Start(draws.below(150));
    die_starting(data.path(), &provider, &address, first).await;
    let mut gateway = Gateway::start_at(data.path(), provider.url(), &address, &[]).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let mut account = Account::default();
    for kill in 1..=kills {
        let moment = draws.moment();
        let held = under_load(gateway, data.path(), moment).await;
        if let Moment::Start(_) = moment {
            die_starting(data.path(), &provider, &address, moment).await;
        }
        gateway = Gateway::start_at(data.path(), provider.url(), &address, &[]).await;
        account.check(&gateway, held, &provider).await;
        if kill % KILLS_A_PASS == 0 || kill == kills {
            let pass = sentinel.patient_pass(gateway.url());
            assert_eq!(
                pass.compare(&Sees::Verified),
                Ok(()),
                "kill {kill}, {moment:?}"
            );
        }
    }
    // At the end, all of them once more.
    for (id, file) in &account.receipts {
        assert_eq!(&receipt(&gateway, id).await, file);
    }
    let unknown = account.outcomes.get("unknown").copied().unwrap_or(0);
    assert!(
        unknown as usize >= kills / 2,
        "calls were in flight: {unknown}"
    );
    account.receipts.len()
}

/// Starts a gateway and kills it before it is ready, most likely.
async fn die_starting(data: &Path, provider: &Provider, address: &str, moment: Moment) {
    let Moment::Start(wait) = moment else { return };
    let mut child: Child = command(data, provider.url(), address)
        .spawn()
        .expect("the gateway was built");
    tokio::time::sleep(Duration::from_millis(wait)).await;
    child.kill().expect("our child");
    child.wait().expect("our child");
}

/// Puts load on it until it is killed; what clients hold then.
async fn under_load(gateway: Gateway, data: &Path, moment: Moment) -> Held {
    let held = Arc::new(Mutex::new(Held::default()));
    let mut callers = JoinSet::new();
    for n in 0..10 {
        // Some calls hang, so that most kills find some in flight.
        let model = if n < 2 { "hang:" } else { "chat.sse" };
        let url = gateway.url().to_owned();
        callers.spawn(call_on(chat(&gateway, model), url, Arc::clone(&held)));
    }
    let wal = data.join("tally.db-wal");
    let len = || fs::metadata(&wal).map_or(0, |file| file.len());
    let head = || fs::metadata(data.join("log.head")).and_then(|file| file.modified());
    let head = || head().unwrap_or(SystemTime::UNIX_EPOCH);
    let (len_before, head_before) = (len(), head());
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        let come = {
            let held = held.lock().expect("no caller panics");
            match moment {
                Moment::After(wait) => {
                    deadline - Instant::now() <= Duration::from_millis(3_000 - wait)
                }
                Moment::Commit => len() != len_before,
                Moment::Head => head() != head_before,
                Moment::Answer => !held.begun.is_empty(),
                Moment::Receipt | Moment::Start(_) => !held.receipts.is_empty(),
            }
        };
        if come {
            break;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    gateway.kill();
    callers.shutdown().await;
    let mut held = held.lock().expect("no caller panics");
    std::mem::take(&mut held)
}

impl Account {
    /// Reads what the log has more than before, and requires that it is what
    /// clients and the provider know.
    async fn check(&mut self, gateway: &Gateway, held: Held, provider: &Provider) {
        let key = VerifierKey::parse(gateway.vkey()).expect("a vkey");
        let mut leaves = vec![];
        let first = self.size;
        loop {
            let after = self.size.checked_sub(1);
            let after = after
                .map(|index| format!("&after={index}"))
                .unwrap_or_default();
            let page = gateway
                .json(&format!("/api/records?limit=1000{after}"))
                .await;
            for record in page["records"].as_array().expect("a list") {
                assert_eq!(
                    record["index"], self.size,
                    "no index is skipped or used twice"
                );
                let entry = record["entry"].as_str().expect("a text");
                leaves.push(Hash::leaf(entry.as_bytes()));
                self.add(&serde_json::from_str(entry).expect("JSON"));
            }
            if page["next"].is_null() {
                break;
            }
        }
        for (id, file) in &held.receipts {
            let note = file["receipt"].as_str().expect("a note");
            let opened = Receipt::open(note.as_bytes(), &key).expect("a receipt");
            let at = opened
                .index()
                .get()
                .checked_sub(first)
                .map(|at| at as usize);
            let leaf = at.and_then(|at| leaves.get(at));
            assert_eq!(
                leaf,
                Some(&opened.leaf_hash()),
                "receipt {id} is not honoured"
            );
        }
        if let Some((id, file)) = held.receipts.last() {
            assert_eq!(&receipt(gateway, id).await, file);
        }
        self.receipts.extend(held.receipts);
        for id in held.begun {
            let commitment = receipt_commitment(id.as_bytes()).to_string();
            assert!(self.commitments.contains(&commitment), "{id} has no record");
        }
        assert!(
            self.commitments.len() >= provider.count(""),
            "calls without a record"
        );
        let unknown = self.outcomes.get("unknown").copied().unwrap_or(0);
        assert!(
            unknown >= provider.count("hang:") as u64,
            "calls in flight are lost"
        );

        let stats = gateway.json("/api/stats").await;
        assert_eq!(stats["size"], self.size);
        let outcomes = stats["outcomes"].as_object().expect("a map").iter();
        let outcomes = outcomes.filter_map(|(name, n)| Some((name.clone(), n.as_u64()?)));
        let outcomes: BTreeMap<_, _> = outcomes.filter(|(_, n)| *n > 0).collect();
        assert_eq!(outcomes, self.outcomes);
        let sum = |field: &str| stats["sources"][0][field].as_u64().unwrap_or(0);
        assert_eq!((sum("input"), sum("output")), (self.input, self.output));
    }

    fn add(&mut self, entry: &Value) {
        self.size += 1;
        let Some(commitment) = entry["receipt"].as_str() else {
            return;
        };
        assert!(
            self.commitments.insert(commitment.to_owned()),
            "two entries for a call"
        );
        let outcome = entry["outcome"].as_str().expect("a text");
        *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
        self.input += entry["input"].as_u64().unwrap_or(0);
        self.output += entry["output"].as_u64().unwrap_or(0);
    }
}

/// Calls again and again, and fetches each receipt, until the gateway dies.
async fn call_on(request: reqwest::RequestBuilder, url: String, held: Arc<Mutex<Held>>) {
    let client = client();
    loop {
        let again = request.try_clone().expect("a body in memory");
        let Ok(answer) = again.send().await else {
            return;
        };
        let id = receipt_id(answer.headers());
        held.lock().expect("no caller panics").begun.push(id);
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
                let mut held = held.lock().expect("no caller panics");
                held.receipts.push((id, file));
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
