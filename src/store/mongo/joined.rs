//! Queries for the rooms of a user, with the log entry by which the user joined each.

use mongodb::bson::{Bson, RawDocument, doc};

use super::{
    connection::Connection,
    documents::{self, id_strings, room_id},
    indexes::{self, by_name},
};
use crate::{
    model::{RoomId, Seq, UserId},
    store::Result,
};

/// Returns the rooms of a user, or those of `among` of which they are a member, each with the entry
/// by which the user joined.
pub async fn joined_rooms(
    connection: &Connection,
    user: UserId,
    among: Option<&[RoomId]>,
) -> Result<Vec<(RoomId, Seq)>> {
    let mut filter = doc! { "userIds": user.to_string(), "deletedAt": null };
    let index = match among {
        Some(rooms) => {
            filter.insert("_id", doc! { "$in": id_strings(rooms) });
            "_id_"
        }
        None => indexes::BY_MEMBER,
    };
    let found = connection
        .rooms
        .find(filter)
        .projection(doc! { "joined": joined_projection(user) })
        .hint(by_name(index));
    let mut rooms = connection
        .all(found, |room| Some((room_id(room)?, joined_in(room))))
        .await?;
    let left = connection.pending.left_by(user);
    rooms.retain(|(room, _)| !left.contains(room));
    Ok(rooms)
}

/// Returns the entry by which a user joined a room, or `None` if they are not a member.
pub async fn joined_at(connection: &Connection, room: RoomId, user: UserId) -> Result<Option<Seq>> {
    Ok(joined_rooms(connection, user, Some(&[room]))
        .await?
        .pop()
        .map(|(_, joined)| joined))
}

/// Returns a projection of the field `joined` that keeps only this user's items, for [`joined_in`].
pub fn joined_projection(user: UserId) -> Bson {
    let is_user = doc! { "$eq": ["$$this.userId", user.to_string()] };
    doc! { "$filter": { "input": { "$ifNull": ["$joined", []] }, "cond": is_user } }.into()
}

/// Returns the entry by which the user joined the room, or 0 for an initial member.
pub fn joined_in(room: &RawDocument) -> Seq {
    documents::joined(room)
        .into_iter()
        .map(|(_, seq)| seq)
        .max()
        .unwrap_or_default()
}
