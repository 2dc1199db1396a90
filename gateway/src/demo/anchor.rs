//! The demo's chain: an anvil of its own, and the anchor job that puts the
//! log's roots there. The chain is kept beside the log, as the log says where
//! it is anchored for ever.
//!
//! Both are programs that end with this one, however it ends.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use protocol::key::VerifierKey;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};

use crate::chain::RpcUrl;
use crate::web;

/// Runs "$0" "$@" until stdin ends, which it does however the process that
/// holds its other end ends; then ends it. Ends with it, too.
const WITH_US: &str = r#"exec 3<&0
"$0" "$@" 3<&- < /dev/null &
child=$!
(cat <&3; kill "$child") > /dev/null 2>&1 &
wait "$child""#;

/// The key of the first account that every anvil endows: everybody knows it.
const GAS_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// How often the log is anchored.
const EVERY: &str = "15s";

/// How long a program may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// What the demo needs for it.
#[derive(Debug)]
pub(super) struct Programs {
    anvil: PathBuf,
    anchor: PathBuf,
}

/// Why the demo's log can't be anchored.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// No anvil.
    #[error(
        "no anvil, which is a chain on this machine, in PATH, beside this program or in ./node_modules: run `npm i --ignore-scripts {0}` here, or say where it is with --anvil PATH"
    )]
    NoAnvil(String),
    /// Not where it was said to be.
    #[error("no anvil at {}", .0.display())]
    NotThere(PathBuf),
    /// No anchor job.
    #[error("the anchor job is not at {}: build it with `{command}`", file.display())]
    NoJob {
        /// Where it should be.
        file: PathBuf,
        /// What builds it.
        command: &'static str,
    },
    /// A program does not run.
    #[error("{} can't be run", program.display())]
    Run {
        /// Which.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended before it listened.
    #[error("{} ended at once; it told why above", .0.display())]
    Ended(PathBuf),
}

impl Programs {
    /// anvil where it is given, else in PATH, beside this program, or where
    /// npm puts it; the anchor job beside this program.
    pub(super) fn find(anvil: Option<&Path>) -> Result<Self, AnchorError> {
        let this = env::current_exe().unwrap_or_default();
        let anvil = match anvil {
            Some(given) if given.is_file() => given.to_owned(),
            Some(given) => return Err(AnchorError::NotThere(given.to_owned())),
            None => anvil_of(&this).ok_or_else(|| AnchorError::NoAnvil(package()))?,
        };
        let file = this.with_file_name("anchor");
        if !file.is_file() {
            let command = match this
                .parent()
                .is_some_and(|folder| folder.ends_with("debug"))
            {
                true => "cargo build -p anchor",
                false => "cargo build --release -p anchor",
            };
            return Err(AnchorError::NoJob { file, command });
        }
        let anchor = file;
        Ok(Self { anvil, anchor })
    }
}

fn anvil_of(this: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let of_npm = format!("node_modules/{}/bin/anvil", package());
    env::split_paths(&path)
        .map(|folder| folder.join("anvil"))
        .chain([this.with_file_name("anvil"), of_npm.into()])
        .find(|file| file.is_file())
}

/// npm's package for this machine.
fn package() -> String {
    let system = match env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let machine = match env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    format!("@foundry-rs/anvil-{system}-{machine}")
}

/// A chain that runs.
#[derive(Debug)]
pub(super) struct Chain {
    programs: Programs,
    /// Where it and the job's outbox are kept.
    folder: PathBuf,
    url: String,
    node: RpcUrl,
    _anvil: Program,
}

