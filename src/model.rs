//! The nouns of a chat: ids, times, users, rooms, messages and read marks. Types only; no I/O.

mod account;
mod text;

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};
use uuid::Uuid;

pub use account::{Credentials, PasswordHash, RefreshKey, Session, Username};
pub use text::{EMPTY, LONGEST_NAME, NAME_CHARACTERS, NAME_LENGTH, is_blank, is_js_space, name_flaw};

/// Defines an id: a 128-bit UUID, written everywhere as 32 lower-case hex digits.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Reads an id as clients write it. Anything but 32 lower-case hex digits names nothing.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let canonical = text.len() == 32
                    && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                canonical.then(|| Uuid::try_parse(text).ok().map(Self)).flatten()
            }

            /// The 16 bytes of the id, as stores keep it.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The id with these 16 bytes.
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
    };
}

id!(
    /// Names a user.
    UserId
);
impl UserId {
    /// Nobody: who deleted a message without saying who they are, for one.
    pub const NOBODY: Self = Self(Uuid::nil());
}

id!(
    /// Names a room.
    RoomId
);
id!(
    /// Names a message.
    MessageId
);
id!(
    /// Names a session.
    SessionId
);

/// The number of an entry in its room's log: 1, 2, 3, … with no hole and no repeat. 0 is "before the first".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// A point in time: milliseconds since 1970-01-01 UTC. Written as ISO 8601 with milliseconds and `Z`.
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

/// Defines a closed set of names that clients send and receive as strings.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every value, in the order in which the contract lists them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name as clients write it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The value with this name.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text)
            }
        }
    };
}

names!(
    /// What kind of user somebody is.
    UserType {
        /// A customer.
        Consumer = "consumer",
        /// Somebody who helps customers.
        Support = "support",
    }
);

names!(
    /// What kind of room it is.
    RoomType {
        /// A conversation of customers.
        ConsumerToConsumer = "consumer-to-consumer",
        /// A conversation of a customer with support.
        ConsumerToSupport = "consumer-to-support",
    }
);

/// Somebody who writes and reads messages. A deleted user is kept without names, so that what they wrote has an author.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// Names the user.
    pub id: UserId,
    /// Given name; empty once deleted.
    pub first_name: String,
    /// Family name; empty once deleted.
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

/// The most members of a room. MongoDB makes at most 100,000 keys of the members of one document.
pub const LARGEST_ROOM: usize = 50_000;

/// A conversation between a set of users.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Room {
    /// Names the room.
    pub id: RoomId,
    /// The kind of conversation.
    pub kind: RoomType,
    /// What it is called, if it is called anything.
    pub name: Option<String>,
    /// Who asked for the room first.
    pub initiator: UserId,
    /// Who is in it: ascending, each once.
    pub members: Vec<UserId>,
    /// Those of the members who were added later, ascending, each with the entry that says so.
    pub joined: Vec<(UserId, Seq)>,
    /// When the room was created.
    pub created_at: Timestamp,
}

impl Room {
    /// Whether this user is in the room.
    #[must_use]
    pub fn has_member(&self, user: UserId) -> bool {
        self.members.binary_search(&user).is_ok()
    }

    /// The members of the room but for those in `absent`, which is in ascending order.
    #[must_use]
    pub fn members_but(&self, absent: &[UserId]) -> Cow<'_, [UserId]> {
        if absent.is_empty() {
            return Cow::Borrowed(&self.members);
        }
        self.members.iter().filter(|member| absent.binary_search(member).is_err()).copied().collect()
    }

    /// The entry by which this user came into the room; 0 for one who was in it from the beginning. What stands behind it was posted while
    /// they were there; what stands before it, they may be shown or not.
    #[must_use]
    pub fn visible_from(&self, user: UserId) -> Seq {
        self.joined.binary_search_by_key(&user, |(member, _)| *member).map(|index| self.joined[index].1).unwrap_or_default()
    }
}

/// What a client calls a message of its own, so that sending it twice posts it once: 1 to 64 characters, none of them a control character.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct ClientId(String);

impl ClientId {
    /// The id, if it is one.
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

/// A message that stands in its room's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Names the message.
    pub id: MessageId,
    /// The room it was posted in.
    pub room: RoomId,
    /// Its number in the room's log.
    pub seq: Seq,
    /// Who wrote it.
    pub author: UserId,
    /// What they wrote; never blank.
    pub text: String,
    /// When it was posted; within a room never before the message in front of it.
    pub created_at: Timestamp,
    /// When its text was last changed, if it ever was.
    pub edited_at: Option<Timestamp>,
    /// What its author's client calls it, if anything.
    pub client_id: Option<ClientId>,
}

/// An entry of a room's log, as whoever catches up reads it: what happened, and for a message what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The room in whose log it stands.
    pub room: RoomId,
    /// Its number in the log.
    pub seq: Seq,
    /// Who did it; [nobody](UserId::NOBODY) where that is not known.
    pub author: UserId,
    /// When; within a room never before the entry in front of it.
    pub created_at: Timestamp,
    /// What happened.
    pub what: EntryKind,
}

/// What an entry says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A message was posted: as it is now, edits included.
    Message(Message),
    /// A message was posted, and deleted since.
    Deleted(MessageId),
    /// A message was edited.
    Edit {
        /// Which.
        message: MessageId,
        /// As it is now; `None` when it was deleted since.
        current: Option<Message>,
    },
    /// A message was deleted.
    Deletion(MessageId),
    /// Somebody came into the room.
    MemberAdded(UserId),
    /// Somebody is no longer in the room.
    MemberRemoved(UserId),
    /// The room got another name, or none.
    Renamed(Option<String>),
}

/// "This user has read everything in the room up to here." Marks are appended, never rewritten: the reader of a message is whoever
/// has a mark at or after it, and the first such mark says when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadMark {
    /// Who read.
    pub user: UserId,
    /// The last entry read.
    pub up_to: Seq,
    /// When.
    pub read_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_of_an_id_names_anything() {
        let id = "0199d1f0c0de7aaa8bbbccccddddeeee";
        assert_eq!(UserId::parse(id).map(|id| id.to_string()).as_deref(), Some(id));
        for wrong in ["", "nope", "0199D1F0C0DE7AAA8BBBCCCCDDDDEEEE", "0199d1f0-c0de-7aaa-8bbb-ccccddddeeee", &format!("{id}0")] {
            assert_eq!(UserId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_client_id_is_short_and_printable() {
        for right in ["1", " ", "message 7/ä", &"é".repeat(64)] {
            assert_eq!(ClientId::parse(right).as_ref().map(ClientId::as_str), Some(right));
        }
        for wrong in ["", "a\nb", "\0", &"a".repeat(65)] {
            assert_eq!(ClientId::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn times_carry_milliseconds_even_when_they_are_zero() {
        assert_eq!(Timestamp(1_795_393_065_000).to_string(), "2026-11-23T00:17:45.000Z");
        assert_eq!(Timestamp(1_795_393_064_989).to_string(), "2026-11-23T00:17:44.989Z");
    }
}
