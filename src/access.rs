//! Who somebody is, and who may do what. The only place that decides; a handler gets the room from here, or it gets none.
//!
//! In open mode anyone may log in as anyone, and so may do nearly anything, as in the original application. In secure mode:
//!
//! | action | open mode | secure mode |
//! |---|---|---|
//! | register a consumer | anyone | anyone, or support users alone (`registration = "closed"`) |
//! | register a support user | anyone | support users |
//! | list and read users | anyone | whoever has a token |
//! | change one's names or password | the user | the user |
//! | delete a user | anyone | the user, support users |
//! | initiate a room | whoever has a token | whoever has a token; one with support needs a support user in it |
//! | read, post, mark as read | members | members |
//! | edit a message | its author, as a member | its author, as a member |
//! | add people, name the room, leave it | members | members |
//! | take others out of a room | its initiator, as a member; support users | the same; but of a room with support its last support user is taken out by support users alone |
//! | subscribe a socket | anyone | members; for another user, who has to be a member too |
//! | delete a room | anyone | its initiator, support users |
//! | delete a message | anyone | its author, as a member; support users |
//!
//! In secure mode no refusal tells whether there is such a room or message: to whoever may not see it, what is there and what is not are the
//! same.

use std::{fmt, sync::Arc};

use axum::http::{HeaderMap, HeaderValue, header};
use tracing::field::display;

use crate::{
    address::ClientAddress,
    clock::Clock,
    config::{AccessMode, Registration},
    error::{Error, Result},
    model::{Message, MessageId, Room, RoomId, RoomType, Session, Timestamp, User, UserId, UserType},
    refusals,
    store::Store,
    token::{Claims, TokenError, Tokens},
};

/// Somebody who has proved who they are.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Who.
    pub user: Arc<User>,
    /// What their token says besides.
    pub token: Claims,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who they have proved to be, if anybody.
    pub identity: Option<Identity>,
    /// From where they ask.
    pub address: ClientAddress,
}

impl Caller {
    /// The user that they have proved to be.
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        self.identity.as_ref().map(|identity| identity.user.as_ref())
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

/// What they ask for.
///
/// To add one: the variant here, its row in the table above, its case in `Access::permits`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// See the conversation.
    Read,
    /// Add a message.
    Post,
    /// Mark the conversation as read.
    MarkRead,
    /// Hear what happens in the room.
    Subscribe,
    /// Let people in, or name the room.
    NewEntryKind,
    /// Go.
    Leave,
    /// Take somebody else out.
    Remove,
    /// Delete the room.
    Delete,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read the room",
            Self::Post => "post in the room",
            Self::MarkRead => "mark the room as read",
            Self::Subscribe => "subscribe to the room",
            Self::NewEntryKind => "change the room",
            Self::Leave => "leave the room",
            Self::Remove => "take somebody out of the room",
            Self::Delete => "delete the room",
        }
    }
}

/// Decides by the mode that the server runs in.
#[derive(Clone)]
pub struct Access {
    mode: AccessMode,
    registration: Registration,
    store: Arc<dyn Store>,
    tokens: Arc<Tokens>,
    clock: Clock,
}

impl Access {
    /// Access to what is kept in `store`, for the bearers of `tokens`.
    #[must_use]
    pub fn new(mode: AccessMode, registration: Registration, store: Arc<dyn Store>, tokens: Arc<Tokens>, clock: Clock) -> Self {
        Self { mode, registration, store, tokens, clock }
    }

