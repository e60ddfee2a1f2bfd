//! The write-ahead log after something was erased. What was there before stands in it until later writes happen to take its place, for ever
//! where nobody writes: so it is emptied soon.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::threads::BUSY_TIMEOUT;

/// How long after something was erased the log is emptied, together with whatever else was erased meanwhile. Also how long after it could not
/// be.
const SCRUB_INTERVAL: Duration = Duration::from_secs(1);
/// How long emptying waits for those who read, and so those who write. Those who begin to read meanwhile are not waited for.
const WAIT: Duration = Duration::from_millis(10);

/// Whether there is something in the log that was erased.
pub struct WalCheckpointer {
    due: Option<Instant>,
}

impl WalCheckpointer {
    /// There may be: a server that was killed leaves what it had not come to.
    pub fn new() -> Self {
        Self { due: Some(Instant::now() + SCRUB_INTERVAL) }
    }

    /// There is.
    pub fn note(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + SCRUB_INTERVAL);
    }

    /// When it has to go.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Empties the log if it is time; tries it again later where somebody is reading what stands in it.
    pub fn checkpoint(&mut self, connection: &Connection) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            let emptied = empty(connection).unwrap_or_else(|error| {
                tracing::warn!(%error, "what was erased stands in the database's write-ahead log for longer");
                false
            });
            self.due = (!emptied).then(|| Instant::now() + SCRUB_INTERVAL);
        }
    }
}

/// False where somebody is in the way.
fn empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(WAIT)?;
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(!busy?)
}
