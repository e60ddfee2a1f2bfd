//! Read marks and unread counts, in MongoDB.
//!
//! The unread count of a room is the number of entries after the user's last read mark, without the
//! user's own entries and without those of others that are not messages or are deleted messages.

use std::collections::HashMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use moka::sync::Cache;
use mongodb::bson::{Document, RawDocument, doc};
use tokio::try_join;

use super::{
    author_counts,
    connection::Connection,
    documents::{self, number, number_in, seq_in, text_in},
    indexes::{self, by_name},
    pages::{self, deleted_between, end, entries_between},
    rooms,
};
use crate::{
    model::{ReadMark, RoomId, Seq, Timestamp, UserId},
    store::{Marked, Result, StoreError, Unread},
};

/// How often a read mark is tried when the same reader marks the room from several clients at once.
const ATTEMPTS: usize = 10;
/// For how many rooms one query counts unread messages.
const ROOMS_AT_ONCE: usize = 100;
/// How many pairs of user and room the cache of own entries holds. An entry takes about 150 bytes.
const STRETCHES: u64 = 200_000;
/// How many count queries run at once.
const COUNTS_AT_ONCE: usize = 4;

pub async fn mark_read(
    connection: &Connection,
    room: RoomId,
    user: UserId,
    up_to: Option<Seq>,
    at: Timestamp,
) -> Result<Option<Marked>> {
    let Some(joined) = rooms::joined(connection, room, user).await? else {
        return Ok(None);
    };
    for _ in 0..ATTEMPTS {
        let (end, last_mark) = try_join!(end(connection, room), last_mark(connection, room, user))?;
        let (end, last_at) = end.unwrap_or_default();
        let read = last_mark.max(joined);
        let up_to = up_to.unwrap_or(end).min(end);
        if up_to <= read {
            let unread = unread_between(connection, room, user, read, end).await?;
            return Ok(Some(Marked {
                became_read: 0,
                last_read: read,
                unread,
                mark: None,
            }));
        }
        let became_read = unread_between(connection, room, user, read, up_to);
        let still_unread = unread_between(connection, room, user, up_to, end);
        let last_at = async {
            if up_to == end {
                Ok(last_at)
            } else {
                time_of(connection, room, up_to).await
            }
        };
        let (became_read, unread, last_at) = try_join!(became_read, still_unread, last_at)?;
        let mark = ReadMark {
            user,
            up_to,
            read_at: at.max(last_at),
        };
        if connection
            .add(
                &connection.marks,
                &documents::from_read_mark(room, last_mark, &mark),
            )
            .await?
        {
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

async fn unread_between(
    connection: &Connection,
    room: RoomId,
    user: UserId,
    after: Seq,
    last: Seq,
) -> Result<u64> {
    if after >= last {
        return Ok(0);
    }
    let own = author_counts::posted_by(connection, user, room, after, last);
    let (own, no_messages) = try_join!(
        own,
        deleted_between(connection, room, after, last, Some(user))
    )?;
    Ok((last.0 - after.0)
        .saturating_sub(own)
        .saturating_sub(no_messages))
}

async fn time_of(connection: &Connection, room: RoomId, seq: Seq) -> Result<Timestamp> {
    let entry = connection
        .messages
        .find_one(doc! { "chatRoomId": room.to_string(), "seq": number(seq.0) })
        .hint(by_name(indexes::LOG));
    Ok(connection
        .one(entry, |entry| Some(documents::time_in(entry, "createdAt")))
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

/// The entries of a room that a user has not read: those with `read < seq <= end`.
#[derive(Clone, Copy)]
pub struct SeqRange {
    room: RoomId,
    read: Seq,
    end: Seq,
}

/// A cache of how many entries of a range are the user's own. The count of a given range never
/// changes, so only the entries that were added since the last request are counted.
pub struct OwnCounts(Cache<(UserId, RoomId), (SeqRange, u64)>);

impl OwnCounts {
    /// Creates an empty cache.
    pub fn new() -> Self {
        Self(Cache::new(STRETCHES))
    }

    /// Returns the cached count for the beginning of a range, and the rest of the range.
    fn known(&self, user: UserId, stretch: SeqRange) -> (u64, SeqRange) {
        match self.0.get(&(user, stretch.room)) {
            Some((known, own)) if known.read == stretch.read && known.end <= stretch.end => (
                own,
                SeqRange {
                    read: known.end,
                    ..stretch
                },
            ),
            _ => (0, stretch),
        }
    }
}

/// Returns the unread counts of the user, in all their rooms or in those of `among` of which they
/// are a member.
pub async fn unread(
    connection: &Connection,
    known: &OwnCounts,
    user: UserId,
    among: Option<&[RoomId]>,
) -> Result<Vec<Unread>> {
    let joined = rooms::joined_of(connection, user, among).await?;
    let ids: Vec<_> = joined.iter().map(|(room, _)| *room).collect();
    let (ends, marks) = try_join!(
        pages::ends(connection, &ids),
        last_marks(connection, user, &ids)
    )?;
    let stretch = |(room, joined): &(RoomId, Seq)| {
        let read = marks.get(room).copied().unwrap_or_default().max(*joined);
        Some(SeqRange {
            room: *room,
            read,
            end: *ends.get(room)?,
        })
    };
    let stretches: Vec<_> = joined.iter().filter_map(stretch).collect();
    let behind: Vec<_> = stretches
        .iter()
        .copied()
        .filter(|stretch| stretch.end > stretch.read)
        .collect();
    let counts: Vec<_> = behind
        .chunks(ROOMS_AT_ONCE)
        .map(|some| count(connection, known, user, some.to_vec()))
        .collect();
    let counts: Vec<_> = stream::iter(counts)
        .buffer_unordered(COUNTS_AT_ONCE)
        .try_collect()
        .await?;
    let counts: HashMap<_, _> = counts.into_iter().flatten().collect();
    let unread = |stretch: SeqRange| {
        let unread = counts.get(&stretch.room).copied().unwrap_or_default();
        Unread {
            room: stretch.room,
            unread,
            last_seq: stretch.end,
        }
    };
    Ok(stretches.into_iter().map(unread).collect())
}

/// Counts the messages of other users in these ranges.
async fn count(
    connection: &Connection,
    known: &OwnCounts,
    user: UserId,
    stretches: Vec<SeqRange>,
) -> Result<Vec<(RoomId, u64)>> {
    let no_messages =
        doc! { "deleted": true, "closed": null, "postedByUser": { "$ne": user.to_string() } };
    let no_messages = count_each(connection, &stretches, no_messages, indexes::DELETED);
    let (own, no_messages) = try_join!(own(connection, known, user, &stretches), no_messages)?;
    let unread = |stretch: &SeqRange| {
        let in_room =
            |counts: &HashMap<RoomId, u64>| counts.get(&stretch.room).copied().unwrap_or_default();
        (
            stretch.room,
            (stretch.end.0 - stretch.read.0)
                .saturating_sub(in_room(&own))
                .saturating_sub(in_room(&no_messages)),
        )
    };
    Ok(stretches.iter().map(unread).collect())
}

/// Counts the user's own entries in each of these ranges.
async fn own(
    connection: &Connection,
    known: &OwnCounts,
    user: UserId,
    stretches: &[SeqRange],
) -> Result<HashMap<RoomId, u64>> {
    let (mut own, rest): (HashMap<_, _>, Vec<_>) = stretches
        .iter()
        .map(|stretch| {
            let (own, rest) = known.known(user, *stretch);
            ((stretch.room, own), rest)
        })
        .unzip();
    let rest: Vec<_> = rest
        .into_iter()
        .filter(|stretch| stretch.end > stretch.read)
        .collect();
    let mut counted = count_own(connection, user, &rest).await?;
    let mut before = counted.clone();
    if connection.standalone && !rest.is_empty() {
        // A standalone server also counts entries that are only in memory. A count that is the same
        // after a flush covers only entries on disk, and can be cached.
        connection.flush().await?;
        counted = count_own(connection, user, &rest).await?;
    }
    for stretch in stretches {
        let own = own.entry(stretch.room).or_default();
        let counted = counted.remove(&stretch.room);
        *own += counted.unwrap_or_default();
        if counted == before.remove(&stretch.room) {
            known.0.insert((user, stretch.room), (*stretch, *own));
        }
    }
    Ok(own)
}

async fn count_own(
    connection: &Connection,
    user: UserId,
    stretches: &[SeqRange],
) -> Result<HashMap<RoomId, u64>> {
    let (long, short): (Vec<_>, Vec<_>) = stretches
        .iter()
        .copied()
        .partition(|stretch| stretch.end.0 - stretch.read.0 > author_counts::BLOCK);
    let mut own = count_each(
        connection,
        &short,
        doc! { "postedByUser": user.to_string() },
        indexes::LOG,
    )
    .await?;
    for SeqRange { room, read, end } in long {
        own.insert(
            room,
            author_counts::posted_by(connection, user, room, read, end).await?,
        );
    }
    Ok(own)
}

/// Counts the entries in each of these ranges that match a filter.
async fn count_each(
    connection: &Connection,
    stretches: &[SeqRange],
    such: Document,
    index: &str,
) -> Result<HashMap<RoomId, u64>> {
    if stretches.is_empty() {
        return Ok(HashMap::new());
    }
    let such = |stretch: &SeqRange| {
        let mut entries = entries_between(stretch.room, stretch.read, stretch.end);
        entries.extend(such.clone());
        entries
    };
    let such: Vec<_> = stretches.iter().map(such).collect();
    let by_room = doc! { "$group": { "_id": "$chatRoomId", "count": { "$sum": 1 } } };
    let by_room = connection
        .messages
        .aggregate([doc! { "$match": { "$or": such } }, by_room])
        .hint(by_name(index));
    let count = |room: &RawDocument| {
        Some((
            RoomId::parse(text_in(room, "_id"))?,
            number_in(room, "count"),
        ))
    };
    Ok(connection.all(by_room, count).await?.into_iter().collect())
}

/// Returns how far the user has read each of these rooms, without rooms that have no mark. It takes
/// one index step per room.
async fn last_marks(
    connection: &Connection,
    user: UserId,
    rooms: &[RoomId],
) -> Result<HashMap<RoomId, Seq>> {
    let mut marks = HashMap::with_capacity(rooms.len());
    for rooms in rooms.chunks(rooms::ROOMS_AT_ONCE) {
        marks.extend(last_marks_of_some(connection, user, rooms).await?);
    }
    Ok(marks)
}

async fn last_marks_of_some(
    connection: &Connection,
    user: UserId,
    rooms: &[RoomId],
) -> Result<Vec<(RoomId, Seq)>> {
    let rooms: Vec<_> = rooms.iter().map(ToString::to_string).collect();
    let last = connection.marks.aggregate([
        doc! { "$match": { "chatRoomId": { "$in": rooms }, "readByUserId": user.to_string() } },
        doc! { "$sort": { "chatRoomId": -1, "readByUserId": -1, "upToSeq": -1 } },
        doc! { "$group": { "_id": "$chatRoomId", "upToSeq": { "$first": "$upToSeq" } } },
    ]);
    let last = last.hint(by_name(indexes::BY_READER));
    let of_room = |mark: &RawDocument| {
        Some((
            RoomId::parse(text_in(mark, "_id"))?,
            seq_in(mark, "upToSeq"),
        ))
    };
    connection.all(last, of_room).await
}

pub async fn read_marks(
    connection: &Connection,
    room: RoomId,
    readers: &[UserId],
    first: Seq,
    last: Seq,
) -> Result<Vec<ReadMark>> {
    let readers: Vec<_> = readers.iter().map(ToString::to_string).collect();
    let of_readers = |up_to: Document| doc! { "chatRoomId": room.to_string(), "readByUserId": { "$in": &readers }, "upToSeq": up_to };
    let within = async {
        if first == last {
            return Ok(Vec::new());
        }
        let within = of_readers(doc! { "$gte": number(first.0), "$lt": number(last.0) });
        connection
            .all(connection.marks.find(within), documents::read_mark)
            .await
    };
    // One index step per reader, however many later marks there are.
    let first_behind = connection.marks.aggregate([
        doc! { "$match": of_readers(doc! { "$gte": number(last.0) }) },
        doc! { "$sort": { "chatRoomId": 1, "readByUserId": 1, "upToSeq": 1 } },
        doc! { "$group": {
            "_id": "$readByUserId",
            "readByUserId": { "$first": "$readByUserId" },
            "upToSeq": { "$first": "$upToSeq" },
            "readAt": { "$first": "$readAt" },
        } },
    ]);
    let (mut marks, behind) =
        try_join!(within, connection.all(first_behind, documents::read_mark))?;
    marks.extend(behind);
    marks.sort_unstable_by_key(|mark| (mark.user, mark.up_to));
    Ok(marks)
}
