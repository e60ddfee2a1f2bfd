//! How much is done in one slice of the work for which nobody waits, so that those who post wait for it no longer than a few milliseconds.

use std::time::{Duration, Instant};

/// How long a slice goes on before it is committed.
const TIME: Duration = Duration::from_millis(5);

/// A slice that is being done.
pub struct Slice {
    begun: Instant,
}

impl Slice {
    pub fn new() -> Self {
        Self { begun: Instant::now() }
    }

    /// Whether something more may be done in it.
    pub fn has_time_left(&self) -> bool {
        self.begun.elapsed() < TIME
    }
}
