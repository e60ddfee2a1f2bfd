//! The embedded store: one SQLite file, written by one process.
//!
//! The file is in WAL mode with `synchronous=FULL`: a commit is on disk before its result is
//! returned. This module implements [`Store`]; [`open`](file::open) prepares the file, and
//! [`threads`] and [`writer`] run the statements. The statements are grouped by subject: `users`,
//! `sessions`, `rooms`, `append` and `log` (writing and reading the logs), `marks` (read marks) and
//! `search`. [`wal`] removes erased data from the write-ahead log.

mod append;
mod file;
mod job;
mod lock;
mod log;
mod marks;
mod rooms;
mod rows;
mod search;
mod sessions;
mod slice;
mod threads;
mod users;
mod wal;
mod writer;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    Appended, Departed, Found, ListedRoom, Marked, NewEntry, OpenError, Page, Refresh, Result,
    RoomPage, Rotation, Search, SessionSelector, Store, StoreError, Unread, UserCursor, UserUpdate,
    search::{INDEX_INTERVAL, IndexQueue},
};
use crate::model::{
    Credentials, Entry, Message, MessageId, PasswordHash, ReadMark, RefreshKey, Room, RoomId, Seq,
    Session, SessionId, Timestamp, User, UserId, Username,
};
use search::{Indexer, Walk};
use threads::Threads;

/// The number of reader threads. Reads are short, so more threads than cores only add switching.
const READERS: usize = 2;

/// The delay before a failed background slice is retried.
const RETRY: Duration = Duration::from_secs(1);
/// The minimum and maximum pause between two index slices. Within these bounds, the pause is as
/// long as the last slice took.
const INDEX_PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// How long `close` waits for deleted and edited text to be erased from the search index.
const LAST_ERASING: Duration = Duration::from_secs(1);

/// A sequence number after every entry.
const END: Seq = Seq(u64::MAX);

/// A store in one SQLite file.
pub struct Sqlite {
    threads: Arc<Threads>,
    /// The changes that are not indexed for search yet.
    behind: Arc<IndexQueue>,
    indexer: Arc<Mutex<Indexer>>,
    /// Wakes the task that removes the remaining data of deleted rooms.
    deleted: Arc<Notify>,
    /// The background tasks, for indexing and for removing deleted rooms. Empty if the database was
    /// opened beside a running server.
    on_the_side: Vec<AbortHandle>,
}

impl Sqlite {
    /// Opens the database at `path`, and creates it and its folder if it is missing.
    pub async fn open(path: PathBuf) -> std::result::Result<Self, OpenError> {
        let mut store = Self::opened(move || file::open(&path)).await?;
        store.on_the_side = vec![
            tokio::spawn(index_in_background(
                Arc::clone(&store.threads),
                Arc::clone(&store.behind),
                Arc::clone(&store.indexer),
            ))
            .abort_handle(),
            tokio::spawn(purge_in_background(
                Arc::clone(&store.threads),
                Arc::clone(&store.deleted),
            ))
            .abort_handle(),
        ];
        Ok(store)
    }

    /// Opens the database at `path` while a server may be running on it. Only for adding data: the
    /// server would not notice a change of data that it has cached.
    pub async fn open_shared(path: PathBuf) -> std::result::Result<Self, OpenError> {
        Self::opened(move || file::open_shared(&path)).await
    }

    async fn opened<F>(open: F) -> std::result::Result<Self, OpenError>
    where
        F: FnOnce() -> std::result::Result<Threads, OpenError> + Send + 'static,
    {
        let opened = tokio::task::spawn_blocking(open).await;
        let threads = opened.unwrap_or_else(|lost| {
            Err(OpenError::Unusable(format!(
                "database: opening it failed: {lost}"
            )))
        })?;
        Ok(Self {
            threads: Arc::new(threads),
            behind: Arc::default(),
            indexer: Arc::default(),
            deleted: Arc::default(),
            on_the_side: Vec::new(),
        })
    }

    fn stop_in_background(&self) {
        self.on_the_side.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.stop_in_background();
    }
}

/// Removes the remaining data of deleted rooms, including rooms deleted before the last restart.
async fn purge_in_background(threads: Arc<Threads>, deleted: Arc<Notify>) {
    loop {
        match threads.erase_slice(rooms::purge).await {
            Ok(true) => {}
            Ok(false) => deleted.notified().await,
            Err(error) => {
                tracing::debug!(%error, "purging deleted rooms failed; retrying");
                sleep(RETRY).await;
            }
        }
    }
}

