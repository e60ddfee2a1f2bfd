//! The servers and their database, as child processes that are killed and restarted on the same
//! ports and files.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    task::block_in_place,
    time::timeout,
};

use crate::{
    Arguments, Failure, Store,
    mongod::{Mongod, ReplicaSet, free_port},
};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_mins(1);
/// Limits to disable: all requests come from one address, at a far higher rate than one user's.
const NO_LIMITS: [&str; 8] = [
    "LOGINS_PER_MINUTE",
    "REFRESHES_PER_MINUTE",
    "REGISTRATIONS_PER_MINUTE",
    "CONNECTIONS_PER_MINUTE",
    "POSTS_PER_MINUTE",
    "EVENTS_PER_MINUTE",
    "SOCKETS_PER_ADDRESS",
    "CONNECTIONS_PER_ADDRESS",
];

/// All child processes.
pub struct Servers {
    running: Vec<Server>,
    database: Database,
    folder: TempDir,
}

enum Database {
    Sqlite,
    Standalone(Mongod),
    ReplicaSet(ReplicaSet),
}

impl Database {
    fn url(&self, folder: &Path) -> String {
        match self {
            Self::Sqlite => format!("sqlite:{}", folder.join("causerie.db").display()),
            Self::Standalone(mongod) => format!("mongodb://{}/checker", mongod.host()),
            Self::ReplicaSet(set) => set.url("checker"),
        }
    }
}

impl Servers {
    /// Starts the database and the servers according to the arguments.
    pub async fn start(arguments: &Arguments) -> Result<Self, Failure> {
        let folder = TempDir::with_prefix("checker-")?;
        let database = match arguments.store {
            Store::Sqlite => Database::Sqlite,
            Store::Mongodb => Database::Standalone(block_in_place(|| Mongod::start(&[]))),
            Store::ReplicaSet => Database::ReplicaSet(ReplicaSet::start(1).await),
        };
        let program = arguments.program()?;
        let url = database.url(folder.path());
        let mut servers = Vec::new();
        for number in 0..arguments.servers {
            let log = folder.path().join(format!("server-{number}.log"));
            let mut server = Server {
                program: program.clone(),
                port: free_port(),
                url: url.clone(),
                secure: arguments.is_secure(),
                log,
                running: None,
            };
            server.start().await?;
            servers.push(server);
        }
        Ok(Self {
            running: servers,
            database,
            folder,
        })
    }

    /// Returns the base URLs of the servers.
    pub fn bases(&self) -> Vec<String> {
        self.running
            .iter()
            .map(|server| format!("http://127.0.0.1:{}", server.port))
            .collect()
    }

    pub async fn kill_server(&mut self, number: usize) -> Result<(), Failure> {
        self.running[number].kill().await
    }

    pub async fn start_server(&mut self, number: usize) -> Result<(), Failure> {
        self.running[number].start().await
    }

    /// Kills the database process.
    pub fn kill_mongod(&mut self) {
        block_in_place(|| match &mut self.database {
            Database::Sqlite => {}
            Database::Standalone(mongod) => mongod.kill(),
            Database::ReplicaSet(set) => set.members[0].kill(),
        });
    }

    /// Restarts the database, and waits until it accepts writes.
    pub async fn start_mongod(&mut self) {
        match &mut self.database {
            Database::Sqlite => {}
            Database::Standalone(mongod) => block_in_place(|| mongod.start_again()),
            Database::ReplicaSet(set) => {
                block_in_place(|| set.members[0].start_again());
                set.primary().await;
            }
        }
    }

    /// Returns the servers that have ended without being killed.
    pub fn fallen(&mut self) -> Vec<usize> {
        let fallen = self
            .running
            .iter_mut()
            .map(Server::has_fallen)
            .collect::<Vec<_>>();
        (0..fallen.len()).filter(|number| fallen[*number]).collect()
    }

    /// Keeps the files for later inspection. Returns their folder.
    pub fn keep(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }
}

/// A process of the production binary.
struct Server {
    program: PathBuf,
    port: u16,
    url: String,
    secure: bool,
    log: PathBuf,
    /// The process, and its standard output, held open because a write to a closed pipe would end
    /// the server.
    running: Option<(Child, BufReader<ChildStdout>)>,
}

impl Server {
    /// Starts the server on its former port and waits until it is ready.
    async fn start(&mut self) -> Result<(), Failure> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut command = Command::new(&self.program);
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("CAUSERIE_") || name == "PORT")
        {
            command.env_remove(name);
        }
        let mut child = command
            .env("CAUSERIE_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("CAUSERIE_DATABASE", &self.url)
            .env(
                "CAUSERIE_ACCESS",
                if self.secure { "secure" } else { "open" },
            )
            .env("CAUSERIE_LOG", "warn")
            // Longer than any run, because the clients do not refresh their tokens.
            .env("CAUSERIE_SESSION__ACCESS_LIFETIME_SECONDS", "2000000")
            .envs(NO_LIMITS.map(|limit| (format!("CAUSERIE_LIMITS__{limit}"), "0")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", self.program.display()))?;
        let mut output = BufReader::new(child.stdout.take().ok_or("a server without an output")?);
        let mut line = String::new();
        timeout(PATIENCE, output.read_line(&mut line))
            .await
            .map_err(|_| "a server does not get ready")??;
        if !line.contains("http://") {
            return Err(format!(
                "a server does not get ready; its log is {}",
                self.log.display()
            )
            .into());
        }
        self.running = Some((child, output));
        Ok(())
    }

    /// Kills the process without a graceful shutdown, similar to a power failure.
    async fn kill(&mut self) -> Result<(), Failure> {
        if let Some((mut child, _)) = self.running.take() {
            child.kill().await?;
        }
        Ok(())
    }

    fn has_fallen(&mut self) -> bool {
        self.running
            .as_mut()
            .is_some_and(|(child, _)| child.try_wait().is_ok_and(|ended| ended.is_some()))
    }
}
