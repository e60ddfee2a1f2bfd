//! Sockets in secure mode: tokens, rooms and limits.

use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    databases::Kind,
    harness::{PATIENCE, TestServer},
    people::{ENDED, NOBODY},
    raw::{Connection, TEXT, WEBSOCKET, frame},
    wire::{Shown, Socket},
};

const NOT_A_MEMBER: &str = "You are not a member of this room";
const NOT_YOU: &str = "This is not the user of your token";

#[tokio::test]
async fn a_token_is_accepted_in_auth_query_and_header() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_members().await;
    let header = format!("Bearer {}", bob.token);
    let of_alice = format!("Bearer {}", alice.token);
    let mut sockets = Vec::new();
    for shown in [
        Shown::Auth(json!({ "token": bob.token })),
        Shown::Query(4, &bob.token),
        Shown::Query(3, &bob.token),
        Shown::Header(&header),
        Shown::Auth(json!({ "token": bob.token, "more": [1] })),
    ] {
        let mut socket = Socket::with(&server.base, &shown).await.unwrap();
        socket.succeeds("identity", json!([bob.id])).await;
        assert_eq!(
            socket.is_refused("identity", json!([alice.id])).await,
            NOT_YOU
        );
        socket.succeeds("subscribe", json!([room])).await;
        sockets.push(socket);
    }
    let post = alice.posts(&room, "hello").await.ok()["post"].clone();
    for socket in &mut sockets {
        assert_eq!(socket.hears_post().await, post);
    }
    let mut of_alice = Socket::with(&server.base, &Shown::Header(&of_alice))
        .await
        .unwrap();
    assert_eq!(
        of_alice.is_refused("identity", json!([bob.id])).await,
        NOT_YOU
    );
}

#[tokio::test]
async fn a_socket_can_join_only_rooms_of_its_user() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_members().await;
    let [stranger, sue] = [server.member("stranger").await, server.support("sue").await];
    let mut outside = [
        Socket::signed_in(&stranger).await,
        Socket::signed_in(&sue).await,
    ];
    for socket in &mut outside {
        for arguments in [
            json!([room]),
            json!([room, alice.id]),
            json!([room, stranger.id]),
            json!([NOBODY]),
            json!(["none"]),
        ] {
            assert_eq!(
                socket.is_refused("subscribe", arguments).await,
                NOT_A_MEMBER
            );
        }
    }
    let (mut alices, mut bobs) = (
        Socket::signed_in(&alice).await,
        Socket::signed_in(&bob).await,
    );
    for other in [&stranger.id, NOBODY, "none", &bob.id.to_uppercase()] {
        assert_eq!(
            alices.is_refused("subscribe", json!([room, other])).await,
            "That user is not a member of this room"
        );
    }
    alices.succeeds("subscribe", json!([room, ""])).await;
    alices.succeeds("subscribe", json!([room, bob.id])).await;
    let post = alice.posts(&room, "hello").await.ok()["post"].clone();
    for socket in [&mut alices, &mut bobs] {
        assert_eq!(socket.hears_post().await, post);
    }
    // An event that had been sent to them would have arrived before this one.
    for (socket, who) in outside.iter_mut().zip([&stranger, &sue]) {
        let own = who.room_with(&[]).await;
        socket.succeeds("subscribe", json!([own])).await;
        let post = who.posts(&own, "to myself").await.ok()["post"].clone();
        assert_eq!(socket.hears().await[0], "room created");
        assert_eq!(socket.hears_post().await, post);
    }
}

#[tokio::test]
async fn another_identity_gives_no_access_to_messages() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_members().await;
    let mallory = server.member("mallory").await;
    let own = mallory.room_with(&[]).await;
    let mut socket = Socket::signed_in_to(&mallory, &own).await;
    for identity in [
        json!([bob.id]),
        json!([bob.id, mallory.id]),
        json!([mallory.id, bob.id]),
        json!([{ "$gt": "" }]),
    ] {
        let _ = socket.asks("identity", identity).await;
    }
    // A second connect packet on the same connection changes nothing either, whatever it contains.
    socket
        .send(&format!("40{}", json!({ "token": bob.token })))
        .await;
    let mut alices = Socket::signed_in(&alice).await;
    alices.succeeds("subscribe", json!([room, bob.id])).await;
    alice.posts(&room, "for Bob").await.ok();
    assert_eq!(
        socket.is_refused("subscribe", json!([room])).await,
        NOT_A_MEMBER
    );
    let post = mallory.posts(&own, "to myself").await.ok()["post"].clone();
    assert_eq!(socket.hears_post().await, post, "and nothing before that");
}

#[tokio::test]
async fn a_socket_accepts_only_new_tokens_of_its_user() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_members().await;
    let mut socket = Socket::signed_in_to(&alice, &room).await;
    assert_eq!(
        socket.is_refused("refresh token", json!([bob.token])).await,
        NOT_YOU
    );
    for (wrong, message) in [
        (json!([]), "refresh token takes an access token, a string"),
        (
            json!([{ "$gt": "" }]),
            "refresh token takes an access token, a string",
        ),
        (json!([""]), "jwt must be provided"),
        (json!(["nonsense"]), "jwt malformed"),
        (json!([alice.refresh_token]), "jwt malformed"),
    ] {
        assert_eq!(socket.is_refused("refresh token", wrong).await, message);
    }
    socket.succeeds("identity", json!([alice.id])).await;

    // With a token of another session, the socket belongs to that session from then on.
    let other = server.session_of("alice").await;
    socket.succeeds("refresh token", json!([other.token])).await;
    alice.calls(Method::POST, "/logout", json!({})).await.ok();
    assert_eq!(
        socket
            .is_refused("refresh token", json!([alice.token]))
            .await,
        ENDED
    );
    let post = bob.posts(&room, "hello").await.ok()["post"].clone();
    assert_eq!(socket.hears_post().await, post);
    other.calls(Method::POST, "/logout", json!({})).await.ok();
    socket.ends().await;
}

