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
mod check;
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
mod transfer;
mod users;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::config::{DatabaseUrl, MongoConfig};

pub use check::Check;
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
pub use sqlite::{Sqlite, back_up, restore};
pub use transfer::{
    ChangeRecord, EntryRecord, Export, Import, ImportStart, ImportedLog, MarkRecord, RoomRecord,
    RoomTotals, Transfer, UserRecord,
};
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
    /// Exporting and importing all data.
    pub transfer: Arc<dyn Transfer>,
    /// Checking all data.
    pub check: Arc<dyn Check>,
    /// The database as a whole.
    pub database: Arc<dyn Database>,
}

impl Store {
    /// Creates a store that keeps everything in one database.
    pub fn new<D>(database: D) -> Self
    where
        D: Users + Accounts + Sessions + Rooms + Memberships + Log + History,
        D: ReadMarks + Search + Presence + Transfer + Check + Database + 'static,
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
            transfer: database.clone(),
            check: database.clone(),
            database,
        }
    }
}

/// How a database is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OpenMode {
    /// By a server.
    Server,
    /// While a server may be running on it.
    Shared,
    /// For an import, while no server may be running on it.
    Import,
}

/// Opens the store at `url`, with a cache for users, rooms and sessions in front of it.
pub async fn open(
    url: &DatabaseUrl,
    mongodb: &MongoConfig,
) -> std::result::Result<Store, OpenError> {
    let store = open_uncached(url, mongodb, OpenMode::Server).await?;
    refuse_unfinished_import(store).await.map(cached::cached)
}

/// Opens the store at `url` while a server may be running on it, in order to read or add data.
/// Nothing is cached.
pub async fn open_shared(
    url: &DatabaseUrl,
    mongodb: &MongoConfig,
) -> std::result::Result<Store, OpenError> {
    let store = open_uncached(url, mongodb, OpenMode::Shared).await?;
    refuse_unfinished_import(store).await
}

/// Opens the store at `url` in order to import data. A server on a SQLite database prevents this; a
/// server on a MongoDB database is not noticed.
pub async fn open_for_import(
    url: &DatabaseUrl,
    mongodb: &MongoConfig,
) -> std::result::Result<Store, OpenError> {
    open_uncached(url, mongodb, OpenMode::Import).await
}

/// Returns the store, or closes it if only a part of its data has been imported.
async fn refuse_unfinished_import(store: Store) -> std::result::Result<Store, OpenError> {
    let problem = match store.transfer.is_importing().await {
        Ok(false) => return Ok(store),
        Ok(true) => OpenError::Unusable(
            "database: an import into it has not finished: run the same import again".into(),
        ),
        Err(error) => OpenError::because(&error, format!("database: {error}")),
    };
    store.database.close().await;
    Err(problem)
}

/// The future is boxed so that the code of both stores is generated in this crate only; otherwise
/// every binary and every test that opens a store would generate it again.
fn open_uncached<'a>(
    url: &'a DatabaseUrl,
    mongodb: &'a MongoConfig,
    mode: OpenMode,
) -> BoxFuture<'a, std::result::Result<Store, OpenError>> {
    Box::pin(async move {
        match url.reveal().split_once(':') {
            Some(("sqlite", path)) => {
                let path = path.into();
                let opened = match mode {
                    OpenMode::Server => Sqlite::open(path).await,
                    OpenMode::Shared => Sqlite::open_shared(path).await,
                    OpenMode::Import => Sqlite::open_for_import(path).await,
                };
                opened.map(Store::new)
            }
            Some(("mongodb" | "mongodb+srv", _)) => {
                Ok(Store::new(Mongo::open(url, mongodb).await?))
            }
            _ => Err(OpenError::Unusable(format!(
                "database: '{url}' is neither sqlite:PATH nor mongodb://HOST/NAME"
            ))),
        }
    })
}
