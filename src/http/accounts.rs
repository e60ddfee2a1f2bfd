//! Accounts: credentials, changes of name and password.

use axum::{
    Json, Router,
    extract::State,
    routing::{patch, put},
};
use serde_json::json;

use super::{
    App, PathId, Shared, Success,
    body::{Body, Fields, Input, invalid},
    caller::Authenticated,
    sessions, success,
};
use crate::{
    chat::run_detached,
    error::{Error, Result},
    model::{Credentials, PasswordHash, User, Username},
    password::{self, Verdict},
    store::{SessionSelector, UserUpdate},
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/users/{userId}", patch(rename))
        .route("/users/{userId}/password", put(change_password))
}

/// The credentials in a registration.
pub struct Login {
    username: Username,
    password: String,
}

impl Login {
    /// Reads username and password if either is present. In secure mode both are required.
    pub fn read(fields: &mut Fields) -> Option<Self> {
        if !fields.is_secure() && fields.is_missing("username") && fields.is_missing("password") {
            return None;
        }
        let username = fields.parsed("username", |text| Username::parse(&text), Username::FORM);
        let password = new_password(fields, "password");
        Some(Self {
            username: username?,
            password: password?,
        })
    }

    /// Returns the credentials as they are stored, with the password hashed.
    pub async fn credentials(self, app: &App, user: &User) -> Result<Credentials> {
        let password = hashed(app, self.password, "password", &self.username, user).await?;
        Ok(Credentials {
            username: self.username,
            password,
        })
    }
}

/// Returns the hash of the password in `field`. Refuses a password that is easy to guess for a
/// person who knows the user.
async fn hashed(
    app: &App,
    password: String,
    field: &'static str,
    username: &Username,
    user: &User,
) -> Result<PasswordHash> {
    let hash = app.passwords.hash(password, username, user).await?;
    hash.ok_or_else(|| invalid(field, password::TOO_WEAK.into()))
}

/// Reads a new password.
fn new_password(fields: &mut Fields, field: &'static str) -> Option<String> {
    let password = fields.parsed(field, Some, password::LENGTH)?;
    match password::validate(&password) {
        Some(flaw) => fields.wrong(field, flaw),
        None => Some(password),
    }
}

/// Returns the error for a username that is already taken.
pub fn taken() -> Error {
    invalid("username", "this username is taken".into())
}

impl Input for UserUpdate {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            first_name: fields.optional_name("firstName"),
            last_name: fields.optional_name("lastName"),
        })
    }
}

async fn rename(
    State(app): State<Shared>,
    PathId(id): PathId,
    caller: Authenticated,
    Body(names): Body<UserUpdate>,
) -> Result<Json<Success>> {
    let own = app.access.authorize_own(&caller.caller, &id)?;
    let bytes = names
        .first_name
        .iter()
        .chain(&names.last_name)
        .map(String::len)
        .sum();
    app.limits.store(own, bytes)?;
    let renamed = app
        .store
        .rename_user(own, names, app.clock.monotonic_now())
        .await?;
    Ok(success(
        json!({ "user": renamed.ok_or(Error::CallerGone)? }),
    ))
}

struct NewPassword {
    old: String,
    new: String,
}

impl Input for NewPassword {
    fn read(fields: &mut Fields) -> Option<Self> {
        let old = fields.password("oldPassword");
        let new = new_password(fields, "newPassword");
        Some(Self {
            old: old?,
            new: new?,
        })
    }
}

/// Changes the password. Ends all other sessions of the user, who has to log in again with the new
/// password.
async fn change_password(
    State(app): State<Shared>,
    PathId(id): PathId,
    caller: Authenticated,
    Body(passwords): Body<NewPassword>,
) -> Result<Json<Success>> {
    let own = app.access.authorize_own(&caller.caller, &id)?;
    // Limited like a login, because the holder of a stolen token could guess passwords here.
    app.limits.login(caller.caller.address)?;
    let Credentials { username, password } =
        app.store.credentials(own).await?.ok_or(Error::NoPassword)?;
    if matches!(
        app.passwords
            .verify(passwords.old, Some(password.clone()))
            .await?,
        Verdict::Wrong
    ) {
        return Err(app.access.deny(
            &caller.caller,
            "change the password",
            None,
            Error::WrongPassword,
        ));
    }
    let new = hashed(&app, passwords.new, "newPassword", &username, &caller.user).await?;
    run_detached(async move {
        // Sessions end before the change, so that none outlives the old password if the server
        // stops in between, and again after it, because of logins in the meantime.
        let others = caller
            .session
            .map_or(SessionSelector::All, SessionSelector::AllBut);
        let before = sessions::end(&app, caller.caller.address, own, others).await?;
        // Of two concurrent changes with the old password, the second must not overwrite the first.
        if !app.store.set_password(own, password, new).await? {
            return Err(app.access.deny(
                &caller.caller,
                "change the password",
                None,
                Error::WrongPassword,
            ));
        }
        let ended = before + sessions::end(&app, caller.caller.address, own, others).await?;
        Ok(success(
            json!({ "message": "The password is changed", "endedSessionsCount": ended }),
        ))
    })
    .await
}
