//! Login.

use axum::{Json, Router, extract::State, routing::post};
use serde_json::json;

use super::{PathId, Shared, Success, success};
use crate::error::{Error, Result};

pub fn routes() -> Router<Shared> {
    Router::new().route("/login/{userId}", post(login))
}

/// In open mode whoever asks gets the token.
async fn login(State(app): State<Shared>, PathId(id): PathId) -> Result<Json<Success>> {
    let user = app.user(&id).await?.ok_or(Error::NobodyToBe)?;
    Ok(success(json!({ "authorization": app.tokens.sign(&user, app.clock.now()) })))
}
