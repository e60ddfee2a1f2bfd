//! How rooms look to clients, by themselves and in the list of recent conversations.

use serde::{Serialize, Serializer, ser::SerializeSeq};

use super::{Content, People, Reader, Shown, listed_readers};
use crate::{
    model::{Message, MessageId, Room, RoomId, RoomType, Seq, Timestamp, User, UserId},
    store::Unread,
};

/// A room as clients see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoomView<'a> {
    chat_room_id: RoomId,
    #[serde(rename = "type")]
    kind: RoomType,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    initiator_id: UserId,
    /// All of them, or in a large room none.
    #[serde(skip_serializing_if = "Option::is_none")]
    member_ids: Option<&'a [UserId]>,
    member_count: usize,
    created_at: Timestamp,
}

impl<'a> RoomView<'a> {
    /// A room, with its members if they are no more than `listed`.
    #[must_use]
    pub fn new(room: &'a Room, listed: usize) -> Self {
        Self {
            chat_room_id: room.id,
            kind: room.kind,
            name: room.name.as_deref(),
            initiator_id: room.initiator,
            member_ids: (room.members.len() <= listed).then_some(&room.members[..]),
            member_count: room.members.len(),
            created_at: room.created_at,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    member_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_count: Option<usize>,
    unread_count: u64,
    last_seq: Seq,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<Timestamp>,
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
    /// A room as the list of recent conversations shows it. `people` hold its members, or in a large room the author, and the readers.
    #[must_use]
    pub fn new(latest: &'a Message, room: &'a Room, shown: &'a Shown, people: &'a People, unread: Unread) -> Self {
        let (readers, read_count) = listed_readers(latest, &shown.marks, shown.listed);
        let named = |reader: Reader| NamedReader { reader, read_by_user: people.get(&reader.read_by_user_id).map(|user| [user.as_ref()]) };
        Self {
            id: latest.room,
            chat_room_id: latest.room,
            message_id: latest.id,
            seq: latest.seq,
            message: Content { message_text: &latest.text },
            kind: "text",
            posted_by_user: people.get(&latest.author).map(AsRef::as_ref),
            read_by_recipients: readers.into_iter().map(named).collect(),
            room_info: RoomInfo { room, people, author: shown.listed.map(|_| latest.author) },
            member_count: shown.listed.map(|_| room.members.len()),
            name: room.name.as_deref(),
            read_count,
            unread_count: unread.unread,
            last_seq: unread.last_seq,
            created_at: latest.created_at,
            edited_at: latest.edited_at,
        }
    }
}

/// The members of a room, each in an array of its own: `[[user], [user]]`. Of a large room the author alone.
struct RoomInfo<'a> {
    room: &'a Room,
    people: &'a People,
    author: Option<UserId>,
}

impl Serialize for RoomInfo<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_seq(None)?;
        let listed = self.author.as_ref().map_or(&self.room.members[..], std::slice::from_ref);
        for user in listed.iter().filter_map(|id| self.people.get(id)).filter(|user| !user.deleted) {
            members.serialize_element(&[user])?;
        }
        members.end()
    }
}
