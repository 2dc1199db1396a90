//! The append transaction.
//!
//! Order: the size moves first, and only from what the batch was staged on. A
//! second writer, or a batch staged on a state that was never committed, fails
//! there and writes nothing.

use std::collections::HashMap;
use std::hash::Hash as StdHash;

use protocol::hash::Hash;
use protocol::index::{Index, Time, TreeSize};
use protocol::mmr::Mmr;
use protocol::name::Address;
use protocol::record::{Link, Outcome, Source};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::{Counted, Store, StoreError, head, id_bytes, parse_hash, to_i64};

/// Rows in one INSERT: under SQLite's limit of 32,766 bound values.
const CHUNK: usize = 256;

/// One entry with all that is stored for it.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Where it stands.
    pub index: Index,
    /// Its canonical bytes.
    pub entry: Vec<u8>,
    /// The signature of its receipt.
    pub signature: [u8; 64],
    /// Its receipt's id; entry 0 has none.
    pub receipt_id: Option<Uuid>,
    /// What it adds to the sums; only usage entries add.
    pub counted: Option<Counted>,
}

/// A tile's content after the batch: full, or its level's right edge.
#[derive(Clone, Debug)]
pub struct TileRow {
    /// 0 for leaf hashes.
    pub level: u8,
    /// The tile's place in its level.
    pub n: u64,
    /// 1 to 256 hashes.
    pub hashes: Vec<Hash>,
}

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The log is not where the batch was staged: another writer is at work.
    #[error("the log is no longer at size {expected}: another gateway writes to this database")]
    Moved {
        /// The size the batch was staged on.
        expected: TreeSize,
    },
    /// The database failed; nothing or all of the batch is committed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for AppendError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Commits a batch that was staged on size `from` and leads to `mmr`.
    /// When it returns, the batch is on the disk.
    ///
    /// # Errors
    /// [`AppendError`]; after [`AppendError::Store`] the caller must look
    /// whether the commit went through.
    pub async fn append(
        &self,
        from: TreeSize,
        mmr: &Mmr,
        time: Time,
        records: &[Staged],
        tiles: &[TileRow],
    ) -> Result<(), AppendError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let peaks: Vec<u8> = mmr.peaks().iter().flat_map(|p| *p.as_bytes()).collect();
        let size = to_i64(mmr.size().get());
        let moved = if from == TreeSize::ZERO {
            sqlx::query("INSERT INTO log (one, size, peaks, time) VALUES (1, $1, $2, $3) ON CONFLICT DO NOTHING")
                .bind(size)
                .bind(peaks)
                .bind(to_i64(time.secs()))
        } else {
            sqlx::query("UPDATE log SET size = $1, peaks = $2, time = $3 WHERE size = $4")
                .bind(size)
                .bind(peaks)
                .bind(to_i64(time.secs()))
                .bind(to_i64(from.get()))
        };
        if moved.execute(&mut *tx).await?.rows_affected() != 1 {
            return Err(AppendError::Moved { expected: from });
        }
        insert_records(&mut tx, records).await?;
        insert_tiles(&mut tx, tiles).await?;
        add_sums(&mut tx, records).await?;
        tx.commit().await?;
        Ok(())
    }
}

