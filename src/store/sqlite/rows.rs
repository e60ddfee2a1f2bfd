//! Conversions between model types and columns.

use rusqlite::{
    Row, Rows,
    types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef},
};

use crate::{
    model::{
        ClientId, Entry, EntryKind, Message, MessageId, ReadMark, Room, RoomId, RoomType, Seq,
        SessionId, Timestamp, User, UserId, UserType, entry,
    },
    store::{
        Limit,
        limit::{PageBuilder, PageItem},
    },
};

macro_rules! id_column {
    ($($id:ty),+) => {$(
        impl ToSql for $id {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.as_bytes())))
            }
        }

        impl FromSql for $id {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                <[u8; 16]>::column_result(value).map(Self::from_bytes)
            }
        }
    )+};
}

id_column!(UserId, RoomId, MessageId, SessionId);

macro_rules! name_column {
    ($($name:ty),+) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                Self::parse(value.as_str()?).ok_or(FromSqlError::InvalidType)
            }
        }
    )+};
}

name_column!(UserType, RoomType);

impl ToSql for ClientId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for ClientId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::parse(value.as_str()?).ok_or(FromSqlError::InvalidType)
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self)
    }
}

impl ToSql for Seq {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        // A client may request a number beyond the range of SQLite; no entry has such a number.
        Ok(i64::try_from(self.0).unwrap_or(i64::MAX).into())
    }
}

impl FromSql for Seq {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        u64::column_result(value).map(Self)
    }
}

/// The columns of [`user`], in its order.
pub const USER: &str = "id, first_name, last_name, type, created_at, updated_at, deleted";

/// Reads a user from a row with the columns [`USER`].
pub fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        id: row.get(0)?,
        first_name: row.get(1)?,
        last_name: row.get(2)?,
        kind: row.get(3)?,
        created_at: row.get(4)?,
        updated_at: row.get(5)?,
        deleted: row.get(6)?,
    })
}

/// The columns of [`room`], in its order.
pub const ROOM: &str = "id, type, initiator, members, created_at, name, joined";

/// Reads a room from a row with the columns [`ROOM`].
pub fn room(row: &Row<'_>) -> rusqlite::Result<Room> {
    let (members, _) = row.get_ref(3)?.as_blob()?.as_chunks::<16>();
    let (joined, _) = row
        .get_ref(6)?
        .as_blob_or_null()?
        .unwrap_or_default()
        .as_chunks::<24>();
    Ok(Room {
        id: row.get(0)?,
        kind: row.get(1)?,
        name: row.get(5)?,
        initiator: row.get(2)?,
        members: members.iter().map(|id| UserId::from_bytes(*id)).collect(),
        joined: joined.iter().map(|member| member_joined(*member)).collect(),
        created_at: row.get(4)?,
    })
}

/// Encodes the column `members`.
pub fn members_column(room: &Room) -> Vec<u8> {
    room.members
        .iter()
        .flat_map(UserId::as_bytes)
        .copied()
        .collect()
}

/// Encodes the column `joined`.
pub fn joined_column(room: &Room) -> Option<Vec<u8>> {
    let bytes = |(member, seq): &(UserId, Seq)| {
        member
            .as_bytes()
            .iter()
            .copied()
            .chain(seq.0.to_be_bytes())
            .collect::<Vec<_>>()
    };
    (!room.joined.is_empty()).then(|| room.joined.iter().flat_map(bytes).collect())
}

fn member_joined(bytes: [u8; 24]) -> (UserId, Seq) {
    let (mut id, mut seq) = ([0; 16], [0; 8]);
    id.copy_from_slice(&bytes[..16]);
    seq.copy_from_slice(&bytes[16..]);
    (UserId::from_bytes(id), Seq(u64::from_be_bytes(seq)))
}

/// The columns of [`message`], in its order.
pub const MESSAGE: &str = "id, room, seq, author, text, created_at, edited_at, client_id";

/// Reads a message from a row with the columns [`MESSAGE`].
pub fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        id: row.get(0)?,
        room: row.get(1)?,
        seq: row.get(2)?,
        author: row.get(3)?,
        text: row.get(4)?,
        created_at: row.get(5)?,
        edited_at: row.get(6)?,
        client_id: row.get(7)?,
    })
}

/// The columns of [`entry`], in its order; those of a message come first.
pub const ENTRY: &str =
    "id, room, seq, author, text, created_at, edited_at, client_id, kind, target, name";

/// Reads an entry from a row with the columns [`ENTRY`]. The caller has to look up the current
/// state of an edited message.
pub fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let kind = row.get_ref(8)?.as_str_or_null()?;
    let what = match kind {
        None if row.get_ref(4)? == ValueRef::Null => EntryKind::Deleted(row.get(0)?),
        None => EntryKind::Message(message(row)?),
        Some(entry::EDIT) => EntryKind::Edit {
            message: row.get(9)?,
            current: None,
        },
        Some(entry::DELETION) => EntryKind::Deletion(row.get(9)?),
        Some(entry::MEMBER_ADDED) => EntryKind::MemberAdded(row.get(9)?),
        Some(entry::MEMBER_REMOVED) => EntryKind::MemberRemoved(row.get(9)?),
        Some(entry::RENAMED) => EntryKind::Renamed(row.get(10)?),
        Some(_) => return Err(FromSqlError::InvalidType.into()),
    };
    Ok(Entry {
        room: row.get(1)?,
        seq: row.get(2)?,
        author: row.get(3)?,
        created_at: row.get(5)?,
        what,
    })
}

/// Reads a read mark from a row with the columns `user`, `up_to_seq` and `read_at`.
pub fn read_mark(row: &Row<'_>) -> rusqlite::Result<ReadMark> {
    Ok(ReadMark {
        user: row.get(0)?,
        up_to: row.get(1)?,
        read_at: row.get(2)?,
    })
}

/// Reads rows until the page is full. SQLite computes a row when it is read, so the others are not
/// loaded.
pub fn page<T: PageItem>(
    mut rows: Rows<'_>,
    limit: Limit,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut page = PageBuilder::new(limit);
    while !page.is_full()
        && let Some(row) = rows.next()?
    {
        page.push(read(row)?);
    }
    Ok(page.into_items())
}

/// Converts a count for SQLite. A count beyond its range is replaced by the maximum, which exceeds
/// any real count.
pub fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
