//! Several sockets in succession on the same connection: the protocol lets a client disconnect and
//! connect again. The library gives them all the same id.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::support::{
    databases::Kind,
    harness::{PATIENCE, TestServer},
    people::Member,
    wire::Socket,
};

/// Returns a user's second socket on one connection, subscribed to the room. The first socket has
/// left more events than the server could process by then, and last a refresh with another token,
/// which expires earlier.
async fn comes_back(member: &Member, room: &str, other_token: &str) -> Socket {
    let mut socket = Socket::signed_in(member).await;
    // Posts take the longest, because they are written to the disk one by one.
    for _ in 0..200 {
        socket
            .send(&format!(
                "42{}",
                json!(["send message", { "chatRoomId": room, "messageText": "wait" }])
            ))
            .await;
    }
    socket
        .send(&format!("42{}", json!(["subscribe", room])))
        .await;
    socket
        .send(&format!("420{}", json!(["refresh token", other_token])))
        .await;
    socket.send("41").await;
    let (mut is_through, mut is_back) = (false, false);
    let deadline = Instant::now() + PATIENCE;
    while !(is_through && is_back) {
        assert!(
            Instant::now() < deadline,
            "through: {is_through}, back: {is_back}"
        );
        if !is_back {
            // The server ignores the packet until it has noticed that the first socket left.
            socket
                .send(&format!("40{}", json!({ "token": member.token })))
                .await;
        }
        if let Ok(packet) = tokio::time::timeout(Duration::from_millis(20), socket.receive()).await
        {
            let packet = packet.expect("the connection goes on");
            is_through |= packet.starts_with("430[");
            is_back |= packet.starts_with("40{");
        }
    }
    socket.succeeds("subscribe", json!([room])).await;
    socket
}

#[tokio::test]
async fn a_socket_reconnected_on_its_connection_can_still_be_closed() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let [alice, first] = [server.member("alice").await, server.member("bob").await];
    server.turn_clock(2_000);
    let bob = first.with(&first.refreshes().await.ok());
    let room = alice.named_room("ours", &[&bob]).await;

    let mut socket = comes_back(&bob, &room, &first.token).await;
    alice.removes(&room, &bob).await.ok();
    assert_eq!(socket.hears_of("member removed").await["userId"], *bob.id);
    alice.says(&room, "among us").await;
    socket.hears_nothing_more().await;

    alice.adds(&room, &[&bob]).await.ok();
    let leaver = comes_back(&bob, &room, &first.token).await;
    let elsewhere = server.session_of("bob").await;
    elsewhere
        .calls(Method::POST, "/logout", json!({ "all": true }))
        .await
        .ok();
    alice.says(&room, "among us").await;
    let heard = tokio::time::timeout(PATIENCE, leaver.ends())
        .await
        .expect("it is closed");
    assert!(
        heard.iter().all(|event| event[0] != "new message"),
        "{heard:?}"
    );
}

#[tokio::test]
async fn the_token_of_a_socket_reconnected_on_its_connection_expires() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let first = server.member("bob").await;
    server.turn_clock(10_000);
    let bob = first.with(&first.refreshes().await.ok());
    let room = bob.room_with(&[]).await;
    let mut other = Socket::signed_in(&first).await;
    let mut socket = comes_back(&bob, &room, &first.token).await;
    // The second socket shows that the server has checked its clock between the expiries of the two
    // tokens.
    server.turn_clock(895_000);
    assert_eq!(
        other.hears_of("token expired").await,
        json!({ "disconnectsIn": 30 })
    );
    server.turn_clock(10_000);
    assert_eq!(
        socket.hears_of("token expired").await,
        json!({ "disconnectsIn": 30 })
    );
    server.turn_clock(31_000);
    socket.ends().await;
}
