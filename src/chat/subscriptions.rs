//! What sockets need to know of rooms in order to subscribe to them.

use std::sync::Arc;

use super::service::Chat;
use crate::{
    access::{Action, deny},
    auth::{Caller, MaybeAuthenticated},
    error::{Error, Result},
    model::{Room, RoomId, Seq, Timestamp, UserId},
    store::{self, RemovedMember},
};

/// The number of rooms per read when all rooms of a user are listed.
const CHUNK: u64 = 1_000;

impl Chat {
    /// Returns the room with this id if the sender may subscribe to it. In secure mode, the other
    /// user must be a member too. Errors: those of
    /// [`authorize_subscribe`](crate::access::Access::authorize_subscribe).
    pub async fn authorize_subscribe(
        &self,
        sender: &MaybeAuthenticated,
        room: &str,
        other: Option<UserId>,
    ) -> Result<Arc<Room>> {
        self.access.authorize_subscribe(sender, room, other).await
    }

    /// Returns the room with this id if the caller may post in it. Errors: those of posting in
    /// [`authorize`](crate::access::Access::authorize).
    pub async fn authorize_typing(&self, caller: &Caller, room: &str) -> Result<Arc<Room>> {
        self.access.authorize(caller, Action::Post, room).await
    }

    /// Returns for each of these ids the room, if the caller may read it. Each room counts as a
    /// read.
    pub async fn readable_rooms(&self, caller: &Caller, ids: &[String]) -> Vec<Result<Arc<Room>>> {
        let (mut rooms, mut refused) = (Vec::with_capacity(ids.len()), 0_usize);
        for id in ids {
            let room = match self.limits.read(caller.user.id, 1) {
                Ok(()) => {
                    self.access
                        .authorize_silently(caller, Action::Read, id)
                        .await
                }
                Err(error) => Err(error),
            };
            refused += usize::from(matches!(room, Err(Error::NotAMember)));
            rooms.push(room);
        }
        if refused > 0 {
            // One log line for all refused rooms: a request may name a thousand.
            deny(
                caller,
                "read rooms, so many",
                Some(&refused),
                Error::NotAMember,
            );
        }
        rooms
    }

    /// Returns all rooms of the caller, ascending. Each room counts as a read.
    pub async fn rooms_of(&self, caller: &Caller) -> Result<Vec<RoomId>> {
        let user = caller.user.id;
        let mut rooms: Vec<RoomId> = Vec::new();
        loop {
            let after = rooms.last().copied();
            let chunk = self.store.memberships.rooms_of(user, after, CHUNK).await?;
            let is_last = (chunk.len() as u64) < CHUNK;
            rooms.extend(chunk);
            if is_last {
                break;
            }
        }
        self.limits.read(user, rooms.len())?;
        Ok(rooms)
    }

    /// Returns whether the user is a member of the room.
    pub async fn is_member(&self, room: RoomId, user: UserId) -> store::Result<bool> {
        let room = self.store.rooms.find(room).await?;
        Ok(room.is_some_and(|room| room.has_member(user)))
    }

    /// Returns whether other servers may change the same rooms.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.store.database.is_shared()
    }

    /// Runs an action between two announcements; see
    /// [`Timeline::barrier`](crate::timeline::Timeline::barrier).
    pub async fn barrier(
        &self,
        rooms: Vec<RoomId>,
        act: impl FnOnce() + Send + 'static,
    ) -> Result<Vec<(RoomId, Seq)>> {
        self.timeline.barrier(rooms, act).await
    }

    /// Announces the entries of these rooms that other servers have appended; see
    /// [`Timeline::catch_up`](crate::timeline::Timeline::catch_up).
    pub async fn catch_up(&self, rooms: &[RoomId]) -> Result<()> {
        self.timeline.catch_up(&self.store, rooms).await
    }

    /// Returns the users that any server has removed from a room; see
    /// [`Rooms::removed_members`](store::Rooms::removed_members).
    pub async fn removed_members(
        &self,
        since: Option<Timestamp>,
    ) -> store::Result<(Vec<RemovedMember>, Timestamp)> {
        self.store.rooms.removed_members(since).await
    }
}
