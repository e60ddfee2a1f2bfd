//! The [`Store`] trait, which specifies what the server stores, and its implementations: SQLite,
//! MongoDB and a cache in front of either.
//!
//! To add a store: implement [`Store`], add its URL scheme to [`open`], and run the contract suite
//! in the tests against it.

mod cached;
mod entry;
mod error;
mod mongo;
mod offset_seek;
mod search;
mod sqlite;

use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use crate::{
    config::{DatabaseUrl, MongoConfig},
    model::{
        Credentials, Entry, Message, MessageId, PasswordHash, ReadMark, RefreshKey, Room, RoomId,
        Seq, Session, SessionId, Timestamp, User, UserId, Username,
    },
};

pub use cached::Cached;
pub use entry::{Appended, LogPosition, NewEntry, NewEntryKind};
pub use error::{OpenError, Result, StoreError};
pub use mongo::Mongo;
pub use search::{EntryPosition, Found, Scope, Search};
pub use sqlite::Sqlite;

/// Which messages of a room to return. Deleted messages are never returned or counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// The newest messages, after skipping the `skip` newest.
    Newest {
        /// The number of messages to skip.
        skip: u64,
    },
    /// The newest messages before this log entry.
    Before(Seq),
    /// The oldest messages after this log entry.
    After(Seq),
}

/// The result of marking a room as read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marked {
    /// The number of messages of other users that became read.
    pub became_read: u64,
    /// The last log entry that is read.
    pub last_read: Seq,
    /// The number of messages of other users after `last_read`, which are still unread.
    pub unread: u64,
    /// The read mark that was added; `None` if the user had already read that far.
    pub mark: Option<ReadMark>,
}

/// A user's unread count in a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unread {
    /// The room.
    pub room: RoomId,
    /// The number of messages of other users that were posted since the user joined the room and
    /// come after the user's last read mark. Deleted messages do not count.
    pub unread: u64,
    /// The last entry of the room's log; 0 if the log is empty.
    pub last_seq: Seq,
}

/// A user who was removed from a room.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Departed {
    /// The room.
    pub room: RoomId,
    /// The user.
    pub user: UserId,
    /// The log entry that records the removal.
    pub seq: Seq,
}

/// The names of a user to change; `None` leaves a name as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserUpdate {
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
}

/// For how long the last used refresh token still returns its successor, in milliseconds.
pub const REPEAT_WINDOW: i64 = 10_000;

/// A refresh token that a client presented, and what replaces it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rotation {
    /// The session that the token belongs to.
    pub session: SessionId,
    /// The presented token.
    pub key: RefreshKey,
    /// The secrets (as SHA-256) of the tokens that may follow this one. The first replaces it; the
    /// others serve to recognize that one of them already has.
    pub successors: Vec<[u8; 32]>,
    /// When the token was presented.
    pub at: Timestamp,
    /// The session's new expiry time.
    pub expires_at: Timestamp,
}

impl Rotation {
    /// Returns the range in which the session must have been last refreshed for the previous token
    /// to count as repeated. The range extends into the future because another server's clock may
    /// be ahead; it is limited so that a clock that was set back does not keep the previous token
    /// valid for long.
    fn window(&self) -> (Timestamp, Timestamp) {
        (
            Timestamp(self.at.0.saturating_sub(REPEAT_WINDOW)),
            Timestamp(self.at.0.saturating_add(REPEAT_WINDOW)),
        )
    }
}

/// The result of presenting a refresh token. The secret is that of the session's latest token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refresh {
    /// The token was the session's latest and was replaced.
    Renewed(Arc<Session>, [u8; 32]),
    /// The token was the one before the latest, and was used less than [`REPEAT_WINDOW`] ago.
    /// Nothing was changed.
    Repeated(Arc<Session>, [u8; 32]),
    /// The token was an earlier one, or the one before the latest and used too late, so it has
    /// probably been copied. The session was ended.
    Replayed(Arc<Session>),
    /// No session has such a token, or the session has expired.
    Unknown,
}

