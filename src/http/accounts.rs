//! Accounts: changes of name and password.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    routing::{patch, put},
};
use serde::Serialize;

use super::{
    app::Shared,
    body::{Body, Fields, Input},
    path_id::PathId,
    response::{Answer, success},
};
use crate::{auth::Caller, model::User, store::UserUpdate};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/users/{userId}", patch(rename))
        .route("/users/{userId}/password", put(change_password))
}

impl Input for UserUpdate {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            first_name: fields.optional_name("firstName"),
            last_name: fields.optional_name("lastName"),
        })
    }
}

#[derive(Serialize)]
struct Renamed {
    user: Arc<User>,
}

async fn rename(
    State(app): State<Shared>,
    PathId(id): PathId,
    caller: Caller,
    Body(names): Body<UserUpdate>,
) -> Answer<Renamed> {
    let user = app.accounts.rename(&caller, &id, names).await?;
    Ok(success(Renamed { user }))
}

struct NewPassword {
    former: String,
    new: String,
}

impl Input for NewPassword {
    fn read(fields: &mut Fields) -> Option<Self> {
        let former = fields.password("oldPassword");
        let new = fields.new_password("newPassword");
        Some(Self {
            former: former?,
            new: new?,
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PasswordChanged {
    message: &'static str,
    ended_sessions_count: usize,
}

/// Changes the password, and ends all other sessions of the user.
async fn change_password(
    State(app): State<Shared>,
    PathId(id): PathId,
    caller: Caller,
    Body(NewPassword { former, new }): Body<NewPassword>,
) -> Answer<PasswordChanged> {
    let ended = app
        .accounts
        .change_password(caller, &id, former, new)
        .await?;
    Ok(success(PasswordChanged {
        message: "The password is changed",
        ended_sessions_count: ended,
    }))
}
