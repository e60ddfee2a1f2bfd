//! Rooms, who is in them, and whose conversations are recent, in SQLite.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{
    rows::{self, count},
    search,
    slice::Slice,
};
use crate::{
    model::{Message, MessageId, Room, RoomId, Seq, UserId},
    store::{is_large, member_key},
};

/// How many rows of a deleted room are taken away in one statement.
const PURGE: u64 = 100;

pub fn find(connection: &Connection, id: RoomId) -> Result<Option<Room>> {
    connection.prepare_cached(&format!("SELECT {} FROM rooms WHERE id = ?", rows::ROOM))?.query_row([id], rows::room).optional()
}

pub fn find_by_members(connection: &Connection, room: &Room) -> Result<Option<Room>> {
    connection
        .prepare_cached(&format!("SELECT {} FROM rooms WHERE member_key = ?", rows::ROOM))?
        .query_row([member_key(room)], rows::room)
        .optional()
}

/// Adds a room. One that has a name is found by no members: a key as short as this is that of none.
pub fn add(connection: &Connection, room: &Room) -> Result<()> {
    let key = if room.name.is_none() { member_key(room).to_vec() } else { no_key(room.id) };
    connection
        .prepare_cached("INSERT INTO rooms (id, type, initiator, members, member_key, created_at, name) VALUES (?, ?, ?, ?, ?, ?, ?)")?
        .execute(params![room.id, room.kind, room.initiator, rows::members_column(room), key, room.created_at, room.name])?;
    connection.prepare_cached("INSERT INTO heads (room, last_seq, last_at) VALUES (?, 0, 0)")?.execute([room.id])?;
    let mut membership = connection.prepare_cached("INSERT INTO memberships (user, room, large) VALUES (?, ?, ?)")?;
    for member in &room.members {
        membership.execute(params![member, room.id, is_large(room)])?;
    }
    Ok(())
}

fn no_key(room: RoomId) -> Vec<u8> {
    room.as_bytes().to_vec()
}

/// Whether the user is in the room.
pub fn is_member(connection: &Connection, room: RoomId, user: UserId) -> Result<bool> {
    connection.prepare_cached("SELECT 1 FROM memberships WHERE user = ? AND room = ?")?.exists(params![user, room])
}

/// The rooms of a user, from behind `after`. A membership may outlive its room for a while: see [`delete`].
pub fn of_user(connection: &Connection, user: UserId, after: Option<RoomId>, limit: u64) -> Result<Vec<RoomId>> {
    let after = after.as_ref().map_or(&[][..], |room| room.as_bytes());
    connection
        .prepare_cached(
            "SELECT room FROM memberships WHERE user = ? AND room > ?
             AND EXISTS (SELECT 1 FROM heads WHERE heads.room = memberships.room) ORDER BY room LIMIT ?",
        )?
        .query_map(params![user, after, count(limit)], |row| row.get(0))?
        .collect()
}

/// Lets somebody into a room who is not in it, by the entry `seq`. `latest` is the room's latest message. To be written by [`set_members`], here
/// and below.
pub fn add_member(connection: &Connection, room: &mut Room, user: UserId, seq: Seq, latest: Option<MessageId>) -> Result<()> {
    let was_large = is_large(room);
    if let Err(place) = room.members.binary_search(&user) {
        room.members.insert(place, user);
    }
    if let Err(place) = room.joined.binary_search_by_key(&user, |(member, _)| *member) {
        room.joined.insert(place, (user, seq));
    }
    connection.prepare_cached("INSERT INTO memberships (user, room, large, latest, joined) VALUES (?, ?, ?, ?, ?)")?.execute(params![
        user,
        room.id,
        was_large,
        latest.filter(|_| !was_large),
        seq
    ])?;
    note_size(connection, room, was_large, latest)
}

/// Takes somebody out of a room.
pub fn remove_member(connection: &Connection, room: &mut Room, user: UserId, latest: Option<MessageId>) -> Result<()> {
    let was_large = is_large(room);
    room.members.retain(|member| *member != user);
    room.joined.retain(|(member, _)| *member != user);
    connection.prepare_cached("DELETE FROM memberships WHERE user = ? AND room = ?")?.execute(params![user, room.id])?;
    note_size(connection, room, was_large, latest)
}

/// Notes in the memberships whether the room is large, where that has changed.
fn note_size(connection: &Connection, room: &Room, was_large: bool, latest: Option<MessageId>) -> Result<()> {
    if is_large(room) != was_large {
        let latest = latest.filter(|_| was_large);
        connection
            .prepare_cached("UPDATE memberships SET large = ?, latest = ? WHERE room = ?")?
            .execute(params![!was_large, latest, room.id])?;
    }
    Ok(())
}

/// Writes down who is in the room. By these it is no longer found.
pub fn set_members(connection: &Connection, room: &Room) -> Result<()> {
    connection
        .prepare_cached("UPDATE rooms SET members = ?, joined = ?, member_key = ? WHERE id = ?")?
        .execute(params![rows::members_column(room), rows::joined_column(room), no_key(room.id), room.id])
        .map(drop)
}

