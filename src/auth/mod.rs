//! Authentication: proves who a caller is, by access tokens, sessions and passwords. What a caller
//! may do is decided in [`access`](crate::access).

mod caller;
mod header;
pub mod password;
pub mod sessions;
pub mod token;

use std::sync::Arc;

pub use caller::{Caller, MaybeAuthenticated, Origin};
pub use header::{authorization, token_in};

use crate::{
    address::ClientAddress,
    clock::Clock,
    config::AccessMode,
    error::{Error, Result},
    model::{Session, Timestamp, UserId},
    store::Store,
};
use token::{Claims, TokenError, Tokens};

/// Authenticates callers by their access tokens.
#[derive(Clone)]
pub struct Authenticator {
    mode: AccessMode,
    store: Store,
    tokens: Arc<Tokens>,
    clock: Clock,
}

impl Authenticator {
    /// Creates an authenticator of the users and sessions in `store`.
    #[must_use]
    pub fn new(mode: AccessMode, store: Store, tokens: Arc<Tokens>, clock: Clock) -> Self {
        Self {
            mode,
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

    /// Returns the holder of this token, who calls from `address`. Errors: [`Error::Token`],
    /// [`Error::SessionOver`], [`Error::CallerGone`].
    pub async fn authenticate(&self, token: &str, address: ClientAddress) -> Result<Caller> {
        let claims = self.tokens.verify(token, self.clock.now())?;
        self.caller(claims, address).await
    }

    /// Checks that the claims of a caller still hold, and returns the caller with the current data
    /// of the user. Errors: as in [`authenticate`](Self::authenticate).
    pub async fn revalidate(&self, caller: &Caller) -> Result<Caller> {
        self.caller(caller.claims, caller.address).await
    }

    /// Returns the caller that a client claims to be, without proof; `None` if there is no such
    /// user. Errors: [`Error::NoToken`] in secure mode.
    pub async fn unproven(&self, user: UserId, address: ClientAddress) -> Result<Option<Caller>> {
        if self.is_secure() {
            return Err(Error::NoToken);
        }
        let claims = Claims {
            user,
            session: None,
            ends: None,
        };
        Ok(self.store.users.find(user).await?.map(|user| Caller {
            user,
            claims,
            address,
        }))
    }

    async fn caller(&self, claims: Claims, address: ClientAddress) -> Result<Caller> {
        if claims.has_ended(self.clock.now()) {
            return Err(TokenError::Expired.into());
        }
        // A token without a session was issued without a password, so it proves nothing.
        if claims.session.is_none() && self.is_secure() {
            return Err(TokenError::Undecodable.into());
        }
        // The user is checked before the session, which is deleted with the user: a deleted user
        // always gets `CallerGone`, whatever the cache still has of the session.
        let user = self.store.users.find(claims.user).await?;
        let user = user.ok_or(Error::CallerGone)?;
        if let Some(id) = claims.session {
            let session = self.store.sessions.find(id).await?;
            let is_valid = |session: &Session| {
                session.user == claims.user && session.expires_at > self.clock.now()
            };
            session
                .filter(|session| is_valid(session))
                .ok_or(Error::SessionOver)?;
        }
        Ok(Caller {
            user,
            claims,
            address,
        })
    }
}
