//! `activeUntil` in the documents of the rooms: no message of a room is later than that.

use std::collections::HashMap;

use mongodb::bson::doc;

use super::{connection::Connection, documents::date, heads::Heads};
use crate::{
    model::{RoomId, Timestamp},
    store::{NewEntry, Result, StoreError},
};

/// How far ahead `activeUntil` of a room is set, in milliseconds. While a room is active, its
/// document is updated about this often.
const EXTENSION_MS: i64 = 250;

/// Returns the new `activeUntil` of the rooms that have to be updated before these entries are
/// inserted. When at least one room has to be updated, the rooms that are due soon are updated with
/// it, so that busy rooms share one command.
pub fn extensions<'a>(
    entries: impl Iterator<Item = &'a NewEntry>,
    heads: &Heads,
) -> HashMap<RoomId, Timestamp> {
    let (mut extensions, mut is_required) = (HashMap::new(), false);
    for entry in entries {
        let Some(head) = heads.get(&entry.room) else {
            continue;
        };
        let Some(until) = head.active_until else {
            continue;
        };
        let at = head.at.max(entry.created_at);
        if until.0 < at.0 + EXTENSION_MS / 2 {
            extensions.insert(entry.room, Timestamp(at.0 + EXTENSION_MS));
            is_required |= until < at;
        }
    }
    if !is_required {
        extensions.clear();
    }
    extensions
}

/// Sets `activeUntil` in the documents of the rooms, and in their heads. The write concern `w: 1`
/// is enough: a later write cannot become durable without this one.
pub async fn extend(
    connection: &Connection,
    extensions: HashMap<RoomId, Timestamp>,
    heads: &mut Heads,
) -> Result<()> {
    if extensions.is_empty() {
        return Ok(());
    }
    let update = |(room, until): (&RoomId, &Timestamp)| {
        let active = doc! { "$max": { "activeUntil": date(*until) } };
        doc! { "q": { "_id": room.to_string(), "deletedAt": null }, "u": active }
    };
    let updates: Vec<_> = extensions.iter().map(update).collect();
    let command =
        doc! { "update": connection.rooms.name(), "updates": updates, "writeConcern": { "w": 1 } };
    let reply = connection
        .within(connection.database.run_command(command))
        .await?;
    if reply.contains_key("writeErrors") {
        return Err(StoreError::Fault(format!(
            "failed to update activeUntil of rooms: {reply}"
        )));
    }
    for (room, until) in extensions {
        heads
            .entry(room)
            .and_modify(|head| head.active_until = Some(until));
    }
    Ok(())
}
