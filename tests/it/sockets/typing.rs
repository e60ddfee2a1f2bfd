//! Typing.

use std::time::{Duration, Instant};

use rstest_reuse::apply;
use serde_json::json;

use crate::{
    each_store,
    support::{
        databases::Kind,
        harness::{PATIENCE, TestServer},
        wire::Socket,
    },
};

#[apply(each_store)]
#[tokio::test]
async fn other_members_are_told_who_types_and_who_stops(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let elsewhere = alice.named_room("elsewhere", &[&bob]).await;
    let (mut alices, mut second) = (
        Socket::of(&alice, &room).await,
        Socket::of(&alice, &room).await,
    );
    let (mut bobs, mut other_room) = (
        Socket::of(&bob, &room).await,
        Socket::of(&bob, &elsewhere).await,
    );
    let event = json!({ "chatRoomId": room, "userId": alice.id });
    alices.succeeds("typing", json!([room])).await;
    assert_eq!(bobs.hears_of("typing").await, event);
    for _ in 0..50 {
        alices.succeeds("typing", json!([room])).await;
    }
    second.succeeds("typing", json!([room])).await;
    bobs.hears_nothing_more().await;
    alices.succeeds("stop typing", json!([room])).await;
    assert_eq!(bobs.hears_of("stop typing").await, event);
    alices.succeeds("stop typing", json!([room])).await;
    for socket in [&mut alices, &mut second, &mut bobs, &mut other_room] {
        socket.hears_nothing_more().await;
    }
    assert_eq!(
        bob.syncs(&room, "").await["lastSeq"],
        0,
        "nothing of it is kept"
    );
}

#[ignore = "slow"]
#[tokio::test]
async fn typing_stops_after_six_seconds_of_silence() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut bobs = Socket::of(&bob, &room).await;
    let mut alices = Socket::of(&alice, &room).await;
    let event = json!({ "chatRoomId": room, "userId": alice.id });
    let begun = Instant::now();
    alices.succeeds("typing", json!([room])).await;
    assert_eq!(bobs.hears_of("typing").await, event);
    assert_eq!(bobs.hears_of("stop typing").await, event);
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(5_900) && took < Duration::from_secs(9),
        "{took:?}"
    );
}

#[tokio::test]
async fn typing_stops_with_the_connection() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut bobs = Socket::of(&bob, &room).await;
    let mut alices = Socket::of(&alice, &room).await;
    let event = json!({ "chatRoomId": room, "userId": alice.id });
    alices.succeeds("typing", json!([room])).await;
    assert_eq!(bobs.hears_of("typing").await, event);
    drop(alices);
    let gone = Instant::now();
    assert_eq!(bobs.hears_of("stop typing").await, event);
    assert!(
        gone.elapsed() < Duration::from_secs(4),
        "at once, not when the time is up"
    );
}

#[ignore = "slow"]
#[tokio::test]
async fn continued_typing_is_announced_again_and_does_not_stop() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let (mut bobs, mut alices) = (
        Socket::of(&bob, &room).await,
        Socket::of(&alice, &room).await,
    );
    let begun = Instant::now();
    let mut told = 0;
    // Longer than a typing state lasts without another event.
    while begun.elapsed() < Duration::from_secs(8) {
        alices.succeeds("typing", json!([room])).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    alices.succeeds("stop typing", json!([room])).await;
    while bobs.hears().await[0] == "typing" {
        told += 1;
    }
    assert!((2..=5).contains(&told), "{told} times in 8 seconds");
    bobs.hears_nothing_more().await;
}

#[tokio::test]
async fn alternating_between_typing_and_stopping_is_throttled() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let (mut bobs, mut alices) = (
        Socket::of(&bob, &room).await,
        Socket::of(&alice, &room).await,
    );
    let begun = Instant::now();
    for _ in 0..50 {
        alices.succeeds("typing", json!([room])).await;
        alices.succeeds("stop typing", json!([room])).await;
    }
    // The limit grows with the elapsed time, since a slow machine takes longer than two seconds.
    let most = 2 * (1 + begun.elapsed().as_secs() / 2);
    let heard = bobs.has_heard().await;
    assert!(heard.len() as u64 <= most, "{heard:?}");
    for (n, event) in heard.iter().enumerate() {
        assert_eq!(event[0], ["typing", "stop typing"][n % 2], "{heard:?}");
    }
    assert_eq!(heard.len() % 2, 0, "nobody is left typing: {heard:?}");
    // Bob receives the next event when Alice keeps typing.
    while bobs.has_heard().await.is_empty() {
        assert!(begun.elapsed() < PATIENCE);
        alices.succeeds("typing", json!([room])).await;
    }
}

#[tokio::test]
async fn only_members_can_type_and_only_in_existing_rooms() {
    let server = TestServer::start(Kind::Sqlite).await;
    let (_, bob, room) = server.two_in_a_room().await;
    let stranger = server.person("Stranger").await;
    let (mut bobs, mut strangers) = (
        Socket::of(&bob, &room).await,
        Socket::of(&stranger, &room).await,
    );
    let mut nobody = Socket::connect(&server.base).await;
    for event in ["typing", "stop typing"] {
        assert_eq!(
            strangers.is_refused(event, json!([room])).await,
            "You are not a member of this room"
        );
        assert_eq!(
            nobody.is_refused(event, json!([room])).await,
            "Please say who you are with identity first"
        );
        for wrong in [
            json!([]),
            json!([null]),
            json!([5]),
            json!([{ "chatRoomId": room }]),
            json!([[room]]),
        ] {
            assert!(
                bobs.is_refused(event, wrong)
                    .await
                    .contains("takes the id of a room")
            );
        }
        assert_eq!(
            bobs.is_refused(event, json!(["nope"])).await,
            "No room exists for this id"
        );
    }
    bobs.hears_nothing_more().await;
}
