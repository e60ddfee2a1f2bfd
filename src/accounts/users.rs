//! Registers, finds, lists, changes and deletes users.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};

use super::service::{Accounts, NewPassword};
use crate::{
    access::deny,
    auth::{Caller, MaybeAuthenticated, password::Verdict},
    background::run_detached,
    error::{Error, Result},
    model::{Credentials, User, UserId, UserType, Username},
    store::{self, SessionSelector, Store, StoreError, UserUpdate},
};

/// The number of users per read when all users are listed.
const CHUNK: u64 = 500;

/// A user to be registered.
pub struct NewUser {
    /// Given name.
    pub first_name: String,
    /// Family name.
    pub last_name: String,
    /// Consumer or support.
    pub kind: UserType,
    /// What the user logs in with, if with a password.
    pub login: Option<NewLogin>,
}

/// The username and the password of a user to be registered.
pub struct NewLogin {
    /// The username.
    pub username: Username,
    /// The password, which has a valid length.
    pub password: String,
}

/// A user who was registered.
pub struct RegisteredUser {
    /// The user.
    pub user: User,
    /// The username, if the user logs in with a password.
    pub username: Option<Username>,
}

/// A page of a list of users.
#[derive(Clone, Copy)]
pub struct UserPage {
    /// The number of users before the page.
    pub skip: u64,
    /// The maximum number of users on the page.
    pub limit: u64,
}

/// A list of users, oldest first.
pub enum UserList {
    /// A page.
    Page(Vec<User>),
    /// All users.
    All(UserChunks),
}

/// All users, piece by piece as they are read: they may not all fit into memory. The first piece has
/// been read already.
pub type UserChunks = Pin<Box<dyn Stream<Item = store::Result<Vec<User>>> + Send>>;

impl Accounts {
    /// Registers a user. Errors: [`Error::SupportOnly`], [`Error::RegistrationClosed`],
    /// [`Error::Invalid`] if the username is taken or the password is too weak.
    pub async fn register(
        &self,
        sender: &MaybeAuthenticated,
        new: NewUser,
    ) -> Result<RegisteredUser> {
        self.limits.registration(sender.address)?;
        self.access.authorize_register(sender, new.kind)?;
        let now = self.clock.monotonic_now();
        let user = User {
            id: self.clock.new_id(now).into(),
            first_name: new.first_name,
            last_name: new.last_name,
            kind: new.kind,
            created_at: now,
            updated_at: now,
            deleted: false,
        };
        let credentials = match new.login {
            Some(login) => Some(self.credentials(login, &user).await?),
            None => None,
        };
        let registered = RegisteredUser {
            username: credentials.as_ref().map(|own| own.username.clone()),
            user: user.clone(),
        };
        if self.store.accounts.add(user, credentials).await? {
            Ok(registered)
        } else {
            Err(Error::invalid("username", "this username is taken"))
        }
    }

    async fn credentials(
        &self,
        NewLogin { username, password }: NewLogin,
        user: &User,
    ) -> Result<Credentials> {
        let password = NewPassword {
            field: "password",
            password,
        };
        let password = self.hash(password, &username, user).await?;
        Ok(Credentials { username, password })
    }

    /// Returns the user with this id. Errors: [`Error::NoToken`], [`Error::NoUser`].
    pub async fn find(&self, sender: &MaybeAuthenticated, id: &str) -> Result<Arc<User>> {
        self.access.authorize_list_users(sender)?;
        self.user(id).await?.ok_or(Error::NoUser)
    }

    /// Returns the user with an id from a path or a body, if there is one.
    pub(super) async fn user(&self, id: &str) -> Result<Option<Arc<User>>> {
        match UserId::parse(id) {
            Some(id) => Ok(self.store.users.find(id).await?),
            None => Ok(None),
        }
    }

    /// Lists a page of the users or, if no page is given, all of them. In secure mode only page by
    /// page, at most `max` users: anyone who can register could otherwise request the list of all
    /// users over and over. Errors: [`Error::NoToken`].
    pub async fn list(
        &self,
        sender: &MaybeAuthenticated,
        page: Option<UserPage>,
        max: u64,
    ) -> Result<UserList> {
        self.access.authorize_list_users(sender)?;
        let page = match page {
            None if self.access.is_secure() => Some(UserPage {
                skip: 0,
                limit: max,
            }),
            page => page,
        };
        if let Some(UserPage { skip, limit }) = page {
            let users = self.store.accounts.list(None, skip, limit).await?;
            return Ok(UserList::Page(users));
        }
        // Reads the first users before the response begins, so that an unavailable database results
        // in a 503 instead of a truncated response.
        let first = self.store.accounts.list(None, 0, CHUNK).await?;
        Ok(UserList::All(chunks(self.store.clone(), first)))
    }

