//! What the store answers: records and tiles, each of one state of the log.

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;
use protocol::hash::Hash;
use protocol::index::{Index, TreeSize};
use protocol::mmr::Mmr;
use protocol::tile::{Tile, TileKind, WIDTH, push_entry};
use uuid::Uuid;

use super::append::SliceRow;
use super::bundle::{decompress, records};
use super::engine::{Tx, on, once};
use super::{
    EPOCH, Head, Record, Store, StoreError, head, parse_hashes, parse_id, parse_index, parse_size,
    to_i64,
};

/// Epochs that one statement looks through.
const EPOCHS: u64 = 64;

/// Epochs that one statement looks through for those that hold anything.
const LOOKED_THROUGH: u64 = 512;

/// A number, entries, signatures and receipt ids: of a bundle, or of one entry.
type Row = (i64, Vec<u8>, Vec<u8>, Vec<u8>);

/// Part of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The records, ascending.
    pub records: Vec<Record>,
    /// Whether there are more.
    pub more: bool,
}

/// How a tile's bytes are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// As they are.
    Identity,
    /// A full bundle of entries, compressed with gzip.
    Gzip,
    /// The same with zstd.
    Zstd,
}

impl Store {
    /// A read transaction and the log's size in it.
    async fn snapshot(&self) -> Result<(Tx, TreeSize), StoreError> {
        let mut tx = self.0.reading().await?;
        let size = tx.size().await?;
        Ok((tx, size))
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
        let mut tx = self.0.reading().await?;
        let found = tx.records(index.get(), index.get() + 1).await?;
        Ok(found.into_iter().next())
    }

    /// The first `limit` entries within `range`, ascending.
    ///
    /// # Errors
    /// The database failed.
    pub async fn records(&self, range: Range<u64>, limit: u32) -> Result<Page, StoreError> {
        let to = range.end.min(range.start + u64::from(limit));
        let records = self.range(range.start, to).await?;
        let more = to < range.end;
        Ok(Page { records, more })
    }

    /// The entry of a receipt id.
    ///
    /// # Errors
    /// The database failed.
    pub async fn receipt(&self, id: &Uuid) -> Result<Option<Record>, StoreError> {
        let mut tx = self.0.reading().await?;
        let id = id.as_bytes().to_vec();
        let index: Option<i64> = on!(&mut tx, c => {
            sqlx::query_scalar("SELECT idx FROM receipt WHERE id = $1")
                .bind(id)
                .fetch_optional(c)
                .await?
        });
        let Some(index) = index else { return Ok(None) };
        let index = parse_index(index)?.get();
        Ok(tx.records(index, index + 1).await?.into_iter().next())
    }

