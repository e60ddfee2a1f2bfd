//! Read marks and unread counts in SQLite.
//!
//! The unread messages of a user are the entries after the user's last read mark, except the user's
//! own entries and entries of others that are not messages or are deleted messages. Unread messages
//! are not counted by reading them, because there may be any number: each membership counts the
//! user's entries, and each read mark stores that count at its position.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Sqlite, head::Head, rooms, rows};
use crate::{
    model::{ReadMark, RoomId, Seq, Timestamp, UserId},
    store::{Marked, ReadMarks, Result, Unread},
};

#[async_trait]
impl ReadMarks for Sqlite {
    async fn mark_read(
        &self,
        room: RoomId,
        user: UserId,
        up_to: Option<Seq>,
        at: Timestamp,
    ) -> Result<Option<Marked>> {
        let own = match up_to {
            Some(up_to) => {
                self.threads
                    .read(move |connection| count_own(connection, room, user, up_to))
                    .await?
            }
            None => None,
        };
        let request = MarkRead {
            room,
            user,
            up_to,
            at,
            own,
        };
        self.threads
            .write(move |connection| request.run(connection))
            .await
    }

    async fn between(
        &self,
        room: RoomId,
        readers: &[UserId],
        first: Seq,
        last: Seq,
    ) -> Result<Vec<ReadMark>> {
        let readers = readers.to_vec();
        self.threads
            .read(move |connection| between(connection, room, &readers, first, last))
            .await
    }

    async fn unread(&self, user: UserId, among: Option<&[RoomId]>) -> Result<Vec<Unread>> {
        let among = among.map(<[_]>::to_vec);
        self.threads
            .read(move |connection| {
                let rooms =
                    among.map_or_else(|| rooms::rooms_of(connection, user, None, u64::MAX), Ok)?;
                unread(connection, user, &rooms)
            })
            .await
    }
}

/// How far a member has read a room.
struct ReadState {
    room: RoomId,
    user: UserId,
    head: Head,
    /// The entry by which the user joined the room.
    joined: Seq,
    /// The number of the user's own entries after `joined`.
    own: u64,
    /// The last entry that is read; entries after it may be unread.
    read: Seq,
    /// The number of the user's own entries after `joined`, up to `read`.
    own_read: u64,
}

impl ReadState {
    /// Returns `None` if there is no such room or the user is not a member.
    fn find(connection: &Connection, room: RoomId, user: UserId) -> rusqlite::Result<Option<Self>> {
        let Some(head) = Head::find(connection, room)? else {
            return Ok(None);
        };
        let membership = connection
            .prepare_cached("SELECT joined, posted FROM memberships WHERE user = ? AND room = ?")?
            .query_row(params![user, room], |row| {
                Ok((row.get::<_, Seq>(0)?, row.get::<_, u64>(1)?))
            })
            .optional()?;
        let Some((joined, own)) = membership else {
            return Ok(None);
        };
        let (read, own_read) = connection
            .prepare_cached("SELECT up_to_seq, posted FROM read_marks WHERE room = ? AND user = ? ORDER BY up_to_seq DESC LIMIT 1")?
            .query_row(params![room, user], |row| Ok((row.get::<_, Seq>(0)?, row.get::<_, u64>(1)?)))
            .optional()?
            // A mark from before the user left and rejoined does not count.
            .filter(|(read, _)| *read > joined)
            .unwrap_or((joined, 0));
        Ok(Some(Self {
            room,
            user,
            head,
            joined,
            own,
            read,
            own_read,
        }))
    }

    /// Returns the number of messages of others after `read`.
    fn unread(&self, connection: &Connection) -> rusqlite::Result<u64> {
        self.unread_up_to(connection, self.head.last_seq, self.own)
    }

    /// Returns the number of messages of others after `read`, up to the entry `up_to`. `own` is the
    /// number of the user's own entries up to `up_to`.
    fn unread_up_to(&self, connection: &Connection, up_to: Seq, own: u64) -> rusqlite::Result<u64> {
        let entries = up_to.0 - self.read.0;
        let others = entries.saturating_sub(own - self.own_read);
        if others == 0 {
            return Ok(0);
        }
        // Without INDEXED BY, SQLite uses the primary key and reads the whole log to count a few of
        // its entries.
        let not_messages = connection
            .prepare_cached(
                "SELECT count(*) FROM entries INDEXED BY entries_deleted
                 WHERE room = ? AND text IS NULL AND seq > ? AND seq <= ? AND author <> ?",
            )?
            .query_row(params![self.room, self.read, up_to, self.user], |row| {
                row.get::<_, u64>(0)
            })?;
        Ok(others.saturating_sub(not_messages))
    }

