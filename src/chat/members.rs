//! Reads the members of rooms: who they are, and when they were last connected.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use serde::{Serialize, Serializer};

use super::service::Chat;
use crate::{
    access::Action,
    auth::Caller,
    config::PresenceScope,
    error::{Error, Result},
    model::{Room, Timestamp, User, UserId},
    view::{Large, Members, People, RoomView, present, present_members},
};

/// A room with the members that are not deleted. It is serialized as a [`RoomView`].
pub struct RoomDetails {
    room: Arc<Room>,
    /// The deleted members, ascending.
    deleted: Arc<[UserId]>,
    /// The largest number of members for which their ids are listed.
    pub(super) listed: usize,
}

impl RoomDetails {
    /// Returns the members that are not deleted, ascending.
    pub(super) fn members(&self) -> Cow<'_, [UserId]> {
        self.room.members_except(&self.deleted)
    }
}

impl Serialize for RoomDetails {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        RoomView::new(&self.room, &self.members(), self.listed).serialize(serializer)
    }
}

/// A page of the members of a room.
pub struct MemberPage {
    /// The members on the page.
    pub users: Vec<Arc<User>>,
    /// The number of all members.
    pub member_count: usize,
}

/// A member of a room, and whether they are connected.
pub struct MemberPresence {
    /// The member.
    pub user: UserId,
    /// Whether they are connected.
    pub online: bool,
    /// When they were last connected, if they ever were.
    pub last_seen_at: Option<Timestamp>,
}

impl Chat {
    /// Returns a page of the members of a room. Errors: those of reading in
    /// [`authorize`](crate::access::Access::authorize).
    pub async fn member_page(
        &self,
        caller: &Caller,
        room: &str,
        skip: u64,
        limit: u64,
    ) -> Result<MemberPage> {
        let room = self.access.authorize(caller, Action::Read, room).await?;
        let members = present_members(&self.store, &room).await?;
        let page = page_of(&members, skip, limit);
        // Users deleted since they joined are left out.
        let users = present(self.store.users.find_many(page).await?);
        Ok(MemberPage {
            users,
            member_count: members.len(),
        })
    }

    /// Returns which members are connected, and when the others last were. Members whose presence
    /// is hidden from the caller look as if they had never been connected. `online` returns for each
    /// of these users whether they are connected. Errors: those of reading in
    /// [`authorize`](crate::access::Access::authorize).
    pub async fn presence(
        &self,
        caller: &Caller,
        room: &str,
        online: impl FnOnce(&[UserId]) -> Vec<bool>,
    ) -> Result<Vec<MemberPresence>> {
        let room = self.access.authorize(caller, Action::Read, room).await?;
        let members = present_members(&self.store, &room).await?;
        let visible = match self.config.presence {
            PresenceScope::Members => None,
            PresenceScope::Writers => Some(self.store.memberships.writers_in(&room).await?),
        };
        let is_visible = |member: UserId| {
            let is_listed = |visible: &Vec<UserId>| visible.binary_search(&member).is_ok();
            caller.is(member) || visible.as_ref().is_none_or(is_listed)
        };
        let online = online(&members);
        let last_seen = self.store.presence.last_seen(&members).await?;
        let last_seen: HashMap<_, _> = last_seen.into_iter().collect();
        let now = self.clock.now();
        let presence_of = |(member, online): (&UserId, bool)| {
            let is_visible = is_visible(*member);
            let last_seen_at = if online {
                Some(now)
            } else {
                last_seen.get(member).copied()
            };
            MemberPresence {
                user: *member,
                online: online && is_visible,
                last_seen_at: last_seen_at.filter(|_| is_visible),
            }
        };
        Ok(members.iter().zip(online).map(presence_of).collect())
    }

    /// Returns the users with these ids. Errors: [`Error::Invalid`], which names those that do not
    /// exist.
    pub(super) async fn existing_users(&self, ids: &[String]) -> Result<Vec<Arc<User>>> {
        let parsed: Vec<_> = ids.iter().map(|id| UserId::parse(id)).collect();
        let found = self.users_by_id(parsed.iter().flatten().copied()).await?;
        let user = |id: UserId| found.get(&id).filter(|user| !user.deleted);
        let (mut users, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
        for (text, id) in ids.iter().zip(parsed) {
            match id.and_then(user) {
                Some(user) => users.push(Arc::clone(user)),
                None => missing.push(text.as_str()),
            }
        }
        match missing[..] {
            [] => Ok(users),
            [one] => Err(Error::invalid(
                "userIds",
                format!("No user with this id found: {one}"),
            )),
            _ => Err(Error::invalid(
                "userIds",
                format!("No users with these ids found: {}", missing.join(", ")),
            )),
        }
    }

    /// Returns the members to list in a room: all members, or in a large room the author, and the
    /// member count.
    pub(super) async fn members(&self, room: &Arc<Room>, author: &Arc<User>) -> Result<Members> {
        self.listed(room, || vec![Arc::clone(author)]).await
    }

    /// Returns the members of a room as users; in a large room only those in `mentioned`, and the
    /// member count.
    pub(super) async fn users(&self, room: &Arc<Room>, mentioned: &People) -> Result<Members> {
        let mentioned_members = || {
            let mut listed: Vec<_> = mentioned
                .values()
                .filter(|user| room.has_member(user.id))
                .cloned()
                .collect();
            listed.sort_unstable_by_key(|user| user.id);
            present(listed)
        };
        self.listed(room, mentioned_members).await
    }

    /// Returns the members of a room, or `instead` and the member count if there are too many to
    /// list.
    async fn listed(
        &self,
        room: &Arc<Room>,
        instead: impl FnOnce() -> Vec<Arc<User>>,
    ) -> Result<Members> {
        let listed = self.config.listed_members;
        Ok(Members::of(&self.store, room, listed, instead).await?)
    }

    /// Returns the room with its members.
    pub(super) async fn details(&self, room: Arc<Room>) -> Result<RoomDetails> {
        Ok(RoomDetails {
            deleted: self.store.rooms.deleted_members(&room).await?,
            room,
            listed: self.config.listed_members,
        })
    }

    /// Returns the member count if the room has too many members to list.
    pub(super) async fn large(&self, room: &Arc<Room>) -> Result<Option<Large>> {
        let listed = self.config.listed_members;
        if room.members.len() <= listed {
            return Ok(None);
        }
        let members = present_members(&self.store, room).await?.len();
        Ok((members > listed).then_some(Large { members, listed }))
    }

    /// Returns these users, reading each only once.
    pub(super) async fn users_by_id(&self, ids: impl Iterator<Item = UserId>) -> Result<People> {
        let mut ids: Vec<_> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        let people = self.store.users.find_many(&ids).await?;
        Ok(people.into_iter().map(|user| (user.id, user)).collect())
    }
}

fn page_of<T>(all: &[T], skip: u64, limit: u64) -> &[T] {
    let [skip, limit] = [skip, limit].map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let rest = all.get(skip..).unwrap_or_default();
    &rest[..rest.len().min(limit)]
}
