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

    /// How many bytes the client has taken; `upgraded`: of them those by a websocket that came after polling.
    fn taken(&self, upgraded: u64) -> u64 {
        self.0.polled.load(Ordering::Relaxed) + self.0.websocket.as_ref().map_or(upgraded, Taken::bytes)
    }

    /// Adds an answer, unless too much waits already. Answers how much the client will have taken when it has that.
    fn add(&self, bytes: u64, upgraded: u64) -> Option<u64> {
        let taken = self.taken(upgraded);
        let mut waiting = lock(&self.0.waiting);
        waiting.bytes = waiting.bytes.saturating_sub(taken.saturating_sub(waiting.taken));
        waiting.taken = taken;
        let fits = waiting.bytes <= MOST;
        fits.then(|| {
            waiting.bytes += bytes;
            taken.saturating_add(waiting.bytes)
        })
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

    /// Counts an answer of so many bytes that is sent to a socket; `None` where too much waits for it already. Answers how much the client
    /// [will have taken](Self::has_taken) when it has that.
    pub fn admit(&self, socket: &SocketRef, bytes: usize) -> Option<u64> {
        backlog(socket).map_or(Some(0), |backlog| backlog.add(bytes as u64, self.taken_by(socket.id)))
    }

    /// Whether the client of a socket has taken so much.
    pub fn has_taken(&self, socket: &SocketRef, bytes: u64) -> bool {
        backlog(socket).is_none_or(|backlog| backlog.taken(self.taken_by(socket.id)) >= bytes)
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
        assert_eq!(backlog.add(MOST, 0).zip(backlog.add(1, 0)).map(|(first, second)| second - first), Some(1));
        assert_eq!(backlog.add(1, 0), None);
        backlog
    }

    #[test]
    fn whoever_takes_what_waits_is_answered_again() {
        let taken = Taken::default();
        taken.add(1_000_000_000);
        let websocket = full(Some(&taken));
        taken.add(1);
        assert_eq!(websocket.add(MOST, 0), Some(1_000_000_001 + 2 * MOST));
        assert_eq!(websocket.add(1, u64::MAX), None, "no other connection counts");
        let polling = full(None);
        polling.0.polled.fetch_add(1, Ordering::Relaxed);
        assert!(polling.add(1, 0).is_some());
        assert!(polling.add(1, 0).is_none());
        assert!(polling.add(1, 1).is_some(), "it was upgraded");
    }

    #[test]
    fn more_than_waits_is_no_credit() {
        let taken = Taken::default();
        let backlog = full(Some(&taken));
        taken.add(usize::MAX / 2);
        assert!(backlog.add(MOST + 1, 0).is_some());
        assert!(backlog.add(1, 0).is_none());
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
