//! Sockets: `identity`, `subscribe`, `unsubscribe`, disconnecting, and the events that they
//! receive.

use serde_json::json;

use crate::support::{databases::Kind, harness::TestServer, wire::Socket};

#[tokio::test]
async fn all_members_receive_the_post_of_the_response() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut sockets = [
        Socket::of(&alice, &room).await,
        Socket::of(&bob, &room).await,
        Socket::of(&bob, &room).await,
    ];
    let post = alice.posts(&room, "hello ✨").await.ok()["post"].clone();
    for socket in &mut sockets {
        assert_eq!(
            socket.hears().await,
            json!(["new message", { "message": post }])
        );
    }
}

#[tokio::test]
async fn sockets_receive_messages_in_order_and_once() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(Socket::of(&bob, &room).await);
    }
    let posting: Vec<_> = (0..8)
        .map(|n| {
            let (person, room) = ([&alice, &bob][n % 2].clone(), room.clone());
            tokio::spawn(async move {
                for k in 0..50 {
                    person.posts(&room, &format!("{n}:{k}")).await.ok();
                }
            })
        })
        .collect();
    for poster in posting {
        poster.await.unwrap();
    }
    for socket in &mut sockets {
        for seq in 1..=400 {
            assert_eq!(socket.hears_post().await["seq"], seq);
        }
    }
}

#[tokio::test]
async fn subscribing_another_user_subscribes_all_their_sockets() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut bobs = [
        Socket::connect(&server.base).await,
        Socket::connect(&server.base).await,
    ];
    for socket in &mut bobs {
        socket.succeeds("identity", json!([bob.id])).await;
    }
    let mut elsewhere = Socket::connect(&server.base).await;
    let mut alices = Socket::connect(&server.base).await;
    alices.succeeds("subscribe", json!([room, bob.id])).await;
    let first = alice.posts(&room, "hello Bob").await.ok()["post"].clone();
    for socket in bobs.iter_mut().chain([&mut alices]) {
        assert_eq!(socket.hears_post().await, first);
    }
    elsewhere.succeeds("subscribe", json!([room])).await;
    let second = alice.posts(&room, "hello all").await.ok()["post"].clone();
    assert_eq!(
        elsewhere.hears_post().await,
        second,
        "who was not brought in did not hear the first"
    );
}

#[tokio::test]
async fn an_unsubscribed_socket_receives_nothing_until_it_subscribes_again() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut socket = Socket::of(&bob, &room).await;
    socket.succeeds("unsubscribe", json!([room])).await;
    alice.posts(&room, "not heard").await.ok();
    socket.succeeds("subscribe", json!([room])).await;
    let heard = alice.posts(&room, "heard").await.ok()["post"].clone();
    assert_eq!(socket.hears_post().await, heard);
}

