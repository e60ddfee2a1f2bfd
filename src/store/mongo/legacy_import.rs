//! Imports a database that the original application wrote.
//!
//! Messages get sequence numbers in the order of their times. The readers that are stored with each
//! message become read marks. Rooms get the key by which they are found by their members. No data
//! is deleted. Each step determines what is left to do and always gives the same result, so that it
//! can be killed at any point, and two servers can run it at once.

use std::collections::{HashMap, HashSet};

use mongodb::{
    Collection,
    bson::{Bson, DateTime, Document, RawDocument, RawDocumentBuf, doc},
};

use super::{
    connection::Connection,
    documents::{self, date, member_key, number, seq_in, text_in, time_in},
    failure::{code::DUPLICATE_KEY, failure},
    indexes::{self, by_name},
};
use crate::{
    model::{ReadMark, RoomId, Seq, Timestamp, UserId},
    store::{Result, StoreError, is_large},
};

/// How many changes are sent in one batch.
const BATCH_SIZE: usize = 1_000;
/// How many messages are processed between two progress lines in the log.
const PROGRESS_INTERVAL: u64 = 20_000;
/// The temporary index for reading all messages or rooms in order.
const IMPORT_INDEX: &str = "takeover";

/// Imports all data of the original application. Does nothing in an empty database.
pub async fn import(connection: &Connection) -> Result<()> {
    if !is_empty(connection, &connection.rooms).await? {
        import_rooms(connection).await?;
    }
    if !is_empty(connection, &connection.messages).await? {
        import_messages(connection).await?;
    }
    Ok(())
}

pub async fn is_empty(
    connection: &Connection,
    collection: &Collection<RawDocumentBuf>,
) -> Result<bool> {
    let any = collection
        .find_one(doc! {})
        .sort(doc! { "_id": 1 })
        .projection(doc! { "_id": 1 });
    Ok(connection.one(any, |_| Some(())).await?.is_none())
}

/// Adds members of rooms whom the original application deleted, as deleted users. Authors and
/// readers have been added since schema version 1; the other members were unknown.
pub async fn record_deleted_members(connection: &Connection) -> Result<()> {
    let all = connection
        .rooms
        .find(doc! {})
        .projection(doc! { "userIds": 1 });
    let mut rooms = connection.within(all).await?;
    let mut members = HashSet::new();
    while rooms.advance().await.map_err(|error| failure(&error))? {
        let listed = rooms
            .current()
            .get_array("userIds")
            .ok()
            .into_iter()
            .flatten()
            .flatten();
        members.extend(listed.filter_map(|id| UserId::parse(id.as_str()?)));
    }
    record_deleted_users(connection, &members).await
}

/// Gives every room its member key, the oldest first. Of several rooms with the same members, the
/// unique index lets only the oldest have the key.
async fn import_rooms(connection: &Connection) -> Result<()> {
    let import_index = indexes::index(IMPORT_INDEX, doc! { "createdAt": 1, "_id": 1 });
    indexes::build(
        &connection.rooms,
        vec![indexes::member_key_index(), import_index],
    )
    .await?;
    let all = connection
        .rooms
        .find(doc! {})
        .sort(doc! { "createdAt": 1, "_id": 1 })
        .hint(by_name(IMPORT_INDEX));
    let mut rooms = connection.within(all).await?;
    let (mut updates, mut imported) = (Vec::new(), 0_u64);
    while rooms.advance().await.map_err(|error| failure(&error))? {
        let without_key =
            Some(rooms.current()).filter(|room| text_in(room, "memberKey").is_empty());
        if let Some(room) = without_key.and_then(documents::room) {
            let id = room.id.to_string();
            updates
                .push(doc! { "q": { "_id": &id }, "u": { "$set": { "large": is_large(&room) } } });
            updates.push(
                doc! { "q": { "_id": id }, "u": { "$set": { "memberKey": member_key(&room) } } },
            );
            imported += 1;
        }
        if updates.len() >= BATCH_SIZE {
            update(connection, &connection.rooms, std::mem::take(&mut updates)).await?;
        }
    }
    update(connection, &connection.rooms, updates).await?;
    indexes::drop(connection, &connection.rooms, IMPORT_INDEX).await?;
    tracing::info!(
        rooms = imported,
        "took over the rooms of the original application"
    );
    Ok(())
}

