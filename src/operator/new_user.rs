//! `causerie create-user`: adding a user with a password.

use crate::{
    auth::password::{self, Passwords},
    clock::Clock,
    config::Config,
    error::Error,
    model::{Credentials, EMPTY, User, UserId, UserType, Username, name_flaw},
    store::{self, OpenError, Store, StoreError},
};

/// A user to be added.
pub struct NewUser {
    kind: UserType,
    username: Username,
    first_name: String,
    last_name: String,
}

/// Why a user was not added, as one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum NotAdded {
    /// A value is invalid: the name of the value and the reason.
    #[error("{0}: {1}")]
    Invalid(&'static str, &'static str),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database reported an error.
    #[error("database: {0}")]
    Store(#[from] StoreError),
    /// The password cannot be hashed.
    #[error("{0}")]
    Hash(#[from] Error),
}

impl NewUser {
    /// Validates the values as registration over the API does.
    pub fn read(
        kind: &str,
        username: &str,
        first_name: String,
        last_name: String,
    ) -> Result<Self, NotAdded> {
        let kind = UserType::parse(kind).ok_or(NotAdded::Invalid(
            "type",
            "it is neither consumer nor support",
        ))?;
        let username =
            Username::parse(username).ok_or(NotAdded::Invalid("username", Username::FORM))?;
        for (name, text) in [("first-name", &first_name), ("last-name", &last_name)] {
            match name_flaw(text) {
                Some(EMPTY) => return Err(NotAdded::Invalid(name, "it cannot be empty")),
                Some(error) => return Err(NotAdded::Invalid(name, error)),
                None => {}
            }
        }
        Ok(Self {
            kind,
            username,
            first_name,
            last_name,
        })
    }

    /// Adds the user with this password to the configured database.
    pub async fn add(
        self,
        password: String,
        config: &Config,
        clock: &Clock,
    ) -> Result<UserId, NotAdded> {
        if let Some(error) = password::validate(&password) {
            return Err(NotAdded::Invalid("password", error));
        }
        let now = clock.now();
        let id = clock.new_id(now).into();
        let Self {
            kind,
            username,
            first_name,
            last_name,
        } = self;
        let user = User {
            id,
            first_name,
            last_name,
            kind,
            created_at: now,
            updated_at: now,
            deleted: false,
        };
        // Hashed before the database is opened, so that a server that starts in the meantime does
        // not find it locked for longer than necessary.
        let hash = Passwords::new().hash(password, &username, &user).await?;
        let password = hash.ok_or(NotAdded::Invalid("password", password::TOO_WEAK))?;
        let store = store::open_shared(&config.database, &config.mongodb).await?;
        let added = add(&store, clock, user, Credentials { username, password }).await;
        store.database.close().await;
        if added? {
            Ok(id)
        } else {
            Err(NotAdded::Invalid("username", "this username is taken"))
        }
    }
}

/// Adds the user with a time after all existing data, even if the clock is behind.
async fn add(
    store: &Store,
    clock: &Clock,
    user: User,
    credentials: Credentials,
) -> store::Result<bool> {
    if let Some(latest) = store.database.latest_time().await? {
        clock.advance_past(latest);
    }
    let now = clock.monotonic_now();
    store
        .accounts
        .add(
            User {
                created_at: now,
                updated_at: now,
                ..user
            },
            Some(credentials),
        )
        .await
}
