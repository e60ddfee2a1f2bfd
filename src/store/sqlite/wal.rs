//! Emptying the write-ahead log after data was erased. The log contains the old data until later
//! writes overwrite it, which may never happen; so it is emptied soon.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::job::BUSY_TIMEOUT;

/// How long after data was erased the log is emptied, together with other data erased meanwhile.
/// Also the delay before a failed attempt is retried.
const SCRUB_INTERVAL: Duration = Duration::from_secs(1);
/// How long emptying, and so every write, waits for readers. Reads that begin meanwhile are not
/// waited for.
const WAIT: Duration = Duration::from_millis(10);

/// Tracks whether the log may contain erased data.
pub struct WalCheckpointer {
    due: Option<Instant>,
}

impl WalCheckpointer {
    /// Assumes that the log contains erased data, which may be left over from a server that was
    /// killed.
    pub fn new() -> Self {
        Self {
            due: Some(Instant::now() + SCRUB_INTERVAL),
        }
    }

    /// Records that data was erased.
    pub fn note(&mut self) {
        self.due
            .get_or_insert_with(|| Instant::now() + SCRUB_INTERVAL);
    }

    /// Returns when the log has to be emptied.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Empties the log if it is due, and reschedules it if a reader still uses the log.
    pub fn checkpoint(&mut self, connection: &Connection) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            let emptied = empty(connection).unwrap_or_else(|error| {
                tracing::warn!(%error, "emptying the write-ahead log failed; it still contains erased data");
                false
            });
            self.due = (!emptied).then(|| Instant::now() + SCRUB_INTERVAL);
        }
    }
}

/// Returns false if another connection prevents it.
fn empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(WAIT)?;
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
        row.get::<_, bool>(0)
    });
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(!busy?)
}
