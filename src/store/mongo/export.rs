//! Exporting the data, from MongoDB.

use async_trait::async_trait;
use mongodb::bson::{Document, RawDocument, doc};

use super::{
    connection::Connection,
    database::TOKEN_SECRET_ID,
    documents::{self, document_count, number, room_id, seq_in},
    effects,
    heads::read_heads,
    indexes::{self, by_name},
    read::entries_between,
    records::{entry_record, room_record, user_record},
    store::Mongo,
    users::VALID_ID,
};
use crate::{
    model::{MessageId, ReadMark, RoomId, Seq, UserId},
    store::{ChangeRecord, EntryRecord, Export, Limit, Result, RoomRecord, StoreError, UserRecord},
};

/// How often a room is read when it changes all the time.
const MAX_ATTEMPTS: usize = 20;

#[async_trait]
impl Export for Mongo {
    async fn signing_key(&self) -> Result<Option<[u8; 32]>> {
        let connection = &self.connection;
        let stored = connection
            .metadata
            .find_one(doc! { "_id": TOKEN_SECRET_ID });
        connection
            .one(stored, |document| {
                document.get_binary("value").ok()?.bytes.try_into().ok()
            })
            .await
    }

    async fn count_entries(&self) -> Result<u64> {
        let connection = &self.connection;
        let count = async { connection.messages.estimated_document_count().await };
        connection.within(count).await
    }

    async fn users(&self, after: Option<UserId>, limit: u64) -> Result<Vec<UserRecord>> {
        let connection = &self.connection;
        let users = connection
            .users
            .find(ids_after(after))
            .sort(doc! { "_id": 1 })
            .limit(document_count(limit))
            .hint(by_name("_id_"));
        connection.all(users, user_record).await
    }

    async fn rooms(&self, after: Option<RoomId>, limit: u64) -> Result<Vec<RoomId>> {
        let connection = &self.connection;
        let mut existing = ids_after(after);
        existing.extend(doc! { "deletedAt": null });
        let rooms = connection
            .rooms
            .find(existing)
            .projection(doc! { "_id": 1 })
            .sort(doc! { "_id": 1 })
            .limit(document_count(limit))
            .hint(by_name("_id_"));
        connection.all(rooms, room_id).await
    }

    async fn room(&self, id: RoomId) -> Result<Option<RoomRecord>> {
        room(&self.connection, id).await
    }

    async fn entries(
        &self,
        room: RoomId,
        after: Seq,
        up_to: Seq,
        limit: Limit,
    ) -> Result<Vec<EntryRecord>> {
        let range = entries_between(room, after, up_to);
        let read =
            |entry: &RawDocument| entry_record(entry).unwrap_or_else(|| unreadable(room, entry));
        let mut entries = read_entries(&self.connection, range, limit, read).await?;
        // A deletion counts even if the message could not be erased yet.
        let deleted = self.connection.pending.deleted_in(room);
        for entry in &mut entries {
            if let ChangeRecord::Message { text, .. } = &mut entry.change
                && deleted.contains(&entry.id)
            {
                *text = None;
            }
        }
        Ok(entries)
    }

    async fn marks(
        &self,
        room: RoomId,
        after: Option<(UserId, Seq)>,
        limit: u64,
    ) -> Result<Vec<ReadMark>> {
        let connection = &self.connection;
        let in_room = doc! { "chatRoomId": room.to_string() };
        let Some((user, up_to)) = after else {
            return marks(connection, in_room, limit).await;
        };
        // Two queries, each in the order of the index.
        let mut of_same = in_room.clone();
        of_same.extend(
            doc! { "readByUserId": user.to_string(), "upToSeq": { "$gt": number(up_to.0) } },
        );
        let mut found = marks(connection, of_same, limit).await?;
        let mut of_next = in_room;
        of_next.extend(doc! { "readByUserId": { "$gt": user.to_string() } });
        let missing = limit.saturating_sub(found.len() as u64);
        found.extend(marks(connection, of_next, missing).await?);
        Ok(found)
    }
}

/// Returns the filter for documents with a valid id after this one.
fn ids_after<T: ToString>(after: Option<T>) -> Document {
    let after = after.map_or_else(String::new, |id| id.to_string());
    doc! { "_id": { "$gt": after, "$regex": VALID_ID } }
}

/// Returns a room together with the end of its log. The room is as of that entry: if it has changed
/// since the end of the log was read, both are read again.
pub async fn room(connection: &Connection, id: RoomId) -> Result<Option<RoomRecord>> {
    for _ in 0..MAX_ATTEMPTS {
        let heads = read_heads(connection, vec![id]).await?;
        effects::apply_pending(connection, Some(vec![id.to_string()])).await?;
        let found = connection.rooms.find_one(doc! { "_id": id.to_string() });
        let Some((mut record, changed)) = connection.one(found, room_record).await? else {
            return Ok(None);
        };
        let Some(head) = heads.get(&id).filter(|head| !head.closed) else {
            return Ok(None);
        };
        if changed <= head.seq {
            let removed = connection.pending.removed_from(id);
            record.room.members.retain(|user| !removed.contains(user));
            record
                .room
                .joined
                .retain(|(user, _)| !removed.contains(user));
            record.last_seq = head.seq;
            return Ok(Some(record));
        }
    }
    Err(StoreError::Unavailable(format!(
        "room {id} changes all the time"
    )))
}

/// Reads the entries of a range, ascending, up to the limit, whose bytes are those of the documents.
pub async fn read_entries<T>(
    connection: &Connection,
    range: Document,
    limit: Limit,
    read: impl Fn(&RawDocument) -> T,
) -> Result<Vec<T>> {
    let found = connection
        .messages
        .find(range)
        .sort(doc! { "seq": 1 })
        .limit(document_count(limit.items))
        .hint(by_name(indexes::LOG));
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let reading = async {
        let mut found = found.await?;
        while bytes < limit.bytes && found.advance().await? {
            let entry = found.current();
            bytes += entry.as_bytes().len() as u64;
            entries.push(read(entry));
        }
        Ok(())
    };
    connection.within(reading).await?;
    Ok(entries)
}

/// Returns what takes the place of an entry that the original application has written and that no
/// client can see, since its id is not valid: a deleted message.
fn unreadable(room: RoomId, document: &RawDocument) -> EntryRecord {
    let seq = seq_in(document, "seq");
    let mut id = *room.as_bytes();
    for (byte, seq) in id.iter_mut().rev().zip(seq.0.to_le_bytes()) {
        *byte ^= seq;
    }
    EntryRecord {
        room,
        seq,
        id: MessageId::from_bytes(id),
        author: documents::user_in(document, "postedByUser"),
        created_at: documents::time_in(document, "createdAt"),
        change: ChangeRecord::Message {
            text: None,
            client_id: None,
            edited_at: None,
        },
    }
}

async fn marks(connection: &Connection, filter: Document, limit: u64) -> Result<Vec<ReadMark>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let found = connection
        .marks
        .find(filter)
        .sort(doc! { "readByUserId": 1, "upToSeq": 1 })
        .limit(document_count(limit))
        .hint(by_name(indexes::BY_READER));
    connection.all(found, documents::read_mark).await
}
