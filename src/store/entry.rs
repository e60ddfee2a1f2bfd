//! Entries on their way into the logs, and what becomes of them.

use super::StoreError;
use crate::model::{ClientId, Entry, MessageId, RoomId, Seq, Timestamp, UserId};

/// An entry on its way into a room's log: everything but its `seq`.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Names the entry. New; that of a message names the message.
    pub id: MessageId,
    /// The room into whose log it goes.
    pub room: RoomId,
    /// Who does it; [nobody](UserId::NOBODY) where that is not known.
    pub author: UserId,
    /// When. The store moves it forward where the room's log is already later.
    pub created_at: Timestamp,
    /// What it says.
    pub change: NewEntryKind,
}

/// What an entry does to its room.
///
/// To add one: the variant here, its name in `NewEntryKind::kind`, what it does in each store's `changes`, how it reads in each store's
/// `entries`, the variant of [`EntryKind`](crate::model::What).
#[derive(Clone, Debug)]
pub enum NewEntryKind {
    /// Posts a message.
    Message {
        /// What it says.
        text: String,
        /// What the author's client calls it.
        client_id: Option<ClientId>,
    },
    /// Replaces the text of a message in the same room. That it is the author's own is the caller's to see to.
    Edit {
        /// The message.
        message: MessageId,
        /// What it is to say.
        text: String,
    },
    /// Deletes a message in the same room.
    Deletion(MessageId),
    /// Lets somebody into the room.
    AddMember(UserId),
    /// Takes somebody out of the room.
    RemoveMember {
        /// Whom.
        user: UserId,
        /// Where some are named, one of them at least has to be in the room.
        required_members: Vec<UserId>,
    },
    /// Gives the room another name, or none.
    Rename(Option<String>),
}

impl NewEntryKind {
    /// The name under which entries of this kind are kept; none for a message.
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

    /// The text of a message, as it is to be.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Message { text, .. } | Self::Edit { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Whether the room itself is another afterwards.
    pub(super) fn is_of_room(&self) -> bool {
        matches!(self, Self::AddMember(_) | Self::RemoveMember { .. } | Self::Rename(_))
    }

    /// Whether a text is gone afterwards.
    pub(super) fn erases(&self) -> bool {
        matches!(self, Self::Edit { .. } | Self::Deletion(_))
    }

    /// Those of whom one has to be in the room, if any.
    pub(super) fn required_members(&self) -> &[UserId] {
        if let Self::RemoveMember { required_members, .. } = self { required_members } else { &[] }
    }

    /// Whether only a member may do this. A message is deleted, and a member removed, also by others, who have been asked for their right.
    pub(super) fn is_for_members(&self) -> bool {
        !matches!(self, Self::Deletion(_) | Self::RemoveMember { .. })
    }
}

pub(super) const EDIT: &str = "edit";
pub(super) const DELETION: &str = "deletion";
pub(super) const MEMBER_ADDED: &str = "memberAdded";
pub(super) const MEMBER_REMOVED: &str = "memberRemoved";
pub(super) const RENAMED: &str = "renamed";

/// What became of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Appended {
    /// It stands in the log, and what it says is done.
    Placed(LogPosition),
    /// A message with the same room, author and client id was posted before, and stands there: as it is now, or deleted since.
    Duplicate(Box<Entry>),
    /// There is nothing to do: no message with this id in the room, or no longer; the member is in the room already, or is not.
    Unchanged,
    /// The author has been taken out of the room. Told of rooms whose members have ever changed; before that nobody can have been.
    NotAMember,
    /// None of those of whom one had to be in the room is.
    NoRequiredMember,
    /// The room is gone.
    NoRoom,
    /// It could not be put into the log, or it stands there and what it says could not be done yet: the store goes on trying.
    Failed(StoreError),
}

impl Appended {
    /// Where the entry came to stand.
    #[must_use]
    pub fn placed(&self) -> Option<LogPosition> {
        match self {
            Self::Placed(placed) => Some(*placed),
            _ => None,
        }
    }
}

/// Where an entry came to stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogPosition {
    /// Its number in the room's log.
    pub seq: Seq,
    /// Its time: never before that of the entry in front of it.
    pub created_at: Timestamp,
}
