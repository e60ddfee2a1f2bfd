//! A cache for users, rooms and sessions, which are read on every post, in front of another store.
//!
//! A value that was read before a change must not be cached after it. A room or a session is read
//! under moka's lock on its key, which its removal takes as well. Users are read in batches; so
//! each read notes the number of completed changes, and caches its result only if that number is
//! still the same. The number is incremented under the user's lock, so a reader that waits for the
//! lock with an outdated value sees the new number.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use moka::{future::Cache, ops::compute::Op};

use super::{
    Appended, Departed, Found, ListedRoom, Marked, NewEntry, Page, Refresh, Result, RoomPage,
    Rotation, Search, SessionSelector, Store, StoreError, Unread, UserCursor, UserUpdate, is_large,
};
use crate::model::{
    Credentials, Entry, Message, MessageId, PasswordHash, ReadMark, RefreshKey, Room, RoomId, Seq,
    Session, SessionId, Timestamp, User, UserId, Username,
};

/// The maximum memory for all cached users, in bytes.
const USER_BYTES: u64 = 32 * 1024 * 1024;
/// The memory that a user takes in addition to the names, in bytes.
const USER_OVERHEAD: usize = 300;
/// The maximum number of members of all cached rooms together. A member takes 16 bytes.
const ROOM_MEMBERS: u64 = 1_000_000;

/// The maximum number of cached sessions. A session takes about 500 bytes.
const SESSIONS: u64 = 50_000;
/// How long values are cached if other servers may change them in the database. Changes have to
/// take effect within one second; this is shorter because a value may have been read a moment
/// before it was changed.
const SHARED_LIFETIME: Duration = Duration::from_millis(800);

/// A store that keeps recently used users, rooms and sessions in memory.
pub struct Cached<S> {
    store: Arc<S>,
    /// Includes deleted users, since they are still the authors of messages.
    users: Cache<UserId, Arc<User>>,
    /// The number of completed changes of users.
    changes: Arc<AtomicU64>,
    rooms: Cache<RoomId, Arc<Room>>,
    /// The deleted members of large rooms.
    absent: Cache<RoomId, Arc<Absent>>,
    /// The number of completed deletions of users.
    deletions: Arc<AtomicU64>,
    sessions: Cache<SessionId, Arc<Session>>,
}

/// The deleted members of a room.
struct Absent {
    room: Arc<Room>,
    users: Arc<[UserId]>,
    /// The number of completed deletions before the users were read.
    deletions: u64,
}

impl Absent {
    fn is_of(&self, room: &Arc<Room>, deletions: u64) -> bool {
        self.deletions == deletions
            && (Arc::ptr_eq(&self.room, room) || self.room.members == room.members)
    }
}

impl<S: Store> Cached<S> {
    /// Puts a cache in front of `store`. If other servers may change the database as well, cached
    /// values expire after a short time.
    #[must_use]
    pub fn new(store: S) -> Self {
        let rooms = Cache::builder()
            .max_capacity(ROOM_MEMBERS)
            .weigher(|_, room: &Arc<Room>| u32::try_from(room.members.len()).unwrap_or(u32::MAX));
        // Limited by size, not by number: a name may be as long as a request.
        let users = Cache::builder()
            .max_capacity(USER_BYTES)
            .weigher(|_, user: &Arc<User>| {
                u32::try_from(USER_OVERHEAD + user.first_name.len() + user.last_name.len())
                    .unwrap_or(u32::MAX)
            });
        let absent =
            Cache::builder()
                .max_capacity(ROOM_MEMBERS)
                .weigher(|_, absent: &Arc<Absent>| {
                    u32::try_from(absent.room.members.len()).unwrap_or(u32::MAX)
                });
        let sessions = Cache::builder().max_capacity(SESSIONS);
        let (users, rooms, absent, sessions) = if store.is_shared() {
            let soon = SHARED_LIFETIME;
            (
                users.time_to_live(soon),
                rooms.time_to_live(soon),
                absent.time_to_live(soon),
                sessions.time_to_live(soon),
            )
        } else {
            (users, rooms, absent, sessions)
        };
        Self {
            store: Arc::new(store),
            users: users.build(),
            changes: Arc::default(),
            rooms: rooms.build(),
            absent: absent.build(),
            deletions: Arc::default(),
            sessions: sessions.build(),
        }
    }

