//! The read marks: up to where each user has read each room.

use async_trait::async_trait;

use super::Result;
use crate::model::{ReadMark, RoomId, Seq, Timestamp, UserId};

/// The result of marking a room as read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marked {
    /// The number of messages of other users that became read.
    pub became_read: u64,
    /// The last log entry that is read.
    pub last_read: Seq,
    /// The number of messages of other users after `last_read`, which are still unread.
    pub unread: u64,
    /// The read mark that was added; `None` if the user had already read that far.
    pub mark: Option<ReadMark>,
}

/// A user's unread count in a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unread {
    /// The room.
    pub room: RoomId,
    /// The number of messages of other users that were posted since the user joined the room and
    /// come after the user's last read mark. Deleted messages do not count.
    pub unread: u64,
    /// The last entry of the room's log; 0 if the log is empty.
    pub last_seq: Seq,
}

/// The read marks and the unread counts.
#[async_trait]
pub trait ReadMarks: Send + Sync {
    /// Marks the room's log as read by `user` up to `up_to`, but not beyond the current end of the
    /// log, which is also the default. The read time is `at`, or the time of the last entry read if
    /// that is later: nothing is read before it was written. A lower `up_to` does not make read
    /// entries unread. Returns `None` if there is no such room or the user is not a member.
    async fn mark_read(
        &self,
        room: RoomId,
        user: UserId,
        up_to: Option<Seq>,
        at: Timestamp,
    ) -> Result<Option<Marked>>;

    /// Returns, for each of `readers`, the read marks by which the entries `first..=last` were
    /// first read: ascending, from the first mark at or after `first` to the first at or after
    /// `last`.
    async fn between(
        &self,
        room: RoomId,
        readers: &[UserId],
        first: Seq,
        last: Seq,
    ) -> Result<Vec<ReadMark>>;

    /// Returns the user's unread counts in all of their rooms, or in those of `among` that they are
    /// a member of. The order is unspecified.
    async fn unread(&self, user: UserId, among: Option<&[RoomId]>) -> Result<Vec<Unread>>;
}
