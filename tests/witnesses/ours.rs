//! Our own witness: a sentinel cosigns, in full, the log of a running gateway.

use std::time::Duration;

use super::{Log, calls, covers};
use crate::binaries::Folder;
use crate::gateway::{Gateway, free_address};
use crate::sentinel::{Sees, Sentinel};
use crate::witness::Witness;

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_cosigns_in_full_what_the_gateway_publishes() {
    let (log, address, folder) = (Log::begun().await, free_address(), Folder::new());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let followed = format!("{} http://{address}", log.vkey);
    let witness = Witness::start(&folder, &["--log", &followed, "--full-key", &path("full")]);
    let (plain, full) = (&witness.key, witness.full.as_ref().expect("a second key"));
    let url = &witness.url;
    let policy = format!(
        "log {}\nwitness plain {plain} {url}\nwitness full {full} {url}\n\
         group both all plain full\nquorum both\n",
        log.vkey
    );
    std::fs::write(path("policy"), &policy).expect("our folder");
    let file = path("policy");
    let (data, provider) = (log.data.path(), log.provider.url());
    let arguments = ["--policy", file.as_str()];
    let gateway = Gateway::start_at(data, provider, &address, &arguments).await;
    for size in [4, 304] {
        let before = gateway.json("/api/chain").await["size"].as_u64();
        let more = size - before.expect("a size");
        calls(&gateway, usize::try_from(more).expect("small")).await;
        let took = covers(&gateway, &policy, size, true).await;
        assert!(took < Duration::from_secs(5), "{size}: {took:?}");
    }
    // Who asks for the full cosignature is content, by a pass of its own.
    let pass = tokio::task::spawn_blocking(move || {
        let sentinel = Sentinel::fresh().with(&["--policy", &file]);
        sentinel.pass(gateway.url()).compare(&Sees::Verified)
    });
    assert_eq!(pass.await.expect("it ends"), Ok(()));
}
