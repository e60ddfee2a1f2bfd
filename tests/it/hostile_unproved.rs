//! What unauthenticated clients may do, and how the server handles packets that no client has a
//! reason to send.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::Method;
use rstest::rstest;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    databases::Kind,
    harness::{PATIENCE, Program, TestServer},
    hostile_frames::{TEXT, WEBSOCKET, WEBSOCKET_3},
    hostile_load::LoadedServer,
    people::{Member, SECURE, registration},
    raw::{Connection, frame},
    wire::{Shown, Socket},
};

const BINARY: u8 = 0x82;

fn text(packet: &str) -> Vec<u8> {
    frame(TEXT, packet.as_bytes())
}

/// Waits until the server closes the connection. Returns the payloads received until then.
async fn ends(connection: &mut Connection) -> Vec<String> {
    let mut heard = Vec::new();
    while let Some((_, payload)) = connection.frame().await {
        heard.push(String::from_utf8_lossy(&payload).into_owned());
    }
    heard
}

/// Returns the id of a new polling session.
async fn session(server: &TestServer, query: &str) -> String {
    let path = format!("/socket.io/?transport=polling&{query}");
    let opening = server
        .http
        .get(format!("{}{path}", server.base))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let sid = opening
        .split("\"sid\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    format!("{path}&sid={sid}")
}

async fn sends(server: &TestServer, session: &str, payload: impl Into<String>) -> u16 {
    server
        .request(Method::POST, session)
        .body(payload.into())
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

async fn polls(server: &TestServer, session: &str) -> (u16, String) {
    let answer = server.request(Method::GET, session).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_websocket_of_version_3_without_a_token_is_told_so_and_closed() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let mut connection = Connection::websocket(&server.base, WEBSOCKET_3).await;
    let heard = ends(&mut connection).await;
    assert!(
        heard
            .iter()
            .any(|packet| packet.starts_with("44") && packet.contains("No access token provided")),
        "{heard:?}"
    );
    let polling = session(&server, "EIO=3").await;
    assert!(
        polls(&server, &polling)
            .await
            .1
            .contains("No access token provided")
    );
    let gone = async { while polls(&server, &polling).await.0 == 200 {} };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the session goes on");
}

#[tokio::test]
async fn a_connection_without_a_connected_socket_is_closed_after_ten_seconds() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let alice = server.member("alice").await;
    let mut left = Connection::websocket(&server.base, WEBSOCKET).await;
    left.send(&text(&format!("40{}", json!({ "token": alice.token }))))
        .await;
    left.hears("40{").await;
    left.send(&text("41")).await;
    let mut refused = Connection::websocket(&server.base, WEBSOCKET).await;
    refused.send(&text("40")).await;
    let mut silent = Connection::websocket(&server.base, WEBSOCKET).await;
    let polling = session(&server, "EIO=4").await;
    let waits = async { while polls(&server, &polling).await.0 == 200 {} };
    let all = async {
        tokio::join!(
            ends(&mut left),
            ends(&mut refused),
            ends(&mut silent),
            waits
        )
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("a connection goes on");
    Socket::signed_in(&alice)
        .await
        .succeeds("identity", json!([alice.id]))
        .await;
}

#[rstest]
#[case::large_packet(vec![text(&format!("40{}", json!({ "token": "x".repeat(9_000) })))])]
#[case::large_packets(vec![text(&format!("40{}", json!({ "token": "x".repeat(3_000) }))); 3])]
#[case::large_pieces(vec![frame(0x01, b"40"), frame(0x00, &[b' '; 5_000]), frame(0x00, &[b' '; 5_000])])]
#[case::announced_length(vec![[&[TEXT, 0xff][..], &90_000_u64.to_be_bytes(), &[0; 4]].concat()])]
#[case::connects(vec![text("40"); 50])]
#[case::namespaces(vec![text("40/nowhere,"); 50])]
#[case::long_namespaces(vec![text(&format!("40/{},", "x".repeat(1_000))); 50])]
#[case::attachments(vec![text("4510000-[\"identity\"]"); 50])]
#[case::attachments_and_data([vec![text("4510000-[\"identity\"]")], vec![frame(BINARY, &[0; 1_000]); 50]].concat())]
#[case::data(vec![frame(BINARY, b"x")])]
#[case::pings(vec![text("2"); 50])]
#[tokio::test]
async fn who_has_proved_nothing_may_send_next_to_nothing(#[case] frames: Vec<Vec<u8>>) {
    let server = TestServer::secure(Kind::Sqlite).await;
    let mut connection = Connection::websocket(&server.base, WEBSOCKET).await;
    let begun = Instant::now();
    connection.send(&frames.concat()).await;
    let heard = ends(&mut connection).await;
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "it was closed for its silence"
    );
    let said: usize = heard.iter().map(String::len).sum();
    assert!(said < 4_000, "{said} bytes: {heard:?}");
}

#[rstest]
#[tokio::test]
async fn who_has_proved_nothing_may_post_next_to_nothing_to_a_session(#[values(3, 4)] version: u8) {
    let server = TestServer::secure(Kind::Sqlite).await;
    let alice = server.member("alice").await;
    let framed = |packet: &str| {
        if version == 3 {
            format!("{}:{packet}", packet.len())
        } else {
            packet.to_owned()
        }
    };
    let payloads = [
        framed(&format!("40/{},", "x".repeat(99_000))),
        framed(&format!("40/{},", "x".repeat(1_000))),
        framed("40/nowhere,"),
        framed("4510000-[\"identity\"]"),
        framed(if version == 3 { "b4AAAA" } else { "bAAAA" }),
    ];
    for payload in payloads {
        // A version 3 client is connected as soon as its session is open. The token keeps the
        // server from closing it as unauthenticated.
        let session = session(&server, &format!("EIO={version}&token={}", alice.token)).await;
        if version == 3 {
            while !polls(&server, &session).await.1.contains("40") {}
        }
        let deadline = Instant::now() + Duration::from_secs(9);
        let (mut answered, is_connected) = (0, version == 3);
        while sends(&server, &session, payload.clone()).await == 200 {
            answered += 1;
            assert!(Instant::now() < deadline, "it goes on: {payload:.30}");
            if is_connected && answered > 50 {
                break;
            }
        }
        assert!(
            is_connected || answered <= 16,
            "{answered} times: {payload:.30}"
        );
        if is_connected {
            // The server stores nothing of what was sent, and answers hardly any of it.
            sends(&server, &session, framed("420[\"identity\",5]")).await;
            let mut heard = 0;
            loop {
                let (status, packets) = polls(&server, &session).await;
                heard += packets.len();
                if status != 200 || packets.contains("430[") {
                    break;
                }
            }
            assert!(heard < 10_000, "{heard} bytes: {payload:.30}");
        } else {
            let gone = async { while polls(&server, &session).await.0 == 200 {} };
            tokio::time::timeout(PATIENCE, gone)
                .await
                .expect("the session goes on");
        }
    }
}

#[rstest]
#[tokio::test]
async fn attachments_are_never_kept(#[values(WEBSOCKET, WEBSOCKET_3)] path: &str) {
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
async fn connecting_and_leaving_in_a_loop_counts_as_events() {
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
async fn packets_that_are_refused_count_as_events() {
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
async fn an_ended_session_closes_the_transport_as_well() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let alice = server.member("alice").await;
    let ended: Member = server.session_of("alice").await;
    let mut connections = Vec::new();
    for path in [WEBSOCKET, WEBSOCKET_3] {
        let mut connection =
            Connection::websocket(&server.base, &format!("{path}&token={}", ended.token)).await;
        if path == WEBSOCKET {
            connection.send(&text("40")).await;
        }
        connection.hears("40").await;
        connections.push(connection);
    }
    let polling = session(&server, &format!("EIO=4&token={}", ended.token)).await;
    sends(&server, &polling, "40").await;
    while !polls(&server, &polling).await.1.contains("40{") {}
    ended.calls(Method::POST, "/logout", json!({})).await.ok();
    for connection in &mut connections {
        assert!(ends(connection).await.contains(&"41".to_owned()));
    }
    assert!(polls(&server, &polling).await.1.contains("41"));
    let gone = async { while polls(&server, &polling).await.0 == 200 {} };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the session of polling goes on");
    Socket::signed_in(&alice)
        .await
        .succeeds("identity", json!([alice.id]))
        .await;
}

#[tokio::test]
async fn one_address_opens_only_so_many_connections_at_once() {
    let server = TestServer::secure_with(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__UNCONNECTED_PER_ADDRESS", "2")],
    )
    .await;
    let alice = server.member("alice").await;
    // Connected sockets do not count against the limit.
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(
            Socket::with(&server.base, &Shown::Auth(json!({ "token": alice.token })))
                .await
                .unwrap(),
        );
    }
    let _silent = [
        Connection::websocket(&server.base, WEBSOCKET).await,
        Connection::websocket(&server.base, WEBSOCKET).await,
    ];
    let mut third = Connection::open(&server.base).await;
    third.asks_for_websocket(WEBSOCKET).await;
    assert_eq!(third.reply("GET").await.unwrap().status, 429);
    sockets[0].succeeds("identity", json!([alice.id])).await;
}

#[tokio::test]
async fn only_a_request_for_a_websocket_is_upgraded() {
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
async fn refusals_of_one_address_are_counted_in_the_log() {
    let folder = TempDir::new().unwrap();
    let settings = [
        ("CAUSERIE_LOG", "info,causerie::http::request_context=off"),
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
    for counted in ["tokens refused: ", "refusals: ", "sockets refused: "] {
        while !program.log().contains(counted) {
            assert!(Instant::now() < deadline, "{}", program.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let lines = program.log().lines().count();
    assert!(lines < 150, "{lines}: {}", program.log());
    assert!(program.log().contains("limit of open files"));
}

#[tokio::test]
async fn websockets_leave_file_descriptors_for_health_and_rest() {
    let folder = TempDir::new().unwrap();
    let mut command = std::process::Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -n 256 && exec \"$0\"",
            env!("CARGO_BIN_EXE_causerie"),
        ])
        .current_dir(folder.path());
    let program = Program::started_by(
        command.stdin(Stdio::null()),
        folder.path(),
        &[("CAUSERIE_DATABASE", "sqlite:c.db")],
    );
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..300 {
        let mut connection = Connection::open(&program.base).await;
        connection.asks_for_websocket(WEBSOCKET).await;
        match connection.reply("GET").await.map(|reply| reply.status) {
            Some(101) => open.push(connection),
            Some(503) | None => refused += 1,
            Some(status) => panic!("{status}"),
        }
    }
    assert!(
        refused > 100 && open.len() > 30,
        "{refused} refused, {} open",
        open.len()
    );
    for path in ["/health", "/ready", "/users"] {
        assert_eq!(
            reqwest::get(format!("{}{path}", program.base))
                .await
                .unwrap()
                .status(),
            200,
            "{path}"
        );
    }
}