async fn import_messages(connection: &Connection) -> Result<()> {
    let count = async { connection.messages.estimated_document_count().await };
    let total = connection.within(count).await?;
    tracing::info!(
        messages = total,
        "taking over the messages of the original application"
    );
    let import_index = indexes::index(
        IMPORT_INDEX,
        doc! { "chatRoomId": 1, "createdAt": 1, "_id": 1 },
    );
    indexes::build(&connection.messages, vec![import_index]).await?;
    let order = doc! { "chatRoomId": 1, "createdAt": 1, "_id": 1 };
    let fields = doc! { "chatRoomId": 1, "seq": 1, "postedByUser": 1, "readByRecipients": 1, "createdAt": 1 };
    let all = connection
        .messages
        .find(doc! {})
        .sort(order)
        .projection(fields)
        .hint(by_name(IMPORT_INDEX));
    let mut messages = connection.within(all).await?;
    let (mut changes, mut done) = (MessageChanges::default(), 0_u64);
    while messages.advance().await.map_err(|error| failure(&error))? {
        changes.add(messages.current());
        done += 1;
        if changes.size() >= BATCH_SIZE {
            changes.send(connection).await?;
        }
        if done.is_multiple_of(PROGRESS_INTERVAL) {
            tracing::info!(
                done,
                of = total,
                "taking over the messages of the original application"
            );
        }
    }
    changes.end_room();
    changes.send(connection).await?;
    record_deleted_users(connection, &changes.users).await?;
    indexes::drop(connection, &connection.messages, IMPORT_INDEX).await?;
    tracing::info!(
        messages = done,
        "took over the messages of the original application"
    );
    Ok(())
}

/// The changes for the messages, collected in the order of rooms and times and not sent yet.
#[derive(Default)]
struct MessageChanges {
    /// The room of the current messages. `None` if `chatRoomId` is not a string; such messages are
    /// numbered together, as if in one room.
    room: Option<String>,
    last: Seq,
    last_at: Timestamp,
    /// The latest mark of each reader, and the sequence number where the mark before it ends.
    latest_marks: HashMap<UserId, (Seq, ReadMark)>,
    numbers: Vec<Document>,
    marks: Vec<Document>,
    /// The updates of `activeUntil` of the rooms.
    activity: Vec<Document>,
    /// All authors and readers.
    users: HashSet<UserId>,
}

impl MessageChanges {
    fn size(&self) -> usize {
        self.numbers.len() + self.marks.len() + self.activity.len()
    }

    fn add(&mut self, message: &RawDocument) {
        let room = message.get_str("chatRoomId").ok();
        if room != self.room.as_deref() {
            self.end_room();
            self.room = room.map(ToOwned::to_owned);
        }
        self.last = self.last.next();
        self.last_at = time_in(message, "createdAt");
        let seq = seq_in(message, "seq");
        if seq != self.last
            && let Some(id) = message
                .get("_id")
                .ok()
                .flatten()
                .and_then(|id| Bson::try_from(id).ok())
        {
            // Does not match if another server has set the number meanwhile.
            let former = Some(number(seq.0)).filter(|seq| *seq > 0);
            self.numbers.push(doc! { "q": { "_id": id, "seq": former }, "u": { "$set": { "seq": number(self.last.0) } } });
        }
        let author = UserId::parse(text_in(message, "postedByUser"));
        self.users.extend(author);
        for (reader, read_at) in readers(message) {
            self.users.insert(reader);
            if Some(reader) != author {
                self.mark_read(reader, read_at);
            }
        }
    }

    /// Notes that the user read the latest message at this time. Messages that were read at the
    /// same time share one mark.
    fn mark_read(&mut self, user: UserId, read_at: Timestamp) {
        let mark = ReadMark {
            user,
            up_to: self.last,
            read_at,
        };
        let Some((after, latest)) = self.latest_marks.get_mut(&user) else {
            self.latest_marks.insert(user, (Seq(0), mark));
            return;
        };
        if latest.read_at != read_at {
            self.marks
                .extend(mark_document(self.room.as_deref(), *after, latest));
            *after = latest.up_to;
        }
        *latest = mark;
    }

