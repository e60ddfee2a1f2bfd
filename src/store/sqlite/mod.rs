//! The embedded store: one SQLite file, written by one process.
//!
//! The file is in WAL mode with `synchronous=FULL`: a commit is on disk before its result is
//! returned. This module opens and closes the database. [`file`] prepares the file, [`migrations`]
//! changes its schema, and [`threads`] and [`writer`] run the statements. [`background`] indexes
//! messages and purges deleted rooms, and [`wal`] removes erased data from the write-ahead log.
//!
//! The traits of the store are implemented, together with their statements, in one module per noun:
//!
//! - `users`: `Users`, `Accounts` and `Presence`. `sessions`: `Sessions`. `rooms`: `Rooms` and
//!   `Memberships`. `database`: `Database`.
//! - `append`: `Log`. `log`: `History`. `read_marks`: `ReadMarks`. `search`: `Search`.
//! - `export` and `import`: `Transfer`. `check`: `Check`; it compares what is stored with a [`recount`].
//!
//! [`backup`] copies and replaces whole files.

mod append;
mod background;
mod backup;
mod check;
mod database;
mod export;
mod file;
mod head;
mod import;
mod job;
mod lock;
mod log;
mod migrations;
mod purge;
mod read_marks;
mod recount;
mod rooms;
mod rows;
mod search;
mod sessions;
mod slice;
mod threads;
mod users;
mod wal;
mod writer;

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use tokio::{sync::Notify, task::AbortHandle};

use super::{OpenError, search::IndexQueue};
use background::{index_in_background, purge_in_background};
use search::index::Indexer;
use threads::Threads;

pub use backup::{back_up, restore};

/// A store in one SQLite file.
pub struct Sqlite {
    threads: Arc<Threads>,
    /// The changes that are not indexed for search yet.
    to_index: Arc<IndexQueue>,
    indexer: Arc<Mutex<Indexer>>,
    /// Wakes the task that removes the remaining data of deleted rooms.
    room_deleted: Arc<Notify>,
    /// The background tasks, for indexing and for removing deleted rooms. Empty if the database was
    /// opened beside a running server.
    background: Vec<AbortHandle>,
}

impl Sqlite {
    /// Opens the database at `path`, and creates it and its folder if it is missing.
    pub async fn open(path: PathBuf) -> Result<Self, OpenError> {
        let mut store = Self::with_threads(move || file::open(&path)).await?;
        store.background = vec![
            tokio::spawn(index_in_background(
                Arc::clone(&store.threads),
                Arc::clone(&store.to_index),
                Arc::clone(&store.indexer),
            ))
            .abort_handle(),
            tokio::spawn(purge_in_background(
                Arc::clone(&store.threads),
                Arc::clone(&store.room_deleted),
            ))
            .abort_handle(),
        ];
        Ok(store)
    }

    /// Opens the database at `path` while a server may be running on it. Only for adding data: the
    /// server would not notice a change of data that it has cached.
    pub async fn open_shared(path: PathBuf) -> Result<Self, OpenError> {
        Self::with_threads(move || file::open_shared(&path)).await
    }

    /// Opens or creates the database at `path` for an import, while no server is running on it.
    pub async fn open_for_import(path: PathBuf) -> Result<Self, OpenError> {
        Self::with_threads(move || file::open_for_import(&path)).await
    }

    /// Creates a store on the threads that `open` starts, without background tasks.
    async fn with_threads<F>(open: F) -> Result<Self, OpenError>
    where
        F: FnOnce() -> Result<Threads, OpenError> + Send + 'static,
    {
        let opened = tokio::task::spawn_blocking(open).await;
        let threads = opened.unwrap_or_else(|error| {
            Err(OpenError::Unusable(format!(
                "database: opening it failed: {error}"
            )))
        })?;
        Ok(Self {
            threads: Arc::new(threads),
            to_index: Arc::default(),
            indexer: Arc::default(),
            room_deleted: Arc::default(),
            background: Vec::new(),
        })
    }

    fn stop_background(&self) {
        self.background.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.stop_background();
    }
}
