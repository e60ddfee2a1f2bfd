//! Rooms and their deletion, in MongoDB.
//!
//! A room is deleted in repeatable steps. First its document is marked as deleted, and the room is
//! no longer found. Then an entry closes its log, and no server can append to it, not even one that
//! still caches the head of the log. Once no server caches the head any more, the data of the room
//! is deleted.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use mongodb::bson::{Bson, RawDocument, doc};

use super::{
    author_counts,
    connection::Connection,
    documents::{self, date, member_key, number, seq_in, text_in, time_in},
    indexes,
    log::{self, Log},
    pages, rows,
};
use crate::{
    model::{Room, RoomId, Seq, Timestamp, UserId},
    store::{Departed, Result, StoreError},
};

/// How many documents of a deleted room are deleted in one command, which takes the server some ten
/// milliseconds.
const BATCH_SIZE: usize = 1_000;
/// The most ids in one query, for rooms and users: the ids have to fit into one request.
pub const ROOMS_AT_ONCE: usize = 10_000;
/// How long a room stores the removals of members, in milliseconds. It covers a server that could
/// not reach the database meanwhile.
pub const DEPARTURES_TOLD: i64 = 3_600_000;
/// How far back before the last check removals are returned again, in milliseconds.
const DEPARTURES_AGAIN: i64 = 30_000;
/// How often a room is looked up when other servers create and delete it at the same time.
const ATTEMPTS: usize = 10;

pub async fn find(connection: &Connection, id: RoomId) -> Result<Option<Room>> {
    let found = connection
        .one(
            connection.rooms.find_one(doc! { "_id": id.to_string() }),
            documents::room,
        )
        .await?;
    Ok(found.map(|room| strip_removed(connection, room)))
}

/// Returns the room without the members whose removal is pending.
fn strip_removed(connection: &Connection, mut room: Room) -> Room {
    let removed = connection.pending.removed_from(room.id);
    room.members.retain(|member| !removed.contains(member));
    room
}

pub async fn find_or_add(connection: &Connection, room: Room) -> Result<(Arc<Room>, bool)> {
    let document = documents::from_room(&room);
    if room.name.is_some() {
        connection.add(&connection.rooms, &document).await?;
        return Ok((Arc::new(room), true));
    }
    for _ in 0..ATTEMPTS {
        let by_members = doc! { "memberKey": member_key(&room) };
        if let Some(found) = connection
            .one(connection.rooms.find_one(by_members), documents::room)
            .await?
        {
            return Ok((Arc::new(strip_removed(connection, found)), false));
        }
        if connection.add(&connection.rooms, &document).await? {
            return Ok((Arc::new(room), true));
        }
    }
    Err(StoreError::Unavailable(format!(
        "room {} is created and deleted over and over",
        room.id
    )))
}

/// Returns the rooms of a user whose ids follow `after`.
pub async fn of_user(
    connection: &Connection,
    user: UserId,
    after: Option<RoomId>,
    limit: u64,
) -> Result<Vec<RoomId>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut filter = doc! { "userIds": user.to_string(), "deletedAt": null };
    let left: Vec<_> = connection
        .pending
        .left_by(user)
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut ids = if left.is_empty() {
        doc! {}
    } else {
        doc! { "$nin": left }
    };
    if let Some(after) = after {
        ids.insert("$gt", after.to_string());
    }
    if !ids.is_empty() {
        filter.insert("_id", ids);
    }
    let found = connection
        .rooms
        .find(filter)
        .projection(doc! { "_id": 1 })
        .sort(doc! { "_id": 1 })
        .limit(rows(limit));
    connection
        .all(found.hint(indexes::by_name(indexes::BY_MEMBER)), id_of_room)
        .await
}