/// Which page of a user's room list to return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoomPage {
    /// The user whose rooms are listed.
    pub user: UserId,
    /// Whether to ignore messages that were posted before the user joined the room.
    pub since_joined: bool,
    /// Whether to include rooms without a message, ordered by their creation time.
    pub with_empty: bool,
    /// The number of rooms to skip.
    pub skip: u64,
    /// The maximum number of rooms on the page.
    pub limit: u64,
}

/// A room in a user's room list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedRoom {
    /// The room.
    pub room: RoomId,
    /// The latest message of the room, if any.
    pub latest: Option<Message>,
}

/// Which of a user's sessions to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionSelector {
    /// This session.
    One(SessionId),
    /// All sessions.
    All,
    /// All sessions except this one.
    AllBut(SessionId),
}

/// Where a listing of users continues: after the user with this creation time and id.
pub type UserCursor = (Timestamp, UserId);

/// The persistent storage of the server.
///
/// Every method is atomic, also when the process is killed while it runs. When a method that writes
/// returns, its changes are on disk. Methods may be called concurrently from any number of tasks. A
/// call that fails as [unavailable](StoreError::Unavailable), or whose future is dropped, may have
/// taken effect nonetheless.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Adds a user with a new id. Returns false, and adds nothing, if the username is taken.
    async fn add_user(&self, user: User, credentials: Option<Credentials>) -> Result<bool>;

    /// Returns the user with this id, or `None` if there is no such user or the user was deleted.
    async fn user(&self, id: UserId) -> Result<Option<Arc<User>>>;

    /// Returns the users with these ids, including deleted ones, in the order of `ids`. Unknown ids
    /// are skipped.
    async fn users_by_id(&self, ids: &[UserId]) -> Result<Vec<Arc<User>>>;

    /// Lists up to `limit` users that are not deleted, oldest first (by `created_at`, then id),
    /// starting after `after` and skipping the first `skip`.
    async fn list_users(
        &self,
        after: Option<UserCursor>,
        skip: u64,
        limit: u64,
    ) -> Result<Vec<User>>;

    /// Changes the given names of a user. Returns `None` if there is no such user or the user was
    /// deleted.
    async fn rename_user(
        &self,
        id: UserId,
        names: UserUpdate,
        at: Timestamp,
    ) -> Result<Option<Arc<User>>>;

    /// Returns the id and the password hash of the user with this username.
    async fn account(&self, username: &Username) -> Result<Option<(UserId, PasswordHash)>>;

    /// Returns the credentials of a user; `None` if the user has none.
    async fn credentials(&self, user: UserId) -> Result<Option<Credentials>>;

    /// Replaces the password `former` of a user. Returns false if there is no such user or the
    /// user's password is no longer `former`.
    async fn set_password(
        &self,
        user: UserId,
        former: PasswordHash,
        password: PasswordHash,
    ) -> Result<bool>;

    /// Adds a session if the user still has this password; returns `None` if not. If the user then
    /// has more than [`MAX_SESSIONS`] sessions, the oldest are ended; their ids are returned.
    async fn add_session(
        &self,
        session: Session,
        key: RefreshKey,
        password: PasswordHash,
    ) -> Result<Option<Vec<SessionId>>>;

    /// Returns the session with this id, unless it has ended.
    async fn session(&self, id: SessionId) -> Result<Option<Arc<Session>>>;

    /// Returns the sessions of a user that have not expired at `at`, newest first.
    async fn sessions(&self, user: UserId, at: Timestamp) -> Result<Vec<Session>>;

    /// Replaces the refresh token of a session that has not expired if it is the latest token, or
    /// ends the session if it is an earlier one; see [`Refresh`].
    async fn refresh_session(&self, rotation: Rotation) -> Result<Refresh>;

    /// Ends sessions of a user. Returns the ids of those that existed.
    async fn end_sessions(&self, user: UserId, which: SessionSelector) -> Result<Vec<SessionId>>;

    /// Returns those of the given sessions that have not been ended by any server.
    async fn live_sessions(&self, ids: Vec<SessionId>) -> Result<Vec<SessionId>>;

    /// Deletes a user and the user's sessions, and erases the names and the credentials, so that
    /// the username becomes available again. Returns false if there was no such user.
    async fn delete_user(&self, id: UserId, at: Timestamp) -> Result<bool>;

    /// Returns the room of the same kind with the same members, or adds this one; true if it was
    /// added. Concurrent calls add only one room. A room with a name is always added. A room that
    /// has a name, or whose members have changed, is never found by its members.
    async fn find_or_add_room(&self, room: Room) -> Result<(Arc<Room>, bool)>;

    /// Returns the room with this id.
    async fn room(&self, id: RoomId) -> Result<Option<Arc<Room>>>;

    /// Returns the deleted users among the members of a room, ascending. They remain in
    /// [`Room::members`], because their messages and read marks are still shown.
    async fn absent(&self, room: &Arc<Room>) -> Result<Arc<[UserId]>>;

    /// Prepares the store for [`writers_in`](Self::writers_in) and
    /// [`written_by`](Self::written_by), which may fail without it. This may take long, and makes
    /// appending slower.
    async fn index_writers(&self) -> Result<()>;

    /// Returns the members who have added an entry to the room's log since they joined, ascending.
    async fn writers_in(&self, room: &Arc<Room>) -> Result<Vec<UserId>>;

    /// Returns those of the given rooms to whose log the user has added an entry since joining.
    async fn written_by(&self, user: UserId, rooms: &[Arc<Room>]) -> Result<Vec<RoomId>>;

    /// Deletes a room with its log and its read marks. Returns the number of messages it had;
    /// `None` if there was no such room.
    async fn delete_room(&self, id: RoomId) -> Result<Option<u64>>;

    /// Returns up to `limit` of the rooms that the user is a member of, ascending, starting after
    /// `after`.
    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u64,
    ) -> Result<Vec<RoomId>>;

    /// Returns the users that any server has removed from a room since `since` and who are not
    /// members now, and the database time up to which the list is complete. Some removals may be
    /// reported twice. Without `since`, only the time is returned. The list is empty if no other
    /// server can work on the database.
    async fn departed(&self, since: Option<Timestamp>) -> Result<(Vec<Departed>, Timestamp)>;

    /// Appends entries to the logs of their rooms, in the given order, and applies their effects:
    /// the text of a deleted message is erased while its sequence number stays in use, the text of
    /// an edited message is replaced, members are added and removed, the room is renamed. Each
    /// entry gets the next `seq` of its room. An entry that is not permitted, or that would change
    /// nothing, gets no sequence number and has no effect; see [`Appended`]. If the call fails,
    /// some of the entries may have been appended.
    async fn append(&self, batch: Vec<NewEntry>) -> Result<Vec<Appended>>;

    /// Returns one page of a room: at most `limit` messages, ascending by `seq`. The cost depends
    /// on the size of the page, not on its position in the log.
    async fn messages(&self, room: RoomId, page: Page, limit: u64) -> Result<Vec<Message>>;

    /// Returns the message with this id, unless it or its room was deleted.
    async fn message(&self, id: MessageId) -> Result<Option<Message>>;

    /// Returns a page of the user's rooms, each with its latest message, most recent first.
    async fn recents(&self, page: RoomPage) -> Result<Vec<ListedRoom>>;

    /// Returns the log entries of a room after `after`, up to `up_to` if given, at most `limit`,
    /// without gaps. Messages that the entries refer to are returned in their current state.
    async fn entries(
        &self,
        room: RoomId,
        after: Seq,
        up_to: Option<Seq>,
        limit: u64,
    ) -> Result<Vec<Entry>>;

    /// Returns the last sequence number of each of these rooms, in the order of `rooms`: 0 for an
    /// empty log. Rooms that do not exist are skipped.
    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>>;

    /// Marks the room's log as read by `user` up to `up_to`, but not beyond the current end of the
    /// log, which is also the default. The read time is `at`, or the time of the last entry read if
    /// that is later: nothing is read before it was written. A lower `up_to` does not make read
    /// entries unread. Returns `None` if there is no such room or the user is not a member.
    async fn mark_read(
        &self,
        room: RoomId,
        user: UserId,
        up_to: Option<Seq>,
        at: Timestamp,
    ) -> Result<Option<Marked>>;

    /// Returns, for each of `readers`, the read marks by which the entries `first..=last` were
    /// first read: ascending, from the first mark at or after `first` to the first at or after
    /// `last`.
    async fn read_marks(
        &self,
        room: RoomId,
        readers: &[UserId],
        first: Seq,
        last: Seq,
    ) -> Result<Vec<ReadMark>>;

    /// Returns the user's unread counts in all of their rooms, or in those of `among` that they are
    /// a member of. The order is unspecified.
    async fn unread(&self, user: UserId, among: Option<&[RoomId]>) -> Result<Vec<Unread>>;

    /// Searches for messages that contain all the given words, newest first, ordered by
    /// [position](EntryPosition). Every message that was posted before the call is searched in its
    /// current state: deleted messages and texts replaced by an edit are not found. The cost
    /// depends on the number of rooms searched and of matches in them, not on messages in other
    /// rooms.
    async fn search(&self, search: Search) -> Result<Found>;

    /// Returns the key that signs tokens: the stored key, or `candidate`, which is stored if there
    /// is none yet.
    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32]>;

    /// Records when users were last seen. A later time that is already stored is kept.
    async fn update_last_seen(&self, users: Vec<(UserId, Timestamp)>) -> Result<()>;

    /// Returns when these users were last seen; users without a stored time are skipped. The order
    /// is unspecified.
    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<(UserId, Timestamp)>>;

    /// Returns the time of the latest entry, room or user, derived from the ids that the server
    /// generated; `None` if there is none.
    async fn latest(&self) -> Result<Option<Timestamp>>;

    /// Returns whether other servers may work on the same database at the same time.
    fn is_shared(&self) -> bool;

    /// Returns the number of log entries whose effects could not be applied yet, as far as this
    /// server knows.
    fn pending_effects(&self) -> usize {
        0
    }

    /// Returns `Ok` if the database responds.
    async fn ping(&self) -> Result<()>;

    /// Finishes pending operations and closes the database. Later calls fail.
    async fn close(&self);
}

