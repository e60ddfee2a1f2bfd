//! Deleting rooms with their messages, and single messages.

use axum::{Json, Router, extract::State, routing};
use serde_json::json;

use super::{PathId, Shared, Success, caller::Anyone, success};
use crate::{
    access::Action,
    error::{Error, Result},
};

pub fn routes() -> Router<Shared> {
    Router::new().route("/delete/room/{roomId}", routing::delete(room)).route("/delete/message/{messageId}", routing::delete(message))
}

async fn room(State(app): State<Shared>, Anyone(caller): Anyone, PathId(id): PathId) -> Result<Json<Success>> {
    let room = match app.access.admit(&caller, Action::Delete, &id).await {
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

async fn message(State(app): State<Shared>, Anyone(caller): Anyone, PathId(id): PathId) -> Result<Json<Success>> {
    let deleted = match app.access.admit_to_delete(&caller, &id).await? {
        Some(message) => app.store.delete_message(message.id).await?,
        None => false,
    };
    Ok(success(json!({ "deletedMessagesCount": u8::from(deleted) })))
}
