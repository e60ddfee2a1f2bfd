//! Skipping a number of messages from the end of a log: the search for the entry that is followed
//! by exactly that many messages. All stores use it.
//!
//! Sequence numbers have no gaps, so the number of messages after an entry follows from the number
//! of entries after it that are not messages or are deleted. The number of messages grows towards
//! the start of the log, so the search counts in leaps that grow, and after a leap that went too
//! far, bisects the range it leapt over. Each count begins where the last one ended, so all counts
//! together cover only a few times as many entries as a single count from the right position would,
//! regardless of the number and position of entries that are not messages.

use crate::model::Seq;

/// The factor by which the leaps grow.
const LEAP: u64 = 4;

/// The next step of the search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Count the entries in `after < seq <= last` that are not messages or are deleted, and pass
    /// the result to [`told`](OffsetSeek::told).
    Count { after: Seq, last: Seq },
    /// Done: this entry is followed by exactly the number of messages to skip.
    Found(Seq),
    /// Done: the log has no more messages than are to be skipped.
    Nowhere,
}

/// The state of the search.
#[derive(Debug)]
pub(super) struct OffsetSeek {
    skip: u64,
    /// The last examined entry, and the number of messages after it.
    at: u64,
    behind: u64,
    /// If the entry exists, it is in this range (both inclusive).
    low: u64,
    high: u64,
    /// Whether the entry is known to exist: some entry is followed by at least `skip` messages.
    bounded: bool,
    leap: u64,
}

impl OffsetSeek {
    /// Starts the search for a log that ends with the entry `end`, to skip its last `skip`
    /// messages.
    pub fn new(end: Seq, skip: u64) -> Self {
        Self {
            skip,
            at: end.0,
            behind: 0,
            low: 1,
            high: end.0.saturating_sub(skip),
            bounded: skip == 0,
            leap: 1,
        }
    }

    /// Returns the next step.
    pub fn step(&self) -> Step {
        if self.behind == self.skip {
            return Step::Found(Seq(self.at));
        }
        match (self.bounded, self.low < self.high) {
            (false, _) if self.high == 0 => Step::Nowhere,
            (true, false) => Step::Found(Seq(self.high.max(1))),
            _ => {
                let next = self.next();
                Step::Count {
                    after: Seq(next.min(self.at)),
                    last: Seq(next.max(self.at)),
                }
            }
        }
    }

    /// Returns the entry to examine next.
    fn next(&self) -> u64 {
        if self.bounded {
            return self.low + (self.high - self.low) / 2;
        }
        let missing = self.skip - self.behind;
        self.at
            .saturating_sub(missing.saturating_mul(self.leap))
            .max(self.low)
    }

    /// Takes the result of [`Step::Count`].
    pub fn told(&mut self, count: u64) {
        let next = self.next();
        let messages = next.abs_diff(self.at).saturating_sub(count);
        // Saturates only if messages were deleted between two counts. The result may then be off by
        // that number, but the search still ends.
        self.behind = if next < self.at {
            self.behind + messages
        } else {
            self.behind.saturating_sub(messages)
        };
        self.at = next;
        // Moving by one entry changes the number of messages after it by at most one.
        if self.behind < self.skip {
            self.high = self.at.saturating_sub(self.skip - self.behind);
            self.leap = self.leap.saturating_mul(LEAP);
        } else {
            self.low = self.at + (self.behind - self.skip);
            self.bounded = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    /// Searches a log given as whether each entry is a message. Returns the result, the number of
    /// counts, and the number of entries counted.
    fn search(log: &[bool], skip: u64) -> (Option<u64>, u64, u64) {
        let mut search = OffsetSeek::new(Seq(log.len() as u64), skip);
        let (mut counts, mut passed) = (0, 0);
        loop {
            match search.step() {
                Step::Found(last) => return (Some(last.0), counts, passed),
                Step::Nowhere => return (None, counts, passed),
                Step::Count { after, last } => {
                    let between =
                        &log[usize::try_from(after.0).unwrap()..usize::try_from(last.0).unwrap()];
                    counts += 1;
                    passed += between.len() as u64;
                    search.told(between.iter().filter(|is_message| !**is_message).count() as u64);
                }
            }
        }
    }

    #[test]
    fn exactly_so_many_messages_stand_behind_it() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..2_000 {
            let share = random.random_range(0.0..=1.0);
            let mut log: Vec<_> = (0..random.random_range(0..300))
                .map(|_| random.random_bool(share))
                .collect();
            log.resize(
                log.len() + random.random_range(0..100),
                random.random_bool(0.3),
            );
            let messages = log.iter().filter(|is_message| **is_message).count() as u64;
            for skip in 0..=messages + 2 {
                let (found, ..) = search(&log, skip);
                let behind = found.map(|last| {
                    log[usize::try_from(last).unwrap()..]
                        .iter()
                        .filter(|is_message| **is_message)
                        .count() as u64
                });
                match behind {
                    Some(behind) => assert_eq!(behind, skip, "{log:?}"),
                    None => assert!(skip >= messages, "{skip} of {messages} in {log:?}"),
                }
            }
        }
        assert_eq!(search(&[true; 9], u64::MAX).0, None);
    }

    #[test]
    fn what_is_no_message_is_counted_a_few_times_however_much_of_it_there_is() {
        for (first, then) in [
            (200_000, 1),
            (1, 200_000),
            (100_000, 100_000),
            (200_000, 200_000),
        ] {
            let mut log = vec![true; first];
            log.resize(first + then, false);
            for skip in [1, 2, 100, 5_000, 99_999] {
                let (_, counts, passed) = search(&log, skip);
                assert!(
                    counts <= 32,
                    "{counts} counts to leave out {skip} of {first} in front of {then}"
                );
                let needed = then as u64 + skip;
                assert!(
                    passed <= 8 * needed,
                    "{passed} entries where {needed} would do, to leave out {skip} of {first} in front of {then}"
                );
            }
        }
    }

    #[test]
    fn it_ends_whatever_is_deleted_between_two_counts() {
        let mut random = StdRng::seed_from_u64(8);
        for _ in 0..2_000 {
            let end = random.random_range(1..10_000);
            let mut search = OffsetSeek::new(Seq(end), random.random_range(1..=end));
            let mut counts = 0;
            while let Step::Count { after, last } = search.step() {
                assert!(after < last && last.0 <= end);
                search.told(random.random_range(0..=last.0 - after.0));
                counts += 1;
                assert!(counts <= 64);
            }
        }
    }
}
