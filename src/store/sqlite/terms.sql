-- Search by terms: see search.rs. What earlier versions indexed (the tables search, search_numbers and search_rooms) is erased in the background.

-- Of each log the stretch that is indexed.
CREATE TABLE search_logs (
    number INTEGER NOT NULL PRIMARY KEY, -- stands for the room in search_postings
    room   BLOB UNIQUE,                  -- null once the room was deleted
    above  INTEGER NOT NULL,             -- the entry in front of the stretch
    up_to  INTEGER NOT NULL              -- its last entry
) STRICT;
CREATE INDEX search_logs_unfinished ON search_logs (number) WHERE above > 0;

-- Which messages have a term. A block is 256 entries of a log, and each of them is one byte.
CREATE TABLE search_postings (
    log   INTEGER NOT NULL,
    block INTEGER NOT NULL,
    term  TEXT NOT NULL,
    seqs  BLOB NOT NULL,
    PRIMARY KEY (log, block, term)
) STRICT, WITHOUT ROWID;

-- Messages that were indexed and have changed since: they are indexed as they were.
CREATE TABLE search_stale (
    room BLOB NOT NULL,
    seq  INTEGER NOT NULL,
    PRIMARY KEY (room, seq)
) STRICT, WITHOUT ROWID;

INSERT INTO search_logs (room, above, up_to) SELECT room, last_seq, last_seq FROM heads WHERE last_seq > 0;

-- Without its head the index of earlier versions is ordinary tables, from which rows can be deleted a few at a time: FTS5 would delete all at
-- once, and calls what is left in between damaged.
PRAGMA writable_schema = ON;
DELETE FROM sqlite_schema WHERE type = 'table' AND name = 'search';
PRAGMA writable_schema = RESET;
