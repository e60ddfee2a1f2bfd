//! Decides which entries are indexed next, in the background: new ones and old ones.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use mongodb::bson::{RawDocument, doc};
use tokio::time::sleep;

use super::{
    State,
    terms::{MAX_ENTRIES, Order, index_entries, send_updates},
};
use crate::{
    model::{RoomId, Seq},
    store::{
        Result,
        mongo::{
            connection::Connection,
            documents::{document_count, number, seq_in, text_in},
            heads::{Head, read_heads},
            indexes::{self, by_name},
            lease,
        },
        search::{INDEX_INTERVAL, IndexQueue},
    },
};

/// The id of the metadata document with the lease for indexing old messages.
const LEASE: &str = "searchIndexing";
/// How many rooms are marked in one batch.
const ROOMS_PER_BATCH: u64 = 1_000;
/// The bounds of the pause between two batches, which is as long as the batch took.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// How often a server checks whether another server still holds the lease.
const LEASE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How many entries at the end of each log count as new when the room is marked, so that the latest
/// messages are found soon after the start.
const NEW_ENTRIES: u64 = 50;
/// The pause after an error.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Indexes new messages, and old ones if there are any, slowly enough not to delay posting. Never
/// returns.
pub async fn run(connection: Connection, state: Arc<State>, to_index: Arc<IndexQueue>) {
    let old = async {
        while let Err(error) = prepare(&connection, &state, &to_index).await {
            tracing::warn!(%error, "failed to prepare the search index; retrying");
            sleep(RETRY_DELAY).await;
        }
        index_all_old(&connection, &state).await;
    };
    let new = async {
        while !(state.is_ready() && state.is_marked()) {
            sleep(INDEX_INTERVAL).await;
        }
        index_all_new(&connection, &to_index).await;
    };
    tokio::join!(old, new);
}

/// Builds the index, and marks in each room where new entries begin.
async fn prepare(connection: &Connection, state: &State, to_index: &IndexQueue) -> Result<()> {
    state.load(connection).await?;
    indexes::build_search_indexes(connection).await?;
    state.set_ready(connection).await?;
    if !state.is_marked() {
        mark_all(connection, to_index).await?;
        state.set_marked(connection).await?;
    }
    Ok(())
}

/// Marks where new entries begin in each room without indexed entries.
async fn mark_all(connection: &Connection, to_index: &IndexQueue) -> Result<()> {
    let mut last = String::new();
    loop {
        let next = connection
            .rooms
            .find(doc! { "_id": { "$gt": &last } })
            .sort(doc! { "_id": 1 })
            .limit(document_count(ROOMS_PER_BATCH));
        let next = next.projection(doc! { "search": 1 });
        let id_and_mark = |room: &RawDocument| {
            Some((
                text_in(room, "_id").to_owned(),
                room.get_document("search").is_ok(),
            ))
        };
        let rooms = connection.all(next, id_and_mark).await?;
        let Some((end, _)) = rooms.last() else {
            return Ok(());
        };
        end.clone_into(&mut last);
        let unmarked = rooms
            .iter()
            .filter(|(_, is_marked)| !is_marked)
            .filter_map(|(id, _)| RoomId::parse(id))
            .collect();
        let mark = |(room, head): (RoomId, Head)| {
            let old = number(head.seq.0.saturating_sub(NEW_ENTRIES));
            let range = doc! { "above": old, "upTo": old };
            doc! { "q": { "_id": room.to_string(), "search": null }, "u": { "$set": { "search": range }, "$unset": { "searchSeq": "" } } }
        };
        let heads = read_heads(connection, unmarked).await?;
        to_index.note_rooms(heads.keys().copied());
        let marks: Vec<_> = heads.into_iter().map(mark).collect();
        send_updates(connection, connection.rooms.name(), marks).await?;
    }
}

