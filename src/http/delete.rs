//! Deletion of rooms with their messages, and of single messages.

use axum::{Json, Router, extract::State, routing};
use serde_json::json;

use super::{PathId, Shared, Success, caller::MaybeAuthenticated, success};
use crate::error::Result;

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/delete/room/{roomId}", routing::delete(room))
        .route("/delete/message/{messageId}", routing::delete(message))
}

async fn room(
    State(app): State<Shared>,
    MaybeAuthenticated(caller): MaybeAuthenticated,
    PathId(id): PathId,
) -> Result<Json<Success>> {
    let messages = app.chat.delete_room(&caller, &id).await?;
    Ok(success(json!({
        "message": "Operation performed succesfully",
        "deletedRoomsCount": u8::from(messages.is_some()),
        "deletedMessagesCount": messages.unwrap_or_default(),
    })))
}

async fn message(
    State(app): State<Shared>,
    MaybeAuthenticated(caller): MaybeAuthenticated,
    PathId(id): PathId,
) -> Result<Json<Success>> {
    let deleted = app.chat.delete_message(&caller, &id).await?;
    Ok(success(
        json!({ "deletedMessagesCount": u8::from(deleted) }),
    ))
}
