//! Appending to the logs, in MongoDB.
//!
//! This module knows where the logs end, and tries until a batch has its place; `batch` is one attempt, `checks` says what may not be
//! appended, `changes` does what the entries say.
//!
//! Optimistic, since any number of processes may append to a room: entries are inserted with the next number as far as we know, and where
//! another process took that number the unique index refuses, and we go on from behind it. A number is only ever built on an entry that is
//! sure to stay, and a batch is inserted in order, so that there can be no hole, whenever somebody is killed.
//!
//! Before a room that was quiet gets a message, its document is told that it is active, for a while ahead: no message of a room is later
//! than that. So recent conversations are found by it, and posting at a high rate rewrites no room.
//!
//! When it is unclear whether an insert has happened, because the connection broke, the primary changed or the answer cannot be read, the
//! next attempt looks first which of its messages are there, and which were sent before. A late arrival of the first attempt cannot add a
//! second copy: the id of a message is unique, and its number is either taken by itself or by another.
//!
//! What may be appended is decided by how the messages and rooms are at the end of the log as we know it. If it is no longer the end, the
//! number is taken, and it is decided anew: so nobody edits what was deleted before, or posts where they were taken out before, whichever
//! server that went through.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use mongodb::bson::{RawDocument, doc};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    batch::{Batch, Progress},
    connection::Connection,
    documents::{self, flag_in, seq_in, text_in, time_in},
    effects, schema,
};
use crate::{
    model::{RoomId, Seq, Timestamp},
    store::{Appended, NewEntry, Result, StoreError},
};

/// How many rooms' ends are remembered.
const HEADS: usize = 200_000;
/// How long they are remembered without having heard which rooms have ended on other servers.
const LEASE: Duration = Duration::from_secs(8);
/// More than it takes to carry out what was sent in time.
const SLACK: Duration = Duration::from_secs(2);
/// The pauses between attempts grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));

/// Why it may take long.
const OTHERS: &str = "other servers append to the same rooms all the time";

/// The end of a room's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    pub seq: Seq,
    /// The time of the last entry.
    pub at: Timestamp,
    /// Whether the last entry closes the log: the room is gone.
    pub closed: bool,
    /// No later message is in the log, as the room's document says; a large room's says nothing.
    pub active_until: Option<Timestamp>,
    /// Whether the room ever got or lost a member.
    pub members_changed: bool,
}

impl Head {
    pub fn next(&self, at: Timestamp) -> Self {
        Self { seq: Seq(self.seq.0 + 1), at: self.at.max(at), ..*self }
    }
}

/// The ends of the logs that are known.
pub type Heads = HashMap<RoomId, Head>;

/// How long the entries of a room that has ended hold their numbers, from when a server first saw that it is gone. A server that remembers
/// an end of its log which is not the last would put an entry there, if that place were free, and nobody would ever see it.
///
/// What one has seen is with the majority, and so is seen by all who look from then on: whoever has not seen it last looked before, and
/// remembers no end for longer than the lease from there. When the room says it went is another matter, since the majority may have got to
/// know much later; and it is told by another clock.
pub fn held(connection: &Connection) -> Duration {
    LEASE + 2 * connection.limit + SLACK
}

/// Appends to the logs.
pub struct Log {
    known: Mutex<Known>,
}

struct Known {
    /// Entries that are sure to stay: they may be behind the end of the log, never beyond it.
    heads: Heads,
    /// Up to when it is known which rooms have ended.
    as_of: Instant,
}

impl Log {
    pub fn new() -> Self {
        Self { known: Mutex::new(Known { heads: Heads::new(), as_of: Instant::now() }) }
    }

    /// Forgets where the logs of rooms end that are gone: all that were when this was found out.
    pub async fn forget(&self, gone: &[RoomId], as_of: Instant) {
        let mut known = self.known.lock().await;
        for room in gone {
            known.heads.remove(room);
        }
        known.as_of = as_of;
    }

    /// Forgets where the log of a room ends that is going.
    pub async fn forget_one(&self, going: RoomId) {
        self.known.lock().await.heads.remove(&going);
    }

    pub async fn append(&self, connection: &Connection, entries: &[NewEntry]) -> Result<Vec<Appended>> {
        let mut batch = Batch::new(entries);
        let mut trouble = format!("no answer within {} ms", connection.limit.as_millis());
        match timeout(connection.limit, self.append_with_retry(connection, &mut batch, &mut trouble)).await {
            Ok(outcome) => outcome.map(|()| batch.into_answers()),
            Err(_) => Err(StoreError::Unavailable(trouble)),
        }
    }

