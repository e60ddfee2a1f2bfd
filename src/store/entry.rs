//! Entries to append to the logs, and the results of appending them.

use super::StoreError;
use crate::model::{ClientId, Entry, MessageId, RoomId, Seq, Timestamp, UserId};

/// An entry to append to a room's log: everything except its `seq`.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// The new id of the entry. For a message, it is the message's id as well.
    pub id: MessageId,
    /// The room to whose log the entry is appended.
    pub room: RoomId,
    /// The user who causes the entry; [`NOBODY`](UserId::NOBODY) if unknown.
    pub author: UserId,
    /// When the entry was created. The store uses the time of the log's last entry if that is
    /// later.
    pub created_at: Timestamp,
    /// The change that the entry records.
    pub change: NewEntryKind,
}

/// The change that an entry makes to its room.
///
/// To add one: add the variant here and its name in `NewEntryKind::kind`, implement its effect and
/// its storage format in each store (in SQLite `append.rs` and `rows.rs`, in MongoDB `changes.rs`
/// and `entries.rs`), and add a variant of [`EntryKind`](crate::model::EntryKind).
#[derive(Clone, Debug)]
pub enum NewEntryKind {
    /// Posts a message.
    Message {
        /// The text of the message.
        text: String,
        /// The id that the author's client gave the message.
        client_id: Option<ClientId>,
    },
    /// Replaces the text of a message in the same room. The caller has to check that the author of
    /// the entry wrote the message.
    Edit {
        /// The message.
        message: MessageId,
        /// The new text.
        text: String,
    },
    /// Deletes a message in the same room.
    Deletion(MessageId),
    /// Adds a member to the room.
    AddMember(UserId),
    /// Removes a member from the room.
    RemoveMember {
        /// The member to remove.
        user: UserId,
        /// If not empty, at least one of these users has to be a member of the room.
        required_members: Vec<UserId>,
    },
    /// Changes the room's name, or removes it.
    Rename(Option<String>),
}

impl NewEntryKind {
    /// Returns the name under which entries of this kind are stored; `None` for a message.
    pub(super) fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Message { .. } => None,
            Self::Edit { .. } => Some(EDIT),
            Self::Deletion(_) => Some(DELETION),
            Self::AddMember(_) => Some(MEMBER_ADDED),
            Self::RemoveMember { .. } => Some(MEMBER_REMOVED),
            Self::Rename(_) => Some(RENAMED),
        }
    }

    /// Returns the new text of a message.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Message { text, .. } | Self::Edit { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Returns whether the change modifies the room itself.
    pub(super) fn is_of_room(&self) -> bool {
        matches!(
            self,
            Self::AddMember(_) | Self::RemoveMember { .. } | Self::Rename(_)
        )
    }

    /// Returns whether the change removes a text.
    pub(super) fn erases(&self) -> bool {
        matches!(self, Self::Edit { .. } | Self::Deletion(_))
    }

    /// Returns the required members, if any: at least one of them has to be in the room.
    pub(super) fn required_members(&self) -> &[UserId] {
        if let Self::RemoveMember {
            required_members, ..
        } = self
        {
            required_members
        } else {
            &[]
        }
    }

    /// Returns whether only a member may make this change. Messages are deleted and members removed
    /// by other users too, whose permission was checked before.
    pub(super) fn is_for_members(&self) -> bool {
        !matches!(self, Self::Deletion(_) | Self::RemoveMember { .. })
    }
}

pub(super) const EDIT: &str = "edit";
pub(super) const DELETION: &str = "deletion";
pub(super) const MEMBER_ADDED: &str = "memberAdded";
pub(super) const MEMBER_REMOVED: &str = "memberRemoved";
pub(super) const RENAMED: &str = "renamed";

/// The result of appending an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Appended {
    /// The entry is in the log and its effect was applied.
    Placed(LogPosition),
    /// A message with the same room, author and client id was posted before; this is its entry in
    /// its current state, which may be deleted.
    Duplicate(Box<Entry>),
    /// There is nothing to do: the room has no such message or it was deleted, the user is already
    /// a member, or is not a member.
    Unchanged,
    /// The author was removed from the room. Only checked in rooms whose members have ever changed.
    NotAMember,
    /// None of the required members is a member of the room.
    NoRequiredMember,
    /// The room was deleted or does not exist.
    NoRoom,
    /// The entry could not be appended, or it is in the log but its effect could not be applied
    /// yet; in that case the store keeps retrying.
    Failed(StoreError),
}

impl Appended {
    /// Returns the position of the entry if it was appended.
    #[must_use]
    pub fn placed(&self) -> Option<LogPosition> {
        match self {
            Self::Placed(placed) => Some(*placed),
            _ => None,
        }
    }
}

/// The position of an appended entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogPosition {
    /// The sequence number in the room's log.
    pub seq: Seq,
    /// The time of the entry; never earlier than that of the previous entry.
    pub created_at: Timestamp,
}
