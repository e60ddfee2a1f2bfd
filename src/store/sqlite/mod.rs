//! The embedded store: one SQLite file, written by one process.
//!
//! WAL with `synchronous=FULL`: a commit is on disk before anybody hears of it. This module is the [`Store`]; [`open`](file::open) makes
//! the file ready, [`threads`] runs the statements, and the statements stand by noun in `users`, `sessions`, `rooms` and `log`.

mod file;
mod log;
mod rooms;
mod rows;
mod sessions;
mod threads;
mod users;

use std::{
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use super::{Names, NewMessage, OpenError, Page, Placed, Refresh, Result, Store, StoreError, UserCursor, Which};
use crate::model::{
    Credentials, Message, MessageId, PasswordHash, ReadMark, RefreshKey, Room, RoomId, Seq, Session, SessionId, Timestamp, User, UserId,
    Username,
};
use threads::Threads;

/// How many threads read. Reads are short; more threads than cores only add switching.
const READERS: usize = 2;

/// A store in one SQLite file.
pub struct Sqlite {
    threads: Arc<Threads>,
    /// Held for as long as the database is open: a second server is turned away instead of writing beside us. None where we are beside one.
    lock: Mutex<Option<File>>,
}

impl Sqlite {
    /// Opens the database at `path`, made with its folder if it is missing.
    pub async fn open(path: PathBuf) -> std::result::Result<Self, OpenError> {
        let store = Self::opened(move || file::open(&path).map(|(threads, lock)| (threads, Some(lock)))).await?;
        store.purge();
        Ok(store)
    }

    /// Opens the database at `path` beside a server that may be running on it. For adding something: what the server keeps in memory, it
    /// would not notice being changed.
    pub async fn open_beside(path: PathBuf) -> std::result::Result<Self, OpenError> {
        Self::opened(move || file::open_beside(&path)).await
    }

    async fn opened<F>(open: F) -> std::result::Result<Self, OpenError>
    where
        F: FnOnce() -> std::result::Result<(Threads, Option<File>), OpenError> + Send + 'static,
    {
        let opened = tokio::task::spawn_blocking(open).await;
        let (threads, lock) = opened.unwrap_or_else(|lost| Err(OpenError::Unusable(format!("database: opening it failed: {lost}"))))?;
        Ok(Self { threads: Arc::new(threads), lock: Mutex::new(lock) })
    }

    /// Takes away what is left of deleted rooms, piece by piece between the work of others.
    fn purge(&self) {
        let threads = Arc::clone(&self.threads);
        tokio::spawn(async move { while matches!(threads.write(rooms::purge).await, Ok(true)) {} });
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn add_user(&self, user: User, credentials: Option<Credentials>) -> Result<bool> {
        self.threads.write(move |connection| users::add(connection, &user, credentials.as_ref())).await
    }

    async fn user(&self, id: UserId) -> Result<Option<Arc<User>>> {
        let user = self.people(&[id]).await?.pop();
        Ok(user.filter(|user| !user.deleted))
    }

    async fn people(&self, ids: &[UserId]) -> Result<Vec<Arc<User>>> {
        let ids = ids.to_vec();
        let people = self.threads.read(move |connection| users::people(connection, &ids)).await?;
        Ok(people.into_iter().map(Arc::new).collect())
    }

    async fn list_users(&self, after: Option<UserCursor>, skip: u64, limit: u64) -> Result<Vec<User>> {
        self.threads.read(move |connection| users::list(connection, after, skip, limit)).await
    }

    async fn rename_user(&self, id: UserId, names: Names, at: Timestamp) -> Result<Option<Arc<User>>> {
        let renamed = self.threads.write(move |connection| users::rename(connection, id, &names, at)).await?;
        Ok(renamed.map(Arc::new))
    }

    async fn account(&self, username: &Username) -> Result<Option<(UserId, PasswordHash)>> {
        let username = username.clone();
        self.threads.read(move |connection| users::account(connection, &username)).await
    }

    async fn credentials(&self, user: UserId) -> Result<Option<Credentials>> {
        self.threads.read(move |connection| users::credentials(connection, user)).await
    }

    async fn set_password(&self, user: UserId, password: PasswordHash) -> Result<bool> {
        self.threads.write(move |connection| users::set_password(connection, user, &password)).await
    }

    async fn add_session(&self, session: Session, key: RefreshKey, password: PasswordHash) -> Result<Option<Vec<SessionId>>> {
        self.threads.write(move |connection| sessions::add(connection, &session, &key, &password)).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Arc<Session>>> {
        Ok(self.threads.read(move |connection| sessions::find(connection, id)).await?.map(Arc::new))
    }

    async fn sessions(&self, user: UserId, at: Timestamp) -> Result<Vec<Session>> {
        self.threads.read(move |connection| sessions::of_user(connection, user, at)).await
    }

    async fn refresh_session(&self, id: SessionId, key: RefreshKey, next: [u8; 32], at: Timestamp, until: Timestamp) -> Result<Refresh> {
        self.threads.write(move |connection| sessions::refresh(connection, id, &key, next, at, until)).await
    }

    async fn end_sessions(&self, user: UserId, which: Which) -> Result<Vec<SessionId>> {
        self.threads.write(move |connection| sessions::end(connection, user, which)).await
    }

    async fn live_sessions(&self, ids: Vec<SessionId>) -> Result<Vec<SessionId>> {
        self.threads.read(move |connection| sessions::live(connection, &ids)).await
    }

    async fn delete_user(&self, id: UserId, at: Timestamp) -> Result<bool> {
        self.threads.write(move |connection| users::delete(connection, id, at)).await
    }

    async fn find_or_add_room(&self, room: Room) -> Result<(Arc<Room>, bool)> {
        let asked = room.clone();
        if let Some(found) = self.threads.read(move |connection| rooms::find_by_members(connection, &asked)).await? {
            return Ok((Arc::new(found), false));
        }
        let find_or_add = move |connection: &rusqlite::Connection| match rooms::find_by_members(connection, &room)? {
            Some(found) => Ok((Arc::new(found), false)),
            None => rooms::add(connection, &room).map(|()| (Arc::new(room), true)),
        };
        self.threads.write(find_or_add).await
    }

    async fn room(&self, id: RoomId) -> Result<Option<Arc<Room>>> {
        let room = self.threads.read(move |connection| rooms::find(connection, id)).await?;
        Ok(room.map(Arc::new))
    }

    async fn delete_room(&self, id: RoomId) -> Result<Option<u64>> {
        let deleted = self.threads.write(move |connection| rooms::delete(connection, id)).await?;
        self.purge();
        Ok(deleted)
    }

    async fn append(&self, batch: Vec<NewMessage>) -> Result<Vec<Option<Placed>>> {
        self.threads.write(move |connection| log::append(connection, &batch)).await
    }

    async fn messages(&self, room: RoomId, page: Page, limit: u64) -> Result<Vec<Message>> {
        self.threads.read(move |connection| log::page(connection, room, page, limit)).await
    }

    async fn message(&self, id: MessageId) -> Result<Option<Message>> {
        self.threads.read(move |connection| log::find(connection, id)).await
    }

    async fn delete_message(&self, id: MessageId) -> Result<bool> {
        self.threads.write(move |connection| log::delete(connection, id)).await
    }

    async fn recents(&self, user: UserId, skip: u64, limit: u64) -> Result<Vec<Message>> {
        self.threads.read(move |connection| rooms::recents(connection, user, skip, limit)).await
    }

    async fn mark_read(&self, room: RoomId, user: UserId, at: Timestamp) -> Result<u64> {
        self.threads.write(move |connection| log::mark_read(connection, room, user, at)).await
    }

    async fn read_marks(&self, room: RoomId, readers: &[UserId], first: Seq, last: Seq) -> Result<Vec<ReadMark>> {
        let readers = readers.to_vec();
        self.threads.read(move |connection| log::read_marks(connection, room, &readers, first, last)).await
    }

    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32]> {
        self.threads.write(move |connection| file::token_secret(connection, candidate)).await
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn ping(&self) -> Result<()> {
        self.threads.read(|connection| connection.query_row("SELECT count(*) FROM secrets", [], |_| Ok(()))).await
    }

    async fn close(&self) {
        let threads = Arc::clone(&self.threads);
        if let Err(lost) = tokio::task::spawn_blocking(move || threads.stop()).await {
            tracing::error!(%lost, "the database threads did not stop cleanly");
        }
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
