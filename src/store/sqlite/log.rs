//! The logs of the rooms, and how far they have been read, in SQLite.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{
    rooms,
    rows::{self, count},
};
use crate::{
    model::{Message, MessageId, ReadMark, RoomId, Seq, Timestamp, UserId},
    store::{NewMessage, Page, Placed},
};

/// The end of a room's log while a batch is appended to it.
struct Head {
    last_seq: u64,
    last_at: Timestamp,
    latest: Option<MessageId>,
    /// How many messages of each author the batch holds.
    posted: Vec<(UserId, u64)>,
}

impl Head {
    fn count(&mut self, author: UserId) {
        match self.posted.iter_mut().find(|(known, _)| *known == author) {
            Some((_, posted)) => *posted += 1,
            None => self.posted.push((author, 1)),
        }
    }
}

pub fn append(connection: &Connection, batch: &[NewMessage]) -> Result<Vec<Option<Placed>>> {
    let mut heads: HashMap<RoomId, Option<Head>> = HashMap::new();
    let mut insert =
        connection.prepare_cached("INSERT INTO entries (room, seq, id, author, text, created_at) VALUES (?, ?, ?, ?, ?, ?)")?;
    let mut placed = Vec::with_capacity(batch.len());
    for message in batch {
        let head = match heads.entry(message.room) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(head(connection, message.room)?),
        };
        let Some(head) = head else {
            placed.push(None);
            continue;
        };
        head.last_seq += 1;
        head.last_at = head.last_at.max(message.created_at);
        head.latest = Some(message.id);
        head.count(message.author);
        insert.execute(params![message.room, Seq(head.last_seq), message.id, message.author, message.text, head.last_at])?;
        placed.push(Some(Placed { seq: Seq(head.last_seq), created_at: head.last_at }));
    }
    let mut update = connection.prepare_cached("UPDATE heads SET last_seq = ?, last_at = ?, latest = ? WHERE room = ?")?;
    let mut count = connection.prepare_cached("UPDATE memberships SET posted = posted + ? WHERE user = ? AND room = ?")?;
    for (room, head) in heads {
        let Some(head) = head else { continue };
        update.execute(params![Seq(head.last_seq), head.last_at, head.latest, room])?;
        rooms::set_latest(connection, room, head.latest)?;
        for (author, posted) in head.posted {
            count.execute(params![posted, author, room])?;
        }
    }
    Ok(placed)
}

fn head(connection: &Connection, room: RoomId) -> Result<Option<Head>> {
    connection
        .prepare_cached("SELECT last_seq, last_at, latest FROM heads WHERE room = ?")?
        .query_row([room], |row| Ok(Head { last_seq: row.get(0)?, last_at: row.get(1)?, latest: row.get(2)?, posted: Vec::new() }))
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

fn newest(connection: &Connection, room: RoomId, last: Seq, limit: u64) -> Result<Vec<Message>> {
    let mut messages = select(connection, "seq <= ?2 ORDER BY seq DESC", room, last, limit)?;
    messages.reverse();
    Ok(messages)
}

fn select(connection: &Connection, range: &str, room: RoomId, seq: Seq, limit: u64) -> Result<Vec<Message>> {
    connection
        .prepare_cached(&format!("SELECT {} FROM entries WHERE room = ?1 AND text IS NOT NULL AND {range} LIMIT ?3", rows::MESSAGE))?
        .query_map(params![room, seq, count(limit)], rows::message)?
        .collect()
}

/// The entry behind which exactly `skip` messages stand. Numbers have no holes, so it is found by counting the deleted ones alone: each
/// deleted message behind the entry moves it forward by one, which may bring further deleted ones behind it.
fn skip_from_the_end(connection: &Connection, room: RoomId, skip: u64) -> Result<Option<Seq>> {
    let Some(head) = head(connection, room)? else { return Ok(None) };
    let mut deleted = 0;
    loop {
        let Some(last) = head.last_seq.checked_sub(skip.saturating_add(deleted)).filter(|last| *last > 0) else {
            return Ok(None);
        };
        let behind = deleted_between(connection, room, Seq(last), Seq(head.last_seq))?;
        if behind == deleted {
            return Ok(Some(Seq(last)));
        }
        deleted = behind;
    }
}

// Left to itself SQLite takes the primary key and reads all of the log to count a few of its entries; hence INDEXED BY, here and below.

/// How many entries in `after < seq <= last` are deleted messages.
fn deleted_between(connection: &Connection, room: RoomId, after: Seq, last: Seq) -> Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM entries INDEXED BY entries_deleted WHERE room = ? AND text IS NULL AND seq > ? AND seq <= ?")?
        .query_row(params![room, after, last], |row| row.get(0))
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

pub fn delete(connection: &Connection, id: MessageId) -> Result<bool> {
    let Some(message) = find(connection, id)? else { return Ok(false) };
    connection.prepare_cached("UPDATE entries SET text = NULL WHERE room = ? AND seq = ?")?.execute(params![message.room, message.seq])?;
    if head(connection, message.room)?.is_some_and(|head| head.latest == Some(id)) {
        let latest = newest(connection, message.room, message.seq, 1)?.pop().map(|message| message.id);
        connection.prepare_cached("UPDATE heads SET latest = ? WHERE room = ?")?.execute(params![latest, message.room])?;
        rooms::set_latest(connection, message.room, latest)?;
    }
    Ok(true)
}

/// Unread is what stands behind the user's last mark, but for what they posted themselves and what others posted and deleted again. None of
/// it is counted by reading messages, of which there may be any number.
pub fn mark_read(connection: &Connection, room: RoomId, user: UserId, at: Timestamp) -> Result<u64> {
    let Some(head) = head(connection, room)? else { return Ok(0) };
    let last = Seq(head.last_seq);
    let posted = connection
        .prepare_cached("SELECT posted FROM memberships WHERE user = ? AND room = ?")?
        .query_row(params![user, room], |row| row.get::<_, u64>(0))
        .optional()?
        .unwrap_or_default();
    let (read, posted_then) = connection
        .prepare_cached("SELECT up_to_seq, posted FROM read_marks WHERE room = ? AND user = ? ORDER BY up_to_seq DESC LIMIT 1")?
        .query_row(params![room, user], |row| Ok((row.get::<_, Seq>(0)?, row.get::<_, u64>(1)?)))
        .optional()?
        .unwrap_or_default();
    let deleted = connection
        .prepare_cached(
            "SELECT count(*) FROM entries INDEXED BY entries_deleted WHERE room = ? AND text IS NULL AND seq > ? AND author <> ?",
        )?
        .query_row(params![room, read, user], |row| row.get::<_, u64>(0))?;
    let unread = (last.0 - read.0).saturating_sub(posted - posted_then).saturating_sub(deleted);
    if unread > 0 {
        connection
            .prepare_cached("INSERT INTO read_marks (room, user, up_to_seq, read_at, posted) VALUES (?, ?, ?, ?, ?)")?
            .execute(params![room, user, last, at.max(head.last_at), posted])?;
    }
    Ok(unread)
}

pub fn read_marks(connection: &Connection, room: RoomId, readers: &[UserId], first: Seq, last: Seq) -> Result<Vec<ReadMark>> {
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
