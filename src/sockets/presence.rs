//! Online status of users. A user is online while they have a connected socket, and for a short
//! grace period after the last one disconnects, because clients often reconnect.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use socketioxide::extract::SocketRef;

use super::{Event, Sockets, is_closing};
use crate::{
    clock::Clock,
    config::{PresenceScope, RoomsConfig},
    model::{Room, RoomId, Timestamp, UserId},
    store::{self, Store},
    view::present_members,
};

/// How long a user stays online without a socket.
const GRACE: Duration = Duration::from_secs(3);
/// Delay before retrying to find the users to notify.
const RETRY: Duration = Duration::from_secs(1);
/// Number of rooms read per page.
const ROOMS: u64 = 500;
/// Maximum number of users who are notified when a user goes online or offline.
const MAX_NOTIFIED: usize = 10_000;

/// The user that a socket counts for, while it does.
#[derive(Clone, Copy)]
struct Present(UserId);

/// Tracks which users are online.
pub struct Presence {
    store: Store,
    clock: Clock,
    /// Maximum number of members in a room for its members to be notified.
    listed: usize,
    /// Whether a room counts only if the user has written in it.
    scope: PresenceScope,
    users: Mutex<HashMap<UserId, UserPresence>>,
}

/// A user who is online, or whose going offline was not broadcast yet.
struct UserPresence {
    sockets: usize,
    /// How many times the user's last socket has disconnected.
    left: u64,
    state: State,
    /// The state that was last broadcast.
    announced: State,
    /// Whether a task is broadcasting changes. There is at most one per user, so that the last
    /// broadcast always matches the current state.
    is_announcing: bool,
}

/// Whether a user is online.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Online,
    /// Offline since this time.
    Offline(Timestamp),
}

impl UserPresence {
    fn unknown() -> Self {
        let offline = State::Offline(Timestamp::default());
        Self {
            sockets: 0,
            left: 0,
            state: offline,
            announced: offline,
            is_announcing: false,
        }
    }
}

impl Presence {
    /// Creates a tracker in which no user is online.
    #[must_use]
    pub fn new(store: Store, clock: Clock, config: &RoomsConfig) -> Self {
        Self {
            store,
            clock,
            listed: config.listed_members,
            scope: config.presence,
            users: Mutex::default(),
        }
    }

    /// Counts a socket for this user.
    pub fn track(self: &Arc<Self>, sockets: &Sockets, socket: &SocketRef, user: UserId) {
        if is_closing(socket)
            || socket
                .extensions
                .get::<Present>()
                .is_some_and(|present| present.0 == user)
        {
            return;
        }
        self.untrack(sockets, socket);
        {
            let mut users = self.users.lock();
            let tracked = users.entry(user).or_insert_with(UserPresence::unknown);
            tracked.sockets += 1;
            if tracked.state != State::Online {
                self.set_state(sockets, user, tracked, State::Online);
            }
        }
        socket.extensions.insert(Present(user));
        // The socket may have disconnected before it was counted.
        if !socket.connected() || is_closing(socket) {
            self.untrack(sockets, socket);
        }
    }

