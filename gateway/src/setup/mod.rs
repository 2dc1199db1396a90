//! `gateway setup`: points the tools on a user's machine at a log's gateway,
//! shows each change before it is made, can undo it, and tries one call.
//!
//! A client of any log. It reads the names of variables that hold credentials,
//! and the one value that the user allows it to send; it prints none.

mod call;
mod files;
mod text;
mod tools;

use std::collections::BTreeSet;
use std::env;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use protocol::name::{Address, AddressError};

use crate::client::{AskError, Log};
use crate::link::TOKEN;
use crate::proxy::LinkToken;
use call::Trial;
use files::{FileError, Record, Undone};
use tools::{Change, Finding, Machine, State, Target};

/// What `gateway setup` is asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct SetupOptions {
    /// The log's URL, such as `https://log.example.org`
    #[arg(value_name = "LOG URL", default_value = "http://127.0.0.1:8787")]
    url: String,

    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Take back what this command changed, where it still stands as it left it
    #[arg(long, conflicts_with = "dry_run")]
    undo: bool,

    /// Change files without asking
    #[arg(long)]
    yes: bool,

    /// Make the one call without asking; it costs what a few tokens cost
    #[arg(long)]
    call: bool,

    /// The model of that call [default: a small one of those that the provider lists]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,

    /// Claim the calls for this wallet: 0x and 40 hex digits. A link token,
    /// bound by `gateway link`, proves it
    #[arg(long, value_name = "ADDRESS")]
    wallet: Option<String>,

    /// The log's verifier key, if you know it: nothing is set up for another log
    #[arg(long, value_name = "VKEY")]
    vkey: Option<String>,

    /// The folder that holds the tools' files [default: your home]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
}

/// Why not everything was done.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An argument.
    #[error("{0}")]
    Argument(String),
    /// The wallet's address.
    #[error(transparent)]
    Wallet(#[from] AddressError),
    /// The log could not be asked, or refused.
    #[error(transparent)]
    Log(#[from] AskError),
    /// The record of what was done.
    #[error("{0}")]
    Record(String),
    /// Files that could not be changed or put back.
    #[error("not everything was done: {}", .0.join("; "))]
    Files(Vec<String>),
    /// The call.
    #[error("the call: {0}")]
    Call(String),
}

impl SetupError {
    /// Whether the command line is to blame.
    pub fn is_wrong_use(&self) -> bool {
        matches!(
            self,
            Self::Argument(_) | Self::Wallet(_) | Self::Log(AskError::Url(_))
        )
    }
}

impl From<FileError> for SetupError {
    fn from(error: FileError) -> Self {
        Self::Record(error.to_string())
    }
}

/// Runs it on the terminal.
///
/// # Errors
/// [`SetupError`].
pub async fn run(options: SetupOptions) -> Result<(), SetupError> {
    let machine = Machine::of(options.home.as_deref())?;
    let mut record = Record::open(&machine.home)?;
    if options.undo {
        return undo(&machine, &mut record);
    }
    let log = Log::new(&options.url)?;
    let within = within(options.wallet.as_deref(), env::var(TOKEN).ok().as_deref())?;
    let key = log.key(options.vkey.as_deref()).await?;
    let target = Target {
        log: log.url().to_owned(),
        here: log.is_here(),
        private: log.is_private(),
        within,
        providers: log.providers().await?,
        written: record.urls().cloned().collect(),
    };
    println!("The log {} at {}\n", key.origin(), log.url());
    let findings = tools::look(&machine, &target);
    let changes = show(&machine, &findings);
    if options.dry_run {
        return Ok(());
    }
    if !apply(&options, &machine, &mut record, &changes)? {
        return Ok(());
    }
    let trial = Trial {
        log: &log,
        key: &key,
        within: &target.within,
        providers: &target.providers,
        model: options.model.as_deref(),
        agreed: options.call,
    };
    trial.run().await.map_err(SetupError::Call)
}

impl Machine {
    /// This machine; with a folder given, only what is in it.
    fn of(home: Option<&Path>) -> Result<Self, SetupError> {
        let own = |variable: &str| env::var_os(variable).filter(|value| !value.is_empty());
        let folder = match home {
            Some(home) => Some(home.to_owned()),
            None => own("HOME").map(PathBuf::from),
        };
        let folder = folder.and_then(|folder| folder.canonicalize().ok());
        let folder = folder.filter(|folder| folder.is_dir()).ok_or_else(|| {
            SetupError::Argument("there is no home folder: give one with --home".into())
        })?;
        let at = |variable: &str, usual: &str| match own(variable).filter(|_| home.is_none()) {
            Some(path) => PathBuf::from(path),
            None => folder.join(usual),
        };
        let set = env::vars_os().filter(|(_, value)| !value.is_empty());
        Ok(Self {
            claude: at("CLAUDE_CONFIG_DIR", ".claude"),
            codex: at("CODEX_HOME", ".codex"),
            shell: env::var("SHELL").unwrap_or_default(),
            variables: set
                .filter_map(|(name, _)| name.into_string().ok())
                .collect(),
            home: folder,
        })
    }

    /// A path as people write it.
    fn shown(&self, path: &Path) -> String {
        match path.strip_prefix(&self.home) {
            Ok(rest) => format!("~/{}", rest.display()),
            Err(_) => path.display().to_string(),
        }
    }
}

/// What base URLs say behind the provider's name.
fn within(wallet: Option<&str>, token: Option<&str>) -> Result<String, SetupError> {
    let mut within = String::new();
    if let Some(wallet) = wallet {
        within.push_str(&format!("/w/{}", Address::from_checked(wallet)?));
    }
    if let Some(token) = token.map(str::trim) {
        if LinkToken::parse(token.as_bytes()).is_none() {
            let message = format!("{TOKEN} is not 43 characters of base64url");
            return Err(SetupError::Argument(message));
        }
        within.push_str(&format!("/t/{token}"));
    }
    Ok(within)
}

/// Shows what was found; the changes to be made.
fn show<'a>(machine: &Machine, findings: &'a [Finding]) -> Vec<&'a Change> {
    let mut changes = vec![];
    let mut absent = vec![];
    for Finding { tool, state } in findings {
        match state {
            State::Absent => absent.push(*tool),
            State::Set => println!("{tool}: points there already.\n"),
            State::Left(why) => println!("{tool}: not changed: {why}.\n"),
            State::Hand(what) => println!("{tool}: by hand: {what}\n"),
            State::Change(change) => {
                println!("{tool}: would change");
                print!("{}", difference(&machine.shown(&change.path), change));
                println!(
                    "{}",
                    change
                        .note
                        .map_or(String::new(), |note| format!("  {note}\n"))
                );
                changes.push(change);
            }
        }
    }
    if !absent.is_empty() {
        println!("Not on this machine: {}.\n", absent.join(", "));
    }
    changes
}

