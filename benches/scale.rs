//! How long and how large each case is.

use std::time::Duration;

/// The sizes of one run.
pub struct Scale {
    /// Rounds per contender in a comparison with the baseline.
    pub rounds: usize,
    /// The length of one round.
    pub round: Duration,
    /// How long each contender runs before its first round.
    pub warm_up: Duration,
    /// Messages in the rooms whose pages are read, smallest first.
    pub histories: &'static [u32],
    /// How often each page is read.
    pub samples: usize,
    /// Idle sockets per server.
    pub idle_sockets: usize,
    /// Unread messages in each of many rooms.
    pub unread_per_room: u32,
    /// Sockets that come back at once.
    pub storm: usize,
    /// How often a server is started to see how long it takes.
    pub starts: usize,
}

impl Scale {
    /// The full sizes, or those that fit into a minute.
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
