//! Reading the logs in SQLite.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Sqlite,
    head::Head,
    rows::{self, count},
};
use crate::{
    model::{ClientId, Entry, EntryKind, Message, MessageId, RoomId, Seq, UserId},
    store::{
        History, Limit, ListedRoom, Page, Result, RoomPage,
        offset_seek::{OffsetSeek, Step},
    },
};

/// A sequence number after every entry.
const END: Seq = Seq(u64::MAX);

#[async_trait]
impl History for Sqlite {
    async fn messages(&self, room: RoomId, page: Page, limit: Limit) -> Result<Vec<Message>> {
        self.threads
            .read(move |connection| messages(connection, room, page, limit))
            .await
    }

    async fn message(&self, id: MessageId) -> Result<Option<Message>> {
        self.threads
            .read(move |connection| message(connection, id))
            .await
    }

    async fn entries(
        &self,
        room: RoomId,
        after: Seq,
        up_to: Option<Seq>,
        limit: Limit,
    ) -> Result<Vec<Entry>> {
        let range = (after, up_to.unwrap_or(END));
        self.threads
            .read(move |connection| entries(connection, room, range, limit))
            .await
    }

    /// Uses a separate reader thread: the timeline calls this between two batches, and no message
    /// can be posted until it returns. So it must not wait for long reads, nor for writes, which
    /// may wait for another process that is writing.
    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>> {
        let rooms = rooms.to_vec();
        self.threads
            .read_ahead(move |connection| last_seqs(connection, &rooms))
            .await
    }

    async fn recents(&self, page: RoomPage) -> Result<Vec<ListedRoom>> {
        self.threads
            .read(move |connection| recents(connection, page))
            .await
    }
}

fn messages(
    connection: &Connection,
    room: RoomId,
    page: Page,
    limit: Limit,
) -> rusqlite::Result<Vec<Message>> {
    match page {
        Page::After(seq) => select(connection, "seq > ?2 ORDER BY seq", (room, seq), limit),
        Page::Before(seq) => newest(connection, room, seq.prev(), limit),
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
    limit: Limit,
) -> rusqlite::Result<Vec<Message>> {
    let range = "seq <= ?2 ORDER BY seq DESC";
    let mut messages = select(connection, range, (room, last), limit)?;
    messages.reverse();
    Ok(messages)
}

fn select(
    connection: &Connection,
    range: &str,
    (room, seq): (RoomId, Seq),
    limit: Limit,
) -> rusqlite::Result<Vec<Message>> {
    let mut messages = connection.prepare_cached(&format!(
        "SELECT {} FROM entries WHERE room = ?1 AND text IS NOT NULL AND {range} LIMIT ?3",
        rows::MESSAGE
    ))?;
    let messages = messages.query(params![room, seq, count(limit.items)])?;
    rows::page(messages, limit, rows::message)
}

/// Returns an entry that is followed by exactly `skip` messages.
fn skip_from_the_end(
    connection: &Connection,
    room: RoomId,
    skip: u64,
) -> rusqlite::Result<Option<Seq>> {
    let Some(head) = Head::find(connection, room)? else {
        return Ok(None);
    };
    let mut seek = OffsetSeek::new(head.last_seq, skip);
    loop {
        match seek.step() {
            Step::Count { after, last } => {
                seek.told(deleted_between(connection, room, after, last)?);
            }
            Step::Found(last) => return Ok(Some(last)),
            Step::Nowhere => return Ok(None),
        }
    }
}

/// Returns the number of entries in `after < seq <= last` that are not messages or are deleted.
fn deleted_between(
    connection: &Connection,
    room: RoomId,
    after: Seq,
    last: Seq,
) -> rusqlite::Result<u64> {
    // Without INDEXED BY, SQLite uses the primary key and reads the whole log to count a few of its
    // entries.
    connection
        .prepare_cached("SELECT count(*) FROM entries INDEXED BY entries_deleted WHERE room = ? AND text IS NULL AND seq > ? AND seq <= ?")?
        .query_row(params![room, after, last], |row| row.get(0))
}

fn message(connection: &Connection, id: MessageId) -> rusqlite::Result<Option<Message>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM entries WHERE id = ? AND text IS NOT NULL AND EXISTS (SELECT 1 FROM rooms WHERE rooms.id = entries.room)",
            rows::MESSAGE
        ))?
        .query_row([id], rows::message)
        .optional()
}

