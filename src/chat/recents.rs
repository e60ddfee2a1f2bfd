//! Lists the rooms of a user, with their latest messages and unread counts.

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::{
    members::RoomDetails,
    page::{Written, fitting},
    service::Chat,
};
use crate::{
    auth::Caller,
    config::History,
    error::Result,
    model::{Message, Room, UserId},
    store::{Limit, ListedRoom, RoomPage, Unread},
    view::{People, RecentConversation, RecentRoom, RoomView, Shown, raw},
};

/// A page of a user's rooms.
pub struct Recents {
    /// The rooms, each with its latest message, latest first.
    pub conversation: Vec<Written>,
    /// Whether there are more rooms.
    pub has_more: bool,
}

impl Chat {
    /// Returns a page of the caller's rooms, ordered by their latest messages. With `with_empty`,
    /// rooms without messages are included, ordered by their creation, and every room is described.
    pub async fn recents(
        &self,
        caller: &Caller,
        skip: u64,
        limit: u64,
        with_empty: bool,
    ) -> Result<Recents> {
        let mut bytes = self.max_bytes_of_numbered_page();
        let page = RoomPage {
            user: caller.user.id,
            since_joined: self.config.history == History::FromJoining,
            with_empty,
            skip,
            limit: Limit {
                items: limit.saturating_add(1),
                bytes,
            },
        };
        let mut listed = self.store.history.recents(page).await?;
        let is_followed = listed.len() as u64 > limit;
        listed.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let rooms = self.recent_rooms(page, listed).await?;
        let people = self
            .users_by_id(rooms.iter().flat_map(|(_, room)| room.mentioned_users()))
            .await?;
        let write = |(unread, room): &(Unread, RoomSummary)| room.write(*unread, &people);
        let (conversation, is_cut) = fitting(&rooms, limit, &mut bytes, write);
        Ok(Recents {
            conversation,
            has_more: is_followed || is_cut,
        })
    }

    /// Returns the rooms of a list with the data shown along with them. Rooms that were deleted or
    /// left in the meantime are left out.
    async fn recent_rooms(
        &self,
        page: RoomPage,
        listed: Vec<ListedRoom>,
    ) -> Result<Vec<(Unread, RoomSummary)>> {
        let ids: Vec<_> = listed.iter().map(|listed| listed.room).collect();
        let unread = self.store.read_marks.unread(page.user, Some(&ids)).await?;
        let rooms = try_join_all(
            listed
                .into_iter()
                .map(|listed| self.recent_room(page, listed)),
        )
        .await?;
        let unread_in = |room: &Room| unread.iter().find(|unread| unread.room == room.id).copied();
        Ok(rooms
            .into_iter()
            .flatten()
            .filter_map(|room| Some((unread_in(&room.room)?, room)))
            .collect())
    }

    async fn recent_room(&self, page: RoomPage, listed: ListedRoom) -> Result<Option<RoomSummary>> {
        let Some(room) = self.store.rooms.find(listed.room).await? else {
            return Ok(None);
        };
        let shown = self.shown(&room, listed.latest.iter()).await?;
        // The user may have left the room and rejoined between the two reads.
        let latest = listed
            .latest
            .filter(|message| message.seq > self.hidden(&room, page.user));
        if latest.is_none() && !page.with_empty {
            return Ok(None);
        }
        let details = if page.with_empty {
            Some(self.details(Arc::clone(&room)).await?)
        } else {
            None
        };
        Ok(Some(RoomSummary {
            latest,
            room,
            shown,
            details,
        }))
    }

    /// Returns the unread counts of all rooms of the caller that have unread messages, ascending by
    /// room.
    pub async fn unread(&self, caller: &Caller) -> Result<Vec<Unread>> {
        let mut unread = self.store.read_marks.unread(caller.user.id, None).await?;
        unread.retain(|room| room.unread > 0);
        unread.sort_unstable_by_key(|room| room.room);
        Ok(unread)
    }
}

/// A room in a list, with its latest message and the data shown along with it.
struct RoomSummary {
    latest: Option<Message>,
    room: Arc<Room>,
    shown: Shown,
    /// The description of the room, if requested.
    details: Option<RoomDetails>,
}

impl RoomSummary {
    /// Returns the users whose names appear in a recent conversation.
    fn mentioned_users(&self) -> Vec<UserId> {
        let author = self.latest.as_ref().map(|message| message.author);
        let readers = self.shown.marks.iter().map(|mark| mark.user).chain(author);
        if self.shown.large.is_some() {
            readers.collect()
        } else {
            readers.chain(self.room.members.iter().copied()).collect()
        }
    }

    /// Serializes the room. `people` must contain the mentioned users.
    fn write(&self, unread: Unread, people: &People) -> Written {
        let members = self.details.as_ref().map(RoomDetails::members);
        let chat_room = self
            .details
            .as_ref()
            .zip(members.as_deref())
            .map(|(details, members)| RoomView::new(&self.room, members, details.listed));
        raw(&RecentConversation::new(RecentRoom {
            latest: self.latest.as_ref(),
            room: &self.room,
            shown: &self.shown,
            people,
            unread,
            chat_room,
        }))
    }
}
