//! `gateway setup` on a user's machine, in front of a gateway that runs.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::binaries::{Folder, program};
use crate::bindings::Token;
use crate::gateway::{Gateway, free_address};
use crate::provider::Provider;

const SECRET: &str = "sk-test-setup-0123456789abcdefghijklmno";

/// Runs it on a home, with one key in the environment; stdin is no terminal.
async fn setup(home: &Folder, arguments: &[&str], more: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(program("gateway"));
    command.arg("setup").args(arguments);
    command.arg("--home").arg(home.path());
    command.env_clear().env("SHELL", "/bin/bash");
    command.env("OPENAI_API_KEY", SECRET);
    command.envs(more.iter().copied()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let Output {
        status,
        stdout,
        stderr,
    } = output.expect("no panic").expect("the gateway was built");
    let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let said = said.concat();
    assert!(!said.contains(SECRET), "a credential was printed: {said}");
    (status.code(), said)
}

fn home() -> Folder {
    let home = Folder::new();
    for (path, text) in [
        (".claude/settings.json", "{\n  \"model\": \"opus\"\n}\n"),
        (".codex/config.toml", "model = \"gpt-5\" # mine\n"),
    ] {
        let path = home.path().join(path);
        fs::create_dir_all(path.parent().expect("below the home")).expect("ours");
        fs::write(path, text).expect("ours");
    }
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_set_up_tried_and_put_back() {
    let (provider, data, home) = (Provider::start().await, Folder::new(), home());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let url = gateway.url();
    let read = |path: &str| fs::read_to_string(home.path().join(path)).unwrap_or_default();
    let before = [read(".claude/settings.json"), read(".codex/config.toml")];

    let (code, said) = setup(&home, &[url, "--dry-run"], &[]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!("base_url = \"{url}/openai/v1\"")),
        "{said}"
    );
    let (code, said) = setup(&home, &[url], &[]).await;
    assert_eq!(code, Some(2), "nobody could be asked: {said}");
    let now = [read(".claude/settings.json"), read(".codex/config.toml")];
    assert_eq!(now, before);

    let tried = ["--yes", "--call", "--model", "chat.json", url];
    let (code, said) = setup(&home, &tried, &[]).await;
    assert_eq!(code, Some(0), "{said}");
    let claude: Value = serde_json::from_str(&read(".claude/settings.json")).expect("JSON");
    assert_eq!(
        claude["env"]["ANTHROPIC_BASE_URL"],
        format!("{url}/anthropic")
    );
    assert!(read(".codex/config.toml").contains("# mine\n"));
    let profile = format!("export OPENAI_BASE_URL='{url}/openai/v1'\n");
    assert!(read(".bashrc").contains(&profile));
    // The one call is in the log, under the receipt that was shown.
    assert!(said.contains("is in the log as entry 1: "), "{said}");
    let id = said
        .split("Its receipt ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let receipt = gateway
        .json(&format!("/api/receipts/{}", id.expect("shown")))
        .await;
    assert_eq!(receipt["index"], 1);

    let (code, said) = setup(&home, &tried, &[]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("There is nothing to change."), "{said}");
    let (code, said) = setup(&home, &["--undo"], &[]).await;
    assert_eq!(code, Some(0), "{said}");
    let now = [read(".claude/settings.json"), read(".codex/config.toml")];
    assert_eq!((now, read(".bashrc")), (before, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_tried_is_said() {
    let (provider, data, home) = (Provider::start().await, Folder::new(), home());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let url = gateway.url();
    let nobody = format!("http://{}", free_address());
    let token = Token::new(&gateway, 7);
    let linked = [("TALLY_LINK_TOKEN", token.text.as_str())];
    for (arguments, more, code, part) in [
        (
            &["--yes", "--call", url] as &[&str],
            &[] as &[(&str, &str)],
            0,
            "name one with --model",
        ),
        (
            &["--yes", "--model", "chat.json", url],
            &[],
            0,
            "--call makes one",
        ),
        (
            &["--yes", "--call", "--model", "status:401", url],
            &[],
            1,
            "openai refuses: 401",
        ),
        (
            &["--yes", url],
            &[("OPENAI_API_KEY", "")],
            0,
            "No call was tried: none of",
        ),
        (&[&nobody], &[], 1, "gives no answer"),
        (&["ftp://x.example"], &[], 2, "no URL of a log"),
        (&["--wallet", "0x12", url], &[], 2, "not a wallet address"),
        (
            &["--vkey", "x.example+00000000+AA==", url],
            &[],
            1,
            "its verifier key is",
        ),
        (
            &["--yes", "--call", "--model", "chat.json", url],
            &linked,
            0,
            "in the log as entry",
        ),
    ] {
        let (found, said) = setup(&home, arguments, more).await;
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert!(
            !said.contains(&token.text),
            "a link token was printed: {said}"
        );
    }
    // The last call counted for the token.
    let user = gateway.json(&format!("/api/user/{}", token.key_id)).await;
    assert_eq!(user["sources"][0]["records"], 1);
}
