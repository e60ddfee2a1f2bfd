//! Rooms, memberships and recent conversations in SQLite.

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

/// The number of rows of a deleted room that are deleted in one statement.
const PURGE: u64 = 100;

pub fn find(connection: &Connection, id: RoomId) -> Result<Option<Room>> {
    connection
        .prepare_cached(&format!("SELECT {} FROM rooms WHERE id = ?", rows::ROOM))?
        .query_row([id], rows::room)
        .optional()
}

pub fn find_by_members(connection: &Connection, room: &Room) -> Result<Option<Room>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM rooms WHERE member_key = ?",
            rows::ROOM
        ))?
        .query_row([member_key(room)], rows::room)
        .optional()
}

/// Adds a room. A room with a name must not be found by its members: its key is its id, which is
/// shorter than any member key.
pub fn add(connection: &Connection, room: &Room) -> Result<()> {
    let key = if room.name.is_none() {
        member_key(room).to_vec()
    } else {
        no_key(room.id)
    };
    connection
        .prepare_cached("INSERT INTO rooms (id, type, initiator, members, member_key, created_at, name) VALUES (?, ?, ?, ?, ?, ?, ?)")?
        .execute(params![room.id, room.kind, room.initiator, rows::members_column(room), key, room.created_at, room.name])?;
    connection
        .prepare_cached("INSERT INTO heads (room, last_seq, last_at) VALUES (?, 0, 0)")?
        .execute([room.id])?;
    let mut membership = connection
        .prepare_cached("INSERT INTO memberships (user, room, large) VALUES (?, ?, ?)")?;
    for member in &room.members {
        membership.execute(params![member, room.id, is_large(room)])?;
    }
    Ok(())
}

fn no_key(room: RoomId) -> Vec<u8> {
    room.as_bytes().to_vec()
}

/// Returns whether the user is a member of the room.
pub fn is_member(connection: &Connection, room: RoomId, user: UserId) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM memberships WHERE user = ? AND room = ?")?
        .exists(params![user, room])
}

/// Returns the rooms of a user after `after`. Memberships may outlive their room for a while and
/// are skipped then; see [`delete`].
pub fn of_user(
    connection: &Connection,
    user: UserId,
    after: Option<RoomId>,
    limit: u64,
) -> Result<Vec<RoomId>> {
    let after = after.as_ref().map_or(&[][..], |room| room.as_bytes());
    connection
        .prepare_cached(
            "SELECT room FROM memberships WHERE user = ? AND room > ?
             AND EXISTS (SELECT 1 FROM heads WHERE heads.room = memberships.room) ORDER BY room LIMIT ?",
        )?
        .query_map(params![user, after, count(limit)], |row| row.get(0))?
        .collect()
}

/// Adds a user who is not a member to a room; `seq` is the entry that records it and `latest` the
/// room's latest message. As with [`remove_member`], the caller has to write the changed room with
/// [`set_members`].
pub fn add_member(
    connection: &Connection,
    room: &mut Room,
    user: UserId,
    seq: Seq,
    latest: Option<MessageId>,
) -> Result<()> {
    let was_large = is_large(room);
    if let Err(place) = room.members.binary_search(&user) {
        room.members.insert(place, user);
    }
    if let Err(place) = room
        .joined
        .binary_search_by_key(&user, |(member, _)| *member)
    {
        room.joined.insert(place, (user, seq));
    }
    connection
        .prepare_cached(
            "INSERT INTO memberships (user, room, large, latest, joined) VALUES (?, ?, ?, ?, ?)",
        )?
        .execute(params![
            user,
            room.id,
            was_large,
            latest.filter(|_| !was_large),
            seq
        ])?;
    note_size(connection, room, was_large, latest)
}

/// Removes a user from a room.
pub fn remove_member(
    connection: &Connection,
    room: &mut Room,
    user: UserId,
    latest: Option<MessageId>,
) -> Result<()> {
    let was_large = is_large(room);
    room.members.retain(|member| *member != user);
    room.joined.retain(|(member, _)| *member != user);
    connection
        .prepare_cached("DELETE FROM memberships WHERE user = ? AND room = ?")?
        .execute(params![user, room.id])?;
    note_size(connection, room, was_large, latest)
}

/// Updates the memberships if the room has become large or small.
fn note_size(
    connection: &Connection,
    room: &Room,
    was_large: bool,
    latest: Option<MessageId>,
) -> Result<()> {
    if is_large(room) != was_large {
        let latest = latest.filter(|_| was_large);
        connection
            .prepare_cached("UPDATE memberships SET large = ?, latest = ? WHERE room = ?")?
            .execute(params![!was_large, latest, room.id])?;
    }
    Ok(())
}

/// Writes the members of the room. From then on, the room is no longer found by its members.
pub fn set_members(connection: &Connection, room: &Room) -> Result<()> {
    connection
        .prepare_cached("UPDATE rooms SET members = ?, joined = ?, member_key = ? WHERE id = ?")?
        .execute(params![
            rows::members_column(room),
            rows::joined_column(room),
            no_key(room.id),
            room.id
        ])
        .map(drop)
}