/// Returns the removals of members since `since`, and the current time by the database's clock.
/// Without `since`, returns the time only.
///
/// Each room stores recent removals with the time by the database's clock. A removal can become
/// visible some time after it was written, and the clock of another primary may be behind; so
/// removals from shortly before `since` (`DEPARTURES_AGAIN`) are returned again.
pub async fn departed(
    connection: &Connection,
    since: Option<Timestamp>,
) -> Result<(Vec<Departed>, Timestamp)> {
    let now = connection.now().await?;
    let Some(since) = since else {
        return Ok((Vec::new(), now));
    };
    let since = date(Timestamp(since.0.saturating_sub(DEPARTURES_AGAIN)));
    let is_new = doc! { "$gte": ["$$this.at", since] };
    let is_out = doc! { "$not": [{ "$in": ["$$this.userId", "$userIds"] }] };
    let left = doc! { "$filter": { "input": "$left", "cond": { "$and": [is_new, is_out] } } };
    let rooms = connection
        .rooms
        .find(doc! { "leftAt": { "$gte": since }, "deletedAt": null })
        .projection(doc! { "left": left });
    let rooms = connection
        .all(
            rooms.hint(indexes::by_name(indexes::BY_DEPARTURE)),
            |room| Some(departed_from(room)),
        )
        .await?;
    Ok((rooms.into_iter().flatten().collect(), now))
}

fn departed_from(room: &RawDocument) -> Vec<Departed> {
    let departed = |left: &RawDocument| {
        Some(Departed {
            room: id_of_room(room)?,
            user: UserId::parse(text_in(left, "userId"))?,
            seq: seq_in(left, "seq"),
        })
    };
    let left = room.get_array("left").ok().into_iter().flatten().flatten();
    left.filter_map(|left| departed(left.as_document()?))
        .collect()
}

/// Returns the rooms of a user, or those of `among` of which they are a member, each with the entry
/// by which the user joined.
pub async fn joined_of(
    connection: &Connection,
    user: UserId,
    among: Option<&[RoomId]>,
) -> Result<Vec<(RoomId, Seq)>> {
    let mut filter = doc! { "userIds": user.to_string(), "deletedAt": null };
    let index = match among {
        Some(rooms) => {
            filter.insert(
                "_id",
                doc! { "$in": rooms.iter().map(ToString::to_string).collect::<Vec<_>>() },
            );
            "_id_"
        }
        None => indexes::BY_MEMBER,
    };
    let found = connection
        .rooms
        .find(filter)
        .projection(doc! { "joined": joined_at_expr(user) })
        .hint(indexes::by_name(index));
    let mut rooms = connection
        .all(found, |room| Some((id_of_room(room)?, joined_in(room))))
        .await?;
    let left = connection.pending.left_by(user);
    rooms.retain(|(room, _)| !left.contains(room));
    Ok(rooms)
}

/// Returns a projection of the field `joined` that keeps only this user's items, for [`joined_in`].
pub fn joined_at_expr(user: UserId) -> Bson {
    let own = doc! { "$eq": ["$$this.userId", user.to_string()] };
    doc! { "$filter": { "input": { "$ifNull": ["$joined", []] }, "cond": own } }.into()
}

/// Returns the entry by which the user joined the room, or 0 for an initial member.
pub fn joined_in(room: &RawDocument) -> Seq {
    documents::joined(room)
        .into_iter()
        .map(|(_, seq)| seq)
        .max()
        .unwrap_or_default()
}

/// Returns the entry by which a user joined a room, or `None` if they are not a member.
pub async fn joined(connection: &Connection, room: RoomId, user: UserId) -> Result<Option<Seq>> {
    Ok(joined_of(connection, user, Some(&[room]))
        .await?
        .pop()
        .map(|(_, joined)| joined))
}

/// Returns those of these rooms that exist, in the same order.
pub async fn there(connection: &Connection, rooms: &[RoomId]) -> Result<Vec<RoomId>> {
    let mut there = HashSet::new();
    for rooms in rooms.chunks(ROOMS_AT_ONCE) {
        let ids: Vec<_> = rooms.iter().map(ToString::to_string).collect();
        let found = connection
            .rooms
            .find(doc! { "_id": { "$in": ids }, "deletedAt": null })
            .projection(doc! { "_id": 1 });
        there.extend(connection.all(found, id_of_room).await?);
    }
    Ok(rooms
        .iter()
        .copied()
        .filter(|room| there.contains(room))
        .collect())
}

