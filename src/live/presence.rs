//! Who is there: users with a socket that is connected, and for a moment after the last one has gone, since clients come back.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use socketioxide::extract::SocketRef;

use super::{Event, Live, Sockets, is_closing};
use crate::{
    clock::Clock,
    model::{Timestamp, UserId},
    store::{self, Store},
};

/// How long a user stays online without a socket.
const GRACE: Duration = Duration::from_secs(3);
/// How many rooms of a user are looked at in one go.
const ROOMS: u64 = 500;
/// The most users who are told that one comes or goes.
const TOLD: usize = 10_000;

/// Whose socket it is, for as long as it counts as theirs.
#[derive(Clone, Copy)]
struct Present(UserId);

/// Knows who is there.
pub struct Presence {
    store: Arc<dyn Store>,
    clock: Clock,
    /// Only those who share a room of at most so many members are told.
    listed: usize,
    here: Mutex<HashMap<UserId, Here>>,
}

/// A user who is there.
#[derive(Default)]
struct Here {
    sockets: usize,
    /// How often their last socket has gone.
    left: u64,
}

impl Presence {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Clock, listed: usize) -> Self {
        Self { store, clock, listed, here: Mutex::default() }
    }

    /// Counts a socket as this user's.
    pub fn came(self: &Arc<Self>, sockets: &Sockets, socket: &SocketRef, user: UserId) {
        if is_closing(socket) || socket.extensions.get::<Present>().is_some_and(|present| present.0 == user) {
            return;
        }
        self.went(sockets, socket);
        let is_new = {
            let mut here = self.here();
            let is_new = !here.contains_key(&user);
            here.entry(user).or_default().sockets += 1;
            is_new
        };
        socket.extensions.insert(Present(user));
        if is_new {
            let (presence, sockets) = (Arc::clone(self), sockets.clone());
            tokio::spawn(async move {
                if let Ok(others) = presence.others(user).await {
                    sockets.announce(&[Event::UserOnline { user_id: user, others: &others }]);
                }
            });
        }
        // It may have gone meanwhile, when there was nothing to count off yet.
        if !socket.connected() || is_closing(socket) {
            self.went(sockets, socket);
        }
    }

    /// Counts a socket as nobody's any more.
    pub fn went(self: &Arc<Self>, sockets: &Sockets, socket: &SocketRef) {
        let Some(Present(user)) = socket.extensions.remove::<Present>() else { return };
        let at = self.clock.now();
        let left = {
            let mut here = self.here();
            let Some(user) = here.get_mut(&user) else { return };
            user.sockets -= 1;
            if user.sockets > 0 {
                return;
            }
            user.left += 1;
            user.left
        };
        let (presence, sockets) = (Arc::clone(self), sockets.clone());
        tokio::spawn(async move {
            tokio::time::sleep(GRACE).await;
            if presence.forget(user, left) {
                presence.tell_gone(&sockets, user, at).await;
            }
        });
    }

    /// Whether the user has not come back since they left for the `left`th time.
    fn forget(&self, user: UserId, left: u64) -> bool {
        match self.here().entry(user) {
            Entry::Occupied(here) if here.get().sockets == 0 && here.get().left == left => {
                here.remove();
                true
            }
            _ => false,
        }
    }

    async fn tell_gone(&self, sockets: &Sockets, user: UserId, at: Timestamp) {
        // What cannot be written down now is told at least to those who listen.
        if let Err(error) = self.store.seen(vec![(user, at)]).await {
            tracing::warn!(%error, "when a user was last there could not be written down");
        }
        if let Ok(others) = self.others(user).await {
            sockets.announce(&[Event::UserOffline { user_id: user, last_seen_at: at, others: &others }]);
        }
    }

    /// Which of these users are there.
    pub fn online(&self, users: &[UserId]) -> Vec<bool> {
        let here = self.here();
        users.iter().map(|user| here.contains_key(user)).collect()
    }

    /// Writes down that whoever is there was there until now.
    pub async fn close(&self) {
        let now = self.clock.now();
        let seen: Vec<_> = self.here().drain().map(|(user, _)| (user, now)).collect();
        if !seen.is_empty()
            && let Err(error) = self.store.seen(seen).await
        {
            tracing::warn!(%error, "when users were last there could not be written down");
        }
    }

    /// Who shares a room with this user; rooms of many do not count.
    async fn others(&self, user: UserId) -> store::Result<Vec<UserId>> {
        let (mut others, mut after) = (BTreeSet::new(), None);
        loop {
            let rooms = self.store.rooms_of(user, after, ROOMS).await?;
            for id in &rooms {
                let room = self.store.room(*id).await?.filter(|room| room.members.len() <= self.listed);
                others.extend(room.iter().flat_map(|room| room.members.iter().copied()));
            }
            after = rooms.last().copied();
            if (rooms.len() as u64) < ROOMS || others.len() > TOLD {
                others.remove(&user);
                return Ok(others.into_iter().take(TOLD).collect());
            }
        }
    }

    fn here(&self) -> MutexGuard<'_, HashMap<UserId, Here>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
