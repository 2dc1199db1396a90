//! What the store answers: records, tiles and sums, each with the log's size
//! it was read at, in one transaction.

use std::collections::{HashMap, HashSet};

use protocol::hash::Hash;
use protocol::index::{Index, TreeSize};
use protocol::name::Address;
use protocol::record::{Link, Source};
use protocol::tile::{Tile, TileKind, WIDTH, push_entry};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, Transaction};
use uuid::Uuid;

use super::append::{link_code, source_code};
use super::{Store, StoreError, head, id_bytes, parse_hash, parse_hashes, parse_size, to_i64};

/// An entry as it is stored.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it stands.
    pub index: Index,
    /// Its canonical bytes.
    pub entry: Vec<u8>,
    /// The signature of its receipt.
    pub signature: [u8; 64],
    /// Its receipt's id; entry 0 has none.
    pub receipt_id: Option<Uuid>,
}

/// Part of a list, and the size it was read at.
#[derive(Clone, Debug)]
pub struct Page {
    /// The log's size.
    pub size: TreeSize,
    /// The records, ascending.
    pub records: Vec<Record>,
    /// Whether there are more.
    pub more: bool,
}

/// Sums of usage entries; absent counts are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Usage entries.
    pub records: u64,
    /// Prompt tokens.
    pub input: u64,
    /// Of these read from a cache.
    pub cache_read: u64,
    /// Of these written to a cache.
    pub cache_write: u64,
    /// Generated tokens.
    pub output: u64,
    /// Of these reasoning.
    pub reasoning: u64,
}

/// UTC days, both included, since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first day.
    pub from: u64,
    /// The last day.
    pub to: u64,
}

/// What a model was used.
#[derive(Clone, Debug)]
pub struct ModelSums {
    /// How it was observed.
    pub source: Source,
    /// The provider's name.
    pub provider: String,
    /// The model; empty where the entries have none.
    pub model: String,
    /// The sums.
    pub sums: Sums,
}

/// A row of a leaderboard.
#[derive(Clone, Copy, Debug)]
pub struct Leader {
    /// Whose it is.
    pub key_id: Hash,
    /// The sums.
    pub sums: Sums,
}

/// The log as a whole.
#[derive(Clone, Debug)]
pub struct Stats {
    /// The log's size.
    pub size: TreeSize,
    /// Distinct key ids.
    pub users: u64,
    /// Distinct (provider, model).
    pub models: u64,
    /// Distinct wallets.
    pub wallets: u64,
    /// Sums by source.
    pub sources: Vec<(Source, Sums)>,
    /// Usage entries by outcome.
    pub outcomes: Vec<(String, u64)>,
}

type SumRow = (i64, i64, i64, i64, i64, i64);
type RecordRow = (i64, Vec<u8>, Vec<u8>, Option<Vec<u8>>);
type ModelRow = (i64, String, String, i64, i64, i64, i64, i64, i64);
type LeaderRow = (Vec<u8>, i64, i64, i64, i64, i64, i64);

/// The sums' columns, summed over rows.
macro_rules! summed {
    () => {
        "CAST(COALESCE(SUM(t.records), 0) AS BIGINT), CAST(COALESCE(SUM(t.input), 0) AS BIGINT),
         CAST(COALESCE(SUM(t.cache_read), 0) AS BIGINT), CAST(COALESCE(SUM(t.cache_write), 0) AS BIGINT),
         CAST(COALESCE(SUM(t.output), 0) AS BIGINT), CAST(COALESCE(SUM(t.reasoning), 0) AS BIGINT)"
    };
}

/// The sums' columns of one row.
macro_rules! columns {
    () => {
        "t.records, t.input, t.cache_read, t.cache_write, t.output, t.reasoning"
    };
}

impl Store {
    /// A read transaction, the log's size in it, and the window of `days` that
    /// ends with `today` or with the newest entry's day, if that is later.
    async fn windowed(
        &self,
        days: Option<u32>,
        today: u64,
    ) -> Result<(Transaction<'static, Sqlite>, TreeSize, Option<Window>), StoreError> {
        let (mut tx, size) = self.snapshot().await?;
        let Some(days) = days else {
            return Ok((tx, size, None));
        };
        let newest: Option<i64> = sqlx::query_scalar("SELECT time FROM log")
            .fetch_optional(&mut *tx)
            .await?;
        let to = today.max(unsigned(newest.unwrap_or(0)) / 86_400);
        let from = to.saturating_sub(u64::from(days).saturating_sub(1));
        Ok((tx, size, Some(Window { from, to })))
    }

