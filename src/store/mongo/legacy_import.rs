//! Takes over a database that the original application wrote.
//!
//! Its messages get numbers, in the order of their times; what is kept there with each message about its readers becomes read marks; its
//! rooms become findable by their members. Nothing is taken away. Every step finds out anew what is left to do and does the same thing
//! whenever it is done, so that it can be killed at any point, and done by two at once.

use std::collections::{HashMap, HashSet};

use mongodb::{
    Collection,
    bson::{Bson, DateTime, Document, RawDocument, RawDocumentBuf, doc},
    error::ErrorKind,
};

use super::{
    connection::{Connection, DUPLICATE_KEY, failure},
    documents::{self, date, member_key, number, seq_in, text_in, time_in},
    schema::{self, by_name},
};
use crate::{
    model::{ReadMark, RoomId, Seq, Timestamp, UserId},
    store::{Result, StoreError, is_large},
};

/// How many changes are sent at once.
const BATCH_SIZE: usize = 1_000;
/// After how many messages there is a line in the log.
const PROGRESS: u64 = 20_000;
/// The index by which the messages, and the rooms, are gone through. Only for as long as that takes.
const PASSAGE: &str = "takeover";

/// Takes over all that there is to take over; nothing in an empty database.
pub async fn import(connection: &Connection) -> Result<()> {
    if !is_empty(connection, &connection.rooms).await? {
        take_over_rooms(connection).await?;
    }
    if !is_empty(connection, &connection.messages).await? {
        take_over_messages(connection).await?;
    }
    Ok(())
}

pub async fn is_empty(connection: &Connection, collection: &Collection<RawDocumentBuf>) -> Result<bool> {
    let any = collection.find_one(doc! {}).sort(doc! { "_id": 1 }).projection(doc! { "_id": 1 });
    Ok(connection.one(any, |_| Some(())).await?.is_none())
}

/// Remembers the members of rooms who were deleted in the original application, as people who were deleted. Those who had written or read
/// something were remembered from the first version on; the others were members of whom nothing was known.
pub async fn remember_gone_members(connection: &Connection) -> Result<()> {
    let all = connection.rooms.find(doc! {}).projection(doc! { "userIds": 1 });
    let mut rooms = connection.within(all).await?;
    let mut members = HashSet::new();
    while rooms.advance().await.map_err(|error| failure(&error))? {
        let listed = rooms.current().get_array("userIds").ok().into_iter().flatten().flatten();
        members.extend(listed.filter_map(|id| UserId::parse(id.as_str()?)));
    }
    remember_the_gone(connection, &members).await
}

/// Gives every room its key, the oldest first: where several have the same members, the unique index keeps the key for that one.
async fn take_over_rooms(connection: &Connection) -> Result<()> {
    let passage = schema::index(PASSAGE, doc! { "createdAt": 1, "_id": 1 });
    schema::build(&connection.rooms, vec![schema::member_key_index(), passage]).await?;
    let all = connection.rooms.find(doc! {}).sort(doc! { "createdAt": 1, "_id": 1 }).hint(by_name(PASSAGE));
    let mut rooms = connection.within(all).await?;
    let (mut updates, mut taken_over) = (Vec::new(), 0_u64);
    while rooms.advance().await.map_err(|error| failure(&error))? {
        let without_key = Some(rooms.current()).filter(|room| text_in(room, "memberKey").is_empty());
        if let Some(room) = without_key.and_then(documents::room) {
            let id = room.id.to_string();
            updates.push(doc! { "q": { "_id": &id }, "u": { "$set": { "large": is_large(&room) } } });
            updates.push(doc! { "q": { "_id": id }, "u": { "$set": { "memberKey": member_key(&room) } } });
            taken_over += 1;
        }
        if updates.len() >= BATCH_SIZE {
            update(connection, &connection.rooms, std::mem::take(&mut updates)).await?;
        }
    }
    update(connection, &connection.rooms, updates).await?;
    drop_index(connection, &connection.rooms, PASSAGE).await?;
    tracing::info!(rooms = taken_over, "took over the rooms of the original application");
    Ok(())
}

