//! Rooms: create or find a room, list the recent conversations of the caller and the unread counts.

use axum::{
    Json, Router,
    extract::{FromRequestParts, State},
    http::request::Parts,
    routing::{get, post},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    app::Shared,
    body::{Body, Fields, Input},
    paging::Paging,
    response::{Answer, success},
};
use crate::{
    auth::Caller,
    chat::{NewRoom, Recents},
    error::{Error, Result},
    model::{RoomId, RoomType, Seq},
    store::Unread,
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/room", get(recents))
        .route("/room/initiate", post(initiate))
        .route("/room/unread", get(unread))
}

impl Input for NewRoom {
    fn read(fields: &mut Fields) -> Option<Self> {
        let user_ids = fields.texts("userIds");
        let kind = fields.one_of("type", RoomType::ALL, RoomType::as_str);
        let name = if fields.is_missing("name") {
            Some(None)
        } else {
            fields.room_name("name").map(Some)
        };
        Some(Self {
            user_ids: user_ids?,
            kind: kind?,
            name: name?,
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Initiated {
    chat_room: InitiatedRoom,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InitiatedRoom {
    is_new: bool,
    message: &'static str,
    chat_room_id: RoomId,
    #[serde(rename = "type")]
    kind: RoomType,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

async fn initiate(
    State(app): State<Shared>,
    caller: Caller,
    Body(new): Body<NewRoom>,
) -> Answer<Initiated> {
    let (room, is_new) = app.chat.initiate(&caller, new).await?;
    let message = if is_new {
        "creating a new chatroom"
    } else {
        "retrieving an old chat room"
    };
    let chat_room = InitiatedRoom {
        is_new,
        message,
        chat_room_id: room.id,
        kind: room.kind,
        name: room.name.clone(),
    };
    Ok(success(Initiated { chat_room }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecentRooms {
    success: bool,
    conversation: Vec<Box<RawValue>>,
    has_more: bool,
}

/// Lists the recent conversations. `empty=include` also lists rooms without a message, and
/// describes every room.
async fn recents(
    State(app): State<Shared>,
    caller: Caller,
    paging: Paging,
    WithEmpty(with_empty): WithEmpty,
) -> Result<Json<RecentRooms>> {
    let Recents {
        conversation,
        has_more,
    } = app
        .chat
        .recents(&caller, paging.skip(), paging.limit(), with_empty)
        .await?;
    Ok(Json(RecentRooms {
        success: true,
        conversation,
        has_more,
    }))
}

/// Whether the query requests rooms without a message.
struct WithEmpty(bool);

impl<S: Sync> FromRequestParts<S> for WithEmpty {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let query = parts.uri.query().unwrap_or_default();
        let empty = form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == "empty")
            .map(|(_, value)| value);
        match empty.as_deref() {
            None => Ok(Self(false)),
            Some("include") => Ok(Self(true)),
            Some(_) => Err(Error::invalid("empty", "Possible value are include")),
        }
    }
}

#[derive(Serialize)]
struct UnreadCounts {
    total: u64,
    rooms: Vec<UnreadRoom>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UnreadRoom {
    chat_room_id: RoomId,
    unread_count: u64,
    last_seq: Seq,
}

impl From<Unread> for UnreadRoom {
    fn from(room: Unread) -> Self {
        Self {
            chat_room_id: room.room,
            unread_count: room.unread,
            last_seq: room.last_seq,
        }
    }
}

/// Returns the unread counts of all rooms of the caller that have unread messages.
async fn unread(State(app): State<Shared>, caller: Caller) -> Answer<UnreadCounts> {
    let rooms = app.chat.unread(&caller).await?;
    Ok(success(UnreadCounts {
        total: rooms.iter().map(|room| room.unread).sum(),
        rooms: rooms.into_iter().map(UnreadRoom::from).collect(),
    }))
}
