//! The connection to MongoDB: its options, the time limit, the classification of errors, and the
//! wait for the database at start.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use mongodb::{
    Client, Collection, Cursor, Database,
    bson::{Document, RawDocument, RawDocumentBuf, doc, rawdoc},
    error::{Error, ErrorKind},
    options::{
        Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
    },
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    config::{DatabaseUrl, MongoConfig},
    model::Timestamp,
    store::{OpenError, Result, StoreError},
};

use super::{
    failure::{UnsupportedVersion, failure, is_duplicate, plain, refusal, unusable},
    pending::Pending,
};

/// The database that is used when the URL names none.
const DEFAULT_DATABASE: &str = "causerie";

/// The maximum length of a database name, in bytes.
const MAX_DATABASE_NAME_BYTES: usize = 63;

/// How long an operation waits for a server that can execute it. A server restart that is shorter
/// than this causes no error.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// The pause between two connection attempts at start.
const CONNECT_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum size of the connection pool, unless the URL sets one.
const MAX_POOL_SIZE: u32 = 32;
/// The wire protocol version of MongoDB 4.4, the oldest release that the driver supports.
const OLDEST_WIRE_VERSION: i32 = 9;

/// An open connection, with its collections.
#[derive(Clone)]
pub struct Connection {
    options: Arc<ClientOptions>,
    client: Client,
    pub database: Database,
    pub users: Collection<RawDocumentBuf>,
    pub rooms: Collection<RawDocumentBuf>,
    pub messages: Collection<RawDocumentBuf>,
    pub marks: Collection<RawDocumentBuf>,
    /// How many entries of each block of a log each author posted.
    pub author_counts: Collection<RawDocumentBuf>,
    /// The sessions of users who logged in with a password.
    pub sessions: Collection<RawDocumentBuf>,
    /// The server's own documents: the schema version, the secret that signs tokens, leases and
    /// progress.
    pub metadata: Collection<RawDocumentBuf>,
    /// The time limit of one operation.
    pub limit: Duration,
    /// The write concern of commands that are built by hand.
    pub durable: RawDocumentBuf,
    /// Whether the database is a single server without a replica set. Data that is read from it may
    /// not be on disk yet.
    pub standalone: bool,
    /// The effects of entries that could not be applied yet.
    pub pending: Arc<Pending>,
}

impl Connection {
    /// Connects, and waits for a database that is not reachable yet.
    pub async fn open(
        url: &DatabaseUrl,
        config: &MongoConfig,
    ) -> std::result::Result<Self, OpenError> {
        let limit = Duration::from(config.operation_timeout_ms);
        let options = options(url.reveal(), limit)
            .await
            .map_err(|error| unusable(url, &plain(&error)))?;
        check_name(
            options
                .default_database
                .as_deref()
                .unwrap_or(DEFAULT_DATABASE),
        )
        .map_err(|problem| unusable(url, &problem))?;
        let mut connection =
            Self::new(Arc::new(options), limit).map_err(|error| unusable(url, &plain(&error)))?;
        connection.wait(url, config.start_timeout_ms.into()).await?;
        Ok(connection)
    }

    /// Creates a client with these options. Does not wait for the server.
    fn new(options: Arc<ClientOptions>, limit: Duration) -> mongodb::error::Result<Self> {
        let client = Client::with_options(ClientOptions::clone(&options))?;
        let database = client
            .default_database()
            .unwrap_or_else(|| client.database(DEFAULT_DATABASE));
        Ok(Self {
            users: database.collection("users"),
            rooms: database.collection("chatrooms"),
            messages: database.collection("chatmessages"),
            marks: database.collection("readmarks"),
            author_counts: database.collection("tallies"),
            sessions: database.collection("sessions"),
            metadata: database.collection("causerie"),
            durable: rawdoc! { "w": "majority", "j": true, "wtimeout": millis(limit) },
            standalone: false,
            pending: Arc::default(),
            options,
            client,
            database,
            limit,
        })
    }

