//! Read marks and unread counts in SQLite.
//!
//! The unread messages of a user are the entries after the user's last read mark, except the user's
//! own entries and entries of others that are not messages or are deleted messages. Unread messages
//! are not counted by reading them, because there may be any number: each membership counts the
//! user's entries, and each read mark stores that count at its position.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{
    log::{self, Head},
    rows,
};
use crate::{
    model::{ReadMark, RoomId, Seq, Timestamp, UserId},
    store::{Marked, Unread},
};

/// How far a member has read a room.
struct Reading {
    head: Head,
    /// The entry by which the user joined the room.
    joined: Seq,
    /// The number of the user's own entries after `joined`.
    posted: u64,
    /// The last entry that is read; entries after it may be unread.
    read: Seq,
    /// The number of the user's own entries after `joined`, up to `read`.
    posted_then: u64,
}

impl Reading {
    fn find(connection: &Connection, room: RoomId, user: UserId) -> Result<Option<Self>> {
        let Some(head) = log::head(connection, room)? else {
            return Ok(None);
        };
        let membership = connection
            .prepare_cached("SELECT joined, posted FROM memberships WHERE user = ? AND room = ?")?
            .query_row(params![user, room], |row| {
                Ok((row.get::<_, Seq>(0)?, row.get::<_, u64>(1)?))
            })
            .optional()?;
        let Some((joined, posted)) = membership else {
            return Ok(None);
        };
        let (read, posted_then) = connection
            .prepare_cached("SELECT up_to_seq, posted FROM read_marks WHERE room = ? AND user = ? ORDER BY up_to_seq DESC LIMIT 1")?
            .query_row(params![room, user], |row| Ok((row.get::<_, Seq>(0)?, row.get::<_, u64>(1)?)))
            .optional()?
            // A mark from before the user left and rejoined does not count.
            .filter(|(read, _)| *read > joined)
            .unwrap_or((joined, 0));
        Ok(Some(Self {
            head,
            joined,
            posted,
            read,
            posted_then,
        }))
    }

    /// Returns the number of messages of others after `read`, up to the entry `up_to`. `posted` is
    /// the number of the user's own entries up to `up_to`.
    fn unread(
        &self,
        connection: &Connection,
        room: RoomId,
        user: UserId,
        up_to: Seq,
        posted: u64,
    ) -> Result<u64> {
        let behind = up_to.0 - self.read.0;
        let others = behind.saturating_sub(posted - self.posted_then);
        if others == 0 {
            return Ok(0);
        }
        let no_messages = connection
            .prepare_cached(
                "SELECT count(*) FROM entries INDEXED BY entries_deleted
                 WHERE room = ? AND text IS NULL AND seq > ? AND seq <= ? AND author <> ?",
            )?
            .query_row(params![room, self.read, up_to, user], |row| {
                row.get::<_, u64>(0)
            })?;
        Ok(others.saturating_sub(no_messages))
    }

    /// Returns the number of the user's own entries from joining up to this entry, counted from the
    /// nearer end.
    fn posted_up_to(
        &self,
        connection: &Connection,
        room: RoomId,
        user: UserId,
        up_to: Seq,
    ) -> Result<u64> {
        let end = self.head.last_seq;
        if up_to.0 - self.read.0 <= end.0 - up_to.0 {
            Ok(self.posted_then + own_between(connection, room, user, self.read, up_to)?)
        } else {
            Ok(self
                .posted
                .saturating_sub(own_between(connection, room, user, up_to, end)?))
        }
    }
}

fn own_between(
    connection: &Connection,
    room: RoomId,
    user: UserId,
    after: Seq,
    last: Seq,
) -> Result<u64> {
    connection
        .prepare_cached(
            "SELECT count(*) FROM entries WHERE room = ? AND seq > ? AND seq <= ? AND author = ?",
        )?
        .query_row(params![room, after, last, user], |row| row.get(0))
}