async fn insert_records(tx: &mut SqliteConnection, records: &[Staged]) -> Result<(), sqlx::Error> {
    for chunk in records.chunks(CHUNK) {
        QueryBuilder::<Sqlite>::new("INSERT INTO record (idx, entry, signature, receipt_id) ")
            .push_values(chunk, |mut row, staged| {
                row.push_bind(to_i64(staged.index.get()))
                    .push_bind(staged.entry.clone())
                    .push_bind(staged.signature.to_vec())
                    .push_bind(staged.receipt_id.as_ref().map(id_bytes));
            })
            .build()
            .execute(&mut *tx)
            .await?;
    }
    let receipts: Vec<_> = records
        .iter()
        .filter_map(|s| Some((s.receipt_id?, s.index)))
        .collect();
    for chunk in receipts.chunks(CHUNK) {
        QueryBuilder::<Sqlite>::new("INSERT INTO receipt (id, idx) ")
            .push_values(chunk, |mut row, (id, index)| {
                row.push_bind(id_bytes(id)).push_bind(to_i64(index.get()));
            })
            .build()
            .execute(&mut *tx)
            .await?;
    }
    let mut responses: Vec<_> = records
        .iter()
        .filter_map(|s| Some((head(&s.counted.as_ref()?.usage.response?), s.index)))
        .collect();
    responses.sort_unstable();
    for chunk in responses.chunks(CHUNK) {
        QueryBuilder::<Sqlite>::new("INSERT INTO response (head, idx) ")
            .push_values(chunk, |mut row, (head, index)| {
                row.push_bind(*head).push_bind(to_i64(index.get()));
            })
            // POSTs are never merged, so a provider may repeat an id: the first stands.
            .push(" ON CONFLICT DO NOTHING")
            .build()
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

async fn insert_tiles(tx: &mut SqliteConnection, tiles: &[TileRow]) -> Result<(), sqlx::Error> {
    for tile in tiles {
        let hashes: Vec<u8> = tile.hashes.iter().flat_map(|h| *h.as_bytes()).collect();
        sqlx::query(
            "INSERT INTO tile (level, n, hashes) VALUES ($1, $2, $3)
             ON CONFLICT (level, n) DO UPDATE SET hashes = excluded.hashes",
        )
        .bind(i64::from(tile.level))
        .bind(to_i64(tile.n))
        .bind(hashes)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

async fn add_sums(tx: &mut SqliteConnection, records: &[Staged]) -> Result<(), StoreError> {
    let counted = || {
        records
            .iter()
            .filter_map(|s| Some((s.index, s.counted.as_ref()?)))
    };
    let users = user_ids(tx, counted().filter_map(|(_, c)| c.usage.key_id)).await?;

    let mut outcomes: HashMap<Outcome, i64> = HashMap::new();
    let mut user_records: Vec<(i64, i64)> = Vec::new();
    let mut models: Deltas<(Source, &str, &str)> = Deltas::new();
    let mut model_days: Deltas<(i64, Source, &str, &str)> = Deltas::new();
    let mut totals: Deltas<(i64, Source)> = Deltas::new();
    let mut days: Deltas<(i64, Source, i64)> = Deltas::new();
    let mut user_models: Deltas<(i64, Source, &str, &str)> = Deltas::new();
    let mut wallets: Deltas<(Address, Link, Source)> = Deltas::new();
    for (index, Counted { usage, day }) in counted() {
        let (source, day) = (usage.source, to_i64(*day));
        let provider = usage.provider.as_str();
        let model = usage.model.as_ref().map_or("", |m| m.as_str());
        *outcomes.entry(usage.outcome).or_default() += 1;
        add(&mut models, (source, provider, model), usage);
        add(&mut model_days, (day, source, provider, model), usage);
        if let Some((wallet, link)) = usage.wallet {
            add(&mut wallets, (wallet, link, source), usage);
        }
        if let Some(key_id) = usage.key_id {
            let user = users[&key_id];
            user_records.push((user, to_i64(index.get())));
            add(&mut totals, (user, source), usage);
            add(&mut days, (day, source, user), usage);
            add(&mut user_models, (user, source, provider, model), usage);
        }
    }

    for (outcome, records) in outcomes {
        sqlx::query(
            "INSERT INTO outcome (outcome, records) VALUES ($1, $2)
             ON CONFLICT (outcome) DO UPDATE SET records = outcome.records + excluded.records",
        )
        .bind(outcome.as_str())
        .bind(records)
        .execute(&mut *tx)
        .await?;
    }
    for chunk in user_records.chunks(CHUNK) {
        QueryBuilder::<Sqlite>::new("INSERT INTO user_record (user, idx) ")
            .push_values(chunk, |mut row, (user, index)| {
                row.push_bind(*user).push_bind(*index);
            })
            .build()
            .execute(&mut *tx)
            .await?;
    }
    upsert(
        tx,
        "model_total",
        &["source", "provider", "model"],
        models,
        |row, key| {
            row.push_bind(source_code(key.0))
                .push_bind(key.1.to_owned())
                .push_bind(key.2.to_owned());
        },
    )
    .await?;
    upsert(
        tx,
        "model_day",
        &["day", "source", "provider", "model"],
        model_days,
        |row, key| {
            row.push_bind(key.0)
                .push_bind(source_code(key.1))
                .push_bind(key.2.to_owned())
                .push_bind(key.3.to_owned());
        },
    )
    .await?;
    upsert(tx, "user_total", &["user", "source"], totals, |row, key| {
        row.push_bind(key.0).push_bind(source_code(key.1));
    })
    .await?;
    upsert(
        tx,
        "user_day",
        &["day", "source", "user"],
        days,
        |row, key| {
            row.push_bind(key.0)
                .push_bind(source_code(key.1))
                .push_bind(key.2);
        },
    )
    .await?;
    upsert(
        tx,
        "user_model",
        &["user", "source", "provider", "model"],
        user_models,
        |row, key| {
            row.push_bind(key.0)
                .push_bind(source_code(key.1))
                .push_bind(key.2.to_owned())
                .push_bind(key.3.to_owned());
        },
    )
    .await?;
    upsert(
        tx,
        "wallet_total",
        &["wallet", "link", "source"],
        wallets,
        |row, key| {
            row.push_bind(key.0.as_bytes().to_vec())
                .push_bind(link_code(key.1))
                .push_bind(source_code(key.2));
        },
    )
    .await?;
    Ok(())
}

/// The ids of users, given to those who are new.
async fn user_ids(
    tx: &mut SqliteConnection,
    keys: impl Iterator<Item = Hash>,
) -> Result<HashMap<Hash, i64>, StoreError> {
    let mut keys: Vec<Hash> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    let mut ids = HashMap::with_capacity(keys.len());
    for chunk in keys.chunks(CHUNK) {
        QueryBuilder::<Sqlite>::new("INSERT INTO user (key_id) ")
            .push_values(chunk, |mut row, key| {
                row.push_bind(key.as_bytes().to_vec());
            })
            .push(" ON CONFLICT DO NOTHING")
            .build()
            .execute(&mut *tx)
            .await?;
        let mut select =
            QueryBuilder::<Sqlite>::new("SELECT key_id, id FROM user WHERE key_id IN (");
        let mut list = select.separated(", ");
        for key in chunk {
            list.push_bind(key.as_bytes().to_vec());
        }
        select.push(")");
        let rows: Vec<(Vec<u8>, i64)> = select.build_query_as().fetch_all(&mut *tx).await?;
        for (key, id) in rows {
            ids.insert(parse_hash(&key)?, id);
        }
    }
    Ok(ids)
}

/// Records and counts that a batch adds to rows, by the rows' keys.
type Deltas<K> = HashMap<K, [i64; 6]>;

fn add<K: Eq + StdHash>(deltas: &mut Deltas<K>, key: K, usage: &protocol::record::Usage) {
    let counts = &usage.counts;
    let count = |c: Option<u32>| c.map_or(0, i64::from);
    let row = deltas.entry(key).or_default();
    for (sum, more) in row.iter_mut().zip([
        1,
        count(counts.input),
        count(counts.cache_read),
        count(counts.cache_write),
        count(counts.output),
        count(counts.reasoning),
    ]) {
        *sum += more;
    }
}

async fn upsert<K>(
    tx: &mut SqliteConnection,
    table: &'static str,
    key: &[&str],
    deltas: Deltas<K>,
    mut bind: impl FnMut(&mut sqlx::query_builder::Separated<'_, Sqlite, &'static str>, &K),
) -> Result<(), sqlx::Error> {
    const SUMS: [&str; 6] = [
        "records",
        "input",
        "cache_read",
        "cache_write",
        "output",
        "reasoning",
    ];
    let columns = key.join(", ");
    let updates = SUMS
        .map(|c| format!("{c} = {table}.{c} + excluded.{c}"))
        .join(", ");
    let rows: Vec<_> = deltas.into_iter().collect();
    for chunk in rows.chunks(CHUNK) {
        QueryBuilder::<Sqlite>::new(format!(
            "INSERT INTO {table} ({columns}, {}) ",
            SUMS.join(", ")
        ))
        .push_values(chunk, |mut row, (key, sums)| {
            bind(&mut row, key);
            for sum in sums {
                row.push_bind(*sum);
            }
        })
        .push(format!(" ON CONFLICT ({columns}) DO UPDATE SET {updates}"))
        .build()
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// How the tables hold a source.
pub(super) fn source_code(source: Source) -> i64 {
    match source {
        Source::Proxy => 0,
        Source::Custom => 1,
    }
}

/// How the tables hold a link.
pub(super) fn link_code(link: Link) -> i64 {
    match link {
        Link::Claimed => 0,
        Link::Bound => 1,
    }
}
