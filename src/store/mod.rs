//! What is kept, and what it means. [`Store`] is the specification; the modules below it say how.
//!
//! To add a store: implement [`Store`], name its URL scheme in [`open`], and run the contract suite of the tests against it.

mod cached;
mod entry;
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
        Credentials, Entry, Message, MessageId, PasswordHash, ReadMark, RefreshKey, Room, RoomId, Seq, Session, SessionId, Timestamp, User,
        UserId, Username,
    },
};

pub use cached::Cached;
pub use entry::{Appended, LogPosition, NewEntry, NewEntryKind};
pub use mongo::Mongo;
pub use search::{EntryPosition, Found, Scope, Search};
pub use sqlite::Sqlite;

/// Why a store could not answer. What is simply not there is `Ok(None)`, never an error.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or cannot write now; the same call may succeed later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The database answered something that it never should.
    #[error("the database failed: {0}")]
    Fault(String),
}

/// Why a store could not be opened, as one line for the person who starts the server.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there, and did not come in time: another start may succeed.
    #[error("{0}")]
    Absent(String),
    /// It cannot be used as it is, or the settings are wrong: somebody has to do something.
    #[error("{0}")]
    Unusable(String),
}

impl OpenError {
    /// What a start reports that failed so: absent is what may come back.
    pub(crate) fn because(error: &StoreError, text: String) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Absent(text),
            StoreError::Fault(_) => Self::Unusable(text),
        }
    }
}

/// What a store answers.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Which messages of a room are asked for. Deleted messages are never among them and do not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// The newest, after leaving out the `skip` newest.
    Newest {
        /// How many messages to leave out.
        skip: u64,
    },
    /// The newest before this entry.
    Before(Seq),
    /// The oldest after this entry.
    After(Seq),
}

/// How far somebody has read a room, and what that changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marked {
    /// How many messages of others became read.
    pub became_read: u64,
    /// The last entry that is read.
    pub last_read: Seq,
    /// How many messages of others are still unread behind it.
    pub unread: u64,
    /// The mark that was appended; none when it had been read that far already.
    pub mark: Option<ReadMark>,
}

/// What somebody has not read in a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unread {
    /// The room.
    pub room: RoomId,
    /// How many messages of others, written since the user came into the room, stand behind what they have read. Deleted ones do not count.
    pub unread: u64,
    /// The last entry of the room's log; 0 when it is empty.
    pub last_seq: Seq,
}

/// Somebody who was taken out of a room.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Departed {
    /// The room.
    pub room: RoomId,
    /// Who was in it.
    pub user: UserId,
    /// The entry that says so.
    pub seq: Seq,
}

/// The new names of a user, those that change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserUpdate {
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
}

/// How long the refresh token that was used last gives its successor again, in milliseconds.
pub const REPEAT_WINDOW: i64 = 10_000;

/// A refresh token that was handed in, and what is to follow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rotation {
    /// The session that the token names.
    pub session: SessionId,
    /// The token.
    pub key: RefreshKey,
    /// The secrets (as SHA-256) of the tokens that may follow it. The first takes its place; by the others it is known that one has.
    pub successors: Vec<[u8; 32]>,
    /// When it was handed in.
    pub at: Timestamp,
    /// When the session is over then.
    pub expires_at: Timestamp,
}

impl Rotation {
    /// From when to when the session has to have been refreshed for the former token to count as repeated. The other server's clock may be
    /// ahead of ours, but a clock that was set back must not keep the former token good for long.
    fn window(&self) -> (Timestamp, Timestamp) {
        (Timestamp(self.at.0.saturating_sub(REPEAT_WINDOW)), Timestamp(self.at.0.saturating_add(REPEAT_WINDOW)))
    }
}

