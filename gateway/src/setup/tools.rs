//! The tools that are known: where each keeps its base URL, what it says now,
//! and what would have to change.
//!
//! Formats are those of the tools' documentation: Claude Code's settings (`env`),
//! Codex's `config.toml` (`model_provider`, `model_providers`), Gemini CLI's
//! `.env`, OpenClaw's `models.providers`. Nothing is written here, and of
//! the environment's credentials only the names are known.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::files::{self, Existing};
use super::text::{self, Codex, Edit};
use crate::sdk::{SDKS, Sdk};

/// The machine that is looked at.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// The user's folder.
    pub(super) home: PathBuf,
    /// The folder of Claude Code's settings.
    pub(super) claude: PathBuf,
    /// The folder of Codex's configuration.
    pub(super) codex: PathBuf,
    /// The user's shell.
    pub(super) shell: String,
    /// The environment's variables, by name.
    pub(super) variables: BTreeSet<String>,
}

/// Where tools are to be pointed.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The log's URL.
    pub(super) log: String,
    /// Whether that is on this machine.
    pub(super) here: bool,
    /// Whether tools that insist on https take it.
    pub(super) private: bool,
    /// What stands behind a provider's name: wallet or link token.
    pub(super) within: String,
    /// The providers that the log's gateway forwards to.
    pub(super) providers: Vec<String>,
    /// Base URLs that were written here before.
    pub(super) written: BTreeSet<String>,
}

/// What was found of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The tool's name.
    pub(super) tool: &'static str,
    /// What is to be done.
    pub(super) state: State,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is not on this machine.
    Absent,
    /// It points there already.
    Set,
    /// A file would change.
    Change(Change),
    /// Nothing changes, for this reason.
    Left(String),
    /// Somebody has to do this by hand.
    Hand(String),
}

/// A file that would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The file, links followed.
    pub(super) path: PathBuf,
    /// What it holds; nothing if it is not there.
    pub(super) before: Option<String>,
    /// What changes in it.
    pub(super) edits: Vec<Edit>,
    /// The base URLs that it would then hold.
    pub(super) urls: Vec<String>,
    /// What to know of it.
    pub(super) note: Option<&'static str>,
}

type Look = fn(&Machine, &Target) -> State;

/// Looks at every tool.
pub(super) fn look(machine: &Machine, target: &Target) -> Vec<Finding> {
    let tools: [(&'static str, Look); 6] = [
        ("Claude Code", claude_code),
        ("Codex", codex),
        ("Gemini CLI", gemini_cli),
        ("Cursor", cursor),
        ("OpenClaw", openclaw),
        ("SDKs, by your shell's profile", profile),
    ];
    let found = tools.map(|(tool, look)| Finding {
        tool,
        state: look(machine, target),
    });
    found.into()
}

impl Target {
    /// The base URL for a provider's clients, if calls to it are forwarded.
    fn base_url(&self, provider: &str) -> Result<(&'static Sdk, String), State> {
        let sdk = Sdk::of(provider).filter(|sdk| self.providers.iter().any(|p| p == sdk.provider));
        let sdk = sdk.ok_or_else(|| State::Left(format!("this log has no provider {provider}")))?;
        Ok((sdk, sdk.base_url(&self.log, &self.within)))
    }

    /// Whether a URL may be replaced: the provider's own, or one of ours.
    fn replaces(&self, sdk: &Sdk, url: &str) -> bool {
        let ours = format!("{}/{}", self.log, sdk.provider);
        let ours = url.strip_prefix(&ours);
        let ours = ours.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.of_provider(sdk, url).is_some() || ours || self.written.contains(url)
    }

    /// What follows a provider's own address in a URL, if it is one of its own.
    fn of_provider<'a>(&self, sdk: &Sdk, url: &'a str) -> Option<&'a str> {
        let rest = url.strip_prefix(sdk.own)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }
}

/// A URL that is somebody else's: what it leads to works, and is left alone.
fn other(name: &str, url: &str) -> State {
    State::Left(format!(
        "{name} is {} already; take that out to have it changed",
        shown(url)
    ))
}

/// A URL without what may be secret: user, password, link token, query.
pub(super) fn shown(url: &str) -> String {
    let (url, query) = url
        .split_once('?')
        .map_or((url, ""), |(url, _)| (url, "?.."));
    let mut token = false;
    let parts = url.split('/').map(|part| {
        let is_token = std::mem::replace(&mut token, part == "t");
        match part.rsplit_once('@') {
            _ if is_token => "<link token>".to_owned(),
            Some((_, host)) => format!("..@{host}"),
            None => part.to_owned(),
        }
    });
    parts.collect::<Vec<_>>().join("/") + query
}

