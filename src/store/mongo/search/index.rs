//! Indexes messages for search in the background. Each server indexes the new messages that it
//! appended. In a database from before the current index format, one server at a time indexes the
//! old messages.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mongodb::bson::{Document, RawDocument, doc};
use tokio::time::sleep;

use crate::{
    model::{RoomId, Seq},
    store::{
        Result, StoreError,
        mongo::{
            connection::Connection,
            documents::{self, flag_in, number, number_in, seq_in, text_in},
            indexes::{self, by_name},
            lease, log,
            pages::entries_between,
            rows,
        },
        search::{INDEX_INTERVAL, IndexQueue, terms},
    },
};

/// The id of the metadata document with the state of the index.
const NOTE: &str = "search";
/// The id of the metadata document with the lease for indexing old messages.
const LEASE: &str = "searchIndexing";
/// How many entries are read in one batch, and up to how many bytes.
const ENTRIES: u64 = 250;
const BYTES: usize = 1 << 20;
/// The most bytes of terms in one command. MongoDB accepts 16 MiB, including what it adds.
const COMMAND: usize = 2 << 20;
/// How many rooms are marked in one batch.
const ROOMS: u64 = 1_000;
/// The bounds of the pause between two batches, which is as long as the batch took.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// How often a server checks whether another server still holds the lease.
const NOT_MINE: Duration = Duration::from_secs(1);
/// How many entries at the end of each log count as new when the room is marked, so that the latest
/// messages are found soon after the start.
const NEW: u64 = 50;
/// The pause after an error.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// The state of the index, as far as this server knows it.
#[derive(Default)]
pub struct State {
    /// The index is built.
    ready: AtomicBool,
    /// Every room that existed before the index has a mark where its new entries begin.
    marked: AtomicBool,
    /// All old messages are indexed.
    complete: AtomicBool,
}

impl State {
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Acquire)
    }

    /// Reads the state that other servers have stored.
    pub async fn learn(&self, connection: &Connection) -> Result<()> {
        let note = connection.metadata.find_one(doc! { "_id": NOTE });
        let note = connection
            .one(note, |note| {
                Some(["built", "marked", "complete"].map(|field| flag_in(note, field)))
            })
            .await?;
        let [built, marked, complete] = note.unwrap_or_default();
        self.ready.fetch_or(built, Ordering::AcqRel);
        self.marked.fetch_or(marked, Ordering::AcqRel);
        self.complete.fetch_or(complete, Ordering::AcqRel);
        Ok(())
    }
}

/// Builds the index in a database without rooms, where no messages have to be indexed.
pub async fn start_complete(connection: &Connection) -> Result<()> {
    indexes::search_indexes(connection).await?;
    note(
        connection,
        doc! { "built": true, "marked": true, "complete": true },
    )
    .await
}

async fn note(connection: &Connection, what: Document) -> Result<()> {
    connection
        .within(
            connection
                .metadata
                .update_one(doc! { "_id": NOTE }, doc! { "$set": what })
                .upsert(true),
        )
        .await
        .map(|_| ())
}

/// Indexes new messages, and old ones if there are any, slowly enough not to delay posting. Never
/// returns.
pub async fn run_indexer(connection: Connection, state: Arc<State>, behind: Arc<IndexQueue>) {
    let old = async {
        while let Err(error) = prepare(&connection, &state, &behind).await {
            tracing::warn!(%error, "failed to prepare the search index; retrying");
            sleep(AFTER_ERROR).await;
        }
        index_all_old(&connection, &state).await;
    };
    let new = async {
        while !(state.is_ready() && state.is_marked()) {
            sleep(INDEX_INTERVAL).await;
        }
        index_all_new(&connection, &behind).await;
    };
    tokio::join!(old, new);
}

/// Builds the index, and marks in each room where new entries begin.
async fn prepare(connection: &Connection, state: &State, behind: &IndexQueue) -> Result<()> {
    state.learn(connection).await?;
    indexes::search_indexes(connection).await?;
    note(connection, doc! { "built": true }).await?;
    state.ready.store(true, Ordering::Release);
    if !state.is_marked() {
        mark_all(connection, behind).await?;
        note(connection, doc! { "marked": true }).await?;
        state.marked.store(true, Ordering::Release);
    }
    Ok(())
}

