//! The document format of the model, with the field names of the original application, so that
//! MongoDB tools show familiar data.
//!
//! Documents of the original application are read as well. They are less strict: a field may be
//! missing or have another type. Documents and list items with an invalid id are skipped; for other
//! fields there is a harmless default.

use data_encoding::HEXLOWER;
use mongodb::bson::{DateTime, Document, RawDocument, doc};

use crate::{
    model::{
        ClientId, Message, MessageId, ReadMark, Room, RoomId, RoomType, Seq, Timestamp, User,
        UserId, UserType,
    },
    store,
};

/// Converts a time to MongoDB's type, which also has millisecond precision.
pub fn date(at: Timestamp) -> DateTime {
    DateTime::from_millis(at.0)
}

/// Converts a number to MongoDB's type, capped at `i64::MAX`.
pub fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Converts a number of documents, for `limit` and `skip`, to MongoDB's type, capped at `i32::MAX`.
pub fn document_count(number: u64) -> i64 {
    i64::from(i32::try_from(number).unwrap_or(i32::MAX))
}

/// Returns ids in the form in which they are stored.
pub fn id_strings<T: ToString>(ids: &[T]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// Returns the number in a field, or 0 if there is none.
pub fn number_in(document: &RawDocument, field: &str) -> u64 {
    let number = document
        .get_i64(field)
        .or_else(|_| document.get_i32(field).map(i64::from));
    number
        .ok()
        .and_then(|number| u64::try_from(number).ok())
        .unwrap_or_default()
}

/// Returns the sequence number in a field, or 0 if there is none.
pub fn seq_in(document: &RawDocument, field: &str) -> Seq {
    Seq(number_in(document, field))
}

/// Returns the time in a field, or the Unix epoch if there is none.
pub fn time_in(document: &RawDocument, field: &str) -> Timestamp {
    document
        .get_datetime(field)
        .map(|date| Timestamp(date.timestamp_millis()))
        .unwrap_or_default()
}

/// Returns the text in a field, or an empty string if there is none.
pub fn text_in<'a>(document: &'a RawDocument, field: &str) -> &'a str {
    document.get_str(field).unwrap_or_default()
}

/// Returns whether a field is `true`.
pub fn flag_in(document: &RawDocument, field: &str) -> bool {
    document.get_bool(field).unwrap_or_default()
}

/// Returns the document of a new user.
pub fn from_user(user: &User) -> Document {
    doc! {
        "_id": user.id.to_string(),
        "firstName": &user.first_name,
        "lastName": &user.last_name,
        "type": user.kind.as_str(),
        "createdAt": date(user.created_at),
        "updatedAt": date(user.updated_at),
    }
}

/// Reads a user, deleted or not.
pub fn user(document: &RawDocument) -> Option<User> {
    Some(User {
        id: UserId::parse(text_in(document, "_id"))?,
        first_name: text_in(document, "firstName").to_owned(),
        last_name: text_in(document, "lastName").to_owned(),
        kind: UserType::parse(text_in(document, "type")).unwrap_or(UserType::Consumer),
        created_at: time_in(document, "createdAt"),
        updated_at: time_in(document, "updatedAt"),
        deleted: flag_in(document, "deleted"),
    })
}

/// Returns the document of a new room. A named room has no member key, so it is not found by its
/// members.
pub fn from_room(room: &Room) -> Document {
    let mut document = doc! {
        "_id": room.id.to_string(),
        "userIds": id_strings(&room.members),
        "type": room.kind.as_str(),
        "chatInitiator": room.initiator.to_string(),
        "createdAt": date(room.created_at),
        "updatedAt": date(room.created_at),
        "large": store::is_large(room),
    };
    match &room.name {
        Some(name) => document.insert("name", name),
        None => document.insert("memberKey", member_key(room)),
    };
    document
}

