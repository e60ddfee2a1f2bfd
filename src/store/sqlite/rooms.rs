//! Rooms and memberships in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Sqlite, purge,
    rows::{self, count},
    search::indexed,
};
use crate::{
    model::{MessageId, Room, RoomId, Seq, Timestamp, UserId},
    store::{Memberships, RemovedMember, Result, Rooms, is_large, member_key},
};

#[async_trait]
impl Rooms for Sqlite {
    async fn find_or_add(&self, room: Room) -> Result<(Arc<Room>, bool)> {
        if room.name.is_none() {
            // Read first, so that a room that exists is found without waiting for writes.
            let key = member_key(&room);
            let found = self
                .threads
                .read(move |connection| find_by_members(connection, key))
                .await?;
            if let Some(found) = found {
                return Ok((Arc::new(found), false));
            }
        }
        self.threads
            .write(move |connection| find_or_add(connection, room))
            .await
    }

    async fn find(&self, id: RoomId) -> Result<Option<Arc<Room>>> {
        let room = self
            .threads
            .read(move |connection| find(connection, id))
            .await?;
        Ok(room.map(Arc::new))
    }

    async fn deleted_members(&self, room: &Arc<Room>) -> Result<Arc<[UserId]>> {
        let room = Arc::clone(room);
        let deleted = self
            .threads
            .read(move |connection| deleted_among(connection, &room.members))
            .await?;
        Ok(deleted.into())
    }

    async fn delete(&self, id: RoomId) -> Result<Option<u64>> {
        let deleted = self
            .threads
            .write_and_scrub(move |connection| delete(connection, id))
            .await?;
        self.room_deleted.notify_one();
        self.to_index.note_erased();
        Ok(deleted)
    }

    /// Returns nothing, because no other server can work on the database.
    async fn removed_members(
        &self,
        _: Option<Timestamp>,
    ) -> Result<(Vec<RemovedMember>, Timestamp)> {
        Ok((Vec::new(), Timestamp::default()))
    }
}

#[async_trait]
impl Memberships for Sqlite {
    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u64,
    ) -> Result<Vec<RoomId>> {
        self.threads
            .read(move |connection| rooms_of(connection, user, after, limit))
            .await
    }

    /// Does nothing, because each membership already counts the user's entries.
    async fn index_writers(&self) -> Result<()> {
        Ok(())
    }

    async fn writers_in(&self, room: &Arc<Room>) -> Result<Vec<UserId>> {
        let id = room.id;
        self.threads
            .read(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT user FROM memberships WHERE room = ? AND posted > 0 ORDER BY user",
                    )?
                    .query_map([id], |row| row.get(0))?
                    .collect()
            })
            .await
    }

    async fn written_by(&self, user: UserId, rooms: &[Arc<Room>]) -> Result<Vec<RoomId>> {
        let rooms: Vec<_> = rooms.iter().map(|room| room.id).collect();
        self.threads
            .read(move |connection| written_by(connection, user, &rooms))
            .await
    }
}

pub fn find(connection: &Connection, id: RoomId) -> rusqlite::Result<Option<Room>> {
    connection
        .prepare_cached(&format!("SELECT {} FROM rooms WHERE id = ?", rows::ROOM))?
        .query_row([id], rows::room)
        .optional()
}

fn find_by_members(
    connection: &Connection,
    member_key: [u8; 32],
) -> rusqlite::Result<Option<Room>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM rooms WHERE member_key = ?",
            rows::ROOM
        ))?
        .query_row([member_key], rows::room)
        .optional()
}

/// Finds the room by its members, unless it has a name, or adds it.
fn find_or_add(connection: &Connection, room: Room) -> rusqlite::Result<(Arc<Room>, bool)> {
    if room.name.is_none()
        && let Some(found) = find_by_members(connection, member_key(&room))?
    {
        return Ok((Arc::new(found), false));
    }
    add(connection, &room)?;
    Ok((Arc::new(room), true))
}