    /// Stops counting a socket for its user.
    pub fn untrack(self: &Arc<Self>, sockets: &Sockets, socket: &SocketRef) {
        let Some(Present(user)) = socket.extensions.remove::<Present>() else {
            return;
        };
        let at = self.clock.now();
        let left = {
            let mut users = self.users.lock();
            let Some(user) = users.get_mut(&user) else {
                return;
            };
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
            // Skip if the user has reconnected since, even if they have disconnected again.
            if let Some(tracked) = presence
                .users
                .lock()
                .get_mut(&user)
                .filter(|tracked| tracked.sockets == 0 && tracked.left == left)
            {
                presence.set_state(&sockets, user, tracked, State::Offline(at));
            }
        });
    }

    /// Records a change of state and starts a task that broadcasts it, unless one is running.
    fn set_state(
        self: &Arc<Self>,
        sockets: &Sockets,
        user: UserId,
        tracked: &mut UserPresence,
        state: State,
    ) {
        tracked.state = state;
        if !mem::replace(&mut tracked.is_announcing, true) {
            let (presence, sockets) = (Arc::clone(self), sockets.clone());
            tokio::spawn(async move { presence.announce(&sockets, user).await });
        }
    }

    /// Broadcasts a user's changes of state until the last broadcast is current.
    async fn announce(&self, sockets: &Sockets, user: UserId) {
        while let Some(state) = self.take_unannounced(user) {
            let Ok(others) = self.others(user).await else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            // A failed write must not prevent the broadcast.
            if let State::Offline(at) = state
                && let Err(error) = self.store.presence.update_last_seen(vec![(user, at)]).await
            {
                tracing::warn!(%error, "updating the last-seen time of a user failed");
            }
            // The state may have changed during the database calls.
            if self.is_still(user, state) {
                sockets.broadcast_all(&[match state {
                    State::Online => Event::UserOnline {
                        user_id: user,
                        others: &others,
                    },
                    State::Offline(at) => Event::UserOffline {
                        user_id: user,
                        last_seen_at: at,
                        others: &others,
                    },
                }]);
            }
        }
    }

    /// Returns a state that was not broadcast yet. If there is none, marks the broadcasting task as
    /// finished.
    fn take_unannounced(&self, user: UserId) -> Option<State> {
        let mut users = self.users.lock();
        let tracked = users.get_mut(&user)?;
        if tracked.state != tracked.announced {
            return Some(tracked.state);
        }
        tracked.is_announcing = false;
        if tracked.state != State::Online {
            users.remove(&user);
        }
        None
    }

    /// Returns whether the user's state is still this one. If so, marks it as broadcast.
    fn is_still(&self, user: UserId, state: State) -> bool {
        let mut users = self.users.lock();
        let Some(tracked) = users
            .get_mut(&user)
            .filter(|tracked| tracked.state == state)
        else {
            return false;
        };
        tracked.announced = state;
        true
    }

    /// Returns for each of these users whether they are online.
    pub fn online(&self, users: &[UserId]) -> Vec<bool> {
        let tracked = self.users.lock();
        users
            .iter()
            .map(|user| {
                tracked
                    .get(user)
                    .is_some_and(|presence| presence.state == State::Online)
            })
            .collect()
    }

    /// Stores the last-seen time of all tracked users; for online users it is now.
    pub async fn close(&self) {
        let now = self.clock.now();
        let until = |tracked: &UserPresence| {
            if let State::Offline(at) = tracked.state {
                at
            } else {
                now
            }
        };
        let seen: Vec<_> = self
            .users
            .lock()
            .drain()
            .map(|(user, tracked)| (user, until(&tracked)))
            .collect();
        if !seen.is_empty()
            && let Err(error) = self.store.presence.update_last_seen(seen).await
        {
            tracing::warn!(%error, "updating the last-seen times of online users failed");
        }
    }

    /// Returns the users to notify about this user: the members of their rooms, except large rooms.
    /// At most [`MAX_NOTIFIED`].
    async fn others(&self, user: UserId) -> store::Result<Vec<UserId>> {
        let (mut others, mut after) = (BTreeSet::new(), None);
        loop {
            let rooms = self.store.memberships.rooms_of(user, after, ROOMS).await?;
            for room in self.rooms_to_notify(user, &rooms).await? {
                others.extend(room.members.iter().copied());
            }
            after = rooms.last().copied();
            if (rooms.len() as u64) < ROOMS || others.len() > MAX_NOTIFIED {
                others.remove(&user);
                return Ok(others.into_iter().take(MAX_NOTIFIED).collect());
            }
        }
    }

    /// Returns those of a user's rooms whose members are notified when the user goes online or
    /// offline.
    async fn rooms_to_notify(
        &self,
        user: UserId,
        rooms: &[RoomId],
    ) -> store::Result<Vec<Arc<Room>>> {
        let mut notified = Vec::new();
        for id in rooms {
            let Some(room) = self.store.rooms.find(*id).await? else {
                continue;
            };
            // Deleted members need not be subtracted in a room that is small with them: they
            // receive nothing.
            if room.members.len() <= self.listed
                || present_members(&self.store, &room).await?.len() <= self.listed
            {
                notified.push(room);
            }
        }
        if self.scope == PresenceScope::Writers {
            let written = self.store.memberships.written_by(user, &notified).await?;
            notified.retain(|room| written.contains(&room.id));
        }
        Ok(notified)
    }
}
