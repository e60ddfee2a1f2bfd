//! Reading the logs, in MongoDB.

use std::collections::{HashMap, HashSet};

use mongodb::{
    Collection,
    bson::{Document, RawDocument, RawDocumentBuf, doc},
};

use super::{
    connection::Connection,
    documents::{self, flag_in, number, seq_in, text_in, time_in},
    effects, entries,
    indexes::{self, by_name},
    log, rooms,
    rooms::ROOMS_AT_ONCE,
    rows,
};
use crate::{
    clock::time_of_id,
    model::{Entry, EntryKind, Message, MessageId, RoomId, Seq, Timestamp, UserId},
    store::{
        Page, Result,
        offset_seek::{OffsetSeek, Step},
    },
};

pub async fn page(
    connection: &Connection,
    room: RoomId,
    page: Page,
    limit: u64,
) -> Result<Vec<Message>> {
    match page {
        Page::After(seq) => select(connection, room, doc! { "$gt": number(seq.0) }, 1, limit).await,
        Page::Before(seq) => newest(connection, room, Seq(seq.0.saturating_sub(1)), limit).await,
        Page::Newest { skip: 0 } => newest(connection, room, Seq(u64::MAX), limit).await,
        Page::Newest { skip } => match skip_from_the_end(connection, room, skip).await? {
            Some(last) => newest(connection, room, last, limit).await,
            None => Ok(Vec::new()),
        },
    }
}

/// Returns the newest messages up to the entry `last`, in ascending order.
pub async fn newest(
    connection: &Connection,
    room: RoomId,
    last: Seq,
    limit: u64,
) -> Result<Vec<Message>> {
    let mut messages = select(
        connection,
        room,
        doc! { "$gt": 0, "$lte": number(last.0) },
        -1,
        limit,
    )
    .await?;
    messages.reverse();
    Ok(messages)
}

async fn select(
    connection: &Connection,
    room: RoomId,
    range: Document,
    order: i32,
    limit: u64,
) -> Result<Vec<Message>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut filter = doc! { "chatRoomId": room.to_string(), "seq": range, "deleted": null };
    let deleted = connection.pending.deleted_in(room);
    if !deleted.is_empty() {
        filter.insert(
            "_id",
            doc! { "$nin": deleted.iter().map(ToString::to_string).collect::<Vec<_>>() },
        );
    }
    let messages = connection
        .messages
        .find(filter)
        .sort(doc! { "seq": order })
        .limit(rows(limit))
        .hint(by_name(indexes::LOG));
    connection.all(messages, documents::message).await
}

/// Returns an entry with exactly `skip` messages after it, or `None` if there is none.
async fn skip_from_the_end(
    connection: &Connection,
    room: RoomId,
    skip: u64,
) -> Result<Option<Seq>> {
    let Some((end, _)) = end(connection, room).await? else {
        return Ok(None);
    };
    let mut search = OffsetSeek::new(end, skip);
    loop {
        match search.step() {
            Step::Count { after, last } => {
                search.told(deleted_between(connection, room, after, last, None).await?);
            }
            Step::Found(last) => return Ok(Some(last)),
            Step::Nowhere => return Ok(None),
        }
    }
}

