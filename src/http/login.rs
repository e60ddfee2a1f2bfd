//! Login.

use axum::{Json, Router, extract::State, routing::post};
use serde_json::json;

use super::{App, PathId, Success, success};
use crate::{
    error::{Error, Result},
    model::UserId,
};

pub fn routes() -> Router<App> {
    Router::new().route("/{userId}", post(login))
}

/// In open mode whoever asks gets the token.
async fn login(State(app): State<App>, PathId(id): PathId) -> Result<Json<Success>> {
    let user = match UserId::parse(&id) {
        Some(id) => app.store.user(id).await?,
        None => None,
    };
    let user = user.ok_or(Error::NobodyToBe)?;
    Ok(success(json!({ "authorization": app.tokens.sign(&user, app.clock.now()) })))
}
