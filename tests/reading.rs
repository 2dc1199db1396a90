//! Pages as they are read without a script.

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_SECURITY_POLICY, HOST};

use crate::binaries::Folder;
use crate::flow::chat;
use crate::gateway::Gateway;
use crate::provider::Provider;

/// Pages that need nothing in the log.
const PAGES: &[&str] = &[
    "/",
    "/?days=1&sort=days",
    "/?sort=models&source=custom",
    "/?model=no%20such%20model",
    "/?provider=openai",
    "/records",
    "/records?before=1",
    "/log",
    "/anchors",
    "/witnesses",
    "/how",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_whole_and_asks_nobody_else() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let answer = chat(&gateway, "chat.json").send().await.expect("answers");
    answer.bytes().await.expect("whole");
    gateway.reaches(2).await;
    for path in PAGES {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str();
        let policy = policy.expect("ASCII").to_owned();
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        let page = answer.text().await.expect("whole");
        assert!(page.len() < 60_000, "{path} has {} bytes", page.len());
        assert!(page.ends_with("</html>"), "{path}");
        assert_eq!(page.matches("<h1").count(), 1, "{path}");
        for word in ["<style", " style=", " onclick=", "src=\"http", "src=\"//"] {
            assert!(!page.contains(word), "{path} has {word}");
        }
        let parts = page.split("<script").skip(1);
        assert!(parts.clone().count() > 0, "{path}");
        for script in parts {
            assert!(
                script.starts_with(" type=\"module\" src=\"/assets/"),
                "{path}"
            );
        }
        for asset in page.split("=\"/assets/").skip(1) {
            let name = asset.split('"').next().expect("a name");
            let answer = gateway.get(&format!("/assets/{name}")).await;
            assert_eq!(answer.status(), StatusCode::OK, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_write_is_no_markup() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let hostile = "<script>alert(1)</script>";
    for path in [
        "/?model=%3Cscript%3Ealert(1)%3C/script%3E",
        "/%3Cscript%3Ealert(1)",
    ] {
        let page = gateway.client().get(format!("{}{path}", gateway.url()));
        let page = page
            .header(ACCEPT, "text/html")
            .send()
            .await
            .expect("answers");
        let page = page.text().await.expect("whole");
        assert!(!page.contains("<script>"), "{path}: {page}");
    }
    let page = gateway.client().get(gateway.url());
    let page = page.header(HOST, format!("a.b\"{hostile}"));
    let page = page.send().await.expect("answers");
    let page = page.text().await.expect("whole");
    assert!(!page.contains("<script>"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_pages_for_browsers_and_json_for_programs() {
    let data = Folder::new();
    let gateway = Gateway::start(data.path(), "http://127.0.0.1:9").await;
    for (path, accept, kind) in [
        ("/nowhere", "text/html,*/*", "text/html; charset=utf-8"),
        ("/nowhere", "*/*", "application/json"),
        ("/api/nowhere", "text/html,*/*", "application/json"),
    ] {
        let asked = gateway.client().get(format!("{}{path}", gateway.url()));
        let answer = asked.header(ACCEPT, accept).send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.headers()["content-type"], kind, "{path} {accept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn news_come_at_once_and_end_with_the_server() {
    let (provider, data) = (Provider::start().await, Folder::new());
    let gateway = Gateway::start(data.path(), provider.url()).await;
    let mut news = gateway.get("/api/events").await;
    assert_eq!(news.headers()["content-type"], "text/event-stream");
    let first = news.chunk().await.expect("an event").expect("an event");
    let first = String::from_utf8_lossy(&first).into_owned();
    assert!(
        first.contains("event: state\ndata: {\"size\":1,"),
        "{first}"
    );
    let answer = chat(&gateway, "chat.json").send().await.expect("answers");
    answer.bytes().await.expect("whole");
    let second = news.chunk().await.expect("an event").expect("an event");
    let second = String::from_utf8_lossy(&second).into_owned();
    assert!(second.contains("\"size\":2,"), "{second}");
    let began = std::time::Instant::now();
    let stopping = tokio::task::spawn_blocking(move || gateway.stop());
    while let Ok(Some(_)) = news.chunk().await {}
    let (status, story) = stopping.await.expect("stops");
    assert!(status.success(), "{story}");
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}
