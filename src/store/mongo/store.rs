//! The store in a MongoDB database: what it consists of, and opening it.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{
    appender::Appender, background::BackgroundTasks, connection::Connection, effects, schema,
    search_index, unread::AuthorCountCache,
};
use crate::{
    config::{DatabaseUrl, MongoConfig},
    store::{OpenError, StoreError, search::IndexQueue},
};

/// A store in a MongoDB database.
pub struct Mongo {
    pub(super) connection: Connection,
    /// The client for appending, created by the first append. The driver's background tasks run on
    /// the runtime that creates the client. The timeline has a thread of its own, and there these
    /// tasks do not queue behind those of requests.
    pub(super) append_connection: OnceCell<Connection>,
    pub(super) appender: Arc<Appender>,
    /// The cache of how many of a user's unread entries are the user's own.
    pub(super) author_counts: AuthorCountCache,
    /// The rooms with messages that are to be indexed for search.
    pub(super) to_index: Arc<IndexQueue>,
    /// The state of the search index.
    pub(super) search_index: Arc<search_index::State>,
    pub(super) background: BackgroundTasks,
}

impl Mongo {
    /// Connects to the database, waits for it if it is not reachable yet, and prepares it.
    pub async fn open(
        url: &DatabaseUrl,
        config: &MongoConfig,
    ) -> std::result::Result<Self, OpenError> {
        let failed = |error: StoreError| OpenError::because(&error, format!("database: {error}"));
        let connection = Connection::open(url, config).await?;
        schema::prepare(&connection).await?;
        // Pending effects must be known before the first read. Those that fit into the time limit
        // are applied now.
        effects::apply_pending(&connection, None)
            .await
            .map_err(failed)?;
        let search_index = Arc::<search_index::State>::default();
        search_index.load(&connection).await.map_err(failed)?;
        let to_index = Arc::<IndexQueue>::default();
        let appender = Arc::new(Appender::new());
        let background = BackgroundTasks::start(&connection, &appender, &search_index, &to_index);
        Ok(Self {
            connection,
            append_connection: OnceCell::new(),
            appender,
            author_counts: AuthorCountCache::new(),
            to_index,
            search_index,
            background,
        })
    }
}
