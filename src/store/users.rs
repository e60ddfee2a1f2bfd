//! The users and their accounts.

use std::sync::Arc;

use async_trait::async_trait;

use super::Result;
use crate::model::{Credentials, PasswordHash, Timestamp, User, UserId, Username};

/// The names of a user to change; `None` leaves a name as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserUpdate {
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
}

/// Where a listing of users continues: after the user with this creation time and id.
pub type UserCursor = (Timestamp, UserId);

/// The users, as they are shown in rooms. They are cached, in `cached`.
#[async_trait]
pub trait Users: Send + Sync {
    /// Returns the user with this id, or `None` if there is no such user or the user was deleted.
    async fn find(&self, id: UserId) -> Result<Option<Arc<User>>> {
        let user = self.find_many(&[id]).await?.pop();
        Ok(user.filter(|user| !user.deleted))
    }

    /// Returns the users with these ids, including deleted ones, in the order of `ids`. Unknown ids
    /// are skipped.
    async fn find_many(&self, ids: &[UserId]) -> Result<Vec<Arc<User>>>;

    /// Changes the given names of a user. Returns `None` if there is no such user or the user was
    /// deleted.
    async fn rename(
        &self,
        id: UserId,
        names: UserUpdate,
        at: Timestamp,
    ) -> Result<Option<Arc<User>>>;

    /// Deletes a user and the user's sessions, and erases the names and the credentials, so that
    /// the username becomes available again. Returns false if there was no such user.
    async fn delete(&self, id: UserId, at: Timestamp) -> Result<bool>;
}

/// Registering users, listing them, and their usernames and passwords.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Adds a user with a new id. Returns false, and adds nothing, if the username is taken.
    async fn add(&self, user: User, credentials: Option<Credentials>) -> Result<bool>;

    /// Lists up to `limit` users that are not deleted, oldest first (by `created_at`, then id),
    /// starting after `after` and skipping the first `skip`.
    async fn list(&self, after: Option<UserCursor>, skip: u64, limit: u64) -> Result<Vec<User>>;

    /// Returns the id and the password hash of the user with this username.
    async fn find_by_username(&self, username: &Username)
    -> Result<Option<(UserId, PasswordHash)>>;

    /// Returns the credentials of a user; `None` if the user has none.
    async fn credentials(&self, user: UserId) -> Result<Option<Credentials>>;

    /// Replaces the password `former` of a user. Returns false if there is no such user or the
    /// user's password is no longer `former`.
    async fn set_password(
        &self,
        user: UserId,
        former: PasswordHash,
        password: PasswordHash,
    ) -> Result<bool>;
}
