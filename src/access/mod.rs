//! Authentication and authorization. This is the only module that decides who may do what; handlers
//! get rooms from here.
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
//! | delete a room | anyone | its initiator, support users |
//! | delete a message | anyone | its author, as a member; support users |
//!
//! In secure mode only support users may remove the last support user of a consumer-to-support
//! room.
//!
//! In secure mode no refusal reveals whether a room or message exists: a caller who may not see it
//! gets the same error either way.

mod action;
mod header;

use std::{fmt, sync::Arc};

use tracing::field::display;

pub use action::Action;
pub use header::{authorization, token_in};

use crate::{
    address::ClientAddress,
    clock::Clock,
    config::{AccessMode, Registration},
    error::{Error, Result},
    model::{
        Message, MessageId, Room, RoomId, RoomType, Session, Timestamp, User, UserId, UserType,
    },
    refusals,
    store::Store,
    token::{Claims, TokenError, Tokens},
};

/// An authenticated user.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user.
    pub user: Arc<User>,
    /// The claims of their token.
    pub token: Claims,
}

/// The caller of a request or an event.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The caller's identity, if authenticated.
    pub identity: Option<Identity>,
    /// The address that the request comes from.
    pub address: ClientAddress,
}

impl Caller {
    /// Returns the authenticated user, if any.
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        self.identity
            .as_ref()
            .map(|identity| identity.user.as_ref())
    }

    fn is(&self, user: UserId) -> bool {
        self.user().is_some_and(|own| own.id == user)
    }

    fn is_support(&self) -> bool {
        self.user().is_some_and(|own| own.kind == UserType::Support)
    }

    fn is_in(&self, room: &Room) -> bool {
        self.user().is_some_and(|own| room.has_member(own.id))
    }
}

/// Authenticates callers and authorizes their actions, depending on the access mode.
#[derive(Clone)]
pub struct Access {
    mode: AccessMode,
    registration: Registration,
    store: Arc<dyn Store>,
    tokens: Arc<Tokens>,
    clock: Clock,
}

impl Access {
    /// Creates the access checks for the data in `store` and the holders of `tokens`.
    #[must_use]
    pub fn new(
        mode: AccessMode,
        registration: Registration,
        store: Arc<dyn Store>,
        tokens: Arc<Tokens>,
        clock: Clock,
    ) -> Self {
        Self {
            mode,
            registration,
            store,
            tokens,
            clock,
        }
    }