#[tokio::test]
async fn a_deleted_room_has_no_sockets() {
    let server = TestServer::secure(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_members().await;
    let mut socket = Socket::signed_in_to(&bob, &room).await;
    alice
        .calls(Method::DELETE, &format!("/delete/room/{room}"), json!({}))
        .await
        .ok();
    assert_eq!(
        socket.is_refused("subscribe", json!([room])).await,
        NOT_A_MEMBER
    );
    let new = alice.room_with(&[&bob]).await;
    alice.posts(&new, "not heard").await.ok();
    socket.succeeds("subscribe", json!([new])).await;
    let post = alice.posts(&new, "a new start").await.ok()["post"].clone();
    assert_eq!(socket.hears().await[0], "room deleted");
    assert_eq!(socket.hears().await[0], "room created");
    assert_eq!(socket.hears_post().await, post);
}

#[tokio::test]
async fn too_many_events_are_refused_without_disconnecting() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__EVENTS_PER_MINUTE", "3")]).await;
    let [alice, bob] = [server.member("alice").await, server.member("bob").await];
    let mut sockets = [
        Socket::signed_in(&alice).await,
        Socket::signed_in(&alice).await,
    ];
    for n in 0..3 {
        sockets[n % 2].succeeds("identity", json!([alice.id])).await;
    }
    for socket in &mut sockets {
        for event in ["identity", "subscribe", "no such event"] {
            let answer = socket.asks(event, json!([alice.id])).await;
            assert_eq!(
                (&answer["success"], &answer["message"]),
                (&json!(false), &json!("rate limited")),
                "{answer}"
            );
            assert!(
                answer["retryAfter"]
                    .as_u64()
                    .is_some_and(|seconds| (1..=60).contains(&seconds)),
                "{answer}"
            );
        }
    }
    Socket::signed_in(&bob)
        .await
        .succeeds("identity", json!([bob.id]))
        .await;
}

#[tokio::test]
async fn a_sync_counts_as_one_read_per_room() {
    let server =
        TestServer::secure_with(Kind::Sqlite, &[("CAUSERIE_LIMITS__READS_PER_MINUTE", "3")]).await;
    let (alice, bob, room) = server.two_members().await;
    let rooms: Vec<_> = [
        room,
        alice.named_room("two", &[&bob]).await,
        alice.named_room("three", &[&bob]).await,
    ]
    .into();
    let mut socket = Socket::signed_in(&alice).await;
    let all: Value = rooms
        .iter()
        .cloned()
        .chain(["four".into(), "five".into()])
        .map(|room| (room, json!(0)))
        .collect();
    let answer = socket.asks("sync", json!([{ "rooms": all }])).await;
    assert_eq!(answer["success"], true, "{answer}");
    let (late, others): (Vec<_>, Vec<_>) = answer["rooms"]
        .as_object()
        .unwrap()
        .values()
        .partition(|answer| answer["message"] == "rate limited");
    assert_eq!((late.len(), others.len()), (2, 3), "{answer}");
    assert!(
        late.iter().all(|answer| answer["retryAfter"]
            .as_u64()
            .is_some_and(|seconds| seconds > 0)),
        "{answer}"
    );
    alice.get("/users").await.refused(429, "rate limited");
}

#[tokio::test]
async fn connections_count_with_and_without_a_token() {
    let server = TestServer::secure_with(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__SOCKETS_PER_ADDRESS", "2")],
    )
    .await;
    let open = async || Connection::open(&server.base).await;
    let upgrade = |version: u8| {
        let headers = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
        format!(
            "GET /socket.io/?EIO={version}&transport=websocket HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n"
        )
    };
    let mut connections = [open().await, open().await];
    for connection in &mut connections {
        connection.send(upgrade(4).as_bytes()).await;
        assert_eq!(connection.reply("GET").await.unwrap().status, 101);
        connection.send(&frame(TEXT, b"40")).await;
        connection.hears("44").await;
    }
    for version in [3, 4] {
        let mut third = open().await;
        third.send(upgrade(version).as_bytes()).await;
        let reply = third.reply("GET").await.unwrap();
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (429, Some("10")),
            "{reply:?}"
        );
    }
}

#[ignore = "slow"]
#[tokio::test]
async fn a_closed_connection_soon_counts_no_more() {
    let server = TestServer::secure_with(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__SOCKETS_PER_ADDRESS", "2")],
    )
    .await;
    let alice = server.member("alice").await;
    for _ in 0..2 {
        let mut connection = Connection::websocket(&server.base, WEBSOCKET).await;
        connection.send(&frame(TEXT, b"40")).await;
        connection.hears("44").await;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The slot is free again as soon as the server has noticed.
        let mut connection = Connection::open(&server.base).await;
        connection.asks_for_websocket(WEBSOCKET).await;
        if connection.reply("GET").await.unwrap().status == 101 {
            connection
                .send(&frame(
                    TEXT,
                    format!("40{}", json!({ "token": alice.token })).as_bytes(),
                ))
                .await;
            connection.hears("40{").await;
            break;
        }
        assert!(Instant::now() < deadline);
    }
}
