//! Messages of a room: post and edit messages, read the conversation, synchronize, mark it as read.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post, put},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    app::Shared,
    body::{Body, Fields, Input},
    paging::Paging,
    path_id::PathId,
};
use crate::{
    auth::Caller,
    chat::RoomDetails,
    error::Result,
    model::{ClientId, Seq, User},
    view::{LogPage, MarkedView, Post},
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/room/{roomId}", get(conversation))
        .route("/room/{roomId}/message", post(post_message))
        .route("/room/{roomId}/message/{messageId}", put(edit_message))
        .route("/room/{roomId}/sync", get(sync))
        .route("/room/{roomId}/mark-read", put(mark_read))
}

struct NewMessage {
    text: String,
    client_id: Option<ClientId>,
}

impl Input for NewMessage {
    fn read(fields: &mut Fields) -> Option<Self> {
        let text = fields.text("messageText");
        let client_id = fields.optional(
            "clientMessageId",
            |text| ClientId::parse(&text),
            "please provide 1 to 64 printable characters",
        );
        Some(Self {
            text: text?,
            client_id: client_id?,
        })
    }
}

#[derive(Serialize)]
struct Posted {
    success: bool,
    duplicate: bool,
    post: Post,
}

async fn post_message(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Caller,
    Body(NewMessage { text, client_id }): Body<NewMessage>,
) -> Result<Json<Posted>> {
    let posted = app.chat.post(&caller, &room, text, client_id).await?;
    Ok(Json(Posted {
        success: true,
        duplicate: posted.duplicate,
        post: posted.post,
    }))
}

struct NewText {
    text: String,
}

impl Input for NewText {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            text: fields.text("messageText")?,
        })
    }
}

#[derive(Serialize)]
struct Edited {
    success: bool,
    post: Post,
}

async fn edit_message(
    State(app): State<Shared>,
    PathId((room, message)): PathId<(String, String)>,
    caller: Caller,
    Body(NewText { text }): Body<NewText>,
) -> Result<Json<Edited>> {
    let post = app.chat.edit(&caller, &room, &message, text).await?;
    Ok(Json(Edited {
        success: true,
        post,
    }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConversationPage {
    success: bool,
    conversation: Vec<Box<RawValue>>,
    users: Vec<Arc<User>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member_count: Option<usize>,
    chat_room: RoomDetails,
    last_seq: Seq,
    has_more: bool,
}

async fn conversation(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Caller,
    paging: Paging,
) -> Result<Json<ConversationPage>> {
    let page = app
        .chat
        .conversation(&caller, &room, paging.of_log(), paging.limit())
        .await?;
    Ok(Json(ConversationPage {
        success: true,
        conversation: page.messages,
        users: page.users.listed,
        member_count: page.users.count,
        chat_room: page.room,
        last_seq: page.last_seq,
        has_more: page.has_more,
    }))
}

async fn sync(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Caller,
    paging: Paging,
) -> Result<Json<LogPage>> {
    let page = app
        .chat
        .sync(&caller, &room, paging.since(), paging.limit_or_max())
        .await?;
    Ok(Json(LogPage {
        success: Some(true),
        ..page
    }))
}

struct ReadUpTo {
    up_to: Option<Seq>,
}

impl Input for ReadUpTo {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            up_to: fields.optional_number("upToSeq")?.map(Seq),
        })
    }
}

async fn mark_read(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Caller,
    Body(ReadUpTo { up_to }): Body<ReadUpTo>,
) -> Result<Json<MarkedView>> {
    // Counted here, because the events of sockets are counted before their type is known.
    app.limits.event(caller.user.id)?;
    let marked = app.chat.mark_read(&caller, &room, up_to).await?;
    Ok(Json(marked.into()))
}
