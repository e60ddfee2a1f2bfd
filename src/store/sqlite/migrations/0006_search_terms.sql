-- Search by terms: see search/mod.rs. The index of earlier versions (the tables search, search_numbers and search_rooms) is erased in the
-- background.

-- The indexed range of each log.
CREATE TABLE search_logs (
    number INTEGER NOT NULL PRIMARY KEY, -- identifies the room in search_postings
    room   BLOB UNIQUE,                  -- null after the room was deleted
    above  INTEGER NOT NULL,             -- the entry before the range
    up_to  INTEGER NOT NULL              -- the last entry of the range
) STRICT;
CREATE INDEX search_logs_unfinished ON search_logs (number) WHERE above > 0;

-- The messages that contain a term. A block is 256 entries of a log; each entry is one byte of seqs.
CREATE TABLE search_postings (
    log   INTEGER NOT NULL,
    block INTEGER NOT NULL,
    term  TEXT NOT NULL,
    seqs  BLOB NOT NULL,
    PRIMARY KEY (log, block, term)
) STRICT, WITHOUT ROWID;

-- Messages that have changed since they were indexed; the index still has their former text.
CREATE TABLE search_stale (
    room BLOB NOT NULL,
    seq  INTEGER NOT NULL,
    PRIMARY KEY (room, seq)
) STRICT, WITHOUT ROWID;

INSERT INTO search_logs (room, above, up_to) SELECT room, last_seq, last_seq FROM heads WHERE last_seq > 0;

-- Without its virtual table, the index of earlier versions consists of ordinary tables, from which a few rows can be deleted at a time. FTS5
-- would delete all rows at once, and reports a partly deleted index as damaged.
PRAGMA writable_schema = ON;
DELETE FROM sqlite_schema WHERE type = 'table' AND name = 'search';
PRAGMA writable_schema = RESET;
