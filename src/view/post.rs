//! A message as events and the response to posting it show it.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::{Content, Members, Reader, listed_readers, updated_at};
use crate::model::{ClientId, Message, MessageId, ReadMark, RoomId, Seq, Timestamp, User};

/// A post as POST /room/:id/message returns it and as `new message` carries it. It is serialized
/// once, and every client gets the same bytes.
#[derive(Clone, Debug)]
pub struct Post {
    /// The room it was posted in.
    pub room: RoomId,
    json: Arc<RawValue>,
}

/// The JSON of a [`Post`].
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

impl Post {
    /// Creates the post of a message with these read marks, which are empty for a new message.
    ///
    /// # Panics
    /// Never: the shape has only strings, numbers and lists.
    #[must_use]
    pub fn new(message: &Message, author: &User, members: &Members, marks: &[ReadMark]) -> Self {
        let (readers, read_count) =
            listed_readers(message, marks, members.count.map(|_| members.most));
        let shape = Shape {
            id: message.room,
            post_id: message.id,
            chat_room_id: message.room,
            seq: message.seq,
            message: Content {
                message_text: &message.text,
            },
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
            // Only a deleted message has an empty text.
            deleted: message.text.is_empty().then_some(true),
        };
        Self {
            room: message.room,
            json: to_raw_value(&shape)
                .expect("strings, numbers and lists serialize")
                .into(),
        }
    }
}

impl Serialize for Post {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}
