//! Deleting rooms with their messages, and single messages.

use axum::{Json, Router, extract::State, routing};
use serde_json::json;

use super::{PathId, Shared, Success, success};
use crate::{
    access::{Action, Caller},
    error::{Error, Result},
    model::UserId,
};

pub fn routes() -> Router<Shared> {
    Router::new().route("/delete/room/{roomId}", routing::delete(room)).route("/delete/message/{messageId}", routing::delete(message))
}

async fn room(State(app): State<Shared>, PathId(id): PathId) -> Result<Json<Success>> {
    let room = match app.access.admit(&Caller::Anyone, Action::Delete, &id).await {
        Ok(room) => room,
        // Already gone is as good as deleted, as in the original.
        Err(Error::NoRoom) => return Ok(deleted(0, 0)),
        Err(error) => return Err(error),
    };
    let messages = app.store.delete_room(room.id).await?;
    app.live.close_room(room.id);
    Ok(deleted(u8::from(messages.is_some()), messages.unwrap_or_default()))
}

fn deleted(rooms: u8, messages: u64) -> Json<Success> {
    success(json!({ "message": "Operation performed succesfully", "deletedRoomsCount": rooms, "deletedMessagesCount": messages }))
}

async fn message(State(app): State<Shared>, PathId(id): PathId) -> Result<Json<Success>> {
    let deleted = match app.access.admit_to_message(&Caller::Anyone, Action::Delete, &id).await? {
        Some(message) => app.timeline.delete(message.room, message.id, UserId::NOBODY).await,
        None => Ok(None),
    };
    // With its room the message has gone as well.
    let deleted = match deleted {
        Err(Error::NoRoom) => None,
        other => other?,
    };
    Ok(success(json!({ "deletedMessagesCount": u8::from(deleted.is_some()) })))
}
