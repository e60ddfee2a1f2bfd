//! The logs to search: where they end, and how far they are indexed.

use std::collections::HashMap;

use mongodb::bson::{RawDocument, doc};

use crate::{
    model::{RoomId, Seq},
    store::{
        Result,
        mongo::{
            connection::Connection,
            documents::{id_strings, room_id, seq_in},
            heads::read_last_seqs,
            read::MAX_IDS_PER_QUERY,
            search_index,
        },
    },
};

/// How many messages at the end of a log without indexed entries are read, while the index is being
/// built for the first time.
const LATEST: u64 = 50;

/// A log that is searched.
pub struct SearchedLog {
    pub room: RoomId,
    /// Entries up to this one are hidden from the user who searches.
    pub hidden_up_to: Seq,
    /// Entries after this one are not indexed yet.
    pub indexed_up_to: Seq,
    pub end: Seq,
}

/// Reads where the logs of these rooms end and how far they are indexed. With each room comes the
/// entry up to which it is hidden.
pub async fn read_logs(
    connection: &Connection,
    state: &search_index::State,
    rooms: Vec<(RoomId, Seq)>,
) -> Result<Vec<SearchedLog>> {
    let is_marked = state.is_marked();
    let ids: Vec<_> = rooms.iter().map(|(room, _)| *room).collect();
    let ends = read_last_seqs(connection, &ids).await?;
    let mut indexed = HashMap::new();
    for ids in ids.chunks(MAX_IDS_PER_QUERY) {
        let ranges = connection
            .rooms
            .find(doc! { "_id": { "$in": id_strings(ids) } })
            .projection(doc! { "search": 1 });
        let up_to = |room: &RawDocument| {
            Some((
                room_id(room)?,
                seq_in(room.get_document("search").ok()?, "upTo"),
            ))
        };
        indexed.extend(connection.all(ranges, up_to).await?);
    }
    let log = |(room, hidden_up_to)| {
        let end = *ends.get(&room)?;
        let not_indexed = if is_marked {
            Seq(0)
        } else {
            Seq(end.0.saturating_sub(LATEST))
        };
        Some(SearchedLog {
            room,
            hidden_up_to,
            indexed_up_to: indexed.get(&room).copied().unwrap_or(not_indexed),
            end,
        })
    };
    Ok(rooms.into_iter().filter_map(log).collect())
}
