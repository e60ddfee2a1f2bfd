//! The program from the operator's point of view: arguments, settings, output, logs, health check
//! and shutdown.

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use rstest_reuse::apply;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::{
    databases::{Database, Kind},
    each_store,
    harness::{Program, TestServer},
    people::{Answer, Person},
    wire::Socket,
};

fn run(folder: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    Program::command(folder)
        .args(arguments)
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

/// Checks that the program refuses to start: one line on standard error with this text, and exit
/// code 2.
#[track_caller]
fn refuses(folder: &Path, settings: &[(&str, &str)], mention: &str) {
    let output = run(folder, &[], settings);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.starts_with("causerie: ")
            && text.trim_end().lines().count() == 1
            && text.contains(mention),
        "{text:?} should mention {mention:?}"
    );
}

pub async fn somebody(base: &str, name: &str) -> Person {
    let http = reqwest::Client::new();
    let body = json!({ "firstName": name, "lastName": "Test", "type": "consumer" });
    let user = Answer::of(http.post(format!("{base}/users")).json(&body))
        .await
        .ok()["user"]
        .clone();
    let id = user["_id"].as_str().unwrap().to_owned();
    let login = Answer::of(http.post(format!("{base}/login/{id}")))
        .await
        .ok();
    Person {
        base: base.to_owned(),
        http,
        id,
        token: login["authorization"].as_str().unwrap().to_owned(),
        user,
    }
}

#[tokio::test]
async fn it_starts_with_nothing_and_says_where_it_is() {
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
fn it_explains_itself() {
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
fn the_settings_in_force_are_printed_without_secrets() {
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
fn what_it_prints_as_settings_is_a_settings_file() {
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
fn what_keeps_it_from_starting_is_said_in_one_line() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    refuses(
        folder.path(),
        &[("CAUSERIE_LISTNE", "127.0.0.1:0")],
        "CAUSERIE_LISTNE is not a setting; the nearest one is CAUSERIE_LISTEN",
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

    let open = |path: &str| format!("sqlite:{path}");
    let starts_on = |path: &str, mention: &str| {
        refuses(
            folder.path(),
            &[
                ("CAUSERIE_DATABASE", &open(path)),
                ("CAUSERIE_LISTEN", "127.0.0.1:0"),
            ],
            mention,
        );
    };
    fs::write(
        at("text.db"),
        "this is not a database, just a long enough text to look at. ".repeat(100),
    )
    .unwrap();
    starts_on("text.db", "text.db is not a database");
    fs::write(at("a-file"), "").unwrap();
    starts_on("a-file/causerie.db", "a-file");
    starts_on("/proc/nowhere/causerie.db", "/proc/nowhere");
    let foreign = rusqlite::Connection::open(at("foreign.db")).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x)").unwrap();
    starts_on("foreign.db", "not one of Causerie");
    let newer = rusqlite::Connection::open(at("newer.db")).unwrap();
    newer
        .execute_batch(
            "PRAGMA application_id = 0x43617573; PRAGMA user_version = 99; CREATE TABLE later (x)",
        )
        .unwrap();
    starts_on("newer.db", "newer Causerie");
}

#[tokio::test]
async fn a_damaged_database_is_noticed_at_start() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path(), &[("CAUSERIE_DATABASE", "sqlite:d.db")]);
    let alice = somebody(&program.base, "Alice").await;
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

#[tokio::test]
async fn a_fault_is_a_500_whose_cause_only_the_log_tells() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path(), &[]);
    let alice = somebody(&program.base, "Alice").await;
    let room = alice.room_with(&[]).await;
    let behind_its_back =
        rusqlite::Connection::open(folder.path().join("data/causerie.db")).unwrap();
    behind_its_back
        .execute_batch("DROP TABLE read_marks; DROP TABLE secrets")
        .unwrap();
    let answer =
        Answer::of(alice.request(reqwest::Method::PUT, &format!("/room/{room}/mark-read"))).await;
    let request = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let body = answer.refused(500, "Something went wrong on our side");
    assert_eq!(body["requestId"], *request);
    assert!(!body.to_string().contains("read_marks"));
    let ready = Answer::of(alice.request(reqwest::Method::GET, "/ready")).await;
    assert!(ready.headers.contains_key("retry-after"));
    ready.refused(
        503,
        "The service is not available right now, please try again",
    );
    alice.posts(&room, "the rest goes on").await.ok();
    program.signal("TERM");
    let log = folder.path().join("log");
    assert!(program.ended().await.success());
    let log = fs::read_to_string(log).unwrap();
    let line = log
        .lines()
        .find(|line| line.contains("read_marks"))
        .expect("the log tells the cause");
    assert!(line.contains("ERROR") && line.contains(&request), "{line}");
}