/// Marks where new entries begin in each room without indexed entries.
async fn mark_all(connection: &Connection, behind: &IndexQueue) -> Result<()> {
    let mut last = String::new();
    loop {
        let next = connection
            .rooms
            .find(doc! { "_id": { "$gt": &last } })
            .sort(doc! { "_id": 1 })
            .limit(rows(ROOMS));
        let next = next.projection(doc! { "search": 1 });
        let read = |room: &RawDocument| {
            Some((
                text_in(room, "_id").to_owned(),
                room.get_document("search").is_ok(),
            ))
        };
        let rooms = connection.all(next, read).await?;
        let Some((end, _)) = rooms.last() else {
            return Ok(());
        };
        end.clone_into(&mut last);
        let unmarked = rooms
            .iter()
            .filter(|(_, is_marked)| !is_marked)
            .filter_map(|(id, _)| RoomId::parse(id))
            .collect();
        let mark = |(room, head): (RoomId, log::Head)| {
            let old = number(head.seq.0.saturating_sub(NEW));
            let stretch = doc! { "above": old, "upTo": old };
            doc! { "q": { "_id": room.to_string(), "search": null }, "u": { "$set": { "search": stretch }, "$unset": { "searchSeq": "" } } }
        };
        let heads = log::heads(connection, unmarked).await?;
        behind.note_rooms(heads.keys().copied());
        let marks: Vec<_> = heads.into_iter().map(mark).collect();
        send(connection, connection.rooms.name(), marks).await?;
    }
}

async fn index_all_new(connection: &Connection, behind: &IndexQueue) {
    let (mut rooms, mut failed) = (HashSet::new(), Vec::new());
    loop {
        rooms.extend(behind.take().rooms);
        let Some(room) = rooms.iter().next().copied() else {
            sleep(INDEX_INTERVAL).await;
            rooms.extend(failed.drain(..));
            continue;
        };
        let begun = Instant::now();
        match index_new(connection, room).await {
            Ok(true) => {}
            Ok(false) => _ = rooms.remove(&room),
            Err(error) => {
                // Retried after all other rooms.
                rooms.remove(&room);
                failed.push(room);
                tracing::warn!(%error, %room, "failed to index new messages; searches read their texts");
                sleep(AFTER_ERROR).await;
            }
        }
        sleep(pause(begun)).await;
    }
}

fn pause(begun: Instant) -> Duration {
    begun.elapsed().clamp(PAUSES.0, PAUSES.1)
}

/// Indexes some entries after the indexed range of a room. Returns true when there may be more.
async fn index_new(connection: &Connection, room: RoomId) -> Result<bool> {
    let there = doc! { "_id": room.to_string(), "deletedAt": null };
    let known = connection
        .rooms
        .find_one(there.clone())
        .projection(doc! { "search": 1 });
    let Some(up_to) = connection
        .one(known, |room| Some(stretch(room).map(|(_, up_to)| up_to)))
        .await?
    else {
        return Ok(false);
    };
    let after = up_to.unwrap_or_default();
    let (last, is_cut) = index_some(connection, room, after, Seq(after.0 + ENTRIES), 1).await?;
    let Some(last) = last else { return Ok(false) };
    let (mut there, mut extended) = (there, doc! { "$max": { "search.upTo": number(last.0) } });
    if up_to.is_none() {
        there.insert("search", doc! { "$exists": false });
        extended = doc! { "$set": { "search": { "above": 0_i64, "upTo": number(last.0) } } };
    }
    connection
        .within(connection.rooms.update_one(there, extended))
        .await?;
    Ok(is_cut || last.0 == after.0 + ENTRIES)
}

/// Returns the indexed range of a room as `(above, up_to)`: the entries with `above < seq <=
/// up_to`.
fn stretch(room: &RawDocument) -> Option<(Seq, Seq)> {
    let search = room.get_document("search").ok()?;
    Some((seq_in(search, "above"), seq_in(search, "upTo")))
}

/// Indexes old messages until all are indexed. Of several servers, one does it; when it stops,
/// another continues.
async fn index_all_old(connection: &Connection, state: &State) {
    let owner = uuid::Uuid::new_v4().simple().to_string();
    while !state.complete.load(Ordering::Acquire) {
        let begun = Instant::now();
        let pause = match index_old(connection, state, &owner).await {
            Ok(true) => pause(begun),
            Ok(false) => NOT_MINE,
            Err(error) => {
                tracing::warn!(%error, "failed to index old messages; retrying");
                AFTER_ERROR
            }
        };
        sleep(pause).await;
    }
}

