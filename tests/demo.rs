//! The demo: what a newcomer starts, with a chain on this machine.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::anchors::said;
use crate::anvil;
use crate::binaries::{Folder, program};
use crate::gateway::{client, free_address, terminate};

/// A demo that runs, killed when dropped.
struct Demo {
    child: Child,
    told: Arc<Mutex<String>>,
    log: String,
}

impl Demo {
    fn start(data: &Path, anvil: &Path) -> Self {
        let address = free_address();
        let mut child = Command::new(program("gateway"))
            .args(["demo", "--anchor", "--listen", &address])
            .arg("--anvil")
            .arg(anvil)
            .arg("--data-dir")
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built");
        let told = Arc::new(Mutex::new(String::new()));
        let (out, shared) = (child.stdout.take().expect("piped"), Arc::clone(&told));
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let mut told = shared.lock().expect("nobody panics");
                *told += &format!("{line}\n");
            }
        });
        let log = format!("http://{address}");
        Self { child, told, log }
    }

    fn told(&self) -> String {
        self.told.lock().expect("nobody panics").clone()
    }

    /// Waits until it has anchored; what follows a word that it told.
    async fn anchored(&self) -> impl Fn(&str) -> String + use<> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.told().contains("--rpc-url") {
            assert!(Instant::now() < deadline, "{}", self.told());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The line that holds the last word is whole.
        let told = self.told();
        move |word| {
            let rest = told
                .rsplit_once(word)
                .unwrap_or_else(|| panic!("{word}: {told}"))
                .1;
            rest.split_whitespace().next().expect("a word").to_owned()
        }
    }

    /// What the job's command sees of it.
    fn status(&self, chain: &str) -> String {
        let state = Folder::new();
        let mut status = Command::new(program("anchor"));
        status
            .args(["status", &self.log, "--chain", "anvil", "--rpc-url", chain])
            .arg("--state")
            .arg(state.path());
        said(status.output(), 0)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Ended already, if the test got to its end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn is_gone(url: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while client().get(url).send().await.is_ok() {
        assert!(Instant::now() < deadline, "{url} is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_anchors_on_a_chain_of_its_own_that_ends_with_it_and_is_kept() {
    let Some(anvil) = anvil::program() else {
        return;
    };
    let data = Folder::new();
    let mut demo = Demo::start(data.path(), anvil);
    let told = demo.anchored().await;
    let (contract, chain) = (told("contract "), told("--rpc-url "));
    assert_eq!(told("The page: "), format!("{}/anchors", demo.log));
    assert_eq!(told("--watch "), demo.log);
    let status = demo.status(&chain);
    assert!(
        status.contains(&format!("contract {contract} on chain 31337")),
        "{status}"
    );
    assert!(status.contains("anchored number 0 size "), "{status}");
    let root = told("root ");
    assert!(status.contains(&root), "{root}: {status}");
    assert!(
        status.contains("is the beginning of what the log offers"),
        "{status}"
    );
    let begun = Instant::now();
    terminate(demo.child.id());
    assert!(demo.child.wait().expect("our child").success());
    assert!(begun.elapsed() < Duration::from_secs(10));
    is_gone(&chain).await;
    // The log says where it is anchored for ever, so its chain must go on, too.
    let mut demo = Demo::start(data.path(), anvil);
    let told = demo.anchored().await;
    let chain = told("--rpc-url ");
    assert_eq!(told("contract "), contract);
    let status = demo.status(&chain);
    assert!(status.contains("anchored number 1 size "), "{status}");
    // Killed, it takes them with it.
    demo.child.kill().expect("it runs");
    demo.child.wait().expect("our child");
    is_gone(&chain).await;
}

#[test]
fn without_anvil_it_says_how_to_get_it() {
    let (folder, data) = (Folder::new(), Folder::new());
    let demo = |arguments: &[&str]| {
        let mut demo = Command::new(program("gateway"));
        demo.args([
            "demo",
            "--anchor",
            "--listen",
            &free_address(),
            "--data-dir",
        ]);
        demo.arg(data.path()).args(arguments);
        demo.current_dir(folder.path()).env("PATH", folder.path());
        said(demo.output(), 2)
    };
    let told = demo(&[]);
    assert!(
        told.contains("npm i --ignore-scripts @foundry-rs/anvil-"),
        "{told}"
    );
    let told = demo(&["--anvil", "nowhere/anvil"]);
    assert!(told.contains("no anvil at nowhere/anvil"), "{told}");
}
