-- What /checkpoint answered last, where witnesses are waited for; stored before
-- it is served.
CREATE TABLE published (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    size INTEGER NOT NULL, -- of the log: it never descends
    note TEXT NOT NULL     -- with its cosignatures
) STRICT;