    /// A read transaction and the log's size in it.
    async fn snapshot(&self) -> Result<(Transaction<'static, Sqlite>, TreeSize), StoreError> {
        let mut tx = self.readers.begin().await?;
        let size: Option<i64> = sqlx::query_scalar("SELECT size FROM log")
            .fetch_optional(&mut *tx)
            .await?;
        Ok((tx, parse_size(size.unwrap_or(0))?))
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.snapshot().await.map(drop)
    }

    /// The entry at `index`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn record(&self, index: Index) -> Result<Option<Record>, StoreError> {
        let row: Option<RecordRow> =
            sqlx::query_as("SELECT idx, entry, signature, receipt_id FROM record WHERE idx = $1")
                .bind(to_i64(index.get()))
                .fetch_optional(&self.readers)
                .await?;
        row.map(record).transpose()
    }

    /// Up to `limit` entries above `after`, ascending.
    ///
    /// # Errors
    /// The database failed.
    pub async fn records(&self, after: Option<Index>, limit: u32) -> Result<Page, StoreError> {
        let (mut tx, size) = self.snapshot().await?;
        let rows: Vec<RecordRow> = sqlx::query_as(
            "SELECT idx, entry, signature, receipt_id FROM record WHERE idx > $1 ORDER BY idx LIMIT $2",
        )
        .bind(after.map_or(-1, |i| to_i64(i.get())))
        .bind(i64::from(limit) + 1)
        .fetch_all(&mut *tx)
        .await?;
        page(size, rows, limit)
    }

    /// Up to `limit` entries of a key id above `after`, ascending.
    ///
    /// # Errors
    /// The database failed.
    pub async fn user_records(
        &self,
        key_id: Hash,
        after: Option<Index>,
        limit: u32,
    ) -> Result<Page, StoreError> {
        let (mut tx, size) = self.snapshot().await?;
        let rows: Vec<RecordRow> = sqlx::query_as(
            "SELECT record.idx, record.entry, record.signature, record.receipt_id
             FROM user_record JOIN record ON record.idx = user_record.idx
             WHERE user_record.user = (SELECT id FROM user WHERE key_id = $1) AND user_record.idx > $2
             ORDER BY user_record.idx LIMIT $3",
        )
        .bind(key_id.as_bytes().to_vec())
        .bind(after.map_or(-1, |i| to_i64(i.get())))
        .bind(i64::from(limit) + 1)
        .fetch_all(&mut *tx)
        .await?;
        page(size, rows, limit)
    }

    /// The entry of a receipt id.
    ///
    /// # Errors
    /// The database failed.
    pub async fn receipt(&self, id: &Uuid) -> Result<Option<Record>, StoreError> {
        let row: Option<RecordRow> = sqlx::query_as(
            "SELECT record.idx, record.entry, record.signature, record.receipt_id
             FROM receipt JOIN record ON record.idx = receipt.idx WHERE receipt.id = $1",
        )
        .bind(id_bytes(id))
        .fetch_optional(&self.readers)
        .await?;
        row.map(record).transpose()
    }

    /// Those of the commitments to response ids that entries hold. Asked by
    /// the writer, on its connection.
    ///
    /// # Errors
    /// The database failed.
    pub async fn known_responses(&self, asked: &[Hash]) -> Result<HashSet<Hash>, StoreError> {
        let mut known = HashSet::new();
        for chunk in asked.chunks(256) {
            let mut select = QueryBuilder::<Sqlite>::new(
                "SELECT response.head, record.entry FROM response
                 JOIN record ON record.idx = response.idx WHERE response.head IN (",
            );
            let mut list = select.separated(", ");
            for commitment in chunk {
                list.push_bind(head(commitment));
            }
            select.push(")");
            let rows: Vec<(i64, Vec<u8>)> = select.build_query_as().fetch_all(&self.writer).await?;
            let entries: HashMap<i64, Vec<u8>> = rows.into_iter().collect();
            known.extend(chunk.iter().filter(|commitment| {
                // The table knows 8 bytes; the entry, whose last field it is, all.
                let field = format!(r#","response":"{commitment}"}}"#);
                let entry = entries.get(&head(commitment));
                entry.is_some_and(|entry| entry.ends_with(field.as_bytes()))
            }));
        }
        Ok(known)
    }

    /// A tile's or bundle's bytes; `None` where the log is not that large.
    ///
    /// # Errors
    /// The database failed.
    pub async fn tile(&self, tile: &Tile) -> Result<Option<Vec<u8>>, StoreError> {
        let (mut tx, size) = self.snapshot().await?;
        let there = Tile::within(tile.kind(), tile.n(), size);
        if there.is_none_or(|there| there.width() < tile.width()) {
            return Ok(None);
        }
        let bytes = match tile.kind() {
            TileKind::Hashes(level) => {
                let hashes = self.hashes(&mut tx, level, tile).await?;
                hashes.iter().flat_map(|h| *h.as_bytes()).collect()
            }
            TileKind::Entries => {
                let entries: Vec<Vec<u8>> = sqlx::query_scalar(
                    "SELECT entry FROM record WHERE idx >= $1 AND idx < $2 ORDER BY idx",
                )
                .bind(first(tile))
                .bind(first(tile) + i64::from(tile.width()))
                .fetch_all(&mut *tx)
                .await?;
                let mut bundle = Vec::with_capacity(entries.iter().map(|e| e.len() + 2).sum());
                entries
                    .iter()
                    .for_each(|entry| push_entry(&mut bundle, entry));
                bundle
            }
            TileKind::Receipts => {
                let signatures: Vec<Vec<u8>> = sqlx::query_scalar(
                    "SELECT signature FROM record WHERE idx >= $1 AND idx < $2 ORDER BY idx",
                )
                .bind(first(tile))
                .bind(first(tile) + i64::from(tile.width()))
                .fetch_all(&mut *tx)
                .await?;
                signatures.concat()
            }
        };
        Ok(Some(bytes))
    }

    /// The hashes of a tile that the log is known to hold.
    pub(super) async fn hashes(
        &self,
        tx: &mut SqliteConnection,
        level: u8,
        tile: &Tile,
    ) -> Result<Vec<Hash>, StoreError> {
        let bytes: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT hashes FROM tile WHERE level = $1 AND n = $2")
                .bind(i64::from(level))
                .bind(to_i64(tile.n()))
                .fetch_optional(tx)
                .await?;
        let mut hashes = parse_hashes(&bytes.unwrap_or_default())?;
        if hashes.len() < usize::from(tile.width()) {
            return Err(StoreError::Damaged(
                "a tile is missing or shorter than the log's size says",
            ));
        }
        hashes.truncate(tile.width().into());
        Ok(hashes)
    }

    /// The log as a whole.
    ///
    /// # Errors
    /// The database failed.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let (mut tx, size) = self.snapshot().await?;
        let (users, models, wallets): (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM user),
                    (SELECT COUNT(*) FROM (SELECT DISTINCT provider, model FROM model_total WHERE model <> '') d),
                    (SELECT COUNT(*) FROM (SELECT DISTINCT wallet FROM wallet_total) d)",
        )
        .fetch_one(&mut *tx)
        .await?;
        let sources = source_sums(
            sqlx::query_as(concat!(
                "SELECT t.source, ",
                summed!(),
                " FROM model_total t GROUP BY t.source ORDER BY t.source"
            ))
            .fetch_all(&mut *tx)
            .await?,
        )?;
        let outcomes: Vec<(String, i64)> = sqlx::query_as("SELECT outcome, records FROM outcome")
            .fetch_all(&mut *tx)
            .await?;
        Ok(Stats {
            size,
            users: unsigned(users),
            models: unsigned(models),
            wallets: unsigned(wallets),
            sources,
            outcomes: outcomes
                .into_iter()
                .map(|(o, n)| (o, unsigned(n)))
                .collect(),
        })
    }

    /// What each model was used, by total, in a window or ever.
    ///
    /// # Errors
    /// The database failed.
    pub async fn models(
        &self,
        days: Option<u32>,
        today: u64,
    ) -> Result<(TreeSize, Option<Window>, Vec<ModelSums>), StoreError> {
        let (mut tx, size, window) = self.windowed(days, today).await?;
        let rows: Vec<ModelRow> = match window {
            None => {
                sqlx::query_as(concat!(
                    "SELECT t.source, t.provider, t.model, ",
                    columns!(),
                    " FROM model_total t
                     ORDER BY t.input + t.output DESC, t.source, t.provider, t.model"
                ))
                .fetch_all(&mut *tx)
                .await?
            }
            Some(window) => {
                sqlx::query_as(concat!(
                    "SELECT t.source, t.provider, t.model, ",
                    summed!(),
                    " FROM model_day t
                     WHERE t.day BETWEEN $1 AND $2 GROUP BY t.source, t.provider, t.model
                     ORDER BY SUM(t.input + t.output) DESC, t.source, t.provider, t.model"
                ))
                .bind(to_i64(window.from))
                .bind(to_i64(window.to))
                .fetch_all(&mut *tx)
                .await?
            }
        };
        let models = rows.into_iter().map(model).collect::<Result<_, _>>()?;
        Ok((size, window, models))
    }

    /// The key ids with the highest totals, in a window or ever.
    ///
    /// # Errors
    /// The database failed.
    pub async fn leaders(
        &self,
        source: Source,
        days: Option<u32>,
        today: u64,
        limit: u32,
    ) -> Result<(TreeSize, Option<Window>, Vec<Leader>), StoreError> {
        let (mut tx, size, window) = self.windowed(days, today).await?;
        let rows: Vec<LeaderRow> = match window {
            None => {
                sqlx::query_as(concat!(
                    "SELECT u.key_id, ",
                    columns!(),
                    " FROM user_total t JOIN user u ON u.id = t.user
                     WHERE t.source = $1 ORDER BY t.input + t.output DESC, u.key_id LIMIT $2"
                ))
                .bind(source_code(source))
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await?
            }
            Some(window) => {
                sqlx::query_as(concat!(
                    "SELECT u.key_id, ",
                    summed!(),
                    " FROM user_day t JOIN user u ON u.id = t.user
                     WHERE t.source = $1 AND t.day BETWEEN $3 AND $4 GROUP BY u.key_id
                     ORDER BY SUM(t.input + t.output) DESC, u.key_id LIMIT $2"
                ))
                .bind(source_code(source))
                .bind(i64::from(limit))
                .bind(to_i64(window.from))
                .bind(to_i64(window.to))
                .fetch_all(&mut *tx)
                .await?
            }
        };
        let leaders = rows.into_iter().map(leader).collect::<Result<_, _>>()?;
        Ok((size, window, leaders))
    }

    /// The key ids with the highest totals of one model's name.
    ///
    /// # Errors
    /// The database failed.
    pub async fn model_leaders(
        &self,
        source: Source,
        model: &str,
        limit: u32,
    ) -> Result<(TreeSize, Vec<Leader>), StoreError> {
        let (mut tx, size) = self.snapshot().await?;
        let rows: Vec<LeaderRow> = sqlx::query_as(concat!(
            "SELECT u.key_id, ",
            summed!(),
            " FROM user_model t JOIN user u ON u.id = t.user
             WHERE t.model = $1 AND t.source = $2 GROUP BY u.key_id
             ORDER BY SUM(t.input + t.output) DESC, u.key_id LIMIT $3"
        ))
        .bind(model.to_owned())
        .bind(source_code(source))
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
        Ok((
            size,
            rows.into_iter().map(leader).collect::<Result<_, _>>()?,
        ))
    }

    /// What a key id used: by source, and by model.
    ///
    /// # Errors
    /// The database failed.
    pub async fn user(
        &self,
        key_id: Hash,
    ) -> Result<(TreeSize, Vec<(Source, Sums)>, Vec<ModelSums>), StoreError> {
        let (mut tx, size) = self.snapshot().await?;
        let sources = source_sums(
            sqlx::query_as(concat!(
                "SELECT t.source, ",
                columns!(),
                " FROM user_total t
                 WHERE t.user = (SELECT id FROM user WHERE key_id = $1) ORDER BY t.source"
            ))
            .bind(key_id.as_bytes().to_vec())
            .fetch_all(&mut *tx)
            .await?,
        )?;
        let models: Vec<ModelRow> = sqlx::query_as(concat!(
            "SELECT t.source, t.provider, t.model, ",
            columns!(),
            " FROM user_model t
             WHERE t.user = (SELECT id FROM user WHERE key_id = $1)
             ORDER BY t.source, t.provider, t.model"
        ))
        .bind(key_id.as_bytes().to_vec())
        .fetch_all(&mut *tx)
        .await?;
        Ok((
            size,
            sources,
            models.into_iter().map(model).collect::<Result<_, _>>()?,
        ))
    }

    /// What names a wallet, by source, for one kind of link.
    ///
    /// # Errors
    /// The database failed.
    pub async fn wallet(
        &self,
        wallet: Address,
    ) -> Result<(TreeSize, [Vec<(Source, Sums)>; 2]), StoreError> {
        let (mut tx, size) = self.snapshot().await?;
        let mut lists = [Vec::new(), Vec::new()];
        for (list, link) in lists.iter_mut().zip([Link::Bound, Link::Claimed]) {
            *list = source_sums(
                sqlx::query_as(concat!(
                    "SELECT t.source, ",
                    columns!(),
                    " FROM wallet_total t
                     WHERE t.wallet = $1 AND t.link = $2 ORDER BY t.source"
                ))
                .bind(wallet.as_bytes().to_vec())
                .bind(link_code(link))
                .fetch_all(&mut *tx)
                .await?,
            )?;
        }
        Ok((size, lists))
    }
}

