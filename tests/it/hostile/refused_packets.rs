//! Packets that the server refuses, discards or counts.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    databases::Kind,
    harness::{PATIENCE, TestServer},
    loaded_server::LoadedServer,
    people::{SECURE, registration},
    program::Program,
    raw::{BINARY, Connection, WEBSOCKET, WEBSOCKET_3, ends, frame, text},
    wire::{Shown, Socket},
};

#[rstest]
#[tokio::test]
async fn attachments_are_never_stored(#[values(WEBSOCKET, WEBSOCKET_3)] path: &str) {
    let loaded = LoadedServer::begins(Kind::Sqlite).await;
    let mut connections =
        join_all((0..10).map(|_| Connection::websocket(&loaded.base, path))).await;
    join_all(connections.iter_mut().map(async |connection| {
        if path == WEBSOCKET {
            connection.send(&text("40")).await;
        }
        connection.hears("40").await;
        connection
            .send(&text(
                "4510000-7[\"identity\",{\"_placeholder\":true,\"num\":0}]",
            ))
            .await;
        connection.hears("437[").await;
        let data = frame(BINARY, &vec![4; 90_000]);
        for _ in 0..50 {
            assert!(connection.send(&data).await);
        }
        connection.send(&text("428[\"identity\",5]")).await;
        connection.hears("438[").await;
    }))
    .await;
    // The clients have sent 45 MB.
    loaded.ends_well().await;
}

#[tokio::test]
async fn connecting_and_disconnecting_repeatedly_counts_as_events() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__EVENTS_PER_MINUTE", "5")]).await;
    let alice = server.member("alice").await;
    let connect = text(&format!("40{}", json!({ "token": alice.token })));
    let mut connection = Connection::websocket(&server.base, WEBSOCKET).await;
    for n in 0..10 {
        connection.send(&connect).await;
        loop {
            let Some((_, payload)) = connection.frame().await else {
                assert!(n >= 1, "at once");
                return;
            };
            if payload.starts_with(b"40{") {
                break;
            }
            // The server ignores the packet until it has noticed that the previous socket left.
            connection.send(&connect).await;
        }
        connection.send(&text("41")).await;
    }
    panic!("it goes on");
}

#[tokio::test]
async fn refused_packets_count_as_events() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__EVENTS_PER_MINUTE", "5")]).await;
    let alice = server.member("alice").await;
    for packet in [
        "431[]",
        "461-1[]",
        "42/nowhere,[\"x\"]",
        "40/nowhere,",
        "40",
    ] {
        let mut connection = Connection::websocket(&server.base, WEBSOCKET).await;
        connection
            .send(&text(&format!("40{}", json!({ "token": alice.token }))))
            .await;
        connection.hears("40{").await;
        connection.send(&text(packet).repeat(20)).await;
        ends(&mut connection).await;
    }
}

#[tokio::test]
async fn a_flood_of_connects_ends_its_connection_in_open_mode_too() {
    let server = TestServer::start(Kind::Sqlite).await;
    let mut connection = Connection::websocket(&server.base, WEBSOCKET).await;
    connection.send(&text("40")).await;
    connection.hears("40{").await;
    connection.send(&text("40").repeat(100)).await;
    ends(&mut connection).await;
}

#[tokio::test]
async fn only_valid_websocket_requests_are_upgraded() {
    let server = TestServer::start(Kind::Sqlite).await;
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let upgrade = "connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n";
    let version = "sec-websocket-version: 13\r\n";
    for (headers, status) in [
        (format!("{upgrade}{version}{key}"), 101),
        (format!("{version}{key}"), 400),
        (format!("connection: upgrade\r\n{version}{key}"), 400),
        (format!("upgrade: websocket\r\n{version}{key}"), 400),
        (
            format!("connection: upgrade\r\nupgrade: h2c\r\n{version}{key}"),
            400,
        ),
        (format!("{upgrade}{key}"), 426),
        (format!("{upgrade}sec-websocket-version: 8\r\n{key}"), 426),
        (format!("{upgrade}{version}"), 400),
        (format!("{upgrade}{version}sec-websocket-key: x\r\n"), 400),
        (
            format!("{upgrade}{version}sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ\r\n"),
            400,
        ),
    ] {
        for query in [WEBSOCKET, "/socket.io/?EIO=4&transport=websocket=x"] {
            let mut connection = Connection::open(&server.base).await;
            connection
                .send(format!("GET {query} HTTP/1.1\r\nhost: x\r\n{headers}\r\n").as_bytes())
                .await;
            let reply = connection.reply("GET").await.unwrap();
            assert_eq!(reply.status, status, "{headers}: {reply:?}");
            if status == 426 {
                assert_eq!(reply.header("sec-websocket-version"), Some("13"));
            }
        }
    }
    let mut connection = Connection::open(&server.base).await;
    connection
        .send(format!("GET {WEBSOCKET} HTTP/1.0\r\n{upgrade}{version}{key}\r\n").as_bytes())
        .await;
    assert_eq!(connection.reply("GET").await.unwrap().status, 400);
}

#[tokio::test]
async fn repeated_refusals_are_counted_in_the_log() {
    let folder = TempDir::new().unwrap();
    let settings = [
        ("CAUSERIE_LOG", "info,causerie::http::request_context=off"),
        ("CAUSERIE_LOG_FORMAT", "json"),
        ("CAUSERIE_DATABASE", "sqlite:c.db"),
    ];
    let program = Program::start(folder.path(), &[&SECURE[..], &settings].concat());
    let http = reqwest::Client::new();
    let refused = async || {
        http.get(format!("{}/room", program.base))
            .header("authorization", "Bearer x")
            .send()
            .await
            .unwrap();
        http.post(format!("{}/users", program.base))
            .json(&registration("sue", "support"))
            .send()
            .await
            .unwrap();
        _ = Socket::with(&program.base, &Shown::Auth(json!({ "token": "x" })))
            .await
            .err()
            .unwrap();
    };
    for _ in 0..100 {
        refused().await;
    }
    let deadline = Instant::now() + PATIENCE;
    for counted in ["tokens", "refusals", "sockets"] {
        let is_counted = |line: &str| {
            // The last line may be written only in part.
            serde_json::from_str::<Value>(line).is_ok_and(|line| {
                line["more"].is_number() && line["message"].as_str().unwrap().contains(counted)
            })
        };
        while !program.log().lines().any(is_counted) {
            assert!(Instant::now() < deadline, "{counted}: {}", program.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let lines = program.log().lines().count();
    assert!(lines < 150, "{lines}: {}", program.log());
    assert!(program.log().contains("open files"));
}