/// Returns the members who have added an entry to the room's log since they joined, ascending.
pub fn writers(connection: &Connection, room: RoomId) -> Result<Vec<UserId>> {
    connection
        .prepare_cached("SELECT user FROM memberships WHERE room = ? AND posted > 0 ORDER BY user")?
        .query_map([room], |row| row.get(0))?
        .collect()
}

/// Returns those of the given rooms to whose log the user has added an entry since joining.
pub fn written_by(connection: &Connection, user: UserId, rooms: &[RoomId]) -> Result<Vec<RoomId>> {
    let mut has_posted = connection
        .prepare_cached("SELECT 1 FROM memberships WHERE user = ? AND room = ? AND posted > 0")?;
    let mut written = Vec::new();
    for room in rooms {
        if has_posted.exists(params![user, room])? {
            written.push(*room);
        }
    }
    Ok(written)
}

/// Changes or removes the room's name.
pub fn rename(connection: &Connection, room: RoomId, name: Option<&str>) -> Result<()> {
    connection
        .prepare_cached("UPDATE rooms SET name = ? WHERE id = ?")?
        .execute(params![name, room])
        .map(drop)
}

/// Deletes the room, so that neither it nor anything in it is found any more, and leaves the rest
/// to [`purge`]. Returns the number of messages it had.
pub fn delete(connection: &Connection, id: RoomId) -> Result<Option<u64>> {
    let last_seq = connection
        .prepare_cached("DELETE FROM heads WHERE room = ? RETURNING last_seq")?
        .query_row([id], |row| row.get::<_, u64>(0))
        .optional()?;
    let Some(last_seq) = last_seq else {
        return Ok(None);
    };
    let deleted = connection
        .prepare_cached("SELECT count(*) FROM entries INDEXED BY entries_deleted WHERE room = ? AND text IS NULL")?
        .query_row([id], |row| row.get::<_, u64>(0))?;
    connection
        .prepare_cached("DELETE FROM rooms WHERE id = ?")?
        .execute([id])?;
    // Memberships of a small room contain its latest message. Those of a large room do not, and are
    // too many to delete at once.
    connection
        .prepare_cached(
            "DELETE FROM memberships INDEXED BY memberships_small WHERE room = ? AND NOT large",
        )?
        .execute([id])?;
    connection
        .prepare_cached("INSERT INTO purges (room) VALUES (?)")?
        .execute([id])?;
    search::delete_room(connection, id)?;
    Ok(Some(last_seq - deleted))
}

/// Deletes a slice of the remaining data of deleted rooms. Returns true if there is more.
pub fn purge(connection: &Connection) -> Result<bool> {
    let room = connection
        .prepare_cached("SELECT room FROM purges LIMIT 1")?
        .query_row([], |row| row.get::<_, RoomId>(0))
        .optional()?;
    let Some(room) = room else { return Ok(false) };
    let slice = Slice::new();
    while slice.has_time_left() {
        if !(purge_entry(connection, room)? || purge_some(connection, room)?) {
            connection
                .prepare_cached("DELETE FROM purges WHERE room = ?")?
                .execute([room])?;
            break;
        }
    }
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM purges)")?
        .query_row([], |row| row.get(0))
}

/// Deletes the first entry of a deleted room. Returns false if there is none.
fn purge_entry(connection: &Connection, room: RoomId) -> Result<bool> {
    let first = "DELETE FROM entries WHERE room = ?1 AND seq = (SELECT min(seq) FROM entries WHERE room = ?1)";
    Ok(connection.prepare_cached(first)?.execute([room])? > 0)
}

/// Deletes some read marks and memberships of a deleted room. Returns false if there are none.
fn purge_some(connection: &Connection, room: RoomId) -> Result<bool> {
    let mut deleted = 0;
    for (table, key) in [("read_marks", "user, up_to_seq"), ("memberships", "user")] {
        let some = format!(
            "DELETE FROM {table} WHERE room = ?1 AND ({key}) IN (SELECT {key} FROM {table} WHERE room = ?1 LIMIT ?2)"
        );
        deleted += connection
            .prepare_cached(&some)?
            .execute(params![room, PURGE])?;
    }
    Ok(deleted > 0)
}

/// Stores the latest message of the room in the memberships of a small room.
pub fn set_latest(connection: &Connection, room: RoomId, latest: Option<MessageId>) -> Result<()> {
    connection
        .prepare_cached("UPDATE memberships INDEXED BY memberships_small SET latest = ? WHERE room = ? AND NOT large")?
        .execute(params![latest, room])?;
    Ok(())
}

/// Returns a page of the user's rooms. Memberships may outlive their room for a while; see
/// [`delete`]. Rooms are ordered by the id of their latest message, or else by their own id: both
/// ascend with time.
pub fn recents(connection: &Connection, page: RoomPage) -> Result<Vec<ListedRoom>> {
    let RoomPage {
        user,
        since_joined,
        with_empty,
        skip,
        limit,
    } = page;
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