/// Adds a room. A room with a name must not be found by its members: its key is its id, which is
/// shorter than any member key.
fn add(connection: &Connection, room: &Room) -> rusqlite::Result<()> {
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

/// Returns the member key of a room that is not found by its members.
pub fn no_key(room: RoomId) -> Vec<u8> {
    room.as_bytes().to_vec()
}

/// Returns those of the given users who were deleted.
fn deleted_among(connection: &Connection, ids: &[UserId]) -> rusqlite::Result<Vec<UserId>> {
    let mut is_deleted =
        connection.prepare_cached("SELECT 1 FROM users WHERE id = ? AND deleted")?;
    let mut deleted = Vec::new();
    for id in ids {
        if is_deleted.exists([id])? {
            deleted.push(*id);
        }
    }
    Ok(deleted)
}

/// Deletes the room, so that neither it nor anything in it is found any more, and leaves the rest
/// to [`purge`](purge::purge). Returns the number of messages it had.
fn delete(connection: &Connection, id: RoomId) -> rusqlite::Result<Option<u64>> {
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
    purge::schedule(connection, id)?;
    indexed::delete_room(connection, id)?;
    Ok(Some(last_seq - deleted))
}

/// Returns the rooms of a user after `after`. Memberships may outlive their room for a while and
/// are skipped then; see [`delete`].
pub fn rooms_of(
    connection: &Connection,
    user: UserId,
    after: Option<RoomId>,
    limit: u64,
) -> rusqlite::Result<Vec<RoomId>> {
    let after = after.as_ref().map_or(&[][..], |room| room.as_bytes());
    connection
        .prepare_cached(
            "SELECT room FROM memberships WHERE user = ? AND room > ?
             AND EXISTS (SELECT 1 FROM heads WHERE heads.room = memberships.room) ORDER BY room LIMIT ?",
        )?
        .query_map(params![user, after, count(limit)], |row| row.get(0))?
        .collect()
}

/// Returns those of the given rooms to whose log the user has added an entry since joining.
fn written_by(
    connection: &Connection,
    user: UserId,
    rooms: &[RoomId],
) -> rusqlite::Result<Vec<RoomId>> {
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

/// Returns whether the user is a member of the room.
pub fn is_member(connection: &Connection, room: RoomId, user: UserId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM memberships WHERE user = ? AND room = ?")?
        .exists(params![user, room])
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
) -> rusqlite::Result<()> {
    let was_large = is_large(room);
    if let Err(index) = room.members.binary_search(&user) {
        room.members.insert(index, user);
    }
    if let Err(index) = room
        .joined
        .binary_search_by_key(&user, |(member, _)| *member)
    {
        room.joined.insert(index, (user, seq));
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
    update_large(connection, room, was_large, latest)
}

/// Removes a user from a room.
pub fn remove_member(
    connection: &Connection,
    room: &mut Room,
    user: UserId,
    latest: Option<MessageId>,
) -> rusqlite::Result<()> {
    let was_large = is_large(room);
    room.members.retain(|member| *member != user);
    room.joined.retain(|(member, _)| *member != user);
    connection
        .prepare_cached("DELETE FROM memberships WHERE user = ? AND room = ?")?
        .execute(params![user, room.id])?;
    update_large(connection, room, was_large, latest)
}

/// Updates the memberships if the room has become large or small.
fn update_large(
    connection: &Connection,
    room: &Room,
    was_large: bool,
    latest: Option<MessageId>,
) -> rusqlite::Result<()> {
    if is_large(room) != was_large {
        let latest = latest.filter(|_| was_large);
        connection
            .prepare_cached("UPDATE memberships SET large = ?, latest = ? WHERE room = ?")?
            .execute(params![!was_large, latest, room.id])?;
    }
    Ok(())
}

/// Writes the members of the room. From then on, the room is no longer found by its members.
pub fn set_members(connection: &Connection, room: &Room) -> rusqlite::Result<()> {
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

/// Changes or removes the room's name.
pub fn rename(connection: &Connection, room: RoomId, name: Option<&str>) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE rooms SET name = ? WHERE id = ?")?
        .execute(params![name, room])
        .map(drop)
}

/// Stores the latest message of the room in the memberships of a small room.
pub fn set_latest(
    connection: &Connection,
    room: RoomId,
    latest: Option<MessageId>,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE memberships INDEXED BY memberships_small SET latest = ? WHERE room = ? AND NOT large")?
        .execute(params![latest, room])?;
    Ok(())
}
