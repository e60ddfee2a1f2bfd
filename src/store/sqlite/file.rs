//! Makes the database file ready: the folder, the lock, the schema, and a look at its health. Every failure is one clear line.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ErrorCode, params};

use super::{
    READERS,
    threads::{self, Threads},
};
use crate::store::OpenError;

/// Marks the file as ours (SQLite's `application_id`): "Caus" in ASCII.
const APPLICATION_ID: i64 = 0x4361_7573;
/// The steps to the schema. How many of them a database has taken is its version (SQLite's `user_version`).
///
/// To change the schema: add a step. Those that are here stay as they are.
const SCHEMA: [&str; 5] = [
    include_str!("schema.sql"),
    include_str!("accounts.sql"),
    include_str!("sessions.sql"),
    include_str!("changes.sql"),
    include_str!("sigma.sql"),
];
/// Files of up to this many bytes are checked whole at start, which takes less than a tenth of a second; larger ones at their edges.
const CHECK_WHOLE: u64 = 16 << 20;
/// Whose the folder and the file are that are made here: nobody else's, since there is the key in it that signs tokens.
const OWN_FOLDER: u32 = 0o700;
const OWN_FILE: u32 = 0o600;
/// What the mode of a file has where users may read it whom it has nothing to do with.
const OTHERS_READ: u32 = 0o004;

/// Opens or creates the database and starts its threads.
pub fn open(path: &Path) -> Result<(Threads, File), OpenError> {
    make_folder(path)?;
    let in_use = || OpenError::Unusable(format!("database: {} is in use by another server", path.display()));
    let lock = lock(path)?.ok_or_else(in_use)?;
    Ok((start(path, READERS, prepare)?, lock))
}

/// The same, or where a server is running on the database, opens it as it is. Writing beside the server is safe: SQLite lets one write at a
/// time, and the others wait for their turn.
pub fn open_beside(path: &Path) -> Result<(Threads, Option<File>), OpenError> {
    make_folder(path)?;
    let lock = lock(path)?;
    let prepare = if lock.is_some() { prepare } else { prepare_beside };
    Ok((start(path, 1, prepare)?, lock))
}

fn make_folder(path: &Path) -> Result<(), OpenError> {
    if path.as_os_str().is_empty() {
        return Err(OpenError::Unusable("database: 'sqlite:' needs the path of a file after it".into()));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(OWN_FOLDER)
            .create(folder)
            .map_err(|error| OpenError::Unusable(format!("database: cannot create the folder {}: {error}", folder.display())))?;
    }
    Ok(())
}

/// Makes the file, if it is missing; SQLite gives those beside it the same mode. One that is there is not opened: SQLite's locks on it, where
/// this process has any, would go when it is closed.
fn make_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(OWN_FILE).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn warn_of_readers(path: &Path) {
    if fs::metadata(path).is_ok_and(|file| file.mode() & OTHERS_READ != 0) {
        let file = path.display();
        tracing::warn!(%file, "other users of this machine may read the database, which holds the key that signs tokens; chmod 600 keeps them out");
    }
}

fn start(path: &Path, readers: usize, prepare: fn(&Connection, &Path) -> Result<(), Problem>) -> Result<Threads, OpenError> {
    let cannot_open = |error| OpenError::Unusable(format!("database: cannot open {}: {error}", path.display()));
    make_file(path).map_err(|error| OpenError::Unusable(format!("database: cannot create {}: {error}", path.display())))?;
    let writer = Connection::open(path).map_err(cannot_open)?;
    prepare(&writer, path).map_err(|problem| problem.explain(path))?;
    let threads = Threads::start(path, writer, readers).map_err(|error| Problem::from(error).explain(path))?;
    warn_of_readers(path);
    Ok(threads)
}

