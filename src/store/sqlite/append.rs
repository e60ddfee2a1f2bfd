//! Appending entries to the logs and applying their effects, in SQLite.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{Sqlite, head::Head, log, rooms, search::indexed::mark_stale};
use crate::{
    model::{MessageId, Room, RoomId, Seq, UserId},
    store::{Appended, Limit, Log, LogPosition, NewEntry, NewEntryKind, Result},
};

#[async_trait]
impl Log for Sqlite {
    async fn append(&self, batch: Vec<NewEntry>) -> Result<Vec<Appended>> {
        let erases = batch.iter().any(|entry| entry.change.erases());
        let batch = Arc::new(batch);
        let entries = Arc::clone(&batch);
        let append = move |connection: &Connection| append(connection, &entries);
        let appended = if erases {
            self.threads.write_and_scrub(append).await
        } else {
            self.threads.write(append).await
        };
        // After the write: before it, the indexer would find nothing to index.
        self.to_index.note(&batch);
        appended
    }
}

/// The end of a room's log while a batch is appended.
struct LogEnd {
    head: Head,
    /// The last sequence number before the batch.
    last_seq_before: Seq,
    /// The number of entries that each author has added since joining the room, in the batch.
    posted: Vec<(UserId, u64)>,
    /// The room, once it is needed. Cached because a large room is expensive: it is read and
    /// written once for the whole batch.
    room: Option<Room>,
    members_changed: bool,
}

fn append(connection: &Connection, batch: &[NewEntry]) -> rusqlite::Result<Vec<Appended>> {
    let mut ends: HashMap<RoomId, Option<LogEnd>> = HashMap::new();
    let mut appended = Vec::with_capacity(batch.len());
    for entry in batch {
        let end = match ends.entry(entry.room) {
            hash_map::Entry::Occupied(occupied) => occupied.into_mut(),
            hash_map::Entry::Vacant(vacant) => vacant.insert(LogEnd::find(connection, entry.room)?),
        };
        appended.push(match end {
            Some(end) => end.append(connection, entry)?,
            None => Appended::NoRoom,
        });
    }
    for (room, end) in ends {
        if let Some(end) = end.filter(|end| end.head.last_seq > end.last_seq_before) {
            end.save(connection, room)?;
        }
    }
    Ok(appended)
}

impl LogEnd {
    fn find(connection: &Connection, room: RoomId) -> rusqlite::Result<Option<Self>> {
        Ok(Head::find(connection, room)?.map(|head| Self {
            last_seq_before: head.last_seq,
            head,
            posted: Vec::new(),
            room: None,
            members_changed: false,
        }))
    }

    fn append(&mut self, connection: &Connection, entry: &NewEntry) -> rusqlite::Result<Appended> {
        if let Some(refused) = self.check(connection, entry)? {
            return Ok(refused);
        }
        let position = self.next(entry);
        if !self.apply(connection, entry, position)? {
            return Ok(Appended::Unchanged);
        }
        insert(connection, entry, position)?;
        self.count(entry.author, position);
        if let NewEntryKind::AddMember(user) = entry.change {
            // Only entries after a user joined count as theirs.
            self.posted.retain(|(author, _)| *author != user);
        }
        Ok(Appended::Placed(position))
    }

    /// Returns the result for an entry that is not permitted or was appended before; `None` for
    /// other entries.
    fn check(
        &mut self,
        connection: &Connection,
        entry: &NewEntry,
    ) -> rusqlite::Result<Option<Appended>> {
        if self.head.members_changed
            && entry.change.is_for_members()
            && !rooms::is_member(connection, entry.room, entry.author)?
        {
            return Ok(Some(Appended::NotAMember));
        }
        let required_members = entry.change.required_members();
        if !required_members.is_empty()
            && self
                .room(connection, entry.room)?
                .is_some_and(|room| !required_members.iter().any(|user| room.has_member(*user)))
        {
            return Ok(Some(Appended::NoRequiredMember));
        }
        let NewEntryKind::Message {
            client_id: Some(client_id),
            ..
        } = &entry.change
        else {
            return Ok(None);
        };
        let earlier = log::with_client_id(connection, entry.room, entry.author, client_id)?;
        Ok(earlier.map(|earlier| Appended::Duplicate(Box::new(earlier))))
    }

