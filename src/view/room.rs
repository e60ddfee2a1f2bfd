//! The JSON shapes of rooms, by themselves and in the list of recent conversations.

use std::slice;

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
    /// All members; omitted in a large room.
    #[serde(skip_serializing_if = "Option::is_none")]
    member_ids: Option<&'a [UserId]>,
    member_count: usize,
    created_at: Timestamp,
}

impl<'a> RoomView<'a> {
    /// Creates the view of a room with these members, whose ids are included if there are at most
    /// `listed`.
    #[must_use]
    pub fn new(room: &'a Room, members: &'a [UserId], listed: usize) -> Self {
        Self {
            chat_room_id: room.id,
            kind: room.kind,
            name: room.name.as_deref(),
            initiator_id: room.initiator,
            member_ids: (members.len() <= listed).then_some(members),
            member_count: members.len(),
            created_at: room.created_at,
        }
    }
}

/// A room in the list of recent conversations, with its latest message, if it has one.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentConversation<'a> {
    #[serde(rename = "_id")]
    id: RoomId,
    chat_room_id: RoomId,
    message_id: Option<MessageId>,
    seq: Option<Seq>,
    message: Option<Content<'a>>,
    #[serde(rename = "type")]
    kind: Option<&'static str>,
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
    /// When the message was posted or, without one, the room was created.
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_room: Option<RoomView<'a>>,
}

/// A reader with their user.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NamedReader<'a> {
    #[serde(flatten)]
    reader: Reader,
    read_by_user: Option<[&'a User; 1]>,
}

/// What the list of recent conversations shows of a room.
pub struct RecentRoom<'a> {
    /// The latest message, if there is one.
    pub latest: Option<&'a Message>,
    /// The room.
    pub room: &'a Room,
    /// The data shown along with the message.
    pub shown: &'a Shown,
    /// At least the members, or in a large room the author, and the readers.
    pub people: &'a People,
    /// The unread count of the user.
    pub unread: Unread,
    /// The description of the room, if requested.
    pub chat_room: Option<RoomView<'a>>,
}

impl<'a> RecentConversation<'a> {
    /// Creates a room as the list of recent conversations shows it.
    #[must_use]
    pub fn new(recent: RecentRoom<'a>) -> Self {
        let RecentRoom {
            latest,
            room,
            shown,
            people,
            unread,
            chat_room,
        } = recent;
        let most = shown.large.map(|large| large.listed);
        let (readers, read_count) = latest
            .map(|latest| listed_readers(latest, &shown.marks, most))
            .unwrap_or_default();
        let author = latest.map_or(&[][..], |latest| slice::from_ref(&latest.author));
        let listed = if shown.large.is_some() {
            author
        } else {
            &room.members
        };
        let named = |reader: Reader| NamedReader {
            reader,
            read_by_user: people
                .get(&reader.read_by_user_id)
                .map(|user| [user.as_ref()]),
        };
        Self {
            id: room.id,
            chat_room_id: room.id,
            message_id: latest.map(|latest| latest.id),
            seq: latest.map(|latest| latest.seq),
            message: latest.map(|latest| Content {
                message_text: &latest.text,
            }),
            kind: latest.map(|_| "text"),
            posted_by_user: latest
                .and_then(|latest| people.get(&latest.author))
                .map(AsRef::as_ref),
            read_by_recipients: readers.into_iter().map(named).collect(),
            room_info: RoomInfo { listed, people },
            member_count: shown.large.map(|large| large.members),
            name: room.name.as_deref(),
            read_count,
            unread_count: unread.unread,
            last_seq: unread.last_seq,
            created_at: latest.map_or(room.created_at, |latest| latest.created_at),
            edited_at: latest.and_then(|latest| latest.edited_at),
            chat_room,
        }
    }
}

/// The members of a room, each in an array of its own: `[[user], [user]]`. In a large room only the
/// author.
struct RoomInfo<'a> {
    listed: &'a [UserId],
    people: &'a People,
}

impl Serialize for RoomInfo<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_seq(None)?;
        for user in self
            .listed
            .iter()
            .filter_map(|id| self.people.get(id))
            .filter(|user| !user.deleted)
        {
            members.serialize_element(&[user])?;
        }
        members.end()
    }
}
