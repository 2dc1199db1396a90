-- As migrations/sqlite/0001_log.sql, which says what each table holds; then
-- what several gateways on one log need.

CREATE TABLE log (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    size  BIGINT NOT NULL,
    peaks BYTEA NOT NULL,
    time  BIGINT NOT NULL,
    epoch BIGINT NOT NULL
);
INSERT INTO log VALUES (1, 0, '', 0, 0);

CREATE TABLE bundle (
    n           BIGINT PRIMARY KEY,
    entries     BYTEA NOT NULL,
    signatures  BYTEA NOT NULL,
    receipt_ids BYTEA NOT NULL,
    gzip        BYTEA NOT NULL
);
-- Compressed already, or random.
ALTER TABLE bundle ALTER entries SET STORAGE EXTERNAL;
ALTER TABLE bundle ALTER signatures SET STORAGE EXTERNAL;
ALTER TABLE bundle ALTER receipt_ids SET STORAGE EXTERNAL;
ALTER TABLE bundle ALTER gzip SET STORAGE EXTERNAL;

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

-- Who may write, and until when, by this server's clock.
CREATE TABLE lease (
    one    BIGINT PRIMARY KEY CHECK (one = 1),
    holder BYTEA NOT NULL,
    until  TIMESTAMPTZ NOT NULL
);
INSERT INTO lease VALUES (1, '', 'epoch');

-- What other gateways hand to the writer. The append that records a row
-- deletes it.
CREATE TABLE inbox (
    seq        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    receipt_id BYTEA NOT NULL UNIQUE,
    entry      BYTEA NOT NULL, -- as of time 0: the writer says when
    retrieval  BYTEA
);
