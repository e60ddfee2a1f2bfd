//! A log entry as a client that catches up reads it.

use serde::Serialize;

use super::{ConversationMessage, Shown};
use crate::model::{Entry, EntryKind, Message, MessageId, RoomId, Seq, Timestamp, UserId};

/// A log entry of a room, named after the event that the client missed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryView<'a> {
    seq: Seq,
    #[serde(rename = "type")]
    kind: &'static str,
    chat_room_id: RoomId,
    /// The user who caused the entry.
    by_user_id: UserId,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<MessageId>,
    /// The message in its current state.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<ConversationMessage<'a>>,
    /// Whether the message has been deleted since.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a Option<String>>,
}

impl<'a> EntryView<'a> {
    /// Creates the view of an entry, with its message in the current state.
    #[must_use]
    pub fn new(entry: &'a Entry, shown: &'a Shown) -> Self {
        let view = Self {
            seq: entry.seq,
            kind: event_name(&entry.what),
            chat_room_id: entry.room,
            by_user_id: entry.author,
            created_at: entry.created_at,
            message_id: None,
            message: None,
            deleted: None,
            user_id: None,
            name: None,
        };
        let message = |id, message: Option<&'a Message>| Self {
            message_id: Some(id),
            message: message.map(|message| ConversationMessage::new(message, shown)),
            deleted: message.is_none().then_some(true),
            ..view
        };
        match &entry.what {
            EntryKind::Message(posted) => message(posted.id, Some(posted)),
            EntryKind::Deleted(id) => message(*id, None),
            EntryKind::Edit {
                message: id,
                current,
            } => message(*id, current.as_ref()),
            EntryKind::Deletion(id) => Self {
                message_id: Some(*id),
                ..view
            },
            EntryKind::MemberAdded(user) | EntryKind::MemberRemoved(user) => Self {
                user_id: Some(*user),
                ..view
            },
            EntryKind::Renamed(name) => Self {
                name: Some(name),
                ..view
            },
        }
    }
}

/// Returns the name of the socket event that announces an entry of this kind.
fn event_name(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Message(_) | EntryKind::Deleted(_) => "new message",
        EntryKind::Edit { .. } => "message edited",
        EntryKind::Deletion(_) => "message deleted",
        EntryKind::MemberAdded(_) => "member added",
        EntryKind::MemberRemoved(_) => "member removed",
        EntryKind::Renamed(_) => "room changed",
    }
}