    /// Changes sessions in the store, and removes those that `ended` returns from the cache.
    async fn change_sessions<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T>> + Send + 'static,
        ended: impl FnOnce(&T) -> Vec<SessionId> + Send + 'static,
    ) -> Result<T> {
        let sessions = self.sessions.clone();
        run_detached(async move {
            let outcome = change.await?;
            for id in ended(&outcome) {
                // Waits for readers of this session, which may cache what they read before the
                // change.
                sessions
                    .entry(id)
                    .and_compute_with(async |_| Op::Remove)
                    .await;
            }
            Ok(outcome)
        })
        .await
    }

    /// Changes a user in the store, and removes the user from the cache.
    async fn change_user<T: Send + 'static>(
        &self,
        id: UserId,
        change: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (users, changes) = (self.users.clone(), Arc::clone(&self.changes));
        run_detached(async move {
            let mut outcome = None;
            let change = async |_| {
                outcome = Some(change.await);
                // Also after a failure, since the change may have taken effect nonetheless.
                changes.fetch_add(1, Ordering::Release);
                Op::Remove
            };
            users.entry(id).and_compute_with(change).await;
            outcome.unwrap_or_else(|| Err(StoreError::Fault("user was not changed".into())))
        })
        .await
    }

    /// Reads users from the store and caches them.
    async fn load_people(&self, ids: &[UserId]) -> Result<HashMap<UserId, Arc<User>>> {
        let changes = self.changes.load(Ordering::Acquire);
        let loaded = self.store.users_by_id(ids).await?;
        for user in &loaded {
            let keep = async |kept: Option<_>| match kept {
                None if self.changes.load(Ordering::Acquire) == changes => {
                    Op::Put(Arc::clone(user))
                }
                _ => Op::Nop,
            };
            self.users.entry(user.id).and_compute_with(keep).await;
        }
        Ok(loaded.into_iter().map(|user| (user.id, user)).collect())
    }
}

/// Returns the value cached under `key`, or the result of `load`, which is then cached.
async fn kept_or_loaded<K, V>(
    cache: &Cache<K, Arc<V>>,
    key: K,
    load: impl AsyncFnOnce() -> Result<Option<Arc<V>>>,
) -> Result<Option<Arc<V>>>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    if let Some(value) = cache.get(&key).await {
        return Ok(Some(value));
    }
    let load_unless_kept = async |kept: Option<_>| match kept {
        Some(_) => Ok(Op::Nop),
        None => load().await.map(|found| found.map_or(Op::Nop, Op::Put)),
    };
    let entry = cache
        .entry(key)
        .and_try_compute_with(load_unless_kept)
        .await?
        .into_entry();
    Ok(entry.map(moka::Entry::into_value))
}

/// Runs `work` in a task of its own, so that it completes even if the caller is dropped: a deletion
/// that reaches the database has to reach the cache.
async fn run_detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|lost| Err(StoreError::Fault(lost.to_string())))
}

#[async_trait]
impl<S: Store> Store for Cached<S> {
    async fn add_user(&self, user: User, credentials: Option<Credentials>) -> Result<bool> {
        self.store.add_user(user, credentials).await
    }

    async fn user(&self, id: UserId) -> Result<Option<Arc<User>>> {
        let person = match self.users.get(&id).await {
            Some(kept) => Some(kept),
            None => self.load_people(&[id]).await?.remove(&id),
        };
        Ok(person.filter(|user| !user.deleted))
    }

    async fn users_by_id(&self, ids: &[UserId]) -> Result<Vec<Arc<User>>> {
        let mut people = Vec::with_capacity(ids.len());
        for id in ids {
            people.push(self.users.get(id).await);
        }
        let missing: Vec<_> = ids
            .iter()
            .zip(&people)
            .filter(|(_, kept)| kept.is_none())
            .map(|(id, _)| *id)
            .collect();
        if !missing.is_empty() {
            let loaded = self.load_people(&missing).await?;
            for (id, person) in ids
                .iter()
                .zip(&mut people)
                .filter(|(_, kept)| kept.is_none())
            {
                *person = loaded.get(id).cloned();
            }
        }
        Ok(people.into_iter().flatten().collect())
    }

