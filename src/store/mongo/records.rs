//! The document format of the records that are exported and imported.

use mongodb::bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, raw::cstr};

use super::documents::{
    self, date, flag_in, from_room, from_user, member_key, number, seq_in, text_in, time_in,
    user_in,
};
use crate::{
    model::{
        ClientId, Credentials, MessageId, PasswordHash, RoomId, Seq, Timestamp, Username,
        entry::{DELETION, EDIT, MEMBER_ADDED, MEMBER_REMOVED, RENAMED},
    },
    store::{ChangeRecord, EntryRecord, RoomRecord, UserRecord, search},
};

/// Reads a user.
pub fn user_record(document: &RawDocument) -> Option<UserRecord> {
    let credentials = || {
        Some(Credentials {
            username: Username::parse(text_in(document, "username"))?,
            password: PasswordHash(document.get_str("password").ok()?.to_owned()),
        })
    };
    Some(UserRecord {
        user: documents::user(document)?,
        credentials: credentials(),
        last_seen: optional_time(document, "lastSeenAt"),
    })
}

/// Returns the document of a user.
pub fn from_user_record(record: &UserRecord) -> Document {
    let mut document = from_user(&record.user);
    if record.user.deleted {
        document.insert("deleted", true);
    }
    if let Some(credentials) = &record.credentials {
        document.insert("username", credentials.username.as_str());
        document.insert("password", &credentials.password.0);
    }
    if let Some(last_seen) = record.last_seen {
        document.insert("lastSeenAt", date(last_seen));
    }
    document
}

/// Reads a room, unless it is being deleted. The end of its log is not filled in. Comes with the
/// entry that changed the room last.
pub fn room_record(document: &RawDocument) -> Option<(RoomRecord, Seq)> {
    let record = RoomRecord {
        room: documents::room(document)?,
        found_by_members: document.get_str("memberKey").is_ok(),
        members_changed: document.get_array("joined").is_ok(),
        last_seq: Seq(0),
    };
    Some((record, seq_in(document, "changedSeq")))
}

/// Returns the document of a room. Its activity and its indexed range are not filled in.
pub fn from_room_record(record: &RoomRecord) -> Document {
    let room = &record.room;
    let mut document = from_room(room);
    document.remove("memberKey");
    if record.found_by_members {
        document.insert("memberKey", member_key(room));
    }
    if record.members_changed {
        let joined: Vec<_> = room
            .joined
            .iter()
            .map(|(user, seq)| doc! { "userId": user.to_string(), "seq": number(seq.0) })
            .collect();
        document.insert("joined", joined);
    }
    document
}

/// Reads an entry, unless it is the one that closes the log.
pub fn entry_record(document: &RawDocument) -> Option<EntryRecord> {
    if flag_in(document, "closed") {
        return None;
    }
    let message = || MessageId::parse(text_in(document, "target"));
    let change = match text_in(document, "type") {
        EDIT => ChangeRecord::Edit(message()?),
        DELETION => ChangeRecord::Deletion(message()?),
        MEMBER_ADDED => ChangeRecord::MemberAdded(user_in(document, "target")),
        MEMBER_REMOVED => ChangeRecord::MemberRemoved(user_in(document, "target")),
        RENAMED => ChangeRecord::Renamed(document.get_str("name").ok().map(ToOwned::to_owned)),
        _ => message_record(document),
    };
    Some(EntryRecord {
        room: RoomId::parse(text_in(document, "chatRoomId"))?,
        seq: seq_in(document, "seq"),
        id: MessageId::parse(text_in(document, "_id"))?,
        author: user_in(document, "postedByUser"),
        created_at: time_in(document, "createdAt"),
        change,
    })
}

fn message_record(document: &RawDocument) -> ChangeRecord {
    let content = document.get_document("message").ok();
    let text = content.map_or("", |content| text_in(content, "messageText"));
    ChangeRecord::Message {
        text: (!flag_in(document, "deleted")).then(|| text.to_owned()),
        client_id: document
            .get_str("clientMessageId")
            .ok()
            .and_then(ClientId::parse),
        edited_at: optional_time(document, "editedAt"),
    }
}

/// Returns the document of an entry whose effect is part of the imported data. It is built directly
/// as raw BSON, since there are many.
pub fn from_entry_record(entry: &EntryRecord) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), entry.id.to_string());
    document.append(cstr!("chatRoomId"), entry.room.to_string());
    document.append(cstr!("seq"), number(entry.seq.0));
    let mut updated_at = entry.created_at;
    match &entry.change {
        ChangeRecord::Message {
            text,
            client_id,
            edited_at,
        } => {
            append_message(&mut document, text.as_deref());
            if let Some(client_id) = client_id {
                document.append(cstr!("clientMessageId"), client_id.as_str());
            }
            if let Some(edited_at) = edited_at {
                document.append(cstr!("editedAt"), date(*edited_at));
                updated_at = *edited_at;
            }
        }
        change => append_change(&mut document, change),
    }
    document.append(cstr!("postedByUser"), entry.author.to_string());
    document.append(cstr!("createdAt"), date(entry.created_at));
    document.append(cstr!("updatedAt"), date(updated_at));
    document
}

/// Appends the text of a message with the terms by which it is found, or marks it as deleted.
fn append_message(document: &mut RawDocumentBuf, text: Option<&str>) {
    let mut content = RawDocumentBuf::new();
    if let Some(text) = text {
        content.append(cstr!("messageText"), text);
        let terms: RawArrayBuf = search::terms(text).into_iter().collect();
        document.append(cstr!("terms"), terms);
    } else {
        document.append(cstr!("deleted"), true);
    }
    document.append(cstr!("message"), content);
    document.append(cstr!("type"), "text");
}

fn append_change(document: &mut RawDocumentBuf, change: &ChangeRecord) {
    document.append(cstr!("type"), change.kind().unwrap_or_default());
    match change {
        ChangeRecord::Edit(message) | ChangeRecord::Deletion(message) => {
            document.append(cstr!("target"), message.to_string());
        }
        ChangeRecord::MemberAdded(user) | ChangeRecord::MemberRemoved(user) => {
            document.append(cstr!("target"), user.to_string());
        }
        ChangeRecord::Renamed(Some(name)) => document.append(cstr!("name"), name.as_str()),
        ChangeRecord::Renamed(None) | ChangeRecord::Message { .. } => {}
    }
    document.append(cstr!("deleted"), true);
}

fn optional_time(document: &RawDocument, field: &str) -> Option<Timestamp> {
    document
        .get_datetime(field)
        .ok()
        .map(|date| Timestamp(date.timestamp_millis()))
}
