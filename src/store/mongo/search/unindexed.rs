//! Searches messages that are not indexed yet, by reading their texts.

use mongodb::bson::{RawDocument, doc};

use super::{
    logs::SearchedLog,
    matches::{Matches, not_after, read_match},
};
use crate::store::{
    EntryPosition, Result,
    mongo::{
        connection::Connection,
        documents::{document_count, text_in},
        indexes::{self, by_name},
        read::entries_between,
    },
    search::{IndexQueue, Query},
};

/// How many texts of messages that are not indexed one search reads.
const MAX_TEXTS: usize = 500;
/// How many of these texts one search reads at least per room.
const MIN_TEXTS_PER_ROOM: usize = 5;

/// Finds messages that are not indexed yet by reading their texts, up to the limit of one search.
pub async fn find(
    connection: &Connection,
    to_index: &IndexQueue,
    logs: &[SearchedLog],
    query: &Query,
    before: Option<EntryPosition>,
) -> Result<Matches> {
    let logs: Vec<_> = logs
        .iter()
        .filter(|log| log.indexed_up_to < log.end)
        .collect();
    to_index.note_rooms(logs.iter().map(|log| log.room));
    let limit = (MAX_TEXTS / logs.len().max(1)).max(MIN_TEXTS_PER_ROOM);
    let queries: Vec<_> = logs
        .into_iter()
        .map(|log| find_in_log(connection, log, query, before, limit))
        .collect();
    Matches::of_all(queries).await
}

async fn find_in_log(
    connection: &Connection,
    log: &SearchedLog,
    query: &Query,
    before: Option<EntryPosition>,
    limit: usize,
) -> Result<Matches> {
    let mut filter = entries_between(log.room, log.indexed_up_to.max(log.hidden_up_to), log.end);
    filter.extend(doc! { "deleted": null });
    if let Some(before) = before {
        filter.extend(not_after(before));
    }
    let fields = doc! { "chatRoomId": 1, "seq": 1, "createdAt": 1, "message.messageText": 1 };
    let texts = connection
        .messages
        .find(filter)
        .sort(doc! { "seq": -1 })
        .limit(document_count(limit as u64))
        .projection(fields)
        .hint(by_name(indexes::LOG));
    let is_before = |position: EntryPosition| before.is_none_or(|before| position < before);
    let read = |entry: &RawDocument| {
        let text = entry
            .get_document("message")
            .ok()
            .map(|content| text_in(content, "messageText"))
            .unwrap_or_default();
        let (position, id) = read_match(entry)?;
        let is_found = is_before(position) && query.matches(text);
        Some(((position, id), is_found))
    };
    let texts = connection.all(texts, read).await?;
    let cutoff = texts
        .last()
        .filter(|_| texts.len() >= limit)
        .map(|((position, _), _)| (position.at, position.seq));
    Ok(Matches {
        found: texts
            .into_iter()
            .filter_map(|(found, is_found)| is_found.then_some(found))
            .collect(),
        cutoff,
    })
}
