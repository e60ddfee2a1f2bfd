//! The running program: health checks, logs and shutdown.

use std::{
    fs,
    io::Read,
    time::{Duration, Instant},
};

use rstest_reuse::apply;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::{
    each_store,
    support::{
        answer::Answer,
        databases::{Database, Kind},
        harness::TestServer,
        person::{Person, new_person},
        program::{ALLOWED, Program, health},
        wire::Socket,
    },
};

#[tokio::test]
async fn an_internal_error_is_a_500_whose_cause_is_only_in_the_log() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path(), &[]);
    let alice = new_person(&program.base, "Alice").await;
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

#[test]
fn the_health_command_reports_whether_the_server_is_ready() {
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

#[ignore = "slow"]
#[test]
fn the_health_command_reports_a_server_that_does_not_answer() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let asked = Instant::now();
    let reason = health(&silent.local_addr().unwrap().to_string()).unwrap_err();
    assert!(reason.contains("no answer"), "{reason}");
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "the time limit of the image's HEALTHCHECK"
    );
}

#[test]
fn the_health_command_reports_a_server_that_hangs_up() {
    let rude = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = rude.local_addr().unwrap().to_string();
    let hanging_up = std::thread::spawn(move || {
        // Reads the request first, because closing a connection with unread bytes sends a reset.
        rude.accept().unwrap().0.read(&mut [0; 1024]).unwrap()
    });
    let reason = health(&address).unwrap_err();
    assert!(reason.contains("hangs up"), "{reason}");
    assert!(hanging_up.join().unwrap() > 0);
}

/// Returns the method, the route and the status of a log line.
fn routed(line: &Value) -> String {
    format!(
        "{} {} {}",
        line["method"].as_str().unwrap(),
        line["route"].as_str().unwrap(),
        line["status"]
    )
}

#[tokio::test]
async fn every_request_is_one_log_line_without_secrets() {
    let (folder, database) = (TempDir::new().unwrap(), Database::new(Kind::Sqlite).await);
    let settings = [
        ("CAUSERIE_DATABASE", database.url.as_str()),
        ("CAUSERIE_LOG_FORMAT", "json"),
        ("CAUSERIE_LOG", "trace"),
    ];
    let program = Program::start(folder.path(), &settings);
    let alice = new_person(&program.base, "Alice").await;
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
        .filter(|line| line["level"] == "INFO" && line["route"].is_string())
        .collect();
    assert_eq!(
        requests.iter().map(|line| routed(line)).collect::<Vec<_>>(),
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
async fn a_request_over_the_timeout_is_ended() {
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
    tokio::time::timeout(crate::support::harness::PATIENCE, whole)
        .await
        .unwrap();
    String::from_utf8(answer).unwrap()
}

#[apply(each_store)]
#[ignore = "slow"]
#[tokio::test]
async fn shutdown_takes_at_most_ten_seconds_with_stalled_clients(kind: Kind) {
    shutdown_with_stalled_clients(kind, "8000").await;
}

#[tokio::test]
async fn shutdown_loses_no_acknowledged_message() {
    shutdown_with_stalled_clients(Kind::Sqlite, "500").await;
}

/// Opens connections with half a head, half a body, and nothing at all.
async fn stalled_clients(address: &str) -> Vec<tokio::net::TcpStream> {
    let mut clients = Vec::new();
    for beginning in [
        "GET / HT",
        "POST /users HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{",
        "",
    ] {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(beginning.as_bytes()).await.unwrap();
        clients.push(client);
    }
    clients
}

/// Posts this number until a post is not acknowledged. Returns how many posts were acknowledged.
async fn post_until_refused(alice: Person, room: String, n: u32) -> u64 {
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
}

/// Stops the program while clients stall and others post. Checks that it ends in time with all that
/// it has acknowledged.
async fn shutdown_with_stalled_clients(kind: Kind, timeout_ms: &str) {
    let (folder, database) = (TempDir::new().unwrap(), Database::new(kind).await);
    let settings = [
        ("CAUSERIE_DATABASE", database.url.as_str()),
        ("CAUSERIE_HTTP__SHUTDOWN_TIMEOUT_MS", timeout_ms),
    ];
    let program = Program::start(folder.path(), &settings);
    let alice = new_person(&program.base, "Alice").await;
    let room = alice.room_with(&[]).await;
    let address = program.base.strip_prefix("http://").unwrap().to_owned();
    let _clients = stalled_clients(&address).await;
    let mut socket = Socket::of(&alice, &room).await;
    let posting: Vec<_> = (0..8)
        .map(|n| tokio::spawn(post_until_refused(alice.clone(), room.clone(), n)))
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
