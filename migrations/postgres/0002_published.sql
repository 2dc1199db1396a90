-- As migrations/sqlite/0002_published.sql.
CREATE TABLE published (
    one  BIGINT PRIMARY KEY CHECK (one = 1),
    size BIGINT NOT NULL,
    note TEXT NOT NULL
);
