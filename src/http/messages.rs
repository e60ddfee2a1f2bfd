//! Messages of a room: post one, read the conversation, mark it as read.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::Serialize;
use serde_json::json;

use super::{
    App, PathId, Shared, Success,
    body::{Body, Fields, Input},
    caller::Authenticated,
    paging::Paging,
    success,
};
use crate::{
    access::Action,
    error::{Error, Result},
    model::{User, UserId},
    timeline::Draft,
    view::{ConversationMessage, People},
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/room/{roomId}", get(conversation))
        .route("/room/{roomId}/message", post(post_message))
        .route("/room/{roomId}/mark-read", put(mark_read))
}

struct NewMessage {
    text: String,
}

impl Input for NewMessage {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { text: fields.text("messageText")? })
    }
}

async fn post_message(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Authenticated,
    Body(new): Body<NewMessage>,
) -> Result<Response> {
    let room = app.access.admit(&caller.caller(), Action::Post, &room).await?;
    let members = present(app.store.people(&room.members).await?);
    let draft = Draft { room, author: caller.0, members, text: new.text, client_id: None };
    let post = app.timeline.post(draft).await?.post;
    // The post is written already.
    let body = ["{\"success\":true,\"post\":", post.json(), "}"].concat();
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn conversation(State(app): State<Shared>, PathId(room): PathId, caller: Authenticated, paging: Paging) -> Result<Response> {
    #[derive(Serialize)]
    struct Answer<'a> {
        success: bool,
        conversation: Vec<ConversationMessage<'a>>,
        users: Vec<Arc<User>>,
    }
    let room = app.access.admit(&caller.caller(), Action::Read, &room).await?;
    let messages = app.store.messages(room.id, paging.of_log(), paging.limit()).await?;
    let marks = match &messages[..] {
        [first, .., last] => app.store.read_marks(room.id, &room.members, first.seq, last.seq).await?,
        [only] => app.store.read_marks(room.id, &room.members, only.seq, only.seq).await?,
        [] => Vec::new(),
    };
    let people = people(&app, messages.iter().map(|message| message.author)).await?;
    let answer = Answer {
        success: true,
        conversation: messages.iter().map(|message| ConversationMessage::new(message, &marks, &people)).collect(),
        users: present(app.store.people(&room.members).await?),
    };
    Ok(Json(answer).into_response())
}

async fn mark_read(State(app): State<Shared>, PathId(room): PathId, caller: Authenticated) -> Result<Json<Success>> {
    let room = app.access.admit(&caller.caller(), Action::MarkRead, &room).await?;
    let marked = app.store.mark_read(room.id, caller.0.id, None, app.clock.now()).await?;
    let read = marked.ok_or(Error::NoRoom)?.became_read;
    Ok(success(json!({ "data": { "n": read, "nModified": read, "ok": 1 } })))
}

/// These users, each read once.
pub async fn people(app: &App, ids: impl Iterator<Item = UserId>) -> Result<People> {
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    let people = app.store.people(&ids).await?;
    Ok(people.into_iter().map(|user| (user.id, user)).collect())
}

/// Without those who were deleted: they have written, but they are no longer there.
fn present(mut people: Vec<Arc<User>>) -> Vec<Arc<User>> {
    people.retain(|user| !user.deleted);
    people
}
