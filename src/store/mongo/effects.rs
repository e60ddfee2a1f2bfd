//! Applies the effects of entries, in MongoDB. Each command is bounded in bytes, and an effect that
//! cannot be applied does not block the others.

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
    indexes::{self, by_name},
};
use crate::{
    model::{RoomId, Seq},
    store::{Result, StoreError},
};

/// The most bytes of effects in one command, unless a single effect is larger. MongoDB accepts 16
/// MiB, but the command has to finish within a part of the time limit. The largest effect is an
/// edit to a text of 15,000,000 bytes (`http.max_body_bytes`), whose terms take less than 1 MiB.
const COMMAND: usize = 2 << 20;
/// The most effects in one command.
const BATCH_SIZE: usize = 256;
/// For how long one pass retries pending effects.
const PASS: Duration = Duration::from_secs(2);

/// Applies effects, those of each room in the order of their sequence numbers. Effects that the
/// database refuses become [pending](super::pending).
///
/// Errors: the database is unavailable, or did not answer within half of the time limit.
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
        // One update per room and command: which effects an update overtakes is known only after
        // the earlier ones have been tried.
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

/// Updates that are sent in one command.
struct Group<'a> {
    connection: &'a Connection,
    collection: &'a str,
    updates: Vec<(Vec<&'a PendingEffect>, RawDocumentBuf)>,
    bytes: usize,
}

