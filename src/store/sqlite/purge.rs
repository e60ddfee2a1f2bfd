//! Deleting the remaining data of deleted rooms, in slices.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::slice::Slice;
use crate::model::RoomId;

/// The number of rows that are deleted in one statement.
const ROWS: u64 = 100;

/// Marks the data of a deleted room for [`purge`].
pub fn schedule(connection: &Connection, room: RoomId) -> Result<()> {
    connection
        .prepare_cached("INSERT INTO purges (room) VALUES (?)")?
        .execute([room])
        .map(drop)
}

/// Deletes a slice of the remaining data of deleted rooms. Returns true if there is more.
pub fn purge(connection: &Connection) -> Result<bool> {
    let room = connection
        .prepare_cached("SELECT room FROM purges LIMIT 1")?
        .query_row([], |row| row.get::<_, RoomId>(0))
        .optional()?;
    let Some(room) = room else { return Ok(false) };
    let slice = Slice::new();
    while slice.has_time_left() {
        if !(purge_entry(connection, room)? || purge_rows(connection, room)?) {
            connection
                .prepare_cached("DELETE FROM purges WHERE room = ?")?
                .execute([room])?;
            break;
        }
    }
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM purges)")?
        .query_row([], |row| row.get(0))
}

/// Deletes the first entry of a deleted room. Returns false if there is none.
fn purge_entry(connection: &Connection, room: RoomId) -> Result<bool> {
    let first = "DELETE FROM entries WHERE room = ?1 AND seq = (SELECT min(seq) FROM entries WHERE room = ?1)";
    Ok(connection.prepare_cached(first)?.execute([room])? > 0)
}

/// Deletes some read marks and memberships of a deleted room. Returns false if there are none.
fn purge_rows(connection: &Connection, room: RoomId) -> Result<bool> {
    let mut deleted = 0;
    for (table, key) in [("read_marks", "user, up_to_seq"), ("memberships", "user")] {
        let some = format!(
            "DELETE FROM {table} WHERE room = ?1 AND ({key}) IN (SELECT {key} FROM {table} WHERE room = ?1 LIMIT ?2)"
        );
        deleted += connection
            .prepare_cached(&some)?
            .execute(params![room, ROWS])?;
    }
    Ok(deleted > 0)
}
