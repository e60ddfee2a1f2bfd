//! The rooms of a user, ordered by their latest messages, in MongoDB.

use std::{cmp::Reverse, collections::HashMap};

use mongodb::{
    Cursor,
    bson::{Document, RawDocument, RawDocumentBuf, doc},
};

use super::{
    connection::Connection,
    documents::{self, date, flag_in, seq_in, text_in, time_in},
    indexes, pages,
    rooms::{ROOMS_AT_ONCE, id_of_room, joined_at_expr, joined_in},
    rows,
};
use crate::{
    model::{Message, MessageId, RoomId, Seq, Timestamp, UserId},
    store::{ListedRoom, Result, RoomPage},
};

/// How many more rooms than requested are read first.
const MORE_ROOMS: usize = 20;

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
            room: id_of_room(room)?,
            created_at: time_in(room, "createdAt"),
            active_until: time_in(room, "activeUntil"),
            joined: joined_in(room),
        })
    }
}

/// Returns the projection for [`Candidate`].
fn fields(user: UserId) -> Document {
    doc! { "createdAt": 1, "activeUntil": 1, "joined": joined_at_expr(user) }
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
    fn place(&self) -> Reverse<(Timestamp, [u8; 16])> {
        Reverse((self.at, self.id))
    }
}

/// Returns a page of the user's rooms, the most recent first.
///
/// The document of a room stores `activeUntil`. Rooms are read in that order, until the remaining
/// ones cannot have a message as late as those found. Large rooms do not maintain `activeUntil`,
/// and are all read. Rooms without any message have none either, and are placed by their creation
/// time.
pub async fn recents(connection: &Connection, page: RoomPage) -> Result<Vec<ListedRoom>> {
    let skip = usize::try_from(page.skip).unwrap_or(usize::MAX);
    let wanted = usize::try_from(page.limit)
        .unwrap_or(usize::MAX)
        .saturating_add(skip);
    let mut placed = large_rooms(connection, &page).await?;
    if page.with_empty {
        let left = connection.pending.left_by(page.user);
        let rooms = never_active(connection, page.user, wanted.saturating_add(left.len())).await?;
        placed.extend(
            rooms
                .into_iter()
                .filter(|placed| !left.contains(&placed.room)),
        );
    }
    let active = doc! { "userIds": page.user.to_string(), "large": false, "activeUntil": { "$gt": date(Timestamp(0)) } };
    let by_activity = connection
        .rooms
        .find(active)
        .projection(fields(page.user))
        .sort(doc! { "activeUntil": -1 });
    let mut next = wanted.saturating_add(MORE_ROOMS).min(ROOMS_AT_ONCE);
    let by_activity = by_activity
        .batch_size(u32::try_from(next).unwrap_or(u32::MAX))
        .hint(indexes::by_name(indexes::BY_MEMBER));
    let mut by_activity = connection.within(by_activity).await?;
    loop {
        let rooms = take(connection, &mut by_activity, next).await?;
        let last_active = rooms
            .last()
            .map(|room| room.active_until)
            .unwrap_or_default();
        placed.extend(places_of(connection, &page, &rooms).await?);
        placed.sort_unstable_by_key(RankedRoom::place);
        let complete = wanted.checked_sub(1).is_none_or(|last| {
            placed
                .get(last)
                .is_some_and(|placed| placed.at > last_active)
        });
        if complete || rooms.len() < next {
            break;
        }
        next = next.saturating_mul(2).min(ROOMS_AT_ONCE);
    }
    let listed: Vec<_> = placed.into_iter().take(wanted).skip(skip).collect();
    let mut messages =
        messages(connection, listed.iter().filter_map(|placed| placed.latest)).await?;
    let listed = listed
        .into_iter()
        .filter_map(|RankedRoom { room, latest, .. }| match latest {
            // If the message was deleted meanwhile, its room is left out.
            Some(id) => Some(ListedRoom {
                room,
                latest: Some(messages.remove(&id)?),
            }),
            None => Some(ListedRoom { room, latest: None }),
        });
    Ok(listed.collect())
}

async fn messages(
    connection: &Connection,
    ids: impl Iterator<Item = MessageId>,
) -> Result<HashMap<MessageId, Message>> {
    let ids: Vec<_> = ids.map(|id| id.to_string()).collect();
    let found = connection
        .all(
            connection.messages.find(doc! { "_id": { "$in": ids } }),
            documents::message,
        )
        .await?;
    Ok(found
        .into_iter()
        .map(|message| (message.id, message))
        .collect())
}

