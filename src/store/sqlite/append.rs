//! Appending entries to the logs and applying their effects, in SQLite.

use std::collections::{HashMap, hash_map};

use rusqlite::{Connection, Result, params};

use super::{log, rooms, search};
use crate::{
    model::{MessageId, Room, RoomId, Seq, UserId},
    store::{Appended, LogPosition, NewEntry, NewEntryKind},
};

/// The end of a room's log while a batch is appended.
struct Tail {
    head: log::Head,
    /// The last sequence number before the batch.
    was: Seq,
    /// The number of entries of each author in the batch.
    posted: Vec<(UserId, u64)>,
    /// The room, once it is needed. Cached because a large room is expensive: it is read and
    /// written once for the whole batch.
    room: Option<Room>,
    members_changed: bool,
}

pub fn append(connection: &Connection, batch: &[NewEntry]) -> Result<Vec<Appended>> {
    let mut tails: HashMap<RoomId, Option<Tail>> = HashMap::new();
    let mut appended = Vec::with_capacity(batch.len());
    for entry in batch {
        let tail = match tails.entry(entry.room) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(unknown) => unknown.insert(Tail::find(connection, entry.room)?),
        };
        appended.push(match tail {
            Some(tail) => tail.append(connection, entry)?,
            None => Appended::NoRoom,
        });
    }
    for (room, tail) in tails {
        if let Some(tail) = tail.filter(|tail| tail.head.last_seq > tail.was) {
            tail.save(connection, room)?;
        }
    }
    Ok(appended)
}

impl Tail {
    fn find(connection: &Connection, room: RoomId) -> Result<Option<Self>> {
        Ok(log::head(connection, room)?.map(|head| Self {
            was: head.last_seq,
            head,
            posted: Vec::new(),
            room: None,
            members_changed: false,
        }))
    }