/// What came of a refresh token that was handed in. With it stands the secret of the session's latest token, where one has to be known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refresh {
    /// It was the session's latest, and another has taken its place.
    Renewed(Arc<Session>, [u8; 32]),
    /// It was the one before the latest, and used less than [`REPEAT_WINDOW`] ago. Nothing was changed.
    Repeated(Arc<Session>, [u8; 32]),
    /// It was an earlier one, so somebody has a copy. The session has been ended.
    Replayed(Arc<Session>),
    /// It is none, or its session is over.
    Unknown,
}

/// Which part of the list of a user's rooms is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoomPage {
    /// Whose rooms.
    pub user: UserId,
    /// Whether a message that was posted before the user came into the room counts as none.
    pub since_joined: bool,
    /// Whether rooms without a message are listed, by their creation; else they are left out.
    pub with_empty: bool,
    /// How many rooms to leave out.
    pub skip: u64,
    /// The most rooms on the page.
    pub limit: u64,
}

/// A room in the list of a user's rooms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedRoom {
    /// The room.
    pub room: RoomId,
    /// Its latest message, if it has one.
    pub latest: Option<Message>,
}

/// Which of a user's sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionSelector {
    /// This one.
    One(SessionId),
    /// All of them.
    All,
    /// All others than this.
    AllBut(SessionId),
}

/// Where a listing of users goes on: behind the user created then, with that id.
pub type UserCursor = (Timestamp, UserId);