/// Indexes some entries before the indexed range of any room. Returns false when another server
/// holds the lease.
async fn index_old(connection: &Connection, state: &State, owner: &str) -> Result<bool> {
    if !lease::renew(connection, LEASE, owner).await? {
        state.learn(connection).await?;
        return Ok(false);
    }
    let unfinished = connection
        .rooms
        .find_one(doc! { "search.above": { "$gt": 0 } })
        .hint(by_name(indexes::UNFINISHED));
    let unfinished = unfinished.projection(doc! { "search": 1 });
    let Some((id, above)) = connection
        .one(unfinished, |room| {
            Some((text_in(room, "_id").to_owned(), stretch(room)?.0))
        })
        .await?
    else {
        indexes::drop_former_search_index(connection).await?;
        note(connection, doc! { "complete": true }).await?;
        state.complete.store(true, Ordering::Release);
        tracing::info!("all messages are indexed for search");
        return Ok(true);
    };
    let first = match RoomId::parse(&id) {
        Some(room) => {
            index_some(
                connection,
                room,
                Seq(above.0.saturating_sub(ENTRIES)),
                above,
                -1,
            )
            .await?
            .0
        }
        None => None,
    };
    let above = Seq(first.unwrap_or(Seq(1)).0.saturating_sub(1));
    let extended = doc! { "$min": { "search.above": number(above.0) } };
    connection
        .within(connection.rooms.update_one(doc! { "_id": id }, extended))
        .await?;
    Ok(true)
}

/// Adds the terms to the messages of a range, starting at one end and reading at most one batch.
/// Returns the last entry that was read, and whether the byte limit ended the batch, so that the
/// range may have more entries.
async fn index_some(
    connection: &Connection,
    room: RoomId,
    after: Seq,
    up_to: Seq,
    order: i32,
) -> Result<(Option<Seq>, bool)> {
    let fields =
        doc! { "seq": 1, "message.messageText": 1, "deleted": 1, "closed": 1, "editSeq": 1 };
    let entries = connection
        .messages
        .find(entries_between(room, after, up_to))
        .sort(doc! { "seq": order })
        .projection(fields);
    let entries = entries.hint(by_name(indexes::LOG)).limit(rows(ENTRIES));
    let (mut updates, mut last, mut bytes) = (Vec::new(), None, 0);
    let reading = async {
        let mut entries = entries.await?;
        while bytes < BYTES && entries.advance().await? {
            let entry = entries.current();
            bytes += entry.as_bytes().len();
            last = Some(seq_in(entry, "seq"))
                .filter(|_| !flag_in(entry, "closed"))
                .or(last);
            updates.extend(with_terms(entry));
        }
        Ok(())
    };
    connection.within(reading).await?;
    send(connection, connection.messages.name(), updates).await?;
    Ok((last, bytes >= BYTES))
}

/// Returns the update that adds the terms to a message. It does not match if the message has been
/// edited or deleted since: an edit writes its own terms.
fn with_terms(entry: &RawDocument) -> Option<Document> {
    if documents::flag_in(entry, "deleted") {
        return None;
    }
    let text = entry
        .get_document("message")
        .ok()
        .map(|content| text_in(content, "messageText"))?;
    let edited = Some(number_in(entry, "editSeq"))
        .filter(|seq| *seq > 0)
        .map(number);
    let as_it_was = doc! { "_id": text_in(entry, "_id"), "deleted": null, "editSeq": edited };
    Some(
        doc! { "q": as_it_was, "u": { "$set": { "terms": terms(text) }, "$unset": { "words": "" } } },
    )
}

/// Sends updates in commands of bounded size. An update that is refused is logged and skipped, so
/// that it does not block the others.
async fn send(connection: &Connection, collection: &str, updates: Vec<Document>) -> Result<()> {
    let (mut command, mut size) = (Vec::new(), 0);
    for update in updates {
        let next = update.to_vec().map_or(0, |bytes| bytes.len());
        if size + next > COMMAND && !command.is_empty() {
            send_one(connection, collection, std::mem::take(&mut command)).await?;
            size = 0;
        }
        size += next;
        command.push(update);
    }
    if command.is_empty() {
        Ok(())
    } else {
        send_one(connection, collection, command).await
    }
}

async fn send_one(connection: &Connection, collection: &str, updates: Vec<Document>) -> Result<()> {
    let command = doc! { "update": collection, "updates": updates, "ordered": false, "writeConcern": connection.durable() };
    let reply = match connection
        .within(connection.database.run_command(command))
        .await
    {
        Err(StoreError::Fault(error)) => {
            tracing::warn!(%error, "failed to index messages; searches do not find them");
            return Ok(());
        }
        reply => reply?,
    };
    if let Ok(concern) = reply.get_document("writeConcernError") {
        return Err(StoreError::Unavailable(format!(
            "the majority did not confirm: {concern}"
        )));
    }
    for error in reply.get_array("writeErrors").into_iter().flatten() {
        tracing::warn!(%error, "failed to index a message; searches do not find it");
    }
    Ok(())
}