    /// Those of the commitments to response ids that entries hold. Asked by
    /// the writer, on its connection.
    ///
    /// # Errors
    /// The database failed.
    pub async fn known_responses(&self, asked: &[Hash]) -> Result<HashSet<Hash>, StoreError> {
        let mut tx = self.0.writing().await?;
        let size = tx.size().await?;
        let mut known = HashSet::new();
        for commitment in asked {
            // The table knows 8 bytes; the entry, whose last field it is, all.
            let field = format!(r#","response":"{commitment}"}}"#);
            let mut from = 0;
            while from < size.get() && !known.contains(commitment) {
                let (found, next) = tx.mentions(commitment, from..size.get(), 16).await?;
                let entries = tx.at(&found).await?;
                if entries.iter().any(|r| r.entry.ends_with(field.as_bytes())) {
                    known.insert(*commitment);
                }
                from = next;
            }
        }
        Ok(known)
    }

    /// A tile's or bundle's bytes as they are; `None` where the log is not
    /// that large.
    ///
    /// # Errors
    /// The database failed.
    pub async fn tile(&self, tile: &Tile) -> Result<Option<Bytes>, StoreError> {
        if u64::from(tile.width()) == WIDTH {
            return self.full_tile(tile, Coding::Identity).await;
        }
        let (mut tx, size) = self.snapshot().await?;
        if !tile.is_within(size) {
            return Ok(None);
        }
        if let TileKind::Hashes(level) = tile.kind() {
            let hashes = tx.hashes(level, tile).await?;
            let bytes = hashes.iter().flat_map(|h| *h.as_bytes());
            return Ok(Some(bytes.collect::<Vec<u8>>().into()));
        }
        let from = tile.n() * WIDTH;
        let records = tx.records(from, from + u64::from(tile.width())).await?;
        let mut bytes = Vec::new();
        for record in &records {
            match tile.kind() {
                TileKind::Entries => push_entry(&mut bytes, &record.entry),
                _ => bytes.extend_from_slice(&record.signature),
            }
        }
        Ok(Some(bytes.into()))
    }

    /// A full tile's bytes in this coding, which only entries have others of;
    /// `None` where the log is not that large.
    ///
    /// # Errors
    /// The database failed.
    pub async fn full_tile(
        &self,
        tile: &Tile,
        coding: Coding,
    ) -> Result<Option<Bytes>, StoreError> {
        // It never changes, so one look outside of a transaction is enough. The
        // second is for what came between the first and the size.
        for _ in 0..2 {
            if let Some(stored) = self.stored_tile(tile, coding).await? {
                let plain = tile.kind() != TileKind::Entries || coding != Coding::Identity;
                return Ok(Some(if plain {
                    stored.into()
                } else {
                    decompress(&stored)?.into()
                }));
            }
            let (_, size) = self.snapshot().await?;
            if !tile.is_within(size) {
                return Ok(None);
            }
        }
        Err(StoreError::Damaged("a full tile or bundle is missing"))
    }

    /// What is stored of a full tile.
    async fn stored_tile(
        &self,
        tile: &Tile,
        coding: Coding,
    ) -> Result<Option<Vec<u8>>, sqlx::Error> {
        const HASHES: &str = "SELECT hashes FROM tile WHERE n = $1 AND level = $2";
        const SIGNATURES: &str = "SELECT signatures FROM bundle WHERE n = $1";
        const GZIP: &str = "SELECT gzip FROM bundle WHERE n = $1";
        const ZSTD: &str = "SELECT entries FROM bundle WHERE n = $1";
        let n = to_i64(tile.n());
        let TileKind::Hashes(level) = tile.kind() else {
            let sql = match (tile.kind(), coding) {
                (TileKind::Entries, Coding::Gzip) => GZIP,
                (TileKind::Entries, _) => ZSTD,
                _ => SIGNATURES,
            };
            return once!(&self.0, c => sqlx::query_scalar(sql).bind(n).fetch_optional(c).await);
        };
        let stored: Option<Vec<u8>> = once!(&self.0, c => {
            let query = sqlx::query_scalar(HASHES).bind(n).bind(i64::from(level));
            query.fetch_optional(c).await
        })?;
        // A row may be its level's edge.
        Ok(stored.filter(|hashes| hashes.len() as u64 == WIDTH * 32))
    }

    /// The root of the first `size` entries; `None` where there are fewer.
    ///
    /// # Errors
    /// The database failed.
    pub async fn root_at(&self, size: TreeSize) -> Result<Option<Hash>, StoreError> {
        let (mut tx, now) = self.snapshot().await?;
        if now < size {
            return Ok(None);
        }
        let peaks = tx.peaks(size, now).await?;
        let mmr = Mmr::from_peaks(size, peaks).expect("one for each bit of the size");
        Ok(Some(mmr.root()))
    }

    /// Where the log stands, and the ledger's slices as they were last written.
    ///
    /// # Errors
    /// The database failed.
    pub async fn slices(&self) -> Result<(Head, Vec<SliceRow>), StoreError> {
        let mut tx = self.0.reading().await?;
        let head = tx.head().await?;
        let rows: Vec<(i64, i64, Vec<u8>)> = on!(&mut tx, c => {
            sqlx::query_as("SELECT number, through, state FROM slice ORDER BY number")
                .fetch_all(c)
                .await?
        });
        let damaged = StoreError::Damaged;
        let row = |(number, through, state)| {
            Ok(SliceRow {
                number: u8::try_from(number).map_err(|_| damaged("a slice above 255"))?,
                through: parse_size(through)?,
                state,
            })
        };
        let slices = rows
            .into_iter()
            .map(row)
            .collect::<Result<_, StoreError>>()?;
        Ok((head, slices))
    }

    /// The entries from index `from` to before `to`, as far as there are any.
    ///
    /// # Errors
    /// The database failed.
    pub async fn range(&self, from: u64, to: u64) -> Result<Vec<Record>, StoreError> {
        self.0.reading().await?.records(from, to).await
    }
}

impl Tx {
    async fn size(&mut self) -> Result<TreeSize, StoreError> {
        let size = on!(self, c => {
            sqlx::query_scalar("SELECT size FROM log").fetch_one(c).await?
        });
        parse_size(size)
    }

