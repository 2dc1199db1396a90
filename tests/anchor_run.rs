//! `anchor run` as a process: it posts what is new, rests when nothing is, and
//! can be stopped or killed at any moment.

use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::anchors::{PURSE, Scene};
use crate::anvil::{HANGS, PASSES, Way};
use crate::gateway::terminate;

/// A job that runs, killed when dropped.
struct Job {
    child: Child,
    told: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Job {
    fn start(scene: &Scene, node: &str) -> Self {
        let mut command = scene.anchor("run", &["--every", "500ms"]);
        command.env("TALLY_ANCHOR_RPC_URL", node);
        let mut child = command.spawn().expect("it was built");
        let told = Arc::new(Mutex::new(String::new()));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let readers = vec![
            read(out.expect("piped"), Arc::clone(&told)),
            read(err.expect("piped"), Arc::clone(&told)),
        ];
        Self {
            child,
            told,
            readers,
        }
    }

    /// Waits until it has told something.
    async fn tells(&self, what: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.told().contains(what) {
            assert!(Instant::now() < deadline, "{what}: {}", self.told());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn told(&self) -> String {
        self.told.lock().expect("nobody panics").clone()
    }

    /// SIGTERM; how it ended, after how long, and all that it told.
    fn stop(mut self) -> (ExitStatus, Duration, String) {
        let begun = Instant::now();
        terminate(self.child.id());
        let status = self.child.wait().expect("our child");
        let took = begun.elapsed();
        for reader in self.readers.drain(..) {
            reader.join().expect("reading a pipe does not panic");
        }
        (status, took, self.told())
    }
}

/// kill -9, unless it has ended.
impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(mut from: impl std::io::Read + Send + 'static, told: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut part) {
            let text = String::from_utf8_lossy(&part[..count]);
            told.lock().expect("nobody panics").push_str(&text);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn it_posts_what_is_new_rests_when_nothing_is_and_stops_when_asked() {
    let Some(mut scene) = Scene::deployed().await else {
        return;
    };
    let job = Job::start(&scene, scene.anvil.url());
    // Nobody used anything yet.
    job.tells("not grown by 1 since size 0; nothing was sent")
        .await;
    for _ in 0..2 {
        scene.grow().await;
        job.tells(&scene.anchored()).await;
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    }
    assert_eq!(scene.sent(PURSE).await, 3, "the contract and two anchors");
    // What falls out of the chain meanwhile is sent again without being asked.
    scene.anvil.ask("anvil_reorg", json!([1, []])).await;
    job.tells("fell out of the chain; sending it again").await;
    let (hash, _) = scene.outbox().await.pop().expect("the last");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !scene.has(&hash).await {
        assert!(Instant::now() < deadline, "{}", job.told());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (status, took, told) = job.stop();
    assert!(
        status.success() && took < Duration::from_secs(5),
        "{status} {took:?}"
    );
    assert!(
        told.contains("stopped; the next run follows what is not final yet: 3\n"),
        "{told}"
    );
    scene.anvil.ask("anvil_mine", json!(["0x10"])).await;
    let job = Job::start(&scene, scene.anvil.url());
    job.tells("is anchored already; nothing was sent").await;
    let (_, _, told) = job.stop();
    assert!(told.contains("stopped; nothing is in flight\n"), "{told}");
    assert_eq!(scene.sent(PURSE).await, 3);
    assert_eq!(scene.outbox().await.len(), 3, "and nothing else was signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_or_after_a_broadcast_it_goes_on_with_the_same_bytes() {
    let Some(mut scene) = Scene::deployed().await else {
        return;
    };
    let way = Way::to(&scene.anvil).await;
    for (how, sent) in [(HANGS, 2), (PASSES, 3)] {
        scene.anvil.ask("evm_setAutomine", json!([false])).await;
        scene.grow().await;
        way.set(how);
        let before = way.broadcasts();
        let job = Job::start(&scene, way.url());
        let deadline = Instant::now() + Duration::from_secs(20);
        while way.broadcasts() == before {
            assert!(Instant::now() < deadline, "{}", job.told());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(job);
        let outbox = scene.outbox().await;
        assert_eq!(scene.sent(PURSE).await, sent - 1);
        way.set(PASSES);
        scene.anvil.ask("evm_setAutomine", json!([true])).await;
        scene.anvil.ask("evm_mine", json!([])).await;
        let job = Job::start(&scene, way.url());
        let _ = scene.anchored();
        job.tells(&format!("size {} root", scene.size)).await;
        job.tells("is anchored already; nothing was sent").await;
        assert!(job.stop().0.success());
        assert_eq!(scene.sent(PURSE).await, sent);
        let (hash, _) = outbox.last().expect("it was signed");
        assert!(scene.has(hash).await, "the bytes that were signed first");
        assert_eq!(scene.outbox().await.len(), outbox.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_an_outage_and_says_when_the_newest_anchor_is_overdue() {
    let Some(mut scene) = Scene::deployed().await else {
        return;
    };
    let way = Way::to(&scene.anvil).await;
    let job = Job::start(&scene, way.url());
    scene.grow().await;
    job.tells(&scene.anchored()).await;
    // A node that answers nonsense.
    way.lie("eth_estimateGas", Some(json!("no number")));
    scene.grow().await;
    job.tells("not anchored; trying again").await;
    job.tells("the newest anchor is overdue").await;
    way.lie("eth_estimateGas", None);
    job.tells(&scene.anchored()).await;
    // The contract was there: that it is not is no wrong use, but the node's doing.
    way.lie("eth_getCode", Some(json!("0x")));
    scene.grow().await;
    job.tells("there is no contract at").await;
    way.lie("eth_getCode", None);
    job.tells(&scene.anchored()).await;
    let (status, _, told) = job.stop();
    assert!(status.success(), "{told}");
    assert_eq!(scene.sent(PURSE).await, 4, "the contract and three anchors");
}
