//! Applying the effects of entries, in MongoDB: each command bounded in bytes, and an effect that cannot be applied apart from the others.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use mongodb::bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, doc, raw::cstr};
use tokio::time::timeout;

use super::{
    changes,
    connection::Connection,
    documents::{number_in, seq_in, text_in},
    entries::{self, PendingEffect},
    schema::{self, by_name},
};
use crate::{
    model::{RoomId, Seq},
    store::{Result, StoreError},
};

/// The most bytes of effects in one command, unless a single one is larger. MongoDB takes 16 MiB, but has to be done within a part of the time
/// limit. The largest effect is an edit to a text of 15,000,000 bytes (`http.max_body_bytes`), beside which its terms take less than 1 MiB.
const COMMAND: usize = 2 << 20;
/// The most effects in one command.
const BATCH_SIZE: usize = 256;
/// How long one pass tries pending effects again.
const PASS: Duration = Duration::from_secs(2);

/// Applies effects, each room's in the order of their numbers. Those that the database refuses are [pending](super::pending) then. An error is that the database
/// is not available, or did not answer in half of the time limit.
pub async fn apply(connection: &Connection, dues: &[PendingEffect]) -> Result<()> {
    let mut group = Group::new(connection, connection.messages.name());
    for due in dues {
        if let Some(update) = changes::of_message(due) {
            group.add(vec![due], &update).await?;
        }
    }
    group.send().await?;
    let mut rest: Vec<_> = dues.iter().filter(|due| due.change.is_of_room()).collect();
    while !rest.is_empty() {
        // One update per room and command: which effects it overtakes is known when those before it have been tried.
        let (wave, later) = changes::first_of_each_room(rest);
        let mut group = Group::new(connection, connection.rooms.name());
        for together in wave {
            if let Some(update) = changes::of_room(&together, &connection.pending) {
                group.add(together, &update).await?;
            }
        }
        group.send().await?;
        rest = later;
    }
    Ok(())
}

/// Updates that are sent together.
struct Group<'a> {
    connection: &'a Connection,
    collection: &'a str,
    updates: Vec<(Vec<&'a PendingEffect>, RawDocumentBuf)>,
    bytes: usize,
}

impl<'a> Group<'a> {
    fn new(connection: &'a Connection, collection: &'a str) -> Self {
        Self { connection, collection, updates: Vec::new(), bytes: 0 }
    }

    /// Adds the update by which these effects are applied, after sending the others when it would be too much with them.
    async fn add(&mut self, dues: Vec<&'a PendingEffect>, update: &Document) -> Result<()> {
        let update = match RawDocumentBuf::try_from(update) {
            Ok(update) => update,
            Err(error) => {
                self.connection.pending.failed(dues, &error.to_string());
                return Ok(());
            }
        };
        let bytes = update.as_bytes().len();
        if self.bytes + bytes > COMMAND || self.updates.len() >= BATCH_SIZE {
            self.send().await?;
        }
        self.bytes += bytes;
        self.updates.push((dues, update));
        Ok(())
    }