    /// Applies the effect of an entry. Returns false if it would change nothing.
    fn apply(
        &mut self,
        connection: &Connection,
        entry: &NewEntry,
        position: LogPosition,
    ) -> rusqlite::Result<bool> {
        match &entry.change {
            NewEntryKind::Message { .. } => {
                self.head.latest = Some(entry.id);
                Ok(true)
            }
            NewEntryKind::Edit { message, text } => {
                edit(connection, entry.room, *message, text, position)
            }
            NewEntryKind::Deletion(message) => self.delete(connection, entry.room, *message),
            NewEntryKind::AddMember(user) => {
                self.add_member(connection, entry.room, *user, position)
            }
            NewEntryKind::RemoveMember { user, .. } => {
                self.remove_member(connection, entry.room, *user)
            }
            NewEntryKind::Rename(name) => self.rename(connection, entry.room, name.as_deref()),
        }
    }

    /// Returns the position of the next entry.
    fn next(&self, entry: &NewEntry) -> LogPosition {
        LogPosition {
            seq: self.head.last_seq.next(),
            created_at: self.head.last_at.max(entry.created_at),
        }
    }

    /// Counts an appended entry.
    fn count(&mut self, author: UserId, position: LogPosition) {
        self.head.last_seq = position.seq;
        self.head.last_at = position.created_at;
        match self.posted.iter_mut().find(|(known, _)| *known == author) {
            Some((_, posted)) => *posted += 1,
            None => self.posted.push((author, 1)),
        }
    }

    fn delete(
        &mut self,
        connection: &Connection,
        room: RoomId,
        id: MessageId,
    ) -> rusqlite::Result<bool> {
        let Some(message) = log::in_room(connection, room, id)? else {
            return Ok(false);
        };
        connection
            .prepare_cached("UPDATE entries SET text = NULL WHERE room = ? AND seq = ?")?
            .execute(params![room, message.seq])?;
        mark_stale(connection, room, message.seq)?;
        if self.head.latest == Some(id) {
            self.head.latest = log::newest(connection, room, message.seq, Limit::items(1))?
                .pop()
                .map(|message| message.id);
        }
        Ok(true)
    }

    /// Returns the room in its state after the entries appended so far.
    fn room(&mut self, connection: &Connection, id: RoomId) -> rusqlite::Result<Option<&mut Room>> {
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
        position: LogPosition,
    ) -> rusqlite::Result<bool> {
        let latest = self.head.latest;
        let Some(room) = self
            .room(connection, id)?
            .filter(|room| !room.has_member(user))
        else {
            return Ok(false);
        };
        rooms::add_member(connection, room, user, position.seq, latest)?;
        (self.head.members_changed, self.members_changed) = (true, true);
        Ok(true)
    }

    fn remove_member(
        &mut self,
        connection: &Connection,
        id: RoomId,
        user: UserId,
    ) -> rusqlite::Result<bool> {
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

    fn rename(
        &mut self,
        connection: &Connection,
        id: RoomId,
        name: Option<&str>,
    ) -> rusqlite::Result<bool> {
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

    /// Writes what the batch has changed besides the entries.
    fn save(self, connection: &Connection, room: RoomId) -> rusqlite::Result<()> {
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
    position: LogPosition,
) -> rusqlite::Result<bool> {
    let Some(message) = log::in_room(connection, room, id)? else {
        return Ok(false);
    };
    connection
        .prepare_cached("UPDATE entries SET text = ?, edited_at = ? WHERE room = ? AND seq = ?")?
        .execute(params![text, position.created_at, room, message.seq])?;
    mark_stale(connection, room, message.seq)?;
    Ok(true)
}

fn insert(
    connection: &Connection,
    entry: &NewEntry,
    position: LogPosition,
) -> rusqlite::Result<()> {
    let (target, name) = match &entry.change {
        NewEntryKind::Message { text, client_id } => {
            return connection
                .prepare_cached(
                    "INSERT INTO entries (room, seq, id, author, text, created_at, client_id) VALUES (?, ?, ?, ?, ?, ?, ?)",
                )?
                .execute(params![entry.room, position.seq, entry.id, entry.author, text, position.created_at, client_id])
                .map(drop);
        }
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
        .execute(params![entry.room, position.seq, entry.id, entry.author, position.created_at, entry.change.kind(), target, name])
        .map(drop)
}