/// Everything that Causerie keeps.
///
/// Every method is atomic: it happens whole or not at all, also when the process is killed inside it. What a method that writes has
/// answered is on disk. Calls may run at once, from any number of tasks. A call that fails as [unavailable](StoreError::Unavailable), or
/// whose future is dropped, may have happened all the same.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Adds a user. The id is new. False when somebody else has the username; then nothing is added.
    async fn add_user(&self, user: User, credentials: Option<Credentials>) -> Result<bool>;

    /// The user with this id, unless there is none or it was deleted.
    async fn user(&self, id: UserId) -> Result<Option<Arc<User>>>;

    /// The users with these ids, deleted ones included, in the order of `ids`; ids that were never used are left out.
    async fn users_by_id(&self, ids: &[UserId]) -> Result<Vec<Arc<User>>>;

    /// Up to `limit` users that are not deleted, oldest first (by `created_at`, then id), from behind `after`, leaving out the first
    /// `skip` of them.
    async fn list_users(&self, after: Option<UserCursor>, skip: u64, limit: u64) -> Result<Vec<User>>;

    /// Gives a user who is not deleted other names, where they are given. `None` when there is no such user.
    async fn rename_user(&self, id: UserId, names: UserUpdate, at: Timestamp) -> Result<Option<Arc<User>>>;

    /// Who has this username, and the hash of their password.
    async fn account(&self, username: &Username) -> Result<Option<(UserId, PasswordHash)>>;

    /// The credentials of a user; `None` for one who has none.
    async fn credentials(&self, user: UserId) -> Result<Option<Credentials>>;

    /// Gives a user another password in the place of `former`. False when there is no such user, or the password is not that one any more.
    async fn set_password(&self, user: UserId, former: PasswordHash, password: PasswordHash) -> Result<bool>;

    /// Adds a session for a user who has this password still; `None` when they have not. Where the user has more than [`MOST_SESSIONS`] then,
    /// the oldest are ended; answers which.
    async fn add_session(&self, session: Session, key: RefreshKey, password: PasswordHash) -> Result<Option<Vec<SessionId>>>;

    /// The session with this id, unless it was ended.
    async fn session(&self, id: SessionId) -> Result<Option<Arc<Session>>>;

    /// The sessions of a user that are not over at the time given, the newest first.
    async fn sessions(&self, user: UserId, at: Timestamp) -> Result<Vec<Session>>;

    /// Replaces the refresh token of a session that is not over, if it is its latest; ends the session, if it was an earlier one; see
    /// [`Refresh`].
    async fn refresh_session(&self, rotation: Rotation) -> Result<Refresh>;

    /// Ends sessions of a user. Answers which there were.
    async fn end_sessions(&self, user: UserId, which: SessionSelector) -> Result<Vec<SessionId>>;

    /// Which of these sessions have not been ended, by whichever server.
    async fn live_sessions(&self, ids: Vec<SessionId>) -> Result<Vec<SessionId>>;

    /// Deletes a user with the sessions, and erases the names and the credentials, by which the username is free again. False when there
    /// was none.
    async fn delete_user(&self, id: UserId, at: Timestamp) -> Result<bool>;

    /// The room of the same kind with the same members, or else this one, added. True when it was added. However many callers ask at
    /// once, one room is added. A room with a name is always added; it, and one whose members have changed, is found by no members.
    async fn find_or_add_room(&self, room: Room) -> Result<(Arc<Room>, bool)>;

    /// The room with this id.
    async fn room(&self, id: RoomId) -> Result<Option<Arc<Room>>>;

    /// The members of a room who were deleted, ascending. They stay in [`Room::members`]: what they have written and read is still shown.
    async fn absent(&self, room: &Arc<Room>) -> Result<Arc<[UserId]>>;

    /// Makes the store ready for [`writers_in`](Self::writers_in) and [`written_by`](Self::written_by), which may fail without it. It may
    /// take long, and makes appending slower.
    async fn index_writers(&self) -> Result<()>;

    /// The members of a room who have put an entry into its log since they came into it, ascending.
    async fn writers_in(&self, room: &Arc<Room>) -> Result<Vec<UserId>>;

    /// Those of these rooms in whose log the user has put an entry since they came into it.
    async fn written_by(&self, user: UserId, rooms: &[Arc<Room>]) -> Result<Vec<RoomId>>;

    /// Deletes a room with its log and its read marks. Answers how many messages it had; `None` when there was no room.
    async fn delete_room(&self, id: RoomId) -> Result<Option<u64>>;

    /// The rooms that a user is in, at most `limit`, ascending, from behind `after`.
    async fn rooms_of(&self, user: UserId, after: Option<RoomId>, limit: u64) -> Result<Vec<RoomId>>;

    /// Who was taken out of a room since then, by whichever server, and is not in it now; and the time up to which that is told, by the
    /// clock of the database. Some are told twice. Without `since` only the time; nobody, where no other server works on the database.
    async fn departed(&self, since: Option<Timestamp>) -> Result<(Vec<Departed>, Timestamp)>;

    /// Appends entries to the logs of their rooms, in the order given, and does what they say: the text of a deleted message is erased
    /// and its number stays taken, that of an edited one is replaced, members come and go, the room is renamed. Each entry gets the next
    /// `seq` of its room. One that may not be, or would change nothing, takes no number and does nothing; see [`Appended`]. When the call
    /// fails, some of them may have been appended.
    async fn append(&self, batch: Vec<NewEntry>) -> Result<Vec<Appended>>;

    /// One page of a room, at most `limit` messages, ascending by `seq`. The cost is that of the page, wherever in the log it lies.
    async fn messages(&self, room: RoomId, page: Page, limit: u64) -> Result<Vec<Message>>;

    /// The message with this id, unless it or its room was deleted.
    async fn message(&self, id: MessageId) -> Result<Option<Message>>;

    /// A page of the user's rooms, each with its latest message, the latest first.
    async fn recents(&self, page: RoomPage) -> Result<Vec<ListedRoom>>;

    /// The entries of a room behind `after`, up to `up_to` if it is given, at most `limit`: all of them, without a hole. The messages
    /// that they are about are told as they are now.
    async fn entries(&self, room: RoomId, after: Seq, up_to: Option<Seq>, limit: u64) -> Result<Vec<Entry>>;

    /// Where the logs of these rooms end, in the order of `rooms`: 0 for an empty one; rooms that are not there are left out.
    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>>;

    /// Marks as read by `user` what stands in the room's log up to `up_to`, or up to its end as it is now, and nothing that comes later;
    /// at the time given, or that of the last entry read where it is later: nothing is read before it was written. What was read stays
    /// read, whatever `up_to` says. `None` when there is no such room or the user is not in it.
    async fn mark_read(&self, room: RoomId, user: UserId, up_to: Option<Seq>, at: Timestamp) -> Result<Option<Marked>>;

    /// For each of `readers` the marks in which entries `first..=last` were first read: ascending from the first mark at or after
    /// `first` to the first at or after `last`.
    async fn read_marks(&self, room: RoomId, readers: &[UserId], first: Seq, last: Seq) -> Result<Vec<ReadMark>>;

    /// What the user has not read, in each of their rooms, or in those of `among` that they are in. In no order.
    async fn unread(&self, user: UserId, among: Option<&[RoomId]>) -> Result<Vec<Unread>>;

    /// Messages with these words, the newest first, in the order of their [places](Place). Every message that was posted before the call is
    /// among those that are looked through, as it is now: what it said before an edit finds nothing, nor does one that was deleted. It costs
    /// as much as the rooms in question and what is found in them; messages in other rooms cost nothing.
    async fn search(&self, search: Search) -> Result<Found>;

    /// The key that signs tokens: `candidate` if none was kept yet, and from then on always the same.
    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32]>;

    /// Notes when users were last there; what is noted already and later stays.
    async fn update_last_seen(&self, users: Vec<(UserId, Timestamp)>) -> Result<()>;

    /// When these users were last there, those of whom it is known. In no order.
    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<(UserId, Timestamp)>>;

    /// The time of the latest entry, room or user, as the ids say that Causerie gave them; `None` when there is none.
    async fn latest(&self) -> Result<Option<Timestamp>>;

    /// Whether other servers may work on the same database at the same time.
    fn is_shared(&self) -> bool;

    /// How many entries stand in the logs whose effects could not be applied yet, as far as this server knows.
    fn pending_effects(&self) -> usize {
        0
    }

    /// Answers when the database does.
    async fn ping(&self) -> Result<()>;

    /// Finishes what is under way and closes the database. Calls after it fail.
    async fn close(&self);
}