/// Allows other machines to reach a server in open mode.
const ALLOWED: (&str, &str) = ("CAUSERIE_ALLOW_OPEN_NETWORK", "true");

#[test]
fn open_mode_does_not_get_onto_the_network_by_accident() {
    let folder = TempDir::new().unwrap();
    refuses(
        folder.path(),
        &[("CAUSERIE_LISTEN", "0.0.0.0:0")],
        "CAUSERIE_ALLOW_OPEN_NETWORK=true",
    );
    assert!(!folder.path().join("data").exists(), "nothing is started");
}

/// Runs `--health` for the server at this address. Returns `Ok` if it printed nothing and exited
/// with 0, or the reason if it printed one line and exited with 1.
#[track_caller]
fn health(address: &str) -> Result<(), String> {
    let folder = TempDir::new().unwrap();
    let output = run(
        folder.path(),
        &["--health"],
        &[("CAUSERIE_LISTEN", address), ALLOWED],
    );
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.stdout.is_empty() && !folder.path().join("data").exists(),
        "nothing is started"
    );
    if output.status.code() == Some(0) {
        assert_eq!(text, "");
        return Ok(());
    }
    assert_eq!(output.status.code(), Some(1), "{text}");
    let reason = text
        .strip_prefix("causerie: no server is ready on 127.0.0.1:")
        .unwrap_or_else(|| panic!("{text}"));
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    Err(reason.to_owned())
}

#[test]
fn a_container_is_told_that_its_server_is_well_or_what_is_wrong_with_it() {
    let folder = TempDir::new().unwrap();
    // As in a container: the server listens on all addresses, and the health check uses the same
    // setting.
    let program = Program::start(folder.path(), &[("CAUSERIE_LISTEN", "0.0.0.0:0"), ALLOWED]);
    let address = program.base.strip_prefix("http://").unwrap().to_owned();
    assert!(address.starts_with("0.0.0.0:"), "{address}");
    assert_eq!(health(&address), Ok(()));

    let behind_its_back =
        rusqlite::Connection::open(folder.path().join("data/causerie.db")).unwrap();
    behind_its_back.execute_batch("DROP TABLE secrets").unwrap();
    let reason = health(&address).unwrap_err();
    assert!(reason.contains("503"), "{reason}");

    program.kill();
    let reason = health(&address).unwrap_err();
    assert!(reason.contains("refused"), "{reason}");
}

#[test]
fn a_container_is_told_of_a_server_that_does_not_answer() {
    let listener = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener();
    let asked = Instant::now();
    let reason = health(&silent.local_addr().unwrap().to_string()).unwrap_err();
    assert!(reason.contains("no answer within 3s"), "{reason}");
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "the time limit of the image's HEALTHCHECK"
    );

    let rude = listener();
    let address = rude.local_addr().unwrap().to_string();
    let hanging_up = std::thread::spawn(move || {
        // Reads the request first, because closing a connection with unread bytes sends a reset.
        rude.accept().unwrap().0.read(&mut [0; 1024]).unwrap()
    });
    let reason = health(&address).unwrap_err();
    assert!(reason.contains("it hangs up"), "{reason}");
    assert!(hanging_up.join().unwrap() > 0);
}

#[tokio::test]
async fn nobody_else_on_the_machine_may_read_the_database_or_the_operator_is_told() {
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
            .filter(|line| line.contains("WARN") && line.contains("other users of this machine"))
            .count()
    };
    let program = Program::start(
        folder.path(),
        &[("CAUSERIE_DATABASE", "sqlite:new/data/causerie.db")],
    );
    somebody(&program.base, "Alice").await;
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
async fn a_second_server_on_the_same_database_is_turned_away() {
    let folder = TempDir::new().unwrap();
    let _first = Program::start(folder.path(), &[]);
    refuses(
        folder.path(),
        &[("CAUSERIE_LISTEN", "127.0.0.1:0")],
        "in use by another server",
    );
}

