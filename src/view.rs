//! How messages look to clients: the shapes that REST answers and socket events share.

mod room;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    model::{ClientId, Entry, EntryKind, Message, MessageId, ReadMark, Room, RoomId, Seq, Timestamp, User, UserId},
    store::{self, Marked, Store},
};

pub use room::{RecentConversation, RoomView};

/// The text of a message, in the object in which clients look for it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    message_text: &'a str,
}

/// Who read a message, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reader {
    read_by_user_id: UserId,
    read_at: Timestamp,
}

/// Who read `message`: its author at once, then the others in the order in which they did. `marks` are those of the page around it.
#[must_use]
pub fn readers(message: &Message, marks: &[ReadMark]) -> Vec<Reader> {
    let mut readers = vec![Reader { read_by_user_id: message.author, read_at: message.created_at }];
    // A user's marks ascend, so the first at or after the message is the one in which it was read.
    for mark in marks.iter().filter(|mark| mark.up_to >= message.seq) {
        if readers.iter().all(|reader| reader.read_by_user_id != mark.user) {
            readers.push(Reader { read_by_user_id: mark.user, read_at: mark.read_at });
        }
    }
    readers[1..].sort_by_key(|reader| reader.read_at);
    readers
}

/// The readers of `message` who are listed with it: all, or in a large room the first `most`, and how many there are.
fn listed_readers(message: &Message, marks: &[ReadMark], most: Option<usize>) -> (Vec<Reader>, Option<usize>) {
    let mut readers = readers(message, marks);
    let count = most.map(|_| readers.len());
    readers.truncate(most.unwrap_or(usize::MAX));
    (readers, count)
}

/// When a message was last written to. In the original it is rewritten as well when somebody reads it.
fn updated_at(message: &Message, readers: &[Reader]) -> Timestamp {
    let read = readers.iter().map(|reader| reader.read_at).max();
    read.max(message.edited_at).unwrap_or(message.created_at)
}

/// A post as the answer to POST /room/:id/message gives it and as `new message` carries it: made once, sent to all as the same bytes.
#[derive(Clone, Debug)]
pub struct Post {
    /// The room it was posted in.
    pub room: RoomId,
    json: Arc<RawValue>,
}

impl Post {
    /// The post of a message of which these are the read marks: none, if it has just entered the log.
    ///
    /// # Panics
    /// Never: the shape is of strings, numbers and lists.
    #[must_use]
    pub fn new(message: &Message, author: &User, members: &Members, marks: &[ReadMark]) -> Self {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape<'a> {
            #[serde(rename = "_id")]
            id: RoomId,
            post_id: MessageId,
            chat_room_id: RoomId,
            seq: Seq,
            message: Content<'a>,
            #[serde(rename = "type")]
            kind: &'static str,
            posted_by_user: &'a User,
            read_by_recipients: &'a [Reader],
            #[serde(skip_serializing_if = "Option::is_none")]
            read_count: Option<usize>,
            chat_room_info: &'a [Arc<User>],
            #[serde(skip_serializing_if = "Option::is_none")]
            member_count: Option<usize>,
            created_at: Timestamp,
            updated_at: Timestamp,
            #[serde(skip_serializing_if = "Option::is_none")]
            edited_at: Option<Timestamp>,
            #[serde(skip_serializing_if = "Option::is_none")]
            client_message_id: Option<&'a ClientId>,
            #[serde(skip_serializing_if = "Option::is_none")]
            deleted: Option<bool>,
        }
        let (readers, read_count) = listed_readers(message, marks, members.count.map(|_| members.most));
        let shape = Shape {
            id: message.room,
            post_id: message.id,
            chat_room_id: message.room,
            seq: message.seq,
            message: Content { message_text: &message.text },
            kind: "text",
            posted_by_user: author,
            read_by_recipients: &readers,
            read_count,
            chat_room_info: &members.listed,
            member_count: members.count,
            created_at: message.created_at,
            updated_at: updated_at(message, &readers),
            edited_at: message.edited_at,
            client_message_id: message.client_id.as_ref(),
            // No message is empty but one that has lost its text.
            deleted: message.text.is_empty().then_some(true),
        };
        Self { room: message.room, json: to_raw_value(&shape).expect("strings, numbers and lists serialize").into() }
    }
}

impl Post {
    /// The post as clients read it.
    #[must_use]
    pub fn json(&self) -> &str {
        self.json.get()
    }
}

impl Serialize for Post {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

/// Users by their ids: authors and readers of the messages that are shown.
pub type People = HashMap<UserId, Arc<User>>;

/// Who is shown as being in a room.
#[derive(Clone, Debug)]
pub struct Members {
    /// All members, or in a large room those who matter.
    pub listed: Vec<Arc<User>>,
    /// How many members there are, where not all are listed.
    pub count: Option<usize>,
    /// How many people are listed at most, the readers of a message as well.
    pub most: usize,
}

impl Members {
    /// The members of a room, or in the place of more than `most` these, and how many there are.
    pub async fn of(store: &dyn Store, room: &Arc<Room>, most: usize, instead: impl FnOnce() -> Vec<Arc<User>>) -> store::Result<Self> {
        let members = if room.members.len() > most { present_members(store, room).await? } else { Cow::Borrowed(&room.members[..]) };
        if members.len() > most {
            return Ok(Self { listed: instead(), count: Some(members.len()), most });
        }
        Ok(Self { listed: present(store.users_by_id(&members).await?), count: None, most })
    }
}

/// The members of a room who are there, ascending: all but those who were deleted. They are what is listed and counted as members.
pub async fn present_members<'a>(store: &dyn Store, room: &'a Arc<Room>) -> store::Result<Cow<'a, [UserId]>> {
    Ok(room.members_but(&store.absent(room).await?))
}

