//! `causerie backup` and `causerie restore`: copies of a SQLite database.

use std::path::{Path, PathBuf};

use super::error::DataError;
use crate::{
    clock::Clock,
    config::{Config, DatabaseUrl},
    store,
};

/// Writes a copy of the database to a new file, also while a server is running on it. Returns the
/// size of the copy in bytes.
pub fn back_up(file: &Path, config: &Config) -> Result<u64, DataError> {
    let database = sqlite_file(&config.database, "make a backup of it with mongodump")?;
    refuse_missing(&config.database)?;
    Ok(store::back_up(&database, file)?)
}

/// Replaces the database by a copy of a backup, while no server is running on it. If the database
/// has data and `replace` is set, it is kept under another name, which is returned.
pub fn restore(
    file: &Path,
    replace: bool,
    config: &Config,
    clock: &Clock,
) -> Result<Option<PathBuf>, DataError> {
    let database = sqlite_file(&config.database, "restore it with mongorestore")?;
    Ok(store::restore(
        file,
        &database,
        replace.then(|| clock.now()),
    )?)
}

/// Refuses a SQLite database that does not exist, because opening it would create it.
pub(super) fn refuse_missing(url: &DatabaseUrl) -> Result<(), DataError> {
    match url.reveal().strip_prefix("sqlite:") {
        Some(path) if !Path::new(path).exists() => Err(DataError::Refused(format!(
            "there is no file {}",
            Path::new(path).display()
        ))),
        _ => Ok(()),
    }
}

/// Returns the file of a SQLite database. For MongoDB, the error says what to do instead.
fn sqlite_file(url: &DatabaseUrl, on_mongodb: &str) -> Result<PathBuf, DataError> {
    match url.reveal().split_once(':') {
        Some(("sqlite", path)) => Ok(path.into()),
        Some(("mongodb" | "mongodb+srv", _)) => Err(DataError::Refused(format!(
            "this is for SQLite; {url} is on MongoDB: {on_mongodb}, see docs/operations.md"
        ))),
        _ => Err(DataError::Refused(format!(
            "'{url}' is neither sqlite:PATH nor mongodb://HOST/NAME"
        ))),
    }
}
