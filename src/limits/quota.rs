//! The quota of bytes that each user may store per day.

use std::{collections::HashMap, num::NonZeroU64, time::Duration};

use parking_lot::Mutex;

use crate::{
    clock::Clock,
    error::{Error, Result},
    model::UserId,
};

/// The milliseconds of a day.
const DAY: i64 = 24 * 60 * 60 * 1_000;
/// The bytes that a record takes in the database in addition to its text.
const RECORD: u64 = 200;

/// The quotas of all users. They are reset at midnight UTC.
pub struct Quotas {
    most: NonZeroU64,
    clock: Clock,
    today: Mutex<DayUsage>,
}

#[derive(Default)]
struct DayUsage {
    /// Days since the epoch.
    day: i64,
    stored: HashMap<UserId, u64>,
}

impl Quotas {
    /// Creates quotas of this many bytes per user and day, with the days of this clock.
    pub fn new(most: NonZeroU64, clock: Clock) -> Self {
        Self {
            most,
            clock,
            today: Mutex::default(),
        }
    }

    /// Counts a record with a text of this many bytes, if it fits into the rest of the quota.
    /// Errors: [`Error::QuotaExceeded`].
    pub fn take(&self, user: UserId, bytes: usize) -> Result<()> {
        let now = self.clock.now().0;
        let mut today = self.today.lock();
        if today.day != now.div_euclid(DAY) {
            *today = DayUsage {
                day: now.div_euclid(DAY),
                stored: HashMap::new(),
            };
        }
        let stored = today.stored.entry(user).or_default();
        let sum = stored.saturating_add(RECORD).saturating_add(bytes as u64);
        if sum > self.most.get() {
            let left = u64::try_from(DAY - now.rem_euclid(DAY)).unwrap_or_default();
            return Err(Error::QuotaExceeded {
                most: self.most.get(),
                wait: Duration::from_millis(left),
            });
        }
        *stored = sum;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn a_quota_is_of_one_user_and_begins_anew_at_midnight() {
        let time = Arc::new(AtomicI64::new(20_000 * DAY + DAY / 2));
        let shown = Arc::clone(&time);
        let clock = Clock::from_fn(move || Timestamp(shown.load(Ordering::Relaxed)));
        let quotas = Quotas::new(NonZeroU64::new(1_000).unwrap(), clock);
        let [alice, bob] = [1, 2].map(|n| UserId::from_bytes([n; 16]));
        quotas.take(alice, 500).unwrap();
        let refused = quotas.take(alice, 101);
        let Err(Error::QuotaExceeded { most: 1_000, wait }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(wait, Duration::from_hours(12));
        quotas.take(alice, 100).unwrap();
        quotas.take(alice, 0).unwrap_err();
        quotas.take(bob, 800).unwrap();
        time.fetch_add(DAY / 2 - 1, Ordering::Relaxed);
        quotas.take(alice, 0).unwrap_err();
        time.fetch_add(1, Ordering::Relaxed);
        quotas.take(alice, 800).unwrap();
        quotas.take(alice, usize::MAX).unwrap_err();
    }
}
