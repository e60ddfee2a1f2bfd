//! `subscribe`: joins one room, or all rooms of the user.

use std::collections::HashSet;

use serde::Serialize;
use socketioxide::extract::SocketRef;
use tokio::sync::oneshot;

use super::{Answer, Handlers, done};
use crate::{
    auth::{Caller, MaybeAuthenticated},
    budget::{COPIES_OF_A_PAGE, Reservation},
    error::Result,
    model::{RoomId, Seq, UserId},
    sockets::{
        subscriptions::{may_subscribe, rooms_of, subscribe, unsubscribe},
        user_name,
    },
    view::raw,
};

/// Maximum number of rooms that are entered in one batch.
pub(super) const ROOMS_AT_ONCE: usize = 1_000;
/// Maximum size of an [`Entered`] in an answer, in bytes.
const ENTERED_BYTES: u64 = 100;

/// A room that a socket has entered, and the last log entry before the socket's subscription. The
/// socket receives everything after that entry.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entered {
    pub(super) chat_room_id: RoomId,
    pub(super) last_seq: Seq,
}

impl Handlers {
    pub(super) async fn subscribe(
        &self,
        socket: &SocketRef,
        sender: &MaybeAuthenticated,
        id: &str,
        other: Option<UserId>,
    ) -> Result<Answer> {
        let chat = &self.chat;
        let room = chat.authorize_subscribe(sender, id, other).await?;
        if chat.is_shared() {
            // With a shared store, the timeline must know a room before it can detect new entries
            // in the room's log.
            chat.barrier(vec![room.id], || ()).await?;
        }
        may_subscribe(socket, [room.id])?;
        let siblings = other
            .map(|other| socket.within(user_name(other)).sockets())
            .unwrap_or_default();
        // Excludes sockets that are in the room already, so that a failure does not unsubscribe
        // them.
        let brought: Vec<_> = siblings
            .into_iter()
            .filter(|sibling| matches!(subscribe(sibling, room.id), Ok(true)))
            .collect();
        subscribe(socket, room.id)?;
        // If the user lost access meanwhile, their sockets were unsubscribed, perhaps before this
        // subscription. Check again.
        let authorized = chat.authorize_subscribe(sender, id, other).await;
        if authorized.is_err() {
            unsubscribe(socket, room.id);
            if !self.is_member(room.id, other).await {
                for sibling in &brought {
                    unsubscribe(sibling, room.id);
                }
            }
        }
        authorized.map(|_| done())
    }

    /// Returns whether the other user is a member of the room and so may have subscribed to it
    /// themselves. False if the database does not answer.
    async fn is_member(&self, room: RoomId, other: Option<UserId>) -> bool {
        match other {
            Some(other) => self.chat.is_member(room, other).await.unwrap_or(false),
            None => false,
        }
    }

    pub(super) async fn subscribe_to_all(
        &self,
        socket: &SocketRef,
        caller: &Caller,
        memory: &Reservation,
    ) -> Result<Answer> {
        #[derive(Serialize)]
        struct Subscribed {
            success: bool,
            rooms: Vec<Entered>,
        }
        let ids = self.chat.rooms_of(caller).await?;
        may_subscribe(socket, ids.iter().copied())?;
        let user = caller.user.id;
        memory
            .take_for_user(user, COPIES_OF_A_PAGE * ENTERED_BYTES * ids.len() as u64)
            .await?;
        let mut rooms = Vec::with_capacity(ids.len());
        let before = rooms_of(socket);
        for piece in ids.chunks(ROOMS_AT_ONCE) {
            match self.enter(socket, user, piece.to_vec()).await {
                Ok(entered) => rooms.extend(entered),
                Err(error) => {
                    // All or nothing: what earlier pieces have entered would count for nothing.
                    let new = rooms.iter().map(|room: &Entered| room.chat_room_id);
                    for room in new.filter(|room| !before.contains(room)) {
                        unsubscribe(socket, room);
                    }
                    return Err(error);
                }
            }
        }
        Ok(raw(&Subscribed {
            success: true,
            rooms,
        }))
    }

    /// Subscribes a socket to rooms between two broadcasts, so that it receives exactly the events
    /// after the log entries in the answer.
    pub(super) async fn enter(
        &self,
        socket: &SocketRef,
        user: UserId,
        rooms: Vec<RoomId>,
    ) -> Result<Vec<Entered>> {
        let (joining, names) = (socket.clone(), rooms.clone());
        let (reply, joined) = oneshot::channel();
        let join_all = move || {
            let mut entered = HashSet::new();
            let refused = names.into_iter().try_for_each(|room| {
                if subscribe(&joining, room)? {
                    entered.insert(room);
                }
                Ok(())
            });
            // The receiver is dropped if the client has disconnected.
            let _ = reply.send((entered, refused));
        };
        let ends = self.chat.barrier(rooms, join_all).await?;
        let (mut unchecked, refused) = joined.await.unwrap_or_else(|_| (HashSet::new(), Ok(())));
        let checked = match refused {
            Ok(()) => self.check(socket, user, ends, &mut unchecked).await,
            Err(error) => Err(error),
        };
        // Left over if the database did not answer, the room is gone, or the subscription limit was
        // reached.
        for room in unchecked {
            unsubscribe(socket, room);
        }
        checked
    }

    /// Returns those of the rooms that the user is a member of, and unsubscribes the socket from
    /// the others. A user who lost access meanwhile was unsubscribed, perhaps before this
    /// subscription, so membership is checked again.
    async fn check(
        &self,
        socket: &SocketRef,
        user: UserId,
        ends: Vec<(RoomId, Seq)>,
        unchecked: &mut HashSet<RoomId>,
    ) -> Result<Vec<Entered>> {
        let mut entered = Vec::with_capacity(ends.len());
        for (id, end) in ends {
            if self.chat.is_member(id, user).await? {
                entered.push(Entered {
                    chat_room_id: id,
                    last_seq: end,
                });
            } else {
                unsubscribe(socket, id);
            }
            unchecked.remove(&id);
        }
        Ok(entered)
    }
}
