//! Search for words, in one room or in all rooms of the caller, newest first.

use axum::{Json, Router, extract::State, http::Uri, routing::get};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{App, PathId, Shared, caller::Authenticated, paging::Paging};
use crate::{
    access::Action,
    chat::{Found, Place},
    error::Result,
    model::{Message, MessageId, Room, Seq, Timestamp},
    store::Page,
};

pub fn routes() -> Router<Shared> {
    Router::new().route("/room/search", get(everywhere)).route("/room/{roomId}/search", get(in_room))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    success: bool,
    messages: Vec<Box<RawValue>>,
    has_more: bool,
    /// What to send as `before` to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
}

/// `before` is a message's number.
async fn in_room(State(app): State<Shared>, PathId(room): PathId, caller: Authenticated, paging: Paging, uri: Uri) -> Result<Json<Answer>> {
    let room = app.access.admit(&caller.caller, Action::Read, &room).await?;
    let before = match paging.before() {
        Some(before) => place_of(&app, &room, before).await?,
        None => None,
    };
    let found = search(&app, &caller, Some(&room), before, &paging, &uri).await?;
    Ok(answer(found, |last| last.seq.0.to_string()))
}

/// Messages before this number are those before the first that has it or a later one.
async fn place_of(app: &App, room: &Room, before: Seq) -> Result<Option<Place>> {
    let next = app.store.messages(room.id, Page::After(Seq(before.0.saturating_sub(1))), 1).await?.pop();
    Ok(next.map(|message| (message.created_at, message.id)))
}

/// `before` is what the answer before said, or else what comes first.
async fn everywhere(State(app): State<Shared>, caller: Authenticated, paging: Paging, uri: Uri) -> Result<Json<Answer>> {
    let before = query(&uri, "before").and_then(|cursor| {
        let (time, id) = cursor.split_once('-')?;
        Some((Timestamp(time.parse().ok()?), MessageId::parse(id)?))
    });
    let found = search(&app, &caller, None, before, &paging, &uri).await?;
    Ok(answer(found, |last| format!("{}-{}", last.created_at.0, last.id)))
}

fn answer(found: Found, cursor: impl FnOnce(Message) -> String) -> Json<Answer> {
    Json(Answer { success: true, messages: found.messages, has_more: found.last.is_some(), before: found.last.map(cursor) })
}

async fn search(
    app: &App,
    caller: &Authenticated,
    room: Option<&Room>,
    before: Option<Place>,
    paging: &Paging,
    uri: &Uri,
) -> Result<Found> {
    app.chat.search(caller.user.id, room, &query(uri, "q").unwrap_or_default(), before, paging.limit()).await
}

fn query(uri: &Uri, key: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
}
