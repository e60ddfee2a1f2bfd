//! Appends batches to the logs, in MongoDB: caches the heads of the logs, and retries until a batch
//! is appended.
//!
//! `batch` is one attempt, `checks` decides what may not be appended, and `changes` builds the
//! updates for the effects of entries.
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

use std::time::{Duration, Instant};

use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    batch::{Batch, Progress},
    connection::Connection,
    documents,
    heads::{Heads, read_heads},
};
use crate::{
    model::{RoomId, Seq, Timestamp},
    store::{Appended, NewEntry, Result, StoreError},
};

/// How many heads are cached.
const MAX_CACHED_HEADS: usize = 200_000;
/// How long heads may be cached without checking which rooms other servers have deleted.
const HEAD_LEASE: Duration = Duration::from_secs(8);
/// A margin that is longer than the database takes to execute a request that was sent in time.
const EXECUTION_MARGIN: Duration = Duration::from_secs(2);
/// The first and the longest delay between attempts to append or to close a log, whatever made the
/// last one fail.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));

/// The reason for a timeout after conflicts.
const CONFLICT: &str = "other servers append to the same rooms all the time";

/// Returns how long the entries of a deleted room must keep their sequence numbers, from when this
/// server first saw the deletion. Otherwise a server with a stale cached head could insert an entry
/// at a number that became free, and no client would ever see it.
///
/// A deletion that one server has seen is committed on the majority, so every later check by any
/// server sees it. A server that has not seen it made its last check before, and caches no head for
/// longer than the lease after that check. The deletion time in the room's document cannot be used
/// instead: the majority may have received it much later, and it comes from another clock.
pub fn purge_delay(connection: &Connection) -> Duration {
    HEAD_LEASE + 2 * connection.limit + EXECUTION_MARGIN
}

/// Appends to the logs.
pub struct Appender {
    cache: Mutex<HeadCache>,
}

struct HeadCache {
    /// The cached heads. Their entries are durable; a cached head may be before the end of its log,
    /// never after it.
    heads: Heads,
    /// The time up to which this server knows which rooms are deleted.
    as_of: Instant,
}

impl Appender {
    pub fn new() -> Self {
        Self {
            cache: Mutex::new(HeadCache {
                heads: Heads::new(),
                as_of: Instant::now(),
            }),
        }
    }

    /// Drops the cached heads of deleted rooms. `rooms` are all rooms that were deleted as of
    /// `as_of`.
    pub async fn remove_deleted(&self, rooms: &[RoomId], as_of: Instant) {
        let mut cache = self.cache.lock().await;
        for room in rooms {
            cache.heads.remove(room);
        }
        cache.as_of = as_of;
    }

    /// Drops the cached head of a room that is being deleted.
    pub async fn remove(&self, room: RoomId) {
        self.cache.lock().await.heads.remove(&room);
    }

    /// Appends entries within the time limit; see [`Log::append`](crate::store::Log::append).
    pub async fn append(
        &self,
        connection: &Connection,
        entries: &[NewEntry],
    ) -> Result<Vec<Appended>> {
        let mut batch = Batch::new(entries);
        let mut timeout_reason = format!("no answer within {} ms", connection.limit.as_millis());
        match timeout(
            connection.limit,
            self.append_with_retry(connection, &mut batch, &mut timeout_reason),
        )
        .await
        {
            Ok(outcome) => outcome.map(|()| batch.into_answers()),
            Err(_) => Err(StoreError::Unavailable(timeout_reason)),
        }
    }

    /// Retries until every entry has its answer. Sets `timeout_reason` before each retry.
    async fn append_with_retry(
        &self,
        connection: &Connection,
        batch: &mut Batch<'_>,
        timeout_reason: &mut String,
    ) -> Result<()> {
        let mut cache = self.cache.lock().await;
        if cache.heads.len() > MAX_CACHED_HEADS || cache.as_of.elapsed() > HEAD_LEASE {
            cache.heads.clear();
        }
        let heads = &mut cache.heads;
        let mut delay = RETRY_DELAYS.0;
        while !batch.is_done() {
            match batch.try_append(connection, heads).await {
                Ok(Progress::Complete) => continue,
                Ok(Progress::Conflict) => CONFLICT.clone_into(timeout_reason),
                Err(StoreError::Unavailable(reason)) => {
                    batch.set_outcome_unknown();
                    *timeout_reason = reason;
                }
                Err(error) => return Err(error),
            }
            batch.remove_heads(heads);
            back_off(&mut delay).await;
        }
        Ok(())
    }
}

/// Closes the log of a room that is being deleted. Returns the sequence number of the closing
/// entry, which is the last one.
pub async fn close_log(connection: &Connection, room: RoomId) -> Result<Seq> {
    let closing = async {
        let mut delay = RETRY_DELAYS.0;
        loop {
            let heads = connection
                .read_durable(|| read_heads(connection, vec![room]))
                .await?;
            match heads.get(&room) {
                Some(head) if head.closed => return Ok(head.seq),
                Some(head) => {
                    let end = head.next(Timestamp::default());
                    let entry = documents::closing_entry(room, end.seq, end.at);
                    if connection.add(&connection.messages, &entry).await? {
                        return Ok(end.seq);
                    }
                }
                None => {}
            }
            back_off(&mut delay).await;
        }
    };
    timeout(connection.limit, closing)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable(CONFLICT.into())))
}

/// Sleeps before the next attempt, and doubles the delay up to its limit.
async fn back_off(delay: &mut Duration) {
    sleep(*delay).await;
    *delay = (*delay * 2).min(RETRY_DELAYS.1);
}
