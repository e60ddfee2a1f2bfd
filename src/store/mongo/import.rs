//! Importing exported data, into MongoDB.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use mongodb::{
    Collection,
    bson::{Binary, Document, RawDocument, RawDocumentBuf, doc, spec::BinarySubtype},
};

use super::{
    connection::Connection,
    database::TOKEN_SECRET_ID,
    documents::{
        date, from_read_mark, id_strings, number, number_in, room_id, seq_in, text_in, time_in,
    },
    existing_entries::find_positions,
    indexes::{self, by_name},
    insert::{Refusal, insert},
    legacy_import::{self, is_empty},
    read::last_entry_of_each,
    records::{from_entry_record, from_room_record, from_user_record},
    store::Mongo,
};
use crate::{
    model::{MessageId, RoomId, Seq, Timestamp},
    store::{
        EntryRecord, Import, ImportStart, ImportedLog, MarkRecord, Result, RoomRecord, RoomTotals,
        StoreError, UserRecord,
    },
};

/// The id of the metadata document with the id of an import that has not finished.
const UNFINISHED: &str = "import";
/// The most bytes of documents in one command, unless a single document is larger.
const MAX_COMMAND_BYTES: usize = 4 << 20;
/// The time limit of counting the imported entries of some rooms.
const COUNT_LIMIT: Duration = Duration::from_mins(10);

#[async_trait]
impl Import for Mongo {
    async fn is_importing(&self) -> Result<bool> {
        Ok(unfinished(&self.connection).await?.is_some())
    }

    async fn begin_import(&self, id: &str) -> Result<ImportStart> {
        let connection = &self.connection;
        if let Some(unfinished) = unfinished(connection).await? {
            return Ok(if unfinished == id {
                ImportStart::Continued
            } else {
                ImportStart::OtherImport
            });
        }
        for collection in [&connection.users, &connection.rooms, &connection.messages] {
            if !is_empty(connection, collection).await? {
                return Ok(ImportStart::HasData);
            }
        }
        let begun = doc! { "_id": UNFINISHED, "export": id };
        Ok(if connection.add(&connection.metadata, &begun).await? {
            ImportStart::New
        } else {
            ImportStart::OtherImport
        })
    }

    async fn set_signing_key(&self, key: [u8; 32]) -> Result<()> {
        let connection = &self.connection;
        let key = Binary {
            subtype: BinarySubtype::Generic,
            bytes: key.to_vec(),
        };
        let set = connection
            .metadata
            .update_one(
                doc! { "_id": TOKEN_SECRET_ID },
                doc! { "$set": { "value": key } },
            )
            .upsert(true);
        connection.within(set).await.map(|_| ())
    }

    async fn add_users(&self, users: Vec<UserRecord>) -> Result<()> {
        let connection = &self.connection;
        let documents = users.iter().map(from_user_record).collect();
        insert_all(connection, &connection.users, documents).await
    }

    async fn add_rooms(&self, rooms: Vec<RoomRecord>) -> Result<Vec<ImportedLog>> {
        let connection = &self.connection;
        let documents = rooms.iter().map(from_room_record).collect();
        insert_all(connection, &connection.rooms, documents).await?;
        let ids: Vec<_> = rooms.iter().map(|record| record.room.id).collect();
        let ends = last_entries(connection, &ids).await?;
        Ok(ends.into_values().map(|(log, _)| log).collect())
    }

    async fn add_entries(&self, entries: Vec<EntryRecord>) -> Result<()> {
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        for entry in &entries {
            let document = from_entry_record(entry);
            let size = document.as_bytes().len();
            if bytes + size > MAX_COMMAND_BYTES && !waiting.is_empty() {
                insert_entries(&self.connection, std::mem::take(&mut waiting)).await?;
                bytes = 0;
            }
            bytes += size;
            waiting.push((entry, document));
        }
        insert_entries(&self.connection, waiting).await
    }

    async fn add_marks(&self, marks: Vec<MarkRecord>) -> Result<()> {
        let connection = &self.connection;
        let documents = marks
            .iter()
            .map(|record| from_read_mark(record.room, record.after, &record.mark))
            .collect();
        insert_all(connection, &connection.marks, documents).await
    }

    async fn finish_rooms(&self, rooms: Vec<RoomId>) -> Result<Vec<RoomTotals>> {
        let connection = &self.connection;
        let ends = last_entries(connection, &rooms).await?;
        let updates = rooms
            .iter()
            .flat_map(|room| finishing_updates(*room, ends.get(room)));
        legacy_import::update(connection, &connection.rooms, updates.collect()).await?;
        totals(connection, &rooms, &ends).await
    }

    async fn count_users_and_rooms(&self) -> Result<(u64, u64)> {
        let connection = &self.connection;
        let users = count_all(connection, &connection.users).await?;
        let rooms = count_all(connection, &connection.rooms).await?;
        Ok((users, rooms))
    }

    async fn end_import(&self) -> Result<()> {
        let connection = &self.connection;
        let end = connection.metadata.delete_one(doc! { "_id": UNFINISHED });
        connection.within(end).await.map(|_| ())
    }
}

/// Returns the id of the import that has not finished, if any.
async fn unfinished(connection: &Connection) -> Result<Option<String>> {
    let begun = connection.metadata.find_one(doc! { "_id": UNFINISHED });
    connection
        .one(begun, |begun| Some(text_in(begun, "export").to_owned()))
        .await
}