    /// Tries until every entry has its place. `trouble` is why that takes so long.
    async fn append_with_retry(&self, connection: &Connection, batch: &mut Batch<'_>, trouble: &mut String) -> Result<()> {
        let mut known = self.known.lock().await;
        if known.heads.len() > HEADS || known.as_of.elapsed() > LEASE {
            known.heads.clear();
        }
        let heads = &mut known.heads;
        let mut pause = PAUSES.0;
        while !batch.is_done() {
            match batch.try_append(connection, heads).await {
                Ok(Progress::Complete) => continue,
                Ok(Progress::Conflict) => OTHERS.clone_into(trouble),
                Err(StoreError::Unavailable(why)) => {
                    batch.outcome_is_unclear();
                    *trouble = why;
                }
                Err(error) => return Err(error),
            }
            batch.forget_heads(heads);
            back_off(&mut pause).await;
        }
        Ok(())
    }
}

/// Ends the log of a room that is being deleted. Answers the number of the entry that says so; nothing ever comes behind it.
pub async fn close(connection: &Connection, room: RoomId) -> Result<Seq> {
    let closing = async {
        let mut pause = PAUSES.0;
        loop {
            let heads = read_durable(connection, || heads(connection, vec![room])).await?;
            match heads.get(&room) {
                Some(head) if head.closed => return Ok(head.seq),
                Some(head) => {
                    let end = head.next(Timestamp::default());
                    if connection.add(&connection.messages, &documents::closing(room, end.seq, end.at)).await? {
                        return Ok(end.seq);
                    }
                }
                None => {}
            }
            back_off(&mut pause).await;
        }
    };
    timeout(connection.limit, closing).await.unwrap_or_else(|_| Err(StoreError::Unavailable(OTHERS.into())))
}

/// Gets out of the way of others, the longer the more often.
async fn back_off(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSES.1);
}

/// What `read` finds and is sure to stay. A replica set only tells what the majority has. A server alone tells what it has in memory, which
/// a crash may take; so there the disk has to catch up, and what counts is what is still the same afterwards.
pub async fn read_durable<K: Eq + Hash, V: PartialEq, F>(connection: &Connection, read: impl Fn() -> F) -> Result<HashMap<K, V>>
where
    F: Future<Output = Result<HashMap<K, V>>>,
{
    let mut found = read().await?;
    if connection.standalone && !found.is_empty() {
        connection.flush().await?;
        let still = read().await?;
        found.retain(|key, value| still.get(key) == Some(value));
    }
    Ok(found)
}

/// Where the logs of these rooms end; a room that is not there counts as closed. What the entries up to there say is done: the documents
/// of the messages and rooms are at least as new.
pub async fn heads_of_rooms(connection: &Connection, rooms: Vec<RoomId>) -> Result<HashMap<RoomId, Head>> {
    let ids = texts(&rooms);
    // One after the other: a room's document says what its entries made of it only when these are done, and which there are says the log.
    let mut found = heads(connection, rooms).await?;
    effects::apply_pending(connection, Some(ids.clone())).await?;
    let there = connection.rooms.find(doc! { "_id": { "$in": ids }, "deletedAt": null });
    let there = there.projection(doc! { "large": 1, "activeUntil": 1, "members_changed": { "$isArray": "$joined" } });
    let of_room = |room: &RawDocument| {
        let active_until = (!flag_in(room, "large")).then(|| time_in(room, "activeUntil"));
        Some((RoomId::parse(text_in(room, "_id"))?, (active_until, flag_in(room, "members_changed"))))
    };
    let there: HashMap<_, _> = connection.all(there, of_room).await?.into_iter().collect();
    for (room, head) in &mut found {
        match there.get(room) {
            Some((active_until, members_changed)) => {
                let is_about_to = !connection.pending.removed_from(*room).is_empty();
                (head.active_until, head.members_changed) = (*active_until, *members_changed || is_about_to);
            }
            None => head.closed = true,
        }
    }
    Ok(found)
}

/// Where the logs of these rooms end, at 0 for an empty one.
pub async fn heads(connection: &Connection, rooms: Vec<RoomId>) -> Result<HashMap<RoomId, Head>> {
    let ends = connection.messages.aggregate(schema::last_entry_of_each(texts(&rooms))).hint(schema::by_name(schema::LOG));
    let head = |end: &RawDocument| {
        let (seq, at, closed) = (seq_in(end, "seq"), time_in(end, "createdAt"), flag_in(end, "closed"));
        Some((RoomId::parse(text_in(end, "_id"))?, Head { seq, at, closed, ..Head::default() }))
    };
    let mut heads: HashMap<_, _> = rooms.into_iter().map(|room| (room, Head::default())).collect();
    heads.extend(connection.all(ends, head).await?);
    Ok(heads)
}

fn texts(rooms: &[RoomId]) -> Vec<String> {
    rooms.iter().map(ToString::to_string).collect()
}
