//! The interface's description is a contract: a change of it is a decision.

use std::path::Path;
use std::{env, fs};

use crate::binaries::Folder;
use crate::flow::chat;
use crate::gateway::Gateway;
use crate::provider::Provider;

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_the_committed_one() {
    let data = Folder::new();
    let gateway = Gateway::start(data.path(), "http://127.0.0.1:9").await;
    let served = gateway
        .get("/openapi.json")
        .await
        .text()
        .await
        .expect("whole");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/openapi.json");
    if env::var_os("TALLY_BLESS").is_some() {
        fs::write(&golden, &served).expect("the tree is writable");
    }
    let committed = fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        served == committed,
        "run the tests with TALLY_BLESS=1 and look at the difference"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_keep_their_names() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let answer = chat(&gateway, "chat.json").send().await.expect("answers");
    answer.bytes().await.expect("whole");
    assert_eq!(gateway.reaches(2).await, 2);
    let text = gateway.get("/metrics").await.text().await.expect("whole");
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut names: Vec<_> = types.collect();
    names.sort_unstable();
    let expected = [
        "tally_calls_pending gauge",
        "tally_log_size gauge",
        "tally_records_total counter",
        "tally_writer gauge",
    ];
    assert_eq!(names, expected);
    let records = r#"tally_records_total{provider="openai",outcome="complete"} 1"#;
    assert!(
        text.contains(records) && text.contains("tally_log_size 2"),
        "{text}"
    );
}
