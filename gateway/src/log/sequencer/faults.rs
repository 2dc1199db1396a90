//! Crashes and faults at every step of an append. A crash is the append's
//! future dropped at one of its await points, and what the files hold then.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::oneshot;

use super::tests::{Scratch, usage, usage_of};
use super::*;

/// Entries before the append, and after it: a bundle is sealed, tiles fill, a
/// slice of the sums is due.
const BEFORE: u64 = 200;
const AFTER: u64 = 600;

/// Submissions, and where their receipts arrive.
fn batch(count: u64) -> (Vec<Submission>, Vec<oneshot::Receiver<String>>) {
    (0..count)
        .map(|_| {
            let (released, arrives) = oneshot::channel();
            let mut submission = usage(None, None);
            submission.released = Some(released);
            (submission, arrives)
        })
        .unzip()
}

/// What has arrived.
fn arrived(receipts: &mut [oneshot::Receiver<String>]) -> Vec<String> {
    receipts
        .iter_mut()
        .filter_map(|r| r.try_recv().ok())
        .collect()
}

/// Polls `future` up to `polls` times; what it gave, if it was ready by then.
/// `woken`: what the last poll waited for has come to its end, too.
async fn polled<T>(future: impl Future<Output = T>, polls: usize, woken: bool) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left == 0 && !woken => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Takes the log up, and requires that it is whole, honours what was released
/// and published, and goes on.
async fn honours(scratch: &Scratch, released: &[String], published: &Committed, claim: &str) {
    let mut resumed = scratch.sequencer().await;
    let size = resumed.size();
    assert!([BEFORE, AFTER].contains(&size.get()), "{claim}: {size}");
    let head = &published.checkpoint;
    let root = scratch.store.root_at(head.size()).await.expect("answers");
    assert_eq!(root, Some(head.root()), "{claim}: what was published");
    let key = resumed.signer.verifier().clone();
    for note in released {
        let receipt = Receipt::open(note.as_bytes(), &key).expect("a receipt");
        assert!(receipt.index().get() < size.get(), "{claim}: lost");
        let entry = scratch.entry(receipt.index().get()).await;
        assert_eq!(receipt.leaf_hash(), Hash::leaf(entry.as_bytes()), "{claim}");
    }
    let mut entries = HashSet::new();
    for n in 0..size.get().div_ceil(WIDTH) {
        let records = scratch
            .store
            .bundle(n, TreeSize::ZERO)
            .await
            .expect("answers");
        entries.extend(records.into_iter().map(|record| record.entry));
    }
    assert_eq!(entries.len() as u64, size.get(), "{claim}: each call once");
    let sums = resumed.sums();
    let counted: u64 = sums.read().stats().outcomes.iter().map(|(_, n)| n).sum();
    assert_eq!((sums.read().size(), counted), (size, size.get()), "{claim}");
    resumed
        .append(vec![usage(None, None)])
        .await
        .expect("goes on");
    assert_eq!(resumed.size().get(), size.get() + 1, "{claim}");
}

#[tokio::test]
async fn a_crash_at_any_step_loses_nothing_that_was_released() {
    let grown = Scratch::new().await;
    let mut sequencer = grown.sequencer().await;
    let (first, mut receipts) = batch(BEFORE);
    sequencer.append(first).await.expect("one writer");
    let before = arrived(&mut receipts);
    assert_eq!(before.len() as u64, BEFORE);
    for woken in [false, true] {
        let (mut lost, mut kept) = (0, 0);
        for polls in 0.. {
            let scratch = grown.copied().await;
            let mut sequencer = scratch.sequencer().await;
            let (more, mut receipts) = batch(AFTER - BEFORE);
            let done = polled(sequencer.append(more), polls, woken).await;
            // As kill -9 leaves it.
            let image = scratch.copied().await;
            let mut released = before.clone();
            released.extend(arrived(&mut receipts));
            let published = sequencer.committed().borrow().clone();
            drop(sequencer);
            let claim = format!("{polls} polls, woken {woken}");
            honours(&image, &released, &published, &claim).await;
            honours(&scratch, &released, &published, &claim).await;
            match scratch.sequencer().await.size().get() > AFTER {
                true => kept += 1,
                false => lost += 1,
            }
            if done.is_some() {
                break;
            }
        }
        assert!(
            lost > 5 && kept > 0,
            "on both sides of the commit: {lost}, {kept}"
        );
    }
}

/// Makes every such statement fail.
async fn break_off(scratch: &Scratch, event: &str, table: &str) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(scratch.folder.join("tally.db"));
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .expect("opens");
    let sql = format!(
        "CREATE TRIGGER fault BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, 'fault'); END"
    );
    let made = sqlx::query(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await;
    made.expect("it is new");
    connection
}

async fn mend(connection: &mut SqliteConnection) {
    let dropped = sqlx::query("DROP TRIGGER fault").execute(connection).await;
    dropped.expect("it is there");
}

async fn until_bad(health: &Health) {
    while health.is_good() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_statement_that_fails_stores_nothing_and_is_tried_again() {
    for (event, table) in [
        ("UPDATE", "log"),
        ("INSERT", "bundle"),
        ("DELETE", "tail"),
        ("INSERT", "receipt"),
        ("INSERT", "mention"),
        ("INSERT", "tail"),
        ("INSERT", "tile"),
        ("INSERT", "slice"),
    ] {
        let claim = format!("{event} {table}");
        let scratch = Scratch::new().await;
        let mut sequencer = scratch.sequencer().await;
        let (first, mut receipts) = batch(BEFORE);
        sequencer.append(first).await.expect("one writer");
        let mut released = arrived(&mut receipts);
        let mut fault = break_off(&scratch, event, table).await;
        let (more, mut receipts) = batch(AFTER - BEFORE);
        let (health, committed) = (sequencer.health(), sequencer.committed());
        let (done, ()) = tokio::join!(sequencer.append(more), async {
            until_bad(&health).await;
            assert_eq!(arrived(&mut receipts), Vec::<String>::new(), "{claim}");
            let size = committed.borrow().checkpoint.size();
            assert_eq!(size.get(), BEFORE, "{claim}");
            mend(&mut fault).await;
        });
        done.expect("one writer");
        assert!(health.is_good(), "{claim}");
        released.extend(arrived(&mut receipts));
        assert_eq!(released.len() as u64, AFTER, "{claim}");
        let published = committed.borrow().clone();
        drop(sequencer);
        honours(&scratch, &released, &published, &claim).await;
    }
}

#[tokio::test]
async fn a_commit_that_was_reported_as_failed_is_recognised() {
    let scratch = Scratch::new().await;
    let mut first = scratch.sequencer().await;
    first
        .append(vec![usage(None, None)])
        .await
        .expect("one writer");
    let mut twin = scratch.sequencer().await;
    let mut fault = break_off(&scratch, "UPDATE", "log").await;
    let ids = [Uuid::now_v7(), Uuid::now_v7()];
    let same = || ids.map(|id| usage_of(id, None, None)).into();
    let health = first.health();
    // What the twin commits is, byte for byte, what the first had handed over.
    let (done, ()) = tokio::join!(first.append(same()), async {
        until_bad(&health).await;
        mend(&mut fault).await;
        twin.append(same()).await.expect("it is first");
    });
    done.expect("it finds its own batch");
    assert_eq!(first.size().get(), 3);
    assert_eq!(first.size(), scratch.sequencer().await.size());
    first
        .append(vec![usage(None, None)])
        .await
        .expect("goes on");
}
