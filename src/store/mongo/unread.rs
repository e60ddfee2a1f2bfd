//! Counts unread messages, in MongoDB.
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
    documents::{number_in, text_in},
    indexes::{self, by_name},
    read::{count_deleted, entries_between},
};
use crate::{
    model::{RoomId, Seq, UserId},
    store::Result,
};

/// For how many rooms one query counts unread messages.
const ROOMS_PER_QUERY: usize = 100;
/// How many count queries run at once.
const CONCURRENT_QUERIES: usize = 4;
/// How many pairs of user and room [`AuthorCountCache`] holds. An entry takes about 150 bytes.
const MAX_CACHED_COUNTS: u64 = 200_000;

/// The entries of a room that a user has not read: those with `after < seq <= last`.
#[derive(Clone, Copy)]
pub struct UnreadRange {
    pub room: RoomId,
    pub after: Seq,
    pub last: Seq,
}

/// A cache of how many entries of a range are the user's own. The count of a given range never
/// changes, so only the entries that were added since the last request are counted.
pub struct AuthorCountCache(Cache<(UserId, RoomId), (UnreadRange, u64)>);

impl AuthorCountCache {
    /// Creates an empty cache.
    pub fn new() -> Self {
        Self(Cache::new(MAX_CACHED_COUNTS))
    }

    /// Returns the cached count for the beginning of a range, and the rest of the range.
    fn get(&self, user: UserId, range: UnreadRange) -> (u64, UnreadRange) {
        match self.0.get(&(user, range.room)) {
            Some((cached, count)) if cached.after == range.after && cached.last <= range.last => (
                count,
                UnreadRange {
                    after: cached.last,
                    ..range
                },
            ),
            _ => (0, range),
        }
    }
}

/// Counts the messages of other users in `after < seq <= last`.
pub async fn count_between(
    connection: &Connection,
    room: RoomId,
    user: UserId,
    after: Seq,
    last: Seq,
) -> Result<u64> {
    if after >= last {
        return Ok(0);
    }
    let (by_user, not_messages) = try_join!(
        author_counts::count_by_author(connection, user, room, after, last),
        count_deleted(connection, room, after, last, Some(user))
    )?;
    Ok((last.0 - after.0)
        .saturating_sub(by_user)
        .saturating_sub(not_messages))
}

/// Counts the messages of other users in each of these ranges, which are of different rooms.
pub async fn count_each(
    connection: &Connection,
    cache: &AuthorCountCache,
    user: UserId,
    ranges: &[UnreadRange],
) -> Result<HashMap<RoomId, u64>> {
    let not_empty: Vec<_> = ranges
        .iter()
        .copied()
        .filter(|range| range.last > range.after)
        .collect();
    let queries: Vec<_> = not_empty
        .chunks(ROOMS_PER_QUERY)
        .map(|ranges| count_some(connection, cache, user, ranges.to_vec()))
        .collect();
    let counts: Vec<_> = stream::iter(queries)
        .buffer_unordered(CONCURRENT_QUERIES)
        .try_collect()
        .await?;
    Ok(counts.into_iter().flatten().collect())
}

/// Counts the messages of other users in as many ranges as one query counts.
async fn count_some(
    connection: &Connection,
    cache: &AuthorCountCache,
    user: UserId,
    ranges: Vec<UnreadRange>,
) -> Result<Vec<(RoomId, u64)>> {
    let not_messages =
        doc! { "deleted": true, "closed": null, "postedByUser": { "$ne": user.to_string() } };
    let not_messages = count_matching(connection, &ranges, not_messages, indexes::DELETED);
    let by_user = count_by_user(connection, cache, user, &ranges);
    let (by_user, not_messages) = try_join!(by_user, not_messages)?;
    let unread = |range: &UnreadRange| {
        let in_room =
            |counts: &HashMap<RoomId, u64>| counts.get(&range.room).copied().unwrap_or_default();
        (
            range.room,
            (range.last.0 - range.after.0)
                .saturating_sub(in_room(&by_user))
                .saturating_sub(in_room(&not_messages)),
        )
    };
    Ok(ranges.iter().map(unread).collect())
}

/// Counts the user's own entries in each of these ranges.
async fn count_by_user(
    connection: &Connection,
    cache: &AuthorCountCache,
    user: UserId,
    ranges: &[UnreadRange],
) -> Result<HashMap<RoomId, u64>> {
    let (mut counts, uncached): (HashMap<_, _>, Vec<_>) = ranges
        .iter()
        .map(|range| {
            let (count, uncached) = cache.get(user, *range);
            ((range.room, count), uncached)
        })
        .unzip();
    let uncached: Vec<_> = uncached
        .into_iter()
        .filter(|range| range.last > range.after)
        .collect();
    let mut counted = count_uncached(connection, user, &uncached).await?;
    let mut before_flush = counted.clone();
    if connection.standalone && !uncached.is_empty() {
        // A standalone server also counts entries that are only in memory. A count that is the same
        // after a flush covers only entries on disk, and can be cached.
        connection.flush().await?;
        counted = count_uncached(connection, user, &uncached).await?;
    }
    for range in ranges {
        let count = counts.entry(range.room).or_default();
        let counted = counted.remove(&range.room);
        *count += counted.unwrap_or_default();
        if counted == before_flush.remove(&range.room) {
            cache.0.insert((user, range.room), (*range, *count));
        }
    }
    Ok(counts)
}

async fn count_uncached(
    connection: &Connection,
    user: UserId,
    ranges: &[UnreadRange],
) -> Result<HashMap<RoomId, u64>> {
    let (long, short): (Vec<_>, Vec<_>) = ranges
        .iter()
        .copied()
        .partition(|range| range.last.0 - range.after.0 > author_counts::BLOCK_SIZE);
    let by_user = doc! { "postedByUser": user.to_string() };
    let mut counts = count_matching(connection, &short, by_user, indexes::LOG).await?;
    for UnreadRange { room, after, last } in long {
        counts.insert(
            room,
            author_counts::count_by_author(connection, user, room, after, last).await?,
        );
    }
    Ok(counts)
}

/// Counts the entries in each of these ranges that match a filter.
async fn count_matching(
    connection: &Connection,
    ranges: &[UnreadRange],
    filter: Document,
    index: &str,
) -> Result<HashMap<RoomId, u64>> {
    if ranges.is_empty() {
        return Ok(HashMap::new());
    }
    let in_range = |range: &UnreadRange| {
        let mut entries = entries_between(range.room, range.after, range.last);
        entries.extend(filter.clone());
        entries
    };
    let in_ranges: Vec<_> = ranges.iter().map(in_range).collect();
    let by_room = doc! { "$group": { "_id": "$chatRoomId", "count": { "$sum": 1 } } };
    let by_room = connection
        .messages
        .aggregate([doc! { "$match": { "$or": in_ranges } }, by_room])
        .hint(by_name(index));
    let count = |room: &RawDocument| {
        Some((
            RoomId::parse(text_in(room, "_id"))?,
            number_in(room, "count"),
        ))
    };
    Ok(connection.all(by_room, count).await?.into_iter().collect())
}
