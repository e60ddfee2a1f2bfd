//! Appending to the logs, in MongoDB.
//!
//! This module caches the heads of the logs, and retries until a batch is appended. `batch` is one
//! attempt, `checks` decides what may not be appended, and `changes` builds the updates for the
//! effects of entries.
//!
//! Appending is optimistic, since any number of processes may append to a room. Entries are
//! inserted with the next known sequence number. If another process took that number, the unique
//! index refuses the insert, and the next attempt continues after the new head. A number is
//! assigned only after an entry that is durable, and a batch is inserted in order; so a log has no
//! gaps, even if a process is killed.
//!
//! Before an inactive room gets a message, `activeUntil` in its document is set to a time shortly
//! ahead. No message of a room is later than that. Recent conversations are found by this field,
//! and posting at a high rate does not rewrite the room's document for each message.
//!
//! The outcome of an insert is unknown if the connection breaks, the primary changes, or the reply
//! cannot be decoded. The next attempt then first looks for entries of the batch that are in the
//! log, and for messages that were sent before. If the first insert arrives late, it cannot add a
//! second copy: the id of a message is unique, and its number is taken, either by itself or by
//! another entry.
//!
//! Whether an entry may be appended is decided by the messages and rooms as of the known head. If
//! that head is stale, the number is taken, the insert is refused, and the decision is made again.
//! So no user can edit a message that was deleted earlier in the log, or post after their removal,
//! whichever server handled the requests.

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
    effects, indexes,
};
use crate::{
    model::{RoomId, Seq, Timestamp},
    store::{Appended, NewEntry, Result, StoreError},
};

/// How many heads are cached.
const HEADS: usize = 200_000;
/// How long heads may be cached without checking which rooms other servers have deleted.
const LEASE: Duration = Duration::from_secs(8);
/// A margin that is longer than the database takes to execute a request that was sent in time.
const SLACK: Duration = Duration::from_secs(2);
/// The first and the longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));

/// The reason for a timeout after conflicts.
const OTHERS: &str = "other servers append to the same rooms all the time";

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
    pub fn next(&self, at: Timestamp) -> Self {
        Self {
            seq: Seq(self.seq.0 + 1),
            at: self.at.max(at),
            ..*self
        }
    }
}

/// The cached heads of the logs.
pub type Heads = HashMap<RoomId, Head>;

/// Returns how long the entries of a deleted room must keep their sequence numbers, from when this
/// server first saw the deletion. Otherwise a server with a stale cached head could insert an entry
/// at a number that became free, and no client would ever see it.
///
/// A deletion that one server has seen is committed on the majority, so every later check by any
/// server sees it. A server that has not seen it made its last check before, and caches no head for
/// longer than the lease after that check. The deletion time in the room's document cannot be used
/// instead: the majority may have received it much later, and it comes from another clock.
pub fn held(connection: &Connection) -> Duration {
    LEASE + 2 * connection.limit + SLACK
}

/// Appends to the logs.
pub struct Log {
    known: Mutex<Known>,
}

struct Known {
    /// The cached heads. Their entries are durable; a cached head may be before the end of its log,
    /// never after it.
    heads: Heads,
    /// The time up to which this server knows which rooms are deleted.
    as_of: Instant,
}

impl Log {
    pub fn new() -> Self {
        Self {
            known: Mutex::new(Known {
                heads: Heads::new(),
                as_of: Instant::now(),
            }),
        }
    }

    /// Drops the cached heads of deleted rooms. `gone` are all rooms that were deleted as of
    /// `as_of`.
    pub async fn forget(&self, gone: &[RoomId], as_of: Instant) {
        let mut known = self.known.lock().await;
        for room in gone {
            known.heads.remove(room);
        }
        known.as_of = as_of;
    }

    /// Drops the cached head of a room that is being deleted.
    pub async fn forget_one(&self, going: RoomId) {
        self.known.lock().await.heads.remove(&going);
    }

    pub async fn append(
        &self,
        connection: &Connection,
        entries: &[NewEntry],
    ) -> Result<Vec<Appended>> {
        let mut batch = Batch::new(entries);
        let mut trouble = format!("no answer within {} ms", connection.limit.as_millis());
        match timeout(
            connection.limit,
            self.append_with_retry(connection, &mut batch, &mut trouble),
        )
        .await
        {
            Ok(outcome) => outcome.map(|()| batch.into_answers()),
            Err(_) => Err(StoreError::Unavailable(trouble)),
        }
    }