    /// Creates another client for the same database.
    pub fn new_client(&self) -> Result<Self> {
        let another =
            Self::new(Arc::clone(&self.options), self.limit).map_err(|error| failure(&error))?;
        Ok(Self {
            standalone: self.standalone,
            pending: Arc::clone(&self.pending),
            ..another
        })
    }

    async fn wait(
        &mut self,
        url: &DatabaseUrl,
        start_timeout: Duration,
    ) -> std::result::Result<(), OpenError> {
        let deadline = Instant::now() + start_timeout;
        for attempt in 1.. {
            let problem = match timeout(self.limit, self.handshake()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => match refusal(&error) {
                    Some(reason) => return Err(unusable(url, &reason)),
                    None => url.mask_in(&plain(&error)),
                },
                Err(_) => format!("no answer within {} ms", self.limit.as_millis()),
            };
            tracing::warn!(attempt, database = %url, problem, "the database is not there yet");
            if Instant::now() + CONNECT_RETRY_INTERVAL >= deadline {
                let waited = start_timeout.as_millis();
                return Err(OpenError::Absent(format!(
                    "database: {url} could not be reached within {waited} ms: {problem}"
                )));
            }
            sleep(CONNECT_RETRY_INTERVAL).await;
        }
        unreachable!("attempts have no end but those above")
    }

    /// Checks the version of the server and whether it accepts writes, and detects a standalone
    /// server.
    async fn handshake(&mut self) -> mongodb::error::Result<()> {
        let hello = self.database.run_command(doc! { "hello": 1 }).await?;
        if hello.get_i32("maxWireVersion").unwrap_or_default() < OLDEST_WIRE_VERSION {
            return Err(Error::custom(UnsupportedVersion));
        }
        self.standalone =
            !hello.contains_key("setName") && hello.get_str("msg").ok() != Some("isdbgrid");
        self.write_through().await
    }

    /// Writes a document without content. Once this write is on disk, so are all writes before it.
    async fn write_through(&self) -> mongodb::error::Result<()> {
        let now = doc! { "$currentDate": { "at": true } };
        self.metadata
            .update_one(doc! { "_id": "lastWrite" }, now)
            .upsert(true)
            .await
            .map(|_| ())
    }

    /// Returns the current time by the database's clock.
    pub async fn now(&self) -> Result<Timestamp> {
        let hello = self
            .within(self.database.run_command(doc! { "hello": 1 }))
            .await?;
        let now = hello
            .get_datetime("localTime")
            .map_err(|_| StoreError::Fault("reply of the database has no localTime".into()))?;
        Ok(Timestamp(now.timestamp_millis()))
    }

    /// Returns once everything that any client wrote before is on disk.
    pub async fn flush(&self) -> Result<()> {
        self.within(self.write_through()).await
    }

    /// Runs an operation within the time limit.
    pub async fn within<T>(
        &self,
        operation: impl IntoFuture<Output = mongodb::error::Result<T>>,
    ) -> Result<T> {
        self.within_time(self.limit, operation).await
    }

    /// Runs an operation within the given time limit.
    pub async fn within_time<T>(
        &self,
        limit: Duration,
        operation: impl IntoFuture<Output = mongodb::error::Result<T>>,
    ) -> Result<T> {
        match timeout(limit, operation).await {
            Ok(outcome) => outcome.map_err(|error| failure(&error)),
            Err(_) => Err(StoreError::Unavailable(format!(
                "no answer within {} ms",
                limit.as_millis()
            ))),
        }
    }

    /// Runs a query and returns the results of `read` for all documents, without those for which it
    /// returns `None`.
    pub async fn all<T, D>(
        &self,
        query: impl IntoFuture<Output = mongodb::error::Result<Cursor<D>>>,
        read: impl Fn(&RawDocument) -> Option<T>,
    ) -> Result<Vec<T>> {
        let found = async {
            let mut cursor = query.await?;
            let mut found = Vec::new();
            while cursor.advance().await? {
                found.extend(read(cursor.current()));
            }
            Ok(found)
        };
        self.within(found).await
    }