    /// Returns whether callers must authenticate.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.mode == AccessMode::Secure
    }

    /// The current time, with which the expiry of tokens is compared.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Authenticates the holder of this token. Errors: [`Error::Token`], [`Error::SessionOver`],
    /// [`Error::CallerGone`].
    pub async fn authenticate(&self, token: &str) -> Result<Identity> {
        let token = self.tokens.verify(token, self.clock.now())?;
        self.revalidate(token).await
    }

    /// Checks that the claims of a verified token still hold. Errors: as in
    /// [`authenticate`](Self::authenticate).
    pub async fn revalidate(&self, token: Claims) -> Result<Identity> {
        if token.has_ended(self.clock.now()) {
            return Err(TokenError::Expired.into());
        }
        // A token without a session was issued without a password, so it proves nothing.
        if token.session.is_none() && self.is_secure() {
            return Err(TokenError::Undecodable.into());
        }
        // The user is checked before the session, which is deleted with the user: a deleted user
        // always gets `CallerGone`, whatever the cache still has of the session.
        let user = self
            .store
            .user(token.user)
            .await?
            .ok_or(Error::CallerGone)?;
        if let Some(session) = token.session {
            let session = self.store.session(session).await?;
            let goes_on = |session: &Session| {
                session.user == token.user && session.expires_at > self.clock.now()
            };
            session
                .filter(|session| goes_on(session))
                .ok_or(Error::SessionOver)?;
        }
        Ok(Identity { user, token })
    }

    /// Returns the room with this id if the caller may perform the action in it. Errors:
    /// [`Error::NoToken`], [`Error::NoRoom`], [`Error::NotAMember`], [`Error::NotYoursToRemove`],
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
                Error::NotAMember | Error::NotYoursToRemove | Error::NotToDelete => self.deny(
                    caller,
                    action.name(),
                    shown(RoomId::parse(room).as_ref()),
                    error,
                ),
                error => error,
            })
    }

    /// Like [`authorize`](Self::authorize), for callers that request many rooms: refusals are not
    /// logged one by one; the caller logs them together with [`deny`](Self::deny).
    pub async fn authorize_silently(
        &self,
        caller: &Caller,
        action: Action,
        room: &str,
    ) -> Result<Arc<Room>> {
        self.require_token(caller)?;
        let id = RoomId::parse(room);
        let found = match id {
            Some(id) => self.store.room(id).await?,
            None => None,
        };
        match found {
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

    /// Returns the message with this id if the caller may delete it; `None` if it does not exist.
    /// Errors: [`Error::NoToken`], [`Error::NotToDelete`].
    pub async fn authorize_delete(
        &self,
        caller: &Caller,
        message: &str,
    ) -> Result<Option<Message>> {
        self.require_token(caller)?;
        let id = MessageId::parse(message);
        let found = match id {
            Some(id) => self.store.message(id).await?,
            None => None,
        };
        let room = match &found {
            Some(found) => self.store.room(found.room).await?,
            None => None,
        };
        let may = match (&found, &room) {
            _ if !self.is_secure() || caller.is_support() => true,
            (Some(found), Some(room)) => caller.is(found.author) && caller.is_in(room),
            _ => false,
        };
        if !may {
            return Err(self.deny(
                caller,
                "delete the message",
                shown(id.as_ref()),
                Error::NotToDelete,
            ));
        }
        Ok(found.filter(|_| room.is_some()))
    }

    /// Checks that the caller may list and read users. Errors: [`Error::NoToken`].
    pub fn authorize_list_users(&self, caller: &Caller) -> Result<()> {
        self.require_token(caller)
    }

    /// Requires a token in secure mode. It is checked first, so that a caller without a token
    /// learns nothing else.
    fn require_token(&self, caller: &Caller) -> Result<()> {
        if self.is_secure() && caller.identity.is_none() {
            Err(Error::NoToken)
        } else {
            Ok(())
        }
    }

    /// Returns the id of the user if the caller may delete them; `None` if the text is not an id.
    /// Errors: [`Error::NoToken`], [`Error::NotToDelete`].
    pub fn authorize_delete_user(&self, caller: &Caller, user: &str) -> Result<Option<UserId>> {
        self.require_token(caller)?;
        let id = UserId::parse(user);
        if !self.is_secure() || caller.is_support() || id.is_some_and(|id| caller.is(id)) {
            return Ok(id);
        }
        Err(self.deny(
            caller,
            "delete the user",
            shown(id.as_ref()),
            Error::NotToDelete,
        ))
    }

    /// Returns the caller's own id if the path names the caller. Errors: [`Error::NotYours`].
    pub fn authorize_own(&self, caller: &Caller, user: &str) -> Result<UserId> {
        let id = UserId::parse(user);
        id.filter(|id| caller.is(*id)).ok_or_else(|| {
            self.deny(
                caller,
                "change the user",
                shown(id.as_ref()),
                Error::NotYours,
            )
        })
    }

    /// Checks that the caller may register a user of this kind. Errors: [`Error::SupportOnly`],
    /// [`Error::RegistrationClosed`].
    pub fn authorize_register(&self, caller: &Caller, kind: UserType) -> Result<()> {
        if !self.is_secure()
            || caller.is_support()
            || (kind == UserType::Consumer && self.registration == Registration::Open)
        {
            return Ok(());
        }
        let error = if kind == UserType::Support {
            Error::SupportOnly
        } else {
            Error::RegistrationClosed
        };
        Err(self.deny(
            caller,
            "register a user",
            shown(Some(&kind.as_str())),
            error,
        ))
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
        let members = self.store.users_by_id(&room.members).await?;
        let support = members
            .iter()
            .filter(|member| !member.deleted && member.kind == UserType::Support)
            .map(|member| member.id);
        let (taken, required_members): (Vec<_>, Vec<_>) =
            support.partition(|member| *member == user);
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        if required_members.is_empty() {
            return Err(self.deny(
                caller,
                Action::Remove.name(),
                shown(Some(&room.id)),
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

    /// Logs the refusal, with the user, the action and the target, and returns the error.
    pub fn deny(
        &self,
        caller: &Caller,
        action: &str,
        target: Option<&dyn fmt::Display>,
        error: Error,
    ) -> Error {
        if refusals::is_first(caller.address, "refusals") {
            let user = caller.user().map(|user| display(user.id));
            tracing::warn!(address = %caller.address, user, action, target = target.map(display), "refused");
        }
        error
    }
}

/// Converts the target of an action for the log. Text from clients must not be passed, except ids.
#[must_use]
pub fn shown(target: Option<&impl fmt::Display>) -> Option<&dyn fmt::Display> {
    target.map(|target| target as &dyn fmt::Display)
}
