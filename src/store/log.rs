//! The logs of the rooms: appending entries, and reading entries and messages.

use async_trait::async_trait;

use super::{Appended, Limit, NewEntry, Result};
use crate::model::{Entry, Message, MessageId, RoomId, Seq, UserId};

/// Which messages of a room to return. Deleted messages are never returned or counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// The newest messages, after skipping the `skip` newest.
    Newest {
        /// The number of messages to skip.
        skip: u64,
    },
    /// The newest messages before this log entry.
    Before(Seq),
    /// The oldest messages after this log entry.
    After(Seq),
}

/// Which page of a user's room list to return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoomPage {
    /// The user whose rooms are listed.
    pub user: UserId,
    /// Whether to ignore messages that were posted before the user joined the room.
    pub since_joined: bool,
    /// Whether to include rooms without a message, ordered by their creation time.
    pub with_empty: bool,
    /// The number of rooms to skip.
    pub skip: u64,
    /// The maximum size of the page. Of each room, the text of its latest message counts.
    pub limit: Limit,
}

/// A room in a user's room list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedRoom {
    /// The room.
    pub room: RoomId,
    /// The latest message of the room, if any.
    pub latest: Option<Message>,
}

/// Appending to the logs.
#[async_trait]
pub trait Log: Send + Sync {
    /// Appends entries to the logs of their rooms, in the given order, and applies their effects:
    /// the text of a deleted message is erased while its sequence number stays in use, the text of
    /// an edited message is replaced, members are added and removed, the room is renamed. Each
    /// entry gets the next `seq` of its room. An entry that is not permitted, or that would change
    /// nothing, gets no sequence number and has no effect; see [`Appended`]. The call as a whole is
    /// not atomic: if it fails, some of the entries may have been appended.
    async fn append(&self, batch: Vec<NewEntry>) -> Result<Vec<Appended>>;
}

/// Reading the logs. What a page is limited to is specified by [`Limit`].
#[async_trait]
pub trait History: Send + Sync {
    /// Returns one page of a room, ascending by `seq`. The limit is applied in the direction of the
    /// page: to [`Page::After`] from the oldest message on, to the others from the newest. The cost
    /// depends on the size of the page, not on its position in the log.
    async fn messages(&self, room: RoomId, page: Page, limit: Limit) -> Result<Vec<Message>>;

    /// Returns the message with this id, unless it or its room was deleted.
    async fn message(&self, id: MessageId) -> Result<Option<Message>>;

    /// Returns a page of the log entries of a room after `after`, up to `up_to` if given, ascending
    /// and without gaps. Messages that the entries post or edit are returned in their current state,
    /// whose text counts for the limit, once for each entry.
    async fn entries(
        &self,
        room: RoomId,
        after: Seq,
        up_to: Option<Seq>,
        limit: Limit,
    ) -> Result<Vec<Entry>>;

    /// Returns the last sequence number of each of these rooms, in the order of `rooms`: 0 for an
    /// empty log. Rooms that do not exist are skipped.
    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>>;

    /// Returns a page of the user's rooms, each with its latest message, most recent first.
    async fn recents(&self, page: RoomPage) -> Result<Vec<ListedRoom>>;
}