    fn append(&mut self, connection: &Connection, entry: &NewEntry) -> Result<Appended> {
        if self.head.members_changed
            && entry.change.is_for_members()
            && !rooms::is_member(connection, entry.room, entry.author)?
        {
            return Ok(Appended::NotAMember);
        }
        let required_members = entry.change.required_members();
        if !required_members.is_empty()
            && self
                .room(connection, entry.room)?
                .is_some_and(|room| !required_members.iter().any(|user| room.has_member(*user)))
        {
            return Ok(Appended::NoRequiredMember);
        }
        let next = self.next(entry);
        let changed = match &entry.change {
            NewEntryKind::Message { text, client_id } => {
                if let Some(client_id) = client_id
                    && let Some(earlier) =
                        log::sent(connection, entry.room, entry.author, client_id)?
                {
                    return Ok(Appended::Duplicate(Box::new(earlier)));
                }
                connection
                    .prepare_cached(
                        "INSERT INTO entries (room, seq, id, author, text, created_at, client_id) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    )?
                    .execute(params![entry.room, next.seq, entry.id, entry.author, text, next.created_at, client_id])?;
                self.head.latest = Some(entry.id);
                self.count(entry.author, next);
                return Ok(Appended::Placed(next));
            }
            NewEntryKind::Edit { message, text } => {
                edit(connection, entry.room, *message, text, next)?
            }
            NewEntryKind::Deletion(message) => self.delete(connection, entry.room, *message)?,
            NewEntryKind::AddMember(user) => {
                self.add_member(connection, entry.room, *user, next)?
            }
            NewEntryKind::RemoveMember { user, .. } => {
                self.remove_member(connection, entry.room, *user)?
            }
            NewEntryKind::Rename(name) => self.rename(connection, entry.room, name.as_deref())?,
        };
        if !changed {
            return Ok(Appended::Unchanged);
        }
        insert(connection, entry, next)?;
        self.count(entry.author, next);
        if let NewEntryKind::AddMember(user) = entry.change {
            // Only entries after a user joined count as theirs.
            self.posted.retain(|(author, _)| *author != user);
        }
        Ok(Appended::Placed(next))
    }

    fn next(&self, entry: &NewEntry) -> LogPosition {
        LogPosition {
            seq: Seq(self.head.last_seq.0 + 1),
            created_at: self.head.last_at.max(entry.created_at),
        }
    }

    fn count(&mut self, author: UserId, placed: LogPosition) {
        self.head.last_seq = placed.seq;
        self.head.last_at = placed.created_at;
        match self.posted.iter_mut().find(|(known, _)| *known == author) {
            Some((_, posted)) => *posted += 1,
            None => self.posted.push((author, 1)),
        }
    }

    fn delete(&mut self, connection: &Connection, room: RoomId, id: MessageId) -> Result<bool> {
        let Some(message) = log::in_room(connection, room, id)? else {
            return Ok(false);
        };
        connection
            .prepare_cached("UPDATE entries SET text = NULL WHERE room = ? AND seq = ?")?
            .execute(params![room, message.seq])?;
        search::changed(connection, room, message.seq)?;
        if self.head.latest == Some(id) {
            self.head.latest = log::newest(connection, room, message.seq, 1)?
                .pop()
                .map(|message| message.id);
        }
        Ok(true)
    }

    /// Returns the room in its state after the entries appended so far.
    fn room(&mut self, connection: &Connection, id: RoomId) -> Result<Option<&mut Room>> {
        if self.room.is_none() {
            self.room = rooms::find(connection, id)?;
        }
        Ok(self.room.as_mut())
    }

    fn add_member(
        &mut self,
        connection: &Connection,
        id: RoomId,
        user: UserId,
        next: LogPosition,
    ) -> Result<bool> {
        let latest = self.head.latest;
        let Some(room) = self
            .room(connection, id)?
            .filter(|room| !room.has_member(user))
        else {
            return Ok(false);
        };
        rooms::add_member(connection, room, user, next.seq, latest)?;
        (self.head.members_changed, self.members_changed) = (true, true);
        Ok(true)
    }

    fn remove_member(&mut self, connection: &Connection, id: RoomId, user: UserId) -> Result<bool> {
        let latest = self.head.latest;
        let Some(room) = self
            .room(connection, id)?
            .filter(|room| room.has_member(user))
        else {
            return Ok(false);
        };
        rooms::remove_member(connection, room, user, latest)?;
        (self.head.members_changed, self.members_changed) = (true, true);
        Ok(true)
    }

    fn rename(&mut self, connection: &Connection, id: RoomId, name: Option<&str>) -> Result<bool> {
        let Some(room) = self
            .room(connection, id)?
            .filter(|room| room.name.as_deref() != name)
        else {
            return Ok(false);
        };
        room.name = name.map(str::to_owned);
        rooms::rename(connection, id, name)?;
        Ok(true)
    }

    fn save(self, connection: &Connection, room: RoomId) -> Result<()> {
        if let Some(room) = self.room.filter(|_| self.members_changed) {
            rooms::set_members(connection, &room)?;
        }
        let head = self.head;
        connection
            .prepare_cached("UPDATE heads SET last_seq = ?, last_at = ?, latest = ?, members_changed = ? WHERE room = ?")?
            .execute(params![head.last_seq, head.last_at, head.latest, head.members_changed, room])?;
        rooms::set_latest(connection, room, head.latest)?;
        let mut count = connection.prepare_cached(
            "UPDATE memberships SET posted = posted + ? WHERE user = ? AND room = ?",
        )?;
        for (author, posted) in self.posted {
            count.execute(params![posted, author, room])?;
        }
        Ok(())
    }
}

fn edit(
    connection: &Connection,
    room: RoomId,
    id: MessageId,
    text: &str,
    at: LogPosition,
) -> Result<bool> {
    let Some(message) = log::in_room(connection, room, id)? else {
        return Ok(false);
    };
    connection
        .prepare_cached("UPDATE entries SET text = ?, edited_at = ? WHERE room = ? AND seq = ?")?
        .execute(params![text, at.created_at, room, message.seq])?;
    search::changed(connection, room, message.seq)?;
    Ok(true)
}

/// Inserts an entry that is not a message.
fn insert(connection: &Connection, entry: &NewEntry, placed: LogPosition) -> Result<()> {
    let (target, name) = match &entry.change {
        NewEntryKind::Message { .. } => (None, None),
        NewEntryKind::Edit { message, .. } | NewEntryKind::Deletion(message) => {
            (Some(*message.as_bytes()), None)
        }
        NewEntryKind::AddMember(user) | NewEntryKind::RemoveMember { user, .. } => {
            (Some(*user.as_bytes()), None)
        }
        NewEntryKind::Rename(name) => (None, name.as_deref()),
    };
    connection
        .prepare_cached("INSERT INTO entries (room, seq, id, author, created_at, kind, target, name) VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?
        .execute(params![entry.room, placed.seq, entry.id, entry.author, placed.created_at, entry.change.kind(), target, name])
        .map(drop)
}
