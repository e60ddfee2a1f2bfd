//! The rooms of a user, ordered by their latest messages, in MongoDB.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use mongodb::bson::{Document, RawDocument, doc};

use super::{
    connection::Connection,
    documents::{self, date, document_count, flag_in, room_id, seq_in, text_in, time_in},
    indexes::{self, by_name},
    joined::{joined_in, joined_projection},
    read::{MAX_IDS_PER_QUERY, batch_len, last_entry_of_each, newest_up_to, read_next},
};
use crate::{
    model::{Message, MessageId, RoomId, Seq, Timestamp, UserId},
    store::{Limit, ListedRoom, Result, RoomPage, limit::PageBuilder},
};

/// How many more rooms than requested are read first.
const ADDITIONAL_ROOMS: usize = 20;

/// A room of the user.
struct Candidate {
    room: RoomId,
    created_at: Timestamp,
    /// `activeUntil` of the room: none of its messages is later.
    active_until: Timestamp,
    /// The entry by which the user joined the room.
    joined: Seq,
}

impl Candidate {
    fn read(room: &RawDocument) -> Option<Self> {
        Some(Self {
            room: room_id(room)?,
            created_at: time_in(room, "createdAt"),
            active_until: time_in(room, "activeUntil"),
            joined: joined_in(room),
        })
    }

    /// Returns the projection for [`read`](Self::read).
    fn projection(user: UserId) -> Document {
        doc! { "createdAt": 1, "activeUntil": 1, "joined": joined_projection(user) }
    }
}

/// A room with its position in the list: that of its latest message, or of its creation if it has
/// none.
struct RankedRoom {
    at: Timestamp,
    id: [u8; 16],
    room: RoomId,
    latest: Option<MessageId>,
}

impl RankedRoom {
    /// Ranks a room without a message.
    fn without_message(room: &Candidate) -> Self {
        Self {
            at: room.created_at,
            id: *room.room.as_bytes(),
            room: room.room,
            latest: None,
        }
    }

    fn position(&self) -> Reverse<(Timestamp, [u8; 16])> {
        Reverse((self.at, self.id))
    }
}

/// Returns a page of the user's rooms, the most recent first.
///
/// The document of a room stores `activeUntil`. Rooms are read in that order, until the remaining
/// ones cannot have a message as late as those found. Large rooms do not maintain `activeUntil`,
/// and are all read. Rooms without any message have none either, and are placed by their creation
/// time.
pub async fn list(connection: &Connection, page: RoomPage) -> Result<Vec<ListedRoom>> {
    let skip = usize::try_from(page.skip).unwrap_or(usize::MAX);
    let wanted = usize::try_from(page.limit.items)
        .unwrap_or(usize::MAX)
        .saturating_add(skip);
    let mut ranked = large_rooms(connection, &page).await?;
    if page.with_empty {
        ranked.extend(never_active(connection, page.user, wanted).await?);
    }
    let ranked = add_active(connection, &page, wanted, ranked).await?;
    let listed: Vec<_> = ranked.into_iter().take(wanted).skip(skip).collect();
    with_messages(connection, &listed, page.limit).await
}

/// Adds the small rooms in which messages were posted, as far as they may be among the first
/// `wanted`, and sorts the rooms.
async fn add_active(
    connection: &Connection,
    page: &RoomPage,
    wanted: usize,
    mut ranked: Vec<RankedRoom>,
) -> Result<Vec<RankedRoom>> {
    let active = doc! { "userIds": page.user.to_string(), "large": false, "activeUntil": { "$gt": date(Timestamp(0)) } };
    let mut count = wanted
        .saturating_add(ADDITIONAL_ROOMS)
        .min(MAX_IDS_PER_QUERY);
    let by_activity = connection
        .rooms
        .find(active)
        .projection(Candidate::projection(page.user))
        .sort(doc! { "activeUntil": -1 })
        .batch_size(u32::try_from(count).unwrap_or(u32::MAX))
        .hint(by_name(indexes::BY_MEMBER));
    let mut by_activity = connection.within(by_activity).await?;
    loop {
        let rooms = read_next(connection, &mut by_activity, count, Candidate::read).await?;
        let last_active = rooms
            .last()
            .map(|room| room.active_until)
            .unwrap_or_default();
        ranked.extend(rank(connection, page, &rooms).await?);
        ranked.sort_unstable_by_key(RankedRoom::position);
        // A room whose first message was posted between two of the queries is in both.
        let mut seen = HashSet::new();
        ranked.retain(|room| seen.insert(room.room));
        let is_complete = wanted
            .checked_sub(1)
            .is_none_or(|last| ranked.get(last).is_some_and(|room| room.at > last_active));
        if is_complete || rooms.len() < count {
            return Ok(ranked);
        }
        count = count.saturating_mul(2).min(MAX_IDS_PER_QUERY);
    }
}

/// Returns the rooms with their latest messages, up to the limit of the page.
async fn with_messages(
    connection: &Connection,
    rooms: &[RankedRoom],
    limit: Limit,
) -> Result<Vec<ListedRoom>> {
    let mut page = PageBuilder::new(limit);
    for rooms in rooms.chunks(batch_len(limit)) {
        let mut messages = messages_of(connection, rooms).await?;
        page.fill(rooms.iter().filter_map(|room| {
            let latest = match room.latest {
                // If the message was deleted meanwhile, its room is left out.
                Some(id) => Some(messages.remove(&id)?),
                None => None,
            };
            Some(ListedRoom {
                room: room.room,
                latest,
            })
        }));
        if page.is_full() {
            break;
        }
    }
    Ok(page.into_items())
}

