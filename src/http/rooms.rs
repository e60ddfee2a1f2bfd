//! Rooms: initiate or find again, and the recent conversations of the caller.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::future::try_join_all;
use serde::Serialize;
use serde_json::json;

use super::{
    App, Shared, Success,
    body::{Body, Fields, Input, invalid},
    caller::Authenticated,
    messages::people,
    paging::Paging,
    success,
};
use crate::{
    error::{Error, Result},
    model::{Message, ReadMark, Room, RoomType, UserId},
    view::RecentConversation,
};

pub fn routes() -> Router<Shared> {
    Router::new().route("/room", get(recents)).route("/room/initiate", post(initiate))
}

struct NewRoom {
    users: Vec<String>,
    kind: RoomType,
}

impl Input for NewRoom {
    fn read(fields: &mut Fields) -> Option<Self> {
        let users = fields.texts("userIds");
        let kind = fields.one_of("type", RoomType::ALL, RoomType::as_str);
        Some(Self { users: users?, kind: kind? })
    }
}

async fn initiate(State(app): State<Shared>, caller: Authenticated, Body(new): Body<NewRoom>) -> Result<Json<Success>> {
    let mut members = known(&app, &new.users).await?;
    members.push(caller.0.id);
    members.sort_unstable();
    members.dedup();
    let now = app.clock.now();
    let (id, kind, initiator) = (app.clock.new_id(now).into(), new.kind, caller.0.id);
    let room = Room { id, kind, name: None, initiator, members, joined: Vec::new(), created_at: now };
    let (room, is_new) = app.store.find_or_add_room(room).await?;
    let message = if is_new { "creating a new chatroom" } else { "retrieving an old chat room" };
    Ok(success(json!({ "chatRoom": { "isNew": is_new, "message": message, "chatRoomId": room.id, "type": room.kind } })))
}

/// The ids of these users; an error that names those who are not there.
async fn known(app: &App, ids: &[String]) -> Result<Vec<UserId>> {
    let asked: Vec<_> = ids.iter().map(|text| (text.as_str(), UserId::parse(text))).collect();
    let there = people(app, asked.iter().filter_map(|(_, id)| *id)).await?;
    let is_there = |id: &UserId| there.get(id).is_some_and(|user| !user.deleted);
    let (mut known, mut unknown) = (Vec::with_capacity(ids.len() + 1), Vec::new());
    for (text, id) in asked {
        match id.filter(is_there) {
            Some(id) => known.push(id),
            None => unknown.push(text),
        }
    }
    match unknown[..] {
        [] => Ok(known),
        [one] => Err(invalid("userIds", format!("No user with this id found: {one}"))),
        _ => Err(invalid("userIds", format!("No users with these ids found: {}", unknown.join(", ")))),
    }
}

async fn recents(State(app): State<Shared>, caller: Authenticated, paging: Paging) -> Result<Response> {
    #[derive(Serialize)]
    struct Answer<'a> {
        success: bool,
        conversation: Vec<RecentConversation<'a>>,
    }
    let latest = app.store.recents(caller.0.id, paging.skip(), paging.limit()).await?;
    let found: Vec<_> = try_join_all(latest.into_iter().map(|message| with_room(&app, message))).await?;
    // A room that was deleted between the two reads is none any more.
    let found: Vec<_> = found.into_iter().flatten().collect();
    let shown = found.iter().flat_map(|(message, room, _)| room.members.iter().copied().chain([message.author]));
    let people = people(&app, shown).await?;
    let conversation = found.iter().map(|(message, room, marks)| RecentConversation::new(message, room, marks, &people)).collect();
    Ok(Json(Answer { success: true, conversation }).into_response())
}

async fn with_room(app: &App, latest: Message) -> Result<Option<(Message, Arc<Room>, Vec<ReadMark>)>> {
    let Some(room) = app.store.room(latest.room).await? else { return Ok(None) };
    let marks = app.store.read_marks(room.id, &room.members, latest.seq, latest.seq).await?;
    Ok::<_, Error>(Some((latest, room, marks)))
}