/// Returns the message with this id if it is in the room and was not deleted.
pub fn in_room(
    connection: &Connection,
    room: RoomId,
    id: MessageId,
) -> rusqlite::Result<Option<Message>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM entries WHERE id = ? AND room = ? AND text IS NOT NULL",
            rows::MESSAGE
        ))?
        .query_row(params![id, room], rows::message)
        .optional()
}

/// Returns the entry of the message to which the author's client gave this id, deleted or not.
pub fn with_client_id(
    connection: &Connection,
    room: RoomId,
    author: UserId,
    id: &ClientId,
) -> rusqlite::Result<Option<Entry>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM entries INDEXED BY entries_by_client_id WHERE room = ? AND author = ? AND client_id = ?",
            rows::ENTRY
        ))?
        .query_row(params![room, author, id], rows::entry)
        .optional()
}

/// Returns a page of the entries in `after < seq <= up_to`.
fn entries(
    connection: &Connection,
    room: RoomId,
    (after, up_to): (Seq, Seq),
    limit: Limit,
) -> rusqlite::Result<Vec<Entry>> {
    let mut entries = connection.prepare_cached(&format!(
        "SELECT {} FROM entries WHERE room = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
        rows::ENTRY
    ))?;
    let entries = entries.query(params![room, after, up_to, count(limit.items)])?;
    rows::page(entries, limit, |row| {
        let mut entry = rows::entry(row)?;
        if let EntryKind::Edit { message, current } = &mut entry.what {
            *current = in_room(connection, room, *message)?;
        }
        Ok(entry)
    })
}

/// Returns the last sequence number of the log of each of these rooms. Rooms that do not exist are
/// skipped.
fn last_seqs(connection: &Connection, rooms: &[RoomId]) -> rusqlite::Result<Vec<(RoomId, Seq)>> {
    let mut last_seqs = Vec::with_capacity(rooms.len());
    for room in rooms {
        last_seqs.extend(Head::find(connection, *room)?.map(|head| (*room, head.last_seq)));
    }
    Ok(last_seqs)
}

/// Returns a page of the user's rooms. The memberships of a large room may outlive it for a while,
/// until they are purged. Rooms are ordered by the id of their latest message, or else by their own
/// id: both ascend with time. The messages are not joined, since SQLite would load all of them to
/// sort the rows.
fn recents(connection: &Connection, page: RoomPage) -> rusqlite::Result<Vec<ListedRoom>> {
    let RoomPage {
        user,
        since_joined,
        with_empty,
        skip,
        limit,
    } = page;
    let mut rooms = connection.prepare_cached(
        "WITH latest_of_each (listed, joined, latest) AS (
             SELECT room, joined,
                    CASE WHEN large THEN (SELECT latest FROM heads WHERE heads.room = memberships.room) ELSE latest END
             FROM memberships WHERE user = ?1
             AND (NOT ?5 OR NOT large OR EXISTS (SELECT 1 FROM heads WHERE heads.room = memberships.room))
         ),
         visible (listed, latest) AS (
             SELECT listed,
                    CASE WHEN NOT ?4 OR joined = 0 OR (SELECT seq FROM entries WHERE id = latest) > joined THEN latest END
             FROM latest_of_each
         )
         SELECT listed, latest FROM visible WHERE ?5 OR latest IS NOT NULL
         ORDER BY coalesce(latest, listed) DESC LIMIT ?2 OFFSET ?3",
    )?;
    let rooms = rooms.query(params![
        user,
        count(limit.items),
        count(skip),
        since_joined,
        with_empty
    ])?;
    rows::page(rooms, limit, |row| {
        let latest: Option<MessageId> = row.get(1)?;
        let latest = latest.map(|latest| message(connection, latest));
        Ok(ListedRoom {
            room: row.get(0)?,
            latest: latest.transpose()?.flatten(),
        })
    })
}