fn claude_code(machine: &Machine, target: &Target) -> State {
    let there = machine.claude.is_dir() || machine.home.join(".claude.json").is_file();
    const PATH: [&str; 2] = ["env", "ANTHROPIC_BASE_URL"];
    let state = || -> Result<State, State> {
        if !there {
            return Ok(State::Absent);
        }
        let (sdk, url) = target.base_url("anthropic")?;
        let file = read(&machine.claude.join("settings.json"))?;
        let text = file.text();
        let now = text::json_text(text, &PATH).map_err(|error| file.refused(&error))?;
        match now {
            Some(now) if now == url => return Ok(State::Set),
            Some(now) if !target.replaces(sdk, &now) => return Ok(other(PATH[1], &now)),
            _ => {}
        }
        let edit = text::json_set(text, &PATH, &url).map_err(|error| file.refused(&error))?;
        Ok(change(file, vec![edit], vec![url], None))
    };
    state().unwrap_or_else(|state| state)
}

fn codex(machine: &Machine, target: &Target) -> State {
    let state = || -> Result<State, State> {
        if !machine.codex.is_dir() {
            return Ok(State::Absent);
        }
        let (sdk, url) = target.base_url("openai")?;
        let file = read(&machine.codex.join("config.toml"))?;
        let text = file.text();
        let now = Codex::parse(text).map_err(|error| file.refused(&error))?;
        let edits = Codex::set(text, &url).map_err(|error| file.refused(&error))?;
        if edits.is_empty() {
            return Ok(State::Set);
        }
        match (now.chosen(), now.base_url()) {
            (Some("tallystick"), Some(now)) if !target.replaces(sdk, now) => {
                return Ok(other("base_url", now));
            }
            (None | Some("openai" | "tallystick"), _) => {}
            (Some(name), _) => {
                return Ok(State::Left(format!(
                    "it uses the provider {name:?}; take model_provider out to have it changed"
                )));
            }
        }
        // With a ChatGPT login Codex talks to another server than the API's.
        if !machine.variables.contains("OPENAI_API_KEY") {
            return Ok(State::Left(
                "OPENAI_API_KEY is not set here, and a ChatGPT login is good for ChatGPT's own \
                 server only; with an API key, run this again"
                    .into(),
            ));
        }
        let note = "Codex then takes the key in OPENAI_API_KEY, not a ChatGPT login.";
        Ok(change(file, edits, vec![url], Some(note)))
    };
    state().unwrap_or_else(|state| state)
}

fn gemini_cli(machine: &Machine, target: &Target) -> State {
    const NAME: &str = "GOOGLE_GEMINI_BASE_URL";
    let state = || -> Result<State, State> {
        let folder = machine.home.join(".gemini");
        if !folder.is_dir() {
            return Ok(State::Absent);
        }
        let (sdk, url) = target.base_url("gemini")?;
        let file = read(&folder.join(".env"))?;
        match text::variable(file.text(), NAME) {
            Some(now) if now == url => return Ok(State::Set),
            Some(now) if !target.replaces(sdk, now) => return Ok(other(NAME, now)),
            _ => {}
        }
        if !target.private {
            return Ok(State::Left(
                "it takes https URLs only, but for this machine's".into(),
            ));
        }
        // It reads the first such file that it finds, and no other.
        if file.before.is_none() && machine.home.join(".env").exists() {
            return Ok(State::Hand(format!(
                "it reads ~/.env as long as there is no ~/.gemini/.env; add there: {NAME}={}",
                shown(&url)
            )));
        }
        let edit = text::set_variable(file.text(), NAME, &url);
        let note = "Gemini CLI heeds this with an API key, not with a Google login.";
        Ok(change(file, vec![edit], vec![url], Some(note)))
    };
    state().unwrap_or_else(|state| state)
}

fn cursor(machine: &Machine, target: &Target) -> State {
    let folders = [
        ".cursor",
        ".config/Cursor",
        "Library/Application Support/Cursor",
    ];
    if !folders
        .iter()
        .any(|folder| machine.home.join(folder).is_dir())
    {
        return State::Absent;
    }
    match target.base_url("openai") {
        Err(state) => state,
        Ok(_) if target.here => State::Left(
            "its own servers make its calls, and they can't reach a gateway on this machine".into(),
        ),
        Ok((_, url)) => State::Hand(format!(
            "only its settings can change it: Settings, Models, API Keys: give your OpenAI key, \
             turn on \"Override OpenAI Base URL\", paste {}",
            shown(&url)
        )),
    }
}

