//! Importing exported data, into SQLite.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Sqlite, log, recount::Recount, rooms, rows};
use crate::{
    model::{ClientId, RoomId, Seq, Timestamp},
    store::{
        ChangeRecord, EntryRecord, Import, ImportStart, ImportedLog, Limit, MarkRecord, Result,
        RoomRecord, RoomTotals, UserRecord, is_large, member_key,
    },
};

/// The row of the table `secrets` with the id of an import that has not finished. It is no secret,
/// but it is a single value as well.
const UNFINISHED: &str = "import";

#[async_trait]
impl Import for Sqlite {
    async fn is_importing(&self) -> Result<bool> {
        let unfinished = self.threads.read(unfinished).await?;
        Ok(unfinished.is_some())
    }

    async fn begin_import(&self, id: &str) -> Result<ImportStart> {
        let id = id.to_owned();
        self.threads
            .write(move |connection| begin(connection, &id))
            .await
    }

    async fn set_signing_key(&self, key: [u8; 32]) -> Result<()> {
        self.threads
            .write(move |connection| {
                connection
                    .execute(
                        "INSERT OR REPLACE INTO secrets (name, value) VALUES ('token', ?)",
                        [key],
                    )
                    .map(drop)
            })
            .await
    }

    async fn add_users(&self, users: Vec<UserRecord>) -> Result<()> {
        self.threads
            .write(move |connection| users.iter().try_for_each(|user| add_user(connection, user)))
            .await
    }

    async fn add_rooms(&self, rooms: Vec<RoomRecord>) -> Result<Vec<ImportedLog>> {
        self.threads
            .write(move |connection| {
                let mut logs = Vec::new();
                for room in &rooms {
                    add_room(connection, room)?;
                    logs.extend(imported_log(connection, room.room.id)?);
                }
                Ok(logs)
            })
            .await
    }

    async fn add_entries(&self, entries: Vec<EntryRecord>) -> Result<()> {
        self.threads
            .write(move |connection| {
                entries
                    .iter()
                    .try_for_each(|entry| add_entry(connection, entry))
            })
            .await
    }

    async fn add_marks(&self, marks: Vec<MarkRecord>) -> Result<()> {
        self.threads
            .write(move |connection| add_marks(connection, &marks))
            .await
    }

    async fn finish_rooms(&self, rooms: Vec<RoomId>) -> Result<Vec<RoomTotals>> {
        self.threads
            .write(move |connection| {
                rooms
                    .iter()
                    .map(|room| finish_room(connection, *room))
                    .collect()
            })
            .await
    }

    async fn count_users_and_rooms(&self) -> Result<(u64, u64)> {
        let counts = "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM rooms)";
        self.threads
            .read(move |connection| {
                connection.query_row(counts, [], |row| Ok((row.get(0)?, row.get(1)?)))
            })
            .await
    }

    async fn end_import(&self) -> Result<()> {
        self.threads
            .write(|connection| {
                connection
                    .execute("DELETE FROM secrets WHERE name = ?", [UNFINISHED])
                    .map(drop)
            })
            .await
    }
}

/// Returns the id of the import that has not finished, if any.
fn unfinished(connection: &Connection) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .query_row(
            "SELECT value FROM secrets WHERE name = ?",
            [UNFINISHED],
            |row| row.get(0),
        )
        .optional()
}

fn begin(connection: &Connection, id: &str) -> rusqlite::Result<ImportStart> {
    if let Some(unfinished) = unfinished(connection)? {
        return Ok(if unfinished == id.as_bytes() {
            ImportStart::Continued
        } else {
            ImportStart::OtherImport
        });
    }
    let has_data = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM users) OR EXISTS (SELECT 1 FROM rooms) OR EXISTS (SELECT 1 FROM entries)",
        [],
        |row| row.get::<_, bool>(0),
    )?;
    if has_data {
        return Ok(ImportStart::HasData);
    }
    connection.execute(
        "INSERT INTO secrets (name, value) VALUES (?, ?)",
        params![UNFINISHED, id.as_bytes()],
    )?;
    Ok(ImportStart::New)
}

fn add_user(connection: &Connection, record: &UserRecord) -> rusqlite::Result<()> {
    let user = &record.user;
    connection
        .prepare_cached(
            "INSERT INTO users (id, first_name, last_name, type, created_at, updated_at, deleted)
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            user.id,
            user.first_name,
            user.last_name,
            user.kind,
            user.created_at,
            user.updated_at,
            user.deleted
        ])?;
    if let Some(credentials) = &record.credentials {
        connection
            .prepare_cached("INSERT INTO accounts (user, username, password) VALUES (?, ?, ?) ON CONFLICT (user) DO NOTHING")?
            .execute(params![user.id, credentials.username.as_str(), credentials.password.0])?;
    }
    if let Some(last_seen) = record.last_seen {
        connection
            .prepare_cached("INSERT INTO presence (user, last_seen_at) VALUES (?, ?) ON CONFLICT (user) DO NOTHING")?
            .execute(params![user.id, last_seen])?;
    }
    Ok(())
}

