//! Full-text search in one room or in all rooms of the caller, newest messages first.

use std::convert::Infallible;

use axum::{
    Json, Router,
    extract::{FromRequestParts, State},
    http::request::Parts,
    routing::get,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{app::Shared, paging::Paging, path_id::PathId};
use crate::{
    auth::Caller,
    chat::{SearchRequest, SearchResults},
    error::Result,
    model::{RoomId, Seq, Timestamp},
    store::EntryPosition,
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/room/search", get(search_all))
        .route("/room/{roomId}/search", get(search_room))
}

/// The query of a search.
struct Query {
    words: String,
    /// The parameter `before` as the client sent it.
    cursor: Option<String>,
    paging: Paging,
}

impl FromRequestParts<Shared> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &Shared,
    ) -> std::result::Result<Self, Infallible> {
        let query = parts.uri.query().unwrap_or_default();
        let value = |key: &str| {
            form_urlencoded::parse(query.as_bytes())
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.into_owned())
        };
        Ok(Self {
            words: value("q").unwrap_or_default(),
            cursor: value("before"),
            paging: Paging::of(&parts.uri, app.config.max_page),
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FoundMessages {
    success: bool,
    messages: Vec<Box<RawValue>>,
    has_more: bool,
    /// The cursor to send as `before` to get the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
}

impl FoundMessages {
    fn new(results: SearchResults, cursor: impl FnOnce(EntryPosition) -> String) -> Self {
        Self {
            success: true,
            messages: results.messages,
            has_more: results.next.is_some(),
            before: results.next.map(cursor),
        }
    }
}

/// Searches one room. `before` is the sequence number of a log entry.
async fn search_room(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Caller,
    query: Query,
) -> Result<Json<FoundMessages>> {
    let request = SearchRequest {
        words: query.words,
        before: query.paging.before(),
        limit: query.paging.limit(),
    };
    let results = app.chat.search_room(&caller, &room, request).await?;
    let cursor = |next: EntryPosition| next.seq.0.to_string();
    Ok(Json(FoundMessages::new(results, cursor)))
}

/// Searches all rooms of the caller. `before` is the cursor in the previous response.
async fn search_all(
    State(app): State<Shared>,
    caller: Caller,
    query: Query,
) -> Result<Json<FoundMessages>> {
    let request = SearchRequest {
        words: query.words,
        before: query.cursor.as_deref().and_then(parse_cursor),
        limit: query.paging.limit(),
    };
    let results = app.chat.search_all(&caller, request).await?;
    let cursor = |EntryPosition { at, seq, room }| format!("{}-{}-{room}", at.0, seq.0);
    Ok(Json(FoundMessages::new(results, cursor)))
}

/// Parses a cursor: a time, a sequence number and a room. It is only compared with the results and
/// never used for a lookup, so it reveals nothing about entries that the caller may not read. A
/// cursor of an earlier version, which contains a message id, is reduced to its time.
fn parse_cursor(cursor: &str) -> Option<EntryPosition> {
    let (at, rest) = cursor.split_once('-')?;
    let (seq, room) = rest.split_once('-').unwrap_or_default();
    Some(EntryPosition {
        at: Timestamp(at.parse().ok()?),
        seq: Seq(seq.parse().unwrap_or_default()),
        room: RoomId::parse(room).unwrap_or(RoomId::from_bytes([0; 16])),
    })
}
