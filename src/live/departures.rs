//! Those whom another server takes out of a room: their sockets here are out of it as well, within a second.

use std::collections::HashSet;

use socketioxide::SocketIo;

use super::{close, is_in, room_name, user_name};
use crate::{
    chat::Chat,
    model::{RoomId, Timestamp, UserId},
    store::Departed,
};

/// Looks for those who were taken out of rooms.
pub struct Departures {
    chat: Chat,
    /// Up to when, by the clock of the database, it is known who was.
    until: Option<Timestamp>,
    /// Those who were seen to already. They are told several times, and may be back by then.
    seen: HashSet<Departed>,
}

impl Departures {
    /// Nobody yet: whoever leaves from now on.
    pub fn new(chat: Chat) -> Self {
        Self { chat, until: None, seen: HashSet::new() }
    }

    /// Has the rooms told of those who were taken out since the last time, by which their sockets are out as well. Where nothing was told of
    /// the room yet, those sockets are closed: taken out, whoever is back by now would miss something and not know it. While the database
    /// is away nobody knows; it is asked again soon.
    pub async fn look_after(&mut self, io: &SocketIo) {
        let Chat { store, timeline, .. } = &self.chat;
        if !store.is_shared() {
            return;
        }
        let Ok((departed, until)) = store.departed(self.until).await else { return };
        let new: Vec<_> = departed.iter().filter(|departed| !self.seen.contains(departed)).collect();
        let rooms: HashSet<_> = new.iter().map(|departed| departed.room).collect();
        if !rooms.is_empty() {
            let Ok(untold) = timeline.catch_up(store.as_ref(), &Vec::from_iter(rooms)).await else { return };
            for departed in new.iter().filter(|departed| untold.contains(&departed.room)) {
                close_in(io, departed.room, departed.user);
            }
        }
        self.seen = departed.into_iter().collect();
        self.until = Some(until);
    }
}

/// Closes those sockets of a user that are in a room.
fn close_in(io: &SocketIo, room: RoomId, user: UserId) {
    let room = room_name(room);
    io.within(user_name(user)).sockets().iter().filter(|socket| is_in(socket, &room)).for_each(close);
}

/// Takes all sockets of a user out of a room.
pub fn take_out(io: &SocketIo, room: RoomId, user: UserId) {
    io.within(user_name(user)).sockets().iter().for_each(|socket| socket.leave(room_name(room)));
}
