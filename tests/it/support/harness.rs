//! Servers for tests: the production `Server` in this process, on port 0.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use causerie::{Server, clock::Clock, config::Config, model::Timestamp};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::support::databases::{Database, Kind};

/// How long a test waits for an expected result before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server in this process with a separate database.
pub struct TestServer {
    pub base: String,
    pub http: reqwest::Client,
    settings: Vec<(String, String)>,
    database: Database,
    offset_ms: Arc<AtomicI64>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl TestServer {
    pub async fn start(kind: Kind) -> Self {
        Self::with(kind, &[]).await
    }

    /// Starts a server with these settings, named as in the environment.
    pub async fn with(kind: Kind, settings: &[(&str, &str)]) -> Self {
        Self::on(Database::new(kind).await, settings).await
    }

    /// Starts a server on this database.
    pub async fn on(database: Database, settings: &[(&str, &str)]) -> Self {
        let settings = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut server = Self {
            base: String::new(),
            http: reqwest::Client::new(),
            settings,
            database,
            offset_ms: Arc::default(),
            running: None,
        };
        server.run().await;
        server
    }

    async fn run(&mut self) {
        let mut environment: HashMap<_, _> = self.settings.iter().cloned().collect();
        environment.insert("CAUSERIE_LISTEN".into(), "127.0.0.1:0".into());
        environment.insert("CAUSERIE_DATABASE".into(), self.database.url.clone());
        let config = Config::load(None, &environment).unwrap();
        let listener = TcpListener::bind(config.listen).await.unwrap();
        let offset = Arc::clone(&self.offset_ms);
        let clock =
            Clock::from_fn(move || Timestamp(machine_time() + offset.load(Ordering::Relaxed)));
        let server = Server::start(listener, config, clock).await.unwrap();
        self.base = format!("http://{}", server.address().unwrap());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async { _ = stopped.await }));
        self.running = Some((stop, running));
    }

    /// Returns another handle of the server's database.
    pub fn database(&self) -> Database {
        self.database.again()
    }

    /// Moves the server's clock, in milliseconds.
    pub fn turn_clock(&self, by: i64) {
        self.offset_ms.fetch_add(by, Ordering::Relaxed);
    }

    pub async fn stop(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        drop(stop);
        tokio::time::timeout(PATIENCE, running)
            .await
            .unwrap()
            .unwrap();
    }

    /// Restarts the server on the same database and another port.
    pub async fn restart(&mut self) {
        if self.running.is_some() {
            self.stop().await;
        }
        self.run().await;
    }
}

pub fn machine_time() -> i64 {
    i64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap()
}
