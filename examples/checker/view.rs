//! A client's view of a room: its log, built only from events and responses to `sync`.

use std::{collections::HashMap, fmt};

use serde_json::Value;
use tokio::time::Instant;

/// The id of a user, a room or a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(u128);

impl Id {
    /// Parses the id in a JSON field.
    pub fn of(value: &Value) -> Option<Self> {
        Self::parse(value.as_str()?)
    }

    pub fn parse(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The content of a message that is not deleted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Said {
    pub client_id: String,
    pub text: String,
}

/// The content of a log entry.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum What {
    /// A message in its current state; without content once it is deleted.
    Message {
        id: Id,
        author: Id,
        said: Option<Said>,
    },
    /// The content of the message after the edit. [`Log::take`] moves it to the entry of the
    /// message.
    Edit {
        id: Id,
        said: Option<Said>,
    },
    Deletion(Id),
    Added(Id),
    Removed(Id),
    Renamed(String),
}

/// A log entry with its room and sequence number, from an event or a response.
#[derive(Clone, Debug)]
pub struct Happening {
    pub room: Id,
    pub seq: u64,
    pub what: What,
}

impl Happening {
    /// Parses a live event. Returns `None` if it is not about a log entry.
    pub fn of_event(name: &str, payload: &Value) -> Option<Self> {
        let post = &payload["message"];
        let what = match name {
            "new message" => What::Message {
                id: Id::of(&post["postId"])?,
                author: Id::of(&post["postedByUser"]["_id"])?,
                said: said(post),
            },
            "message edited" => What::Edit {
                id: Id::of(&post["postId"])?,
                said: said(post),
            },
            _ => without_message(name, payload)?,
        };
        let (room, seq) = match what {
            What::Message { .. } => (&post["chatRoomId"], &post["seq"]),
            What::Edit { .. } => (&post["chatRoomId"], &payload["seq"]),
            _ => (&payload["chatRoomId"], &payload["seq"]),
        };
        Some(Self {
            room: Id::of(room)?,
            seq: seq.as_u64()?,
            what,
        })
    }

    /// Parses an entry in a response to `sync`.
    pub fn of_entry(entry: &Value) -> Option<Self> {
        let message = &entry["message"];
        let what = match entry["type"].as_str()? {
            "new message" => What::Message {
                id: Id::of(&entry["messageId"])?,
                author: Id::of(&entry["byUserId"])?,
                said: said(message),
            },
            "message edited" => What::Edit {
                id: Id::of(&entry["messageId"])?,
                said: said(message),
            },
            name => without_message(name, entry)?,
        };
        Some(Self {
            room: Id::of(&entry["chatRoomId"])?,
            seq: entry["seq"].as_u64()?,
            what,
        })
    }
}

fn without_message(name: &str, fields: &Value) -> Option<What> {
    Some(match name {
        "message deleted" => What::Deletion(Id::of(&fields["messageId"])?),
        "member added" => What::Added(Id::of(&fields["userId"])?),
        "member removed" => What::Removed(Id::of(&fields["userId"])?),
        "room changed" => What::Renamed(fields["name"].as_str().unwrap_or_default().to_owned()),
        _ => return None,
    })
}

/// Parses the content of a message in any response or event. Only deleted messages have no text.
pub fn said(message: &Value) -> Option<Said> {
    let text = message["message"]["messageText"]
        .as_str()
        .filter(|text| !text.is_empty())?;
    Some(Said {
        client_id: message["clientMessageId"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        text: text.to_owned(),
    })
}

/// The result of [`Log::take`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// The entry is the next one, and has been added.
    Next,
    /// The entry was known.
    Known,
    /// Entries before this one are missing.
    Gap,
}

/// The known part of a log, from its first entry on.
#[derive(Default)]
pub struct Log {
    entries: Vec<What>,
    /// The index of each message in `entries`.
    places: HashMap<Id, usize>,
}

impl Log {
    /// Returns the sequence number of the last known entry; all entries before it are known, too.
    pub fn position(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn entries(&self) -> &[What] {
        &self.entries
    }

    /// Returns the messages that are not deleted: sequence number, id, author and content.
    pub fn messages(&self) -> impl Iterator<Item = (u64, Id, Id, &Said)> {
        (1..)
            .zip(&self.entries)
            .filter_map(|(seq, what)| match what {
                What::Message {
                    id,
                    author,
                    said: Some(said),
                } => Some((seq, *id, *author, said)),
                _ => None,
            })
    }

    /// Adds an entry, if it is the next one.
    pub fn take(&mut self, happening: &Happening) -> Taken {
        if happening.seq <= self.position() {
            return Taken::Known;
        }
        if happening.seq > self.position() + 1 {
            return Taken::Gap;
        }
        let mut what = happening.what.clone();
        match &mut what {
            What::Message { id, .. } => _ = self.places.insert(*id, self.entries.len()),
            What::Edit { id, said } => self.change(*id, said.take()),
            What::Deletion(id) => self.change(*id, None),
            What::Added(_) | What::Removed(_) | What::Renamed(_) => {}
        }
        self.entries.push(what);
        Taken::Next
    }

    fn change(&mut self, message: Id, now: Option<Said>) {
        let place = self.places.get(&message).copied();
        if let Some(What::Message { said, .. }) =
            place.and_then(|place| self.entries.get_mut(place))
        {
            *said = now;
        }
    }

    /// Describes the first difference between two logs.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if let Some(place) = self
            .entries
            .iter()
            .zip(&other.entries)
            .position(|(ours, theirs)| ours != theirs)
        {
            return Some(format!(
                "entry {}: {:?} against {:?}",
                place + 1,
                self.entries[place],
                other.entries[place]
            ));
        }
        (self.entries.len() != other.entries.len()).then(|| {
            format!(
                "{} entries against {}",
                self.entries.len(),
                other.entries.len()
            )
        })
    }
}

/// A client's view of a room.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each may be so or not, whatever the others are"
)]
pub struct View {
    pub log: Log,
    /// Whether the client is a member of the room, as far as it knows.
    pub member: bool,
    /// When the client left the room, if it has.
    pub left: Option<Instant>,
    /// Whether the client's socket is subscribed to the room.
    pub subscribed: bool,
    /// Whether every entry after the last known one must arrive on this connection.
    pub live: bool,
    /// Whether the client has unsubscribed from the room for now.
    pub muted: bool,
    /// The sequence number of the last entry received as an event on this connection.
    pub heard: u64,
    /// The end of the log in the last response to `sync` on this connection.
    pub synced: u64,
    /// The read marks of users, as far as received.
    pub read: HashMap<Id, u64>,
}

impl View {
    /// Resets the state of the connection after it has ended.
    pub fn cut_off(&mut self) {
        (self.subscribed, self.live) = (false, false);
        (self.heard, self.synced) = (0, 0);
    }

    /// Records that the client is no longer a member of the room.
    pub fn out(&mut self) {
        if self.member {
            self.left = Some(Instant::now());
        }
        (self.member, self.subscribed, self.live) = (false, false, false);
    }
}
