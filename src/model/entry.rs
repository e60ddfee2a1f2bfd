//! The entries of the logs: as they are appended, and as they are in the log.

use std::borrow::Cow;

use super::{ClientId, Message, MessageId, RoomId, Seq, Timestamp, UserId};

/// An entry to append to a room's log: everything except its `seq`.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// The new id of the entry. For a message, it is the message's id as well.
    pub id: MessageId,
    /// The room to whose log the entry is appended.
    pub room: RoomId,
    /// The user who causes the entry; [`UNKNOWN`](UserId::UNKNOWN) if unknown.
    pub author: UserId,
    /// When the entry was created. The store uses the time of the log's last entry if that is
    /// later.
    pub created_at: Timestamp,
    /// The change that the entry records.
    pub change: NewEntryKind,
}

/// The position of an appended entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogPosition {
    /// The sequence number in the room's log.
    pub seq: Seq,
    /// The time of the entry; never earlier than that of the previous entry.
    pub created_at: Timestamp,
}

/// A log entry of a room. Messages are in their current state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The room that the log belongs to.
    pub room: RoomId,
    /// The sequence number in the log.
    pub seq: Seq,
    /// The user who caused the entry; [`UNKNOWN`](UserId::UNKNOWN) if unknown.
    pub author: UserId,
    /// When the entry was created; within a room never before the previous entry.
    pub created_at: Timestamp,
    /// The event that the entry records.
    pub what: EntryKind,
}

/// The change that an entry makes to its room.
///
/// To add one:
/// - `model/entry.rs`: the variant, the methods of `NewEntryKind` (such as its stored name and its
///   subject), the variant of [`EntryKind`] and the conversion in `NewEntry::into_entry`.
/// - SQLite: its effect and how it is stored in `append.rs`, how it is read in `rows.rs`.
/// - MongoDB: its effect and when it has none in `changes.rs`, its format in `entries.rs`.
/// - Clients: its view in `view/entry.rs`, its event in `sockets/events.rs`.
/// - `timeline/mod.rs`: the method that appends it.
/// - Export and import, which keep what `Entry` leaves out (the entry's own id, the client id of a
///   deleted message): `ChangeRecord` in `store/transfer.rs`, its format in `operator/format.rs`, in
///   SQLite `export.rs` and `import.rs`, in MongoDB `records.rs`.
///
/// If the entry changes a stored property of the room, also: the property in `model/mod.rs`, in
/// SQLite a migration and `rooms.rs`, in MongoDB `documents.rs` and the projections in `checks.rs`
/// and `effects.rs`, and for clients `view/room.rs`. The log of a new kind is not readable for an
/// older server on the same MongoDB database, so raise the version in `mongo/schema.rs`.
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

/// What an entry changes in its room. Changes of the same subject depend on each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Subject {
    /// A message.
    Message(MessageId),
    /// Whether a user is a member of the room.
    Member(UserId),
    /// The name of the room.
    Name,
}

/// The event that an entry records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A message was posted. It is in its current state, edits included.
    Message(Message),
    /// A message was posted, and has been deleted since.
    Deleted(MessageId),
    /// A message was edited.
    Edit {
        /// The message's id.
        message: MessageId,
        /// The message in its current state; `None` if it has been deleted since.
        current: Option<Message>,
    },
    /// A message was deleted.
    Deletion(MessageId),
    /// A member was added to the room.
    MemberAdded(UserId),
    /// A member was removed from the room.
    MemberRemoved(UserId),
    /// The room was renamed; `None` if the name was removed.
    Renamed(Option<String>),
}

pub(crate) const EDIT: &str = "edit";
pub(crate) const DELETION: &str = "deletion";
pub(crate) const MEMBER_ADDED: &str = "memberAdded";
pub(crate) const MEMBER_REMOVED: &str = "memberRemoved";
pub(crate) const RENAMED: &str = "renamed";

impl Subject {
    /// Returns whether this is a property of the room itself, not of a message.
    pub(crate) fn is_of_room(self) -> bool {
        !matches!(self, Self::Message(_))
    }
}

