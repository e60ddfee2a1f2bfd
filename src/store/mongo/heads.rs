//! The heads of the logs: where each log ends, and what an append has to know about its room.

use std::collections::HashMap;

use mongodb::bson::{RawDocument, doc};

use super::{
    connection::Connection,
    documents::{flag_in, id_strings, room_id, seq_in, time_in},
    effects,
    indexes::{self, by_name},
    read::{MAX_IDS_PER_QUERY, last_entry_of_each},
};
use crate::{
    model::{RoomId, Seq, Timestamp},
    store::Result,
};

/// The end of a room's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    pub seq: Seq,
    /// The time of the last entry.
    pub at: Timestamp,
    /// Whether the last entry closes the log, because the room is deleted.
    pub closed: bool,
    /// `activeUntil` in the room's document: no message in the log is later. `None` for a large
    /// room.
    pub active_until: Option<Timestamp>,
    /// Whether a member was ever added to or removed from the room.
    pub members_changed: bool,
}

impl Head {
    /// Returns the head after one more entry, which was created at this time.
    pub fn next(&self, at: Timestamp) -> Self {
        Self {
            seq: self.seq.next(),
            at: self.at.max(at),
            ..*self
        }
    }
}

/// The heads of several logs.
pub type Heads = HashMap<RoomId, Head>;

/// Returns the heads of these logs, at 0 for an empty log. What comes from the documents of the
/// rooms is missing.
pub async fn read_heads(connection: &Connection, rooms: Vec<RoomId>) -> Result<Heads> {
    let last_entries = connection
        .messages
        .aggregate(last_entry_of_each(id_strings(&rooms)))
        .hint(by_name(indexes::LOG));
    let head = |last: &RawDocument| {
        let head = Head {
            seq: seq_in(last, "seq"),
            at: time_in(last, "createdAt"),
            closed: flag_in(last, "closed"),
            ..Head::default()
        };
        Some((room_id(last)?, head))
    };
    let mut heads: Heads = rooms
        .into_iter()
        .map(|room| (room, Head::default()))
        .collect();
    heads.extend(connection.all(last_entries, head).await?);
    Ok(heads)
}

/// Returns the heads of these logs; a room that does not exist counts as closed. The effects of the
/// entries up to the heads are applied, or known to be pending, so the documents of messages and
/// rooms are at least as new as the heads.
pub async fn read_heads_with_rooms(connection: &Connection, rooms: Vec<RoomId>) -> Result<Heads> {
    let ids = id_strings(&rooms);
    // The order matters: the heads must be read first, because the document of a room is current
    // only after the effects of the entries up to its head are applied.
    let mut heads = read_heads(connection, rooms).await?;
    effects::apply_pending(connection, Some(ids.clone())).await?;
    let rooms = connection
        .rooms
        .find(doc! { "_id": { "$in": ids }, "deletedAt": null });
    let rooms = rooms.projection(
        doc! { "large": 1, "activeUntil": 1, "members_changed": { "$isArray": "$joined" } },
    );
    let room_fields = |room: &RawDocument| {
        let active_until = (!flag_in(room, "large")).then(|| time_in(room, "activeUntil"));
        Some((
            room_id(room)?,
            (active_until, flag_in(room, "members_changed")),
        ))
    };
    let rooms: HashMap<_, _> = connection
        .all(rooms, room_fields)
        .await?
        .into_iter()
        .collect();
    for (room, head) in &mut heads {
        match rooms.get(room) {
            Some((active_until, members_changed)) => {
                let has_pending_removal = !connection.pending.removed_from(*room).is_empty();
                (head.active_until, head.members_changed) =
                    (*active_until, *members_changed || has_pending_removal);
            }
            None => head.closed = true,
        }
    }
    Ok(heads)
}

/// Returns the last sequence numbers of the logs of these rooms, 0 for an empty log, without closed
/// logs. The effects of the entries up to there are applied, or known to be pending: later reads
/// are at least as new.
pub async fn read_last_seqs(
    connection: &Connection,
    rooms: &[RoomId],
) -> Result<HashMap<RoomId, Seq>> {
    let mut last_seqs = HashMap::with_capacity(rooms.len());
    for rooms in rooms.chunks(MAX_IDS_PER_QUERY) {
        let heads = read_heads(connection, rooms.to_vec()).await?;
        effects::apply_pending(connection, Some(id_strings(rooms))).await?;
        last_seqs.extend(
            heads
                .into_iter()
                .filter(|(_, head)| !head.closed)
                .map(|(room, head)| (room, head.seq)),
        );
    }
    Ok(last_seqs)
}
