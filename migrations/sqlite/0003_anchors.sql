-- Anchors in final blocks, so that no chain is read twice.
CREATE TABLE anchor (
    chain_id   INTEGER NOT NULL,
    number     INTEGER NOT NULL, -- in the log's contract there
    size       INTEGER NOT NULL, -- how many entries are covered
    root       BLOB NOT NULL,
    time       INTEGER NOT NULL, -- of the last of them
    tx         BLOB NOT NULL,    -- the transaction's hash
    block      INTEGER NOT NULL,
    block_hash BLOB NOT NULL,
    PRIMARY KEY (chain_id, number)
) STRICT, WITHOUT ROWID;
