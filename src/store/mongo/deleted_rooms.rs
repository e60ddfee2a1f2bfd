//! The deleted rooms, whose data is purged once no server caches the head of their logs any more.

use std::{collections::HashMap, time::Instant};

use mongodb::bson::doc;

use super::{
    appender::{Appender, close_log, purge_delay},
    author_counts,
    connection::Connection,
    documents::{document_count, number, room_id, text_in, time_in},
};
use crate::{
    model::{RoomId, Seq, Timestamp},
    store::Result,
};

/// How many documents of a deleted room are deleted in one command, which takes the server some ten
/// milliseconds.
const BATCH_SIZE: usize = 1_000;

/// The deleted rooms, by id and the deletion time in the document, each with the time when this
/// server first saw the deletion.
pub struct DeletedRooms(HashMap<(RoomId, Timestamp), Instant>);

impl DeletedRooms {
    pub fn new() -> Self {
        Self(HashMap::new())
    }

    /// Reads which rooms any server has deleted, and drops the cached heads of their logs.
    pub async fn refresh(&mut self, connection: &Connection, appender: &Appender) -> Result<()> {
        let as_of = Instant::now();
        let found = connection
            .rooms
            .find(doc! { "deletedAt": { "$type": "date" } })
            .projection(doc! { "deletedAt": 1 });
        let found = connection
            .all(found, |room| {
                Some((room_id(room)?, time_in(room, "deletedAt")))
            })
            .await?;
        let ids: Vec<_> = found.iter().map(|(room, _)| *room).collect();
        appender.remove_deleted(&ids, as_of).await;
        let now = Instant::now();
        self.0 = found
            .into_iter()
            .map(|key| (key, self.0.get(&key).copied().unwrap_or(now)))
            .collect();
        Ok(())
    }

    /// Returns the deleted rooms whose heads no server caches any more.
    pub fn purgeable(&self, connection: &Connection) -> Vec<RoomId> {
        let purge_delay = purge_delay(connection);
        self.0
            .iter()
            .filter(|(_, first_seen)| first_seen.elapsed() >= purge_delay)
            .map(|((room, _), _)| *room)
            .collect()
    }
}

/// Deletes the data of these rooms, without a time limit for the whole. No server may cache their
/// heads any more. Other servers may do the same at the same time.
pub async fn purge(connection: &Connection, rooms: Vec<RoomId>) -> Result<()> {
    for room in rooms {
        let end = close_log(connection, room).await?;
        purge_log(connection, room, end).await?;
        purge_read_marks(connection, room).await?;
        author_counts::purge(connection, room).await?;
        connection
            .within(
                connection
                    .rooms
                    .delete_one(doc! { "_id": room.to_string() }),
            )
            .await?;
    }
    Ok(())
}

/// Deletes the entries of a log, except the one that closes it, for servers that still cache its
/// head.
async fn purge_log(connection: &Connection, room: RoomId, end: Seq) -> Result<()> {
    for first in (1..end.0).step_by(BATCH_SIZE) {
        let range =
            doc! { "$gte": number(first), "$lt": number(end.0.min(first + BATCH_SIZE as u64)) };
        connection
            .within(
                connection
                    .messages
                    .delete_many(doc! { "chatRoomId": room.to_string(), "seq": range }),
            )
            .await?;
    }
    Ok(())
}

async fn purge_read_marks(connection: &Connection, room: RoomId) -> Result<()> {
    loop {
        let batch = connection
            .marks
            .find(doc! { "chatRoomId": room.to_string() })
            .projection(doc! { "_id": 1 })
            .limit(document_count(BATCH_SIZE as u64));
        let ids = connection
            .all(batch, |mark| Some(text_in(mark, "_id").to_owned()))
            .await?;
        if ids.is_empty() {
            return Ok(());
        }
        connection
            .within(connection.marks.delete_many(doc! { "_id": { "$in": ids } }))
            .await?;
    }
}