/// Indexes messages for search, in slices with pauses in between so that posting is not slowed
/// down.
async fn index_in_background(
    threads: Arc<Threads>,
    behind: Arc<IndexQueue>,
    indexer: Arc<Mutex<Indexer>>,
) {
    let mut restarts = true;
    loop {
        if restarts && let Ok(rooms) = threads.read(search::behind).await {
            indexer
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(rooms);
            behind.note_erased();
            restarts = false;
        }
        let begun = Instant::now();
        match index_slice(&threads, &behind, &indexer).await {
            Ok(true) => sleep(begun.elapsed().clamp(INDEX_PAUSES.0, INDEX_PAUSES.1)).await,
            Ok(false) => sleep(INDEX_INTERVAL).await,
            Err(error) => {
                tracing::warn!(%error, "indexing messages for search failed; retrying");
                // Changes to the in-memory state may not have been committed.
                *indexer.lock().unwrap_or_else(PoisonError::into_inner) = Indexer::default();
                restarts = true;
                sleep(RETRY).await;
            }
        }
    }
}

/// Indexes one slice. Returns false if there was nothing to do.
async fn index_slice(
    threads: &Threads,
    behind: &IndexQueue,
    indexer: &Arc<Mutex<Indexer>>,
) -> Result<bool> {
    let changes = behind.take();
    let is_idle = {
        let mut indexer = indexer.lock().unwrap_or_else(PoisonError::into_inner);
        indexer.add(changes.rooms);
        indexer.is_idle()
    };
    let erased = changes.erased && erase_slice(threads, indexer).await?;
    if erased {
        behind.note_erased();
    }
    if is_idle {
        return Ok(erased);
    }
    let indexing = Arc::clone(indexer);
    let index = move |connection: &rusqlite::Connection| {
        indexing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .index(connection)
    };
    Ok(threads.slice(index).await? || erased)
}

/// Erases one slice of deleted or edited text from the index. Returns false if there was none.
async fn erase_slice(threads: &Threads, indexer: &Arc<Mutex<Indexer>>) -> Result<bool> {
    let indexer = Arc::clone(indexer);
    threads
        .erase_slice(move |connection| {
            indexer
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .erase(connection)
        })
        .await
}

#[async_trait]
impl Store for Sqlite {
    async fn add_user(&self, user: User, credentials: Option<Credentials>) -> Result<bool> {
        self.threads
            .write(move |connection| users::add(connection, &user, credentials.as_ref()))
            .await
    }

    async fn user(&self, id: UserId) -> Result<Option<Arc<User>>> {
        let user = self.users_by_id(&[id]).await?.pop();
        Ok(user.filter(|user| !user.deleted))
    }

    async fn users_by_id(&self, ids: &[UserId]) -> Result<Vec<Arc<User>>> {
        let ids = ids.to_vec();
        let people = self
            .threads
            .read(move |connection| users::users_by_id(connection, &ids))
            .await?;
        Ok(people.into_iter().map(Arc::new).collect())
    }

    async fn list_users(
        &self,
        after: Option<UserCursor>,
        skip: u64,
        limit: u64,
    ) -> Result<Vec<User>> {
        self.threads
            .read(move |connection| users::list(connection, after, skip, limit))
            .await
    }

    async fn rename_user(
        &self,
        id: UserId,
        names: UserUpdate,
        at: Timestamp,
    ) -> Result<Option<Arc<User>>> {
        let renamed = self
            .threads
            .write(move |connection| users::rename(connection, id, &names, at))
            .await?;
        Ok(renamed.map(Arc::new))
    }

    async fn account(&self, username: &Username) -> Result<Option<(UserId, PasswordHash)>> {
        let username = username.clone();
        self.threads
            .read(move |connection| users::account(connection, &username))
            .await
    }

    async fn credentials(&self, user: UserId) -> Result<Option<Credentials>> {
        self.threads
            .read(move |connection| users::credentials(connection, user))
            .await
    }

    async fn set_password(
        &self,
        user: UserId,
        former: PasswordHash,
        password: PasswordHash,
    ) -> Result<bool> {
        self.threads
            .write(move |connection| users::set_password(connection, user, &former, &password))
            .await
    }