async fn large_rooms(connection: &Connection, page: &RoomPage) -> Result<Vec<RankedRoom>> {
    let large = connection
        .rooms
        .find(doc! { "userIds": page.user.to_string(), "large": true })
        .projection(fields(page.user));
    let mut placed = Vec::new();
    for rooms in connection
        .all(large, Candidate::read)
        .await?
        .chunks(ROOMS_AT_ONCE)
    {
        placed.extend(places_of(connection, page, rooms).await?);
    }
    Ok(placed)
}

/// Returns the newest of the small rooms in which no message was ever posted.
async fn never_active(
    connection: &Connection,
    user: UserId,
    wanted: usize,
) -> Result<Vec<RankedRoom>> {
    let inactive = connection
        .rooms
        .find(doc! { "userIds": user.to_string(), "large": false, "activeUntil": null });
    let newest = inactive
        .projection(fields(user))
        .sort(doc! { "createdAt": -1, "_id": -1 })
        .limit(rows(wanted.max(1) as u64));
    connection
        .all(newest.hint(indexes::by_name(indexes::BY_MEMBER)), |room| {
            Candidate::read(room).map(|room| empty(&room))
        })
        .await
}

fn empty(room: &Candidate) -> RankedRoom {
    RankedRoom {
        at: room.created_at,
        id: *room.room.as_bytes(),
        room: room.room,
        latest: None,
    }
}

/// Reads the next `count` rooms.
async fn take(
    connection: &Connection,
    rooms: &mut Cursor<RawDocumentBuf>,
    count: usize,
) -> Result<Vec<Candidate>> {
    let taking = async {
        let mut taken = Vec::new();
        while taken.len() < count && rooms.advance().await? {
            taken.extend(Candidate::read(rooms.current()));
        }
        Ok(taken)
    };
    connection.within(taking).await
}

/// Returns the rooms with their positions in the list, without those that are not listed. Rooms
/// from which the user's removal is pending are left out.
async fn places_of(
    connection: &Connection,
    page: &RoomPage,
    rooms: &[Candidate],
) -> Result<Vec<RankedRoom>> {
    let left = connection.pending.left_by(page.user);
    let mut latest = latest_of_each(connection, rooms).await?;
    let place = |room: &Candidate| match latest
        .remove(&room.room)
        .filter(|latest| !page.since_joined || latest.seq > room.joined)
    {
        Some(Latest { at, id, .. }) => Some(RankedRoom {
            at,
            id: *id.as_bytes(),
            room: room.room,
            latest: Some(id),
        }),
        None => page.with_empty.then(|| empty(room)),
    };
    Ok(rooms
        .iter()
        .filter(|room| !left.contains(&room.room))
        .filter_map(place)
        .collect())
}

/// The latest message of a room, as far as needed for its position in the list.
struct Latest {
    at: Timestamp,
    seq: Seq,
    id: MessageId,
}

async fn latest_of_each(
    connection: &Connection,
    rooms: &[Candidate],
) -> Result<HashMap<RoomId, Latest>> {
    if rooms.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<_> = rooms.iter().map(|room| room.room.to_string()).collect();
    let ends = connection
        .messages
        .aggregate(indexes::last_entry_of_each(ids))
        .hint(indexes::by_name(indexes::LOG));
    let ends = connection
        .all(ends, |end| {
            let room = RoomId::parse(text_in(end, "_id"))?;
            let (at, seq) = (time_in(end, "createdAt"), seq_in(end, "seq"));
            let latest = MessageId::parse(text_in(end, "id")).map(|id| Latest { at, seq, id });
            let is_there = |latest: &Latest| {
                !flag_in(end, "deleted") && !connection.pending.is_deleted(room, latest.id)
            };
            Some((room, seq, latest.filter(is_there)))
        })
        .await?;
    let mut latest = HashMap::with_capacity(ends.len());
    for (room, seq, last) in ends {
        if let Some(last) = last {
            latest.insert(room, last);
        } else {
            // The last entry is not a message, or is a deleted one: use the latest message before
            // it, if any.
            let before = pages::newest(connection, room, Seq(seq.0.saturating_sub(1)), 1)
                .await?
                .pop();
            latest.extend(before.map(|message| {
                (
                    room,
                    Latest {
                        at: message.created_at,
                        seq: message.seq,
                        id: message.id,
                    },
                )
            }));
        }
    }
    Ok(latest)
}
