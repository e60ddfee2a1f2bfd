//! Exporting the data of a database record by record, and importing it into another database.
//!
//! The records are independent of the database. An import keeps all ids and sequence numbers, so a
//! server continues where the exported database ended. Sessions are not transferred.

use async_trait::async_trait;

use super::{Limit, Result};
use crate::model::{
    ClientId, Credentials, MessageId, ReadMark, Room, RoomId, Seq, Timestamp, User, UserId,
    entry::{DELETION, EDIT, MEMBER_ADDED, MEMBER_REMOVED, RENAMED},
};

/// A user with everything that is stored about the user.
#[derive(Clone, Debug)]
pub struct UserRecord {
    /// The user, who may be deleted.
    pub user: User,
    /// The username and the hash of the password; `None` if the user has none.
    pub credentials: Option<Credentials>,
    /// When the user was last seen, if ever.
    pub last_seen: Option<Timestamp>,
}

/// A room without its log, as of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomRecord {
    /// The room.
    pub room: Room,
    /// Whether initiating a room with the same members finds this one.
    pub found_by_members: bool,
    /// Whether members have ever been added or removed.
    pub members_changed: bool,
    /// The last entry of the log: the room is in its state after this entry.
    pub last_seq: Seq,
}

/// An entry of a log as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryRecord {
    /// The room.
    pub room: RoomId,
    /// The sequence number.
    pub seq: Seq,
    /// The id of the entry, which is also that of a message.
    pub id: MessageId,
    /// The user who caused the entry.
    pub author: UserId,
    /// When the entry was created.
    pub created_at: Timestamp,
    /// What the entry records.
    pub change: ChangeRecord,
}

/// What a stored entry records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeRecord {
    /// A message was posted.
    Message {
        /// The text in its current state; `None` if the message has been deleted.
        text: Option<String>,
        /// The id that the author's client gave the message.
        client_id: Option<ClientId>,
        /// When the text was last edited.
        edited_at: Option<Timestamp>,
    },
    /// A message was edited.
    Edit(MessageId),
    /// A message was deleted.
    Deletion(MessageId),
    /// A member was added.
    MemberAdded(UserId),
    /// A member was removed.
    MemberRemoved(UserId),
    /// The room was renamed, or its name was removed.
    Renamed(Option<String>),
}

impl ChangeRecord {
    /// Returns the name under which the change is stored; `None` for a message.
    pub(super) fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Message { .. } => None,
            Self::Edit(_) => Some(EDIT),
            Self::Deletion(_) => Some(DELETION),
            Self::MemberAdded(_) => Some(MEMBER_ADDED),
            Self::MemberRemoved(_) => Some(MEMBER_REMOVED),
            Self::Renamed(_) => Some(RENAMED),
        }
    }

    /// Returns whether this is a message that has not been deleted.
    #[must_use]
    pub fn is_readable_message(&self) -> bool {
        matches!(self, Self::Message { text: Some(_), .. })
    }
}

/// A read mark, with the reader's mark before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkRecord {
    /// The room.
    pub room: RoomId,
    /// The mark.
    pub mark: ReadMark,
    /// How far the reader's mark before it goes; 0 if it is the first.
    pub after: Seq,
}

/// How much of a room is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoomTotals {
    /// The room.
    pub room: RoomId,
    /// The last entry of the log.
    pub last_seq: Seq,
    /// The number of entries.
    pub entries: u64,
    /// The number of messages that are not deleted.
    pub messages: u64,
    /// The number of read marks.
    pub marks: u64,
}

/// The end of a log that an earlier run of an import has written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImportedLog {
    /// The room.
    pub room: RoomId,
    /// The last entry.
    pub last_seq: Seq,
    /// The id of that entry.
    pub last_id: MessageId,
}

/// The result of beginning an import.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImportStart {
    /// The database is empty.
    New,
    /// An earlier run of the same import has not finished.
    Continued,
    /// Another import has not finished.
    OtherImport,
    /// The database has data.
    HasData,
}

/// Reading all data, also while servers work on the database. Each call is consistent in itself.
#[async_trait]
pub trait Export: Send + Sync {
    /// Returns the key that signs tokens, if there is one yet.
    async fn signing_key(&self) -> Result<Option<[u8; 32]>>;

    /// Returns about how many entries all logs have.
    async fn count_entries(&self) -> Result<u64>;

    /// Returns up to `limit` users, including deleted ones, ascending by id, starting after
    /// `after`.
    async fn users(&self, after: Option<UserId>, limit: u64) -> Result<Vec<UserRecord>>;

    /// Returns up to `limit` rooms, ascending, starting after `after`.
    async fn rooms(&self, after: Option<RoomId>, limit: u64) -> Result<Vec<RoomId>>;

    /// Returns the room with this id, unless it was deleted.
    async fn room(&self, id: RoomId) -> Result<Option<RoomRecord>>;

    /// Returns a page of the entries in `after < seq <= up_to`, ascending. The limit in bytes is for
    /// the texts. Entries are missing if the room has been deleted.
    async fn entries(
        &self,
        room: RoomId,
        after: Seq,
        up_to: Seq,
        limit: Limit,
    ) -> Result<Vec<EntryRecord>>;

    /// Returns up to `limit` read marks of a room, ascending by user and position, starting after
    /// `after`.
    async fn marks(
        &self,
        room: RoomId,
        after: Option<(UserId, Seq)>,
        limit: u64,
    ) -> Result<Vec<ReadMark>>;
}

/// Writing imported data into a database that no server works on. Records that exist already are
/// skipped, so that an import can be continued by repeating it.
#[async_trait]
pub trait Import: Send + Sync {
    /// Returns whether an import has not finished.
    async fn is_importing(&self) -> Result<bool>;

    /// Begins or continues the import with this id. Changes nothing if that is not possible.
    async fn begin_import(&self, id: &str) -> Result<ImportStart>;

    /// Sets the key that signs tokens.
    async fn set_signing_key(&self, key: [u8; 32]) -> Result<()>;

    /// Adds users.
    async fn add_users(&self, users: Vec<UserRecord>) -> Result<()>;

    /// Adds rooms without their logs. Returns how far their logs have been imported, without rooms
    /// whose log is empty.
    async fn add_rooms(&self, rooms: Vec<RoomRecord>) -> Result<Vec<ImportedLog>>;

    /// Adds entries to the ends of the logs of rooms that were added. The entries of each log have to
    /// be in order.
    async fn add_entries(&self, entries: Vec<EntryRecord>) -> Result<()>;

    /// Adds read marks.
    async fn add_marks(&self, marks: Vec<MarkRecord>) -> Result<()>;

    /// Computes what is stored about these rooms in addition to their entries and marks, all of
    /// which were added. Returns what each room has.
    async fn finish_rooms(&self, rooms: Vec<RoomId>) -> Result<Vec<RoomTotals>>;

    /// Returns the number of users and of rooms.
    async fn count_users_and_rooms(&self) -> Result<(u64, u64)>;

    /// Ends the import: servers may work on the database from now on.
    async fn end_import(&self) -> Result<()>;
}

/// Exporting and importing.
pub trait Transfer: Export + Import {}

impl<T: Export + Import> Transfer for T {}
