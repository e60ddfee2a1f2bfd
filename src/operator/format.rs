//! The format of an export: a text file with one JSON object per line (NDJSON, UTF-8).
//!
//! The first line is the header: `{"causerie":1,"exportedAt":"2026-01-31T12:00:00.000Z","id":"…"}`,
//! with the version of the format, and an id by which an import that was interrupted is recognized.
//! Each further line has one field, whose name is the kind of the line:
//!
//! - `signingKey`: the key that signs tokens, in hex digits, if there is one.
//! - `room`: a room. It is followed by its log, one `entry` per line, from `seq` 1 to `lastSeq`;
//!   then by its read marks, one `mark` per line, by user and position; then by `roomEnd` with the
//!   number of messages and marks. If the room was deleted while it was exported, it ends with
//!   `roomDeleted` instead, and is not imported. The rooms are ordered by id.
//! - `user`: a user, who may be deleted, with the credentials and the time when the user was last
//!   seen. The users are ordered by id and come after all rooms, so that every member is among them.
//! - `end`: the numbers of all of these, and the SHA-256 of all lines before, in hex digits.
//!
//! Ids are 32 hex digits, and times are milliseconds since 1970 (UTC). A field without a value is
//! omitted. A message has its current text, and none if it has been deleted. Sessions are not
//! exported.
//!
//! To change the format, raise [`VERSION`] and let the reader accept the former version.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::{
    model::{
        ClientId, Credentials, MessageId, PasswordHash, ReadMark, Room, RoomId, RoomType, Seq,
        Timestamp, User, UserId, UserType, Username,
    },
    store::{ChangeRecord, EntryRecord, RoomRecord, UserRecord},
};

/// The version of the format.
pub const VERSION: u32 = 1;

/// Why a line cannot be imported although it is well formed.
pub type Flaw = &'static str;

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    pub causerie: u32,
    pub exported_at: String,
    pub id: String,
}

