//! Servers for tests: the production `Server` in this process on port 0, or the real program as a
//! separate process.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use causerie::{Server, clock::Clock, config::Config, model::Timestamp};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::databases::{Database, Kind};

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

/// The real program as a separate process.
pub struct Program {
    pub base: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Returns the command that starts the program, without environment variables of this process
    /// that could be settings.
    pub fn command(folder: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_causerie"));
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("CAUSERIE_") || name == "PORT")
        {
            command.env_remove(name);
        }
        command.current_dir(folder).stdin(Stdio::null());
        command
    }

    /// Starts the program in `folder` and waits until it reports that it is ready. It logs to the
    /// file `log` in that folder.
    pub fn start(folder: &Path, settings: &[(&str, &str)]) -> Self {
        Self::started_by(&mut Self::command(folder), folder, settings)
    }

    /// Starts the program with a given command, which may do something else first.
    pub fn started_by(command: &mut Command, folder: &Path, settings: &[(&str, &str)]) -> Self {
        let log = folder.join("log");
        command
            .env("CAUSERIE_LISTEN", "127.0.0.1:0")
            .envs(settings.iter().copied());
        let log_file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let base = line
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        let Some(base) = base else {
            panic!(
                "no address in {line:?}; log: {}",
                std::fs::read_to_string(&log).unwrap()
            )
        };
        Self {
            base: base.to_owned(),
            child,
            log,
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Returns the peak memory of the process in MiB, or `None` where the system does not report
    /// it.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let peak: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()?;
        Some(peak / 1024)
    }

    /// Kills the process, as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, name: &str) {
        let killed = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
    }

    /// Waits until the process ends.
    pub async fn ended(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the program did not end; log: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The process has already ended if the test waited for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
