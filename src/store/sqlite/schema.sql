-- The embedded database. Ids are 16 bytes, times milliseconds since 1970 (UTC).
-- This is version 1. What came later stands in files of its own, one for each version: see SCHEMA in file.rs.

-- Deleted users stay, without their names: they are still authors.
CREATE TABLE users (
    id         BLOB NOT NULL PRIMARY KEY,
    first_name TEXT NOT NULL,
    last_name  TEXT NOT NULL,
    type       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted    INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX users_by_age ON users (created_at, id) WHERE NOT deleted;

CREATE TABLE rooms (
    id         BLOB NOT NULL PRIMARY KEY,
    type       TEXT NOT NULL,
    initiator  BLOB NOT NULL,
    members    BLOB NOT NULL,        -- their ids in ascending order, one behind the other
    member_key BLOB NOT NULL UNIQUE, -- SHA-256 of type and members: finds the room by them
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The end of each room's log: apart from rooms, since it is rewritten with every batch and a row of rooms may be large.
CREATE TABLE heads (
    room     BLOB NOT NULL PRIMARY KEY,
    last_seq INTEGER NOT NULL, -- of the last entry; 0 for an empty log
    last_at  INTEGER NOT NULL, -- its time
    latest   BLOB              -- id of the latest message that is not deleted
) STRICT, WITHOUT ROWID;

-- Who is in which room. In a small room each member's row carries the room's latest message, so that recent conversations are found by
-- reading the user's own rows; in a large room that would cost a write per member and post, so it is looked up in heads.
-- No index on latest: it would be rewritten with every post, and a user's rows are few.
CREATE TABLE memberships (
    user   BLOB NOT NULL,
    room   BLOB NOT NULL,
    large  INTEGER NOT NULL,
    posted INTEGER NOT NULL DEFAULT 0, -- how many messages the user has ever posted in the room
    latest BLOB,
    PRIMARY KEY (user, room)
) STRICT, WITHOUT ROWID;
CREATE INDEX memberships_by_room ON memberships (room);

-- The logs. A deleted message keeps its number and loses its text.
CREATE TABLE entries (
    room       BLOB NOT NULL,
    seq        INTEGER NOT NULL,
    id         BLOB NOT NULL,
    author     BLOB NOT NULL,
    text       TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (room, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX entries_by_id ON entries (id);
CREATE INDEX entries_deleted      ON entries (room, seq, author) WHERE text IS NULL;

CREATE TABLE read_marks (
    room      BLOB NOT NULL,
    user      BLOB NOT NULL,
    up_to_seq INTEGER NOT NULL,
    read_at   INTEGER NOT NULL,
    posted    INTEGER NOT NULL, -- how many messages the user had posted by then: they need no reading
    PRIMARY KEY (room, user, up_to_seq)
) STRICT, WITHOUT ROWID;

-- Deleted rooms whose log is still being taken away, piece by piece.
CREATE TABLE purges (
    room BLOB NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
