//! The end of a room's log, which is stored apart from the room and from the entries.

use rusqlite::{Connection, OptionalExtension, Result};

use crate::model::{MessageId, RoomId, Seq, Timestamp};

/// The end of a room's log.
pub struct Head {
    pub last_seq: Seq,
    pub last_at: Timestamp,
    /// The latest message that is not deleted.
    pub latest: Option<MessageId>,
    /// Whether members have ever been added or removed.
    pub members_changed: bool,
}

impl Head {
    /// Returns the end of the log of a room; `None` if there is no such room.
    pub fn find(connection: &Connection, room: RoomId) -> Result<Option<Self>> {
        connection
            .prepare_cached(
                "SELECT last_seq, last_at, latest, members_changed FROM heads WHERE room = ?",
            )?
            .query_row([room], |row| {
                Ok(Self {
                    last_seq: row.get(0)?,
                    last_at: row.get(1)?,
                    latest: row.get(2)?,
                    members_changed: row.get(3)?,
                })
            })
            .optional()
    }
}
