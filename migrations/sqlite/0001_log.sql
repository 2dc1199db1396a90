-- The log. Everything is written by the append transaction, which moves
-- log.size from what it started from, and only in its own epoch.

CREATE TABLE log (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    size  INTEGER NOT NULL,
    peaks BLOB NOT NULL,     -- 32 bytes each, highest first
    time  INTEGER NOT NULL,  -- of the newest entry
    epoch INTEGER NOT NULL   -- of the writer: each new one begins the next
) STRICT;
INSERT INTO log VALUES (1, 0, x'', 0, 0);

-- 256 entries each, once there are so many.
CREATE TABLE bundle (
    n           INTEGER PRIMARY KEY,
    entries     BLOB NOT NULL, -- as served, compressed (zstd)
    signatures  BLOB NOT NULL, -- of the receipts, 64 bytes each
    receipt_ids BLOB NOT NULL, -- 16 bytes each, zero where there is none
    gzip        BLOB NOT NULL  -- the entries for who takes no zstd
) STRICT;

-- The entries after the last full bundle.
CREATE TABLE tail (
    idx        INTEGER PRIMARY KEY,
    entry      BLOB NOT NULL,
    signature  BLOB NOT NULL,
    receipt_id BLOB NOT NULL
) STRICT;

-- Full tiles, and the right edge of every level above 0.
CREATE TABLE tile (
    level  INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    hashes BLOB NOT NULL,    -- 32 bytes each, up to 256
    PRIMARY KEY (level, n)
) STRICT, WITHOUT ROWID;

-- Receipt ids are time-ordered, so this grows at its right edge.
CREATE TABLE receipt (
    id  BLOB PRIMARY KEY,
    idx INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which entries name a key id, or commit to a response id: by the first 8
-- bytes of it; the entry settles a collision. An epoch is 16,384 entries, so
-- that new rows fall on few pages, however large the log.
CREATE TABLE mention (
    epoch INTEGER NOT NULL,
    head  BLOB NOT NULL,
    idx   INTEGER NOT NULL,
    PRIMARY KEY (epoch, head, idx)
) STRICT, WITHOUT ROWID;

-- The ledger of sums, in 256 slices, each as of a size of its own.
CREATE TABLE slice (
    number  INTEGER PRIMARY KEY,
    through INTEGER NOT NULL,
    state   BLOB NOT NULL
) STRICT;
