-- Changes of rooms and messages, deduplication of messages that are sent twice, search, and presence.
ALTER TABLE rooms ADD COLUMN name TEXT;
ALTER TABLE rooms ADD COLUMN joined BLOB; -- of each member who was added later, concatenated: id and seq (8 bytes) of the entry

ALTER TABLE heads ADD COLUMN members_changed INTEGER NOT NULL DEFAULT 0; -- whether members have ever been added or removed

-- The rows that contain the room's latest message. A large room has none, which a post has to find out without reading all its members.
CREATE INDEX memberships_small ON memberships (room) WHERE NOT large;

-- The seq of the entry by which the user joined the room; posted counts from there.
ALTER TABLE memberships ADD COLUMN joined INTEGER NOT NULL DEFAULT 0;

-- An entry that is not a message has a kind and no text. A deleted message has neither. Both are in entries_deleted.
ALTER TABLE entries ADD COLUMN kind TEXT;
ALTER TABLE entries ADD COLUMN target BLOB; -- id of the message or the user that it refers to
ALTER TABLE entries ADD COLUMN name TEXT;   -- new name of the room
ALTER TABLE entries ADD COLUMN edited_at INTEGER;
ALTER TABLE entries ADD COLUMN client_id TEXT;
CREATE UNIQUE INDEX entries_by_client_id ON entries (room, author, client_id) WHERE client_id IS NOT NULL;

-- The words of each message. A message is indexed some time after it was posted. Replaced by 0006.
CREATE VIRTUAL TABLE search USING fts5 (words, content = '', detail = none, tokenize = 'ascii');
INSERT INTO search (search, rank) VALUES ('secure-delete', 1);

-- The numbers of messages in the index, ascending with time. A deleted message keeps its number.
CREATE TABLE search_numbers (
    number INTEGER NOT NULL PRIMARY KEY,
    room   BLOB NOT NULL,
    seq    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX search_numbers_by_entry ON search_numbers (room, seq);

-- The last indexed entry of each room.
CREATE TABLE search_rooms (
    room    BLOB NOT NULL PRIMARY KEY,
    indexed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- When users were last seen.
CREATE TABLE presence (
    user         BLOB NOT NULL PRIMARY KEY,
    last_seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
