//! What unauthenticated clients may do.

use std::time::{Duration, Instant};

use reqwest::Method;
use rstest::rstest;
use serde_json::json;

use crate::support::{
    databases::Kind,
    harness::{PATIENCE, TestServer},
    people::Member,
    polling::{poll_packets, polling_session, post_packets},
    raw::{BINARY, Connection, TEXT, WEBSOCKET, WEBSOCKET_3, ends, frame, text},
    wire::Socket,
};

#[ignore = "slow"]
#[tokio::test]
async fn a_version_3_client_without_a_token_is_told_and_disconnected() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let mut connection = Connection::websocket(&server.base, WEBSOCKET_3).await;
    let heard = ends(&mut connection).await;
    assert!(
        heard
            .iter()
            .any(|packet| packet.starts_with("44") && packet.contains("No access token provided")),
        "{heard:?}"
    );
    let polling = polling_session(&server, "EIO=3").await;
    assert!(
        poll_packets(&server, &polling)
            .await
            .1
            .contains("No access token provided")
    );
    let gone = async { while poll_packets(&server, &polling).await.0 == 200 {} };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the session goes on");
}

#[ignore = "slow"]
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
    let polling = polling_session(&server, "EIO=4").await;
    let waits = async { while poll_packets(&server, &polling).await.0 == 200 {} };
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
async fn an_unauthenticated_websocket_can_send_very_little(#[case] frames: Vec<Vec<u8>>) {
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
async fn an_unauthenticated_polling_session_can_send_very_little(#[values(3, 4)] version: u8) {
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
        let session =
            polling_session(&server, &format!("EIO={version}&token={}", alice.token)).await;
        if version == 3 {
            while !poll_packets(&server, &session).await.1.contains("40") {}
        }
        let deadline = Instant::now() + Duration::from_secs(9);
        let (mut answered, is_connected) = (0, version == 3);
        while post_packets(&server, &session, payload.clone()).await == 200 {
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
            post_packets(&server, &session, framed("420[\"identity\",5]")).await;
            let mut heard = 0;
            loop {
                let (status, packets) = poll_packets(&server, &session).await;
                heard += packets.len();
                if status != 200 || packets.contains("430[") {
                    break;
                }
            }
            assert!(heard < 10_000, "{heard} bytes: {payload:.30}");
        } else {
            let gone = async { while poll_packets(&server, &session).await.0 == 200 {} };
            tokio::time::timeout(PATIENCE, gone)
                .await
                .expect("the session goes on");
        }
    }
}

#[tokio::test]
async fn the_end_of_a_session_closes_its_transports() {
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
    let polling = polling_session(&server, &format!("EIO=4&token={}", ended.token)).await;
    post_packets(&server, &polling, "40").await;
    while !poll_packets(&server, &polling).await.1.contains("40{") {}
    ended.calls(Method::POST, "/logout", json!({})).await.ok();
    for connection in &mut connections {
        assert!(ends(connection).await.contains(&"41".to_owned()));
    }
    assert!(poll_packets(&server, &polling).await.1.contains("41"));
    let gone = async { while poll_packets(&server, &polling).await.0 == 200 {} };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the session of polling goes on");
    Socket::signed_in(&alice)
        .await
        .succeeds("identity", json!([alice.id]))
        .await;
}