impl<'a> Group<'a> {
    fn new(connection: &'a Connection, collection: &'a str) -> Self {
        Self {
            connection,
            collection,
            updates: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds the update that applies these effects. Sends the collected updates first if the command
    /// would become too large.
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
        let refused = match send(
            self.connection,
            self.collection,
            updates.iter().map(|(_, update)| update),
        )
        .await
        {
            Ok(refused) => refused,
            Err(StoreError::Fault(reason)) => (0..updates.len())
                .map(|index| (index, reason.clone()))
                .collect(),
            Err(unavailable) => return Err(unavailable),
        };
        let alone = updates.len() == 1;
        for (index, (dues, update)) in updates.iter().enumerate() {
            match (refused.get(&index), dues.as_slice()) {
                (None, dues) => self.connection.pending.applied(dues),
                (Some(reason), [due]) if alone => self.connection.pending.failed([*due], reason),
                (Some(_), [due]) => self.send_alone(due, update).await?,
                // Only some of these effects may be the reason for the refusal.
                (Some(_), dues) => {
                    for due in dues {
                        if let Some(update) = changes::of_room(&[due], &self.connection.pending) {
                            let update = RawDocumentBuf::try_from(&update)
                                .map_err(|error| StoreError::Fault(error.to_string()))?;
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

/// Sends updates and waits until they are on disk on the majority. Returns the indices of the
/// refused updates, with the reasons.
async fn send(
    connection: &Connection,
    collection: &str,
    updates: impl Iterator<Item = &RawDocumentBuf>,
) -> Result<HashMap<usize, String>> {
    let mut list = RawArrayBuf::new();
    updates.for_each(|update| list.push(update.clone()));
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("update"), collection);
    command.append(cstr!("updates"), list);
    command.append(cstr!("ordered"), false);
    command.append(cstr!("writeConcern"), connection.durable.clone());
    let reply = connection
        .within_time(
            connection.limit / 2,
            connection.database.run_raw_command(command),
        )
        .await?;
    if let Ok(concern) = reply.get_document("writeConcernError") {
        return Err(StoreError::Unavailable(format!(
            "the majority did not confirm: {concern}"
        )));
    }
    let errors = reply
        .get_array("writeErrors")
        .into_iter()
        .flatten()
        .filter_map(|error| error.as_document());
    let index = |error: &Document| {
        error
            .get_i32("index")
            .ok()
            .and_then(|index| usize::try_from(index).ok())
    };
    let reason = |error: &Document| {
        format!(
            "{} ({})",
            error.get_str("errmsg").unwrap_or_default(),
            error.get_i32("code").unwrap_or_default()
        )
    };
    Ok(errors
        .filter_map(|error| Some((index(error)?, reason(error))))
        .collect())
}

/// Marks entries as applied.
pub async fn mark_applied(connection: &Connection, dues: &[PendingEffect]) -> Result<()> {
    let ids: Vec<_> = dues.iter().map(|due| due.id.to_string()).collect();
    let done = doc! { "$unset": { "pending": "", "newText": "" } };
    connection
        .within(
            connection
                .messages
                .update_many(doc! { "_id": { "$in": ids } }, done),
        )
        .await
        .map(|_| ())
}

/// An entry that is marked as pending, without the text that it may hold.
struct Found {
    room: RoomId,
    seq: Seq,
    bytes: usize,
    due: Option<PendingEffect>,
}

/// Returns the entries that are marked as pending, in these rooms or in all.
async fn find(connection: &Connection, rooms: Option<Vec<String>>) -> Result<Vec<Found>> {
    let mut pending = doc! { "pending": true };
    if let Some(rooms) = rooms {
        pending.insert("chatRoomId", doc! { "$in": rooms });
    }
    let fields = doc! { "chatRoomId": 1, "seq": 1, "createdAt": 1, "type": 1, "target": 1, "name": 1, "bytes": { "$bsonSize": "$$ROOT" } };
    let pending = connection
        .messages
        .find(pending)
        .sort(doc! { "chatRoomId": 1, "seq": 1 })
        .projection(fields);
    let found = |entry: &RawDocument| {
        let bytes = usize::try_from(number_in(entry, "bytes")).unwrap_or(usize::MAX);
        Some(Found {
            room: RoomId::parse(text_in(entry, "chatRoomId"))?,
            seq: seq_in(entry, "seq"),
            bytes,
            due: entries::due(entry),
        })
    };
    connection
        .all(pending.hint(by_name(indexes::PENDING)), found)
        .await
}

/// Applies the pending effects in these rooms, or in all, that were not tried before. Effects that
/// fail, or that take longer than half of the time limit, are left to [`retry`], so that the caller
/// does not wait for them.
pub async fn apply_pending(connection: &Connection, rooms: Option<Vec<String>>) -> Result<()> {
    let found = find(connection, rooms).await?;
    apply_new(connection, &found).await;
    Ok(())
}

async fn apply_new(connection: &Connection, found: &[Found]) {
    let is_new = |found: &&Found| !connection.pending.has(found.room, found.seq);
    let new: Vec<_> = found
        .iter()
        .filter(is_new)
        .filter_map(|found| readable(connection, found))
        .collect();
    let mut done = 0;
    let all = async {
        while done < new.len() {
            let mut bytes = 0;
            let fits = |(bytes_of_one, _): &&(usize, &PendingEffect)| {
                bytes += bytes_of_one;
                bytes <= COMMAND
            };
            let some = new[done..]
                .iter()
                .take(BATCH_SIZE)
                .take_while(fits)
                .count()
                .max(1);
            mark_batch_applied(connection, &new[done..done + some]).await?;
            done += some;
        }
        Ok(())
    };
    let problem = match timeout(connection.limit / 2, all).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => StoreError::to_string(&error),
        Err(_) => "there was not enough time".into(),
    };
    connection
        .pending
        .failed(new[done..].iter().map(|(_, due)| *due), &problem);
}

fn readable<'a>(connection: &Connection, found: &'a Found) -> Option<(usize, &'a PendingEffect)> {
    if found.due.is_none() {
        connection.pending.unreadable(found.room, found.seq);
    }
    found.due.as_ref().map(|due| (found.bytes, due))
}

/// Applies these effects, and marks the entries whose effects are applied. The texts are read only
/// now.
async fn mark_batch_applied(
    connection: &Connection,
    some: &[(usize, &PendingEffect)],
) -> Result<()> {
    let ids: Vec<_> = some.iter().map(|(_, due)| due.id.to_string()).collect();
    let still_pending = connection
        .messages
        .find(doc! { "_id": { "$in": ids }, "pending": true });
    let mut dues = connection.all(still_pending, entries::due).await?;
    dues.sort_unstable_by_key(|due| (due.room, due.seq));
    apply(connection, &dues).await?;
    dues.retain(|due| !connection.pending.has(due.room, due.seq));
    if !dues.is_empty()
        && let Err(error) = mark_applied(connection, &dues).await
    {
        tracing::debug!(%error, "failed to mark entries as applied; they are applied again later");
    }
    Ok(())
}

/// Applies all new pending effects, and retries failed ones one by one when their pause is over.
pub async fn retry(connection: &Connection) -> Result<()> {
    let as_of = Instant::now();
    let found = find(connection, None).await?;
    connection.pending.keep_only(
        &found
            .iter()
            .map(|found| (found.room, found.seq))
            .collect::<HashSet<_>>(),
        as_of,
    );
    apply_new(connection, &found).await;
    let begin = Instant::now();
    for due in found.iter().filter_map(|found| readable(connection, found)) {
        if begin.elapsed() > PASS {
            break;
        }
        if connection.pending.is_time(due.1.room, due.1.seq)
            && let Err(error) = mark_batch_applied(connection, &[due]).await
        {
            connection.pending.failed([due.1], &error.to_string());
        }
    }
    Ok(())
}
