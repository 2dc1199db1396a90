//! The two engines: connections, transactions, migrations.
//!
//! Statements are the same on both, but for lists: those are written out
//! twice where they are used.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{PgPool, Postgres, Sqlite, SqlitePool, Transaction};

use super::StoreError;

const SQLITE: &[(i64, &str, &str)] = &[
    (
        1,
        "log",
        include_str!("../../../migrations/sqlite/0001_log.sql"),
    ),
    (
        2,
        "published",
        include_str!("../../../migrations/sqlite/0002_published.sql"),
    ),
    (
        3,
        "anchors",
        include_str!("../../../migrations/sqlite/0003_anchors.sql"),
    ),
];

const POSTGRES: &[(i64, &str, &str)] = &[
    (
        1,
        "log",
        include_str!("../../../migrations/postgres/0001_log.sql"),
    ),
    (
        2,
        "published",
        include_str!("../../../migrations/postgres/0002_published.sql"),
    ),
    (
        3,
        "anchors",
        include_str!("../../../migrations/postgres/0003_anchors.sql"),
    ),
    (
        4,
        "policy",
        include_str!("../../../migrations/postgres/0004_policy.sql"),
    ),
];

/// How much SQLite's write-ahead log holds, about, when it is folded into the
/// file: little, since an append that comes meanwhile waits for the disk.
const FOLD: u64 = 8 << 20;

/// What an append adds to it, about, and each of its entries.
const PER_APPEND: u64 = 40 << 10;
const PER_ENTRY: u64 = 1 << 10;

/// How long a connection to PostgreSQL may take to be had.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// Where the log is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A file of SQLite's.
    Sqlite(PathBuf),
    /// A PostgreSQL server's, by URL.
    Postgres(String),
}

/// Without what a URL may hold of a password.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => match url.split_once('@') {
                Some((_, place)) => write!(f, "postgres://..@{place}"),
                None => f.write_str(url),
            },
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}

/// The connections to one database.
#[derive(Clone, Debug)]
pub(super) enum Engine {
    Sqlite {
        /// One connection: SQLite has one writer at a time, and so has the log.
        writer: SqlitePool,
        readers: SqlitePool,
        /// What came to the write-ahead log since it was folded, in bytes, about.
        unfolded: Arc<AtomicU64>,
    },
    Postgres {
        /// One connection, so that readers can't keep the writer waiting.
        writer: PgPool,
        /// One more, so that the writer can't keep its own lease waiting.
        lease: PgPool,
        readers: PgPool,
    },
}

/// A transaction on either.
pub(super) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// Runs the same code on the connection of either transaction.
macro_rules! on {
    ($tx:expr, $connection:ident => $body:expr) => {
        match $tx {
            $crate::store::engine::Tx::Sqlite(tx) => {
                let $connection = &mut **tx;
                $body
            }
            $crate::store::engine::Tx::Postgres(tx) => {
                let $connection = &mut **tx;
                $body
            }
        }
    };
}
pub(super) use on;

/// Runs the same code with the readers of either engine: one statement, which
/// sees a state of its own.
macro_rules! once {
    ($engine:expr, $readers:ident => $body:expr) => {
        match $engine {
            $crate::store::engine::Engine::Sqlite { readers, .. } => {
                let $readers = readers;
                $body
            }
            $crate::store::engine::Engine::Postgres { readers, .. } => {
                let $readers = readers;
                $body
            }
        }
    };
}
pub(super) use once;