/// Gives the room another name, or none.
pub fn rename(connection: &Connection, room: RoomId, name: Option<&str>) -> Result<()> {
    connection.prepare_cached("UPDATE rooms SET name = ? WHERE id = ?")?.execute(params![name, room]).map(drop)
}

/// Deletes the room, by which nobody finds it or anything in it any more, and notes down the rest for [`purge`]. Returns how many messages it
/// had.
pub fn delete(connection: &Connection, id: RoomId) -> Result<Option<u64>> {
    let last_seq = connection
        .prepare_cached("DELETE FROM heads WHERE room = ? RETURNING last_seq")?
        .query_row([id], |row| row.get::<_, u64>(0))
        .optional()?;
    let Some(last_seq) = last_seq else { return Ok(None) };
    let deleted = connection
        .prepare_cached("SELECT count(*) FROM entries INDEXED BY entries_deleted WHERE room = ? AND text IS NULL")?
        .query_row([id], |row| row.get::<_, u64>(0))?;
    connection.prepare_cached("DELETE FROM rooms WHERE id = ?")?.execute([id])?;
    // They carry the room's latest message. Those of a large room do not, and are too many to be deleted at once.
    connection.prepare_cached("DELETE FROM memberships INDEXED BY memberships_small WHERE room = ? AND NOT large")?.execute([id])?;
    connection.prepare_cached("INSERT INTO purges (room) VALUES (?)")?.execute([id])?;
    Ok(Some(last_seq - deleted))
}

/// Takes away a slice of what deleted rooms have left behind. True when there is more.
pub fn purge(connection: &Connection) -> Result<bool> {
    let room = connection.prepare_cached("SELECT room FROM purges LIMIT 1")?.query_row([], |row| row.get::<_, RoomId>(0)).optional()?;
    let Some(room) = room else { return Ok(false) };
    let mut slice = Slice::new();
    while slice.has_room() {
        if !(purge_entry(connection, room, &mut slice)? || purge_some(connection, room)?) {
            connection.prepare_cached("DELETE FROM purges WHERE room = ?")?.execute([room])?;
            break;
        }
    }
    connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM purges)")?.query_row([], |row| row.get(0))
}

/// Takes away the first entry of a deleted room, with its words in the index of search. False when there is none.
fn purge_entry(connection: &Connection, room: RoomId, slice: &mut Slice) -> Result<bool> {
    let first = connection
        .prepare_cached("SELECT seq, coalesce(length(text), 0) FROM entries WHERE room = ? ORDER BY seq LIMIT 1")?
        .query_row([room], |row| Ok((row.get::<_, Seq>(0)?, row.get(1)?)))
        .optional()?;
    let Some((seq, letters)) = first else { return Ok(false) };
    search::purge(connection, room, seq)?;
    connection.prepare_cached("DELETE FROM entries WHERE room = ? AND seq = ?")?.execute(params![room, seq])?;
    slice.count(letters);
    Ok(true)
}

/// Takes away some of the read marks and memberships of a deleted room. False when there are none.
fn purge_some(connection: &Connection, room: RoomId) -> Result<bool> {
    let mut deleted = 0;
    for (table, key) in [("read_marks", "user, up_to_seq"), ("memberships", "user")] {
        let some = format!("DELETE FROM {table} WHERE room = ?1 AND ({key}) IN (SELECT {key} FROM {table} WHERE room = ?1 LIMIT ?2)");
        deleted += connection.prepare_cached(&some)?.execute(params![room, PURGE])?;
    }
    Ok(deleted > 0)
}

/// Notes which message of the room is its latest.
pub fn set_latest(connection: &Connection, room: RoomId, latest: Option<MessageId>) -> Result<()> {
    connection
        .prepare_cached("UPDATE memberships INDEXED BY memberships_small SET latest = ? WHERE room = ? AND NOT large")?
        .execute(params![latest, room])?;
    Ok(())
}

pub fn recents(connection: &Connection, user: UserId, skip: u64, limit: u64) -> Result<Vec<Message>> {
    connection
        .prepare_cached(&format!(
            "WITH latest_of_each (latest) AS (
                 SELECT CASE WHEN large THEN (SELECT latest FROM heads WHERE heads.room = memberships.room) ELSE latest END
                 FROM memberships WHERE user = ?1
             ),
             recent (latest) AS (
                 SELECT latest FROM latest_of_each WHERE latest IS NOT NULL ORDER BY latest DESC LIMIT ?2 OFFSET ?3
             )
             SELECT {} FROM recent CROSS JOIN entries ON entries.id = recent.latest ORDER BY recent.latest DESC",
            rows::MESSAGE
        ))?
        .query_map(params![user, count(limit), count(skip)], rows::message)?
        .collect()
}
