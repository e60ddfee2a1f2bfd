//! Typing indicators. They are broadcast to the other members in a room, expire automatically and
//! are never stored.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use socketioxide::socket::Sid;

use crate::model::{RoomId, UserId};

/// How long a user counts as typing after the last `typing` event.
const TYPING_TIMEOUT: Duration = Duration::from_secs(6);
/// Minimum interval between `typing` broadcasts for a user in a room. It also applies after the
/// user has stopped; otherwise alternating `typing` and `stop typing` would bypass the limit.
const MIN_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of users typing, counted once per room. Further users are not announced.
const MAX_TYPING: usize = 100_000;

/// Tracks which users are typing.
#[derive(Default)]
pub struct Typing {
    typists: Mutex<HashMap<(RoomId, UserId), TypingState>>,
}

struct TypingState {
    socket: Sid,
    /// When the entry expires.
    until: Instant,
    /// When this user was last announced.
    announced_at: Instant,
    /// Whether the user is currently announced as typing.
    is_announced: bool,
}

impl TypingState {
    fn stop(&mut self, now: Instant) {
        *self = Self {
            until: now + MIN_INTERVAL,
            announced_at: now,
            is_announced: false,
            ..*self
        };
    }
}

impl Typing {
    /// Records that a user is typing on this socket. Returns true if it should be broadcast.
    pub fn begins(&self, room: RoomId, user: UserId, socket: Sid) -> bool {
        let now = Instant::now();
        let mut typists = self.typists.lock();
        let is_full = typists.len() >= MAX_TYPING;
        match typists.entry((room, user)) {
            Entry::Occupied(mut typist) => {
                let typist = typist.get_mut();
                typist.socket = socket;
                typist.until = now + TYPING_TIMEOUT;
                let is_due = now.duration_since(typist.announced_at) >= MIN_INTERVAL;
                if is_due {
                    typist.announced_at = now;
                    typist.is_announced = true;
                }
                is_due
            }
            Entry::Vacant(_) if is_full => false,
            Entry::Vacant(new) => {
                new.insert(TypingState {
                    socket,
                    until: now + TYPING_TIMEOUT,
                    announced_at: now,
                    is_announced: true,
                });
                true
            }
        }
    }

    /// Records that a user has stopped typing. Returns true if it should be broadcast.
    pub fn stops(&self, room: RoomId, user: UserId) -> bool {
        let mut typists = self.typists.lock();
        let typist = typists
            .get_mut(&(room, user))
            .filter(|typist| typist.is_announced);
        typist.map(|typist| typist.stop(Instant::now())).is_some()
    }

    /// Removes expired entries. Returns the users who were announced as typing.
    pub fn expired(&self) -> Vec<(RoomId, UserId)> {
        let now = Instant::now();
        let expired = self
            .typists
            .lock()
            .extract_if(|_, typist| typist.until <= now)
            .collect::<Vec<_>>();
        expired
            .into_iter()
            .filter(|(_, typist)| typist.is_announced)
            .map(|(typing, _)| typing)
            .collect()
    }

    /// Stops the typing of a closed socket. Returns the users who were announced as typing.
    pub fn gone(&self, socket: Sid) -> Vec<(RoomId, UserId)> {
        let now = Instant::now();
        let mut typists = self.typists.lock();
        let stopping = typists
            .iter_mut()
            .filter(|(_, typist)| typist.is_announced && typist.socket == socket);
        let stop = |(typing, typist): (&(RoomId, UserId), &mut TypingState)| {
            typist.stop(now);
            *typing
        };
        stopping.map(stop).collect()
    }
}
