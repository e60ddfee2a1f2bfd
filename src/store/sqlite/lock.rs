//! The lock against a second server on the same database file, by whatever path, link or mount that one comes to it.
//!
//! What is locked is the file itself (flock), and a file beside it as well: versions before this one lock only that.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io, mem,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// On Linux flock and the locks that SQLite takes (fcntl) do not see each other. Elsewhere they may conflict: there only the file beside the
/// database is locked.
const LOCKS_THE_FILE: bool = cfg!(target_os = "linux");

/// Held for as long as this process has the database open. To be dropped after all connections: closing a file ends every lock that SQLite
/// has on it in this process.
pub struct Lock {
    database: File,
    beside: Option<File>,
}

impl Drop for Lock {
    /// Closing the files is not enough where this process starts others: until they have begun, they have the same files open.
    fn drop(&mut self) {
        for file in self.beside.iter().chain([&self.database]) {
            if let Err(error) = file.unlock() {
                tracing::debug!(%error, "a lock ends with its file");
            }
        }
    }
}

/// Why there is no lock.
pub enum Refused {
    /// Another server holds it.
    InUse,
    /// The database cannot be read and written.
    NoAccess(io::Error),
    /// The file beside it cannot be written, or the file system has no locks.
    NoLock(PathBuf, io::Error),
}

/// Locks the database at `path`, which is there and has no symbolic link in it.
pub fn take(path: &Path) -> Result<Lock, Refused> {
    let database = OpenOptions::new().read(true).write(true).open(path).map_err(Refused::NoAccess)?;
    let locked = if LOCKS_THE_FILE { try_lock(&database, path) } else { Ok(()) };
    match locked.and_then(|()| take_beside(path)) {
        Ok(beside) => Ok(Lock { database, beside }),
        Err(refused) => {
            // Not closed: where this very process has the database open, that would end SQLite's locks on it.
            mem::forget(database);
            Err(refused)
        }
    }
}

fn take_beside(path: &Path) -> Result<Option<File>, Refused> {
    let path = super::file::beside(path, "-lock");
    match OpenOptions::new().create(true).truncate(false).write(true).mode(super::file::OWN_FILE).open(&path) {
        Ok(file) => try_lock(&file, &path).map(|()| Some(file)),
        // Left by another user, say. The database itself is locked.
        Err(_) if LOCKS_THE_FILE => Ok(None),
        Err(error) => Err(Refused::NoLock(path, error)),
    }
}

fn try_lock(file: &File, path: &Path) -> Result<(), Refused> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Refused::InUse,
        TryLockError::Error(error) => Refused::NoLock(path.to_owned(), error),
    })
}
