//! The source of times and new ids. There is only one, so that tests can set the time.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use uuid::{ContextV7, Uuid};

use crate::model::Timestamp;

/// Returns times and creates ids. Clones share one sequence of ids, and of times that never go
/// back.
#[derive(Clone)]
pub struct Clock {
    source: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// The latest time that [`monotonic_now`](Self::monotonic_now) has returned, or that
    /// [`advance_past`](Self::advance_past) has set.
    latest: Arc<AtomicI64>,
    ids: Arc<Mutex<ContextV7>>,
}

impl Clock {
    /// Creates a clock that uses the system time.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(|| {
            let since_epoch = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
        })
    }

    /// Creates a clock that uses the times that `source` returns.
    pub fn from_fn(source: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self {
            source: Arc::new(source),
            latest: Arc::new(AtomicI64::new(i64::MIN)),
            ids: Arc::new(Mutex::new(ContextV7::new())),
        }
    }

    /// Returns the current time. It may jump in either direction, as the system clock does.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.source)()
    }

    /// Returns the current time for data that is ordered by time (entries, rooms, users). It never
    /// goes back: while the system clock is behind a time that was returned before, each call
    /// returns the next millisecond. For expiry use [`now`](Self::now).
    #[must_use]
    pub fn monotonic_now(&self) -> Timestamp {
        let now = self.now().0;
        let next = |latest: i64| {
            if latest > now {
                latest.saturating_add(1)
            } else {
                now
            }
        };
        let former = self
            .latest
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |latest| {
                Some(next(latest))
            });
        Timestamp(former.map_or(now, next))
    }

    /// Makes [`monotonic_now`](Self::monotonic_now) return only times after this one.
    pub fn advance_past(&self, time: Timestamp) {
        // One more, because the next call may return the stored time if the clock shows the same
        // millisecond.
        self.latest
            .fetch_max(time.0.saturating_add(1), Ordering::AcqRel);
    }

    /// Returns a new id for data created at `time`: a UUID of version 7 (RFC 9562), greater than
    /// every id that this clock has created before, even if the time has gone back since.
    #[must_use]
    pub fn new_id(&self, time: Timestamp) -> Uuid {
        let millis = time.0.max(0).unsigned_abs();
        let nanos = u32::try_from(millis % 1000 * 1_000_000).unwrap_or_default();
        let context = self.ids.lock();
        Uuid::new_v7(uuid::Timestamp::from_unix(&*context, millis / 1000, nanos))
    }
}

/// Returns the time in an id that [`Clock::new_id`] made; `None` for other ids.
#[must_use]
pub fn time_of_id(id: &[u8; 16]) -> Option<Timestamp> {
    let id = Uuid::from_bytes_ref(id);
    let (seconds, nanos) = id
        .get_timestamp()
        .filter(|_| id.get_version_num() == 7)?
        .to_unix();
    let millis = i64::try_from(seconds).ok()?.checked_mul(1_000)?;
    Some(Timestamp(millis.saturating_add((nanos / 1_000_000).into())))
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjustable() -> (Clock, Arc<AtomicI64>) {
        let time = Arc::new(AtomicI64::new(1_800_000_000_000));
        let shown = Arc::clone(&time);
        (
            Clock::from_fn(move || Timestamp(shown.load(Ordering::Relaxed))),
            time,
        )
    }

    #[test]
    fn ordered_times_never_go_back_and_catch_up_with_the_clock() {
        let (clock, time) = adjustable();
        let start = clock.monotonic_now().0;
        let turned_to = |by| {
            time.store(start + by, Ordering::Relaxed);
            (clock.now().0 - start, clock.monotonic_now().0 - start)
        };
        assert_eq!(turned_to(5), (5, 5));
        assert_eq!(turned_to(5), (5, 5));
        assert_eq!(turned_to(-60_000), (-60_000, 6));
        clock.advance_past(Timestamp(start + 100));
        assert_eq!(turned_to(50), (50, 102));
        clock.advance_past(Timestamp(start));
        assert_eq!(turned_to(60), (60, 103));
        assert_eq!(turned_to(104), (104, 104));
    }

    #[test]
    fn an_id_tells_when_it_was_made_and_other_ids_do_not() {
        let (clock, _) = adjustable();
        for millis in [0, 1, 999, 1_800_000_000_123] {
            assert_eq!(
                time_of_id(clock.new_id(Timestamp(millis)).as_bytes()),
                Some(Timestamp(millis))
            );
        }
        for other in [Uuid::nil(), Uuid::max(), Uuid::from_u128(7)] {
            assert_eq!(time_of_id(other.as_bytes()), None);
        }
    }

    #[test]
    fn ids_ascend_even_when_the_clock_goes_back() {
        let (clock, time) = adjustable();
        let mut last = clock.new_id(clock.now());
        for step in [0, 0, 1, 5_000, -60_000, 0, -3_600_000, 1] {
            time.fetch_add(step, Ordering::Relaxed);
            let next = clock.new_id(clock.now());
            assert!(next > last, "{next} after {last}, step {step}");
            last = next;
        }
    }
}
