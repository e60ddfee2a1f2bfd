//! Typing indicators. They are broadcast to the other members in a room, expire automatically and
//! are never stored.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use socketioxide::socket::Sid;

use crate::model::{RoomId, UserId};

/// How long a user counts as typing after the last `typing` event.
const LASTS: Duration = Duration::from_secs(6);
/// Minimum interval between `typing` broadcasts for a user in a room. It also applies after the
/// user has stopped; otherwise alternating `typing` and `stop typing` would bypass the limit.
const AGAIN: Duration = Duration::from_secs(2);
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
    told: Instant,
    /// Whether the user is currently announced as typing.
    shown: bool,
}

impl TypingState {
    fn stop(&mut self, now: Instant) {
        *self = Self {
            until: now + AGAIN,
            told: now,
            shown: false,
            ..*self
        };
    }
}

impl Typing {
    /// Records that a user is typing on this socket. Returns true if it should be broadcast.
    pub fn begins(&self, room: RoomId, user: UserId, socket: Sid) -> bool {
        let now = Instant::now();
        let mut typists = self.typists();
        let is_full = typists.len() >= MAX_TYPING;
        match typists.entry((room, user)) {
            Entry::Occupied(mut typist) => {
                let typist = typist.get_mut();
                typist.socket = socket;
                typist.until = now + LASTS;
                let tell = now.duration_since(typist.told) >= AGAIN;
                if tell {
                    typist.told = now;
                    typist.shown = true;
                }
                tell
            }
            Entry::Vacant(_) if is_full => false,
            Entry::Vacant(new) => {
                new.insert(TypingState {
                    socket,
                    until: now + LASTS,
                    told: now,
                    shown: true,
                });
                true
            }
        }
    }

    /// Records that a user has stopped typing. Returns true if it should be broadcast.
    pub fn stops(&self, room: RoomId, user: UserId) -> bool {
        let mut typists = self.typists();
        let typist = typists.get_mut(&(room, user)).filter(|typist| typist.shown);
        typist.map(|typist| typist.stop(Instant::now())).is_some()
    }

    /// Removes expired entries. Returns the users who were announced as typing.
    pub fn expired(&self) -> Vec<(RoomId, UserId)> {
        let now = Instant::now();
        let expired = self
            .typists()
            .extract_if(|_, typist| typist.until <= now)
            .collect::<Vec<_>>();
        expired
            .into_iter()
            .filter(|(_, typist)| typist.shown)
            .map(|(typing, _)| typing)
            .collect()
    }

    /// Stops the typing of a closed socket. Returns the users who were announced as typing.
    pub fn gone(&self, socket: Sid) -> Vec<(RoomId, UserId)> {
        let now = Instant::now();
        let mut typists = self.typists();
        let stopping = typists
            .iter_mut()
            .filter(|(_, typist)| typist.shown && typist.socket == socket);
        let stop = |(typing, typist): (&(RoomId, UserId), &mut TypingState)| {
            typist.stop(now);
            *typing
        };
        stopping.map(stop).collect()
    }

    fn typists(&self) -> MutexGuard<'_, HashMap<(RoomId, UserId), TypingState>> {
        self.typists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
