//! Who is typing where: told to the others in the room, forgotten by itself, and never kept.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use socketioxide::socket::Sid;

use crate::model::{RoomId, UserId};

/// How long somebody types without saying it again.
const LASTS: Duration = Duration::from_secs(6);
/// How often it is told at most that somebody types in a room.
const AGAIN: Duration = Duration::from_secs(2);
/// How many people can be typing, each room counted. Whoever comes on top is not told of.
const MOST: usize = 100_000;

/// Knows who is typing.
#[derive(Default)]
pub struct Typing {
    typists: Mutex<HashMap<(RoomId, UserId), Typist>>,
}

struct Typist {
    socket: Sid,
    until: Instant,
    told: Instant,
}

impl Typing {
    /// Somebody types, as this socket says. True when the others should be told.
    pub fn begins(&self, room: RoomId, user: UserId, socket: Sid) -> bool {
        let now = Instant::now();
        let mut typists = self.typists();
        let is_full = typists.len() >= MOST;
        match typists.entry((room, user)) {
            Entry::Occupied(mut typist) => {
                let typist = typist.get_mut();
                typist.socket = socket;
                typist.until = now + LASTS;
                let tell = now.duration_since(typist.told) >= AGAIN;
                if tell {
                    typist.told = now;
                }
                tell
            }
            Entry::Vacant(_) if is_full => false,
            Entry::Vacant(new) => {
                new.insert(Typist { socket, until: now + LASTS, told: now });
                true
            }
        }
    }

    /// Somebody stops. True when the others should be told.
    pub fn stops(&self, room: RoomId, user: UserId) -> bool {
        self.typists().remove(&(room, user)).is_some()
    }

    /// Those who have stopped without a word.
    pub fn expired(&self) -> Vec<(RoomId, UserId)> {
        let now = Instant::now();
        self.take(|typist| typist.until <= now)
    }

    /// Those who cannot go on, since their socket is gone.
    pub fn gone(&self, socket: Sid) -> Vec<(RoomId, UserId)> {
        self.take(|typist| typist.socket == socket)
    }

    fn take(&self, ends: impl Fn(&Typist) -> bool) -> Vec<(RoomId, UserId)> {
        let mut typists = self.typists();
        if typists.is_empty() {
            return Vec::new();
        }
        typists.extract_if(|_, typist| ends(typist)).map(|(typing, _)| typing).collect()
    }

    fn typists(&self) -> MutexGuard<'_, HashMap<(RoomId, UserId), Typist>> {
        self.typists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
