//! The limit of open files of the process, and how many of them connections may use.
//!
//! Every connection takes one. New websockets are refused first, so that REST requests and health
//! checks are still answered; then new connections are closed at once, so that the databases can
//! open the files they need.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The number of files reserved for the database, the log, and everything else that is not a
/// connection.
const OWN: u64 = 128;
/// The number of files reserved for connections that are not websockets.
const REST: u64 = 64;

/// The limits of open files before and after raising them.
#[derive(Clone, Copy, Debug)]
pub struct RaisedLimit {
    /// The former limit.
    pub former: u64,
    /// The current limit: the maximum that the system allows this user.
    pub limit: u64,
}

/// Raises the limit of open files to the maximum that the system allows without privileges.
pub fn raise() -> io::Result<RaisedLimit> {
    let (former, _) = rlimit::Resource::NOFILE.get()?;
    let limit = rlimit::increase_nofile_limit(u64::MAX)?;
    Ok(RaisedLimit { former, limit })
}

/// Counts the open connections.
pub struct Descriptors {
    /// The maximum number of connections, and the maximum at which one may still become a
    /// websocket.
    most: u64,
    most_for_websockets: u64,
    open: AtomicU64,
}

impl Descriptors {
    /// Creates a counter with the limit that is in force.
    #[must_use]
    pub fn new() -> Arc<Self> {
        // If the system does not report a limit, there is none to observe.
        let limit = rlimit::Resource::NOFILE
            .get()
            .map_or(u64::MAX, |(soft, _)| soft);
        Arc::new(Self::of(limit))
    }

    fn of(limit: u64) -> Self {
        // If the limit is small, half of it is reserved.
        let most = limit - OWN.min(limit / 2);
        Self {
            most,
            most_for_websockets: most - REST.min(most / 2),
            open: AtomicU64::new(0),
        }
    }

    /// Takes a permit for one more connection; `None` if there are too many.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Descriptor> {
        let taken = self.open.fetch_add(1, Ordering::Relaxed);
        let descriptor = Descriptor(Arc::clone(self));
        (taken < self.most).then_some(descriptor)
    }

    /// Returns whether one of the open connections may become a websocket.
    #[must_use]
    pub fn allow_websocket(&self) -> bool {
        self.open.load(Ordering::Relaxed) <= self.most_for_websockets
    }
}

/// The permit of an open connection.
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
