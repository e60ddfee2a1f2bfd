//! Reads from the log the events that were not announced when they happened.

use std::{collections::HashMap, sync::Arc};

use super::{RoomEvent, RoomEventKind, append::without_text};
use crate::{
    error::Result,
    model::{
        Entry, EntryKind, Message, ReadMark, Room, RoomId, Seq, Timestamp, User, UserId, UserType,
    },
    store::{self, LogPosition, Store},
    view::{Members, Post},
};

/// Returns the entries of a room's log after `after` and up to `up_to`, as they would have been
/// announced, with messages in their current state. Empty if the room has been deleted. At most
/// `listed_members` of the room are listed.
pub async fn missed(
    store: &dyn Store,
    listed_members: usize,
    room: RoomId,
    after: Seq,
    up_to: Seq,
) -> Result<Vec<RoomEvent>> {
    let Some(room) = store.room(room).await? else {
        return Ok(Vec::new());
    };
    let entries = store
        .entries(room.id, after, Some(up_to), up_to.0.saturating_sub(after.0))
        .await?;
    let mut authors: Vec<_> = entries
        .iter()
        .map(|entry| shown(entry).map_or(entry.author, |message| message.author))
        .collect();
    authors.sort_unstable();
    authors.dedup();
    let mut posts = Posts {
        store,
        listed_members,
        room: &room,
        people: HashMap::new(),
        marks: Vec::new(),
    };
    if room.members.len() <= listed_members {
        posts.marks = posts.marks(Seq(after.0 + 1), up_to).await?;
    }
    posts.people.extend(
        store
            .users_by_id(&authors)
            .await?
            .into_iter()
            .map(|user| (user.id, user)),
    );
    let mut events = Vec::with_capacity(entries.len());
    for entry in entries {
        let placed = LogPosition {
            seq: entry.seq,
            created_at: entry.created_at,
        };
        events.push(RoomEvent {
            room: room.id,
            placed,
            author: entry.author,
            what: posts.told(entry).await?,
        });
    }
    Ok(events)
}

/// Returns the message of an entry, unless it has been deleted since.
fn shown(entry: &Entry) -> Option<&Message> {
    match &entry.what {
        EntryKind::Message(message)
        | EntryKind::Edit {
            current: Some(message),
            ..
        } => Some(message),
        _ => None,
    }
}

/// The data needed to show messages of a room as posts.
struct Posts<'a> {
    store: &'a dyn Store,
    listed_members: usize,
    room: &'a Arc<Room>,
    people: HashMap<UserId, Arc<User>>,
    /// The read marks of new messages. In a large room they are left out, so posts look unread, as
    /// in the announcement by their own server: looking up so many readers of each post would delay
    /// the announcements in all other rooms.
    marks: Vec<ReadMark>,
}

impl Posts<'_> {
    async fn told(&self, entry: Entry) -> Result<RoomEventKind> {
        let lost = |id| {
            without_text(
                id,
                entry.room,
                entry.author,
                LogPosition {
                    seq: entry.seq,
                    created_at: entry.created_at,
                },
            )
        };
        Ok(match &entry.what {
            EntryKind::Message(message) => {
                RoomEventKind::Posted(self.post(message, &self.marks).await?)
            }
            EntryKind::Deleted(id) => {
                RoomEventKind::Posted(self.post(&lost(*id), &self.marks).await?)
            }
            EntryKind::Edit {
                current: Some(message),
                ..
            } => {
                let marks = self.marks(message.seq, message.seq).await?;
                RoomEventKind::Edited(self.post(message, &marks).await?)
            }
            EntryKind::Edit {
                message,
                current: None,
            } => RoomEventKind::Edited(self.post(&lost(*message), &[]).await?),
            EntryKind::Deletion(message) => RoomEventKind::Deleted(*message),
            EntryKind::MemberAdded(user) => RoomEventKind::MemberAdded(*user),
            EntryKind::MemberRemoved(user) => RoomEventKind::MemberRemoved(*user),
            EntryKind::Renamed(name) => RoomEventKind::Renamed(name.clone()),
        })
    }

    async fn marks(&self, first: Seq, last: Seq) -> store::Result<Vec<ReadMark>> {
        self.store
            .read_marks(self.room.id, &self.room.members, first, last)
            .await
    }

    async fn post(&self, message: &Message, marks: &[ReadMark]) -> Result<Post> {
        let author = self
            .people
            .get(&message.author)
            .map_or_else(|| nobody(message.author), Arc::clone);
        let members = Members::of(self.store, self.room, self.listed_members, || {
            vec![Arc::clone(&author)]
        })
        .await?;
        Ok(Post::new(message, &author, &members, marks))
    }
}

/// Returns a placeholder for an author that the store does not have.
fn nobody(id: UserId) -> Arc<User> {
    let at = Timestamp::default();
    let (first_name, last_name) = (String::new(), String::new());
    Arc::new(User {
        id,
        first_name,
        last_name,
        kind: UserType::Consumer,
        created_at: at,
        updated_at: at,
        deleted: true,
    })
}
