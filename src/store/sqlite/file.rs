//! Makes the database file ready: the folder, the lock, the schema, and a look at its health. Every failure is one clear line.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, OptionalExtension, params};

use super::{
    READERS,
    lock::{self, Lock, Refused},
    threads::{self, Threads},
};
use crate::store::OpenError;

/// Marks the file as ours (SQLite's `application_id`): "Caus" in ASCII.
const APPLICATION_ID: i64 = 0x4361_7573;
/// The steps to the schema. How many of them a database has taken is its version (SQLite's `user_version`).
///
/// To change the schema: add a step. Those that are here stay as they are.
const SCHEMA: [&str; 6] = [
    include_str!("schema.sql"),
    include_str!("accounts.sql"),
    include_str!("sessions.sql"),
    include_str!("changes.sql"),
    include_str!("sigma.sql"),
    include_str!("terms.sql"),
];
/// Files of up to this many bytes are checked whole at start, which takes less than a tenth of a second; larger ones at their edges.
const CHECK_WHOLE: u64 = 16 << 20;
/// Whose the folder and the file are that are made here: nobody else's, since there is the key in it that signs tokens.
const OWN_FOLDER: u32 = 0o700;
pub const OWN_FILE: u32 = 0o600;
/// What the mode of a file has where users may read it whom it has nothing to do with.
const OTHERS_READ: u32 = 0o004;

/// Opens or creates the database and starts its threads.
pub fn open(path: &Path) -> Result<Threads, OpenError> {
    let file = find_or_make(path)?;
    match lock::take(&file) {
        Ok(lock) => start(path, &file, READERS, prepare, Some(lock)),
        Err(refused) => Err(explain_refusal(path, refused)),
    }
}

/// The same, or where a server is running on the database, opens it as it is. Writing beside the server is safe: SQLite lets one write at a
/// time, and the others wait for their turn.
pub fn open_shared(path: &Path) -> Result<Threads, OpenError> {
    let file = find_or_make(path)?;
    match lock::take(&file) {
        Ok(lock) => start(path, &file, 1, prepare, Some(lock)),
        Err(Refused::InUse) => start(path, &file, 1, prepare_beside, None),
        Err(refused) => Err(explain_refusal(path, refused)),
    }
}

fn unusable(mut problem: String) -> OpenError {
    problem.insert_str(0, "database: ");
    OpenError::Unusable(problem)
}

fn explain_refusal(path: &Path, refused: Refused) -> OpenError {
    unusable(match refused {
        Refused::InUse => format!("{} is in use by another server", path.display()),
        Refused::NoAccess(error) => format!("cannot read and write {}: {error}", path.display()),
        Refused::NoLock(file, error) => format!("cannot lock {}: {error}", file.display()),
    })
}

/// The database file without symbolic links in its path, made with its folder if it is missing; SQLite gives the files beside it the same mode.
fn find_or_make(path: &Path) -> Result<PathBuf, OpenError> {
    if path.as_os_str().is_empty() {
        return Err(unusable("'sqlite:' needs the path of a file after it".into()));
    }
    let found = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(path)?;
            OpenOptions::new().write(true).create(true).truncate(false).mode(OWN_FILE).open(path).and_then(|_| fs::canonicalize(path))
        }
        other => other,
    };
    let file = found.map_err(|error| unusable(format!("cannot open or create {}: {error}", path.display())))?;
    let metadata = fs::metadata(&file).map_err(|error| unusable(format!("cannot open {}: {error}", path.display())))?;
    if !metadata.is_file() {
        return Err(unusable(format!("{} is not a file", path.display())));
    }
    Ok(file)
}

fn make_folder(path: &Path) -> Result<(), OpenError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(OWN_FOLDER)
            .create(folder)
            .map_err(|error| unusable(format!("cannot create the folder {}: {error}", folder.display())))?;
    }
    Ok(())
}

/// The path of a file that stands beside the database.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(suffix);
    beside.into()
}

fn warn_of_readers(path: &Path) {
    let Ok(metadata) = fs::metadata(path) else { return };
    let file = path.display();
    if metadata.mode() & OTHERS_READ != 0 {
        tracing::warn!(%file, "other users of this machine may read the database, which holds the key that signs tokens; chmod 600 keeps them out");
    }
    if metadata.nlink() > 1 {
        tracing::warn!(%file, "the database file has other names (hard links); start with this one only, since the write-ahead log beside it goes by the name");
    }
}

/// Starts the threads on `file`, which the operator calls `path`.
fn start(path: &Path, file: &Path, readers: usize, prepare: Prepare, lock: Option<Lock>) -> Result<Threads, OpenError> {
    if lock.is_some() {
        check_access(file)?;
    }
    let open = || {
        let writer = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        if writer.is_readonly(MAIN_DB)? {
            return Err(Problem::ReadOnly);
        }
        prepare(&writer, file)?;
        Ok(writer)
    };
    // In this order: an error closes the connection before the lock is given back.
    let writer = open().map_err(|problem| problem.explain(path))?;
    let threads = Threads::start(file, writer, readers, lock).map_err(|error| Problem::from(error).explain(path))?;
    warn_of_readers(file);
    Ok(threads)
}

/// The files beside the database as well have to be ours to write. SQLite would find out too late: after it had made some of them.
fn check_access(file: &Path) -> Result<(), OpenError> {
    for path in [beside(file, "-wal"), beside(file, "-shm")] {
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unusable(format!("cannot read and write {}: {error}", path.display())));
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Makes a database ready.
type Prepare = fn(&Connection, &Path) -> Result<(), Problem>;

/// What can be wrong with a database file.
enum Problem {
    Foreign,
    Newer(i64),
    Other(i64),
    Damaged(String),
    ReadOnly,
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
            Self::ReadOnly => format!("database: cannot write {name}"),
            Self::Damaged(detail) => format!("database: {name} is damaged: {detail}"),
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::NotADatabase) => format!("database: {name} is not a database"),
                Some(ErrorCode::DatabaseCorrupt) => format!("database: {name} is damaged: {error}"),
                Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
                    format!("database: cannot open {name} or make files beside it ({error}): the folder has to be writable as well")
                }
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
    // Pages written again and again between two checkpoints are written back once: the fewer checkpoints, the less work. But everybody's posts
    // wait for each of them: so many pages take some ten milliseconds.
    connection.pragma_update(None, "wal_autocheckpoint", 2_000)?;
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
    kept_token_secret(connection)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// The secret that is kept, if there is one.
pub fn kept_token_secret(connection: &Connection) -> rusqlite::Result<Option<[u8; 32]>> {
    connection.query_row("SELECT value FROM secrets WHERE name = 'token'", [], |row| row.get(0)).optional()
}
