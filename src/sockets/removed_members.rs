//! Those whom another server takes out of a room: their sockets here are out of it as well, within a second.

use std::collections::HashSet;

use socketioxide::{SocketIo, extract::SocketRef};

use super::{
    close,
    subscriptions::{is_in, unsubscribe},
    user_name,
};
use crate::{
    chat::Chat,
    model::{RoomId, Timestamp, UserId},
    store::Departed,
};

/// Looks for those who were taken out of rooms.
pub struct RemovedMembers {
    chat: Chat,
    /// Up to when, by the clock of the database, it is known who was.
    until: Option<Timestamp>,
    /// Those who were seen to already. They are told several times, and may be back by then.
    seen: HashSet<Departed>,
}

impl RemovedMembers {
    /// Nobody yet: whoever leaves from now on.
    pub fn new(chat: Chat) -> Self {
        Self { chat, until: None, seen: HashSet::new() }
    }

    /// Has the rooms told of those who were taken out since the last time, by which their sockets are out as well. Sockets that are in
    /// nevertheless are closed: they came in when the room was told of it already, or was not known here, and this server did not know
    /// better at that moment. While the database is away nobody knows; it is asked again soon.
    pub async fn sweep(&mut self, io: &SocketIo) {
        let Chat { store, timeline, .. } = &self.chat;
        if !store.is_shared() {
            return;
        }
        let Ok((departed, until)) = store.departed(self.until).await else { return };
        let new: Vec<_> = departed.iter().filter(|departed| !self.seen.contains(departed)).collect();
        let rooms: HashSet<_> = new.iter().map(|departed| departed.room).collect();
        if !rooms.is_empty() && timeline.catch_up(store.as_ref(), &Vec::from_iter(rooms)).await.is_err() {
            return;
        }
        for Departed { room, user, .. } in new {
            for socket in in_room(io, *room, *user) {
                let Ok(known) = store.room(*room).await else { return };
                // Whoever is back by now may stay.
                if !known.is_some_and(|room| room.has_member(*user)) {
                    close(&socket);
                }
            }
        }
        self.seen = departed.into_iter().collect();
        self.until = Some(until);
    }
}

/// Those sockets of a user that are in a room.
fn in_room(io: &SocketIo, room: RoomId, user: UserId) -> Vec<SocketRef> {
    io.within(user_name(user)).sockets().into_iter().filter(|socket| is_in(socket, room)).collect()
}

/// Takes all sockets of a user out of a room.
pub fn remove_from_room(io: &SocketIo, room: RoomId, user: UserId) {
    io.within(user_name(user)).sockets().iter().for_each(|socket| unsubscribe(socket, room));
}
