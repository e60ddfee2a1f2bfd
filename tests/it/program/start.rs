//! The start of the program: arguments, output, and what it refuses.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use tempfile::TempDir;

use crate::support::{
    answer::Answer,
    person::new_person,
    program::{Program, refuses, run},
};

#[tokio::test]
async fn it_starts_without_configuration_and_prints_its_address() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path(), &[]);
    assert!(folder.path().join("data/causerie.db").exists());
    let health = Answer::of(reqwest::Client::new().get(format!("{}/health", program.base)))
        .await
        .ok();
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    Answer::of(reqwest::Client::new().get(format!("{}/ready", program.base)))
        .await
        .ok();
    program.signal("TERM");
    assert_eq!(program.ended().await.code(), Some(0));
    assert!(
        !folder.path().join("data/causerie.db-wal").exists(),
        "the database was closed"
    );
}

#[test]
fn help_and_version_are_printed() {
    let folder = TempDir::new().unwrap();
    let help = String::from_utf8(run(folder.path(), &["--help"], &[]).stdout).unwrap();
    for word in [
        "--check-config",
        "--health",
        "CAUSERIE_LISTEN",
        "create-user",
    ] {
        assert!(help.contains(word), "{word} in {help}");
    }
    let version = String::from_utf8(run(folder.path(), &["--version"], &[]).stdout).unwrap();
    assert_eq!(version, format!("causerie {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(
        run(folder.path(), &["--no-such-argument"], &[])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn check_config_prints_the_settings_without_secrets() {
    let folder = TempDir::new().unwrap();
    fs::write(
        folder.path().join("my.toml"),
        "listen = \"127.0.0.1:4000\"\n[http]\nmax_page = 77\n[socket]\nping_interval_ms = 1234\n",
    )
    .unwrap();
    let settings = [
        (
            "CAUSERIE_TOKEN_SECRET",
            "hush-hush: nobody must ever read this",
        ),
        ("CAUSERIE_HTTP__MAX_PAGE", "88"),
        ("PORT", "5000"),
    ];
    for (arguments, extra) in [
        (vec!["--check-config", "--config", "my.toml"], None),
        (vec!["--check-config"], Some(("CAUSERIE_CONFIG", "my.toml"))),
    ] {
        let all: Vec<_> = settings.iter().copied().chain(extra).collect();
        let output = run(folder.path(), &arguments, &all);
        assert_eq!(output.status.code(), Some(0));
        let printed = String::from_utf8(output.stdout).unwrap();
        for line in [
            "listen = \"127.0.0.1:5000\"",
            "max_page = 88",
            "ping_interval_ms = 1234",
            "token_secret = \"********\"",
        ] {
            assert!(printed.contains(line), "{line} in {printed}");
        }
        assert!(!printed.contains("hush"));
    }
    assert!(!folder.path().join("data").exists(), "nothing is started");
}

#[test]
fn the_printed_settings_are_a_valid_settings_file() {
    let folder = TempDir::new().unwrap();
    let printed = run(folder.path(), &["--check-config"], &[]).stdout;
    fs::write(folder.path().join("printed.toml"), &printed).unwrap();
    assert_eq!(
        run(
            folder.path(),
            &["--check-config", "--config", "printed.toml"],
            &[]
        )
        .stdout,
        printed
    );
}

#[test]
fn a_failed_start_is_explained_in_one_line() {
    let folder = TempDir::new().unwrap();
    refuses(
        folder.path(),
        &[("CAUSERIE_LISTNE", "127.0.0.1:0")],
        "CAUSERIE_LISTNE",
    );
    refuses(
        folder.path(),
        &[("CAUSERIE_CONFIG", "missing.toml")],
        "missing.toml",
    );
    refuses(folder.path(), &[("CAUSERIE_LOG", "causerie=loud")], "log");
    refuses(
        folder.path(),
        &[
            ("CAUSERIE_DATABASE", "postgres://me:hush@db/x"),
            ("CAUSERIE_LISTEN", "127.0.0.1:0"),
        ],
        "sqlite:PATH",
    );
    refuses(
        folder.path(),
        &[
            ("CAUSERIE_DATABASE", "sqlite:"),
            ("CAUSERIE_LISTEN", "127.0.0.1:0"),
        ],
        "path",
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refuses(folder.path(), &[("CAUSERIE_LISTEN", &address)], &address);
}

/// Checks that a start on this database fails with an explanation that contains `mention`.
#[track_caller]
fn refuses_database(folder: &Path, path: &str, mention: &str) {
    refuses(
        folder,
        &[
            ("CAUSERIE_DATABASE", &format!("sqlite:{path}")),
            ("CAUSERIE_LISTEN", "127.0.0.1:0"),
        ],
        mention,
    );
}

#[test]
fn an_unusable_database_is_explained_in_one_line() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(
        at("text.db"),
        "this is not a database, just a long enough text to look at. ".repeat(100),
    )
    .unwrap();
    refuses_database(folder.path(), "text.db", "text.db");
    fs::write(at("a-file"), "").unwrap();
    refuses_database(folder.path(), "a-file/causerie.db", "a-file");
    refuses_database(folder.path(), "/proc/nowhere/causerie.db", "/proc/nowhere");
    let foreign = rusqlite::Connection::open(at("foreign.db")).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x)").unwrap();
    refuses_database(folder.path(), "foreign.db", "Causerie");
    let newer = rusqlite::Connection::open(at("newer.db")).unwrap();
    newer
        .execute_batch(
            "PRAGMA application_id = 0x43617573; PRAGMA user_version = 99; CREATE TABLE later (x)",
        )
        .unwrap();
    refuses_database(folder.path(), "newer.db", "newer");
}

#[tokio::test]
async fn a_damaged_database_is_refused_at_start() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", "sqlite:d.db")]);
    let alice = new_person(&program.base, "Alice").await;
    let room = alice.room_with(&[]).await;
    for n in 0..100 {
        alice
            .posts(&room, &format!("{n} {}", "x".repeat(500)))
            .await
            .ok();
    }
    program.signal("TERM");
    assert!(program.ended().await.success());
    let path = folder.path().join("d.db");
    let whole = fs::read(&path).unwrap();
    let mut scribbled = whole.clone();
    let middle = scribbled.len() / 2;
    scribbled[middle..middle + 8192].fill(0xa5);
    for damaged in [&scribbled[..], &whole[..whole.len() / 2], &whole[..50]] {
        fs::write(&path, damaged).unwrap();
        refuses(
            folder.path(),
            &[
                ("CAUSERIE_DATABASE", "sqlite:d.db"),
                ("CAUSERIE_LISTEN", "127.0.0.1:0"),
            ],
            "d.db",
        );
    }
}

#[test]
fn open_mode_refuses_a_network_address_unless_allowed() {
    let folder = TempDir::new().unwrap();
    refuses(
        folder.path(),
        &[("CAUSERIE_LISTEN", "0.0.0.0:0")],
        "CAUSERIE_ALLOW_OPEN_NETWORK=true",
    );
    assert!(!folder.path().join("data").exists(), "nothing is started");
}

#[tokio::test]
async fn a_database_that_others_can_read_is_warned_about() {
    let folder = TempDir::new().unwrap();
    let mode = |name: &str| {
        fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    let warns = |log: &str| {
        log.lines()
            .filter(|line| line.contains("WARN") && line.contains("users"))
            .count()
    };
    let program = Program::start(
        folder.path(),
        &[("CAUSERIE_DATABASE", "sqlite:new/data/causerie.db")],
    );
    new_person(&program.base, "Alice").await;
    assert_eq!(["new", "new/data"].map(mode), [0o700; 2]);
    assert_eq!(
        ["", "-wal", "-shm"].map(|end| mode(&format!("new/data/causerie.db{end}"))),
        [0o600; 3]
    );
    program.signal("TERM");
    assert!(program.ended().await.success());
    let log = folder.path().join("log");
    assert_eq!(warns(&fs::read_to_string(&log).unwrap()), 0);

    fs::set_permissions(
        folder.path().join("new/data/causerie.db"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let program = Program::start(
        folder.path(),
        &[("CAUSERIE_DATABASE", "sqlite:new/data/causerie.db")],
    );
    program.signal("TERM");
    assert!(program.ended().await.success());
    assert_eq!(warns(&fs::read_to_string(&log).unwrap()), 1);
    assert_eq!(mode("new/data/causerie.db"), 0o644, "it is the operator's");
}

#[tokio::test]
async fn a_second_server_on_the_same_database_is_refused() {
    let folder = TempDir::new().unwrap();
    let _first = Program::start(folder.path(), &[]);
    refuses(
        folder.path(),
        &[("CAUSERIE_LISTEN", "127.0.0.1:0")],
        "in use",
    );
}

#[tokio::test]
async fn a_read_only_folder_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("closed")).unwrap();
    fs::set_permissions(
        folder.path().join("closed"),
        fs::Permissions::from_mode(0o555),
    )
    .unwrap();
    let writable_all_the_same = fs::write(folder.path().join("closed/probe"), "").is_ok();
    if !writable_all_the_same {
        // Root may write everywhere, so nothing would be refused.
        refuses(
            folder.path(),
            &[
                ("CAUSERIE_DATABASE", "sqlite:closed/x.db"),
                ("CAUSERIE_LISTEN", "127.0.0.1:0"),
            ],
            "closed",
        );
    }
}
