//! Finds entries of a batch that are in the logs already, and messages that were sent before under
//! the same client id, in MongoDB.

use std::collections::{HashMap, HashSet};

use mongodb::bson::{RawDocument, doc};

use super::{
    connection::Connection,
    documents::{seq_in, text_in, time_in, user_in},
    entries,
    indexes::{self, by_name},
};
use crate::{
    model::{Entry, MessageId, RoomId, UserId},
    store::{LogPosition, NewEntry, NewEntryKind, Result},
};

/// The key of a message that has a client id: its room, its author and the client id.
pub type ClientKey = (RoomId, UserId, String);

/// Returns the key of an entry, if it is a message with a client id.
pub fn client_key(entry: &NewEntry) -> Option<ClientKey> {
    match &entry.change {
        NewEntryKind::Message {
            client_id: Some(client_id),
            ..
        } => Some((entry.room, entry.author, client_id.as_str().to_owned())),
        _ => None,
    }
}

/// Returns the positions of those of these entries that are in a log.
pub async fn find_positions(
    connection: &Connection,
    ids: Vec<String>,
) -> Result<HashMap<MessageId, LogPosition>> {
    let found = connection
        .messages
        .find(doc! { "_id": { "$in": ids } })
        .projection(doc! { "seq": 1, "createdAt": 1 });
    let position = |entry: &RawDocument| {
        let position = LogPosition {
            seq: seq_in(entry, "seq"),
            created_at: time_in(entry, "createdAt"),
        };
        Some((MessageId::parse(text_in(entry, "_id"))?, position))
    };
    Ok(connection.all(found, position).await?.into_iter().collect())
}

/// Returns the messages with these keys, deleted or not.
pub async fn find_by_client_key(
    connection: &Connection,
    keys: &[ClientKey],
) -> Result<HashMap<ClientKey, (MessageId, Entry)>> {
    let rooms: HashSet<_> = keys.iter().map(|(room, ..)| room.to_string()).collect();
    let authors: HashSet<_> = keys
        .iter()
        .map(|(_, author, _)| author.to_string())
        .collect();
    let client_ids: HashSet<_> = keys.iter().map(|(.., id)| id.as_str()).collect();
    let filter = doc! {
        "chatRoomId": { "$in": Vec::from_iter(rooms) },
        "postedByUser": { "$in": Vec::from_iter(authors) },
        "clientMessageId": { "$in": Vec::from_iter(client_ids) },
    };
    let found = connection
        .messages
        .find(filter)
        .hint(by_name(indexes::BY_CLIENT_ID));
    let with_key = |message: &RawDocument| {
        let entry = entries::entry(message)?;
        let key = (
            entry.room,
            user_in(message, "postedByUser"),
            text_in(message, "clientMessageId").to_owned(),
        );
        Some((key, (MessageId::parse(text_in(message, "_id"))?, entry)))
    };
    Ok(connection.all(found, with_key).await?.into_iter().collect())
}