/// Returns the latest messages of the rooms.
async fn messages_of(
    connection: &Connection,
    rooms: &[RankedRoom],
) -> Result<HashMap<MessageId, Message>> {
    let ids: Vec<_> = rooms
        .iter()
        .filter_map(|room| room.latest)
        .map(|id| id.to_string())
        .collect();
    let messages = connection.messages.find(doc! { "_id": { "$in": ids } });
    let messages = connection.all(messages, documents::message).await?;
    Ok(messages
        .into_iter()
        .map(|message| (message.id, message))
        .collect())
}

async fn large_rooms(connection: &Connection, page: &RoomPage) -> Result<Vec<RankedRoom>> {
    let large = connection
        .rooms
        .find(doc! { "userIds": page.user.to_string(), "large": true })
        .projection(Candidate::projection(page.user));
    let mut ranked = Vec::new();
    for rooms in connection
        .all(large, Candidate::read)
        .await?
        .chunks(MAX_IDS_PER_QUERY)
    {
        ranked.extend(rank(connection, page, rooms).await?);
    }
    Ok(ranked)
}

/// Returns the newest of the small rooms in which no message was ever posted. Rooms from which the
/// user's removal is pending are left out.
async fn never_active(
    connection: &Connection,
    user: UserId,
    wanted: usize,
) -> Result<Vec<RankedRoom>> {
    let left = connection.pending.left_by(user);
    let limit = wanted.saturating_add(left.len()).max(1);
    let newest = connection
        .rooms
        .find(doc! { "userIds": user.to_string(), "large": false, "activeUntil": null })
        .projection(Candidate::projection(user))
        .sort(doc! { "createdAt": -1, "_id": -1 })
        .limit(document_count(limit as u64))
        .hint(by_name(indexes::BY_MEMBER));
    let mut ranked = connection
        .all(newest, |room| {
            Candidate::read(room).map(|room| RankedRoom::without_message(&room))
        })
        .await?;
    ranked.retain(|room| !left.contains(&room.room));
    Ok(ranked)
}

/// Returns the rooms with their positions in the list, without those that are not listed. Rooms
/// from which the user's removal is pending are left out.
async fn rank(
    connection: &Connection,
    page: &RoomPage,
    rooms: &[Candidate],
) -> Result<Vec<RankedRoom>> {
    let left = connection.pending.left_by(page.user);
    let mut latest = latest_messages(connection, rooms).await?;
    let ranked = |room: &Candidate| match latest
        .remove(&room.room)
        .filter(|latest| !page.since_joined || latest.seq > room.joined)
    {
        Some(LatestMessage { at, id, .. }) => Some(RankedRoom {
            at,
            id: *id.as_bytes(),
            room: room.room,
            latest: Some(id),
        }),
        None => page.with_empty.then(|| RankedRoom::without_message(room)),
    };
    Ok(rooms
        .iter()
        .filter(|room| !left.contains(&room.room))
        .filter_map(ranked)
        .collect())
}

/// The latest message of a room, as far as needed for its position in the list.
struct LatestMessage {
    at: Timestamp,
    seq: Seq,
    id: MessageId,
}

async fn latest_messages(
    connection: &Connection,
    rooms: &[Candidate],
) -> Result<HashMap<RoomId, LatestMessage>> {
    let mut latest = HashMap::with_capacity(rooms.len());
    for (room, seq, message) in last_entries(connection, rooms).await? {
        if let Some(message) = message {
            latest.insert(room, message);
        } else {
            // The last entry is not a message, or is a deleted one: use the latest message before
            // it, if any.
            let before = newest_up_to(connection, room, seq.prev(), Limit::items(1))
                .await?
                .pop();
            latest.extend(before.map(|message| {
                let latest = LatestMessage {
                    at: message.created_at,
                    seq: message.seq,
                    id: message.id,
                };
                (room, latest)
            }));
        }
    }
    Ok(latest)
}

/// Returns the last entry of each log that has one, and the message if the entry is one that is not
/// deleted.
async fn last_entries(
    connection: &Connection,
    rooms: &[Candidate],
) -> Result<Vec<(RoomId, Seq, Option<LatestMessage>)>> {
    if rooms.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = rooms.iter().map(|room| room.room.to_string()).collect();
    let last = connection
        .messages
        .aggregate(last_entry_of_each(ids))
        .hint(by_name(indexes::LOG));
    connection
        .all(last, |entry| {
            let room = room_id(entry)?;
            let (at, seq) = (time_in(entry, "createdAt"), seq_in(entry, "seq"));
            let is_deleted = |id: &MessageId| {
                flag_in(entry, "deleted") || connection.pending.is_deleted(room, *id)
            };
            let message = MessageId::parse(text_in(entry, "id"))
                .filter(|id| !is_deleted(id))
                .map(|id| LatestMessage { at, seq, id });
            Some((room, seq, message))
        })
        .await
}
