-- Rooms and messages that change, messages that are sent twice and stand in the log once, and search.
ALTER TABLE rooms ADD COLUMN name TEXT;
ALTER TABLE rooms ADD COLUMN joined BLOB; -- of the members who came later: id and number of the entry (8 bytes), one behind the other

ALTER TABLE heads ADD COLUMN members_changed INTEGER NOT NULL DEFAULT 0; -- whether the room ever got or lost a member

-- Whose rows carry the room's latest message: of a large room none, which a post has to find out without looking at all its members.
CREATE INDEX memberships_small ON memberships (room) WHERE NOT large;

-- The entry by which the user came into the room; what was posted is counted from there on.
ALTER TABLE memberships ADD COLUMN joined INTEGER NOT NULL DEFAULT 0;

-- An entry that is no message has a kind, and no text. So have deleted messages, but they have no kind: see entries_deleted.
ALTER TABLE entries ADD COLUMN kind TEXT;
ALTER TABLE entries ADD COLUMN target BLOB; -- the message or the user that it is about
ALTER TABLE entries ADD COLUMN name TEXT;   -- what it calls the room
ALTER TABLE entries ADD COLUMN edited_at INTEGER;
ALTER TABLE entries ADD COLUMN client_id TEXT;
CREATE UNIQUE INDEX entries_by_client_id ON entries (room, author, client_id) WHERE client_id IS NOT NULL;

-- Which words are in which message: see search.rs. A message comes in some time after it was posted.
CREATE VIRTUAL TABLE search USING fts5 (words, content = '', detail = none, tokenize = 'ascii');
INSERT INTO search (search, rank) VALUES ('secure-delete', 1);

-- The numbers that messages have in the index; they ascend with the time. A deleted message keeps its own.
CREATE TABLE search_numbers (
    number INTEGER NOT NULL PRIMARY KEY,
    room   BLOB NOT NULL,
    seq    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX search_numbers_by_entry ON search_numbers (room, seq);

-- Up to which entry each room is in the index.
CREATE TABLE search_rooms (
    room    BLOB NOT NULL PRIMARY KEY,
    indexed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- When users were last there.
CREATE TABLE presence (
    user         BLOB NOT NULL PRIMARY KEY,
    last_seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