    /// Changes the given names of the caller, who must be the user with this id. Errors:
    /// [`Error::NotYours`], [`Error::CallerGone`].
    pub async fn rename(&self, caller: &Caller, id: &str, names: UserUpdate) -> Result<Arc<User>> {
        let own = self.access.authorize_own(caller, id)?;
        let bytes = names
            .first_name
            .iter()
            .chain(&names.last_name)
            .map(String::len)
            .sum();
        self.limits.store(own, bytes)?;
        self.store
            .users
            .rename(own, names, self.clock.monotonic_now())
            .await?
            .ok_or(Error::CallerGone)
    }

    /// Changes the password of the caller, who must be the user with this id. Ends all other
    /// sessions of the user, who has to log in again with the new password, and returns their
    /// number. Errors: [`Error::NotYours`], [`Error::NoPassword`], [`Error::WrongPassword`],
    /// [`Error::Invalid`] if the new password is too weak.
    pub async fn change_password(
        &self,
        caller: Caller,
        id: &str,
        former: String,
        new: String,
    ) -> Result<usize> {
        let own = self.access.authorize_own(&caller, id)?;
        // Limited like a login, because the holder of a stolen token could guess passwords here.
        self.limits.login(caller.address)?;
        let Credentials { username, password } = self
            .store
            .accounts
            .credentials(own)
            .await?
            .ok_or(Error::NoPassword)?;
        let verdict = self
            .passwords
            .verify(former, Some(password.clone()))
            .await?;
        if matches!(verdict, Verdict::Wrong) {
            return Err(wrong_password(&caller));
        }
        let new = NewPassword {
            field: "newPassword",
            password: new,
        };
        let new = self.hash(new, &username, &caller.user).await?;
        let accounts = self.clone();
        run_detached(async move {
            // Sessions end before the change, so that none outlives the old password if the server
            // stops in between, and again after it, because of logins in the meantime.
            let others = caller
                .session()
                .map_or(SessionSelector::All, SessionSelector::AllBut);
            let before = accounts.end(&caller, others).await?;
            // Of two concurrent changes with the old password, the second must not overwrite the
            // first.
            let store = &accounts.store.accounts;
            if !store.set_password(own, password, new).await? {
                return Err(wrong_password(&caller));
            }
            Ok(before + accounts.end(&caller, others).await?)
        })
        .await
    }

    /// Deletes a user. Returns false if there is no such user. Errors: [`Error::NoToken`],
    /// [`Error::NotToDelete`].
    pub async fn delete(&self, sender: &MaybeAuthenticated, id: &str) -> Result<bool> {
        let Some(user) = self.access.authorize_delete_user(sender, id)? else {
            return Ok(false);
        };
        let (accounts, address) = (self.clone(), sender.address);
        run_detached(async move {
            let at = accounts.clock.monotonic_now();
            let deleted = accounts.store.users.delete(user, at).await;
            // Also if the deletion failed halfway: the sockets of a user who still exists
            // reconnect.
            accounts.sockets.close_user(user);
            let deleted = deleted?;
            tracing::info!(%address, %user, deleted, "user and all sessions deleted");
            Ok(deleted)
        })
        .await
    }
}

fn wrong_password(caller: &Caller) -> Error {
    deny(caller, "change the password", None, Error::WrongPassword)
}

/// Reads all users, beginning with `first`.
fn chunks(store: Store, first: Vec<User>) -> UserChunks {
    Box::pin(stream::try_unfold(
        (store, Some(first)),
        async |(store, chunk)| {
            let Some(chunk) = chunk else { return Ok(None) };
            let next = match chunk.last() {
                Some(last) if chunk.len() as u64 == CHUNK => Some(following(&store, last).await?),
                _ => None,
            };
            Ok::<_, StoreError>(Some((chunk, (store, next))))
        },
    ))
}

async fn following(store: &Store, last: &User) -> store::Result<Vec<User>> {
    store
        .accounts
        .list(Some((last.created_at, last.id)), 0, CHUNK)
        .await
        .inspect_err(|error| tracing::error!(%error, "failed to complete list of users"))
}
