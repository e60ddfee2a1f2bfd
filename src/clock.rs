//! Time and fresh ids: the one place from which both come, so that tests can set them.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use uuid::{ContextV7, Uuid};

use crate::model::Timestamp;

/// Tells the time and makes ids. Clones share one sequence of ids.
#[derive(Clone)]
pub struct Clock {
    source: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ids: Arc<Mutex<ContextV7>>,
}

impl Clock {
    /// The clock of the machine.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(|| {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
        })
    }

    /// A clock that shows what `source` says.
    pub fn from_fn(source: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { source: Arc::new(source), ids: Arc::new(Mutex::new(ContextV7::new())) }
    }

    /// The time now. It may jump, in either direction, as the machine's clock does.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.source)()
    }

    /// A new id for something made at `time`: a UUID of version 7 (RFC 9562), greater than every id that this clock made before, even when
    /// time has gone backwards since.
    #[must_use]
    pub fn new_id(&self, time: Timestamp) -> Uuid {
        let millis = time.0.max(0).unsigned_abs();
        let nanos = u32::try_from(millis % 1000 * 1_000_000).unwrap_or_default();
        let context = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        Uuid::new_v7(uuid::Timestamp::from_unix(&*context, millis / 1000, nanos))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn ids_ascend_even_when_the_clock_goes_back() {
        let time = Arc::new(AtomicI64::new(1_800_000_000_000));
        let shown = Arc::clone(&time);
        let clock = Clock::from_fn(move || Timestamp(shown.load(Ordering::Relaxed)));
        let mut last = clock.new_id(clock.now());
        for step in [0, 0, 1, 5_000, -60_000, 0, -3_600_000, 1] {
            time.fetch_add(step, Ordering::Relaxed);
            let next = clock.new_id(clock.now());
            assert!(next > last, "{next} after {last}, step {step}");
            last = next;
        }
    }
}