/// The number of a user's own entries up to an entry. It is counted before the write transaction
/// because counting may take a while; the result does not change.
#[derive(Clone, Copy)]
pub struct Posted {
    joined: Seq,
    up_to: Seq,
    own: u64,
}

/// Counts the user's entries for [`mark_read`]. Returns `None` if no counting is needed.
pub fn posted_up_to(
    connection: &Connection,
    room: RoomId,
    user: UserId,
    up_to: Seq,
) -> Result<Option<Posted>> {
    let Some(reading) = Reading::find(connection, room, user)? else {
        return Ok(None);
    };
    if up_to <= reading.read || up_to >= reading.head.last_seq {
        return Ok(None);
    }
    let posted = reading.posted_up_to(connection, room, user, up_to)?;
    Ok(Some(Posted {
        joined: reading.joined,
        up_to,
        own: posted,
    }))
}

pub fn mark_read(
    connection: &Connection,
    room: RoomId,
    user: UserId,
    up_to: Seq,
    counted: Option<Posted>,
    at: Timestamp,
) -> Result<Option<Marked>> {
    let Some(reading) = Reading::find(connection, room, user)? else {
        return Ok(None);
    };
    let end = reading.head.last_seq;
    let unread = reading.unread(connection, room, user, end, reading.posted)?;
    let up_to = up_to.min(end);
    if up_to <= reading.read {
        return Ok(Some(Marked {
            became_read: 0,
            last_read: reading.read,
            unread,
            mark: None,
        }));
    }
    let (posted, last_at) = if up_to == end {
        (reading.posted, reading.head.last_at)
    } else {
        let counted =
            counted.filter(|counted| counted.joined == reading.joined && counted.up_to == up_to);
        let posted = counted.map_or_else(
            || reading.posted_up_to(connection, room, user, up_to),
            |counted| Ok(counted.own),
        )?;
        (posted, time_of(connection, room, up_to)?)
    };
    let became_read = if up_to == end {
        unread
    } else {
        reading.unread(connection, room, user, up_to, posted)?
    };
    let mark = ReadMark {
        user,
        up_to,
        read_at: at.max(last_at),
    };
    connection
        .prepare_cached("INSERT INTO read_marks (room, user, up_to_seq, read_at, posted) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![room, user, mark.up_to, mark.read_at, posted])?;
    Ok(Some(Marked {
        became_read,
        last_read: up_to,
        unread: unread.saturating_sub(became_read),
        mark: Some(mark),
    }))
}

fn time_of(connection: &Connection, room: RoomId, seq: Seq) -> Result<Timestamp> {
    connection
        .prepare_cached("SELECT created_at FROM entries WHERE room = ? AND seq = ?")?
        .query_row(params![room, seq], |row| row.get(0))
}

/// Returns the user's unread counts in those of the given rooms that the user is a member of.
pub fn unread(connection: &Connection, user: UserId, rooms: &[RoomId]) -> Result<Vec<Unread>> {
    let mut found = Vec::with_capacity(rooms.len());
    for room in rooms {
        if let Some(reading) = Reading::find(connection, *room, user)? {
            let last_seq = reading.head.last_seq;
            let unread = reading.unread(connection, *room, user, last_seq, reading.posted)?;
            found.push(Unread {
                room: *room,
                unread,
                last_seq,
            });
        }
    }
    Ok(found)
}

pub fn read_marks(
    connection: &Connection,
    room: RoomId,
    readers: &[UserId],
    first: Seq,
    last: Seq,
) -> Result<Vec<ReadMark>> {
    let mut statement = connection.prepare_cached(
        "SELECT user, up_to_seq, read_at FROM read_marks WHERE room = ? AND user = ? AND up_to_seq >= ? ORDER BY up_to_seq",
    )?;
    let mut marks = Vec::new();
    for reader in readers {
        for mark in statement.query_map(params![room, reader, first], rows::read_mark)? {
            let mark = mark?;
            marks.push(mark);
            if mark.up_to >= last {
                break;
            }
        }
    }
    Ok(marks)
}
