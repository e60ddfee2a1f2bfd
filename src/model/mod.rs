//! The data types of the chat: ids, times, users, rooms, messages, log entries and read marks. Types
//! only; no I/O.

mod account;
pub(crate) mod entry;
mod text;

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeStruct,
};
use uuid::Uuid;

pub use account::{Credentials, PasswordHash, RefreshKey, Session, Username};
pub use entry::{Entry, EntryKind, LogPosition, NewEntry, NewEntryKind};
pub use text::{EMPTY, MAX_NAME, NAME_CHARACTERS, NAME_LENGTH, is_blank, is_js_space, name_flaw};

use crate::string_enum::string_enum;

/// Defines an id: a 128-bit UUID, always written as 32 lower-case hex digits.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Parses an id as clients write it. Only 32 lower-case hex digits are valid.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let canonical = text.len() == 32
                    && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                canonical.then(|| Uuid::try_parse(text).ok().map(Self)).flatten()
            }

            /// Returns the 16 bytes of the id, as stores keep it.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// Creates an id from its 16 bytes.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0.simple().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.0.simple().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                Self::parse(&text)
                    .ok_or_else(|| D::Error::custom("an id has 32 lower-case hex digits"))
            }
        }
    };
}

id!(
    /// The id of a user.
    UserId
);
impl UserId {
    /// The id of an unknown user, such as a caller who deletes a message without authenticating.
    pub const UNKNOWN: Self = Self(Uuid::nil());
}

id!(
    /// The id of a room.
    RoomId
);
id!(
    /// The id of a message.
    MessageId
);
id!(
    /// The id of a session.
    SessionId
);

/// The sequence number of an entry in its room's log: 1, 2, 3, … without gaps or repeats. 0 is the
/// position before the first entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Returns the sequence number of the next entry. Saturates at [`u64::MAX`].
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the position before the entry with this sequence number. Saturates at 0.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// A point in time in milliseconds since 1970-01-01 UTC. Written as ISO 8601 with milliseconds and
/// `Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub i64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant = jiff::Timestamp::from_millisecond(self.0).unwrap_or_default();
        write!(f, "{instant:.3}")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

string_enum! {
    /// The kind of a user.
    pub enum UserType {
        /// A customer.
        Consumer = "consumer",
        /// A support user, who helps customers.
        Support = "support",
    }
}

string_enum! {
    /// The kind of a room.
    pub enum RoomType {
        /// A conversation between customers.
        ConsumerToConsumer = "consumer-to-consumer",
        /// A conversation of a customer with support.
        ConsumerToSupport = "consumer-to-support",
    }
}

/// A user. A deleted user is kept without names, so that their messages keep an author.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// The given name; empty once deleted.
    pub first_name: String,
    /// The family name; empty once deleted.
    pub last_name: String,
    /// Consumer or support.
    pub kind: UserType,
    /// When the user was created.
    pub created_at: Timestamp,
    /// When the user was last changed.
    pub updated_at: Timestamp,
    /// Whether the user has been deleted.
    pub deleted: bool,
}

impl Serialize for User {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut user = serializer.serialize_struct("User", if self.deleted { 5 } else { 6 })?;
        user.serialize_field("_id", &self.id)?;
        if self.deleted {
            user.serialize_field("firstName", "Deleted")?;
            user.serialize_field("lastName", "user")?;
            user.serialize_field("type", &self.kind)?;
            user.serialize_field("deleted", &true)?;
        } else {
            user.serialize_field("firstName", &self.first_name)?;
            user.serialize_field("lastName", &self.last_name)?;
            user.serialize_field("type", &self.kind)?;
            user.serialize_field("createdAt", &self.created_at)?;
            user.serialize_field("updatedAt", &self.updated_at)?;
        }
        user.end()
    }
}

/// The maximum number of members of a room. MongoDB creates at most 100,000 index keys for the
/// members of one document.
pub const MAX_ROOM: usize = 50_000;

/// A conversation between a set of users.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Room {
    /// The room's id.
    pub id: RoomId,
    /// The kind of conversation.
    pub kind: RoomType,
    /// The name, if the room has one.
    pub name: Option<String>,
    /// The user who initiated the room.
    pub initiator: UserId,
    /// The members: ascending, without duplicates.
    pub members: Vec<UserId>,
    /// The members who were added later, ascending, each with the log entry that added them.
    pub joined: Vec<(UserId, Seq)>,
    /// When the room was created.
    pub created_at: Timestamp,
}

impl Room {
    /// Returns whether this user is a member of the room.
    #[must_use]
    pub fn has_member(&self, user: UserId) -> bool {
        self.members.binary_search(&user).is_ok()
    }

    /// Returns the members of the room except those in `absent`, which must be in ascending order.
    #[must_use]
    pub fn members_except(&self, absent: &[UserId]) -> Cow<'_, [UserId]> {
        if absent.is_empty() {
            return Cow::Borrowed(&self.members);
        }
        self.members
            .iter()
            .filter(|member| absent.binary_search(member).is_err())
            .copied()
            .collect()
    }

    /// Returns the log entry that added this user to the room; 0 for an original member. Later
    /// entries were posted while the user was a member; earlier ones are shown depending on the
    /// settings.
    #[must_use]
    pub fn visible_from(&self, user: UserId) -> Seq {
        self.joined
            .binary_search_by_key(&user, |(member, _)| *member)
            .map(|index| self.joined[index].1)
            .unwrap_or_default()
    }
}

/// The client's own id for a message, so that sending it twice posts it once: 1 to 64 characters,
/// none of them a control character.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct ClientId(String);

impl ClientId {
    /// Returns the id if the text is valid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        fits.then(|| Self(text.to_owned()))
    }

    /// The id as the client wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A message in the log of its room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The message's id.
    pub id: MessageId,
    /// The room it was posted in.
    pub room: RoomId,
    /// The sequence number in the room's log.
    pub seq: Seq,
    /// The author.
    pub author: UserId,
    /// The text; never blank.
    pub text: String,
    /// When it was posted; within a room never before the previous message.
    pub created_at: Timestamp,
    /// When its text was last edited, if ever.
    pub edited_at: Option<Timestamp>,
    /// The id that the author's client gave it, if any.
    pub client_id: Option<ClientId>,
}

/// Records that a user has read everything in the room up to an entry. Marks are appended, never
/// rewritten: a user has read a message if they have a mark at or after it, and the first such mark
/// has the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadMark {
    /// The user who read.
    pub user: UserId,
    /// The last entry read.
    pub up_to: Seq,
    /// When the user read it.
    pub read_at: Timestamp,
}

#[cfg(test)]
mod tests;
