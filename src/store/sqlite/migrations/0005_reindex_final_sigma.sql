-- A sigma at the end of a word was indexed as a different letter than one within a word. Deletes the index; each room is indexed again when it
-- is next searched.
INSERT INTO search (search) VALUES ('delete-all');
DELETE FROM search_numbers;
DELETE FROM search_rooms;
