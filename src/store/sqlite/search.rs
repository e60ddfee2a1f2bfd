//! Search, by FTS5.
//!
//! The index holds no texts, only which words are in which message, and under its number a sign for the room: so one room is searched without
//! reading what is in others. The numbers ascend with the time, by which the newest come first. FTS5 never sees what a client wrote: it is
//! given [words](crate::store::search::words), which are letters and digits, so there is no syntax in them.
//!
//! An index of this kind forgets a message only if it is told its words again; hence those who edit and delete do it, by [`replace`].

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{
    log,
    rows::{self, count},
};
use crate::{
    model::{Message, MessageId, RoomId, Seq, Timestamp},
    store::search::{self, PIECE, Scope, Search},
};

/// How many messages of one millisecond have numbers of their own in the index.
const AT_ONCE: i64 = 1 << 20;

/// Puts the next messages of these rooms into the index, a few; answers in which rooms there are more.
pub fn catch_up(connection: &Connection, mut rooms: Vec<RoomId>) -> Result<Vec<RoomId>> {
    let mut left = PIECE;
    while let Some(room) = rooms.last() {
        let (looked_at, more) = catch_up_room(connection, *room, left)?;
        if more {
            break;
        }
        rooms.pop();
        left = left.saturating_sub(looked_at);
        if left == 0 {
            break;
        }
    }
    Ok(rooms)
}

/// Puts up to `limit` entries of a room into the index. Answers how many these were, and whether there are more.
fn catch_up_room(connection: &Connection, room: RoomId, limit: u64) -> Result<(u64, bool)> {
    let Some(head) = log::head(connection, room)? else { return Ok((0, false)) };
    let done = indexed(connection, room)?;
    let last = Seq(head.last_seq.0.min(done.0 + limit));
    if last <= done {
        return Ok((0, false));
    }
    let mut texts = connection.prepare_cached(
        "SELECT seq, text, created_at FROM entries WHERE room = ? AND seq > ? AND seq <= ? AND text IS NOT NULL ORDER BY seq",
    )?;
    let mut texts = texts.query(params![room, done, last])?;
    while let Some(row) = texts.next()? {
        let number = next_number(connection, row.get(2)?)?;
        connection.prepare_cached("INSERT INTO search_numbers (number, room, seq) VALUES (?, ?, ?)")?.execute(params![
            number,
            room,
            row.get::<_, Seq>(0)?
        ])?;
        insert(connection, number, room, row.get_ref(1)?.as_str()?)?;
    }
    connection
        .prepare_cached("INSERT INTO search_rooms (room, indexed) VALUES (?1, ?2) ON CONFLICT (room) DO UPDATE SET indexed = ?2")?
        .execute(params![room, last])?;
    Ok((last.0 - done.0, last < head.last_seq))
}

/// Up to which entry the room is in the index.
fn indexed(connection: &Connection, room: RoomId) -> Result<Seq> {
    let indexed = connection.prepare_cached("SELECT indexed FROM search_rooms WHERE room = ?")?.query_row([room], |row| row.get(0));
    Ok(indexed.optional()?.unwrap_or_default())
}

/// The next number for a message of this time.
fn next_number(connection: &Connection, at: Timestamp) -> Result<i64> {
    let first = at.0.saturating_mul(AT_ONCE);
    connection
        .prepare_cached("SELECT coalesce(max(number) + 1, ?1) FROM search_numbers WHERE number >= ?1 AND number < ?1 + ?2")?
        .query_row([first, AT_ONCE], |row| row.get(0))
}

/// What the index holds of a message: its words, and the sign of the room, which no word looks like.
fn words(room: RoomId, text: &str) -> String {
    let mut words = search::words(text);
    words.push(sign(room));
    words.join(" ")
}

fn sign(room: RoomId) -> String {
    format!("¤{room}")
}

fn insert(connection: &Connection, number: i64, room: RoomId, text: &str) -> Result<()> {
    let mut insert = connection.prepare_cached("INSERT INTO search (rowid, words) VALUES (?, ?)")?;
    insert.execute(params![number, words(room, text)]).map(drop)
}