/// The maximum number of sessions of a user. Further logins end the oldest sessions.
pub const MAX_SESSIONS: usize = 100;

/// Up to this number of members, the latest activity of a room is stored for each member. In a
/// larger room, this would make every post too expensive.
const SMALL: usize = 100;

/// Returns whether the room has too many members to store its latest activity for each of them.
fn is_large(room: &Room) -> bool {
    room.members.len() > SMALL
}

/// Returns the key by which a room is found by its members: the SHA-256 of its kind and members.
fn member_key(room: &Room) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(room.kind.as_str());
    for member in &room.members {
        hash.update(member.as_bytes());
    }
    hash.finalize().into()
}

/// Opens the store at `url` while a server may be running on it, in order to add data. Nothing is
/// cached.
pub async fn open_shared(
    url: &DatabaseUrl,
    mongodb: &MongoConfig,
) -> std::result::Result<Arc<dyn Store>, OpenError> {
    match url.reveal().split_once(':') {
        Some(("sqlite", path)) => Ok(Arc::new(Sqlite::open_shared(path.into()).await?)),
        Some(("mongodb" | "mongodb+srv", _)) => Ok(Arc::new(Mongo::open(url, mongodb).await?)),
        _ => Err(unknown(url)),
    }
}

/// Opens the store at `url`, with a cache for users, rooms and sessions in front of it.
pub async fn open(
    url: &DatabaseUrl,
    mongodb: &MongoConfig,
) -> std::result::Result<Arc<dyn Store>, OpenError> {
    match url.reveal().split_once(':') {
        Some(("sqlite", path)) => Ok(Arc::new(Cached::new(Sqlite::open(path.into()).await?))),
        Some(("mongodb" | "mongodb+srv", _)) => {
            Ok(Arc::new(Cached::new(Mongo::open(url, mongodb).await?)))
        }
        _ => Err(unknown(url)),
    }
}

fn unknown(url: &DatabaseUrl) -> OpenError {
    OpenError::Unusable(format!(
        "database: '{url}' is neither sqlite:PATH nor mongodb://HOST/NAME"
    ))
}