/// The lines that change, and nothing else of a file that may hold credentials.
fn difference(name: &str, change: &Change) -> String {
    let created = change.before.is_none();
    let mut lines = match created {
        true => format!("  --- /dev/null\n  +++ {name}\n"),
        false => format!("  --- {name}\n  +++ {name}\n"),
    };
    let before = change.before.as_deref().unwrap_or_default();
    for edit in &change.edits {
        let line = before[..edit.at].matches('\n').count() + 1;
        if !created {
            lines.push_str(&format!("  @@ line {line} @@\n"));
        }
        for (sign, text) in [('-', &edit.old), ('+', &edit.new)] {
            let text = text.trim_matches('\n');
            for (number, text) in text.lines().enumerate() {
                let label = if number == 0 { edit.label.as_str() } else { "" };
                lines.push_str(&format!("  {sign}{label}{}\n", tools::shown(text)));
            }
        }
    }
    lines
}

/// Makes the changes; `false` where the user wants none.
fn apply(
    options: &SetupOptions,
    machine: &Machine,
    record: &mut Record,
    changes: &[&Change],
) -> Result<bool, SetupError> {
    if changes.is_empty() {
        println!("There is nothing to change.");
        return Ok(true);
    }
    if !options.yes && !agreed(&format!("Change {}?", files_of(changes.len())))? {
        println!("Nothing was changed.");
        return Ok(false);
    }
    let mut failed = vec![];
    for change in changes {
        match record.change(change) {
            Ok(()) => println!("Changed {}", machine.shown(&change.path)),
            Err(error) => failed.push(error.to_string()),
        }
    }
    println!("To take it back: gateway setup --undo\n");
    match failed.is_empty() {
        true => Ok(true),
        false => Err(SetupError::Files(failed)),
    }
}

fn files_of(count: usize) -> String {
    match count {
        1 => "this file".into(),
        count => format!("these {count} files"),
    }
}

/// Whether the user says yes; only a terminal can be asked.
fn agreed(question: &str) -> Result<bool, SetupError> {
    if !io::stdin().is_terminal() {
        return Err(SetupError::Argument(
            "there is no terminal to ask on: say --yes, or look with --dry-run".into(),
        ));
    }
    eprint!("{question} [y/N] ");
    let _ = io::stderr().flush();
    let mut line = String::new();
    // Who can't be heard has not said yes.
    let _ = io::stdin().lock().read_line(&mut line);
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn undo(machine: &Machine, record: &mut Record) -> Result<(), SetupError> {
    if record.is_empty() {
        println!("There is nothing to take back.");
        return Ok(());
    }
    let mut left = vec![];
    let mut seen = BTreeSet::new();
    for undone in record.undo()? {
        let (path, text) = match undone {
            Undone::Back(path) => (path, "is as it was before"),
            Undone::Partly(path) => (path, "was changed since: what was written is taken out"),
            Undone::Left(path, why) => {
                left.push(format!("{}: {why}", machine.shown(&path)));
                continue;
            }
        };
        if seen.insert(path.clone()) {
            println!("{} {text}", machine.shown(&path));
        }
    }
    match left.is_empty() {
        true => Ok(()),
        false => Err(SetupError::Files(left)),
    }
}

#[cfg(test)]
mod tests;
