-- The log and the sums over it. Every table but "user" is written only by the
-- append transaction, which moves log.size from what it started from.

CREATE TABLE log (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    size  INTEGER NOT NULL,
    peaks BLOB NOT NULL,     -- 32 bytes each, highest first
    time  INTEGER NOT NULL   -- of the newest entry
) STRICT;

CREATE TABLE record (
    idx        INTEGER PRIMARY KEY,
    entry      BLOB NOT NULL,
    signature  BLOB NOT NULL, -- of the receipt, 64 bytes
    receipt_id BLOB           -- 16 bytes; entry 0 has none
) STRICT;

-- Receipt ids are time-ordered, so this grows at its right edge.
CREATE TABLE receipt (
    id  BLOB PRIMARY KEY,
    idx INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Commitments to response ids, by their first 8 bytes, so that a response
-- that is retrieved is recorded once. The entry settles a collision.
CREATE TABLE response (
    head INTEGER PRIMARY KEY,
    idx  INTEGER NOT NULL
) STRICT;

CREATE TABLE tile (
    level  INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    hashes BLOB NOT NULL,    -- 32 bytes each, up to 256
    PRIMARY KEY (level, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE user (
    id     INTEGER PRIMARY KEY,
    key_id BLOB NOT NULL UNIQUE
) STRICT;

CREATE TABLE user_record (
    user INTEGER NOT NULL,
    idx  INTEGER NOT NULL,
    PRIMARY KEY (user, idx)
) STRICT, WITHOUT ROWID;

-- source: 0 proxy, 1 custom. model: '' where the entry has none. day: of the
-- entry's time. link: 0 claimed, 1 bound.
CREATE TABLE outcome (
    outcome TEXT PRIMARY KEY,
    records INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE model_total (
    source INTEGER NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,
    records INTEGER NOT NULL, input INTEGER NOT NULL, cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    PRIMARY KEY (source, provider, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE model_day (
    day INTEGER NOT NULL, source INTEGER NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,
    records INTEGER NOT NULL, input INTEGER NOT NULL, cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    PRIMARY KEY (day, source, provider, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE user_total (
    user INTEGER NOT NULL, source INTEGER NOT NULL,
    records INTEGER NOT NULL, input INTEGER NOT NULL, cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    PRIMARY KEY (user, source)
) STRICT, WITHOUT ROWID;
CREATE INDEX user_rank ON user_total (source, (input + output) DESC);

CREATE TABLE user_day (
    day INTEGER NOT NULL, source INTEGER NOT NULL, user INTEGER NOT NULL,
    records INTEGER NOT NULL, input INTEGER NOT NULL, cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    PRIMARY KEY (day, source, user)
) STRICT, WITHOUT ROWID;

CREATE TABLE user_model (
    user INTEGER NOT NULL, source INTEGER NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,
    records INTEGER NOT NULL, input INTEGER NOT NULL, cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    PRIMARY KEY (user, source, provider, model)
) STRICT, WITHOUT ROWID;
CREATE INDEX model_rank ON user_model (model, source);

CREATE TABLE wallet_total (
    wallet BLOB NOT NULL, link INTEGER NOT NULL, source INTEGER NOT NULL,
    records INTEGER NOT NULL, input INTEGER NOT NULL, cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    PRIMARY KEY (wallet, link, source)
) STRICT, WITHOUT ROWID;