fn first(tile: &Tile) -> i64 {
    to_i64(tile.n() * WIDTH)
}

fn page(size: TreeSize, rows: Vec<RecordRow>, limit: u32) -> Result<Page, StoreError> {
    let mut records = rows
        .into_iter()
        .map(record)
        .collect::<Result<Vec<_>, _>>()?;
    let limit = usize::try_from(limit).expect("a limit is at most 1,000");
    let more = records.len() > limit;
    records.truncate(limit);
    Ok(Page {
        size,
        records,
        more,
    })
}

fn record((index, entry, signature, id): RecordRow) -> Result<Record, StoreError> {
    let index = u64::try_from(index).ok().and_then(Index::new);
    let receipt_id = id.map(|id| Uuid::from_slice(&id)).transpose();
    Ok(Record {
        index: index.ok_or(StoreError::Damaged("an index is out of range"))?,
        entry,
        signature: <[u8; 64]>::try_from(signature)
            .map_err(|_| StoreError::Damaged("a signature is not 64 bytes"))?,
        receipt_id: receipt_id.map_err(|_| StoreError::Damaged("a receipt id is not 16 bytes"))?,
    })
}

fn source(code: i64) -> Result<Source, StoreError> {
    let known = Source::ALL.iter().find(|s| source_code(**s) == code);
    known
        .copied()
        .ok_or(StoreError::Damaged("an unknown source"))
}

