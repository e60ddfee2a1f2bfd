//! Reading the logs in SQLite.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::rows::{self, count};
use crate::{
    clock::time_of_id,
    model::{ClientId, Entry, EntryKind, Message, MessageId, RoomId, Seq, Timestamp, UserId},
    store::{
        Page,
        offset_seek::{OffsetSeek, Step},
    },
};

/// The end of a room's log.
pub struct Head {
    pub last_seq: Seq,
    pub last_at: Timestamp,
    /// The latest message that is not deleted.
    pub latest: Option<MessageId>,
    /// Whether members have ever been added or removed.
    pub members_changed: bool,
}

pub fn head(connection: &Connection, room: RoomId) -> Result<Option<Head>> {
    connection
        .prepare_cached(
            "SELECT last_seq, last_at, latest, members_changed FROM heads WHERE room = ?",
        )?
        .query_row([room], |row| {
            Ok(Head {
                last_seq: row.get(0)?,
                last_at: row.get(1)?,
                latest: row.get(2)?,
                members_changed: row.get(3)?,
            })
        })
        .optional()
}

/// Returns the last sequence number of the log of each of these rooms. Rooms that do not exist are
/// skipped.
pub fn ends(connection: &Connection, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>> {
    let mut ends = Vec::with_capacity(rooms.len());
    for room in rooms {
        ends.extend(head(connection, *room)?.map(|head| (*room, head.last_seq)));
    }
    Ok(ends)
}

pub fn entries(
    connection: &Connection,
    room: RoomId,
    after: Seq,
    up_to: Seq,
    limit: u64,
) -> Result<Vec<Entry>> {
    let mut entries = connection
        .prepare_cached(&format!(
            "SELECT {} FROM entries WHERE room = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            rows::ENTRY
        ))?
        .query_map(params![room, after, up_to, count(limit)], rows::entry)?
        .collect::<Result<Vec<_>>>()?;
    for entry in &mut entries {
        if let EntryKind::Edit { message, current } = &mut entry.what {
            *current = in_room(connection, room, *message)?;
        }
    }
    Ok(entries)
}

/// Returns the message with this id if it is in the room and was not deleted.
pub fn in_room(connection: &Connection, room: RoomId, id: MessageId) -> Result<Option<Message>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM entries WHERE id = ? AND room = ? AND text IS NOT NULL",
            rows::MESSAGE
        ))?
        .query_row(params![id, room], rows::message)
        .optional()
}

/// Returns the entry of the message to which the author's client gave this id, deleted or not.
pub fn sent(
    connection: &Connection,
    room: RoomId,
    author: UserId,
    id: &ClientId,
) -> Result<Option<Entry>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM entries INDEXED BY entries_by_client_id WHERE room = ? AND author = ? AND client_id = ?",
            rows::ENTRY
        ))?
        .query_row(params![room, author, id], rows::entry)
        .optional()
}

pub fn page(connection: &Connection, room: RoomId, page: Page, limit: u64) -> Result<Vec<Message>> {
    match page {
        Page::After(seq) => select(connection, "seq > ?2 ORDER BY seq", room, seq, limit),
        Page::Before(seq) => newest(connection, room, Seq(seq.0.saturating_sub(1)), limit),
        Page::Newest { skip } => match skip_from_the_end(connection, room, skip)? {
            Some(last) => newest(connection, room, last, limit),
            None => Ok(Vec::new()),
        },
    }
}

/// Returns the newest messages up to the entry `last`, in ascending order.
pub fn newest(
    connection: &Connection,
    room: RoomId,
    last: Seq,
    limit: u64,
) -> Result<Vec<Message>> {
    let mut messages = select(connection, "seq <= ?2 ORDER BY seq DESC", room, last, limit)?;
    messages.reverse();
    Ok(messages)
}

fn select(
    connection: &Connection,
    range: &str,
    room: RoomId,
    seq: Seq,
    limit: u64,
) -> Result<Vec<Message>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM entries WHERE room = ?1 AND text IS NOT NULL AND {range} LIMIT ?3",
            rows::MESSAGE
        ))?
        .query_map(params![room, seq, count(limit)], rows::message)?
        .collect()
}

/// Returns an entry that is followed by exactly `skip` messages.
fn skip_from_the_end(connection: &Connection, room: RoomId, skip: u64) -> Result<Option<Seq>> {
    let Some(head) = head(connection, room)? else {
        return Ok(None);
    };
    let mut search = OffsetSeek::new(head.last_seq, skip);
    loop {
        match search.step() {
            Step::Count { after, last } => {
                search.told(deleted_between(connection, room, after, last)?);
            }
            Step::Found(last) => return Ok(Some(last)),
            Step::Nowhere => return Ok(None),
        }
    }
}

// Without INDEXED BY, here and below, SQLite uses the primary key and reads the whole log to count
// a few of its entries.

/// Returns the number of entries in `after < seq <= last` that are not messages or are deleted.
fn deleted_between(connection: &Connection, room: RoomId, after: Seq, last: Seq) -> Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM entries INDEXED BY entries_deleted WHERE room = ? AND text IS NULL AND seq > ? AND seq <= ?")?
        .query_row(params![room, after, last], |row| row.get(0))
}

/// Returns the time of the latest entry, room or user. Ids ascend with time, so each takes one
/// index lookup.
pub fn latest(connection: &Connection) -> Result<Option<Timestamp>> {
    let mut latest = None;
    for table in ["entries", "rooms", "users"] {
        let id = connection.query_row(&format!("SELECT max(id) FROM {table}"), [], |row| {
            row.get::<_, Option<[u8; 16]>>(0)
        })?;
        latest = latest.max(id.and_then(|id| time_of_id(&id)));
    }
    Ok(latest)
}

pub fn find(connection: &Connection, id: MessageId) -> Result<Option<Message>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM entries WHERE id = ? AND text IS NOT NULL AND EXISTS (SELECT 1 FROM rooms WHERE rooms.id = entries.room)",
            rows::MESSAGE
        ))?
        .query_row([id], rows::message)
        .optional()
}
