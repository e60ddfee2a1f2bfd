//! The rooms of a user, and the members who have posted in a room, in MongoDB. The latter are found
//! by the index [`BY_AUTHOR`].

use std::{collections::HashMap, hash::Hash, sync::Arc};

use async_trait::async_trait;
use mongodb::bson::{Document, doc};

use super::{
    connection::Connection,
    documents::{document_count, id_strings, room_id, seq_in, text_in},
    indexes::{self, BY_AUTHOR, BY_MEMBER, by_name},
    read::MAX_IDS_PER_QUERY,
    store::Mongo,
};
use crate::{
    model::{Room, RoomId, Seq, UserId},
    store::{Memberships, Result},
};

#[async_trait]
impl Memberships for Mongo {
    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u64,
    ) -> Result<Vec<RoomId>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let connection = &self.connection;
        let mut ids = doc! {};
        let left = Vec::from_iter(connection.pending.left_by(user));
        if !left.is_empty() {
            ids.insert("$nin", id_strings(&left));
        }
        if let Some(after) = after {
            ids.insert("$gt", after.to_string());
        }
        let mut filter = doc! { "userIds": user.to_string(), "deletedAt": null };
        if !ids.is_empty() {
            filter.insert("_id", ids);
        }
        let found = connection
            .rooms
            .find(filter)
            .projection(doc! { "_id": 1 })
            .sort(doc! { "_id": 1 })
            .limit(document_count(limit))
            .hint(by_name(BY_MEMBER));
        connection.all(found, room_id).await
    }

    async fn index_writers(&self) -> Result<()> {
        indexes::build_author_index(&self.connection).await
    }

    async fn writers_in(&self, room: &Arc<Room>) -> Result<Vec<UserId>> {
        let in_room = doc! { "chatRoomId": room.id.to_string() };
        let last_seqs =
            last_seq_of_each(&self.connection, in_room, "$postedByUser", UserId::parse).await?;
        let has_written = |member: &UserId| {
            last_seqs
                .get(member)
                .is_some_and(|seq| *seq > room.visible_from(*member))
        };
        Ok(room.members.iter().copied().filter(has_written).collect())
    }

    async fn written_by(&self, user: UserId, rooms: &[Arc<Room>]) -> Result<Vec<RoomId>> {
        let mut written = Vec::new();
        for rooms in rooms.chunks(MAX_IDS_PER_QUERY) {
            let ids: Vec<_> = rooms.iter().map(|room| room.id.to_string()).collect();
            let by_user = doc! { "chatRoomId": { "$in": ids }, "postedByUser": user.to_string() };
            let last_seqs =
                last_seq_of_each(&self.connection, by_user, "$chatRoomId", RoomId::parse).await?;
            let has_written = |room: &&Arc<Room>| {
                last_seqs
                    .get(&room.id)
                    .is_some_and(|seq| *seq > room.visible_from(user))
            };
            written.extend(rooms.iter().filter(has_written).map(|room| room.id));
        }
        Ok(written)
    }
}

/// Returns the sequence number of the last of these entries for each value of a field.
async fn last_seq_of_each<K: Eq + Hash>(
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