/// How many sessions a user can have. Who logs in on and on, and never out, loses the oldest.
pub const MOST_SESSIONS: usize = 100;

/// Up to this many members a room's latest activity is noted down for each of them; in a larger one that would cost too much with every post.
const SMALL: usize = 100;

/// Whether the room has so many members that its activity is not noted down for each.
fn is_large(room: &Room) -> bool {
    room.members.len() > SMALL
}

/// Finds a room by its kind and members: their SHA-256.
fn member_key(room: &Room) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(room.kind.as_str());
    for member in &room.members {
        hash.update(member.as_bytes());
    }
    hash.finalize().into()
}

/// Opens the store that `url` names beside a server that may be running on it, to add something. Nothing is cached.
pub async fn open_shared(url: &DatabaseUrl, mongodb: &MongoConfig) -> std::result::Result<Arc<dyn Store>, OpenError> {
    match url.reveal().split_once(':') {
        Some(("sqlite", path)) => Ok(Arc::new(Sqlite::open_shared(path.into()).await?)),
        Some(("mongodb" | "mongodb+srv", _)) => Ok(Arc::new(Mongo::open(url, mongodb).await?)),
        _ => Err(unknown(url)),
    }
}

/// Opens the store that `url` names, with the users and rooms in use cached in front of it.
pub async fn open(url: &DatabaseUrl, mongodb: &MongoConfig) -> std::result::Result<Arc<dyn Store>, OpenError> {
    match url.reveal().split_once(':') {
        Some(("sqlite", path)) => Ok(Arc::new(Cached::new(Sqlite::open(path.into()).await?))),
        Some(("mongodb" | "mongodb+srv", _)) => Ok(Arc::new(Cached::new(Mongo::open(url, mongodb).await?))),
        _ => Err(unknown(url)),
    }
}

fn unknown(url: &DatabaseUrl) -> OpenError {
    OpenError::Unusable(format!("database: '{url}' is neither sqlite:PATH nor mongodb://HOST/NAME"))
}
