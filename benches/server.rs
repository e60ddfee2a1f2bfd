//! The servers under test as child processes: starting, measuring and stopping them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::Outcome;
use crate::mongod::{Mongod, ReplicaSet};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// Disables limits, because all requests come from one address, at a far higher rate than one
/// user's. The limit of posts is set out of reach instead, so that its cost is included.
const NO_LIMITS: [(&str, &str); 4] = [
    ("CAUSERIE_LIMITS__REGISTRATIONS_PER_MINUTE", "0"),
    ("CAUSERIE_LIMITS__LOGINS_PER_MINUTE", "0"),
    ("CAUSERIE_LIMITS__POSTS_PER_MINUTE", "4000000000"),
    ("CAUSERIE_LIMITS__CONNECTIONS_PER_ADDRESS", "0"),
];

/// The server program, with its database and mode.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The production binary, as built by `cargo bench`, on its embedded database.
    OnSqlite,
    /// The production binary on the MongoDB that was started last.
    OnMongodb,
    /// As [`Kind::OnSqlite`], in secure mode.
    SecureOnSqlite,
    /// As [`Kind::OnMongodb`], in secure mode.
    SecureOnMongodb,
    /// This binary in its other role.
    Baseline,
}

impl Kind {
    /// Returns whether every user needs a password.
    pub fn is_secure(self) -> bool {
        matches!(self, Self::SecureOnSqlite | Self::SecureOnMongodb)
    }

    fn is_on_mongodb(self) -> bool {
        matches!(self, Self::OnMongodb | Self::SecureOnMongodb)
    }
}

/// Starts servers whose files are in one folder, and MongoDB for the servers that need it.
pub struct Launcher {
    folder: PathBuf,
    mongodb: Option<Mongodb>,
}

enum Mongodb {
    Alone(Mongod),
    ReplicaSet(ReplicaSet),
}

impl Mongodb {
    fn url(&self, database: &str) -> String {
        match self {
            Self::Alone(server) => format!("mongodb://{}/{database}", server.host()),
            Self::ReplicaSet(set) => set.url(database),
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Alone(server) => server.pid(),
            Self::ReplicaSet(set) => set.members[0].pid(),
        }
    }
}

impl Launcher {
    /// Creates a launcher for an existing folder.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            mongodb: None,
        }
    }

    /// Starts a standalone MongoDB server, replacing the previous one.
    pub fn start_mongodb(&mut self) {
        self.mongodb = None;
        self.mongodb = Some(Mongodb::Alone(Mongod::start(&[])));
    }

    /// Starts a replica set of one member, replacing the previous server.
    pub async fn start_replica_set(&mut self) {
        self.mongodb = None;
        self.mongodb = Some(Mongodb::ReplicaSet(ReplicaSet::start(1).await));
    }

    /// Starts a server and waits until it is ready. `database` is the name of its database; the
    /// baseline has none.
    pub async fn start(&self, kind: Kind, database: &str) -> Outcome<Server> {
        let started = Instant::now();
        let mut child = self.command(kind, database)?.spawn()?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        timeout(PATIENCE, stdout.read_line(&mut line)).await??;
        let address =
            announced_address(&line).ok_or_else(|| format!("not a ready line: {line:?}"))?;
        let pid = child.id().ok_or("the server died at once")?;
        let mongod = self
            .mongodb
            .as_ref()
            .filter(|_| kind.is_on_mongodb())
            .map(Mongodb::pid);
        Ok(Server {
            child,
            pid,
            mongod,
            address,
            ready_after: started.elapsed(),
            _stdout: stdout,
        })
    }

    fn command(&self, kind: Kind, database: &str) -> Outcome<Command> {
        let mut command = match kind {
            Kind::OnSqlite | Kind::OnMongodb | Kind::SecureOnSqlite | Kind::SecureOnMongodb => {
                Command::new(env!("CARGO_BIN_EXE_causerie"))
            }
            Kind::Baseline => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("baseline");
                command
            }
        };
        let url = match (kind.is_on_mongodb(), &self.mongodb) {
            (true, Some(mongodb)) => mongodb.url(database),
            (true, None) => return Err("MongoDB was not started".into()),
            _ => format!(
                "sqlite:{}",
                self.folder.join(database).with_extension("db").display()
            ),
        };
        command
            .env("CAUSERIE_LISTEN", "127.0.0.1:0")
            .env("CAUSERIE_DATABASE", url)
            .env(
                "CAUSERIE_ACCESS",
                if kind.is_secure() { "secure" } else { "open" },
            )
            .envs(NO_LIMITS)
            // The ids of all members of a large room are in one request.
            .env("CAUSERIE_HTTP__MAX_BODY_BYTES", "1000000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        Ok(command)
    }
}

/// Parses `… listens on http://127.0.0.1:PORT …`, the only line that both servers print when they
/// are ready.
fn announced_address(line: &str) -> Option<SocketAddr> {
    line.split("http://")
        .nth(1)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// A running server. It is killed when dropped.
pub struct Server {
    child: Child,
    pid: u32,
    /// The process of its database, if that is a separate process.
    mongod: Option<u32>,
    /// The address on which it listens.
    pub address: SocketAddr,
    /// The time from spawning the process to its ready line.
    pub ready_after: Duration,
    /// Held open because a write to a closed pipe would end the server.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Returns the resident memory, in KiB.
    pub fn memory(&self) -> Outcome<u32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let value = line.and_then(|line| line.split_whitespace().next());
        Ok(value.ok_or("no VmRSS")?.parse()?)
    }

    /// Returns the resident memory, in KiB, once it has stabilised; after ten seconds at the
    /// latest.
    pub async fn settled_memory(&self) -> Outcome<u32> {
        let mut before = self.memory()?;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = self.memory()?;
            if now.abs_diff(before) <= before / 200 {
                return Ok(now);
            }
            before = now;
        }
        Ok(before)
    }

    /// Returns the processor time that the server has used so far.
    pub fn processor_time(&self) -> Outcome<Duration> {
        processor_time(&self.pid.to_string())
    }

    /// Returns the processor time that its database has used so far, or zero if that is not a
    /// separate process.
    pub fn database_time(&self) -> Outcome<Duration> {
        self.mongod
            .map_or(Ok(Duration::ZERO), |pid| processor_time(&pid.to_string()))
    }

    /// Stops the server with SIGTERM. Returns how long that took.
    pub async fn stop(mut self) -> Outcome<Duration> {
        let asked = Instant::now();
        Command::new("kill")
            .args(["-TERM", &self.pid.to_string()])
            .status()
            .await?;
        timeout(PATIENCE, self.child.wait()).await??;
        Ok(asked.elapsed())
    }
}

/// Returns the processor time of a process (`self`: this one) from `/proc`, in units of 10
/// milliseconds.
pub fn processor_time(process: &str) -> Outcome<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field, the name in parentheses, may contain spaces; `utime` and `stime` are the
    // 12th and 13th field after it.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let mut ticks = 0;
    for field in fields.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<u64>()?;
    }
    Ok(Duration::from_millis(ticks * 10))
}

/// Returns the soft and the hard limit of open files of this process.
pub fn file_limits() -> Outcome<(usize, usize)> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let mut fields = line.ok_or("no limit of open files")?.split_whitespace();
    let mut next = || match fields.next() {
        Some("unlimited") | None => usize::MAX,
        Some(number) => number.parse().unwrap_or(usize::MAX),
    };
    Ok((next(), next()))
}
