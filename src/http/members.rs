//! Who is in a room, how it is called, and who of them is there.

use std::collections::HashMap;

use axum::{
    Json, Router,
    extract::State,
    routing::{delete, get, post, put},
};
use serde_json::json;

use super::{
    PathId, Shared, Success,
    body::{Body, Fields, Input},
    caller::Authenticated,
    paging::Paging,
    rooms::{known, room_name},
    success,
};
use crate::{access::Action, error::Result, model::UserId, view::RoomView};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/room/{roomId}", put(rename))
        .route("/room/{roomId}/members", post(add).get(list))
        .route("/room/{roomId}/members/{userId}", delete(remove))
        .route("/room/{roomId}/presence", get(presence))
}

struct Added {
    users: Vec<String>,
}

impl Input for Added {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { users: fields.texts("userIds")? })
    }
}

async fn add(State(app): State<Shared>, PathId(room): PathId, caller: Authenticated, Body(added): Body<Added>) -> Result<Json<Success>> {
    app.access.admit(&caller.caller, Action::Change, &room).await?;
    let users = known(&app, &added.users).await?;
    let room = app.chat.add_members(&caller.caller, &room, users).await?;
    Ok(success(json!({ "chatRoom": RoomView::new(&room, app.chat.config.listed_members) })))
}

/// The members, page by page.
async fn list(State(app): State<Shared>, PathId(room): PathId, caller: Authenticated, paging: Paging) -> Result<Json<Success>> {
    let room = app.access.admit(&caller.caller, Action::Read, &room).await?;
    let skip = usize::try_from(paging.skip()).unwrap_or(usize::MAX);
    let page: Vec<_> = room.members.iter().skip(skip).take(usize::try_from(paging.limit()).unwrap_or(usize::MAX)).copied().collect();
    let users: Vec<_> = app.store.people(&page).await?.into_iter().filter(|user| !user.deleted).collect();
    Ok(success(json!({ "users": users, "memberCount": room.members.len() })))
}

async fn remove(State(app): State<Shared>, PathId((room, user)): PathId<(String, String)>, caller: Authenticated) -> Result<Json<Success>> {
    let removed = app.chat.remove_member(&caller.caller, &room, &user).await?;
    Ok(success(json!({ "removedMembersCount": u8::from(removed.is_some()) })))
}

struct Name {
    name: String,
}

impl Input for Name {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { name: room_name(fields)? })
    }
}

async fn rename(State(app): State<Shared>, PathId(room): PathId, caller: Authenticated, Body(new): Body<Name>) -> Result<Json<Success>> {
    let room = app.chat.rename(&caller.caller, &room, new.name).await?;
    Ok(success(json!({ "chatRoom": RoomView::new(&room, app.chat.config.listed_members) })))
}

/// Who of the members is connected, and when the others were last.
async fn presence(State(app): State<Shared>, PathId(room): PathId, caller: Authenticated) -> Result<Json<Success>> {
    let room = app.access.admit(&caller.caller, Action::Read, &room).await?;
    let online = app.live.online(&room.members);
    let seen: HashMap<_, _> = app.store.last_seen(&room.members).await?.into_iter().collect();
    let shown = |(member, online): (&UserId, bool)| {
        let last_seen = if online { Some(app.clock.now()) } else { seen.get(member).copied() };
        json!({ "_id": member, "online": online, "lastSeenAt": last_seen })
    };
    Ok(success(json!({ "users": room.members.iter().zip(online).map(shown).collect::<Vec<_>>() })))
}
