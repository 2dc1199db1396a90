//! PostgreSQL servers of the tests' own, from the system's package, each on a
//! Unix socket in a folder of its own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Runs a command until its stdin ends, which it does however this process
/// ends; then ends the command (SIGQUIT: at once) and removes the folder $0.
const UNTIL_WE_END: &str = r#""$@" < /dev/null & cat > /dev/null; kill -QUIT $!; wait $!; [ -e "$0/keep" ] || rm -rf "$0""#;

/// A server, ended when dropped or with this process.
#[derive(Debug)]
pub(crate) struct Server {
    folder: PathBuf,
    running: Option<Child>,
}

impl Server {
    /// The one that tests share, each with databases of its own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A new one.
    pub(crate) fn start() -> Self {
        // Not in the target folder: the path of a socket has at most 107 bytes,
        // and the server may run as a user who can't get there.
        let folder = env::temp_dir().join(format!("tally-pg-{}-{}", std::process::id(), next()));
        fs::create_dir(&folder).expect("a fresh folder");
        if is_root() {
            let owned = Command::new("chown").arg("postgres").arg(&folder).status();
            assert!(
                owned.is_ok_and(|s| s.success()),
                "PostgreSQL's user is there"
            );
        }
        let mut init = program("initdb");
        init.args(["--username=postgres", "--auth=trust", "--encoding=UTF8"]);
        init.args(["--locale=C", "--no-sync", "-D"])
            .arg(folder.join("data"));
        let made = init.output().expect("initdb starts");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut server = Self {
            folder,
            running: None,
        };
        server.resume();
        server
    }

    /// Starts it again after [`Server::crash`].
    pub(crate) fn resume(&mut self) {
        let postgres = program("postgres");
        let mut shell = Command::new("sh");
        shell.args(["-c", UNTIL_WE_END]).arg(&self.folder);
        shell.arg(postgres.get_program()).args(postgres.get_args());
        shell.arg("-D").arg(self.folder.join("data"));
        shell.arg("-k").arg(&self.folder);
        for setting in [
            "listen_addresses=",
            "max_connections=400",
            "shared_buffers=64MB",
            "fsync=on",
            "synchronous_commit=on",
        ] {
            shell.args(["-c", setting]);
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log());
        shell.stdin(Stdio::piped()).stderr(log.expect("our folder"));
        self.running = Some(shell.spawn().expect("a shell starts"));
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.run("psql", &["-qAtc", "SELECT 1", "postgres"]) {
            let story = fs::read_to_string(self.log()).unwrap_or_default();
            assert!(Instant::now() < deadline, "the server starts: {story}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it as a crash would: its connections break, its log is replayed.
    pub(crate) fn crash(&mut self) {
        let keep = self.folder.join("keep");
        fs::write(&keep, "").expect("our folder");
        self.end();
        fs::remove_file(&keep).expect("written just now");
    }

    /// The URL of a new database.
    pub(crate) fn database(&self) -> String {
        let name = format!("log{}", next());
        assert!(self.run("createdb", &[&name]), "a database is made");
        let folder = self.folder.display();
        format!("postgres://postgres@localhost/{name}?host={folder}")
    }

    /// Puts the content of one database, which nobody uses, in the place of
    /// another's.
    pub(crate) fn put_back(&self, from: &str, url: &str) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", name(url));
        assert!(self.run("psql", &["-qc", &drop, "postgres"]), "{drop}");
        let made = self.run("createdb", &["-T", name(from), name(url)]);
        assert!(made, "a database is copied");
    }

    /// The URL of a new database with the content of another, which nobody uses.
    pub(crate) fn copy(&self, url: &str) -> String {
        let copy = format!("log{}", next());
        let made = self.run("createdb", &["-T", name(url), &copy]);
        assert!(made, "a database is copied");
        url.replacen(name(url), &copy, 1)
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> bool {
        let mut tool = Command::new(installed(tool));
        tool.args(["-U", "postgres", "-h"]).arg(&self.folder);
        let done = tool.args(arguments).output();
        done.expect("PostgreSQL's tools start").status.success()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn end(&mut self) {
        if let Some(mut shell) = self.running.take() {
            drop(shell.stdin.take());
            let _ = shell.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// The name of the database at a URL of ours.
fn name(url: &str) -> &str {
    let after = url.split_once("localhost/").map(|(_, after)| after);
    let name = after.and_then(|after| after.split('?').next());
    name.expect("a URL of ours")
}

fn next() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("POSIX has it");
    id.stdout.starts_with(b"0\n")
}

/// A program of the server's, which refuses to run as root.
fn program(name: &str) -> Command {
    if !is_root() {
        return Command::new(installed(name));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command.arg(installed(name));
    command
}

/// Debian keeps the server's programs out of PATH, one folder a version.
fn installed(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let folders = versions.flatten().map(|version| version.path().join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain(folders)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file());
    found.unwrap_or_else(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        panic!(
            "{name} is not installed: tests of {} need PostgreSQL (Debian: apt-get install postgresql)",
            root.display()
        )
    })
}
