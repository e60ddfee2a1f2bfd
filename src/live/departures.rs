//! Those whom another server takes out of a room: their sockets here are out of it as well, within a second.

use std::{collections::HashSet, sync::Arc};

use socketioxide::SocketIo;

use super::{room_name, user_name};
use crate::{
    model::{RoomId, Timestamp, UserId},
    store::{Departed, Store},
};

/// Looks for those who were taken out of rooms.
pub struct Departures {
    store: Arc<dyn Store>,
    /// Up to when, by the clock of the database, it is known who was.
    until: Option<Timestamp>,
    /// Those who were seen to already. They are told several times, and may be back by then.
    seen: HashSet<Departed>,
}

impl Departures {
    /// Nobody yet: whoever leaves from now on.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, until: None, seen: HashSet::new() }
    }

    /// Takes the sockets of those who were taken out since the last time out as well.
    pub async fn look_after(&mut self, io: &SocketIo) {
        if !self.store.is_shared() {
            return;
        }
        // While the database is away nobody knows; it is asked again soon.
        let Ok((departed, until)) = self.store.departed(self.until).await else { return };
        for departed in departed.iter().filter(|departed| !self.seen.contains(departed)) {
            take_out(io, departed.room, departed.user);
        }
        self.seen = departed.into_iter().collect();
        self.until = Some(until);
    }
}

/// Takes all sockets of a user out of a room.
pub fn take_out(io: &SocketIo, room: RoomId, user: UserId) {
    io.within(user_name(user)).sockets().iter().for_each(|socket| socket.leave(room_name(room)));
}
