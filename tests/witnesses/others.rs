//! Witnesses of others' making cosign a real gateway's log: litewitness of
//! filippo.io/torchwood, and omniwitness of transparency-dev/witness.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protocol::cosignature::Cosigner;
use protocol::hash::Hash;
use protocol::vkey::{ED25519, KeyName, Vkey};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqlSafeStr as _};

use super::{Log, calls, covers, fares, metric, served, verified};
use crate::binaries::Folder;
use crate::gateway::free_address;
use crate::python::run;
use crate::sentinel::Sentinel;

/// A program, killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, if it failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn witnesses_of_others_cosign_our_log() {
    let Some(programs) = built() else { return };
    let (log, folder) = (Log::begun().await, Folder::new());
    let lite = free_address();
    let omni = free_address();
    let lines = [("lite", 1, &lite), ("omni", 2, &omni)].map(|(name, seed, address)| {
        let vkey = cosigner(name, seed).verifier().to_string();
        format!("witness {name} {vkey} http://{address}\n")
    });
    let both = "group both all lite omni\nquorum both";
    let policy = format!("log {}\n{}{both}\n", log.vkey, lines.concat());
    let _running = litewitness(&programs, folder.path(), &lite, &log.vkey).await;
    let omniwitness = || omniwitness(&programs, folder.path(), &omni, &log.vkey);
    let running = omniwitness();

    let gateway = log.start(&policy).await;
    let sentinel = Sentinel::fresh().with(&["--vkey", &log.vkey]);
    let mut size = 1;
    for count in [1, 3, 260] {
        calls(&gateway, count).await;
        size += count as u64;
        let took = covers(&gateway, &policy, size, true).await;
        eprintln!("{size} entries are cosigned by both after {took:?}");
        verified(&sentinel, &gateway);
    }
    assert_eq!(served(&gateway, &policy).await.2, 2);

    // One of them is away for a while, and then caught up with.
    drop(running);
    for _ in 0..3 {
        calls(&gateway, 50).await;
        size += 50;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    covers(&gateway, &policy, size, false).await;
    fares(&gateway, "omni", "failing", "can't be reached").await;
    let _running = omniwitness();
    covers(&gateway, &policy, size, true).await;
    fares(&gateway, "omni", "cosigning", "").await;
    for witness in ["lite", "omni"] {
        metric(&gateway, &format!("{{witness=\"{witness}\"}} {size}\n")).await;
        assert!(
            !gateway.story().contains("contradicts"),
            "{}",
            gateway.story()
        );
    }
    verified(&sentinel, &gateway);
}

fn cosigner(name: &str, seed: u8) -> Cosigner {
    Cosigner::new(key_name(name), &[seed; 32])
}

fn key_name(name: &str) -> KeyName {
    KeyName::new(&format!("witness.example/{name}")).expect("a name")
}

/// Runs litewitness, its key in an agent, and has it know the log.
async fn litewitness(programs: &Path, folder: &Path, address: &str, vkey: &str) -> [Running; 2] {
    // The path of a socket is short.
    let socket = std::env::temp_dir().join(format!("tally-{}.agent", std::process::id()));
    let mut agent = Command::new(programs.join("witnesses"));
    agent
        .arg(&socket)
        .arg("01".repeat(32))
        .stdout(Stdio::piped());
    let mut agent = Running(agent.spawn().expect("it was built"));
    let mut fingerprint = String::new();
    let told = BufReader::new(agent.0.stdout.take().expect("piped")).read_line(&mut fingerprint);
    told.expect("a line");
    let database = folder.join("lite.db");
    let mut witness = Command::new(programs.join("litewitness"));
    witness.args(["-name", "witness.example/lite", "-listen", address]);
    witness.args(["-key", fingerprint.trim()]);
    witness
        .arg("-ssh-agent")
        .arg(&socket)
        .arg("-db")
        .arg(&database);
    witness.stderr(Stdio::null());
    let witness = Running(witness.spawn().expect("it was built"));
    listens(address).await;
    // It holds the connection by now.
    let _ = fs::remove_file(&socket);

    // What `witnessctl add-log` and `add-key` do.
    let (origin, empty) = (vkey.split('+').next().expect("a name"), Hash::EMPTY_ROOT);
    let options = SqliteConnectOptions::new().filename(&database);
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .expect("its database");
    for sql in [
        format!(
            "INSERT INTO log VALUES ('{origin}', 0, '{}')",
            empty.to_base64()
        ),
        format!("INSERT INTO key VALUES ('{origin}', '{vkey}')"),
    ] {
        let done = connection.execute(AssertSqlSafe(sql).into_sql_str()).await;
        done.expect("its tables");
    }
    connection.close().await.expect("closes");
    [agent, witness]
}

/// Runs omniwitness, which is told of the log by a file.
fn omniwitness(programs: &Path, folder: &Path, address: &str, vkey: &str) -> Running {
    let name = key_name("omni");
    let seed = [2; 32];
    let public = cosigner("omni", 2).verifier().vkey().key().to_vec();
    let [a, b, c, d] = Vkey::new(name.clone(), ED25519, public).key_hash();
    let secret = STANDARD.encode([&[ED25519][..], &seed].concat());
    let key = format!("PRIVATE+KEY+{name}+{a:02x}{b:02x}{c:02x}{d:02x}+{secret}");
    fs::write(folder.join("omni.key"), key).expect("our folder");
    let origin = vkey.split('+').next().expect("a name");
    let logs = format!(
        "Logs:\n  - Origin: {origin}\n    URL: http://127.0.0.1:9\n    PublicKey: {vkey}\n"
    );
    fs::write(folder.join("logs.yaml"), logs).expect("our folder");
    let mut witness = Command::new(programs.join("omniwitness"));
    witness.args(["--listen", address, "--metrics_listen", ""]);
    for (flag, file) in [
        ("--private_key_path", "omni.key"),
        ("--additional_logs", "logs.yaml"),
        ("--db_file", "omni.db"),
    ] {
        witness.arg(flag).arg(folder.join(file));
    }
    witness.stderr(Stdio::null());
    Running(witness.spawn().expect("it was built"))
}

async fn listens(address: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < deadline, "nobody listens on {address}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The folder with the programs, built; `None` where there is no Go that can,
/// which CI must have (`tests/run` names it in its summary).
fn built() -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("witnesses");
    let go = || {
        let mut go = Command::new("go");
        go.current_dir(&sources);
        go
    };
    // Fails where Go is too old and may not fetch a newer one.
    let reads = go().args(["list", "-m"]).output();
    if !reads.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI has no Go that is new enough"
        );
        crate::skipped::skip("no witness of others cosigned: there is no Go, or only an older one");
        return None;
    }
    let programs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("witnesses");
    fs::create_dir_all(&programs).expect("the target folder is writable");
    let mut build = go();
    build.args(["build", "-mod=readonly", "-o"]);
    build.arg(&programs).args([
        ".",
        "filippo.io/torchwood/cmd/litewitness",
        "github.com/transparency-dev/witness/cmd/omniwitness",
    ]);
    run(&mut build);
    Some(programs)
}
