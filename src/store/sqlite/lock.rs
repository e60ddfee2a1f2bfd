//! The lock that prevents a second server on the same database file, regardless of the path, link
//! or mount by which it is opened.
//!
//! Both the file itself is locked (with flock) and a file next to it, because earlier versions lock
//! only the latter.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io, mem,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The mode of files that are created here: only the owner has access.
pub const OWN_FILE: u32 = 0o600;

/// Returns the path of a file next to the database, with this suffix.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(suffix);
    beside.into()
}

/// Whether the database file itself is locked. On Linux, flock does not interact with the locks
/// that SQLite takes (fcntl). On other systems they may conflict, so only the file next to the
/// database is locked.
const LOCKS_THE_FILE: bool = cfg!(target_os = "linux");

/// The lock, held as long as this process has the database open. Drop it after all connections:
/// closing a file releases every lock that SQLite has on it in this process.
pub struct Lock {
    database: File,
    beside: Option<File>,
}

impl Drop for Lock {
    /// Unlocks explicitly, because closing the files is not enough if this process spawns others:
    /// until they execute their program, they hold the same files open.
    fn drop(&mut self) {
        for file in self.beside.iter().chain([&self.database]) {
            if let Err(error) = file.unlock() {
                tracing::debug!(%error, "unlocking failed; closing the file releases the lock");
            }
        }
    }
}

/// Why the lock could not be taken.
pub enum Refused {
    /// Another server holds the lock.
    InUse,
    /// The database cannot be opened for reading and writing.
    NoAccess(io::Error),
    /// The lock file cannot be written, or the file system does not support locks.
    NoLock(PathBuf, io::Error),
}

/// Locks the database at `path`, which must exist and contain no symbolic links.
pub fn take(path: &Path) -> Result<Lock, Refused> {
    let database = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(Refused::NoAccess)?;
    let locked = if LOCKS_THE_FILE {
        try_lock(&database, path)
    } else {
        Ok(())
    };
    match locked.and_then(|()| take_shared(path)) {
        Ok(beside) => Ok(Lock { database, beside }),
        Err(refused) => {
            // Not closed: if this process itself has the database open, that would release SQLite's
            // locks on it.
            mem::forget(database);
            Err(refused)
        }
    }
}

fn take_shared(path: &Path) -> Result<Option<File>, Refused> {
    let path = beside(path, "-lock");
    match OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(OWN_FILE)
        .open(&path)
    {
        Ok(file) => try_lock(&file, &path).map(|()| Some(file)),
        // The lock file may belong to another user, for example. The database itself is locked.
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
