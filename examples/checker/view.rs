//! What a client knows of a room: its log, built from events and answers to `sync` alone.

use std::{collections::HashMap, fmt};

use serde_json::Value;
use tokio::time::Instant;

/// The id of a user, a room or a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(u128);

impl Id {
    /// The id that a field holds.
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

/// What a message says, as long as it is not deleted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Said {
    pub client_id: String,
    pub text: String,
}

/// What an entry of a log says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum What {
    /// A message as it is now; without what it said once it is deleted.
    Message {
        id: Id,
        author: Id,
        said: Option<Said>,
    },
    /// What the message says after it. Not kept: the message itself is what has changed.
    Edit {
        id: Id,
        said: Option<Said>,
    },
    Deletion(Id),
    Added(Id),
    Removed(Id),
    Renamed(String),
}

/// An entry and its place, as an event or an answer tells of it.
#[derive(Clone, Debug)]
pub struct Happening {
    pub room: Id,
    pub seq: u64,
    pub what: What,
}

impl Happening {
    /// What a live event tells; none where it is about no entry.
    pub fn of_event(name: &str, payload: &Value) -> Option<Self> {
        let post = &payload["message"];
        let what = match name {
            "new message" => {
                What::Message { id: Id::of(&post["postId"])?, author: Id::of(&post["postedByUser"]["_id"])?, said: said(post) }
            }
            "message edited" => What::Edit { id: Id::of(&post["postId"])?, said: said(post) },
            _ => without_message(name, payload)?,
        };
        let (room, seq) = match what {
            What::Message { .. } => (&post["chatRoomId"], &post["seq"]),
            What::Edit { .. } => (&post["chatRoomId"], &payload["seq"]),
            _ => (&payload["chatRoomId"], &payload["seq"]),
        };
        Some(Self { room: Id::of(room)?, seq: seq.as_u64()?, what })
    }

    /// What an entry in the answer to `sync` tells.
    pub fn of_entry(entry: &Value) -> Option<Self> {
        let message = &entry["message"];
        let what = match entry["type"].as_str()? {
            "new message" => What::Message { id: Id::of(&entry["messageId"])?, author: Id::of(&entry["byUserId"])?, said: said(message) },
            "message edited" => What::Edit { id: Id::of(&entry["messageId"])?, said: said(message) },
            name => without_message(name, entry)?,
        };
        Some(Self { room: Id::of(&entry["chatRoomId"])?, seq: entry["seq"].as_u64()?, what })
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

/// What a message says, wherever one is shown. No message is empty but one that is deleted.
pub fn said(message: &Value) -> Option<Said> {
    let text = message["message"]["messageText"].as_str().filter(|text| !text.is_empty())?;
    Some(Said { client_id: message["clientMessageId"].as_str().unwrap_or_default().to_owned(), text: text.to_owned() })
}

/// What came of an entry that a client was told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is the next one, and now a part of the view.
    Next,
    /// It was known.
    Known,
    /// Something is missing in front of it.
    Gap,
}

/// A log as far as it is known.
#[derive(Default)]
pub struct Log {
    entries: Vec<What>,
    /// Where each message stands.
    places: HashMap<Id, usize>,
}

impl Log {
    /// The last entry that is known: those before it are, too.
    pub fn position(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn entries(&self) -> &[What] {
        &self.entries
    }

    /// The messages that are not deleted, each with its number.
    pub fn messages(&self) -> impl Iterator<Item = (u64, Id, Id, &Said)> {
        (1..).zip(&self.entries).filter_map(|(seq, what)| match what {
            What::Message { id, author, said: Some(said) } => Some((seq, *id, *author, said)),
            _ => None,
        })
    }

    /// Takes in an entry, if it is the next.
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
        if let Some(What::Message { said, .. }) = place.and_then(|place| self.entries.get_mut(place)) {
            *said = now;
        }
    }

    /// Where two logs differ first, in words.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if let Some(place) = self.entries.iter().zip(&other.entries).position(|(ours, theirs)| ours != theirs) {
            return Some(format!("entry {}: {:?} against {:?}", place + 1, self.entries[place], other.entries[place]));
        }
        (self.entries.len() != other.entries.len()).then(|| format!("{} entries against {}", self.entries.len(), other.entries.len()))
    }
}

/// A client's view of a room.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each may be so or not, whatever the others are")]
pub struct View {
    pub log: Log,
    /// Whether the client is in the room, as far as it knows.
    pub member: bool,
    /// When it left, if it has.
    pub left: Option<Instant>,
    /// Whether its socket is in the room.
    pub subscribed: bool,
    /// Whether all that happens behind the position is bound to be heard on this connection.
    pub live: bool,
    /// Whether it does not want to hear of the room for now.
    pub muted: bool,
    /// The last entry heard of on this connection.
    pub heard: u64,
    /// The end of the log in the last answer to `sync` on this connection.
    pub synced: u64,
    /// How far others have read, as far as heard.
    pub read: HashMap<Id, u64>,
}

impl View {
    /// The connection has ended.
    pub fn cut_off(&mut self) {
        (self.subscribed, self.live) = (false, false);
        (self.heard, self.synced) = (0, 0);
    }

    /// The client is no longer in the room.
    pub fn out(&mut self) {
        if self.member {
            self.left = Some(Instant::now());
        }
        (self.member, self.subscribed, self.live) = (false, false, false);
    }
}
