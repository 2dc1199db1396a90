//! Bundles as they are stored: 256 entries together, compressed once, in each
//! coding that is served.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use protocol::index::Index;
use protocol::tile::{MAX_ENTRY, WIDTH, entries, push_entry};

use super::{Record, StoreError, id_bytes, parse_id};

/// How hard entries are compressed: half their size for a hundredth of what
/// their signatures cost.
const LEVEL: i32 = 1;

/// The first level of gzip that finds what repeats across entries.
const GZIP_LEVEL: u32 = 2;

/// A full bundle.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub(super) n: u64,
    pub(super) entries: Vec<u8>,
    pub(super) signatures: Vec<u8>,
    pub(super) receipt_ids: Vec<u8>,
    pub(super) gzip: Vec<u8>,
}

impl Sealed {
    /// Bundle `n`, of its 256 records.
    pub fn new(n: u64, records: &[&Record]) -> Self {
        let mut bundle = Vec::with_capacity(records.iter().map(|r| r.entry.len() + 2).sum());
        for record in records {
            push_entry(&mut bundle, &record.entry);
        }
        let compressed = zstd::bulk::compress(&bundle, LEVEL);
        Self {
            n,
            gzip: gzipped(&bundle),
            entries: compressed.expect("there is memory for what is compressed"),
            signatures: records.iter().flat_map(|r| r.signature).collect(),
            receipt_ids: records
                .iter()
                .flat_map(|r| id_bytes(r.receipt_id))
                .collect(),
        }
    }
}

/// The records of bundle `n`, of what is stored of it.
pub(super) fn records(
    n: u64,
    stored: &[u8],
    signatures: &[u8],
    receipt_ids: &[u8],
) -> Result<Vec<Record>, StoreError> {
    let damaged = || StoreError::Damaged("a bundle of entries can't be taken apart");
    let bundle = decompress(stored)?;
    let entries = entries(&bundle).ok_or_else(damaged)?;
    let (signatures, _) = signatures.as_chunks::<64>();
    let (ids, _) = receipt_ids.as_chunks::<16>();
    let width = usize::try_from(WIDTH).expect("256");
    if [entries.len(), signatures.len(), ids.len()] != [width; 3] {
        return Err(damaged());
    }
    let mut records = Vec::with_capacity(width);
    for (at, entry) in entries.into_iter().enumerate() {
        records.push(Record {
            index: Index::new(n * WIDTH + at as u64).ok_or_else(damaged)?,
            entry: entry.to_vec(),
            signature: signatures[at],
            receipt_id: parse_id(ids[at]),
        });
    }
    Ok(records)
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(
        Vec::with_capacity(bytes.len() / 2),
        Compression::new(GZIP_LEVEL),
    );
    let done = encoder.write_all(bytes).and_then(|()| encoder.finish());
    done.expect("writing to memory does not fail")
}

/// The bytes of a bundle.
pub(super) fn decompress(stored: &[u8]) -> Result<Vec<u8>, StoreError> {
    let damaged = || StoreError::Damaged("a bundle of entries can't be decompressed");
    let limit = WIDTH * (MAX_ENTRY as u64 + 2);
    let len = zstd::zstd_safe::get_frame_content_size(stored)
        .ok()
        .flatten();
    let len = len.filter(|len| *len <= limit).ok_or_else(damaged)?;
    let len = usize::try_from(len).map_err(|_| damaged())?;
    zstd::bulk::decompress(stored, len).map_err(|_| damaged())
}
