//! The rooms and their members.

use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::Result;
use crate::model::{Room, RoomId, Seq, Timestamp, UserId};

/// A user who was removed from a room.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RemovedMember {
    /// The room.
    pub room: RoomId,
    /// The user.
    pub user: UserId,
    /// The log entry that records the removal.
    pub seq: Seq,
}

/// The rooms. Single rooms are cached, in `cached`.
#[async_trait]
pub trait Rooms: Send + Sync {
    /// Returns the room of the same kind with the same members, or adds this one; true if it was
    /// added. Concurrent calls add only one room. A room with a name is always added. A room that
    /// has a name, or whose members have changed, is never found by its members.
    async fn find_or_add(&self, room: Room) -> Result<(Arc<Room>, bool)>;

    /// Returns the room with this id.
    async fn find(&self, id: RoomId) -> Result<Option<Arc<Room>>>;

    /// Returns the deleted users among the members of a room, ascending. They remain in
    /// [`Room::members`], because their messages and read marks are still shown.
    async fn deleted_members(&self, room: &Arc<Room>) -> Result<Arc<[UserId]>>;

    /// Deletes a room with its log and its read marks. Returns the number of messages it had;
    /// `None` if there was no such room.
    async fn delete(&self, id: RoomId) -> Result<Option<u64>>;

    /// Returns the users that any server has removed from a room since `since` and who are not
    /// members now, and the database time up to which the list is complete. Some removals may be
    /// reported twice. Without `since`, only the time is returned. The list is empty if no other
    /// server can work on the database.
    async fn removed_members(
        &self,
        since: Option<Timestamp>,
    ) -> Result<(Vec<RemovedMember>, Timestamp)>;
}

/// Which rooms a user is a member of, and which members of a room have written in it.
#[async_trait]
pub trait Memberships: Send + Sync {
    /// Returns up to `limit` of the rooms that the user is a member of, ascending, starting after
    /// `after`.
    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u64,
    ) -> Result<Vec<RoomId>>;

    /// Prepares the store for [`writers_in`](Self::writers_in) and
    /// [`written_by`](Self::written_by), which may fail without it. This may take long, and makes
    /// appending slower.
    async fn index_writers(&self) -> Result<()>;

    /// Returns the members who have added an entry to the room's log since they joined, ascending.
    async fn writers_in(&self, room: &Arc<Room>) -> Result<Vec<UserId>>;

    /// Returns those of the given rooms to whose log the user has added an entry since joining.
    async fn written_by(&self, user: UserId, rooms: &[Arc<Room>]) -> Result<Vec<RoomId>>;
}

/// Up to this number of members, the latest activity of a room is stored for each member. In a
/// larger room, this would make every post too expensive.
pub(super) const SMALL: usize = 100;

/// Returns whether the room has too many members to store its latest activity for each of them.
pub(super) fn is_large(room: &Room) -> bool {
    room.members.len() > SMALL
}

/// Returns the key by which a room is found by its members: the SHA-256 of its kind and members.
pub(super) fn member_key(room: &Room) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(room.kind.as_str());
    for member in &room.members {
        hash.update(member.as_bytes());
    }
    hash.finalize().into()
}
