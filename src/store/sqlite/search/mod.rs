//! Search in SQLite.
//!
//! The index maps a room, a block of 256 entries of its log and a
//! [term](crate::store::search::terms) to the messages that contain the term, with one byte for
//! each. So a room is searched block by block from the end of its log without reading the data of
//! other rooms, and entries that are indexed together are stored together. [`Walk`] searches and
//! [`Indexer`] indexes. The write that edits or deletes a message only marks it as stale; until the
//! index is updated, the message is searched by its text.

mod index;
mod walk;

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::model::{RoomId, Seq};

pub use index::{Indexer, behind};
pub use walk::Walk;

/// The number of entries in a block: each entry is identified by one byte.
const BLOCK: u64 = 256;

/// The range of a log that is indexed.
#[derive(Clone, Copy, Debug)]
struct IndexedRange {
    /// The number of the room in the index.
    log: i64,
    /// The last entry of the range.
    up_to: Seq,
}

fn indexed_range(connection: &Connection, room: RoomId) -> Result<Option<IndexedRange>> {
    connection
        .prepare_cached("SELECT number, up_to FROM search_logs WHERE room = ?")?
        .query_row([room], |row| {
            Ok(IndexedRange {
                log: row.get(0)?,
                up_to: row.get(1)?,
            })
        })
        .optional()
}

/// Marks an edited or deleted message as stale. A message that is not indexed yet is not marked,
/// because it will be indexed in its then current state.
pub fn changed(connection: &Connection, room: RoomId, seq: Seq) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO search_stale (room, seq)
             SELECT ?1, ?2 FROM search_logs WHERE room = ?1 AND above < ?2 AND up_to >= ?2",
        )?
        .execute(params![room, seq])
        .map(drop)
}

/// Marks a room as deleted. The [`Indexer`] erases its index.
pub fn delete_room(connection: &Connection, room: RoomId) -> Result<()> {
    connection
        .prepare_cached("UPDATE search_logs SET room = NULL WHERE room = ?")?
        .execute([room])?;
    connection
        .prepare_cached("DELETE FROM search_stale WHERE room = ?")?
        .execute([room])
        .map(drop)
}

/// Returns the block of an entry, and the entry's byte in it.
fn in_block(seq: Seq) -> (u64, u8) {
    (
        seq.0 / BLOCK,
        u8::try_from(seq.0 % BLOCK).unwrap_or_default(),
    )
}
