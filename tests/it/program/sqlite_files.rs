//! The files of SQLite: other processes that use them, their permissions, and what a failed start
//! leaves behind.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use reqwest::Method;
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::support::{
    answer::Answer,
    databases::Kind,
    harness::{PATIENCE, TestServer},
    person::Person,
    program::Program,
    wire::Socket,
};

fn database(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// Checks that the program has ended with this exit code and one line that contains `mention`.
#[track_caller]
fn ends(output: &Output, code: i32, mention: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(
        text.trim_end().lines().count() == 1 && text.contains(mention),
        "{text:?} should mention {mention:?}"
    );
}

fn start_on(folder: &Path, path: &Path) -> Output {
    let settings = [
        ("CAUSERIE_LISTEN", "127.0.0.1:0".to_owned()),
        ("CAUSERIE_DATABASE", database(path)),
    ];
    Program::command(folder).envs(settings).output().unwrap()
}

/// Returns the existing files of the write-ahead log.
fn logs(path: &Path) -> Vec<PathBuf> {
    let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    [beside("-wal"), beside("-shm")]
        .into_iter()
        .filter(|path| path.exists())
        .collect()
}

/// Waits for the warning, because log lines are written in the background.
#[cfg(target_os = "linux")]
async fn until_warned_of_links(program: &Program) {
    let warned = async {
        while !program
            .log()
            .lines()
            .any(|line| line.contains("WARN") && line.contains("links"))
        {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, warned)
        .await
        .expect("the names of the file are warned of");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_second_server_is_refused_under_any_path_of_the_file() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["data", "links", "hard"] {
        fs::create_dir(at(name)).unwrap();
    }
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", "sqlite:data/c.db")]);
    symlink(at("data/c.db"), at("links/symbolic.db")).unwrap();
    symlink("links/symbolic.db", at("twice.db")).unwrap();
    symlink(at("data"), at("folder")).unwrap();
    fs::hard_link(at("data/c.db"), at("hard/c.db")).unwrap();
    fs::hard_link(at("data/c.db"), at("data/other.db")).unwrap();
    for name in [
        "data/c.db",
        "links/../data/./c.db",
        "links/symbolic.db",
        "twice.db",
        "folder/c.db",
        "hard/c.db",
        "data/other.db",
    ] {
        for path in [PathBuf::from(name), at(name)] {
            ends(&start_on(folder.path(), &path), 2, "in use");
            assert!(
                name == "data/c.db"
                    || name.contains("..")
                    || name.starts_with("folder")
                    || logs(&at(name)).is_empty(),
                "{name}"
            );
        }
    }
    Answer::of(reqwest::Client::new().get(format!("{}/ready", program.base)))
        .await
        .ok();
    program.signal("TERM");
    assert!(program.ended().await.success());
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", "sqlite:twice.db")]);
    ends(&start_on(folder.path(), &at("data/c.db")), 2, "in use");
    program.kill();
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", "sqlite:hard/c.db")]);
    // A killed server holds no lock.
    until_warned_of_links(&program).await;
}

#[tokio::test]
async fn a_dangling_link_creates_the_database_at_its_target() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    symlink("data/c.db", folder.path().join("link.db")).unwrap();
    drop(Program::start(
        folder.path(),
        &[("CAUSERIE_DATABASE", "sqlite:link.db")],
    ));
    assert_eq!(
        fs::metadata(folder.path().join("data/c.db"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
}

/// Runs a copy of the program as an unprivileged user, in a folder that this user can access.
struct Unprivileged {
    folder: TempDir,
    program: PathBuf,
}

impl Unprivileged {
    const NOBODY: u32 = 65_534;

    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (built, program) = (
            env!("CARGO_BIN_EXE_causerie"),
            folder.path().join("causerie"),
        );
        if fs::hard_link(built, &program).is_err() {
            fs::copy(built, &program).unwrap();
        }
        Self { folder, program }
    }

    fn start_on(&self, path: &Path) -> Output {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("CAUSERIE_LISTEN", "127.0.0.1:0")
            .env("CAUSERIE_DATABASE", database(path))
            .current_dir("/");
        if fs::metadata(&self.program).unwrap().uid() == 0 {
            command.uid(Self::NOBODY).gid(Self::NOBODY);
        }
        command.output().unwrap()
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Checks that a start is refused while one of the log files of the database cannot be written.
fn check_start_on_logs_of_another_user(unprivileged: &Unprivileged, path: &Path) {
    let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    for suffix in ["-wal", "-shm"] {
        set_mode(&beside("-wal"), 0o666);
        set_mode(&beside("-shm"), 0o666);
        set_mode(&beside(suffix), 0o400);
        ends(
            &unprivileged.start_on(path),
            2,
            &format!("c.db{suffix}: Permission denied"),
        );
    }
}

#[tokio::test]
async fn a_start_without_permission_does_not_break_the_next_one() {
    let unprivileged = Unprivileged::new();
    let data = unprivileged.folder.path().join("data");
    let path = data.join("c.db");
    let settings = [("CAUSERIE_DATABASE", database(&path))];
    let settings = settings
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let program = Program::start(unprivileged.folder.path(), &settings);
    program.signal("TERM");
    assert!(program.ended().await.success());

    let beside = |suffix: &str| data.join(format!("c.db{suffix}"));
    for (folder_mode, file_mode, lock_mode, mention) in [
        (0o777, 0o444, 0o666, "c.db: Permission denied"),
        (0o777, 0o000, 0o666, "c.db: Permission denied"),
        (0o777, 0o444, 0o600, "c.db: Permission denied"),
        (0o555, 0o666, 0o666, "folder"),
        (0o555, 0o444, 0o666, "c.db: Permission denied"),
        (0o000, 0o666, 0o666, "c.db: Permission denied"),
    ] {
        set_mode(&path, file_mode);
        set_mode(&beside("-lock"), lock_mode);
        set_mode(&data, folder_mode);
        let output = unprivileged.start_on(&path);
        set_mode(&data, 0o755);
        ends(&output, 2, mention);
        assert_eq!(
            logs(&path),
            Vec::<PathBuf>::new(),
            "{folder_mode:o} {file_mode:o}"
        );
        set_mode(&path, 0o600);
        set_mode(&beside("-lock"), 0o600);
    }
    // Files that a killed server has left, owned by another user.
    Program::start(unprivileged.folder.path(), &settings).kill();
    assert_eq!(logs(&path).len(), 2);
    set_mode(&data, 0o777);
    set_mode(&path, 0o666);
    check_start_on_logs_of_another_user(&unprivileged, &path);
    let program = Program::start(unprivileged.folder.path(), &settings);
    Answer::of(reqwest::Client::new().get(format!("{}/ready", program.base)))
        .await
        .ok();
}

#[tokio::test]
async fn a_database_path_that_is_not_a_file_is_refused() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("folder.db")).unwrap();
    let made = Command::new("mkfifo")
        .arg(folder.path().join("fifo.db"))
        .status()
        .unwrap();
    assert!(made.success());
    for path in ["folder.db", "fifo.db", "/dev/null", "."] {
        let path = folder.path().join(path);
        // Opening a pipe blocks until its other end is opened.
        let (folder, asked) = (folder.path().to_owned(), path.clone());
        let output = timeout(
            Duration::from_secs(10),
            tokio::task::spawn_blocking(move || start_on(&folder, &asked)),
        )
        .await;
        ends(
            &output.expect("it waits for something").unwrap(),
            2,
            "not a file",
        );
        assert_eq!(logs(&path), Vec::<PathBuf>::new());
    }
}

/// Checks that no read of the room waits for another program.
async fn check_reads(alice: &Person, room: &str) {
    let own = format!("/users/{}", alice.id);
    let (page, sync) = (
        format!("/room/{room}"),
        format!("/room/{room}/sync?since=0"),
    );
    let (members, search) = (
        format!("/room/{room}/members"),
        format!("/room/{room}/search?q=again"),
    );
    for path in [
        page.as_str(),
        &sync,
        "/room",
        "/room/unread",
        "/users",
        &own,
        "/ready",
        "/health",
        &members,
        "/room/search?q=hello",
        &search,
    ] {
        let answer = timeout(PATIENCE, alice.get(path)).await;
        answer
            .unwrap_or_else(|_| panic!("{path} waits for another program"))
            .ok();
    }
    let mut socket = timeout(PATIENCE, Socket::of(alice, room))
        .await
        .expect("subscribing waits for another program");
    let synced = timeout(
        PATIENCE,
        socket.asks("sync", json!([{ "rooms": { room: 0 } }])),
    )
    .await;
    assert_eq!(
        synced.expect("sync waits for another program")["success"],
        true
    );
}

#[tokio::test]
async fn reads_continue_while_another_program_writes() {
    let mut server = TestServer::start(Kind::Sqlite).await;
    let (mut alice, bob, room) = server.two_in_a_room().await;
    let said = alice.says(&room, "hello").await;
    alice
        .edits(&room, &said["postId"], "hello again")
        .await
        .ok();
    // Written just before the lock is taken.
    alice.says(&room, "and again").await;
    let url = server.database().url;
    let other = Connection::open(url.strip_prefix("sqlite:").unwrap()).unwrap();
    for starts_meanwhile in [false, true] {
        if starts_meanwhile {
            other.execute_batch("ROLLBACK").unwrap();
            server.stop().await;
        }
        other
            .execute_batch(
                "BEGIN IMMEDIATE; INSERT INTO secrets (name, value) VALUES ('other', x'00')",
            )
            .unwrap();
        if starts_meanwhile {
            timeout(PATIENCE, server.restart())
                .await
                .expect("a start waits for another program");
            alice.base.clone_from(&server.base);
        }
        check_reads(&alice, &room).await;
    }
    // A write needs the lock, and a write that waits for it does not block reads.
    let (poster, to) = (bob.at(&server), room.clone());
    let posting = tokio::spawn(async move { poster.posts(&to, "when it is over").await });
    for path in [
        format!("/room/{room}"),
        format!("/room/{room}/sync?since=0"),
    ] {
        timeout(PATIENCE, alice.get(&path))
            .await
            .unwrap_or_else(|_| panic!("{path} waits for a post"))
            .ok();
    }
    other.execute_batch("ROLLBACK").unwrap();
    posting.await.unwrap().ok();
    assert_eq!(
        alice.reads(&room, "").await,
        ["hello again", "and again", "when it is over"]
    );
    alice
        .calls(Method::PUT, &format!("/room/{room}/mark-read"), json!({}))
        .await
        .ok();
}
