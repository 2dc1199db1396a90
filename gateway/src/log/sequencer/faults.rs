//! Crashes and faults at every step of an append. A crash is the append's
//! future dropped at one of its await points, and what the database holds
//! then; what comes between two of them changes nothing that lasts.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use protocol::receipt::Receipt;

use super::tests::{Scratch, clock, replica, usage_of};
use super::*;
use crate::log::head::HeadFile;
use crate::log::replica::{Committed, Health};
use crate::store::{Database, Store};

/// Entries of an append: bundles are sealed, tiles fill, a slice is due.
const BATCH: u64 = 520;

/// Takes the log up as a process of its own does.
async fn process(scratch: &Scratch) -> Sequencer {
    let store = Store::open(&scratch.database).await.expect("opens");
    let head_file = HeadFile::at(scratch.folder.join("log.head"));
    let replica = replica(store.clone(), head_file.clone()).await;
    let key = replica.signer.verifier().clone();
    let led = head_file.require(&key, &store, &scratch.database).await;
    led.expect("what was taken down is in the database");
    let epoch = store.take(Uuid::from_u128(1)).await.expect("answers");
    let epoch = epoch.expect("nobody else has it");
    let resumed = Sequencer::resume(replica, epoch, clock).await;
    let sequencer = resumed.expect("the store answers");
    if sequencer.size() > TreeSize::ZERO {
        let note = sequencer.replica.committed().borrow().note.clone();
        head_file.sync(&note).expect("writable");
    }
    sequencer
}

/// Submissions, and where their receipts arrive.
fn batch(count: u64) -> (Vec<Submission>, Vec<oneshot::Receiver<String>>) {
    let one = |_| {
        let (released, arrives) = oneshot::channel();
        let mut submission = usage_of(Uuid::now_v7(), None, None);
        submission.released = Some(released);
        (submission, arrives)
    };
    (0..count).map(one).unzip()
}

/// What has arrived.
fn arrived(receipts: &mut [oneshot::Receiver<String>]) -> Vec<String> {
    let receipts = receipts.iter_mut();
    receipts.filter_map(|r| r.try_recv().ok()).collect()
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

/// What is known of a log so far.
#[derive(Default)]
struct Account {
    size: u64,
    calls: HashSet<Uuid>,
    published: Vec<Committed>,
}

impl Account {
    /// Takes the log up, and requires that it holds what it held, all of a
    /// batch or nothing, what was released and published, and goes on. Says
    /// whether it holds the batch.
    async fn honours(&mut self, scratch: &Scratch, released: &[String], claim: &str) -> bool {
        let mut resumed = process(scratch).await;
        let store = resumed.replica.store.clone();
        let size = resumed.size().get();
        let kept = size == self.size + BATCH;
        assert!(kept || size == self.size, "{claim}: {size}");
        for head in self.published.iter().map(|p| &p.checkpoint) {
            let root = store.root_at(head.size()).await.expect("answers");
            assert_eq!(root, Some(head.root()), "{claim}: what was published");
        }
        let key = resumed.replica.signer.verifier().clone();
        let stored = store.range(self.size, size).await.expect("answers");
        for note in released {
            let receipt = Receipt::open(note.as_bytes(), &key).expect("a receipt");
            let at = receipt.index().get().checked_sub(self.size);
            let record = at.and_then(|at| stored.get(usize::try_from(at).expect("small")));
            let record = record.unwrap_or_else(|| panic!("{claim}: lost"));
            assert_eq!(receipt.leaf_hash(), Hash::leaf(&record.entry), "{claim}");
        }
        let (more, mut receipts) = batch(1);
        resumed.append(more).await.expect("goes on");
        assert_eq!(arrived(&mut receipts).len(), 1, "{claim}");
        let sums = resumed.replica.sums();
        let counted: u64 = sums.read().stats().outcomes.iter().map(|(_, n)| n).sum();
        assert_eq!(counted, size + 1, "{claim}");
        for record in store.range(self.size, size + 1).await.expect("answers") {
            let id = record.receipt_id.expect("a call's");
            assert!(self.calls.insert(id), "{claim}: a call has two entries");
        }
        self.size = size + 1;
        assert_eq!(self.calls.len() as u64, self.size, "{claim}");
        let published = resumed.replica.committed().borrow().clone();
        self.published.push(published);
        store.close().await;
        kept
    }
}

#[tokio::test]
async fn a_crash_at_any_step_loses_nothing_that_was_released() {
    for scratch in Scratch::both().await {
        let mut account = Account::default();
        for woken in [false, true] {
            let (mut lost, mut kept) = (0, 0);
            for polls in 0.. {
                let mut sequencer = process(&scratch).await;
                let (more, mut receipts) = batch(BATCH);
                let done = polled(sequencer.append(more), polls, woken).await;
                let released = arrived(&mut receipts);
                let published = sequencer.replica.committed().borrow().clone();
                account.published.push(published);
                drop(sequencer);
                let claim = format!("{}: {polls} polls, woken {woken}", scratch.database);
                match account.honours(&scratch, &released, &claim).await {
                    true => kept += 1,
                    false => lost += 1,
                }
                if done.is_some() {
                    assert_eq!(released.len() as u64, BATCH, "{claim}");
                    break;
                }
            }
            let claim = format!("{} woken {woken}: {lost} and {kept}", scratch.database);
            assert!(lost > 5 && kept > 0, "{claim}, on both sides of the commit");
        }
    }
}

/// Runs statements behind the gateway's back.
async fn behind(database: &Database, sql: String) {
    match database {
        Database::Sqlite(path) => {
            let options = SqliteConnectOptions::new().filename(path);
            let connected = SqliteConnection::connect_with(&options).await;
            let mut connection = connected.expect("opens");
            let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection);
            done.await.expect("it is allowed to");
        }
        Database::Postgres(url) => {
            let mut connection = PgConnection::connect(url).await.expect("opens");
            let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection);
            done.await.expect("it is allowed to");
        }
    }
}

