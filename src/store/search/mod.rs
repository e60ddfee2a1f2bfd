//! Searching and indexing messages: the parts that all stores share.
//!
//! Messages are indexed in the background some time after they were posted, so that posting does
//! not wait for indexing. A search reads the texts of messages that are not indexed yet; so it
//! finds them as well, and never writes.
//!
//! In each room, one contiguous range of the log is indexed. New entries extend it at its end. In a
//! database from before the index format changed, old entries extend it at its beginning, newest
//! first; until then, messages before the range are not found. To change what a [term](terms) is,
//! restart these ranges at the end of each log, as the latest migration of each store does.

mod emoji;
mod fold;
mod terms;

use std::{collections::HashSet, mem, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;

pub(super) use terms::{Query, terms};

use super::{Limit, NewEntry, Result};
use crate::model::{Message, RoomId, Seq, Timestamp, UserId};

/// How often the indexer checks for new messages after it found none.
pub(super) const INDEX_INTERVAL: Duration = Duration::from_millis(250);

/// What to search for, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SearchQuery {
    /// The rooms to search.
    pub scope: Scope,
    /// The words to search for. A message has to contain all of them, in any order; case and
    /// accents are ignored. Without a word, nothing is found.
    pub words: String,
    /// Only returns messages before this position. In a single room, only its sequence number is
    /// compared.
    pub before: Option<EntryPosition>,
    /// The maximum number of messages and of bytes of their texts.
    pub limit: Limit,
}

/// The rooms in which to search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// In one room, after an entry.
    Room {
        /// The room.
        room: RoomId,
        /// The entry: 0 for the whole room, or the entry after which a member [sees the
        /// room](crate::model::Room::visible_from).
        after: Seq,
    },
    /// In all rooms of a user.
    RoomsOf {
        /// The user.
        user: UserId,
        /// Whether to search only messages that were posted since the user joined the room.
        since_joined: bool,
    },
}

/// A position in the order of the entries of all rooms: by time, then by sequence number, then by
/// room. There need not be an entry at this position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryPosition {
    /// The time.
    pub at: Timestamp,
    /// The sequence number.
    pub seq: Seq,
    /// The room.
    pub room: RoomId,
}

impl EntryPosition {
    /// Returns the position of a message.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        Self {
            at: message.created_at,
            seq: message.seq,
            room: message.room,
        }
    }
}

/// The result of a search.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The messages, the newest first.
    pub messages: Vec<Message>,
    /// The position before which to continue the search. There may be more messages before it: the
    /// search stopped because it reached the limit of the query or the work limit of one call.
    pub next: Option<EntryPosition>,
}

/// Finding messages by their words.
#[async_trait]
pub trait Search: Send + Sync {
    /// Searches for messages that contain all the given words, newest first, ordered by
    /// [position](EntryPosition). Every message that was posted before the call is searched in its
    /// current state: deleted messages and texts replaced by an edit are not found. The cost
    /// depends on the number of rooms searched and of matches in them, not on messages in other
    /// rooms.
    async fn search(&self, query: SearchQuery) -> Result<Found>;
}

/// What has to be indexed. It is lost when the server stops, and determined again at the next
/// start.
#[derive(Default)]
pub(super) struct IndexQueue(Mutex<Changes>);

/// The changes since the indexer last took them.
#[derive(Default)]
pub(super) struct Changes {
    /// The rooms with new entries.
    pub rooms: HashSet<RoomId>,
    /// Whether something was edited or deleted.
    pub erased: bool,
}

impl IndexQueue {
    /// Records the changes of a batch.
    pub fn note(&self, batch: &[NewEntry]) {
        let mut changes = self.0.lock();
        changes.rooms.extend(batch.iter().map(|entry| entry.room));
        changes.erased |= batch.iter().any(|entry| entry.change.erases());
    }

    /// Records rooms with messages that are not indexed.
    pub fn note_rooms(&self, rooms: impl Iterator<Item = RoomId>) {
        self.0.lock().rooms.extend(rooms);
    }

    /// Records that something was edited or deleted.
    pub fn note_erased(&self) {
        self.0.lock().erased = true;
    }

    /// Takes the recorded changes.
    pub fn take(&self) -> Changes {
        mem::take(&mut *self.0.lock())
    }
}