/// OpenClaw: only URLs that stand there are changed; what else a provider's
/// table must hold differs between versions.
fn openclaw(machine: &Machine, target: &Target) -> State {
    const PATH: [&str; 2] = ["models", "providers"];
    let state = || -> Result<State, State> {
        let path = machine.home.join(".openclaw/openclaw.json");
        let file = read(&path)?;
        if file.before.is_none() {
            return Ok(State::Absent);
        }
        let text = file.text();
        let keys = text::json_keys(text, &PATH).map_err(|error| file.refused(&error))?;
        let (mut edits, mut urls, mut set) = (vec![], vec![], false);
        for key in &keys {
            let path = [PATH[0], PATH[1], key, "baseUrl"];
            let now = text::json_text(text, &path).map_err(|error| file.refused(&error))?;
            let Some(now) = now else { continue };
            let ours = |sdk: &&Sdk| {
                let log = format!("{}/{}{}", target.log, sdk.provider, target.within);
                now == log || now.starts_with(&format!("{log}/"))
            };
            set |= SDKS.iter().any(|sdk| ours(&sdk));
            let own = SDKS
                .iter()
                .find_map(|sdk| Some((sdk, target.of_provider(sdk, &now)?)));
            let Some((sdk, rest)) = own else { continue };
            if target.base_url(sdk.provider).is_err() {
                continue;
            }
            let url = format!("{}/{}{}{rest}", target.log, sdk.provider, target.within);
            let edit = text::json_set(text, &path, &url).map_err(|error| file.refused(&error))?;
            edits.push(edit);
            urls.push(url);
        }
        edits.sort_by_key(|edit| edit.at);
        match (edits.is_empty(), set) {
            (false, _) => Ok(change(file, edits, urls, None)),
            (true, true) => Ok(State::Set),
            (true, false) => Ok(State::Hand(format!(
                "no provider in it has a baseUrl of its provider's own; by its documentation: \
                 openclaw config set models.providers.anthropic \
                 '{{\"baseUrl\":\"{}\",\"models\":[]}}' --strict-json --merge",
                shown(&format!("{}/anthropic{}", target.log, target.within))
            ))),
        }
    };
    state().unwrap_or_else(|state| state)
}

/// The variables that SDKs read, in a block of their own.
fn profile(machine: &Machine, target: &Target) -> State {
    let state = || -> Result<State, State> {
        let fish = machine.shell.ends_with("/fish");
        let path = match machine.shell.rsplit('/').next() {
            Some("zsh") => ".zshrc",
            Some("bash") => ".bashrc",
            Some("fish") => ".config/fish/config.fish",
            _ => ".profile",
        };
        let wanted = SDKS.iter().filter(|sdk| {
            let used = sdk
                .keys
                .iter()
                .any(|key| machine.variables.contains(key.variable));
            used && sdk.base.is_some() && target.base_url(sdk.provider).is_ok()
        });
        let wanted: Vec<_> = wanted.collect();
        if wanted.is_empty() {
            return Ok(State::Left(
                "none of OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY is set here for a \
                 provider of this log"
                    .into(),
            ));
        }
        let file = read(&machine.home.join(path))?;
        let text = file.text();
        let block = text::block(text).map_err(|error| file.refused(&error))?;
        let (at, ours) = block.unwrap_or((text.len(), ""));
        // What somebody else put into the block is neither shown nor taken away.
        let sets_ours = |line: &str| {
            let mut names = SDKS.iter().filter_map(|sdk| sdk.base);
            line.starts_with("# ") || names.any(|name| text::assigned(line, name).is_some())
        };
        if !ours.lines().all(sets_ours) {
            return Ok(file.refused(&text::TextError::Odd));
        }
        let others = [&text[..at], &text[at + ours.len()..]];
        let (mut lines, mut urls) = (String::new(), vec![]);
        for sdk in wanted {
            let (Some(name), Ok((_, url))) = (sdk.base, target.base_url(sdk.provider)) else {
                continue;
            };
            let mut elsewhere = others.iter().flat_map(|text| text.lines());
            if elsewhere.any(|line| text::assigned(line, name).is_some()) {
                return Ok(State::Left(format!(
                    "~/{path} sets {name} already; take that out to have it changed"
                )));
            }
            lines.push_str(&match fish {
                true => format!("set -gx {name} '{url}'\n"),
                false => format!("export {name}='{url}'\n"),
            });
            urls.push(url);
        }
        let edit = text::set_block(text, &lines).map_err(|error| file.refused(&error))?;
        if edit.old == edit.new {
            return Ok(State::Set);
        }
        Ok(change(
            file,
            vec![edit],
            urls,
            Some("It holds in shells that are opened from then on."),
        ))
    };
    state().unwrap_or_else(|state| state)
}

fn read(path: &Path) -> Result<Existing, State> {
    files::read(path).map_err(|error| State::Left(error.to_string()))
}

fn change(
    file: Existing,
    edits: Vec<Edit>,
    urls: Vec<String>,
    note: Option<&'static str>,
) -> State {
    State::Change(Change {
        path: file.path,
        before: file.before,
        edits,
        urls,
        note,
    })
}

impl Existing {
    fn text(&self) -> &str {
        self.before.as_deref().unwrap_or_default()
    }

    fn refused(&self, error: &text::TextError) -> State {
        State::Left(format!("{} is left as it is: {error}", self.path.display()))
    }
}
