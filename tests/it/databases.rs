//! The databases that tests run against: one of its own for each test, of each kind of store.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use causerie::{
    config::Config,
    store::{self, Store},
};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::mongod::{Mongod, ReplicaSet};

/// The kinds of stores, and of deployments where that makes a difference.
///
/// To add one: its variant, its URL in `Database::new`, its place in the templates of `main.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The embedded store.
    Sqlite,
    /// MongoDB as a replica set, of one member.
    ReplicaSet,
    /// MongoDB as a server of its own.
    Standalone,
}

/// A database of its own for one test.
pub struct Database {
    pub url: String,
    /// Gone with the last who use it.
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

    /// A database on this server.
    pub fn on(server: &Mongod) -> Self {
        Self { url: format!("mongodb://{}/test", server.host()), folder: Arc::new(TempDir::new().unwrap()) }
    }

    /// The same database, for another who uses it.
    pub fn again(&self) -> Self {
        Self { url: self.url.clone(), folder: Arc::clone(&self.folder) }
    }

    /// The store itself, past the server.
    pub async fn open(&self) -> Arc<dyn Store> {
        self.open_with(&[]).await
    }

    /// The same, with these settings.
    pub async fn open_with(&self, settings: &[(&str, &str)]) -> Arc<dyn Store> {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mongodb = Config::load(None, &settings).unwrap().mongodb;
        store::open(&self.url.clone().into(), &mongodb).await.unwrap()
    }
}

/// A database that nobody else uses, on our own deployment unless the environment names one.
async fn on_mongodb(kind: Kind) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let deployment = match std::env::var("CAUSERIE_TEST_MONGODB") {
        Ok(url) => url,
        Err(_) if kind == Kind::Standalone => format!("mongodb://{}", standalone().await.host()),
        Err(_) => replica_set().await.url(""),
    };
    // A deployment that the environment names outlives us, and process ids come again.
    let (process, count, random) = (std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed), rand::random::<u32>());
    with_database(&deployment, &format!("test_{kind:?}_{process}_{count}_{random:08x}"))
}

/// The URL with this database in the place of its own, and whoever it names as known where they were.
fn with_database(url: &str, database: &str) -> String {
    let (address, options) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = address.split_once("://").unwrap();
    let (hosts, before) = rest.split_once('/').unwrap_or((rest, ""));
    let mut options: Vec<_> = options.split('&').filter(|option| !option.is_empty()).map(str::to_owned).collect();
    if hosts.contains('@') && !options.iter().any(|option| option.to_lowercase().starts_with("authsource=")) {
        options.push(format!("authSource={}", if before.is_empty() { "admin" } else { before }));
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
