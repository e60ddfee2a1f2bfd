//! Rooms and their deletion, in MongoDB.
//!
//! A room is deleted in repeatable steps. First its document is marked as deleted, and the room is
//! no longer found. Then an entry closes its log, and no server can append to it, not even one that
//! still caches the head of the log. Once no server caches the head any more, the data of the room
//! is deleted; see `deleted_rooms`.

use std::sync::Arc;

use async_trait::async_trait;
use mongodb::bson::{RawDocument, doc};

use super::{
    appender::close_log,
    connection::Connection,
    documents::{self, date, id_strings, member_key, room_id, seq_in, text_in},
    indexes::{self, by_name},
    read::{MAX_IDS_PER_QUERY, count_deleted},
    store::Mongo,
};
use crate::{
    model::{Room, RoomId, Seq, Timestamp, UserId},
    store::{RemovedMember, Result, Rooms, StoreError},
};

/// How far back before the last check removals are returned again, in milliseconds.
const REMOVAL_OVERLAP_MS: i64 = 30_000;
/// How often a room is looked up when other servers create and delete it at the same time.
const MAX_ATTEMPTS: usize = 10;

#[async_trait]
impl Rooms for Mongo {
    async fn find_or_add(&self, room: Room) -> Result<(Arc<Room>, bool)> {
        let connection = &self.connection;
        let document = documents::from_room(&room);
        if room.name.is_some() {
            connection.add(&connection.rooms, &document).await?;
            return Ok((Arc::new(room), true));
        }
        for _ in 0..MAX_ATTEMPTS {
            let by_members = doc! { "memberKey": member_key(&room) };
            let found = connection.rooms.find_one(by_members);
            if let Some(found) = connection.one(found, documents::room).await? {
                return Ok((Arc::new(without_removed(connection, found)), false));
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

    async fn find(&self, id: RoomId) -> Result<Option<Arc<Room>>> {
        let connection = &self.connection;
        let found = connection.rooms.find_one(doc! { "_id": id.to_string() });
        let found = connection.one(found, documents::room).await?;
        Ok(found.map(|room| Arc::new(without_removed(connection, room))))
    }

    async fn deleted_members(&self, room: &Arc<Room>) -> Result<Arc<[UserId]>> {
        let connection = &self.connection;
        let mut deleted = Vec::new();
        for ids in room.members.chunks(MAX_IDS_PER_QUERY) {
            // The index holds only deleted users, so the cost depends on their number and not on
            // the number of ids.
            let found = connection
                .users
                .find(doc! { "deleted": true, "_id": { "$in": id_strings(ids) } })
                .projection(doc! { "_id": 1 })
                .sort(doc! { "_id": 1 })
                .hint(by_name(indexes::DELETED_USERS));
            deleted.extend(
                connection
                    .all(found, |user| UserId::parse(text_in(user, "_id")))
                    .await?,
            );
        }
        Ok(deleted.into())
    }

    async fn delete(&self, id: RoomId) -> Result<Option<u64>> {
        let connection = &self.connection;
        let delete = doc! { "$currentDate": { "deletedAt": true }, "$unset": { "memberKey": "", "userIds": "" } };
        let mark = connection
            .rooms
            .update_one(doc! { "_id": id.to_string(), "deletedAt": null }, delete);
        if connection.within(mark).await?.matched_count == 0 {
            return Ok(None);
        }
        self.appender.remove(id).await;
        let end = close_log(connection, id).await?;
        let deleted = count_deleted(connection, id, Seq(0), end, None).await?;
        Ok(Some((end.0 - 1).saturating_sub(deleted)))
    }

    /// Each room stores recent removals with the time by the database's clock. A removal can become
    /// visible some time after it was written, and the clock of another primary may be behind; so
    /// removals from shortly before `since` (`REMOVAL_OVERLAP_MS`) are returned again.
    async fn removed_members(
        &self,
        since: Option<Timestamp>,
    ) -> Result<(Vec<RemovedMember>, Timestamp)> {
        let connection = &self.connection;
        let now = connection.now().await?;
        let Some(since) = since else {
            return Ok((Vec::new(), now));
        };
        let since = date(Timestamp(since.0.saturating_sub(REMOVAL_OVERLAP_MS)));
        let is_new = doc! { "$gte": ["$$this.at", since] };
        let is_out = doc! { "$not": [{ "$in": ["$$this.userId", "$userIds"] }] };
        let left = doc! { "$filter": { "input": "$left", "cond": { "$and": [is_new, is_out] } } };
        let rooms = connection
            .rooms
            .find(doc! { "leftAt": { "$gte": since }, "deletedAt": null })
            .projection(doc! { "left": left })
            .hint(by_name(indexes::BY_REMOVAL));
        let removed = connection
            .all(rooms, |room| Some(removed_members_in(room)))
            .await?;
        Ok((removed.into_iter().flatten().collect(), now))
    }
}

/// Returns the room without the members whose removal is pending.
fn without_removed(connection: &Connection, mut room: Room) -> Room {
    let removed = connection.pending.removed_from(room.id);
    room.members.retain(|member| !removed.contains(member));
    room
}

fn removed_members_in(room: &RawDocument) -> Vec<RemovedMember> {
    let removed_member = |left: &RawDocument| {
        Some(RemovedMember {
            room: room_id(room)?,
            user: UserId::parse(text_in(left, "userId"))?,
            seq: seq_in(left, "seq"),
        })
    };
    let left = room.get_array("left").ok().into_iter().flatten().flatten();
    left.filter_map(|left| removed_member(left.as_document()?))
        .collect()
}
