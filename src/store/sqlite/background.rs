//! The background tasks: indexing messages for search, and purging deleted rooms.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::{sync::Notify, time::sleep};

use super::{
    purge::purge,
    search::index::{self, Indexer},
    threads::Threads,
};
use crate::store::{
    Result,
    search::{INDEX_INTERVAL, IndexQueue},
};

/// The delay before a failed background slice is retried.
const RETRY: Duration = Duration::from_secs(1);
/// The minimum and maximum pause between two index slices. Within these bounds, the pause is as
/// long as the last slice took.
const INDEX_PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));

/// Removes the remaining data of deleted rooms, including rooms deleted before the last restart.
/// `room_deleted` wakes the task.
pub async fn purge_in_background(threads: Arc<Threads>, room_deleted: Arc<Notify>) {
    loop {
        match threads.erase_slice(purge).await {
            Ok(true) => {}
            Ok(false) => room_deleted.notified().await,
            Err(error) => {
                tracing::debug!(%error, "purging deleted rooms failed; retrying");
                sleep(RETRY).await;
            }
        }
    }
}

/// Indexes messages for search, in slices with pauses in between so that posting is not slowed
/// down.
pub async fn index_in_background(
    threads: Arc<Threads>,
    to_index: Arc<IndexQueue>,
    indexer: Arc<Mutex<Indexer>>,
) {
    let mut needs_rooms = true;
    loop {
        if needs_rooms && let Ok(rooms) = threads.read(index::unindexed_rooms).await {
            indexer.lock().add(rooms);
            to_index.note_erased();
            needs_rooms = false;
        }
        let started = Instant::now();
        match index_slice(&threads, &to_index, &indexer).await {
            Ok(true) => sleep(started.elapsed().clamp(INDEX_PAUSES.0, INDEX_PAUSES.1)).await,
            Ok(false) => sleep(INDEX_INTERVAL).await,
            Err(error) => {
                tracing::warn!(%error, "indexing messages for search failed; retrying");
                // Changes to the in-memory state may not have been committed.
                *indexer.lock() = Indexer::default();
                needs_rooms = true;
                sleep(RETRY).await;
            }
        }
    }
}

/// Indexes one slice. Returns false if there was nothing to do.
async fn index_slice(
    threads: &Threads,
    to_index: &IndexQueue,
    indexer: &Arc<Mutex<Indexer>>,
) -> Result<bool> {
    let changes = to_index.take();
    let is_idle = {
        let mut indexer = indexer.lock();
        indexer.add(changes.rooms);
        indexer.is_idle()
    };
    let erased = changes.erased && erase_slice(threads, indexer).await?;
    if erased {
        to_index.note_erased();
    }
    if is_idle {
        return Ok(erased);
    }
    let indexer = Arc::clone(indexer);
    let index = move |connection: &Connection| indexer.lock().index(connection);
    Ok(threads.slice(index).await? || erased)
}

/// Erases one slice of deleted or edited text from the index. Returns false if there was none.
pub async fn erase_slice(threads: &Threads, indexer: &Arc<Mutex<Indexer>>) -> Result<bool> {
    let indexer = Arc::clone(indexer);
    threads
        .erase_slice(move |connection| indexer.lock().erase(connection))
        .await
}
