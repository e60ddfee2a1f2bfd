//! Authorization: decides what a [`Caller`] may do. This is the only module that does; services get
//! rooms from here. Who the caller is, [`auth`](crate::auth) decides.
//!
//! In open mode anyone may log in as anyone, and so may do nearly anything, as in the original
//! application. In secure mode:
//!
//! | action | open mode | secure mode |
//! |---|---|---|
//! | register a consumer | anyone | anyone, or only support users (`registration = "closed"`) |
//! | register a support user | anyone | support users |
//! | list and read users | anyone | token holders |
//! | change one's names or password | the user | the user |
//! | delete a user | anyone | the user, support users |
//! | initiate a room | token holders | token holders; with support, a support user must be in it |
//! | read, post, mark as read | members | members |
//! | edit a message | its author, as a member | its author, as a member |
//! | add members, rename the room, leave it | members | members |
//! | remove other members | its initiator, as a member; support users | the same; see below |
//! | subscribe a socket | anyone | members; another user must be a member too |
//! | delete a room | anyone | its initiator, as a member; support users |
//! | delete a message | anyone | its author, as a member; support users |
//!
//! In secure mode only support users may remove the last support user of a consumer-to-support
//! room.
//!
//! In secure mode no refusal reveals whether a room or message exists: a caller who may not see it
//! gets the same error either way.

mod action;

use std::{fmt, sync::Arc};

use tracing::field::display;

pub use action::Action;

use crate::{
    auth::{Caller, MaybeAuthenticated, Origin},
    config::{AccessMode, Registration},
    error::{Error, Result},
    model::{Message, MessageId, Room, RoomId, RoomType, User, UserId, UserType},
    refusals,
    store::Store,
};

/// Authorizes the actions of callers, depending on the access mode.
#[derive(Clone)]
pub struct Access {
    mode: AccessMode,
    registration: Registration,
    store: Store,
}

impl Access {
    /// Creates the access checks for the data in `store`.
    #[must_use]
    pub fn new(mode: AccessMode, registration: Registration, store: Store) -> Self {
        Self {
            mode,
            registration,
            store,
        }
    }

