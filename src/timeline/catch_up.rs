//! The entries that were not announced when they were appended: which these are, and reading them
//! from the log.

use std::{borrow::Cow, collections::HashMap, mem, sync::Arc};

use super::RoomEvent;
use crate::{
    error::Result,
    model::{Entry, EntryKind, ReadMark, Room, RoomId, Seq, Timestamp, User, UserId, UserType},
    store::{self, Limit, Store},
    view::{Members, Post},
};

/// The minimum number of rooms whose last announced entry is remembered.
const MIN_ANNOUNCED_SEQS: usize = 100_000;

/// The last announced entry of each room. Rooms without events for a long time are dropped.
#[derive(Default)]
pub struct AnnouncedSeqs {
    latest: HashMap<RoomId, Seq>,
    earlier: HashMap<RoomId, Seq>,
}

impl AnnouncedSeqs {
    /// Returns the last announced entry of a room, if it is known.
    pub fn of(&self, room: RoomId) -> Option<Seq> {
        self.latest
            .get(&room)
            .or_else(|| self.earlier.get(&room))
            .copied()
    }

    /// Records the last announced entry of a room.
    pub fn set(&mut self, room: RoomId, seq: Seq) {
        if self.latest.len() >= MIN_ANNOUNCED_SEQS && !self.latest.contains_key(&room) {
            self.earlier = mem::take(&mut self.latest);
        }
        self.latest.insert(room, seq);
    }
}

/// Reads missed entries from the logs.
pub struct MissedEntries {
    store: Store,
    listed_members: usize,
}

impl MissedEntries {
    /// Creates a reader whose posts list at most `listed_members` of a room.
    pub fn new(store: Store, listed_members: usize) -> Self {
        Self {
            store,
            listed_members,
        }
    }

    /// Returns the entries of a room's log after `after` and up to `up_to`, to be announced, with
    /// messages in their current state. Empty if the room has been deleted.
    pub async fn read(&self, room: RoomId, after: Seq, up_to: Seq) -> Result<Vec<RoomEvent>> {
        let Some(room) = self.store.rooms.find(room).await? else {
            return Ok(Vec::new());
        };
        let limit = Limit::items(up_to.0.saturating_sub(after.0));
        let entries = self
            .store
            .history
            .entries(room.id, after, Some(up_to), limit)
            .await?;
        let mut renderer = Renderer {
            store: &self.store,
            listed_members: self.listed_members,
            room: &room,
            authors: self.authors(&entries).await?,
            marks: Vec::new(),
        };
        if room.members.len() <= self.listed_members {
            renderer.marks = renderer.marks(after.next(), up_to).await?;
        }
        let mut events = Vec::with_capacity(entries.len());
        for mut entry in entries {
            let post = renderer.post(&entry).await?;
            entry.clear_text();
            events.push(RoomEvent::Entry { entry, post });
        }
        Ok(events)
    }

    /// Returns the authors of the messages of these entries.
    async fn authors(&self, entries: &[Entry]) -> store::Result<HashMap<UserId, Arc<User>>> {
        let mut ids: Vec<_> = entries
            .iter()
            .filter_map(|entry| Some(entry.message()?.author))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let authors = self.store.users.find_many(&ids).await?;
        Ok(authors.into_iter().map(|user| (user.id, user)).collect())
    }
}

/// Renders the posts of a room.
struct Renderer<'a> {
    store: &'a Store,
    listed_members: usize,
    room: &'a Arc<Room>,
    authors: HashMap<UserId, Arc<User>>,
    /// The read marks of new messages. In a large room they are left out, so posts look unread, as
    /// in the announcement by their own server: looking up so many readers of each post would delay
    /// the announcements in all other rooms.
    marks: Vec<ReadMark>,
}

impl Renderer<'_> {
    /// Returns the post of an entry that posts or edits a message.
    async fn post(&self, entry: &Entry) -> Result<Option<Post>> {
        let Some(message) = entry.message() else {
            return Ok(None);
        };
        let marks = match &entry.what {
            EntryKind::Edit { current: None, .. } => Cow::default(),
            EntryKind::Edit { .. } => Cow::Owned(self.marks(message.seq, message.seq).await?),
            _ => Cow::Borrowed(&self.marks[..]),
        };
        let author = self
            .authors
            .get(&message.author)
            .map_or_else(|| unknown_author(message.author), Arc::clone);
        let members = Members::of(self.store, self.room, self.listed_members, || {
            vec![Arc::clone(&author)]
        })
        .await?;
        Ok(Some(Post::new(&message, &author, &members, &marks)))
    }

    async fn marks(&self, first: Seq, last: Seq) -> store::Result<Vec<ReadMark>> {
        self.store
            .read_marks
            .between(self.room.id, &self.room.members, first, last)
            .await
    }
}

/// Returns a placeholder for an author that the store does not have.
fn unknown_author(id: UserId) -> Arc<User> {
    Arc::new(User {
        id,
        first_name: String::new(),
        last_name: String::new(),
        kind: UserType::Consumer,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
        deleted: true,
    })
}
