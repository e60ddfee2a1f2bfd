//! Members, name and presence of a room.

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
use crate::{
    access::Action,
    config::PresenceScope,
    error::Result,
    model::UserId,
    view::{RoomView, present},
};

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
        Some(Self {
            users: fields.texts("userIds")?,
        })
    }
}

async fn add(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Authenticated,
    Body(added): Body<Added>,
) -> Result<Json<Success>> {
    app.access
        .authorize(&caller.caller, Action::Change, &room)
        .await?;
    let users = known(&app, &added.users).await?;
    let room = app.chat.add_members(&caller.caller, &room, users).await?;
    let members = app.chat.present(&room).await?;
    Ok(success(
        json!({ "chatRoom": RoomView::new(&room, &members, app.chat.config.listed_members) }),
    ))
}

/// Lists the members, page by page.
async fn list(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Authenticated,
    paging: Paging,
) -> Result<Json<Success>> {
    let room = app
        .access
        .authorize(&caller.caller, Action::Read, &room)
        .await?;
    let members = app.chat.present(&room).await?;
    let page = page_of(&members, &paging);
    // Users deleted since they joined are left out.
    let users = present(app.store.users_by_id(page).await?);
    Ok(success(
        json!({ "users": users, "memberCount": members.len() }),
    ))
}

fn page_of<'a, T>(all: &'a [T], paging: &Paging) -> &'a [T] {
    let [skip, limit] =
        [paging.skip(), paging.limit()].map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let rest = all.get(skip..).unwrap_or_default();
    &rest[..rest.len().min(limit)]
}

async fn remove(
    State(app): State<Shared>,
    PathId((room, user)): PathId<(String, String)>,
    caller: Authenticated,
) -> Result<Json<Success>> {
    let removed = app.chat.remove_member(&caller.caller, &room, &user).await?;
    Ok(success(
        json!({ "removedMembersCount": u8::from(removed.is_some()) }),
    ))
}

struct Name {
    name: String,
}

impl Input for Name {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            name: room_name(fields)?,
        })
    }
}

async fn rename(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Authenticated,
    Body(new): Body<Name>,
) -> Result<Json<Success>> {
    let room = app.chat.rename(&caller.caller, &room, new.name).await?;
    let members = app.chat.present(&room).await?;
    Ok(success(
        json!({ "chatRoom": RoomView::new(&room, &members, app.chat.config.listed_members) }),
    ))
}

/// Returns which members are connected, and when the others last were. Members whose presence is
/// hidden from the caller look as if they had never been connected.
async fn presence(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Authenticated,
) -> Result<Json<Success>> {
    let room = app
        .access
        .authorize(&caller.caller, Action::Read, &room)
        .await?;
    let members = app.chat.present(&room).await?;
    let writers = match app.chat.config.presence {
        PresenceScope::Members => None,
        PresenceScope::Writers => Some(app.store.writers_in(&room).await?),
    };
    let is_told = |member: &UserId| {
        *member == caller.user.id
            || writers
                .as_ref()
                .is_none_or(|writers| writers.binary_search(member).is_ok())
    };
    let online = app.sockets.online(&members);
    let seen: HashMap<_, _> = app.store.last_seen(&members).await?.into_iter().collect();
    let shown = |(member, online): (&UserId, bool)| {
        let (is_told, now) = (is_told(member), app.clock.now());
        let last_seen = if online {
            Some(now)
        } else {
            seen.get(member).copied()
        };
        json!({ "_id": member, "online": online && is_told, "lastSeenAt": last_seen.filter(|_| is_told) })
    };
    Ok(success(
        json!({ "users": members.iter().zip(online).map(shown).collect::<Vec<_>>() }),
    ))
}
