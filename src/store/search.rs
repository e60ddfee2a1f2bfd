//! What is searched for, and what of a text is indexed: the same in every store.
//!
//! Messages are indexed in the background, some time after they were posted, so that posting does not wait for it. A search reads the texts
//! of those that are not indexed yet; so it finds them as well, and never writes.
//!
//! Of each room a stretch of its log is indexed. At its end new entries come in; at its beginning, in a database from before the index was
//! changed, old ones, the latest first. What is in front of it is not found until then. To change what a [term](terms) is: begin these
//! stretches anew, at the end of each log, as the latest migration of each store does.

mod emoji;
mod fold;
mod terms;

use std::{
    collections::HashSet,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

pub(super) use terms::{Query, terms};

use super::NewEntry;
use crate::model::{Message, RoomId, Seq, Timestamp, UserId};

/// How often it is looked for new messages to index, when there were none.
pub(super) const INDEX_INTERVAL: Duration = Duration::from_millis(250);

/// Which messages are looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search {
    /// Where.
    pub scope: Scope,
    /// Words that all have to be in the message, in any order. Case and accents make no difference. Where there is no word, nothing is found.
    pub words: String,
    /// Only messages before this place. In a single room its number alone counts.
    pub before: Option<EntryPosition>,
    /// The most messages.
    pub limit: u64,
}

/// Where messages are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// In one room, behind an entry.
    Room {
        /// The room.
        room: RoomId,
        /// The entry: 0 for the whole room, or whence a member [sees it](crate::model::Room::visible_from).
        after: Seq,
    },
    /// In all rooms of a user.
    RoomsOf {
        /// The user.
        user: UserId,
        /// Only what was posted since they came into each room.
        since_joined: bool,
    },
}

/// The place of an entry among those of all rooms: by time, then by number, then by room. It need not be that of an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryPosition {
    /// The time of the entry.
    pub at: Timestamp,
    /// Its number.
    pub seq: Seq,
    /// Its room.
    pub room: RoomId,
}

impl EntryPosition {
    /// Returns the place of a message.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        Self { at: message.created_at, seq: message.seq, room: message.room }
    }
}

/// What a search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The messages, the newest first.
    pub messages: Vec<Message>,
    /// Where to go on. There may be more before this place: it was not looked further, because there are enough messages, or because that
    /// would have been too much work for one call.
    pub next: Option<EntryPosition>,
}

/// What has to be indexed. Forgotten when the server stops; the next start looks for it anew.
#[derive(Default)]
pub(super) struct IndexQueue(Mutex<Changes>);

/// What happened since the index was last told.
#[derive(Default)]
pub(super) struct Changes {
    /// The rooms in which something was posted.
    pub rooms: HashSet<RoomId>,
    /// Whether something was edited or deleted.
    pub erased: bool,
}

impl IndexQueue {
    /// Notes a batch.
    pub fn note(&self, batch: &[NewEntry]) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.rooms.extend(batch.iter().map(|entry| entry.room));
        changes.erased |= batch.iter().any(|entry| entry.change.erases());
    }

    /// Notes rooms with messages that are not indexed.
    pub fn note_rooms(&self, rooms: impl Iterator<Item = RoomId>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).rooms.extend(rooms);
    }

    /// Notes that something was erased.
    pub fn note_erased(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).erased = true;
    }

    /// Takes what was noted.
    pub fn take(&self) -> Changes {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
