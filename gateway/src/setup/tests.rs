use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use uuid::Uuid;

use super::*;

const LOG: &str = "https://log.example.org";
const SECRET: &str = "sk-ant-a-secret-0123456789";
const TOKEN_TEXT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// A user's folder, gone with the test.
struct Home(PathBuf);

impl Home {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = env::temp_dir().join(format!("tally-home-{}", Uuid::now_v7()));
        fs::create_dir(&folder).expect("a fresh folder");
        let home = Self(folder.canonicalize().expect("there"));
        for (path, text) in files {
            home.put(path, text);
        }
        home
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("below the home")).expect("ours");
        fs::write(path, text).expect("ours");
    }

    fn get(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.0.join(path)).ok()
    }

    fn machine(&self) -> Machine {
        let keys = ["ANTHROPIC_API_KEY", "GEMINI_API_KEY", "OPENAI_API_KEY"];
        Machine {
            claude: self.0.join(".claude"),
            codex: self.0.join(".codex"),
            shell: "/bin/zsh".into(),
            variables: keys.map(str::to_owned).into(),
            home: self.0.clone(),
        }
    }

    fn record(&self) -> Record {
        Record::open(&self.0).expect("ours")
    }

    /// What is found of a tool.
    fn state(&self, tool: &str) -> State {
        let found = tools::look(&self.machine(), &self.target());
        let found = found.into_iter().find(|found| found.tool.starts_with(tool));
        found.expect("a tool that is known").state
    }

    fn target(&self) -> Target {
        Target {
            log: LOG.into(),
            here: false,
            private: true,
            within: String::new(),
            providers: ["anthropic", "gemini", "openai"].map(str::to_owned).into(),
            written: self.record().urls().cloned().collect(),
        }
    }

    /// Makes every change; how many there were.
    fn set_up(&self) -> usize {
        let found = tools::look(&self.machine(), &self.target());
        let mut record = self.record();
        let changes = found.iter().filter_map(|found| match &found.state {
            State::Change(change) => Some(change),
            _ => None,
        });
        changes
            .map(|change| record.change(change).expect("it can be written"))
            .count()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn each_tool_is_changed_only_where_it_is_plain_what_to_change() {
    enum Is {
        Absent,
        Set,
        Changed(&'static str),
        Left(&'static str),
        Hand(&'static str),
    }
    use Is::*;
    let claude = ".claude/settings.json";
    let codex = ".codex/config.toml";
    let gemini = ".gemini/.env";
    let openclaw = ".openclaw/openclaw.json";
    for (tool, path, text, is) in [
        ("Claude", "x", "", Absent),
        (
            "Claude",
            ".claude/x",
            "",
            Changed(
                "{\n  \"env\": {\n    \"ANTHROPIC_BASE_URL\": \"https://log.example.org/anthropic\"\n  }\n}\n",
            ),
        ),
        (
            "Claude",
            claude,
            "{\"env\": {\"ANTHROPIC_BASE_URL\": \"https://log.example.org/anthropic\"}}",
            Set,
        ),
        (
            "Claude",
            claude,
            "{\"env\": {\"ANTHROPIC_BASE_URL\": \"https://api.anthropic.com\"}}",
            Changed("{\"env\": {\"ANTHROPIC_BASE_URL\": \"https://log.example.org/anthropic\"}}"),
        ),
        (
            "Claude",
            claude,
            "{\"env\": {\"ANTHROPIC_BASE_URL\": \"https://u:p@other.example\"}}",
            Left("https://..@other.example already"),
        ),
        (
            "Claude",
            claude,
            "{\"env\": {\"ANTHROPIC_BASE_URL\": \"https://api.anthropic.com.evil.example\"}}",
            Left("already"),
        ),
        ("Claude", claude, "{ // mine\n}", Left("comments")),
        (
            "Claude",
            claude,
            "{\"env\": []}",
            Left("env is not an object"),
        ),
        ("Codex", "x", "", Absent),
        (
            "Codex",
            ".codex/auth.json",
            "{}",
            Changed(
                "model_provider = \"tallystick\"\n\n[model_providers.tallystick]\nname = \"OpenAI through Tallystick\"\nbase_url = \"https://log.example.org/openai/v1\"\nenv_key = \"OPENAI_API_KEY\"\nwire_api = \"responses\"\n",
            ),
        ),
        (
            "Codex",
            codex,
            "model_provider = \"azure\"\n",
            Left("\"azure\""),
        ),
        (
            "Codex",
            codex,
            "model_provider = \"tallystick\"\n[model_providers.tallystick]\nbase_url = \"https://other.example\"\n",
            Left("already"),
        ),
        ("Codex", codex, "model = \n", Left("not valid TOML")),
        ("Gemini", "x", "", Absent),
        (
            "Gemini",
            gemini,
            "GEMINI_API_KEY=x\n",
            Changed("GEMINI_API_KEY=x\nGOOGLE_GEMINI_BASE_URL=https://log.example.org/gemini\n"),
        ),
        (
            "Gemini",
            gemini,
            "GOOGLE_GEMINI_BASE_URL=\"https://log.example.org/gemini\"\n",
            Set,
        ),
        (
            "Gemini",
            gemini,
            "GOOGLE_GEMINI_BASE_URL=https://other.example\n",
            Left("already"),
        ),
        ("Cursor", "x", "", Absent),
        (
            "Cursor",
            ".cursor/mcp.json",
            "{}",
            Hand("paste https://log.example.org/openai/v1"),
        ),
        ("OpenClaw", "x", "", Absent),
        (
            "OpenClaw",
            openclaw,
            "{\"models\": {\"providers\": {\"mine\": {\"apiKey\": \"k\", \"baseUrl\": \"https://api.openai.com/v1\"}, \"b\": {\"baseUrl\": \"https://other.example\"}}}}",
            Changed(
                "{\"models\": {\"providers\": {\"mine\": {\"apiKey\": \"k\", \"baseUrl\": \"https://log.example.org/openai/v1\"}, \"b\": {\"baseUrl\": \"https://other.example\"}}}}",
            ),
        ),
        (
            "OpenClaw",
            openclaw,
            "{\"models\": {\"providers\": {\"mine\": {\"baseUrl\": \"https://log.example.org/anthropic\"}}}}",
            Set,
        ),
        (
            "OpenClaw",
            openclaw,
            "{\"gateway\": {}}",
            Hand("openclaw config set"),
        ),
        ("OpenClaw", openclaw, "{gateway: {}}", Left("plain JSON")),
        (
            "SDKs",
            "x",
            "",
            Changed(
                "# >>> tallystick >>> gateway setup wrote this; gateway setup --undo takes it out\nexport OPENAI_BASE_URL='https://log.example.org/openai/v1'\nexport ANTHROPIC_BASE_URL='https://log.example.org/anthropic'\nexport GOOGLE_GEMINI_BASE_URL='https://log.example.org/gemini'\n# <<< tallystick <<<\n",
            ),
        ),
        (
            "SDKs",
            ".zshrc",
            "export OPENAI_BASE_URL=http://127.0.0.1:4000\n",
            Left("sets OPENAI_BASE_URL already"),
        ),
        ("SDKs", ".zshrc", "# <<< tallystick <<<\n", Left("safely")),
    ] {
        let home = Home::with(&[(path, text)]);
        let state = home.state(tool);
        let said = match (&state, &is) {
            (State::Absent, Absent) | (State::Set, Set) => continue,
            (State::Change(change), Changed(after)) => {
                let before = change.before.as_deref().unwrap_or_default();
                let found = text::apply(before, &change.edits);
                assert_eq!(found.as_deref(), Some(*after), "{tool}: {text}");
                home.record().change(change).expect("it can be written");
                assert_eq!(home.state(tool), State::Set, "{tool}: {text}");
                continue;
            }
            (State::Left(said), Left(part)) | (State::Hand(said), Hand(part)) => (said, part),
            _ => panic!("{tool}: {text}: {state:?}"),
        };
        assert!(said.0.contains(said.1), "{tool}: {text}: {}", said.0);
        assert_eq!(home.get(path).as_deref(), Some(text));
    }
}

#[test]
fn what_is_missing_or_unfit_leaves_a_tool_alone() {
    let home = Home::with(&[
        (".claude/settings.json", "{}"),
        (".codex/config.toml", ""),
        (".gemini/settings.json", "{}"),
        (".cursor/mcp.json", "{}"),
    ]);
    let check = |tool: &str, change: &dyn Fn(&mut Machine, &mut Target), part: &str| {
        let (mut machine, mut target) = (home.machine(), home.target());
        change(&mut machine, &mut target);
        let found = tools::look(&machine, &target);
        let found = found.into_iter().find(|found| found.tool.starts_with(tool));
        match found.map(|found| found.state) {
            Some(State::Left(said) | State::Hand(said)) => assert!(said.contains(part), "{said}"),
            other => panic!("{tool}: {other:?}"),
        }
    };
    let no_providers = |_: &mut Machine, target: &mut Target| target.providers.clear();
    for tool in ["Claude", "Codex", "Gemini", "Cursor"] {
        check(tool, &no_providers, "no provider");
    }
    check("SDKs", &no_providers, "is set here");
    check("Codex", &|machine, _| machine.variables.clear(), "ChatGPT");
    check(
        "SDKs",
        &|machine, _| machine.variables.clear(),
        "is set here",
    );
    check("Gemini", &|_, target| target.private = false, "https");
    check("Cursor", &|_, target| target.here = true, "can't reach");
    home.put(".env", "GEMINI_API_KEY=x\n");
    check("Gemini", &|_, _| (), "~/.env");
}

#[test]
fn files_that_are_not_plainly_the_users_are_left_alone() {
    let settings = ".claude/settings.json";
    let left = |home: &Home, part: &str| match home.state("Claude") {
        State::Left(said) => assert!(said.contains(part), "{said}"),
        other => panic!("{other:?}"),
    };
    let home = Home::with(&[(settings, "{}")]);
    let path = home.0.join(settings);
    fs::set_permissions(&path, Permissions::from_mode(0o400)).expect("ours");
    left(&home, "read-only");
    fs::remove_file(&path).expect("ours");
    symlink("/nowhere/at/all", &path).expect("ours");
    left(&home, "a link to nothing");
    fs::remove_file(&path).expect("ours");
    fs::create_dir(&path).expect("ours");
    left(&home, "not a file");
    let home = Home::with(&[]);
    fs::create_dir(home.0.join(".claude")).expect("ours");
    fs::write(home.0.join(settings), [0xff, 0xfe]).expect("ours");
    left(&home, "not UTF-8");
}

#[test]
fn links_stay_links_and_modes_stay_modes() {
    let home = Home::with(&[("dotfiles/claude.json", "{}"), (".claude/x", "")]);
    let (link, file) = (
        home.0.join(".claude/settings.json"),
        home.0.join("dotfiles/claude.json"),
    );
    symlink(&file, &link).expect("ours");
    fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("ours");
    home.set_up();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert_eq!(mode(&file), 0o640);
    assert!(
        home.get("dotfiles/claude.json")
            .is_some_and(|text| text.contains(LOG))
    );
    assert_eq!(
        mode(&home.0.join(".zshrc")),
        0o600,
        "it may hold a link token"
    );
    assert_eq!(mode(&home.0.join(".tallystick")), 0o700);
    home.record().undo().expect("ours");
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert_eq!(
        (mode(&file), fs::read_to_string(&file).expect("there")),
        (0o640, "{}".into())
    );
}

#[test]
fn a_second_time_changes_nothing_and_undo_leaves_no_trace() {
    let files = [
        (".claude/settings.json", "{\n  \"model\": \"opus\"\n}\n"),
        (".codex/config.toml", "# mine\nmodel = \"gpt\"\n\n[tui]\n"),
        (".gemini/.env", "GEMINI_API_KEY=k"),
        (".zshrc", "alias x=y\n"),
    ];
    let home = Home::with(&files);
    assert_eq!(home.set_up(), 4);
    assert_eq!(home.set_up(), 0);
    for (path, text) in &files {
        assert_ne!(home.get(path).as_deref(), Some(*text));
    }
    let undone = home.record().undo().expect("ours");
    assert!(
        undone
            .iter()
            .all(|undone| matches!(undone, Undone::Back(_))),
        "{undone:?}"
    );
    for (path, text) in &files {
        assert_eq!(home.get(path).as_deref(), Some(*text));
    }
    assert!(home.record().is_empty());
    let kept = fs::read_dir(home.0.join(".tallystick")).expect("there");
    assert_eq!(kept.count(), 1, "no backup stays");
}

#[test]
fn what_was_written_for_another_log_is_replaced_and_undone_in_steps() {
    let home = Home::with(&[(".gemini/.env", "A=b\n")]);
    assert_eq!(home.set_up(), 2);
    let target = Target {
        log: "https://new.example".into(),
        ..home.target()
    };
    let found = tools::look(&home.machine(), &target);
    let mut record = home.record();
    for found in &found {
        if let State::Change(change) = &found.state {
            record.change(change).expect("it can be written");
        }
    }
    let now = home.get(".gemini/.env").expect("there");
    assert_eq!(
        now,
        "A=b\nGOOGLE_GEMINI_BASE_URL=https://new.example/gemini\n"
    );
    home.record().undo().expect("ours");
    assert_eq!(home.get(".gemini/.env").as_deref(), Some("A=b\n"));
    assert_eq!(home.get(".zshrc"), None, "what was made is gone");
}

#[test]
fn what_the_user_changed_since_stays() {
    let settings = ".claude/settings.json";
    let home = Home::with(&[(settings, "{\n  \"a\": 1\n}\n"), (".gemini/.env", "A=b\n")]);
    home.set_up();
    // Something beside it: what was written is taken out.
    let edited = home
        .get(settings)
        .expect("there")
        .replace("\"a\": 1", "\"a\": 2");
    home.put(settings, &edited);
    // What was written itself: nobody knows what is meant.
    home.put(
        ".gemini/.env",
        "A=b\nGOOGLE_GEMINI_BASE_URL=https://other.example\n",
    );
    let mut undone = home.record().undo().expect("ours");
    undone.retain(|undone| !matches!(undone, Undone::Back(_)));
    let [Undone::Left(left, why), Undone::Partly(partly)] = &undone[..] else {
        panic!("{undone:?}");
    };
    assert!(
        left.ends_with(".env") && why.contains("changed since"),
        "{why}"
    );
    assert!(partly.ends_with("settings.json"));
    assert_eq!(home.get(settings).as_deref(), Some("{\n  \"a\": 2\n}\n"));
    assert!(
        home.get(".gemini/.env")
            .is_some_and(|text| text.contains("other"))
    );
    assert!(!home.record().is_empty(), "what is left can be looked up");
}

#[test]
fn a_file_that_changed_meanwhile_is_not_overwritten() {
    let home = Home::with(&[(".claude/settings.json", "{}")]);
    let State::Change(change) = home.state("Claude") else {
        panic!("it would change");
    };
    home.put(".claude/settings.json", "{\"a\": 1}");
    assert!(home.record().change(&change).is_err());
    assert_eq!(
        home.get(".claude/settings.json").as_deref(),
        Some("{\"a\": 1}")
    );
    assert!(home.record().is_empty());
}

#[test]
fn no_credential_is_shown() {
    let one_line = format!("{{\"env\": {{\"ANTHROPIC_AUTH_TOKEN\": \"{SECRET}\"}}}}");
    let env = format!(
        "GEMINI_API_KEY={SECRET}\nGOOGLE_GEMINI_BASE_URL=https://log.example.org/gemini/t/{SECRET}"
    );
    let home = Home::with(&[
        (".claude/settings.json", &one_line),
        (
            ".codex/config.toml",
            &format!("[x]\ntoken = \"{SECRET}\"\n"),
        ),
        (".gemini/.env", &env),
    ]);
    let target = Target {
        within: within(None, Some(TOKEN_TEXT)).expect("a token"),
        ..home.target()
    };
    let (mut shown, mut changed) = (String::new(), 0);
    for found in tools::look(&home.machine(), &target) {
        if let State::Change(change) = &found.state {
            shown.push_str(&difference(&home.machine().shown(&change.path), change));
            assert!(change.urls.iter().all(|url| url.contains(TOKEN_TEXT)));
            changed += 1;
        }
    }
    assert_eq!(changed, 4);
    assert!(
        !shown.contains(SECRET) && !shown.contains(TOKEN_TEXT),
        "{shown}"
    );
    for line in [
        "  +++ ~/.claude/settings.json\n",
        "  -GOOGLE_GEMINI_BASE_URL=https://log.example.org/gemini/t/<link token>\n",
        "  +export OPENAI_BASE_URL='https://log.example.org/openai/t/<link token>/v1'\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
}

#[test]
fn base_urls_name_wallet_and_link_token() {
    let wallet = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
    let lower = wallet.to_lowercase();
    assert_eq!(within(None, None).ok().as_deref(), Some(""));
    let both = within(Some(wallet), Some(TOKEN_TEXT)).ok();
    assert_eq!(both, Some(format!("/w/{lower}/t/{TOKEN_TEXT}")));
    for (wallet, token) in [
        (Some("0x12"), None),
        (None, Some("")),
        (None, Some("short")),
    ] {
        assert!(within(wallet, token).is_err());
    }
}