/// Makes every such statement fail.
async fn break_off(database: &Database, event: &str, table: &str) {
    let sql = match database {
        Database::Sqlite(_) => format!(
            "CREATE TRIGGER fault BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, 'fault'); END"
        ),
        Database::Postgres(_) => format!(
            "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN RAISE EXCEPTION ''fault''; END';
             CREATE TRIGGER fault BEFORE {event} ON {table} EXECUTE FUNCTION fault()"
        ),
    };
    behind(database, sql).await;
}

async fn mend(database: &Database) {
    let sql = match database {
        Database::Sqlite(_) => "DROP TRIGGER fault",
        Database::Postgres(_) => "DROP FUNCTION fault() CASCADE",
    };
    behind(database, sql.into()).await;
}

async fn until_bad(health: &Health) {
    while health.is_good() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Appends a batch while a statement fails, then mends that.
async fn fails_for_a_while(scratch: Scratch, event: &str, table: &str) {
    let claim = format!("{}: {event} {table}", scratch.database);
    let mut account = Account::default();
    account.honours(&scratch, &[], &claim).await;
    let mut sequencer = process(&scratch).await;
    let (health, committed) = (sequencer.replica.health(), sequencer.replica.committed());
    break_off(&scratch.database, event, table).await;
    let (more, mut receipts) = batch(BATCH);
    let (done, ()) = tokio::join!(sequencer.append(more), async {
        until_bad(&health).await;
        assert_eq!(arrived(&mut receipts), Vec::<String>::new(), "{claim}");
        let size = committed.borrow().checkpoint.size().get();
        assert_eq!(size, account.size, "{claim}");
        mend(&scratch.database).await;
    });
    done.expect("one writer");
    assert!(health.is_good(), "{claim}");
    let released = arrived(&mut receipts);
    assert_eq!(released.len() as u64, BATCH, "{claim}");
    account.published.push(committed.borrow().clone());
    sequencer.replica.store.close().await;
    let kept = account.honours(&scratch, &released, &claim).await;
    assert!(kept, "{claim}");
}

#[tokio::test]
async fn a_statement_that_fails_stores_nothing_and_is_tried_again() {
    // Each waits for a second: together.
    let together = LocalSet::new();
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
        for scratch in Scratch::both().await {
            together.spawn_local(fails_for_a_while(scratch, event, table));
        }
    }
    together.await;
}

#[tokio::test]
async fn a_database_that_may_not_grow_stores_all_or_nothing() {
    let [scratch, _] = Scratch::both().await;
    let mut account = Account::default();
    account.honours(&scratch, &[], "before").await;
    let mut sequencer = process(&scratch).await;
    sequencer.replica.store.grow_no_more().await;
    let (health, committed) = (sequencer.replica.health(), sequencer.replica.committed());
    let (more, mut receipts) = batch(BATCH);
    let (done, ()) = tokio::join!(sequencer.append(more), async {
        until_bad(&health).await;
        assert_eq!(arrived(&mut receipts), Vec::<String>::new());
        assert_eq!(committed.borrow().checkpoint.size().get(), account.size);
    });
    // The connection that was limited is given up.
    done.expect("one writer");
    let released = arrived(&mut receipts);
    assert_eq!(released.len() as u64, BATCH);
    sequencer.replica.store.close().await;
    assert!(account.honours(&scratch, &released, "after").await);
}

#[tokio::test]
async fn a_commit_that_was_reported_as_failed_is_recognised() {
    for scratch in Scratch::both().await {
        let epoch = scratch.store.take(Uuid::from_u128(1)).await;
        let epoch = epoch.expect("answers").expect("free");
        let head_file = |name| HeadFile::at(scratch.folder.join(name));
        let [first, twin] = ["one", "two"].map(|name| {
            let store = Store::open(&scratch.database);
            async move { replica(store.await.expect("opens"), head_file(name)).await }
        });
        // In one epoch, which never happens, both may write.
        let first = Sequencer::resume(first.await, epoch, clock).await;
        let twin = Sequencer::resume(twin.await, epoch, clock).await;
        let (mut first, mut twin) = (first.expect("answers"), twin.expect("answers"));
        break_off(&scratch.database, "UPDATE", "log").await;
        let ids = [Uuid::now_v7(), Uuid::now_v7()];
        let same = || ids.map(|id| usage_of(id, None, None)).into();
        let health = first.replica.health();
        // What the twin commits is, byte for byte, what the first handed over.
        let (done, ()) = tokio::join!(first.append(same()), async {
            until_bad(&health).await;
            mend(&scratch.database).await;
            twin.append(same()).await.expect("it is first");
        });
        done.expect("it finds its own batch");
        assert_eq!(first.size().get(), 2);
        let (more, _) = batch(1);
        first.append(more).await.expect("goes on");
        assert_eq!(first.size().get(), 3);
    }
}