    /// Runs a query for one document and returns the result of `read` for it.
    pub async fn one<T>(
        &self,
        query: impl IntoFuture<Output = mongodb::error::Result<Option<RawDocumentBuf>>>,
        read: impl Fn(&RawDocument) -> Option<T>,
    ) -> Result<Option<T>> {
        Ok(self
            .within(query)
            .await?
            .and_then(|document| read(&document)))
    }

    /// Returns the results of `read` that are durable. A replica set returns only
    /// majority-committed data. A standalone server also returns data that is only in memory and
    /// can be lost in a crash; so the read is repeated after a flush, and only unchanged results
    /// are returned.
    pub async fn read_durable<K: Eq + Hash, V: PartialEq, F>(
        &self,
        read: impl Fn() -> F,
    ) -> Result<HashMap<K, V>>
    where
        F: Future<Output = Result<HashMap<K, V>>>,
    {
        let mut found = read().await?;
        if self.standalone && !found.is_empty() {
            self.flush().await?;
            let found_again = read().await?;
            found.retain(|key, value| found_again.get(key) == Some(value));
        }
        Ok(found)
    }

    /// Inserts a document. Returns false when a document with the same unique key exists.
    pub async fn add(
        &self,
        collection: &Collection<RawDocumentBuf>,
        document: &Document,
    ) -> Result<bool> {
        let insert = async {
            match collection
                .clone_with_type::<Document>()
                .insert_one(document)
                .await
            {
                Ok(_) => Ok(true),
                Err(error) if is_duplicate(&error) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.within(insert).await
    }

    /// Returns the write concern of commands that are built as [`Document`]s.
    pub fn durable(&self) -> Document {
        Document::try_from(&self.durable).unwrap_or_else(|_| doc! { "w": "majority", "j": true })
    }

    /// Closes all connections. Later operations fail.
    pub async fn close(&self) {
        self.client.clone().shutdown().immediate(true).await;
    }
}

async fn options(url: &str, limit: Duration) -> mongodb::error::Result<ClientOptions> {
    let mut options = ClientOptions::parse(url).await?;
    options.app_name.get_or_insert_with(|| "causerie".into());
    options.max_pool_size.get_or_insert(MAX_POOL_SIZE);
    options.server_selection_timeout = Some(SERVER_SELECTION_TIMEOUT);
    options.connect_timeout = Some(CONNECT_TIMEOUT);
    // The guarantees of the store depend on these options, so they override the URL.
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    options.read_concern = Some(ReadConcern::majority());
    options.write_concern = Some(
        WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .w_timeout(limit)
            .build(),
    );
    Ok(options)
}

/// Rejects names that MongoDB does not accept for a database on some operating system:
/// <https://www.mongodb.com/docs/manual/reference/limits/#naming-restrictions>.
fn check_name(name: &str) -> std::result::Result<(), String> {
    let problem = if name.len() > MAX_DATABASE_NAME_BYTES {
        format!(
            "the name of a database has at most {MAX_DATABASE_NAME_BYTES} bytes, and this one {}",
            name.len()
        )
    } else if let Some(letter) = name
        .chars()
        .find(|letter| letter.is_control() || "/\\. \"$*<>:|?".contains(*letter))
    {
        format!("the name of a database cannot have {letter:?} in it")
    } else {
        return Ok(());
    };
    Err(problem)
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the reply of an operation, or `None` when it cannot be decoded, which leaves the outcome
/// unknown.
pub async fn readable<T>(
    operation: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> mongodb::error::Result<Option<T>> {
    match operation.await {
        Err(error) if matches!(error.kind.as_ref(), ErrorKind::Bson(_)) => Ok(None),
        outcome => outcome.map(Some),
    }
}