fn forget(connection: &Connection, number: i64, room: RoomId, text: &str) -> Result<()> {
    let mut forget = connection.prepare_cached("INSERT INTO search (search, rowid, words) VALUES ('delete', ?, ?)")?;
    forget.execute(params![number, words(room, text)]).map(drop)
}

/// A message says something else now, or nothing any more. If it is not in the index yet, it comes in as it is then.
pub fn replace(connection: &Connection, message: &Message, text: Option<&str>) -> Result<()> {
    let number = connection
        .prepare_cached("SELECT number FROM search_numbers WHERE room = ? AND seq = ?")?
        .query_row(params![message.room, message.seq], |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(number) = number else { return Ok(()) };
    forget(connection, number, message.room, &message.text)?;
    text.map_or(Ok(()), |text| insert(connection, number, message.room, text))
}

/// Takes the messages of a deleted room out of the index, up to this entry.
pub fn purge(connection: &Connection, room: RoomId, up_to: Seq) -> Result<()> {
    let mut known = connection.prepare_cached(
        "SELECT number, text FROM search_numbers JOIN entries USING (room, seq) WHERE room = ? AND seq <= ? AND text IS NOT NULL",
    )?;
    let mut known = known.query(params![room, up_to])?;
    while let Some(row) = known.next()? {
        forget(connection, row.get(0)?, room, row.get_ref(1)?.as_str()?)?;
    }
    connection.prepare_cached("DELETE FROM search_numbers WHERE room = ? AND seq <= ?")?.execute(params![room, up_to])?;
    connection.prepare_cached("DELETE FROM search_rooms WHERE room = ?")?.execute([room]).map(drop)
}

/// The rooms in question that are not all in the index.
pub fn behind(connection: &Connection, scope: Scope) -> Result<Vec<RoomId>> {
    match scope {
        Scope::Room { room, .. } => Ok(vec![room]),
        Scope::RoomsOf { user, .. } => connection
            .prepare_cached(
                "SELECT memberships.room FROM memberships
                 JOIN heads ON heads.room = memberships.room
                 LEFT JOIN search_rooms ON search_rooms.room = memberships.room
                 WHERE user = ? AND last_seq > coalesce(indexed, 0)",
            )?
            .query_map([user], |row| row.get(0))?
            .collect(),
    }
}

/// The messages that are looked for, as far as they are in the index.
pub fn find(connection: &Connection, search: &Search) -> Result<Vec<Message>> {
    let mut words = search.wanted();
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let before = match search.before {
        Some((at, id)) => number_of(connection, at, id)?,
        None => i64::MAX,
    };
    let (scope, whose, limit) = match search.scope {
        Scope::Room { room, after } => {
            words.push(sign(room));
            ("search_numbers.room = ?4 AND search_numbers.seq > ?5", *room.as_bytes(), count(after.0))
        }
        Scope::RoomsOf { user, since_joined } => (
            "EXISTS (SELECT 1 FROM memberships WHERE user = ?4 AND memberships.room = search_numbers.room
             AND (search_numbers.seq > joined OR NOT ?5))",
            *user.as_bytes(),
            since_joined.into(),
        ),
    };
    let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    connection
        .prepare_cached(&format!(
            "WITH found (number) AS (
                 SELECT search.rowid FROM search CROSS JOIN search_numbers ON search_numbers.number = search.rowid
                 WHERE search MATCH ?1 AND search.rowid < ?2 AND {scope} ORDER BY search.rowid DESC LIMIT ?3
             )
             SELECT {} FROM found CROSS JOIN search_numbers USING (number) CROSS JOIN entries USING (room, seq)
             WHERE text IS NOT NULL ORDER BY number DESC",
            rows::MESSAGE
        ))?
        .query_map(params![words.join(" AND "), before, count(search.limit), whose, limit], rows::message)?
        .collect()
}

/// Where a message stands in the index, or would stand if it is not there.
fn number_of(connection: &Connection, at: Timestamp, id: MessageId) -> Result<i64> {
    let known = connection
        .prepare_cached("SELECT number FROM entries JOIN search_numbers USING (room, seq) WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    Ok(known.unwrap_or_else(|| at.0.saturating_mul(AT_ONCE)))
}
