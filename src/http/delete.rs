//! Deletion of rooms with their messages, and of single messages.

use axum::{Router, extract::State, routing::delete};
use serde::Serialize;

use super::{
    app::Shared,
    path_id::PathId,
    response::{Answer, success},
};
use crate::auth::MaybeAuthenticated;

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/delete/room/{roomId}", delete(delete_room))
        .route("/delete/message/{messageId}", delete(delete_message))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeletedRoom {
    message: &'static str,
    deleted_rooms_count: u8,
    deleted_messages_count: u64,
}

async fn delete_room(
    State(app): State<Shared>,
    sender: MaybeAuthenticated,
    PathId(id): PathId,
) -> Answer<DeletedRoom> {
    let messages = app.chat.delete_room(&sender, &id).await?;
    Ok(success(DeletedRoom {
        message: "Operation performed succesfully",
        deleted_rooms_count: u8::from(messages.is_some()),
        deleted_messages_count: messages.unwrap_or_default(),
    }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeletedMessage {
    deleted_messages_count: u8,
}

async fn delete_message(
    State(app): State<Shared>,
    sender: MaybeAuthenticated,
    PathId(id): PathId,
) -> Answer<DeletedMessage> {
    let deleted = app.chat.delete_message(&sender, &id).await?;
    Ok(success(DeletedMessage {
        deleted_messages_count: u8::from(deleted),
    }))
}
