//! The store for production: MongoDB, shared by any number of servers.
//!
//! A write is on disk on the majority before it is announced, and reads see only such writes. There
//! are no transactions, because a standalone MongoDB server has none: each method is either one
//! atomic change of one document, or a sequence of repeatable steps.
//!
//! This module implements [`Store`]. [`connection`] talks to the database, [`schema`] creates the
//! indexes and runs the migrations, and [`legacy_import`] imports the data of the original
//! application. [`documents`] and [`entries`] define the document format. The queries are in one
//! module per subject: `users`, `sessions` and `rooms`; `log`, with `batch`, `checks`, `changes`,
//! `effects` and `pending`, for appending; `pages` and `recents` for reading; `marks` for read
//! marks and unread counts; `author_counts` and `writers` for the authors of entries; and `search`.
//!
//! In a sharded cluster, `chatmessages` can be sharded by `{chatRoomId: 1, seq: 1}` and `readmarks`
//! by `{chatRoomId: 1}`.

mod author_counts;
mod batch;
mod changes;
mod checks;
mod connection;
mod documents;
mod effects;
mod entries;
mod failure;
mod indexes;
mod lease;
mod legacy_import;
mod log;
mod marks;
mod pages;
mod pending;
mod recents;
mod rooms;
mod schema;
mod search;
mod sessions;
mod users;
mod writers;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use mongodb::bson::{Binary, doc, spec::BinarySubtype};
use tokio::{
    sync::OnceCell,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use super::{
    Appended, Departed, Found, ListedRoom, Marked, NewEntry, OpenError, Page, Refresh, Result,
    RoomPage, Rotation, Search, SessionSelector, Store, StoreError, Unread, UserCursor, UserUpdate,
    search::IndexQueue,
};
use crate::{
    config::{DatabaseUrl, MongoConfig},
    model::{
        Credentials, Entry, Message, MessageId, PasswordHash, ReadMark, RefreshKey, Room, RoomId,
        Seq, Session, SessionId, Timestamp, User, UserId, Username,
    },
};
use connection::Connection;
use log::Log;
use marks::OwnCounts;

/// How often each server looks for pending effects and for deleted rooms.
const FINISH: Duration = Duration::from_secs(2);

/// A sequence number after that of every entry.
const END: Seq = Seq(u64::MAX);

/// A store in a MongoDB database.
pub struct Mongo {
    shared: Arc<Shared>,
    /// The cache of how many of a user's unread entries are the user's own.
    own: OwnCounts,
    /// The rooms with messages that are to be indexed for search, and the state of the index.
    behind: Arc<IndexQueue>,
    indexed: Arc<search::State>,
    /// The background tasks: they apply pending effects, purge deleted rooms, and index messages.
    on_the_side: [AbortHandle; 3],
}

impl Drop for Mongo {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Shared {
    connection: Connection,
    /// The client for appending, created by the first append. The driver's background tasks run on
    /// the runtime that creates the client. The timeline has a thread of its own, and there these
    /// tasks do not queue behind those of requests.
    appending: OnceCell<Connection>,
    log: Log,
}

impl Mongo {
    /// Connects to the database, waits for it if it is not reachable yet, and prepares it.
    pub async fn open(
        url: &DatabaseUrl,
        config: &MongoConfig,
    ) -> std::result::Result<Self, OpenError> {
        let connection = Connection::open(url, config).await?;
        schema::prepare(&connection).await?;
        // Pending effects must be known before the first read. Those that fit into the time limit
        // are applied now.
        effects::apply_pending(&connection, None)
            .await
            .map_err(|error| OpenError::because(&error, format!("database: {error}")))?;
        let (behind, indexed) = (
            Arc::<IndexQueue>::default(),
            Arc::<search::State>::default(),
        );
        indexed
            .learn(&connection)
            .await
            .map_err(|error| OpenError::because(&error, format!("database: {error}")))?;
        let shared = Arc::new(Shared {
            connection,
            appending: OnceCell::new(),
            log: Log::new(),
        });
        let on_the_side = [
            tokio::spawn(apply_periodically(shared.connection.clone())).abort_handle(),
            tokio::spawn(sweep_deleted_rooms(Arc::clone(&shared))).abort_handle(),
            tokio::spawn(search::run_indexer(
                shared.connection.clone(),
                Arc::clone(&indexed),
                Arc::clone(&behind),
            ))
            .abort_handle(),
        ];
        Ok(Self {
            shared,
            own: OwnCounts::new(),
            behind,
            indexed,
            on_the_side,
        })
    }

    /// Aborts the background tasks.
    fn stop(&self) {
        self.on_the_side.iter().for_each(AbortHandle::abort);
    }

    fn connection(&self) -> &Connection {
        &self.shared.connection
    }
}

/// Applies effects that killed servers left pending, and retries those that failed.
async fn apply_periodically(connection: Connection) {
    loop {
        if let Err(error) = effects::retry(&connection).await {
            tracing::debug!(%error, "failed to apply pending effects; retrying later");
        }
        sleep(FINISH).await;
    }
}

/// Looks for deleted rooms and purges their data. The purge runs in a task of its own, because with
/// a large room it takes longer than this server may go without looking for deleted rooms.
async fn sweep_deleted_rooms(shared: Arc<Shared>) {
    let mut gone = rooms::DeletedRooms::new();
    // Dropping the set aborts the purge.
    let mut purge = JoinSet::new();
    loop {
        if let Err(error) = rooms::sweep_deleted(&shared.connection, &shared.log, &mut gone).await {
            tracing::debug!(%error, "failed to look for deleted rooms; retrying later");
        }
        while purge.try_join_next().is_some() {}
        let forgotten = rooms::forgotten(&shared.connection, &gone);
        if purge.is_empty() && !forgotten.is_empty() {
            let connection = shared.connection.clone();
            purge.spawn(async move {
                if let Err(error) = rooms::purge(&connection, forgotten).await {
                    tracing::debug!(%error, "failed to purge deleted rooms; retrying later");
                }
            });
        }
        sleep(FINISH).await;
    }
}

/// Converts a number of documents to MongoDB's type, capped at `i32::MAX`.
fn rows(number: u64) -> i64 {
    i64::from(i32::try_from(number).unwrap_or(i32::MAX))
}

#[async_trait]
impl Store for Mongo {
    async fn add_user(&self, user: User, credentials: Option<Credentials>) -> Result<bool> {
        users::add(self.connection(), &user, credentials.as_ref()).await
    }

    async fn user(&self, id: UserId) -> Result<Option<Arc<User>>> {
        let user = self.users_by_id(&[id]).await?.pop();
        Ok(user.filter(|user| !user.deleted))
    }

    async fn users_by_id(&self, ids: &[UserId]) -> Result<Vec<Arc<User>>> {
        let found = users::users_by_id(self.connection(), ids).await?;
        let found: HashMap<_, _> = found
            .into_iter()
            .map(|user| (user.id, Arc::new(user)))
            .collect();
        Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
    }

    async fn list_users(
        &self,
        after: Option<UserCursor>,
        skip: u64,
        limit: u64,
    ) -> Result<Vec<User>> {
        users::list(self.connection(), after, skip, limit).await
    }

    async fn rename_user(
        &self,
        id: UserId,
        names: UserUpdate,
        at: Timestamp,
    ) -> Result<Option<Arc<User>>> {
        Ok(users::rename(self.connection(), id, &names, at)
            .await?
            .map(Arc::new))
    }

    async fn account(&self, username: &Username) -> Result<Option<(UserId, PasswordHash)>> {
        users::account(self.connection(), username).await
    }

    async fn credentials(&self, user: UserId) -> Result<Option<Credentials>> {
        users::credentials(self.connection(), user).await
    }

    async fn set_password(
        &self,
        user: UserId,
        former: PasswordHash,
        password: PasswordHash,
    ) -> Result<bool> {
        users::set_password(self.connection(), user, &former, &password).await
    }

    async fn add_session(
        &self,
        session: Session,
        key: RefreshKey,
        password: PasswordHash,
    ) -> Result<Option<Vec<SessionId>>> {
        sessions::add(self.connection(), &session, &key, &password).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Arc<Session>>> {
        Ok(sessions::find(self.connection(), id).await?.map(Arc::new))
    }

    async fn sessions(&self, user: UserId, at: Timestamp) -> Result<Vec<Session>> {
        sessions::of_user(self.connection(), user, at).await
    }

    async fn refresh_session(&self, rotation: Rotation) -> Result<Refresh> {
        sessions::refresh(self.connection(), &rotation).await
    }

    async fn end_sessions(&self, user: UserId, which: SessionSelector) -> Result<Vec<SessionId>> {
        sessions::end(self.connection(), user, which).await
    }

    async fn live_sessions(&self, ids: Vec<SessionId>) -> Result<Vec<SessionId>> {
        sessions::live(self.connection(), &ids).await
    }

    async fn delete_user(&self, id: UserId, at: Timestamp) -> Result<bool> {
        users::delete(self.connection(), id, at).await
    }

    async fn find_or_add_room(&self, room: Room) -> Result<(Arc<Room>, bool)> {
        rooms::find_or_add(self.connection(), room).await
    }

    async fn room(&self, id: RoomId) -> Result<Option<Arc<Room>>> {
        Ok(rooms::find(self.connection(), id).await?.map(Arc::new))
    }

    async fn absent(&self, room: &Arc<Room>) -> Result<Arc<[UserId]>> {
        Ok(users::deleted_among(self.connection(), &room.members)
            .await?
            .into())
    }

    async fn index_writers(&self) -> Result<()> {
        indexes::index_authors(self.connection()).await
    }

    async fn writers_in(&self, room: &Arc<Room>) -> Result<Vec<UserId>> {
        writers::in_room(self.connection(), room).await
    }

    async fn written_by(&self, user: UserId, rooms: &[Arc<Room>]) -> Result<Vec<RoomId>> {
        writers::rooms_of(self.connection(), user, rooms).await
    }

    async fn delete_room(&self, id: RoomId) -> Result<Option<u64>> {
        rooms::delete(self.connection(), &self.shared.log, id).await
    }

    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u64,
    ) -> Result<Vec<RoomId>> {
        rooms::of_user(self.connection(), user, after, limit).await
    }

    async fn departed(&self, since: Option<Timestamp>) -> Result<(Vec<Departed>, Timestamp)> {
        rooms::departed(self.connection(), since).await
    }

    async fn append(&self, batch: Vec<NewEntry>) -> Result<Vec<Appended>> {
        let appending = self
            .shared
            .appending
            .get_or_try_init(|| async { self.connection().new_client() })
            .await?;
        let appended = self.shared.log.append(appending, &batch).await;
        // Not before the append, when there is nothing to index yet. Also after an error, since
        // part of the batch may be in the logs.
        self.behind.note(&batch);
        appended
    }

    async fn messages(&self, room: RoomId, page: Page, limit: u64) -> Result<Vec<Message>> {
        pages::page(self.connection(), room, page, limit).await
    }

    async fn message(&self, id: MessageId) -> Result<Option<Message>> {
        pages::find(self.connection(), id).await
    }

    async fn recents(&self, page: RoomPage) -> Result<Vec<ListedRoom>> {
        recents::recents(self.connection(), page).await
    }

    async fn entries(
        &self,
        room: RoomId,
        after: Seq,
        up_to: Option<Seq>,
        limit: u64,
    ) -> Result<Vec<Entry>> {
        pages::entries(self.connection(), room, after, up_to.unwrap_or(END), limit).await
    }

    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>> {
        let rooms = rooms::there(self.connection(), rooms).await?;
        let mut ends = pages::ends(self.connection(), &rooms).await?;
        if self.connection().standalone && !ends.is_empty() {
            // A standalone server also returns entries that are only in memory. An entry that is
            // read both before and after the flush is on disk.
            self.connection().flush().await?;
            let still = pages::ends(self.connection(), &rooms).await?;
            for (room, end) in &mut ends {
                *end = (*end).min(still.get(room).copied().unwrap_or_default());
            }
        }
        Ok(rooms
            .into_iter()
            .filter_map(|room| Some((room, *ends.get(&room)?)))
            .collect())
    }

    async fn mark_read(
        &self,
        room: RoomId,
        user: UserId,
        up_to: Option<Seq>,
        at: Timestamp,
    ) -> Result<Option<Marked>> {
        Box::pin(marks::mark_read(self.connection(), room, user, up_to, at)).await
    }

    async fn read_marks(
        &self,
        room: RoomId,
        readers: &[UserId],
        first: Seq,
        last: Seq,
    ) -> Result<Vec<ReadMark>> {
        marks::read_marks(self.connection(), room, readers, first, last).await
    }

    async fn unread(&self, user: UserId, among: Option<&[RoomId]>) -> Result<Vec<Unread>> {
        marks::unread(self.connection(), &self.own, user, among).await
    }

    async fn search(&self, search: Search) -> Result<Found> {
        let mut found =
            search::search(self.connection(), &self.indexed, &self.behind, &search).await?;
        found.messages.retain(|message| {
            !self
                .connection()
                .pending
                .is_deleted(message.room, message.id)
        });
        Ok(found)
    }

    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32]> {
        let secret = Binary {
            subtype: BinarySubtype::Generic,
            bytes: candidate.to_vec(),
        };
        let connection = self.connection();
        connection
            .add(
                &connection.metadata,
                &doc! { "_id": "tokenSecret", "value": secret },
            )
            .await?;
        let kept = connection.metadata.find_one(doc! { "_id": "tokenSecret" });
        let kept = connection
            .one(kept, |note| {
                note.get_binary("value").ok()?.bytes.try_into().ok()
            })
            .await?;
        kept.ok_or_else(|| StoreError::Fault("the key that signs tokens is not 32 bytes".into()))
    }

    async fn update_last_seen(&self, seen: Vec<(UserId, Timestamp)>) -> Result<()> {
        users::update_last_seen(self.connection(), &seen).await
    }

    async fn last_seen(&self, ids: &[UserId]) -> Result<Vec<(UserId, Timestamp)>> {
        users::last_seen(self.connection(), ids).await
    }

    async fn latest(&self) -> Result<Option<Timestamp>> {
        pages::latest(self.connection()).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn pending_effects(&self) -> usize {
        self.connection().pending.count()
    }

    async fn ping(&self) -> Result<()> {
        let connection = self.connection();
        connection
            .within(connection.database.run_command(doc! { "ping": 1 }))
            .await
            .map(|_| ())
    }

    async fn close(&self) {
        self.stop();
        self.connection().close().await;
    }
}