#[tokio::test]
async fn events_of_one_socket_take_effect_in_the_order_in_which_they_were_sent() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut socket = Socket::connect(&server.base).await;
    for round in 0..50 {
        for _ in 0..10 {
            socket.send(&format!(r#"42["subscribe","{room}"]"#)).await;
            socket
                .send(&format!(r#"42["identity","{}"]"#, alice.id))
                .await;
            socket.send(&format!(r#"42["unsubscribe","{room}"]"#)).await;
            socket
                .send(&format!(r#"42["identity","{}"]"#, bob.id))
                .await;
        }
        socket.succeeds("subscribe", json!([room])).await;
        let post = alice.posts(&room, &round.to_string()).await.ok()["post"].clone();
        assert_eq!(socket.hears_post().await, post);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_sent_while_connecting_is_not_lost() {
    let server = TestServer::start(Kind::Sqlite).await;
    let alice = server.person("Alice").await;
    let connecting: Vec<_> = (0..16)
        .map(|_| {
            let alice = alice.clone();
            tokio::spawn(async move {
                for _ in 0..250 {
                    Socket::connect(&alice.base)
                        .await
                        .succeeds("identity", json!([alice.id]))
                        .await;
                }
            })
        })
        .collect();
    for client in connecting {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn a_second_identity_replaces_the_first() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut switcher = Socket::connect(&server.base).await;
    switcher.succeeds("identity", json!([bob.id])).await;
    switcher.succeeds("identity", json!([alice.id])).await;
    let mut caller = Socket::connect(&server.base).await;
    caller.succeeds("subscribe", json!([room, bob.id])).await;
    alice.posts(&room, "for Bob").await.ok();
    caller.succeeds("subscribe", json!([room, alice.id])).await;
    let post = bob.posts(&room, "for Alice").await.ok()["post"].clone();
    assert_eq!(switcher.hears_post().await, post);
}

#[tokio::test]
async fn an_invalid_payload_is_refused_without_ending_the_connection() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut socket = Socket::of(&bob, &room).await;
    for event in ["identity", "subscribe", "unsubscribe"] {
        for payload in [
            json!([]),
            json!([null]),
            json!([5]),
            json!([{}]),
            json!([["a"]]),
            json!(["nope"]),
            json!([""]),
            json!(["x".repeat(10_000)]),
        ] {
            // Without a room, `subscribe` subscribes to all rooms of the user.
            if event != "subscribe" || payload != json!([]) {
                let message = socket.is_refused(event, payload).await;
                assert!(!message.is_empty());
            }
        }
    }
    assert_eq!(
        socket
            .is_refused("subscribe", json!(["0199d1f0c0de7aaa8bbbccccddddeeee"]))
            .await,
        "No room exists for this id"
    );
    assert_eq!(
        socket
            .is_refused("identity", json!(["0199d1f0c0de7aaa8bbbccccddddeeee"]))
            .await,
        "No user with this id found"
    );
    assert!(
        socket
            .is_refused("subscribe", json!([room, 5]))
            .await
            .contains("second argument")
    );
    socket.is_refused("no such event", json!(["x"])).await;
    for lenient in [
        json!([room, null]),
        json!([room, ""]),
        json!([room, "nobody"]),
        json!([room, bob.id, "more"]),
    ] {
        socket.succeeds("subscribe", lenient).await;
    }
    let post = alice.posts(&room, "still here").await.ok()["post"].clone();
    assert_eq!(socket.hears_post().await, post);
}

#[tokio::test]
async fn a_deleted_room_has_no_subscribers() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut socket = Socket::of(&bob, &room).await;
    server.delete(&format!("/delete/room/{room}")).await.ok();
    assert_eq!(
        socket.hears_of("room deleted").await,
        json!({ "chatRoomId": room })
    );
    assert_eq!(
        socket.is_refused("subscribe", json!([room])).await,
        "No room exists for this id"
    );
    let new = alice.room_with(&[&bob]).await;
    assert_eq!(
        socket.hears_of("room created").await["chatRoom"]["chatRoomId"],
        *new
    );
    socket.succeeds("subscribe", json!([new])).await;
    let post = alice.posts(&new, "a new start").await.ok()["post"].clone();
    assert_eq!(socket.hears_post().await, post);
}

#[tokio::test]
async fn a_socket_that_never_reads_is_disconnected_without_delaying_others() {
    let server = TestServer::with(
        Kind::Sqlite,
        &[("CAUSERIE_SOCKET__MAX_WAITING_EVENTS", "16")],
    )
    .await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut sleeper = Socket::of(&bob, &room).await;
    let mut reader = Socket::of(&bob, &room).await;
    // Far more than the buffers at both ends of a connection hold.
    let text = "x".repeat(90_000);
    let posts = 300;
    let posting = {
        let (alice, room) = (alice.clone(), room.clone());
        tokio::spawn(async move {
            for _ in 0..posts {
                alice.posts(&room, &text).await.ok();
            }
        })
    };
    for seq in 1..=posts {
        assert_eq!(reader.hears_post().await["seq"], seq);
    }
    posting.await.unwrap();
    let mut heard = 0;
    while let Some(packet) = sleeper.receive().await {
        if packet == "41" {
            break;
        }
        heard += 1;
        let event: serde_json::Value =
            serde_json::from_str(packet.strip_prefix("42").unwrap()).unwrap();
        assert_eq!(
            event[1]["message"]["seq"], heard,
            "what is heard has no hole"
        );
    }
    assert!(
        heard < posts,
        "a client that kept up with everything was not slow"
    );
}