impl Chain {
    /// Starts it, or goes on with the one that is in `folder`.
    pub(super) async fn start(programs: Programs, folder: PathBuf) -> Result<Self, AnchorError> {
        let failed = |source| AnchorError::Run {
            program: programs.anvil.clone(),
            source,
        };
        fs::create_dir_all(&folder).map_err(failed)?;
        let mut command = with_us(&programs.anvil);
        command
            // A block in three seconds, final two blocks later.
            .args(["--port", "0", "--block-time", "3"])
            .args(["--slots-in-an-epoch", "1", "--state-interval", "30"])
            .arg("--state")
            .arg(folder.join("chain.json"));
        let mut anvil = Program::start(&mut command).map_err(failed)?;
        while let Some(line) = anvil.line().await {
            if let Some(address) = line.strip_prefix("Listening on ") {
                let url = format!("http://{address}");
                let Ok(node) = url.parse() else {
                    break;
                };
                // Nobody reads the rest, and it must not stop at a full pipe.
                let mut rest = anvil.lines.take();
                tokio::spawn(async move { while next(&mut rest).await.is_some() {} });
                return Ok(Self {
                    programs,
                    folder,
                    url,
                    node,
                    _anvil: anvil,
                });
            }
        }
        Err(AnchorError::Ended(programs.anvil))
    }

    /// Its JSON-RPC.
    pub(super) fn node(&self) -> &RpcUrl {
        &self.node
    }

    /// Puts the contract of the log at `log` there, then anchors it again and
    /// again until it is dropped, and says what there is to be seen.
    pub(super) async fn anchor(&self, log: &str, key: &VerifierKey) {
        let outbox = self.folder.join("outbox");
        // A chain that was killed may have lost blocks of which the last job
        // knows; nothing is lost with what was in flight here.
        let _ = fs::remove_dir_all(&outbox);
        let command = |task: &str| {
            let mut command = with_us(&self.programs.anchor);
            command
                .args([task, log, "--chain", "anvil", "--rpc-url", &self.url])
                .args(["--poll", "1s", "--vkey", &key.to_string(), "--state"])
                .arg(&outbox)
                .env("TALLY_ANCHOR_KEY", GAS_KEY)
                .env("TALLY_ANCHOR_LOG_LEVEL", "warn");
            command
        };
        if let Err(error) = self.show(command, log, key).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the log is not anchored"
            );
        }
    }

    async fn show(
        &self,
        command: impl Fn(&str) -> Command,
        log: &str,
        key: &VerifierKey,
    ) -> io::Result<()> {
        let mut deploying = Program::start(&mut command("deploy"))?;
        while let Some(line) = deploying.line().await {
            if let Some(contract) = line.strip_prefix("contract ") {
                println!(
                    "Anchored every {EVERY} on a chain of its own at {}:\n  contract {contract}\n",
                    self.url
                );
            }
        }
        drop(deploying);
        let mut running = Program::start(command("run").args(["--every", EVERY]))?;
        let mut first = true;
        while let Some(line) = running.line().await {
            println!("{line}");
            if first && line.starts_with("transaction ") {
                first = false;
                println!(
                    "\nThe page: {log}/anchors\nCheck what is anchored, from a second terminal:\n  {} --rpc-url {}\n",
                    web::sentinel_line(log, key),
                    self.url
                );
            }
        }
        Err(io::Error::other("the anchor job ended; it told why above"))
    }
}

/// A program that runs and ends with this one.
#[derive(Debug)]
struct Program {
    child: Child,
    lines: Option<Lines<BufReader<tokio::fs::File>>>,
}

fn with_us(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", WITH_US]).arg(program);
    command
}

impl Program {
    fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command
            // Ctrl-c is for us: we say when it ends.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = child.stdout.take().map(|told| {
            let told = tokio::fs::File::from_std(File::from(OwnedFd::from(told)));
            BufReader::new(told).lines()
        });
        Ok(Self { child, lines })
    }

    /// The next line that it tells.
    async fn line(&mut self) -> Option<String> {
        next(&mut self.lines).await
    }
}

async fn next(lines: &mut Option<Lines<BufReader<tokio::fs::File>>>) -> Option<String> {
    lines.as_mut()?.next_line().await.ok()?
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let begun = Instant::now();
        while begun.elapsed() < GRACE && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(20));
        }
    }
}
