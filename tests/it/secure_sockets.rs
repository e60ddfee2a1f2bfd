//! Sockets in secure mode: they act for the user of their token as long as it is valid.
//! `secure_tokens` tests how tokens are refused.

use std::time::Instant;

use reqwest::Method;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    databases::Kind,
    each_store,
    harness::{PATIENCE, TestServer},
    hostile_frames::TEXT,
    people::{ENDED, Member, PASSWORD},
    raw::{Connection, frame},
    secure_access::NOBODY,
    wire::{Shown, Socket},
};

const NOT_A_MEMBER: &str = "You are not a member of this room";
const NOT_YOU: &str = "This is not the user of your token";

#[apply(each_store)]
#[tokio::test]
async fn a_token_is_shown_in_auth_query_or_header(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn a_socket_joins_the_rooms_of_its_user_and_no_others(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn nobody_gets_the_messages_of_another_by_taking_their_identity(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn a_socket_is_given_the_next_token_of_its_user_and_no_other(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

/// Waits for the event that the socket's token has expired.
async fn hears_of_the_end(socket: &mut Socket) {
    assert_eq!(
        socket.hears().await,
        json!(["token expired", { "disconnectsIn": 30 }])
    );
}

#[apply(each_store)]
#[tokio::test]
async fn whose_token_has_expired_is_told_and_disconnected_half_a_minute_later(kind: Kind) {
    let server = TestServer::secure(kind).await;
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
async fn whoever_is_told_a_second_time_has_half_a_minute_again() {
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

#[apply(each_store)]
#[tokio::test]
async fn sockets_close_at_once_with_their_session(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn a_room_that_is_deleted_has_no_sockets_any_more(kind: Kind) {
    let server = TestServer::secure(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn whoever_sends_too_many_events_is_told_so_and_stays(kind: Kind) {
    let server =
        TestServer::secure_with(kind, &[("CAUSERIE_LIMITS__EVENTS_PER_MINUTE", "3")]).await;
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
async fn a_sync_counts_as_one_read_for_each_of_its_rooms() {
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
async fn connections_count_whether_they_have_a_token_or_not() {
    let server = TestServer::secure_with(
        Kind::Sqlite,
        &[("CAUSERIE_LIMITS__SOCKETS_PER_ADDRESS", "2")],
    )
    .await;
    let alice = server.member("alice").await;
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
    drop(connections);
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The slot is free again as soon as the server has noticed.
        let mut connection = open().await;
        connection.send(upgrade(4).as_bytes()).await;
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