/// Deletes a room and returns how many messages it had, or `None` if it does not exist. Its data is
/// deleted later by [`purge`].
pub async fn delete(connection: &Connection, log: &Log, id: RoomId) -> Result<Option<u64>> {
    let going = doc! { "$currentDate": { "deletedAt": true }, "$unset": { "memberKey": "", "userIds": "" } };
    let mark = connection
        .rooms
        .update_one(doc! { "_id": id.to_string(), "deletedAt": null }, going);
    if connection.within(mark).await?.matched_count == 0 {
        return Ok(None);
    }
    log.forget_one(id).await;
    let end = log::close(connection, id).await?;
    let deleted = pages::deleted_between(connection, id, Seq(0), end, None).await?;
    Ok(Some((end.0 - 1).saturating_sub(deleted)))
}

/// The deleted rooms, by id and the deletion time in the document, each with the time when this
/// server first saw the deletion.
pub type DeletedRooms = HashMap<(RoomId, Timestamp), Instant>;

/// Reads which rooms any server has deleted, and drops the cached heads of their logs.
pub async fn sweep_deleted(
    connection: &Connection,
    log: &Log,
    gone: &mut DeletedRooms,
) -> Result<()> {
    let as_of = Instant::now();
    let found = connection
        .rooms
        .find(doc! { "deletedAt": { "$type": "date" } })
        .projection(doc! { "deletedAt": 1 });
    let found = connection
        .all(found, |room| {
            Some((id_of_room(room)?, time_in(room, "deletedAt")))
        })
        .await?;
    log.forget(
        &found.iter().map(|(room, _)| *room).collect::<Vec<_>>(),
        as_of,
    )
    .await;
    let now = Instant::now();
    *gone = found
        .into_iter()
        .map(|room| (room, gone.get(&room).copied().unwrap_or(now)))
        .collect();
    Ok(())
}

/// Returns the deleted rooms whose heads no server caches any more.
pub fn forgotten(connection: &Connection, gone: &DeletedRooms) -> Vec<RoomId> {
    let held = log::held(connection);
    gone.iter()
        .filter(|(_, since)| since.elapsed() >= held)
        .map(|((room, _), _)| *room)
        .collect()
}

/// Deletes the data of these rooms, without a time limit for the whole. No server may cache their
/// heads any more. Other servers may do the same at the same time.
pub async fn purge(connection: &Connection, rooms: Vec<RoomId>) -> Result<()> {
    for id in rooms {
        let end = log::close(connection, id).await?;
        purge_log(connection, id, end).await?;
        purge_marks(connection, id).await?;
        author_counts::purge(connection, id).await?;
        connection
            .within(connection.rooms.delete_one(doc! { "_id": id.to_string() }))
            .await?;
    }
    Ok(())
}

/// Deletes the entries of a log, except the one that closes it, for servers that still cache its
/// head.
async fn purge_log(connection: &Connection, id: RoomId, end: Seq) -> Result<()> {
    for first in (1..end.0).step_by(BATCH_SIZE) {
        let piece =
            doc! { "$gte": number(first), "$lt": number(end.0.min(first + BATCH_SIZE as u64)) };
        connection
            .within(
                connection
                    .messages
                    .delete_many(doc! { "chatRoomId": id.to_string(), "seq": piece }),
            )
            .await?;
    }
    Ok(())
}

async fn purge_marks(connection: &Connection, id: RoomId) -> Result<()> {
    loop {
        let some = connection
            .marks
            .find(doc! { "chatRoomId": id.to_string() })
            .projection(doc! { "_id": 1 })
            .limit(rows(BATCH_SIZE as u64));
        let ids = connection
            .all(some, |mark| Some(text_in(mark, "_id").to_owned()))
            .await?;
        if ids.is_empty() {
            return Ok(());
        }
        connection
            .within(connection.marks.delete_many(doc! { "_id": { "$in": ids } }))
            .await?;
    }
}

pub fn id_of_room(room: &RawDocument) -> Option<RoomId> {
    RoomId::parse(text_in(room, "_id"))
}
