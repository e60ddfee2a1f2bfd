//! The database as a whole: its state, the key that signs tokens, and when users were last seen.

use async_trait::async_trait;

use super::Result;
use crate::model::{Timestamp, UserId};

/// When users were last seen.
#[async_trait]
pub trait Presence: Send + Sync {
    /// Records when users were last seen. A later time that is already stored is kept.
    async fn update_last_seen(&self, users: Vec<(UserId, Timestamp)>) -> Result<()>;

    /// Returns when these users were last seen; users without a stored time are skipped. The order
    /// is unspecified.
    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<(UserId, Timestamp)>>;
}

/// The database as a whole.
#[async_trait]
pub trait Database: Send + Sync {
    /// Returns the key that signs tokens: the stored key, or `candidate`, which is stored if there
    /// is none yet.
    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32]>;

    /// Returns the time of the latest entry, room or user, derived from the ids that the server
    /// generated; `None` if there is none.
    async fn latest_time(&self) -> Result<Option<Timestamp>>;

    /// Returns whether other servers may work on the same database at the same time.
    fn is_shared(&self) -> bool;

    /// Returns the number of log entries whose effects could not be applied yet, as far as this
    /// server knows.
    fn pending_effects(&self) -> usize {
        0
    }

    /// Returns `Ok` if the database responds.
    async fn ping(&self) -> Result<()>;

    /// Finishes pending operations and closes the database. Later calls fail.
    async fn close(&self);
}
