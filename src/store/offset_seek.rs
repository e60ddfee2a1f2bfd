//! Leaving out so many messages from the end of a log: the search for the entry behind which they stand, the same in every store.
//!
//! Numbers have no holes, so how many messages stand behind an entry is known once those entries behind it are counted that are no messages,
//! or no longer. The further back, the more there are, and so it is enough to count now and then: in leaps that grow, and where one went too
//! far, in halves of what it leapt over. Each count begins where the last one ended, so all of them together pass over a few times as many
//! entries as one would that knew where to begin; however many of these are no messages, and wherever they stand.

use crate::model::Seq;

/// How much further each leap goes than the one before.
const LEAP: u64 = 4;

/// What the search needs next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// To be [told](FromTheEnd::told) how many entries in `after < seq <= last` are no messages, or no longer.
    Count { after: Seq, last: Seq },
    /// Nothing: behind this entry stand exactly as many messages as are to be left out.
    Found(Seq),
    /// Nothing: there are no more messages than that.
    Nowhere,
}

/// The search.
#[derive(Debug)]
pub(super) struct OffsetSeek {
    skip: u64,
    /// The entry that was looked at last, and how many messages stand behind it.
    at: u64,
    behind: u64,
    /// What is looked for is between these, if it is anywhere.
    low: u64,
    high: u64,
    /// Whether it is sure to be there: some entry has as many messages behind it, or more.
    bounded: bool,
    leap: u64,
}

impl OffsetSeek {
    /// Leaves out the `skip` last messages of a log that ends with the entry `end`.
    pub fn new(end: Seq, skip: u64) -> Self {
        Self { skip, at: end.0, behind: 0, low: 1, high: end.0.saturating_sub(skip), bounded: skip == 0, leap: 1 }
    }

    /// What to do next.
    pub fn step(&self) -> Step {
        if self.behind == self.skip {
            return Step::Found(Seq(self.at));
        }
        match (self.bounded, self.low < self.high) {
            (false, _) if self.high == 0 => Step::Nowhere,
            (true, false) => Step::Found(Seq(self.high.max(1))),
            _ => {
                let next = self.next();
                Step::Count { after: Seq(next.min(self.at)), last: Seq(next.max(self.at)) }
            }
        }
    }

    /// The entry that is looked at next.
    fn next(&self) -> u64 {
        if self.bounded {
            return self.low + (self.high - self.low) / 2;
        }
        let missing = self.skip - self.behind;
        self.at.saturating_sub(missing.saturating_mul(self.leap)).max(self.low)
    }

    /// Takes the answer to [`Step::Count`].
    pub fn told(&mut self, count: u64) {
        let next = self.next();
        let messages = next.abs_diff(self.at).saturating_sub(count);
        // Below nothing only where messages were deleted between two counts: it may be wrong by those few then, and ends all the same.
        self.behind = if next < self.at { self.behind + messages } else { self.behind.saturating_sub(messages) };
        self.at = next;
        // Going on by one entry changes how many stand behind by one at most.
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

    /// Searches a log in which the entries are messages that say so. Answers also how often was counted, and over how many entries.
    fn search(log: &[bool], skip: u64) -> (Option<u64>, u64, u64) {
        let mut search = OffsetSeek::new(Seq(log.len() as u64), skip);
        let (mut counts, mut passed) = (0, 0);
        loop {
            match search.step() {
                Step::Found(last) => return (Some(last.0), counts, passed),
                Step::Nowhere => return (None, counts, passed),
                Step::Count { after, last } => {
                    let between = &log[usize::try_from(after.0).unwrap()..usize::try_from(last.0).unwrap()];
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
            let mut log: Vec<_> = (0..random.random_range(0..300)).map(|_| random.random_bool(share)).collect();
            log.resize(log.len() + random.random_range(0..100), random.random_bool(0.3));
            let messages = log.iter().filter(|is_message| **is_message).count() as u64;
            for skip in 0..=messages + 2 {
                let (found, ..) = search(&log, skip);
                let behind =
                    found.map(|last| log[usize::try_from(last).unwrap()..].iter().filter(|is_message| **is_message).count() as u64);
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
        for (first, then) in [(200_000, 1), (1, 200_000), (100_000, 100_000), (200_000, 200_000)] {
            let mut log = vec![true; first];
            log.resize(first + then, false);
            for skip in [1, 2, 100, 5_000, 99_999] {
                let (_, counts, passed) = search(&log, skip);
                assert!(counts <= 32, "{counts} counts to leave out {skip} of {first} in front of {then}");
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