#[tokio::test]
async fn a_read_only_folder_is_a_clear_refusal() {
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

#[apply(each_store)]
#[tokio::test]
async fn every_request_is_one_line_in_the_log_and_no_line_tells_a_secret(kind: Kind) {
    let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
    let settings = [
        ("CAUSERIE_DATABASE", database.url.as_str()),
        ("CAUSERIE_LOG_FORMAT", "json"),
        ("CAUSERIE_LOG", "trace"),
    ];
    let program = Program::start(folder.path(), &settings);
    let alice = somebody(&program.base, "Alice").await;
    let room = alice.room_with(&[]).await;
    let mut socket = Socket::of(&alice, &room).await;
    let answer = alice.posts(&room, "a-very-private-text").await;
    let request = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    answer.ok();
    socket.hears_post().await;
    alice
        .get("/room/nowhere?token=in-the-query")
        .await
        .refused(400, "No room exists for this id");
    program.signal("TERM");
    let path = folder.path().join("log");
    assert!(program.ended().await.success());
    let log = fs::read_to_string(path).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let requests: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "request" && line["level"] == "INFO")
        .collect();
    let routes: Vec<_> = requests
        .iter()
        .map(|line| {
            format!(
                "{} {} {}",
                line["method"].as_str().unwrap(),
                line["route"].as_str().unwrap(),
                line["status"]
            )
        })
        .collect();
    assert_eq!(
        routes,
        [
            "POST /users 200",
            "POST /login/{userId} 200",
            "POST /room/initiate 200",
            "POST /room/{roomId}/message 200",
            "GET /room/{roomId} 400"
        ]
    );
    assert_eq!(requests[3]["request"], *request);
    assert!(requests.iter().all(|line| line["ms"].is_number()));
    for secret in ["a-very-private-text", &alice.token, "in-the-query"] {
        assert!(!log.contains(secret), "{secret} stands in the log");
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended() {
    let server = TestServer::with(
        Kind::Sqlite,
        &[("CAUSERIE_HTTP__REQUEST_TIMEOUT_MS", "300")],
    )
    .await;
    let mut connection =
        tokio::net::TcpStream::connect(server.base.strip_prefix("http://").unwrap())
            .await
            .unwrap();
    connection
        .write_all(b"POST /users HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    let answer = read_answer(&mut connection).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"success\":false"),
        "{answer}"
    );
    assert!(answer.contains("\r\nretry-after: "), "{answer}");
}

async fn read_answer(connection: &mut tokio::net::TcpStream) -> String {
    use tokio::io::AsyncReadExt;
    let mut answer = Vec::new();
    let whole = async {
        while !answer.ends_with(b"}") {
            let mut piece = [0; 4096];
            match connection.read(&mut piece).await.unwrap() {
                0 => break,
                n => answer.extend_from_slice(&piece[..n]),
            }
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, whole)
        .await
        .unwrap();
    String::from_utf8(answer).unwrap()
}

#[apply(each_store)]
#[tokio::test]
async fn it_stops_within_ten_seconds_whatever_its_clients_do(kind: Kind) {
    let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
    let settings = [("CAUSERIE_DATABASE", database.url.as_str())];
    let program = Program::start(folder.path(), &settings);
    let alice = somebody(&program.base, "Alice").await;
    let room = alice.room_with(&[]).await;
    let address = program.base.strip_prefix("http://").unwrap().to_owned();
    // Half a head, half a body, nothing at all, a waiting poll, and a websocket that answers
    // nothing.
    let mut clients = Vec::new();
    for beginning in [
        "GET / HT",
        "POST /users HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{",
        "",
    ] {
        let mut client = tokio::net::TcpStream::connect(&address).await.unwrap();
        client.write_all(beginning.as_bytes()).await.unwrap();
        clients.push(client);
    }
    let mut socket = Socket::of(&alice, &room).await;
    let posting: Vec<_> = (0..8)
        .map(|n| {
            let (alice, room) = (alice.clone(), room.clone());
            tokio::spawn(async move {
                let mut acknowledged = 0;
                let request = || {
                    alice
                        .request(reqwest::Method::POST, &format!("/room/{room}/message"))
                        .json(&json!({ "messageText": format!("{n}") }))
                };
                while let Ok(answer) = request().send().await {
                    if answer.status() != 200 {
                        break;
                    }
                    acknowledged += 1;
                }
                acknowledged
            })
        })
        .collect();
    for _ in 0..50 {
        socket.hears_post().await;
    }
    let asked = Instant::now();
    program.signal("INT");
    assert_eq!(program.ended().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10));
    let mut acknowledged = 0;
    for poster in posting {
        acknowledged += poster.await.unwrap();
    }
    while socket.receive().await.is_some() {}
    let again = Program::start(folder.path(), &settings);
    let kept = Person {
        base: again.base.clone(),
        ..alice
    };
    let last = kept.get(&format!("/room/{room}?limit=1")).await.ok()["conversation"][0]["seq"]
        .as_u64()
        .unwrap();
    assert!(
        last >= acknowledged,
        "{last} kept, {acknowledged} acknowledged"
    );
}