    fn end_room(&mut self) {
        for (_, (after, mark)) in self.latest_marks.drain() {
            self.marks
                .extend(mark_document(self.room.as_deref(), after, &mark));
        }
        if let Some(room) = &self.room {
            let active = doc! { "$max": { "activeUntil": date(self.last_at) } };
            self.activity
                .push(doc! { "q": { "_id": room, "large": false }, "u": active });
        }
        self.last = Seq(0);
    }

    async fn send(&mut self, connection: &Connection) -> Result<()> {
        update(
            connection,
            &connection.messages,
            std::mem::take(&mut self.numbers),
        )
        .await?;
        update(
            connection,
            &connection.rooms,
            std::mem::take(&mut self.activity),
        )
        .await?;
        insert(
            connection,
            &connection.marks,
            std::mem::take(&mut self.marks),
        )
        .await
    }
}

fn mark_document(room: Option<&str>, after: Seq, mark: &ReadMark) -> Option<Document> {
    Some(documents::from_read_mark(
        RoomId::parse(room?)?,
        after,
        mark,
    ))
}

/// Returns the readers of a message, each once, with the earliest time.
fn readers(message: &RawDocument) -> Vec<(UserId, Timestamp)> {
    let listed = message
        .get_array("readByRecipients")
        .ok()
        .into_iter()
        .flatten()
        .flatten();
    let reader = |entry: &RawDocument| {
        Some((
            UserId::parse(text_in(entry, "readByUserId"))?,
            time_in(entry, "readAt"),
        ))
    };
    let mut readers: Vec<_> = listed
        .filter_map(|entry| reader(entry.as_document()?))
        .collect();
    readers.sort_unstable();
    readers.dedup_by_key(|(user, _)| *user);
    readers
}

/// Adds authors and readers who no longer exist, as deleted users.
async fn record_deleted_users(connection: &Connection, users: &HashSet<UserId>) -> Result<()> {
    let ids: Vec<_> = users.iter().map(ToString::to_string).collect();
    for ids in ids.chunks(BATCH_SIZE) {
        let existing = connection
            .users
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "_id": 1 });
        let existing: HashSet<_> = connection
            .all(existing, |user| Some(text_in(user, "_id").to_owned()))
            .await?
            .into_iter()
            .collect();
        let missing = ids.iter().filter(|id| !existing.contains(*id)).map(|id| {
            doc! {
                "_id": id, "firstName": "", "lastName": "", "type": "consumer",
                "createdAt": DateTime::now(), "updatedAt": DateTime::now(), "deleted": true,
            }
        });
        insert(connection, &connection.users, missing.collect()).await?;
    }
    Ok(())
}

/// Sends updates. Those that a unique index refuses are skipped.
pub async fn update(
    connection: &Connection,
    collection: &Collection<RawDocumentBuf>,
    updates: Vec<Document>,
) -> Result<()> {
    write(
        connection,
        updates,
        |updates| doc! { "update": collection.name(), "updates": updates, "ordered": false },
    )
    .await
}

/// Inserts documents. Those that exist already are skipped.
pub async fn insert(
    connection: &Connection,
    collection: &Collection<RawDocumentBuf>,
    documents: Vec<Document>,
) -> Result<()> {
    write(
        connection,
        documents,
        |documents| doc! { "insert": collection.name(), "documents": documents, "ordered": false },
    )
    .await
}

async fn write(
    connection: &Connection,
    items: Vec<Document>,
    command: impl FnOnce(Vec<Document>) -> Document,
) -> Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    let mut command = command(items);
    command.insert("writeConcern", connection.durable());
    let reply = connection
        .within(connection.database.run_command(command))
        .await?;
    let errors = reply
        .get_array("writeErrors")
        .into_iter()
        .flatten()
        .filter_map(|error| error.as_document());
    match errors
        .into_iter()
        .find(|error| error.get_i32("code").ok() != Some(DUPLICATE_KEY))
    {
        Some(error) => Err(StoreError::Fault(format!(
            "write refused by the database: {error}"
        ))),
        None => Ok(()),
    }
}
