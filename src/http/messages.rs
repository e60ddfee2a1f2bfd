//! Messages of a room: post and edit messages, read the conversation, synchronize, mark it as read.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    PathId, Shared,
    body::{Body, Fields, Input},
    caller::Authenticated,
    paging::Paging,
};
use crate::{
    access::Action,
    chat::LOG_BYTES,
    error::Result,
    model::{ClientId, Seq, User},
    view::{LogPage, MarkedView, RoomView},
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

async fn post_message(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Authenticated,
    Body(new): Body<NewMessage>,
) -> Result<Response> {
    let posted = app
        .chat
        .post(&caller.caller, &room, new.text, new.client_id)
        .await?;
    let duplicate = if posted.duplicate { "true" } else { "false" };
    // The post is already serialized.
    let body = [
        "{\"success\":true,\"duplicate\":",
        duplicate,
        ",\"post\":",
        posted.post.json(),
        "}",
    ]
    .concat();
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
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

async fn edit_message(
    State(app): State<Shared>,
    PathId((room, message)): PathId<(String, String)>,
    caller: Authenticated,
    Body(new): Body<NewText>,
) -> Result<Response> {
    let post = app
        .chat
        .edit(&caller.caller, &room, &message, new.text)
        .await?;
    let body = ["{\"success\":true,\"post\":", post.json(), "}"].concat();
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn conversation(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Authenticated,
    paging: Paging,
) -> Result<Response> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer<'a> {
        success: bool,
        conversation: Vec<Box<RawValue>>,
        users: Vec<Arc<User>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        member_count: Option<usize>,
        chat_room: RoomView<'a>,
        last_seq: Seq,
        has_more: bool,
    }
    let room = app
        .access
        .authorize(&caller.caller, Action::Read, &room)
        .await?;
    let page = app
        .chat
        .conversation(caller.user.id, &room, paging.of_log(), paging.limit())
        .await?;
    let (users, members) =
        tokio::try_join!(app.chat.users(&room, &page.people), app.chat.present(&room))?;
    let answer = Answer {
        success: true,
        conversation: page.messages,
        users: users.listed,
        member_count: users.count,
        chat_room: RoomView::new(&room, &members, app.chat.config.listed_members),
        last_seq: page.last_seq,
        has_more: page.has_more,
    };
    Ok(Json(answer).into_response())
}

async fn sync(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Authenticated,
    paging: Paging,
) -> Result<Json<LogPage>> {
    let room = app
        .access
        .authorize(&caller.caller, Action::Read, &room)
        .await?;
    let page = app
        .chat
        .log(
            caller.user.id,
            &room,
            paging.since(),
            None,
            paging.limit_or_max(),
            &mut { LOG_BYTES },
        )
        .await?;
    Ok(Json(LogPage {
        success: Some(true),
        ..page
    }))
}

struct Read {
    up_to: Option<Seq>,
}

impl Input for Read {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            up_to: fields.optional_number("upToSeq")?.map(Seq),
        })
    }
}

async fn mark_read(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Authenticated,
    Body(read): Body<Read>,
) -> Result<Json<MarkedView>> {
    // Counted here, because the events of sockets are counted before their type is known.
    app.limits.event(caller.user.id)?;
    Ok(Json(
        app.chat
            .mark_read(&caller.caller, &room, read.up_to)
            .await?
            .into(),
    ))
}
