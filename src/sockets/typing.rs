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
/// How often it is told at most that somebody types in a room; and for how long they are not heard of when they have stopped, or saying both
/// in turns would be a way to tell it as often as one likes.
const AGAIN: Duration = Duration::from_secs(2);
/// How many people can be typing, each room counted. Whoever comes on top is not told of.
const MAX_TYPING: usize = 100_000;

/// Knows who is typing.
#[derive(Default)]
pub struct Typing {
    typists: Mutex<HashMap<(RoomId, UserId), Typist>>,
}

struct Typist {
    socket: Sid,
    /// When they are forgotten.
    until: Instant,
    /// When the others were last told of them.
    told: Instant,
    /// Whether the others think that they type.
    shown: bool,
}

impl Typist {
    fn stop(&mut self, now: Instant) {
        *self = Self { until: now + AGAIN, told: now, shown: false, ..*self };
    }
}

impl Typing {
    /// Somebody types, as this socket says. True when the others should be told.
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
                new.insert(Typist { socket, until: now + LASTS, told: now, shown: true });
                true
            }
        }
    }

    /// Somebody stops. True when the others should be told.
    pub fn stops(&self, room: RoomId, user: UserId) -> bool {
        let mut typists = self.typists();
        let typist = typists.get_mut(&(room, user)).filter(|typist| typist.shown);
        typist.map(|typist| typist.stop(Instant::now())).is_some()
    }

    /// Those who have stopped without a word.
    pub fn expired(&self) -> Vec<(RoomId, UserId)> {
        let now = Instant::now();
        let expired = self.typists().extract_if(|_, typist| typist.until <= now).collect::<Vec<_>>();
        expired.into_iter().filter(|(_, typist)| typist.shown).map(|(typing, _)| typing).collect()
    }

    /// Those who cannot go on, since their socket is gone.
    pub fn gone(&self, socket: Sid) -> Vec<(RoomId, UserId)> {
        let now = Instant::now();
        let mut typists = self.typists();
        let stopping = typists.iter_mut().filter(|(_, typist)| typist.shown && typist.socket == socket);
        let stop = |(typing, typist): (&(RoomId, UserId), &mut Typist)| {
            typist.stop(now);
            *typing
        };
        stopping.map(stop).collect()
    }

    fn typists(&self) -> MutexGuard<'_, HashMap<(RoomId, UserId), Typist>> {
        self.typists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
