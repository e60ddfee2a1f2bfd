//! How much is done in one slice of the work for which nobody waits, so that those who post wait for it no longer than a few milliseconds.

use std::time::{Duration, Instant};

/// How long a slice goes on before it is committed.
const TIME: Duration = Duration::from_millis(5);
/// How much text a slice takes out of the index of search, or puts into it. FTS5 does the work when the transaction is committed, so the time
/// does not tell how much it is.
const LETTERS: u64 = 4_096;

/// A slice that is being done.
pub struct Slice {
    begun: Instant,
    letters: u64,
}

impl Slice {
    pub fn new() -> Self {
        Self { begun: Instant::now(), letters: 0 }
    }

    /// Counts so many letters of text.
    pub fn count(&mut self, letters: u64) {
        self.letters = self.letters.saturating_add(letters);
    }

    /// Whether something more may be done in it.
    pub fn has_room(&self) -> bool {
        self.letters < LETTERS && self.begun.elapsed() < TIME
    }
}
