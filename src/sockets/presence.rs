//! Who is there: users with a socket that is connected, and for a moment after the last one has gone, since clients come back.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use socketioxide::extract::SocketRef;

use super::{Event, SocketHub, Sockets, is_closing};
use crate::{
    clock::Clock,
    config::{PresenceScope, RoomsConfig},
    model::{Room, RoomId, Timestamp, UserId},
    store::{self, Store},
    view::present_members,
};

/// How long a user stays online without a socket.
const GRACE: Duration = Duration::from_secs(3);
/// How long it takes until it is tried again to find out who is to be told.
const RETRY: Duration = Duration::from_secs(1);
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
    /// Whether only those are told who share a room in which the user has written.
    scope: PresenceScope,
    here: Mutex<HashMap<UserId, Here>>,
}

/// A user who is there, or of whom the others do not know yet that they are gone.
struct Here {
    sockets: usize,
    /// How often their last socket has gone.
    left: u64,
    state: State,
    /// What the others were told.
    told: State,
    /// Whether a task is telling them. There is never a second one, so that what they are told last is how it is.
    is_told: bool,
}

/// Whether a user is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Online,
    /// Since then.
    Offline(Timestamp),
}

impl Here {
    fn unknown() -> Self {
        let away = State::Offline(Timestamp::default());
        Self { sockets: 0, left: 0, state: away, told: away, is_told: false }
    }
}

impl Presence {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Clock, config: &RoomsConfig) -> Self {
        Self { store, clock, listed: config.listed_members, scope: config.presence, here: Mutex::default() }
    }

    /// Counts a socket as this user's.
    pub fn track(self: &Arc<Self>, sockets: &Sockets, socket: &SocketRef, user: UserId) {
        if is_closing(socket) || socket.extensions.get::<Present>().is_some_and(|present| present.0 == user) {
            return;
        }
        self.untrack(sockets, socket);
        {
            let mut here = self.here();
            let here = here.entry(user).or_insert_with(Here::unknown);
            here.sockets += 1;
            if here.state != State::Online {
                self.ticket(sockets, user, here, State::Online);
            }
        }
        socket.extensions.insert(Present(user));
        // It may have gone meanwhile, when there was nothing to count off yet.
        if !socket.connected() || is_closing(socket) {
            self.untrack(sockets, socket);
        }
    }

    /// Counts a socket as nobody's any more.
    pub fn untrack(self: &Arc<Self>, sockets: &Sockets, socket: &SocketRef) {
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
            // Unless they have come back since they left for that time.
            if let Some(here) = presence.here().get_mut(&user).filter(|here| here.sockets == 0 && here.left == left) {
                presence.ticket(&sockets, user, here, State::Offline(at));
            }
        });
    }

    /// Notes that a user comes or goes, and has the others told.
    fn ticket(self: &Arc<Self>, sockets: &Sockets, user: UserId, here: &mut Here, state: State) {
        here.state = state;
        if !mem::replace(&mut here.is_told, true) {
            let (presence, sockets) = (Arc::clone(self), sockets.clone());
            tokio::spawn(async move { presence.tell(&sockets, user).await });
        }
    }

    /// Tells the others of a user, until they know how it is.
    async fn tell(&self, sockets: &Sockets, user: UserId) {
        while let Some(state) = self.untold(user) {
            let Ok(others) = self.others(user).await else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            // What cannot be written down now is told at least to those who listen.
            if let State::Offline(at) = state
                && let Err(error) = self.store.update_last_seen(vec![(user, at)]).await
            {
                tracing::warn!(%error, "when a user was last there could not be written down");
            }
            // That took its time, in which they may have come or gone.
            if self.is_still(user, state) {
                sockets.announce(&[match state {
                    State::Online => Event::UserOnline { user_id: user, others: &others },
                    State::Offline(at) => Event::UserOffline { user_id: user, last_seen_at: at, others: &others },
                }]);
            }
        }
    }

    /// What the others do not know yet of a user. Where there is nothing, the telling has come to its end.
    fn untold(&self, user: UserId) -> Option<State> {
        let mut all = self.here();
        let here = all.get_mut(&user)?;
        if here.state != here.told {
            return Some(here.state);
        }
        here.is_told = false;
        if here.state != State::Online {
            all.remove(&user);
        }
        None
    }

    /// Whether it is still so; then it counts as told.
    fn is_still(&self, user: UserId, state: State) -> bool {
        let mut all = self.here();
        let Some(here) = all.get_mut(&user).filter(|here| here.state == state) else { return false };
        here.told = state;
        true
    }

    /// Which of these users are there.
    pub fn online(&self, users: &[UserId]) -> Vec<bool> {
        let here = self.here();
        users.iter().map(|user| here.get(user).is_some_and(|here| here.state == State::Online)).collect()
    }

    /// Writes down that whoever is there was there until now.
    pub async fn close(&self) {
        let now = self.clock.now();
        let until = |here: &Here| if let State::Offline(at) = here.state { at } else { now };
        let seen: Vec<_> = self.here().drain().map(|(user, here)| (user, until(&here))).collect();
        if !seen.is_empty()
            && let Err(error) = self.store.update_last_seen(seen).await
        {
            tracing::warn!(%error, "when users were last there could not be written down");
        }
    }

    /// Who is told of this user: whoever shares a room with them; rooms of many do not count.
    async fn others(&self, user: UserId) -> store::Result<Vec<UserId>> {
        let (mut others, mut after) = (BTreeSet::new(), None);
        loop {
            let rooms = self.store.rooms_of(user, after, ROOMS).await?;
            for room in self.where_told(user, &rooms).await? {
                others.extend(room.members.iter().copied());
            }
            after = rooms.last().copied();
            if (rooms.len() as u64) < ROOMS || others.len() > TOLD {
                others.remove(&user);
                return Ok(others.into_iter().take(TOLD).collect());
            }
        }
    }

    /// Those of these rooms of a user whose members are told that the user comes and goes.
    async fn where_told(&self, user: UserId, rooms: &[RoomId]) -> store::Result<Vec<Arc<Room>>> {
        let mut told = Vec::new();
        for id in rooms {
            let Some(room) = self.store.room(*id).await? else { continue };
            // Of a small room it makes no difference who was deleted: they hear nothing.
            if room.members.len() <= self.listed || present_members(self.store.as_ref(), &room).await?.len() <= self.listed {
                told.push(room);
            }
        }
        if self.scope == PresenceScope::Writers {
            let written = self.store.written_by(user, &told).await?;
            told.retain(|room| written.contains(&room.id));
        }
        Ok(told)
    }

    fn here(&self) -> MutexGuard<'_, HashMap<UserId, Here>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
