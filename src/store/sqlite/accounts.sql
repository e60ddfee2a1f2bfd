-- What users log in with, those who have anything: version 2.
CREATE TABLE accounts (
    user     BLOB NOT NULL PRIMARY KEY,
    username TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL -- its hash
) STRICT, WITHOUT ROWID;
