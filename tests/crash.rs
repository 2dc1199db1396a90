//! kill -9 under load: nothing that was released is lost, nothing forks, and
//! what was in flight comes back as `unknown`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::hash::receipt_commitment;
use serde_json::Value;
use uuid::Uuid;

use crate::binaries::Folder;
use crate::flow::{chat, holds, receipt, receipt_id};
use crate::gateway::{Gateway, client, free_address};
use crate::provider::Provider;
use crate::sentinel::{Sees, Sentinel};

/// What clients hold when the process dies.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Receipts that were released.
    pub(crate) receipts: HashMap<Uuid, Value>,
    /// Ids of calls whose answer began.
    pub(crate) begun: HashSet<Uuid>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_honours_what_it_released() {
    const KILLS: u32 = 6;
    let (provider, data) = (Provider::start().await, Folder::new());
    let address = free_address();
    let held = Arc::new(Mutex::new(Held::default()));
    let mut gateway = Gateway::start_at(data.path(), provider.url(), &address, &[]).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", gateway.vkey()]);
    let mut unknown = 0;
    for kill in 0..KILLS {
        let mut callers = tokio::task::JoinSet::new();
        for n in 0..16 {
            // Some calls hang, so that every kill finds some in flight.
            let model = if n < 3 { "hang:" } else { "chat.sse" };
            callers.spawn(call_on(
                chat(&gateway, model),
                gateway.url().to_owned(),
                Arc::clone(&held),
            ));
        }
        let hanging = || {
            provider
                .seen()
                .iter()
                .filter(|s| s.body.windows(5).any(|w| w == b"hang:"))
                .count()
        };
        while hanging() < 3 * (kill as usize + 1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(150 + 70 * u64::from(kill))).await;
        let last = gateway.json("/api/chain").await;
        gateway.kill();
        callers.shutdown().await;

        gateway = Gateway::start_at(data.path(), provider.url(), &address, &[]).await;
        let size = gateway.json("/api/chain").await["size"].as_u64();
        assert!(size >= last["size"].as_u64(), "kill {kill}: the log shrank");
        let pass = sentinel.patient_pass(gateway.url());
        assert_eq!(pass.compare(&Sees::Verified), Ok(()), "kill {kill}");

        let entries = gateway.entries().await;
        let mut commitments = HashSet::new();
        for entry in &entries[1..] {
            let commitment = entry["receipt"].as_str().expect("a commitment");
            assert!(
                commitments.insert(commitment.to_owned()),
                "kill {kill}: two entries for a call"
            );
        }
        let (receipts, begun) = {
            let held = held.lock().expect("no caller panics");
            (held.receipts.clone(), held.begun.clone())
        };
        for (id, file) in &receipts {
            let now = receipt(&gateway, id).await;
            assert_eq!(
                &now, file,
                "kill {kill}: a released receipt is not honoured"
            );
            holds(&gateway, &now);
        }
        for id in &begun {
            let commitment = receipt_commitment(id.as_bytes()).to_string();
            assert!(
                commitments.contains(&commitment),
                "kill {kill}: {id} has no record"
            );
        }
        let found = entries.iter().filter(|e| e["outcome"] == "unknown").count();
        assert!(
            found >= unknown + 3,
            "kill {kill}: hanging calls come back as unknown"
        );
        unknown = found;
        assert!(
            commitments.len() >= provider.seen().len(),
            "kill {kill}: calls without a record"
        );
    }
    let held = held.lock().expect("no caller panics");
    assert!(
        held.receipts.len() > 50,
        "the load was real: {}",
        held.receipts.len()
    );
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
