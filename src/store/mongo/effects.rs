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
    entries::{PendingEffect, pending_effect},
    indexes::{self, by_name},
};
use crate::{
    model::{RoomId, Seq},
    store::{Result, StoreError},
};

/// The most bytes of effects in one command, unless a single effect is larger. MongoDB accepts 16
/// MiB, but the command has to finish within a part of the time limit. The largest effect is an
/// edit to a text of 15,000,000 bytes (`http.max_body_bytes`), whose terms take less than 1 MiB.
const MAX_COMMAND_BYTES: usize = 2 << 20;
/// The most effects in one command.
const MAX_EFFECTS_PER_COMMAND: usize = 256;
/// For how long one pass retries pending effects.
const RETRY_TIME: Duration = Duration::from_secs(2);

/// Applies effects, those of each room in the order of their sequence numbers. Effects that the
/// database refuses become [pending](super::pending).
///
/// Errors: the database is unavailable, or did not answer within half of the time limit.
pub async fn apply(connection: &Connection, effects: &[PendingEffect]) -> Result<()> {
    let mut command = Command::new(connection, connection.messages.name());
    for effect in effects {
        if let Some(update) = changes::message_update(effect) {
            command.add(vec![effect], &update).await?;
        }
    }
    command.send().await?;
    let mut remaining: Vec<_> = effects
        .iter()
        .filter(|effect| effect.change.is_of_room())
        .collect();
    while !remaining.is_empty() {
        // One update per room and command: which effects an update overtakes is known only after
        // the earlier ones have been tried.
        let (first, later) = changes::split_first_groups(remaining);
        let mut command = Command::new(connection, connection.rooms.name());
        for group in first {
            if let Some(update) = changes::room_update(&group, &connection.pending) {
                command.add(group, &update).await?;
            }
        }
        command.send().await?;
        remaining = later;
    }
    Ok(())
}

/// Updates that are sent in one command.
struct Command<'a> {
    connection: &'a Connection,
    collection: &'a str,
    updates: Vec<(Vec<&'a PendingEffect>, RawDocumentBuf)>,
    bytes: usize,
}

impl<'a> Command<'a> {
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
    async fn add(&mut self, effects: Vec<&'a PendingEffect>, update: &Document) -> Result<()> {
        let update = match RawDocumentBuf::try_from(update) {
            Ok(update) => update,
            Err(error) => {
                let pending = &self.connection.pending;
                pending.record_failed(effects, &error.to_string());
                return Ok(());
            }
        };
        let bytes = update.as_bytes().len();
        if self.bytes + bytes > MAX_COMMAND_BYTES || self.updates.len() >= MAX_EFFECTS_PER_COMMAND {
            self.send().await?;
        }
        self.bytes += bytes;
        self.updates.push((effects, update));
        Ok(())
    }