    async fn list_users(
        &self,
        after: Option<UserCursor>,
        skip: u64,
        limit: u64,
    ) -> Result<Vec<User>> {
        self.store.list_users(after, skip, limit).await
    }

    async fn rename_user(
        &self,
        id: UserId,
        names: UserUpdate,
        at: Timestamp,
    ) -> Result<Option<Arc<User>>> {
        let store = Arc::clone(&self.store);
        self.change_user(id, async move { store.rename_user(id, names, at).await })
            .await
    }

    async fn account(&self, username: &Username) -> Result<Option<(UserId, PasswordHash)>> {
        self.store.account(username).await
    }

    async fn credentials(&self, user: UserId) -> Result<Option<Credentials>> {
        self.store.credentials(user).await
    }

    async fn set_password(
        &self,
        user: UserId,
        former: PasswordHash,
        password: PasswordHash,
    ) -> Result<bool> {
        self.store.set_password(user, former, password).await
    }

    async fn add_session(
        &self,
        session: Session,
        key: RefreshKey,
        password: PasswordHash,
    ) -> Result<Option<Vec<SessionId>>> {
        let store = Arc::clone(&self.store);
        let add = async move { store.add_session(session, key, password).await };
        self.change_sessions(add, |ended| ended.clone().unwrap_or_default())
            .await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Arc<Session>>> {
        kept_or_loaded(&self.sessions, id, async || self.store.session(id).await).await
    }

    async fn sessions(&self, user: UserId, at: Timestamp) -> Result<Vec<Session>> {
        self.store.sessions(user, at).await
    }

    async fn refresh_session(&self, rotation: Rotation) -> Result<Refresh> {
        let (store, id) = (Arc::clone(&self.store), rotation.session);
        self.change_sessions(
            async move { store.refresh_session(rotation).await },
            move |_| vec![id],
        )
        .await
    }

    async fn end_sessions(&self, user: UserId, which: SessionSelector) -> Result<Vec<SessionId>> {
        let store = Arc::clone(&self.store);
        self.change_sessions(
            async move { store.end_sessions(user, which).await },
            Clone::clone,
        )
        .await
    }

    async fn live_sessions(&self, ids: Vec<SessionId>) -> Result<Vec<SessionId>> {
        self.store.live_sessions(ids).await
    }

    async fn delete_user(&self, id: UserId, at: Timestamp) -> Result<bool> {
        let (store, deletions) = (Arc::clone(&self.store), Arc::clone(&self.deletions));
        let delete = async move {
            let deleted = store.delete_user(id, at).await;
            // Also after a failure, since the deletion may have taken effect nonetheless.
            deletions.fetch_add(1, Ordering::Release);
            deleted
        };
        self.change_user(id, delete).await
    }

    async fn find_or_add_room(&self, room: Room) -> Result<(Arc<Room>, bool)> {
        self.store.find_or_add_room(room).await
    }

    async fn room(&self, id: RoomId) -> Result<Option<Arc<Room>>> {
        kept_or_loaded(&self.rooms, id, async || self.store.room(id).await).await
    }

    /// For a small room, uses the cached users.
    async fn absent(&self, room: &Arc<Room>) -> Result<Arc<[UserId]>> {
        if !is_large(room) {
            let people = self.users_by_id(&room.members).await?;
            return Ok(people
                .iter()
                .filter(|user| user.deleted)
                .map(|user| user.id)
                .collect());
        }
        let deletions = self.deletions.load(Ordering::Acquire);
        let load = async |kept: Option<moka::Entry<_, Arc<Absent>>>| match kept {
            Some(kept) if kept.value().is_of(room, deletions) => Ok(Op::Nop),
            _ => {
                let users = self.store.absent(room).await?;
                Ok::<_, StoreError>(Op::Put(Arc::new(Absent {
                    room: Arc::clone(room),
                    users,
                    deletions,
                })))
            }
        };
        if let Some(kept) = self
            .absent
            .get(&room.id)
            .await
            .filter(|kept| kept.is_of(room, deletions))
        {
            return Ok(Arc::clone(&kept.users));
        }
        let entry = self
            .absent
            .entry(room.id)
            .and_try_compute_with(load)
            .await?
            .into_entry();
        Ok(entry.map_or_else(Arc::default, |entry| Arc::clone(&entry.into_value().users)))
    }

    async fn index_writers(&self) -> Result<()> {
        self.store.index_writers().await
    }

    async fn writers_in(&self, room: &Arc<Room>) -> Result<Vec<UserId>> {
        self.store.writers_in(room).await
    }

    async fn written_by(&self, user: UserId, rooms: &[Arc<Room>]) -> Result<Vec<RoomId>> {
        self.store.written_by(user, rooms).await
    }

    async fn delete_room(&self, id: RoomId) -> Result<Option<u64>> {
        let (store, rooms) = (Arc::clone(&self.store), self.rooms.clone());
        run_detached(async move {
            let mut deleted = None;
            let delete = async |_| {
                deleted = store.delete_room(id).await?;
                Ok::<_, StoreError>(Op::Remove)
            };
            rooms.entry(id).and_try_compute_with(delete).await?;
            Ok(deleted)
        })
        .await
    }

    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u64,
    ) -> Result<Vec<RoomId>> {
        self.store.rooms_of(user, after, limit).await
    }