async fn index_all_new(connection: &Connection, to_index: &IndexQueue) {
    let (mut rooms, mut failed) = (HashSet::new(), Vec::new());
    loop {
        rooms.extend(to_index.take().rooms);
        let Some(room) = rooms.iter().next().copied() else {
            sleep(INDEX_INTERVAL).await;
            rooms.extend(failed.drain(..));
            continue;
        };
        let started_at = Instant::now();
        match index_new(connection, room).await {
            Ok(true) => {}
            Ok(false) => _ = rooms.remove(&room),
            Err(error) => {
                // Retried after all other rooms.
                rooms.remove(&room);
                failed.push(room);
                tracing::warn!(%error, %room, "failed to index new messages; searches read their texts");
                sleep(RETRY_DELAY).await;
            }
        }
        sleep(pause(started_at)).await;
    }
}

fn pause(started_at: Instant) -> Duration {
    started_at.elapsed().clamp(PAUSES.0, PAUSES.1)
}

/// Indexes some entries after the indexed range of a room. Returns true when there may be more.
async fn index_new(connection: &Connection, room: RoomId) -> Result<bool> {
    let mut filter = doc! { "_id": room.to_string(), "deletedAt": null };
    let found = connection
        .rooms
        .find_one(filter.clone())
        .projection(doc! { "search": 1 });
    let Some(up_to) = connection
        .one(found, |room| {
            Some(indexed_range(room).map(|(_, up_to)| up_to))
        })
        .await?
    else {
        return Ok(false);
    };
    let after = up_to.unwrap_or_default();
    let (last, is_cut) = index_entries(
        connection,
        room,
        after,
        Seq(after.0 + MAX_ENTRIES),
        Order::OldestFirst,
    )
    .await?;
    let Some(last) = last else { return Ok(false) };
    let mut extended = doc! { "$max": { "search.upTo": number(last.0) } };
    if up_to.is_none() {
        filter.insert("search", doc! { "$exists": false });
        extended = doc! { "$set": { "search": { "above": 0_i64, "upTo": number(last.0) } } };
    }
    connection
        .within(connection.rooms.update_one(filter, extended))
        .await?;
    Ok(is_cut || last.0 == after.0 + MAX_ENTRIES)
}

/// Returns the indexed range of a room as `(above, up_to)`: the entries with `above < seq <=
/// up_to`.
fn indexed_range(room: &RawDocument) -> Option<(Seq, Seq)> {
    let search = room.get_document("search").ok()?;
    Some((seq_in(search, "above"), seq_in(search, "upTo")))
}

/// Indexes old messages until all are indexed. Of several servers, one does it; when it stops,
/// another continues.
async fn index_all_old(connection: &Connection, state: &State) {
    let owner = uuid::Uuid::new_v4().simple().to_string();
    while !state.is_complete() {
        let started_at = Instant::now();
        let pause = match index_old(connection, state, &owner).await {
            Ok(true) => pause(started_at),
            Ok(false) => LEASE_CHECK_INTERVAL,
            Err(error) => {
                tracing::warn!(%error, "failed to index old messages; retrying");
                RETRY_DELAY
            }
        };
        sleep(pause).await;
    }
}

/// Indexes some entries before the indexed range of any room. Returns false when another server
/// holds the lease.
async fn index_old(connection: &Connection, state: &State, owner: &str) -> Result<bool> {
    if !lease::renew(connection, LEASE, owner).await? {
        state.load(connection).await?;
        return Ok(false);
    }
    let unfinished = connection
        .rooms
        .find_one(doc! { "search.above": { "$gt": 0 } })
        .hint(by_name(indexes::UNFINISHED));
    let unfinished = unfinished.projection(doc! { "search": 1 });
    let Some((id, above)) = connection
        .one(unfinished, |room| {
            Some((text_in(room, "_id").to_owned(), indexed_range(room)?.0))
        })
        .await?
    else {
        indexes::drop_former_search_index(connection).await?;
        state.set_complete(connection).await?;
        tracing::info!("all messages are indexed for search");
        return Ok(true);
    };
    let first = match RoomId::parse(&id) {
        Some(room) => {
            let after = Seq(above.0.saturating_sub(MAX_ENTRIES));
            index_entries(connection, room, after, above, Order::NewestFirst)
                .await?
                .0
        }
        None => None,
    };
    let above = first.unwrap_or(Seq(1)).prev();
    let extended = doc! { "$min": { "search.above": number(above.0) } };
    connection
        .within(connection.rooms.update_one(doc! { "_id": id }, extended))
        .await?;
    Ok(true)
}