/// The lock of the database; none when a server holds it.
fn lock(path: &Path) -> Result<Option<File>, OpenError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push("-lock");
    let beside = PathBuf::from(beside);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(OWN_FILE)
        .open(&beside)
        .map_err(|error| OpenError::Unusable(format!("database: cannot write {}: {error}", beside.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(OpenError::Unusable(format!("database: cannot lock {}: {error}", beside.display()))),
    }
}

/// What can be wrong with a database file.
enum Problem {
    Foreign,
    Newer(i64),
    Other(i64),
    Damaged(String),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Problem {
    fn explain(self, path: &Path) -> OpenError {
        let name = path.display();
        OpenError::Unusable(match self {
            Self::Foreign => format!("database: {name} is a SQLite database, but not one of Causerie"),
            Self::Newer(version) => {
                format!("database: {name} was written by a newer Causerie (schema {version}; this one knows {})", SCHEMA.len())
            }
            Self::Other(version) => format!(
                "database: {name} is in use by a server of another version (schema {version}; this one knows {}): take that server's program",
                SCHEMA.len()
            ),
            Self::Damaged(detail) => format!("database: {name} is damaged: {detail}"),
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::NotADatabase) => format!("database: {name} is not a database"),
                Some(ErrorCode::DatabaseCorrupt) => format!("database: {name} is damaged: {error}"),
                _ => format!("database: cannot use {name}: {error}"),
            },
        })
    }
}

fn prepare(connection: &Connection, path: &Path) -> Result<(), Problem> {
    threads::prepare(connection)?;
    let (application, version) = marks(connection)?;
    let empty = connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get::<_, bool>(0))?;
    if application != APPLICATION_ID && !empty {
        return Err(Problem::Foreign);
    }
    let steps = usize::try_from(version).ok().and_then(|version| SCHEMA.get(version..)).ok_or(Problem::Newer(version))?;
    check(connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    write_safely(connection)?;
    // Pages written again and again between two checkpoints are written back once: the fewer checkpoints, the less work.
    connection.pragma_update(None, "wal_autocheckpoint", 4_000)?;
    if !steps.is_empty() {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {}; COMMIT;",
            steps.concat(),
            SCHEMA.len()
        ))?;
    }
    Ok(())
}

/// What a database needs on which a server is running: nothing, but to be one that we know.
fn prepare_beside(connection: &Connection, _: &Path) -> Result<(), Problem> {
    threads::prepare(connection)?;
    match marks(connection)? {
        (APPLICATION_ID, version) if usize::try_from(version) == Ok(SCHEMA.len()) => Ok(write_safely(connection)?),
        (_, version) => Err(Problem::Other(version)),
    }
}

/// Whose database it is, and of which version.
fn marks(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((pragma("application_id")?, pragma("user_version")?))
}

fn write_safely(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    // What is deleted is overwritten, so that the text of a deleted message is gone from the file.
    connection.pragma_update(None, "secure_delete", "ON")
}

/// Finds damage before the first request does: all of it in a small file, in a large one that of the first and last rows.
fn check(connection: &Connection, path: &Path) -> Result<(), Problem> {
    if fs::metadata(path).is_ok_and(|file| file.len() <= CHECK_WHOLE) {
        let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))?;
        return if found == "ok" { Ok(()) } else { Err(Problem::Damaged(found.replace('\n', " "))) };
    }
    let edges = [("users", "id"), ("rooms", "id"), ("heads", "room"), ("memberships", "user"), ("entries", "room"), ("read_marks", "room")];
    for (table, key) in edges {
        connection.query_row(&format!("SELECT count(*) FROM (SELECT * FROM {table} ORDER BY {key} LIMIT 1)"), [], |_| Ok(()))?;
        connection.query_row(&format!("SELECT count(*) FROM (SELECT * FROM {table} ORDER BY {key} DESC LIMIT 1)"), [], |_| Ok(()))?;
    }
    Ok(())
}

/// The secret that is kept, or else `candidate`, kept from now on.
pub fn token_secret(connection: &Connection, candidate: [u8; 32]) -> rusqlite::Result<[u8; 32]> {
    connection.execute("INSERT OR IGNORE INTO secrets (name, value) VALUES ('token', ?)", params![candidate])?;
    connection.query_row("SELECT value FROM secrets WHERE name = 'token'", [], |row| row.get(0))
}
