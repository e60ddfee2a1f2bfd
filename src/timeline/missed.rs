//! What was not told when it happened, read from the log.

use std::{collections::HashMap, sync::Arc};

use super::{RoomEvent, RoomEventKind, without_text};
use crate::{
    error::Result,
    model::{Entry, EntryKind, Message, ReadMark, Room, RoomId, Seq, Timestamp, User, UserId, UserType},
    store::{self, LogPosition, Store},
    view::{Members, Post},
};

/// What stands in a room's log behind `after` and up to `up_to`, as it would have been told; messages as they are now. Nothing, if the
/// room is gone. At most `listed_members` of the room are shown.
pub async fn missed(store: &dyn Store, listed_members: usize, room: RoomId, after: Seq, up_to: Seq) -> Result<Vec<RoomEvent>> {
    let Some(room) = store.room(room).await? else { return Ok(Vec::new()) };
    let entries = store.entries(room.id, after, Some(up_to), up_to.0.saturating_sub(after.0)).await?;
    let mut authors: Vec<_> = entries.iter().map(|entry| shown(entry).map_or(entry.author, |message| message.author)).collect();
    authors.sort_unstable();
    authors.dedup();
    let mut posts = Posts { store, listed_members, room: &room, people: HashMap::new(), marks: Vec::new() };
    if room.members.len() <= listed_members {
        posts.marks = posts.marks(Seq(after.0 + 1), up_to).await?;
    }
    posts.people.extend(store.users_by_id(&authors).await?.into_iter().map(|user| (user.id, user)));
    let mut news = Vec::with_capacity(entries.len());
    for entry in entries {
        let placed = LogPosition { seq: entry.seq, created_at: entry.created_at };
        news.push(RoomEvent { room: room.id, placed, author: entry.author, what: posts.told(entry).await? });
    }
    Ok(news)
}

/// The message that an entry shows, unless it was deleted since.
fn shown(entry: &Entry) -> Option<&Message> {
    match &entry.what {
        EntryKind::Message(message) | EntryKind::Edit { current: Some(message), .. } => Some(message),
        _ => None,
    }
}

/// What it takes to show messages of a room as posts.
struct Posts<'a> {
    store: &'a dyn Store,
    listed_members: usize,
    room: &'a Arc<Room>,
    people: HashMap<UserId, Arc<User>>,
    /// Who has read what was posted. In a large room it is told as on its own server, as read by nobody yet: to look for so many readers of
    /// each post would hold up what is told in all other rooms.
    marks: Vec<ReadMark>,
}

impl Posts<'_> {
    async fn told(&self, entry: Entry) -> Result<RoomEventKind> {
        let lost = |id| without_text(id, entry.room, entry.author, LogPosition { seq: entry.seq, created_at: entry.created_at });
        Ok(match &entry.what {
            EntryKind::Message(message) => RoomEventKind::Posted(self.post(message, &self.marks).await?),
            EntryKind::Deleted(id) => RoomEventKind::Posted(self.post(&lost(*id), &self.marks).await?),
            EntryKind::Edit { current: Some(message), .. } => {
                let marks = self.marks(message.seq, message.seq).await?;
                RoomEventKind::Edited(self.post(message, &marks).await?)
            }
            EntryKind::Edit { message, current: None } => RoomEventKind::Edited(self.post(&lost(*message), &[]).await?),
            EntryKind::Deletion(message) => RoomEventKind::Deleted(*message),
            EntryKind::MemberAdded(user) => RoomEventKind::MemberAdded(*user),
            EntryKind::MemberRemoved(user) => RoomEventKind::MemberRemoved(*user),
            EntryKind::Renamed(name) => RoomEventKind::Renamed(name.clone()),
        })
    }

    async fn marks(&self, first: Seq, last: Seq) -> store::Result<Vec<ReadMark>> {
        self.store.read_marks(self.room.id, &self.room.members, first, last).await
    }

    async fn post(&self, message: &Message, marks: &[ReadMark]) -> Result<Post> {
        let author = self.people.get(&message.author).map_or_else(|| nobody(message.author), Arc::clone);
        let members = Members::of(self.store, self.room, self.listed_members, || vec![Arc::clone(&author)]).await?;
        Ok(Post::new(message, &author, &members, marks))
    }
}

/// An author of whom nothing is known.
fn nobody(id: UserId) -> Arc<User> {
    let at = Timestamp::default();
    let (first_name, last_name) = (String::new(), String::new());
    Arc::new(User { id, first_name, last_name, kind: UserType::Consumer, created_at: at, updated_at: at, deleted: true })
}
