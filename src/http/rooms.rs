//! Rooms: create or find a room, list the recent conversations of the caller and the unread counts.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{FromRequestParts, State},
    http::request::Parts,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{
    App, Shared, Success,
    body::{Body, Fields, Input, invalid},
    caller::Authenticated,
    paging::Paging,
    success,
};
use crate::{
    chat::Recents,
    error::{Error, Result},
    model::{EMPTY, NAME_LENGTH, Room, RoomType, User, UserId, name_flaw},
    store::Unread,
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/room", get(recents))
        .route("/room/initiate", post(initiate))
        .route("/room/unread", get(unread))
}

struct NewRoom {
    users: Vec<String>,
    kind: RoomType,
    name: Option<String>,
}

impl Input for NewRoom {
    fn read(fields: &mut Fields) -> Option<Self> {
        let users = fields.texts("userIds");
        let kind = fields.one_of("type", RoomType::ALL, RoomType::as_str);
        let name = if fields.is_missing("name") {
            Some(None)
        } else {
            room_name(fields).map(Some)
        };
        Some(Self {
            users: users?,
            kind: kind?,
            name: name?,
        })
    }
}

/// Reads the name of a room.
pub fn room_name(fields: &mut Fields) -> Option<String> {
    let name = fields.parsed("name", Some, NAME_LENGTH)?;
    match name_flaw(&name) {
        Some(EMPTY) => fields.wrong("name", NAME_LENGTH),
        Some(flaw) => fields.wrong("name", flaw),
        None => Some(name),
    }
}

async fn initiate(
    State(app): State<Shared>,
    caller: Authenticated,
    Body(new): Body<NewRoom>,
) -> Result<Json<Success>> {
    let others = known(&app, &new.users).await?;
    if !app.access.allows_room(
        new.kind,
        others.iter().chain([&caller.user]).map(AsRef::as_ref),
    ) {
        return Err(invalid(
            "userIds",
            "a consumer-to-support room needs a support user".into(),
        ));
    }
    let mut members: Vec<_> = others
        .iter()
        .map(|user| user.id)
        .chain([caller.user.id])
        .collect();
    members.sort_unstable();
    members.dedup();
    let now = app.clock.monotonic_now();
    let (id, kind, name, initiator) = (
        app.clock.new_id(now).into(),
        new.kind,
        new.name,
        caller.user.id,
    );
    let (room, is_new) = app
        .chat
        .initiate(Room {
            id,
            kind,
            name,
            initiator,
            members,
            joined: Vec::new(),
            created_at: now,
        })
        .await?;
    let message = if is_new {
        "creating a new chatroom"
    } else {
        "retrieving an old chat room"
    };
    let mut shown =
        json!({ "isNew": is_new, "message": message, "chatRoomId": room.id, "type": room.kind });
    if let Some(name) = &room.name {
        shown["name"] = json!(name);
    }
    Ok(success(json!({ "chatRoom": shown })))
}

/// Returns these users, or an error that names those that do not exist.
pub async fn known(app: &App, ids: &[String]) -> Result<Vec<Arc<User>>> {
    let asked: Vec<_> = ids
        .iter()
        .map(|text| (text.as_str(), UserId::parse(text)))
        .collect();
    let there = app
        .chat
        .users_by_id(asked.iter().filter_map(|(_, id)| *id))
        .await?;
    let (mut known, mut unknown) = (Vec::with_capacity(ids.len()), Vec::new());
    for (text, id) in asked {
        match id
            .and_then(|id| there.get(&id))
            .filter(|user| !user.deleted)
        {
            Some(user) => known.push(Arc::clone(user)),
            None => unknown.push(text),
        }
    }
    match unknown[..] {
        [] => Ok(known),
        [one] => Err(invalid(
            "userIds",
            format!("No user with this id found: {one}"),
        )),
        _ => Err(invalid(
            "userIds",
            format!("No users with these ids found: {}", unknown.join(", ")),
        )),
    }
}

/// Lists the recent conversations. `empty=include` also lists rooms without a message, and
/// describes every room.
async fn recents(
    State(app): State<Shared>,
    caller: Authenticated,
    paging: Paging,
    WithEmpty(with_empty): WithEmpty,
) -> Result<Response> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        success: bool,
        conversation: Vec<Box<RawValue>>,
        has_more: bool,
    }
    let Recents {
        conversation,
        has_more,
    } = app
        .chat
        .recents(caller.user.id, paging.skip(), paging.limit(), with_empty)
        .await?;
    Ok(Json(Answer {
        success: true,
        conversation,
        has_more,
    })
    .into_response())
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
            Some(_) => Err(invalid("empty", "Possible value are include".into())),
        }
    }
}

/// Returns the unread counts of all rooms of the caller that have unread messages.
async fn unread(State(app): State<Shared>, caller: Authenticated) -> Result<Json<Success>> {
    let mut unread = app.store.unread(caller.user.id, None).await?;
    unread.retain(|room| room.unread > 0);
    unread.sort_unstable_by_key(|room| room.room);
    let total: u64 = unread.iter().map(|room| room.unread).sum();
    let shown = |room: &Unread| json!({ "chatRoomId": room.room, "unreadCount": room.unread, "lastSeq": room.last_seq });
    Ok(success(
        json!({ "total": total, "rooms": unread.iter().map(shown).collect::<Vec<_>>() }),
    ))
}