/// A line after the first one.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    SigningKey(String),
    Room(RoomLine),
    Entry(EntryLine),
    Mark(MarkLine),
    RoomEnd(RoomEndLine),
    RoomDeleted(RoomId),
    User(UserLine),
    End(EndLine),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoomLine {
    id: RoomId,
    #[serde(rename = "type")]
    kind: RoomType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    initiator: UserId,
    /// Ascending.
    members: Vec<UserId>,
    /// The members who were added later, ascending, each with the entry that added them.
    joined: Vec<(UserId, u64)>,
    created_at: i64,
    found_by_members: bool,
    members_changed: bool,
    last_seq: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EntryLine {
    seq: u64,
    id: MessageId,
    author: UserId,
    at: i64,
    change: ChangeLine,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ChangeLine {
    Message(MessageLine),
    Edit(MessageId),
    Deletion(MessageId),
    MemberAdded(UserId),
    MemberRemoved(UserId),
    Renamed(Option<String>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MessageLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edited_at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MarkLine {
    user: UserId,
    up_to: u64,
    at: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoomEndLine {
    pub id: RoomId,
    pub messages: u64,
    pub marks: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserLine {
    id: UserId,
    first_name: String,
    last_name: String,
    #[serde(rename = "type")]
    kind: UserType,
    created_at: i64,
    updated_at: i64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credentials: Option<CredentialsLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_seen: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CredentialsLine {
    username: String,
    password_hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndLine {
    pub totals: ExportTotals,
    pub sha256: String,
}

/// How much an export has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExportTotals {
    /// The number of users.
    pub users: u64,
    /// The number of rooms.
    pub rooms: u64,
    /// The number of log entries of all rooms.
    pub entries: u64,
    /// The number of messages that are not deleted.
    pub messages: u64,
    /// The number of read marks.
    pub marks: u64,
}

/// Returns the line of a key.
pub fn signing_key_line(key: [u8; 32]) -> Line {
    Line::SigningKey(HEXLOWER.encode(&key))
}

/// Reads a key.
pub fn signing_key(text: &str) -> Result<[u8; 32], Flaw> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or("the key does not have 64 hex digits")
}

impl From<RoomRecord> for RoomLine {
    fn from(record: RoomRecord) -> Self {
        let room = record.room;
        let joined = room.joined.into_iter().map(|(user, seq)| (user, seq.0));
        Self {
            id: room.id,
            kind: room.kind,
            name: room.name,
            initiator: room.initiator,
            members: room.members,
            joined: joined.collect(),
            created_at: room.created_at.0,
            found_by_members: record.found_by_members,
            members_changed: record.members_changed,
            last_seq: record.last_seq.0,
        }
    }
}

impl RoomLine {
    pub fn into_record(self) -> Result<RoomRecord, Flaw> {
        let joined = self.joined.into_iter().map(|(user, seq)| (user, Seq(seq)));
        let joined: Vec<_> = joined.collect();
        if !self.members.is_sorted_by(|one, next| one < next)
            || !joined.is_sorted_by(|one, next| one.0 < next.0)
        {
            return Err("the members are not in order");
        }
        Ok(RoomRecord {
            room: Room {
                id: self.id,
                kind: self.kind,
                name: self.name,
                initiator: self.initiator,
                members: self.members,
                joined,
                created_at: Timestamp(self.created_at),
            },
            found_by_members: self.found_by_members,
            members_changed: self.members_changed,
            last_seq: Seq(self.last_seq),
        })
    }
}

impl From<EntryRecord> for EntryLine {
    fn from(record: EntryRecord) -> Self {
        let change = match record.change {
            ChangeRecord::Message {
                text,
                client_id,
                edited_at,
            } => ChangeLine::Message(MessageLine {
                text,
                client_id: client_id.map(|id| id.as_str().to_owned()),
                edited_at: edited_at.map(|at| at.0),
            }),
            ChangeRecord::Edit(message) => ChangeLine::Edit(message),
            ChangeRecord::Deletion(message) => ChangeLine::Deletion(message),
            ChangeRecord::MemberAdded(user) => ChangeLine::MemberAdded(user),
            ChangeRecord::MemberRemoved(user) => ChangeLine::MemberRemoved(user),
            ChangeRecord::Renamed(name) => ChangeLine::Renamed(name),
        };
        Self {
            seq: record.seq.0,
            id: record.id,
            author: record.author,
            at: record.created_at.0,
            change,
        }
    }
}

impl EntryLine {
    pub fn into_record(self, room: RoomId) -> Result<EntryRecord, Flaw> {
        let change = match self.change {
            ChangeLine::Message(message) => ChangeRecord::Message {
                text: message.text,
                client_id: match message.client_id {
                    Some(id) => Some(ClientId::parse(&id).ok_or("the client id is not valid")?),
                    None => None,
                },
                edited_at: message.edited_at.map(Timestamp),
            },
            ChangeLine::Edit(message) => ChangeRecord::Edit(message),
            ChangeLine::Deletion(message) => ChangeRecord::Deletion(message),
            ChangeLine::MemberAdded(user) => ChangeRecord::MemberAdded(user),
            ChangeLine::MemberRemoved(user) => ChangeRecord::MemberRemoved(user),
            ChangeLine::Renamed(name) => ChangeRecord::Renamed(name),
        };
        Ok(EntryRecord {
            room,
            seq: Seq(self.seq),
            id: self.id,
            author: self.author,
            created_at: Timestamp(self.at),
            change,
        })
    }
}

impl From<ReadMark> for MarkLine {
    fn from(mark: ReadMark) -> Self {
        Self {
            user: mark.user,
            up_to: mark.up_to.0,
            at: mark.read_at.0,
        }
    }
}

impl From<MarkLine> for ReadMark {
    fn from(line: MarkLine) -> Self {
        Self {
            user: line.user,
            up_to: Seq(line.up_to),
            read_at: Timestamp(line.at),
        }
    }
}

impl From<UserRecord> for UserLine {
    fn from(record: UserRecord) -> Self {
        let user = record.user;
        Self {
            id: user.id,
            first_name: user.first_name,
            last_name: user.last_name,
            kind: user.kind,
            created_at: user.created_at.0,
            updated_at: user.updated_at.0,
            deleted: user.deleted,
            credentials: record.credentials.map(|credentials| CredentialsLine {
                username: credentials.username.as_str().to_owned(),
                password_hash: credentials.password.0,
            }),
            last_seen: record.last_seen.map(|at| at.0),
        }
    }
}

impl UserLine {
    pub fn into_record(self) -> Result<UserRecord, Flaw> {
        let credentials = match self.credentials {
            Some(line) => Some(Credentials {
                username: Username::parse(&line.username).ok_or("the username is not valid")?,
                password: PasswordHash(line.password_hash),
            }),
            None => None,
        };
        Ok(UserRecord {
            user: User {
                id: self.id,
                first_name: self.first_name,
                last_name: self.last_name,
                kind: self.kind,
                created_at: Timestamp(self.created_at),
                updated_at: Timestamp(self.updated_at),
                deleted: self.deleted,
            },
            credentials,
            last_seen: self.last_seen.map(Timestamp),
        })
    }
}