async fn take_over_messages(connection: &Connection) -> Result<()> {
    let count = async { connection.messages.estimated_document_count().await };
    let total = connection.within(count).await?;
    tracing::info!(messages = total, "taking over the messages of the original application");
    let passage = schema::index(PASSAGE, doc! { "chatRoomId": 1, "createdAt": 1, "_id": 1 });
    schema::build(&connection.messages, vec![passage]).await?;
    let order = doc! { "chatRoomId": 1, "createdAt": 1, "_id": 1 };
    let fields = doc! { "chatRoomId": 1, "seq": 1, "postedByUser": 1, "readByRecipients": 1, "createdAt": 1 };
    let all = connection.messages.find(doc! {}).sort(order).projection(fields).hint(by_name(PASSAGE));
    let mut messages = connection.within(all).await?;
    let (mut work, mut done) = (Work::default(), 0_u64);
    while messages.advance().await.map_err(|error| failure(&error))? {
        work.take(messages.current());
        done += 1;
        if work.size() >= BATCH_SIZE {
            work.send(connection).await?;
        }
        if done.is_multiple_of(PROGRESS) {
            tracing::info!(done, of = total, "taking over the messages of the original application");
        }
    }
    work.end_room();
    work.send(connection).await?;
    remember_the_gone(connection, &work.people).await?;
    drop_index(connection, &connection.messages, PASSAGE).await?;
    tracing::info!(messages = done, "took over the messages of the original application");
    Ok(())
}

/// What is found out about the messages, in the order of rooms and times, and not yet sent.
#[derive(Default)]
struct Work {
    /// Whose messages are being taken. Where that is no text, something odd that is a room all the same, as far as numbers go.
    room: Option<String>,
    last: Seq,
    last_at: Timestamp,
    /// For each reader the latest mark, and where the one before it ends.
    reading: HashMap<UserId, (Seq, ReadMark)>,
    numbers: Vec<Document>,
    marks: Vec<Document>,
    /// Until when the rooms are active.
    activity: Vec<Document>,
    /// Everybody who wrote or read something.
    people: HashSet<UserId>,
}

impl Work {
    fn size(&self) -> usize {
        self.numbers.len() + self.marks.len() + self.activity.len()
    }

    fn take(&mut self, message: &RawDocument) {
        let room = message.get_str("chatRoomId").ok();
        if room != self.room.as_deref() {
            self.end_room();
            self.room = room.map(ToOwned::to_owned);
        }
        self.last = Seq(self.last.0 + 1);
        self.last_at = time_in(message, "createdAt");
        let seq = seq_in(message, "seq");
        if seq != self.last
            && let Some(id) = message.get("_id").ok().flatten().and_then(|id| Bson::try_from(id).ok())
        {
            // Unless somebody else has done it meanwhile.
            let as_it_was = Some(number(seq.0)).filter(|seq| *seq > 0);
            self.numbers.push(doc! { "q": { "_id": id, "seq": as_it_was }, "u": { "$set": { "seq": number(self.last.0) } } });
        }
        let author = UserId::parse(text_in(message, "postedByUser"));
        self.people.extend(author);
        for (reader, read_at) in readers(message) {
            self.people.insert(reader);
            if Some(reader) != author {
                self.read(reader, read_at);
            }
        }
    }

    /// The last message was read by somebody then. Messages that were read at the same time are one mark.
    fn read(&mut self, user: UserId, read_at: Timestamp) {
        let mark = ReadMark { user, up_to: self.last, read_at };
        let Some((after, latest)) = self.reading.get_mut(&user) else {
            self.reading.insert(user, (Seq(0), mark));
            return;
        };
        if latest.read_at != read_at {
            self.marks.extend(mark_document(self.room.as_deref(), *after, latest));
            *after = latest.up_to;
        }
        *latest = mark;
    }

    fn end_room(&mut self) {
        for (_, (after, mark)) in self.reading.drain() {
            self.marks.extend(mark_document(self.room.as_deref(), after, &mark));
        }
        if let Some(room) = &self.room {
            let active = doc! { "$max": { "activeUntil": date(self.last_at) } };
            self.activity.push(doc! { "q": { "_id": room, "large": false }, "u": active });
        }
        self.last = Seq(0);
    }

