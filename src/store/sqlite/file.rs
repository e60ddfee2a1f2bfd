//! Prepares the database file: the folder, the lock, the schema and an integrity check. Every
//! failure is reported as one line.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};

use super::{
    lock::{self, Lock, OWN_FILE, Refused, beside},
    migrations::{self, APPLICATION_ID, CURRENT_VERSION},
    threads::{self, READERS, Threads},
};
use crate::store::OpenError;

/// Files of up to this many bytes are checked completely at startup, which takes less than a tenth
/// of a second. For larger files, only the first and last rows are checked.
const CHECK_WHOLE: u64 = 16 << 20;
/// The modes of the folder and the file that are created here. Only the owner has access, because
/// the database contains the key that signs tokens.
const OWN_FOLDER: u32 = 0o700;
/// The mode bit of a file that all other users may read.
const OTHERS_READ: u32 = 0o004;

/// Opens or creates the database and starts its threads.
pub fn open(path: &Path) -> Result<Threads, OpenError> {
    open_locked(path, prepare)
}

/// Like [`open`], for an import: a power cut may undo its last transactions, but not leave gaps.
/// What has been imported is on disk once the database is closed.
pub fn open_for_import(path: &Path) -> Result<Threads, OpenError> {
    open_locked(path, prepare_import)
}

fn open_locked(path: &Path, prepare: Prepare) -> Result<Threads, OpenError> {
    let file = find_or_create(path)?;
    let lock = lock::take(&file).map_err(|refused| explain_refusal(path, refused))?;
    let options = StartOptions {
        readers: READERS,
        prepare,
        lock: Some(lock),
    };
    start(path, &file, options)
}

/// Like [`open`], but if a server is already running on the database, opens it without changing the
/// schema. Writing at the same time as the server is safe: SQLite allows one writer at a time, and
/// the others wait.
pub fn open_shared(path: &Path) -> Result<Threads, OpenError> {
    let file = find_or_create(path)?;
    let (prepare, lock): (Prepare, _) = match lock::take(&file) {
        Ok(lock) => (prepare, Some(lock)),
        Err(Refused::InUse) => (prepare_shared, None),
        Err(refused) => return Err(explain_refusal(path, refused)),
    };
    let options = StartOptions {
        readers: 1,
        prepare,
        lock,
    };
    start(path, &file, options)
}

fn unusable(mut problem: String) -> OpenError {
    problem.insert_str(0, "database: ");
    OpenError::Unusable(problem)
}

pub fn explain_refusal(path: &Path, refused: Refused) -> OpenError {
    unusable(match refused {
        Refused::InUse => format!("{} is in use by another server", path.display()),
        Refused::NoAccess(error) => format!("cannot read and write {}: {error}", path.display()),
        Refused::NoLock(file, error) => format!("cannot lock {}: {error}", file.display()),
    })
}

/// Returns the path of the database file without symbolic links, and creates the file and its
/// folder if missing. SQLite gives the accompanying files the same mode.
pub fn find_or_create(path: &Path) -> Result<PathBuf, OpenError> {
    if path.as_os_str().is_empty() {
        return Err(unusable(
            "'sqlite:' needs the path of a file after it".into(),
        ));
    }
    let found = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_folder(path)?;
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(OWN_FILE)
                .open(path)
                .and_then(|_| fs::canonicalize(path))
        }
        other => other,
    };
    let file = found
        .map_err(|error| unusable(format!("cannot open or create {}: {error}", path.display())))?;
    let metadata = fs::metadata(&file)
        .map_err(|error| unusable(format!("cannot open {}: {error}", path.display())))?;
    if !metadata.is_file() {
        return Err(unusable(format!("{} is not a file", path.display())));
    }
    Ok(file)
}

fn create_folder(path: &Path) -> Result<(), OpenError> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(OWN_FOLDER)
            .create(folder)
            .map_err(|error| {
                unusable(format!(
                    "cannot create the folder {}: {error}",
                    folder.display()
                ))
            })?;
    }
    Ok(())
}

fn warn_if_readable(path: &Path) {
    let Ok(metadata) = fs::metadata(path) else {
        return;
    };
    let file = path.display();
    if metadata.mode() & OTHERS_READ != 0 {
        tracing::warn!(%file, "other users of this machine may read the database, which holds the key that signs tokens; chmod 600 keeps them out");
    }
    if metadata.nlink() > 1 {
        tracing::warn!(%file, "database file has hard links; always start with the same name, because the write-ahead log is named after it");
    }
}

/// How to open a database file.
struct StartOptions {
    /// The number of reader threads.
    readers: usize,
    prepare: Prepare,
    /// The lock on the file; `None` if a server is running on it.
    lock: Option<Lock>,
}

/// Prepares a database for use.
type Prepare = fn(&Connection, &Path) -> Result<(), Problem>;

