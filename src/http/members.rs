//! Members, name and presence of a room.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    routing::{delete, get, post, put},
};
use serde::Serialize;

use super::{
    app::Shared,
    body::{Body, Fields, Input},
    paging::Paging,
    path_id::PathId,
    response::{Answer, success},
};
use crate::{
    auth::Caller,
    chat::{MemberPage, MemberPresence, RoomDetails},
    model::{Timestamp, User, UserId},
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/room/{roomId}", put(rename))
        .route("/room/{roomId}/members", post(add).get(list))
        .route("/room/{roomId}/members/{userId}", delete(remove))
        .route("/room/{roomId}/presence", get(presence))
}

/// A room after a change.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    chat_room: RoomDetails,
}

struct NewMembers {
    user_ids: Vec<String>,
}

impl Input for NewMembers {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            user_ids: fields.texts("userIds")?,
        })
    }
}

async fn add(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Caller,
    Body(NewMembers { user_ids }): Body<NewMembers>,
) -> Answer<Changed> {
    let chat_room = app.chat.add_members(&caller, &room, &user_ids).await?;
    Ok(success(Changed { chat_room }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Members {
    users: Vec<Arc<User>>,
    member_count: usize,
}

/// Lists the members, page by page.
async fn list(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Caller,
    paging: Paging,
) -> Answer<Members> {
    let MemberPage {
        users,
        member_count,
    } = app
        .chat
        .member_page(&caller, &room, paging.skip(), paging.limit())
        .await?;
    Ok(success(Members {
        users,
        member_count,
    }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Removed {
    removed_members_count: u8,
}

async fn remove(
    State(app): State<Shared>,
    PathId((room, user)): PathId<(String, String)>,
    caller: Caller,
) -> Answer<Removed> {
    let removed = app.chat.remove_member(&caller, &room, &user).await?;
    Ok(success(Removed {
        removed_members_count: u8::from(removed.is_some()),
    }))
}

struct NewName {
    name: String,
}

impl Input for NewName {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            name: fields.room_name("name")?,
        })
    }
}

async fn rename(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Caller,
    Body(NewName { name }): Body<NewName>,
) -> Answer<Changed> {
    let chat_room = app.chat.rename(&caller, &room, name).await?;
    Ok(success(Changed { chat_room }))
}

#[derive(Serialize)]
struct Presence {
    users: Vec<PresenceView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PresenceView {
    #[serde(rename = "_id")]
    id: UserId,
    online: bool,
    last_seen_at: Option<Timestamp>,
}

impl From<MemberPresence> for PresenceView {
    fn from(member: MemberPresence) -> Self {
        Self {
            id: member.user,
            online: member.online,
            last_seen_at: member.last_seen_at,
        }
    }
}

/// Returns which members are connected, and when the others last were.
async fn presence(
    State(app): State<Shared>,
    PathId(room): PathId,
    caller: Caller,
) -> Answer<Presence> {
    let online = |users: &[UserId]| app.sockets.online(users);
    let members = app.chat.presence(&caller, &room, online).await?;
    let users = members.into_iter().map(PresenceView::from).collect();
    Ok(success(Presence { users }))
}
