//! Full-text search in one room or in all rooms of the caller, newest messages first.

use axum::{Json, Router, extract::State, http::Uri, routing::get};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{App, PathId, Shared, caller::Authenticated, paging::Paging};
use crate::{
    access::Action,
    chat::Found,
    error::Result,
    model::{Room, RoomId, Seq, Timestamp},
    store::EntryPosition,
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/room/search", get(everywhere))
        .route("/room/{roomId}/search", get(in_room))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    success: bool,
    messages: Vec<Box<RawValue>>,
    has_more: bool,
    /// The cursor to send as `before` to get the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
}

/// Searches one room. `before` is the sequence number of a log entry.
async fn in_room(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Authenticated,
    paging: Paging,
    uri: Uri,
) -> Result<Json<Answer>> {
    let room = app
        .access
        .authorize(&caller.caller, Action::Read, &room)
        .await?;
    let before = paging.before().map(|seq| EntryPosition {
        at: Timestamp::default(),
        seq,
        room: room.id,
    });
    let found = search(&app, &caller, Some(&room), before, &paging, &uri).await?;
    Ok(answer(found, |next| next.seq.0.to_string()))
}

/// Searches all rooms of the caller. `before` is the cursor in the previous response.
async fn everywhere(
    State(app): State<Shared>,
    caller: Authenticated,
    paging: Paging,
    uri: Uri,
) -> Result<Json<Answer>> {
    let before = query(&uri, "before").and_then(|cursor| place(&cursor));
    let found = search(&app, &caller, None, before, &paging, &uri).await?;
    Ok(answer(found, |EntryPosition { at, seq, room }| {
        format!("{}-{}-{room}", at.0, seq.0)
    }))
}

/// Parses a cursor: a time, a sequence number and a room. It is only compared with the results and
/// never used for a lookup, so it reveals nothing about entries that the caller may not read. A
/// cursor of an earlier version, which contains a message id, is reduced to its time.
fn place(cursor: &str) -> Option<EntryPosition> {
    let (at, rest) = cursor.split_once('-')?;
    let (seq, room) = rest.split_once('-').unwrap_or_default();
    Some(EntryPosition {
        at: Timestamp(at.parse().ok()?),
        seq: Seq(seq.parse().unwrap_or_default()),
        room: RoomId::parse(room).unwrap_or(RoomId::from_bytes([0; 16])),
    })
}

fn answer(found: Found, cursor: impl FnOnce(EntryPosition) -> String) -> Json<Answer> {
    Json(Answer {
        success: true,
        messages: found.messages,
        has_more: found.next.is_some(),
        before: found.next.map(cursor),
    })
}

async fn search(
    app: &App,
    caller: &Authenticated,
    room: Option<&Room>,
    before: Option<EntryPosition>,
    paging: &Paging,
    uri: &Uri,
) -> Result<Found> {
    app.chat
        .search(
            caller.user.id,
            room,
            &query(uri, "q").unwrap_or_default(),
            before,
            paging.limit(),
        )
        .await
}

fn query(uri: &Uri, key: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.into_owned())
}
