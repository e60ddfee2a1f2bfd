//! Login.

use axum::{Json, Router, extract::State, routing::post};
use serde_json::json;

use super::{
    PathId, Shared, Success,
    body::{Body, Fields, Input},
    success,
};
use crate::{
    address::ClientAddress,
    error::{Error, Result},
    model::Username,
};

pub fn routes() -> Router<Shared> {
    Router::new().route("/login", post(with_password)).route("/login/{userId}", post(as_anyone))
}

struct WithPassword {
    username: String,
    password: String,
}

impl Input for WithPassword {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (username, password) = (fields.text("username"), fields.text("password"));
        Some(Self { username: username?, password: password? })
    }
}

/// A wrong password, a username that nobody has and one that is none get the same answer after the same work.
async fn with_password(State(app): State<Shared>, from: ClientAddress, Body(login): Body<WithPassword>) -> Result<Json<Success>> {
    app.limits.login(from)?;
    let account = match Username::parse(&login.username) {
        Some(username) => app.store.account(&username).await?,
        None => None,
    };
    let (user, password) = account.unzip();
    if !app.passwords.matches(login.password, password).await? {
        return Err(Error::WrongLogin);
    }
    let user = match user {
        Some(user) => app.store.user(user).await?,
        None => None,
    };
    let user = user.ok_or(Error::WrongLogin)?;
    Ok(success(json!({ "authorization": app.tokens.sign(&user, app.clock.now()), "user": user })))
}

/// In open mode whoever asks gets the token.
async fn as_anyone(State(app): State<Shared>, from: ClientAddress, PathId(id): PathId) -> Result<Json<Success>> {
    app.limits.login(from)?;
    let user = app.user(&id).await?.ok_or(Error::NobodyToBe)?;
    Ok(success(json!({ "authorization": app.tokens.sign(&user, app.clock.now()) })))
}
