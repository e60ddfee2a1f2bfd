//! Search, in SQLite.
//!
//! The index leads from a room, a block of 256 entries of its log, and a [term](crate::store::search::terms) to the messages that have it,
//! one byte for each. So a room is searched without reading what is in others, block by block from the end of its log; and what is indexed
//! together is stored together. [`Walk`] searches, [`Indexer`] indexes; a message that is edited or deleted is only noted down by those who
//! write, and then searched by its text until the index has followed.

mod index;
mod walk;

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::model::{RoomId, Seq};

pub use index::{Indexer, behind};
pub use walk::Walk;

/// How many entries are in a block: each has to have a byte of its own.
const BLOCK: u64 = 256;

/// The stretch of a log that is indexed.
#[derive(Clone, Copy, Debug)]
struct IndexedRange {
    /// Stands for the room in the index.
    log: i64,
    /// Its last entry.
    up_to: Seq,
}

fn indexed_range(connection: &Connection, room: RoomId) -> Result<Option<IndexedRange>> {
    connection
        .prepare_cached("SELECT number, up_to FROM search_logs WHERE room = ?")?
        .query_row([room], |row| Ok(IndexedRange { log: row.get(0)?, up_to: row.get(1)? }))
        .optional()
}

/// Notes that a message was edited or deleted. One that is not indexed yet will be as it is then.
pub fn changed(connection: &Connection, room: RoomId, seq: Seq) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO search_stale (room, seq)
             SELECT ?1, ?2 FROM search_logs WHERE room = ?1 AND above < ?2 AND up_to >= ?2",
        )?
        .execute(params![room, seq])
        .map(drop)
}

/// Notes that a room was deleted. What the index has of it is erased by the [`Indexer`].
pub fn delete_room(connection: &Connection, room: RoomId) -> Result<()> {
    connection.prepare_cached("UPDATE search_logs SET room = NULL WHERE room = ?")?.execute([room])?;
    connection.prepare_cached("DELETE FROM search_stale WHERE room = ?")?.execute([room]).map(drop)
}

/// The block of an entry, and its byte there.
fn in_block(seq: Seq) -> (u64, u8) {
    (seq.0 / BLOCK, u8::try_from(seq.0 % BLOCK).unwrap_or_default())
}