type SourceRow = (i64, i64, i64, i64, i64, i64, i64);

fn source_sums(rows: Vec<SourceRow>) -> Result<Vec<(Source, Sums)>, StoreError> {
    let row = |(code, a, b, c, d, e, f)| Ok((source(code)?, sums((a, b, c, d, e, f))));
    rows.into_iter().map(row).collect()
}

fn model((code, provider, model, a, b, c, d, e, f): ModelRow) -> Result<ModelSums, StoreError> {
    Ok(ModelSums {
        source: source(code)?,
        provider,
        model,
        sums: sums((a, b, c, d, e, f)),
    })
}

fn leader((key_id, a, b, c, d, e, f): LeaderRow) -> Result<Leader, StoreError> {
    Ok(Leader {
        key_id: parse_hash(&key_id)?,
        sums: sums((a, b, c, d, e, f)),
    })
}

fn sums((records, input, cache_read, cache_write, output, reasoning): SumRow) -> Sums {
    Sums {
        records: unsigned(records),
        input: unsigned(input),
        cache_read: unsigned(cache_read),
        cache_write: unsigned(cache_write),
        output: unsigned(output),
        reasoning: unsigned(reasoning),
    }
}

/// Sums only grow from 0; a negative one can't be stored.
fn unsigned(sum: i64) -> u64 {
    u64::try_from(sum).unwrap_or(0)
}
