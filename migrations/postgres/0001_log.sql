-- As migrations/sqlite/0001_log.sql, which says what each table holds.

CREATE TABLE log (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    size  BIGINT NOT NULL,
    peaks BYTEA NOT NULL,
    time  BIGINT NOT NULL
);

CREATE TABLE bundle (
    n           BIGINT PRIMARY KEY,
    entries     BYTEA NOT NULL,
    signatures  BYTEA NOT NULL,
    receipt_ids BYTEA NOT NULL
);
-- Compressed already, or random.
ALTER TABLE bundle ALTER entries SET STORAGE EXTERNAL;
ALTER TABLE bundle ALTER signatures SET STORAGE EXTERNAL;
ALTER TABLE bundle ALTER receipt_ids SET STORAGE EXTERNAL;

CREATE TABLE tail (
    idx        BIGINT PRIMARY KEY,
    entry      BYTEA NOT NULL,
    signature  BYTEA NOT NULL,
    receipt_id BYTEA NOT NULL
);

CREATE TABLE tile (
    level  BIGINT NOT NULL,
    n      BIGINT NOT NULL,
    hashes BYTEA NOT NULL,
    PRIMARY KEY (level, n)
);
ALTER TABLE tile ALTER hashes SET STORAGE EXTERNAL;

CREATE TABLE receipt (
    id  BYTEA PRIMARY KEY,
    idx BIGINT NOT NULL
);

CREATE TABLE mention (
    epoch BIGINT NOT NULL,
    head  BYTEA NOT NULL,
    idx   BIGINT NOT NULL,
    PRIMARY KEY (epoch, head, idx)
);

CREATE TABLE slice (
    number  BIGINT PRIMARY KEY,
    through BIGINT NOT NULL,
    state   BYTEA NOT NULL
);
