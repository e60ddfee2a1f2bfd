-- The sessions of users who log in with a password.
CREATE TABLE sessions (
    id         BLOB NOT NULL PRIMARY KEY,
    user       BLOB NOT NULL,
    line       BLOB NOT NULL, -- SHA-256 of the part that all refresh tokens of the session share
    secret     BLOB NOT NULL, -- SHA-256 of the secret of the latest refresh token
    user_agent TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_user ON sessions (user, created_at, id);
CREATE INDEX sessions_by_end  ON sessions (expires_at);
