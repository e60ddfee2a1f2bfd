//! Reading the logs, in MongoDB.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use mongodb::bson::{Document, RawDocument, doc};

use super::{
    connection::Connection,
    documents::{self, flag_in, id_strings, room_id},
    effects, entries,
    heads::read_last_seqs,
    read::{
        MAX_IDS_PER_QUERY, batch_len, count_deleted, entries_between, find_page, last_entry,
        newest_up_to, oldest_after, read_next,
    },
    recents,
    store::Mongo,
};
use crate::{
    model::{Entry, EntryKind, Message, MessageId, RoomId, Seq},
    store::{
        History, Limit, ListedRoom, Page, Result, RoomPage, Rooms,
        limit::PageBuilder,
        offset_seek::{OffsetSeek, Step},
    },
};

/// A sequence number after that of every entry.
const MAX_SEQ: Seq = Seq(u64::MAX);

#[async_trait]
impl History for Mongo {
    async fn messages(&self, room: RoomId, page: Page, limit: Limit) -> Result<Vec<Message>> {
        let connection = &self.connection;
        match page {
            Page::After(seq) => oldest_after(connection, room, seq, limit).await,
            Page::Before(seq) => newest_up_to(connection, room, seq.prev(), limit).await,
            Page::Newest { skip: 0 } => newest_up_to(connection, room, MAX_SEQ, limit).await,
            Page::Newest { skip } => match skip_newest(connection, room, skip).await? {
                Some(last) => newest_up_to(connection, room, last, limit).await,
                None => Ok(Vec::new()),
            },
        }
    }

    async fn message(&self, id: MessageId) -> Result<Option<Message>> {
        let connection = &self.connection;
        let found = connection.messages.find_one(doc! { "_id": id.to_string() });
        let found = connection.one(found, documents::message).await?;
        let Some(message) =
            found.filter(|message| !connection.pending.is_deleted(message.room, message.id))
        else {
            return Ok(None);
        };
        let room = Rooms::find(self, message.room).await?;
        Ok(room.map(|_| message))
    }

    async fn entries(
        &self,
        room: RoomId,
        after: Seq,
        up_to: Option<Seq>,
        limit: Limit,
    ) -> Result<Vec<Entry>> {
        let connection = &self.connection;
        let range = entries_between(room, after, up_to.unwrap_or(MAX_SEQ));
        let (entries, has_pending) = read_entries(connection, room, range.clone(), limit).await?;
        if !has_pending {
            return Ok(entries);
        }
        // Only one of the two pages is in memory at a time.
        drop(entries);
        effects::apply_pending(connection, Some(vec![room.to_string()])).await?;
        let (entries, _) = read_entries(connection, room, range, limit).await?;
        Ok(entries)
    }

    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>> {
        let connection = &self.connection;
        let rooms = existing_rooms(connection, rooms).await?;
        let mut last_seqs = read_last_seqs(connection, &rooms).await?;
        if connection.standalone && !last_seqs.is_empty() {
            // A standalone server also returns entries that are only in memory. An entry that is
            // read both before and after the flush is on disk.
            connection.flush().await?;
            let after_flush = read_last_seqs(connection, &rooms).await?;
            for (room, seq) in &mut last_seqs {
                *seq = (*seq).min(after_flush.get(room).copied().unwrap_or_default());
            }
        }
        Ok(rooms
            .into_iter()
            .filter_map(|room| Some((room, *last_seqs.get(&room)?)))
            .collect())
    }

    async fn recents(&self, page: RoomPage) -> Result<Vec<ListedRoom>> {
        recents::list(&self.connection, page).await
    }
}

/// Returns an entry with exactly `skip` messages after it, or `None` if there is none.
async fn skip_newest(connection: &Connection, room: RoomId, skip: u64) -> Result<Option<Seq>> {
    let Some((end, _)) = last_entry(connection, room).await? else {
        return Ok(None);
    };
    let mut seek = OffsetSeek::new(end, skip);
    loop {
        match seek.step() {
            Step::Count { after, last } => {
                seek.told(count_deleted(connection, room, after, last, None).await?);
            }
            Step::Found(last) => return Ok(Some(last)),
            Step::Nowhere => return Ok(None),
        }
    }
}

/// Reads a page of the entries in a range, with messages in their current state, and returns whether
/// the effect of any of them may not be applied and was not tried before.
async fn read_entries(
    connection: &Connection,
    room: RoomId,
    range: Document,
    limit: Limit,
) -> Result<(Vec<Entry>, bool)> {
    if limit.items == 0 {
        return Ok((Vec::new(), false));
    }
    let mut cursor = connection
        .within(find_page(connection, range, 1, limit))
        .await?;
    let read = |entry: &RawDocument| Some((entries::entry(entry)?, flag_in(entry, "pending")));
    let (mut page, mut has_pending) = (PageBuilder::new(limit), false);
    let count = batch_len(limit);
    loop {
        let batch = read_next(connection, &mut cursor, count, read).await?;
        let is_last = batch.len() < count;
        has_pending |= batch
            .iter()
            .any(|(entry, is_pending)| *is_pending && !connection.pending.has(room, entry.seq));
        let mut batch: Vec<_> = batch.into_iter().map(|(entry, _)| entry).collect();
        remove_deleted_messages(connection, room, &mut batch);
        add_edited_messages(connection, room, &mut batch).await?;
        page.fill(batch);
        if is_last || page.is_full() {
            return Ok((page.into_items(), has_pending));
        }
    }
}

/// Removes the messages whose deletion is pending from these entries of a room.
fn remove_deleted_messages(connection: &Connection, room: RoomId, entries: &mut [Entry]) {
    let deleted = connection.pending.deleted_in(room);
    for entry in entries {
        if let EntryKind::Message(message) = &entry.what
            && deleted.contains(&message.id)
        {
            entry.what = EntryKind::Deleted(message.id);
        }
    }
}

/// Fills in the current state of the messages that these entries of a room edit.
async fn add_edited_messages(
    connection: &Connection,
    room: RoomId,
    entries: &mut [Entry],
) -> Result<()> {
    let edited = |entry: &Entry| match entry.what {
        EntryKind::Edit { message, .. } => Some(message.to_string()),
        _ => None,
    };
    let ids: HashSet<_> = entries.iter().filter_map(edited).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let messages = connection
        .messages
        .find(doc! { "_id": { "$in": Vec::from_iter(ids) }, "chatRoomId": room.to_string() });
    let messages = connection.all(messages, documents::message).await?;
    let messages: HashMap<_, _> = messages
        .into_iter()
        .filter(|message| !connection.pending.is_deleted(room, message.id))
        .map(|message| (message.id, message))
        .collect();
    for entry in entries {
        if let EntryKind::Edit { message, current } = &mut entry.what {
            *current = messages.get(message).cloned();
        }
    }
    Ok(())
}

/// Returns those of these rooms that exist, in the same order.
async fn existing_rooms(connection: &Connection, rooms: &[RoomId]) -> Result<Vec<RoomId>> {
    let mut existing = HashSet::new();
    for rooms in rooms.chunks(MAX_IDS_PER_QUERY) {
        let found = connection
            .rooms
            .find(doc! { "_id": { "$in": id_strings(rooms) }, "deletedAt": null })
            .projection(doc! { "_id": 1 });
        existing.extend(connection.all(found, room_id).await?);
    }
    Ok(rooms
        .iter()
        .copied()
        .filter(|room| existing.contains(room))
        .collect())
}
