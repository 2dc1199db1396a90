//! What the README shows, run as it stands there.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::binaries::Folder;
use crate::gateway::Gateway;
use crate::provider::Provider;
use crate::python;
use crate::sentinel::{Sees, Sentinel};

/// The first block in a language that mentions a word.
fn block(language: &str, word: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(path).expect("in the tree");
    let fence = format!("```{language}\n");
    readme
        .split(&fence)
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()))
        .find(|block| block.contains(word))
        .unwrap_or_else(|| panic!("the README has no {language} with {word}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_one_header_one_file_and_one_command_in_python() {
    let (provider, data, folder) = (Provider::start().await, Folder::new(), Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let script = block("python", "receipt.json")
        .replace("http://127.0.0.1:8787", gateway.url())
        .replace("gpt-5-mini", "chat.json");
    let python = python::interpreter("sdk/requirements.txt");
    let mut command = Command::new(python);
    command
        .args(["-B", "-c", &script])
        .env("OPENAI_API_KEY", "sk-test-readme-0123456789abcdefghijklmno")
        .current_dir(folder.path());
    tokio::task::spawn_blocking(move || python::run(&mut command))
        .await
        .expect("no panic");
    let file = folder.path().join("receipt.json");
    let file = file.to_str().expect("UTF-8").to_owned();
    let (url, vkey) = (gateway.url().to_owned(), gateway.vkey().to_owned());
    let checked = tokio::task::spawn_blocking(move || {
        let online = Sentinel::fresh().run(&["receipt", "--json", &file, &url]);
        let offline = Sentinel::fresh().run(&["receipt", "--json", "--vkey", &vkey, &file]);
        (online, offline)
    });
    let (online, offline) = checked.await.expect("no panic");
    assert_eq!(online.compare(&Sees::Verified), Ok(()));
    assert_eq!(offline.compare(&Sees::Verified), Ok(()));
    assert_eq!(offline.report["log_asked"], false);
    assert!(
        offline.report["size"]
            .as_u64()
            .is_some_and(|size| size >= 2)
    );
}
