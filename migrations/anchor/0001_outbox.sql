-- What the anchor job signed with one gas key on one chain: a database each, as
-- nonces are counted so. Every change is one statement, whole or not at all.

CREATE TABLE purse (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    chain   TEXT NOT NULL,   -- its id (EIP-155)
    address BLOB NOT NULL    -- of the gas key, 20 bytes
) STRICT;

-- A signed transaction, here before it is broadcast. Those of one nonce are
-- forms of one post: one of them at the most gets into the chain.
CREATE TABLE attempt (
    nonce     INTEGER NOT NULL,
    number    INTEGER NOT NULL, -- from 0: the later, the higher its fees
    what      TEXT NOT NULL,    -- it does, for people
    recipient BLOB NOT NULL,    -- an address, 20 bytes
    data      BLOB NOT NULL,
    gas       INTEGER NOT NULL, -- its limit
    max_fee   TEXT NOT NULL,    -- for a unit of gas, in wei
    tip       TEXT NOT NULL,    -- the part of it that goes to the block's builder
    hash      BLOB NOT NULL UNIQUE,
    raw       BLOB NOT NULL,    -- as it is broadcast
    time      INTEGER NOT NULL, -- of signing, in seconds since 1970
    outcome   TEXT CHECK (outcome IN ('final', 'displaced')), -- NULL: open
    PRIMARY KEY (nonce, number)
) STRICT;
CREATE INDEX open ON attempt (nonce) WHERE outcome IS NULL;

-- How many anchors a contract was seen to have.
CREATE TABLE contract (
    address BLOB PRIMARY KEY,
    count   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
