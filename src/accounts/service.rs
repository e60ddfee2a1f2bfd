//! The service itself, and what it works with.

use std::sync::Arc;

use crate::{
    access::Access,
    auth::{
        password::{self, Passwords},
        sessions::Sessions,
    },
    clock::Clock,
    error::{Error, Result},
    limits::Limits,
    model::{PasswordHash, SessionId, User, UserId, Username},
    store::Store,
};

/// Disconnects the sockets of users who may no longer use them.
pub trait DisconnectUsers: Send + Sync + 'static {
    /// Closes every socket of the given sessions, which have ended.
    fn close_sessions(&self, sessions: &[SessionId]);

    /// Closes every socket of a deleted user.
    fn close_user(&self, user: UserId);
}

/// Executes the operations of callers on users and their accounts.
#[derive(Clone)]
pub struct Accounts {
    pub(super) store: Store,
    pub(super) access: Access,
    pub(super) limits: Arc<Limits>,
    pub(super) clock: Clock,
    pub(super) passwords: Passwords,
    pub(super) sessions: Sessions,
    pub(super) sockets: Arc<dyn DisconnectUsers>,
}

/// What [`Accounts`] work with.
pub struct Dependencies {
    /// The stored users.
    pub store: Store,
    /// Authorizes callers.
    pub access: Access,
    /// Rate limits and quotas.
    pub limits: Arc<Limits>,
    /// The source of times and ids.
    pub clock: Clock,
    /// Hashes and verifies passwords.
    pub passwords: Passwords,
    /// Starts and refreshes sessions.
    pub sessions: Sessions,
    /// Disconnects users whose sessions end.
    pub sockets: Arc<dyn DisconnectUsers>,
}

impl Accounts {
    /// Creates the service.
    #[must_use]
    pub fn new(dependencies: Dependencies) -> Self {
        let Dependencies {
            store,
            access,
            limits,
            clock,
            passwords,
            sessions,
            sockets,
        } = dependencies;
        Self {
            store,
            access,
            limits,
            clock,
            passwords,
            sessions,
            sockets,
        }
    }

    /// Returns the hash of a new password. Errors: [`Error::Invalid`], for this field of the
    /// request, if the password is easy to guess for a person who knows the user.
    pub(super) async fn hash(
        &self,
        NewPassword { field, password }: NewPassword,
        username: &Username,
        user: &User,
    ) -> Result<PasswordHash> {
        let hash = self.passwords.hash(password, username, user).await?;
        hash.ok_or_else(|| Error::invalid(field, password::TOO_WEAK))
    }
}

/// A new password, and the field of the request that it was in.
pub(super) struct NewPassword {
    pub(super) field: &'static str,
    pub(super) password: String,
}
