//! How many files the process may have open, and how many of those its connections take.
//!
//! Every connection takes one. Websockets are refused first, so that REST and health checks are still answered; then connections are closed
//! as they come, so that the databases can open what they need.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// What is kept for the database, the log, and whatever else is not a connection.
const OWN: u64 = 128;
/// What is kept for connections that are no websockets.
const REST: u64 = 64;

/// Limits of open files before and after they were raised.
#[derive(Clone, Copy, Debug)]
pub struct Raised {
    /// What was in force.
    pub former: u64,
    /// What is in force now: all that the system allows this user.
    pub limit: u64,
}

/// Raises the limit of open files to what the system allows without privileges.
pub fn raise() -> io::Result<Raised> {
    let (former, _) = rlimit::Resource::NOFILE.get()?;
    let limit = rlimit::increase_nofile_limit(u64::MAX)?;
    Ok(Raised { former, limit })
}

/// Counts the connections.
pub struct Descriptors {
    /// The most connections at all, and the most at which one may become a websocket.
    most: u64,
    most_for_websockets: u64,
    open: AtomicU64,
}

impl Descriptors {
    /// As many as the limit in force allows.
    #[must_use]
    pub fn new() -> Arc<Self> {
        // Where the system does not tell there is no limit to keep.
        let limit = rlimit::Resource::NOFILE.get().map_or(u64::MAX, |(soft, _)| soft);
        Arc::new(Self::of(limit))
    }

    fn of(limit: u64) -> Self {
        // Of few, half are kept.
        let most = limit - OWN.min(limit / 2);
        Self { most, most_for_websockets: most - REST.min(most / 2), open: AtomicU64::new(0) }
    }

    /// A place for one more connection; none when there are too many.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Descriptor> {
        let taken = self.open.fetch_add(1, Ordering::Relaxed);
        let descriptor = Descriptor(Arc::clone(self));
        (taken < self.most).then_some(descriptor)
    }

    /// Whether one of the connections that are open may become a websocket.
    #[must_use]
    pub fn allow_websocket(&self) -> bool {
        self.open.load(Ordering::Relaxed) <= self.most_for_websockets
    }
}

/// The place of a connection that is open.
pub struct Descriptor(Arc<Descriptors>);

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn websockets_are_refused_before_connections_are() {
        let descriptors = Arc::new(Descriptors::of(1_024));
        let mut open: Vec<_> = (0..832).map(|_| descriptors.take().unwrap()).collect();
        assert!(descriptors.allow_websocket());
        open.extend((0..64).map(|_| descriptors.take().unwrap()));
        assert!(!descriptors.allow_websocket());
        assert!(descriptors.take().is_none());
        open.truncate(832);
        assert!(descriptors.allow_websocket());
    }

    #[test]
    fn of_few_descriptors_some_are_for_each() {
        let few = Descriptors::of(64);
        assert_eq!((few.most, few.most_for_websockets), (32, 16));
        assert!(Descriptors::of(u64::MAX).most > 1 << 60);
    }
}
