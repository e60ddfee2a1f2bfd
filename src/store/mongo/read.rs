//! Queries on the logs that several files need.

use mongodb::{
    Cursor,
    action::Find,
    bson::{Document, RawDocument, RawDocumentBuf, doc},
};

use super::{
    connection::Connection,
    documents::{self, document_count, flag_in, id_strings, number, seq_in, time_in},
    indexes::{self, by_name},
};
use crate::{
    model::{Message, RoomId, Seq, Timestamp, UserId},
    store::{Limit, Result, limit::PageBuilder},
};

/// The most ids of rooms or users in one query: the ids have to fit into one request.
pub const MAX_IDS_PER_QUERY: usize = 10_000;
/// How many documents are read at once for a page with a byte limit. So the page takes at most the
/// memory of this many documents more.
const BATCH: usize = 64;

/// Returns the filter for the entries in `after < seq <= last`.
pub fn entries_between(room: RoomId, after: Seq, last: Seq) -> Document {
    doc! { "chatRoomId": room.to_string(), "seq": { "$gt": number(after.0), "$lte": number(last.0) } }
}

/// Returns the pipeline for the last entry of each of these rooms. It takes one index step per
/// room: with the descending order, MongoDB skips from room to room.
pub fn last_entry_of_each(rooms: Vec<String>) -> [Document; 3] {
    [
        doc! { "$match": { "chatRoomId": { "$in": rooms } } },
        doc! { "$sort": { "chatRoomId": -1, "seq": -1 } },
        doc! { "$group": {
            "_id": "$chatRoomId",
            "id": { "$first": "$_id" },
            "seq": { "$first": "$seq" },
            "createdAt": { "$first": "$createdAt" },
            "deleted": { "$first": "$deleted" },
            "closed": { "$first": "$closed" },
        } },
    ]
}

/// Returns the sequence number and the time of the last entry, or `None` if the log is empty or
/// closed.
pub async fn last_entry(connection: &Connection, room: RoomId) -> Result<Option<(Seq, Timestamp)>> {
    let last = connection
        .messages
        .find_one(doc! { "chatRoomId": room.to_string(), "seq": { "$gt": 0 } })
        .sort(doc! { "seq": -1 })
        .projection(doc! { "seq": 1, "createdAt": 1, "closed": 1 })
        .hint(by_name(indexes::LOG));
    connection
        .one(last, |entry| {
            (!flag_in(entry, "closed")).then(|| (seq_in(entry, "seq"), time_in(entry, "createdAt")))
        })
        .await
}

/// Counts the entries in `after < seq <= last` that are not messages or are deleted messages,
/// without those of the author `except_author`.
pub async fn count_deleted(
    connection: &Connection,
    room: RoomId,
    after: Seq,
    last: Seq,
    except_author: Option<UserId>,
) -> Result<u64> {
    let mut filter = entries_between(room, after, last);
    filter.extend(doc! { "deleted": true, "closed": null });
    if let Some(author) = except_author {
        filter.insert("postedByUser", doc! { "$ne": author.to_string() });
    }
    connection
        .within(
            connection
                .messages
                .count_documents(filter)
                .hint(by_name(indexes::DELETED)),
        )
        .await
}

/// Returns the oldest messages after the entry `after`, in ascending order.
pub async fn oldest_after(
    connection: &Connection,
    room: RoomId,
    after: Seq,
    limit: Limit,
) -> Result<Vec<Message>> {
    let range = doc! { "$gt": number(after.0) };
    messages(connection, not_deleted(connection, room, range), 1, limit).await
}

/// Returns the newest messages up to the entry `last`, in ascending order.
pub async fn newest_up_to(
    connection: &Connection,
    room: RoomId,
    last: Seq,
    limit: Limit,
) -> Result<Vec<Message>> {
    let range = doc! { "$gt": 0, "$lte": number(last.0) };
    let filter = not_deleted(connection, room, range);
    let mut messages = messages(connection, filter, -1, limit).await?;
    messages.reverse();
    Ok(messages)
}

/// Returns the filter for the messages of a room whose sequence numbers are in a range.
fn not_deleted(connection: &Connection, room: RoomId, range: Document) -> Document {
    let mut filter = doc! { "chatRoomId": room.to_string(), "seq": range, "deleted": null };
    let deleted = Vec::from_iter(connection.pending.deleted_in(room));
    if !deleted.is_empty() {
        filter.insert("_id", doc! { "$nin": id_strings(&deleted) });
    }
    filter
}

async fn messages(
    connection: &Connection,
    filter: Document,
    order: i32,
    limit: Limit,
) -> Result<Vec<Message>> {
    if limit.items == 0 {
        return Ok(Vec::new());
    }
    let mut cursor = connection
        .within(find_page(connection, filter, order, limit))
        .await?;
    let (mut page, count) = (PageBuilder::new(limit), batch_len(limit));
    loop {
        let batch = read_next(connection, &mut cursor, count, documents::message).await?;
        let is_last = batch.len() < count;
        page.fill(batch);
        if is_last || page.is_full() {
            return Ok(page.into_items());
        }
    }
}

/// Returns the query for a page of a log, in this order of `seq`. `limit.items` must not be 0, which
/// MongoDB takes for no limit.
pub fn find_page(
    connection: &Connection,
    filter: Document,
    order: i32,
    limit: Limit,
) -> Find<'_, RawDocumentBuf> {
    connection
        .messages
        .find(filter)
        .sort(doc! { "seq": order })
        .limit(document_count(limit.items))
        .batch_size(u32::try_from(batch_len(limit)).unwrap_or(u32::MAX))
        .hint(by_name(indexes::LOG))
}

/// Returns how many documents are read at once for a page.
pub fn batch_len(limit: Limit) -> usize {
    if limit.has_byte_limit() {
        BATCH
    } else {
        MAX_IDS_PER_QUERY
    }
}

/// Returns the results of `read` for the next documents, without those for which it returns `None`:
/// `count` results, or fewer at the end.
pub async fn read_next<T>(
    connection: &Connection,
    cursor: &mut Cursor<RawDocumentBuf>,
    count: usize,
    read: impl Fn(&RawDocument) -> Option<T>,
) -> Result<Vec<T>> {
    let reading = async {
        let mut found = Vec::new();
        while found.len() < count && cursor.advance().await? {
            found.extend(read(cursor.current()));
        }
        Ok(found)
    };
    connection.within(reading).await
}
