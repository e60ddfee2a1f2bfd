//! The time limit of one slice of background work, so that posts wait for it no longer than a few
//! milliseconds.

use std::time::{Duration, Instant};

/// How long a slice runs before it is committed.
const TIME: Duration = Duration::from_millis(5);

/// A running slice.
pub struct Slice {
    begun: Instant,
}

impl Slice {
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
        }
    }

    /// Returns whether the slice may do more work.
    pub fn has_time_left(&self) -> bool {
        self.begun.elapsed() < TIME
    }
}