/// Returns the sequence number and the time of the last entry, or `None` if the log is empty or
/// closed.
pub async fn end(connection: &Connection, room: RoomId) -> Result<Option<(Seq, Timestamp)>> {
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

/// Returns the ends of the logs of these rooms, at 0 for an empty log, without closed logs. The
/// effects of the entries up to the ends are applied, or known to be pending: later reads are at
/// least as new.
pub async fn ends(connection: &Connection, rooms: &[RoomId]) -> Result<HashMap<RoomId, Seq>> {
    let mut ends = HashMap::with_capacity(rooms.len());
    for rooms in rooms.chunks(ROOMS_AT_ONCE) {
        let heads = log::heads(connection, rooms.to_vec()).await?;
        effects::apply_pending(
            connection,
            Some(rooms.iter().map(ToString::to_string).collect()),
        )
        .await?;
        ends.extend(
            heads
                .into_iter()
                .filter(|(_, head)| !head.closed)
                .map(|(room, head)| (room, head.seq)),
        );
    }
    Ok(ends)
}

/// Counts the entries in `after < seq <= last` that are not messages or are deleted messages,
/// without those of the author `but_of`.
pub async fn deleted_between(
    connection: &Connection,
    room: RoomId,
    after: Seq,
    last: Seq,
    but_of: Option<UserId>,
) -> Result<u64> {
    let mut filter = entries_between(room, after, last);
    filter.extend(doc! { "deleted": true, "closed": null });
    if let Some(author) = but_of {
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

/// Returns the filter for the entries in `after < seq <= last`.
pub fn entries_between(room: RoomId, after: Seq, last: Seq) -> Document {
    doc! { "chatRoomId": room.to_string(), "seq": { "$gt": number(after.0), "$lte": number(last.0) } }
}

/// How far ahead of the database's clock an id may be, in milliseconds, when random ids have to be
/// excluded.
const LATEST: i64 = 366 * 86_400_000;

/// Returns the time of the latest entry, room or user. Ids ascend with time, so it takes one index
/// step per collection.
pub async fn latest(connection: &Connection) -> Result<Option<Timestamp>> {
    let mut latest = None;
    for collection in [&connection.messages, &connection.rooms, &connection.users] {
        latest = latest.max(latest_of(connection, collection).await?);
    }
    Ok(latest)
}

async fn latest_of(
    connection: &Connection,
    collection: &Collection<RawDocumentBuf>,
) -> Result<Option<Timestamp>> {
    let last = async |filter| {
        let last = collection
            .find_one(filter)
            .sort(doc! { "_id": -1 })
            .projection(doc! { "_id": 1 })
            .hint(by_name("_id_"));
        connection
            .one(last, |last| Some(MessageId::parse(text_in(last, "_id"))))
            .await
    };
    let Some(id) = last(doc! {}).await? else {
        return Ok(None);
    };
    if let Some(time) = id.and_then(|id| time_of_id(id.as_bytes())) {
        return Ok(Some(time));
    }
    // The original application's ids are random, and most of them are greater than any id that
    // contains a time. Few are below the bound.
    let bound = format!("{:012x}", connection.now().await?.0.saturating_add(LATEST));
    let id = last(doc! { "_id": { "$lt": bound, "$regex": "^.{12}7" } })
        .await?
        .flatten();
    Ok(id.and_then(|id| time_of_id(id.as_bytes())))
}

pub async fn find(connection: &Connection, id: MessageId) -> Result<Option<Message>> {
    let message = connection
        .one(
            connection.messages.find_one(doc! { "_id": id.to_string() }),
            documents::message,
        )
        .await?;
    let Some(message) =
        message.filter(|message| !connection.pending.is_deleted(message.room, message.id))
    else {
        return Ok(None);
    };
    Ok(rooms::find(connection, message.room)
        .await?
        .map(|_| message))
}

pub async fn entries(
    connection: &Connection,
    room: RoomId,
    after: Seq,
    up_to: Seq,
    limit: u64,
) -> Result<Vec<Entry>> {
    let (mut found, pending) = read_entries(connection, room, after, up_to, limit).await?;
    if pending {
        effects::apply_pending(connection, Some(vec![room.to_string()])).await?;
        (found, _) = read_entries(connection, room, after, up_to, limit).await?;
    }
    let edited = |entry: &Entry| match entry.what {
        EntryKind::Edit { message, .. } => Some(message.to_string()),
        _ => None,
    };
    let edited: HashSet<_> = found.iter().filter_map(edited).collect();
    if edited.is_empty() {
        return Ok(found);
    }
    let edited = connection
        .messages
        .find(doc! { "_id": { "$in": Vec::from_iter(edited) }, "chatRoomId": room.to_string() });
    let edited = connection.all(edited, documents::message).await?;
    let there = |message: &Message| !connection.pending.is_deleted(room, message.id);
    let edited: HashMap<_, _> = edited
        .into_iter()
        .filter(there)
        .map(|message| (message.id, message))
        .collect();
    for entry in &mut found {
        if let EntryKind::Edit { message, current } = &mut entry.what {
            *current = edited.get(message).cloned();
        }
    }
    Ok(found)
}

/// Reads entries, and returns whether the effect of any of them may not be applied and was not
/// tried before.
async fn read_entries(
    connection: &Connection,
    room: RoomId,
    after: Seq,
    up_to: Seq,
    limit: u64,
) -> Result<(Vec<Entry>, bool)> {
    if limit == 0 {
        return Ok((Vec::new(), false));
    }
    let found = connection
        .messages
        .find(entries_between(room, after, up_to))
        .sort(doc! { "seq": 1 })
        .limit(rows(limit));
    let read = |entry: &RawDocument| Some((entries::entry(entry)?, flag_in(entry, "pending")));
    let found = connection
        .all(found.hint(by_name(indexes::LOG)), read)
        .await?;
    let pending = found
        .iter()
        .any(|(entry, pending)| *pending && !connection.pending.has(room, entry.seq));
    let deleted = connection.pending.deleted_in(room);
    let shown = |(mut entry, _): (Entry, bool)| {
        if let EntryKind::Message(message) = &entry.what
            && deleted.contains(&message.id)
        {
            entry.what = EntryKind::Deleted(message.id);
        }
        entry
    };
    Ok((found.into_iter().map(shown).collect(), pending))
}
