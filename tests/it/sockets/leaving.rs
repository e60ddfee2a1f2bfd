//! Events that a client sent before it disconnected or lost its connection are processed, in order.

use std::time::Instant;

use rstest::rstest;
use serde_json::json;

use crate::support::{
    databases::Kind,
    harness::{PATIENCE, TestServer},
    person::Person,
    polling::{poll_packets, polling_session, post_packets},
    raw::{Connection, TEXT, frame},
};

#[derive(Clone, Copy, Debug)]
enum Mode {
    Open,
    Secure,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Leaves the namespace.
    Disconnect,
    /// Sends a packet that closes the transport.
    Close,
    /// Drops the connection.
    Gone,
}

const MESSAGES: usize = 20;

async fn two_in(mode: Mode, kind: Kind) -> (TestServer, Person, Person) {
    match mode {
        Mode::Open => {
            let server = TestServer::start(kind).await;
            let (alice, bob, _) = server.two_in_a_room().await;
            (server, alice, bob)
        }
        Mode::Secure => {
            let server = TestServer::secure(kind).await;
            let (alice, bob, _) = server.two_members().await;
            (server, (*alice).clone(), (*bob).clone())
        }
    }
}

/// Returns the packets that a connected client sends at once.
fn packets(alice: &Person, room: &str, mode: Mode, way: Way) -> Vec<String> {
    let mut packets = Vec::new();
    if matches!(mode, Mode::Open) {
        packets.push(format!("42{}", json!(["identity", alice.id])));
    }
    let message =
        |n: usize| json!(["send message", { "chatRoomId": room, "messageText": n.to_string() }]);
    packets.extend((0..MESSAGES).map(|n| format!("42{}", message(n))));
    match way {
        Way::Disconnect => packets.push("41".into()),
        Way::Close => packets.push("1".into()),
        Way::Gone => {}
    }
    packets
}

async fn are_posted(alice: &Person, room: &str) {
    let deadline = Instant::now() + PATIENCE;
    let all: Vec<_> = (0..MESSAGES).map(|n| n.to_string()).collect();
    loop {
        let posted = alice.reads(room, "?limit=100").await;
        if posted == all {
            return;
        }
        assert!(all.starts_with(&posted), "not in order: {posted:?}");
        assert!(
            Instant::now() < deadline,
            "only {} of them were posted",
            posted.len()
        );
    }
}

#[rstest]
#[tokio::test]
async fn events_sent_before_a_websocket_closed_are_processed(
    #[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind,
    #[values(Mode::Open, Mode::Secure)] mode: Mode,
) {
    let (server, alice, bob) = two_in(mode, kind).await;
    for version in [3, 4] {
        for way in [Way::Disconnect, Way::Close, Way::Gone] {
            let room = alice
                .named_room(&format!("{version} {way:?}"), &[&bob])
                .await;
            let path = format!(
                "/socket.io/?EIO={version}&transport=websocket&token={}",
                alice.token
            );
            let mut connection = Connection::websocket(&server.base, &path).await;
            if version == 4 {
                connection.send(&frame(TEXT, b"40")).await;
            }
            connection.hears("40").await;
            let frames = packets(&alice, &room, mode, way)
                .iter()
                .flat_map(|packet| frame(TEXT, packet.as_bytes()))
                .collect::<Vec<_>>();
            connection.send(&frames).await;
            if matches!(way, Way::Gone) {
                connection.finish().await;
            }
            are_posted(&alice, &room).await;
        }
    }
}

#[rstest]
#[tokio::test]
async fn events_sent_before_a_polling_session_ended_are_processed(
    #[values(Kind::Sqlite, Kind::ReplicaSet)] kind: Kind,
    #[values(Mode::Open, Mode::Secure)] mode: Mode,
) {
    let (server, alice, bob) = two_in(mode, kind).await;
    for version in [3, 4] {
        for way in [Way::Disconnect, Way::Close] {
            let room = alice
                .named_room(&format!("{version} {way:?}"), &[&bob])
                .await;
            let session =
                polling_session(&server, &format!("EIO={version}&token={}", alice.token)).await;
            let sends = async |packets: &[String]| {
                let payload = match version {
                    3 => packets
                        .iter()
                        .map(|packet| {
                            [&packet.encode_utf16().count().to_string(), ":", packet].concat()
                        })
                        .collect::<String>(),
                    _ => packets.join("\x1e"),
                };
                assert_eq!(post_packets(&server, &session, payload).await, 200);
            };
            if version == 4 {
                sends(&["40".to_owned()]).await;
            }
            let mut heard = String::new();
            while !heard.contains("40") {
                heard = poll_packets(&server, &session).await.1;
            }
            sends(&packets(&alice, &room, mode, way)).await;
            are_posted(&alice, &room).await;
        }
    }
}

#[tokio::test]
async fn events_sent_before_the_shutdown_are_processed() {
    let mut server = TestServer::start(Kind::Sqlite).await;
    let (alice, _, room) = server.two_in_a_room().await;
    let mut connection =
        Connection::websocket(&server.base, "/socket.io/?EIO=3&transport=websocket").await;
    connection.hears("40").await;
    let mut packets = packets(&alice, &room, Mode::Open, Way::Gone);
    packets[0] = packets[0].replacen("42", "420", 1);
    connection
        .send(
            &packets
                .iter()
                .flat_map(|packet| frame(TEXT, packet.as_bytes()))
                .collect::<Vec<_>>(),
        )
        .await;
    // All packets arrived at once.
    connection.hears("430[").await;
    server.restart().await;
    are_posted(&alice.at(&server), &room).await;
}
