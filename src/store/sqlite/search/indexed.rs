//! What is indexed: one range of each log, in blocks, except for messages that have changed since.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::model::{RoomId, Seq};

/// The number of entries in a block: each entry is identified by one byte.
pub const BLOCK: u64 = 256;

/// The range of a log that is indexed.
#[derive(Clone, Copy, Debug)]
pub struct IndexedRange {
    /// The number of the room in the index.
    pub log: i64,
    /// The last entry of the range.
    pub up_to: Seq,
}

impl IndexedRange {
    /// Returns the indexed range of a room's log; `None` if nothing of it is indexed.
    pub fn find(connection: &Connection, room: RoomId) -> Result<Option<Self>> {
        connection
            .prepare_cached("SELECT number, up_to FROM search_logs WHERE room = ?")?
            .query_row([room], |row| {
                Ok(Self {
                    log: row.get(0)?,
                    up_to: row.get(1)?,
                })
            })
            .optional()
    }
}

/// Returns the block of an entry, and the entry's byte in it.
pub fn in_block(seq: Seq) -> (u64, u8) {
    (
        seq.0 / BLOCK,
        u8::try_from(seq.0 % BLOCK).unwrap_or_default(),
    )
}

/// Marks an edited or deleted message as stale. A message that is not indexed yet is not marked,
/// because it will be indexed in its then current state.
pub fn mark_stale(connection: &Connection, room: RoomId, seq: Seq) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO search_stale (room, seq)
             SELECT ?1, ?2 FROM search_logs WHERE room = ?1 AND above < ?2 AND up_to >= ?2",
        )?
        .execute(params![room, seq])
        .map(drop)
}

/// Marks a room as deleted. The [`Indexer`](super::index::Indexer) erases its index.
pub fn delete_room(connection: &Connection, room: RoomId) -> Result<()> {
    connection
        .prepare_cached("UPDATE search_logs SET room = NULL WHERE room = ?")?
        .execute([room])?;
    connection
        .prepare_cached("DELETE FROM search_stale WHERE room = ?")?
        .execute([room])
        .map(drop)
}
