//! Rooms, who is in them, and whose conversations are recent, in SQLite.

use rusqlite::{Connection, OptionalExtension, Result, params, types::ValueRef};

use super::{
    rows::{self, count},
    search,
    slice::Slice,
};
use crate::{
    model::{MessageId, Room, RoomId, Seq, UserId},
    store::{ListedRoom, RoomPage, is_large, member_key},
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

/// The members who have put an entry into the room's log, ascending.
pub fn writers(connection: &Connection, room: RoomId) -> Result<Vec<UserId>> {
    connection
        .prepare_cached("SELECT user FROM memberships WHERE room = ? AND posted > 0 ORDER BY user")?
        .query_map([room], |row| row.get(0))?
        .collect()
}

/// Those of these rooms in whose log the user has put an entry.
pub fn written_by(connection: &Connection, user: UserId, rooms: &[RoomId]) -> Result<Vec<RoomId>> {
    let mut has_posted = connection.prepare_cached("SELECT 1 FROM memberships WHERE user = ? AND room = ? AND posted > 0")?;
    let mut written = Vec::new();
    for room in rooms {
        if has_posted.exists(params![user, room])? {
            written.push(*room);
        }
    }
    Ok(written)
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
    search::delete_room(connection, id)?;
    Ok(Some(last_seq - deleted))
}

/// Takes away a slice of what deleted rooms have left behind. True when there is more.
pub fn purge(connection: &Connection) -> Result<bool> {
    let room = connection.prepare_cached("SELECT room FROM purges LIMIT 1")?.query_row([], |row| row.get::<_, RoomId>(0)).optional()?;
    let Some(room) = room else { return Ok(false) };
    let slice = Slice::new();
    while slice.has_time_left() {
        if !(purge_entry(connection, room)? || purge_some(connection, room)?) {
            connection.prepare_cached("DELETE FROM purges WHERE room = ?")?.execute([room])?;
            break;
        }
    }
    connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM purges)")?.query_row([], |row| row.get(0))
}

/// Takes away the first entry of a deleted room. False when there is none.
fn purge_entry(connection: &Connection, room: RoomId) -> Result<bool> {
    let first = "DELETE FROM entries WHERE room = ?1 AND seq = (SELECT min(seq) FROM entries WHERE room = ?1)";
    Ok(connection.prepare_cached(first)?.execute([room])? > 0)
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

/// A page of the user's rooms; a membership may outlive its room for a while: see [`delete`]. The place of a room is that of its latest message, or else of its creation: ids of both ascend with time.
pub fn recents(connection: &Connection, page: RoomPage) -> Result<Vec<ListedRoom>> {
    let RoomPage { user, since_joined, with_empty, skip, limit } = page;
    connection
        .prepare_cached(&format!(
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
             ),
             recent (listed, latest) AS (
                 SELECT listed, latest FROM visible WHERE ?5 OR latest IS NOT NULL
                 ORDER BY coalesce(latest, listed) DESC LIMIT ?2 OFFSET ?3
             )
             SELECT {}, listed FROM recent LEFT JOIN entries ON entries.id = recent.latest
             ORDER BY coalesce(recent.latest, listed) DESC",
            rows::MESSAGE
        ))?
        .query_map(params![user, count(limit), count(skip), since_joined, with_empty], |row| {
            let has_message = row.get_ref(0)? != ValueRef::Null;
            Ok(ListedRoom { room: row.get(8)?, latest: has_message.then(|| rows::message(row)).transpose()? })
        })?
        .collect()
}
