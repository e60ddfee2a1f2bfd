//! When sockets end with their token or session.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    databases::Kind,
    harness::{PATIENCE, TestServer},
    people::{Member, PASSWORD},
    wire::Socket,
};

/// Waits for the event that the socket's token has expired.
async fn hears_of_the_end(socket: &mut Socket) {
    assert_eq!(
        socket.hears().await,
        json!(["token expired", { "disconnectsIn": 30 }])
    );
}

#[tokio::test]
async fn a_socket_is_told_of_an_expired_token_and_disconnected_half_a_minute_later() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_members().await;
    let (mut lazy, mut diligent) = (
        Socket::signed_in_to(&alice, &room).await,
        Socket::signed_in_to(&bob, &room).await,
    );
    server.turn_clock(901_000);
    for socket in [&mut lazy, &mut diligent] {
        hears_of_the_end(socket).await;
    }
    for (event, arguments) in [
        ("subscribe", json!([room])),
        ("unsubscribe", json!([room])),
        ("identity", json!([alice.id])),
    ] {
        assert_eq!(lazy.is_refused(event, arguments).await, "jwt expired");
    }
    assert_eq!(
        lazy.is_refused("refresh token", json!([alice.token])).await,
        "jwt expired"
    );
    let bob = bob.with(&bob.refreshes().await.ok());
    diligent.succeeds("refresh token", json!([bob.token])).await;
    server.turn_clock(29_000);
    diligent.succeeds("subscribe", json!([room])).await;
    assert_eq!(
        lazy.is_refused("identity", json!([alice.id])).await,
        "jwt expired",
        "there are thirty seconds"
    );
    server.turn_clock(2_000);
    lazy.ends().await;
    let post = bob.posts(&room, "still there").await.ok()["post"].clone();
    assert_eq!(diligent.hears_post().await, post);
    server.turn_clock(901_000);
    hears_of_the_end(&mut diligent).await;
}

#[tokio::test]
async fn each_notice_of_an_expired_token_gives_half_a_minute() {
    let server = TestServer::secure_with(
        Kind::Sqlite,
        &[("CAUSERIE_SESSION__ACCESS_LIFETIME_SECONDS", "100")],
    )
    .await;
    let first = server.member("alice").await;
    let mut socket = Socket::signed_in(&first).await;
    server.turn_clock(10_000);
    let second = first.with(&first.refreshes().await.ok());
    server.turn_clock(23_000);
    // Its token expires at 133 seconds, which shows the test that the server has checked its clock.
    let latecomer = server.session_of("alice").await;
    let mut other = Socket::signed_in(&latecomer).await;
    server.turn_clock(68_000);
    // At 101 seconds. The first token expired at 100, so with it the socket would stay open until
    // 131.
    hears_of_the_end(&mut socket).await;
    socket
        .succeeds("refresh token", json!([second.token]))
        .await;
    server.turn_clock(10_000);
    // At 111 seconds. The second token expired at 110, so the socket stays open until 141.
    hears_of_the_end(&mut socket).await;
    server.turn_clock(23_000);
    hears_of_the_end(&mut other).await;
    assert_eq!(
        socket.is_refused("identity", json!([first.id])).await,
        "jwt expired",
        "and not closed"
    );
    server.turn_clock(10_000);
    socket.ends().await;
}

/// Ends Alice's session in one of several ways, which makes its sockets close.
async fn end_by(server: &TestServer, way: usize, alice: &Member, sue: &Member) {
    let other = server.session_of("alice").await;
    let all = alice.get("/sessions").await.ok()["sessions"].clone();
    let own = all
        .as_array()
        .unwrap()
        .iter()
        .find(|session| session["current"] == true)
        .unwrap()["_id"]
        .as_str()
        .unwrap();
    match way {
        0 => alice.calls(Method::POST, "/logout", json!({})).await.ok(),
        1 => other
            .calls(Method::POST, "/logout", json!({ "all": true }))
            .await
            .ok(),
        2 => other
            .calls(Method::DELETE, &format!("/sessions/{own}"), json!({}))
            .await
            .ok(),
        3 => {
            let passwords = json!({ "oldPassword": PASSWORD, "newPassword": PASSWORD });
            other
                .calls(
                    Method::PUT,
                    &format!("/users/{}/password", alice.id),
                    passwords,
                )
                .await
                .ok()
        }
        4 => {
            alice.refreshes().await.ok();
            // Later than a second tab that refreshes at the same time.
            server.turn_clock(11_000);
            alice
                .refreshes()
                .await
                .refused(401, "The refresh token is not valid, please log in again")
        }
        5 => sue
            .calls(Method::DELETE, &format!("/users/{}", alice.id), json!({}))
            .await
            .ok(),
        _ => unreachable!(),
    };
}

#[tokio::test]
async fn sockets_close_at_once_when_their_session_ends() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_members().await;
    let sue = server.support("sue").await;
    let mut bobs = Socket::signed_in_to(&bob, &room).await;
    for way in 0..6 {
        let alice = if way == 0 {
            alice.clone()
        } else {
            server.session_of("alice").await
        };
        let sockets = [
            Socket::signed_in_to(&alice, &room).await,
            Socket::signed_in(&alice).await,
        ];
        end_by(&server, way, &alice, &sue).await;
        let post = bob.posts(&room, "among us").await.ok()["post"].clone();
        assert_eq!(bobs.hears_post().await, post);
        for socket in sockets {
            // Closed at once: a post after the response is not received any more.
            assert_eq!(
                tokio::time::timeout(PATIENCE, socket.ends()).await.unwrap(),
                Vec::<Value>::new(),
                "way {way}"
            );
        }
    }
}
