//! The JSON shapes of messages that REST responses and socket events share.

mod entry;
mod post;
mod room;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    model::{ClientId, Message, MessageId, ReadMark, Room, RoomId, Seq, Timestamp, User, UserId},
    store::{self, Marked, Store},
};

pub use entry::EntryView;
pub use post::Post;
pub use room::{RecentConversation, RecentRoom, RoomView};

/// The text of a message, in the nested object that clients expect.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    message_text: &'a str,
}

/// A user who read a message, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reader {
    read_by_user_id: UserId,
    read_at: Timestamp,
}

/// Returns the readers of `message`: the author first, with the time of posting, then the others in
/// the order in which they read it. `marks` are the read marks of the page around the message.
#[must_use]
pub fn readers(message: &Message, marks: &[ReadMark]) -> Vec<Reader> {
    let mut readers = vec![Reader {
        read_by_user_id: message.author,
        read_at: message.created_at,
    }];
    // A user's marks ascend, so the first mark at or after the message is when it was read.
    for mark in marks.iter().filter(|mark| mark.up_to >= message.seq) {
        if readers
            .iter()
            .all(|reader| reader.read_by_user_id != mark.user)
        {
            readers.push(Reader {
                read_by_user_id: mark.user,
                read_at: mark.read_at,
            });
        }
    }
    readers[1..].sort_by_key(|reader| reader.read_at);
    readers
}

/// Returns the readers of `message` to list: all, or in a large room the first `most`, with the
/// total count.
fn listed_readers(
    message: &Message,
    marks: &[ReadMark],
    most: Option<usize>,
) -> (Vec<Reader>, Option<usize>) {
    let mut readers = readers(message, marks);
    let count = most.map(|_| readers.len());
    readers.truncate(most.unwrap_or(usize::MAX));
    (readers, count)
}

/// Returns when a message was last written to. The original application also rewrites a message
/// when a user reads it.
fn updated_at(message: &Message, readers: &[Reader]) -> Timestamp {
    let read = readers.iter().map(|reader| reader.read_at).max();
    read.max(message.edited_at).unwrap_or(message.created_at)
}

/// Users by id: the authors and readers of the messages shown.
pub type People = HashMap<UserId, Arc<User>>;

/// The members that are listed with a message.
#[derive(Clone, Debug)]
pub struct Members {
    /// All members, or in a large room only the relevant ones.
    pub listed: Vec<Arc<User>>,
    /// The number of members, if not all are listed.
    pub count: Option<usize>,
    /// The maximum number of users listed, which also applies to the readers of a message.
    pub most: usize,
}

impl Members {
    /// Returns the members of a room, or `instead` and the member count if there are more than
    /// `most`.
    pub async fn of(
        store: &Store,
        room: &Arc<Room>,
        most: usize,
        instead: impl FnOnce() -> Vec<Arc<User>>,
    ) -> store::Result<Self> {
        let members = if room.members.len() > most {
            present_members(store, room).await?
        } else {
            Cow::Borrowed(&room.members[..])
        };
        if members.len() > most {
            return Ok(Self {
                listed: instead(),
                count: Some(members.len()),
                most,
            });
        }
        Ok(Self {
            listed: present(store.users.find_many(&members).await?),
            count: None,
            most,
        })
    }
}

/// Returns the members of a room that are not deleted, in ascending order. These are the members
/// that are listed and counted.
pub async fn present_members<'a>(
    store: &Store,
    room: &'a Arc<Room>,
) -> store::Result<Cow<'a, [UserId]>> {
    Ok(room.members_except(&store.rooms.deleted_members(room).await?))
}

/// Removes deleted users. They may be authors, but they are no longer members.
#[must_use]
pub fn present(mut people: Vec<Arc<User>>) -> Vec<Arc<User>> {
    people.retain(|user| !user.deleted);
    people
}

/// The data shown along with the messages of a room.
pub struct Shown {
    /// At least the authors of the messages.
    pub people: People,
    /// The read marks around the messages.
    pub marks: Vec<ReadMark>,
    /// The member count and the maximum number of listed readers, if the room is large.
    pub large: Option<Large>,
}

/// Details of a room that has too many members to list.
#[derive(Clone, Copy)]
pub struct Large {
    /// The number of members.
    pub members: usize,
    /// The maximum number of users listed.
    pub listed: usize,
}

/// Serializes a value to JSON once.
///
/// # Panics
/// Never, for shapes with only strings, numbers and lists.
#[must_use]
pub fn raw(shape: &impl Serialize) -> Box<RawValue> {
    to_raw_value(shape).expect("strings, numbers and lists serialize")
}

/// A message of a conversation.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConversationMessage<'a> {
    #[serde(rename = "_id")]
    id: MessageId,
    chat_room_id: RoomId,
    seq: Seq,
    message: Content<'a>,
    #[serde(rename = "type")]
    kind: &'static str,
    posted_by_user: Option<&'a User>,
    read_by_recipients: Vec<Reader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_count: Option<usize>,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_message_id: Option<&'a ClientId>,
}

impl<'a> ConversationMessage<'a> {
    /// Creates a message as the conversation of its room shows it.
    #[must_use]
    pub fn new(message: &'a Message, shown: &'a Shown) -> Self {
        let (read_by_recipients, read_count) =
            listed_readers(message, &shown.marks, shown.large.map(|large| large.listed));
        let updated_at = updated_at(message, &read_by_recipients);
        Self {
            id: message.id,
            chat_room_id: message.room,
            seq: message.seq,
            message: Content {
                message_text: &message.text,
            },
            kind: "text",
            posted_by_user: shown.people.get(&message.author).map(AsRef::as_ref),
            read_by_recipients,
            read_count,
            created_at: message.created_at,
            updated_at,
            edited_at: message.edited_at,
            client_message_id: message.client_id.as_ref(),
        }
    }
}

/// A page of the log entries of a room after a given entry.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPage {
    /// Set if the page is the whole response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
    /// The entries, ascending, without gaps.
    pub entries: Vec<Box<RawValue>>,
    /// The last sequence number of the log.
    pub last_seq: Seq,
    /// Whether there are more entries up to `last_seq`.
    pub has_more: bool,
    /// Whether this is not the log that the client requested, so that the client must discard
    /// everything it knows of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<bool>,
}

/// The response to marking a room as read, by REST and by socket.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MarkedView {
    success: bool,
    data: Update,
    last_read_seq: Seq,
    unread_count: u64,
}

/// The outcome of a MongoDB update, as in the response of the original application.
#[derive(Serialize)]
struct Update {
    n: u64,
    #[serde(rename = "nModified")]
    modified: u64,
    ok: u8,
}

impl From<Marked> for MarkedView {
    fn from(marked: Marked) -> Self {
        let data = Update {
            n: marked.became_read,
            modified: marked.became_read,
            ok: 1,
        };
        Self {
            success: true,
            data,
            last_read_seq: marked.last_read,
            unread_count: marked.unread,
        }
    }
}

#[cfg(test)]
mod tests;