    /// Whether everybody has to prove who they are.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.mode == AccessMode::Secure
    }

    /// The time by which tokens expire.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Who the bearer of this token is. Errors: [`Error::Token`], [`Error::SessionOver`], [`Error::CallerGone`].
    pub async fn authenticate(&self, token: &str) -> Result<Identity> {
        let token = self.tokens.verify(token, self.clock.now())?;
        self.revalidate(token).await
    }

    /// Whether what a token has said still holds.
    pub async fn revalidate(&self, token: Claims) -> Result<Identity> {
        if token.has_ended(self.clock.now()) {
            return Err(TokenError::Expired.into());
        }
        // A token that was given without a proof proves nothing.
        if token.session.is_none() && self.is_secure() {
            return Err(TokenError::Undecodable.into());
        }
        // Before the session, which goes with the user: whoever is gone is told that, whatever is still remembered of the session.
        let user = self.store.user(token.user).await?.ok_or(Error::CallerGone)?;
        if let Some(session) = token.session {
            let session = self.store.session(session).await?;
            let goes_on = |session: &Session| session.user == token.user && session.expires_at > self.clock.now();
            session.filter(|session| goes_on(session)).ok_or(Error::SessionOver)?;
        }
        Ok(Identity { user, token })
    }

    /// The room with this id, if the caller may do this in it. Errors: [`Error::NoToken`], [`Error::NoRoom`], [`Error::NotAMember`], [`Error::NotToDelete`].
    pub async fn authorize(&self, caller: &Caller, action: Action, room: &str) -> Result<Arc<Room>> {
        self.authorize_silently(caller, action, room).await.map_err(|error| match error {
            Error::NotAMember | Error::NotYoursToRemove | Error::NotToDelete => {
                self.deny(caller, action.name(), shown(RoomId::parse(room).as_ref()), error)
            }
            error => error,
        })
    }

    /// The same, for whoever asks for many rooms: refusals are not noted down one by one, but by [`refuse`](Self::refuse) all together.
    pub async fn authorize_silently(&self, caller: &Caller, action: Action, room: &str) -> Result<Arc<Room>> {
        self.ask_for_token(caller)?;
        let id = RoomId::parse(room);
        let found = match id {
            Some(id) => self.store.room(id).await?,
            None => None,
        };
        match found {
            Some(room) if self.permits(caller, action, &room) => Ok(room),
            None if !self.is_secure() || (action == Action::Delete && caller.is_support()) => Err(Error::NoRoom),
            Some(room) if action == Action::Remove && caller.is_in(&room) => Err(Error::NotYoursToRemove),
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
            (_, Action::Read | Action::Post | Action::MarkRead | Action::Subscribe | Action::NewEntryKind | Action::Leave) => {
                caller.is_in(room)
            }
        }
    }

    /// The message with this id, if the caller may delete it; `None` when there is no such message. Errors: [`Error::NoToken`],
    /// [`Error::NotToDelete`].
    pub async fn admit_to_delete(&self, caller: &Caller, message: &str) -> Result<Option<Message>> {
        self.ask_for_token(caller)?;
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
            return Err(self.deny(caller, "delete the message", shown(id.as_ref()), Error::NotToDelete));
        }
        Ok(found.filter(|_| room.is_some()))
    }

    /// Whether the caller may see who is there.
    pub fn admit_to_users(&self, caller: &Caller) -> Result<()> {
        self.ask_for_token(caller)
    }

    /// In secure mode nearly everything takes a token. Whoever shows none is told so, and not what they might do with one.
    fn ask_for_token(&self, caller: &Caller) -> Result<()> {
        if self.is_secure() && caller.identity.is_none() { Err(Error::NoToken) } else { Ok(()) }
    }

    /// The id of the user, if the caller may delete them; `None` when it is no id.
    pub fn admit_to_delete_user(&self, caller: &Caller, user: &str) -> Result<Option<UserId>> {
        self.ask_for_token(caller)?;
        let id = UserId::parse(user);
        if !self.is_secure() || caller.is_support() || id.is_some_and(|id| caller.is(id)) {
            return Ok(id);
        }
        Err(self.deny(caller, "delete the user", shown(id.as_ref()), Error::NotToDelete))
    }

    /// The caller's own id, if the path names nobody else.
    pub fn admit_to_own(&self, caller: &Caller, user: &str) -> Result<UserId> {
        let id = UserId::parse(user);
        id.filter(|id| caller.is(*id)).ok_or_else(|| self.deny(caller, "change the user", shown(id.as_ref()), Error::NotYours))
    }

    /// Whether the caller may add a user of this kind.
    pub fn admit_to_register(&self, caller: &Caller, kind: UserType) -> Result<()> {
        if !self.is_secure() || caller.is_support() || (kind == UserType::Consumer && self.registration == Registration::Open) {
            return Ok(());
        }
        let error = if kind == UserType::Support { Error::SupportOnly } else { Error::RegistrationClosed };
        Err(self.deny(caller, "register a user", shown(Some(&kind.as_str())), error))
    }

    /// Whether the caller may take this user out of a room in which they may take people out: a room that needs a support user keeps its last
    /// one, unless support decides otherwise. One who goes by themselves is support. Answers the support users of whom one has to be there
    /// when it is done, if any has to: others may be taken out meanwhile. Errors: [`Error::LastSupport`].
    pub async fn admit_to_remove(&self, caller: &Caller, room: &Room, user: UserId) -> Result<Vec<UserId>> {
        if !self.is_secure() || room.kind == RoomType::ConsumerToConsumer || caller.is_support() {
            return Ok(Vec::new());
        }
        let members = self.store.users_by_id(&room.members).await?;
        let support = members.iter().filter(|member| !member.deleted && member.kind == UserType::Support).map(|member| member.id);
        let (taken, required_members): (Vec<_>, Vec<_>) = support.partition(|member| *member == user);
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        if required_members.is_empty() {
            return Err(self.deny(caller, Action::Remove.name(), shown(Some(&room.id)), Error::LastSupport));
        }
        Ok(required_members)
    }

    /// Whether there may be a room of this kind with these members.
    #[must_use]
    pub fn allows_room<'a>(&self, kind: RoomType, mut members: impl Iterator<Item = &'a User>) -> bool {
        !self.is_secure() || kind == RoomType::ConsumerToConsumer || members.any(|member| member.kind == UserType::Support)
    }

    /// The error again, noted down with who was refused what.
    pub fn deny(&self, caller: &Caller, action: &str, target: Option<&dyn fmt::Display>, error: Error) -> Error {
        if refusals::is_first(caller.address, "refusals") {
            let user = caller.user().map(|user| display(user.id));
            tracing::warn!(address = %caller.address, user, action, target = target.map(display), "refused");
        }
        error
    }
}

/// The `Authorization` header, if there is one. Of two somebody in front of us may have looked at the other.
pub fn authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>> {
    let mut found = headers.get_all(header::AUTHORIZATION).iter();
    match (found.next(), found.next()) {
        (header, None) => Ok(header),
        _ => Err(Error::TwoTokens),
    }
}

/// What stands between the first space of the `Authorization` header and the next, whatever the scheme's name.
pub fn token_in(headers: &HeaderMap) -> Result<String> {
    let header = authorization(headers)?.filter(|value| !value.is_empty()).ok_or(Error::NoToken)?;
    let header = String::from_utf8_lossy(header.as_bytes());
    Ok(header.split(' ').nth(1).unwrap_or_default().to_owned())
}

/// What the log calls that which an action was about. Never what a client has written, unless it is an id.
#[must_use]
pub fn shown(target: Option<&impl fmt::Display>) -> Option<&dyn fmt::Display> {
    target.map(|target| target as &dyn fmt::Display)
}
