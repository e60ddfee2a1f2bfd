//! The document format of log entries.
//!
//! An entry that is not a message has its kind in `type`, and is marked as deleted, since it has no
//! text. While `pending` is set, its effect may not be applied yet; an edit stores its text only
//! during that time.

use mongodb::bson::{RawDocument, RawDocumentBuf, raw::cstr};

use super::documents::{self, date, flag_in, number, seq_in, text_in, time_in, user_in};
use crate::model::{
    Entry, EntryKind, MessageId, NewEntry, NewEntryKind, RoomId, Seq, Timestamp, UserId,
    entry::{DELETION, EDIT, MEMBER_ADDED, MEMBER_REMOVED, RENAMED},
};

/// Returns the document of an entry at this position in the log. It is built directly as raw BSON,
/// since this is the hot path.
pub fn from_entry(entry: &NewEntry, seq: Seq, created_at: Timestamp) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), entry.id.to_string());
    document.append(cstr!("chatRoomId"), entry.room.to_string());
    document.append(cstr!("seq"), number(seq.0));
    if let NewEntryKind::Message { text, client_id } = &entry.change {
        let mut content = RawDocumentBuf::new();
        content.append(cstr!("messageText"), text.as_str());
        document.append(cstr!("message"), content);
        document.append(cstr!("type"), "text");
        if let Some(client_id) = client_id {
            document.append(cstr!("clientMessageId"), client_id.as_str());
        }
    } else {
        append_change(&mut document, &entry.change);
    }
    document.append(cstr!("postedByUser"), entry.author.to_string());
    document.append(cstr!("createdAt"), date(created_at));
    document.append(cstr!("updatedAt"), date(created_at));
    document
}

fn append_change(document: &mut RawDocumentBuf, change: &NewEntryKind) {
    document.append(cstr!("type"), change.kind().unwrap_or_default());
    match change {
        NewEntryKind::Edit { message, text } => {
            document.append(cstr!("target"), message.to_string());
            document.append(cstr!("newText"), text.as_str());
        }
        NewEntryKind::Deletion(message) => document.append(cstr!("target"), message.to_string()),
        NewEntryKind::AddMember(user) | NewEntryKind::RemoveMember { user, .. } => {
            document.append(cstr!("target"), user.to_string());
        }
        NewEntryKind::Rename(Some(name)) => document.append(cstr!("name"), name.as_str()),
        NewEntryKind::Message { .. } | NewEntryKind::Rename(None) => {}
    }
    document.append(cstr!("deleted"), true);
    document.append(cstr!("pending"), true);
}

/// Reads an entry, unless it is the one that closes the log. The current state of an edited message
/// is not filled in.
pub fn entry(document: &RawDocument) -> Option<Entry> {
    if flag_in(document, "closed") {
        return None;
    }
    let (room, seq) = (
        RoomId::parse(text_in(document, "chatRoomId"))?,
        seq_in(document, "seq"),
    );
    let (author, created_at) = (
        user_in(document, "postedByUser"),
        time_in(document, "createdAt"),
    );
    Some(Entry {
        room,
        seq,
        author,
        created_at,
        what: kind(document)?,
    })
}

fn kind(document: &RawDocument) -> Option<EntryKind> {
    let message = |field| MessageId::parse(text_in(document, field));
    Some(match text_in(document, "type") {
        EDIT => EntryKind::Edit {
            message: message("target")?,
            current: None,
        },
        DELETION => EntryKind::Deletion(message("target")?),
        MEMBER_ADDED => EntryKind::MemberAdded(user_in(document, "target")),
        MEMBER_REMOVED => EntryKind::MemberRemoved(user_in(document, "target")),
        RENAMED => EntryKind::Renamed(document.get_str("name").ok().map(ToOwned::to_owned)),
        _ => match documents::message(document) {
            Some(message) => EntryKind::Message(message),
            None => EntryKind::Deleted(message("_id")?),
        },
    })
}

/// The effect of an entry that is to be applied.
#[derive(Clone, Debug)]
pub struct PendingEffect {
    /// The id of the entry.
    pub id: MessageId,
    pub room: RoomId,
    pub seq: Seq,
    pub at: Timestamp,
    pub change: NewEntryKind,
}

/// Reads the effect of a pending entry.
pub fn pending_effect(document: &RawDocument) -> Option<PendingEffect> {
    let message = || MessageId::parse(text_in(document, "target"));
    let user = || UserId::parse(text_in(document, "target"));
    let change = match text_in(document, "type") {
        EDIT => NewEntryKind::Edit {
            message: message()?,
            text: text_in(document, "newText").to_owned(),
        },
        DELETION => NewEntryKind::Deletion(message()?),
        MEMBER_ADDED => NewEntryKind::AddMember(user()?),
        MEMBER_REMOVED => NewEntryKind::RemoveMember {
            user: user()?,
            required_members: Vec::new(),
        },
        RENAMED => NewEntryKind::Rename(document.get_str("name").ok().map(ToOwned::to_owned)),
        _ => return None,
    };
    let (id, room) = (
        MessageId::parse(text_in(document, "_id"))?,
        RoomId::parse(text_in(document, "chatRoomId"))?,
    );
    Some(PendingEffect {
        id,
        room,
        seq: seq_in(document, "seq"),
        at: time_in(document, "createdAt"),
        change,
    })
}