    async fn send(&mut self) -> Result<()> {
        self.bytes = 0;
        let updates = std::mem::take(&mut self.updates);
        if updates.is_empty() {
            return Ok(());
        }
        let refused = match send_updates(
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
        let is_only_one = updates.len() == 1;
        let pending = &self.connection.pending;
        for (index, (effects, update)) in updates.iter().enumerate() {
            match (refused.get(&index), effects.as_slice()) {
                (None, effects) => pending.remove_applied(effects),
                (Some(reason), [effect]) if is_only_one => pending.record_failed([*effect], reason),
                (Some(_), [effect]) => self.send_alone(effect, update).await?,
                // Only some of these effects may be the reason for the refusal.
                (Some(_), effects) => self.send_each(effects).await?,
            }
        }
        Ok(())
    }

    /// Sends an update of its own for each of these effects on a room.
    async fn send_each(&self, effects: &[&PendingEffect]) -> Result<()> {
        for effect in effects {
            if let Some(update) = changes::room_update(&[effect], &self.connection.pending) {
                let update = RawDocumentBuf::try_from(&update)
                    .map_err(|error| StoreError::Fault(error.to_string()))?;
                self.send_alone(effect, &update).await?;
            }
        }
        Ok(())
    }

    async fn send_alone(&self, effect: &PendingEffect, update: &RawDocumentBuf) -> Result<()> {
        let pending = &self.connection.pending;
        match send_updates(self.connection, self.collection, std::iter::once(update)).await {
            Ok(refused) => match refused.get(&0) {
                None => pending.remove_applied(&[effect]),
                Some(reason) => pending.record_failed([effect], reason),
            },
            Err(StoreError::Fault(reason)) => pending.record_failed([effect], &reason),
            Err(unavailable) => return Err(unavailable),
        }
        Ok(())
    }
}

/// Sends updates and waits until they are on disk on the majority. Returns the indices of the
/// refused updates, with the reasons.
async fn send_updates(
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
pub async fn mark_applied(connection: &Connection, effects: &[PendingEffect]) -> Result<()> {
    let ids: Vec<_> = effects.iter().map(|effect| effect.id.to_string()).collect();
    let applied = doc! { "$unset": { "pending": "", "newText": "" } };
    connection
        .within(
            connection
                .messages
                .update_many(doc! { "_id": { "$in": ids } }, applied),
        )
        .await
        .map(|_| ())
}

/// An entry that is marked as pending, without the text that it may hold.
struct PendingEntry {
    room: RoomId,
    seq: Seq,
    bytes: usize,
    /// `None` if the entry cannot be read.
    effect: Option<PendingEffect>,
}

/// Returns the entries that are marked as pending, in these rooms or in all.
async fn find_pending(
    connection: &Connection,
    rooms: Option<Vec<String>>,
) -> Result<Vec<PendingEntry>> {
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
    let pending_entry = |entry: &RawDocument| {
        let bytes = usize::try_from(number_in(entry, "bytes")).unwrap_or(usize::MAX);
        Some(PendingEntry {
            room: RoomId::parse(text_in(entry, "chatRoomId"))?,
            seq: seq_in(entry, "seq"),
            bytes,
            effect: pending_effect(entry),
        })
    };
    connection
        .all(pending.hint(by_name(indexes::PENDING)), pending_entry)
        .await
}

/// Applies the pending effects in these rooms, or in all, that were not tried before. Effects that
/// fail, or that take longer than half of the time limit, are left to [`retry`], so that the caller
/// does not wait for them.
pub async fn apply_pending(connection: &Connection, rooms: Option<Vec<String>>) -> Result<()> {
    let entries = find_pending(connection, rooms).await?;
    apply_new(connection, &entries).await;
    Ok(())
}

async fn apply_new(connection: &Connection, entries: &[PendingEntry]) {
    let is_new = |entry: &&PendingEntry| !connection.pending.has(entry.room, entry.seq);
    let new: Vec<_> = entries
        .iter()
        .filter(is_new)
        .filter_map(|entry| readable(connection, entry))
        .collect();
    let mut applied = 0;
    let apply_all = async {
        while applied < new.len() {
            let mut bytes = 0;
            let fits = |(bytes_of_one, _): &&(usize, &PendingEffect)| {
                bytes += bytes_of_one;
                bytes <= MAX_COMMAND_BYTES
            };
            let count = new[applied..]
                .iter()
                .take(MAX_EFFECTS_PER_COMMAND)
                .take_while(fits)
                .count()
                .max(1);
            apply_batch(connection, &new[applied..applied + count]).await?;
            applied += count;
        }
        Ok(())
    };
    let problem = match timeout(connection.limit / 2, apply_all).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => StoreError::to_string(&error),
        Err(_) => "there was not enough time".into(),
    };
    connection
        .pending
        .record_failed(new[applied..].iter().map(|(_, effect)| *effect), &problem);
}

fn readable<'a>(
    connection: &Connection,
    entry: &'a PendingEntry,
) -> Option<(usize, &'a PendingEffect)> {
    if entry.effect.is_none() {
        connection.pending.record_unreadable(entry.room, entry.seq);
    }
    entry.effect.as_ref().map(|effect| (entry.bytes, effect))
}

/// Applies these effects, and marks the entries whose effects are applied. The texts are read only
/// now.
async fn apply_batch(connection: &Connection, batch: &[(usize, &PendingEffect)]) -> Result<()> {
    let ids: Vec<_> = batch
        .iter()
        .map(|(_, effect)| effect.id.to_string())
        .collect();
    let still_pending = connection
        .messages
        .find(doc! { "_id": { "$in": ids }, "pending": true });
    let mut effects = connection.all(still_pending, pending_effect).await?;
    effects.sort_unstable_by_key(|effect| (effect.room, effect.seq));
    apply(connection, &effects).await?;
    effects.retain(|effect| !connection.pending.has(effect.room, effect.seq));
    if !effects.is_empty()
        && let Err(error) = mark_applied(connection, &effects).await
    {
        tracing::debug!(%error, "failed to mark entries as applied; they are applied again later");
    }
    Ok(())
}

/// Applies all new pending effects, and retries failed ones one by one when their delay is over.
pub async fn retry(connection: &Connection) -> Result<()> {
    let as_of = Instant::now();
    let entries = find_pending(connection, None).await?;
    connection.pending.retain_found(
        &entries
            .iter()
            .map(|entry| (entry.room, entry.seq))
            .collect::<HashSet<_>>(),
        as_of,
    );
    apply_new(connection, &entries).await;
    let started_at = Instant::now();
    for effect in entries
        .iter()
        .filter_map(|entry| readable(connection, entry))
    {
        if started_at.elapsed() > RETRY_TIME {
            break;
        }
        if connection.pending.is_retry_due(effect.1.room, effect.1.seq)
            && let Err(error) = apply_batch(connection, &[effect]).await
        {
            connection
                .pending
                .record_failed([effect.1], &error.to_string());
        }
    }
    Ok(())
}