/// Reads a room, unless it is being deleted. The members are deduplicated, since the original
/// application may have listed one twice.
pub fn room(document: &RawDocument) -> Option<Room> {
    if document.get("deletedAt").is_ok_and(|field| field.is_some()) {
        return None;
    }
    let listed = document
        .get_array("userIds")
        .ok()
        .into_iter()
        .flatten()
        .flatten();
    let mut members: Vec<_> = listed
        .filter_map(|id| UserId::parse(id.as_str()?))
        .collect();
    members.sort_unstable();
    members.dedup();
    Some(Room {
        id: room_id(document)?,
        kind: RoomType::parse(text_in(document, "type")).unwrap_or(RoomType::ConsumerToConsumer),
        name: document.get_str("name").ok().map(ToOwned::to_owned),
        initiator: user_in(document, "chatInitiator"),
        members,
        joined: joined(document),
        created_at: time_in(document, "createdAt"),
    })
}

/// Reads the id of a room.
pub fn room_id(room: &RawDocument) -> Option<RoomId> {
    RoomId::parse(text_in(room, "_id"))
}

/// Returns the members who joined a room after its creation, each with the entry that added them.
pub fn joined(room: &RawDocument) -> Vec<(UserId, Seq)> {
    let listed = room
        .get_array("joined")
        .ok()
        .into_iter()
        .flatten()
        .flatten();
    let member = |entry: &RawDocument| {
        Some((
            UserId::parse(text_in(entry, "userId"))?,
            seq_in(entry, "seq"),
        ))
    };
    let mut joined: Vec<_> = listed
        .filter_map(|entry| member(entry.as_document()?))
        .collect();
    joined.sort_unstable();
    joined
}

/// Returns the user in a field, or [`UserId::UNKNOWN`] if there is none.
pub fn user_in(document: &RawDocument, field: &str) -> UserId {
    UserId::parse(text_in(document, field)).unwrap_or(UserId::UNKNOWN)
}

/// Returns the member key of a room, in hex digits.
pub fn member_key(room: &Room) -> String {
    HEXLOWER.encode(&store::member_key(room))
}

/// Returns the document of the entry that closes the log of a deleted room. Its id is not a message
/// id.
pub fn closing_entry(room: RoomId, seq: Seq, at: Timestamp) -> Document {
    doc! {
        "_id": format!("{room}:closed"),
        "chatRoomId": room.to_string(),
        "seq": number(seq.0),
        "closed": true,
        "deleted": true,
        "createdAt": date(at),
    }
}

/// Reads a message, unless the entry is not a message or is a deleted one.
pub fn message(document: &RawDocument) -> Option<Message> {
    if flag_in(document, "deleted") {
        return None;
    }
    let content = document.get_document("message").ok();
    Some(Message {
        id: MessageId::parse(text_in(document, "_id"))?,
        room: RoomId::parse(text_in(document, "chatRoomId"))?,
        seq: Some(seq_in(document, "seq")).filter(|seq| *seq > Seq(0))?,
        author: user_in(document, "postedByUser"),
        text: content
            .map(|content| text_in(content, "messageText").to_owned())
            .unwrap_or_default(),
        created_at: time_in(document, "createdAt"),
        edited_at: document
            .get_datetime("editedAt")
            .ok()
            .map(|date| Timestamp(date.timestamp_millis())),
        client_id: document
            .get_str("clientMessageId")
            .ok()
            .and_then(ClientId::parse),
    })
}

/// Returns the document of the read mark that follows the one up to `after`. Its id chains a
/// reader's marks: two marks that follow the same one cannot both be inserted.
pub fn from_read_mark(room: RoomId, after: Seq, mark: &ReadMark) -> Document {
    doc! {
        "_id": format!("{room}:{}:{}", mark.user, after.0),
        "chatRoomId": room.to_string(),
        "readByUserId": mark.user.to_string(),
        "upToSeq": number(mark.up_to.0),
        "readAt": date(mark.read_at),
    }
}

/// Reads a read mark.
pub fn read_mark(document: &RawDocument) -> Option<ReadMark> {
    Some(ReadMark {
        user: UserId::parse(text_in(document, "readByUserId"))?,
        up_to: seq_in(document, "upToSeq"),
        read_at: time_in(document, "readAt"),
    })
}
