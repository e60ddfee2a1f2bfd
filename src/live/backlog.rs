//! How much of what clients were answered still waits for them.
//!
//! The layer bounds how many packets wait for a client, whatever their size. Events are written once for all who hear them, but each answer
//! is a socket's own, and may hold megabytes of a log: who asks again and again and never reads would fill the memory. So it is counted what
//! was handed to the layer, and what the client's connection has taken since.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::http::Extensions;
use socketioxide::{extract::SocketRef, socket::Sid};

use crate::chat::LOG_BYTES;

/// How many bytes of answers may wait for a client for another answer to be added, however large that is.
const MOST: u64 = 4 * LOG_BYTES;
/// How many upgrades are noted before it is looked for those that are over.
const FEW: usize = 1_024;

/// Counts the bytes that the other end of a connection has taken.
#[derive(Clone, Default)]
pub struct Taken(Arc<AtomicU64>);

impl Taken {
    /// So many more were taken.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What waits for the sockets that come one after the other on a connection. It begins with the request that opens that.
#[derive(Clone, Default)]
pub struct Backlog(Arc<Counts>);

#[derive(Default)]
struct Counts {
    /// Of a connection that has been a websocket from the beginning.
    websocket: Option<Taken>,
    polled: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    bytes: u64,
    /// How many bytes had been taken when that was counted.
    taken: u64,
}

impl Backlog {
    /// Of the connection that a request opens, by itself if that is a websocket.
    pub fn begin(extensions: &Extensions, is_websocket: bool) -> Self {
        let websocket = extensions.get::<Taken>().filter(|_| is_websocket).cloned();
        Self(Arc::new(Counts { websocket, ..Counts::default() }))
    }

    /// Adds an answer, unless too much waits already.
    fn add(&self, bytes: u64, upgraded: u64) -> bool {
        let Counts { websocket, polled, waiting } = &*self.0;
        let taken = polled.load(Ordering::Relaxed) + websocket.as_ref().map_or(upgraded, Taken::bytes);
        let mut waiting = lock(waiting);
        waiting.bytes = waiting.bytes.saturating_sub(taken.saturating_sub(waiting.taken));
        waiting.taken = taken;
        let fits = waiting.bytes <= MOST;
        if fits {
            waiting.bytes += bytes;
        }
        fits
    }
}

/// The connections that began with polling and became websockets.
#[derive(Default)]
pub struct Upgrades(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    connections: HashMap<Sid, Upgrade>,
    /// How many there were when it was last looked for those that are over.
    left: usize,
}

struct Upgrade {
    taken: Weak<AtomicU64>,
    /// What had been taken before it was one.
    before: u64,
}

impl Upgrades {
    /// Notes that a connection is about to become the websocket of those sockets. False when another one is, or is about to.
    pub fn begin(&self, sid: Sid, taken: &Taken) -> bool {
        let mut noted = lock(&self.0);
        if noted.connections.get(&sid).is_some_and(|upgrade| upgrade.taken.strong_count() > 0) {
            return false;
        }
        if noted.connections.len() >= FEW.max(2 * noted.left) {
            noted.connections.retain(|_, upgrade| upgrade.taken.strong_count() > 0);
            noted.left = noted.connections.len();
        }
        noted.connections.insert(sid, Upgrade { taken: Arc::downgrade(&taken.0), before: taken.bytes() });
        true
    }

    /// Nothing came of it.
    pub fn fail(&self, sid: Sid) {
        lock(&self.0).connections.remove(&sid);
    }

    fn taken_by(&self, sid: Sid) -> u64 {
        let noted = lock(&self.0);
        let upgrade = noted.connections.get(&sid);
        upgrade.and_then(|upgrade| Some(upgrade.taken.upgrade()?.load(Ordering::Relaxed) - upgrade.before)).unwrap_or_default()
    }

    /// Whether an answer of so many bytes may be sent to a socket, and counts it then.
    pub fn admit(&self, socket: &SocketRef, bytes: usize) -> bool {
        backlog(socket).is_none_or(|backlog| backlog.add(bytes as u64, self.taken_by(socket.id)))
    }
}

/// The answer to a poll of the client took so many bytes along.
pub fn polled(socket: &SocketRef, bytes: u64) {
    if let Some(backlog) = backlog(socket) {
        backlog.0.polled.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn backlog(socket: &SocketRef) -> Option<&Backlog> {
    socket.req_parts().extensions.get()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A backlog that is full, of a connection that may be a websocket.
    fn full(websocket: Option<&Taken>) -> Backlog {
        let mut extensions = Extensions::new();
        websocket.map(|taken| extensions.insert(taken.clone()));
        let backlog = Backlog::begin(&extensions, websocket.is_some());
        assert!(backlog.add(MOST, 0) && backlog.add(1, 0));
        assert!(!backlog.add(1, 0));
        backlog
    }

    #[test]
    fn whoever_takes_what_waits_is_answered_again() {
        let taken = Taken::default();
        taken.add(1_000_000_000);
        let websocket = full(Some(&taken));
        taken.add(1);
        assert!(websocket.add(MOST, 0));
        assert!(!websocket.add(1, u64::MAX), "no other connection counts");
        let polling = full(None);
        polling.0.polled.fetch_add(1, Ordering::Relaxed);
        assert!(polling.add(1, 0));
        assert!(!polling.add(1, 0));
        assert!(polling.add(1, 1), "it was upgraded");
    }

    #[test]
    fn more_than_waits_is_no_credit() {
        let taken = Taken::default();
        let backlog = full(Some(&taken));
        taken.add(usize::MAX / 2);
        assert!(backlog.add(MOST + 1, 0));
        assert!(!backlog.add(1, 0));
    }

    #[test]
    fn upgrades_count_from_their_beginning_and_are_forgotten_when_they_are_over() {
        let upgrades = Upgrades::default();
        let (sid, taken) = (Sid::new(), Taken::default());
        taken.add(500);
        assert!(upgrades.begin(sid, &taken));
        taken.add(7);
        assert_eq!(upgrades.taken_by(sid), 7);
        assert!(!upgrades.begin(sid, &Taken::default()), "one is enough");
        for _ in 0..10 * FEW {
            assert!(upgrades.begin(Sid::new(), &Taken::default()));
        }
        assert!(lock(&upgrades.0).connections.len() <= FEW);
        assert_eq!(upgrades.taken_by(sid), 7);
        drop(taken);
        assert_eq!(upgrades.taken_by(sid), 0);
        let taken = Taken::default();
        assert!(upgrades.begin(sid, &taken), "the former one is gone");
        upgrades.fail(sid);
        assert!(upgrades.begin(sid, &taken));
    }
}