impl Engine {
    pub(super) async fn open(database: &Database) -> Result<Self, StoreError> {
        match database {
            Database::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // A receipt is released when its transaction is on the disk, not before.
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(Duration::from_secs(10));
                let writing = options
                    .clone()
                    // Folding is left to `maintain`: no append waits for it.
                    .pragma("wal_autocheckpoint", "0")
                    .pragma("cache_size", "-16384");
                let writer = SqlitePoolOptions::new()
                    .max_connections(1)
                    .connect_with(writing)
                    .await?;
                migrated(migrator(SQLITE).run(&writer).await)?;
                let readers = SqlitePoolOptions::new()
                    .max_connections(8)
                    // A file needs no asking whether it is still there.
                    .test_before_acquire(false)
                    .connect_with(options.read_only(true))
                    .await?;
                Ok(Self::Sqlite {
                    writer,
                    readers,
                    unfolded: Arc::default(),
                })
            }
            Database::Postgres(url) => {
                let options = PgConnectOptions::from_str(url)?.options([
                    // A receipt is released when its transaction is on the disk, not before.
                    ("synchronous_commit", "on"),
                    // A gateway that was stopped within a transaction must not
                    // keep the next writer from the rows that it locked.
                    ("idle_in_transaction_session_timeout", "3s"),
                    // Not that the table of migrations is there already.
                    ("client_min_messages", "warning"),
                ]);
                let pool = |connections| {
                    PgPoolOptions::new()
                        .max_connections(connections)
                        .acquire_timeout(PATIENCE)
                };
                let writer = pool(1).connect_with(options.clone()).await?;
                migrated(migrator(POSTGRES).run(&writer).await)?;
                let lease = pool(1).connect_with(options.clone()).await?;
                let readers = pool(8).connect_with(options).await?;
                Ok(Self::Postgres {
                    writer,
                    lease,
                    readers,
                })
            }
        }
    }

    /// A transaction that may write, on the writer's connection.
    pub(super) async fn writing(&self) -> Result<Tx, sqlx::Error> {
        Ok(match self {
            Self::Sqlite { writer, .. } => match writer.begin_with("BEGIN IMMEDIATE").await {
                Ok(tx) => Tx::Sqlite(tx),
                Err(error) => {
                    // A full disk makes SQLite roll back by itself; the driver, which
                    // then can't, counts the transaction as open for ever.
                    writer.acquire().await?.close().await?;
                    return Err(error);
                }
            },
            Self::Postgres { writer, .. } => Tx::Postgres(writer.begin().await?),
        })
    }

    /// A transaction that sees one state of the log.
    pub(super) async fn reading(&self) -> Result<Tx, sqlx::Error> {
        Ok(match self {
            Self::Sqlite { readers, .. } => Tx::Sqlite(readers.begin().await?),
            Self::Postgres { readers, .. } => {
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                Tx::Postgres(readers.begin_with(begin).await?)
            }
        })
    }

    /// Takes note of an append.
    pub(super) fn appended(&self, entries: usize) {
        if let Self::Sqlite { unfolded, .. } = self {
            let more = PER_APPEND + PER_ENTRY * entries as u64;
            unfolded.fetch_add(more, Ordering::Relaxed);
        }
    }

    pub(super) async fn maintain(&self) {
        let Self::Sqlite {
            writer, unfolded, ..
        } = self
        else {
            return;
        };
        let options = (*writer.connect_options()).clone();
        let pool = SqlitePoolOptions::new().max_connections(1);
        let folding = pool.connect_lazy_with(options);
        while !writer.is_closed() {
            tokio::time::sleep(LOOK).await;
            if unfolded.load(Ordering::Relaxed) < FOLD {
                continue;
            }
            unfolded.store(0, Ordering::Relaxed);
            // First what can be folded beside the writer, then, while it waits,
            // the little that came meanwhile, so that the log begins anew in
            // the place that it has.
            for mode in [
                "PRAGMA wal_checkpoint(PASSIVE)",
                "PRAGMA wal_checkpoint(RESTART)",
            ] {
                if let Err(error) = sqlx::query(mode).execute(&folding).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "folding");
                }
            }
        }
        folding.close().await;
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite {
                writer, readers, ..
            } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres {
                writer,
                lease,
                readers,
            } => {
                readers.close().await;
                lease.close().await;
                writer.close().await;
            }
        }
    }
}

impl Tx {
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx) => tx.commit().await,
        }
    }
}

fn migrator(migrations: &'static [(i64, &str, &str)]) -> Migrator {
    let migration = |(version, name, sql): &(i64, &'static str, &'static str)| {
        let (name, sql) = ((*name).into(), sqlx::SqlStr::from_static(sql));
        Migration::new(*version, name, MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations(migrations.iter().map(migration).collect())
}

fn migrated(done: Result<(), MigrateError>) -> Result<(), StoreError> {
    match done {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(version)) => Err(StoreError::Newer(version)),
        Err(MigrateError::Execute(error)) => Err(error.into()),
        Err(error) => Err(StoreError::Migrate(error)),
    }
}