    /// Retries until every entry has its answer. `trouble` is set to the reason for the retries.
    async fn append_with_retry(
        &self,
        connection: &Connection,
        batch: &mut Batch<'_>,
        trouble: &mut String,
    ) -> Result<()> {
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
                    batch.set_outcome_unknown();
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

/// Closes the log of a room that is being deleted. Returns the sequence number of the closing
/// entry, which is the last one.
pub async fn close(connection: &Connection, room: RoomId) -> Result<Seq> {
    let closing = async {
        let mut pause = PAUSES.0;
        loop {
            let heads = read_durable(connection, || heads(connection, vec![room])).await?;
            match heads.get(&room) {
                Some(head) if head.closed => return Ok(head.seq),
                Some(head) => {
                    let end = head.next(Timestamp::default());
                    if connection
                        .add(
                            &connection.messages,
                            &documents::closing(room, end.seq, end.at),
                        )
                        .await?
                    {
                        return Ok(end.seq);
                    }
                }
                None => {}
            }
            back_off(&mut pause).await;
        }
    };
    timeout(connection.limit, closing)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable(OTHERS.into())))
}

/// Sleeps before the next attempt, and doubles the pause up to its limit.
async fn back_off(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSES.1);
}

/// Returns the results of `read` that are durable. A replica set returns only majority-committed
/// data. A standalone server also returns data that is only in memory and can be lost in a crash;
/// so the read is repeated after a flush, and only unchanged results are returned.
pub async fn read_durable<K: Eq + Hash, V: PartialEq, F>(
    connection: &Connection,
    read: impl Fn() -> F,
) -> Result<HashMap<K, V>>
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

/// Returns the heads of these logs; a room that does not exist counts as closed. The effects of the
/// entries up to the heads are applied, or known to be pending, so the documents of messages and
/// rooms are at least as new as the heads.
pub async fn heads_of_rooms(
    connection: &Connection,
    rooms: Vec<RoomId>,
) -> Result<HashMap<RoomId, Head>> {
    let ids = texts(&rooms);
    // The order matters: the heads must be read first, because the document of a room is current
    // only after the effects of the entries up to its head are applied.
    let mut found = heads(connection, rooms).await?;
    effects::apply_pending(connection, Some(ids.clone())).await?;
    let there = connection
        .rooms
        .find(doc! { "_id": { "$in": ids }, "deletedAt": null });
    let there = there.projection(
        doc! { "large": 1, "activeUntil": 1, "members_changed": { "$isArray": "$joined" } },
    );
    let of_room = |room: &RawDocument| {
        let active_until = (!flag_in(room, "large")).then(|| time_in(room, "activeUntil"));
        Some((
            RoomId::parse(text_in(room, "_id"))?,
            (active_until, flag_in(room, "members_changed")),
        ))
    };
    let there: HashMap<_, _> = connection.all(there, of_room).await?.into_iter().collect();
    for (room, head) in &mut found {
        match there.get(room) {
            Some((active_until, members_changed)) => {
                let is_about_to = !connection.pending.removed_from(*room).is_empty();
                (head.active_until, head.members_changed) =
                    (*active_until, *members_changed || is_about_to);
            }
            None => head.closed = true,
        }
    }
    Ok(found)
}

/// Returns the heads of these logs, at 0 for an empty log.
pub async fn heads(connection: &Connection, rooms: Vec<RoomId>) -> Result<HashMap<RoomId, Head>> {
    let ends = connection
        .messages
        .aggregate(indexes::last_entry_of_each(texts(&rooms)))
        .hint(indexes::by_name(indexes::LOG));
    let head = |end: &RawDocument| {
        let (seq, at, closed) = (
            seq_in(end, "seq"),
            time_in(end, "createdAt"),
            flag_in(end, "closed"),
        );
        Some((
            RoomId::parse(text_in(end, "_id"))?,
            Head {
                seq,
                at,
                closed,
                ..Head::default()
            },
        ))
    };
    let mut heads: HashMap<_, _> = rooms
        .into_iter()
        .map(|room| (room, Head::default()))
        .collect();
    heads.extend(connection.all(ends, head).await?);
    Ok(heads)
}

fn texts(rooms: &[RoomId]) -> Vec<String> {
    rooms.iter().map(ToString::to_string).collect()
}