/// Inserts documents in commands of bounded size. Those that exist already are skipped.
async fn insert_all(
    connection: &Connection,
    collection: &Collection<RawDocumentBuf>,
    documents: Vec<Document>,
) -> Result<()> {
    let (mut command, mut bytes) = (Vec::new(), 0);
    for document in documents {
        let size = document.to_vec().map_or(0, |bytes| bytes.len());
        if bytes + size > MAX_COMMAND_BYTES && !command.is_empty() {
            legacy_import::insert(connection, collection, std::mem::take(&mut command)).await?;
            bytes = 0;
        }
        bytes += size;
        command.push(document);
    }
    legacy_import::insert(connection, collection, command).await
}

/// Inserts entries in order. Entries that exist already are skipped: an earlier run of the import
/// may have sent them just before it was killed.
async fn insert_entries(
    connection: &Connection,
    mut waiting: Vec<(&EntryRecord, RawDocumentBuf)>,
) -> Result<()> {
    while !waiting.is_empty() {
        let documents = waiting.iter().map(|(_, document)| document.clone());
        let (inserted, refusal) = insert(connection, documents.collect()).await?;
        waiting.drain(..inserted);
        match refusal {
            None => return Ok(()),
            Some(Refusal::Impossible(reason)) => return Err(StoreError::Fault(reason)),
            Some(Refusal::NumberTaken | Refusal::DuplicateClientId) => {}
        }
        let ids = waiting.iter().map(|(entry, _)| entry.id.to_string());
        let existing = find_positions(connection, ids.collect()).await?;
        let before = waiting.len();
        let exists = |entry: &EntryRecord| {
            existing
                .get(&entry.id)
                .is_some_and(|position| position.seq == entry.seq)
        };
        waiting.retain(|(entry, _)| !exists(entry));
        if waiting.len() == before {
            let entry = waiting[0].0;
            return Err(StoreError::Fault(format!(
                "entry {} of room {} is another one",
                entry.seq.0, entry.room
            )));
        }
    }
    Ok(())
}

/// The last entries of logs, with their times.
type LastEntries = HashMap<RoomId, (ImportedLog, Timestamp)>;

async fn last_entries(connection: &Connection, rooms: &[RoomId]) -> Result<LastEntries> {
    let last = connection
        .messages
        .aggregate(last_entry_of_each(id_strings(rooms)))
        .hint(by_name(indexes::LOG));
    let read = |last: &RawDocument| {
        let room = room_id(last)?;
        let log = ImportedLog {
            room,
            last_seq: seq_in(last, "seq"),
            last_id: MessageId::parse(text_in(last, "id"))?,
        };
        Some((room, (log, time_in(last, "createdAt"))))
    };
    Ok(connection.all(last, read).await?.into_iter().collect())
}

/// Returns the updates that store until when a room is active, if it is small, and that its messages
/// are indexed for search: they were inserted with their terms.
fn finishing_updates(room: RoomId, end: Option<&(ImportedLog, Timestamp)>) -> Vec<Document> {
    let last_seq = end.map_or(Seq(0), |(log, _)| log.last_seq);
    let indexed = doc! { "search": { "above": 0_i64, "upTo": number(last_seq.0) } };
    let mut updates = vec![doc! { "q": { "_id": room.to_string() }, "u": { "$set": indexed } }];
    updates.extend(end.map(|(_, at)| {
        let small = doc! { "_id": room.to_string(), "large": false };
        doc! { "q": small, "u": { "$set": { "activeUntil": date(*at) } } }
    }));
    updates
}

async fn totals(
    connection: &Connection,
    rooms: &[RoomId],
    ends: &LastEntries,
) -> Result<Vec<RoomTotals>> {
    let in_rooms = doc! { "chatRoomId": { "$in": id_strings(rooms) } };
    let mut not_messages = in_rooms.clone();
    not_messages.insert("deleted", true);
    let messages = &connection.messages;
    let entries = count_by_room(connection, messages, in_rooms.clone(), indexes::LOG).await?;
    let not_messages = count_by_room(connection, messages, not_messages, indexes::DELETED).await?;
    let marks = count_by_room(connection, &connection.marks, in_rooms, indexes::BY_READER).await?;
    let of = |counts: &HashMap<RoomId, u64>, room: &RoomId| {
        counts.get(room).copied().unwrap_or_default()
    };
    let totals = |room: &RoomId| RoomTotals {
        room: *room,
        last_seq: ends.get(room).map_or(Seq(0), |(log, _)| log.last_seq),
        entries: of(&entries, room),
        messages: of(&entries, room).saturating_sub(of(&not_messages, room)),
        marks: of(&marks, room),
    };
    Ok(rooms.iter().map(totals).collect())
}

async fn count_by_room(
    connection: &Connection,
    collection: &Collection<RawDocumentBuf>,
    filter: Document,
    index: &str,
) -> Result<HashMap<RoomId, u64>> {
    let by_room = doc! { "$group": { "_id": "$chatRoomId", "count": { "$sum": 1 } } };
    let by_room = collection
        .aggregate([doc! { "$match": filter }, by_room])
        .hint(by_name(index));
    let mut counts = HashMap::new();
    let counting = async {
        let mut by_room = by_room.await?;
        while by_room.advance().await? {
            let counted = by_room.current();
            if let Some(room) = room_id(counted) {
                counts.insert(room, number_in(counted, "count"));
            }
        }
        Ok(())
    };
    connection.within_time(COUNT_LIMIT, counting).await?;
    Ok(counts)
}

async fn count_all(
    connection: &Connection,
    collection: &Collection<RawDocumentBuf>,
) -> Result<u64> {
    let all = collection
        .count_documents(doc! { "_id": { "$gt": "" } })
        .hint(by_name("_id_"));
    connection.within_time(COUNT_LIMIT, all).await
}
