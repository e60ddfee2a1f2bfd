//! How messages look to clients: the shapes that REST answers and socket events share.

use std::{collections::HashMap, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeSeq};
use serde_json::value::{RawValue, to_raw_value};

use crate::model::{Message, MessageId, ReadMark, Room, RoomId, Seq, Timestamp, User, UserId};

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

/// A post as the answer to POST /room/:id/message gives it and as `new message` carries it: made once, sent to all as the same bytes.
#[derive(Clone, Debug)]
pub struct Post {
    /// The room it was posted in.
    pub room: RoomId,
    json: Arc<RawValue>,
}

impl Post {
    /// The post of a message that has just entered the log.
    ///
    /// # Panics
    /// Never: the shape is of strings, numbers and lists.
    #[must_use]
    pub fn new(message: &Message, author: &User, members: &[Arc<User>]) -> Self {
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
            read_by_recipients: [Reader; 1],
            chat_room_info: &'a [Arc<User>],
            created_at: Timestamp,
            updated_at: Timestamp,
        }
        let shape = Shape {
            id: message.room,
            post_id: message.id,
            chat_room_id: message.room,
            seq: message.seq,
            message: Content { message_text: &message.text },
            kind: "text",
            posted_by_user: author,
            read_by_recipients: [Reader { read_by_user_id: message.author, read_at: message.created_at }],
            chat_room_info: members,
            created_at: message.created_at,
            updated_at: message.created_at,
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
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl<'a> ConversationMessage<'a> {
    /// A message as its room's conversation shows it.
    #[must_use]
    pub fn new(message: &'a Message, marks: &[ReadMark], people: &'a People) -> Self {
        let read_by_recipients = readers(message, marks);
        // In the original a message is rewritten when somebody reads it.
        let updated_at = read_by_recipients.iter().map(|reader| reader.read_at).max().unwrap_or(message.created_at);
        Self {
            id: message.id,
            chat_room_id: message.room,
            seq: message.seq,
            message: Content { message_text: &message.text },
            kind: "text",
            posted_by_user: people.get(&message.author).map(AsRef::as_ref),
            read_by_recipients,
            created_at: message.created_at,
            updated_at,
        }
    }
}

/// A room among the recent conversations, with its latest message.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentConversation<'a> {
    #[serde(rename = "_id")]
    id: RoomId,
    chat_room_id: RoomId,
    message_id: MessageId,
    seq: Seq,
    message: Content<'a>,
    #[serde(rename = "type")]
    kind: &'static str,
    posted_by_user: Option<&'a User>,
    read_by_recipients: Vec<NamedReader<'a>>,
    room_info: RoomInfo<'a>,
    created_at: Timestamp,
}

/// A reader with the user that they are.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NamedReader<'a> {
    #[serde(flatten)]
    reader: Reader,
    read_by_user: Option<[&'a User; 1]>,
}

impl<'a> RecentConversation<'a> {
    /// A room as the list of recent conversations shows it. `people` hold its members and the author.
    #[must_use]
    pub fn new(latest: &'a Message, room: &'a Room, marks: &[ReadMark], people: &'a People) -> Self {
        let named = |reader: Reader| NamedReader { reader, read_by_user: people.get(&reader.read_by_user_id).map(|user| [user.as_ref()]) };
        Self {
            id: latest.room,
            chat_room_id: latest.room,
            message_id: latest.id,
            seq: latest.seq,
            message: Content { message_text: &latest.text },
            kind: "text",
            posted_by_user: people.get(&latest.author).map(AsRef::as_ref),
            read_by_recipients: readers(latest, marks).into_iter().map(named).collect(),
            room_info: RoomInfo { room, people },
            created_at: latest.created_at,
        }
    }
}

/// The members of a room, each in an array of its own: `[[user], [user]]`.
struct RoomInfo<'a> {
    room: &'a Room,
    people: &'a People,
}

impl Serialize for RoomInfo<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_seq(None)?;
        for user in self.room.members.iter().filter_map(|id| self.people.get(id)).filter(|user| !user.deleted) {
            members.serialize_element(&[user])?;
        }
        members.end()
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
