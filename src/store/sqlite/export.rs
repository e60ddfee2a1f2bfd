//! Exporting the data, from SQLite.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, ffi, params, types::FromSqlError};

use super::{
    Sqlite,
    database::find_token_secret,
    head::Head,
    rows::{self, count},
};
use crate::{
    model::{
        Credentials, PasswordHash, ReadMark, RoomId, Seq, UserId, Username,
        entry::{DELETION, EDIT, MEMBER_ADDED, MEMBER_REMOVED, RENAMED},
    },
    store::{ChangeRecord, EntryRecord, Export, Limit, Result, RoomRecord, UserRecord},
};

/// The length of the member key of a room that is found by its members.
const MEMBER_KEY_LENGTH: u64 = 32;

#[async_trait]
impl Export for Sqlite {
    async fn signing_key(&self) -> Result<Option<[u8; 32]>> {
        self.threads.read(find_token_secret).await
    }

    async fn count_entries(&self) -> Result<u64> {
        self.threads
            .read(|connection| {
                connection.query_row("SELECT coalesce(sum(last_seq), 0) FROM heads", [], |row| {
                    row.get(0)
                })
            })
            .await
    }

    async fn users(&self, after: Option<UserId>, limit: u64) -> Result<Vec<UserRecord>> {
        self.threads
            .read(move |connection| users(connection, after, limit))
            .await
    }

    async fn rooms(&self, after: Option<RoomId>, limit: u64) -> Result<Vec<RoomId>> {
        self.threads
            .read(move |connection| {
                let after = after.as_ref().map_or(&[][..], |room| room.as_bytes());
                connection
                    .prepare_cached("SELECT id FROM rooms WHERE id > ? ORDER BY id LIMIT ?")?
                    .query_map(params![after, count(limit)], |row| row.get(0))?
                    .collect()
            })
            .await
    }

    async fn room(&self, id: RoomId) -> Result<Option<RoomRecord>> {
        self.threads
            .read(move |connection| room(connection, id))
            .await
    }

    async fn entries(
        &self,
        room: RoomId,
        after: Seq,
        up_to: Seq,
        limit: Limit,
    ) -> Result<Vec<EntryRecord>> {
        self.threads
            .read(move |connection| entries(connection, room, (after, up_to), limit))
            .await
    }

    async fn marks(
        &self,
        room: RoomId,
        after: Option<(UserId, Seq)>,
        limit: u64,
    ) -> Result<Vec<ReadMark>> {
        self.threads
            .read(move |connection| marks(connection, room, after, limit))
            .await
    }
}

fn users(
    connection: &Connection,
    after: Option<UserId>,
    limit: u64,
) -> rusqlite::Result<Vec<UserRecord>> {
    let after = after.as_ref().map_or(&[][..], |user| user.as_bytes());
    connection
        .prepare_cached(&format!(
            "SELECT {}, username, password, last_seen_at FROM users
             LEFT JOIN accounts ON accounts.user = id LEFT JOIN presence ON presence.user = id
             WHERE id > ? ORDER BY id LIMIT ?",
            rows::USER
        ))?
        .query_map(params![after, count(limit)], user_record)?
        .collect()
}

/// Reads a row with the columns of [`rows::user`], `username`, `password` and `last_seen_at`.
fn user_record(row: &Row<'_>) -> rusqlite::Result<UserRecord> {
    let username = row.get_ref(7)?.as_str_or_null()?;
    let credentials = match (username, row.get::<_, Option<String>>(8)?) {
        (Some(username), Some(password)) => Some(Credentials {
            username: Username::parse(username).ok_or(FromSqlError::InvalidType)?,
            password: PasswordHash(password),
        }),
        _ => None,
    };
    Ok(UserRecord {
        user: rows::user(row)?,
        credentials,
        last_seen: row.get(9)?,
    })
}

/// Returns a room together with the end of its log.
pub fn room(connection: &Connection, id: RoomId) -> rusqlite::Result<Option<RoomRecord>> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT {}, length(member_key) FROM rooms WHERE id = ?",
            rows::ROOM
        ))?
        .query_row([id], |row| Ok((rows::room(row)?, row.get::<_, u64>(7)?)))
        .optional()?;
    let Some((room, key_length)) = found else {
        return Ok(None);
    };
    let head = Head::find(connection, id)?.ok_or_else(|| {
        rusqlite::Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_CORRUPT),
            Some(format!("the head of room {id} is missing")),
        )
    })?;
    Ok(Some(RoomRecord {
        room,
        found_by_members: key_length == MEMBER_KEY_LENGTH,
        members_changed: head.members_changed,
        last_seq: head.last_seq,
    }))
}

fn entries(
    connection: &Connection,
    room: RoomId,
    (after, up_to): (Seq, Seq),
    limit: Limit,
) -> rusqlite::Result<Vec<EntryRecord>> {
    let mut entries = connection.prepare_cached(&format!(
        "SELECT {} FROM entries WHERE room = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
        rows::ENTRY
    ))?;
    let mut entries = entries.query(params![room, after, up_to, count(limit.items)])?;
    let (mut page, mut bytes) = (Vec::new(), 0);
    while bytes < limit.bytes
        && let Some(row) = entries.next()?
    {
        let entry = entry_record(row)?;
        if let ChangeRecord::Message {
            text: Some(text), ..
        } = &entry.change
        {
            bytes += text.len() as u64;
        }
        page.push(entry);
    }
    Ok(page)
}

/// Reads a row with the columns [`rows::ENTRY`].
pub fn entry_record(row: &Row<'_>) -> rusqlite::Result<EntryRecord> {
    let change = match row.get_ref(8)?.as_str_or_null()? {
        None => ChangeRecord::Message {
            text: row.get(4)?,
            client_id: row.get(7)?,
            edited_at: row.get(6)?,
        },
        Some(EDIT) => ChangeRecord::Edit(row.get(9)?),
        Some(DELETION) => ChangeRecord::Deletion(row.get(9)?),
        Some(MEMBER_ADDED) => ChangeRecord::MemberAdded(row.get(9)?),
        Some(MEMBER_REMOVED) => ChangeRecord::MemberRemoved(row.get(9)?),
        Some(RENAMED) => ChangeRecord::Renamed(row.get(10)?),
        Some(_) => return Err(FromSqlError::InvalidType.into()),
    };
    Ok(EntryRecord {
        room: row.get(1)?,
        seq: row.get(2)?,
        id: row.get(0)?,
        author: row.get(3)?,
        created_at: row.get(5)?,
        change,
    })
}

fn marks(
    connection: &Connection,
    room: RoomId,
    after: Option<(UserId, Seq)>,
    limit: u64,
) -> rusqlite::Result<Vec<ReadMark>> {
    let (user, up_to) = after.unwrap_or((UserId::UNKNOWN, Seq(0)));
    connection
        .prepare_cached(
            "SELECT user, up_to_seq, read_at FROM read_marks
             WHERE room = ? AND (user, up_to_seq) > (?, ?) ORDER BY user, up_to_seq LIMIT ?",
        )?
        .query_map(params![room, user, up_to, count(limit)], rows::read_mark)?
        .collect()
}
