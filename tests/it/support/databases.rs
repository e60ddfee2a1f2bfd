//! The databases of the tests: a separate one for each test, for each kind of store.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use causerie::{
    config::Config,
    store::{self, Store},
};
use mongodb::bson::{Document, doc};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::support::{
    harness::PATIENCE,
    mongod::{Mongod, ReplicaSet},
};

/// The kinds of stores, and of deployments where these behave differently.
///
/// To add one, add a variant here, its URL in `Database::new`, and a value in the templates of
/// `main.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The embedded SQLite store.
    Sqlite,
    /// MongoDB as a replica set of one member.
    ReplicaSet,
    /// MongoDB as a standalone server.
    Standalone,
}

/// A database for one test.
pub struct Database {
    pub url: String,
    /// The temporary folder, deleted when its last user drops it.
    folder: Arc<TempDir>,
}

impl Database {
    pub async fn new(kind: Kind) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let url = match kind {
            Kind::Sqlite => format!("sqlite:{}", folder.path().join("causerie.db").display()),
            Kind::ReplicaSet | Kind::Standalone => on_mongodb(kind).await,
        };
        Self { url, folder }
    }

    /// Creates a database on this server.
    pub fn on(server: &Mongod) -> Self {
        Self {
            url: format!("mongodb://{}/test", server.host()),
            folder: Arc::new(TempDir::new().unwrap()),
        }
    }

    /// Returns another handle of the same database.
    pub fn again(&self) -> Self {
        Self {
            url: self.url.clone(),
            folder: Arc::clone(&self.folder),
        }
    }

    /// Opens the store directly, without a server.
    pub async fn open(&self) -> Store {
        self.open_with(&[]).await
    }

    /// Opens the store directly with these settings.
    pub async fn open_with(&self, settings: &[(&str, &str)]) -> Store {
        let settings = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mongodb = Config::load(None, &settings).unwrap().mongodb;
        store::open(&self.url.clone().into(), &mongodb)
            .await
            .unwrap()
    }
}

impl Database {
    /// Opens the file of a SQLite database directly, without the server.
    pub fn file(&self) -> rusqlite::Connection {
        let file = rusqlite::Connection::open(self.url.strip_prefix("sqlite:").unwrap()).unwrap();
        file.busy_timeout(PATIENCE).unwrap();
        file
    }

    /// Opens a MongoDB database directly, without the server.
    pub async fn documents(&self) -> mongodb::Database {
        mongodb::Client::with_uri_str(&self.url)
            .await
            .unwrap()
            .default_database()
            .unwrap()
    }

    /// Waits until the search index is up to date.
    pub async fn indexed(&self) {
        // A killed server may hold the indexing lease for a while.
        let deadline = Instant::now() + 3 * PATIENCE;
        while !(if self.url.starts_with("sqlite:") {
            is_indexed_in(&self.file())
        } else {
            is_indexed_on(&self.documents().await).await
        }) {
            if Instant::now() >= deadline {
                let left = if self.url.starts_with("sqlite:") {
                    String::new()
                } else {
                    not_indexed_on(&self.documents().await).await.join(", ")
                };
                panic!("the index does not get there: {left}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn is_indexed_in(file: &rusqlite::Connection) -> bool {
    let left = "SELECT (SELECT count(*) FROM heads LEFT JOIN search_logs USING (room) WHERE last_seq > coalesce(up_to, 0) OR above > 0)
        + (SELECT count(*) FROM search_logs WHERE room IS NULL) + (SELECT count(*) FROM search_stale)
        + (SELECT count(*) FROM sqlite_schema WHERE name = 'search_numbers')";
    file.query_row(left, [], |row| row.get::<_, i64>(0))
        .unwrap()
        == 0
}

async fn is_indexed_on(database: &mongodb::Database) -> bool {
    not_indexed_on(database).await.is_empty()
}

/// Lists what is not yet indexed in a MongoDB database.
async fn not_indexed_on(database: &mongodb::Database) -> Vec<String> {
    let note = database
        .collection::<Document>("causerie")
        .find_one(doc! { "_id": "search" })
        .await
        .unwrap();
    if !note.is_some_and(|note| note.get_bool("complete").unwrap_or_default()) {
        return vec!["what was there before".into()];
    }
    let last = vec![
        doc! { "$match": { "_id": { "$gt": "" }, "seq": { "$gt": 0 } } },
        doc! { "$group": { "_id": "$chatRoomId", "seq": { "$max": "$seq" } } },
    ];
    let mut ends = database
        .collection::<Document>("chatmessages")
        .aggregate(last)
        .await
        .unwrap();
    let mut left = HashMap::new();
    while ends.advance().await.unwrap() {
        let end = ends.deserialize_current().unwrap();
        left.insert(
            end.get_str("_id").unwrap().to_owned(),
            end.get_i64("seq").unwrap(),
        );
    }
    let mut rooms = database
        .collection::<Document>("chatrooms")
        .find(doc! { "_id": { "$gt": "" }, "deletedAt": null })
        .await
        .unwrap();
    let mut behind = Vec::new();
    while rooms.advance().await.unwrap() {
        let room = rooms.deserialize_current().unwrap();
        let up_to = room
            .get_document("search")
            .and_then(|search| search.get_i64("upTo"))
            .unwrap_or_default();
        if let Some(end) = left
            .get(room.get_str("_id").unwrap())
            .filter(|end| up_to < **end)
        {
            behind.push(format!("{room}: indexed up to {up_to} of {end}"));
        }
    }
    behind
}

/// Returns the URL of an unused database, on the deployment of the tests unless the environment
/// names another one.
async fn on_mongodb(kind: Kind) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let deployment = match std::env::var("CAUSERIE_TEST_MONGODB") {
        Ok(url) => url,
        Err(_) if kind == Kind::Standalone => format!("mongodb://{}", standalone().await.host()),
        Err(_) => replica_set().await.url(""),
    };
    // A deployment from the environment outlives this process, and process ids are reused.
    let (process, count, random) = (
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed),
        rand::random::<u32>(),
    );
    with_database(
        &deployment,
        &format!("test_{kind:?}_{process}_{count}_{random:08x}"),
    )
}

/// Replaces the database in the URL. Credentials in the URL keep their authentication database.
fn with_database(url: &str, database: &str) -> String {
    let (address, options) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = address.split_once("://").unwrap();
    let (hosts, before) = rest.split_once('/').unwrap_or((rest, ""));
    let mut options: Vec<_> = options
        .split('&')
        .filter(|option| !option.is_empty())
        .map(str::to_owned)
        .collect();
    if hosts.contains('@')
        && !options
            .iter()
            .any(|option| option.to_lowercase().starts_with("authsource="))
    {
        options.push(format!(
            "authSource={}",
            if before.is_empty() { "admin" } else { before }
        ));
    }
    format!("{scheme}://{hosts}/{database}?{}", options.join("&"))
}

async fn replica_set() -> &'static ReplicaSet {
    static SHARED: OnceCell<ReplicaSet> = OnceCell::const_new();
    SHARED.get_or_init(|| ReplicaSet::start(1)).await
}

async fn standalone() -> &'static Mongod {
    static SHARED: OnceCell<Mongod> = OnceCell::const_new();
    SHARED.get_or_init(async || Mongod::start(&[])).await
}
