//! Read marks, in MongoDB.

use std::collections::HashMap;

use async_trait::async_trait;
use mongodb::bson::{Document, RawDocument, doc};
use tokio::try_join;

use super::{
    connection::Connection,
    documents::{self, id_strings, number, room_id, seq_in, time_in},
    heads::read_last_seqs,
    indexes::{self, by_name},
    joined::{joined_at, joined_rooms},
    read::{MAX_IDS_PER_QUERY, last_entry},
    store::Mongo,
    unread::{UnreadRange, count_between, count_each},
};
use crate::{
    model::{ReadMark, RoomId, Seq, Timestamp, UserId},
    store::{Marked, ReadMarks, Result, StoreError, Unread},
};

/// How often a read mark is tried when the same reader marks the room from several clients at once.
const MAX_ATTEMPTS: usize = 10;

#[async_trait]
impl ReadMarks for Mongo {
    async fn mark_read(
        &self,
        room: RoomId,
        user: UserId,
        up_to: Option<Seq>,
        at: Timestamp,
    ) -> Result<Option<Marked>> {
        let connection = &self.connection;
        let Some(joined) = joined_at(connection, room, user).await? else {
            return Ok(None);
        };
        for _ in 0..MAX_ATTEMPTS {
            let (last, last_mark) = try_join!(
                last_entry(connection, room),
                last_mark(connection, room, user)
            )?;
            let (end, end_time) = last.unwrap_or_default();
            let read = last_mark.max(joined);
            let up_to = up_to.unwrap_or(end).min(end);
            if up_to <= read {
                return Ok(Some(Marked {
                    became_read: 0,
                    last_read: read,
                    unread: count_between(connection, room, user, read, end).await?,
                    mark: None,
                }));
            }
            let (became_read, unread, last_read_time) = try_join!(
                count_between(connection, room, user, read, up_to),
                count_between(connection, room, user, up_to, end),
                time_of(connection, room, up_to, (end, end_time))
            )?;
            let mark = ReadMark {
                user,
                up_to,
                read_at: at.max(last_read_time),
            };
            if add_mark(connection, room, last_mark, &mark).await? {
                return Ok(Some(Marked {
                    became_read,
                    last_read: up_to,
                    unread,
                    mark: Some(mark),
                }));
            }
        }
        Err(StoreError::Unavailable(format!(
            "user {user} marks room {room} as read from many places at once"
        )))
    }

    async fn between(
        &self,
        room: RoomId,
        readers: &[UserId],
        first: Seq,
        last: Seq,
    ) -> Result<Vec<ReadMark>> {
        let connection = &self.connection;
        let readers = id_strings(readers);
        let filter = |up_to: Document| doc! { "chatRoomId": room.to_string(), "readByUserId": { "$in": &readers }, "upToSeq": up_to };
        let within = async {
            if first == last {
                return Ok(Vec::new());
            }
            let within = filter(doc! { "$gte": number(first.0), "$lt": number(last.0) });
            connection
                .all(connection.marks.find(within), documents::read_mark)
                .await
        };
        // One index step per reader, however many later marks there are.
        let first_after = connection.marks.aggregate([
            doc! { "$match": filter(doc! { "$gte": number(last.0) }) },
            doc! { "$sort": { "chatRoomId": 1, "readByUserId": 1, "upToSeq": 1 } },
            doc! { "$group": {
                "_id": "$readByUserId",
                "readByUserId": { "$first": "$readByUserId" },
                "upToSeq": { "$first": "$upToSeq" },
                "readAt": { "$first": "$readAt" },
            } },
        ]);
        let first_after = connection.all(first_after, documents::read_mark);
        let (mut marks, first_after) = try_join!(within, first_after)?;
        marks.extend(first_after);
        marks.sort_unstable_by_key(|mark| (mark.user, mark.up_to));
        Ok(marks)
    }

    async fn unread(&self, user: UserId, among: Option<&[RoomId]>) -> Result<Vec<Unread>> {
        let connection = &self.connection;
        let joined = joined_rooms(connection, user, among).await?;
        let ids: Vec<_> = joined.iter().map(|(room, _)| *room).collect();
        let (last_seqs, marks) = try_join!(
            read_last_seqs(connection, &ids),
            last_marks(connection, user, &ids)
        )?;
        let range = |(room, joined): &(RoomId, Seq)| {
            let read = marks.get(room).copied().unwrap_or_default();
            Some(UnreadRange {
                room: *room,
                after: read.max(*joined),
                last: *last_seqs.get(room)?,
            })
        };
        let ranges: Vec<_> = joined.iter().filter_map(range).collect();
        let counts = count_each(connection, &self.author_counts, user, &ranges).await?;
        let unread = |range: UnreadRange| Unread {
            room: range.room,
            unread: counts.get(&range.room).copied().unwrap_or_default(),
            last_seq: range.last,
        };
        Ok(ranges.into_iter().map(unread).collect())
    }
}

/// Adds the read mark that follows the one up to `after`. Returns false if another mark that
/// follows it was added meanwhile.
async fn add_mark(
    connection: &Connection,
    room: RoomId,
    after: Seq,
    mark: &ReadMark,
) -> Result<bool> {
    let document = documents::from_read_mark(room, after, mark);
    connection.add(&connection.marks, &document).await
}

/// Returns the time of an entry. The time of the last entry, `end`, is known already.
async fn time_of(
    connection: &Connection,
    room: RoomId,
    seq: Seq,
    end: (Seq, Timestamp),
) -> Result<Timestamp> {
    if seq == end.0 {
        return Ok(end.1);
    }
    let entry = connection
        .messages
        .find_one(doc! { "chatRoomId": room.to_string(), "seq": number(seq.0) })
        .hint(by_name(indexes::LOG));
    Ok(connection
        .one(entry, |entry| Some(time_in(entry, "createdAt")))
        .await?
        .unwrap_or_default())
}

/// Returns how far the user has read, by the last read mark.
async fn last_mark(connection: &Connection, room: RoomId, user: UserId) -> Result<Seq> {
    let last = connection
        .marks
        .find_one(doc! { "chatRoomId": room.to_string(), "readByUserId": user.to_string() })
        .sort(doc! { "upToSeq": -1 });
    let read = connection.one(last, documents::read_mark).await?;
    Ok(read.map(|mark| mark.up_to).unwrap_or_default())
}

/// Returns how far the user has read each of these rooms, without rooms that have no mark. It takes
/// one index step per room.
async fn last_marks(
    connection: &Connection,
    user: UserId,
    rooms: &[RoomId],
) -> Result<HashMap<RoomId, Seq>> {
    let mut marks = HashMap::with_capacity(rooms.len());
    for rooms in rooms.chunks(MAX_IDS_PER_QUERY) {
        let last = connection.marks.aggregate([
            doc! { "$match": { "chatRoomId": { "$in": id_strings(rooms) }, "readByUserId": user.to_string() } },
            doc! { "$sort": { "chatRoomId": -1, "readByUserId": -1, "upToSeq": -1 } },
            doc! { "$group": { "_id": "$chatRoomId", "upToSeq": { "$first": "$upToSeq" } } },
        ]);
        let last = last.hint(by_name(indexes::BY_READER));
        let room_and_seq = |mark: &RawDocument| Some((room_id(mark)?, seq_in(mark, "upToSeq")));
        marks.extend(connection.all(last, room_and_seq).await?);
    }
    Ok(marks)
}