    /// The entries from index `from` to before `to`, as far as there are any.
    pub(super) async fn records(&mut self, from: u64, to: u64) -> Result<Vec<Record>, StoreError> {
        let rows: Vec<Row> = on!(&mut *self, c => {
            sqlx::query_as(
                "SELECT n, entries, signatures, receipt_ids FROM bundle WHERE n >= $1 AND n < $2 ORDER BY n",
            )
            .bind(to_i64(from / WIDTH))
            .bind(to_i64(to.div_ceil(WIDTH)))
            .fetch_all(c)
            .await?
        });
        let mut found = Vec::new();
        for (n, entries, signatures, receipt_ids) in rows {
            let n = parse_index(n)?.get();
            let bundle = records(n, &entries, &signatures, &receipt_ids)?.into_iter();
            found.extend(bundle.filter(|r| (from..to).contains(&r.index.get())));
        }
        let rows: Vec<Row> = on!(self, c => {
            sqlx::query_as(
                "SELECT idx, entry, signature, receipt_id FROM tail WHERE idx >= $1 AND idx < $2 ORDER BY idx",
            )
            .bind(to_i64(from))
            .bind(to_i64(to))
            .fetch_all(c)
            .await?
        });
        for (index, entry, signature, id) in rows {
            let (Ok(signature), Ok(id)) = (signature.try_into(), id.try_into()) else {
                return Err(StoreError::Damaged("a signature or a receipt id is cut"));
            };
            found.push(Record {
                index: parse_index(index)?,
                entry,
                signature,
                receipt_id: parse_id(id),
            });
        }
        Ok(found)
    }

    /// The entries at these indices, which ascend.
    pub(super) async fn at(&mut self, indices: &[u64]) -> Result<Vec<Record>, StoreError> {
        let mut found = Vec::with_capacity(indices.len());
        for bundle in indices.chunk_by(|a, b| a / WIDTH == b / WIDTH) {
            let (Some(first), Some(last)) = (bundle.first(), bundle.last()) else {
                continue;
            };
            let records = self.records(*first, last + 1).await?;
            found.extend(
                records
                    .into_iter()
                    .filter(|r| bundle.contains(&r.index.get())),
            );
        }
        Ok(found)
    }

    /// Up to `limit` entries within `range` that may name `hash`, and the index
    /// from which on to look for more.
    pub(super) async fn mentions(
        &mut self,
        hash: &Hash,
        range: Range<u64>,
        limit: usize,
    ) -> Result<(Vec<u64>, u64), StoreError> {
        let first = range.start / EPOCH;
        let end = (first + EPOCHS).min(range.end / EPOCH + 1);
        let head = head(hash).to_vec();
        let rows: Vec<i64> = on!(self, c => {
            sqlx::query_scalar(
                "WITH RECURSIVE e(epoch) AS (
                     SELECT CAST($1 AS BIGINT) UNION ALL SELECT epoch + 1 FROM e WHERE epoch + 1 < $2
                 )
                 SELECT mention.idx FROM e CROSS JOIN mention
                 WHERE mention.epoch = e.epoch AND mention.head = $3
                     AND mention.idx >= $4 AND mention.idx < $5 ORDER BY mention.idx LIMIT $6",
            )
            .bind(to_i64(first))
            .bind(to_i64(end))
            .bind(head)
            .bind(to_i64(range.start))
            .bind(to_i64(range.end))
            .bind(limit as i64)
            .fetch_all(c)
            .await?
        });
        let found: Vec<u64> = rows
            .into_iter()
            .map(|index| Ok(parse_index(index)?.get()))
            .collect::<Result<_, StoreError>>()?;
        let next = match found.last() {
            Some(last) if found.len() == limit => last + 1,
            _ => end * EPOCH,
        };
        Ok((found, next))
    }