/// Starts the threads on `file`; `path` is the path that the operator configured.
fn start(path: &Path, file: &Path, options: StartOptions) -> Result<Threads, OpenError> {
    if options.lock.is_some() {
        check_access(file)?;
    }
    let open = || {
        let writer = Connection::open_with_flags(
            file,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        if writer.is_readonly(MAIN_DB)? {
            return Err(Problem::ReadOnly);
        }
        (options.prepare)(&writer, file)?;
        Ok(writer)
    };
    // The order matters: an error closes the connection before the lock is released.
    let writer = open().map_err(|problem| problem.explain(path))?;
    let threads = Threads::start(file, writer, options.readers, options.lock)
        .map_err(|error| Problem::from(error).explain(path))?;
    warn_if_readable(file);
    Ok(threads)
}

/// Checks that the accompanying files are readable and writable. SQLite would notice only after it
/// had created some of them.
fn check_access(file: &Path) -> Result<(), OpenError> {
    for path in [beside(file, "-wal"), beside(file, "-shm")] {
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unusable(format!(
                    "cannot read and write {}: {error}",
                    path.display()
                )));
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// A problem with a database file.
pub enum Problem {
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
    /// Describes the problem of the file that the operator knows as `path`.
    pub fn explain(self, path: &Path) -> OpenError {
        let name = path.display();
        OpenError::Unusable(match self {
            Self::Foreign => {
                format!("database: {name} is a SQLite database, but not one of Causerie")
            }
            Self::Newer(version) => {
                format!(
                    "database: {name} was written by a newer Causerie (schema {version}; this one knows {CURRENT_VERSION})"
                )
            }
            Self::Other(version) => format!(
                "database: {name} is in use by a server of another version (schema {version}; this one knows {CURRENT_VERSION}): take that server's program"
            ),
            Self::ReadOnly => format!("database: cannot write {name}"),
            Self::Damaged(detail) => format!("database: {name} is damaged: {detail}"),
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::NotADatabase) => format!("database: {name} is not a database"),
                Some(ErrorCode::DatabaseCorrupt) => format!("database: {name} is damaged: {error}"),
                Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
                    format!(
                        "database: cannot open {name} or make files beside it ({error}): the folder has to be writable as well"
                    )
                }
                _ => format!("database: cannot use {name}: {error}"),
            },
        })
    }
}

fn prepare(connection: &Connection, path: &Path) -> Result<(), Problem> {
    threads::prepare(connection)?;
    let (application, version) = migrations::application_and_version(connection)?;
    let empty = connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| {
        row.get::<_, bool>(0)
    })?;
    if application != APPLICATION_ID && !empty {
        return Err(Problem::Foreign);
    }
    let pending = migrations::pending(version).ok_or(Problem::Newer(version))?;
    check(connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    write_safely(connection)?;
    // Pages that are written repeatedly between two checkpoints are written back once, so fewer
    // checkpoints mean less work. But all posts wait for a checkpoint; one with this many pages
    // takes some ten milliseconds.
    connection.pragma_update(None, "wal_autocheckpoint", 2_000)?;
    Ok(migrations::apply(connection, pending)?)
}

/// Prepares a database for an import. Commits are not written to disk one by one, which would take
/// longer than the import itself if there are many small rooms.
fn prepare_import(connection: &Connection, path: &Path) -> Result<(), Problem> {
    prepare(connection, path)?;
    Ok(connection.pragma_update(None, "synchronous", "NORMAL")?)
}

/// Prepares a database on which a server is running: only checks that its version is ours.
fn prepare_shared(connection: &Connection, _: &Path) -> Result<(), Problem> {
    threads::prepare(connection)?;
    match migrations::application_and_version(connection)? {
        (APPLICATION_ID, version) if usize::try_from(version) == Ok(CURRENT_VERSION) => {
            Ok(write_safely(connection)?)
        }
        (_, version) => Err(Problem::Other(version)),
    }
}

fn write_safely(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Overwrites deleted content, so that the text of a deleted message is removed from the file.
    connection.pragma_update(None, "secure_delete", "ON")
}

/// Detects damage at startup: in a small file completely, in a large one in the first and last
/// rows.
fn check(connection: &Connection, path: &Path) -> Result<(), Problem> {
    if fs::metadata(path).is_ok_and(|file| file.len() <= CHECK_WHOLE) {
        let found =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))?;
        return if found == "ok" {
            Ok(())
        } else {
            Err(Problem::Damaged(found.replace('\n', " ")))
        };
    }
    let edges = [
        ("users", "id"),
        ("rooms", "id"),
        ("heads", "room"),
        ("memberships", "user"),
        ("entries", "room"),
        ("read_marks", "room"),
    ];
    for (table, key) in edges {
        connection.query_row(
            &format!("SELECT count(*) FROM (SELECT * FROM {table} ORDER BY {key} LIMIT 1)"),
            [],
            |_| Ok(()),
        )?;
        connection.query_row(
            &format!("SELECT count(*) FROM (SELECT * FROM {table} ORDER BY {key} DESC LIMIT 1)"),
            [],
            |_| Ok(()),
        )?;
    }
    Ok(())
}
