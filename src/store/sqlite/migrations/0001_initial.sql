-- Ids are 16 bytes; times are milliseconds since 1970 (UTC).

-- A deleted user keeps its row, without the names, because it is still the author of messages.
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
    members    BLOB NOT NULL,        -- the concatenated ids in ascending order
    member_key BLOB NOT NULL UNIQUE, -- SHA-256 of type and members, by which the room is found
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The end of each room's log. Separate from rooms, because it is rewritten with every batch and a row of rooms may be large.
CREATE TABLE heads (
    room     BLOB NOT NULL PRIMARY KEY,
    last_seq INTEGER NOT NULL, -- seq of the last entry; 0 for an empty log
    last_at  INTEGER NOT NULL, -- time of the last entry
    latest   BLOB              -- id of the latest message that is not deleted
) STRICT, WITHOUT ROWID;

-- The members of each room. In a small room, each member's row contains the room's latest message, so that recent conversations are found
-- by reading the user's own rows. In a large room, that would cost one write per member and post, so the message is looked up in heads.
-- There is no index on latest: it would be rewritten with every post, and a user has few rows.
CREATE TABLE memberships (
    user   BLOB NOT NULL,
    room   BLOB NOT NULL,
    large  INTEGER NOT NULL,
    posted INTEGER NOT NULL DEFAULT 0, -- number of log entries that the user has added since joining
    latest BLOB,
    PRIMARY KEY (user, room)
) STRICT, WITHOUT ROWID;
CREATE INDEX memberships_by_room ON memberships (room);

-- The logs. A deleted message keeps its seq and loses its text.
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
    posted    INTEGER NOT NULL, -- memberships.posted at up_to_seq: the user's own entries are not unread
    PRIMARY KEY (room, user, up_to_seq)
) STRICT, WITHOUT ROWID;

-- Deleted rooms whose remaining data is being deleted in slices.
CREATE TABLE purges (
    room BLOB NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
