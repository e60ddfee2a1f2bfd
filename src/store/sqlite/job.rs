//! Jobs of the database threads.

use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use crate::store::{Result, StoreError};

/// How long a statement waits for a lock that another process holds on the file.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A job for a database thread: it runs on the thread's connection, then its result is sent.
pub trait Job: Send {
    /// Returns false if the caller no longer waits for the result.
    fn is_wanted(&self) -> bool;
    /// Returns whether the job erases data that must not remain in any file.
    fn erases(&self) -> bool;
    /// Runs the job. Returns false if it failed.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Sends the result of `run`, or the error if the transaction could not be committed.
    fn answer(self: Box<Self>, committed: Result<()>);
}

/// Converts an error of SQLite into a [`StoreError`].
pub fn explain(error: &rusqlite::Error) -> StoreError {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::ReadOnly
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationAborted
            | ErrorCode::OperationInterrupted,
        ) => StoreError::Unavailable(text),
        _ => StoreError::Fault(text),
    }
}
