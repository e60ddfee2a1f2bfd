//! The members who have posted in a room, in MongoDB. All queries use the index [`BY_AUTHOR`].

use std::{collections::HashMap, hash::Hash, sync::Arc};

use mongodb::bson::{Document, doc};

use super::{
    connection::Connection,
    documents::{seq_in, text_in},
    indexes::{BY_AUTHOR, by_name},
    rooms::ROOMS_AT_ONCE,
};
use crate::{
    model::{Room, RoomId, Seq, UserId},
    store::Result,
};

/// Returns the members of a room who have added an entry to its log since they joined, ascending.
pub async fn in_room(connection: &Connection, room: &Room) -> Result<Vec<UserId>> {
    let latest = latest_by(
        connection,
        doc! { "chatRoomId": room.id.to_string() },
        "$postedByUser",
        UserId::parse,
    )
    .await?;
    let has_written = |member: &UserId| {
        latest
            .get(member)
            .is_some_and(|seq| *seq > room.visible_from(*member))
    };
    Ok(room.members.iter().copied().filter(has_written).collect())
}

/// Returns those of these rooms in whose log the user has added an entry since they joined.
pub async fn rooms_of(
    connection: &Connection,
    user: UserId,
    rooms: &[Arc<Room>],
) -> Result<Vec<RoomId>> {
    let mut written = Vec::new();
    for rooms in rooms.chunks(ROOMS_AT_ONCE) {
        let ids: Vec<_> = rooms.iter().map(|room| room.id.to_string()).collect();
        let own = doc! { "chatRoomId": { "$in": ids }, "postedByUser": user.to_string() };
        let latest = latest_by(connection, own, "$chatRoomId", RoomId::parse).await?;
        let has_written = |room: &&Arc<Room>| {
            latest
                .get(&room.id)
                .is_some_and(|seq| *seq > room.visible_from(user))
        };
        written.extend(rooms.iter().filter(has_written).map(|room| room.id));
    }
    Ok(written)
}

/// Returns the sequence number of the last of these entries for each value of a field.
async fn latest_by<K: Eq + Hash>(
    connection: &Connection,
    entries: Document,
    field: &str,
    parse: impl Fn(&str) -> Option<K>,
) -> Result<HashMap<K, Seq>> {
    let last_of_each = [
        doc! { "$match": entries },
        // In the order of the index, so that MongoDB can skip from one value to the next.
        doc! { "$sort": { "chatRoomId": -1, "postedByUser": -1, "seq": -1 } },
        doc! { "$group": { "_id": field, "seq": { "$first": "$seq" } } },
    ];
    let found = connection
        .messages
        .aggregate(last_of_each)
        .hint(by_name(BY_AUTHOR));
    let found = connection
        .all(found, |last| {
            Some((parse(text_in(last, "_id"))?, seq_in(last, "seq")))
        })
        .await?;
    Ok(found.into_iter().collect())
}
