//! Lists of entries by what they name: a key id, or a wallet.

use std::ops::Range;

use protocol::hash::Hash;
use protocol::name::Address;
use protocol::record::Link;

use super::read::{Page, holds};
use super::{Record, Store, StoreError};

/// What usage entries name, and are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Whose key it was.
    Key(Hash),
    /// For which wallet it counts, or was claimed.
    Wallet(Address, Link),
}

impl Named {
    /// What the table of mentions holds of it.
    pub fn mention(&self) -> Hash {
        match self {
            Self::Key(key_id) => *key_id,
            Self::Wallet(..) => Hash::of(self.field().as_bytes()),
        }
    }

    /// How it stands in an entry.
    fn field(&self) -> String {
        match self {
            Self::Key(key_id) => format!(r#","key_id":"{key_id}","#),
            Self::Wallet(wallet, link) => {
                let link = link.as_str();
                format!(r#","wallet":"{wallet}","link":"{link}","#)
            }
        }
    }
}

impl Store {
    /// The first `limit` entries within `range` that name `named`, ascending.
    ///
    /// # Errors
    /// The database failed.
    pub async fn naming(
        &self,
        named: &Named,
        range: Range<u64>,
        limit: u32,
    ) -> Result<Page, StoreError> {
        let mut tx = self.0.reading().await?;
        let limit = usize::try_from(limit).expect("a limit is at most 1,000");
        let (mention, field) = (named.mention(), named.field());
        let (mut from, mut records) = (range.start, Vec::new());
        while from < range.end && records.len() <= limit {
            let wanted = limit + 1 - records.len();
            let (found, next) = tx.mentions(&mention, from..range.end, wanted).await?;
            let entries = tx.at(&found).await?;
            // The table knows 8 bytes; the entry all.
            records.extend(entries.into_iter().filter(|r| holds(&r.entry, &field)));
            from = next;
        }
        let more = records.len() > limit;
        records.truncate(limit);
        Ok(Page { records, more })
    }

    /// The `limit` newest entries below the index `below` that name `named`,
    /// the newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn newest(
        &self,
        named: &Named,
        mut below: u64,
        limit: u32,
    ) -> Result<Vec<Record>, StoreError> {
        let mut tx = self.0.reading().await?;
        let limit = usize::try_from(limit).expect("a limit is at most 1,000");
        let (mention, field) = (named.mention(), named.field());
        let mut records = Vec::new();
        while below > 0 && records.len() < limit {
            let wanted = limit - records.len();
            let (mut found, next) = tx.mentions_down(&mention, below, wanted).await?;
            found.reverse();
            let mut entries = tx.at(&found).await?;
            // The table knows 8 bytes; the entry all.
            entries.retain(|record| holds(&record.entry, &field));
            records.extend(entries.into_iter().rev());
            below = next;
        }
        Ok(records)
    }
}