    /// Returns the number of the user's own entries from joining up to this entry, counted from the
    /// nearer end.
    fn own_up_to(&self, connection: &Connection, up_to: Seq) -> rusqlite::Result<u64> {
        let end = self.head.last_seq;
        if up_to.0 - self.read.0 <= end.0 - up_to.0 {
            Ok(self.own_read + self.own_between(connection, self.read, up_to)?)
        } else {
            let after = self.own_between(connection, up_to, end)?;
            Ok(self.own.saturating_sub(after))
        }
    }

    /// Returns the number of the user's own entries in `after < seq <= last`.
    fn own_between(&self, connection: &Connection, after: Seq, last: Seq) -> rusqlite::Result<u64> {
        connection
            .prepare_cached(
                "SELECT count(*) FROM entries WHERE room = ? AND seq > ? AND seq <= ? AND author = ?",
            )?
            .query_row(params![self.room, after, last, self.user], |row| row.get(0))
    }
}

/// The number of a user's own entries up to an entry. It is counted before the write transaction
/// because counting may take a while; the result does not change.
#[derive(Clone, Copy)]
struct OwnCount {
    joined: Seq,
    up_to: Seq,
    own: u64,
}

/// Counts the user's entries for [`MarkRead`]. Returns `None` if no counting is needed.
fn count_own(
    connection: &Connection,
    room: RoomId,
    user: UserId,
    up_to: Seq,
) -> rusqlite::Result<Option<OwnCount>> {
    let Some(state) = ReadState::find(connection, room, user)? else {
        return Ok(None);
    };
    if up_to <= state.read || up_to >= state.head.last_seq {
        return Ok(None);
    }
    Ok(Some(OwnCount {
        joined: state.joined,
        up_to,
        own: state.own_up_to(connection, up_to)?,
    }))
}

/// A request to mark a room as read.
struct MarkRead {
    room: RoomId,
    user: UserId,
    up_to: Option<Seq>,
    at: Timestamp,
    /// The user's own entries up to `up_to`, if they were counted.
    own: Option<OwnCount>,
}

impl MarkRead {
    fn run(&self, connection: &Connection) -> rusqlite::Result<Option<Marked>> {
        let Some(state) = ReadState::find(connection, self.room, self.user)? else {
            return Ok(None);
        };
        let end = state.head.last_seq;
        let unread = state.unread(connection)?;
        let up_to = self.up_to.map_or(end, |up_to| up_to.min(end));
        if up_to <= state.read {
            return Ok(Some(Marked {
                became_read: 0,
                last_read: state.read,
                unread,
                mark: None,
            }));
        }
        let (own, last_at, became_read) = if up_to == end {
            (state.own, state.head.last_at, unread)
        } else {
            let own = self.own_up_to(connection, &state, up_to)?;
            let became_read = state.unread_up_to(connection, up_to, own)?;
            (own, time_of(connection, self.room, up_to)?, became_read)
        };
        let mark = ReadMark {
            user: self.user,
            up_to,
            read_at: self.at.max(last_at),
        };
        connection
            .prepare_cached("INSERT INTO read_marks (room, user, up_to_seq, read_at, posted) VALUES (?, ?, ?, ?, ?)")?
            .execute(params![self.room, self.user, mark.up_to, mark.read_at, own])?;
        Ok(Some(Marked {
            became_read,
            last_read: up_to,
            unread: unread.saturating_sub(became_read),
            mark: Some(mark),
        }))
    }

    /// Returns the number of the user's own entries up to this entry: the counted one, unless it
    /// is outdated.
    fn own_up_to(
        &self,
        connection: &Connection,
        state: &ReadState,
        up_to: Seq,
    ) -> rusqlite::Result<u64> {
        match self.own {
            Some(counted) if counted.joined == state.joined && counted.up_to == up_to => {
                Ok(counted.own)
            }
            _ => state.own_up_to(connection, up_to),
        }
    }
}

fn time_of(connection: &Connection, room: RoomId, seq: Seq) -> rusqlite::Result<Timestamp> {
    connection
        .prepare_cached("SELECT created_at FROM entries WHERE room = ? AND seq = ?")?
        .query_row(params![room, seq], |row| row.get(0))
}

/// Returns the user's unread counts in those of the given rooms that the user is a member of.
fn unread(
    connection: &Connection,
    user: UserId,
    rooms: &[RoomId],
) -> rusqlite::Result<Vec<Unread>> {
    let mut found = Vec::with_capacity(rooms.len());
    for room in rooms {
        if let Some(state) = ReadState::find(connection, *room, user)? {
            found.push(Unread {
                room: *room,
                unread: state.unread(connection)?,
                last_seq: state.head.last_seq,
            });
        }
    }
    Ok(found)
}

fn between(
    connection: &Connection,
    room: RoomId,
    readers: &[UserId],
    first: Seq,
    last: Seq,
) -> rusqlite::Result<Vec<ReadMark>> {
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