    async fn add_session(
        &self,
        session: Session,
        key: RefreshKey,
        password: PasswordHash,
    ) -> Result<Option<Vec<SessionId>>> {
        self.threads
            .write(move |connection| sessions::add(connection, &session, &key, &password))
            .await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Arc<Session>>> {
        Ok(self
            .threads
            .read(move |connection| sessions::find(connection, id))
            .await?
            .map(Arc::new))
    }

    async fn sessions(&self, user: UserId, at: Timestamp) -> Result<Vec<Session>> {
        self.threads
            .read(move |connection| sessions::of_user(connection, user, at))
            .await
    }

    async fn refresh_session(&self, rotation: Rotation) -> Result<Refresh> {
        self.threads
            .write(move |connection| sessions::refresh(connection, &rotation))
            .await
    }

    async fn end_sessions(&self, user: UserId, which: SessionSelector) -> Result<Vec<SessionId>> {
        self.threads
            .write(move |connection| sessions::end(connection, user, which))
            .await
    }

    async fn live_sessions(&self, ids: Vec<SessionId>) -> Result<Vec<SessionId>> {
        self.threads
            .read(move |connection| sessions::live(connection, &ids))
            .await
    }

    async fn delete_user(&self, id: UserId, at: Timestamp) -> Result<bool> {
        self.threads
            .write_and_scrub(move |connection| users::delete(connection, id, at))
            .await
    }

    async fn find_or_add_room(&self, room: Room) -> Result<(Arc<Room>, bool)> {
        if room.name.is_some() {
            return self
                .threads
                .write(move |connection| {
                    rooms::add(connection, &room).map(|()| (Arc::new(room), true))
                })
                .await;
        }
        let asked = room.clone();
        if let Some(found) = self
            .threads
            .read(move |connection| rooms::find_by_members(connection, &asked))
            .await?
        {
            return Ok((Arc::new(found), false));
        }
        let find_or_add = move |connection: &rusqlite::Connection| match rooms::find_by_members(
            connection, &room,
        )? {
            Some(found) => Ok((Arc::new(found), false)),
            None => rooms::add(connection, &room).map(|()| (Arc::new(room), true)),
        };
        self.threads.write(find_or_add).await
    }

    async fn room(&self, id: RoomId) -> Result<Option<Arc<Room>>> {
        let room = self
            .threads
            .read(move |connection| rooms::find(connection, id))
            .await?;
        Ok(room.map(Arc::new))
    }

    async fn absent(&self, room: &Arc<Room>) -> Result<Arc<[UserId]>> {
        let room = Arc::clone(room);
        Ok(self
            .threads
            .read(move |connection| users::deleted_among(connection, &room.members))
            .await?
            .into())
    }

    /// Does nothing, because each membership already counts the user's entries.
    async fn index_writers(&self) -> Result<()> {
        Ok(())
    }

    async fn writers_in(&self, room: &Arc<Room>) -> Result<Vec<UserId>> {
        let id = room.id;
        self.threads
            .read(move |connection| rooms::writers(connection, id))
            .await
    }

    async fn written_by(&self, user: UserId, rooms: &[Arc<Room>]) -> Result<Vec<RoomId>> {
        let rooms: Vec<_> = rooms.iter().map(|room| room.id).collect();
        self.threads
            .read(move |connection| rooms::written_by(connection, user, &rooms))
            .await
    }

    async fn delete_room(&self, id: RoomId) -> Result<Option<u64>> {
        let deleted = self
            .threads
            .write_and_scrub(move |connection| rooms::delete(connection, id))
            .await?;
        self.deleted.notify_one();
        self.behind.note_erased();
        Ok(deleted)
    }

    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u64,
    ) -> Result<Vec<RoomId>> {
        self.threads
            .read(move |connection| rooms::of_user(connection, user, after, limit))
            .await
    }

    /// Returns nothing, because no other server can work on the database.
    async fn departed(&self, _: Option<Timestamp>) -> Result<(Vec<Departed>, Timestamp)> {
        Ok((Vec::new(), Timestamp::default()))
    }

    async fn append(&self, batch: Vec<NewEntry>) -> Result<Vec<Appended>> {
        let erases = batch.iter().any(|entry| entry.change.erases());
        let batch = Arc::new(batch);
        let entries = Arc::clone(&batch);
        let append = move |connection: &rusqlite::Connection| append::append(connection, &entries);
        let appended = if erases {
            self.threads.write_and_scrub(append).await
        } else {
            self.threads.write(append).await
        };
        // After the write: before it, the indexer would find nothing to index.
        self.behind.note(&batch);
        appended
    }