    async fn departed(&self, since: Option<Timestamp>) -> Result<(Vec<Departed>, Timestamp)> {
        let (departed, now) = self.store.departed(since).await?;
        for Departed { room, user, .. } in &departed {
            let forget = async |kept: Option<moka::Entry<_, Arc<Room>>>| match kept {
                Some(kept) if kept.value().has_member(*user) => Op::Remove,
                _ => Op::Nop,
            };
            self.rooms.entry(*room).and_compute_with(forget).await;
        }
        Ok((departed, now))
    }

    async fn append(&self, batch: Vec<NewEntry>) -> Result<Vec<Appended>> {
        let changed: Vec<_> = batch
            .iter()
            .filter(|entry| entry.change.is_of_room())
            .map(|entry| entry.room)
            .collect();
        if changed.is_empty() {
            return self.store.append(batch).await;
        }
        let (store, rooms) = (Arc::clone(&self.store), self.rooms.clone());
        run_detached(async move {
            let appended = store.append(batch).await;
            // Also after a failure, since some entries may have been appended.
            for room in changed {
                rooms
                    .entry(room)
                    .and_compute_with(async |_| Op::Remove)
                    .await;
            }
            appended
        })
        .await
    }

    async fn messages(&self, room: RoomId, page: Page, limit: u64) -> Result<Vec<Message>> {
        self.store.messages(room, page, limit).await
    }

    async fn message(&self, id: MessageId) -> Result<Option<Message>> {
        self.store.message(id).await
    }

    async fn recents(&self, page: RoomPage) -> Result<Vec<ListedRoom>> {
        self.store.recents(page).await
    }

    async fn entries(
        &self,
        room: RoomId,
        after: Seq,
        up_to: Option<Seq>,
        limit: u64,
    ) -> Result<Vec<Entry>> {
        self.store.entries(room, after, up_to, limit).await
    }

    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>> {
        self.store.last_seqs(rooms).await
    }

    async fn mark_read(
        &self,
        room: RoomId,
        user: UserId,
        up_to: Option<Seq>,
        at: Timestamp,
    ) -> Result<Option<Marked>> {
        self.store.mark_read(room, user, up_to, at).await
    }

    async fn read_marks(
        &self,
        room: RoomId,
        readers: &[UserId],
        first: Seq,
        last: Seq,
    ) -> Result<Vec<ReadMark>> {
        self.store.read_marks(room, readers, first, last).await
    }

    async fn unread(&self, user: UserId, among: Option<&[RoomId]>) -> Result<Vec<Unread>> {
        self.store.unread(user, among).await
    }

    async fn search(&self, search: Search) -> Result<Found> {
        self.store.search(search).await
    }

    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32]> {
        self.store.token_secret(candidate).await
    }

    async fn update_last_seen(&self, users: Vec<(UserId, Timestamp)>) -> Result<()> {
        self.store.update_last_seen(users).await
    }

    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<(UserId, Timestamp)>> {
        self.store.last_seen(users).await
    }

    async fn latest(&self) -> Result<Option<Timestamp>> {
        self.store.latest().await
    }

    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    fn pending_effects(&self) -> usize {
        self.store.pending_effects()
    }

    async fn ping(&self) -> Result<()> {
        self.store.ping().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
