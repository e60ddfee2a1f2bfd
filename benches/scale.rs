//! The duration and size of each case.

use std::time::Duration;

/// The sizes of one run.
pub struct Scale {
    /// Rounds per contender in a comparison with the baseline.
    pub rounds: usize,
    /// The length of one round.
    pub round: Duration,
    /// How long each contender runs before its first round.
    pub warm_up: Duration,
    /// Number of messages in the rooms whose pages are read, smallest first.
    pub histories: &'static [u32],
    /// How often each page is read.
    pub samples: usize,
    /// Number of idle sockets per server.
    pub idle_sockets: usize,
    /// Number of unread messages in each of many rooms.
    pub unread_per_room: u32,
    /// Number of sockets that reconnect at once.
    pub storm: usize,
    /// How often a server is started to measure its start time.
    pub starts: usize,
}

impl Scale {
    /// Returns the full sizes, or those of a short run.
    pub fn new(quick: bool) -> Self {
        if quick { Self::quick() } else { Self::full() }
    }

    fn full() -> Self {
        Self {
            rounds: 7,
            round: Duration::from_secs(2),
            warm_up: Duration::from_secs(2),
            histories: &[1_000, 100_000, 1_000_000],
            samples: 2_000,
            idle_sockets: 10_000,
            unread_per_room: 100,
            storm: 5_000,
            starts: 9,
        }
    }

    fn quick() -> Self {
        Self {
            rounds: 3,
            round: Duration::from_millis(800),
            warm_up: Duration::from_millis(400),
            histories: &[1_000, 100_000],
            samples: 300,
            idle_sockets: 2_000,
            unread_per_room: 10,
            storm: 1_000,
            starts: 3,
        }
    }
}