impl NewEntryKind {
    /// Returns the name under which entries of this kind are stored; `None` for a message.
    pub(crate) fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Message { .. } => None,
            Self::Edit { .. } => Some(EDIT),
            Self::Deletion(_) => Some(DELETION),
            Self::AddMember(_) => Some(MEMBER_ADDED),
            Self::RemoveMember { .. } => Some(MEMBER_REMOVED),
            Self::Rename(_) => Some(RENAMED),
        }
    }

    /// Returns what the change modifies; `None` for a new message, which modifies nothing that
    /// exists.
    pub(crate) fn subject(&self) -> Option<Subject> {
        match self {
            Self::Message { .. } => None,
            Self::Edit { message, .. } | Self::Deletion(message) => {
                Some(Subject::Message(*message))
            }
            Self::AddMember(user) | Self::RemoveMember { user, .. } => Some(Subject::Member(*user)),
            Self::Rename(_) => Some(Subject::Name),
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
    pub(crate) fn is_of_room(&self) -> bool {
        self.subject().is_some_and(Subject::is_of_room)
    }

    /// Returns whether the change deletes a message or removes a member.
    pub(crate) fn is_removal(&self) -> bool {
        matches!(self, Self::Deletion(_) | Self::RemoveMember { .. })
    }

    /// Returns whether the change removes a text.
    pub(crate) fn erases(&self) -> bool {
        matches!(self, Self::Edit { .. } | Self::Deletion(_))
    }

    /// Returns the required members, if any: at least one of them has to be in the room.
    pub(crate) fn required_members(&self) -> &[UserId] {
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
    pub(crate) fn is_for_members(&self) -> bool {
        !matches!(self, Self::Deletion(_) | Self::RemoveMember { .. })
    }
}

impl NewEntry {
    /// Returns what the entry changes; for a new message, the message itself.
    pub(crate) fn subject(&self) -> Subject {
        self.change.subject().unwrap_or(Subject::Message(self.id))
    }

    /// Returns the entry in the log once it is appended at `position`. `edited` is the message
    /// before the edit, if the entry is an edit.
    pub(crate) fn into_entry(self, position: LogPosition, edited: Option<Message>) -> Entry {
        let LogPosition { seq, created_at } = position;
        let what = match self.change {
            NewEntryKind::Message { text, client_id } => EntryKind::Message(Message {
                id: self.id,
                room: self.room,
                seq,
                author: self.author,
                text,
                created_at,
                edited_at: None,
                client_id,
            }),
            NewEntryKind::Edit { message, text } => EntryKind::Edit {
                message,
                current: edited.map(|edited| Message {
                    text,
                    edited_at: Some(created_at),
                    ..edited
                }),
            },
            NewEntryKind::Deletion(message) => EntryKind::Deletion(message),
            NewEntryKind::AddMember(user) => EntryKind::MemberAdded(user),
            NewEntryKind::RemoveMember { user, .. } => EntryKind::MemberRemoved(user),
            NewEntryKind::Rename(name) => EntryKind::Renamed(name),
        };
        Entry {
            room: self.room,
            seq,
            author: self.author,
            created_at,
            what,
        }
    }
}

impl Entry {
    /// Returns the message that the entry posts or edits, in its current state; `None` if it has been
    /// deleted since, and for entries of other kinds.
    pub(crate) fn current_message(&self) -> Option<&Message> {
        match &self.what {
            EntryKind::Message(message)
            | EntryKind::Edit {
                current: Some(message),
                ..
            } => Some(message),
            _ => None,
        }
    }

    /// Returns the message that the entry posts or edits, in its current state, and without its
    /// text if it has been deleted since; the deletion is a later entry. `None` for entries of
    /// other kinds.
    pub(crate) fn message(&self) -> Option<Cow<'_, Message>> {
        match &self.what {
            EntryKind::Deleted(id)
            | EntryKind::Edit {
                message: id,
                current: None,
            } => Some(Cow::Owned(self.without_text(*id))),
            _ => self.current_message().map(Cow::Borrowed),
        }
    }

    /// Returns the same as [`message`](Self::message), without cloning the text.
    pub(crate) fn into_message(self) -> Option<Message> {
        match self.what {
            EntryKind::Message(message)
            | EntryKind::Edit {
                current: Some(message),
                ..
            } => Some(message),
            _ => self.message().map(Cow::into_owned),
        }
    }

    /// Removes the text of the message, if there is one, to free its memory.
    pub(crate) fn clear_text(&mut self) {
        if let EntryKind::Message(message)
        | EntryKind::Edit {
            current: Some(message),
            ..
        } = &mut self.what
        {
            message.text = String::new();
        }
    }

    fn without_text(&self, id: MessageId) -> Message {
        Message {
            id,
            room: self.room,
            seq: self.seq,
            author: self.author,
            text: String::new(),
            created_at: self.created_at,
            edited_at: None,
            client_id: None,
        }
    }
}