/// Without those who were deleted: they have written, but they are no longer there.
#[must_use]
pub fn present(mut people: Vec<Arc<User>>) -> Vec<Arc<User>> {
    people.retain(|user| !user.deleted);
    people
}

/// What is shown with messages of a room.
pub struct Shown {
    /// Their authors, at least.
    pub people: People,
    /// The read marks around them.
    pub marks: Vec<ReadMark>,
    /// Where the room is large, how many members it has, and how many readers are listed with a message at most.
    pub large: Option<Large>,
}

/// Of a room whose members are too many to be listed.
#[derive(Clone, Copy)]
pub struct Large {
    /// How many members it has.
    pub members: usize,
    /// How many people are listed at most.
    pub listed: usize,
}

/// JSON that is written once.
///
/// # Panics
/// Never, for shapes of strings, numbers and lists.
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
    /// A message as its room's conversation shows it.
    #[must_use]
    pub fn new(message: &'a Message, shown: &'a Shown) -> Self {
        let (read_by_recipients, read_count) = listed_readers(message, &shown.marks, shown.large.map(|large| large.listed));
        let updated_at = updated_at(message, &read_by_recipients);
        Self {
            id: message.id,
            chat_room_id: message.room,
            seq: message.seq,
            message: Content { message_text: &message.text },
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

/// An entry of a room's log: the event that somebody missed, under the event's name.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryView<'a> {
    seq: Seq,
    #[serde(rename = "type")]
    kind: &'static str,
    chat_room_id: RoomId,
    /// Who did it.
    by_user_id: UserId,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<MessageId>,
    /// The message as it is now.
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
    /// An entry, with its message as it is now.
    #[must_use]
    pub fn new(entry: &'a Entry, shown: &'a Shown) -> Self {
        let view = Self {
            seq: entry.seq,
            kind: entry.what.event(),
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
            EntryKind::Edit { message: id, current } => message(*id, current.as_ref()),
            EntryKind::Deletion(id) => Self { message_id: Some(*id), ..view },
            EntryKind::MemberAdded(user) | EntryKind::MemberRemoved(user) => Self { user_id: Some(*user), ..view },
            EntryKind::Renamed(name) => Self { name: Some(name), ..view },
        }
    }
}

impl EntryKind {
    /// The name of the event by which sockets hear of it.
    #[must_use]
    pub fn event(&self) -> &'static str {
        match self {
            Self::Message(_) | Self::Deleted(_) => "new message",
            Self::Edit { .. } => "message edited",
            Self::Deletion(_) => "message deleted",
            Self::MemberAdded(_) => "member added",
            Self::MemberRemoved(_) => "member removed",
            Self::Renamed(_) => "room changed",
        }
    }
}

/// What happened in a room behind an entry.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPage {
    /// Where it is the whole answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
    /// The entries, ascending, without a hole.
    pub entries: Vec<Box<RawValue>>,
    /// Where the log ends.
    pub last_seq: Seq,
    /// Whether there is more before that.
    pub has_more: bool,
    /// Whether the log is not the one that was asked about, so that all that is known of it has to be forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<bool>,
}

/// The answer to whoever has marked a room as read, by REST and by socket.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MarkedView {
    success: bool,
    data: Update,
    last_read_seq: Seq,
    unread_count: u64,
}

/// What the original application answered: the outcome of an update in MongoDB.
#[derive(Serialize)]
struct Update {
    n: u64,
    #[serde(rename = "nModified")]
    modified: u64,
    ok: u8,
}

impl From<Marked> for MarkedView {
    fn from(marked: Marked) -> Self {
        let data = Update { n: marked.became_read, modified: marked.became_read, ok: 1 };
        Self { success: true, data, last_read_seq: marked.last_read, unread_count: marked.unread }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_in_the_first_mark_that_covers_it() {
        let [alice, bob, carol] = [1, 2, 3].map(|n| UserId::from_bytes([n; 16]));
        let message = Message {
            id: MessageId::from_bytes([9; 16]),
            room: RoomId::from_bytes([8; 16]),
            seq: Seq(5),
            author: alice,
            text: "hello".into(),
            created_at: Timestamp(50),
            edited_at: None,
            client_id: None,
        };
        let mark = |user, up_to, read_at| ReadMark { user, up_to: Seq(up_to), read_at: Timestamp(read_at) };
        let marks = [mark(alice, 6, 60), mark(bob, 4, 55), mark(bob, 6, 70), mark(bob, 9, 90), mark(carol, 5, 60)];
        let reader = |id, at| Reader { read_by_user_id: id, read_at: Timestamp(at) };
        assert_eq!(readers(&message, &marks), [reader(alice, 50), reader(carol, 60), reader(bob, 70)]);
    }
}