    async fn messages(&self, room: RoomId, page: Page, limit: u64) -> Result<Vec<Message>> {
        self.threads
            .read(move |connection| log::page(connection, room, page, limit))
            .await
    }

    async fn message(&self, id: MessageId) -> Result<Option<Message>> {
        self.threads
            .read(move |connection| log::find(connection, id))
            .await
    }

    async fn recents(&self, page: RoomPage) -> Result<Vec<ListedRoom>> {
        self.threads
            .read(move |connection| rooms::recents(connection, page))
            .await
    }

    async fn entries(
        &self,
        room: RoomId,
        after: Seq,
        up_to: Option<Seq>,
        limit: u64,
    ) -> Result<Vec<Entry>> {
        self.threads
            .read(move |connection| {
                log::entries(connection, room, after, up_to.unwrap_or(END), limit)
            })
            .await
    }

    /// Uses a separate reader thread: the timeline calls this between two batches, and no message
    /// can be posted until it returns. So it must not wait for long reads, nor for writes, which
    /// may wait for another process that is writing.
    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>> {
        let rooms = rooms.to_vec();
        self.threads
            .read_ahead(move |connection| log::ends(connection, &rooms))
            .await
    }

    async fn mark_read(
        &self,
        room: RoomId,
        user: UserId,
        up_to: Option<Seq>,
        at: Timestamp,
    ) -> Result<Option<Marked>> {
        let counted = match up_to {
            Some(up_to) => {
                self.threads
                    .read(move |connection| marks::posted_up_to(connection, room, user, up_to))
                    .await?
            }
            None => None,
        };
        let up_to = up_to.unwrap_or(END);
        self.threads
            .write(move |connection| marks::mark_read(connection, room, user, up_to, counted, at))
            .await
    }

    async fn read_marks(
        &self,
        room: RoomId,
        readers: &[UserId],
        first: Seq,
        last: Seq,
    ) -> Result<Vec<ReadMark>> {
        let readers = readers.to_vec();
        self.threads
            .read(move |connection| marks::read_marks(connection, room, &readers, first, last))
            .await
    }

    async fn unread(&self, user: UserId, among: Option<&[RoomId]>) -> Result<Vec<Unread>> {
        let among = among.map(<[_]>::to_vec);
        let unread = move |connection: &rusqlite::Connection| {
            let rooms =
                among.map_or_else(|| rooms::of_user(connection, user, None, u64::MAX), Ok)?;
            marks::unread(connection, user, &rooms)
        };
        self.threads.read(unread).await
    }

    async fn search(&self, search: Search) -> Result<Found> {
        let mut walk = Walk::new(search);
        loop {
            let step = move |connection: &rusqlite::Connection| {
                let is_done = walk.step(connection)?;
                Ok((walk, is_done))
            };
            match self.threads.read(step).await? {
                (done, true) => return Ok(done.found()),
                (further, false) => walk = further,
            }
        }
    }

    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32]> {
        // Read first, so that startup does not have to wait for another process that is writing.
        match self.threads.read(file::kept_token_secret).await? {
            Some(kept) => Ok(kept),
            None => {
                self.threads
                    .write(move |connection| file::token_secret(connection, candidate))
                    .await
            }
        }
    }

    async fn update_last_seen(&self, seen: Vec<(UserId, Timestamp)>) -> Result<()> {
        self.threads
            .write(move |connection| users::update_last_seen(connection, &seen))
            .await
    }

    async fn last_seen(&self, ids: &[UserId]) -> Result<Vec<(UserId, Timestamp)>> {
        let ids = ids.to_vec();
        self.threads
            .read(move |connection| users::last_seen(connection, &ids))
            .await
    }

    async fn latest(&self) -> Result<Option<Timestamp>> {
        self.threads.read(log::latest).await
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn ping(&self) -> Result<()> {
        self.threads
            .read(|connection| connection.query_row("SELECT count(*) FROM secrets", [], |_| Ok(())))
            .await
    }

    async fn close(&self) {
        self.stop_in_background();
        if !self.on_the_side.is_empty() {
            let erasing = async {
                while matches!(erase_slice(&self.threads, &self.indexer).await, Ok(true)) {}
            };
            if timeout(LAST_ERASING, erasing).await.is_err() {
                tracing::info!(
                    "search index still contains deleted words; the next start erases them"
                );
            }
        }
        let threads = Arc::clone(&self.threads);
        if let Err(lost) = tokio::task::spawn_blocking(move || threads.stop()).await {
            tracing::error!(%lost, "database threads did not stop cleanly");
        }
    }
}