    async fn send(&mut self, connection: &Connection) -> Result<()> {
        update(connection, &connection.messages, std::mem::take(&mut self.numbers)).await?;
        update(connection, &connection.rooms, std::mem::take(&mut self.activity)).await?;
        insert(connection, &connection.marks, std::mem::take(&mut self.marks)).await
    }
}

fn mark_document(room: Option<&str>, after: Seq, mark: &ReadMark) -> Option<Document> {
    Some(documents::from_read_mark(RoomId::parse(room?)?, after, mark))
}

/// Who read the message, each once, and when first.
fn readers(message: &RawDocument) -> Vec<(UserId, Timestamp)> {
    let listed = message.get_array("readByRecipients").ok().into_iter().flatten().flatten();
    let reader = |entry: &RawDocument| Some((UserId::parse(text_in(entry, "readByUserId"))?, time_in(entry, "readAt")));
    let mut readers: Vec<_> = listed.filter_map(|entry| reader(entry.as_document()?)).collect();
    readers.sort_unstable();
    readers.dedup_by_key(|(user, _)| *user);
    readers
}

/// Those who wrote or read something and were deleted since are remembered, as people who were deleted.
async fn remember_the_gone(connection: &Connection, people: &HashSet<UserId>) -> Result<()> {
    let ids: Vec<_> = people.iter().map(ToString::to_string).collect();
    for ids in ids.chunks(BATCH_SIZE) {
        let known = connection.users.find(doc! { "_id": { "$in": ids } }).projection(doc! { "_id": 1 });
        let known: HashSet<_> = connection.all(known, |user| Some(text_in(user, "_id").to_owned())).await?.into_iter().collect();
        let gone = ids.iter().filter(|id| !known.contains(*id)).map(|id| {
            doc! {
                "_id": id, "firstName": "", "lastName": "", "type": "consumer",
                "createdAt": DateTime::now(), "updatedAt": DateTime::now(), "deleted": true,
            }
        });
        insert(connection, &connection.users, gone.collect()).await?;
    }
    Ok(())
}

/// Drops an index, if it is there.
pub async fn drop_index(connection: &Connection, collection: &Collection<RawDocumentBuf>, index: &str) -> Result<()> {
    /// MongoDB's code for an index that is not there: another server has dropped it.
    const INDEX_NOT_FOUND: i32 = 27;
    let command = doc! { "dropIndexes": collection.name(), "index": index };
    match connection.database.run_command(command).await {
        Err(error) if matches!(error.kind.as_ref(), ErrorKind::Command(command) if command.code == INDEX_NOT_FOUND) => Ok(()),
        other => other.map(|_| ()).map_err(|error| failure(&error)),
    }
}

/// Sends updates. Those that a unique index refuses are left out.
async fn update(connection: &Connection, collection: &Collection<RawDocumentBuf>, updates: Vec<Document>) -> Result<()> {
    write(connection, updates, |updates| doc! { "update": collection.name(), "updates": updates, "ordered": false }).await
}

/// Adds documents. Those that are there already are left out.
async fn insert(connection: &Connection, collection: &Collection<RawDocumentBuf>, documents: Vec<Document>) -> Result<()> {
    write(connection, documents, |documents| doc! { "insert": collection.name(), "documents": documents, "ordered": false }).await
}

async fn write(connection: &Connection, items: Vec<Document>, command: impl FnOnce(Vec<Document>) -> Document) -> Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    let mut command = command(items);
    command.insert("writeConcern", connection.durable());
    let reply = connection.within(connection.database.run_command(command)).await?;
    let errors = reply.get_array("writeErrors").into_iter().flatten().filter_map(|error| error.as_document());
    match errors.into_iter().find(|error| error.get_i32("code").ok() != Some(DUPLICATE_KEY)) {
        Some(error) => Err(StoreError::Fault(format!("a change was refused: {error}"))),
        None => Ok(()),
    }
}