    /// Up to `limit` entries below the index `below` that may name `hash`,
    /// descending, and the index below which to look for more.
    pub(super) async fn mentions_down(
        &mut self,
        hash: &Hash,
        below: u64,
        limit: usize,
    ) -> Result<(Vec<u64>, u64), StoreError> {
        let last = below.saturating_sub(1) / EPOCH;
        let first = last.saturating_sub(LOOKED_THROUGH - 1);
        let head = head(hash).to_vec();
        // First the epochs, then entries of one after the other: of a hash that
        // most entries name, no more rows are read than are answered.
        let epochs: Vec<i64> = on!(&mut *self, c => {
            sqlx::query_scalar(
                "WITH RECURSIVE e(epoch) AS (
                     SELECT CAST($1 AS BIGINT) UNION ALL SELECT epoch - 1 FROM e WHERE epoch > $2
                 )
                 SELECT e.epoch FROM e WHERE EXISTS (
                     SELECT 1 FROM mention WHERE mention.epoch = e.epoch AND mention.head = $3
                 ) ORDER BY e.epoch DESC LIMIT $4",
            )
            .bind(to_i64(last))
            .bind(to_i64(first))
            .bind(&head)
            .bind(limit as i64)
            .fetch_all(c)
            .await?
        });
        let mut found = Vec::new();
        for epoch in &epochs {
            let rows: Vec<i64> = on!(&mut *self, c => {
                sqlx::query_scalar(
                    "SELECT idx FROM mention WHERE epoch = $1 AND head = $2 AND idx < $3 ORDER BY idx DESC LIMIT $4",
                )
                .bind(epoch)
                .bind(&head)
                .bind(to_i64(below))
                .bind((limit - found.len()) as i64)
                .fetch_all(c)
                .await?
            });
            for index in rows {
                found.push(parse_index(index)?.get());
            }
            if found.len() == limit {
                break;
            }
        }
        let next = match (found.last(), epochs.last()) {
            (Some(last), _) if found.len() == limit => *last,
            (_, Some(epoch)) if epochs.len() == limit => parse_index(*epoch)?.get() * EPOCH,
            _ => first * EPOCH,
        };
        Ok((found, next))
    }

    /// The peaks over the first `size` entries, highest first, from the tiles
    /// of a log that is `now` as large or larger.
    async fn peaks(&mut self, size: TreeSize, now: TreeSize) -> Result<Vec<Hash>, StoreError> {
        let heights = (0..u64::BITS).rev();
        let mut peaks = Vec::new();
        for height in heights.filter(|height| size.get() >> height & 1 == 1) {
            peaks.push(self.peak(size, height, now).await?);
        }
        Ok(peaks)
    }

    /// The one of this height.
    async fn peak(
        &mut self,
        size: TreeSize,
        height: u32,
        now: TreeSize,
    ) -> Result<Hash, StoreError> {
        const MISSING: StoreError = StoreError::Damaged("a tile of the log's past is missing");
        // The peak stands over all that the higher bits of the size count.
        let start = size.get() & !((2 << height) - 1);
        let level = u8::try_from(height / 8).expect("a height is below 64");
        let first = start >> (8 * u32::from(level));
        let tile = Tile::within(TileKind::Hashes(level), first / WIDTH, now);
        let tile = tile.ok_or(MISSING)?;
        let at = usize::try_from(first % WIDTH).expect("below 256");
        let hashes = self.hashes(level, &tile).await?;
        let under = hashes.get(at..at + (1 << (height % 8))).ok_or(MISSING)?;
        let mut nodes = under.to_vec();
        while nodes.len() > 1 {
            let (pairs, _) = nodes.as_chunks::<2>();
            nodes = pairs.iter().map(|[a, b]| Hash::node(a, b)).collect();
        }
        Ok(nodes[0])
    }

    /// The hashes of a tile that the log is known to hold.
    pub(super) async fn hashes(&mut self, level: u8, tile: &Tile) -> Result<Vec<Hash>, StoreError> {
        let stored: Option<Vec<u8>> = on!(&mut *self, c => {
            sqlx::query_scalar("SELECT hashes FROM tile WHERE level = $1 AND n = $2")
                .bind(i64::from(level))
                .bind(to_i64(tile.n()))
                .fetch_optional(c)
                .await?
        });
        let mut hashes = match stored {
            Some(stored) => parse_hashes(&stored)?,
            // The edge of level 0 is not stored: it follows from the entries.
            None if level == 0 => {
                let from = tile.n() * WIDTH;
                let records = self.records(from, from + u64::from(tile.width())).await?;
                records.iter().map(|r| Hash::leaf(&r.entry)).collect()
            }
            None => Vec::new(),
        };
        if hashes.len() < usize::from(tile.width()) {
            return Err(StoreError::Damaged(
                "a tile is missing or shorter than the log's size says",
            ));
        }
        hashes.truncate(tile.width().into());
        Ok(hashes)
    }
}

/// Whether an entry holds this text.
pub(super) fn holds(entry: &[u8], field: &str) -> bool {
    memchr::memmem::find(entry, field.as_bytes()).is_some()
}
