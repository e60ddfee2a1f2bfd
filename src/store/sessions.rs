//! The sessions of users with a password, and their refresh tokens.

use std::sync::Arc;

use async_trait::async_trait;

use super::Result;
use crate::model::{PasswordHash, RefreshKey, Session, SessionId, Timestamp, UserId};

/// The maximum number of sessions of a user. Further logins end the oldest sessions.
pub const MAX_SESSIONS: usize = 100;

/// For how long the last used refresh token still returns its successor, in milliseconds.
pub const REPEAT_WINDOW: i64 = 10_000;

/// A refresh token that a client presented, and what replaces it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rotation {
    /// The session that the token belongs to.
    pub session: SessionId,
    /// The presented token.
    pub key: RefreshKey,
    /// The secrets (as SHA-256) of the tokens that may follow this one. The first replaces it; the
    /// others serve to recognize that one of them already has.
    pub successors: Vec<[u8; 32]>,
    /// When the token was presented.
    pub at: Timestamp,
    /// The session's new expiry time.
    pub expires_at: Timestamp,
}

impl Rotation {
    /// Returns the range in which the session must have been last refreshed for the previous token
    /// to count as repeated. The range extends into the future because another server's clock may
    /// be ahead; it is limited so that a clock that was set back does not keep the previous token
    /// valid for long.
    pub(super) fn window(&self) -> (Timestamp, Timestamp) {
        (
            Timestamp(self.at.0.saturating_sub(REPEAT_WINDOW)),
            Timestamp(self.at.0.saturating_add(REPEAT_WINDOW)),
        )
    }
}

/// The result of presenting a refresh token. The secret is that of the session's latest token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refresh {
    /// The token was the session's latest and was replaced.
    Renewed(Arc<Session>, [u8; 32]),
    /// The token was the one before the latest, and was used less than [`REPEAT_WINDOW`] ago.
    /// Nothing was changed.
    Repeated(Arc<Session>, [u8; 32]),
    /// The token was an earlier one, or the one before the latest and used too late, so it has
    /// probably been copied. The session was ended.
    Replayed(Arc<Session>),
    /// No session has such a token, or the session has expired.
    Unknown,
}

/// Which of a user's sessions to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionSelector {
    /// This session.
    One(SessionId),
    /// All sessions.
    All,
    /// All sessions except this one.
    AllBut(SessionId),
}

/// The sessions. Single sessions are cached, in `cached`.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Adds a session if the user still has this password; returns `None` if not. If the user then
    /// has more than [`MAX_SESSIONS`] sessions, the oldest are ended; their ids are returned.
    async fn add(
        &self,
        session: Session,
        key: RefreshKey,
        password: PasswordHash,
    ) -> Result<Option<Vec<SessionId>>>;

    /// Returns the session with this id, unless it has ended.
    async fn find(&self, id: SessionId) -> Result<Option<Arc<Session>>>;

    /// Replaces the refresh token of a session that has not expired if it is the latest token, or
    /// ends the session if it is an earlier one; see [`Refresh`].
    async fn refresh(&self, rotation: Rotation) -> Result<Refresh>;

    /// Ends sessions of a user. Returns the ids of those that existed.
    async fn end(&self, user: UserId, which: SessionSelector) -> Result<Vec<SessionId>>;

    /// Returns the sessions of a user that have not expired at `at`, newest first.
    async fn list(&self, user: UserId, at: Timestamp) -> Result<Vec<Session>>;

    /// Returns those of the given sessions that have not been ended by any server.
    async fn live(&self, ids: Vec<SessionId>) -> Result<Vec<SessionId>>;
}
