//! Removes the sockets of users whom another server has removed from a room, within a second.

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
    store::RemovedMember,
};

/// Checks for users who were removed from rooms.
pub struct RemovedMembers {
    chat: Chat,
    /// The time, by the database clock, up to which removals are known.
    until: Option<Timestamp>,
    /// Removals that were handled already. The store returns them several times, and the users may
    /// have been added again by then.
    seen: HashSet<RemovedMember>,
}

impl RemovedMembers {
    /// Creates a checker that handles removals from now on.
    pub fn new(chat: Chat) -> Self {
        Self {
            chat,
            until: None,
            seen: HashSet::new(),
        }
    }

    /// Broadcasts the removals since the last sweep, which also unsubscribes the removed users'
    /// sockets. Sockets that are still in the room are closed: they joined when the removal had
    /// been broadcast already or the room was not known here, and this server could not know
    /// better. If the database is unavailable, a later sweep retries.
    pub async fn sweep(&mut self, io: &SocketIo) {
        let chat = &self.chat;
        if !chat.is_shared() {
            return;
        }
        let Ok((removed, until)) = chat.removed_members(self.until).await else {
            return;
        };
        let new: Vec<_> = removed
            .iter()
            .filter(|removed| !self.seen.contains(removed))
            .collect();
        let rooms: HashSet<_> = new.iter().map(|removed| removed.room).collect();
        if !rooms.is_empty() && chat.catch_up(&Vec::from_iter(rooms)).await.is_err() {
            return;
        }
        for RemovedMember { room, user, .. } in new {
            for socket in in_room(io, *room, *user) {
                let Ok(is_member) = chat.is_member(*room, *user).await else {
                    return;
                };
                // A user who was added again may stay.
                if !is_member {
                    close(&socket);
                }
            }
        }
        self.seen = removed.into_iter().collect();
        self.until = Some(until);
    }
}

/// Returns the sockets of a user that are in a room.
fn in_room(io: &SocketIo, room: RoomId, user: UserId) -> Vec<SocketRef> {
    io.within(user_name(user))
        .sockets()
        .into_iter()
        .filter(|socket| is_in(socket, room))
        .collect()
}

/// Unsubscribes all sockets of a user from a room.
pub fn remove_from_room(io: &SocketIo, room: RoomId, user: UserId) {
    io.within(user_name(user))
        .sockets()
        .iter()
        .for_each(|socket| unsubscribe(socket, room));
}
