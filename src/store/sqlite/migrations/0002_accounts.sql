-- The credentials of users who log in with a password.
CREATE TABLE accounts (
    user     BLOB NOT NULL PRIMARY KEY,
    username TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL -- hash of the password
) STRICT, WITHOUT ROWID;