    /// Returns whether callers must authenticate.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.mode == AccessMode::Secure
    }

    /// Returns the room with this id if the caller may perform the action in it. Errors:
    /// [`Error::NoRoom`], [`Error::NotAMember`], [`Error::NotYoursToRemove`],
    /// [`Error::NotToDelete`].
    pub async fn authorize(
        &self,
        caller: &Caller,
        action: Action,
        room: &str,
    ) -> Result<Arc<Room>> {
        self.authorize_silently(caller, action, room)
            .await
            .map_err(|error| match error {
                Error::NotAMember | Error::NotYoursToRemove | Error::NotToDelete => deny(
                    caller,
                    action.name(),
                    loggable(RoomId::parse(room).as_ref()),
                    error,
                ),
                error => error,
            })
    }

    /// Like [`authorize`](Self::authorize), for callers that request many rooms: refusals are not
    /// logged one by one; the service logs them together with [`deny`].
    pub async fn authorize_silently(
        &self,
        caller: &Caller,
        action: Action,
        room: &str,
    ) -> Result<Arc<Room>> {
        match self.room(room).await? {
            Some(room) if self.permits(caller, action, &room) => Ok(room),
            None if !self.is_secure() || (action == Action::Delete && caller.is_support()) => {
                Err(Error::NoRoom)
            }
            Some(room) if action == Action::Remove && caller.is_in(&room) => {
                Err(Error::NotYoursToRemove)
            }
            _ if action == Action::Delete => Err(Error::NotToDelete),
            _ => Err(Error::NotAMember),
        }
    }

    async fn room(&self, id: &str) -> Result<Option<Arc<Room>>> {
        match RoomId::parse(id) {
            Some(id) => Ok(self.store.rooms.find(id).await?),
            None => Ok(None),
        }
    }

    fn permits(&self, caller: &Caller, action: Action, room: &Room) -> bool {
        match (self.mode, action) {
            (AccessMode::Open, Action::Subscribe | Action::Delete) => true,
            (AccessMode::Secure, Action::Delete) | (_, Action::Remove) => {
                caller.is_support() || (caller.is(room.initiator) && caller.is_in(room))
            }
            (
                _,
                Action::Read
                | Action::Post
                | Action::MarkRead
                | Action::Subscribe
                | Action::Change
                | Action::Leave,
            ) => caller.is_in(room),
        }
    }

    /// Returns the room with this id if the sender may subscribe to it. In secure mode, the other
    /// user whose sockets are subscribed too must be a member. Errors: as in
    /// [`authorize`](Self::authorize), [`Error::NoToken`], [`Error::OtherNotAMember`].
    pub async fn authorize_subscribe(
        &self,
        sender: &MaybeAuthenticated,
        room: &str,
        other: Option<UserId>,
    ) -> Result<Arc<Room>> {
        let room = self.authorize_open(sender, Action::Subscribe, room).await?;
        match other {
            Some(other) if self.is_secure() && !room.has_member(other) => Err(deny(
                sender,
                "subscribe for the user",
                Some(&other),
                Error::OtherNotAMember,
            )),
            _ => Ok(room),
        }
    }

    /// Returns the room with this id if the sender may delete it. Errors: as in
    /// [`authorize`](Self::authorize), and [`Error::NoToken`].
    pub async fn authorize_delete_room(
        &self,
        sender: &MaybeAuthenticated,
        room: &str,
    ) -> Result<Arc<Room>> {
        self.authorize_open(sender, Action::Delete, room).await
    }

    /// Like [`authorize`](Self::authorize), for an action that is open to anyone in open mode.
    async fn authorize_open(
        &self,
        sender: &MaybeAuthenticated,
        action: Action,
        room: &str,
    ) -> Result<Arc<Room>> {
        match self.required_caller(sender)? {
            Some(caller) => self.authorize(caller, action, room).await,
            None => self.room(room).await?.ok_or(Error::NoRoom),
        }
    }

    /// Returns the message with this id if the sender may delete it; `None` if it does not exist.
    /// Errors: [`Error::NoToken`], [`Error::NotToDelete`].
    pub async fn authorize_delete_message(
        &self,
        sender: &MaybeAuthenticated,
        message: &str,
    ) -> Result<Option<Message>> {
        let caller = self.required_caller(sender)?;
        let id = MessageId::parse(message);
        let message = match id {
            Some(id) => self.store.history.message(id).await?,
            None => None,
        };
        let room = match &message {
            Some(message) => self.store.rooms.find(message.room).await?,
            None => None,
        };
        let may_delete = match (caller, &message, &room) {
            (None, ..) => true,
            (Some(caller), ..) if caller.is_support() => true,
            (Some(caller), Some(message), Some(room)) => {
                caller.is(message.author) && caller.is_in(room)
            }
            _ => false,
        };
        if !may_delete {
            return Err(deny(
                sender,
                "delete the message",
                loggable(id.as_ref()),
                Error::NotToDelete,
            ));
        }
        Ok(message.filter(|_| room.is_some()))
    }

    /// Checks that the sender may list and read users. Errors: [`Error::NoToken`].
    pub fn authorize_list_users(&self, sender: &MaybeAuthenticated) -> Result<()> {
        self.required_caller(sender).map(drop)
    }

    /// Returns the caller in secure mode, and `None` in open mode, where anyone may do what this is
    /// called for. It is called first, so that a sender without a token learns nothing else.
    /// Errors: [`Error::NoToken`].
    fn required_caller<'a>(&self, sender: &'a MaybeAuthenticated) -> Result<Option<&'a Caller>> {
        if !self.is_secure() {
            return Ok(None);
        }
        sender.caller.as_ref().map(Some).ok_or(Error::NoToken)
    }

    /// Returns the id of the user if the sender may delete them; `None` if the text is not an id.
    /// Errors: [`Error::NoToken`], [`Error::NotToDelete`].
    pub fn authorize_delete_user(
        &self,
        sender: &MaybeAuthenticated,
        user: &str,
    ) -> Result<Option<UserId>> {
        let id = UserId::parse(user);
        match self.required_caller(sender)? {
            Some(caller) if !caller.is_support() && id.is_none_or(|id| !caller.is(id)) => {
                Err(deny(
                    sender,
                    "delete the user",
                    loggable(id.as_ref()),
                    Error::NotToDelete,
                ))
            }
            _ => Ok(id),
        }
    }

    /// Returns the caller's own id if the path names the caller. Errors: [`Error::NotYours`].
    pub fn authorize_own(&self, caller: &Caller, user: &str) -> Result<UserId> {
        let id = UserId::parse(user);
        id.filter(|id| caller.is(*id)).ok_or_else(|| {
            deny(
                caller,
                "change the user",
                loggable(id.as_ref()),
                Error::NotYours,
            )
        })
    }

    /// Checks that the sender may register a user of this kind. Errors: [`Error::SupportOnly`],
    /// [`Error::RegistrationClosed`].
    pub fn authorize_register(&self, sender: &MaybeAuthenticated, kind: UserType) -> Result<()> {
        if !self.is_secure()
            || sender.caller.as_ref().is_some_and(Caller::is_support)
            || (kind == UserType::Consumer && self.registration == Registration::Open)
        {
            return Ok(());
        }
        let error = if kind == UserType::Support {
            Error::SupportOnly
        } else {
            Error::RegistrationClosed
        };
        Err(deny(sender, "register a user", Some(&kind), error))
    }

    /// Checks that the caller may remove this user from a room in which they may remove members: a
    /// consumer-to-support room keeps its last support user, unless the caller is a support user.
    /// This includes a support user who leaves. Returns the support users of whom at least one must
    /// be a member when the user is removed, if any must: others may be removed in the meantime.
    /// Errors: [`Error::LastSupport`].
    pub async fn authorize_remove(
        &self,
        caller: &Caller,
        room: &Room,
        user: UserId,
    ) -> Result<Vec<UserId>> {
        if !self.is_secure() || room.kind == RoomType::ConsumerToConsumer || caller.is_support() {
            return Ok(Vec::new());
        }
        let members = self.store.users.find_many(&room.members).await?;
        let support = members
            .iter()
            .filter(|member| !member.deleted && member.kind == UserType::Support)
            .map(|member| member.id);
        let (removed, required_members): (Vec<_>, Vec<_>) =
            support.partition(|member| *member == user);
        if removed.is_empty() {
            return Ok(Vec::new());
        }
        if required_members.is_empty() {
            return Err(deny(
                caller,
                Action::Remove.name(),
                Some(&room.id),
                Error::LastSupport,
            ));
        }
        Ok(required_members)
    }

    /// Returns whether a room of this kind may have these members.
    #[must_use]
    pub fn allows_room<'a>(
        &self,
        kind: RoomType,
        mut members: impl Iterator<Item = &'a User>,
    ) -> bool {
        !self.is_secure()
            || kind == RoomType::ConsumerToConsumer
            || members.any(|member| member.kind == UserType::Support)
    }
}

/// Logs a refusal, with the user, the action and the target, and returns the error. The target must
/// not be text from a client, except an id.
pub fn deny(
    sender: impl Into<Origin>,
    action: &str,
    target: Option<&dyn fmt::Display>,
    error: Error,
) -> Error {
    let Origin { user, address } = sender.into();
    if refusals::is_first(address, "refusals") {
        let user = user.map(display);
        tracing::warn!(%address, user, action, target = target.map(display), "refused");
    }
    error
}

fn loggable(target: Option<&impl fmt::Display>) -> Option<&dyn fmt::Display> {
    target.map(|target| target as &dyn fmt::Display)
}