/// Adds a room with an empty log, unless it exists.
fn add_room(connection: &Connection, record: &RoomRecord) -> rusqlite::Result<()> {
    let room = &record.room;
    let key = if record.found_by_members {
        member_key(room).to_vec()
    } else {
        rooms::no_key(room.id)
    };
    connection
        .prepare_cached(
            "INSERT INTO rooms (id, type, initiator, members, member_key, created_at, name, joined)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            room.id,
            room.kind,
            room.initiator,
            rows::members_column(room),
            key,
            room.created_at,
            room.name,
            rows::joined_column(room)
        ])?;
    connection
        .prepare_cached("INSERT INTO heads (room, last_seq, last_at, members_changed) VALUES (?, 0, 0, ?) ON CONFLICT (room) DO NOTHING")?
        .execute(params![room.id, record.members_changed])?;
    let mut membership = connection.prepare_cached(
        "INSERT INTO memberships (user, room, large, joined) VALUES (?, ?, ?, ?) ON CONFLICT (user, room) DO NOTHING",
    )?;
    for member in &room.members {
        let joined = room.visible_from(*member);
        membership.execute(params![member, room.id, is_large(room), joined])?;
    }
    Ok(())
}

fn imported_log(connection: &Connection, room: RoomId) -> rusqlite::Result<Option<ImportedLog>> {
    connection
        .prepare_cached("SELECT seq, id FROM entries WHERE room = ? ORDER BY seq DESC LIMIT 1")?
        .query_row([room], |row| {
            Ok(ImportedLog {
                room,
                last_seq: row.get(0)?,
                last_id: row.get(1)?,
            })
        })
        .optional()
}

/// The columns of an entry that depend on what it records.
#[derive(Default)]
struct ChangeColumns<'a> {
    text: Option<&'a str>,
    client_id: Option<&'a ClientId>,
    edited_at: Option<Timestamp>,
    target: Option<[u8; 16]>,
    name: Option<&'a str>,
}

impl<'a> ChangeColumns<'a> {
    fn of(change: &'a ChangeRecord) -> Self {
        let (target, name) = match change {
            ChangeRecord::Message {
                text,
                client_id,
                edited_at,
            } => {
                return Self {
                    text: text.as_deref(),
                    client_id: client_id.as_ref(),
                    edited_at: *edited_at,
                    ..Self::default()
                };
            }
            ChangeRecord::Edit(message) | ChangeRecord::Deletion(message) => {
                (Some(*message.as_bytes()), None)
            }
            ChangeRecord::MemberAdded(user) | ChangeRecord::MemberRemoved(user) => {
                (Some(*user.as_bytes()), None)
            }
            ChangeRecord::Renamed(name) => (None, name.as_deref()),
        };
        Self {
            target,
            name,
            ..Self::default()
        }
    }
}

fn add_entry(connection: &Connection, entry: &EntryRecord) -> rusqlite::Result<()> {
    let change = ChangeColumns::of(&entry.change);
    connection
        .prepare_cached(
            "INSERT INTO entries (room, seq, id, author, text, created_at, kind, target, name, edited_at, client_id)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            entry.room,
            entry.seq,
            entry.id,
            entry.author,
            change.text,
            entry.created_at,
            entry.change.kind(),
            change.target,
            change.name,
            change.edited_at,
            change.client_id
        ])
        .map(drop)
}

/// Adds read marks. Of each reader's own entries up to a mark, the number is counted by
/// [`finish_room`], for the last mark only: the others are not used.
fn add_marks(connection: &Connection, marks: &[MarkRecord]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO read_marks (room, user, up_to_seq, read_at, posted) VALUES (?, ?, ?, ?, 0)
         ON CONFLICT (room, user, up_to_seq) DO NOTHING",
    )?;
    for MarkRecord { room, mark, .. } in marks {
        insert.execute(params![room, mark.user, mark.up_to, mark.read_at])?;
    }
    Ok(())
}

/// Computes the head of the log, the latest message in the memberships and the members' own
/// entries. The search index is built once a server runs.
fn finish_room(connection: &Connection, room: RoomId) -> rusqlite::Result<RoomTotals> {
    let mut recount = Recount::begin(connection, room)?;
    let (mut last_seq, mut last_at) = (Seq(0), Timestamp(0));
    let (mut entries, mut messages) = (0, 0);
    let mut log = connection.prepare_cached(
        "SELECT seq, author, created_at, text IS NOT NULL FROM entries WHERE room = ? ORDER BY seq",
    )?;
    let mut rows = log.query([room])?;
    while let Some(row) = rows.next()? {
        (last_seq, last_at) = (row.get(0)?, row.get(2)?);
        recount.add(last_seq, row.get(1)?);
        entries += 1;
        messages += u64::from(row.get::<_, bool>(3)?);
    }
    store_counts(connection, room, &recount)?;
    let latest = log::newest(connection, room, last_seq, Limit::items(1))?
        .pop()
        .map(|message| message.id);
    connection
        .prepare_cached("UPDATE heads SET last_seq = ?, last_at = ?, latest = ? WHERE room = ?")?
        .execute(params![last_seq, last_at, latest, room])?;
    rooms::set_latest(connection, room, latest)?;
    let marks = connection
        .prepare_cached("SELECT count(*) FROM read_marks WHERE room = ?")?
        .query_row([room], |row| row.get(0))?;
    Ok(RoomTotals {
        room,
        last_seq,
        entries,
        messages,
        marks,
    })
}

fn store_counts(connection: &Connection, room: RoomId, recount: &Recount) -> rusqlite::Result<()> {
    let mut membership = connection
        .prepare_cached("UPDATE memberships SET posted = ? WHERE user = ? AND room = ?")?;
    let mut last_mark = connection.prepare_cached(
        "UPDATE read_marks SET posted = ? WHERE room = ? AND user = ? AND up_to_seq = ?",
    )?;
    for (user, member) in &recount.0 {
        membership.execute(params![member.posted.counted, user, room])?;
        if let Some(mark) = &member.last_mark {
            last_mark.execute(params![mark.posted.counted, room, user, mark.up_to])?;
        }
    }
    Ok(())
}
