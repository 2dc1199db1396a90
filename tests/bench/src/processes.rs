//! The programs under measurement, run as processes, and what stands beside
//! them: a provider to call, and a way that counts requests.

use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Failed;

/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(5);

/// Builds the workspace's programs in release mode; gives their folder.
///
/// # Errors
/// They do not build.
pub(crate) fn build() -> Result<PathBuf, Failed> {
    let this = env::current_exe()?;
    let folder = this.parent().ok_or("this program is in a folder")?;
    let target = folder
        .parent()
        .ok_or("this program is in a target folder")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--quiet",
            "-p",
            "gateway",
            "-p",
            "sentinel",
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    status
        .success()
        .then(|| target.join("release"))
        .ok_or_else(|| "the programs do not build".into())
}

/// A gateway process, ended when dropped.
pub(crate) struct Gateway {
    child: Child,
    /// Its address, without a slash at the end.
    pub(crate) url: String,
}

impl Gateway {
    /// Starts one on `data`, in front of `provider` as `openai`, and waits
    /// until it is ready.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) async fn start(
        programs: &Path,
        data: &Path,
        provider: &str,
    ) -> Result<Self, Failed> {
        // The kernel gives a free port; nobody else is likely to take it meanwhile.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(programs.join("gateway"))
            .arg("--data-dir")
            .arg(data)
            .args(["--listen", &address.to_string()])
            .args(["--upstream", &format!("openai={provider}")])
            .env("RUST_LOG", "error")
            .stdout(Stdio::null())
            .spawn()?;
        let url = format!("http://{address}");
        let mut gateway = Self { child, url };
        let ready = format!("{}/readyz", gateway.url);
        loop {
            if reqwest::get(&ready)
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return Ok(gateway);
            }
            if let Some(status) = gateway.child.try_wait()? {
                return Err(format!("the gateway ended: {status}").into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It holds nothing that a later benchmark needs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program answering constant bytes, ended when dropped.
pub(crate) struct Constant {
    child: Child,
    /// Its host and port.
    pub(crate) address: String,
}

impl Constant {
    /// Starts one.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(bytes: usize) -> Result<Self, Failed> {
        let mut child = Command::new(env::current_exe()?)
            .args(["constant", &bytes.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        if let Some(told) = child.stdout.take() {
            BufReader::new(told).read_line(&mut address)?;
        }
        let address = address.trim().to_owned();
        Ok(Self { child, address })
    }
}

impl Drop for Constant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process took.
pub(crate) struct Run {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// From its start to its end.
    pub(crate) took: Duration,
    /// The most memory that it held resident, in bytes (VmHWM).
    pub(crate) peak: u64,
}

/// Runs a command to its end; what it prints is kept from stdout.
///
/// # Errors
/// It does not start.
pub(crate) fn run(command: &mut Command) -> Result<Run, Failed> {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // Gone when the process has ended; the mark of a moment before stands.
        peak = peak.max(high_water(&status).unwrap_or_default());
        if let Some(status) = child.try_wait()? {
            let took = started.elapsed();
            return Ok(Run { status, took, peak });
        }
        std::thread::sleep(LOOK.min(started.elapsed()).max(Duration::from_millis(1)));
    }
}

/// The most memory that a process held resident, in bytes (VmHWM), by its
/// `/proc/<id>/status`.
pub(crate) fn high_water(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// A provider that answers every call with the same usage; gives its URL.
///
/// # Errors
/// No port is free.
pub(crate) async fn provider() -> io::Result<String> {
    const BODY: &str = r#"{"id":"chatcmpl-bench","object":"chat.completion","model":"gpt-5-mini-2025-08-07","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}"#;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // One small request a connection: its head and body come together.
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok(url)
}

/// A way to a gateway that counts the requests on it.
pub(crate) struct Counted {
    /// Where it begins.
    pub(crate) url: String,
    requests: Arc<AtomicU64>,
}

impl Counted {
    /// A way to `gateway`.
    ///
    /// # Errors
    /// No port is free.
    pub(crate) async fn to(gateway: &Gateway) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let there = gateway.url.trim_start_matches("http://").to_owned();
        let requests = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(forward(stream, there.clone(), Arc::clone(&counter)));
            }
        });
        Ok(Self { url, requests })
    }

    /// How many went by.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Copies both ways; a request without a body ends with an empty line.
async fn forward(from: TcpStream, to: String, requests: Arc<AtomicU64>) -> io::Result<()> {
    let to = TcpStream::connect(to).await?;
    let (mut asking, mut answered) = from.into_split();
    let (mut answering, mut asked) = to.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut answering, &mut answered).await });
    let (mut bytes, mut matched) = (vec![0; 16_384], 0);
    loop {
        let len = asking.read(&mut bytes).await?;
        if len == 0 {
            break;
        }
        for byte in &bytes[..len] {
            matched = match (*byte, matched) {
                (b'\r', 0 | 2) | (b'\n', 1 | 3) => matched + 1,
                (b'\r', _) => 1,
                _ => 0,
            };
            if matched == 4 {
                requests.fetch_add(1, Ordering::Relaxed);
                matched = 0;
            }
        }
        asked.write_all(&bytes[..len]).await?;
    }
    drop(asked);
    let _ = back.await;
    Ok(())
}
