//! Typing and presence.

use std::time::{Duration, Instant};

use mongodb::bson::doc;
use rstest_reuse::apply;
use serde_json::{Value, json};

use crate::{
    databases::{Database, Kind},
    each_store,
    harness::{PATIENCE, TestServer},
    mongod::Mongod,
    people::Person,
    wire::Socket,
};

impl Person {
    /// Returns the users in the room, with whether they are online and when they were last seen.
    pub async fn sees(&self, room: &str) -> Vec<Value> {
        self.get(&format!("/room/{room}/presence")).await.ok()["users"]
            .as_array()
            .unwrap()
            .clone()
    }
}

async fn with_presence(person: &Person, room: &str) -> Socket {
    let mut socket = Socket::of(person, room).await;
    socket.hears_presence = true;
    socket
}

#[apply(each_store)]
#[tokio::test]
async fn the_others_in_the_room_hear_who_types_and_stops(kind: Kind) {
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

#[apply(each_store)]
#[tokio::test]
async fn who_says_no_more_or_goes_away_stops_typing(kind: Kind) {
    let server = TestServer::start(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn who_goes_on_typing_is_told_of_again_and_does_not_stop(kind: Kind) {
    let server = TestServer::start(kind).await;
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
async fn who_types_and_stops_in_turns_is_told_of_no_more_often() {
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

#[apply(each_store)]
#[tokio::test]
async fn only_members_type_and_only_in_rooms(kind: Kind) {
    let server = TestServer::start(kind).await;
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

#[apply(each_store)]
#[tokio::test]
async fn those_who_share_a_room_hear_who_comes_and_goes(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let stranger = server.person("Stranger").await;
    let own = stranger.room_with(&[]).await;
    let never = json!({ "_id": bob.id, "online": false, "lastSeenAt": null });
    assert_eq!(alice.sees(&room).await[1], never);
    let mut alices = with_presence(&alice, &room).await;
    // Not subscribed to any room: events about users go to all sockets of their recipients.
    let mut other = Socket::by(&alice).await;
    other.hears_presence = true;
    let mut strangers = with_presence(&stranger, &own).await;
    let bobs = [Socket::by(&bob).await, Socket::by(&bob).await];
    for socket in [&mut alices, &mut other] {
        assert_eq!(
            socket.hears_of("user online").await,
            json!({ "userId": bob.id })
        );
    }
    let seen = alice.sees(&room).await;
    assert_eq!(
        (&seen[0]["_id"], &seen[0]["online"], &seen[1]["online"]),
        (&json!(alice.id), &json!(true), &json!(true))
    );
    let [first, second] = bobs;
    drop(first);
    drop(second);
    let gone = Instant::now();
    let heard = alices.hears_of("user offline").await;
    assert!(
        gone.elapsed() >= Duration::from_millis(2_500),
        "with some grace"
    );
    assert_eq!(
        (&heard["userId"], heard["lastSeenAt"].is_string()),
        (&json!(bob.id), true)
    );
    assert_eq!(other.hears_of("user offline").await, heard);
    let away = json!({ "_id": bob.id, "online": false, "lastSeenAt": heard["lastSeenAt"] });
    assert_eq!(alice.sees(&room).await[1], away);
    strangers.hears_nothing_more().await;
    stranger
        .get(&format!("/room/{room}/presence"))
        .await
        .refused(403, "You are not a member of this room");
}

#[apply(each_store)]
#[tokio::test]
async fn who_comes_back_at_once_was_never_away(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let carol = server.person("Carol").await;
    alice.room_with(&[&carol]).await;
    let mut alices = with_presence(&alice, &room).await;
    let mut bobs = Socket::by(&bob).await;
    assert_eq!(
        alices.hears_of("user online").await,
        json!({ "userId": bob.id })
    );
    for _ in 0..5 {
        drop(bobs);
        bobs = Socket::by(&bob).await;
    }
    let carols = Socket::by(&carol).await;
    assert_eq!(
        alices.hears_of("user online").await,
        json!({ "userId": carol.id })
    );
    drop(carols);
    // Longer than Bob's grace period, because Carol disconnected after him.
    let heard = alices.hears_of("user offline").await;
    assert_eq!(heard["userId"], *carol.id, "Bob is still there");
    assert_eq!(alice.sees(&room).await[1]["online"], true);
    drop(bobs);
    assert_eq!(alices.hears_of("user offline").await["userId"], *bob.id);
}

/// Before the server announces that a user is offline, it accesses the database, which may take
/// some time.
#[tokio::test]
async fn who_comes_back_before_it_is_told_that_they_went_was_never_away() {
    let mongod = Mongod::obedient();
    let server = TestServer::on(Database::on(&mongod), &[]).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let mut alices = with_presence(&alice, &room).await;
    let bobs = Socket::by(&bob).await;
    alices.hears_of("user online").await;
    // Delays the update of the time when Bob was last seen.
    mongod
        .hinder(
            "update",
            "users",
            doc! { "blockConnection": true, "blockTimeMS": 6_000 },
        )
        .await;
    drop(bobs);
    let patience = i64::try_from(PATIENCE.as_millis()).unwrap();
    mongod.admin(doc! { "waitForFailPoint": "failCommand", "timesEntered": 1_i64, "maxTimeMS": patience }).await;
    assert_eq!(alice.sees(&room).await[1]["online"], false);
    let bobs = Socket::by(&bob).await;
    assert_eq!(alice.sees(&room).await[1]["online"], true);
    let back = alice.says(&room, "back").await["createdAt"].clone();
    alices.hears_post().await;
    // Disabling the fail point waits for the commands that it still delays.
    mongod.release().await;
    drop(bobs);
    let heard = alices.hears_of("user offline").await;
    assert!(heard["lastSeenAt"].as_str() >= back.as_str(), "{heard}");
    alices.hears_nothing_more().await;
}

#[apply(each_store)]
#[tokio::test]
async fn when_somebody_was_last_there_is_known_after_a_restart(kind: Kind) {
    let mut server = TestServer::start(kind).await;
    let (mut alice, bob, room) = server.two_in_a_room().await;
    let (mut alices, bobs) = (with_presence(&alice, &room).await, Socket::by(&bob).await);
    alices.hears_of("user online").await;
    let before = alice.sees(&room).await[1]["lastSeenAt"].clone();
    server.stop().await;
    drop(bobs);
    server.restart().await;
    alice.base.clone_from(&server.base);
    let seen = alice.sees(&room).await;
    for person in &seen {
        assert_eq!(person["online"], false);
        assert!(person["lastSeenAt"].is_string(), "{person}");
    }
    assert!(seen[1]["lastSeenAt"].as_str() >= before.as_str());
}

#[apply(each_store)]
#[tokio::test]
async fn a_socket_that_takes_another_identity_is_no_longer_the_first_one(kind: Kind) {
    let server = TestServer::start(kind).await;
    let (alice, bob, room) = server.two_in_a_room().await;
    let carol = server.person("Carol").await;
    alice.room_with(&[&bob, &carol]).await;
    let mut alices = with_presence(&alice, &room).await;
    let mut switcher = Socket::by(&bob).await;
    assert_eq!(
        alices.hears_of("user online").await,
        json!({ "userId": bob.id })
    );
    switcher.succeeds("identity", json!([carol.id])).await;
    assert_eq!(
        alices.hears_of("user online").await,
        json!({ "userId": carol.id })
    );
    assert_eq!(alices.hears_of("user offline").await["userId"], *bob.id);
    switcher.succeeds("identity", json!([carol.id])).await;
    alices.hears_nothing_more().await;
}

#[apply(each_store)]
#[tokio::test]
async fn in_secure_mode_a_socket_is_there_from_its_first_moment(kind: Kind) {
    let server = TestServer::secure(kind).await;
    let [alice, bob] = [
        server.registered("Alice", "consumer").await,
        server.registered("Bob", "consumer").await,
    ];
    let room = alice.room_with(&[&bob]).await;
    let mut alices = Socket::signed_in(&alice).await;
    alices.hears_presence = true;
    let mut bobs = Socket::signed_in(&bob).await;
    assert_eq!(
        alices.hears_of("user online").await,
        json!({ "userId": bob.id })
    );
    alices.asks("subscribe", json!([])).await;
    bobs.succeeds("typing", json!([room])).await;
    assert_eq!(
        alices.hears_of("typing").await,
        json!({ "chatRoomId": room, "userId": bob.id })
    );
    drop(bobs);
    assert_eq!(alices.hears_of("stop typing").await["userId"], *bob.id);
    assert_eq!(alices.hears_of("user offline").await["userId"], *bob.id);
}

/// A client that knows a user's id can open a room with that user; with this setting the room
/// reveals nothing about the user's presence.
#[apply(each_store)]
#[tokio::test]
async fn of_a_stranger_it_is_told_only_where_they_have_written(kind: Kind) {
    let settings = [("CAUSERIE_ROOMS__PRESENCE", "writers")];
    let server = TestServer::secure_with(kind, &settings).await;
    let [mallory, bob, friend] = [
        server.member("mallory").await,
        server.member("bob").await,
        server.member("friend").await,
    ];
    let (room, other) = (
        mallory.room_with(&[&bob]).await,
        friend.room_with(&[&bob]).await,
    );
    mallory.says(&room, "hello?").await;
    bob.says(&other, "hello").await;
    let of_bob = async |person: &Person, room: &str| {
        person
            .sees(room)
            .await
            .into_iter()
            .find(|seen| seen["_id"] == *bob.id)
            .unwrap()
    };
    let nothing = json!({ "_id": bob.id, "online": false, "lastSeenAt": null });
    let mut mallorys = Socket::signed_in_to(&mallory, &room).await;
    let mut friends = Socket::signed_in_to(&friend, &other).await;
    (mallorys.hears_presence, friends.hears_presence) = (true, true);
    let bobs = Socket::signed_in(&bob).await;
    assert_eq!(
        friends.hears_of("user online").await,
        json!({ "userId": bob.id })
    );
    assert_eq!(of_bob(&friend, &other).await["online"], true);
    assert_eq!(
        of_bob(&bob, &room).await["online"],
        true,
        "everybody knows of themselves"
    );
    drop(bobs);
    let offline = friends.hears_of("user offline").await;
    assert_eq!(
        of_bob(&friend, &other).await["lastSeenAt"],
        offline["lastSeenAt"]
    );
    assert_eq!(of_bob(&mallory, &room).await, nothing);
    let other_way = bob
        .sees(&room)
        .await
        .into_iter()
        .find(|seen| seen["_id"] == *mallory.id)
        .unwrap();
    assert_eq!(other_way["online"], true, "who writes is seen");
    mallorys.hears_nothing_more().await;

    // Bob's presence is visible once he has written in the room, until he leaves and is added
    // again.
    bob.says(&room, "who are you?").await;
    mallorys.hears_post().await;
    assert_eq!(
        of_bob(&mallory, &room).await["lastSeenAt"],
        offline["lastSeenAt"]
    );
    let bobs = Socket::signed_in(&bob).await;
    assert_eq!(
        mallorys.hears_of("user online").await,
        json!({ "userId": bob.id })
    );
    friends.hears_of("user online").await;
    drop(bobs);
    mallorys.hears_of("user offline").await;
    friends.hears_of("user offline").await;
    bob.removes(&room, &bob).await.ok();
    mallory.adds(&room, &[&bob]).await.ok();
    assert_eq!(of_bob(&mallory, &room).await, nothing);
    assert_eq!(mallorys.hears_of("member removed").await["userId"], *bob.id);
    assert_eq!(mallorys.hears_of("member added").await["userId"], *bob.id);
    let _bobs = Socket::signed_in(&bob).await;
    friends.hears_of("user online").await;
    mallorys.hears_nothing_more().await;
}
