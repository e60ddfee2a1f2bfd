//! Copying the database file while a server may be running on it, and replacing it by a copy.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{
    file::{self, Problem},
    job::BUSY_TIMEOUT,
    lock::{self, beside},
    migrations::{self, APPLICATION_ID},
};
use crate::{model::Timestamp, new_file::NewFile, store::OpenError};

/// Writes a copy of the database at `database` to the new file `to`. Returns its size in bytes. The
/// copy is as of one point in time, without the space of deleted data, and was checked. Readers and
/// writers of the database do not wait.
pub fn back_up(database: &Path, to: &Path) -> Result<u64, OpenError> {
    let copy = NewFile::create(to).map_err(|error| cannot("write", to, &error))?;
    let name = copy.temporary_path().to_str().ok_or_else(|| {
        OpenError::Unusable(format!(
            "cannot write {}: the name is not UTF-8",
            to.display()
        ))
    })?;
    let source = open(database)
        .and_then(|source| check_version(&source).map(|()| source))
        .map_err(|problem| problem.explain(database))?;
    // Not the backup API of SQLite: it starts again whenever another process writes, and so never
    // ends while a server is busy.
    source.execute("VACUUM INTO ?", [name]).map_err(|error| {
        let is_full = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
        Problem::from(error).explain(if is_full { to } else { database })
    })?;
    drop(source);
    open(copy.temporary_path())
        .and_then(|written| check_whole(&written))
        .map_err(|problem| problem.explain(to))?;
    let completed = copy
        .file()
        .metadata()
        .and_then(|copied| copy.complete().map(|()| copied.len()));
    completed.map_err(|error| cannot("write", to, &error))
}

/// Replaces the database at `database` by a copy of the file `from`, while no server is running on
/// it. A database that has data is only replaced if `kept_at` is given: it is kept beside the new
/// one, under a name with this time, which is returned.
pub fn restore(
    from: &Path,
    database: &Path,
    kept_at: Option<Timestamp>,
) -> Result<Option<PathBuf>, OpenError> {
    refuse_unfinished(from)?;
    let existed = database.exists();
    let file = file::find_or_create(database)?;
    let lock = lock::take(&file).map_err(|refused| file::explain_refusal(database, refused))?;
    let restored = replace(from, &file, kept_at);
    if restored.is_err() && !existed {
        // Errors are ignored: an empty file is a new database.
        let _ = fs::remove_file(beside(&file, "-lock")).and_then(|()| fs::remove_file(&file));
    }
    drop(lock);
    restored
}

/// Refuses a file that lacks what is still in a write-ahead log beside it.
fn refuse_unfinished(from: &Path) -> Result<(), OpenError> {
    let log = beside(from, "-wal");
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        return Err(OpenError::Unusable(format!(
            "{} is not complete without {}: make a backup of it with 'causerie backup'",
            from.display(),
            log.display()
        )));
    }
    Ok(())
}

/// Replaces a locked database.
fn replace(
    from: &Path,
    database: &Path,
    kept_at: Option<Timestamp>,
) -> Result<Option<PathBuf>, OpenError> {
    let former = fs::metadata(database).map_err(|error| cannot("read", database, &error))?;
    let has_data = former.len() > 0;
    if has_data && kept_at.is_none() {
        return Err(OpenError::Unusable(format!(
            "{} exists: with --replace, the backup takes its place, and it is kept under another name",
            database.display()
        )));
    }
    let written = |error: io::Error| cannot("write", database, &error);
    let copy = NewFile::replacing(database).map_err(written)?;
    File::open(from)
        .and_then(|mut from| io::copy(&mut from, &mut copy.file()))
        .map_err(|error| cannot("copy", from, &error))?;
    check_copy(copy.temporary_path()).map_err(|problem| problem.explain(from))?;
    own(&copy, &former).map_err(written)?;
    let kept = match kept_at.filter(|_| has_data) {
        Some(at) => Some(keep(database, at).map_err(|error| cannot("keep", database, &error))?),
        None => None,
    };
    copy.complete().map_err(written)?;
    Ok(kept)
}

/// Gives the file to the owner of the former one, if that is another user: the server runs as that
/// user.
fn own(copy: &NewFile, former: &fs::Metadata) -> io::Result<()> {
    let created = copy.file().metadata()?;
    if (created.uid(), created.gid()) == (former.uid(), former.gid()) {
        return Ok(());
    }
    chown(
        copy.temporary_path(),
        Some(former.uid()),
        Some(former.gid()),
    )
}

/// Keeps the database under a name with this time.
fn keep(database: &Path, at: Timestamp) -> io::Result<PathBuf> {
    empty_log(database);
    let time: String = at
        .to_string()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let kept = beside(database, &format!(".until-{time}"));
    // A second name, so that there is a database under the first one at any time.
    fs::hard_link(database, &kept)?;
    // What could not be emptied belongs to the former database, and would damage the new one.
    remove_if_exists(fs::rename(beside(database, "-wal"), beside(&kept, "-wal")))?;
    remove_if_exists(fs::remove_file(beside(database, "-shm")))?;
    Ok(kept)
}

/// Moves the content of the write-ahead log into the database. Errors are ignored: the database may
/// be damaged, which may be the reason to restore it.
fn empty_log(database: &Path) {
    if let Ok(connection) = open(database) {
        let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
}

/// Ignores that a file does not exist.
fn remove_if_exists(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Checks the copy of a backup, and that this program can work with it.
fn check_copy(copy: &Path) -> Result<(), Problem> {
    let connection = open(copy)?;
    check_version(&connection)?;
    check_whole(&connection)
}

fn open(path: &Path) -> Result<Connection, Problem> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Checks that this is a database of this program or an earlier version of it.
fn check_version(connection: &Connection) -> Result<(), Problem> {
    match migrations::application_and_version(connection)? {
        (APPLICATION_ID, version) if migrations::pending(version).is_some() => Ok(()),
        (APPLICATION_ID, version) => Err(Problem::Newer(version)),
        _ => Err(Problem::Foreign),
    }
}

fn check_whole(connection: &Connection) -> Result<(), Problem> {
    let found = connection.query_row("PRAGMA integrity_check(1)", [], |row| {
        row.get::<_, String>(0)
    })?;
    if found == "ok" {
        Ok(())
    } else {
        Err(Problem::Damaged(found.replace('\n', " ")))
    }
}

fn cannot(verb: &str, path: &Path, error: &io::Error) -> OpenError {
    OpenError::Unusable(format!("cannot {verb} {}: {error}", path.display()))
}
