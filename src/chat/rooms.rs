//! Creates, changes and deletes rooms.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{members::RoomDetails, service::Chat};
use crate::{
    access::Action,
    auth::{Caller, MaybeAuthenticated},
    background::run_detached,
    error::{Error, Result},
    model::{MAX_ROOM, Room, RoomId, RoomType, Seq, UserId},
    timeline::Transient,
};

/// The number of members added to a room concurrently.
const ADDED_AT_ONCE: usize = 32;

/// A room to be created, unless it exists.
pub struct NewRoom {
    /// The ids of the members, with or without the caller, as the client sent them.
    pub user_ids: Vec<String>,
    /// The kind of conversation.
    pub kind: RoomType,
    /// The name, if the room has one.
    pub name: Option<String>,
}

impl Chat {
    /// Deletes a room with all messages and returns their number. `None` if it does not exist, or
    /// no longer.
    pub async fn delete_room(
        &self,
        sender: &MaybeAuthenticated,
        room: &str,
    ) -> Result<Option<u64>> {
        self.count_change(sender)?;
        let room = match self.access.authorize_delete_room(sender, room).await {
            Ok(room) => room,
            // Deleting a room that does not exist succeeds, as in the original application.
            Err(Error::NoRoom) => return Ok(None),
            Err(error) => return Err(error),
        };
        let chat = self.clone();
        run_detached(async move {
            let deleted = chat.store.rooms.delete(room.id).await?;
            if deleted.is_some() {
                chat.timeline.announce(Transient::RoomDeleted(room)).await;
            }
            Ok(deleted)
        })
        .await
    }

    /// Returns the existing room of the caller and these users, or creates one; a room with a name
    /// is always created. Returns true if the room is new. Errors: [`Error::Invalid`] if a user does
    /// not exist or a support user is missing, [`Error::TooManyMembers`].
    pub async fn initiate(&self, caller: &Caller, new: NewRoom) -> Result<(Arc<Room>, bool)> {
        let users = self.existing_users(&new.user_ids).await?;
        let all = || users.iter().chain([&caller.user]);
        if !self.access.allows_room(new.kind, all().map(AsRef::as_ref)) {
            return Err(Error::invalid(
                "userIds",
                "a consumer-to-support room needs a support user",
            ));
        }
        let mut members: Vec<_> = all().map(|user| user.id).collect();
        members.sort_unstable();
        members.dedup();
        let now = self.clock.monotonic_now();
        self.find_or_create(Room {
            id: self.clock.new_id(now).into(),
            kind: new.kind,
            name: new.name,
            initiator: caller.user.id,
            members,
            joined: Vec::new(),
            created_at: now,
        })
        .await
    }

    async fn find_or_create(&self, room: Room) -> Result<(Arc<Room>, bool)> {
        if room.members.len() > MAX_ROOM {
            return Err(Error::TooManyMembers);
        }
        // Costs as much as adding the other members one by one.
        self.limits
            .posts(room.initiator, room.members.len().saturating_sub(1).max(1))?;
        self.limits
            .store(room.initiator, room.name.as_ref().map_or(0, String::len))?;
        let chat = self.clone();
        run_detached(async move {
            let (room, is_new) = chat.store.rooms.find_or_add(room).await?;
            if is_new {
                let created = Transient::RoomCreated {
                    room: Arc::clone(&room),
                    listed_members: chat.config.listed_members,
                };
                chat.timeline.announce(created).await;
            }
            Ok((room, is_new))
        })
        .await
    }

    /// Adds users to a room, except those who already are members. All of them are added, even if
    /// the caller drops the future. Errors: [`Error::Invalid`] if a user does not exist,
    /// [`Error::TooManyMembers`].
    pub async fn add_members(
        &self,
        caller: &Caller,
        room: &str,
        user_ids: &[String],
    ) -> Result<RoomDetails> {
        let by = caller.user.id;
        let room = self.access.authorize(caller, Action::Change, room).await?;
        let users = self.existing_users(user_ids).await?;
        let new = users
            .iter()
            .filter(|user| !room.has_member(user.id))
            .count();
        if room.members.len() + new > MAX_ROOM {
            return Err(Error::TooManyMembers);
        }
        self.limits.posts(by, new)?;
        let chat = self.clone();
        run_detached(async move {
            // Several at once, so that they share a commit; in a large room, all at once would
            // delay the posts of everyone else.
            for users in users.chunks(ADDED_AT_ONCE) {
                let added = join_all(
                    users
                        .iter()
                        .map(|user| chat.timeline.add_member(room.id, user.id, by)),
                )
                .await;
                added.into_iter().collect::<Result<Vec<_>>>()?;
            }
            chat.updated_details(room.id).await
        })
        .await
    }

    /// Removes a user from a room: the caller or another member. `None` if they are not a member.
    pub async fn remove_member(
        &self,
        caller: &Caller,
        room: &str,
        user: &str,
    ) -> Result<Option<Seq>> {
        let by = caller.user.id;
        self.limits.post(by)?;
        let leaves = UserId::parse(user) == Some(by);
        let room = self
            .access
            .authorize(
                caller,
                if leaves {
                    Action::Leave
                } else {
                    Action::Remove
                },
                room,
            )
            .await?;
        // The log decides whether the user is a member: the cached room may be out of date if
        // another server has changed it since.
        let Some(user) = UserId::parse(user) else {
            return Ok(None);
        };
        let required_members = self.access.authorize_remove(caller, &room, user).await?;
        Ok(self
            .timeline
            .remove_member(room.id, user, required_members, by)
            .await?
            .map(|placed| placed.seq))
    }

    /// Renames a room.
    pub async fn rename(&self, caller: &Caller, room: &str, name: String) -> Result<RoomDetails> {
        let by = caller.user.id;
        self.limits.post(by)?;
        let room = self.access.authorize(caller, Action::Change, room).await?;
        self.limits.store(by, name.len())?;
        self.timeline.rename(room.id, Some(name), by).await?;
        self.updated_details(room.id).await
    }

    /// Returns a room after a change.
    async fn updated_details(&self, room: RoomId) -> Result<RoomDetails> {
        let room = self.store.rooms.find(room).await?;
        self.details(room.ok_or(Error::NoRoom)?).await
    }
}
