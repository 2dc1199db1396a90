-- Anchors in final blocks, so that no chain is read twice.
CREATE TABLE anchor (
    chain_id   BIGINT NOT NULL,
    number     BIGINT NOT NULL, -- in the log's contract there
    size       BIGINT NOT NULL, -- how many entries are covered
    root       BYTEA NOT NULL,
    time       BIGINT NOT NULL, -- of the last of them
    tx         BYTEA NOT NULL,  -- the transaction's hash
    block      BIGINT NOT NULL,
    block_hash BYTEA NOT NULL,
    PRIMARY KEY (chain_id, number)
);
