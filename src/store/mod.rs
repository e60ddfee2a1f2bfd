//! The stored data: one trait per noun, which specifies what the data means, and the databases that
//! implement them: SQLite and MongoDB. `cached` keeps users, rooms and sessions in memory.
//!
//! When a method that writes returns, its changes are on disk. Every method is atomic unless it says
//! otherwise, also when the process is killed while it runs. Methods may be called concurrently from
//! any number of tasks. A call that fails as [unavailable](StoreError::Unavailable), or whose future
//! is dropped, may have taken effect nonetheless. A missing item is `Ok(None)`, not an error.
//!
//! To add a database: implement the traits, add its URL scheme to `open_uncached`, and run the
//! contract suite in the tests against it.

mod cached;
mod database;
mod entry;
mod error;
mod limit;
mod log;
mod mongo;
mod offset_seek;
mod read_marks;
mod rooms;
mod search;
mod sessions;
mod sqlite;
mod users;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::config::{DatabaseUrl, MongoConfig};

pub use database::{Database, Presence};
pub use entry::{Appended, LogPosition, NewEntry, NewEntryKind};
pub use error::{OpenError, Result, StoreError};
pub use limit::Limit;
pub use log::{History, ListedRoom, Log, Page, RoomPage};
pub use mongo::Mongo;
pub use read_marks::{Marked, ReadMarks, Unread};
pub use rooms::{Memberships, RemovedMember, Rooms};
pub use search::{EntryPosition, Found, Scope, Search, SearchQuery};
pub use sessions::{MAX_SESSIONS, REPEAT_WINDOW, Refresh, Rotation, SessionSelector, Sessions};
pub use sqlite::Sqlite;
pub use users::{Accounts, UserCursor, UserUpdate, Users};

use rooms::{is_large, member_key};

/// The stored data, by noun. Clones share it.
#[derive(Clone)]
pub struct Store {
    /// The users.
    pub users: Arc<dyn Users>,
    /// Their usernames and passwords.
    pub accounts: Arc<dyn Accounts>,
    /// Their sessions.
    pub sessions: Arc<dyn Sessions>,
    /// The rooms.
    pub rooms: Arc<dyn Rooms>,
    /// Which user is a member of which room.
    pub memberships: Arc<dyn Memberships>,
    /// Appending to the logs of the rooms.
    pub log: Arc<dyn Log>,
    /// Reading the logs of the rooms.
    pub history: Arc<dyn History>,
    /// Who has read up to where.
    pub read_marks: Arc<dyn ReadMarks>,
    /// Finding messages by their words.
    pub search: Arc<dyn Search>,
    /// When users were last seen.
    pub presence: Arc<dyn Presence>,
    /// The database as a whole.
    pub database: Arc<dyn Database>,
}

impl Store {
    /// Creates a store that keeps everything in one database.
    pub fn new<D>(database: D) -> Self
    where
        D: Users + Accounts + Sessions + Rooms + Memberships + Log + History,
        D: ReadMarks + Search + Presence + Database + 'static,
    {
        let database = Arc::new(database);
        Self {
            users: database.clone(),
            accounts: database.clone(),
            sessions: database.clone(),
            rooms: database.clone(),
            memberships: database.clone(),
            log: database.clone(),
            history: database.clone(),
            read_marks: database.clone(),
            search: database.clone(),
            presence: database.clone(),
            database,
        }
    }
}

/// Opens the store at `url`, with a cache for users, rooms and sessions in front of it.
pub async fn open(
    url: &DatabaseUrl,
    mongodb: &MongoConfig,
) -> std::result::Result<Store, OpenError> {
    open_uncached(url, mongodb, false).await.map(cached::cached)
}

/// Opens the store at `url` while a server may be running on it, in order to add data. Nothing is
/// cached.
pub async fn open_shared(
    url: &DatabaseUrl,
    mongodb: &MongoConfig,
) -> std::result::Result<Store, OpenError> {
    open_uncached(url, mongodb, true).await
}

/// The future is boxed so that the code of both stores is generated in this crate only; otherwise
/// every binary and every test that opens a store would generate it again.
fn open_uncached<'a>(
    url: &'a DatabaseUrl,
    mongodb: &'a MongoConfig,
    shared: bool,
) -> BoxFuture<'a, std::result::Result<Store, OpenError>> {
    Box::pin(async move {
        match url.reveal().split_once(':') {
            Some(("sqlite", path)) if shared => {
                Ok(Store::new(Sqlite::open_shared(path.into()).await?))
            }
            Some(("sqlite", path)) => Ok(Store::new(Sqlite::open(path.into()).await?)),
            Some(("mongodb" | "mongodb+srv", _)) => {
                Ok(Store::new(Mongo::open(url, mongodb).await?))
            }
            _ => Err(OpenError::Unusable(format!(
                "database: '{url}' is neither sqlite:PATH nor mongodb://HOST/NAME"
            ))),
        }
    })
}
