//! The callers of requests and events.

use std::sync::Arc;

use super::token::Claims;
use crate::{
    address::ClientAddress,
    model::{Room, SessionId, User, UserId, UserType},
};

/// An authenticated user who sends a request or an event.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user.
    pub user: Arc<User>,
    /// The claims of the user's token.
    pub claims: Claims,
    /// The address that the user calls from.
    pub address: ClientAddress,
}

impl Caller {
    /// Returns the session of the caller's token; `None` for a login without a password.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.claims.session
    }

    /// Returns whether the caller is this user.
    #[must_use]
    pub fn is(&self, user: UserId) -> bool {
        self.user.id == user
    }

    /// Returns whether the caller is a support user.
    #[must_use]
    pub fn is_support(&self) -> bool {
        self.user.kind == UserType::Support
    }

    /// Returns whether the caller is a member of the room.
    #[must_use]
    pub fn is_in(&self, room: &Room) -> bool {
        room.has_member(self.user.id)
    }
}

/// The sender of a request or an event that needs no authentication, at least in open mode.
#[derive(Clone, Debug)]
pub struct MaybeAuthenticated {
    /// The authenticated user, if any.
    pub caller: Option<Caller>,
    /// The address that the request comes from.
    pub address: ClientAddress,
}

/// The sender of a request, as the log names them.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The authenticated user, if any.
    pub user: Option<UserId>,
    /// The address that the request comes from.
    pub address: ClientAddress,
}

impl From<&Caller> for Origin {
    fn from(caller: &Caller) -> Self {
        Self {
            user: Some(caller.user.id),
            address: caller.address,
        }
    }
}

impl From<&MaybeAuthenticated> for Origin {
    fn from(sender: &MaybeAuthenticated) -> Self {
        Self {
            user: sender.caller.as_ref().map(|caller| caller.user.id),
            address: sender.address,
        }
    }
}