    async fn send(&mut self) -> Result<()> {
        self.bytes = 0;
        let updates = std::mem::take(&mut self.updates);
        if updates.is_empty() {
            return Ok(());
        }
        let refused = match send(self.connection, self.collection, updates.iter().map(|(_, update)| update)).await {
            Ok(refused) => refused,
            Err(StoreError::Fault(reason)) => (0..updates.len()).map(|index| (index, reason.clone())).collect(),
            Err(unavailable) => return Err(unavailable),
        };
        let alone = updates.len() == 1;
        for (index, (dues, update)) in updates.iter().enumerate() {
            match (refused.get(&index), dues.as_slice()) {
                (None, dues) => self.connection.pending.applied(dues),
                (Some(reason), [due]) if alone => self.connection.pending.failed([*due], reason),
                (Some(_), [due]) => self.send_alone(due, update).await?,
                // Some of them may be what is refused.
                (Some(_), dues) => {
                    for due in dues {
                        if let Some(update) = changes::of_room(&[due], &self.connection.pending) {
                            let update = RawDocumentBuf::try_from(&update).map_err(|error| StoreError::Fault(error.to_string()))?;
                            self.send_alone(due, &update).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn send_alone(&self, due: &PendingEffect, update: &RawDocumentBuf) -> Result<()> {
        match send(self.connection, self.collection, std::iter::once(update)).await {
            Ok(refused) => match refused.get(&0) {
                None => self.connection.pending.applied(&[due]),
                Some(reason) => self.connection.pending.failed([due], reason),
            },
            Err(StoreError::Fault(reason)) => self.connection.pending.failed([due], &reason),
            Err(unavailable) => return Err(unavailable),
        }
        Ok(())
    }
}

/// Sends updates, and waits until they are on disk. Answers which of them were refused, and why.
async fn send(connection: &Connection, collection: &str, updates: impl Iterator<Item = &RawDocumentBuf>) -> Result<HashMap<usize, String>> {
    let mut list = RawArrayBuf::new();
    updates.for_each(|update| list.push(update.clone()));
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("update"), collection);
    command.append(cstr!("updates"), list);
    command.append(cstr!("ordered"), false);
    command.append(cstr!("writeConcern"), connection.durable.clone());
    let reply = connection.within_time(connection.limit / 2, connection.database.run_raw_command(command)).await?;
    if let Ok(concern) = reply.get_document("writeConcernError") {
        return Err(StoreError::Unavailable(format!("the majority did not confirm: {concern}")));
    }
    let errors = reply.get_array("writeErrors").into_iter().flatten().filter_map(|error| error.as_document());
    let index = |error: &Document| error.get_i32("index").ok().and_then(|index| usize::try_from(index).ok());
    let reason =
        |error: &Document| format!("{} ({})", error.get_str("errmsg").unwrap_or_default(), error.get_i32("code").unwrap_or_default());
    Ok(errors.filter_map(|error| Some((index(error)?, reason(error)))).collect())
}

/// Marks entries as done.
pub async fn mark_applied(connection: &Connection, dues: &[PendingEffect]) -> Result<()> {
    let ids: Vec<_> = dues.iter().map(|due| due.id.to_string()).collect();
    let done = doc! { "$unset": { "pending": "", "newText": "" } };
    connection.within(connection.messages.update_many(doc! { "_id": { "$in": ids } }, done)).await.map(|_| ())
}

/// An entry that is marked as pending, without the text that it may hold.
struct Found {
    room: RoomId,
    seq: Seq,
    bytes: usize,
    due: Option<PendingEffect>,
}

/// The entries that are marked as pending in these rooms, or everywhere.
async fn find(connection: &Connection, rooms: Option<Vec<String>>) -> Result<Vec<Found>> {
    let mut pending = doc! { "pending": true };
    if let Some(rooms) = rooms {
        pending.insert("chatRoomId", doc! { "$in": rooms });
    }
    let fields = doc! { "chatRoomId": 1, "seq": 1, "createdAt": 1, "type": 1, "target": 1, "name": 1, "bytes": { "$bsonSize": "$$ROOT" } };
    let pending = connection.messages.find(pending).sort(doc! { "chatRoomId": 1, "seq": 1 }).projection(fields);
    let found = |entry: &RawDocument| {
        let bytes = usize::try_from(number_in(entry, "bytes")).unwrap_or(usize::MAX);
        Some(Found { room: RoomId::parse(text_in(entry, "chatRoomId"))?, seq: seq_in(entry, "seq"), bytes, due: entries::due(entry) })
    };
    connection.all(pending.hint(by_name(schema::PENDING)), found).await
}

/// Applies what is pending in these rooms, or everywhere, as far as that was not tried before. What cannot be applied, or not in half of the
/// time limit, is left to [`retry`]: nobody waits for it.
pub async fn apply_pending(connection: &Connection, rooms: Option<Vec<String>>) -> Result<()> {
    let found = find(connection, rooms).await?;
    finish_new(connection, &found).await;
    Ok(())
}

async fn finish_new(connection: &Connection, found: &[Found]) {
    let is_new = |found: &&Found| !connection.pending.has(found.room, found.seq);
    let new: Vec<_> = found.iter().filter(is_new).filter_map(|found| readable(connection, found)).collect();
    let mut done = 0;
    let all = async {
        while done < new.len() {
            let mut bytes = 0;
            let fits = |(bytes_of_one, _): &&(usize, &PendingEffect)| {
                bytes += bytes_of_one;
                bytes <= COMMAND
            };
            let some = new[done..].iter().take(BATCH_SIZE).take_while(fits).count().max(1);
            finish_some(connection, &new[done..done + some]).await?;
            done += some;
        }
        Ok(())
    };
    let problem = match timeout(connection.limit / 2, all).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => StoreError::to_string(&error),
        Err(_) => "there was not enough time".into(),
    };
    connection.pending.failed(new[done..].iter().map(|(_, due)| *due), &problem);
}

fn readable<'a>(connection: &Connection, found: &'a Found) -> Option<(usize, &'a PendingEffect)> {
    if found.due.is_none() {
        connection.pending.unreadable(found.room, found.seq);
    }
    found.due.as_ref().map(|due| (found.bytes, due))
}

/// Applies these effects and marks the entries of those that are applied. Their texts are read only now.
async fn finish_some(connection: &Connection, some: &[(usize, &PendingEffect)]) -> Result<()> {
    let ids: Vec<_> = some.iter().map(|(_, due)| due.id.to_string()).collect();
    let still_pending = connection.messages.find(doc! { "_id": { "$in": ids }, "pending": true });
    let mut dues = connection.all(still_pending, entries::due).await?;
    dues.sort_unstable_by_key(|due| (due.room, due.seq));
    apply(connection, &dues).await?;
    dues.retain(|due| !connection.pending.has(due.room, due.seq));
    if !dues.is_empty()
        && let Err(error) = mark_applied(connection, &dues).await
    {
        tracing::debug!(%error, "entries are still marked as pending; they are applied once more");
    }
    Ok(())
}

/// Applies what is pending everywhere, and tries again what could not be applied, one by one, when it is time for it.
pub async fn retry(connection: &Connection) -> Result<()> {
    let as_of = Instant::now();
    let found = find(connection, None).await?;
    connection.pending.keep_only(&found.iter().map(|found| (found.room, found.seq)).collect::<HashSet<_>>(), as_of);
    finish_new(connection, &found).await;
    let begin = Instant::now();
    for due in found.iter().filter_map(|found| readable(connection, found)) {
        if begin.elapsed() > PASS {
            break;
        }
        if connection.pending.is_time(due.1.room, due.1.seq)
            && let Err(error) = finish_some(connection, &[due]).await
        {
            connection.pending.failed([due.1], &error.to_string());
        }
    }
    Ok(())
}
